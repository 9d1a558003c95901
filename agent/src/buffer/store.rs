//! The store: segments, logbook and catalogue as one. Blocking; owned by the buffer's thread.
//! Durable first, then memory: nothing here is said to be so before a power cut would leave it so.
//!
//! At all times, also across restarts, in readings:
//! `appended = acknowledged + dropped + backlog`.
//!
//! `recovery.rs` opens it, `outflow.rs` reads and forgets, `room.rs` keeps it in its budget.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;

use forebay_config::agent::WhenFull;
use forebay_config::units::ByteSize;
use forebay_protocols::boot_time::{wall_micros, wall_offset_micros};
use forebay_protocols::reading::{Point, PointId};
use forebay_protocols::sync::batch::{Encoded, Epoch, Sequence};
use forebay_protocols::sync::wire;
use forebay_protocols::sync::wire::gap::Reason;

use super::catalogue::{Catalogue, Fault, Place};
use super::dictionary::Dictionary;
use super::disk::{Disk, DiskFile};
use super::frame::{BatchFacts, FACTS, FileFacts, HEADER, Kind, epoch_tag, header};
use super::gaps::Gaps;
use super::logbook::{Books, Boot, Entry, Logbook, entry_of};
use super::ranges::Ranges;
use super::segments::{Segment, Tally, file_name, survey};
use super::{BufferError, Counts, Status};

/// Sequences are reserved this many at a time, so that none is given twice even if the disk
/// loses the newest batches.
pub(super) const RESERVATION: u64 = 256;

/// What the store must keep to.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Bytes on disk, overhead included.
    pub limit: u64,
    /// Bytes to leave free on the file system.
    pub reserve: u64,
    /// What gives way.
    pub when_full: WhenFull,
}

/// An open store. Dropping it without [`Store::close`] is a crash, which it survives.
pub struct Store {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) rules: Rules,
    pub(super) epoch: Epoch,
    pub(super) boot: Boot,
    pub(super) logbook: Logbook,
    pub(super) catalogue: Catalogue,
    pub(super) dictionary: Dictionary,
    pub(super) gaps: Gaps,
    /// Every segment that holds something alive, and the growing one.
    pub(super) segments: BTreeMap<u64, Segment>,
    /// The one that grows.
    pub(super) growing: Option<u64>,
    /// Its file; `None` after a failure.
    pub(super) writer: Option<Box<dyn DiskFile>>,
    /// The segment read last.
    pub(super) reader: Option<(u64, Box<dyn DiskFile>)>,
    /// Segments to delete once the logbook says so, with their lengths.
    pub(super) retired: Vec<(u64, u64)>,
    pub(super) next_segment: u64,
    pub(super) next_sequence: u64,
    pub(super) reserved: u64,
    /// Readings since the epoch began.
    pub(super) appended: u64,
    /// The same, dropped or lost.
    pub(super) dropped: u64,
    /// How often reading a batch failed; after a few times it is given up.
    pub(super) unreadable: HashMap<u64, u8>,
    /// What the disk said last, while it refuses writes.
    pub(super) fault: Option<String>,
    pub(super) around: Around,
}

/// Bytes of the budget that are not segments or logbook, and room made beyond it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Around {
    /// As of the last look.
    pub catalogue: u64,
    /// As of the last look.
    pub damaged: u64,
    pub ballast: u64,
    /// Bytes freed while the file system was short, which may be used again.
    pub allowance: u64,
}

impl Store {
    /// Returns when the batches, and everything defined or recorded before, survive a power cut.
    pub fn append(&mut self, batches: &[Encoded]) -> Result<(), BufferError> {
        let mut expected = self.next_sequence;
        for batch in batches {
            if batch.sequence.0 < expected {
                return Err(BufferError::Disk(format!(
                    "batch {} was offered where {expected} comes next",
                    batch.sequence.0
                )));
            }
            expected = batch.sequence.0 + 1;
        }
        if batches.is_empty() {
            return self.write_logbook().map_err(|error| self.refused(&error));
        }
        self.knock();
        let need = batches.iter().map(|batch| framed(batch.bytes.len())).sum();
        self.make_room(need)?;
        let mut result = self.write_batches(batches, need);
        while result.as_ref().is_err_and(is_full)
            && self.rules.when_full == WhenFull::DropOldest
            && self.drop_oldest(false).unwrap_or(false)
        {
            result = self.write_batches(batches, need);
        }
        result.map_err(|error| self.refused(&error))?;
        self.fault = None;
        Ok(())
    }

    /// Numbers for points; durable with the next append.
    pub fn define(&mut self, points: &[Arc<Point>]) -> Vec<PointId> {
        let mut numbers = Vec::with_capacity(points.len());
        for point in points {
            let (number, new) = self.dictionary.define(point);
            if new {
                self.logbook.push([Entry::Point(entry_of(number, point))]);
                self.with_catalogue(|catalogue| catalogue.copy_point(number, point));
            }
            numbers.push(PointId(number));
        }
        numbers
    }

