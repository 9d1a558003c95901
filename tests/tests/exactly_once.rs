//! Promise 1 from outside: what the agent says it has reaches the database exactly once, whatever
//! is killed or cut, on both stores.

#![expect(clippy::print_stdout, reason = "seeds and figures are printed")]

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use forebay_demo::dice::Dice;
use forebay_demo::ledger::{self, Kept, Stored};
use forebay_demo::lossy_link::Road;
use forebay_demo::process::Process;
use forebay_demo::site::Site;
use forebay_tests::load_device::LoadDevice;
use forebay_tests::own_database::OwnDatabase;
use forebay_tests::{TestDatabase, kills, programs, seed};

/// Ends all and closes the books: the agent's own counters against rows counted in SQL.
async fn close(site: &Site, agent: Process, server: Process) -> Result<(Kept, Stored)> {
    drained(site, Duration::from_secs(120)).await?;
    agent.terminate(Duration::from_secs(60)).await?;
    server.terminate(Duration::from_secs(60)).await?;
    let kept = ledger::kept(&site.agent_state()).await?;
    let stored = site.database().count().await?;
    println!("{kept:?} {stored:?}");
    Ok((kept, stored))
}

/// Waits until hardly anything waits in the buffer.
async fn drained(site: &Site, patience: Duration) -> Result<()> {
    let started = Instant::now();
    loop {
        let backlog = site.agent_metric("forebay_agent_backlog_readings").await?;
        if backlog < 3_000.0 {
            return Ok(());
        }
        ensure!(
            started.elapsed() < patience,
            "{backlog} readings still wait after {patience:?}:\n{}",
            site.log_tails()
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn assert_exactly_once(kept: Kept, stored: Stored) {
    assert_eq!((kept.backlog, kept.dropped), (0, 0), "the buffer is empty and dropped nothing");
    assert_eq!((stored.rows, stored.twice), (kept.appended, 0), "every appended reading stands once");
}

/// Agent and server are killed ten times each under 2,000 readings/s.
async fn survives_twenty_kills(store: Option<&str>) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let device = LoadDevice::start().await?;
    let site = Site::new(folder.path(), programs()?, store, 0).await?;
    site.configure_agent(
        "t",
        "kills",
        &device.link_toml(1_000, "500ms"),
        "[buffer]\ndurability_window = \"100ms\"",
    )?;
    let mut server = site.start_server().await?;
    site.join().await?;
    let mut agent = site.start_agent().await?;
    let mut dice = Dice::new(seed()?);
    let mut said = 0.0_f64;
    for kill in 0..20 {
        tokio::time::sleep(dice.millis(200..2_500)).await;
        if kill % 2 == 0 {
            let appended = site.agent_metric("forebay_agent_readings_appended_total").await?;
            ensure!(appended >= said, "the agent said {said} were appended, and after a kill {appended}");
            said = appended;
            agent.kill().await.context("kill the agent")?;
            agent = site.start_agent().await.with_context(|| format!("after kill {kill}"))?;
        } else {
            server.kill().await.context("kill the server")?;
            server = site.start_server().await.with_context(|| format!("after kill {kill}"))?;
        }
    }
    let (kept, stored) = close(&site, agent, server).await?;
    assert!(kept.appended as f64 >= said, "what was said to be appended is there");
    assert!(kept.appended > 10_000, "there was load: {kept:?}");
    assert_exactly_once(kept, stored);
    Ok(())
}

#[tokio::test]
async fn twenty_kills_lose_nothing_and_double_nothing_on_sqlite() -> Result<()> {
    survives_twenty_kills(None).await
}

#[tokio::test]
async fn twenty_kills_lose_nothing_and_double_nothing_on_timescale() -> Result<()> {
    let database = TestDatabase::create().await?;
    survives_twenty_kills(Some(&database.url)).await?;
    database.drop().await
}

/// The server, the database, and one process of the database, whichever the dice say, under 1,000
/// readings/s. The database keeps its promises: fsync is on.
#[tokio::test]
async fn killed_servers_and_a_killed_database_lose_nothing_and_double_nothing() -> Result<()> {
    let (mut dice, kills) = (Dice::new(seed()?), kills(9)?);
    let folder = tempfile::tempdir()?;
    let (database, device) = (OwnDatabase::start().await?, LoadDevice::start().await?);
    let site = Site::new(folder.path(), programs()?, Some(&database.url), 0).await?;
    let extra = "[buffer]\ndurability_window = \"100ms\"";
    site.configure_agent("t", "database", &device.link_toml(500, "500ms"), extra)?;
    let mut server = site.start_server().await?;
    site.join().await?;
    let agent = site.start_agent().await?;
    for kill in 0..kills {
        tokio::time::sleep(dice.millis(200..2_500)).await;
        // Each comes about as often; the order is a matter of dice.
        match (kill + dice.within(0..2)) % 3 {
            0 => {
                server.kill().await.context("kill the server")?;
                server = site.start_server().await.with_context(|| format!("after kill {kill}"))?;
            }
            1 => {
                database.kill().await.context("kill the database")?;
                tokio::time::sleep(dice.millis(0..1_500)).await;
                database.start_again().await.with_context(|| format!("after kill {kill}"))?;
            }
            _ => database.kill_a_backend().await?,
        }
        server.check()?;
    }
    // The rows are counted in it, and the last kill may have been a moment ago.
    database.ready().await?;
    let (kept, stored) = close(&site, agent, server).await?;
    assert!(kept.appended > 5_000, "there was load: {kept:?}");
    assert_exactly_once(kept, stored);
    Ok(())
}

/// 1,000 readings/s go on while the uplink is away; then all of it arrives, in less time than the
/// outage lasted. `FOREBAY_TEST_OUTAGE` is its length in seconds.
#[tokio::test]
async fn an_outage_is_made_up_for_in_less_time_than_it_lasted() -> Result<()> {
    let length = match std::env::var("FOREBAY_TEST_OUTAGE") {
        Ok(seconds) => {
            Duration::from_secs(seconds.parse().context("FOREBAY_TEST_OUTAGE is a number of seconds")?)
        }
        Err(_) => Duration::from_secs(30),
    };
    let folder = tempfile::tempdir()?;
    let device = LoadDevice::start().await?;
    let site = Site::new(folder.path(), programs()?, None, 0).await?;
    site.configure_agent("t", "outage", &device.link_toml(1_000, "1s"), "[uplink]\nbackoff_max = \"5s\"")?;
    let server = site.start_server().await?;
    site.join().await?;
    let agent = site.start_agent().await?;
    drained(&site, Duration::from_secs(20)).await?;

    site.road().set(Road::Cut);
    tokio::time::sleep(length).await;
    let backlog = site.agent_metric("forebay_agent_backlog_readings").await?;
    ensure!(
        backlog >= 900.0 * (length.as_secs_f64() - 3.0),
        "the devices were read on: {backlog} readings wait"
    );
    let back = Instant::now();
    site.road().set(Road::Open);
    drained(&site, length).await?;
    println!("outage {length:?}, backlog {backlog}, made up for in {:?}", back.elapsed());
    println!("agent VmHWM {:?} bytes", agent.peak_memory());
    let (kept, stored) = close(&site, agent, server).await?;
    assert_exactly_once(kept, stored);
    Ok(())
}

/// The server commits and its answer never arrives: the batches come again and must not stand twice.
#[tokio::test]
async fn swallowed_acknowledgements_double_nothing() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let device = LoadDevice::start().await?;
    let site = Site::new(folder.path(), programs()?, None, 0).await?;
    let extra =
        "[uplink]\nrequest_timeout = \"1s\"\nbackoff_max = \"1s\"\n[buffer]\ndurability_window = \"200ms\"";
    site.configure_agent("t", "swallow", &device.link_toml(200, "200ms"), extra)?;
    let server = site.start_server().await?;
    site.join().await?;
    let agent = site.start_agent().await?;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(2)).await;
        site.road().set(Road::SwallowsAnswers);
        tokio::time::sleep(Duration::from_secs(3)).await;
        site.road().set(Road::Open);
    }
    let (kept, stored) = close(&site, agent, server).await?;
    assert!(kept.appended > 5_000, "there was load: {kept:?}");
    assert_exactly_once(kept, stored);
    Ok(())
}
