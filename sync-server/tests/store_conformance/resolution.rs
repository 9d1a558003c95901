//! What a chart keeps at every resolution: the least and the most, holes, what was no measurement, and no
//! more rows than were asked for.

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay_protocols::reading::{Fault, Quality, Value};
use forebay_server::store::{Grain, Micros, PointKey, Query, Store, Timed};

use crate::place::{NOW, Place, SECOND, agent, batch, delivery_of, float, reading};
use crate::rollups::{DAY, HOUR, LATER, MINUTE, roll_all};

const STEPS: [Micros; 9] =
    [10 * SECOND, MINUTE, 2 * MINUTE, 10 * MINUTE, HOUR, 3 * HOUR, 12 * HOUR, DAY, 7 * DAY];

/// Four days of a reading every 20 s, with a spike and a dip, eleven hours in which nothing came, and two in
/// which the device was silent.
fn four_days() -> Vec<Timed> {
    let mut all = Vec::new();
    for n in 0..4 * DAY / (20 * SECOND) {
        let time = NOW + n * 20 * SECOND + 7;
        let hour = n * 20 * SECOND / HOUR;
        all.extend(match hour {
            20..31 => None,
            40..42 => Some(reading(1, time, None, Quality::Bad(Fault::Silent))),
            _ => Some(float(1, time, (n % 100) as f64)),
        });
    }
    all.push(float(1, NOW + 51 * HOUR + 1, 9_999.0));
    all.push(float(1, NOW + 77 * HOUR + MINUTE + 1, -9_999.0));
    all.sort_by_key(|reading| reading.time);
    all
}

#[derive(Debug, Default, PartialEq)]
struct Wanted {
    count: u64,
    good: u64,
    sum: f64,
    min: Option<f64>,
    max: Option<f64>,
    first: Option<Value>,
    last: Option<Value>,
}

/// What the buckets of `step` must be, straight from the readings.
fn wanted(all: &[Timed], from: Micros, to: Micros, step: Micros) -> BTreeMap<Micros, Wanted> {
    let mut buckets = BTreeMap::<Micros, Wanted>::new();
    for reading in all.iter().filter(|reading| (from..to).contains(&reading.time)) {
        let bucket = buckets.entry(reading.time.div_euclid(step) * step).or_default();
        bucket.count += 1;
        let Some(number) = reading.value.as_ref().and_then(Value::as_number) else { continue };
        bucket.good += 1;
        bucket.sum += number;
        bucket.min = Some(bucket.min.map_or(number, |min| min.min(number)));
        bucket.max = Some(bucket.max.map_or(number, |max| max.max(number)));
        bucket.first = bucket.first.take().or(reading.value.clone());
        bucket.last = reading.value.clone();
    }
    buckets
}

async fn compare(store: &Arc<dyn Store>, point: PointKey, all: &[Timed]) {
    for step in STEPS {
        for (from, to) in [
            (NOW, NOW + 4 * DAY),
            (NOW + 7 * HOUR + 11 * MINUTE + 3, NOW + 90 * HOUR + 8),
            (NOW + 41 * HOUR, NOW + 52 * HOUR + 30 * MINUTE),
            // A hole, and nothing else.
            (NOW + 21 * HOUR, NOW + 30 * HOUR),
        ] {
            let wanted = wanted(all, from, to, step);
            let ask = Query { points: vec![point], from, to, step, most: wanted.len() };
            let rows = store.query(&ask).await.unwrap().remove(0).1;
            let words = format!("{from}..{to} by {step}");
            // As many as there are buckets with readings: a hole is no row, and none is one too many.
            assert_eq!(rows.len(), wanted.len(), "{words}");
            for (row, (time, bucket)) in rows.iter().zip(&wanted) {
                let found = Wanted {
                    count: row.count,
                    good: row.good,
                    sum: row.mean.map_or(0.0, |mean| (mean * row.numbers as f64).round()),
                    min: row.min,
                    max: row.max,
                    first: row.first.clone(),
                    last: row.last.clone(),
                };
                assert_eq!((row.time, &found), (*time, bucket), "{words}");
                // What was no measurement is a row without a number.
                assert_eq!(row.mean.is_none(), bucket.good == 0, "{words}");
            }
            let fewer = Query { most: wanted.len() / 2, ..ask };
            let rows_of_fewer = store.query(&fewer).await.unwrap().remove(0).1;
            assert_eq!(
                rows_of_fewer,
                rows[..wanted.len() / 2],
                "{words}: the earliest, and no more than asked"
            );
        }
    }
}

pub async fn every_resolution_keeps_extremes_holes_and_counts(place: Arc<Place>) {
    let store = place.open().await;
    let agent = agent(&store, "gate").await;
    let all = four_days();
    let receipts = store.ingest(vec![delivery_of(agent, 1, vec![batch(1, all.clone())])]).await.unwrap();
    let point = receipts[0].points[0].1;
    compare(&store, point, &all).await;
    // Some of it rolled up, and then all.
    for grain in Grain::ALL {
        store.roll_up(grain, LATER, 1_000).await.unwrap();
    }
    compare(&store, point, &all).await;
    roll_all(&store, LATER).await;
    compare(&store, point, &all).await;
}
