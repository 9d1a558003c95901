//! Clearing: when there is no room and points have rules of their own, what gives way is not a
//! segment but the readings in it that may. A segment is rewritten (`rewrite.rs`) without them; if
//! nothing else is alive in it, it is dropped whole and nothing is written.
//!
//! The order in which readings give way, the least valuable first:
//! 1. detail of points whose rule is to thin (`thin.rs`): half a trend still tells its story;
//! 2. readings of points whose rule is to drop the oldest, from the oldest segment on;
//! 3. what thinning has left, from the oldest segment on: it was to last longer than those of 2,
//!    not for ever;
//! 4. readings of points whose rule is to stop never do: the buffer is full, and devices are not
//!    read until there is room.
//!
//! Batches that a server has are no part of the new file, and a batch of which every reading goes
//! is none either: it is dropped like those of a dropped segment. What is no batch of readings has
//! the buffer's own rule.
//!
//! What is left of a cleared segment may be one alarm in a file of its own. Such a file is charged
//! with a whole [`BLOCK`], which is what it takes of a disk, so that the budget bounds their number,
//! and a rewriting that would save less than that is not made.

use std::io;

use forebay_config::agent::WhenFull;
use forebay_protocols::reading::{PointId, Reading};
use forebay_protocols::sync::batch::{Decoder, Encoder};
use forebay_protocols::sync::wire::gap::Reason;

use super::classes::PointRules;
use super::rewrite::{Fate, THINNING, batch_at};
use super::segments::{BLOCK, CLEARING, MOST_CLEARINGS, MOST_HALVINGS, Segment, file_name};
use super::store::{Store, is_full};

/// So many bytes are looked through in vain before an append is told that there is no room. It is
/// tried again, and what was looked through is known by then.
const LOOKED_THROUGH: u64 = 32 << 20;

/// What of a segment gives way, and what does not.
#[derive(Default)]
struct Weighed {
    goes: bool,
    stays: bool,
}

impl Store {
    /// Clears the oldest segment in which something may give way; the growing one only if
    /// `growing_too` and there is no other. False if nothing may; an error if the disk takes no
    /// changes at all.
    pub(super) fn clear_oldest(&mut self, growing_too: bool) -> io::Result<bool> {
        self.ask_for_deletion()?;
        let mut looked_through = 0;
        for least in [WhenFull::DropOldest, WhenFull::Thin] {
            if !self.points.has(least) && self.points.usual() != least {
                continue;
            }
            let could = |segment: &&Segment| {
                self.growing != Some(segment.number)
                    && segment.live().batches > 0
                    && segment.spent.is_none_or(|spent| spent != least && spent != WhenFull::Thin)
            };
            let numbers: Vec<u64> = self.segments.values().filter(could).map(|s| s.number).collect();
            for number in numbers {
                let Some(segment) = self.segments.get(&number).cloned() else { continue };
                if self.clear(&segment, least)? {
                    return Ok(true);
                }
                looked_through += segment.length;
                if looked_through > LOOKED_THROUGH {
                    return Ok(false);
                }
            }
        }
        let growing = self.growing.and_then(|number| self.segments.get(&number));
        if growing_too && growing.is_some_and(|segment| segment.live().batches > 0) {
            self.seal_growing();
            return self.clear_oldest(false);
        }
        Ok(false)
    }

