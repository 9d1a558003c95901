//! What is promised of the times that a server is sent, and whether it is so.
//!
//! A boot whose server was heard, or whose clock was kept by NTP to its end, is right within
//! [`TOLERANCE`], and a batch of it is marked as corrected if and only if it was. Any other boot lies
//! between its neighbours and is marked as bracketed. What is marked alike keeps its distances to
//! the microsecond, and no boot reaches into the next.
//!
//! A second is what the agent lets the system's clock and the server's be apart before it takes one
//! for wrong. The rest of the tolerance is the slowest answer (twice: when it was believed first, and
//! when it was compared), and two tenths that a noted offset may lag behind the one believed. A
//! crystal adds its drift since somebody told the time; more than that the agent cannot know.

use std::collections::BTreeMap;

use forebay_agent::uplink::parcel::{Backlog, Parcel, pack};
use forebay_agent::uplink::state::{Plan, Wants};
use forebay_protocols::reading::Value;
use forebay_protocols::sync::batch::Decoder;
use forebay_protocols::sync::ranges::Ranges;
use forebay_protocols::sync::wire::sent_batch::Clock as Word;

use super::super::Broken;
use super::gateway::{CLAIM, Gateway, SECOND, Taken, Truth};

/// How far off a time may be that somebody told.
const TOLERANCE: i64 = SECOND + 3 * SECOND / 10;

/// A batch as a server understands it.
struct Received {
    sequence: u64,
    boot: usize,
    word: Word,
    correction_us: i64,
    /// What turns boot time into wall time there.
    offset_us: i64,
    /// Boot time of the first and the last reading.
    span: (i64, i64),
}

/// What can be expected of a boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// Right: the server was heard in it.
    Told,
    /// Right: NTP kept its clock.
    Kept,
    /// Between its neighbours: nobody told it the time.
    Bracketed,
    /// Anything: its clock only said that it was right, and nobody who knows was heard.
    Misled,
}

impl Gateway {
    /// Packs everything as the uplink would by now, and judges it. What is acknowledged is the
    /// server's from here on.
    pub fn send(&mut self, acknowledge: bool) {
        let Some(life) = &self.life else { return };
        if life.clock.confirmed_us().is_none() {
            // The uplink greets first, and has heard the time before it sends a batch.
            return;
        }
        let plan = Plan::Send(everything());
        let parcel = match self.waiting.block_on(pack(plan, &life.shelf, life.epoch, &life.clock)) {
            Ok(parcel) => parcel,
            Err(error) => return self.tally.add(Broken::Other(format!("cannot pack: {error}"))),
        };
        let received = self.receive(parcel);
        let expected: Vec<Expected> = (0..self.boots.len()).map(|place| self.expected(place)).collect();
        let mut broken = self.misplaced(&received, &expected);
        broken.extend(self.crossed(&received, &expected));
        broken.into_iter().for_each(|broken| self.tally.add(broken));
        if acknowledge && self.tally.failures() == 0 {
            self.deliver(&received);
        }
    }

