//! How fast readings go in through `Store::ingest`, beside the fastest way the same database takes the
//! same rows (binary COPY, a prepared insert) into a bare table, in the same run. Ratios tell; absolute
//! figures are the machine's.
//!
//! Beside that, what exactly-once costs: the share of ingest that goes by keeping committed sequences,
//! checksums and ledgers, statements and their round trips, in the same calls. Without it the same
//! ingest would take that much less.
//!
//!     cargo bench -p forebay-server --bench ingest -- [--json] [--rows N]
//!
//! PostgreSQL is measured where FOREBAY_TEST_DATABASE_URL names a server; its table has no index and no
//! other work, so a ratio of 1 cannot be had.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench is read by people, and may stop")]

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use forebay_config::{server, units::Secret};
use forebay_protocols::reading::{DataType, Point, PointId, PointKind, Quality, Value};
use forebay_protocols::sync::batch::{Epoch, Sequence};
use forebay_protocols::sync::wire;
use forebay_server::store::{self, AgentKey, Arrived, Content, Delivery, NewToken, Store, Timed};
use tokio_postgres::NoTls;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::Type;
use tracing::span::{Attributes, Id};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};

const NOW: i64 = 1_795_219_200_000_000;
/// Points of a gateway, and readings of each in a batch: 10,000 readings a transaction.
const POINTS: u32 = 100;
const EACH: i64 = 100;
/// How the readings of a transaction are cut into batches.
const CUTS: [Cut; 3] = [
    Cut { batches: 1, readings: 10_000 },
    Cut { batches: 100, readings: 100 },
    Cut { batches: 1, readings: 100 },
];

struct Figure {
    what: String,
    rows: u64,
    took: Duration,
    /// Of that, spent on exactly-once.
    books: Duration,
}

#[derive(Clone, Copy)]
struct Cut {
    batches: usize,
    readings: usize,
}

/// Nanoseconds spent in spans named "books", from their beginning to their end, waits included.
static BOOKS: AtomicU64 = AtomicU64::new(0);

struct Books;

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Books {
    fn on_new_span(&self, _: &Attributes<'_>, id: &Id, at: Context<'_, S>) {
        if let Some(span) = at.span(id).filter(|span| span.name() == "books") {
            span.extensions_mut().insert(Instant::now());
        }
    }

    fn on_close(&self, id: Id, at: Context<'_, S>) {
        let began = at.span(&id).and_then(|span| span.extensions().get::<Instant>().copied());
        let took = began.map_or(0, |began| began.elapsed().as_nanos() as u64);
        BOOKS.fetch_add(took, Ordering::Relaxed);
    }
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
    let transactions = (rows / (u64::from(POINTS) * EACH as u64)).max(1);
    tracing::subscriber::set_global_default(Registry::default().with(Books)).unwrap();

    let folder = tempfile::tempdir().unwrap();
    let bare = bare_sqlite(&folder.path().join("bare.db"), transactions);
    tell(json, &bare, &sqlite(&folder.path().join("forebay"), transactions).await);
    if let Ok(url) = std::env::var("FOREBAY_TEST_DATABASE_URL") {
        let (bare, ours) = postgres(&url, transactions).await;
        tell(json, &bare, &ours);
    }
}

