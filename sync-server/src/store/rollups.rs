//! Rollups: what the readings of a point come to in each minute, hour and day, so that a chart of a
//! year reads thousands of rows and not millions. One implementation for every backend; a backend
//! only reads and writes rows. Pure.
//!
//! # What is promised
//!
//! A rollup is what its readings come to, in whatever order they came, and a query is answered as if
//! there were no rollups: what they do not tell yet is read from the readings themselves.
//!
//! # How
//!
//! - The transaction that stores readings notes which minutes of which points it touched ([`touched`]):
//!   a row or two, a [`Due`], whatever the number of readings. A crash loses both or none.
//! - One task of one server takes dues that are ripe ([`Grain::ripe`]) and makes the rollups of exactly
//!   those minutes anew from their readings ([`Work`], [`Gatherer`]). In the same transaction the dues go
//!   and the hours of those minutes become due; hours are made from minutes, days from hours.
//!   A step is bounded, and a due that is too large for one is shortened, so it goes on where it stopped.
//! - The present minute is not ripe before it is over: it would be made anew with every batch. A due
//!   that lies ahead (a clock that is wrong) ripens with age.
//! - A query is laid over the sources ([`cover`]): the coarsest rollup whose buckets fit the step asked
//!   for, finer ones at the edges, readings where a due still waits. Minima and maxima are kept by all,
//!   so a spike of one reading shows in the chart of a year.
//! - Retention removes what is rolled up, up to a moment that is kept for each point ([`Horizons`]).
//!   Readings that come for a time before it are added to the rollup that stands (its own readings are
//!   gone) and are removed with that, so that they are added once; the first and the last value stay.
//!
//! # What they hold
//!
//! Readings of every quality are counted; numbers weigh in sum, minimum and maximum if they are finite and
//! their quality is not bad. Booleans are 0 and 1. Texts have a first, a last and a count. Of a
//! counter, first and last tell what was counted in between.

use super::{AgentKey, Micros, PointKey};

mod cover;
mod gather;
mod touched;
mod work;

pub use cover::{Segment, Source, Stale, cover};
pub use gather::{Gatherer, Rolled, number};
pub use touched::touched;
pub use work::{Piece, Work};

/// How late a batch may be for its minute to be made once and not twice.
const GRACE: Micros = 20_000_000;

/// Length of a rollup's buckets, aligned since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Grain {
    /// 60 s, from readings.
    Minutes,
    /// 3,600 s, from minutes.
    Hours,
    /// 86,400 s in UTC, from hours.
    Days,
}

impl Grain {
    /// From the finest on.
    pub const ALL: [Self; 3] = [Self::Minutes, Self::Hours, Self::Days];

    /// Length of a bucket.
    pub fn length(self) -> Micros {
        match self {
            Self::Minutes => 60_000_000,
            Self::Hours => 3_600_000_000,
            Self::Days => 86_400_000_000,
        }
    }

    /// What it is made from; `None` is the readings.
    pub fn finer(self) -> Option<Self> {
        match self {
            Self::Minutes => None,
            Self::Hours => Some(Self::Minutes),
            Self::Days => Some(Self::Hours),
        }
    }

    /// What is made from it.
    pub fn coarser(self) -> Option<Self> {
        match self {
            Self::Minutes => Some(Self::Hours),
            Self::Hours => Some(Self::Days),
            Self::Days => None,
        }
    }

    /// Its table.
    pub fn table(self) -> &'static str {
        match self {
            Self::Minutes => "rollup_minutes",
            Self::Hours => "rollup_hours",
            Self::Days => "rollup_days",
        }
    }

    /// Its number in the database.
    pub fn number(self) -> i16 {
        self as i16
    }

    /// The grain of a number.
    pub fn of(number: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|grain| grain.number() == number)
    }

    /// The coarsest one whose buckets a bucket of `step` is made of.
    pub fn for_step(step: Micros) -> Option<Self> {
        Self::ALL.into_iter().rev().find(|grain| step > 0 && step % grain.length() == 0)
    }

    /// Which dues to take up now: those whose last bucket lies before the first number, and those noted
    /// up to the second moment. A due noted after `now` is of a clock that was set back: ripe as well.
    pub fn ripe(self, now: Micros) -> (i64, Micros) {
        let age = match self {
            Self::Minutes => 10 * Self::Minutes.length(),
            Self::Hours | Self::Days => 2 * self.length(),
        };
        ((now - GRACE).div_euclid(self.length()), now.saturating_sub(age))
    }
}

