//! Files are damaged while nobody looks: bits flip, files are cut, deleted, swapped, filled with
//! zeros, replaced by those of another epoch. The store must open whatever lies there; every batch
//! that the damage did not touch must be there byte for byte; and what is missing must be counted,
//! to the reading, with a gap record.
//!
//! Most stores lie on the simulated disk. One in eight lies in a real folder, with sled.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use forebay_agent::buffer::Counts;
use forebay_agent::buffer::disk::{Disk, Flash};
use forebay_agent::buffer::simulated::Simulated;
use forebay_agent::buffer::store::{Rules, Store};
use forebay_config::agent::WhenFull;
use forebay_protocols::sync::batch::{Encoded, Epoch};

use super::plant::{Maker, Plant, measured, open, rules};
use super::witness::{books, contents};
use super::{Broken, Dice, Order, Tally};

const LOGBOOK: &str = "logbook";

pub fn run(order: &Order) -> Tally {
    let mut tally = order.each(scenario);
    match large_openings(&mut Dice::new(order.seed)) {
        Ok(notes) => tally.notes.extend(notes),
        Err(broken) => tally.add(broken),
    }
    tally
}

/// What was done to the files.
#[derive(Default)]
struct Harm {
    /// Per file, the bytes that are not what they were.
    touched: BTreeMap<String, Vec<Range<usize>>>,
    /// Files that are none of this store's.
    strangers: usize,
    words: Vec<String>,
}

/// A store before it is damaged.
struct Before {
    files: BTreeMap<String, Vec<u8>>,
    alive: BTreeMap<u64, Encoded>,
    counts: Counts,
    epoch: Epoch,
    highest: u64,
}

fn scenario(dice: &mut Dice) -> Tally {
    let mut tally = Tally::default();
    if dice.once_in(8) {
        match tempfile::tempdir() {
            Ok(folder) => {
                let rules = rules(16 << 20, WhenFull::DropOldest);
                let again = || Arc::new(Flash::new(folder.path())) as Arc<dyn Disk>;
                damaged_once(&again, &rules, true, dice, &mut tally);
            }
            Err(error) => tally.add(Broken::Other(format!("no temporary folder: {error}"))),
        }
    } else {
        let disk = Simulated::default();
        let rules = rules(1 << 20, WhenFull::DropOldest);
        damaged_once(&|| Arc::new(disk.clone()), &rules, false, dice, &mut tally);
    }
    tally
}

fn damaged_once(
    disk: &dyn Fn() -> Arc<dyn Disk>,
    rules: &Rules,
    with_sled: bool,
    dice: &mut Dice,
    tally: &mut Tally,
) {
    let Some(before) = live(disk, rules, dice, tally) else { return };
    let mut harm = Harm::default();
    for _ in 0..dice.within(1, 3) {
        harm.befall(disk().as_ref(), dice);
        tally.faults += 1;
    }
    let boot = dice.within(1, 2);
    let (mut store, opening) = match open(disk(), rules, boot) {
        Ok((store, opening, took)) => {
            tally.slowest_opening = tally.slowest_opening.max(took);
            (store, opening)
        }
        Err(broken) => return tally.add(broken),
    };
    let mut broken = Vec::new();
    // Damage inside a batch shows when the batch is read; then it is counted.
    drop(contents(&mut store, &mut Vec::new()));
    let found = contents(&mut store, &mut broken);
    // Where only a stranger's segment is left, it is the stranger's store that opens.
    let ours = opening.epoch == before.epoch;
    for (sequence, stored) in found.iter().filter(|_| ours) {
        if before.alive.get(sequence).is_some_and(|original| original.bytes != stored.bytes) {
            broken.push(Broken::Lost(u64::from(stored.count), format!("batch {sequence} was altered")));
        }
    }
    let missing: BTreeMap<u64, u64> =
        before.alive.values().map(|b| (b.sequence.0, u64::from(b.count))).collect();
    let missing: BTreeMap<u64, u64> =
        missing.into_iter().filter(|(sequence, _)| !found.contains_key(sequence)).collect();
    let intact = if before.knows_its_epoch(&harm) { before.intact(&harm) } else { BTreeSet::new() };
    for (sequence, readings) in missing.iter().filter(|(sequence, _)| intact.contains(sequence)) {
        broken.push(Broken::Lost(*readings, format!("batch {sequence} was not touched and is gone")));
    }
    broken.extend(books(&mut store));
    if !harm.touched.contains_key(LOGBOOK) {
        // Of batches cut off the very end without a trace only sled knows how much was in them.
        let unknown = before.counts.appended.saturating_sub(store.status().counts.appended);
        let counted = store.status().counts.dropped - before.counts.dropped;
        let lost: u64 = missing.values().sum();
        if counted + unknown != lost || (with_sled && unknown > 0) {
            let words = format!(
                "{lost} are gone, {counted} counted; before {:?}, now {:?}",
                before.counts,
                store.status().counts
            );
            broken.push(Broken::Unaccounted(lost.abs_diff(counted).max(1), words));
        }
    }
    let known = ours && before.knows_its_sequences(&harm);
    if known && store.next_sequence().0 <= before.highest {
        broken.push(Broken::Twice(1, format!("sequence {} is given again", store.next_sequence().0)));
    }
    mended_once(disk, rules, boot, store, opening.epoch, dice, &mut broken);
    for broken in broken {
        tally.add(broken.after(&harm));
    }
}

