//! How long the API takes to answer, over HTTP on loopback, from a database with many readings: a day of
//! one point, a year at 1,000 pixels, the fleet of 5,000 agents. Readings are made in SQL; rollups by
//! the server's own steps, whose rate is told too. Every question is asked of another point.
//!
//!     cargo bench -p forebay-server --bench api -- [--json] [--sqlite ROWS] [--timescale ROWS]
//!
//! A year of points that are read every ten seconds, as many as the rows are enough for. Without
//! FOREBAY_TEST_DATABASE_URL only SQLite is measured.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench is read by people, and may stop")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use forebay_config::{server, units::Secret};
use forebay_protocols::boot_time::wall_micros;
use forebay_server::access::{Gate, Openness, Rules};
use forebay_server::api::{self, Api};
use forebay_server::live::Feed;
use forebay_server::store::{self, Grain, Micros, Store};
use http_body_util::BodyExt;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use tokio_postgres::NoTls;
use tokio_util::sync::CancellationToken;

const AGENTS: i64 = 5_000;
const DAY: Micros = 86_400_000_000;
const YEAR: Micros = 365 * DAY;
/// Readings of a point in a year.
const EACH: i64 = 3_153_600;
/// Questions of each kind.
const ASKED: usize = 200;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let json = arguments.iter().any(|argument| argument == "--json");
    let rows = |key: &str, otherwise: i64| {
        let at = arguments.iter().position(|argument| argument == key);
        at.and_then(|at| arguments.get(at + 1)?.parse().ok()).unwrap_or(otherwise)
    };
    let end = wall_micros() / DAY * DAY;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("forebay.db");
    let (sqlite, timescale) = (rows("--sqlite", 10_000_000), rows("--timescale", 20_000_000));
    if sqlite > 0 {
        let config = server::Store::Sqlite { path: path.clone() };
        let store = store::open(&config).await.unwrap();
        fill_sqlite(&path, sqlite, end);
        measure(json, store, sqlite, end).await;
    }
    if let Some(url) = std::env::var("FOREBAY_TEST_DATABASE_URL").ok().filter(|_| timescale > 0) {
        let name = format!("forebay_bench_{}", std::process::id());
        let admin = connect(&url).await;
        admin.batch_execute(&format!("create database {name}")).await.unwrap();
        let (host, _) = url.rsplit_once('/').expect("a database URL has a path");
        let own = format!("{host}/{name}");
        let config = server::Store::Postgres { url: Secret::new(own.clone()), connections: 4 };
        let store = store::open(&config).await.unwrap();
        fill_postgres(&own, timescale, end).await;
        measure(json, store, timescale, end).await;
        admin.batch_execute(&format!("drop database {name} with (force)")).await.unwrap();
    }
}

/// How many points have so many readings.
fn points(rows: i64) -> i64 {
    (rows / EACH).max(1)
}

/// Agents, and the points of the first one. `moment` makes a time of microseconds, `bytes` of hex.
fn fleet(points: i64, end: Micros, moment: impl Fn(Micros) -> String) -> String {
    let mut sql = String::from("insert into agents (site, gateway, joined, last_seen, stored) values ");
    let agents: Vec<String> = (1..=AGENTS)
        .map(|n| format!("('site-{}', 'gate-{n}', {}, {}, 1000)", n % 50, moment(end - YEAR), moment(end)))
        .collect();
    sql.push_str(&agents.join(", "));
    sql.push_str("; insert into points (agent, device, name, unit, kind, data_type, search) values ");
    let points: Vec<String> = (1..=points)
        .map(|n| format!("(1, 'boiler', 'p{n}', 'C', 'gauge', 'float', 'boiler/p{n} c')"))
        .collect();
    sql.push_str(&points.join(", "));
    sql
}

fn fill_sqlite(path: &std::path::Path, rows: i64, end: Micros) {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection.pragma_update(None, "synchronous", "off").unwrap();
    let points = points(rows);
    connection.execute_batch(&fleet(points, end, |time| time.to_string())).unwrap();
    let (each, from) = (rows / points, end - YEAR);
    // As they come: all points of a moment, moment after moment.
    let sql = format!(
        "insert into readings with recursive n(n) as (select 0 union all select n + 1 from n where n < {rows} - 1) \
         select 1 + n % {points}, {from} + n / {points} * {step}, 0, 20.0 + n * 7919 % 1000 / 10.0 from n; \
         insert into rollups_due (agent, grain, first, last, points, noted) \
         values (1, 0, {first}, {last}, x'', 0)",
        step = YEAR / each,
        first = from / 60_000_000,
        last = end / 60_000_000,
    );
    connection.execute_batch(&sql).unwrap();
}

