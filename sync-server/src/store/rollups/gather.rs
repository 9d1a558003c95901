//! What the readings of a bucket come to: the one definition, for charts and for rollups. Pure.

use std::collections::HashMap;

use forebay_protocols::reading::{Quality, Value};

use super::super::{Bucket, Micros, PointKey};
use super::{Grain, Horizons, Made};

/// What is kept of the readings in a bucket.
#[derive(Clone, Debug, PartialEq)]
pub struct Rolled {
    /// The bucket's beginning.
    pub time: Micros,
    /// Readings of any quality.
    pub count: u64,
    /// Readings of good quality.
    pub good: u64,
    /// Numbers in `sum`, `min` and `max`: finite, of good or uncertain quality.
    pub numbers: u64,
    /// The worst quality.
    pub quality: Quality,
    /// Of `numbers`; infinite where it is too large for a float.
    pub sum: f64,
    /// The smallest.
    pub min: Option<f64>,
    /// The largest.
    pub max: Option<f64>,
    /// The earliest value of good or uncertain quality.
    pub first: Option<Value>,
    /// The latest one.
    pub last: Option<Value>,
}

impl Rolled {
    /// Without readings.
    pub fn at(time: Micros) -> Self {
        Self {
            time,
            count: 0,
            good: 0,
            numbers: 0,
            quality: Quality::Good,
            sum: 0.0,
            min: None,
            max: None,
            first: None,
            last: None,
        }
    }

    /// Adds a reading that is not earlier than those before.
    pub fn add(&mut self, value: Option<Value>, quality: Quality) {
        self.weigh(value.as_ref(), quality);
        if is_told(value.as_ref(), quality) {
            self.first = self.first.take().or_else(|| value.clone());
            self.last = value;
        }
    }

    /// Adds all readings of a later bucket.
    pub fn follow(&mut self, later: Self) {
        self.weigh_all(&later);
        self.first = self.first.take().or(later.first);
        self.last = later.last.or_else(|| self.last.take());
    }

    /// As a row of a chart.
    pub fn bucket(self) -> Bucket {
        let Self { time, count, good, numbers, quality, sum, min, max, first, last } = self;
        let mean = (numbers > 0).then(|| sum / numbers as f64);
        Bucket { time, count, good, min, max, mean, first, last, numbers, quality }
    }

    fn weigh(&mut self, value: Option<&Value>, quality: Quality) {
        self.count += 1;
        self.good += u64::from(quality == Quality::Good);
        if quality.code() > self.quality.code() {
            self.quality = quality;
        }
        if let Some(number) = number(value, quality) {
            self.numbers += 1;
            self.sum += number;
            self.min = Some(self.min.map_or(number, |min| min.min(number)));
            self.max = Some(self.max.map_or(number, |max| max.max(number)));
        }
    }

    fn weigh_all(&mut self, other: &Self) {
        self.count += other.count;
        self.good += other.good;
        self.numbers += other.numbers;
        self.sum += other.sum;
        if other.quality.code() > self.quality.code() {
            self.quality = other.quality;
        }
        let either = |one: Option<f64>, other: Option<f64>, of: fn(f64, f64) -> f64| match (one, other) {
            (Some(one), Some(other)) => Some(of(one, other)),
            (one, other) => one.or(other),
        };
        self.min = either(self.min, other.min, f64::min);
        self.max = either(self.max, other.max, f64::max);
    }
}

/// The number that weighs, if the reading has one.
pub fn number(value: Option<&Value>, quality: Quality) -> Option<f64> {
    let usable = quality.code() < 128;
    value.and_then(Value::as_number).filter(|number| usable && number.is_finite())
}

fn is_told(value: Option<&Value>, quality: Quality) -> bool {
    quality.code() < 128 && value.is_some()
}

/// Gathers rows of several points, in any order, into buckets of a grain.
#[derive(Debug)]
pub struct Gatherer {
    grain: Grain,
    open: HashMap<(PointKey, i64), Open>,
}

/// A bucket, and when its first and last value were measured.
#[derive(Debug)]
struct Open {
    rolled: Rolled,
    first_at: Micros,
    last_at: Micros,
}

impl Gatherer {
    /// Without rows.
    pub fn new(grain: Grain) -> Self {
        Self { grain, open: HashMap::new() }
    }

    /// Adds a reading.
    pub fn reading(&mut self, point: PointKey, time: Micros, value: Option<Value>, quality: Quality) {
        let open = self.open(point, time);
        open.rolled.weigh(value.as_ref(), quality);
        if is_told(value.as_ref(), quality) {
            open.tell(time, value.clone(), value);
        }
    }

    /// Adds a bucket of the next finer grain.
    pub fn rolled(&mut self, point: PointKey, finer: Rolled) {
        let open = self.open(point, finer.time);
        open.rolled.weigh_all(&finer);
        if finer.last.is_some() {
            open.tell(finer.time, finer.first, finer.last);
        }
    }

    /// What there is to write. `horizons` tell where retention has been.
    pub fn finish(self, horizons: &HashMap<PointKey, Horizons>) -> Vec<Made> {
        let grain = self.grain;
        let made = |((point, _), open): ((PointKey, i64), Open)| {
            let horizon = horizons.get(&point).map_or(0, |horizons| horizons.below(grain));
            Made { point, added: open.rolled.time < horizon, rolled: open.rolled }
        };
        let mut all: Vec<Made> = self.open.into_iter().map(made).collect();
        all.sort_unstable_by_key(|made| (made.point, made.rolled.time));
        all
    }

    fn open(&mut self, point: PointKey, time: Micros) -> &mut Open {
        let number = time.div_euclid(self.grain.length());
        let begin = number * self.grain.length();
        let new = || Open { rolled: Rolled::at(begin), first_at: Micros::MAX, last_at: Micros::MIN };
        self.open.entry((point, number)).or_insert_with(new)
    }
}

impl Open {
    fn tell(&mut self, time: Micros, first: Option<Value>, last: Option<Value>) {
        if time < self.first_at {
            (self.first_at, self.rolled.first) = (time, first);
        }
        if time >= self.last_at {
            (self.last_at, self.rolled.last) = (time, last);
        }
    }
}