/// It goes on, and the next opening finds nothing to mend.
fn mended_once(
    disk: &dyn Fn() -> Arc<dyn Disk>,
    rules: &Rules,
    boot: u64,
    mut store: Store,
    epoch: Epoch,
    dice: &mut Dice,
    broken: &mut Vec<Broken>,
) {
    store.define(&measured());
    let batch = Maker::default().batch(epoch, store.next_sequence().0, 20, dice);
    if let Err(error) = store.append(std::slice::from_ref(&batch)) {
        broken.push(Broken::Other(format!("does not go on: {error}")));
    }
    let before = contents(&mut store, broken);
    store.close();
    match open(disk(), rules, boot) {
        Ok((mut store, opening, _)) => {
            if !opening.repairs.is_empty() {
                broken.push(Broken::Other(format!("something to mend again: {:?}", opening.repairs)));
            }
            if contents(&mut store, broken) != before {
                broken.push(Broken::Lost(1, "the second opening found something else".into()));
            }
            broken.extend(books(&mut store));
        }
        Err(refused) => broken.push(refused),
    }
}

/// A life of a store, ended by a stop or a kill.
fn live(
    disk: &dyn Fn() -> Arc<dyn Disk>,
    rules: &Rules,
    dice: &mut Dice,
    tally: &mut Tally,
) -> Option<Before> {
    let mut plant = Plant::new(rules);
    let mut counts = Counts::default();
    let mut epoch = Epoch([0; 16]);
    for _ in 0..dice.within(1, 3) {
        match open(disk(), rules, 1) {
            Ok((store, opening, _)) => {
                epoch = opening.epoch;
                plant.take_over(store, &opening);
            }
            Err(broken) => {
                tally.add(broken);
                return None;
            }
        }
        for _ in 0..dice.within(5, 40) {
            drop(plant.act(dice, || 0));
        }
        // What is acknowledged must be durable, or a kill brings it back.
        plant.tick(|| 0);
        let store = plant.store.take()?;
        counts = store.status().counts;
        if dice.once_in(2) { store.close() } else { drop(store) }
    }
    tally.produced += plant.produced;
    let disk = disk();
    let mut files = BTreeMap::new();
    for (name, length) in disk.files().ok()?.into_iter().filter(|(name, _)| is_ours(name)) {
        let mut bytes = vec![0; length as usize];
        disk.open(&name).ok()?.read_at(&mut bytes, 0).ok()?;
        files.insert(name, bytes);
    }
    let highest = plant.witness.highest_appended();
    Some(Before { files, alive: plant.witness.alive, counts, epoch, highest })
}

fn is_ours(name: &str) -> bool {
    name == LOGBOOK || name.starts_with("segment-")
}

impl Before {
    /// The batches whose bytes are as they were.
    fn intact(&self, harm: &Harm) -> BTreeSet<u64> {
        let segments = self.files.iter().filter(|(name, _)| *name != LOGBOOK);
        let frames =
            segments.flat_map(|(name, bytes)| frames(bytes).map(move |(frame, bytes)| (name, frame, bytes)));
        let untouched = frames.filter(|(name, frame, _)| !harm.touches(name, frame));
        let sequences = untouched
            .filter_map(|(_, _, bytes)| Some(u64::from_le_bytes(bytes.get(20..28)?.try_into().ok()?)));
        sequences.filter(|sequence| self.alive.contains_key(sequence)).collect()
    }

