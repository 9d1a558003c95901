//! `cargo demo`: the whole product on a simulated plant, with an outage in the middle and the books
//! closed at the end.
//!
//! This one binary is also the agent and the server: called with `agent` or `server` as first
//! argument it runs their command line, so that the demo shows real processes with nothing else built.
//! With `simulate` it is a single device with faults at will, with `fleet` thousands of gateways.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use forebay_demo::ledger::{self, Kept, Stored};
use forebay_demo::lossy_link::Road;
use forebay_demo::plant::Plant;
use forebay_demo::process::{Process, Program, asked_to_end};
use forebay_demo::site::{Programs, Site};
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// Shows Forebay at work: a simulated plant, one agent, one server, an outage, and the ledger.
#[derive(Parser)]
#[command(
    name = "forebay-demo",
    version,
    after_help = "forebay-demo simulate modbus|opcua|mqtt: a single simulated device with faults at will.\n\
                  forebay-demo fleet: thousands of simulated gateways with real TLS, outages and storms."
)]
struct Options {
    /// How long to run.
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u64).range(10..=86_400))]
    seconds: u64,
    /// Stay until Ctrl-C.
    #[arg(long, conflicts_with = "seconds")]
    forever: bool,
    /// Store in this database instead of SQLite: postgres://user@host/database.
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Port of the page; another one is taken where this is in use.
    #[arg(long, default_value_t = 8080)]
    web_port: u16,
    /// Keep configuration, logs, buffer and database in this folder (default: a temporary one).
    #[arg(long, value_name = "FOLDER")]
    keep: Option<std::path::PathBuf>,
}

fn main() -> ExitCode {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    // `cargo demo` brings a `--` of its own, and people write one as for other cargo commands.
    if arguments.get(1).is_some_and(|word| word == "--") {
        arguments.remove(1);
    }
    match arguments.get(1).and_then(|word| word.to_str()) {
        Some("agent") => {
            arguments.remove(0);
            forebay_agent::run_cli(arguments.into_iter())
        }
        Some("server") => {
            arguments.remove(0);
            forebay_server::run_cli(arguments)
        }
        Some("simulate") => {
            arguments.remove(0);
            forebay_demo::simulate::run(arguments)
        }
        Some("fleet") => {
            arguments.remove(0);
            forebay_demo::fleet::command::run(arguments)
        }
        _ => demo(Options::parse_from(arguments)),
    }
}

fn demo(options: Options) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    match runtime.block_on(run(options)) {
        Ok(books) => books.close(),
        Err(error) => fail(&error),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("forebay-demo: {error:#}");
    ExitCode::FAILURE
}

async fn run(options: Options) -> Result<Books> {
    let temporary = tempfile::tempdir().context("make a folder")?;
    let folder = options.keep.clone().unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let this = std::env::current_exe().context("find this program")?;
    let programs =
        Programs { agent: Program::with_word(&this, "agent"), server: Program::with_word(&this, "server") };

    let plant = Plant::start().await.context("start the simulated plant")?;
    let site = Site::new(&folder, programs, options.store.as_deref(), options.web_port).await?;
    let before = if options.store.is_some() {
        site.database().count().await.unwrap_or_default()
    } else {
        Stored::default()
    };
    site.configure_agent("demo", "plant", &plant.link_toml()?, "")?;
    let mut server = site.start_server().await?;
    site.join().await?;
    let mut agent = site.start_agent().await?;

    let points: usize = plant.described()?.links.iter().map(|link| link.point_count()).sum();
    eprintln!("Forebay demo: a simulated plant on 5 links with {points} points and more, read every second.");
    eprintln!("The page:     http://{}/", site.web_address());
    eprintln!("Everything:   {}\n", folder.display());
    watch(&site, &options, &mut agent, &mut server).await?;

    eprintln!("\nStopping: the agent reads no more, appends what it holds and empties its buffer.");
    let memory = agent.peak_memory();
    agent.terminate(Duration::from_secs(40)).await.context("stop the agent")?;
    let report = site.agent_at_server().await?;
    server.terminate(Duration::from_secs(40)).await.context("stop the server")?;
    plant.stop().await;
    let kept = ledger::kept(&site.agent_state()).await?;
    let now = site.database().count().await?;
    let stored =
        Stored { rows: now.rows.saturating_sub(before.rows), twice: now.twice.saturating_sub(before.twice) };
    Ok(Books {
        produced: report["ledger"]["produced"].as_u64().unwrap_or(0),
        kept,
        stored,
        wire: site.road().bytes(),
        memory,
    })
}

