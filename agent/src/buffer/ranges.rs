//! A set of sequences as ranges: what of a segment is forgotten. Pure.

use std::ops::RangeInclusive;

/// Ascending ranges that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// Adds a range; an empty one adds nothing.
    pub fn insert(&mut self, range: RangeInclusive<u64>) {
        let (mut first, mut last) = (*range.start(), *range.end());
        if first > last {
            return;
        }
        // Everything that overlaps or touches the new range melts into it.
        let from = self.0.partition_point(|&(_, end)| end.saturating_add(1) < first);
        let to = self.0.partition_point(|&(start, _)| start <= last.saturating_add(1));
        if let Some(&(start, _)) = self.0.get(from).filter(|_| from < to) {
            first = first.min(start);
        }
        if let Some(&(_, end)) = to.checked_sub(1).filter(|&i| i >= from).and_then(|i| self.0.get(i)) {
            last = last.max(end);
        }
        self.0.splice(from..to.max(from), [(first, last)]);
    }

    /// Is `number` in the set?
    pub fn contains(&self, number: u64) -> bool {
        let after = self.0.partition_point(|&(_, end)| end < number);
        self.0.get(after).is_some_and(|&(start, _)| start <= number)
    }

    /// The lowest number at or above `from` that is not in the set.
    pub fn first_missing(&self, from: u64) -> u64 {
        let after = self.0.partition_point(|&(_, end)| end < from);
        match self.0.get(after) {
            Some(&(start, end)) if start <= from => end.saturating_add(1),
            _ => from,
        }
    }

    /// The highest number at or below `upto` that is not in the set.
    pub fn last_missing(&self, upto: u64) -> u64 {
        let after = self.0.partition_point(|&(_, end)| end < upto);
        match self.0.get(after) {
            Some(&(start, _)) if start <= upto => start.saturating_sub(1),
            _ => upto,
        }
    }

    /// The ranges, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().copied()
    }

    /// What of `within` is not in the set.
    pub fn complement(&self, within: RangeInclusive<u64>) -> Self {
        let mut rest = Self::default();
        let mut at = *within.start();
        for (start, end) in self.iter() {
            if start > *within.end() {
                break;
            }
            if start > at {
                rest.0.push((at, start - 1));
            }
            at = at.max(end.saturating_add(1));
        }
        rest.insert(at..=*within.end());
        rest
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_hold_what_a_plain_set_holds(inserts in prop::collection::vec((0u64..60, 0u64..12), 0..40)) {
            let (mut ranges, mut plain) = (Ranges::default(), BTreeSet::new());
            for (first, length) in inserts {
                ranges.insert(first..=first + length);
                plain.extend(first..=first + length);
            }
            let rest = ranges.complement(0..=99);
            for number in 0..100 {
                prop_assert_eq!(ranges.contains(number), plain.contains(&number));
                prop_assert_eq!(rest.contains(number), !plain.contains(&number));
                prop_assert_eq!(ranges.first_missing(number), (number..).find(|n| !plain.contains(n)).unwrap());
            }
            for number in 80..100 {
                let plain_answer = (0..=number).rev().find(|n| !plain.contains(n)).unwrap();
                prop_assert_eq!(ranges.last_missing(number), plain_answer);
            }
            let listed: Vec<_> = ranges.iter().collect();
            prop_assert!(listed.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0), "{listed:?}");
        }
    }

    #[test]
    fn the_far_ends_are_numbers_like_others() {
        let mut ranges = Ranges::default();
        ranges.insert(RangeInclusive::new(5, 4));
        assert_eq!(ranges, Ranges::default());
        ranges.insert(u64::MAX..=u64::MAX);
        ranges.insert(0..=0);
        assert!(ranges.contains(u64::MAX) && ranges.contains(0) && !ranges.contains(1));
    }
}
