//! The disk refuses: it is full, or turns read-only, or fails one operation. The store must not
//! panic, must drop the oldest and nothing else (or nothing at all, if its rule is to stop, or single
//! readings of points whose classes let them go), must go
//! on when the trouble is over, and must still have all that it confirmed, also if the power goes
//! off then. A sync that failed has forgotten what it was to write, as Linux does.

use std::io::ErrorKind;
use std::sync::Arc;

use forebay_agent::buffer::simulated::Simulated;
use forebay_agent::buffer::store::{Rules, Store};
use forebay_agent::buffer::{BufferError, Opening};
use forebay_config::agent::WhenFull;

use super::plant::{Plant, classed, may_stop, open, rules};
use super::witness::{NOW, Witness, books, contents};
use super::{Broken, Dice, Order, Tally};

pub fn run(order: &Order) -> Tally {
    order.each(|dice| {
        let mut site = Site::new(dice);
        for _ in 0..dice.within(4, 16) {
            if site.open && site.tally.failures() == 0 {
                site.trouble(dice);
            }
        }
        site.tally.produced += site.plant.produced;
        site.tally
    })
}

/// A store on a disk that gives trouble.
struct Site {
    disk: Simulated,
    rules: Rules,
    boot: u64,
    plant: Plant,
    open: bool,
    tally: Tally,
}

impl Site {
    fn new(dice: &mut Dice) -> Self {
        let limit = [256 << 10, 384 << 10, 1 << 20][dice.below(3) as usize];
        let rules = match dice.below(3) {
            0 => rules(limit, WhenFull::Stop),
            1 => rules(limit, WhenFull::DropOldest),
            _ => classed(limit, dice),
        };
        let mut site = Self {
            disk: Simulated::default(),
            boot: 1,
            plant: Plant::new(&rules),
            rules,
            open: false,
            tally: Tally::default(),
        };
        site.reopen();
        site
    }

    /// One kind of trouble, what is done during it, and the peace after it.
    fn trouble(&mut self, dice: &mut Dice) {
        self.work(dice, 6);
        self.tally.faults += 1;
        match dice.below(6) {
            0 => self.disk.set_quota(self.disk.used() + dice.below(20_000)),
            1 => self.disk.set_capacity(self.disk.used() + dice.below(20_000)),
            2 => self.disk.refuse(Some(ErrorKind::ReadOnlyFilesystem)),
            3 => self.disk.refuse(Some(ErrorKind::Other)),
            4 => self.disk.fail_reading_at(dice.within(1, 40)),
            _ => self.disk.fail_at(dice.within(1, 15)),
        }
        self.work(dice, 10);
        if dice.once_in(4) {
            drop(self.plant.store.take());
            self.reopen();
            self.work(dice, 4);
        }
        if dice.once_in(3) {
            self.cut_power(dice);
        }
        self.disk.lift_capacity();
        self.disk.refuse(None);
        self.disk.fail_at(NOW / 2);
        self.disk.fail_reading_at(NOW / 2);
        self.goes_on(dice);
        self.inspect();
    }

    fn work(&mut self, dice: &mut Dice, most: u64) {
        for _ in 0..dice.within(1, most) {
            let (own, dropped) = (self.disk.clone(), self.dropped());
            // A refusal is an answer. What it left behind shows below.
            drop(self.plant.act(dice, || own.changes()));
            let stops = self.rules.when_full == WhenFull::Stop && self.rules.classes.is_empty();
            if stops && self.dropped() > dropped {
                self.tally
                    .add(Broken::Lost(self.dropped() - dropped, "dropped, but the rule is to stop".into()));
            }
        }
    }

    fn dropped(&self) -> u64 {
        self.plant.store.as_ref().map_or(0, |store| store.status().counts.dropped)
    }

    /// The disk does as it should again: so does the store.
    fn goes_on(&mut self, dice: &mut Dice) {
        let own = self.disk.clone();
        let Err(error) = self.plant.append(dice, || own.changes()) else { return };
        let stops = may_stop(&self.rules) && matches!(error, BufferError::Full { .. });
        if !stops {
            return self
                .tally
                .add(Broken::Other(format!("does not go on when the trouble is over: {error}")));
        }
        // Full by its own budget: acknowledging makes room.
        let Some(store) = &mut self.plant.store else { return };
        let all: Vec<u64> = self.plant.witness.alive.keys().copied().collect();
        store.acknowledge(&[0..=u64::MAX]);
        let asked = own.changes();
        self.plant.witness.note(asked, asked, super::witness::What::Acknowledge(all));
        self.plant.tick(|| own.changes());
        if let Err(error) = self.plant.append(dice, || own.changes()) {
            self.tally
                .add(Broken::Other(format!("all was acknowledged and there is still no room: {error}")));
        }
    }

    /// The living store holds what the witness says, neither more nor less.
    fn inspect(&mut self) {
        let Some(store) = &mut self.plant.store else { return };
        let mut broken = Vec::new();
        let found = contents(store, &mut broken);
        let witness = &self.plant.witness;
        for (sequence, batch) in &witness.alive {
            match found.get(sequence) {
                Some(stored) => broken.extend(witness.altered(batch, stored)),
                None if witness.may_go_whole(batch) => {}
                None => {
                    let words = format!("batch {sequence} is gone");
                    broken.push(Broken::Lost(u64::from(batch.count), words));
                }
            }
        }
        for sequence in found.keys().filter(|sequence| !self.plant.witness.alive.contains_key(sequence)) {
            broken.push(Broken::Other(format!("batch {sequence} is there and should not be")));
        }
        broken.extend(books(store));
        broken.into_iter().for_each(|broken| self.tally.add(broken));
    }

    fn cut_power(&mut self, dice: &mut Dice) {
        drop(self.plant.store.take());
        self.disk = self.disk.wreck(&mut |sides| dice.below(sides));
        self.boot += 1;
        self.tally.faults += 1;
        self.reopen();
    }

    fn reopen(&mut self) {
        self.open = false;
        match open(Arc::new(self.disk.clone()), &self.rules, self.boot) {
            Ok((store, opening, took)) => {
                self.tally.slowest_opening = self.tally.slowest_opening.max(took);
                self.judge(store, &opening);
            }
            Err(broken) => self.tally.add(broken),
        }
    }

    fn judge(&mut self, mut store: Store, opening: &Opening) {
        // The store opened under it; the witness wants to read all there is.
        self.disk.fail_reading_at(NOW / 2);
        let witness: &mut Witness = &mut self.plant.witness;
        let (alive, broken) = witness.judge(NOW, &mut store, opening);
        broken.into_iter().for_each(|broken| self.tally.add(broken));
        witness.settle(NOW, alive, opening);
        self.plant.take_over(store, opening);
        self.open = true;
    }
}
