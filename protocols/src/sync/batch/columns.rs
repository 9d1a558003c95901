//! Sorted readings to the columns of `columns.proto` and back. No clock, no I/O, no compression:
//! readings in, one message out, and the same readings again, or a [`Flaw`].

use std::sync::Arc;

use super::axes::Axes;
use super::corrected::CorrectedColumns;
use super::kinds::{self, Kind, Parts, Texts};
use super::odd::{OddColumns, OddWriter};
use super::packing::{Column, Flaw, put};
use super::runs::{RunColumns, Runs};
use super::shapes::{self, NumberColumns, Writing};
use crate::reading::{Clock, PointId, Quality, Reading, Stamp, Value};
use crate::sync::wire;

/// Earliest and latest boot time of a batch, microseconds; zeros if there is none.
type Span = (i64, i64);

/// Writes columns. Keeps its scratch space from batch to batch.
#[derive(Default)]
pub(super) struct Writer {
    axes: Axes,
    texts: Texts,
    /// Of the series at hand.
    parts: Parts,
    columns: wire::Columns,
}

impl Writer {
    /// `readings` are sorted by (point, clock, time). Uses nothing that `newest` does not have, and says
    /// which format it takes to read the columns.
    pub fn write(&mut self, readings: &[Reading], newest: u32) -> (&wire::Columns, Span, u32) {
        let Self { axes, texts, parts, columns } = self;
        let mut format = 1;
        axes.clear();
        texts.clear();
        prost::Message::clear(columns);

        let (mut last_point, mut last_axis, mut start) = (0, usize::MAX, 0);
        let mut odd_writer = OddWriter::default();
        for series in readings.chunk_by(|a, b| a.point == b.point && a.stamp.clock == b.stamp.clock) {
            let head = &series[0];
            put(&mut columns.point, u64::from(head.point.0 - last_point));
            last_point = head.point.0;

            let next_axis = axes.len();
            let times = series.iter().map(|reading| reading.stamp.micros);
            let axis = axes.find_or_add(head.stamp.clock, times, last_axis);
            let refer = match axis {
                same if same == last_axis => 0,
                new if new == next_axis => 1,
                other => other as u64 + 2,
            };
            put(&mut columns.axis, refer);
            last_axis = axis;

            let kind = parts.pack(series, newest, texts);
            if parts.plain.is_empty() {
                columns.form.push(0);
            } else {
                let writing = shapes::choose(&parts.plain);
                columns.form.push(kind.code() << 4 | writing.code());
                shapes::write(&parts.plain, writing, columns);
                if kind == Kind::Corrected {
                    format = 2;
                    parts.write_corrections(columns);
                }
            }
            odd_writer.write(series, start, &parts.odd, texts, columns);
            start += series.len();
        }
        axes.write(columns);
        texts.write(columns);
        write_qualities(readings, columns);
        (columns, axes.span(), format)
    }
}

/// Reads columns. Keeps its scratch space from batch to batch.
#[derive(Default)]
pub(super) struct Reader {
    axes: Axes,
    plain: Vec<i64>,
}

impl Reader {
    /// The `count` readings of a batch, whose points are at most `revision`. The caller has bounded
    /// `count`; nothing is reserved beyond it.
    pub fn read(
        &mut self,
        columns: &wire::Columns,
        format: u32,
        count: usize,
        revision: PointId,
    ) -> Result<(Vec<Reading>, Span), Flaw> {
        let Self { axes, plain } = self;
        axes.read(columns, count)?;
        let texts = kinds::read_texts(columns, count)?;
        let mut heads = Heads::new(columns, format, revision);
        let mut corrected = CorrectedColumns::new(columns);
        let mut numbers = NumberColumns::new(columns);
        let mut odd = OddColumns::new(columns, count)?;
        let mut readings = Vec::with_capacity(count);
        while let Some(series) = heads.next(axes, count - readings.len())? {
            let places = readings.len()..readings.len() + series.times.len();
            let oddities = odd.within(&places)?;
            plain.clear();
            if oddities < places.len() {
                numbers.read(places.len() - oddities, series.writing, plain)?;
                if series.kind == Kind::Corrected {
                    corrected.restore(plain)?;
                }
            }
            if oddities == 0 {
                series.read_plain(plain, &texts, &mut readings)?;
            } else {
                series.read_mixed(plain, &mut odd, &texts, &mut readings)?;
            }
        }
        heads.end(count - readings.len())?;
        numbers.end()?;
        corrected.end()?;
        odd.end()?;
        read_qualities(columns, &mut readings)?;
        Ok((readings, axes.span()))
    }
}

/// What stands at the head of each series: whose it is, when, and how its numbers are written.
struct Heads<'a> {
    points: Column<'a>,
    refers: Column<'a>,
    forms: Column<'a>,
    format: u32,
    /// No point is above it.
    revision: PointId,
    /// Of the series before.
    point: PointId,
    clock: Option<Clock>,
    axis: usize,
    /// The axes below this one were used before.
    fresh_axes: usize,
}

/// A series whose values are still to be read.
struct Series<'a> {
    point: PointId,
    clock: Clock,
    times: &'a [i64],
    kind: Kind,
    writing: Writing,
}

impl<'a> Heads<'a> {
    fn new(columns: &'a wire::Columns, format: u32, revision: PointId) -> Self {
        Self {
            points: Column::new("point", &columns.point),
            refers: Column::new("axis", &columns.axis),
            forms: Column::new("form", &columns.form),
            format,
            revision,
            point: PointId(0),
            clock: None,
            axis: usize::MAX,
            fresh_axes: 0,
        }
    }

