//! `/statistics`: what the readings of a range come to, exactly. Taken from rollups where these are right.

use axum::Json;
use serde::Deserialize;
use serde_json::{Value, json};

use super::guard::Caller;
use super::parameters::{Parameters, range};
use super::problem::Problem;
use super::query::{floor, ids, nice_step};
use super::words::{now, time, value};
use crate::store::{Bucket, Micros, PointKey, Query};

/// Buckets that a range touches whose length is no shorter than it: two, or a few more where what is left of
/// it are rollups that reach beyond it.
const MOST: usize = 4;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Ids of points, separated by commas.
    points: String,
    /// Default `-1h`.
    from: Option<String>,
    /// Default `now`.
    to: Option<String>,
}

pub(super) async fn statistics(
    caller: Caller,
    Parameters(Wanted { points, from, to }): Parameters<Wanted>,
) -> Result<Json<Value>, Problem> {
    let (from, to) = range(from.as_deref().unwrap_or("-1h"), to.as_deref().unwrap_or("now"), now())?;
    let points = ids(&points)?;
    let series: Vec<Value> =
        gathered(&caller, &points, from, to).await?.iter().map(|(key, all)| series(*key, all)).collect();
    Ok(Json(json!({ "from": time(from), "to": time(to), "series": series })))
}

fn series(key: PointKey, all: &[Bucket]) -> Value {
    let numbers: u64 = all.iter().map(|bucket| bucket.numbers).sum();
    let sum = |bucket: &Bucket| bucket.mean.unwrap_or_default() * bucket.numbers as f64;
    let mean = (numbers > 0).then(|| all.iter().map(sum).sum::<f64>() / numbers as f64);
    json!({
        "id": key.0,
        "count": count(all),
        "good": all.iter().map(|bucket| bucket.good).sum::<u64>(),
        "numbers": numbers,
        "min": all.iter().filter_map(|bucket| bucket.min).reduce(f64::min),
        "mean": mean.filter(|mean| mean.is_finite()),
        "max": all.iter().filter_map(|bucket| bucket.max).reduce(f64::max),
        "first": value(all.iter().find_map(|bucket| bucket.first.as_ref())),
        "last": value(all.iter().rev().find_map(|bucket| bucket.last.as_ref())),
    })
}

/// Readings in some buckets.
pub(super) fn count(all: &[Bucket]) -> u64 {
    all.iter().map(|bucket| bucket.count).sum()
}

/// The few buckets that make up the range, point by point.
pub(super) async fn gathered(
    caller: &Caller,
    points: &[PointKey],
    from: Micros,
    to: Micros,
) -> Result<Vec<(PointKey, Vec<Bucket>)>, Problem> {
    let floor = floor(from, &caller.store.horizons(points).await?);
    whole(caller, points, from, to, floor).await
}

/// The same, where the shortest step that the range can be answered with is known.
pub(super) async fn whole(
    caller: &Caller,
    points: &[PointKey],
    from: Micros,
    to: Micros,
    floor: Micros,
) -> Result<Vec<(PointKey, Vec<Bucket>)>, Problem> {
    let step = nice_step(to - from, 2).max(floor);
    Ok(caller.store.query(&Query { points: points.to_vec(), from, to, step, most: MOST }).await?)
}

#[cfg(test)]
mod tests {
    use forebay_protocols::reading::{Quality, Value as Reading};

    use super::*;

    fn bucket(time: Micros, numbers: u64, mean: f64) -> Bucket {
        Bucket {
            time,
            count: numbers + 1,
            good: numbers,
            min: Some(mean - 1.0),
            max: Some(mean + 1.0),
            mean: Some(mean),
            first: Some(Reading::Float(mean)),
            last: Some(Reading::Float(mean)),
            numbers,
            quality: Quality::Good,
        }
    }

    #[test]
    fn a_mean_weighs_each_part_by_its_numbers() {
        let found = series(PointKey(7), &[bucket(0, 1, 10.0), bucket(1, 3, 2.0)]);
        assert_eq!((&found["mean"], &found["count"], &found["numbers"]), (&json!(4.0), &json!(6), &json!(4)));
        assert_eq!((&found["min"], &found["max"]), (&json!(1.0), &json!(11.0)));
        assert_eq!((&found["first"], &found["last"]), (&json!(10.0), &json!(2.0)));
        let nothing = series(PointKey(7), &[]);
        assert_eq!((&nothing["mean"], &nothing["count"]), (&Value::Null, &json!(0)));
    }
}
