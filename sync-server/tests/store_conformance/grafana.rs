//! The Grafana pack over a database with data in it: each panel's statement, each variable's, each
//! annotation's and each alert rule's runs as the role that `reader.sql` makes, and finds rows; what
//! another tenant's role finds is nothing of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use forebay_server::store::Store;
use futures::FutureExt;
use serde_json::Value;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::place::{NOW, Place, SECOND, agent, batch, connect, delivery_of, float};
use crate::rollups::{HOUR, LATER, roll_all};

/// What stands in for Grafana's macros: from, to, step.
struct Range {
    from: &'static str,
    to: &'static str,
    step: &'static str,
}

const TWO_HOURS: Range = Range { from: "2026-11-21T00:00:00Z", to: "2026-11-21T02:00:00Z", step: "60s" };

fn pack() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("grafana")
}

/// An hour and a half of two points of one gateway of the first tenant, with a spike of one reading,
/// a gap and a fault; one gateway of the second tenant.
async fn seed(place: &Place, store: &Arc<dyn Store>) {
    let ours = agent(store, "gate").await;
    let readings = |point: u32| {
        (0..540).map(move |n| float(point, NOW + n * 10 * SECOND, if n == 300 { 999.0 } else { n as f64 }))
    };
    let both = (1..=2).flat_map(readings).collect();
    store.ingest(vec![delivery_of(ours, 2, vec![batch(1, both)])]).await.unwrap();
    let theirs = agent(store, "foreign").await;
    let foreign = vec![float(1, NOW, 4711.0), float(1, NOW + HOUR, 4711.0)];
    store.ingest(vec![delivery_of(theirs, 1, vec![batch(1, foreign)])]).await.unwrap();
    for key in [ours.0, theirs.0] {
        let name = if key == ours.0 { "own" } else { "foreign" };
        place
            .sql(&format!(
                "insert into gaps (epoch_key, number, entry, from_time, to_time, count, reason, device) \
                 select epoch_key, 1, 0, '2026-11-21T00:30:00Z', '2026-11-21T00:40:00Z', 7, 1, '{name}' \
                 from epochs where agent = {key}; \
                 insert into faults (agent, kind, subject, words, remedy, at, last) \
                 values ({key}, 'fork', '{name}', 'words', 'remedy', now(), now())"
            ))
            .await;
    }
    place.sql(&format!("update agents set tenant = 2 where agent = {}", theirs.0)).await;
    roll_all(store, LATER).await;
}

/// The role of a tenant, by the pack's own file; its name.
async fn reader(place: &Place, tenant: i64) -> String {
    let (_, database) = place.url().rsplit_once('/').map(|(a, b)| (a.to_string(), b.to_string())).unwrap();
    let role = format!("Reader {tenant} of {database}");
    let file = fs::read_to_string(pack().join("reader.sql")).unwrap();
    let sql = file
        .replace(":'tenant'", &format!("'{tenant}'"))
        .replace(":'role'", &format!("'{role}'"))
        .replace(":'password'", "'it''s secret'");
    // Twice: it is run again after each upgrade.
    place.sql(&sql).await;
    place.sql(&sql).await;
    role
}

async fn connect_as(place: &Place, role: &str) -> Client {
    let url = place.url();
    let (_, rest) = url.rsplit_once('@').unwrap();
    connect(&format!("postgres://{}:it's%20secret@{rest}", role.replace(' ', "%20"))).await
}

/// Rows of a statement as texts, with their columns' names.
async fn rows(client: &Client, sql: &str) -> Vec<Vec<(String, Option<String>)>> {
    let answer = client.simple_query(sql).await.unwrap_or_else(|error| panic!("{error:?}\n{sql}"));
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => {
            let of = |(at, column): (usize, &tokio_postgres::SimpleColumn)| {
                (column.name().to_string(), row.get(at).map(str::to_string))
            };
            Some(row.columns().iter().enumerate().map(of).collect())
        }
        _ => None,
    };
    answer.into_iter().filter_map(row).collect()
}

/// As Grafana fills in its macros and a dashboard's variables.
fn filled_in(sql: &str, range: &Range, variables: &[(String, String)]) -> String {
    let Range { from, to, step } = range;
    let mut sql = sql
        .replace("$__timeFrom()", &format!("'{from}'"))
        .replace("$__timeTo()", &format!("'{to}'"))
        .replace("$__interval", step);
    while let Some((before, rest)) = sql.split_once("$__timeFilter(") {
        let (column, after) = rest.split_once(')').unwrap();
        sql = format!("{before}{column} between '{from}' and '{to}'{after}");
    }
    for (name, value) in variables {
        sql = sql.replace(&format!("${{{name}:csv}}"), value).replace(&format!("${name}"), value);
    }
    assert!(!sql.contains('$'), "something is not filled in: {sql}");
    sql
}

/// Every object within that has a statement.
fn statements<'a>(of: &'a Value, found: &mut Vec<&'a Value>) {
    match of {
        Value::Object(fields) => {
            if fields.contains_key("rawSql") {
                found.push(of);
            }
            fields.values().for_each(|value| statements(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| statements(value, found)),
        _ => {}
    }
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("no `{field}` in {value}"))
}

