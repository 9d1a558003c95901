//! `/query`: readings over a time range. Where there are more than `max_points` a point, they are
//! gathered into buckets that keep minimum and maximum, so that spikes stay visible.

use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::json;

use super::guard::Caller;
use super::parameters::{Parameters, range, within};
use super::problem::Problem;
use super::statistics::{count, whole};
use super::words::{Shown, millis, now, quality_class, time};
use crate::store::{Bucket, Grain, Horizons, Micros, PointKey, Query};

const MOST_SERIES: usize = 50;
/// Rows that may be in memory at once, or those of one series.
const HELD: usize = 20_000;

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

/// What the rows of an answer are.
pub(super) struct Span {
    pub from: Micros,
    pub to: Micros,
    /// Length of a bucket; 0: each row is a reading.
    pub step: Micros,
}

pub(super) async fn query(
    caller: Caller,
    Parameters(wanted): Parameters<Wanted>,
) -> Result<Response, Problem> {
    let begin = || b"{\"series\":[".to_vec();
    let (Span { from, to, step }, mut text) = written(&caller, wanted, begin, |text, key, rows| {
        let series = Series { id: key.0, rows: rows.iter().map(Row).collect() };
        // Writing to memory does not fail.
        let _ = serde_json::to_writer(&mut *text, &series);
        text.push(b',');
    })
    .await?;
    text.pop();
    let rest = json!({
        "from": time(from), "to": time(to), "step_ms": millis(step),
        "columns": ["time_ms", "mean", "min", "max", "count", "quality", "last", "good"],
    });
    text.extend_from_slice(b"],");
    text.extend_from_slice(&rest.to_string().as_bytes()[1..]);
    Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response())
}

/// Rows at the resolution that fits, written as they are read, a few series at a time: the rows of a large answer
/// are never in memory all at once. `begin` makes what `write` writes to, again where it shows in the middle
/// that the readings themselves are too many.
pub(super) async fn written<T>(
    caller: &Caller,
    wanted: Wanted,
    begin: impl Fn() -> T,
    write: impl Fn(&mut T, PointKey, &[Bucket]),
) -> Result<(Span, T), Problem> {
    let Wanted { points, from, to, max_points } = wanted;
    let (from, to) = range(from.as_deref().unwrap_or("-1h"), to.as_deref().unwrap_or("now"), now())?;
    let most = within("max_points", max_points, 500, 2..=10_000)?;
    let points = ids(&points)?;

    // Where readings are gone, rollups answer, and no finer than they are.
    let floor = floor(from, &caller.store.horizons(&points).await?);
    let coarse = nice_step(to - from, most).max(floor);
    let as_they_are = floor == 0 && may_fit(caller, &points, (from, to), coarse, most).await?;
    let mut step = if as_they_are { 0 } else { coarse };
    'anew: loop {
        let mut text = begin();
        for some in points.chunks((HELD / most).max(1)) {
            // One more than asked for tells whether everything fits.
            let most = most + usize::from(step == 0);
            let asked = Query { points: some.to_vec(), from, to, step, most };
            for (key, rows) in caller.store.query(&asked).await? {
                if step == 0 && rows.len() == most {
                    step = coarse;
                    continue 'anew;
                }
                write(&mut text, key, &rows);
            }
        }
        return Ok((Span { from, to, step }, text));
    }
}

/// Can every series have at most so many readings? Asked of rollups, where these answer for the most part; a few
/// readings are sooner read than counted. True is no promise.
async fn may_fit(
    caller: &Caller,
    points: &[PointKey],
    (from, to): (Micros, Micros),
    coarse: Micros,
    most: usize,
) -> Result<bool, Problem> {
    if Grain::for_step(coarse).is_none() {
        return Ok(true);
    }
    let all = whole(caller, points, from, to, 0).await?;
    Ok(all.iter().all(|(_, buckets)| count(buckets) <= most as u64))
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

/// A series as JSON.
#[derive(Serialize)]
struct Series<'a> {
    id: i64,
    rows: Vec<Row<'a>>,
}

struct Row<'a>(&'a Bucket);

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Bucket { time, mean, min, max, count, good, quality, last, .. } = self.0;
        let quality = quality_class(*quality);
        (millis(*time), mean, min, max, count, quality, Shown(last.as_ref()), good).serialize(serializer)
    }
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
