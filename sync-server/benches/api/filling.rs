//! A fleet, and a year of readings, made in SQL: as they come, all points of a moment, moment after moment,
//! into the tables as the server has them.

use std::fmt::Write as _;
use std::path::Path;

use forebay_config::server;
use forebay_protocols::boot_time::wall_micros;
use forebay_protocols::hexadecimal::Hexadecimal;
use forebay_protocols::sync::wire;
use forebay_server::store::{Micros, Store};
use tokio_postgres::NoTls;

use super::{DAY, EACH, Scene, YEAR};

/// What there is.
pub struct Kept {
    pub points: i64,
    pub end: Micros,
    /// Readings made now; 0 if they were there.
    pub made: i64,
}

/// Fills an empty store; one that is filled tells what it holds.
pub async fn fill(config: &server::Store, store: &dyn Store, rows: i64, scene: &Scene) -> Kept {
    let points = (rows / EACH).max(1);
    let fleet = store.fleet().await.unwrap();
    if let Some(first) = fleet.first() {
        let kept = store.points(None, "", None, 1_000).await.unwrap().len() as i64;
        assert_eq!((kept, fleet.len() as i64), (points, scene.agents), "another database is kept there");
        return Kept { points, end: first.joined + YEAR, made: 0 };
    }
    let each = rows / points;
    match config {
        server::Store::Sqlite { path } => {
            let path = path.clone();
            let fleet = made(points, scene, |time| time.to_string(), |hex| format!("x'{hex}'"));
            let end = scene.end;
            let filling = move || fill_sqlite(&path, points, each, &fleet, end);
            tokio::task::spawn_blocking(filling).await.unwrap();
        }
        server::Store::Postgres { url, .. } => fill_postgres(url.reveal(), points, each, scene).await,
    }
    Kept { points, end: scene.end, made: each * points }
}

/// What is done by itself in a database that has been there for a while.
pub async fn settle(config: &server::Store) {
    match config {
        server::Store::Sqlite { path } => {
            let path = path.clone();
            let checkpoint = move || {
                let connection = rusqlite::Connection::open(path).unwrap();
                connection.query_row("pragma wal_checkpoint(truncate)", [], |_| Ok(())).unwrap();
            };
            tokio::task::spawn_blocking(checkpoint).await.unwrap();
        }
        server::Store::Postgres { url, .. } => {
            connect(url.reveal()).await.batch_execute("vacuum analyze").await.unwrap();
        }
    }
}

/// Site and gateway of the n-th agent, counted from 1.
pub fn name_of(number: i64) -> (String, String) {
    (format!("site-{}", number % 50), format!("gate-{number}"))
}

/// What an agent with five devices reports.
fn report(number: i64) -> String {
    let device = |n: i64| wire::report::Device {
        link: format!("line-{}", n % 2),
        device: format!("machine-{n}"),
        answers: (number + n) % 100 != 0,
        words: if (number + n) % 100 == 0 {
            "the device did not answer in time".into()
        } else {
            String::new()
        },
    };
    let report = wire::Report {
        version: "0.1.0".into(),
        wall_us: 1_795_000_000_000_000,
        received_us: 1_795_000_000_000_000,
        synchronised: true,
        produced: 1_000 + number as u64,
        appended: 1_000 + number as u64,
        acknowledged: 1_000,
        backlog_readings: number as u64,
        buffer_limit_bytes: 1 << 30,
        devices: (1..=5).map(device).collect(),
        ..wire::Report::default()
    };
    Hexadecimal(&prost::Message::encode_to_vec(&report)).to_string()
}

/// Agents, and the points of the first one. `moment` makes a time of microseconds, `bytes` of hex.
fn made(
    points: i64,
    scene: &Scene,
    moment: impl Fn(Micros) -> String,
    bytes: impl Fn(&str) -> String,
) -> String {
    let mut sql =
        String::from("insert into agents (site, gateway, joined, last_seen, stored, report) values ");
    let (joined, seen) = (moment(scene.end - YEAR), moment(wall_micros()));
    let agents: Vec<String> = (1..=scene.agents)
        .map(|n| {
            let ((site, gateway), report) = (name_of(n), bytes(&report(n)));
            format!("('{site}', '{gateway}', {joined}, {seen}, 1000, {report})")
        })
        .collect();
    sql.push_str(&agents.join(", "));
    let certificates: Vec<String> = (1..=scene.agents)
        .map(|n| format!("({n}, {}, {})", bytes(&format!("{n:064x}")), moment(scene.end + YEAR)))
        .collect();
    sql.push_str("; insert into certificates (agent, fingerprint, valid_until) values ");
    sql.push_str(&certificates.join(", "));
    sql.push_str("; insert into points (agent, device, name, unit, kind, data_type, search) values ");
    let points: Vec<String> = (1..=points)
        .map(|n| format!("(1, 'boiler', 'p{n}', 'C', 'gauge', 'float', 'boiler/p{n} c')"))
        .collect();
    sql.push_str(&points.join(", "));
    let (first, last) = ((scene.end - YEAR) / 60_000_000, scene.end / 60_000_000);
    let due = bytes("");
    let _ = write!(
        sql,
        "; insert into rollups_due (agent, grain, first, last, points, noted) values (1, 0, {first}, {last}, {due}, 0)"
    );
    sql
}

fn fill_sqlite(path: &Path, points: i64, each: i64, fleet: &str, end: Micros) {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection.pragma_update(None, "synchronous", "off").unwrap();
    connection.execute_batch(fleet).unwrap();
    let (rows, from, step) = (each * points, end - YEAR, YEAR / each);
    let sql = format!(
        "insert into readings with recursive n(n) as (select 0 union all select n + 1 from n where n < {rows} - 1) \
         select 1 + n % {points}, {from} + n / {points} * {step}, 0, 20.0 + n * 7919 % 1000 / 10.0 from n",
    );
    connection.execute_batch(&sql).unwrap();
}

/// Two connections, each half of the year, a few days at a time.
async fn fill_postgres(url: &str, points: i64, each: i64, scene: &Scene) {
    let end = scene.end;
    let moment = |time: Micros| format!("to_timestamp({})", time / 1_000_000);
    let fleet = made(points, scene, moment, |hex| format!("'\\x{hex}'"));
    connect(url).await.batch_execute(&fleet).await.unwrap();
    let (start, step, parts) = ((end - YEAR) / 1_000_000, YEAR / each, YEAR / DAY / 5);
    let half = async |first: i64, last: i64| {
        let client = connect(url).await;
        for part in first..last {
            let (first, last) = (each * part / parts, each * (part + 1) / parts);
            let sql = format!(
                "insert into readings (time, point, quality, value) \
                 select to_timestamp({start}) + n * interval '{step} microseconds', p, 0, \
                 20.0 + (n * 7919 + p) % 1000 / 10.0 \
                 from generate_series({first}::bigint, {last} - 1) n, generate_series(1, {points}) p",
            );
            client.batch_execute(&sql).await.unwrap();
        }
    };
    tokio::join!(half(0, parts / 2), half(parts / 2, parts));
}

pub async fn connect(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}
