//! Waiting for a peer that is away. A pause may last a minute, and a peer that comes back in it
//! should not wait for its end: so it is knocked for meanwhile, which costs both next to nothing.
//!
//! Only its coming back ends a pause early, once: a peer that takes connections and does nothing
//! with them is tried as seldom as any other.

use std::time::Duration;

use forebay_protocols::field::source::Source;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff::{Waited, full_jitter, wait};

/// The longest time between two knocks.
pub const KNOCK_EVERY: Duration = Duration::from_secs(2);

/// What is known of a peer's absence.
#[derive(Debug, Default)]
pub(super) struct Absence {
    /// Nobody was there at the last knock.
    away: bool,
}

/// How a pause ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Pause {
    /// By its time.
    Over,
    /// The peer was away and is there.
    Returned,
    /// Somebody asked us to stop.
    Stopped,
}

impl Absence {
    /// Waits `pause`, or until the peer is back.
    pub(super) async fn wait(
        &mut self,
        source: &mut impl Source,
        pause: Duration,
        stop: &CancellationToken,
    ) -> Pause {
        let end = Instant::now() + pause;
        loop {
            let rest = end.saturating_duration_since(Instant::now());
            let step = KNOCK_EVERY / 2 + full_jitter(KNOCK_EVERY / 2);
            if wait(rest.min(step), stop).await == Waited::Stopped {
                return Pause::Stopped;
            }
            if rest <= step {
                return Pause::Over;
            }
            // Dropping a knock is safe: nothing was said.
            let Some(there) = stop.run_until_cancelled(source.knock()).await else { return Pause::Stopped };
            if there && self.away {
                self.away = false;
                return Pause::Returned;
            }
            self.away = !there;
        }
    }
}
