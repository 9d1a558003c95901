//! What one agent's backlog drains at without any limit: real programs on one machine, readings a second
//! from the agent's flash to the server's commit. Prints a line per store, or with --json one object each.
//!
//!   drain [--json] [--readings 5000000] [--points 100] [--batch 1000]
//!
//! The programs are those beside this one: `tests/bench drain` builds all of them for release. The stores
//! are SQLite, and PostgreSQL where FOREBAY_TEST_DATABASE_URL names a server.

#![expect(clippy::print_stdout, reason = "a bench prints its table")]

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use forebay_agent::buffer::{Buffer, Status};
use forebay_demo::http;
use forebay_demo::ledger;
use forebay_demo::site::Site;
use forebay_protocols::boot_time::{wall_micros, wall_offset_micros};
use forebay_protocols::reading::{DataType, Point, PointId, PointKind, Quality, Reading, Stamp, Value};
use forebay_protocols::sync::batch::{Boot, Encoder, Head, Sequence};
use forebay_tests::load_device::LoadDevice;
use forebay_tests::{TestDatabase, programs_beside};
use serde_json::json;
use tokio::time::{Instant, sleep};

const PATIENCE: Duration = Duration::from_secs(600);
/// Batches made durable together while the backlog is made.
const TOGETHER: u64 = 64;