    /// Leaves out of a segment what may give way by `least` and rules before it. False if that
    /// makes no room.
    fn clear(&mut self, segment: &Segment, least: WhenFull) -> io::Result<bool> {
        // One that cannot be read now can be cleared another time, perhaps.
        let Ok(weighed) = self.weigh(segment, least) else { return Ok(false) };
        if weighed.goes && !weighed.stays {
            return self.drop_whole(segment);
        }
        if !weighed.goes || segment.clearings() >= MOST_CLEARINGS {
            self.spend(segment.number, least);
            return Ok(false);
        }
        // After a crash the books follow the new file: what a server has must be known by then,
        // since it is not in it, and what was left out before must have been counted.
        self.write_logbook()?;
        let span = self.living_span(segment).unwrap_or_else(|_| segment.wall().into());
        let level = segment.level + CLEARING;
        loop {
            // A store above its budget, since that became smaller, gets below it in no other way.
            let most = self.rules.limit.checked_sub(self.disk_bytes()).unwrap_or(segment.length);
            let mut sieve = Sieve::new(&self.points, least);
            match self.rewrite(segment, level, most, &mut |alive, batch| sieve.fate(alive, batch)) {
                Ok(written) if written.length.max(BLOCK) < segment.room() => {
                    // What could not be halved in all the rest perhaps can be now.
                    let bare = segment.halvings() >= MOST_HALVINGS;
                    self.adopt(segment, &written, (level, bare), Reason::BufferFull, span)?;
                    self.spend(segment.number, least);
                    return Ok(true);
                }
                Ok(_) => {
                    drop(self.disk.remove(THINNING));
                    self.spend(segment.number, least);
                    return Ok(false);
                }
                Err(error) => {
                    drop(self.disk.remove(THINNING));
                    if !is_full(&error) || !self.spend_ballast() {
                        return Ok(false);
                    }
                }
            }
        }
    }

    /// Looks for readings that give way, and for others, until it has seen both.
    fn weigh(&self, segment: &Segment, least: WhenFull) -> io::Result<Weighed> {
        let file = self.disk.open(&file_name(segment.number))?;
        let mut sieve = Sieve::new(&self.points, least);
        let mut weighed = Weighed::default();
        for (facts, place) in self.batches_of(segment, file.as_ref())? {
            if segment.forgotten.contains(facts.sequence.0) {
                continue;
            }
            sieve.weigh(&batch_at(file.as_ref(), &place)?, &mut weighed);
            if weighed.goes && weighed.stays {
                break;
            }
        }
        Ok(weighed)
    }

    /// Nothing in it gives way by this rule any more.
    fn spend(&mut self, number: u64, least: WhenFull) {
        if let Some(segment) = self.segments.get_mut(&number) {
            segment.spent = Some(least);
        }
    }
}

/// Tells readings that give way from others. Keeps its scratch space from batch to batch.
struct Sieve<'a> {
    points: &'a PointRules,
    least: WhenFull,
    decoder: Decoder,
    encoder: Encoder,
}

impl<'a> Sieve<'a> {
    fn new(points: &'a PointRules, least: WhenFull) -> Self {
        Self { points, least, decoder: Decoder::new(), encoder: Encoder::new() }
    }

    fn goes(&self, rule: WhenFull) -> bool {
        match rule {
            WhenFull::DropOldest => true,
            WhenFull::Thin => self.least == WhenFull::Thin,
            WhenFull::Stop => false,
        }
    }

    fn stays(&self, point: PointId) -> bool {
        !self.goes(self.points.of(point))
    }

    fn weigh(&mut self, batch: &[u8], weighed: &mut Weighed) {
        let Ok(decoded) = self.decoder.decode(batch) else {
            let goes = self.goes(self.points.usual());
            return *(if goes { &mut weighed.goes } else { &mut weighed.stays }) = true;
        };
        let staying = decoded.readings.iter().filter(|reading| self.stays(reading.point)).count();
        weighed.stays |= staying > 0;
        weighed.goes |= staying < decoded.readings.len() || staying == 0;
    }

    fn fate(&mut self, alive: bool, batch: &[u8]) -> Fate {
        if !alive {
            return Fate::Goes;
        }
        let Ok(decoded) = self.decoder.decode(batch) else {
            return if self.goes(self.points.usual()) { Fate::Goes } else { Fate::Stays };
        };
        let before = decoded.readings.len();
        let mut staying: Vec<Reading> =
            decoded.readings.into_iter().filter(|reading| self.stays(reading.point)).collect();
        if staying.is_empty() {
            return Fate::Goes;
        }
        if staying.len() == before {
            return Fate::Stays;
        }
        let encoded = self.encoder.up_to(decoded.format).encode(&decoded.head, &mut staying);
        let whole = encoded.count as usize == staying.len();
        if whole { Fate::Shrinks(encoded) } else { Fate::Stays }
    }
}