async fn fill_postgres(url: &str, rows: i64, end: Micros) {
    let client = connect(url).await;
    let moment = |time: Micros| format!("to_timestamp({})", time / 1_000_000);
    let points = points(rows);
    client.batch_execute(&fleet(points, end, moment)).await.unwrap();
    let (each, from) = (rows / points, end - YEAR);
    // A week at a time, so that progress is durable and memory bounded.
    for week in 0..53 {
        let (first, last) = (each * week / 53, each * (week + 1) / 53);
        let sql = format!(
            "insert into readings (time, point, quality, value) \
             select to_timestamp({start}) + n * interval '{step} microseconds', p, 0, \
             20.0 + (n * 7919 + p) % 1000 / 10.0 \
             from generate_series({first}::bigint, {last} - 1) n, generate_series(1, {points}) p",
            start = from / 1_000_000,
            step = YEAR / each,
        );
        client.batch_execute(&sql).await.unwrap();
    }
    let due = format!(
        "insert into rollups_due (agent, grain, first, last, points, noted) values (1, 0, {}, {}, '', 0); \
         analyze",
        from / 60_000_000,
        end / 60_000_000
    );
    client.batch_execute(&due).await.unwrap();
}

async fn measure(json: bool, store: Arc<dyn Store>, rows: i64, end: Micros) {
    let begin = Instant::now();
    let (mut read, mut written) = (0, 0);
    for grain in Grain::ALL {
        loop {
            let progress = store.roll_up(grain, end + 2 * DAY, 100_000).await.unwrap();
            read += if grain == Grain::Minutes { progress.read } else { 0 };
            written += progress.written;
            if !progress.more {
                break;
            }
        }
    }
    let took = begin.elapsed();
    let rate = read as f64 / took.as_secs_f64();
    let (facts, points) = (store.facts().await.unwrap(), points(rows));
    if json {
        let line = serde_json::json!({
            "store": facts.words, "readings": rows, "points": points, "bytes": facts.bytes, "rolled_up_per_s": rate.round(),
            "buckets": written,
        });
        println!("{line}");
    } else {
        println!("{}: {rows} readings of {points} points, {} MiB", facts.words, facts.bytes >> 20);
        println!("{rate:>9.0} readings/s rolled up, {written} buckets");
    }
    assert!(read as i64 >= rows / points * points, "everything is rolled up");

    let stop = CancellationToken::new();
    let rules =
        Rules { open: Openness::Always, session: Duration::from_secs(60), requests: 1, is_tls: false };
    let gate = Arc::new(Gate::new(store.access(), rules));
    let router = api::router(Api { store, feed: Feed::new(), gate, stop: stop.clone() });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = format!("http://{}/api/v1", listener.local_addr().unwrap());
    let asked = stop.clone();
    let serving =
        async move { axum::serve(listener, router).with_graceful_shutdown(asked.cancelled_owned()).await };
    let serving = tokio::spawn(serving);
    let ms = |time: Micros| time / 1_000;
    type Question<'a> = (&'static str, Box<dyn Fn(usize) -> String + 'a>);
    let questions: [Question<'_>; 4] = [
        (
            "a day of one point",
            Box::new(|n| {
                let (point, to) = (1 + n as i64 % points, end - (n as i64 * 7 % 300) * DAY);
                format!("/query?points={point}&from={}&to={}&max_points=1000", ms(to - DAY), ms(to))
            }),
        ),
        (
            "a year at 1,000 px",
            Box::new(|n| {
                let point = 1 + n as i64 % points;
                format!("/query?points={point}&from={}&to={}&max_points=1000", ms(end - YEAR), ms(end))
            }),
        ),
        (
            "a year at 300 px",
            Box::new(|n| {
                let point = 1 + n as i64 % points;
                format!("/query?points={point}&from={}&to={}&max_points=300", ms(end - YEAR), ms(end))
            }),
        ),
        ("the fleet of 5,000 agents", Box::new(|_| "/fleet".to_owned())),
    ];
    let client = Client::builder(TokioExecutor::new()).build_http::<Body>();
    for (what, path) in questions {
        let mut times = Vec::with_capacity(ASKED);
        let mut bytes = 0;
        for n in 0..ASKED {
            let begin = Instant::now();
            bytes = ask(&client, format!("{place}{}", path(n))).await;
            times.push(begin.elapsed());
        }
        times.sort_unstable();
        let [p50, p95, most] = [ASKED / 2, ASKED * 95 / 100, ASKED - 1].map(|at| millis(times[at]));
        if json {
            let line = serde_json::json!({ "question": what, "p50_ms": p50, "p95_ms": p95, "max_ms": most, "bytes": bytes });
            println!("{line}");
        } else {
            println!("  p50 {p50:>7.1} ms  p95 {p95:>7.1} ms  max {most:>7.1} ms  {what} ({bytes} bytes)");
        }
    }
    stop.cancel();
    drop(client);
    serving.await.unwrap().unwrap();
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}

async fn ask(client: &Client<HttpConnector, Body>, url: String) -> usize {
    let answer = client.get(url.parse().unwrap()).await.unwrap();
    assert_eq!(answer.status(), 200, "{url}");
    answer.into_body().collect().await.unwrap().to_bytes().len()
}

async fn connect(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}
