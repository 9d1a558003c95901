//! Times. The points of one poll carry the same times, so each distinct vector of times, an axis,
//! is stored once and the series refer to it.

use std::collections::HashMap;
use std::ops::Range;

use super::packing::{Column, Flaw, put, put_signed, zigzag};
use crate::reading::Clock;
use crate::sync::wire;

/// Units an axis may count in, as powers of ten of a microsecond, coarsest first.
const UNITS: [u8; 3] = [6, 3, 0];

/// How the times of an axis lie. The numbers are those of `axis_form`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Course {
    /// Start, step and count say everything.
    Exact = 0,
    /// Scattered about a line: a schedule that is kept, with jitter.
    Line = 1,
    /// Each time follows from the one before: a schedule that drifts, or none.
    Walk = 2,
}

struct Axis {
    clock: Clock,
    times: Range<usize>,
}

/// The axes of one batch, being collected or read back.
#[derive(Default)]
pub(super) struct Axes {
    list: Vec<Axis>,
    times: Vec<i64>,
    by_hash: HashMap<u64, usize>,
    residuals: Vec<i64>,
}

impl Axes {
    pub fn clear(&mut self) {
        self.list.clear();
        self.times.clear();
        self.by_hash.clear();
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// The clock and the times of an axis that exists.
    pub fn get(&self, axis: usize) -> Option<(Clock, &[i64])> {
        let axis = self.list.get(axis)?;
        Some((axis.clock, self.times.get(axis.times.clone())?))
    }

    /// The number of the axis with these times (ascending, at least one), which is made if there is
    /// none. `likely` is tried first: neighbours were mostly polled together.
    pub fn find_or_add(&mut self, clock: Clock, times: impl Iterator<Item = i64>, likely: usize) -> usize {
        let start = self.times.len();
        self.times.extend(times);
        let new = start..self.times.len();
        let same =
            |axis: &Axis| axis.clock == clock && self.times[axis.times.clone()] == self.times[new.clone()];
        if self.list.get(likely).is_some_and(same) {
            self.times.truncate(start);
            return likely;
        }
        let hash = hash(clock, &self.times[new.clone()]);
        if let Some(found) =
            self.by_hash.get(&hash).copied().filter(|found| self.list.get(*found).is_some_and(same))
        {
            self.times.truncate(start);
            return found;
        }
        self.by_hash.insert(hash, self.list.len());
        self.list.push(Axis { clock, times: new });
        self.list.len() - 1
    }

    /// Earliest and latest time of the boot clock; zeros if it was not used.
    pub fn span(&self) -> (i64, i64) {
        let boot = self.list.iter().filter(|axis| axis.clock == Clock::Boot);
        let ends = boot.filter_map(|axis| {
            Some((*self.times.get(axis.times.start)?, *self.times[axis.times.clone()].last()?))
        });
        ends.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))).unwrap_or((0, 0))
    }

    /// Fills the axis columns.
    pub fn write(&mut self, to: &mut wire::Columns) {
        let mut before = 0i64;
        for axis in &self.list {
            let times = &self.times[axis.times.clone()];
            let plan = plan(times, &mut self.residuals);
            let clock = match axis.clock {
                Clock::Boot => 0,
                Clock::Device => 1,
            };
            to.axis_form.push(plan.exponent << 4 | clock << 2 | plan.course as u8);
            put(&mut to.axis_count, times.len() as u64);
            put_signed(&mut to.axis_start, times[0].wrapping_sub(before));
            put(&mut to.axis_step, plan.step);
            self.residuals.iter().for_each(|number| put_signed(&mut to.axis_residual, *number));
            before = times[0];
        }
    }

    /// Reads the axes of a batch of `count` readings: all axes together have no more times than that.
    pub fn read(&mut self, columns: &wire::Columns, count: usize) -> Result<(), Flaw> {
        self.clear();
        let mut form = Column::new("axis_form", &columns.axis_form);
        let mut counts = Column::new("axis_count", &columns.axis_count);
        let mut starts = Column::new("axis_start", &columns.axis_start);
        let mut steps = Column::new("axis_step", &columns.axis_step);
        let mut residuals = Column::new("axis_residual", &columns.axis_residual);
        let mut time = 0i64;
        while !form.is_empty() {
            let byte = form.byte()?;
            let exponent = byte >> 4;
            let (clock, course) = match byte & 0x0f {
                0 => (Clock::Boot, Course::Exact),
                1 => (Clock::Boot, Course::Line),
                2 => (Clock::Boot, Course::Walk),
                4 => (Clock::Device, Course::Exact),
                5 => (Clock::Device, Course::Line),
                6 => (Clock::Device, Course::Walk),
                _ => return Err(form.flaw("names an unknown clock or course")),
            };
            if !UNITS.contains(&exponent) {
                return Err(form.flaw("names an unknown unit"));
            }
            let unit = 10i64.pow(exponent.into());
            let length =
                counts.at_most(count - self.times.len(), "claims more times than the batch has readings")?;
            if length == 0 {
                return Err(counts.flaw("holds an axis without times"));
            }
            let start = starts.signed()?.wrapping_add(time);
            let step = steps.unsigned()? as i64;
            let from = self.times.len();
            self.times.push(start);
            let mut line = start;
            let mut last = start;
            for _ in 1..length {
                line = line.wrapping_add(step.wrapping_mul(unit));
                let next = match course {
                    Course::Exact => line,
                    Course::Line => line.wrapping_add(residuals.signed()?.wrapping_mul(unit)),
                    Course::Walk => {
                        last.wrapping_add(step.wrapping_add(residuals.signed()?).wrapping_mul(unit))
                    }
                };
                if next < last {
                    return Err(Flaw { column: "axis_residual", fault: "lets time run backwards" });
                }
                self.times.push(next);
                last = next;
            }
            self.list.push(Axis { clock, times: from..self.times.len() });
            time = start;
        }
        counts.end()?;
        starts.end()?;
        steps.end()?;
        residuals.end()
    }
}