fn tell(json: bool, bare: &Figure, ours: &[(Cut, Figure)]) {
    if let [(_, whole), ..] = ours {
        let ratio = whole.rate() / bare.rate();
        if json {
            let line = serde_json::json!({
                "store": whole.what, "rows": whole.rows, "rows_per_s": whole.rate().round(),
                "bare": bare.what, "bare_rows_per_s": bare.rate().round(), "ratio": ratio,
            });
            println!("{line}");
        } else {
            println!("{:>9.0} rows/s  {}", bare.rate(), bare.what);
            println!("{:>9.0} rows/s  ingest into {}: {ratio:.2} of that", whole.rate(), whole.what);
        }
    }
    for (cut, figure) in ours {
        let without =
            Figure { took: figure.took.saturating_sub(figure.books), what: String::new(), ..*figure };
        let share = figure.books.as_secs_f64() / figure.took.as_secs_f64();
        if json {
            let line = serde_json::json!({
                "store": figure.what, "batches": cut.batches, "readings_each": cut.readings,
                "rows_per_s": figure.rate().round(), "without_exactly_once": without.rate().round(),
                "exactly_once_share": share,
            });
            println!("{line}");
        } else {
            println!(
                "{:>9.0} rows/s  {} x {} readings a transaction; {:.0} without exactly-once, which costs {:.2} %",
                figure.rate(),
                cut.batches,
                cut.readings,
                without.rate(),
                share * 100.0
            );
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

async fn sqlite(folder: &Path, transactions: u64) -> Vec<(Cut, Figure)> {
    let mut figures = Vec::new();
    for (n, cut) in CUTS.into_iter().enumerate() {
        let path = folder.join(format!("{n}.db"));
        figures.push((cut, ingest(server::Store::Sqlite { path }, transactions, cut).await));
    }
    figures
}

async fn ingest(config: server::Store, transactions: u64, cut: Cut) -> Figure {
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
    let opening = wire::Opening { id: vec![1; 8], first: 1, ..Default::default() };
    let present = Delivery { opening: Some([1; 8]), ..Delivery::empty(agent, Epoch([1; 16]), NOW) };
    let greeting = Some(vec![opening]);
    store.ingest(vec![Delivery { dictionary, greeting, ..present.clone() }]).await.unwrap();
    let (mut took, mut rows, mut sequence) = (Duration::ZERO, 0, 0);
    BOOKS.store(0, Ordering::Relaxed);
    for number in 1..=transactions {
        let batch = |readings: &[Timed]| {
            sequence += 1;
            rows += readings.len() as u64;
            let mut readings = readings.to_vec();
            readings.sort_by_key(|reading| (reading.point, reading.time));
            let content = Content::Readings(Arc::new(readings));
            let checksum = sequence as u32 | 1;
            Arrived { checksum, ..Arrived::plain(Sequence(sequence), PointId(POINTS), content) }
        };
        // Small batches are of few moments, not of few points.
        let mut readings = readings(number);
        readings.sort_by_key(|reading| (reading.time, reading.point));
        let batches = readings.chunks(cut.readings).take(cut.batches).map(batch).collect();
        let sent = Delivery { batches, ..present.clone() };
        let begin = Instant::now();
        store.ingest(vec![sent]).await.unwrap();
        took += begin.elapsed();
    }
    let books = Duration::from_nanos(BOOKS.load(Ordering::Relaxed));
    assert_eq!(store.fleet().await.unwrap()[0].stored, rows, "what was measured must have happened");
    assert!(books > Duration::ZERO, "nothing of exactly-once was measured");
    Figure { what: store.describe(), rows, took, books }
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
    Figure {
        what: format!("SQLite {}, prepared insert, no index", rusqlite::version()),
        rows,
        took,
        books: Duration::ZERO,
    }
}

async fn postgres(url: &str, transactions: u64) -> (Figure, Vec<(Cut, Figure)>) {
    let admin = connect(url).await;
    let (host, _) = url.rsplit_once('/').expect("a database URL has a path");
    let (mut bare, mut figures) = (None, Vec::new());
    for cut in CUTS {
        let name = format!("forebay_bench_{}", std::process::id());
        admin.batch_execute(&format!("create database {name}")).await.unwrap();
        let own = format!("{host}/{name}");
        if bare.is_none() {
            bare = Some(bare_copy(&own, transactions).await);
        }
        let config = server::Store::Postgres { url: Secret::new(own), connections: 2 };
        figures.push((cut, ingest(config, transactions, cut).await));
        admin.batch_execute(&format!("drop database {name} with (force)")).await.unwrap();
    }
    (bare.unwrap(), figures)
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
    Figure { what: "PostgreSQL, binary COPY, no index".into(), rows, took, books: Duration::ZERO }
}

async fn connect(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}
