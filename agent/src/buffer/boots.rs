//! The table of boots: what is known of the clock of each boot that something in the store may
//! come from. Pure.

use std::collections::BTreeMap;

use super::BootKnown;
use super::logbook::{BootNote, Entry, Life};

/// So many are kept whether anything in the store comes from them or not.
const LAST: usize = 64;
/// An offset that moves by less is not worth a write.
const WORTH_TELLING_US: u64 = 100_000;

/// By counter.
#[derive(Clone, Debug, Default)]
pub struct Boots(BTreeMap<u64, BootKnown>);

impl Boots {
    /// A boot that has at least begun.
    pub fn begin(&mut self, counter: u64, id: &[u8]) {
        self.line(counter).id = short(id);
    }

    /// The present boot opens the store while the system's clock shows `offset_us`; what to write down
    /// if it is the first time.
    pub fn open(&mut self, counter: u64, id: &[u8], offset_us: i64) -> Option<Entry> {
        self.begin(counter, id);
        let line = self.line(counter);
        if line.first_offset_us.is_some() {
            return None;
        }
        line.first_offset_us = Some(offset_us);
        Some(entry(line))
    }

    /// What the logbook says of a boot.
    pub fn note(&mut self, note: &BootNote) {
        *self.line(note.counter) = BootKnown {
            counter: note.counter,
            id: short(&note.id),
            last_us: note.last_us,
            believed_offset_us: note.believed_offset_us,
            synchronised: note.synchronised,
            learnt_offset_us: note.learnt_offset_us,
            first_offset_us: note.first_offset_us,
        };
    }

    /// A sign of life.
    pub fn saw(&mut self, life: &Life) {
        if life.boot == 0 {
            return;
        }
        let line = self.line(life.boot);
        if life.until_us >= line.last_us {
            line.last_us = life.until_us;
            line.believed_offset_us = life.wall_offset_us;
            line.synchronised = life.synchronised;
        }
    }

    /// The true offset of a boot, known at its boot time `now_us`; what to write down of it if that is
    /// news. It is a sign of life too: the crystal had drifted by what the boot had lived.
    pub fn learn(&mut self, counter: u64, offset_us: i64, now_us: i64) -> Option<Entry> {
        let line = self.line(counter);
        if line.learnt_offset_us.is_some_and(|known| known.abs_diff(offset_us) <= WORTH_TELLING_US) {
            return None;
        }
        line.learnt_offset_us = Some(offset_us);
        if now_us >= line.last_us {
            (line.last_us, line.believed_offset_us, line.synchronised) = (now_us, offset_us, true);
        }
        Some(entry(line))
    }

    /// One of them.
    pub fn get(&self, counter: u64) -> Option<&BootKnown> {
        self.0.get(&counter)
    }

    /// Forgets those that nothing wants, the last ones excepted.
    pub fn keep(&mut self, wanted: impl Fn(u64) -> bool) {
        let spare = self.0.len().saturating_sub(LAST);
        let old: Vec<u64> = self.0.keys().copied().take(spare).collect();
        for counter in old.into_iter().filter(|counter| !wanted(*counter)) {
            self.0.remove(&counter);
        }
    }

    /// Ascending.
    pub fn list(&self) -> Vec<BootKnown> {
        self.0.values().copied().collect()
    }

    /// All of it, for a new logbook.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        self.0.values().map(entry)
    }

    fn line(&mut self, counter: u64) -> &mut BootKnown {
        self.0.entry(counter).or_insert(BootKnown {
            counter,
            id: [0; 8],
            last_us: 0,
            believed_offset_us: 0,
            synchronised: false,
            learnt_offset_us: None,
            first_offset_us: None,
        })
    }
}

fn entry(line: &BootKnown) -> Entry {
    Entry::BootKnown(BootNote {
        counter: line.counter,
        id: line.id.to_vec(),
        last_us: line.last_us,
        believed_offset_us: line.believed_offset_us,
        synchronised: line.synchronised,
        learnt_offset_us: line.learnt_offset_us,
        first_offset_us: line.first_offset_us,
    })
}

/// The first 8 bytes.
fn short(id: &[u8]) -> [u8; 8] {
    let mut first = [0; 8];
    first.iter_mut().zip(id).for_each(|(to, from)| *to = *from);
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_of_reboots_leaves_the_last_and_those_that_batches_come_from() {
        let mut boots = Boots::default();
        (1..=500).for_each(|counter| boots.begin(counter, &[counter as u8; 16]));
        boots.keep(|counter| counter == 7);
        let counters: Vec<u64> = boots.list().iter().map(|boot| boot.counter).collect();
        assert_eq!(counters, [7].into_iter().chain(437..=500).collect::<Vec<_>>());
    }

    #[test]
    fn an_older_sign_of_life_says_nothing_new() {
        let mut boots = Boots::default();
        let life = |until_us, wall_offset_us| Life {
            boot: 3,
            until_us,
            wall_offset_us,
            synchronised: true,
            clean: false,
        };
        boots.saw(&life(50, 7));
        boots.saw(&life(40, 9));
        let known = boots.get(3).unwrap();
        assert_eq!((known.last_us, known.believed_offset_us, known.synchronised), (50, 7, true));
    }

    #[test]
    fn an_offset_is_noted_when_it_moves_by_more_than_a_tenth_of_a_second() {
        let mut boots = Boots::default();
        assert!(boots.learn(1, 5_000_000, 1).is_some());
        assert!(boots.learn(1, 5_100_000, 2).is_none());
        assert!(boots.learn(1, 5_100_001, 3).is_some());
        assert_eq!(boots.get(1).unwrap().learnt_offset_us, Some(5_100_001));
    }

    #[test]
    fn who_learns_the_time_is_alive() {
        let mut boots = Boots::default();
        boots.learn(1, 5_000_000, 40);
        let known = *boots.get(1).unwrap();
        assert_eq!((known.last_us, known.believed_offset_us, known.synchronised), (40, 5_000_000, true));
        // A batch of before comes later.
        let life = Life { boot: 1, until_us: 39, wall_offset_us: 7, synchronised: false, clean: false };
        boots.saw(&life);
        assert_eq!(*boots.get(1).unwrap(), known);
    }
}
