//! Which buckets one step makes anew, and what it leaves to be done. Pure.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use forebay_protocols::sync::ranges::Ranges;

use super::super::{AgentKey, Micros};
use super::{Due, Grain, Points};

/// Points of one piece: a statement takes a list so long without trouble.
const POINTS: usize = 1_000;

/// One bounded step.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// What to make.
    pub pieces: Vec<Piece>,
    /// Dues that are done with it, by their numbers.
    pub done: Vec<i64>,
    /// A due of which a beginning is made: its number, and the bucket it begins with from now on.
    pub shortened: Option<(i64, i64)>,
    /// Coarser buckets that become due.
    pub next: Vec<Due>,
}

/// Buckets of some points.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece {
    /// The points, ascending.
    pub points: Vec<i64>,
    /// The first moment, inside.
    pub from: Micros,
    /// The last moment, outside.
    pub to: Micros,
}

/// Buckets by whose and which point.
type Wanted = BTreeMap<(AgentKey, i64), Ranges>;

impl Work {
    /// The first of `dues`, all of `grain` and with their points told, up to `most` buckets over all
    /// points. Always something, if there is a due.
    pub fn new(dues: &[(i64, Due)], grain: Grain, most: u64) -> Self {
        let (mut work, mut wanted, mut room) = (Self::default(), Wanted::new(), most);
        for (number, due) in dues {
            let points = due.points.these();
            let length = due.last.saturating_sub(due.first).saturating_add(1).max(0) as u64;
            // Many batches touch the same minute: it costs once. (And no point costs nothing.)
            if points.iter().all(|&point| is_wanted(&wanted, due, point)) {
                work.done.push(*number);
                continue;
            }
            let fits = room / points.len() as u64;
            let taken = match fits {
                fits if fits >= length => length,
                0 if !wanted.is_empty() => break,
                fits => fits.max(1),
            };
            if taken > 0 {
                let buckets = due.first.max(0) as u64..=(due.first.max(0) as u64 + taken - 1);
                for &point in points {
                    if wanted.entry((due.agent, point)).or_default().insert(buckets.clone()) {
                        room = room.saturating_sub(taken);
                    }
                }
            }
            if taken < length {
                work.shortened = Some((*number, due.first + taken as i64));
                break;
            }
            work.done.push(*number);
        }
        work.pieces = pieces(&wanted, grain);
        work.next = grain.coarser().map_or_else(Vec::new, |coarser| next(&wanted, grain, coarser));
        work
    }
}

fn is_wanted(wanted: &Wanted, due: &Due, point: i64) -> bool {
    let (first, last) = (due.first.max(0) as u64, due.last.max(0) as u64);
    wanted.get(&(due.agent, point)).is_some_and(|ranges| ranges.first_missing(first) > last)
}

fn pieces(wanted: &Wanted, grain: Grain) -> Vec<Piece> {
    let mut of: BTreeMap<(u64, u64), Vec<i64>> = BTreeMap::new();
    for ((_, point), ranges) in wanted {
        ranges.iter().for_each(|range| of.entry(range).or_default().push(*point));
    }
    let mut pieces = Vec::new();
    for ((first, last), mut points) in of {
        points.sort_unstable();
        let (from, to) = (first as i64 * grain.length(), (last as i64 + 1) * grain.length());
        pieces.extend(points.chunks(POINTS).map(|points| Piece { points: points.to_vec(), from, to }));
    }
    pieces
}

fn next(wanted: &Wanted, grain: Grain, coarser: Grain) -> Vec<Due> {
    let times = (coarser.length() / grain.length()) as u64;
    let mut of: BTreeMap<(AgentKey, u64, u64), Vec<i64>> = BTreeMap::new();
    for ((agent, point), ranges) in wanted {
        let mut coarse = Ranges::default();
        ranges.iter().for_each(|(first, last)| {
            coarse.insert(RangeInclusive::new(first / times, last / times));
        });
        coarse.iter().for_each(|(first, last)| of.entry((*agent, first, last)).or_default().push(*point));
    }
    let due = |((agent, first, last), points)| Due {
        agent,
        grain: coarser,
        first: first as i64,
        last: last as i64,
        points: Points::These(points),
    };
    of.into_iter().map(due).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Micros = 60_000_000;

    fn due(agent: i64, first: i64, last: i64, points: &[i64]) -> Due {
        let points = Points::These(points.to_vec());
        Due { agent: AgentKey(agent), grain: Grain::Minutes, first, last, points }
    }

    #[test]
    fn the_minute_that_many_batches_touched_is_made_once() {
        let dues: Vec<(i64, Due)> = (0..60).map(|n| (n, due(1, 119, 120, &[1, 2]))).collect();
        let work = Work::new(&dues, Grain::Minutes, 4);
        assert_eq!(work.pieces, [Piece { points: vec![1, 2], from: 119 * MINUTE, to: 121 * MINUTE }]);
        assert_eq!((work.done.len(), work.shortened), (60, None));
        assert_eq!(work.next, [Due { grain: Grain::Hours, first: 1, last: 2, ..due(1, 0, 0, &[1, 2]) }]);
    }

    #[test]
    fn a_due_too_large_for_a_step_is_done_in_several_and_ends() {
        let (mut first, mut steps, mut minutes) = (1_000, 0, 0);
        loop {
            let work = Work::new(&[(7, due(1, first, 1_099, &[1, 2, 3]))], Grain::Minutes, 30);
            minutes += work.pieces.iter().map(|piece| (piece.to - piece.from) / MINUTE).sum::<i64>();
            steps += 1;
            match work.shortened {
                Some((7, from)) => first = from,
                _ => break assert_eq!(work.done, [7]),
            }
        }
        assert_eq!((steps, minutes), (10, 100));
        // One bucket is made whatever it costs, and a due without points is done.
        let work = Work::new(&[(1, due(1, 5, 9, &[1, 2, 3]))], Grain::Minutes, 1);
        assert_eq!(work.shortened, Some((1, 6)));
        let none = Due { points: Points::These(Vec::new()), ..due(1, 5, 9, &[]) };
        assert_eq!(Work::new(&[(1, none)], Grain::Minutes, 1).done, [1]);
    }
}
