//! What happens to samples between the driver and the batcher (DESIGN, 5). Pure.
//!
//! Scale and offset are the drivers' (they know the raw type). Here readings become windows
//! (`window`), are rounded, and those that say nothing new are left out (`filter`), by the first rule
//! of `[processing.NAME]` that names their point. What is left out is counted, so that the ledger
//! closes. A reading with bad quality is never part of a window and is news whenever the quality is.
//!
//! What a window or a `min_interval` holds back is in memory: it is in hand, not kept yet.

mod filter;
mod window;

use std::sync::Arc;

use forebay_config::processing::{Keep, Rule};
use forebay_protocols::boot_time::BootTime;
use forebay_protocols::field::source::Sample;
use forebay_protocols::reading::{DataType, Point};

use self::filter::Screen;
use self::window::Span;

/// Samples that go on, and how many do not.
#[derive(Debug, Default, PartialEq)]
pub struct Processed {
    /// Points that are new with this; they take the slots from `first_slot` on.
    pub points: Vec<Arc<Point>>,
    /// How many there were before, if there are new ones.
    pub first_slot: usize,
    /// What the batcher gets, by the slots of those points.
    pub samples: Vec<Sample>,
    /// Taken from the field, and made of what was: a window may give more readings than it took.
    pub produced: u64,
    /// Left out on purpose; some of them were taken in hand earlier.
    pub filtered: u64,
    /// Of a point the source does not have: a fault of the driver, never of the plant.
    pub misplaced: u64,
}

/// The readings of one link on their way.
#[derive(Debug)]
pub struct Processing {
    rules: Arc<[Rule]>,
    /// By the source's slots.
    courses: Vec<Course>,
    /// Points that readings are handed over of.
    points: usize,
    /// Nothing that is held back is due before.
    due: Option<BootTime>,
}

/// What becomes of one point's readings.
#[derive(Debug)]
struct Course {
    /// The slot of the first of its own points.
    first: usize,
    /// `None` for most: what no rule names is to cost next to nothing.
    steps: Option<Box<Steps>>,
}

/// What a rule makes of a point's readings.
#[derive(Debug)]
struct Steps {
    first: usize,
    span: Option<Span>,
    /// One for each of the point's own.
    screens: Vec<Screen>,
}

impl Processing {
    /// For a link that has told nothing yet.
    pub fn new(rules: Arc<[Rule]>) -> Self {
        Self { rules, courses: Vec::new(), points: 0, due: None }
    }

    /// When something that is held back goes on though nothing arrives.
    pub fn due(&self) -> Option<BootTime> {
        self.due
    }

    /// Takes what one harvest brought; `known` are the points of the source by now.
    pub fn take(&mut self, samples: Vec<Sample>, known: &[Point], now: BootTime) -> Processed {
        let mut out = Processed { first_slot: self.points, ..Processed::default() };
        for point in known.iter().skip(self.courses.len()) {
            self.meet(point, &mut out.points);
        }
        out.samples.reserve(samples.len());
        for sample in samples {
            let Some(course) = self.courses.get_mut(sample.slot) else {
                out.misplaced += 1;
                continue;
            };
            out.produced += 1;
            let due = course.take(sample, now, &mut out);
            self.due = [self.due, due].into_iter().flatten().min();
        }
        out
    }

    /// What is due by now.
    pub fn release(&mut self, now: BootTime) -> Processed {
        self.release_until(now, now)
    }

    /// Everything that is held back.
    pub fn release_all(&mut self, now: BootTime) -> Processed {
        self.release_until(BootTime(i64::MAX), now)
    }

    fn release_until(&mut self, until: BootTime, now: BootTime) -> Processed {
        let mut out = Processed::default();
        if self.due.is_none_or(|due| until < due) {
            return out;
        }
        let steps = self.courses.iter_mut().filter_map(|course| course.steps.as_mut());
        self.due = steps.filter_map(|steps| steps.release(until, now, &mut out)).min();
        out
    }

    fn meet(&mut self, point: &Point, new: &mut Vec<Arc<Point>>) {
        let rule = self.rules.iter().find(|rule| rule.holds(&point.device, &point.name));
        let (first, before) = (self.points, new.len());
        let window = rule.and_then(|rule| rule.window.as_ref());
        match window.map(|window| window.keep.as_slice()).unwrap_or_default() {
            [] => new.push(Arc::new(point.clone())),
            [one] => new.push(Arc::new(of_window(point, *one, point.name.clone()))),
            several => new.extend(several.iter().map(|kind| {
                Arc::new(of_window(point, *kind, format!("{}.{}", point.name, kind.word()).into()))
            })),
        }
        let own = new.len() - before;
        self.points += own;
        let steps = rule.map(|rule| {
            let screens = (0..own).map(|_| Screen::new(rule)).collect();
            Box::new(Steps { first, span: window.map(Span::new), screens })
        });
        self.courses.push(Course { first, steps });
    }
}

impl Course {
    /// Says when what is now held back is due.
    fn take(&mut self, mut sample: Sample, now: BootTime, out: &mut Processed) -> Option<BootTime> {
        if let Some(steps) = &mut self.steps {
            return steps.take(sample, now, out);
        }
        sample.slot = self.first;
        out.samples.push(sample);
        None
    }
}

impl Steps {
    fn take(&mut self, mut sample: Sample, now: BootTime, out: &mut Processed) -> Option<BootTime> {
        let Some(span) = &mut self.span else {
            sample.slot = self.first;
            return self.screens.first_mut().and_then(|screen| screen.offer(sample, now, out));
        };
        let closed = span.take(sample, now, self.screens.len(), out);
        let due = span.due();
        self.screen(closed, now, out).into_iter().chain(due).min()
    }

    /// Lets go on what is due until then. Says when the rest is.
    fn release(&mut self, until: BootTime, now: BootTime, out: &mut Processed) -> Option<BootTime> {
        let mut due = None;
        if let Some(span) = &mut self.span {
            let closed = span.close_if_due(until, self.screens.len(), out);
            due = span.due();
            self.screen(closed, now, out);
        }
        let held = self.screens.iter_mut().filter_map(|screen| screen.release(until, now, out)).min();
        [due, held].into_iter().flatten().min()
    }

    /// Sets of readings, one for each point of the course, in order.
    fn screen(&mut self, sets: Vec<Sample>, now: BootTime, out: &mut Processed) -> Option<BootTime> {
        let each = self.screens.len();
        let mut due = None;
        for (place, mut sample) in sets.into_iter().enumerate() {
            let nth = place % each;
            sample.slot = self.first + nth;
            due = self.screens[nth].offer(sample, now, out).into_iter().chain(due).min();
        }
        due
    }
}

/// The point that takes what is kept of a window.
fn of_window(point: &Point, kind: Keep, name: Arc<str>) -> Point {
    let (data_type, unit) = match (kind, point.data_type) {
        (Keep::Count, _) => (DataType::Integer, "".into()),
        (Keep::Mean, DataType::Integer | DataType::Boolean) => (DataType::Float, point.unit.clone()),
        (_, data_type) => (data_type, point.unit.clone()),
    };
    Point { name, data_type, unit, ..point.clone() }
}

#[cfg(test)]
mod tests;
