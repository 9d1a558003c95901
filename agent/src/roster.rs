//! The links there are at this moment. A reload of the configuration changes them while the agent runs,
//! so whoever looks at all of them (telemetry, `status`, the recorder of gaps) looks here each time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use forebay_config::units::Name;
use forebay_protocols::boot_time::BootTime;
use tokio::sync::watch;

use crate::gaps::{Lasting, Silence, Silences};
use crate::link::{LinkState, LinkStatus};
use crate::rate::Rate;

/// Who is there. Cheap to clone; every clone is the same roster.
#[derive(Clone, Debug, Default)]
pub struct Roster(Arc<Mutex<Sheet>>);

#[derive(Debug, Default)]
struct Sheet {
    entries: Vec<Entry>,
    /// Silences of links that are gone, until the recorder takes them: at most one a device and reload.
    left: Vec<Silence>,
}

/// One link.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name.
    pub name: Arc<str>,
    /// By which number the batcher knows it.
    pub index: usize,
    /// How it is.
    pub status: watch::Receiver<LinkStatus>,
    /// Who of it answers.
    pub silences: Silences,
    /// How many readings it brings.
    pub rate: Rate,
    /// Its protocol, as in the configuration.
    pub protocol: &'static str,
}

#[cfg(test)]
impl Entry {
    /// A link of which nothing else matters.
    pub fn of(name: &str, index: usize, status: watch::Receiver<LinkStatus>) -> Self {
        let (silences, rate) = (Silences::default(), Rate::default());
        Self { name: name.into(), index, status, silences, rate, protocol: "mqtt" }
    }
}

impl Roster {
    /// Everybody, in the order of the configuration.
    pub fn entries(&self) -> Vec<Entry> {
        self.sheet().entries.clone()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.sheet().entries.len()
    }

    /// Is nobody there?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of a link.
    pub fn index_of(&self, name: &Name) -> Option<usize> {
        self.sheet().entries.iter().find(|entry| *entry.name == *name.as_str()).map(|entry| entry.index)
    }

    /// Will this link never be tried again?
    pub fn gave_up(&self, name: &Name) -> bool {
        let sheet = self.sheet();
        let entry = sheet.entries.iter().find(|entry| *entry.name == *name.as_str());
        entry.is_some_and(|entry| matches!(entry.status.borrow().state, LinkState::GaveUp(_)))
    }

    /// The lowest number that nobody has.
    pub fn free_index(&self) -> usize {
        let sheet = self.sheet();
        let is_free = |index: &usize| sheet.entries.iter().all(|entry| entry.index != *index);
        (0..=sheet.entries.len()).find(is_free).unwrap_or(sheet.entries.len())
    }

    /// A link is there from now on.
    pub fn enlist(&self, entry: Entry) {
        self.sheet().entries.push(entry);
    }

    /// A link's task has ended for good: what of it is silent still is a gap up to `now`.
    pub fn retire(&self, index: usize, now: BootTime) {
        let mut sheet = self.sheet();
        let Sheet { entries, left } = &mut *sheet;
        for entry in entries.extract_if(.., |entry| entry.index == index) {
            left.extend(entry.silences.take(now, Lasting::All));
        }
    }

    /// Puts the links in this order; others stand behind.
    pub fn sort(&self, order: &[Name]) {
        let place = |entry: &Entry| order.iter().position(|name| *name.as_str() == *entry.name);
        self.sheet().entries.sort_by_key(|entry| place(entry).unwrap_or(usize::MAX));
    }

    /// Takes silences that are over, of links that are gone too, and what `lasting` says of the others.
    pub(crate) fn take_silences(&self, now: BootTime, lasting: Lasting) -> Vec<Silence> {
        let mut sheet = self.sheet();
        let mut taken = std::mem::take(&mut sheet.left);
        taken.extend(sheet.entries.iter().flat_map(|entry| entry.silences.take(now, lasting)));
        taken
    }

    fn sheet(&self) -> MutexGuard<'_, Sheet> {
        // Whatever panicked beside it, each entry is whole by itself.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, index: usize, silences: &Silences) -> Entry {
        let (_, status) = watch::channel(LinkStatus::default());
        Entry { silences: silences.clone(), ..Entry::of(name, index, status) }
    }

    #[test]
    fn numbers_of_links_that_left_are_given_again_and_the_order_is_the_configurations() {
        let roster = Roster::default();
        let silences = Silences::default();
        for name in ["a", "b", "c"] {
            roster.enlist(entry(name, roster.free_index(), &silences));
        }
        let [a, b, c] = ["a", "b", "c"].map(|name| Name::new(name).unwrap());
        assert_eq!(roster.index_of(&b), Some(1));
        roster.retire(1, BootTime(0));
        assert_eq!((roster.index_of(&b), roster.free_index(), roster.len()), (None, 1, 2));
        roster.enlist(entry("b", roster.free_index(), &silences));
        roster.sort(&[c, a, b]);
        let names: Vec<_> = roster.entries().iter().map(|entry| entry.name.to_string()).collect();
        assert_eq!(names, ["c", "a", "b"]);
    }

    #[test]
    fn a_device_that_was_silent_when_its_link_left_leaves_a_gap_up_to_then() {
        let (roster, silences) = (Roster::default(), Silences::default());
        roster.enlist(entry("a", 0, &silences));
        silences.expect(&"pump".into(), BootTime(1));
        silences.silent("pump");
        roster.retire(0, BootTime(5));
        let taken = roster.take_silences(BootTime(90), Lasting::Pieces);
        assert_eq!(taken, [Silence { device: "pump".into(), from: BootTime(1), to: BootTime(5) }]);
        assert_eq!(roster.take_silences(BootTime(99), Lasting::All), []);
    }
}
