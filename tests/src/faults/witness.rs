//! The witness: writes down what a store was asked and what it confirmed, with the disk's count of
//! changes at both moments, and so knows what must be there after a power cut at any change.
//!
//! At a cut, something asked and not yet confirmed may have happened or not; something confirmed
//! has. What is expected of the books: appended is what was confirmed, and of what was under way as
//! much as the store says; dropped is what the policy dropped, and what is missing of that much.
//!
//! Where readings give way one by one ([`Witness::new`]), a batch may have lost any but those that
//! must stay. Of what was acknowledged nobody can tell how much of it had gone before, so there the
//! sum of what was dropped has a lowest and a highest value; that each dropped reading is in a gap
//! record, and every other one in its place, stays exact ([`books`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use forebay_agent::buffer::store::Store;
use forebay_agent::buffer::{Counts, Opening, Stored};
use forebay_protocols::reading::{Point, PointId, Reading};
use forebay_protocols::sync::batch::{Decoder, Encoded, Epoch, Sequence};
use forebay_protocols::sync::wire::gap::Reason;

use super::Broken;

/// A moment later than all others.
pub const NOW: u64 = u64::MAX;

/// What is known of a store, and what has happened since.
#[derive(Clone, Default)]
pub struct Witness {
    epoch: Option<Epoch>,
    /// The store's own counts when the events began.
    base: Counts,
    /// What was in it then.
    then: Contents,
    events: Vec<Event>,
    /// What is in it now, or, where readings give way one by one, what that was at first.
    pub alive: Contents,
    /// See [`Witness::new`].
    pub stopping: Option<BTreeSet<PointId>>,
    points: BTreeMap<u32, Arc<Point>>,
    gaps: BTreeSet<String>,
    /// The highest sequence that was ever confirmed.
    highest: u64,
}

type Contents = BTreeMap<u64, Encoded>;

#[derive(Clone)]
struct Event {
    /// Changes of the disk before it was asked for.
    asked: u64,
    /// Changes before it was confirmed; `NOW` if it never was.
    confirmed: u64,
    what: What,
}

/// What was done to the store.
#[derive(Clone)]
pub enum What {
    /// Batches were appended.
    Append(Vec<Encoded>),
    /// Batches were acknowledged.
    Acknowledge(Vec<u64>),
    /// Batches were dropped to make room.
    Drop(Vec<u64>),
    /// A point was given a number.
    Define(PointId, Arc<Point>),
    /// A gap was recorded under this device's name.
    Gap(String),
    /// Everything before is durable, but for acknowledgements, which may wait.
    Told,
    /// Everything before is durable.
    Durable,
}

/// What must be, may be and may not be at a cut.
#[derive(Default)]
struct Expected {
    confirmed: Contents,
    readings: u64,
    under_way: Contents,
    acknowledged: BTreeSet<u64>,
    dropped: BTreeSet<u64>,
    /// Of the last two, those that may not come back.
    gone: BTreeSet<u64>,
    highest: u64,
}

impl Witness {
    /// Nothing was done yet. `stopping` are the points whose readings must stay, where those of others
    /// may give way one by one; `None`: whole batches do, the oldest first.
    pub fn new(stopping: Option<BTreeSet<PointId>>) -> Self {
        Self { stopping, ..Self::default() }
    }

    /// Writes down what was done between two counts of the disk's changes.
    pub fn note(&mut self, asked: u64, confirmed: u64, what: What) {
        match &what {
            What::Append(batches) if confirmed < NOW => {
                self.alive.extend(batches.iter().map(|batch| (batch.sequence.0, batch.clone())));
            }
            What::Acknowledge(sequences) | What::Drop(sequences) => {
                sequences.iter().for_each(|sequence| drop(self.alive.remove(sequence)));
            }
            _ => {}
        }
        self.events.push(Event { asked, confirmed, what });
    }

    /// The highest sequence that was ever confirmed.
    pub fn highest_appended(&self) -> u64 {
        self.expected(NOW - 1).highest
    }

