//! How fast readings go in through `Store::ingest`, exactly once, and what that costs.
//!
//! **Rate**: eight gateways' batches of 10,000 readings in one transaction, as group commit makes them,
//! in turn with the fastest way the same database takes the same rows, in the same order and the same
//! transactions, on one connection, into the very same table with its index (binary COPY; a prepared
//! insert of many rows). Beside them what others do.
//!
//! **Exactly once**: transactions that keep which batches came, in turn with transactions that do not
//! ask and do not keep it, on one database, in several cuts.
//!
//!     cargo bench -p forebay-server --bench ingest --features measure -- [rate|cost] [--json] [--rows N]
//!
//! PostgreSQL is measured where FOREBAY_TEST_DATABASE_URL names a server. Ratios tell; absolute figures
//! are the machine's.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench is read by people, and may stop")]

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use forebay_config::{server, units::Secret};
use forebay_protocols::reading::{DataType, Point, PointId, PointKind, Quality, Value};
use forebay_protocols::sync::batch::{Epoch, Sequence};
use forebay_protocols::sync::wire;
use forebay_server::store::{
    self, AgentKey, Arrived, Content, Delivery, NewToken, Store, Timed, WITHOUT_EXACTLY_ONCE,
};

mod bare;
mod processor;

const NOW: i64 = 1_795_219_200_000_000;
/// Points of a gateway, and readings of each in a round: 10,000 readings.
const POINTS: u32 = 100;
const EACH: i64 = 100;
/// Gateways whose batches share a transaction.
const GATEWAYS: usize = 8;
/// How 10,000 readings are cut into the batches of a transaction.
const CUTS: [Cut; 3] = [
    Cut { batches: 1, readings: 10_000 },
    Cut { batches: 100, readings: 100 },
    Cut { batches: 1, readings: 100 },
];

#[derive(Clone, Copy)]
struct Cut {
    batches: usize,
    readings: usize,
}

/// Time and processor time of some rows.
#[derive(Clone, Copy, Default)]
struct Spent {
    rows: u64,
    took: Duration,
    /// Of this process, and of the database's.
    server: f64,
    database: f64,
}

impl Spent {
    fn rate(&self) -> f64 {
        self.rows as f64 / self.took.as_secs_f64()
    }

    async fn on(&mut self, rows: usize, work: impl Future<Output = ()>) {
        let (server, database, began) = (processor::own(), processor::postgres(), Instant::now());
        work.await;
        self.took += began.elapsed();
        self.server += processor::own() - server;
        self.database += processor::postgres() - database;
        self.rows += rows as u64;
    }
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let json = arguments.iter().any(|argument| argument == "--json");
    let asked =
        arguments.iter().position(|argument| argument == "--rows").and_then(|at| arguments.get(at + 1));
    let rows: u64 = asked.and_then(|rows| rows.parse().ok()).unwrap_or(2_000_000);
    let only = |word: &str| arguments.iter().any(|argument| argument == word);
    let mut works: Vec<Option<Cut>> = [None].into_iter().chain(CUTS.map(Some)).collect();
    works.retain(|work| if work.is_none() { !only("cost") } else { !only("rate") });

    let folder = tempfile::tempdir().unwrap();
    for (n, work) in works.iter().enumerate() {
        let path = folder.path().join(format!("{n}.db"));
        let store = store::open(&server::Store::Sqlite { path: path.clone() }).await.unwrap();
        match work {
            None => rate(json, &*store, vec![Box::new(bare::Sqlite::open(&path))], rows).await,
            Some(cut) => cost(json, &*store, *cut, rows).await,
        }
    }
    let Ok(url) = std::env::var("FOREBAY_TEST_DATABASE_URL") else { return };
    let admin = bare::connect(&url).await;
    for work in works {
        let name = format!("forebay_bench_{}", std::process::id());
        admin.batch_execute(&format!("create database {name}")).await.unwrap();
        let (host, _) = url.rsplit_once('/').expect("a database URL has a path");
        let own = format!("{host}/{name}");
        let config = server::Store::Postgres { url: Secret::new(own.clone()), connections: 2 };
        let store = store::open(&config).await.unwrap();
        match work {
            None => rate(json, &*store, bare::postgres(&own).await, rows).await,
            Some(cut) => cost(json, &*store, cut, rows).await,
        }
        admin.batch_execute(&format!("drop database {name} with (force)")).await.unwrap();
    }
}

