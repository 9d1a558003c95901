//! How fast readings go in through `Store::ingest`, beside the fastest way the same database takes the
//! same rows (binary COPY, a prepared insert) into a bare table, in the same run. Ratios tell; absolute
//! figures are the machine's.
//!
//!     cargo bench -p forebay-server --bench ingest -- [--json] [--rows N]
//!
//! PostgreSQL is measured where FOREBAY_TEST_DATABASE_URL names a server; its table has no index and no
//! other work, so a ratio of 1 cannot be had.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench is read by people, and may stop")]

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_config::{server, units::Secret};
use forebay_protocols::reading::{DataType, Point, PointId, PointKind, Quality, Value};
use forebay_protocols::sync::batch::{Epoch, Sequence};
use forebay_server::store::{self, AgentKey, Arrived, Content, Delivery, NewToken, Store, Timed};
use tokio_postgres::NoTls;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::Type;

const NOW: i64 = 1_795_219_200_000_000;
/// Points of a gateway, and readings of each in a batch: 10,000 readings a transaction.
const POINTS: u32 = 100;
const EACH: i64 = 100;

struct Figure {
    what: String,
    rows: u64,
    took: Duration,
}

impl Figure {
    fn rate(&self) -> f64 {
        self.rows as f64 / self.took.as_secs_f64()
    }
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let json = arguments.iter().any(|argument| argument == "--json");
    let asked =
        arguments.iter().position(|argument| argument == "--rows").and_then(|at| arguments.get(at + 1));
    let rows: u64 = asked.and_then(|rows| rows.parse().ok()).unwrap_or(1_000_000);
    let batches = (rows / (u64::from(POINTS) * EACH as u64)).max(1);

    let folder = tempfile::tempdir().unwrap();
    let mut pairs = vec![(
        bare_sqlite(&folder.path().join("bare.db"), batches),
        ingest(server::Store::Sqlite { path: folder.path().join("forebay.db") }, batches).await,
    )];
    if let Ok(url) = std::env::var("FOREBAY_TEST_DATABASE_URL") {
        pairs.push(postgres(&url, batches).await);
    }
    for (bare, ours) in pairs {
        let ratio = ours.rate() / bare.rate();
        if json {
            let line = serde_json::json!({
                "store": ours.what, "rows": ours.rows, "rows_per_s": ours.rate().round(),
                "bare": bare.what, "bare_rows_per_s": bare.rate().round(), "ratio": ratio,
            });
            println!("{line}");
        } else {
            println!("{:>9.0} rows/s  {}", bare.rate(), bare.what);
            println!("{:>9.0} rows/s  ingest into {}: {ratio:.2} of that", ours.rate(), ours.what);
        }
    }
}

/// The readings of batch `number`: a poll of all points each second.
fn readings(number: u64) -> Vec<Timed> {
    let begin = NOW + number as i64 * EACH * 1_000_000;
    let of = |point: u32| {
        (0..EACH).map(move |n| Timed {
            point: PointId(point),
            time: begin + n * 1_000_000,
            value: Some(Value::Float((f64::from(point) + n as f64 / 10.0) / 3.0)),
            quality: Quality::Good,
        })
    };
    (1..=POINTS).flat_map(of).collect()
}

async fn ingest(config: server::Store, batches: u64) -> Figure {
    let store = store::open(&config).await.unwrap();
    let agent = agent(&store).await;
    let point = |n: u32| Point {
        device: "boiler".into(),
        name: format!("p{n}").into(),
        unit: "°C".into(),
        kind: PointKind::Gauge,
        data_type: DataType::Float,
    };
    let dictionary = (1..=POINTS).map(|n| (PointId(n), Arc::new(point(n)))).collect();
    let delivery = Delivery { dictionary, ..Delivery::empty(agent, Epoch([1; 16]), NOW) };
    store.ingest(vec![delivery.clone()]).await.unwrap();
    let (mut took, mut rows) = (Duration::ZERO, 0);
    for number in 1..=batches {
        let readings = readings(number);
        rows += readings.len() as u64;
        let arrived =
            Arrived::plain(Sequence(number), PointId(POINTS), Content::Readings(Arc::new(readings)));
        let sent = Delivery { dictionary: Vec::new(), batches: vec![arrived], ..delivery.clone() };
        let begin = Instant::now();
        store.ingest(vec![sent]).await.unwrap();
        took += begin.elapsed();
    }
    assert_eq!(store.fleet().await.unwrap()[0].stored, rows, "what was measured must have happened");
    Figure { what: store.describe(), rows, took }
}