struct Options {
    json: bool,
    readings: u64,
    points: u32,
    batch: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    match measure().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("drain: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn measure() -> Result<()> {
    let options = Options::read(std::env::args().skip(1))?;
    one(&options, "SQLite", None).await?;
    if std::env::var_os("FOREBAY_TEST_DATABASE_URL").is_some() {
        let database = TestDatabase::create().await?;
        one(&options, "PostgreSQL", Some(&database.url)).await?;
        database.drop().await?;
    }
    Ok(())
}

async fn one(options: &Options, name: &str, store: Option<&str>) -> Result<()> {
    let folder = tempfile::tempdir()?;
    // What is fresh comes as well, and is next to nothing.
    let device = LoadDevice::start().await?;
    let site = Site::new(folder.path(), programs_beside(1)?, store, 0).await?;
    site.configure_agent("bench", "drain", &device.link_toml(1, "1s"), "")?;
    let made = make_backlog(&site.agent_state(), options).await?;
    let server = site.start_server().await?;
    site.join().await?;
    let agent = site.launch_agent()?;
    let began = async {
        while stored(&site).await? == 0 {
            sleep(Duration::from_millis(5)).await;
        }
        anyhow::Ok(Instant::now())
    };
    let began = tokio::time::timeout(PATIENCE, began).await.context("nothing arrives")??;
    let all = async {
        while stored(&site).await? < made.backlog_readings {
            sleep(Duration::from_millis(20)).await;
        }
        anyhow::Ok(began.elapsed())
    };
    let took = tokio::time::timeout(PATIENCE, all).await.context("the backlog does not drain")??;
    let memory = agent.peak_memory().context("the agent's VmHWM")?;
    agent.terminate(Duration::from_secs(60)).await?;
    server.terminate(Duration::from_secs(60)).await?;
    let kept = ledger::kept(&site.agent_state()).await?;
    let counted = site.database().count().await?;
    ensure!((counted.rows, counted.twice, kept.backlog) == (kept.appended, 0, 0), "{counted:?}, {kept:?}");
    let rate = made.backlog_readings as f64 / took.as_secs_f64();
    let bytes = made.backlog_bytes as f64 / made.backlog_readings as f64;
    if options.json {
        let row = json!({
            "store": name, "readings": made.backlog_readings, "batches": made.backlog_batches, "bytes": made.backlog_bytes,
            "seconds": took.as_secs_f64(), "readings_per_s": rate.round(), "agent_vm_hwm": memory,
        });
        println!("{row}");
    } else {
        println!(
            "{name:<10} {} readings in {} batches ({bytes:.2} bytes each) in {:.1} s: {rate:>9.0} readings/s, the agent's memory at most {:.1} MiB",
            made.backlog_readings,
            made.backlog_batches,
            took.as_secs_f64(),
            memory as f64 / 1_048_576.0
        );
    }
    Ok(())
}

async fn stored(site: &Site) -> Result<u64> {
    let text = http::get(site.web_address(), "/metrics").await?;
    let line = text.lines().find_map(|line| line.strip_prefix("forebay_server_readings_stored_total "));
    Ok(line.map_or(Ok(0.0), str::parse)? as u64)
}

/// Fills a buffer as the agent's batcher would, and closes it.
async fn make_backlog(state: &Path, options: &Options) -> Result<Status> {
    let (buffer, mut appender, opening) = Buffer::open(ledger::buffer_of(state)).await?;
    let points: Vec<Arc<Point>> = (0..options.points).map(point).collect();
    let ids = appender.define(&points).await?;
    let boot = Boot {
        counter: opening.boot_counter,
        id: [0; 8],
        wall_offset_us: wall_offset_micros(),
        synchronised: true,
    };
    let mut encoder = Encoder::new();
    let polls = options.readings.div_ceil(options.points.into());
    let (begin, mut poll) = (wall_micros() - polls as i64 * 1_000_000, 0u64);
    while poll < polls {
        let mut batches = Vec::new();
        for sequence in appender.next_sequence().0..appender.next_sequence().0 + TOGETHER {
            let mut readings = Vec::with_capacity(options.batch);
            while readings.len() < options.batch && poll < polls {
                take(&mut readings, &ids, begin + poll as i64 * 1_000_000);
                poll += 1;
            }
            if readings.is_empty() {
                break;
            }
            let head = Head { epoch: opening.epoch, sequence: Sequence(sequence), boot };
            batches.push(encoder.encode(&head, &mut readings));
        }
        appender.append(batches).await?;
    }
    let made = buffer.status();
    buffer.close().await?;
    Ok(made)
}

fn point(number: u32) -> Arc<Point> {
    let (kind, data_type) = match number % 5 {
        0 => (PointKind::Counter, DataType::Integer),
        1 => (PointKind::State, DataType::Boolean),
        _ => (PointKind::Gauge, DataType::Float),
    };
    Arc::new(Point {
        device: "machine".into(),
        name: format!("p{number}").into(),
        unit: "bar".into(),
        kind,
        data_type,
    })
}

/// One poll: gauges of a tenth's resolution, counters, switches.
fn take(into: &mut Vec<Reading>, ids: &[PointId], at: i64) {
    let seconds = (at / 1_000_000) as f64;
    into.extend((0u32..).zip(ids).map(|(number, point)| {
        let phase = seconds + f64::from(number) * 13.0;
        let value = match number % 5 {
            0 => Value::Integer(phase as i64),
            1 => Value::Boolean((phase / 90.0) as i64 % 2 == 0),
            _ => Value::Float((200.0 + 50.0 * (phase / 40.0).sin() + (phase * 7.3).sin()).round() / 10.0),
        };
        Reading { point: *point, stamp: Stamp::device(at), value: Some(value), quality: Quality::Good }
    }));
}

impl Options {
    fn read(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self { json: false, readings: 5_000_000, points: 100, batch: 1_000 };
        while let Some(word) = words.next() {
            let mut number = || -> Result<u64> {
                let next = words.next().with_context(|| format!("{word} needs a value"))?;
                next.parse().with_context(|| format!("{word} takes a number"))
            };
            match word.as_str() {
                "--json" => options.json = true,
                "--readings" => options.readings = number()?,
                "--points" => options.points = u32::try_from(number()?)?.clamp(1, 10_000),
                "--batch" => options.batch = usize::try_from(number()?)?.clamp(1, 20_000),
                other => bail!("there is no option {other}: --json, --readings, --points, --batch"),
            }
        }
        Ok(options)
    }
}