/// Shows how it goes, once a second, and cuts the uplink in the middle.
async fn watch(site: &Site, options: &Options, agent: &mut Process, server: &mut Process) -> Result<()> {
    let started = Instant::now();
    let length = Duration::from_secs(if options.forever { 90 } else { options.seconds });
    let outage = (length / 3)..(length / 3 + (length / 4).min(Duration::from_secs(20)));
    let terminal = std::io::stderr().is_terminal();
    let mut second = interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut ended = std::pin::pin!(asked_to_end());
    loop {
        tokio::select! {
            _ = second.tick() => {}
            _ = &mut ended => return Ok(()),
        }
        agent.check().context("the agent")?;
        server.check().context("the server")?;
        let elapsed = started.elapsed();
        if elapsed >= length && !options.forever {
            return Ok(());
        }
        let cut = outage.contains(&elapsed);
        site.road().set(if cut { Road::Cut } else { Road::Open });
        let line = status_line(site, elapsed, cut).await;
        if terminal {
            eprint!("\r\x1b[2K{line}");
        } else if elapsed.as_secs().is_multiple_of(5) {
            eprintln!("{line}");
        }
        std::io::stderr().flush()?;
    }
}

async fn status_line(site: &Site, elapsed: Duration, cut: bool) -> String {
    let metric = |name: &'static str| async move { site.agent_metric(name).await.unwrap_or(0.0) as u64 };
    let produced = metric("forebay_agent_readings_produced_total").await;
    let appended = metric("forebay_agent_readings_appended_total").await;
    let acknowledged = metric("forebay_agent_readings_acknowledged_total").await;
    let backlog = metric("forebay_agent_backlog_readings").await;
    let uplink = if cut { "uplink CUT " } else { "uplink open" };
    format!(
        "{:>4} s  {uplink}  produced {produced:>7}  appended {appended:>7}  acknowledged {acknowledged:>7}  backlog {backlog:>6}",
        elapsed.as_secs()
    )
}

/// The conservation ledger at the end.
struct Books {
    produced: u64,
    kept: Kept,
    stored: Stored,
    wire: u64,
    memory: Option<u64>,
}

impl Books {
    /// Prints the ledger. Success only if nothing was lost, nothing stands twice, and something stands.
    #[expect(clippy::print_stdout, reason = "the last line on standard output is for machines")]
    fn close(&self) -> ExitCode {
        let once = self.stored.rows - self.stored.twice;
        let lost = self.kept.appended.saturating_sub(once + self.kept.backlog);
        let bytes_per_reading = self.wire as f64 / (once.max(1)) as f64;
        eprintln!("\nConservation ledger, in readings");
        for (what, count) in [
            ("produced by the drivers", self.produced),
            ("appended to the buffer", self.kept.appended),
            ("stored, counted in SQL", self.stored.rows),
            ("still in the buffer", self.kept.backlog),
            ("lost", lost),
            ("stored twice", self.stored.twice),
        ] {
            eprintln!("  {what:<26}{count:>10}");
        }
        eprintln!("  bytes on the wire per reading, TLS and HTTP included: {bytes_per_reading:.2}");
        if let Some(memory) = self.memory {
            eprintln!("  agent's peak memory: {:.1} MiB (this build)", memory as f64 / 1_048_576.0);
        }
        println!(
            "{}",
            json!({
                "produced": self.produced,
                "appended": self.kept.appended,
                "stored": self.stored.rows,
                "lost": lost,
                "twice": self.stored.twice,
                "bytes_per_reading": (bytes_per_reading * 100.0).round() / 100.0,
            })
        );
        if lost == 0 && self.stored.twice == 0 && self.stored.rows > 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}
