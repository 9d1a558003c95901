//! Classes: in a full buffer some points give way before others, reading by reading.

use std::collections::HashSet;
use std::io::ErrorKind;

use forebay_config::classes::{Class, Pattern};
use forebay_config::units::Name;
use forebay_protocols::reading::{Clock, Quality, Reading, Stamp, Value};
use forebay_protocols::sync::batch::{Boot, Encoder, Head};
use forebay_protocols::sync::wire::gap::Reason;
use proptest::prelude::*;

use super::super::inspect::Inspection;
use super::super::rewrite::THINNING;
use super::super::segments::BLOCK;
use super::super::simulated::Simulated;
use super::super::{BufferError, Stored};
use super::real::{OFFSET_US, assert_real_books_balance, decoded};
use super::*;
use WhenFull::{DropOldest, Stop, Thin};

const TREND: PointId = PointId(1);
const ALARM: PointId = PointId(2);
const COUNT: PointId = PointId(3);

/// Trends are thinned, alarms stop, and all others drop the oldest.
fn classed() -> Rules {
    rules(DropOldest, &[("boiler/trend", Thin), ("*/alarm*", Stop)])
}

fn rules(when_full: WhenFull, classes: &[(&str, WhenFull)]) -> Rules {
    let class = |(at, (pattern, when_full)): (usize, &(&str, WhenFull))| Class {
        name: Name::new(&format!("class-{at}")).unwrap(),
        when_full: *when_full,
        points: vec![Pattern::new(pattern).unwrap()],
    };
    Rules { classes: classes.iter().enumerate().map(class).collect(), ..tight(when_full) }
}