    /// The next series, of at most `room` readings, or `None` behind the last one.
    fn next<'t>(&mut self, axes: &'t Axes, room: usize) -> Result<Option<Series<'t>>, Flaw> {
        if self.points.is_empty() {
            return Ok(None);
        }
        let left = (self.revision.0 - self.point.0) as usize;
        let step = self.points.at_most(left, "numbers a point beyond the dictionary")?;
        self.point.0 += step as u32;
        match self.refers.unsigned()? {
            0 => {}
            1 => {
                self.axis = self.fresh_axes;
                self.fresh_axes += 1;
            }
            other => self.axis = usize::try_from(other - 2).unwrap_or(usize::MAX),
        }
        let (clock, times) =
            axes.get(self.axis).ok_or_else(|| self.refers.flaw("refers to an axis that is not there"))?;
        let follows = step > 0 || (self.clock == Some(Clock::Boot) && clock == Clock::Device);
        if !follows {
            return Err(self.points.flaw("is out of order"));
        }
        self.clock = Some(clock);
        if times.len() > room {
            return Err(self.refers.flaw("makes more readings than the batch states"));
        }
        let form = self.forms.byte()?;
        let (kind, writing) = Kind::from_code(form >> 4, self.format)
            .zip(Writing::from_code(form & 15))
            .ok_or_else(|| self.forms.flaw("names a kind or shape of a later format"))?;
        Ok(Some(Series { point: self.point, clock, times, kind, writing }))
    }

    /// Nothing may be left, neither of the columns nor of the readings the batch states.
    fn end(self, missing: usize) -> Result<(), Flaw> {
        if missing > 0 {
            return Err(self.points.flaw("makes fewer readings than the batch states"));
        }
        self.refers.end()?;
        self.forms.end()
    }
}

impl Series<'_> {
    fn stamps(&self) -> impl Iterator<Item = Stamp> {
        let clock = self.clock;
        self.times.iter().map(move |micros| Stamp { clock, micros: *micros })
    }

    fn reading(&self, stamp: Stamp, value: Option<Value>) -> Reading {
        Reading { point: self.point, stamp, value, quality: Quality::Good }
    }

    /// Reads a series without odd readings.
    fn read_plain(&self, plain: &[i64], texts: &[Arc<str>], to: &mut Vec<Reading>) -> Result<(), Flaw> {
        let pairs = self.stamps().zip(plain);
        // Most readings are of kinds that cannot fail: loops of their own.
        match self.kind {
            Kind::Decimal(digits) => {
                let value = kinds::decimal_value(digits);
                to.extend(pairs.map(|(stamp, number)| self.reading(stamp, Some(value(*number)))));
            }
            Kind::Integer => {
                to.extend(pairs.map(|(stamp, number)| self.reading(stamp, Some(Value::Integer(*number)))));
            }
            Kind::Double | Kind::Corrected => {
                let value = |bits: i64| Value::Float(f64::from_bits(bits as u64));
                to.extend(pairs.map(|(stamp, number)| self.reading(stamp, Some(value(*number)))));
            }
            // All numbers are of 32 bits.
            Kind::Single if plain.iter().fold(0, |bits, number| bits | number) as u64 >> 32 == 0 => {
                let value = |bits: i64| Value::Float(f32::from_bits(bits as u32).into());
                to.extend(pairs.map(|(stamp, number)| self.reading(stamp, Some(value(*number)))));
            }
            kind => {
                for (stamp, number) in pairs {
                    to.push(self.reading(stamp, Some(kind.value(*number, texts)?)));
                }
            }
        }
        Ok(())
    }

    /// Reads a series with odd readings among the others.
    fn read_mixed(
        &self,
        plain: &[i64],
        odd: &mut OddColumns<'_>,
        texts: &[Arc<str>],
        to: &mut Vec<Reading>,
    ) -> Result<(), Flaw> {
        let mut numbers = plain.iter();
        for stamp in self.stamps() {
            let place = to.len();
            let value = if odd.is_at(place) {
                odd.value(place, texts)?
            } else {
                numbers.next().map(|number| self.kind.value(*number, texts)).transpose()?
            };
            to.push(self.reading(stamp, value));
        }
        Ok(())
    }
}

fn write_qualities(readings: &[Reading], columns: &mut wire::Columns) {
    let mut runs = Runs::default();
    let mut place = 0;
    for run in readings.chunk_by(|a, b| a.quality == b.quality) {
        let quality = run[0].quality;
        if quality != Quality::Good {
            runs.write(place..place + run.len(), &mut columns.quality_gap, &mut columns.quality_run);
            columns.quality_code.push(quality.code());
        }
        place += run.len();
    }
}

fn read_qualities(columns: &wire::Columns, readings: &mut [Reading]) -> Result<(), Flaw> {
    let mut runs =
        RunColumns::new(("quality_gap", &columns.quality_gap), ("quality_run", &columns.quality_run));
    let mut codes = Column::new("quality_code", &columns.quality_code);
    while let Some(run) = runs.next(readings.len())? {
        let quality = Quality::from_code(codes.byte()?);
        readings[run].iter_mut().for_each(|reading| reading.quality = quality);
    }
    runs.end()?;
    codes.end()
}