    /// Can anybody still know which epoch this is?
    fn knows_its_epoch(&self, harm: &Harm) -> bool {
        let segments = self.files.keys().filter(|name| *name != LOGBOOK);
        let own = segments.filter(|name| !harm.touched.contains_key(*name)).count();
        !harm.touched.contains_key(LOGBOOK) || own > harm.strangers
    }

    /// Can anybody still know which sequences were given?
    fn knows_its_sequences(&self, harm: &Harm) -> bool {
        let newest = self.files.keys().rfind(|name| *name != LOGBOOK);
        let touched = |name: &String| harm.touched.contains_key(name);
        !harm.touched.contains_key(LOGBOOK) || !newest.is_none_or(touched)
    }
}

/// The frames of a segment, without the first, with where they lie. A frame's head is 20 bytes, of
/// which the third word is the length of its body; a batch's body begins with its sequence.
fn frames(bytes: &[u8]) -> impl Iterator<Item = (Range<usize>, &[u8])> {
    let mut at = 0;
    let all = std::iter::from_fn(move || {
        let length = u32::from_le_bytes(bytes.get(at + 8..at + 12)?.try_into().ok()?) as usize;
        let frame = at..at + 20 + length;
        at = frame.end;
        Some((frame.clone(), bytes.get(frame)?))
    });
    all.skip(1)
}

impl Harm {
    fn touches(&self, file: &str, part: &Range<usize>) -> bool {
        let touched = self.touched.get(file).map(Vec::as_slice).unwrap_or_default();
        touched.iter().any(|range| range.start < part.end && part.start < range.end)
    }

    fn note(&mut self, name: &str, part: Range<usize>, what: &str) {
        self.words.push(format!("{what} in {name} at {}..{}", part.start, part.end));
        self.touched.entry(name.into()).or_default().push(part);
    }

    /// One kind of damage. What the disk itself refuses did not happen.
    fn befall(&mut self, disk: &dyn Disk, dice: &mut Dice) {
        let mut files: Vec<(String, u64)> = disk.files().unwrap_or_default();
        files.retain(|(name, length)| is_ours(name) && *length > 0);
        files.sort();
        let Some((name, length)) = dice.pick(&files).cloned() else { return };
        let (whole, at) = (0..length as usize, dice.below(length) as usize);
        let Ok(mut file) = disk.open(&name) else { return };
        match dice.below(8) {
            0 | 1 => {
                for _ in 0..dice.within(1, 5) {
                    let at = dice.below(length);
                    let mut byte = [0];
                    drop(file.read_at(&mut byte, at));
                    byte[0] ^= 1 << dice.below(8);
                    drop(file.write_at(&byte, at));
                    self.note(&name, at as usize..at as usize + 1, "a flipped bit");
                }
            }
            2 => {
                drop(file.cut(at as u64));
                self.note(&name, at..whole.end, "cut");
            }
            3 => {
                drop(disk.remove(&name));
                self.note(&name, whole, "deleted");
            }
            4 => {
                let until = if dice.once_in(2) { whole.end } else { dice.within(at as u64, length) as usize };
                drop(file.write_at(&vec![0; until - at], at as u64));
                self.note(&name, at..until, "zeros");
            }
            5 => {
                drop(file.write_at(&vec![0; dice.within(1, 5000) as usize], length));
                self.note(&name, whole.end..whole.end, "zeros behind the end");
            }
            6 => self.stranger(disk, &name, whole, dice),
            _ => {
                let others: Vec<_> =
                    files.iter().filter(|(other, _)| *other != name && other != LOGBOOK).collect();
                let Some((other, other_length)) = dice.pick(&others).filter(|_| name != LOGBOOK) else {
                    return;
                };
                let steps =
                    [(name.as_str(), "between"), (other.as_str(), &name), ("between", other.as_str())];
                steps.into_iter().for_each(|(from, to)| drop(disk.rename(from, to)));
                self.note(&name, whole, "swapped");
                self.note(other, 0..*other_length as usize, "swapped");
            }
        }
    }