/// A way into the database that is not ours.
#[async_trait::async_trait]
trait Side {
    fn words(&self) -> String;

    /// Stores rows of points from `first` on, in one transaction. Not measured before it begins.
    async fn store(&mut self, first: i32, readings: &[Timed]);
}

/// `readings` of each of the gateways, sorted as a transaction of ours sorts them.
fn sorted(readings: &[Timed]) -> Vec<Timed> {
    let mut all = Vec::with_capacity(readings.len() * GATEWAYS);
    for gateway in 0..GATEWAYS as u32 {
        let of =
            |reading: &Timed| Timed { point: PointId(gateway * POINTS + reading.point.0), ..reading.clone() };
        all.extend(readings.iter().map(of));
    }
    all.sort_by_key(|reading| (reading.point, reading.time));
    all
}

async fn rate(json: bool, store: &dyn Store, mut sides: Vec<Box<dyn Side>>, rows: u64) {
    let mut gateways = Vec::new();
    for n in 0..GATEWAYS {
        gateways.push(Gateway::joined(store, n as u8).await);
    }
    let rounds = (rows / (GATEWAYS as u64 * u64::from(POINTS) * EACH as u64)).max(1);
    let mut ours = Spent::default();
    let mut others = vec![Spent::default(); sides.len()];
    // The first round makes what is made once.
    for round in 0..=rounds {
        let readings = readings(round);
        let whole = Cut { batches: 1, readings: readings.len() };
        let sent: Vec<Delivery> =
            gateways.iter_mut().map(|gateway| gateway.delivery(&readings, whole)).collect();
        let sorted = sorted(&readings);
        let mut spent = Spent::default();
        spent.on(sorted.len(), async { drop(store.ingest(sent).await.unwrap()) }).await;
        ours = if round == 0 { Spent::default() } else { plus(ours, spent) };
        for (n, (side, other)) in sides.iter_mut().zip(&mut others).enumerate() {
            let mut spent = Spent::default();
            spent.on(sorted.len(), side.store(1_000_000 * (n as i32 + 1), &sorted)).await;
            *other = if round == 0 { Spent::default() } else { plus(*other, spent) };
        }
    }
    let stored: u64 = store.fleet().await.unwrap().iter().map(|agent| agent.stored).sum();
    assert_eq!(
        stored,
        (rounds + 1) * sorted(&readings(0)).len() as u64,
        "what was measured must have happened"
    );
    let first = others.first().map_or(1.0, Spent::rate);
    let what = format!("{}: {GATEWAYS} gateways' batches of 10,000 readings, exactly once", store.describe());
    if !json {
        println!("{:>9} {:>6} {:>22}  ", "rows/s", "ratio", "CPU s a million, ours + database");
    }
    let sides = sides.iter().map(|side| side.words()).zip(others);
    for (what, Spent { rows, server, database, .. }, rate) in
        [(what, ours)].into_iter().chain(sides).map(|(what, spent)| (what, spent, spent.rate()))
    {
        let million = rows as f64 / 1e6;
        let (server, database, ratio) = (server / million, database / million, rate / first);
        match json {
            true => println!(
                "{}",
                serde_json::json!({
                    "what": what, "rows": rows, "rows_per_s": rate.round(), "ratio": ratio,
                    "server_s_per_million": server, "database_s_per_million": database,
                })
            ),
            false => println!("{rate:>9.0} {ratio:>6.2} {server:>14.2} + {database:<5.2}  {what}"),
        }
    }
}

fn plus(a: Spent, b: Spent) -> Spent {
    Spent {
        rows: a.rows + b.rows,
        took: a.took + b.took,
        server: a.server + b.server,
        database: a.database + b.database,
    }
}

