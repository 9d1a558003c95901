//! A minute of network faults on both stores; `FOREBAY_TEST_FAULTS=10000` makes as many as the fault
//! suite does.

use std::time::Instant;

use anyhow::Result;
use forebay_tests::faults::network;
use forebay_tests::{faults, seed};

#[tokio::test(flavor = "multi_thread")]
async fn network_and_database_faults_lose_nothing_and_double_nothing_on_either_store() -> Result<()> {
    let (seed, faults, began) = (seed()?, faults(3_000)?, Instant::now());
    let tally = network::run(seed, faults).await?;
    println!("{:.0?}: {tally}", began.elapsed());
    assert!(tally.faults >= faults && tally.produced > 10 * faults, "too little happened: {tally}");
    assert_eq!((tally.lost, tally.twice), (0, 0), "{tally}");
    for breaks in ["cut after COPY", "cut before COMMIT", "cut at COMMIT", "cut after COMMIT"] {
        assert!(tally.kinds.get(breaks).is_some_and(|count| *count > 0), "no {breaks}: {tally}");
    }
    Ok(())
}