    /// Holds the store, as it opened after a cut at `change`, against what was confirmed.
    pub fn judge(&self, change: u64, store: &mut Store, opening: &Opening) -> (Contents, Vec<Broken>) {
        let expected = self.expected(change);
        let mut broken = Vec::new();
        if self.epoch.is_some_and(|epoch| epoch != opening.epoch) && expected.highest > 0 {
            broken.push(Broken::Other(format!("a new epoch began: {:?}", opening.repairs)));
        }
        let found = contents(store, &mut broken);
        let mut known = Contents::new();
        let (mut in_flight, mut shed, mut perhaps) = (0, 0, 0);
        for (sequence, stored) in found {
            let confirmed = expected.confirmed.get(&sequence);
            let Some(original) = confirmed.or_else(|| expected.under_way.get(&sequence)) else {
                broken.push(Broken::Other(format!("batch {sequence} came from nowhere")));
                continue;
            };
            broken.extend(self.altered(original, &stored));
            shed += u64::from(original.count.saturating_sub(stored.count));
            if expected.gone.contains(&sequence) {
                broken.push(Broken::Other(format!("batch {sequence} was durably forgotten and came back")));
            }
            if confirmed.is_none() {
                in_flight += u64::from(original.count);
            }
            known.insert(sequence, Encoded { count: stored.count, bytes: stored.bytes, ..original.clone() });
        }
        let mut dropped = 0;
        for (sequence, batch) in
            expected.confirmed.iter().filter(|(sequence, _)| !known.contains_key(sequence))
        {
            if expected.dropped.contains(sequence) {
                dropped += u64::from(batch.count);
            } else if expected.acknowledged.contains(sequence) {
                perhaps += u64::from(batch.count);
            } else if self.may_go_whole(batch) {
                shed += u64::from(batch.count);
            } else {
                let words = format!("batch {sequence} is gone; {:?}", opening.repairs);
                broken.push(Broken::Lost(u64::from(batch.count), words));
            }
        }
        let under_way: u64 = expected.under_way.values().map(|batch| u64::from(batch.count)).sum();
        let counts = opening.counts;
        let more = counts.appended.wrapping_sub(self.base.appended + expected.readings);
        let missing = more.wrapping_sub(in_flight);
        if more > under_way || missing > under_way {
            let words =
                format!("appended is {counts:?}, confirmed {} more than {:?}", expected.readings, self.base);
            broken.push(Broken::Unaccounted(1, words));
        } else {
            let least = self.base.dropped + dropped + missing + shed;
            let most = least + if self.stopping.is_some() { perhaps } else { 0 };
            if !(least..=most).contains(&counts.dropped) {
                let base = self.base;
                let words =
                    format!("{counts:?}; before {base:?}, {dropped} dropped, {shed} shed, {missing} torn");
                broken.push(Broken::Unaccounted(counts.dropped.abs_diff(least), words));
            }
        }
        broken.extend(books(store));
        self.judge_words(change, store, &mut broken);
        let highest = known.keys().next_back().copied().unwrap_or(0).max(expected.highest);
        if store.next_sequence().0 <= highest {
            broken.push(Broken::Twice(1, format!("sequence {} is given again", store.next_sequence().0)));
        }
        (known, broken)
    }

    /// Is a batch other than it may be?
    pub fn altered(&self, original: &Encoded, stored: &Stored) -> Option<Broken> {
        if stored.bytes == original.bytes && stored.count == original.count {
            return None;
        }
        let may_go = |reading: &Reading| {
            self.stopping.as_ref().is_some_and(|stopping| !stopping.contains(&reading.point))
        };
        let mut left = readings_of(&stored.bytes).into_iter().peekable();
        let missing: Vec<Reading> = readings_of(&original.bytes)
            .into_iter()
            .filter(|reading| left.next_if(|kept| kept == reading).is_none())
            .collect();
        let shrunk = stored.thinned && left.peek().is_none() && missing.iter().all(may_go);
        (!shrunk).then(|| {
            let words = format!("batch {} was altered", stored.sequence.0);
            Broken::Lost(u64::from(original.count), words)
        })
    }

    /// May a batch be given up though it is not the oldest, since nothing in it must stay?
    pub fn may_go_whole(&self, batch: &Encoded) -> bool {
        self.stopping.as_ref().is_some_and(|stopping| {
            readings_of(&batch.bytes).iter().all(|reading| !stopping.contains(&reading.point))
        })
    }

    /// Goes on with a store that was judged: what it holds now is what it must keep.
    pub fn settle(&mut self, change: u64, alive: Contents, opening: &Opening) {
        let highest = alive.keys().next_back().copied().unwrap_or(0);
        self.highest = self.expected(change).highest.max(highest);
        for what in self.durable(change) {
            match what {
                What::Define(number, point) => drop(self.points.insert(number.0, point)),
                What::Gap(device) => drop(self.gaps.insert(device)),
                _ => {}
            }
        }
        self.events.clear();
        self.epoch = Some(opening.epoch);
        self.base = opening.counts;
        self.then = alive.clone();
        self.alive = alive;
    }