/// Readings of trend, alarm and count, so many of each.
fn readings_of(sequence: u64, [trends, alarms, counts]: [u64; 3]) -> Vec<Reading> {
    let reading = |point, i: u64, value| Reading {
        point,
        stamp: Stamp { clock: Clock::Boot, micros: sequence as i64 * 1_000_000 + i as i64 * 1000 },
        value: Some(value),
        quality: Quality::Good,
    };
    // Numbers that do not compress.
    let bits = |i: u64| {
        let bits = (sequence * 7919 + i).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (bits ^ (bits >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 2
    };
    let trends = (0..trends).map(|i| reading(TREND, i, Value::Float(f64::from_bits(bits(i)))));
    let alarms = (0..alarms).map(|i| reading(ALARM, i, Value::Text(format!("alarm {:x}", bits(i)).into())));
    let counts = (0..counts).map(|i| reading(COUNT, i, Value::Integer(bits(1000 + i) as i64)));
    trends.chain(alarms).chain(counts).collect()
}

fn try_append(store: &mut Store, each: [u64; 3]) -> Result<u64, BufferError> {
    let sequence = store.next_sequence();
    let counter = store.boot.counter;
    let boot = Boot { counter, id: [counter as u8; 8], wall_offset_us: OFFSET_US, synchronised: true };
    let head = Head { epoch: store.epoch, sequence, boot };
    store.append(&[Encoder::new().encode(&head, &mut readings_of(sequence.0, each))])?;
    Ok(sequence.0)
}

fn opened(disk: &Simulated, rules: &Rules) -> Store {
    let (mut store, _) = open(disk, rules.clone());
    assert_eq!(store.define(&[point("trend"), point("alarm"), point("count")]), [TREND, ALARM, COUNT]);
    store
}

/// A store of three segments of four batches, of which the third has no alarms, unless its disk dies.
fn filled(disk: &Simulated, rules: &Rules) -> Store {
    let mut store = opened(disk, rules);
    for _ in 0..3 {
        for alarms in [2, 1, 0, 3] {
            drop(try_append(&mut store, [100, alarms, 100]));
        }
        store.seal_growing();
    }
    store.tick();
    store
}

fn backlog(store: &mut Store) -> Vec<Stored> {
    store.oldest(Sequence(0), usize::MAX)
}

/// Readings of each point in the backlog.
fn each(store: &mut Store) -> [u64; 3] {
    let mut each = [0; 3];
    for reading in backlog(store).iter().flat_map(|stored| decoded(stored).readings) {
        each[reading.point.0 as usize - 1] += 1;
    }
    each
}

#[test]
fn alarms_outlast_a_full_buffer_where_all_else_gives_way_reading_by_reading() {
    let disk = Simulated::default();
    let rules = rules(DropOldest, &[("*/alarm*", Stop)]);
    let mut store = opened(&disk, &rules);
    for round in 0..200 {
        try_append(&mut store, [150, 2, 150]).unwrap();
        assert!(disk.used() <= rules.limit, "{} bytes on disk in round {round}", disk.used());
    }
    let found = backlog(&mut store);
    assert_eq!(found.len(), 200, "of every batch the alarms are there");
    for stored in &found {
        let (sequence, kept) = (stored.sequence.0, decoded(stored).readings);
        let original = readings_of(sequence, [150, 2, 150]);
        let alarms: Vec<_> = original.iter().filter(|reading| reading.point == ALARM).cloned().collect();
        assert_eq!(kept, if stored.thinned { alarms } else { original }, "batch {sequence}");
    }
    assert!(found[0].thinned && !found[199].thinned);
    assert!(found.is_sorted_by_key(|stored| !stored.thinned), "the oldest have given way");
    let (gaps, status) = (store.gaps(0, 9), store.status());
    let dropped = 300 * found.iter().filter(|stored| stored.thinned).count() as u64;
    assert_eq!((gaps.len(), gaps[0].reason(), gaps[0].count), (1, Reason::BufferFull, dropped));
    assert!(gaps[0].from_us == OFFSET_US + 1_000_000 && gaps[0].to_us > OFFSET_US + 50_000_000, "{gaps:?}");
    assert_eq!((status.dropped_by.full, status.counts.dropped), (dropped, dropped));
    assert_real_books_balance(&mut store);
    drop(store);
    let (mut store, opening) = open(&disk, rules);
    assert_eq!((opening.repairs, opening.counts), (vec![], status.counts));
    assert_eq!(backlog(&mut store), found);
    store.acknowledge(&[0..=u64::MAX]);
    assert_real_books_balance(&mut store);
}

#[test]
fn detail_goes_first_then_what_drops_the_oldest_then_what_was_thinned_and_then_devices_wait() {
    let disk = Simulated::default();
    let mut store = filled(&disk, &classed());
    let mut steps = Vec::new();
    while store.thin_oldest().unwrap() || store.clear_oldest(true).unwrap() {
        assert_real_books_balance(&mut store);
        steps.push((each(&mut store), store.status().dropped_by));
    }
    let counts_whole = steps.iter().rposition(|(each, _)| each[2] == 1200).unwrap();
    let (each_then, by) = steps[counts_whole];
    assert!(each_then[0] < 400, "by then trends have lost their detail: {each_then:?}");
    assert_eq!((by.full, by.thinned), (0, 1200 - each_then[0]));
    assert_eq!((steps[counts_whole + 1].0, each_then[0]), ([each_then[0], 18, 800], each_then[0]));
    let (end, by) = *steps.last().unwrap();
    assert_eq!((end[1], end[2], by.full, by.corrupt), (18, 0, 1200, 0), "alarms stay");
    assert!(end[0] >= 24, "the first and the last trend of a batch take less than a file is charged with");
    drop(store);

    // Texts are not thinned: they go last.
    let mut store =
        opened(&Simulated::default(), &rules(Thin, &[("*/count", DropOldest), ("*/trend", Stop)]));
    for _ in 0..2 {
        for _ in 0..4 {
            try_append(&mut store, [50, 150, 100]).unwrap();
        }
        store.seal_growing();
    }
    let mut left = Vec::new();
    while store.thin_oldest().unwrap() || store.clear_oldest(true).unwrap() {
        assert_real_books_balance(&mut store);
        left.push(each(&mut store));
    }
    assert_eq!(left, [[400, 1200, 400], [400, 1200, 0], [400, 600, 0], [400, 0, 0]]);
    assert_eq!(store.status().dropped_by.full, 2000);
    let levels: Vec<_> = store.segments.values().map(|segment| segment.clearings()).collect();
    assert_eq!(levels, [2, 2]);
}

#[test]
fn a_segment_without_alarms_goes_whole_and_nothing_is_written_for_it() {
    let disk = Simulated::default();
    let mut store = opened(&disk, &rules(DropOldest, &[("*/alarm*", Stop)]));
    for alarms in [0, 0, 5] {
        for _ in 0..4 {
            try_append(&mut store, [100, alarms, 100]).unwrap();
        }
        store.seal_growing();
    }
    disk.set_quota(disk.used() + 600); // Room for the logbook, and for no segment.
    assert!(store.clear_oldest(true).unwrap() && store.clear_oldest(true).unwrap());
    assert_eq!(backlog(&mut store).len(), 4);
    assert_eq!(store.status().dropped_by.full, 1600);
    assert_real_books_balance(&mut store);
}

#[test]
fn when_nothing_but_alarms_is_left_devices_wait_and_go_on_when_there_is_room() {
    let disk = Simulated::default();
    let mut store = opened(&disk, &classed());
    let mut alarms = 0;
    let refused = loop {
        assert!(store.next_sequence().0 < 1000, "never full");
        let some = if store.next_sequence().0.is_multiple_of(4) { [40, 60, 40] } else { [0, 200, 0] };
        match try_append(&mut store, some) {
            Ok(_) => alarms += some[1],
            Err(refused) => break refused,
        }
        assert!(disk.used() <= classed().limit, "{} bytes on disk", disk.used());
    };
    assert!(matches!(refused, BufferError::Full { .. }), "{refused}");
    let [trends, found, counts] = each(&mut store);
    assert_eq!(found, alarms, "no alarm is missing");
    assert!(trends + counts < 200, "{trends} trends and {counts} counts are left");
    assert_real_books_balance(&mut store);
    let before = disk.reads();
    try_append(&mut store, [0, 200, 0]).unwrap_err();
    assert!(disk.reads() - before < 30, "what has nothing to give is not read again and again");
    store.acknowledge(&[1..=20]);
    for _ in 0..3 {
        try_append(&mut store, [40, 60, 40]).unwrap();
    }
    assert_real_books_balance(&mut store);
}

#[test]
fn the_budget_bounds_how_many_small_files_alarms_leave_behind() {
    let disk = Simulated::default();
    let rules = rules(DropOldest, &[("*/alarm*", Stop)]);
    let mut store = opened(&disk, &rules);
    let appended = (0..2000).take_while(|_| try_append(&mut store, [150, 1, 150]).is_ok()).count() as u64;
    assert!((100..2000).contains(&appended), "{appended} batches until the buffer was full");
    assert_eq!(each(&mut store)[1], appended);
    let files = store.segments.len() as u64;
    assert!(files <= rules.limit / BLOCK, "{files} files");
    assert_real_books_balance(&mut store);
}

#[test]
fn a_power_cut_at_any_change_of_a_clearing_leaves_the_old_or_the_new_and_its_reason() {
    let (mut olds, mut news) = (0, 0);
    let rules = rules(DropOldest, &[("*/alarm*", Stop)]);
    for change in 1.. {
        let disk = Simulated::with_cut_at(change);
        let mut store = filled(&disk, &rules);
        store.acknowledge(&[2..=2]); // Not durable before the clearing makes it so.
        if disk.is_dead() {
            continue;
        }
        drop(store.clear_oldest(true));
        if !disk.is_dead() {
            break;
        }
        for kept in [0, 5, 8] {
            let disk = disk.after_power_cut(kept);
            let (mut store, opening) = open(&disk, rules.clone());
            let at = format!("change {change}, {kept}/8 of the unsynced kept: {opening:?}");
            let (found, status) = (backlog(&mut store), store.status());
            let acknowledged = status.counts.acknowledged;
            if found[0].thinned {
                news += 1;
                let sequences: Vec<u64> = found[..2].iter().map(|stored| stored.sequence.0).collect();
                assert_eq!(sequences, [1, 4], "{at}: 2 was acknowledged, 3 had no alarm");
                assert_eq!((acknowledged, status.dropped_by.full), (201, 600), "{at}");
            } else {
                olds += 1;
                assert!(acknowledged == 0 || acknowledged == 201, "{at}");
                assert_eq!(status.counts.dropped, 0, "{at}");
            }
            assert_eq!(status.counts.dropped, status.dropped_by.full, "{at}");
            assert_real_books_balance(&mut store);
            assert!(disk.open(THINNING).is_err(), "{at}: the half is gone");
            store.close();
            let (mut store, opening) = open(&disk, rules.clone());
            assert_eq!(opening.repairs, Vec::<String>::new(), "{at}");
            assert_eq!(backlog(&mut store), found, "{at}");
            assert_real_books_balance(&mut store);
        }
    }
    assert!(olds > 10 && news > 1, "{olds} old, {news} new");
}

#[test]
fn a_change_that_fails_while_a_segment_is_cleared_costs_nothing_else() {
    for change in 1..60 {
        let disk = Simulated::default();
        let mut store = filled(&disk, &classed());
        disk.fail_at(change);
        drop(store.clear_oldest(true));
        if !disk.has_failed() {
            return;
        }
        assert_real_books_balance(&mut store);
        for disk in [disk.after_power_cut(0), disk.after_power_cut(8)] {
            let (mut store, _) = open(&disk, classed());
            assert_eq!(each(&mut store)[1], 18, "change {change}");
            assert_eq!(store.status().dropped_by.corrupt, 0, "change {change}");
            assert_real_books_balance(&mut store);
        }
    }
    unreachable!("a clearing makes fewer changes");
}

#[test]
fn a_full_or_failing_disk_lets_the_readings_go_that_may() {
    let disk = Simulated::default();
    let mut store = opened(&disk, &classed());
    for _ in 0..40 {
        try_append(&mut store, [100, 2, 100]).unwrap();
    }
    disk.set_quota(disk.used());
    for _ in 0..40 {
        try_append(&mut store, [100, 2, 100]).unwrap();
    }
    assert_eq!(each(&mut store)[1], 160);
    assert!(store.status().dropped_by.full > 0);
    assert_real_books_balance(&mut store);
    disk.refuse(Some(ErrorKind::ReadOnlyFilesystem));
    let before = each(&mut store);
    try_append(&mut store, [1000, 2, 1000]).unwrap_err();
    assert_eq!(each(&mut store), before, "giving up something would have made no room");
    disk.refuse(None);
    try_append(&mut store, [100, 2, 100]).unwrap();
    assert_real_books_balance(&mut store);
}

#[test]
fn other_classes_at_the_next_opening_are_the_rule_from_then_on() {
    let disk = Simulated::default();
    let mut store = filled(&disk, &classed());
    while store.clear_oldest(true).unwrap() {}
    assert_eq!(each(&mut store), [0, 18, 0]);
    drop(store);
    let mut store = opened(&disk, &rules(Stop, &[("*/alarm*", DropOldest)]));
    assert!(store.clear_oldest(true).unwrap());
    assert_eq!(each(&mut store), [0, 12, 0], "the alarms of the oldest segment");
    assert_real_books_balance(&mut store);
}

#[test]
fn without_its_logbook_a_cleared_segment_is_found_as_it_is() {
    let disk = Simulated::default();
    let rules = rules(DropOldest, &[("*/alarm*", Stop)]);
    let mut store = filled(&disk, &rules);
    assert!(store.clear_oldest(true).unwrap());
    drop(store);
    disk.remove("logbook").unwrap();
    let (mut store, opening) = open(&disk, rules);
    assert_eq!(backlog(&mut store).len(), 11, "{opening:?}");
    assert_eq!(store.status().dropped_by.corrupt, 0, "a batch that was left out is not damage");
    assert_real_books_balance(&mut store);
}

#[test]
fn whoever_looks_into_a_cleared_buffer_finds_nothing_wrong_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = Store::open(Arc::new(Flash::new(dir.path())), classed(), THIS_BOOT).unwrap();
    store.define(&[point("trend"), point("alarm"), point("count")]);
    for alarms in [2, 0, 1, 0] {
        try_append(&mut store, [300, alarms, 300]).unwrap();
    }
    store.seal_growing();
    assert!(store.thin_oldest().unwrap());
    while store.clear_oldest(true).unwrap() {}
    let [trends, alarms, counts] = each(&mut store);
    assert_eq!((alarms, counts), (3, 0));
    store.close();
    let inspection = Inspection::open(dir.path()).unwrap();
    let mut events = Vec::new();
    let checked = inspection.verify(&mut |event| {
        if let super::super::inspect::Event::Trouble(trouble) = event {
            events.push(trouble.clone());
        }
        Ok(())
    });
    assert_eq!((events, checked.unwrap().readings), (vec![], trends + 3));
}

/// What may happen to a store with classes.
#[derive(Clone, Debug)]
enum Event {
    Append([u64; 3]),
    Acknowledge { from: u64, length: u64 },
    Tick,
    Seal,
    Stop,
    Kill,
    CutPower(usize),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        12 => (0u64..300, 0u64..20, 0u64..300).prop_map(|(t, a, c)| Event::Append([t + 1, a, c])),
        2 => (0u64..100, 0u64..20).prop_map(|(from, length)| Event::Acknowledge { from, length }),
        2 => Just(Event::Tick),
        1 => Just(Event::Seal),
        1 => Just(Event::Stop),
        1 => Just(Event::Kill),
        1 => (0usize..=8).prop_map(Event::CutPower),
    ]
}

