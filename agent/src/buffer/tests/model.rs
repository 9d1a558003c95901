//! Random lives of a store against a plain map.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::simulated::Simulated;
use super::*;

/// What may happen to a store.
#[derive(Clone, Debug)]
enum Event {
    Append { many: u64, length: usize },
    Acknowledge { from: u64, length: u64 },
    Revive { from: u64, length: u64 },
    Oldest { from: u64, max_bytes: usize },
    Newest { upto: u64, max_bytes: usize },
    Define(u8),
    RecordGap,
    Tick,
    Rest,
    DropOldest,
    Stop,
    Kill,
    CutPower(usize),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (1u64..5, 0usize..6000).prop_map(|(many, length)| Event::Append { many, length }),
        4 => (0u64..200, 0u64..30).prop_map(|(from, length)| Event::Acknowledge { from, length }),
        1 => (0u64..200, 0u64..60).prop_map(|(from, length)| Event::Revive { from, length }),
        2 => (0u64..200, 0usize..20_000).prop_map(|(from, max_bytes)| Event::Oldest { from, max_bytes }),
        2 => (0u64..200, 0usize..20_000).prop_map(|(upto, max_bytes)| Event::Newest { upto, max_bytes }),
        1 => (0u8..20).prop_map(Event::Define),
        1 => Just(Event::RecordGap),
        2 => Just(Event::Tick),
        1 => Just(Event::Rest),
        1 => Just(Event::DropOldest),
        1 => Just(Event::Stop),
        1 => Just(Event::Kill),
        1 => (0usize..=8).prop_map(Event::CutPower),
    ]
}

/// What must be in the store.
#[derive(Default)]
struct Model {
    alive: BTreeMap<u64, u32>,
    /// Acknowledged since the last tick: a crash may bring them back.
    doubtful: BTreeSet<u64>,
    /// Acknowledged, and not told to be lost since.
    acknowledged: BTreeMap<u64, u32>,
    appended: u64,
    dropped: u64,
    last: u64,
    points: BTreeMap<u8, PointId>,
}

impl Model {
    /// The store dropped something: it must be the oldest, in one piece.
    fn drop_down_to(&mut self, dropped: u64) {
        while self.dropped < dropped {
            let (_, count) = self.alive.pop_first().expect("the store dropped more than it had");
            self.dropped += u64::from(count);
        }
        assert_eq!(self.dropped, dropped, "the store dropped others than the oldest");
    }

    /// The store was opened again after a crash.
    fn settle(&mut self, found: &BTreeMap<u64, u32>) {
        for sequence in self.alive.keys() {
            assert!(found.contains_key(sequence), "batch {sequence} is gone");
        }
        for sequence in found.keys().filter(|sequence| !self.alive.contains_key(sequence)) {
            assert!(self.doubtful.contains(sequence), "batch {sequence} came back from nowhere");
        }
        self.acknowledged.retain(|sequence, _| !found.contains_key(sequence));
        self.alive = found.clone();
        self.doubtful.clear();
    }
}