async fn agent(store: &Arc<dyn Store>) -> AgentKey {
    let token =
        NewToken { secret_hash: [1; 32], expires: NOW + 1, uses: 1, note: String::new(), created: NOW };
    store.add_token(token).await.unwrap();
    store.join([1; 32], "hall", "gate", [1; 32], NOW, NOW).await.unwrap().1.unwrap()
}

fn bare_sqlite(path: &Path, batches: u64) -> Figure {
    let mut connection = rusqlite::Connection::open(path).unwrap();
    connection.pragma_update(None, "journal_mode", "wal").unwrap();
    connection.pragma_update(None, "synchronous", "full").unwrap();
    connection
        .execute_batch("create table bare (point integer, time integer, quality integer, value any) strict")
        .unwrap();
    let (mut took, mut rows) = (Duration::ZERO, 0);
    for number in 1..=batches {
        let readings = readings(number);
        rows += readings.len() as u64;
        let begin = Instant::now();
        let transaction = connection.transaction().unwrap();
        let mut insert = transaction.prepare_cached("insert into bare values (?, ?, ?, ?)").unwrap();
        for reading in &readings {
            let value = reading.value.as_ref().and_then(Value::as_number);
            insert
                .execute(rusqlite::params![reading.point.0, reading.time, reading.quality.code(), value])
                .unwrap();
        }
        drop(insert);
        transaction.commit().unwrap();
        took += begin.elapsed();
    }
    Figure { what: format!("SQLite {}, prepared insert, no index", rusqlite::version()), rows, took }
}

async fn postgres(url: &str, batches: u64) -> (Figure, Figure) {
    let name = format!("forebay_bench_{}", std::process::id());
    let admin = connect(url).await;
    admin.batch_execute(&format!("create database {name}")).await.unwrap();
    let (host, _) = url.rsplit_once('/').expect("a database URL has a path");
    let own = format!("{host}/{name}");
    let bare = bare_copy(&own, batches).await;
    let config = server::Store::Postgres { url: Secret::new(own), connections: 2 };
    let ours = ingest(config, batches).await;
    admin.batch_execute(&format!("drop database {name} with (force)")).await.unwrap();
    (bare, ours)
}

async fn bare_copy(url: &str, batches: u64) -> Figure {
    let client = connect(url).await;
    // Time as the integer that a timestamptz is.
    client
        .batch_execute("create table bare (time bigint, point integer, quality smallint, value float8)")
        .await
        .unwrap();
    let (mut took, mut rows) = (Duration::ZERO, 0);
    for number in 1..=batches {
        let readings = readings(number);
        rows += readings.len() as u64;
        let begin = Instant::now();
        let sink = client.copy_in("copy bare from stdin binary").await.unwrap();
        let mut writer =
            pin!(BinaryCopyInWriter::new(sink, &[Type::INT8, Type::INT4, Type::INT2, Type::FLOAT8]));
        for reading in &readings {
            let value = reading.value.as_ref().and_then(Value::as_number);
            let (point, quality) = (reading.point.0 as i32, i16::from(reading.quality.code()));
            writer.as_mut().write(&[&reading.time, &point, &quality, &value]).await.unwrap();
        }
        writer.finish().await.unwrap();
        took += begin.elapsed();
    }
    Figure { what: "PostgreSQL, binary COPY, no index".into(), rows, took }
}

async fn connect(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}
