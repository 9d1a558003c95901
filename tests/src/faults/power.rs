//! The power goes off. A store lives a few lives on the simulated disk; at every operation boundary
//! of each, openings included, the power is cut, the dice decide what of the unsynced is on the
//! platter, and the store must open with all that was confirmed by then, byte for byte, its books
//! right, and go on. Some cuts are cut again while they recover.

use std::sync::Arc;

use forebay_agent::buffer::Opening;
use forebay_agent::buffer::simulated::{Moment, Simulated};
use forebay_agent::buffer::store::{Rules, Store};
use forebay_config::agent::WhenFull;

use super::plant::{Maker, Plant, classed, may_stop, measured, open, rules};
use super::witness::{NOW, What, Witness, books, contents};
use super::{Broken, Dice, Order, Tally};

pub fn run(order: &Order) -> Tally {
    order.each(scenario)
}

/// How deep a recovery is cut again.
const DEPTH: u64 = 3;

fn scenario(dice: &mut Dice) -> Tally {
    let mut tally = Tally::default();
    let limit = [256 << 10, 384 << 10, 1 << 20][dice.below(3) as usize];
    let rules = match dice.below(6) {
        0 => rules(limit, WhenFull::Stop),
        1..=3 => rules(limit, WhenFull::DropOldest),
        _ => classed(if dice.once_in(2) { 96 << 10 } else { 64 << 10 }, dice),
    };
    let mut disk = Simulated::default();
    let mut boot = 1;
    let mut plant = Plant::new(&rules);
    disk.watch();
    match open(Arc::new(disk.clone()), &rules, boot) {
        Ok((store, opening, _)) => plant.take_over(store, &opening),
        Err(broken) => tally.add(broken),
    }
    if !rules.classes.is_empty() {
        // Readings give way when there is no room, and a short life would not come to that.
        fill(&mut plant, &disk, rules.limit, dice);
        disk.watch();
    }
    for _ in 0..dice.within(2, 4) {
        for _ in 0..dice.within(5, 30) {
            let own = disk.clone();
            // `Full` is no fault: what was not appended is not expected either.
            drop(plant.act(dice, || own.changes()));
        }
        let end = dice.below(3);
        match plant.store.take() {
            Some(store) if end == 0 => close(&mut plant.witness, store, &disk),
            _ => {}
        }
        let reopened = (end < 2).then(|| open(Arc::new(disk.clone()), &rules, boot));
        let moments = disk.moments();
        boot += 1;
        let mut cut = Cut { witness: &plant.witness, rules: &rules, boot, tally: &mut tally };
        moments.iter().for_each(|moment| cut.at(moment, &disk, dice, DEPTH));
        let (at, opened) = match reopened {
            Some(opened) => {
                boot -= 1;
                disk.watch();
                (NOW, opened)
            }
            None => {
                let Some(moment) = dice.pick(&moments) else { break };
                disk = disk.wreck_at(moment, &mut |sides| dice.below(sides));
                disk.watch();
                (moment.changes, open(Arc::new(disk.clone()), &rules, boot))
            }
        };
        let (mut store, opening) = match opened {
            Ok((store, opening, _)) => (store, opening),
            Err(broken) => {
                tally.add(broken);
                break;
            }
        };
        let (alive, broken) = plant.witness.judge(at, &mut store, &opening);
        let failed = !broken.is_empty();
        broken.into_iter().for_each(|broken| tally.add(broken));
        if failed {
            break;
        }
        plant.witness.settle(at, alive, &opening);
        plant.take_over(store, &opening);
    }
    tally.produced += plant.produced;
    tally
}

fn fill(plant: &mut Plant, disk: &Simulated, limit: u64, dice: &mut Dice) {
    for _ in 0..200 {
        let used = plant.store.as_ref().map_or(limit, |store| store.status().disk_bytes);
        if used + (20 << 10) > limit || plant.append(dice, || disk.changes()).is_err() {
            return;
        }
    }
}

fn close(witness: &mut Witness, store: Store, disk: &Simulated) {
    let asked = disk.changes();
    store.close();
    witness.note(asked, disk.changes(), What::Durable);
}

/// Cuts, and what they are judged by.
struct Cut<'a> {
    witness: &'a Witness,
    rules: &'a Rules,
    boot: u64,
    tally: &'a mut Tally,
}

impl Cut<'_> {
    fn at(&mut self, moment: &Moment, disk: &Simulated, dice: &mut Dice, depth: u64) {
        let wreck = disk.wreck_at(moment, &mut |sides| dice.below(sides));
        self.survive(moment.changes, wreck, dice, depth);
    }

    /// The store opens on what is left, with all that was confirmed at `change`.
    fn survive(&mut self, change: u64, wreck: Simulated, dice: &mut Dice, depth: u64) {
        self.tally.faults += 1;
        let again = depth > 0 && dice.once_in(4);
        if again {
            wreck.watch();
        }
        let (mut store, opening, took) = match open(Arc::new(wreck.clone()), self.rules, self.boot) {
            Ok(opened) => opened,
            Err(broken) => return self.tally.add(broken),
        };
        self.tally.slowest_opening = self.tally.slowest_opening.max(took);
        let moments = if again { wreck.moments() } else { Vec::new() };
        let (_, broken) = self.witness.judge(change, &mut store, &opening);
        broken.into_iter().for_each(|broken| self.tally.add(broken));
        self.goes_on(&wreck, store, &opening, dice);
        if let Some(moment) = dice.pick(&moments) {
            let wreck = wreck.wreck_at(moment, &mut |sides| dice.below(sides));
            self.boot += 1;
            self.survive(change, wreck, dice, depth - 1);
        }
    }

    /// It takes another batch, and the next opening finds nothing to mend.
    fn goes_on(&mut self, disk: &Simulated, mut store: Store, opening: &Opening, dice: &mut Dice) {
        let mut broken = Vec::new();
        store.define(&measured());
        let next = store.next_sequence().0;
        let readings = dice.within(1, 50);
        let batch = Maker::default().batch(opening.epoch, next, readings, dice);
        let full = store.status().disk_bytes + (96 << 10) > self.rules.limit;
        if let Err(error) = store.append(std::slice::from_ref(&batch))
            && !(full && may_stop(self.rules))
        {
            broken.push(Broken::Other(format!("does not go on: {error}")));
        }
        let before = contents(&mut store, &mut broken);
        broken.extend(books(&mut store));
        if dice.once_in(2) {
            store.close()
        } else {
            drop(store)
        }
        match open(Arc::new(disk.clone()), self.rules, self.boot) {
            Ok((mut store, opening, _)) => {
                if !opening.repairs.is_empty() {
                    let words = format!("mended, and again something to mend: {:?}", opening.repairs);
                    broken.push(Broken::Other(words));
                }
                if contents(&mut store, &mut broken) != before {
                    broken.push(Broken::Lost(1, "the second opening found something else".into()));
                }
                broken.extend(books(&mut store));
            }
            Err(refused) => broken.push(refused),
        }
        broken.into_iter().for_each(|broken| self.tally.add(broken));
    }
}
