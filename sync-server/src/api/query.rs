//! `/query`: readings over a time range. Where there are more than `max_points` a point, they are
//! gathered into buckets that keep minimum and maximum, so that spikes stay visible.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Api;
use super::parameters::{Parameters, range, within};
use super::problem::Problem;
use super::words::{millis, now, quality_class, time, value};
use crate::store::{Bucket, Grain, Horizons, Micros, PointKey, Query};

const MOST_SERIES: usize = 50;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Ids of points, separated by commas.
    pub points: String,
    /// Default `-1h`.
    pub from: Option<String>,
    /// Default `now`.
    pub to: Option<String>,
    /// At most so many rows a point.
    pub max_points: Option<usize>,
}

/// Readings or buckets of points, as they were asked for.
pub(super) struct Found {
    pub from: Micros,
    pub to: Micros,
    /// Length of a bucket; 0: each row is a reading.
    pub step: Micros,
    pub series: Vec<(PointKey, Vec<Bucket>)>,
}

pub(super) async fn query(
    State(api): State<Api>,
    Parameters(wanted): Parameters<Wanted>,
) -> Result<Json<Value>, Problem> {
    let Found { from, to, step, series } = find(&api, wanted).await?;
    let series: Vec<Value> = series
        .iter()
        .map(|(key, rows)| json!({ "id": key.0, "rows": rows.iter().map(row).collect::<Vec<_>>() }))
        .collect();
    Ok(Json(json!({
        "from": time(from), "to": time(to), "step_ms": millis(step),
        "columns": ["time_ms", "mean", "min", "max", "count", "quality", "last", "good"],
        "series": series,
    })))
}

/// At the resolution that fits.
pub(super) async fn find(api: &Api, wanted: Wanted) -> Result<Found, Problem> {
    let Wanted { points, from, to, max_points } = wanted;
    let (from, to) = range(from.as_deref().unwrap_or("-1h"), to.as_deref().unwrap_or("now"), now())?;
    let most = within("max_points", max_points, 500, 2..=10_000)?;
    let points = ids(&points)?;

    // Where readings are gone, rollups answer, and no finer than they are.
    let floor = floor(from, &api.store.horizons(&points).await?);
    // One more than asked for tells whether everything fits.
    let raw = Query { points, from, to, step: 0, most: most + 1 };
    let (mut step, mut series) = (0, Vec::new());
    if floor == 0 {
        series = api.store.query(&raw).await?;
    }
    if floor > 0 || series.iter().any(|(_, rows)| rows.len() > most) {
        step = nice_step(to - from, most).max(floor);
        series = api.store.query(&Query { step, most, ..raw }).await?;
    }
    Ok(Found { from, to, step, series })
}

/// The shortest step that what is left since `from` can answer.
pub(super) fn floor(from: Micros, horizons: &Horizons) -> Micros {
    match from {
        from if from < horizons.hours => Grain::Days.length(),
        from if from < horizons.minutes => Grain::Hours.length(),
        from if from < horizons.readings => Grain::Minutes.length(),
        _ => 0,
    }
}

fn row(bucket: &Bucket) -> Value {
    json!([
        millis(bucket.time),
        bucket.mean,
        bucket.min,
        bucket.max,
        bucket.count,
        quality_class(bucket.quality),
        value(bucket.last.as_ref()),
        bucket.good,
    ])
}

pub(super) fn ids(text: &str) -> Result<Vec<PointKey>, Problem> {
    let found: Result<Vec<PointKey>, _> = text.split(',').map(|id| id.trim().parse().map(PointKey)).collect();
    match found {
        Ok(ids) if ids.len() <= MOST_SERIES => Ok(ids),
        Ok(ids) => {
            let words = format!(
                "points: {} are more than one query takes; ask for {MOST_SERIES} at a time",
                ids.len()
            );
            Err(Problem::BadRequest(words))
        }
        Err(_) => Err(Problem::BadRequest(format!(
            "points: `{text}` is not a list of ids, separated by commas; /api/v1/points tells the ids"
        ))),
    }
}

/// The least step people know (1, 2, 5, 10, 15, 30 of a unit) that gives at most `most` buckets,
/// counting one more for a range that does not begin at a multiple of the step.
pub(super) fn nice_step(range: Micros, most: usize) -> Micros {
    const SECOND: Micros = 1_000_000;
    const DAY: Micros = 86_400 * SECOND;
    const STEPS: [Micros; 26] = [
        SECOND / 100,
        SECOND / 10,
        SECOND / 5,
        SECOND / 2,
        SECOND,
        2 * SECOND,
        5 * SECOND,
        10 * SECOND,
        15 * SECOND,
        30 * SECOND,
        60 * SECOND,
        120 * SECOND,
        300 * SECOND,
        600 * SECOND,
        900 * SECOND,
        1_800 * SECOND,
        3_600 * SECOND,
        7_200 * SECOND,
        10_800 * SECOND,
        21_600 * SECOND,
        43_200 * SECOND,
        86_400 * SECOND,
        2 * 86_400 * SECOND,
        7 * 86_400 * SECOND,
        30 * 86_400 * SECOND,
        365 * 86_400 * SECOND,
    ];
    let least = range / (most as Micros - 1).max(1) + 1;
    // Beyond, whole days: no rollup fits another length.
    STEPS.into_iter().find(|step| *step >= least).unwrap_or((least / DAY + 1).saturating_mul(DAY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_never_touches_more_buckets_than_asked_for() {
        for range in [1, 999, 1_000_000, 3_600_000_000, 86_400_000_000 * 400, i64::MAX / 4] {
            for most in [2, 3, 500, 10_000] {
                let step = nice_step(range, most);
                // It touches the most when it begins with the last microsecond of a bucket.
                let touched = (step - 1 + range - 1) / step + 1;
                assert!(touched <= most as i64, "{range} by {step} touches {touched} of {most}");
            }
        }
    }

    #[test]
    fn what_retention_left_bounds_the_step_from_below() {
        let horizons = Horizons { readings: 300, minutes: 200, hours: 100 };
        let floors = [300, 299, 199, 99].map(|from| floor(from, &horizons) / 1_000_000);
        assert_eq!(floors, [0, 60, 3_600, 86_400]);
    }

    #[test]
    fn ids_are_numbers() {
        assert_eq!(ids("1, 2").expect("ids"), [PointKey(1), PointKey(2)]);
        assert!(ids("").is_err());
        assert!(ids("1;drop table").is_err());
    }
}
