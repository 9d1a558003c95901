//! The openings of the store, from which a server tells a copied or restored folder from its
//! original. Bounded, and pure.

use forebay_protocols::sync::wire::Opening;

use super::logbook::Entry;

/// Openings from before the one a server has heard of: a server restored from a backup knows one of
/// these, and can still tell two copies apart.
const OLDER: usize = 8;
/// Those, the one a server has heard of, and the newest 31.
pub const MOST: usize = OLDER + 32;

/// Oldest first.
#[derive(Clone, Debug, Default)]
pub struct Lineage {
    openings: Vec<Opening>,
    /// Id of the newest one that a server has heard of.
    heard: Option<Vec<u8>>,
}

impl Lineage {
    /// The store is opened once more.
    pub fn push(&mut self, opening: Opening) {
        if self.openings.iter().any(|known| known.id == opening.id) {
            return;
        }
        self.openings.push(opening);
        self.trim();
    }

    /// A server has heard of this opening: few that are older are still needed. False if that is no
    /// news.
    pub fn greeted(&mut self, id: &[u8]) -> bool {
        let at = self.openings.iter().position(|known| known.id == id);
        if at.is_none() || at <= self.heard_at() {
            return false;
        }
        self.heard = Some(id.to_vec());
        self.trim();
        true
    }

    fn heard_at(&self) -> Option<usize> {
        let heard = self.heard.as_ref()?;
        self.openings.iter().position(|known| known.id == *heard)
    }

    fn trim(&mut self) {
        let older = self.heard_at().unwrap_or(0).saturating_sub(OLDER);
        self.openings.drain(..older);
        // Not the one a server knows: without it nothing could be joined on.
        let middle = self.heard_at().map_or(0, |at| at + 1);
        let surplus = self.openings.len().saturating_sub(MOST);
        self.openings.drain(middle..middle + surplus);
    }

    /// All of them.
    pub fn openings(&self) -> &[Opening] {
        &self.openings
    }

    /// Takes over what a copy of the list knows of newer openings. False if it knows none.
    pub fn complete_from(&mut self, copy: Vec<Opening>) -> bool {
        let newer = match (self.openings.last(), copy.last()) {
            (_, None) => false,
            (None, Some(_)) => true,
            // An old copy ends before this list does.
            (Some(last), Some(newest)) => {
                !self.openings.iter().any(|known| known.id == newest.id)
                    && (newest.first > last.first || copy.iter().any(|copied| copied.id == last.id))
            }
        };
        if newer {
            self.openings.retain(|known| !copy.iter().any(|copied| copied.id == known.id));
            self.openings.extend(copy);
            self.trim();
        }
        newer
    }

    /// All of it, for a new logbook.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        let greeted = self.heard.clone().map(Entry::Greeted);
        self.openings.iter().cloned().map(Entry::Opening).chain(greeted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening(number: u64) -> Opening {
        Opening { id: number.to_le_bytes().to_vec(), first: number, ..Opening::default() }
    }

    fn firsts(lineage: &Lineage) -> Vec<u64> {
        lineage.openings().iter().map(|opening| opening.first).collect()
    }

    #[test]
    fn the_one_a_server_knows_stays_and_the_middle_goes() {
        let mut lineage = Lineage::default();
        (1..=5).for_each(|number| lineage.push(opening(number)));
        assert!(lineage.greeted(&opening(3).id) && !lineage.greeted(&opening(3).id));
        assert!(!lineage.greeted(&opening(1).id), "it has heard of newer ones");
        (6..=60).for_each(|number| lineage.push(opening(number)));
        let expected: Vec<u64> = (1..=3).chain(24..=60).collect();
        assert_eq!(firsts(&lineage), expected);
    }

    #[test]
    fn few_older_ones_stay_for_a_server_that_goes_back_to_a_backup() {
        let mut lineage = Lineage::default();
        for number in 1..=30 {
            lineage.push(opening(number));
            assert!(lineage.greeted(&opening(number).id));
        }
        assert_eq!(firsts(&lineage), (22..=30).collect::<Vec<_>>());
        assert!(!lineage.greeted(&opening(21).id), "forgotten");
        let mut again = Lineage::default();
        for entry in lineage.entries() {
            match entry {
                Entry::Opening(opening) => again.push(opening),
                Entry::Greeted(id) => assert!(again.greeted(&id)),
                other => panic!("{other:?}"),
            }
        }
        again.push(opening(31));
        assert_eq!(firsts(&again), (22..=31).collect::<Vec<_>>());
    }

    #[test]
    fn without_a_server_the_newest_stay() {
        let mut lineage = Lineage::default();
        (1..=50).for_each(|number| lineage.push(opening(number)));
        assert_eq!(firsts(&lineage), (11..=50).collect::<Vec<_>>());
    }

    #[test]
    fn a_copy_completes_the_list_only_if_it_is_newer() {
        let list = |numbers: &[u64]| numbers.iter().copied().map(opening).collect::<Vec<_>>();
        let completed = |own: &[u64], copy: &[u64]| {
            let mut lineage = Lineage::default();
            list(own).into_iter().for_each(|opening| lineage.push(opening));
            (lineage.complete_from(list(copy)), firsts(&lineage))
        };
        assert_eq!(completed(&[1, 2], &[1, 2, 3]), (true, vec![1, 2, 3]));
        assert_eq!(completed(&[], &[1, 2]), (true, vec![1, 2]));
        assert_eq!(completed(&[1, 2], &[1, 2]), (false, vec![1, 2]));
        assert_eq!(completed(&[1, 2, 3], &[1, 2]), (false, vec![1, 2, 3]));
        assert_eq!(completed(&[1], &[]), (false, vec![1]));
        assert_eq!(completed(&[1], &[4, 5]), (true, vec![1, 4, 5]), "a server heard of 4 in between");
        assert_eq!(completed(&[5], &[1, 2]), (false, vec![5]), "an old copy");
        assert_eq!(completed(&[5], &[3, 4, 5, 6]), (true, vec![3, 4, 5, 6]), "in their order");
    }
}