fn live(mut disk: Simulated, rules: Rules, events: Vec<Event>) {
    let (mut store, first) = open(&disk, rules.clone());
    let mut model = Model::default();
    for event in events {
        match event {
            Event::Append { many, length } => {
                let next = store.next_sequence().0;
                assert!(next > model.last, "sequence {next} is given twice");
                let batches: Vec<_> = (next..next + many).map(|sequence| batch(sequence, length)).collect();
                store.append(&batches).unwrap();
                for batch in &batches {
                    model.alive.insert(batch.sequence.0, batch.count);
                    model.appended += u64::from(batch.count);
                    model.last = batch.sequence.0;
                }
                model.drop_down_to(store.status().counts.dropped);
            }
            Event::Acknowledge { from, length } => {
                let range = from..=from + length;
                store.acknowledge(std::slice::from_ref(&range));
                for sequence in range {
                    if let Some(count) = model.alive.remove(&sequence) {
                        model.doubtful.insert(sequence);
                        model.acknowledged.insert(sequence, count);
                    }
                }
            }
            Event::Revive { from, length } => {
                let asked = from..=from + length;
                let revived = store.revive(std::slice::from_ref(&asked));
                let known: Vec<u64> =
                    model.acknowledged.range(asked).map(|(sequence, _)| *sequence).collect();
                let found = alive(&mut store);
                let (back, lost): (Vec<u64>, Vec<u64>) =
                    known.iter().partition(|sequence| found.contains_key(sequence));
                assert_eq!((revived.batches, revived.lost), (back.len() as u64, lost.len() as u64));
                for sequence in known {
                    let count = model.acknowledged.remove(&sequence).unwrap();
                    if back.contains(&sequence) {
                        model.alive.insert(sequence, count);
                    }
                }
                model.doubtful.clear(); // It is durable, and so is all before it.
            }
            Event::Oldest { from, max_bytes } => {
                let read: Vec<u64> =
                    store.oldest(Sequence(from), max_bytes).iter().map(|b| b.sequence.0).collect();
                let expected = model.alive.range(from..).map(|(sequence, _)| *sequence);
                assert_eq!(read, expected.take(read.len()).collect::<Vec<_>>());
                assert_eq!(read.is_empty(), model.alive.range(from..).next().is_none());
            }
            Event::Newest { upto, max_bytes } => {
                let read: Vec<u64> =
                    store.newest(Sequence(upto), max_bytes).iter().map(|b| b.sequence.0).collect();
                let expected = model.alive.range(..=upto).rev().map(|(sequence, _)| *sequence);
                assert_eq!(read, expected.take(read.len()).collect::<Vec<_>>());
                assert_eq!(read.is_empty(), model.alive.range(..=upto).next().is_none());
            }
            Event::Define(name) => {
                let number = store.define(&[point(&name.to_string())])[0];
                assert_eq!(*model.points.entry(name).or_insert(number), number);
                store.tick();
                model.doubtful.clear();
            }
            Event::RecordGap => store.record_gap(Default::default()),
            Event::Tick => {
                store.tick();
                model.doubtful.clear();
            }
            Event::Rest => store.rest(),
            Event::DropOldest => {
                store.drop_oldest(true).unwrap();
                model.drop_down_to(store.status().counts.dropped);
            }
            Event::Stop => {
                store.close();
                store = reopened(&disk, &rules, &first, true);
                model.doubtful.clear();
                assert_eq!(alive(&mut store), model.alive);
            }
            Event::Kill => {
                drop(store);
                store = reopened(&disk, &rules, &first, true);
                model.settle(&alive(&mut store));
            }
            Event::CutPower(kept) => {
                // The simulation does not reach sled's files: they survive as if killed.
                drop(store);
                disk = disk.after_power_cut(kept);
                store = reopened(&disk, &rules, &first, false);
                model.settle(&alive(&mut store));
            }
        }
        assert_eq!(store.status().counts.appended, model.appended);
        assert!(store.status().disk_bytes <= rules.limit);
    }
    assert_eq!(alive(&mut store), model.alive);
    for sequence in 0..=model.last {
        let known = model.acknowledged.contains_key(&sequence);
        assert_eq!(store.acknowledged().contains(sequence), known, "{sequence}");
    }
    let counts = store.status().counts;
    assert_eq!(counts.appended, counts.acknowledged + counts.dropped + store.status().backlog_readings);
}

fn reopened(disk: &Simulated, rules: &Rules, first: &Opening, unharmed: bool) -> Store {
    let (store, opening) = open(disk, rules.clone());
    assert_eq!(opening.epoch, first.epoch);
    assert!(!unharmed || opening.repairs.is_empty(), "{:?}", opening.repairs);
    store
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_store_is_a_map_that_forgets_the_oldest(events in prop::collection::vec(event(), 1..120)) {
        live(Simulated::default(), TIGHT, events);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 200, ..ProptestConfig::with_cases(6) })]

    #[test]
    fn with_sled_as_its_catalogue_it_is_the_same_map(events in prop::collection::vec(event(), 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = Simulated::default();
        disk.catalogue = Some(dir.path().join("catalogue"));
        live(disk, ROOMY, events);
    }
}
