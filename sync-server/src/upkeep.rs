//! What the server does in its own time: rollups, and retention. Each is a task that takes bounded
//! steps and pauses between them, so that readings come in meanwhile. Several servers on one database
//! each have both; the store lets one of them work at a time.

mod retention;
mod rollups;

pub use retention::Retainer;
pub use rollups::Roller;

use std::time::Duration;

use tokio::time::timeout;
use tracing::{info, warn};

use crate::store::StoreError;

/// A step that takes less may do twice as much the next time, one that takes more only half.
const QUICK: Duration = Duration::from_millis(60);
const SLOW: Duration = Duration::from_millis(250);

/// How much the next step may do, by how long the last one took.
fn paced(amount: u64, took: Duration, least: u64, most: u64) -> u64 {
    match took {
        took if took < QUICK => amount.saturating_mul(2).min(most),
        took if took > SLOW => (amount / 2).max(least),
        _ => amount,
    }
}

/// Leaves as much time as was taken, and a little where nothing was.
async fn pause(took: Duration) {
    let pause = took.clamp(Duration::from_millis(1), Duration::from_secs(1));
    let _ = timeout(pause, std::future::pending::<()>()).await;
}

/// Tells of an outage in two lines, however long it is.
struct Outage {
    what: &'static str,
    failing: bool,
}

impl Outage {
    fn new(what: &'static str) -> Self {
        Self { what, failing: false }
    }

    fn tell(&mut self, outcome: Result<(), StoreError>) {
        let failed = outcome.is_err();
        match outcome {
            Ok(()) if self.failing => info!(task = self.what, "The database answers again."),
            Err(error) if !self.failing => warn!(task = self.what, %error, "Does not go on for now."),
            Ok(()) | Err(_) => {}
        }
        self.failing = failed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_grow_while_they_are_quick_and_shrink_when_they_are_slow() {
        let ms = Duration::from_millis;
        assert_eq!(paced(100, ms(10), 10, 1_000), 200);
        assert_eq!(paced(900, ms(10), 10, 1_000), 1_000);
        assert_eq!(paced(100, ms(100), 10, 1_000), 100);
        assert_eq!(paced(100, ms(300), 10, 1_000), 50);
        assert_eq!(paced(15, ms(300), 10, 1_000), 10);
    }
}
