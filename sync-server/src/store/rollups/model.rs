//! A store in a few maps that follows the rules of rollups, held against a recomputation from all
//! readings after any order of late batches, steps and removals.

use std::collections::{BTreeMap, HashMap};

use forebay_protocols::reading::{Fault, PointId, Quality, Value};
use proptest::prelude::*;

use super::super::buckets::Buckets;
use super::super::plan::Row;
use super::super::{AgentKey, Bucket, Micros, PointKey, Timed};
use super::*;

/// A midnight.
const DAY: Micros = 1_795_219_200_000_000;
const MINUTE: Micros = 60_000_000;

/// Everything of one agent with the points 1 and 2.
#[derive(Default)]
struct Model {
    readings: Vec<(i64, Timed)>,
    rollups: [BTreeMap<(i64, Micros), Rolled>; 3],
    dues: BTreeMap<i64, Due>,
    next: i64,
    horizons: HashMap<PointKey, Horizons>,
}

impl Model {
    fn note(&mut self, due: Due) {
        self.next += 1;
        self.dues.insert(self.next, due);
    }

    fn store(&mut self, batch: &[(i64, Timed)]) {
        let mut sorted = batch.to_vec();
        sorted.sort_by_key(|(point, reading)| (*point, reading.time));
        let rows: Vec<Row<'_>> =
            sorted.iter().map(|(point, reading)| Row { point: PointKey(*point), reading }).collect();
        let owners = [1, 2].map(|point| (PointKey(point), AgentKey(1))).into();
        touched(&rows, &owners).into_iter().for_each(|due| self.note(due));
        self.readings.extend(sorted);
    }

    /// One step, as a store does it. False: nothing was due.
    fn step(&mut self, grain: Grain, most: u64) -> bool {
        let dues: Vec<(i64, Due)> = self
            .dues
            .iter()
            .filter(|(_, due)| due.grain == grain)
            .map(|(n, due)| (*n, due.clone()))
            .collect();
        let work = Work::new(&dues, grain, most);
        let mut gatherer = Gatherer::new(grain);
        for Piece { points, from, to } in &work.pieces {
            let inside = |point: &i64, time: Micros| points.contains(point) && (*from..*to).contains(&time);
            match grain.finer() {
                None => {
                    for (point, reading) in self.readings.iter().filter(|(p, r)| inside(p, r.time)) {
                        gatherer.reading(
                            PointKey(*point),
                            reading.time,
                            reading.value.clone(),
                            reading.quality,
                        );
                    }
                }
                Some(finer) => {
                    let rows = self.rollups[finer as usize].iter();
                    rows.filter(|((p, time), _)| inside(p, *time))
                        .for_each(|((p, _), rolled)| gatherer.rolled(PointKey(*p), rolled.clone()));
                }
            }
        }
        for Made { point, rolled, added } in gatherer.finish(&self.horizons) {
            let (begin, end) = (rolled.time, rolled.time + grain.length());
            let place = (point.0, begin);
            match self.rollups[grain as usize].get_mut(&place).filter(|_| added) {
                Some(stands) => {
                    let (first, last) = (stands.first.clone(), stands.last.clone());
                    stands.follow(rolled);
                    (stands.first, stands.last) =
                        (first.or(stands.first.take()), last.or(stands.last.take()));
                }
                None => drop(self.rollups[grain as usize].insert(place, rolled)),
            }
            if added {
                match grain.finer() {
                    None => self.readings.retain(|(p, r)| *p != point.0 || !(begin..end).contains(&r.time)),
                    Some(finer) => self.rollups[finer as usize]
                        .retain(|(p, time), _| *p != point.0 || !(begin..end).contains(time)),
                }
            }
        }
        work.done.iter().for_each(|number| drop(self.dues.remove(number)));
        if let Some((number, first)) = work.shortened {
            self.dues.get_mut(&number).expect("it was taken up").first = first;
        }
        work.next.into_iter().for_each(|due| self.note(due));
        !work.pieces.is_empty()
    }

