//! Readings a second over about the last minute, for people. Counting costs a link a lock and nothing
//! more.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use forebay_protocols::boot_time::BootTime;

/// What is counted together. The rate is told of the last whole one and the one that grows.
const SPAN: Duration = Duration::from_secs(30);
/// From less than this no rate can be told.
const AT_LEAST: Duration = Duration::from_secs(1);

/// A rate. Cheap to clone; every clone is the same.
#[derive(Clone, Debug, Default)]
pub struct Rate(Arc<Mutex<Counts>>);

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    total: u64,
    /// When the span that grows began; `None` before the first reading.
    begun: Option<BootTime>,
    growing: u64,
    /// The one before it, and how long that was.
    whole: (u64, Duration),
}

impl Rate {
    /// So many readings came.
    pub fn count(&self, readings: u64, now: BootTime) {
        let mut counts = self.counts();
        counts.total += readings;
        let begun = *counts.begun.get_or_insert(now);
        if now.since(begun) >= SPAN {
            counts.whole = (counts.growing, now.since(begun));
            (counts.growing, counts.begun) = (0, Some(now));
        }
        counts.growing += readings;
    }

    /// All that came.
    pub fn total(&self) -> u64 {
        self.counts().total
    }

    /// `None` while it cannot be told yet.
    pub fn per_second(&self, now: BootTime) -> Option<f64> {
        let Counts { total: _, begun, growing, whole } = *self.counts();
        let length = now.since(begun?) + whole.1;
        (length >= AT_LEAST).then(|| (growing + whole.0) as f64 / length.as_secs_f64())
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Plain numbers are whole whatever panicked beside them.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> BootTime {
        BootTime(1_000_000 * (1_000 + seconds))
    }

    #[test]
    fn a_rate_follows_within_a_minute_and_sinks_when_nothing_comes() {
        let rate = Rate::default();
        assert_eq!(rate.per_second(at(0)), None);
        (0..100).for_each(|second| rate.count(10, at(second)));
        let told = rate.per_second(at(100)).unwrap();
        assert!((9.9..10.3).contains(&told), "{told}");
        (100..200).for_each(|second| rate.count(2, at(second)));
        let told = rate.per_second(at(200)).unwrap();
        assert!((1.9..2.2).contains(&told), "{told}");
        let told = rate.per_second(at(800)).unwrap();
        assert!(told < 0.3, "{told}");
        assert_eq!(rate.total(), 1_200);
    }
}
