//! Thinning: when there is no room, the oldest of the least thinned segments is rewritten
//! (`rewrite.rs`) with every second reading of each point whose rule is to thin.

use std::io;

use forebay_config::agent::WhenFull;
use forebay_protocols::reading::{PointId, Quality, Reading, Value};
use forebay_protocols::sync::batch::{Decoder, Encoder};
use forebay_protocols::sync::wire::gap::Reason;

use super::classes::PointRules;
use super::logbook::{Entry, Thinned};
use super::rewrite::{Fate, THINNING};
use super::segments::{MOST_HALVINGS, Segment};
use super::store::Store;

/// So many segments are rewritten in vain before an old one is dropped instead: an append waits.
const TRIES: u32 = 4;

impl Store {
    /// Halves the resolution of one segment. False if that makes no room; an error if the disk takes
    /// no changes at all.
    pub(super) fn thin_oldest(&mut self) -> io::Result<bool> {
        for _ in 0..TRIES {
            let could = |segment: &&Segment| {
                !segment.bare && self.growing != Some(segment.number) && segment.live().batches > 0
            };
            let oldest = self.segments.values().filter(could).min_by_key(|s| (s.halvings(), s.number));
            let Some(segment) = oldest.cloned() else { return Ok(false) };
            self.ask_for_deletion()?;
            if self.disk_bytes() + segment.length > self.rules.limit {
                return Ok(false); // No room for both files at once.
            }
            if self.points.only().is_none() {
                // What of this segment a crash leaves to be counted must have one reason.
                self.write_logbook()?;
            }
            let span = self.living_span(&segment).unwrap_or_else(|_| segment.wall().into());
            let mut halver =
                Halver { points: &self.points, decoder: Decoder::new(), encoder: Encoder::new() };
            let level = segment.level + 1;
            match self.rewrite(&segment, level, u64::MAX, &mut |_, batch| halver.halve(batch)) {
                Ok(written) if written.length <= segment.length - segment.length / 8 => {
                    let bare = segment.halvings() + 1 >= MOST_HALVINGS;
                    self.adopt(&segment, &written, (level, bare), Reason::Thinned, span)?;
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
}

/// Batches with half their readings. Keeps its scratch space from batch to batch.
struct Halver<'a> {
    points: &'a PointRules,
    decoder: Decoder,
    encoder: Encoder,
}

impl Halver<'_> {
    /// The batch with every second reading, of no newer format; it stays if it is not one, or nothing can be left out.
    fn halve(&mut self, batch: &[u8]) -> Fate {
        let Ok(decoded) = self.decoder.decode(batch) else { return Fate::Stays };
        let before = decoded.readings.len();
        let mut readings = every_second(decoded.readings, &|point| self.points.of(point) == WhenFull::Thin);
        if readings.len() == before {
            return Fate::Stays;
        }
        let encoded = self.encoder.up_to(decoded.format).encode(&decoded.head, &mut readings);
        let whole = encoded.count as usize == readings.len() && encoded.bytes.len() < batch.len();
        if whole { Fate::Shrinks(encoded) } else { Fate::Stays }
    }
}

/// Every second good number of each point that may be thinned. The first and the last of a point
/// stay, and so does whatever is not a good number: an alarm, a text and a hole are told by one
/// reading. `readings` are in order of points.
fn every_second(readings: Vec<Reading>, may: &dyn Fn(PointId) -> bool) -> Vec<Reading> {
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
            leave_out = is_good_number(&reading) && may(reading.point);
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
