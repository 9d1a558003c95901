//! The set of committed sequences of one epoch, as ranges. It promises to stay as small as the set
//! allows: what touches is one range, whatever the order of arrival. Pure; SQLite keeps its bytes,
//! PostgreSQL has `int8multirange` for the same purpose.

use std::collections::BTreeMap;

/// A set of numbers, kept as disjoint ranges that do not touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    /// First number of a range -> last number of it, both inside.
    ranges: BTreeMap<u64, u64>,
}

impl Ranges {
    /// Is `number` in the set?
    pub fn contains(&self, number: u64) -> bool {
        self.ranges.range(..=number).next_back().is_some_and(|(_, &last)| number <= last)
    }

    /// Adds `number`; false if it was in the set already.
    pub fn insert(&mut self, number: u64) -> bool {
        if self.contains(number) {
            return false;
        }
        let mut last = number;
        if let Some(above) = number.checked_add(1).and_then(|next| self.ranges.remove(&next)) {
            last = above;
        }
        match self.ranges.range_mut(..number).next_back() {
            Some((_, end)) if end.checked_add(1) == Some(number) => *end = last,
            _ => {
                self.ranges.insert(number, last);
            }
        }
        true
    }

    /// The ranges, ascending, both ends inside.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.ranges.iter().map(|(&first, &last)| (first, last))
    }

    /// The bytes that [`Ranges::decode`] reads: for each range the distance from the end of the one
    /// before and its length less one, as LEB128.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut end = 0;
        for (first, last) in self.iter() {
            put(&mut bytes, first - end);
            put(&mut bytes, last - first);
            end = last;
        }
        bytes
    }

    /// The set of `bytes`, or nothing where they are not what [`Ranges::encode`] writes.
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut ranges = BTreeMap::new();
        let mut end: Option<u64> = None;
        while !bytes.is_empty() {
            let first = end.unwrap_or(0).checked_add(take(&mut bytes)?)?;
            let last = first.checked_add(take(&mut bytes)?)?;
            // Ranges that touch or run backwards were not written by us.
            if end.is_some_and(|end| first - end < 2) {
                return None;
            }
            ranges.insert(first, last);
            end = Some(last);
        }
        Some(Self { ranges })
    }
}

fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        if part.leading_zeros() < shift {
            return None;
        }
        number |= part << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
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
        fn ranges_are_the_set_of_what_was_inserted(numbers in prop::collection::vec(number(), 0..300)) {
            let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
            for number in numbers {
                prop_assert_eq!(ranges.contains(number), set.contains(&number));
                prop_assert_eq!(ranges.insert(number), set.insert(number));
                prop_assert!(ranges.contains(number));
            }
            // As few ranges as possible: a new one begins only where the number before is missing.
            let fewest = set.iter().filter(|n| n.checked_sub(1).is_none_or(|before| !set.contains(&before)));
            prop_assert_eq!(ranges.iter().count(), fewest.count());
            let members: u128 = ranges.iter().map(|(first, last)| u128::from(last - first) + 1).sum();
            prop_assert_eq!(members, set.len() as u128);
            prop_assert_eq!(Ranges::decode(&ranges.encode()), Some(ranges));
        }

        #[test]
        fn any_bytes_are_ranges_or_nothing(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Some(ranges) = Ranges::decode(&bytes) {
                prop_assert_eq!(Ranges::decode(&ranges.encode()), Some(ranges));
            }
        }
    }

    #[test]
    fn ten_thousand_sequences_in_any_order_are_three_bytes() {
        let mut ranges = Ranges::default();
        // 7919 is prime, so this visits every residue once.
        (0..10_000u64).for_each(|i| assert!(ranges.insert(1 + i * 7919 % 10_000)));
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [(1, 10_000)]);
        assert_eq!(ranges.encode().len(), 3);
    }
}