    /// Applies the corrections as a server does. Every reading is there, once, as it was taken.
    fn receive(&mut self, parcel: Parcel) -> Vec<Received> {
        let mut decoder = Decoder::new();
        let mut received: BTreeMap<u64, Received> = BTreeMap::new();
        let mut broken = Vec::new();
        for sent in parcel.request.batches {
            let decoded = match decoder.decode(&sent.batch) {
                Ok(decoded) => decoded,
                Err(error) => {
                    broken.push(Broken::Other(format!("sent and not readable: {error}")));
                    continue;
                }
            };
            let sequence = decoded.head.sequence.0;
            let Some(Taken { boot, readings, .. }) = self.taken.get(&sequence) else {
                broken.push(Broken::Other(format!("batch {sequence} came from nowhere")));
                continue;
            };
            let arrived =
                decoded.readings.iter().map(|reading| (reading.stamp.micros, reading.value.clone()));
            let taken = readings.iter().map(|(at, value)| (*at, Some(Value::Integer(*value))));
            if !arrived.eq(taken) {
                broken.push(Broken::Lost(readings.len() as u64, format!("batch {sequence} was altered")));
            }
            let span =
                (readings.first().map_or(0, |first| first.0), readings.last().map_or(0, |last| last.0));
            let offset_us = decoded.head.boot.wall_offset_us.saturating_add(sent.time_correction_us);
            let (word, correction_us) = (sent.clock(), sent.time_correction_us);
            let batch = Received { sequence, boot: *boot, word, correction_us, offset_us, span };
            if received.insert(sequence, batch).is_some() {
                broken.push(Broken::Twice(readings.len() as u64, format!("batch {sequence} was sent twice")));
            }
        }
        let missing = self
            .taken
            .iter()
            .filter(|(sequence, taken)| !taken.delivered && !received.contains_key(sequence));
        let lost: u64 = missing.map(|(_, taken)| taken.readings.len() as u64).sum();
        if lost > 0 {
            broken.push(Broken::Lost(lost, "neither in the buffer nor at the server".into()));
        }
        broken.into_iter().for_each(|broken| self.tally.add(broken));
        received.into_values().collect()
    }

    fn expected(&self, place: usize) -> Expected {
        let boot = &self.boots[place];
        let last = self.taken.values().rev().find(|taken| taken.boot == place);
        if boot.noted || place + 1 == self.boots.len() {
            Expected::Told
        } else if boot.deceived || boot.misled_us > 0 {
            Expected::Misled
        } else if last.is_some_and(|last| last.stated.synchronised) {
            Expected::Kept
        } else {
            Expected::Bracketed
        }
    }

    /// Batches that are off their true time, or not marked as what they are.
    fn misplaced(&self, received: &[Received], expected: &[Expected]) -> Vec<Broken> {
        let mut broken = Vec::new();
        // One that heard its server passes its own clock's lie on, if it was a small one.
        let misled = self.boots.iter().any(|boot| boot.deceived || boot.misled_us > 0);
        let mut moved: BTreeMap<usize, i64> = BTreeMap::new();
        for batch in received {
            let (boot, taken) = (&self.boots[batch.boot], &self.taken[&batch.sequence]);
            let expected = expected[batch.boot];
            let is_told = expected == Expected::Told || (expected == Expected::Kept && !misled);
            let right_word = match expected {
                _ if is_told && batch.correction_us == 0 => batch.word == Word::Stated,
                _ if is_told => batch.word == Word::Corrected,
                Expected::Bracketed => batch.word == Word::Bracketed,
                _ => true,
            };
            let whose = format!("batch {} of boot {} ({expected:?})", batch.sequence, taken.stated.counter);
            if !right_word {
                broken.push(Broken::Other(format!(
                    "{whose} was moved by {} us and marked {:?}",
                    batch.correction_us, batch.word
                )));
            }
            let off = off(batch, boot);
            // What was stated before the server was heard is left where it is within an hour of it, as
            // the clock was then believed against it.
            let misled = if boot.deceived && boot.misled_us > 0 { CLAIM } else { 0 } + boot.misled_us;
            let allowed = TOLERANCE + misled + untold(batch, boot, taken);
            if is_told && off.abs() > allowed {
                let (word, stated) = (batch.word, taken.stated.synchronised);
                let words = format!(
                    "{whose}, {word:?} and synchronised {stated}, is {off} us off, {allowed} is allowed"
                );
                broken.push(Broken::Other(words));
            }
            if expected != Expected::Misled
                && batch.word != Word::Stated
                && *moved.entry(batch.boot).or_insert(batch.offset_us) != batch.offset_us
            {
                broken.push(Broken::Other(format!("{whose} has not the offset of the one before")));
            }
        }
        broken
    }

