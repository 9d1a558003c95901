//! Thinning: when there is no room, the oldest of the least thinned segments is rewritten with every
//! second reading of each point. The same batches stay, under the same sequences; what is left out
//! is counted as dropped and told in a gap record.
//!
//! The new file is complete and synced under another name before it replaces the old one, and only
//! then the logbook tells of it. Whatever a crash leaves is either: the new file says in its head
//! that it is thinned, and in each batch how many readings it had.

use std::io;

use bytes::Bytes;
use forebay_protocols::reading::{PointId, Quality, Reading, Value};
use forebay_protocols::sync::batch::{Decoder, Encoder};
use forebay_protocols::sync::ranges::Ranges;
use forebay_protocols::sync::wire::gap::Reason;

use super::disk::DiskFile;
use super::frame::{BatchFacts, FileFacts, epoch_tag, frame_at};
use super::logbook::{Entry, Thinned};
use super::segments::{Segment, Tally, file_name, survey};
use super::store::{Span, Store};

/// A segment that is being rewritten.
pub(super) const THINNING: &str = "thinning";
/// Of ten thousand readings there are a few left then.
const HIGHEST_LEVEL: u32 = 16;

/// So many segments are rewritten in vain before an old one is dropped instead: an append waits.
const TRIES: u32 = 4;

/// What rewriting a segment came to.
#[derive(Default)]
struct Rewritten {
    length: u64,
    /// Of what was alive: readings left out, and bytes saved.
    left_out: u64,
    saved: u64,
}

impl Store {
    /// Halves the resolution of one segment. False if that makes no room; an error if the disk takes
    /// no changes at all.
    pub(super) fn thin_oldest(&mut self) -> io::Result<bool> {
        for _ in 0..TRIES {
            let could = |segment: &&Segment| {
                !segment.bare && self.growing != Some(segment.number) && segment.live().batches > 0
            };
            let oldest = self.segments.values().filter(could).min_by_key(|s| (s.level, s.number)).cloned();
            let Some(segment) = oldest else { return Ok(false) };
            self.ask_for_deletion()?;
            if self.disk_bytes() + segment.length > self.rules.limit {
                return Ok(false); // No room for both files at once.
            }
            let span = self.living_span(&segment).unwrap_or_else(|_| segment.wall().into());
            match self.rewrite(&segment) {
                Ok(written) if written.length <= segment.length - segment.length / 8 => {
                    self.adopt(&segment, &written, span)?;
                    return Ok(true);
                }
                Ok(_) => self.leave_alone(&segment),
                // A segment that cannot be read gives way like any other, or the disk is full.
                Err(_) => {
                    drop(self.disk.remove(THINNING));
                    return Ok(false);
                }
            }
        }
        Ok(false)
    }

    /// Writes the segment anew beside the old file.
    fn rewrite(&self, segment: &Segment) -> io::Result<Rewritten> {
        let old = self.disk.open(&file_name(segment.number))?;
        let mut batches = Vec::new();
        survey(old.as_ref(), segment, segment.length, epoch_tag(self.epoch), false, &mut |facts, place| {
            batches.push((*facts, place.at));
        })?;
        let head = FileFacts {
            segment: true,
            epoch: self.epoch,
            number: segment.number,
            first: segment.first,
            appended_before: segment.appended_before,
            level: segment.level + 1,
        };
        let mut new = self.disk.create(THINNING)?;
        let mut written = Rewritten::default();
        put(new.as_mut(), &mut written.length, &head.encode())?;
        let mut halver = Halver::default();
        for (facts, at) in batches {
            let Some(frame) = frame_at(old.as_ref(), at, segment.length)? else { continue };
            let whole = frame.body(old.as_ref())?;
            let batch = whole.as_deref().and_then(|body| body.get(frame.lead()..)).unwrap_or_default();
            let halved = halver.halve(batch).filter(|(bytes, _)| bytes.len() < batch.len());
            let Some((bytes, count)) = halved else {
                // As it is, damage and all: whoever reads it finds out.
                let mut bytes = vec![0; (frame.end() - frame.at) as usize];
                old.read_at(&mut bytes, frame.at)?;
                put(new.as_mut(), &mut written.length, &bytes)?;
                continue;
            };
            let thinned = BatchFacts { count, thinned_from: Some(facts.appended()), ..facts };
            put(new.as_mut(), &mut written.length, &thinned.lead(&bytes))?;
            put(new.as_mut(), &mut written.length, &bytes)?;
            if !segment.forgotten.contains(facts.sequence.0) {
                written.left_out += u64::from(facts.count.saturating_sub(count));
                written.saved += (batch.len() - bytes.len()) as u64;
            }
        }
        new.sync()?;
        Ok(written)
    }

