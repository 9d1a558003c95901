//! Some network faults on each store, as many as `FOREBAY_TEST_FAULTS` says; the fault suite does ten
//! thousand.

#![expect(clippy::print_stdout, reason = "the seed and what it came to are printed")]

use std::time::Instant;

use anyhow::Result;
use forebay_tests::faults::network::{self, Place};
use forebay_tests::{faults, seed};

async fn loses_nothing(place: Place) -> Result<()> {
    let (seed, faults, began) = (seed()?, faults(1_500)?, Instant::now());
    let tally = network::scene(place, seed, faults).await?;
    println!("{place:?}, {:.0?}: {tally}", began.elapsed());
    assert!(tally.faults >= faults && tally.produced > 1_000, "too little happened: {tally}");
    assert_eq!((tally.lost, tally.twice), (0, 0), "{tally}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn network_faults_lose_nothing_and_double_nothing_on_sqlite() -> Result<()> {
    loses_nothing(Place::Sqlite).await
}

#[tokio::test(flavor = "multi_thread")]
async fn network_and_database_faults_lose_nothing_and_double_nothing_on_timescale() -> Result<()> {
    loses_nothing(Place::Timescale).await
}