    /// A file of another epoch, or of nothing we know, in place of one of ours or beside them.
    fn stranger(&mut self, disk: &dyn Disk, name: &str, whole: Range<usize>, dice: &mut Dice) {
        let foreign = foreign_segment(dice).unwrap_or_default();
        let bytes = if dice.once_in(2) { foreign } else { (0..3000).map(|_| dice.throw() as u8).collect() };
        let beside = format!("segment-{:010}", dice.within(1, 90));
        let taken = disk.files().unwrap_or_default().iter().any(|(other, _)| *other == beside);
        let target = if dice.once_in(2) || taken { name.to_owned() } else { beside };
        let Ok(mut file) = disk.create(&target) else { return };
        drop(file.write_at(&bytes, 0));
        self.strangers += 1;
        if target == name {
            self.note(name, whole, "replaced by a stranger");
        } else {
            self.note(&target, 0..0, "a stranger");
        }
    }
}

/// The first segment of some other store.
fn foreign_segment(dice: &mut Dice) -> Option<Vec<u8>> {
    let other = Simulated::default();
    let rules = rules(1 << 20, WhenFull::DropOldest);
    let (store, opening, _) = open(Arc::new(other.clone()), &rules, 1).ok()?;
    let mut plant = Plant::new(&rules);
    plant.take_over(store, &opening);
    for _ in 0..3 {
        drop(plant.append(dice, || 0));
    }
    let mut bytes = vec![0; 1 << 20];
    let read = other.open("segment-0000000001").ok()?.read_at(&mut bytes, 0).ok()?;
    bytes.truncate(read);
    Some(bytes)
}

impl Broken {
    /// The same, with what led to it.
    fn after(self, harm: &Harm) -> Self {
        let words = |words: String| format!("{words}; after {:?}", harm.words);
        match self {
            Self::Lost(n, what) => Self::Lost(n, words(what)),
            Self::Twice(n, what) => Self::Twice(n, words(what)),
            Self::Unopened(what) => Self::Unopened(words(what)),
            Self::Unaccounted(n, what) => Self::Unaccounted(n, words(what)),
            Self::Other(what) => Self::Other(words(what)),
        }
    }
}

/// How long 100 MiB take to open, well and damaged.
fn large_openings(dice: &mut Dice) -> Result<Vec<String>, Broken> {
    let rules = rules(256 << 20, WhenFull::DropOldest);
    let trouble = |error: std::io::Error| Broken::Other(format!("the store of 100 MiB: {error}"));
    let folder = tempfile::tempdir().map_err(trouble)?;
    let opened = |boot| open(Arc::new(Flash::new(folder.path())), &rules, boot);
    let (mut store, opening, _) = opened(1)?;
    store.define(&measured());
    let mut plant = Plant::new(&rules);
    plant.take_over(store, &opening);
    while plant.store.as_ref().is_some_and(|store| store.status().backlog_bytes < 100 << 20) {
        plant.append_large(dice).map_err(|error| Broken::Other(error.to_string()))?;
    }
    let mut times = Vec::new();
    let mut time = |what: &str, boot| -> Result<(), Broken> {
        let (store, _, took) = opened(boot)?;
        drop(store);
        times.push((what.to_owned(), took));
        Ok(())
    };
    drop(plant.store.take());
    time("killed", 1)?;
    time("power cut", 2)?;
    let newest = newest_segment(folder.path()).unwrap_or_default();
    let mut harm = Harm::default();
    let flash = Flash::new(folder.path());
    if let Ok(mut file) = flash.open(&newest) {
        drop(file.write_at(b"damage", 5000));
        harm.note(&newest, 5000..5006, "written over");
    }
    time("damaged", 3)?;
    drop(std::fs::remove_dir_all(folder.path().join("catalogue")));
    time("without its catalogue", 4)?;
    drop(flash.remove(LOGBOOK));
    time("without its logbook", 5)?;
    let told: Vec<String> =
        times.iter().map(|(what, took)| format!("{what} {}", milliseconds(*took))).collect();
    Ok(vec![format!("a store of 100 MiB opens: {}", told.join(", "))])
}

fn newest_segment(folder: &Path) -> Option<String> {
    let names = std::fs::read_dir(folder)
        .ok()?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("segment-")).max()
}

fn milliseconds(took: Duration) -> String {
    format!("{} ms", took.as_millis())
}
