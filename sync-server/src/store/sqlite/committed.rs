//! How SQLite keeps the set of committed sequences of an epoch: for each range the distance from
//! the end of the one before and its length less one, as LEB128. A few bytes for any orderly
//! delivery. PostgreSQL has `int8multirange` for the same purpose. Pure.

use forebay_protocols::sync::ranges::Ranges;

/// The bytes that [`decode`] reads.
pub(super) fn encode(committed: &Ranges) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut end = 0;
    for (first, last) in committed.iter() {
        put(&mut bytes, first - end);
        put(&mut bytes, last - first);
        end = last;
    }
    bytes
}

/// The set of `bytes`, or nothing where they are not what [`encode`] writes.
pub(super) fn decode(mut bytes: &[u8]) -> Option<Ranges> {
    let mut committed = Ranges::default();
    let mut end: Option<u64> = None;
    while !bytes.is_empty() {
        let first = end.unwrap_or(0).checked_add(take(&mut bytes)?)?;
        let last = first.checked_add(take(&mut bytes)?)?;
        // Ranges that touch or run backwards were not written by us.
        if end.is_some_and(|end| first - end < 2) {
            return None;
        }
        committed.insert(first..=last);
        end = Some(last);
    }
    Some(committed)
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
    use proptest::prelude::*;

    use super::*;

    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![8 => 0..200u64, 1 => any::<u64>(), 1 => u64::MAX - 3..=u64::MAX]
    }

    proptest! {
        #[test]
        fn any_set_comes_back(numbers in prop::collection::vec(number(), 0..300)) {
            let mut committed = Ranges::default();
            for number in numbers {
                committed.insert(number..=number);
            }
            prop_assert_eq!(decode(&encode(&committed)), Some(committed));
        }

        #[test]
        fn any_bytes_are_ranges_or_nothing(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Some(committed) = decode(&bytes) {
                prop_assert_eq!(decode(&encode(&committed)), Some(committed));
            }
        }
    }

    #[test]
    fn ten_thousand_sequences_in_any_order_are_three_bytes() {
        let mut committed = Ranges::default();
        // 7919 is prime, so this visits every residue once.
        let sequences = (0..10_000u64).map(|i| 1 + i * 7919 % 10_000);
        sequences.for_each(|sequence| assert!(committed.insert(sequence..=sequence)));
        assert_eq!(committed.iter().collect::<Vec<_>>(), [(1, 10_000)]);
        assert_eq!(encode(&committed).len(), 3);
    }
}