    /// Retention of one point's readings or minutes before a day, if all of it is rolled up.
    fn remove(&mut self, point: i64, grain: Option<Grain>, before: Micros) {
        let next = grain.map_or(Grain::Minutes, |grain| grain.coarser().expect("days stay"));
        let waits = |due: &&Due| due.grain <= next && due.first * due.grain.length() < before;
        if self.dues.values().any(|due| waits(&due)) {
            return;
        }
        let horizons = self.horizons.entry(PointKey(point)).or_default();
        match grain {
            None => {
                self.readings.retain(|(p, reading)| *p != point || reading.time >= before);
                horizons.readings = horizons.readings.max(before);
            }
            Some(grain) => {
                self.rollups[grain as usize].retain(|(p, time), _| *p != point || *time >= before);
                horizons.minutes = horizons.minutes.max(before);
            }
        }
    }

    fn query(&self, point: i64, from: Micros, to: Micros, step: Micros) -> Vec<Bucket> {
        let mut stale = Stale::default();
        self.dues.values().filter(|due| due.points.hold(point)).for_each(|due| stale.add(due));
        let horizons = self.horizons.get(&PointKey(point)).copied().unwrap_or_default();
        let mut buckets = Buckets::new(step, usize::MAX);
        for Segment { source, from, to } in cover(from, to, step, &stale, &horizons) {
            match source {
                Source::Readings => {
                    readings(&self.readings, point, from, to).into_iter().for_each(|reading| {
                        buckets.add(reading.time, reading.value, reading.quality);
                    })
                }
                Source::Rollup(grain) => {
                    let rows = self.rollups[grain as usize].range((point, from)..(point, to));
                    rows.for_each(|(_, rolled)| {
                        buckets.add_rolled(rolled.clone());
                    });
                }
            }
        }
        buckets.finish()
    }
}

fn readings(all: &[(i64, Timed)], point: i64, from: Micros, to: Micros) -> Vec<Timed> {
    let inside = |(p, reading): &&(i64, Timed)| *p == point && (from..to).contains(&reading.time);
    let mut found: Vec<Timed> = all.iter().filter(inside).map(|(_, reading)| reading.clone()).collect();
    found.sort_by_key(|reading| reading.time);
    found
}

fn recomputed(all: &[(i64, Timed)], point: i64, from: Micros, to: Micros, step: Micros) -> Vec<Bucket> {
    let mut buckets = Buckets::new(step, usize::MAX);
    readings(all, point, from, to).into_iter().for_each(|reading| {
        buckets.add(reading.time, reading.value, reading.quality);
    });
    buckets.finish()
}

#[derive(Clone, Debug)]
enum Event {
    Batch(Vec<(i64, Timed)>),
    Step(usize, u64),
    Remove(i64, bool, i64),
    Ask(i64, Micros, Micros, usize),
}

const STEPS: [Micros; 5] = [30_000_000, MINUTE, 5 * MINUTE, 60 * MINUTE, 1_440 * MINUTE];

/// Readings within three days. No two of a point at the same moment: which one is last is nobody's promise.
fn reading() -> impl Strategy<Value = (i64, Timed)> {
    let value = prop_oneof![
        4 => (-1_000i64..1_000).prop_map(|v| Some(Value::Integer(v))),
        1 => any::<bool>().prop_map(|v| Some(Value::Boolean(v))),
        1 => "[a-c]".prop_map(|v| Some(Value::Text(v.as_str().into()))),
        1 => Just(None),
    ];
    let quality = prop_oneof![4 => Just(Quality::Good), 1 => Just(Quality::Bad(Fault::Silent))];
    let time = prop_oneof![3 => 0..7_200i64, 1 => 0..3 * 86_400i64];
    (1..=2i64, time, value, quality).prop_map(|(point, second, value, quality)| {
        (point, Timed { point: PointId(1), time: DAY + second * 1_000_000, value, quality })
    })
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => prop::collection::vec(reading(), 1..20).prop_map(Event::Batch),
        4 => (0..3usize, 1..40u64).prop_map(|(grain, most)| Event::Step(grain, most)),
        2 => (1..=2i64, 0..3 * 86_400i64, 0..100_000i64, 0..STEPS.len()).prop_map(|(point, from, length, step)| {
            let from = DAY + from * 1_000_000;
            Event::Ask(point, from, from + length * 1_000_000, step)
        }),
    ]
}

