//! Keeps rollups up with what came in.

use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_protocols::boot_time::wall_micros;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Outage, paced};
use crate::store::{Grain, Micros, Store, StoreError};
use crate::telemetry::Telemetry;

const EVERY: Duration = Duration::from_secs(10);
/// Buckets over all points in one step: the first, and bounds for those after.
const FIRST: u64 = 2_000;
const LEAST: u64 = 50;
const MOST: u64 = 50_000;

/// Makes what is due, every ten seconds. One task of its own; see [`Roller::run`].
pub struct Roller {
    store: Arc<dyn Store>,
    telemetry: Arc<Telemetry>,
    /// Buckets in a step, by grain: days are made of fewer rows than minutes.
    amount: [u64; 3],
    /// What was here before rollups were counts as due since then.
    since: Micros,
    outage: Outage,
}

impl Roller {
    /// One that has made nothing yet.
    pub fn new(store: Arc<dyn Store>, telemetry: Arc<Telemetry>) -> Self {
        let (amount, since) = ([FIRST; 3], wall_micros());
        Self { store, telemetry, amount, since, outage: Outage::new("rollups") }
    }

    /// Makes what is due, until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            // A step that is cut short did nothing, or all of it.
            let outcome = tokio::select! {
                () = stop.cancelled() => return,
                outcome = self.pass() => outcome,
            };
            self.outage.tell(outcome);
            if timeout(EVERY, stop.cancelled()).await.is_ok() {
                return;
            }
        }
    }

    /// Everything that is ripe, finest first: what it makes due may be ripe at once.
    async fn pass(&mut self) -> Result<(), StoreError> {
        for grain in Grain::ALL {
            loop {
                let (now, begin) = (wall_micros(), Instant::now());
                let amount = &mut self.amount[grain as usize];
                let progress = self.store.roll_up(grain, now, *amount).await?;
                let took = begin.elapsed();
                if progress.busy {
                    return Ok(());
                }
                self.telemetry.rolled_up(progress.written);
                if grain == Grain::Minutes {
                    let lag = progress.oldest.map_or(0, |oldest| now - oldest.max(self.since));
                    self.telemetry.rollup_lag(Duration::from_micros(lag.max(0) as u64));
                }
                if progress.written > 0 {
                    *amount = paced(*amount, took, LEAST, MOST);
                }
                if !progress.more {
                    break;
                }
                // Half of the time belongs to those who store and ask.
                super::pause(took).await;
            }
        }
        Ok(())
    }
}
