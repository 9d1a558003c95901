//! Sets of sequences as ranges: what of a segment a buffer has forgotten, what of an epoch a
//! server has committed. A set is as small as its members allow: what touches is one range,
//! whatever the order of arrival. Pure.

use std::ops::RangeInclusive;

/// Ascending ranges that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// Adds a range; false if all of it was in the set already. An empty one adds nothing.
    pub fn insert(&mut self, range: RangeInclusive<u64>) -> bool {
        let (mut first, mut last) = range.into_inner();
        if first > last {
            return false;
        }
        // Everything that overlaps or touches the new range melts into it.
        let from = self.0.partition_point(|&(_, end)| end.saturating_add(1) < first);
        let to = self.0.partition_point(|&(start, _)| start <= last.saturating_add(1));
        if let Some(melting) = self.0.get(from..to)
            && let (Some(&(start, end_of_first)), Some(&(_, end))) = (melting.first(), melting.last())
        {
            if start <= first && last <= end_of_first {
                return false;
            }
            (first, last) = (first.min(start), last.max(end));
        }
        self.0.splice(from..to, [(first, last)]);
        true
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

    /// The ranges, ascending, both ends inside.
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

impl From<RangeInclusive<u64>> for Ranges {
    fn from(range: RangeInclusive<u64>) -> Self {
        let mut ranges = Self::default();
        ranges.insert(range);
        ranges
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![8 => 0..200u64, 1 => any::<u64>(), 1 => u64::MAX - 3..=u64::MAX]
    }

    proptest! {
        #[test]
        fn ranges_hold_what_a_plain_set_holds(inserts in prop::collection::vec((0u64..60, 0u64..12), 0..40)) {
            let (mut ranges, mut plain) = (Ranges::default(), BTreeSet::new());
            for (first, length) in inserts {
                let members = plain.len();
                plain.extend(first..=first + length);
                prop_assert_eq!(ranges.insert(first..=first + length), plain.len() > members);
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

        #[test]
        fn ranges_are_the_set_of_what_was_inserted(numbers in prop::collection::vec(number(), 0..300)) {
            let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
            for number in numbers {
                prop_assert_eq!(ranges.contains(number), set.contains(&number));
                prop_assert_eq!(ranges.insert(number..=number), set.insert(number));
                prop_assert!(ranges.contains(number));
            }
            // As few ranges as possible: a new one begins only where the number before is missing.
            let fewest = set.iter().filter(|n| n.checked_sub(1).is_none_or(|before| !set.contains(&before)));
            prop_assert_eq!(ranges.iter().count(), fewest.count());
            let members: u128 = ranges.iter().map(|(first, last)| u128::from(last - first) + 1).sum();
            prop_assert_eq!(members, set.len() as u128);
        }
    }

    #[test]
    fn the_far_ends_are_numbers_like_others() {
        let mut ranges = Ranges::default();
        assert!(!ranges.insert(RangeInclusive::new(5, 4)));
        assert_eq!(ranges, Ranges::default());
        assert!(ranges.insert(u64::MAX..=u64::MAX));
        assert!(ranges.insert(0..=0));
        assert!(ranges.contains(u64::MAX) && ranges.contains(0) && !ranges.contains(1));
    }
}
