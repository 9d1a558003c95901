//! Readings of one point, in order of time, gathered into buckets. The one definition of what a
//! bucket is; PostgreSQL computes the same in SQL where it can. Pure.

use forebay_protocols::reading::{Quality, Value};

use super::rollups::{Rolled, number};
use super::{Bucket, Micros};

/// Gathers readings; full after `most` rows.
pub struct Buckets {
    step: Micros,
    most: usize,
    done: Vec<Bucket>,
    open: Option<Rolled>,
}

impl Buckets {
    /// Buckets of `step`, or each reading for itself where it is zero.
    pub fn new(step: Micros, most: usize) -> Self {
        Self { step: step.max(0), most, done: Vec::new(), open: None }
    }

    /// Length of a bucket; 0: each reading is a row.
    pub fn step(&self) -> Micros {
        self.step
    }

    /// The most rows.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Adds a reading not earlier than the one before. False: full, and this one was left out.
    pub fn add(&mut self, time: Micros, value: Option<Value>, quality: Quality) -> bool {
        if self.step == 0 {
            if self.done.len() >= self.most {
                return false;
            }
            let number = number(value.as_ref(), quality);
            self.done.push(Bucket {
                time,
                count: 1,
                good: u64::from(quality == Quality::Good),
                min: number,
                max: number,
                mean: number,
                first: value.clone(),
                last: value,
                numbers: u64::from(number.is_some()),
                quality,
            });
            return true;
        }
        let Some(open) = self.open_at(time) else { return false };
        open.add(value, quality);
        true
    }

    /// Adds what readings came to in a part of a bucket not earlier than the one before.
    pub fn add_rolled(&mut self, rolled: Rolled) -> bool {
        let Some(open) = self.open_at(rolled.time) else { return false };
        open.follow(rolled);
        true
    }

    /// All rows, by time.
    pub fn finish(mut self) -> Vec<Bucket> {
        self.close();
        self.done
    }

    fn open_at(&mut self, time: Micros) -> Option<&mut Rolled> {
        let begin = time.div_euclid(self.step).saturating_mul(self.step);
        if self.open.as_ref().is_none_or(|open| open.time != begin) {
            self.close();
            if self.done.len() >= self.most {
                return None;
            }
        }
        Some(self.open.get_or_insert_with(|| Rolled::at(begin)))
    }

    fn close(&mut self) {
        self.done.extend(self.open.take().map(Rolled::bucket));
    }
}

#[cfg(test)]
mod tests {
    use forebay_protocols::reading::Fault;

    use super::*;

    #[test]
    fn bad_and_endless_values_count_but_do_not_weigh() {
        let mut buckets = Buckets::new(10, 5);
        buckets.add(10, Some(Value::Float(1.0)), Quality::Good);
        buckets.add(11, Some(Value::Float(99.0)), Quality::Bad(Fault::Silent));
        buckets.add(12, Some(Value::Float(f64::INFINITY)), Quality::Good);
        buckets.add(19, Some(Value::Integer(3)), Quality::Good);
        buckets.add(20, None, Quality::Bad(Fault::Silent));
        let rows = buckets.finish();
        assert_eq!((rows[0].time, rows[0].count, rows[0].good), (10, 4, 3));
        assert_eq!((rows[0].min, rows[0].max, rows[0].mean), (Some(1.0), Some(3.0), Some(2.0)));
        assert_eq!((&rows[0].first, &rows[0].last), (&Some(Value::Float(1.0)), &Some(Value::Integer(3))));
        assert_eq!((rows[1].time, rows[1].count, rows[1].mean), (20, 1, None));
        assert_eq!(rows[1].quality, Quality::Bad(Fault::Silent));
    }

    #[test]
    fn full_buckets_take_no_more() {
        let mut buckets = Buckets::new(10, 1);
        assert!(buckets.add(-5, Some(Value::Boolean(true)), Quality::Good));
        assert!(buckets.add(-1, Some(Value::Boolean(false)), Quality::Good));
        assert!(!buckets.add(0, Some(Value::Boolean(true)), Quality::Good));
        let rows = buckets.finish();
        assert_eq!((rows.len(), rows[0].time, rows[0].mean), (1, -10, Some(0.5)));
        let mut each = Buckets::new(0, 1);
        assert!(each.add(1, None, Quality::Good) && !each.add(2, None, Quality::Good));
    }
}
