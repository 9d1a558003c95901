//! Outflow: reading batches without removing them, and forgetting those the server has.

use std::io;
use std::ops::RangeInclusive;

use bytes::Bytes;
use forebay_protocols::reading::PointId;
use forebay_protocols::sync::batch::Sequence;
use forebay_protocols::sync::ranges::Ranges;
use forebay_protocols::sync::wire::gap::Reason;

use super::Stored;
use super::catalogue::Place;
use super::frame::{BatchFacts, Kind, epoch_tag, frame_at};
use super::logbook::{Entry, Sequences};
use super::segments::{Tally, file_name};
use super::store::Store;

/// Places are looked up this many at a time.
const FEW: usize = 256;
/// A batch that the disk cannot read so many times is given up as lost.
const PATIENCE: u8 = 3;
/// So many troubled batches are watched at a time.
const WATCHED: usize = 1024;

/// What reading a batch came to.
enum Read {
    Good(Stored),
    /// Not what was written.
    Damaged,
    /// The disk did not answer; perhaps it will.
    NotNow,
}

/// Batches for one request.
struct Load {
    batches: Vec<Stored>,
    room: usize,
}

impl Store {
    /// Unacknowledged batches, oldest first, from `from` on, at most `max_bytes` of them (at
    /// least one).
    pub fn oldest(&mut self, from: Sequence, max_bytes: usize) -> Vec<Stored> {
        let mut load = Load { batches: Vec::new(), room: max_bytes };
        let spans = self.living_spans(from.0..=u64::MAX);
        for (number, first, last) in spans {
            let mut at = first;
            while at <= last {
                let places = self.ahead(number, at..=last, FEW);
                let Some((end, _)) = places.last() else { break };
                at = end.saturating_add(1);
                if !self.take_on(&places, &mut load) {
                    return load.batches;
                }
            }
        }
        load.batches
    }

    /// Unacknowledged batches below or at `upto`, newest first, at most `max_bytes` of them (at
    /// least one).
    pub fn newest(&mut self, upto: Sequence, max_bytes: usize) -> Vec<Stored> {
        let mut load = Load { batches: Vec::new(), room: max_bytes };
        let spans = self.living_spans(0..=upto.0);
        for (number, first, last) in spans.into_iter().rev() {
            let mut at = last;
            while at >= first {
                let places = self.behind(number, first..=at, FEW);
                let Some((end, _)) = places.last() else { break };
                at = end.saturating_sub(1);
                if !self.take_on(&places, &mut load) {
                    return load.batches;
                }
            }
        }
        load.batches
    }

    /// The server has these. Unknown or forgotten sequences are no error. Durable with the next
    /// tick: a batch that is sent again because of it is a duplicate there, nothing worse.
    pub fn acknowledge(&mut self, ranges: &[RangeInclusive<u64>]) {
        for range in ranges {
            for (number, first, last) in self.living_spans(range.clone()) {
                self.forget(number, first, last);
            }
        }
    }

    /// The sequences within `range` that may be alive, segment by segment, ascending.
    fn living_spans(&self, range: RangeInclusive<u64>) -> Vec<(u64, u64, u64)> {
        let living = self.segments.values().filter_map(|segment| Some((segment.number, segment.living()?)));
        living
            .map(|(number, (first, last))| (number, first.max(*range.start()), last.min(*range.end())))
            .filter(|(_, first, last)| first <= last)
            .collect()
    }

