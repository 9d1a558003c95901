//! Which source answers for which part of a query's time. Pure.

use forebay_protocols::sync::ranges::Ranges;

use super::super::{Micros, sieve};
use super::{Due, Grain, Horizons};

/// Where to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The readings themselves.
    Readings,
    /// A rollup.
    Rollup(Grain),
}

/// A part of a query's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where to read it.
    pub source: Source,
    /// The first moment, inside.
    pub from: Micros,
    /// The last moment, outside.
    pub to: Micros,
}

/// Buckets of one point that are not what their readings come to, by grain.
#[derive(Clone, Debug, Default)]
pub struct Stale([Ranges; 3]);

impl Stale {
    /// Adds a due of this point: its buckets, and all coarser ones around them.
    pub fn add(&mut self, due: &Due) {
        for (ranges, grain) in self.0.iter_mut().zip(Grain::ALL) {
            if grain >= due.grain && due.last >= due.first {
                let times = grain.length() / due.grain.length();
                ranges.insert((due.first / times).max(0) as u64..=(due.last / times).max(0) as u64);
            }
        }
    }
}

/// Parts that together are `from..to`, in order, each to be read from where it is right and has the
/// fewest rows for buckets of `step`. Where retention took what the edges of the range need, they are
/// widened to whole buckets of what is left.
pub fn cover(from: Micros, to: Micros, step: Micros, stale: &Stale, horizons: &Horizons) -> Vec<Segment> {
    // No reading lies outside; and sums with lengths cannot overflow.
    let from = from.max(sieve::EARLIEST);
    let to = to.min(sieve::END_OF_TIME);
    let mut cover = Cover { segments: Vec::new(), stale, horizons };
    cover.fill(Grain::for_step(step), from, to);
    cover.segments
}

struct Cover<'a> {
    segments: Vec<Segment>,
    stale: &'a Stale,
    horizons: &'a Horizons,
}

impl Cover<'_> {
    fn fill(&mut self, grain: Option<Grain>, from: Micros, to: Micros) {
        let Some(grain) = grain else { return self.push(Source::Readings, from, to) };
        if from >= to {
            return;
        }
        let (length, gone) = (grain.length(), self.horizons.below(grain));
        let floor = |time: Micros| time.div_euclid(length) * length;
        let ceil = |time: Micros| floor(time + length - 1);
        let begin = if from < gone { floor(from) } else { ceil(from) };
        let end = if floor(to) < gone { ceil(to) } else { floor(to) };
        if begin >= end {
            return self.fill(grain.finer(), from, to);
        }
        self.fill(grain.finer(), from, begin);
        let mut at = begin;
        for (first, last) in self.stale.0[grain as usize].iter() {
            // What the finer source does not have any more is better told by what stands.
            let first = (first as i64 * length).max(ceil(gone)).max(at);
            let last = ((last as i64 + 1) * length).min(end);
            if first < last {
                self.push(Source::Rollup(grain), at, first);
                self.fill(grain.finer(), first, last);
                at = last;
            }
        }
        self.push(Source::Rollup(grain), at, end);
        self.fill(grain.finer(), end, to);
    }

    fn push(&mut self, source: Source, from: Micros, to: Micros) {
        if from >= to {
            return;
        }
        match self.segments.last_mut() {
            Some(last) if last.source == source && last.to == from => last.to = to,
            _ => self.segments.push(Segment { source, from, to }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Points;
    use super::*;
    use crate::store::AgentKey;

    const HOUR: Micros = 3_600_000_000;
    const MINUTE: Micros = 60_000_000;
    /// A midnight.
    const DAY: Micros = 1_795_219_200_000_000;

    fn due(grain: Grain, from: Micros, to: Micros) -> Due {
        let (first, last) = (from / grain.length(), (to - 1) / grain.length());
        Due { agent: AgentKey(1), grain, first, last, points: Points::All }
    }

    fn told(
        from: Micros,
        to: Micros,
        step: Micros,
        dues: &[Due],
        horizons: Horizons,
    ) -> Vec<(Source, Micros)> {
        let mut stale = Stale::default();
        dues.iter().for_each(|due| stale.add(due));
        let segments = cover(from, to, step, &stale, &horizons);
        let mut at = segments.first().map_or(from, |first| first.from);
        for segment in &segments {
            assert_eq!(segment.from, at, "no hole and no overlap");
            at = segment.to;
        }
        assert!(at >= to);
        segments.iter().map(|segment| (segment.source, segment.to - DAY)).collect()
    }

    #[test]
    fn the_coarsest_source_is_read_with_finer_ones_at_the_edges_and_where_a_due_waits() {
        use Grain::{Hours, Minutes};
        use Source::{Readings, Rollup};
        let (from, to) = (DAY + 59 * MINUTE + 1, DAY + 10 * HOUR + MINUTE + 5);
        assert_eq!(
            told(from, to, 2 * HOUR, &[], Horizons::default()),
            [
                (Readings, HOUR),
                (Rollup(Hours), 10 * HOUR),
                (Rollup(Minutes), 10 * HOUR + MINUTE),
                (Readings, 10 * HOUR + MINUTE + 5),
            ]
        );
        let late = due(Minutes, DAY + 3 * HOUR + 7 * MINUTE, DAY + 3 * HOUR + 8 * MINUTE);
        let hour = due(Hours, DAY + 9 * HOUR, DAY + 10 * HOUR);
        assert_eq!(
            told(DAY, DAY + 10 * HOUR, HOUR, &[late, hour], Horizons::default()),
            [
                (Rollup(Hours), 3 * HOUR),
                (Rollup(Minutes), 3 * HOUR + 7 * MINUTE),
                (Readings, 3 * HOUR + 8 * MINUTE),
                (Rollup(Minutes), 4 * HOUR),
                (Rollup(Hours), 9 * HOUR),
                (Rollup(Minutes), 10 * HOUR),
            ]
        );
        assert_eq!(told(from, to, 1_000_000, &[], Horizons::default()), [(Readings, to - DAY)]);
    }

    #[test]
    fn where_retention_has_been_whole_buckets_of_what_is_left_are_told() {
        use Source::Rollup;
        let horizons = Horizons { readings: DAY + 24 * HOUR, minutes: DAY + 24 * HOUR, hours: 0 };
        let (from, to) = (DAY + 59 * MINUTE, DAY + 3 * HOUR + 1);
        let late = due(Grain::Minutes, DAY + HOUR, DAY + HOUR + MINUTE);
        assert_eq!(told(from, to, HOUR, &[late], horizons), [(Rollup(Grain::Hours), 4 * HOUR)]);
    }
}