proptest! {
    #[test]
    fn a_query_is_answered_as_if_there_were_no_rollups(events in prop::collection::vec(event(), 1..40)) {
        let (mut model, mut all) = (Model::default(), Vec::<(i64, Timed)>::new());
        for event in events {
            match event {
                Event::Batch(batch) => {
                    let mut batch = batch;
                    batch.retain(|(p, r)| !all.iter().any(|(q, known)| p == q && known.time == r.time));
                    batch.sort_by_key(|(p, r)| (*p, r.time));
                    batch.dedup_by_key(|(p, r)| (*p, r.time));
                    model.store(&batch);
                    all.extend(batch);
                }
                Event::Step(grain, most) => drop(model.step(Grain::ALL[grain], most)),
                Event::Ask(point, from, to, step) => prop_assert_eq!(
                    model.query(point, from, to, STEPS[step]),
                    recomputed(&all, point, from, to, STEPS[step])
                ),
                Event::Remove(..) => {}
            }
        }
        // When all is done, every rollup is what its readings come to.
        for grain in Grain::ALL {
            while model.step(grain, 100) {}
            for point in [1, 2] {
                let stands: Vec<Bucket> = model.rollups[grain as usize]
                    .iter()
                    .filter(|((p, _), _)| *p == point)
                    .map(|(_, rolled)| rolled.clone().bucket())
                    .collect();
                prop_assert_eq!(stands, recomputed(&all, point, 0, Micros::MAX, grain.length()));
            }
        }
        prop_assert!(model.dues.is_empty());
    }

    #[test]
    fn what_comes_after_retention_is_added_once(
        events in prop::collection::vec(prop_oneof![
            6 => event(),
            2 => (1..=2i64, any::<bool>(), 0..3i64).prop_map(|(p, minutes, day)| Event::Remove(p, minutes, day)),
        ], 1..60)
    ) {
        let (mut model, mut all) = (Model::default(), Vec::<(i64, Timed)>::new());
        for event in events {
            match event {
                Event::Batch(batch) => {
                    model.store(&batch);
                    all.extend(batch);
                }
                Event::Step(grain, most) => drop(model.step(Grain::ALL[grain], most)),
                Event::Remove(point, minutes, day) => {
                    let before = DAY + day * 1_440 * MINUTE;
                    // Minutes never go before the readings they are made from.
                    model.remove(point, None, before);
                    if minutes && model.horizons.get(&PointKey(point)).is_some_and(|h| h.readings >= before) {
                        model.remove(point, Some(Grain::Minutes), before);
                    }
                }
                Event::Ask(..) => {}
            }
        }
        for grain in Grain::ALL {
            while model.step(grain, 100) {}
        }
        // Of days nothing was removed: they have counted each reading once, at whatever time it came.
        let weights = |buckets: Vec<Bucket>| -> Vec<_> {
            let sums = |b: &Bucket| b.mean.map(|mean| (mean * 1e6).round() as i64);
            buckets.iter().map(|b| (b.time, b.count, b.good, b.min, b.max, sums(b))).collect()
        };
        for point in [1, 2] {
            let days = model.rollups[2].iter().filter(|((p, _), _)| *p == point);
            let days = days.map(|(_, rolled)| rolled.clone().bucket()).collect();
            prop_assert_eq!(weights(days), weights(recomputed(&all, point, 0, Micros::MAX, 1_440 * MINUTE)));
        }
    }
}
