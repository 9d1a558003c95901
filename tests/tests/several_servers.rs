//! Promise 1 with several servers behind a balancer on one TimescaleDB: connections break, servers
//! are killed, and every reading still reaches the database once.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use forebay_demo::dice::Dice;
use forebay_demo::ledger::Database;
use forebay_tests::lateness::Lateness;
use forebay_tests::load_device::LoadDevice;
use forebay_tests::several::Several;
use forebay_tests::{TestDatabase, kills, programs, seed};

const SERVERS: usize = 3;
const GATEWAYS: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn several_servers_on_one_database_store_every_reading_once_whoever_is_killed() -> Result<()> {
    let (seed, kills) = (seed()?, kills(12)?);
    let mut dice = Dice::new(seed);
    let folder = tempfile::tempdir()?;
    let (database, device) = (TestDatabase::create().await?, LoadDevice::start().await?);
    let road = dice.throw();
    let mut several = Several::start(folder.path(), programs()?, &database.url, SERVERS, road).await?;
    for _ in 0..GATEWAYS {
        several.add_gateway(&device, 300).await?;
    }
    several.balancer().roughen();
    // A server counts since its last start.
    let mut stored_before = vec![0.0; several.servers()];
    for kill in 0..kills {
        let victim = dice.within(0..several.servers() as u64) as usize;
        for _ in 0..dice.within(2..8) {
            tokio::time::sleep(dice.millis(50..300)).await;
            several.balancer().cut_all();
        }
        stored_before[victim] += several.stored_by_server().await?[victim];
        several.kill_server(victim).await.with_context(|| format!("kill {kill}"))?;
        tokio::time::sleep(dice.millis(0..1_000)).await;
        several.start_server(victim).await.with_context(|| format!("after kill {kill}"))?;
    }
    several.balancer().mend();
    several.drained(Duration::from_secs(120)).await?;
    let since_start = several.stored_by_server().await?;
    let by_server: Vec<f64> =
        stored_before.iter().zip(since_start).map(|(before, since)| before + since).collect();
    println!("{kills} kills; the balancer: {:?}", several.balancer().struck().collect::<Vec<_>>());
    println!("stored by each server: {by_server:?}");
    ensure!(several.balancer().faults() > 2 * kills, "the road was smooth: the test tests nothing");
    let kept = several.close().await?;
    let stored = Database::Postgres(database.url.clone()).count().await?;
    println!("{kept:?} {stored:?}");
    let appended: u64 = kept.iter().map(|kept| kept.appended).sum();
    assert!(kept.iter().all(|kept| kept.appended > 3_000), "there was load");
    assert!(kept.iter().all(|kept| (kept.backlog, kept.dropped) == (0, 0)), "{kept:?}");
    assert_eq!((stored.rows, stored.twice), (appended, 0), "every appended reading stands once");
    assert!(
        by_server.iter().filter(|stored| **stored > 0.0).count() >= 2,
        "one server did it all: {by_server:?}"
    );
    database.drop().await
}

/// Gateways come by whichever server the balancer gives them; a page is open at one of them.
#[tokio::test(flavor = "multi_thread")]
async fn the_live_feed_of_every_server_shows_every_gateway_also_while_another_server_is_killed() -> Result<()>
{
    let folder = tempfile::tempdir()?;
    let (database, device) = (TestDatabase::create().await?, LoadDevice::start().await?);
    let mut several = Several::start(folder.path(), programs()?, &database.url, 2, 1).await?;
    for _ in 0..GATEWAYS {
        several.add_gateway(&device, 20).await?;
    }
    let agents: Vec<String> = (0..GATEWAYS).map(|number| format!("several/gw{number}")).collect();
    let mut watches = Vec::new();
    for server in 0..2 {
        for agent in &agents {
            let web = several.web_address(server);
            watches.push((server, agent, Lateness::watch_agent(web, Some(agent)).await?));
        }
    }
    // New connections only, so that each gateway has come by some server since somebody looks.
    several.balancer().cut_all();
    seen_by_all(&watches, 0..2, "at first").await?;
    several.kill_server(1).await?;
    several.balancer().cut_all();
    seen_by_all(&watches, 0..1, "after a kill").await?;
    // Twice a second each, by whichever server: a page is not much later for that.
    for (server, agent, watch) in watches.into_iter().filter(|(server, ..)| *server == 0) {
        let late = watch.end();
        println!(
            "server {server}, {agent}: {} values, p50 {} ms, p95 {} ms",
            late.len(),
            late.quantile(0.5),
            late.quantile(0.95)
        );
    }
    several.start_server(1).await?;
    let fresh = Lateness::watch(several.web_address(1)).await?;
    seen_by_all(&[(1, &agents[0], fresh)], 1..2, "by the server that is back").await?;
    several.drained(Duration::from_secs(60)).await?;
    let kept = several.close().await?;
    let stored = Database::Postgres(database.url.clone()).count().await?;
    let appended: u64 = kept.iter().map(|kept| kept.appended).sum();
    assert_eq!((stored.rows, stored.twice), (appended, 0), "every appended reading stands once");
    database.drop().await
}

/// Waits until each watch at these servers has seen a few values more.
async fn seen_by_all(
    watches: &[(usize, &String, Lateness)],
    servers: std::ops::Range<usize>,
    when: &str,
) -> Result<()> {
    const MORE: usize = 100;
    let watches = || watches.iter().filter(|(server, ..)| servers.contains(server));
    let before: Vec<usize> = watches().map(|(.., watch)| watch.count()).collect();
    let begin = std::time::Instant::now();
    loop {
        let blind: Vec<_> =
            watches().zip(&before).filter(|((.., watch), before)| watch.count() < **before + MORE).collect();
        if blind.is_empty() {
            return Ok(());
        }
        let told: Vec<String> = blind
            .iter()
            .map(|((server, agent, watch), _)| format!("{agent} at server {server}: {}", watch.count()))
            .collect();
        ensure!(begin.elapsed() < Duration::from_secs(60), "{when} a feed shows nothing: {told:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