    /// The new file takes the place of the old one.
    fn adopt(&mut self, old: &Segment, written: &Rewritten, span: Span) -> io::Result<()> {
        self.disk.rename(THINNING, &file_name(old.number))?;
        if self.reader.as_ref().is_some_and(|(open, _)| *open == old.number) {
            self.reader = None;
        }
        // The logbook waits for this: it must not tell of a file that a power cut takes back.
        self.folder_unsynced = true;
        let level = old.level + 1;
        let thinned = Thinned {
            segment: old.number,
            length: written.length,
            level,
            readings: written.left_out,
            bytes: written.saved,
            bare: level >= HIGHEST_LEVEL,
        };
        if let Some(segment) = self.segments.get_mut(&old.number) {
            segment.thin(&thinned);
        }
        self.count_thinned(Entry::Thinned(thinned), written.left_out, span);
        self.charts.forget(old.number);
        if let Err(error) = self.write_logbook() {
            drop(self.refused(&error)); // It is tried again with the next write.
        }
        Ok(())
    }

    /// Thinning this one again would make no room.
    fn leave_alone(&mut self, segment: &Segment) {
        drop(self.disk.remove(THINNING));
        let Segment { number, length, level, .. } = *segment;
        let as_it_is = Thinned { segment: number, length, level, bare: true, ..Thinned::default() };
        if let Some(segment) = self.segments.get_mut(&number) {
            segment.thin(&as_it_is);
            self.logbook.push([Entry::Thinned(as_it_is)]);
        }
    }

    /// A crash came between a thinned segment and the logbook: the books follow the file.
    pub(super) fn miss_left_out(&mut self, number: u64, lost: Tally, wall: (i64, i64)) {
        if let Some(segment) = self.segments.get_mut(&number) {
            let entry = segment.forget(&Ranges::default(), lost);
            self.count_thinned(entry, lost.readings, wall.into());
        }
    }

    /// `why` and the count are one record: half of it would be readings that nobody can account for.
    fn count_thinned(&mut self, why: Entry, readings: u64, span: Span) {
        if readings == 0 {
            return self.logbook.push([why]); // Nothing of what was left out was alive.
        }
        self.dropped += readings;
        self.dropped_thinned += readings;
        let gap = self.gaps.record(span.gap(Reason::Thinned, readings));
        self.logbook.push([why, Entry::Books(self.books()), Entry::Gap(gap.clone())]);
        self.with_catalogue(|catalogue| catalogue.copy_gap(&gap));
    }
}

/// Batches with half their readings. Keeps its scratch space from batch to batch.
#[derive(Default)]
struct Halver {
    decoder: Decoder,
    encoder: Encoder,
}

impl Halver {
    /// The batch with every second reading, and how many those are; `None` if it is not one, or
    /// nothing can be left out.
    fn halve(&mut self, batch: &[u8]) -> Option<(Bytes, u32)> {
        let decoded = self.decoder.decode(batch).ok()?;
        let before = decoded.readings.len();
        let mut readings = every_second(decoded.readings);
        if readings.len() == before {
            return None;
        }
        let encoded = self.encoder.encode(&decoded.head, &mut readings);
        (encoded.count as usize == readings.len()).then_some((encoded.bytes, encoded.count))
    }
}

/// Every second good number of each point. The first and the last of a point stay, and so does
/// whatever is not a good number: an alarm, a text and a hole are told by one reading.
/// `readings` are in order of points.
fn every_second(readings: Vec<Reading>) -> Vec<Reading> {
    let points: Vec<PointId> = readings.iter().map(|reading| reading.point).collect();
    let mut kept = Vec::with_capacity(readings.len() / 2 + 1);
    let mut leave_out = false;
    for (at, reading) in readings.into_iter().enumerate() {
        let first = at == 0 || points.get(at - 1) != Some(&reading.point);
        let last = points.get(at + 1) != Some(&reading.point);
        if first {
            leave_out = false;
        }
        if first || last || !is_good_number(&reading) || !leave_out {
            leave_out = is_good_number(&reading);
            kept.push(reading);
        } else {
            leave_out = false;
        }
    }
    kept
}

fn is_good_number(reading: &Reading) -> bool {
    matches!(reading.value, Some(Value::Float(_) | Value::Integer(_)))
        && !matches!(reading.quality, Quality::Bad(_))
}

fn put(file: &mut dyn DiskFile, at: &mut u64, bytes: &[u8]) -> io::Result<()> {
    file.write_at(bytes, *at)?;
    *at += bytes.len() as u64;
    Ok(())
}
