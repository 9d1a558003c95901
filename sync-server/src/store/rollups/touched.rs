//! What a transaction notes of the readings it stores. It runs in every ingest: a pass over rows that
//! are sorted already, and a note for each distinct range, of which a batch has one or two. Pure.

use std::collections::{BTreeMap, HashMap};

use super::super::plan::Row;
use super::super::{AgentKey, Micros, PointKey};
use super::{Due, Grain, Points};

/// Readings of a point that lie no further apart are one range: an hour of empty minutes costs less
/// to look at than a note to keep.
const APART: Micros = 3_600_000_000;

/// The minutes that `rows` touch; they are sorted by (point, time). `owners` has the agent of each point.
pub fn touched(rows: &[Row<'_>], owners: &HashMap<PointKey, AgentKey>) -> Vec<Due> {
    let mut ranges: BTreeMap<(AgentKey, i64, i64), Vec<i64>> = BTreeMap::new();
    for run in rows.chunk_by(|a, b| a.point == b.point && b.reading.time - a.reading.time <= APART) {
        let [first, ..] = run else { continue };
        let last = run.last().unwrap_or(first);
        let Some(&agent) = owners.get(&first.point) else { continue };
        let minute = |time: Micros| time.div_euclid(Grain::Minutes.length());
        let range = (agent, minute(first.reading.time), minute(last.reading.time));
        let points = ranges.entry(range).or_default();
        // Two ranges of a point may fall into the same minutes.
        if points.last() != Some(&first.point.0) {
            points.push(first.point.0);
        }
    }
    let due = |((agent, first, last), points)| {
        let points = Points::These(points);
        Due { agent, grain: Grain::Minutes, first, last, points }
    };
    ranges.into_iter().map(due).collect()
}

#[cfg(test)]
mod tests {
    use forebay_protocols::reading::{PointId, Quality};

    use super::super::super::Timed;
    use super::*;

    const MINUTE: Micros = 60_000_000;

    #[test]
    fn a_batch_of_one_minute_is_one_note_and_late_readings_have_their_own() {
        let at = |time| Timed { point: PointId(1), time, value: None, quality: Quality::Good };
        let (fresh, next, late) = (at(1_000 * MINUTE + 1), at(1_000 * MINUTE + 9), at(5 * MINUTE));
        let row = |point, reading| Row { point: PointKey(point), reading };
        let rows =
            [row(1, &late), row(1, &fresh), row(1, &next), row(2, &fresh), row(3, &fresh), row(9, &late)];
        let owners = (1..=3).map(|point| (PointKey(point), AgentKey(1)));
        let owners = owners.chain([(PointKey(9), AgentKey(2))]).collect();
        let due = |agent, minute, points: &[i64]| Due {
            agent: AgentKey(agent),
            grain: Grain::Minutes,
            first: minute,
            last: minute,
            points: Points::These(points.to_vec()),
        };
        assert_eq!(touched(&rows, &owners), [due(1, 5, &[1]), due(1, 1_000, &[1, 2, 3]), due(2, 5, &[9])]);
    }
}
