//! What a server has lost of what it had acknowledged: its database was restored from a backup, or
//! is a new one. Found by comparing its answer to a greeting with our own books. Pure.

use std::ops::RangeInclusive;

use forebay_protocols::sync::ranges::Ranges;
use forebay_protocols::sync::wire::SyncAnswer;

/// Sequences that were acknowledged before the greeting was sent and that the server does not have.
/// Where it lists only its highest ranges, what lies below them is not judged. A list that is none
/// (an odd count, a range that ends before it begins) says nothing.
pub fn lost(acknowledged: &Ranges, answer: &SyncAnswer) -> Vec<RangeInclusive<u64>> {
    let Some(committed) = listed(&answer.committed) else { return Vec::new() };
    let judged_from = match answer.committed.first() {
        _ if answer.committed_is_whole => 1,
        Some(lowest) => *lowest,
        // A server that does not tell.
        None => return Vec::new(),
    };
    let missing = acknowledged.iter().filter(|(_, last)| *last >= judged_from).flat_map(|(first, last)| {
        let lacks = committed.complement(first.max(judged_from)..=last);
        lacks.iter().map(|(first, last)| first..=last).collect::<Vec<_>>()
    });
    missing.collect()
}

fn listed(pairs: &[u64]) -> Option<Ranges> {
    let mut ranges = Ranges::default();
    let (pairs, odd) = pairs.as_chunks::<2>();
    for [first, last] in pairs {
        if first > last {
            return None;
        }
        ranges.insert(*first..=*last);
    }
    odd.is_empty().then_some(ranges)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn answer(committed: &[u64], committed_is_whole: bool) -> SyncAnswer {
        SyncAnswer { committed: committed.to_vec(), committed_is_whole, ..SyncAnswer::default() }
    }

    fn ranges(list: &[(u64, u64)]) -> Ranges {
        let mut ranges = Ranges::default();
        for &(first, last) in list {
            ranges.insert(first..=last);
        }
        ranges
    }

    #[test]
    fn what_was_acknowledged_and_is_not_there_is_lost() {
        let ours = [(1, 90), (95, 100)];
        // committed | whole | lost
        type Row = (&'static [u64], bool, &'static [(u64, u64)]);
        let table: [Row; 9] = [
            (&[1, 100], true, &[]),
            (&[1, 120], true, &[]),
            (&[1, 70], true, &[(71, 90), (95, 100)]),
            (&[], true, &[(1, 90), (95, 100)]),
            (&[], false, &[]),
            (&[50, 60, 97, 100], false, &[(61, 90), (95, 96)]),
            (&[200, 300], false, &[]),
            (&[1, 70, 5], true, &[]),
            (&[70, 1], true, &[]),
        ];
        for (committed, whole, expected) in table {
            let found = lost(&ranges(&ours), &answer(committed, whole));
            let expected: Vec<_> = expected.iter().map(|&(first, last)| first..=last).collect();
            assert_eq!(found, expected, "{committed:?} {whole}");
        }
        assert_eq!(lost(&Ranges::default(), &answer(&[], true)), [], "nothing was ever acknowledged");
    }

    proptest! {
        #[test]
        fn lost_is_the_difference_of_the_two_sets(
            ours in prop::collection::btree_set(1u64..100, 0..60),
            theirs in prop::collection::btree_set(1u64..100, 0..60),
            whole in any::<bool>(),
        ) {
            let singles = |set: &BTreeSet<u64>| ranges(&set.iter().map(|&n| (n, n)).collect::<Vec<_>>());
            let committed: Vec<u64> = singles(&theirs).iter().flat_map(|(first, last)| [first, last]).collect();
            let found: BTreeSet<u64> = lost(&singles(&ours), &answer(&committed, whole)).into_iter().flatten().collect();
            let from = if whole { 1 } else { theirs.first().copied().unwrap_or(u64::MAX) };
            let expected: BTreeSet<u64> = ours.difference(&theirs).copied().filter(|&n| n >= from).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
