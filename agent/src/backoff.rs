//! How long to wait before the next attempt. The one place of the agent that sleeps.
//!
//! Pauses double from `min` to `max` and are spread between half and full length, so that a
//! thousand gateways that lost the same server do not come back in the same second.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// Growing pauses between attempts at one thing.
#[derive(Clone, Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    attempts: u32,
}

/// Why a [`Backoff`] cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackoffError {
    /// It would retry in a tight loop.
    #[error("the shortest pause must be longer than zero")]
    Zero,
    /// The bounds are the wrong way round.
    #[error("the longest pause ({max:?}) is shorter than the shortest ({min:?})")]
    Reversed {
        /// The shortest pause asked for.
        min: Duration,
        /// The longest pause asked for.
        max: Duration,
    },
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Waited {
    /// The time is over: go on.
    Over,
    /// Somebody asked us to stop.
    Stopped,
}

impl Backoff {
    /// Pauses from `min` to `max`.
    pub fn new(min: Duration, max: Duration) -> Result<Self, BackoffError> {
        if min.is_zero() {
            return Err(BackoffError::Zero);
        }
        if max < min {
            return Err(BackoffError::Reversed { min, max });
        }
        Ok(Self { min, max, attempts: 0 })
    }

    /// Pauses from `min` up to a setting, which is raised to `min` where it is below.
    pub fn up_to(min: Duration, max: Duration) -> Self {
        let min = min.max(Duration::from_millis(1));
        Self { min, max: max.max(min), attempts: 0 }
    }

    /// Attempts that failed since the last success.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// It worked: the next pause is the shortest again.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }

    /// It failed: how long to wait now.
    pub fn next_pause(&mut self) -> Duration {
        let full = self.full();
        self.attempts = self.attempts.saturating_add(1);
        full / 2 + full_jitter(full / 2)
    }

    /// It failed, and trying again soon would be of no use: the longest pause at once.
    pub fn longest_pause(&mut self) -> Duration {
        self.attempts = self.attempts.saturating_add(1);
        self.max / 2 + full_jitter(self.max / 2)
    }

    /// Waits [`Self::next_pause`].
    pub async fn pause(&mut self, stop: &CancellationToken) -> Waited {
        wait(self.next_pause(), stop).await
    }

    fn full(&self) -> Duration {
        // 2^20 times the shortest pause is above any longest one that makes sense.
        self.min.saturating_mul(1 << self.attempts.min(20)).min(self.max)
    }
}

/// Waits `pause` or until `stop`.
pub async fn wait(pause: Duration, stop: &CancellationToken) -> Waited {
    tokio::select! {
        biased;
        () = stop.cancelled() => Waited::Stopped,
        () = tokio::time::sleep(pause) => Waited::Over,
    }
}

/// A random part of `whole`, from nothing to all of it.
pub fn full_jitter(whole: Duration) -> Duration {
    // Without randomness the whole is as good as any part: gateways differ in boot time anyway.
    let part = getrandom::u32().map_or(1.0, |random| f64::from(random) / f64::from(u32::MAX));
    whole.mul_f64(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::from_secs(1);
    const MAX: Duration = Duration::from_secs(60);

    #[test]
    fn bounds_that_make_no_sense_do_not_construct() {
        assert_eq!(Backoff::new(Duration::ZERO, MAX).unwrap_err(), BackoffError::Zero);
        assert_eq!(Backoff::new(MAX, MIN).unwrap_err(), BackoffError::Reversed { min: MAX, max: MIN });
        assert!(Backoff::new(MIN, MIN).is_ok());
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_are_spread_over_their_upper_half() {
        let mut backoff = Backoff::new(MIN, MAX).unwrap();
        for full in [1, 2, 4, 8, 16, 32, 60, 60].map(Duration::from_secs) {
            let pause = backoff.next_pause();
            assert!(pause >= full / 2 && pause <= full, "{pause:?} is not in the upper half of {full:?}");
        }
        backoff.reset();
        assert!(backoff.next_pause() <= MIN);
    }

    #[test]
    fn a_thousand_attempts_do_not_overflow() {
        let mut backoff = Backoff::new(MIN, Duration::MAX).unwrap();
        for _ in 0..1000 {
            backoff.next_pause();
        }
        assert_eq!(backoff.attempts(), 1000);
    }

    #[test]
    fn two_gateways_do_not_wait_the_same_time() {
        let pauses: Vec<_> = (0..16).map(|_| Backoff::new(MAX, MAX).unwrap().next_pause()).collect();
        assert!(pauses.iter().any(|pause| *pause != pauses[0]), "{pauses:?}");
    }

    #[tokio::test]
    async fn a_stop_ends_a_long_wait_at_once() {
        let stop = CancellationToken::new();
        stop.cancel();
        assert_eq!(wait(Duration::from_secs(3600), &stop).await, Waited::Stopped);
    }
}