async fn cost(json: bool, store: &dyn Store, cut: Cut, rows: u64) {
    let mut gateways = [Gateway::joined(store, 1).await, Gateway::joined(store, 2).await];
    // As many transactions of the small cut as take about the time of the others.
    let transactions = (rows / 10_000 / 2).max(1) * if cut.batches * cut.readings == 100 { 10 } else { 1 };
    let mut took = [Vec::new(), Vec::new()];
    for number in 0..=transactions {
        // Who goes first takes turns.
        let order = if number % 2 == 0 { [0, 1] } else { [1, 0] };
        for side in order {
            let sent = gateways[side].delivery(&readings(number), cut);
            WITHOUT_EXACTLY_ONCE.store(side == 1, Relaxed);
            let began = Instant::now();
            store.ingest(vec![sent]).await.unwrap();
            took[side].push(began.elapsed());
        }
    }
    WITHOUT_EXACTLY_ONCE.store(false, Relaxed);
    // The first makes what is made once.
    for took in &mut took {
        took.remove(0);
    }
    // Two that ran one after the other had the same machine: the middle of their ratios.
    let ratios =
        took[0].iter().zip(&took[1]).map(|(with, without)| with.as_secs_f64() / without.as_secs_f64());
    let mut ratios: Vec<f64> = ratios.collect();
    ratios.sort_by(f64::total_cmp);
    let costs = (ratios[ratios.len() / 2] - 1.0) * 100.0;
    // And the middle of each, and their means without the slowest hundredth, which is the machine's.
    let figures = took.map(|mut took| {
        took.sort();
        let middle = took[took.len() / 2].as_secs_f64();
        let most = &took[..took.len() - took.len() / 100];
        (middle, most.iter().sum::<Duration>().as_secs_f64() / most.len() as f64)
    });
    let [(with, with_mean), (without, without_mean)] = figures;
    let costs_mean = (with_mean / without_mean - 1.0) * 100.0;
    let Cut { batches, readings } = cut;
    match json {
        true => println!(
            "{}",
            serde_json::json!({
                "store": store.describe(), "batches": batches, "readings_each": readings,
                "transactions": transactions, "median_us": with * 1e6, "without_us": without * 1e6,
                "exactly_once_percent": costs, "exactly_once_percent_of_mean": costs_mean,
            })
        ),
        false => println!(
            "{:>9.0} us a transaction of {batches} x {readings} readings, {:.0} without exactly-once, which costs \
             {costs:.2} % (the middle of {transactions} pairs; {costs_mean:.2} % of the mean)  {}",
            with * 1e6,
            without * 1e6,
            store.describe()
        ),
    }
}

/// The readings of round `number`: a poll of all points each second.
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

struct Gateway {
    present: Delivery,
    sequence: u64,
}

impl Gateway {
    async fn joined(store: &dyn Store, number: u8) -> Self {
        let secret = [number + 1; 32];
        let token = NewToken {
            secret_hash: secret,
            expires: NOW + 1,
            uses: 1,
            note: String::new(),
            approval: false,
            created: NOW,
        };
        store.add_token(token).await.unwrap();
        let gate = format!("gate-{number}");
        let agent: AgentKey = store.join(secret, "hall", &gate, secret, NOW, NOW).await.unwrap().1.unwrap();
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
        Self { present, sequence: 0 }
    }

    fn delivery(&mut self, readings: &[Timed], cut: Cut) -> Delivery {
        // Small batches are of few moments, not of few points.
        let mut readings = readings.to_vec();
        readings.sort_by_key(|reading| (reading.time, reading.point));
        let mut batch = |readings: &[Timed]| {
            self.sequence += 1;
            let mut readings = readings.to_vec();
            readings.sort_by_key(|reading| (reading.point, reading.time));
            let content = Content::Readings(Arc::new(readings));
            let checksum = self.sequence as u32 | 1;
            Arrived { checksum, ..Arrived::plain(Sequence(self.sequence), PointId(POINTS), content) }
        };
        let batches = readings.chunks(cut.readings).take(cut.batches).map(&mut batch).collect();
        Delivery { batches, ..self.present.clone() }
    }
}
