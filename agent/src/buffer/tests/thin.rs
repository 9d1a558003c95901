//! Thinning: old data at half its resolution instead of none.

use forebay_protocols::reading::{Clock, Quality, Reading, Stamp, Value};
use forebay_protocols::sync::batch::{Boot, Decoder, Encoder, Head};
use forebay_protocols::sync::wire::gap::Reason;

use super::super::rewrite::THINNING;
use super::super::segments::file_name;
use super::super::simulated::Simulated;
use super::real::{append_real, assert_real_books_balance, decoded, readings_of, real};
use super::*;

const THIN: Rules = tight(WhenFull::Thin);

/// A store of three segments of three batches of 300 readings and a few, unless its disk dies.
fn filled(disk: &Simulated) -> Store {
    let (mut store, _) = open(disk, THIN);
    store.define(&[point("flow"), point("mode"), point("level")]);
    for _ in 0..3 {
        for _ in 0..3 {
            let next = store.next_sequence().0;
            drop(store.append(&[real(store.epoch, store.boot.counter, next, 300)]));
        }
        store.seal_growing();
    }
    store.tick();
    store
}

#[test]
fn a_thinned_batch_keeps_every_second_number_its_ends_and_all_that_is_no_good_number() {
    let disk = Simulated::default();
    let mut store = filled(&disk);
    assert!(store.thin_oldest().unwrap());
    let backlog = store.oldest(Sequence(0), usize::MAX);
    assert_eq!(backlog.iter().filter(|stored| stored.thinned).count(), 3);
    for stored in &backlog {
        let (sequence, original) = (stored.sequence.0, readings_of(stored.sequence.0, 300));
        let kept = decoded(stored);
        assert_eq!(kept.head.sequence.0, sequence);
        if sequence > 3 {
            assert_eq!((kept.readings, stored.thinned), (original, false));
            continue;
        }
        assert!(kept.readings.iter().all(|reading| original.contains(reading)), "nothing is invented");
        let of = |point| kept.readings.iter().filter(|r| r.point == PointId(point)).collect::<Vec<_>>();
        assert_eq!(of(1).len(), 151);
        assert_eq!((of(1)[0], of(1)[150]), (&original[0], &original[299]));
        assert_eq!(of(2).len(), 3, "texts stay");
        assert!(of(3).iter().any(|reading| matches!(reading.quality, Quality::Bad(_))));
        assert_eq!(of(3).last().unwrap().value, Some(Value::Integer(4)));
    }
    assert_real_books_balance(&mut store);
    let (gaps, by) = (store.gaps(0, 9), store.status().dropped_by);
    assert_eq!((gaps.len(), gaps[0].reason(), gaps[0].count), (1, Reason::Thinned, by.thinned));
    assert!(by.thinned > 400 && by.full + by.corrupt == 0 && gaps[0].to_us > gaps[0].from_us, "{gaps:?}");
}

#[test]
fn a_thinned_batch_is_of_no_newer_format_than_it_was() {
    let disk = Simulated::default();
    let (mut store, _) = open(&disk, THIN);
    store.define(&[point("flow")]);
    let beside = |n: u64| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as f64 * 0.001;
    let reading = |n: u64| Reading {
        point: PointId(1),
        stamp: Stamp { clock: Clock::Boot, micros: n as i64 * 1000 },
        value: Some(Value::Float(beside(n))),
        quality: Quality::Good,
    };
    let mut readings: Vec<_> = (0..600).map(reading).collect();
    let boot = Boot { counter: store.boot.counter, id: [1; 8], wall_offset_us: 0, synchronised: true };
    let head = Head { epoch: store.epoch, sequence: store.next_sequence(), boot };
    let newest = Encoder::new().encode(&head, &mut readings.clone());
    assert_eq!(Decoder::new().decode(&newest.bytes).unwrap().format, 2, "else the test tests nothing");
    // As it was written while the server read nothing newer.
    store.append(&[Encoder::new().up_to(1).encode(&head, &mut readings)]).unwrap();
    store.seal_growing();
    store.tick();
    assert!(store.thin_oldest().unwrap());
    let stored = store.oldest(Sequence(0), usize::MAX).remove(0);
    assert!(stored.thinned);
    assert_eq!((decoded(&stored).format, decoded(&stored).readings.len()), (1, 301));
}