    /// Readings that lie before earlier ones: of a boot, or of the boots before it.
    fn crossed(&self, received: &[Received], expected: &[Expected]) -> Vec<Broken> {
        // A clock may have lied one way first, and then the other: what is moved goes by the one, what is
        // left where it was by the other.
        let slack = 2 * TOLERANCE + self.drifted_us() + 2 * self.misled_us();
        let mut ends: BTreeMap<usize, i64> = BTreeMap::new();
        let again = |sequence: u64| self.taken.get(&sequence).is_some_and(|taken| taken.delivered);
        let mut broken = Vec::new();
        let delivered = self.delivered.iter().map(|(boot, (first, last))| (*boot, 0, *first, *last));
        let arrived = received.iter().map(|batch| {
            let (first, last) = batch.span;
            (batch.boot, batch.sequence, first + batch.offset_us, last + batch.offset_us)
        });
        let mut all: Vec<_> = delivered.chain(arrived).collect();
        // What was delivered of a boot may lie among what is sent again of it.
        all.sort_by_key(|(boot, sequence, ..)| (*boot, *sequence));
        for (boot, sequence, first, last) in all {
            if expected[boot] == Expected::Misled {
                continue;
            }
            let truth = &self.boots[boot];
            let within =
                if truth.deceived { slack } else { TOLERANCE + truth.drifted_us() + 2 * truth.misled_us };
            for (until, allowed) in
                [(ends.range(..boot).map(|(_, end)| *end).max(), slack), (ends.get(&boot).copied(), within)]
            {
                if until.is_some_and(|until| first < until - allowed) && !again(sequence) {
                    let (number, far) = (boot + 1, until.unwrap_or(first) - first);
                    broken.push(Broken::Other(format!(
                        "batch {sequence} of boot {number} lies {far} us before the end of what it follows; {allowed} is allowed; {expected:?}"
                    )));
                }
            }
            let end = ends.entry(boot).or_insert(last);
            *end = last.max(*end);
        }
        broken
    }

    fn deliver(&mut self, received: &[Received]) {
        for batch in received {
            let (first, last) = (batch.span.0 + batch.offset_us, batch.span.1 + batch.offset_us);
            let span = self.delivered.entry(batch.boot).or_insert((first, last));
            *span = (span.0.min(first), span.1.max(last));
            if let Some(taken) = self.taken.get_mut(&batch.sequence) {
                taken.delivered = true;
            }
        }
        let Some(life) = &self.life else { return };
        let ranges: Vec<_> = received.iter().map(|batch| batch.sequence..=batch.sequence).collect();
        if let Err(error) = self.waiting.block_on(life.shelf.acknowledge(ranges)) {
            self.tally.add(Broken::Other(format!("cannot acknowledge: {error}")));
        }
    }
}

/// The worse end of a batch: how far it is from the truth.
fn off(batch: &Received, boot: &Truth) -> i64 {
    let off = |at: i64| at + batch.offset_us - boot.at(at);
    let (first, last) = (off(batch.span.0), off(batch.span.1));
    if first.abs() > last.abs() { first } else { last }
}

/// How far the crystal may have gone wrong between a batch and the moment its time was told. A batch
/// that states a time states the one told last; others are moved by what was told at any time.
fn untold(batch: &Received, boot: &Truth, taken: &Taken) -> i64 {
    let distances = boot.told_at.iter().flat_map(|at| [batch.span.0 - at, batch.span.1 - at]);
    let distance = if taken.stated.synchronised && batch.word == Word::Stated {
        distances.filter(|distance| *distance >= 0).min()
    } else {
        distances.map(i64::abs).max()
    };
    distance.unwrap_or(0) * boot.drift_ppm.abs() / 1_000_000
}

/// A request without a bound.
fn everything() -> Wants {
    Wants {
        dictionary_after: 0,
        gaps_after: 0,
        others: true,
        fresh_from: Some(1),
        backlog: None,
        mixed: false,
        in_order: true,
        live_from: 1,
        passed_over: Ranges::default(),
        bytes: usize::MAX,
    }
}
