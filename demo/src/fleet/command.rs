//! `cargo demo -- fleet`: a fleet of simulated gateways at a server, with outages and storms, and the
//! books closed at the end.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use forebay_protocols::sync::join::JoinString;
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::house::House;
use super::{Books, Fleet, Joined, Plan};
use crate::ledger::Stored;
use crate::lossy_link::{LossyLink, Road};
use crate::process::Program;

const FINISH_WITHIN: Duration = Duration::from_secs(60);

/// A fleet of simulated gateways with real TLS, at a server of its own or at one they are told to join.
#[derive(Debug, Parser)]
#[command(name = "forebay-demo fleet")]
struct Options {
    /// Gateways.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    agents: u32,
    /// Points that each of them reads.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=2_000))]
    points: u32,
    /// How often: 100ms, 1s, 5m.
    #[arg(long, default_value = "1s", value_parser = span)]
    every: Duration,
    /// The gateways start within this time, one after the other.
    #[arg(long, default_value = "5s", value_parser = span)]
    ramp: Duration,
    /// How long to run; without it until Ctrl-C.
    #[arg(long, value_parser = span)]
    run: Option<Duration>,
    /// The network is cut for so long, so long after the start. More than once if wanted.
    #[arg(long, value_name = "LENGTH@AFTER", value_parser = Outage::parse)]
    outage: Vec<Outage>,
    /// The server is killed so long after the start, and started again at once. More than once if wanted.
    #[arg(long, value_name = "AFTER", value_parser = span, conflicts_with = "join")]
    storm: Vec<Duration>,
    /// Join this server instead of one of our own: what `forebay-server token create --uses N` printed.
    #[arg(long, value_name = "JOIN STRING", conflicts_with_all = ["store", "web_port"])]
    join: Option<JoinString>,
    /// Our own server stores in this database instead of SQLite: postgres://user@host/database.
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Port of the page; another one is taken where this is in use.
    #[arg(long, default_value_t = 8080)]
    web_port: u16,
    /// Keep the server's configuration, log and database in this folder (default: a temporary one).
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
}

/// When the network is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Outage {
    from: Duration,
    length: Duration,
}

impl Outage {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not LENGTH@AFTER, like 30s@60s");
        let (length, from) = text.split_once('@').ok_or_else(wrong)?;
        Ok(Self { length: span(length)?, from: span(from)? })
    }

    fn is_on(&self, at: Duration) -> bool {
        (self.from..self.from + self.length).contains(&at)
    }
}