#[test]
fn thinning_goes_on_from_the_oldest_until_it_makes_no_room_and_then_the_oldest_is_dropped() {
    let disk = Simulated::default();
    let mut store = filled(&disk);
    let mut levels = Vec::new();
    while store.thin_oldest().unwrap() {
        levels.push(store.segments.values().map(|segment| segment.level).collect::<Vec<_>>());
        assert_real_books_balance(&mut store);
    }
    assert_eq!(levels[..4], [vec![1, 0, 0], vec![1, 1, 0], vec![1, 1, 1], vec![2, 1, 1]]);
    assert!(levels.len() < 40 && store.status().dropped_by.full == 0);
    let books = store.status();
    drop(store);
    let (mut store, opening) = open(&disk, THIN);
    assert_eq!((opening.repairs, opening.counts), (vec![], books.counts));
    assert_real_books_balance(&mut store);
    assert!(!store.thin_oldest().unwrap(), "what is bare stays bare");
    assert!(store.drop_oldest(true).unwrap());
    assert_real_books_balance(&mut store);
}

#[test]
fn a_full_buffer_keeps_a_longer_time_at_half_the_resolution_and_its_budget() {
    let disk = Simulated::default();
    let (mut store, _) = open(&disk, THIN);
    for _ in 0..160 {
        append_real(&mut store, 400);
        assert!(disk.used() <= THIN.limit, "{} bytes on disk", disk.used());
    }
    let backlog = store.oldest(Sequence(0), usize::MAX);
    assert_eq!(backlog.len(), 160, "every batch is still there");
    assert!(backlog[0].thinned && !backlog[159].thinned);
    assert!(store.status().dropped_by.thinned > 0);
    assert_eq!(store.gaps(0, 99).len(), 1, "one want of room, one record");
    assert_real_books_balance(&mut store);
    store.acknowledge(&[0..=u64::MAX]);
    let counts = store.status().counts;
    assert_eq!(counts.acknowledged + counts.dropped, counts.appended);
}

#[test]
fn batches_that_are_none_are_dropped_whole() {
    let disk = Simulated::default();
    let (mut store, _) = open(&disk, THIN);
    for _ in 0..200 {
        append(&mut store, 1, 4000);
        assert!(disk.used() <= THIN.limit);
    }
    let by = store.status().dropped_by;
    assert!(by.full > 0 && by.thinned == 0, "{by:?}");
    assert_books_balance(&mut store);
}

#[test]
fn a_power_cut_at_any_change_of_a_thinning_leaves_the_old_or_the_new() {
    let (mut olds, mut news) = (0, 0);
    for change in 1.. {
        let disk = Simulated::with_cut_at(change);
        let mut store = filled(&disk);
        store.acknowledge(&[2..=2]);
        store.tick();
        if disk.is_dead() {
            continue;
        }
        let before = store.status().counts;
        drop(store.thin_oldest());
        if !disk.is_dead() {
            break;
        }
        for kept in [0, 5, 8] {
            let disk = disk.after_power_cut(kept);
            let (mut store, opening) = open(&disk, THIN);
            let at = format!("change {change}, {kept}/8 of the unsynced kept: {opening:?}");
            let backlog = store.oldest(Sequence(0), usize::MAX);
            assert_eq!(backlog.len(), 8, "{at}");
            assert_eq!(store.status().counts.acknowledged, before.acknowledged, "{at}");
            assert_eq!(store.status().dropped_by.corrupt, 0, "{at}");
            *(if backlog[0].thinned { &mut news } else { &mut olds }) += 1;
            assert_real_books_balance(&mut store);
            assert!(disk.open(THINNING).is_err(), "{at}: the half is gone");
            store.close();
            let (mut store, opening) = open(&disk, THIN);
            assert_eq!(opening.repairs, Vec::<String>::new(), "{at}");
            assert_real_books_balance(&mut store);
        }
    }
    assert!(olds > 10 && news > 1, "{olds} old, {news} new");
}