/// Buckets that must be made anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// Whose points.
    pub agent: AgentKey,
    /// Of which length the buckets are.
    pub grain: Grain,
    /// The first bucket, counted since 1970.
    pub first: i64,
    /// The last one, inside.
    pub last: i64,
    /// Of which points.
    pub points: Points,
}

/// The first dues that are ripe.
#[derive(Debug, Default)]
pub struct Ripe {
    /// By their numbers, with their points told.
    pub dues: Vec<(i64, Due)>,
    /// When the oldest of them was noted.
    pub oldest: Option<Micros>,
}

/// Points of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Points {
    /// All of them: noted by a migration.
    All,
    /// These, ascending.
    These(Vec<i64>),
}

impl Points {
    /// As bytes: the distance from each to the next as LEB128; nothing for all.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut before = 0;
        for &point in self.these() {
            let mut distance = (point - before) as u64;
            before = point;
            while distance >= 0x80 {
                bytes.push(distance as u8 | 0x80);
                distance >>= 7;
            }
            bytes.push(distance as u8);
        }
        bytes
    }

    /// What [`Points::encode`] wrote. Bytes that it did not write give some points or others.
    pub fn decode(bytes: &[u8]) -> Self {
        if bytes.is_empty() {
            return Self::All;
        }
        let (mut points, mut before, mut distance, mut shift) = (Vec::new(), 0i64, 0u64, 0u32);
        for &byte in bytes {
            distance |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            shift += 7;
            if byte < 0x80 {
                before = before.wrapping_add(distance as i64);
                points.push(before);
                (distance, shift) = (0, 0);
            }
        }
        Self::These(points)
    }

    /// Is this one of them?
    pub fn hold(&self, point: i64) -> bool {
        match self {
            Self::All => true,
            Self::These(points) => points.binary_search(&point).is_ok(),
        }
    }

    fn these(&self) -> &[i64] {
        match self {
            Self::All => &[],
            Self::These(points) => points,
        }
    }
}

/// Up to which moment retention has removed what a point had, by source; 0 where it has not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Horizons {
    /// Readings before it are gone, all that are rolled up.
    pub readings: Micros,
    /// Minutes before it.
    pub minutes: Micros,
    /// Hours before it.
    pub hours: Micros,
}

impl Horizons {
    /// Of what a grain is made from.
    pub fn below(&self, grain: Grain) -> Micros {
        match grain {
            Grain::Minutes => self.readings,
            Grain::Hours => self.minutes,
            Grain::Days => self.hours,
        }
    }

    /// The later of each.
    pub fn latest(self, other: Self) -> Self {
        Self {
            readings: self.readings.max(other.readings),
            minutes: self.minutes.max(other.minutes),
            hours: self.hours.max(other.hours),
        }
    }
}

/// A rollup to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Made {
    /// Of which point.
    pub point: PointKey,
    /// What its source rows come to.
    pub rolled: Rolled,
    /// False: it takes the place of the one that stands. True: it is added to it, and its source rows,
    /// which came after retention, go.
    pub added: bool,
}

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn points_come_back(points in prop::collection::btree_set(1..i64::from(i32::MAX), 0..50)) {
            let points: Vec<i64> = points.into_iter().collect();
            let points = if points.is_empty() { Points::All } else { Points::These(points) };
            prop_assert_eq!(Points::decode(&points.encode()), points);
        }

        #[test]
        fn any_bytes_are_points(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = Points::decode(&bytes);
        }
    }

    #[test]
    fn a_minute_is_ripe_when_it_is_over_and_a_batch_had_time_to_come() {
        let (minute, second) = (Grain::Minutes.length(), 1_000_000);
        assert_eq!(
            Grain::Minutes.ripe(100 * minute + 19 * second).0,
            99,
            "minute 99 may still be on its way"
        );
        assert_eq!(Grain::Minutes.ripe(100 * minute + 20 * second).0, 100);
    }

    #[test]
    fn a_step_is_made_of_the_coarsest_buckets_that_fit() {
        let second = 1_000_000;
        for (step, grain) in [
            (0, None),
            (30 * second, None),
            (120 * second, Some(Grain::Minutes)),
            (5_400 * second, Some(Grain::Minutes)),
            (7_200 * second, Some(Grain::Hours)),
            (7 * 86_400 * second, Some(Grain::Days)),
        ] {
            assert_eq!(Grain::for_step(step), grain, "{step}");
        }
    }
}
