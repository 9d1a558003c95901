//! The readings themselves, one at a time, in the order of their batches: for a person who has
//! nothing but this folder. What is damaged is left out and counted.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use forebay_protocols::reading::{Clock, Point, Reading};
use forebay_protocols::sync::batch::Decoder;
use forebay_protocols::sync::ranges::Ranges;

use super::names::Names;
use super::walk::{Batch, Depth, Piece, Walk};
use super::{Inspection, Opened, Part, Standing};

/// Which readings.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Also what was acknowledged and is not deleted yet.
    pub all: bool,
    /// Not before this moment, wall time in microseconds since 1970.
    pub from_us: Option<i64>,
    /// Before this moment.
    pub to_us: Option<i64>,
    /// Of these devices only; of all if there is none.
    pub devices: Vec<String>,
    /// Of points with these names only; of all if there is none.
    pub points: Vec<String>,
}

/// A reading with what stands around it.
#[derive(Debug)]
pub struct Row<'r> {
    /// The point.
    pub point: &'r Point,
    /// What was measured.
    pub reading: &'r Reading,
    /// When, wall time in microseconds since 1970.
    pub wall_us: i64,
    /// Where that is from.
    pub time: TimeSource,
    /// The batch it is in.
    pub sequence: u64,
}

/// How far a time can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeSource {
    /// The gateway's clock, synchronised.
    Synchronised,
    /// The gateway's clock, which it could only believe.
    Believed,
    /// The device's own clock.
    Device,
}

impl TimeSource {
    /// A word for files.
    pub fn word(self) -> &'static str {
        match self {
            Self::Synchronised => "synchronised",
            Self::Believed => "believed",
            Self::Device => "device",
        }
    }
}

/// What came out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extracted {
    /// Readings handed over.
    pub readings: u64,
    /// Of those, readings with times that the gateway could only believe.
    pub believed: u64,
    /// Damaged parts that were left out.
    pub damaged: u64,
    /// Segments that were acknowledged and deleted meanwhile.
    pub finished: u64,
    /// Names that were asked for and that no point of this buffer has.
    pub unknown: Vec<String>,
}

/// Takes rows; an error ends the extraction.
pub type Take<'t> = dyn FnMut(&Row<'_>) -> io::Result<()> + 't;

struct Extraction<'w, 't> {
    inspection: &'w Inspection,
    wanted: &'w Wanted,
    names: Names<'w>,
    decoder: Decoder,
    /// Sequences handed over, so that none comes twice.
    seen: Ranges,
    take: &'t mut Take<'t>,
    extracted: Extracted,
}

impl Inspection {
    /// Hands the readings that are `wanted` to `take`. Errors are those of `take`.
    pub fn extract<'t>(&self, wanted: &Wanted, take: &'t mut Take<'t>) -> io::Result<Extracted> {
        let mut extraction = Extraction {
            inspection: self,
            wanted,
            names: Names::new(&self.window, &self.contents.points),
            decoder: Decoder::new(),
            seen: Ranges::default(),
            take,
            extracted: Extracted { unknown: self.unknown(wanted), ..Extracted::default() },
        };
        for part in self.parts() {
            let nothing_waits = !part.counts() || part.is_finished();
            if part.standing != Standing::Alien && (wanted.all || !nothing_waits) {
                extraction.segment(&part)?;
            }
        }
        Ok(extraction.extracted)
    }

    /// Names that no point has; one that is new since the logbook was read is among them.
    fn unknown(&self, wanted: &Wanted) -> Vec<String> {
        let points = || self.contents.points.values();
        let devices: BTreeSet<&str> = points().map(|point| &*point.device).collect();
        let names: BTreeSet<&str> = points().map(|point| &*point.name).collect();
        let device = wanted.devices.iter().filter(|name| !devices.contains(name.as_str()));
        let point = wanted.points.iter().filter(|name| !names.contains(name.as_str()));
        device
            .map(|name| format!("device `{name}`"))
            .chain(point.map(|name| format!("point `{name}`")))
            .collect()
    }
}

impl Extraction<'_, '_> {
    fn segment(&mut self, part: &Part) -> io::Result<()> {
        let (file, end) = match self.inspection.open_part(part) {
            Opened::File(file, end) => (file, end),
            Opened::Finished => {
                self.extracted.finished += 1;
                return Ok(());
            }
            Opened::Gone | Opened::Refused(_) => {
                self.extracted.damaged += u64::from(part.known.live().batches > 0 || self.wanted.all);
                return Ok(());
            }
        };
        if part.standing == Standing::Sealed && end < part.known.length {
            self.extracted.damaged += 1;
        }
        let mut walk = Walk::new(file.as_ref(), end, Depth::Whole);
        loop {
            let piece = match walk.step() {
                Ok(Some((piece, ..))) => piece,
                Ok(None) => return Ok(()),
                Err(_) => {
                    // The disk does not give the rest.
                    self.extracted.damaged += 1;
                    return Ok(());
                }
            };
            match piece {
                Piece::Batch(batch) => self.batch(part, &batch)?,
                Piece::Broken(Some(facts)) if !(self.wanted.all || part.waits(facts.sequence.0)) => {}
                Piece::Broken(_) | Piece::Garbage => self.extracted.damaged += 1,
                // What is being written just now looks like this.
                Piece::Torn if self.inspection.user.may_write() => {}
                Piece::Torn => self.extracted.damaged += 1,
                Piece::Head | Piece::Strange => {}
            }
        }
    }

    fn batch(&mut self, part: &Part, batch: &Batch) -> io::Result<()> {
        let sequence = batch.facts.sequence.0;
        if !self.inspection.is_ours(&batch.facts) || !(self.wanted.all || part.waits(sequence)) {
            return Ok(());
        }
        let Ok(decoded) = self.decoder.decode(&batch.bytes) else {
            self.extracted.damaged += 1;
            return Ok(());
        };
        if !self.seen.insert(sequence..=sequence) {
            return Ok(());
        }
        let boot = decoded.head.boot;
        let mut point: Option<(u32, Arc<Point>)> = None;
        for reading in &decoded.readings {
            let number = reading.point.0;
            // Readings come ordered by point.
            let known = match point.take().filter(|(last, _)| *last == number) {
                Some((_, known)) => known,
                None => self.names.point(number),
            };
            let row = Row {
                point: &known,
                reading,
                wall_us: reading.stamp.wall(boot.wall_offset_us),
                time: match reading.stamp.clock {
                    Clock::Device => TimeSource::Device,
                    Clock::Boot if boot.synchronised => TimeSource::Synchronised,
                    Clock::Boot => TimeSource::Believed,
                },
                sequence,
            };
            if self.wanted.wants(&row) {
                (self.take)(&row)?;
                self.extracted.readings += 1;
                self.extracted.believed += u64::from(row.time == TimeSource::Believed);
            }
            point = Some((number, known));
        }
        Ok(())
    }
}

impl Wanted {
    fn wants(&self, row: &Row<'_>) -> bool {
        let one_of = |names: &[String], name: &str| names.is_empty() || names.iter().any(|n| n == name);
        self.from_us.is_none_or(|from| row.wall_us >= from)
            && self.to_us.is_none_or(|to| row.wall_us < to)
            && one_of(&self.devices, &row.point.device)
            && one_of(&self.points, &row.point.name)
    }
}
