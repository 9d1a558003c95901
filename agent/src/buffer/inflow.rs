//! Inflow: batches to frames at the end of the growing segment. What explains a batch (its points,
//! the reservation of its sequence) is durable before it, and it is counted only once it is durable
//! itself.

use std::io;

use forebay_protocols::sync::batch::Encoded;

use super::BufferError;
use super::catalogue::Place;
use super::frame::{BatchFacts, FACTS, FileFacts, HEADER, epoch_tag};
use super::logbook::Entry;
use super::segments::{Segment, file_name};
use super::store::{Store, is_full};

/// Sequences are reserved this many at a time, so that none is given twice even if the disk
/// loses the newest batches.
const RESERVATION: u64 = 256;

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
        while result.as_ref().is_err_and(is_full) && self.give_way() {
            result = self.write_batches(batches, need);
        }
        result.map_err(|error| self.refused(&error))?;
        self.fault = None;
        Ok(())
    }

    fn write_batches(&mut self, batches: &[Encoded], need: u64) -> io::Result<()> {
        let last = batches.last().map_or(0, |batch| batch.sequence.0);
        if last > self.reserved {
            self.reserved = last + RESERVATION;
            self.logbook.push([Entry::Books(self.books())]);
        }
        let number = self.segment_for(need, batches.first().map_or(0, |batch| batch.sequence.0))?;
        // Definitions and gaps first: no batch may outlive what explains it. Acknowledgements may.
        if self.folder_unsynced || self.logbook.has_urgent_news() {
            self.write_logbook()?;
        }
        let start = self.segments.get(&number).map_or(0, |segment| segment.length);
        let result = self.write_frames(number, start, batches);
        match result {
            Ok(written) => {
                if let (Some(batch), Some((facts, _))) = (batches.last(), written.last()) {
                    self.sign_of_life(facts, &batch.bytes);
                }
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
        let offset = self.machine.shown().offset_us;
        let (mut at, mut appended) = (start, self.appended);
        let mut written = Vec::with_capacity(batches.len());
        for batch in batches {
            let wall_us = match batch.span_us {
                // Every reading carries its device's own time.
                (0, 0) => (self.machine.wall_us(), self.machine.wall_us()),
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
                thinned_from: None,
            };
            let lead = facts.lead(&batch.bytes);
            file.write_at(&lead, at)?;
            file.write_at(&batch.bytes, at + lead.len() as u64)?;
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
                let place = Place { segment: number, at, length: *length, count: facts.count };
                places.push((facts.sequence.0, place));
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
        let facts = FileFacts {
            segment: true,
            epoch: self.epoch,
            number,
            first,
            appended_before: self.appended,
            level: 0,
        };
        let head = facts.encode();
        let mut file = self.disk.create(&file_name(number))?;
        file.write_at(&head, 0)?;
        file.sync()?;
        self.disk.sync_folder()?;
        let mut segment = Segment::new(number, first, self.appended);
        segment.length = head.len() as u64;
        segment.boot = self.boot.counter;
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
        let life = self.life.filter(|life| life.boot == self.boot.counter).map(Entry::Life);
        self.logbook.push([segment.seal()].into_iter().chain(life));
        self.forget_places(0..=u64::MAX);
        self.retire_if_done(number);
    }
}

/// Bytes of a batch with its frame.
fn framed(length: usize) -> u64 {
    (HEADER + FACTS + length) as u64
}
