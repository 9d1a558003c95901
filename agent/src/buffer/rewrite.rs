//! Rewriting a segment: the same batches under the same sequences with fewer readings, or fewer
//! batches. What is left out is counted as dropped, by its reason, and told in a gap record.
//!
//! The new file is complete and synced under another name before it replaces the old one, and only
//! then the logbook tells of it. Whatever a crash leaves is either: the new file says in its head
//! how often it was rewritten and in what way, and in each batch how many readings it had. A
//! rewriting has one reason, so that an opening that finds the new file knows it too.

use std::io::{self, ErrorKind};

use bytes::Bytes;
use forebay_protocols::sync::batch::Encoded;
use forebay_protocols::sync::ranges::Ranges;
use forebay_protocols::sync::wire::gap::Reason;

use super::catalogue::Place;
use super::disk::DiskFile;
use super::frame::{BatchFacts, FileFacts, epoch_tag, frame_at};
use super::logbook::{Entry, Thinned};
use super::segments::{Segment, Tally, file_name, survey};
use super::store::{Span, Store};

/// A segment that is being rewritten.
pub(super) const THINNING: &str = "thinning";

/// What becomes of a batch.
pub(super) enum Fate {
    Stays,
    /// What is left of it.
    Shrinks(Encoded),
    Goes,
}

/// What rewriting a segment came to.
#[derive(Default)]
pub(super) struct Rewritten {
    pub length: u64,
    /// Of what was alive: readings and bytes left out of batches that stay.
    left_out: Tally,
    /// Of what was alive: batches that went.
    gone: Tally,
    gone_sequences: Ranges,
}

impl Store {
    /// Every batch that can be found in the segment.
    pub(super) fn batches_of(
        &self,
        segment: &Segment,
        file: &dyn DiskFile,
    ) -> io::Result<Vec<(BatchFacts, Place)>> {
        let mut batches = Vec::new();
        survey(file, segment, segment.length, epoch_tag(self.epoch), false, &mut |facts, place| {
            batches.push((*facts, place));
        })?;
        Ok(batches)
    }

    /// Writes the segment anew beside the old file, in at most so many bytes. `fate` sees whether a
    /// batch is alive, and the batch.
    pub(super) fn rewrite(
        &self,
        segment: &Segment,
        level: u32,
        most: u64,
        fate: &mut dyn FnMut(bool, &[u8]) -> Fate,
    ) -> io::Result<Rewritten> {
        let old = self.disk.open(&file_name(segment.number))?;
        let batches = self.batches_of(segment, old.as_ref())?;
        let head = FileFacts {
            segment: true,
            epoch: self.epoch,
            number: segment.number,
            first: segment.first,
            appended_before: segment.appended_before,
            level,
        };
        let mut new = New { file: self.disk.create(THINNING)?, length: 0, most };
        let mut written = Rewritten::default();
        new.put(&head.encode())?;
        for (facts, place) in batches {
            let batch = batch_at(old.as_ref(), &place)?;
            let alive = !segment.forgotten.contains(facts.sequence.0);
            match fate(alive, &batch) {
                Fate::Stays => {
                    // As it is, damage and all: whoever reads it finds out.
                    let Some(frame) = frame_at(old.as_ref(), place.at, segment.length)? else { continue };
                    let mut bytes = vec![0; (frame.end() - frame.at) as usize];
                    old.read_at(&mut bytes, frame.at)?;
                    new.put(&bytes)?;
                }
                Fate::Shrinks(Encoded { count, dictionary_revision, bytes, .. }) => {
                    let thinned_from = Some(facts.appended());
                    let left = BatchFacts { count, revision: dictionary_revision.0, thinned_from, ..facts };
                    new.put(&left.lead(&bytes))?;
                    new.put(&bytes)?;
                    if alive {
                        written.left_out.readings += u64::from(facts.count.saturating_sub(count));
                        written.left_out.bytes += u64::from(place.length).saturating_sub(bytes.len() as u64);
                    }
                }
                Fate::Goes if alive => {
                    written.gone += Tally {
                        batches: 1,
                        readings: u64::from(facts.count),
                        bytes: u64::from(place.length),
                    };
                    written.gone_sequences.insert(facts.sequence.0..=facts.sequence.0);
                }
                Fate::Goes => {}
            }
        }
        new.file.sync()?;
        written.length = new.length;
        Ok(written)
    }

    /// The new file takes the place of the old one.
    pub(super) fn adopt(
        &mut self,
        old: &Segment,
        written: &Rewritten,
        (level, bare): (u32, bool),
        reason: Reason,
        span: Span,
    ) -> io::Result<()> {
        self.disk.rename(THINNING, &file_name(old.number))?;
        if self.reader.as_ref().is_some_and(|(open, _)| *open == old.number) {
            self.reader = None;
        }
        // The logbook waits for this: it must not tell of a file that a power cut takes back.
        self.folder_unsynced = true;
        let left_out = written.left_out;
        let thinned = Thinned {
            segment: old.number,
            length: written.length,
            level,
            readings: left_out.readings,
            bytes: left_out.bytes,
            bare,
        };
        let mut why = vec![Entry::Thinned(thinned)];
        if let Some(segment) = self.segments.get_mut(&old.number) {
            segment.thin(&thinned);
            if written.gone.batches > 0 {
                why.push(segment.forget(&written.gone_sequences, written.gone));
            }
        }
        match left_out.readings + written.gone.readings {
            0 => self.logbook.push(why), // Nothing of what was left out was alive.
            readings => self.count_out(why, readings, reason, span),
        }
        self.charts.forget(old.number);
        if let Err(error) = self.write_logbook() {
            drop(self.refused(&error)); // It is tried again with the next write.
        }
        Ok(())
    }

    /// A crash came between a thinned segment and the logbook: the books follow the file.
    pub(super) fn miss_left_out(&mut self, number: u64, lost: Tally, wall: (i64, i64)) {
        if let Some(segment) = self.segments.get_mut(&number) {
            let entry = segment.forget(&Ranges::default(), lost);
            self.count_out(vec![entry], lost.readings, Reason::Thinned, wall.into());
        }
    }
}

/// A file that must not become too long.
struct New {
    file: Box<dyn DiskFile>,
    length: u64,
    most: u64,
}

impl New {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.length + bytes.len() as u64 > self.most {
            return Err(ErrorKind::StorageFull.into());
        }
        self.file.write_at(bytes, self.length)?;
        self.length += bytes.len() as u64;
        Ok(())
    }
}

/// The encoded batch at a place; empty, which is none, if it is not what was written.
pub(super) fn batch_at(file: &dyn DiskFile, place: &Place) -> io::Result<Bytes> {
    let Some(frame) = frame_at(file, place.at, u64::MAX)? else { return Ok(Bytes::new()) };
    let body = frame.body(file)?.map(Bytes::from).unwrap_or_default();
    Ok(if body.len() >= frame.lead() { body.slice(frame.lead()..) } else { Bytes::new() })
}