    /// Dictionary entries with numbers > `after`.
    pub fn dictionary(&self, after: PointId) -> Vec<(PointId, Arc<Point>)> {
        self.dictionary.after(after.0).map(|(number, point)| (number, point.clone())).collect()
    }

    /// Numbers a gap record; durable with the next append.
    pub fn record_gap(&mut self, gap: wire::Gap) {
        let gap = self.gaps.record(gap);
        self.logbook.push([Entry::Gap(gap)]);
        let lowest = self.gaps.lowest();
        self.with_catalogue(|catalogue| {
            catalogue.copy_gap(&gap)?;
            catalogue.forget_gaps_below(lowest)
        });
    }

    /// Gap records numbered > `after`, at most `most`.
    pub fn gaps(&mut self, after: u64, most: usize) -> Vec<wire::Gap> {
        self.gaps.after(after, most)
    }

    /// The sequence the next batch must carry.
    pub fn next_sequence(&self) -> Sequence {
        Sequence(self.next_sequence)
    }

    /// The books as they stand.
    pub fn status(&self) -> Status {
        let mut backlog = Tally::default();
        self.segments.values().for_each(|segment| backlog += segment.live());
        let mut living = self.segments.values().filter_map(Segment::living);
        let oldest = living.next();
        let newest = living.next_back().or(oldest);
        Status {
            counts: Counts {
                appended: self.appended,
                dropped: self.dropped,
                acknowledged: self.appended.saturating_sub(self.dropped).saturating_sub(backlog.readings),
            },
            backlog_batches: backlog.batches,
            backlog_readings: backlog.readings,
            backlog_bytes: backlog.bytes,
            disk_bytes: self.disk_bytes(),
            limit_bytes: self.rules.limit,
            oldest: oldest.map(|(first, _)| Sequence(first)),
            newest: newest.map(|(_, last)| Sequence(last)),
            writable: self.fault.is_none(),
        }
    }

    /// What the disk said last, while it refuses writes.
    pub fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// To be called every second or so: acknowledgements, definitions and gaps become durable,
    /// empty segments go.
    pub fn tick(&mut self) {
        self.knock();
        let news = self.logbook.has_news();
        match self.write_logbook() {
            Ok(()) if news => self.fault = None,
            Ok(()) => {}
            Err(error) => drop(self.refused(&error)),
        }
        self.look_around();
    }

    /// To be called when there is nothing else to do, and now and then when there is.
    pub fn rest(&mut self) {
        self.with_catalogue(Catalogue::flush);
        self.keep_catalogue_small();
    }

    /// Ends the work so that the next opening has nothing to mend.
    pub fn close(mut self) {
        self.seal_growing();
        self.tick();
        let mut token = [0; 8];
        if self.fault.is_some() || getrandom::fill(&mut token).is_err() {
            return;
        }
        let token = u64::from_le_bytes(token).max(1);
        self.with_catalogue(|catalogue| {
            catalogue.set_closed(Some(token))?;
            catalogue.flush()
        });
        self.logbook.push([Entry::Books(Books { closed: token, ..self.books() })]);
        // If this fails the next opening compares catalogue and segments: slower, nothing else.
        drop(self.logbook.write(self.disk.as_ref(), self.epoch, None));
    }

    /// After a refusal even the folder may still have to be made.
    fn knock(&self) {
        if self.fault.is_some() {
            // If this fails too, the write that follows says why.
            drop(self.disk.prepare());
        }
    }

    /// The totals as the logbook keeps them.
    pub(super) fn books(&self) -> Books {
        Books {
            appended: self.appended,
            dropped: self.dropped,
            reserved: self.reserved,
            next_sequence: self.next_sequence,
            next_segment: self.next_segment,
            next_gap: self.gaps.next(),
            closed: 0,
        }
    }

    /// Makes everything said so far durable, then deletes the segments that are done with.
    pub(super) fn write_logbook(&mut self) -> io::Result<()> {
        if self.logbook.has_news() {
            let snapshot = self.logbook.wants_snapshot().then(|| self.snapshot());
            let again = snapshot.clone();
            let mut result = self.logbook.write(self.disk.as_ref(), self.epoch, snapshot);
            if result.as_ref().is_err_and(is_full) && self.spend_ballast() {
                result = self.logbook.write(self.disk.as_ref(), self.epoch, again);
            }
            result?;
        }
        self.delete_retired();
        Ok(())
    }

