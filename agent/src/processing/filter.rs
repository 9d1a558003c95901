//! Rounding, and leaving out what says nothing new.

use forebay_config::field::Deadband;
use forebay_config::processing::{Changes, Filter, Rule};
use forebay_protocols::boot_time::BootTime;
use forebay_protocols::field::source::Sample;
use forebay_protocols::reading::{Quality, Value};

use super::Processed;

/// What stands between a point and the batcher.
#[derive(Debug)]
pub(super) struct Screen {
    round: Option<f64>,
    filter: Filter,
    last: Option<Passed>,
    /// Too soon after the last.
    held: Option<Sample>,
}

/// The reading that went on last.
#[derive(Debug)]
struct Passed {
    value: Option<Value>,
    quality: Quality,
    at: BootTime,
}

impl Screen {
    pub(super) fn new(rule: &Rule) -> Self {
        Self { round: rule.round, filter: rule.filter, last: None, held: None }
    }

    /// The next reading. Says when it is due if it is held back.
    pub(super) fn offer(
        &mut self,
        mut sample: Sample,
        now: BootTime,
        out: &mut Processed,
    ) -> Option<BootTime> {
        if let (Some(step), Some(value)) = (self.round, &mut sample.value) {
            round(value, step);
        }
        if self.filter == Filter::default() {
            out.samples.push(sample);
            return None;
        }
        // Whatever is held back is older than this one.
        out.filtered += u64::from(self.held.take().is_some());
        let Some(last) = &self.last else {
            self.pass(sample, now, out);
            return None;
        };
        let same_quality = last.quality == sample.quality;
        if same_quality && self.filter.changes.is_some_and(|changes| !last.differs(&sample, changes, now)) {
            out.filtered += 1;
            return None;
        }
        let due = self.filter.min_interval.map(|least| after(last.at, least)).filter(|due| *due > now);
        if due.is_some() && same_quality {
            self.held = Some(sample);
            return due;
        }
        self.pass(sample, now, out);
        None
    }

    /// Lets go on what is due until then. Says when it is due if it is not.
    pub(super) fn release(
        &mut self,
        until: BootTime,
        now: BootTime,
        out: &mut Processed,
    ) -> Option<BootTime> {
        let held = self.held.take()?;
        let last = self.last.as_ref().map_or(now, |last| last.at);
        let due = after(last, self.filter.min_interval.unwrap_or_default());
        if due > until {
            self.held = Some(held);
            return Some(due);
        }
        self.pass(held, now, out);
        None
    }

    fn pass(&mut self, sample: Sample, now: BootTime, out: &mut Processed) {
        self.last = Some(Passed { value: sample.value.clone(), quality: sample.quality, at: now });
        out.samples.push(sample);
    }
}

impl Passed {
    /// Is this one news, of the same quality?
    fn differs(&self, sample: &Sample, Changes { deadband, max_silence }: Changes, now: BootTime) -> bool {
        if now.since(self.at) >= max_silence {
            return true;
        }
        let numbers = |value: &Option<Value>| value.as_ref().and_then(Value::as_number);
        match (deadband, numbers(&self.value), numbers(&sample.value)) {
            // Out of NaN, or into it.
            (Some(_), Some(old), Some(new)) if old.is_nan() || new.is_nan() => old.is_nan() != new.is_nan(),
            (Some(Deadband::Absolute(width)), Some(old), Some(new)) => (new - old).abs() > width,
            (Some(Deadband::Percent(percent)), Some(old), Some(new)) => {
                (new - old).abs() > old.abs() * percent / 100.0
            }
            _ => !same(&self.value, &sample.value),
        }
    }
}

/// Bit for bit, so that NaN is NaN.
fn same(old: &Option<Value>, new: &Option<Value>) -> bool {
    match (old, new) {
        (Some(Value::Float(old)), Some(Value::Float(new))) => old.to_bits() == new.to_bits(),
        _ => old == new,
    }
}

fn after(at: BootTime, pause: std::time::Duration) -> BootTime {
    BootTime(at.0.saturating_add(i64::try_from(pause.as_micros()).unwrap_or(i64::MAX)))
}

/// To the nearest multiple of `step`: of a tenth the number that people write so, 0.3 and not
/// 0.30000000000000004, which also packs best.
fn round(value: &mut Value, step: f64) {
    match value {
        Value::Float(number) => {
            let parts = 1.0 / step;
            let whole = parts.round();
            let rounded = if whole >= 1.0 && (parts - whole).abs() < 1e-9 * whole {
                (*number * whole).round() / whole
            } else {
                (*number / step).round() * step
            };
            // A number so large that its multiples cannot be told apart stays as it is.
            if rounded.is_finite() {
                *number = rounded;
            }
        }
        Value::Integer(number) if (2.0..=9e15).contains(&step) => {
            let step = step.round() as i128;
            let number_wide = i128::from(*number);
            let rest = number_wide.rem_euclid(step);
            let rounded = if rest * 2 >= step { number_wide - rest + step } else { number_wide - rest };
            *number = i64::try_from(rounded).unwrap_or(*number);
        }
        Value::Integer(_) | Value::Boolean(_) | Value::Text(_) => {}
    }
}
