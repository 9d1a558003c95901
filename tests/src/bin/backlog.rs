//! What a large backlog costs, on real programs: from the start of the agent to its first poll, its
//! memory, and how late fresh readings are while the backlog drains through a thin link. Prints a
//! table, or with --json one object per row.
//!
//!   backlog [--json] [--mib 2048]... [--link 10000000] [--drain SECONDS]
//!
//! The programs are those beside this one: `tests/bench backlog` builds all of them for release.
//! The backlog is made of texts that do not compress, so that its bytes, not its readings, are what
//! passes the link.

#![expect(clippy::print_stdout, reason = "a bench prints its table")]

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use forebay_agent::buffer::{Buffer, Settings, Status};
use forebay_config::units::ByteSize;
use forebay_demo::ledger;
use forebay_demo::site::Site;
use forebay_protocols::boot_time::{wall_micros, wall_offset_micros};
use forebay_protocols::reading::{DataType, Point, PointId, PointKind, Quality, Reading, Stamp, Value};
use forebay_protocols::sync::batch::{Boot, Encoder, Head, Sequence};
use forebay_tests::lateness::Lateness;
use forebay_tests::load_device::LoadDevice;
use forebay_tests::programs_beside;
use serde_json::json;
use tokio::time::{Instant, timeout};

/// Points read from the field meanwhile, every second.
const FRESH: usize = 100;
/// Batches made durable together while the backlog is made.
const TOGETHER: u64 = 64;
const TEXTS: usize = 100;
const LETTERS: usize = 100;

struct Options {
    json: bool,
    sizes: Vec<ByteSize>,
    link_bits: u64,
    drain: Duration,
}