    /// Loads batches; false when the load is full.
    fn take_on(&mut self, places: &[(u64, Place)], load: &mut Load) -> bool {
        for (sequence, place) in places {
            if !load.batches.is_empty() && place.length as usize > load.room {
                return false;
            }
            match self.read(*sequence, place) {
                Ok(Read::Good(stored)) => {
                    load.room = load.room.saturating_sub(stored.bytes.len());
                    load.batches.push(stored);
                }
                Ok(Read::NotNow) => {}
                Ok(Read::Damaged) => self.give_up(*sequence, place, "it is not what was written"),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.give_up(*sequence, place, "its segment is gone");
                }
                Err(error) => self.trouble(*sequence, place, &error),
            }
        }
        true
    }

    fn read(&mut self, sequence: u64, place: &Place) -> io::Result<Read> {
        // Given up since its place was looked up.
        let Some(segment) = self.segments.get(&place.segment) else { return Ok(Read::NotNow) };
        if segment.forgotten.contains(sequence) {
            return Ok(Read::NotNow);
        }
        let end = segment.length;
        let file = match &mut self.reader {
            Some((number, file)) if *number == place.segment => file,
            other => &mut other.insert((place.segment, self.disk.open(&file_name(place.segment))?)).1,
        };
        let Some(frame) = frame_at(file.as_ref(), place.at, end)?.filter(|frame| frame.is_batch()) else {
            return Ok(Read::Damaged);
        };
        let Some(body) = frame.body(file.as_ref())? else { return Ok(Read::Damaged) };
        let tag = epoch_tag(self.epoch);
        let facts =
            BatchFacts::decode(frame.kind, &body).filter(|f| f.sequence.0 == sequence && f.epoch_tag == tag);
        let Some(facts) = facts else { return Ok(Read::Damaged) };
        self.unreadable.remove(&sequence);
        Ok(Read::Good(Stored {
            sequence: facts.sequence,
            count: facts.count,
            dictionary_revision: PointId(facts.revision),
            boot_counter: facts.boot_counter,
            thinned: frame.kind == Some(Kind::Thinned),
            bytes: Bytes::from(body).slice(frame.lead()..),
        }))
    }

    /// The disk did not give a batch. It is tried again; not for ever.
    fn trouble(&mut self, sequence: u64, place: &Place, error: &io::Error) {
        self.reader = None;
        if self.unreadable.len() >= WATCHED && !self.unreadable.contains_key(&sequence) {
            return;
        }
        let times = self.unreadable.entry(sequence).or_default();
        *times += 1;
        if *times >= PATIENCE {
            self.unreadable.remove(&sequence);
            self.give_up(sequence, place, &error.to_string());
        }
    }

    /// A batch cannot be read: it becomes a gap, and its bytes are set aside for a person.
    fn give_up(&mut self, sequence: u64, place: &Place, why: &str) {
        tracing::error!(sequence, readings = place.count, why, "A batch in the buffer is damaged and lost.");
        let aside = self.set_aside(place);
        drop(aside); // Evidence is a courtesy: the gap is recorded whether there is any or not.
        let Some(segment) = self.segments.get(&place.segment) else { return };
        let wall = segment.wall();
        let ranges = Ranges::from(sequence..=sequence);
        let lost = Tally { batches: 1, readings: u64::from(place.count), bytes: u64::from(place.length) };
        self.lose(place.segment, &ranges, lost, Reason::Corrupt, wall.into());
        if self.growing == Some(place.segment) {
            self.with_catalogue(|catalogue| catalogue.remove(sequence));
        }
        self.retire_if_done(place.segment);
    }

    /// Forgets what is alive in `first..=last` of a segment.
    fn forget(&mut self, number: u64, first: u64, last: u64) {
        let mut tally = Tally::default();
        // Sequences that were never given to a batch are not acknowledged either.
        let mut known = Ranges::default();
        let mut at = first;
        // Counted first and removed after, so that a catalogue that fails in between is rebuilt
        // from books that are right.
        loop {
            let places = self.ahead(number, at..=last, FEW);
            for (sequence, place) in &places {
                tally +=
                    Tally { batches: 1, readings: u64::from(place.count), bytes: u64::from(place.length) };
                known.insert(*sequence..=*sequence);
                at = sequence.saturating_add(1);
            }
            if places.is_empty() {
                break;
            }
        }
        if tally.batches == 0 {
            return;
        }
        if let Some(segment) = self.segments.get_mut(&number) {
            let ranges = Ranges::from(first..=last);
            let entry = segment.forget(&ranges, tally);
            self.acknowledged.insert(&known);
            self.logbook.push_later([entry, Entry::Acknowledged(Sequences::of(&known))]);
        }
        if self.growing == Some(number) {
            self.forget_places(first..=last);
        }
        self.retire_if_done(number);
    }
}