    /// Everything that is still true, for a new logbook.
    fn snapshot(&self) -> Vec<Entry> {
        let mut entries = vec![Entry::Boot(self.boot.clone()), Entry::Books(self.books())];
        entries
            .extend(self.dictionary.after(0).map(|(number, point)| Entry::Point(entry_of(number.0, point))));
        entries.extend(self.gaps.iter().copied().map(Entry::Gap));
        for segment in self.segments.values() {
            let growing = self.growing == Some(segment.number);
            entries.push(if growing { segment.made() } else { segment.seal() });
            entries.push(segment.forgotten_so_far());
        }
        entries
    }

    fn write_batches(&mut self, batches: &[Encoded], need: u64) -> io::Result<()> {
        let last = batches.last().map_or(0, |batch| batch.sequence.0);
        if last > self.reserved {
            self.reserved = last + RESERVATION;
            self.logbook.push([Entry::Books(self.books())]);
        }
        let number = self.segment_for(need, batches.first().map_or(0, |batch| batch.sequence.0))?;
        // Definitions and gaps first: no batch may outlive what explains it.
        self.write_logbook()?;
        let start = self.segments.get(&number).map_or(0, |segment| segment.length);
        let result = self.write_frames(number, start, batches);
        match result {
            Ok(written) => {
                self.count_in(number, start, written);
                Ok(())
            }
            Err(error) => {
                // What was written of them must not be taken for a batch later; the next attempt
                // writes over it in any case.
                if let Some(mut file) = self.writer.take() {
                    drop(file.cut(start));
                }
                Err(error)
            }
        }
    }

    fn write_frames(
        &mut self,
        number: u64,
        start: u64,
        batches: &[Encoded],
    ) -> io::Result<Vec<(BatchFacts, u32)>> {
        let file = match &mut self.writer {
            Some(file) => file,
            none => none.insert(self.disk.open(&file_name(number))?),
        };
        let offset = wall_offset_micros();
        let (mut at, mut appended) = (start, self.appended);
        let mut written = Vec::with_capacity(batches.len());
        for batch in batches {
            let wall_us = match batch.span_us {
                // Every reading carries its device's own time.
                (0, 0) => (wall_micros(), wall_micros()),
                (first, last) => (first.saturating_add(offset), last.saturating_add(offset)),
            };
            let facts = BatchFacts {
                sequence: batch.sequence,
                boot_counter: self.boot.counter,
                count: batch.count,
                revision: batch.dictionary_revision.0,
                wall_us,
                appended_before: appended,
                epoch_tag: epoch_tag(self.epoch),
            };
            let encoded = facts.encode();
            let head = header(Kind::Batch, &[&encoded, &batch.bytes]);
            file.write_at(&[head.as_slice(), &encoded].concat(), at)?;
            file.write_at(&batch.bytes, at + (HEADER + FACTS) as u64)?;
            at += framed(batch.bytes.len());
            appended += u64::from(batch.count);
            written.push((facts, batch.bytes.len() as u32));
        }
        file.sync()?;
        Ok(written)
    }

    fn count_in(&mut self, number: u64, start: u64, written: Vec<(BatchFacts, u32)>) {
        let mut at = start;
        let mut places = Vec::with_capacity(written.len());
        if let Some(segment) = self.segments.get_mut(&number) {
            for (facts, length) in &written {
                segment.count_in(facts, *length);
                places.push((
                    facts.sequence.0,
                    Place { segment: number, at, length: *length, count: facts.count },
                ));
                at += framed(*length as usize);
                self.appended += u64::from(facts.count);
                self.next_sequence = facts.sequence.0 + 1;
            }
            segment.length = at;
        }
        self.with_catalogue(|catalogue| {
            places.iter().try_for_each(|(sequence, place)| catalogue.insert(*sequence, place))
        });
    }

    /// The growing segment, or a new one if that has grown enough.
    fn segment_for(&mut self, need: u64, first: u64) -> io::Result<u64> {
        if let Some(segment) = self.growing.and_then(|number| self.segments.get(&number)) {
            if segment.total.batches == 0 || segment.length + need <= self.rules.segment_bytes() {
                return Ok(segment.number);
            }
            self.seal_growing();
        }
        let number = self.next_segment;
        let facts =
            FileFacts { segment: true, epoch: self.epoch, number, first, appended_before: self.appended };
        let head = facts.encode();
        let mut file = self.disk.create(&file_name(number))?;
        file.write_at(&head, 0)?;
        file.sync()?;
        self.disk.sync_folder()?;
        let mut segment = Segment::new(number, first, self.appended);
        segment.length = head.len() as u64;
        self.next_segment += 1;
        self.logbook.push([segment.made(), Entry::Books(self.books())]);
        self.segments.insert(number, segment);
        self.growing = Some(number);
        self.writer = Some(file);
        self.look_around();
        Ok(number)
    }

    /// No more is appended to the growing segment.
    pub(super) fn seal_growing(&mut self) {
        self.writer = None;
        let Some(segment) = self.growing.take().and_then(|number| self.segments.get(&number)) else { return };
        let number = segment.number;
        self.logbook.push([segment.seal()]);
        self.retire_if_done(number);
    }

