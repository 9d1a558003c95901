//! Promise 1 with several servers behind a balancer on one TimescaleDB: connections break, servers
//! are killed, and every reading still reaches the database once.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use forebay_demo::dice::Dice;
use forebay_demo::ledger::Database;
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