fn rule() -> impl Strategy<Value = WhenFull> {
    prop_oneof![Just(DropOldest), Just(Stop), Just(Thin)]
}

fn live([trend, alarm, count]: [WhenFull; 3], events: Vec<Event>) {
    let rules = Rules { limit: 200 << 10, ..rules(count, &[("*/trend", trend), ("*/alarm", alarm)]) };
    let of = |point: PointId| [trend, alarm, count][point.0 as usize - 1];
    let mut disk = Simulated::default();
    let mut store = opened(&disk, &rules);
    let mut appended: BTreeMap<u64, [u64; 3]> = BTreeMap::new();
    let mut acknowledged: HashSet<u64> = HashSet::new();
    for event in events {
        match event {
            Event::Append(each) => match try_append(&mut store, each) {
                Ok(sequence) => drop(appended.insert(sequence, each)),
                Err(refused) => assert!(matches!(refused, BufferError::Full { .. }), "{refused}"),
            },
            Event::Acknowledge { from, length } => {
                store.acknowledge(&[from..=from + length]);
                acknowledged.extend(from..=from + length);
            }
            Event::Tick => store.tick(),
            Event::Seal => store.seal_growing(),
            Event::Stop => {
                store.close();
                store = opened(&disk, &rules);
            }
            Event::Kill => {
                drop(store);
                store = opened(&disk, &rules);
            }
            Event::CutPower(kept) => {
                drop(store);
                disk = disk.after_power_cut(kept);
                store = opened(&disk, &rules);
            }
        }
        assert!(disk.used() <= rules.limit, "{} bytes on disk", disk.used());
        let by = store.status().dropped_by;
        assert!(by.corrupt == 0 && (by.thinned == 0 || [trend, alarm, count].contains(&Thin)), "{by:?}");
    }
    let sum: u64 = appended.values().flatten().sum();
    assert_eq!(store.status().counts.appended, sum);
    assert_real_books_balance(&mut store);
    let found: BTreeMap<u64, Vec<Reading>> =
        backlog(&mut store).iter().map(|stored| (stored.sequence.0, decoded(stored).readings)).collect();
    for (sequence, each) in appended.iter().filter(|(sequence, _)| !acknowledged.contains(sequence)) {
        let original = readings_of(*sequence, *each);
        let kept = found.get(sequence).cloned().unwrap_or_default();
        assert!(kept.iter().all(|reading| original.contains(reading)), "nothing is invented");
        let lost = original.iter().filter(|reading| !kept.contains(reading));
        let lost: Vec<_> = lost.filter(|reading| of(reading.point) == Stop).collect();
        assert!(lost.is_empty(), "batch {sequence} lost {lost:?}, whose rule is to stop");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_stops_is_never_given_up_and_the_books_balance_whatever_the_classes(
        rules in [rule(), rule(), rule()],
        events in prop::collection::vec(event(), 1..160),
    ) {
        live(rules, events);
    }
}