    /// A segment that holds nothing alive is deleted after the next write of the logbook.
    pub(super) fn retire_if_done(&mut self, number: u64) {
        if self.growing != Some(number)
            && let Some(segment) = self.segments.get(&number).filter(|segment| segment.live().batches == 0)
        {
            self.retired.push((number, segment.length));
            self.segments.remove(&number);
            self.logbook.push([Entry::Retired(number), Entry::Books(self.books())]);
        }
    }

    /// Batches are gone that were never acknowledged: counted, with a gap record.
    pub(super) fn lose(
        &mut self,
        number: u64,
        ranges: &Ranges,
        lost: Tally,
        reason: Reason,
        wall: (i64, i64),
    ) {
        let Some(segment) = self.segments.get_mut(&number) else { return };
        let forgotten = segment.forget(ranges, lost);
        self.dropped += lost.readings;
        let gap = self.gaps.record(wire::Gap {
            from_us: wall.0,
            to_us: wall.1,
            count: lost.readings,
            reason: reason as i32,
            ..wire::Gap::default()
        });
        self.logbook.push([forgotten, Entry::Books(self.books()), Entry::Gap(gap)]);
        self.with_catalogue(|catalogue| catalogue.copy_gap(&gap));
    }

    /// Works with the catalogue. If it faults it is replaced by one in memory and asked again:
    /// whatever `work` changes must be in the segments and the books already.
    pub(super) fn with_catalogue<T: Default>(
        &mut self,
        mut work: impl FnMut(&mut Catalogue) -> Result<T, Fault>,
    ) -> T {
        match work(&mut self.catalogue) {
            Ok(done) => done,
            Err(fault) => {
                tracing::warn!(%fault, "The buffer's catalogue is rebuilt in memory; nothing is lost.");
                self.catalogue = Catalogue::in_memory();
                let numbers: Vec<u64> = self.segments.keys().copied().collect();
                for number in numbers {
                    self.index(number);
                }
                work(&mut self.catalogue).unwrap_or_default()
            }
        }
    }

    /// Enters what is alive in a segment into the catalogue, reading the heads of its batches.
    /// What should be there and is not is lost; says so in words.
    pub(super) fn index(&mut self, number: u64) -> Option<String> {
        let segment = self.segments.get(&number)?.clone();
        let mut there = Tally::default();
        let mut places = Vec::new();
        let surveyed = self.disk.open(&file_name(number)).and_then(|file| {
            survey(
                file.as_ref(),
                &segment,
                segment.length,
                epoch_tag(self.epoch),
                false,
                &mut |facts, place| {
                    if !segment.forgotten.contains(facts.sequence.0) {
                        there += Tally {
                            batches: 1,
                            readings: u64::from(facts.count),
                            bytes: u64::from(place.length),
                        };
                        places.push((facts.sequence.0, place));
                    }
                },
            )
        });
        for (sequence, place) in places {
            if self.catalogue.insert(sequence, &place).is_err() {
                // In recovery sled may refuse right away: then all segments go to memory.
                self.with_catalogue(|catalogue| catalogue.insert(sequence, &place));
            }
        }
        let found = match surveyed {
            Ok(survey) => survey.found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ranges::default(),
            // Perhaps for now only: what is in it stays in the backlog.
            Err(error) => return Some(format!("{} cannot be read now: {error}", file_name(number))),
        };
        let live = segment.live();
        if there.batches >= live.batches {
            return None;
        }
        let lost = Tally {
            batches: live.batches - there.batches,
            readings: live.readings.saturating_sub(there.readings),
            bytes: live.bytes.saturating_sub(there.bytes),
        };
        self.lose(number, &found.complement(segment.span()?), lost, Reason::Corrupt, segment.wall());
        self.retire_if_done(number);
        Some(format!(
            "{}: {} batches with {} readings are lost",
            file_name(number),
            lost.batches,
            lost.readings
        ))
    }

    pub(super) fn refused(&mut self, error: &io::Error) -> BufferError {
        let words = error.to_string();
        self.fault = Some(words.clone());
        BufferError::Disk(words)
    }
}

impl Rules {
    /// A small budget needs small segments, since they are dropped and deleted whole.
    pub fn segment_bytes(&self) -> u64 {
        (self.limit / 32).clamp(16 << 10, 4 << 20)
    }

    /// sled takes a few MiB whatever it holds; a small budget has little to find anyway.
    pub fn catalogue_on_disk(&self) -> bool {
        self.limit >= ByteSize::mib(16).0
    }
}

/// Bytes of a batch with its frame.
pub(super) fn framed(length: usize) -> u64 {
    (HEADER + FACTS + length) as u64
}

/// Does more room help?
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