/// One start of the agent.
struct Start {
    first_poll: Duration,
    memory: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    match measure().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("backlog: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn measure() -> Result<()> {
    let options = Options::read(std::env::args().skip(1))?;
    let tell = |row: serde_json::Value, words: String| {
        println!("{}", if options.json { row.to_string() } else { words });
    };
    if !options.json {
        println!(
            "{:<10} {:<16} {:>12} {:>12} {:>14}",
            "backlog", "after", "first poll", "VmHWM", "above empty"
        );
    }
    let (mut empty, mut connected) = (None, None);
    for size in std::iter::once(ByteSize(0)).chain(options.sizes.iter().copied()) {
        let folder = tempfile::tempdir()?;
        let device = LoadDevice::start().await?;
        let mut site = Site::new(folder.path(), programs_beside(1)?, None, 0).await?;
        let limit = ByteSize((size.0 + size.0 / 4).max(64 << 20));
        site.configure_agent(
            "bench",
            "backlog",
            &device.link_toml(FRESH, "1s"),
            &format!("[buffer]\nmax_size = \"{}MiB\"", limit.0 >> 20),
        )?;
        let made = make_backlog(&site.agent_state(), size, limit).await?;
        for (after, killed) in [("a clean stop", false), ("a kill", true)] {
            let Start { first_poll, memory } = start(&site, &device, killed).await?;
            let above = memory as i64 - empty.map_or(memory, |empty: u64| empty) as i64;
            empty.get_or_insert(memory);
            let (mib, above_mib) = (memory as f64 / 1048576.0, above as f64 / 1048576.0);
            tell(
                json!({ "backlog": made.backlog_bytes, "after": after, "first_poll_ms": first_poll.as_millis() as u64,
                        "vm_hwm": memory, "above_empty": above }),
                format!(
                    "{:<10} {after:<16} {:>9} ms {mib:>8.1} MiB {above_mib:>+10.1} MiB",
                    shown(made.backlog_bytes),
                    first_poll.as_millis()
                ),
            );
        }
        if size.0 == 0 {
            let memory = joined(&mut site, &device, &options).await?;
            connected = Some(memory);
            tell(
                json!({ "backlog": 0, "after": "joining", "vm_hwm": memory }),
                format!(
                    "{:<10} {:<16} {:>12} {:>8.1} MiB",
                    shown(0),
                    "joining",
                    "",
                    memory as f64 / 1048576.0
                ),
            );
        } else {
            let (row, words) = drain(&mut site, made, &options, connected.unwrap_or_default()).await?;
            tell(row, words);
        }
    }
    Ok(())
}

impl Options {
    fn read(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut options =
            Self { json: false, sizes: Vec::new(), link_bits: 10_000_000, drain: Duration::from_secs(120) };
        while let Some(word) = words.next() {
            let mut next = || words.next().with_context(|| format!("{word} needs a value"));
            match word.as_str() {
                "--json" => options.json = true,
                "--mib" => {
                    options.sizes.push(ByteSize::mib(next()?.parse().context("--mib takes mebibytes")?))
                }
                "--link" => options.link_bits = next()?.parse().context("--link takes bits a second")?,
                "--drain" => {
                    options.drain = Duration::from_secs(next()?.parse().context("--drain takes seconds")?)
                }
                other => bail!("there is no option {other}: --json, --mib, --link, --drain"),
            }
        }
        if options.sizes.is_empty() {
            options.sizes.push(ByteSize::mib(2048));
        }
        Ok(options)
    }
}

/// Fills a buffer as the agent's batcher would, and closes it.
async fn make_backlog(state: &Path, size: ByteSize, limit: ByteSize) -> Result<Status> {
    let settings = Settings { max_size: limit, ..ledger::buffer_of(state) };
    let (buffer, mut appender, opening) = Buffer::open(settings).await?;
    let point = Arc::new(Point {
        device: "log".into(),
        name: "line".into(),
        unit: "".into(),
        kind: PointKind::State,
        data_type: DataType::Text,
    });
    let ids = appender.define(&[point]).await?;
    let id = ids.first().copied().unwrap_or(PointId(1));
    let boot = Boot {
        counter: opening.boot_counter,
        id: [0; 8],
        wall_offset_us: wall_offset_micros(),
        synchronised: true,
    };
    let mut encoder = Encoder::new();
    let mut letters = Letters(0x9e37_79b9_7f4a_7c15);
    // The newest is an hour old, a batch stands for a second.
    let mut time = wall_micros() - 3_600_000_000;
    while buffer.status().backlog_bytes < size.0 {
        let first = appender.next_sequence().0;
        let batches = (first..first + TOGETHER)
            .map(|sequence| {
                time -= 1_000_000;
                let mut readings: Vec<Reading> = (0..TEXTS)
                    .map(|n| Reading {
                        point: id,
                        stamp: Stamp::device(time + n as i64 * 10_000),
                        value: Some(Value::Text(letters.text().into())),
                        quality: Quality::Good,
                    })
                    .collect();
                encoder
                    .encode(&Head { epoch: opening.epoch, sequence: Sequence(sequence), boot }, &mut readings)
            })
            .collect();
        appender.append(batches).await?;
    }
    let made = buffer.status();
    buffer.close().await?;
    Ok(made)
}

/// xorshift64, as letters that do not compress below six bits.
struct Letters(u64);

impl Letters {
    fn text(&mut self) -> String {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        (0..LETTERS)
            .map(|_| {
                self.0 ^= self.0 << 13;
                self.0 ^= self.0 >> 7;
                self.0 ^= self.0 << 17;
                char::from(ALPHABET[(self.0 >> 58) as usize])
            })
            .collect()
    }
}

/// Starts the agent, which has not joined, and lets it work for ten seconds.
async fn start(site: &Site, device: &LoadDevice, killed_before: bool) -> Result<Start> {
    if killed_before {
        let agent = site.start_agent().await?;
        let polled = device.asked();
        device.asked_beyond(polled + 3).await?;
        agent.kill().await?;
    }
    let (asked, begin) = (device.asked(), Instant::now());
    let agent = site.launch_agent()?;
    timeout(Duration::from_secs(30), device.asked_beyond(asked)).await.context("the first poll")??;
    let first_poll = begin.elapsed();
    // Ten polls, one a second.
    timeout(Duration::from_secs(30), device.asked_beyond(asked + 10)).await.context("ten polls")??;
    let memory = agent.peak_memory().context("the agent's VmHWM")?;
    agent.terminate(Duration::from_secs(30)).await?;
    Ok(Start { first_poll, memory })
}

/// Joins without a backlog and sends what is fresh for twenty seconds: the memory that this takes.
async fn joined(site: &mut Site, device: &LoadDevice, options: &Options) -> Result<u64> {
    site.narrow(options.link_bits).await?;
    let server = site.start_server().await?;
    site.join().await?;
    let agent = site.start_agent().await?;
    timeout(Duration::from_secs(60), device.asked_beyond(device.asked() + 20)).await.context("polls")??;
    let memory = agent.peak_memory().context("the agent's VmHWM")?;
    agent.terminate(Duration::from_secs(60)).await?;
    server.terminate(Duration::from_secs(60)).await?;
    Ok(memory)
}

/// Joins, and watches the backlog drain through the thin link, for a while or to its end.
async fn drain(
    site: &mut Site,
    made: Status,
    options: &Options,
    connected: u64,
) -> Result<(serde_json::Value, String)> {
    site.narrow(options.link_bits).await?;
    let server = site.start_server().await?;
    site.join().await?;
    let agent = site.start_agent().await?;
    let lateness = Lateness::watch(site.web_address()).await?;
    let link = site.thin().context("the thin link")?;
    let (begin, passed) = (Instant::now(), link.bytes_up());
    let before = site.agent_metric("forebay_agent_backlog_bytes").await?;
    let mut left = before;
    while begin.elapsed() < options.drain && left > 64_000.0 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        left = site.agent_metric("forebay_agent_backlog_bytes").await?;
    }
    let (took, gone) = (begin.elapsed().as_secs_f64(), before - left);
    let wire = link.bytes_up() - passed;
    let memory = agent.peak_memory().context("the agent's VmHWM")?;
    let late = lateness.end();
    ensure!(!late.is_empty(), "no fresh reading arrived:\n{}", site.log_tails());
    agent.terminate(Duration::from_secs(60)).await?;
    server.terminate(Duration::from_secs(60)).await?;
    let at_link_rate = gone * 8.0 / options.link_bits as f64;
    let ratio = took / at_link_rate;
    let (p50, p99) = (late.quantile(0.5), late.quantile(0.99));
    let row = json!({
        "backlog": made.backlog_bytes, "link_bits": options.link_bits, "drained": gone, "wire": wire, "seconds": took,
        "of_link_rate": ratio, "late_p50_ms": p50, "late_p99_ms": p99, "fresh": late.len(), "vm_hwm": memory,
        "above_joined": memory as i64 - connected as i64,
    });
    let words = format!(
        "{:<10} drained {} in {took:.0} s, {ratio:.3} of bytes / link rate; {} fresh readings late by {p50} ms (p50), \
         {p99} ms (p99); VmHWM {:.1} MiB, {:+.1} MiB above an empty one that sends",
        shown(made.backlog_bytes),
        shown(gone as u64),
        late.len(),
        memory as f64 / 1048576.0,
        (memory as f64 - connected as f64) / 1048576.0
    );
    Ok((row, words))
}

fn shown(bytes: u64) -> String {
    if bytes >= 1 << 30 {
        format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
    } else {
        format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
    }
}
