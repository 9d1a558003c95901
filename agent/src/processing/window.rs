//! Readings of a span of time become a few.

use std::sync::Arc;

use forebay_config::processing::{Keep, Window};
use forebay_protocols::boot_time::BootTime;
use forebay_protocols::field::source::Sample;
use forebay_protocols::reading::{Clock, Quality, Value};

use super::Processed;

/// The window of a point, over and over.
#[derive(Debug)]
pub(super) struct Span {
    length_us: i64,
    keep: Arc<[Keep]>,
    open: Option<Open>,
}

/// The readings of a window that is not over.
#[derive(Debug)]
struct Open {
    /// Which window of its clock it is.
    number: i64,
    clock: Clock,
    /// It is over by then even if nothing arrives.
    due: BootTime,
    first: Sample,
    last: Sample,
    lowest: Option<(f64, Sample)>,
    highest: Option<(f64, Sample)>,
    sum: f64,
    numbers: u64,
    count: u64,
    /// The worst of all.
    quality: Quality,
}

impl Span {
    pub(super) fn new(window: &Window) -> Self {
        let length_us = i64::try_from(window.length.as_micros()).unwrap_or(i64::MAX).max(1);
        Self { length_us, keep: window.keep.clone().into(), open: None }
    }

    /// When the open window is over.
    pub(super) fn due(&self) -> Option<BootTime> {
        self.open.as_ref().map(|open| open.due)
    }

    /// Takes a reading. What came of the windows that it ends, in sets of `each`; one that is no
    /// measurement goes on itself, once for each point.
    pub(super) fn take(
        &mut self,
        sample: Sample,
        now: BootTime,
        each: usize,
        out: &mut Processed,
    ) -> Vec<Sample> {
        let measured = sample.value.is_some() && !matches!(sample.quality, Quality::Bad(_));
        if !measured {
            let mut closed = self.close(each, out);
            out.produced += (each as u64).saturating_sub(1);
            closed.extend(std::iter::repeat_n(sample, each));
            return closed;
        }
        let number = sample.stamp.micros.div_euclid(self.length_us);
        let goes_on =
            self.open.as_ref().is_some_and(|open| open.clock == sample.stamp.clock && number <= open.number);
        let closed = if goes_on { Vec::new() } else { self.close(each, out) };
        match &mut self.open {
            Some(open) => open.add(sample),
            None => {
                let due = BootTime(now.0.saturating_add(self.length_us));
                self.open = Some(Open::new(number, due, sample));
            }
        }
        closed
    }

    /// What came of the open window, if it is over until then.
    pub(super) fn close_if_due(&mut self, until: BootTime, each: usize, out: &mut Processed) -> Vec<Sample> {
        if self.due().is_some_and(|due| due <= until) { self.close(each, out) } else { Vec::new() }
    }

    fn close(&mut self, each: usize, out: &mut Processed) -> Vec<Sample> {
        let Some(open) = self.open.take() else { return Vec::new() };
        let each = each as u64;
        out.filtered += open.count.saturating_sub(each);
        out.produced += each.saturating_sub(open.count);
        self.keep.iter().map(|kind| open.kept(*kind)).collect()
    }
}

impl Open {
    fn new(number: i64, due: BootTime, sample: Sample) -> Self {
        let mut open = Self {
            number,
            clock: sample.stamp.clock,
            due,
            first: sample.clone(),
            last: sample.clone(),
            lowest: None,
            highest: None,
            sum: 0.0,
            numbers: 0,
            count: 0,
            quality: Quality::Good,
        };
        open.add(sample);
        open
    }

    fn add(&mut self, sample: Sample) {
        self.count += 1;
        if sample.quality.code() > self.quality.code() {
            self.quality = sample.quality;
        }
        if let Some(number) = sample.value.as_ref().and_then(Value::as_number).filter(|n| !n.is_nan()) {
            self.numbers += 1;
            self.sum += number;
            if self.lowest.as_ref().is_none_or(|(lowest, _)| number < *lowest) {
                self.lowest = Some((number, sample.clone()));
            }
            if self.highest.as_ref().is_none_or(|(highest, _)| number > *highest) {
                self.highest = Some((number, sample.clone()));
            }
        }
        self.last = sample;
    }

    /// Where there is no number, text for one, the last reading stands for the lowest, highest and mean.
    fn kept(&self, kind: Keep) -> Sample {
        let of = |extreme: &Option<(f64, Sample)>| {
            extreme.as_ref().map_or_else(|| self.last.clone(), |(_, sample)| sample.clone())
        };
        let made = |value: Value| Sample { value: Some(value), ..self.last.clone() };
        let sample = match kind {
            Keep::First => self.first.clone(),
            Keep::Last => self.last.clone(),
            Keep::Min => of(&self.lowest),
            Keep::Max => of(&self.highest),
            Keep::Mean if self.numbers == 0 => self.last.clone(),
            Keep::Mean => made(Value::Float(self.sum / self.numbers as f64)),
            Keep::Count => made(Value::Integer(i64::try_from(self.count).unwrap_or(i64::MAX))),
        };
        Sample { quality: self.quality, ..sample }
    }
}
