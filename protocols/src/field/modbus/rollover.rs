//! A counter that begins again at 0 behind its highest number, as one that goes on. Pure.
//!
//! - A fall by more than half the range is a rollover: the range is added. It must be read often
//!   enough that the counter does not pass half its range in between; of two rollovers between two
//!   readings nobody would know.
//! - A smaller fall is none: the device was reset or replaced, and its count begins anew with what it
//!   shows. Charts of counters look for such falls.
//! - What was added lives in memory alone. After a restart of the agent the count begins anew with
//!   what the device shows; how often it rolled over meanwhile, or ever, the device does not say.

use forebay_config::field::RawType;

/// One counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollover {
    /// How many numbers there are: behind the last of them comes 0.
    range: u64,
    last: Option<u64>,
    added: u64,
}

impl Rollover {
    /// A counter of this type; `None` if that does not roll over within a person's life.
    pub fn of(raw: RawType) -> Option<Self> {
        let range = match raw {
            RawType::Uint8 => 1 << 8,
            RawType::Uint16 => 1 << 16,
            RawType::Uint32 => 1 << 32,
            RawType::Bcd16 => 10_000,
            RawType::Bcd32 => 100_000_000,
            _ => return None,
        };
        Some(Self { range, last: None, added: 0 })
    }

    /// The count for what the device shows now.
    pub fn count(&mut self, shown: u64) -> u64 {
        if let Some(fall) = self.last.and_then(|last| last.checked_sub(shown)).filter(|fall| *fall > 0) {
            self.added = if fall > self.range / 2 { self.added.saturating_add(self.range) } else { 0 };
        }
        self.last = Some(shown);
        self.added.saturating_add(shown)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counted(raw: RawType, shown: &[u64]) -> Vec<u64> {
        let mut rollover = Rollover::of(raw).unwrap();
        shown.iter().map(|shown| rollover.count(*shown)).collect()
    }

    #[test]
    fn decimal_and_binary_counters_roll_over_behind_their_own_last_number() {
        assert_eq!(counted(RawType::Uint16, &[65_535, 0, 1]), [65_535, 65_536, 65_537]);
        assert_eq!(counted(RawType::Bcd16, &[9_999, 0, 9_000, 3]), [9_999, 10_000, 19_000, 20_003]);
        assert_eq!(counted(RawType::Uint8, &[200, 10, 200, 10]), [200, 266, 456, 522]);
        assert_eq!(Rollover::of(RawType::Uint64), None);
        assert_eq!(Rollover::of(RawType::Int32), None);
    }

    #[test]
    fn a_reset_is_no_rollover_and_begins_anew() {
        assert_eq!(counted(RawType::Uint16, &[20_000, 0, 5]), [20_000, 0, 5]);
        assert_eq!(counted(RawType::Uint16, &[65_000, 100, 30_000, 7]), [65_000, 65_636, 95_536, 7]);
    }

    proptest! {
        #[test]
        fn whatever_is_counted_comes_out_if_steps_are_below_half_the_range(
            start in 0u64..10_000,
            steps in proptest::collection::vec(0u64..4_999, 1..200),
        ) {
            let counts = steps.iter().scan(start, |count, step| { *count += step; Some(*count) });
            let counts: Vec<u64> = std::iter::once(start).chain(counts).collect();
            let shown: Vec<u64> = counts.iter().map(|count| count % 10_000).collect();
            prop_assert_eq!(counted(RawType::Bcd16, &shown), counts);
        }
    }
}