    /// Dictionary and gaps that must be there.
    fn judge_words(&self, change: u64, store: &mut Store, broken: &mut Vec<Broken>) {
        let dictionary: BTreeMap<u32, Arc<Point>> =
            store.dictionary(PointId(0)).into_iter().map(|(number, point)| (number.0, point)).collect();
        let gaps: BTreeSet<String> = store.gaps(0, usize::MAX).into_iter().map(|gap| gap.device).collect();
        let (mut points, mut devices) = (self.points.clone(), self.gaps.clone());
        for what in self.durable(change) {
            match what {
                What::Define(number, point) => drop(points.insert(number.0, point)),
                What::Gap(device) => drop(devices.insert(device)),
                _ => {}
            }
        }
        for (number, point) in points.iter().filter(|(number, point)| dictionary.get(number) != Some(point)) {
            let there = dictionary.get(number);
            broken.push(Broken::Other(format!("point {number} was {}, is {there:?}", point.name)));
        }
        for device in devices.difference(&gaps) {
            broken.push(Broken::Unaccounted(1, format!("the gap of {device} is gone")));
        }
    }

    /// Definitions and gaps that something confirmed at `change` made durable.
    fn durable(&self, change: u64) -> Vec<What> {
        let last = self.last_durable(change);
        self.events.iter().take(last).map(|event| event.what.clone()).collect()
    }

    /// How many of the events are durable for certain, acknowledgements among them excepted.
    fn last_durable(&self, change: u64) -> usize {
        self.last_of(change, |what| matches!(what, What::Told | What::Durable))
    }

    fn last_of(&self, change: u64, is: impl Fn(&What) -> bool) -> usize {
        let found = |event: &Event| event.confirmed <= change && is(&event.what);
        self.events.iter().rposition(found).unwrap_or(0)
    }

    fn expected(&self, change: u64) -> Expected {
        let mut expected =
            Expected { confirmed: self.then.clone(), highest: self.highest, ..Expected::default() };
        let durable = self.last_durable(change);
        let forgotten_until = self.last_of(change, |what| matches!(what, What::Durable));
        for (number, event) in self.events.iter().enumerate().filter(|(_, event)| event.asked <= change) {
            let (forgotten, until) = match &event.what {
                What::Append(batches) => {
                    for batch in batches {
                        if event.confirmed <= change && event.confirmed < NOW {
                            expected.readings += u64::from(batch.count);
                            expected.highest = expected.highest.max(batch.sequence.0);
                            expected.under_way.remove(&batch.sequence.0);
                            expected.confirmed.insert(batch.sequence.0, batch.clone());
                        } else if !expected.confirmed.contains_key(&batch.sequence.0) {
                            expected.under_way.insert(batch.sequence.0, batch.clone());
                        }
                    }
                    continue;
                }
                What::Acknowledge(sequences) => {
                    expected.acknowledged.extend(sequences);
                    (sequences, forgotten_until)
                }
                What::Drop(sequences) => {
                    expected.dropped.extend(sequences);
                    (sequences, durable)
                }
                What::Define(..) | What::Gap(_) | What::Told | What::Durable => continue,
            };
            if number < until {
                expected.gone.extend(forgotten);
            }
        }
        expected
    }
}

/// Everything that can be read, checked to be the same in both directions.
pub fn contents(store: &mut Store, broken: &mut Vec<Broken>) -> BTreeMap<u64, Stored> {
    let forwards = store.oldest(Sequence(0), usize::MAX);
    let mut backwards = store.newest(Sequence(u64::MAX), usize::MAX);
    backwards.reverse();
    if forwards != backwards {
        broken.push(Broken::Other("newest first is not oldest first backwards".into()));
    }
    let mut found = BTreeMap::new();
    for stored in forwards {
        let (sequence, count) = (stored.sequence.0, u64::from(stored.count));
        if found.insert(sequence, stored).is_some() {
            broken.push(Broken::Twice(count, format!("batch {sequence} is there twice")));
        }
    }
    found
}

/// In the order in which every batch has them: by point and time. None, if it is not a batch.
fn readings_of(batch: &[u8]) -> Vec<Reading> {
    Decoder::new().decode(batch).map(|decoded| decoded.readings).unwrap_or_default()
}

/// Every reading in exactly one place, every dropped one in a gap record.
pub fn books(store: &mut Store) -> Option<Broken> {
    let backlog: u64 = store.oldest(Sequence(0), usize::MAX).iter().map(|b| u64::from(b.count)).sum();
    let in_gaps: u64 =
        store.gaps(0, usize::MAX).iter().filter(|gap| is_drop(gap.reason())).map(|gap| gap.count).sum();
    let status = store.status();
    let counts = status.counts;
    let explained = counts.acknowledged + counts.dropped + backlog;
    let off = counts.appended.abs_diff(explained)
        + status.backlog_readings.abs_diff(backlog)
        + counts.dropped.abs_diff(in_gaps);
    (off > 0).then(|| Broken::Unaccounted(off, format!("{status:?}; {backlog} read, {in_gaps} in gaps")))
}

fn is_drop(reason: Reason) -> bool {
    matches!(reason, Reason::BufferFull | Reason::Corrupt | Reason::Thinned)
}