async fn every_statement_finds_rows(place: &Place, role: &str) {
    let client = connect_as(place, role).await;
    let mut tried = 0;
    for file in fs::read_dir(pack().join("dashboards")).unwrap() {
        let dashboard = json(&file.unwrap().path());
        let mut variables = Vec::new();
        for variable in dashboard["templating"]["list"].as_array().unwrap() {
            let sql = filled_in(text(variable, "query"), &TWO_HOURS, &variables);
            let found = rows(&client, &sql).await;
            let value = found[0].iter().find(|(name, _)| name == "__value").unwrap().1.clone().unwrap();
            variables.push((text(variable, "name").to_string(), value));
        }
        let mut found = Vec::new();
        statements(&dashboard, &mut found);
        for target in found {
            let (sql, format) = (text(target, "rawSql"), text(target, "format"));
            let of = text(&dashboard, "title");
            assert_eq!(target["datasource"]["uid"], "forebay", "{of}: {sql}");
            let answer = rows(&client, &filled_in(sql, &TWO_HOURS, &variables)).await;
            assert!(!answer.is_empty(), "{of}: no rows of {sql}");
            assert!(
                format == "table" || answer[0].iter().any(|(name, _)| name == "time"),
                "{of}: no time: {sql}"
            );
            tried += 1;
        }
    }
    let rules = json(&pack().join("provisioning/alerting/forebay.json"));
    let mut found = Vec::new();
    statements(&rules, &mut found);
    assert_eq!(found.len(), 4);
    for target in found {
        let sql = text(target, "rawSql");
        // The gateway was heard in November 2026; the backlog's rule asks who was just now.
        let sql = sql.replace("now() - interval '15 minutes'", "'2026-11-01'");
        assert!(!rows(&client, &sql).await.is_empty(), "no rows of {sql}");
    }
    assert!(tried > 20, "{tried} statements are not the whole pack");
}

async fn charts_of_every_step_keep_the_spike(place: &Place, role: &str) {
    let client = connect_as(place, role).await;
    for step in ["10 seconds", "10 minutes", "3 hours", "7 days"] {
        let sql = format!(
            "select min(min), max(max), avg(mean) from series(array(select point from points)::int[], \
             '2026-11-01', '2026-12-01', '{step}')"
        );
        let found = &rows(&client, &sql).await[0];
        let number = |at: usize| found[at].1.as_ref().unwrap().parse::<f64>().unwrap();
        assert_eq!((number(0), number(1)), (0.0, 999.0), "steps of {step}");
        assert!((200.0..400.0).contains(&number(2)), "steps of {step}: {}", number(2));
    }
}

async fn a_tenant_sees_its_own(place: &Place, role: &str) {
    let client = connect_as(place, role).await;
    for (what, own) in [
        ("select string_agg(gateway, ' ') from gateways", "foreign"),
        ("select count(*) from points", "1"),
        ("select string_agg(distinct number::text, ' ') from readings", "4711"),
        ("select max(max) from minutes", "4711"),
        ("select string_agg(distinct number::text, ' ') from latest", "4711"),
        ("select string_agg(device, ' ') from gaps", "foreign"),
        ("select string_agg(subject, ' ') from faults", "foreign"),
        ("select max(max) from series(array[1, 2, 3, 4], '2026-11-01', '2026-12-01', '1 day')", "4711"),
    ] {
        assert_eq!(rows(&client, what).await[0][0].1.as_deref(), Some(own), "{what}");
    }
    // What a role is by default it may change for itself.
    client.batch_execute("set default_transaction_read_only = off").await.unwrap();
    for forbidden in [
        "select from public.readings",
        "select from public.agents",
        "select from public.join_tokens",
        "delete from latest",
        "create table mine (x int)",
    ] {
        let error = client.batch_execute(forbidden).await.expect_err(forbidden);
        let words = error.as_db_error().unwrap().message();
        assert!(words.contains("permission denied"), "{forbidden}: {words}");
    }
}

async fn the_pack_works(place: Arc<Place>) {
    let store = place.open().await;
    seed(&place, &store).await;
    let (first, second) = (reader(&place, 1).await, reader(&place, 2).await);
    let outcome = std::panic::AssertUnwindSafe(async {
        every_statement_finds_rows(&place, &first).await;
        charts_of_every_step_keep_the_spike(&place, &first).await;
        a_tenant_sees_its_own(&place, &second).await;
    })
    .catch_unwind()
    .await;
    // Roles belong to the whole server.
    for role in [first, second] {
        place
            .sql(&format!("drop owned by \"{role}\"; drop schema \"{role}\" cascade; drop role \"{role}\""))
            .await;
    }
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_grafana_pack_works_on_timescaledb() {
    Place::postgres().await.live(the_pack_works).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_grafana_pack_works_on_plain_postgresql() {
    // Its owner may make roles.
    Place::postgres_from("template0").await.live(the_pack_works).await;
}
