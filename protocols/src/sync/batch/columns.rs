//! Sorted readings to the columns of `columns.proto` and back. No clock, no I/O, no compression:
//! readings in, one message out, and the same readings again, or a [`Flaw`].

use super::axes::Axes;
use super::kinds::{self, Kind, Texts};
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
    /// The numbers, and the places of the odd readings, of the series at hand.
    plain: Vec<i64>,
    odd: Vec<u32>,
    columns: wire::Columns,
}

impl Writer {
    /// `readings` are sorted by (point, clock, time).
    pub fn write(&mut self, readings: &[Reading]) -> (&wire::Columns, Span) {
        let Self { axes, texts, plain, odd, columns } = self;
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

            let kind = kinds::pack(series, texts, plain, odd);
            if plain.is_empty() {
                columns.form.push(0);
            } else {
                let writing = shapes::choose(plain);
                columns.form.push(kind.code() << 4 | writing.code());
                shapes::write(plain, writing, columns);
            }
            odd_writer.write(series, start, odd, texts, columns);
            start += series.len();
        }
        axes.write(columns);
        texts.write(columns);
        write_qualities(readings, columns);
        (columns, axes.span())
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
        count: usize,
        revision: PointId,
    ) -> Result<(Vec<Reading>, Span), Flaw> {
        let Self { axes, plain } = self;
        axes.read(columns, count)?;
        let texts = kinds::read_texts(columns, count)?;
        let mut points = Column::new("point", &columns.point);
        let mut refers = Column::new("axis", &columns.axis);
        let mut forms = Column::new("form", &columns.form);
        let mut numbers = NumberColumns::new(columns);
        let mut odd = OddColumns::new(columns, count)?;
        let mut readings = Vec::with_capacity(count);

        let (mut point, mut last_clock) = (0u32, None);
        let (mut axis, mut fresh_axes) = (usize::MAX, 0);
        while !points.is_empty() {
            let step =
                points.at_most((revision.0 - point) as usize, "numbers a point beyond the dictionary")?;
            point += step as u32;
            match refers.unsigned()? {
                0 => {}
                1 => {
                    axis = fresh_axes;
                    fresh_axes += 1;
                }
                other => axis = usize::try_from(other - 2).unwrap_or(usize::MAX),
            }
            let (clock, times) =
                axes.get(axis).ok_or_else(|| refers.flaw("refers to an axis that is not there"))?;
            let follows = step > 0 || (last_clock == Some(Clock::Boot) && clock == Clock::Device);
            if !follows {
                return Err(points.flaw("is out of order"));
            }
            last_clock = Some(clock);
            if times.len() > count - readings.len() {
                return Err(refers.flaw("makes more readings than the batch states"));
            }

            let form = forms.byte()?;
            let unknown = "names a kind or shape of a later format";
            let (kind, writing) = Kind::from_code(form >> 4)
                .zip(Writing::from_code(form & 15))
                .ok_or_else(|| forms.flaw(unknown))?;
            let series = readings.len()..readings.len() + times.len();
            let oddities = odd.within(&series)?;
            let plain_count = times.len() - oddities;
            plain.clear();
            if plain_count > 0 {
                numbers.read(plain_count, writing, plain)?;
            }
            let stamps = times.iter().map(|micros| Stamp { clock, micros: *micros });
            let new = |stamp, value| Reading { point: PointId(point), stamp, value, quality: Quality::Good };
            if oddities == 0 {
                let pairs = stamps.zip(plain.iter());
                // Most readings are of these two kinds, which cannot fail: loops of their own.
                match kind {
                    Kind::Decimal(digits) => {
                        let value = kinds::decimal_value(digits);
                        readings.extend(pairs.map(|(stamp, number)| new(stamp, Some(value(*number)))));
                    }
                    Kind::Integer => {
                        readings
                            .extend(pairs.map(|(stamp, number)| new(stamp, Some(Value::Integer(*number)))));
                    }
                    _ => {
                        for (stamp, number) in pairs {
                            readings.push(new(stamp, Some(kind.value(*number, &texts)?)));
                        }
                    }
                }
            } else {
                let mut numbers = plain.iter();
                for (place, stamp) in series.zip(stamps) {
                    let value = if odd.is_at(place) {
                        odd.value(place, &texts)?
                    } else {
                        numbers.next().map(|number| kind.value(*number, &texts)).transpose()?
                    };
                    readings.push(new(stamp, value));
                }
            }
        }
        if readings.len() != count {
            return Err(points.flaw("makes fewer readings than the batch states"));
        }
        refers.end()?;
        forms.end()?;
        numbers.end()?;
        odd.end()?;
        read_qualities(columns, &mut readings)?;
        Ok((readings, axes.span()))
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