/// 100ms, 30s, 5m, 2h; a number alone is seconds.
fn span(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let millis = match unit {
        "ms" => Some(1),
        "" | "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let number = number.parse::<u64>().ok().zip(millis).and_then(|(number, unit)| number.checked_mul(unit));
    number.map(Duration::from_millis).ok_or_else(|| format!("`{text}` is not a time like 100ms, 30s or 5m"))
}

/// Does what the command line says; `arguments` begin with the word `fleet`.
pub fn run(arguments: Vec<OsString>) -> ExitCode {
    let options = match Options::try_parse_from(arguments) {
        Ok(options) => options,
        Err(error) => {
            // Help is an "error" too, with exit code 0. A closed pipe is nobody's fault.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1));
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    match runtime.block_on(play(options)) {
        Ok(outcome) => outcome,
        Err(error) => fail(&error),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("forebay-demo fleet: {error:#}");
    ExitCode::FAILURE
}

async fn play(options: Options) -> Result<ExitCode> {
    super::enough_files(options.agents as usize * if options.outage.is_empty() { 1 } else { 4 })?;
    let temporary = tempfile::tempdir().context("make a folder")?;
    let folder = options.keep.clone().unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let plan = Plan {
        agents: options.agents as usize,
        points: options.points as usize,
        every: options.every,
        ramp: options.ramp,
        ..Plan::default()
    };
    let mut scene = Scene::set(&options, &folder).await?;
    let begin = Instant::now();
    let joined = Joined::join(plan, &scene.join, temporary.path()).await?;
    eprintln!("{} gateways joined in {:.1?}.", options.agents, begin.elapsed());
    if let Some(house) = &scene.house {
        eprintln!("The page:  http://{}/", house.web_address());
    }
    let fleet = joined.start();
    watch(&fleet, &mut scene, &options).await?;
    eprintln!("\nStopping: nothing more is read, and what waits is sent.");
    let books = fleet.finish(FINISH_WITHIN).await?;
    let mut stored = None;
    if let Some(mut house) = scene.house.take() {
        house.terminate().await.context("stop the server")?;
        let now = house.database().count().await?;
        stored = Some(Stored {
            rows: now.rows.saturating_sub(scene.before.rows),
            twice: now.twice.saturating_sub(scene.before.twice),
        });
    }
    Ok(close(&books, stored))
}

/// The server the fleet comes to, and the road there.
struct Scene {
    join: JoinString,
    house: Option<House>,
    road: Option<LossyLink>,
    /// What the database held before us.
    before: Stored,
}

impl Scene {
    async fn set(options: &Options, folder: &std::path::Path) -> Result<Self> {
        let is_cut = !options.outage.is_empty();
        if let Some(join) = &options.join {
            anyhow::ensure!(!is_cut, "--outage cuts the road to a server of our own; leave --join away");
            return Ok(Self { join: join.clone(), house: None, road: None, before: Stored::default() });
        }
        let this = std::env::current_exe().context("find this program")?;
        let program = Program::with_word(&this, "server");
        let mut house = House::new(folder, program, options.store.as_deref(), options.web_port)?;
        let road = if is_cut { Some(LossyLink::start(house.sync_address()).await?) } else { None };
        if let Some(road) = &road {
            house.configure(road.address())?;
        }
        let before = match options.store {
            Some(_) => house.database().count().await.unwrap_or_default(),
            None => Stored::default(),
        };
        house.start().await.context("start the server")?;
        let join = house.join_string(options.agents as usize).await?;
        Ok(Self { join, house: Some(house), road, before })
    }
}

/// Shows how it goes, once a second, and makes outages and storms.
async fn watch(fleet: &Fleet, scene: &mut Scene, options: &Options) -> Result<()> {
    let (begin, terminal) = (Instant::now(), std::io::stderr().is_terminal());
    let mut storms = options.storm.clone();
    storms.sort_unstable_by(|a, b| b.cmp(a));
    let mut second = interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut ended = std::pin::pin!(crate::process::asked_to_end());
    let mut before = fleet.books();
    loop {
        tokio::select! {
            _ = second.tick() => {}
            _ = &mut ended => return Ok(()),
        }
        let elapsed = begin.elapsed();
        if options.run.is_some_and(|run| elapsed >= run) {
            return Ok(());
        }
        let cut = options.outage.iter().any(|outage| outage.is_on(elapsed));
        if let Some(road) = &scene.road {
            road.set(if cut { Road::Cut } else { Road::Open });
        }
        if let Some(house) = &mut scene.house {
            if storms.pop_if(|after| *after <= elapsed).is_some() {
                house.kill().await.context("kill the server")?;
                house.start().await.context("start the server again")?;
                eprintln!("\nThe server was killed and is back: everybody comes at once.");
            }
            if let Some(server) = house.server() {
                server.check().context("the server")?;
            }
        }
        let books = fleet.books();
        let line = status_line(elapsed, cut, &before, &books);
        before = books;
        if terminal {
            eprint!("\r\x1b[2K{line}");
        } else if elapsed.as_secs().is_multiple_of(5) {
            eprintln!("{line}");
        }
        std::io::stderr().flush()?;
    }
}

fn status_line(elapsed: Duration, cut: bool, before: &Books, now: &Books) -> String {
    let rate = now.held.acknowledged - before.held.acknowledged;
    format!(
        "{:>4} s  network {}  up {:>5}  troubled {:>5}  acknowledged {:>9} (+{rate}/s)  backlog {:>8}",
        elapsed.as_secs(),
        if cut { "CUT " } else { "open" },
        now.up,
        now.troubled,
        now.held.acknowledged,
        now.held.backlog(),
    )
}

/// Prints the ledger. Success only if nothing was lost and nothing stands twice, as far as it can be seen
/// from here.
#[expect(clippy::print_stdout, reason = "the last line on standard output is for machines")]
fn close(books: &Books, stored: Option<Stored>) -> ExitCode {
    let held = books.held;
    eprintln!("\nConservation ledger, in readings");
    eprintln!("  {:<34}{:>12}", "appended by all gateways", held.appended);
    eprintln!("  {:<34}{:>12}", "acknowledged by the server", held.acknowledged);
    eprintln!("  {:<34}{:>12}", "still waiting", held.backlog());
    let mut lost = 0;
    if let Some(stored) = stored {
        // What waits may be in the database already: its acknowledgement was lost.
        lost = held.acknowledged.saturating_sub(stored.rows - stored.twice);
        eprintln!("  {:<34}{:>12}", "stored, counted in SQL", stored.rows);
        eprintln!("  {:<34}{:>12}", "lost", lost);
        eprintln!("  {:<34}{:>12}", "stored twice", stored.twice);
    }
    println!(
        "{}",
        json!({
            "appended": held.appended, "acknowledged": held.acknowledged, "backlog": held.backlog(),
            "left_out": held.left_out, "stored": stored.map(|stored| stored.rows), "lost": lost,
            "twice": stored.map(|stored| stored.twice),
        })
    );
    let twice = stored.map_or(0, |stored| stored.twice);
    match lost == 0 && twice == 0 && held.lost_by_server == 0 {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outages_are_a_length_and_a_moment() {
        let outage = Outage::parse("30s@2m").expect("an outage");
        assert_eq!((outage.length, outage.from), (Duration::from_secs(30), Duration::from_secs(120)));
        assert_eq!(Outage::parse("30@60"), Outage::parse("30s@60s"));
        assert!(outage.is_on(Duration::from_secs(120)) && !outage.is_on(Duration::from_secs(150)));
        for wrong in ["30s", "@", "30s@", "30d@1s", "x@1"] {
            assert!(Outage::parse(wrong).is_err(), "{wrong}");
        }
    }
}
