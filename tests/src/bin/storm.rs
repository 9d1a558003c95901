//! A reconnect storm: a fleet with real TLS at one server, which is killed and started again. How long
//! until every agent has had all its batches acknowledged, how many connections the database sees, and
//! what an idle agent costs the server. Prints a table, or with --json one object.
//!
//!   storm [--json] [--agents 2000] [--points 20] [--every SECONDS] [--down SECONDS] [--idle SECONDS] [--sqlite]
//!
//! The server is the one beside this program: `tests/bench storm` builds all for release. The fleet, the
//! server and the database share the machine. Without FOREBAY_TEST_DATABASE_URL, or with --sqlite, the
//! store is SQLite.

#![expect(clippy::print_stdout, reason = "a bench prints its table")]

use std::process::ExitCode;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use forebay_demo::fleet::house::House;
use forebay_demo::fleet::{self, Joined, Plan};
use forebay_tests::{TestDatabase, programs_beside};
use serde_json::json;
use tokio::time::{Instant, sleep};

const PATIENCE: Duration = Duration::from_secs(180);
/// Readings before the storm, and after it.
const STEADY: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

struct Options {
    json: bool,
    agents: usize,
    points: usize,
    every: Duration,
    down: Duration,
    idle: Duration,
    sqlite: bool,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    match measure().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("storm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn measure() -> Result<()> {
    let options = Options::read(std::env::args().skip(1))?;
    fleet::enough_files(options.agents)?;
    let folder = tempfile::tempdir()?;
    let with_database = !options.sqlite && std::env::var_os("FOREBAY_TEST_DATABASE_URL").is_some();
    let database = if with_database { Some(TestDatabase::create().await?) } else { None };
    let url = database.as_ref().map(|database| database.url.as_str());
    let mut house = House::new(folder.path(), programs_beside(1)?.server, url, 0)?;
    house.start().await?;
    let plan =
        Plan { agents: options.agents, points: options.points, every: options.every, ..Plan::default() };
    let join = house.join_string(options.agents).await?;
    let begin = Instant::now();
    let joined = Joined::join(plan, &join, folder.path()).await?;
    let joining = begin.elapsed();

    // A server that has seen nobody yet, and then everybody, who have nothing to say.
    house.terminate().await?;
    house.start().await?;
    sleep(Duration::from_secs(3)).await;
    let empty = resident(&mut house)?;
    let quiet = joined.clone().start();
    quiet.read(false);
    quiet.up(PATIENCE).await.context("the idle fleet comes up")?;
    sleep(options.idle).await;
    let idle = resident(&mut house)?;
    let per_agent = idle.saturating_sub(empty) / options.agents.max(1) as u64;
    drop(quiet);

    let busy = joined.start();
    busy.up(PATIENCE).await.context("the fleet comes up")?;
    sleep(STEADY).await;
    let steady = busy.books();
    house.kill().await?;
    sleep(options.down).await;
    let waited = busy.books().held;
    house.start().await?;
    let mark = busy.mark();
    let most = AtomicI64::new(0);
    let times = tokio::select! {
        times = busy.acknowledged(&mark, PATIENCE) => times.context("the storm")?,
        failed = watch_connections(url, &most) => return Err(failed.err().context("it ends only by failing")?),
    };
    let most = most.load(Ordering::Relaxed);
    let peak = house.server().and_then(|server| server.peak_memory()).context("the server's VmHWM")?;
    let busy_answers = house.metric("forebay_server_requests_refused_total{kind=\"busy\"}").await?;
    let failed = house.metric("forebay_server_handshakes_failed_total").await?;
    sleep(STEADY).await;
    let books = busy.finish(PATIENCE).await?.held;
    house.terminate().await?;
    let stored = house.database().count().await?;
    let lost = books.appended.saturating_sub(stored.rows - stored.twice + books.backlog());

    let place = |part: f64| {
        times[((times.len() as f64 * part).ceil() as usize).clamp(1, times.len()) - 1].as_secs_f64()
    };
    let (p50, p95, all) = (place(0.5), place(0.95), place(1.0));
    let row = json!({
        "agents": options.agents, "points": options.points, "every_s": options.every.as_secs_f64(),
        "store": if with_database { "postgres" } else { "sqlite" },
        "joined_s": joining.as_secs_f64(), "down_s": options.down.as_secs_f64(),
        "waiting_batches": waited.batches, "waiting_readings": waited.backlog(),
        "p50_s": p50, "p95_s": p95, "all_acknowledged_s": all,
        "database_connections": most, "busy_answers": busy_answers, "handshakes_failed": failed,
        "idle_bytes_per_agent": per_agent, "empty_bytes": empty, "peak_bytes": peak,
        "appended": books.appended, "stored": stored.rows, "lost": lost, "twice": stored.twice,
        "before_acknowledged": steady.held.acknowledged,
    });
    if options.json {
        println!("{row}");
    } else {
        let mib = |bytes: u64| bytes as f64 / 1_048_576.0;
        println!("{} agents of {} points joined in {joining:.1?}", options.agents, options.points);
        println!(
            "idle: {:.1} KiB of the server's memory each ({:.1} MiB without any)",
            per_agent as f64 / 1024.0,
            mib(empty)
        );
        println!(
            "killed, back after {:.1?} with {} batches waiting: half of the agents acknowledged in {p50:.1} s, 95 % in {p95:.1} s, all in {all:.1} s",
            options.down, waited.batches
        );
        println!(
            "database connections at most {most}, {busy_answers} requests told to come later, {failed} handshakes failed, the server's memory at most {:.1} MiB",
            mib(peak)
        );
        println!("appended {}, stored {}, lost {lost}, twice {}", books.appended, stored.rows, stored.twice);
    }
    if let Some(database) = database {
        database.drop().await?;
    }
    ensure!(lost == 0 && stored.twice == 0, "readings are lost or stand twice");
    Ok(())
}

/// Looks at the database's connections until dropped, and keeps the most that were seen.
async fn watch_connections(url: Option<&str>, most: &AtomicI64) -> Result<()> {
    let Some(url) = url else { return std::future::pending().await };
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    let sql = "select count(*) from pg_stat_activity \
               where datname = current_database() and application_name = 'forebay-server'";
    let mut connection = std::pin::pin!(connection);
    loop {
        tokio::select! {
            seen = client.query_one(sql, &[]) => { most.fetch_max(seen?.try_get(0)?, Ordering::Relaxed); }
            ended = &mut connection => { ended?; bail!("the database ended the connection") }
        }
        sleep(LOOK_AGAIN).await;
    }
}

fn resident(house: &mut House) -> Result<u64> {
    house.server().and_then(|server| server.resident_memory()).context("the server's VmRSS")
}

impl Options {
    fn read(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self {
            json: false,
            agents: 2_000,
            points: 20,
            every: Duration::from_secs(5),
            down: Duration::from_secs(5),
            idle: Duration::from_secs(10),
            sqlite: false,
        };
        while let Some(word) = words.next() {
            let mut next = || words.next().with_context(|| format!("{word} needs a value"));
            let mut seconds = || -> Result<Duration> {
                Ok(Duration::try_from_secs_f64(
                    next()?.parse().with_context(|| format!("{word} takes seconds"))?,
                )?)
            };
            match word.as_str() {
                "--json" => options.json = true,
                "--sqlite" => options.sqlite = true,
                "--agents" => options.agents = next()?.parse().context("--agents takes a number")?,
                "--points" => options.points = next()?.parse().context("--points takes a number")?,
                "--every" => options.every = seconds()?,
                "--down" => options.down = seconds()?,
                "--idle" => options.idle = seconds()?,
                other => bail!(
                    "there is no option {other}: --json, --agents, --points, --every, --down, --idle, --sqlite"
                ),
            }
        }
        // An agent with nothing to say is "up" until it looks: then nothing would be measured.
        ensure!(
            options.down >= options.every,
            "--down must be as long as --every, so that each agent has something to bring"
        );
        Ok(options)
    }
}
