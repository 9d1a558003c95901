//! The openings of the store, from which a server tells a copied or restored folder from its
//! original. Bounded, and pure.

use forebay_protocols::sync::wire::Opening;

use super::logbook::Entry;

/// The one a server has heard of, and the newest 31.
pub const MOST: usize = 32;

/// Oldest first.
#[derive(Clone, Debug, Default)]
pub struct Lineage {
    openings: Vec<Opening>,
    /// Has a server heard of the first one?
    greeted: bool,
}

impl Lineage {
    /// The store is opened once more.
    pub fn push(&mut self, opening: Opening) {
        if self.openings.iter().any(|known| known.id == opening.id) {
            return;
        }
        self.openings.push(opening);
        if self.openings.len() > MOST {
            // Not the one a server knows: without it nothing could be joined on.
            self.openings.remove(usize::from(self.greeted));
        }
    }

    /// A server has heard of this opening: what is older is not needed any more. False if that is
    /// no news.
    pub fn greeted(&mut self, id: &[u8]) -> bool {
        let Some(at) = self.openings.iter().position(|known| known.id == id) else { return false };
        let news = at > 0 || !self.greeted;
        self.openings.drain(..at);
        self.greeted = true;
        news
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
            copy.into_iter().for_each(|opening| self.push(opening));
        }
        newer
    }

    /// All of it, for a new logbook.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        let first = self.openings.first().filter(|_| self.greeted);
        let greeted = first.map(|opening| Entry::Greeted(opening.id.to_vec()));
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
        assert!(!lineage.greeted(&opening(1).id), "forgotten");
        (6..=60).for_each(|number| lineage.push(opening(number)));
        let expected: Vec<u64> = [3].into_iter().chain(30..=60).collect();
        assert_eq!(firsts(&lineage), expected);
    }

    #[test]
    fn without_a_server_the_newest_stay() {
        let mut lineage = Lineage::default();
        (1..=40).for_each(|number| lineage.push(opening(number)));
        assert_eq!(firsts(&lineage), (9..=40).collect::<Vec<_>>());
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
    }
}
