//! What a server has acknowledged, exactly: the set is compared with what a restored server still
//! has. And what was in segments that are gone, so that a loss in them has a place in time and a
//! count. Bounded, and pure.

use forebay_protocols::sync::ranges::Ranges;

use super::logbook::{Entry, Past, Sequences};
use super::segments::Segment;

/// Of the set so many ranges are kept, the newest.
pub const MOST: usize = 1024;
/// More are not remembered one by one: the two oldest become one.
const PASTS: usize = 256;

/// A set of sequences, and the story behind it.
#[derive(Clone, Debug, Default)]
pub struct Acknowledged {
    ranges: Ranges,
    past: Vec<Past>,
    /// Changed since it was last copied?
    changed: bool,
}

impl Acknowledged {
    /// The set.
    pub fn ranges(&self) -> &Ranges {
        &self.ranges
    }

    /// A server has these.
    pub fn insert(&mut self, more: &Ranges) {
        for (first, last) in more.iter() {
            self.changed |= self.ranges.insert(first..=last);
        }
        let count = self.ranges.iter().count();
        if count > MOST {
            self.ranges = collected(self.ranges.iter().skip(count - MOST));
        }
    }

    /// The server has these no more, or never had them.
    pub fn remove(&mut self, fewer: &Ranges) {
        self.changed = true;
        self.ranges = without(&self.ranges, fewer);
    }

    /// What of the set is in `asked`.
    pub fn among(&self, asked: &Ranges) -> Ranges {
        common(&self.ranges, asked)
    }

    /// Is anything of this segment in the set?
    pub fn has_some_of(&self, segment: &Segment) -> bool {
        segment.span().is_some_and(|span| !is_empty(&common(&span.into(), &self.ranges)))
    }

    /// A segment goes: what was in it is remembered.
    pub fn bury(&mut self, segment: &Segment) {
        if self.has_some_of(segment) {
            self.remember(past_of(segment));
        }
    }

    /// What was in segments that went before.
    pub fn remember(&mut self, past: Past) {
        let at = self.past.partition_point(|earlier| earlier.first <= past.first);
        self.past.insert(at, past);
        if self.past.len() > PASTS {
            let oldest = self.past.remove(0);
            if let Some(next) = self.past.first_mut() {
                next.first = oldest.first;
                next.last = next.last.max(oldest.last);
                next.readings += oldest.readings;
                next.from_us = next.from_us.min(oldest.from_us);
                next.to_us = next.to_us.max(oldest.to_us);
            }
        }
    }

    /// Readings in `first..=last`, and their wall time, from what is remembered and from `present`
    /// segments. Of a segment that is only touched its share is counted; what nobody remembers
    /// counts nothing and lies in time where the oldest that is remembered begins.
    pub fn account<'a>(
        &self,
        (first, last): (u64, u64),
        present: impl Iterator<Item = &'a Segment>,
    ) -> (u64, (i64, i64)) {
        let (mut readings, mut wall, mut oldest) = (0, None::<(i64, i64)>, None::<i64>);
        for past in self.past.iter().copied().chain(present.map(past_of)) {
            if past.from_us != 0 {
                oldest = Some(oldest.map_or(past.from_us, |at| at.min(past.from_us)));
            }
            let (from, to) = (first.max(past.first), last.min(past.last));
            if from > to {
                continue;
            }
            let (part, whole) = (u128::from(to - from) + 1, u128::from(past.last - past.first) + 1);
            readings += (u128::from(past.readings) * part / whole) as u64;
            wall = Some(wall.map_or((past.from_us, past.to_us), |(from, to)| {
                (from.min(past.from_us), to.max(past.to_us))
            }));
        }
        let nowhere = oldest.unwrap_or(0);
        (readings, wall.unwrap_or((nowhere, nowhere)))
    }

    /// All of it, for a new logbook.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        let set = Entry::Acknowledged(Sequences::of(&self.ranges));
        // The set comes last: it already lacks what is remembered of segments.
        self.past.iter().copied().map(Entry::Past).chain([set])
    }

    /// The set, if it changed since it was last asked for so.
    pub fn news(&mut self) -> Option<Sequences> {
        std::mem::take(&mut self.changed).then(|| Sequences::of(&self.ranges))
    }
}

/// What of `some` is not in `others`.
pub fn without(some: &Ranges, others: &Ranges) -> Ranges {
    let mut rest = Ranges::default();
    for (first, last) in some.iter() {
        for (first, last) in others.complement(first..=last).iter() {
            rest.insert(first..=last);
        }
    }
    rest
}

/// What of `some` is in `others` too.
pub fn common(some: &Ranges, others: &Ranges) -> Ranges {
    without(some, &without(some, others))
}

/// Is nothing in it?
pub fn is_empty(ranges: &Ranges) -> bool {
    ranges.iter().next().is_none()
}

fn collected(ranges: impl Iterator<Item = (u64, u64)>) -> Ranges {
    let mut set = Ranges::default();
    for (first, last) in ranges {
        set.insert(first..=last);
    }
    set
}

fn past_of(segment: &Segment) -> Past {
    let (from_us, to_us) = segment.wall();
    let last = segment.last.max(segment.first);
    Past { first: segment.first, last, readings: segment.total.readings, from_us, to_us }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn past(first: u64, last: u64, readings: u64) -> Past {
        Past { first, last, readings, from_us: first as i64 * 10, to_us: last as i64 * 10 }
    }

    #[test]
    fn the_set_keeps_its_newest_ranges() {
        let mut acknowledged = Acknowledged::default();
        for number in 0..MOST as u64 + 5 {
            acknowledged.insert(&Ranges::from(number * 2..=number * 2));
        }
        assert_eq!(acknowledged.ranges().iter().count(), MOST);
        assert_eq!(acknowledged.ranges().iter().next(), Some((10, 10)));
    }

    #[test]
    fn what_is_gone_is_counted_by_segment_and_by_share() {
        let mut acknowledged = Acknowledged::default();
        acknowledged.remember(past(1, 10, 100));
        acknowledged.remember(past(11, 20, 300));
        let nobody = || std::iter::empty();
        assert_eq!(acknowledged.account((1, 20), nobody()), (400, (10, 200)));
        assert_eq!(acknowledged.account((6, 12), nobody()), (110, (10, 200)));
        assert_eq!(acknowledged.account((40, 50), nobody()), (0, (10, 10)));
    }

    #[test]
    fn the_oldest_stories_melt_into_one() {
        let mut acknowledged = Acknowledged::default();
        for number in 0..600 {
            acknowledged.remember(past(number * 10 + 1, number * 10 + 10, 10));
        }
        assert_eq!(acknowledged.past.len(), PASTS);
        assert_eq!(acknowledged.account((1, 6000), std::iter::empty()), (6000, (10, 60_000)));
    }
}