#[test]
fn a_folder_that_does_not_sync_keeps_the_logbook_from_telling_of_the_new_file() {
    for change in 1..60 {
        let disk = Simulated::default();
        let mut store = filled(&disk);
        disk.fail_at(change);
        drop(store.thin_oldest());
        if !disk.has_failed() {
            return;
        }
        assert_real_books_balance(&mut store);
        for disk in [disk.after_power_cut(0), disk.after_power_cut(8)] {
            let (mut store, _) = open(&disk, THIN);
            assert_eq!(store.oldest(Sequence(0), usize::MAX).len(), 9, "change {change}");
            assert_real_books_balance(&mut store);
        }
    }
    unreachable!("a thinning makes fewer changes");
}

#[test]
fn a_catalogue_from_before_the_thinning_points_nowhere_and_is_brought_up_to_date() {
    let dir = tempfile::tempdir().unwrap();
    let thin = Rules { when_full: WhenFull::Thin, ..ROOMY };
    let open = || Store::open(Arc::new(Flash::new(dir.path())), thin.clone(), THIS_BOOT).unwrap();
    let (mut store, _) = open();
    for _ in 0..5 {
        append_real(&mut store, 500);
    }
    store.seal_growing();
    store.tick();
    store.rest();
    let old = tempfile::tempdir().unwrap();
    power::copy_folder(&dir.path().join("catalogue"), old.path());
    assert!(store.thin_oldest().unwrap());
    drop(store);
    std::fs::remove_dir_all(dir.path().join("catalogue")).unwrap();
    power::copy_folder(old.path(), &dir.path().join("catalogue"));
    let (mut store, opening) = open();
    let backlog = store.oldest(Sequence(0), usize::MAX);
    assert_eq!((backlog.len(), store.status().dropped_by.corrupt), (5, 0), "{opening:?}");
    assert!(backlog.iter().all(|stored| stored.thinned));
    assert_real_books_balance(&mut store);
}

#[test]
fn a_thinned_segment_is_known_as_such_without_a_logbook() {
    let disk = Simulated::default();
    let mut store = filled(&disk);
    assert!(store.thin_oldest().unwrap());
    drop(store);
    disk.remove("logbook").unwrap();
    let (mut store, _) = open(&disk, THIN);
    assert_eq!(store.oldest(Sequence(0), usize::MAX).iter().filter(|stored| stored.thinned).count(), 3);
    assert_real_books_balance(&mut store);
}

#[test]
fn a_flipped_bit_in_a_thinned_batch_costs_that_batch() {
    let disk = Simulated::default();
    let mut store = filled(&disk);
    assert!(store.thin_oldest().unwrap());
    disk.open(&file_name(1)).unwrap().write_at(&[0xAA; 9], 300).unwrap();
    assert_eq!(store.oldest(Sequence(0), usize::MAX).len(), 8);
    assert_real_books_balance(&mut store);
    assert!(store.status().dropped_by.corrupt > 0);
}

#[test]
fn an_acknowledged_batch_of_a_thinned_segment_can_be_revived() {
    let disk = Simulated::default();
    let mut store = filled(&disk);
    store.acknowledge(&[1..=2]);
    assert!(store.thin_oldest().unwrap());
    assert_eq!(store.revive(&[1..=2]).batches, 2);
    assert_eq!(store.oldest(Sequence(0), usize::MAX).len(), 9);
    assert_real_books_balance(&mut store);
}
