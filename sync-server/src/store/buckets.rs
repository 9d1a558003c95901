//! Readings of one point, in order of time, gathered into buckets. The one definition of what a
//! bucket is; PostgreSQL computes the same in SQL where it can. Pure.

use forebay_protocols::reading::{Quality, Value};

use super::{Bucket, Micros};

/// Gathers readings; full after `most` rows.
pub struct Buckets {
    step: Micros,
    most: usize,
    done: Vec<Bucket>,
    open: Option<Open>,
}

/// The bucket being filled. Its mean is the sum until it is closed.
struct Open {
    bucket: Bucket,
    sum: f64,
    numbers: u64,
}

impl Buckets {
    /// Buckets of `step`, or each reading for itself where it is zero.
    pub fn new(step: Micros, most: usize) -> Self {
        Self { step: step.max(0), most, done: Vec::new(), open: None }
    }

    /// Adds a reading not earlier than the one before. False: full, and this one was left out.
    pub fn add(&mut self, time: Micros, value: Option<Value>, quality: Quality) -> bool {
        let usable = quality.code() < 128;
        let number = value.as_ref().and_then(Value::as_number).filter(|n| usable && n.is_finite());
        if self.step == 0 {
            if self.done.len() >= self.most {
                return false;
            }
            self.done.push(Bucket {
                time,
                count: 1,
                good: u64::from(quality == Quality::Good),
                min: number,
                max: number,
                mean: number,
                first: value.clone(),
                last: value,
                quality,
            });
            return true;
        }
        let begin = time.div_euclid(self.step).saturating_mul(self.step);
        if self.open.as_ref().is_none_or(|open| open.bucket.time != begin) {
            self.close();
            if self.done.len() >= self.most {
                return false;
            }
        }
        let open = self.open.get_or_insert_with(|| Open::at(begin));
        open.bucket.count += 1;
        open.bucket.good += u64::from(quality == Quality::Good);
        if quality.code() > open.bucket.quality.code() {
            open.bucket.quality = quality;
        }
        if let Some(number) = number {
            open.bucket.min = Some(open.bucket.min.map_or(number, |min| min.min(number)));
            open.bucket.max = Some(open.bucket.max.map_or(number, |max| max.max(number)));
            open.sum += number;
            open.numbers += 1;
        }
        if usable && value.is_some() {
            open.bucket.first = open.bucket.first.take().or_else(|| value.clone());
            open.bucket.last = value;
        }
        true
    }

    /// All rows, by time.
    pub fn finish(mut self) -> Vec<Bucket> {
        self.close();
        self.done
    }

    fn close(&mut self) {
        if let Some(Open { mut bucket, sum, numbers }) = self.open.take() {
            bucket.mean = (numbers > 0).then(|| sum / numbers as f64);
            self.done.push(bucket);
        }
    }
}

impl Open {
    fn at(time: Micros) -> Self {
        Self {
            bucket: Bucket {
                time,
                count: 0,
                good: 0,
                min: None,
                max: None,
                mean: None,
                first: None,
                last: None,
                quality: Quality::Good,
            },
            sum: 0.0,
            numbers: 0,
        }
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