struct Plan {
    course: Course,
    exponent: u8,
    step: u64,
}

/// The cheapest way to write ascending `times`; its residuals are left in `residuals`.
fn plan(times: &[i64], residuals: &mut Vec<i64>) -> Plan {
    residuals.clear();
    let gap = |pair: &[i64]| pair[1].wrapping_sub(pair[0]) as u64;
    let Some(first) = times.get(..2).map(gap) else {
        return Plan { course: Course::Exact, exponent: UNITS[0], step: 0 };
    };
    let gaps = times.windows(2).map(gap);
    let exponent =
        UNITS.into_iter().find(|exponent| gaps.clone().all(|gap| gap % 10u64.pow((*exponent).into()) == 0));
    let exponent = exponent.unwrap_or(0);
    let unit = 10u64.pow(exponent.into());
    if gaps.clone().all(|gap| gap == first) {
        return Plan { course: Course::Exact, exponent, step: first / unit };
    }
    let start = times[0];
    let length = times[times.len() - 1].wrapping_sub(start) as u64 / unit;
    let intervals = times.len() as u64 - 1;
    let step = length / intervals + u64::from(length % intervals * 2 > intervals);
    let off_line = times[1..].iter().zip(1u64..).map(|(time, index)| {
        let place = time.wrapping_sub(start) as u64 / unit;
        place.wrapping_sub(step.wrapping_mul(index)) as i64
    });
    let off_step = gaps.map(|gap| (gap / unit).wrapping_sub(step) as i64);
    let (course, _) = if bits(off_line.clone()) < bits(off_step.clone()) {
        (Course::Line, residuals.extend(off_line))
    } else {
        (Course::Walk, residuals.extend(off_step))
    };
    Plan { course, exponent, step }
}

fn bits(numbers: impl Iterator<Item = i64>) -> u64 {
    numbers.map(|number| u64::from(64 - zigzag(number).leading_zeros())).sum()
}

/// Quick and good enough: equal hashes are compared in full before they count as equal.
fn hash(clock: Clock, times: &[i64]) -> u64 {
    times.iter().fold(times.len() as u64 ^ (clock as u64) << 32, |hash, time| {
        (hash ^ *time as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
    })
}
