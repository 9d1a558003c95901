//! A fleet with real TLS in one process, its network cut and its server killed: the simulator that the
//! benches stand on keeps the first promise, and so does the server under it.

use std::time::Duration;

use anyhow::{Result, ensure};
use forebay_demo::fleet::house::House;
use forebay_demo::fleet::{Joined, Plan};
use forebay_demo::lossy_link::{LossyLink, Road};
use forebay_tests::programs;

const AGENTS: usize = 150;

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_brings_every_reading_once_through_an_outage_and_a_storm() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut house = House::new(folder.path(), programs()?.server, None, 0)?;
    let road = LossyLink::start(house.sync_address()).await?;
    house.configure(road.address())?;
    house.start().await?;
    let join = house.join_string(AGENTS).await?;
    let plan = Plan { agents: AGENTS, points: 10, ..Plan::default() };
    let fleet = Joined::join(plan, &join, folder.path()).await?.start();
    fleet.up(Duration::from_secs(60)).await?;

    road.set(Road::Cut);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let waiting = fleet.books().held.batches;
    ensure!(waiting >= AGENTS as u64, "{waiting} batches wait in an outage");
    road.set(Road::Open);
    fleet.acknowledged(&fleet.mark(), Duration::from_secs(60)).await?;

    house.kill().await?;
    house.start().await?;
    fleet.acknowledged(&fleet.mark(), Duration::from_secs(60)).await?;

    let books = fleet.finish(Duration::from_secs(60)).await?.held;
    house.terminate().await?;
    let stored = house.database().count().await?;
    ensure!(books.appended > 10 * AGENTS as u64 * 5, "there was load: {books:?}");
    ensure!((books.backlog(), books.left_out, books.lost_by_server) == (0, 0, 0), "{books:?}");
    ensure!((stored.rows, stored.twice) == (books.appended, 0), "{stored:?}, {books:?}");
    Ok(())
}
