//! The tail, and what a restored server gets from it.

use forebay_protocols::sync::batch::Epoch;
use forebay_protocols::sync::ranges::Ranges;
use forebay_protocols::sync::wire::gap::Reason;

use super::super::Revived;
use super::super::frame::FileFacts;
use super::super::segments::file_name;
use super::super::simulated::Simulated;
use super::*;

/// A store that has 20 segments of 3 batches behind it, all acknowledged and durable.
fn emptied(disk: &Simulated) -> Store {
    let (mut store, _) = open(disk, TIGHT);
    append(&mut store, 60, 5000);
    store.acknowledge(&[1..=60]);
    store.seal_growing();
    store.tick();
    assert_eq!((store.status().backlog_batches, store.next_sequence().0), (0, 61));
    store
}

fn set(ranges: &[RangeInclusive<u64>]) -> Ranges {
    let mut set = Ranges::default();
    for range in ranges {
        set.insert(range.clone());
    }
    set
}

fn found(store: &mut Store) -> Vec<u64> {
    alive(store).into_keys().collect()
}

#[test]
fn acknowledged_segments_stay_until_the_tail_is_full_and_the_oldest_go_first() {
    let disk = Simulated::default();
    let store = emptied(&disk);
    let tail = store.status().tail_bytes;
    assert!(tail <= TIGHT.tail && tail > TIGHT.tail / 2, "{tail}");
    assert!(disk.open(&file_name(1)).is_err() && disk.open(&file_name(20)).is_ok());
    assert_eq!(store.acknowledged(), &set(&[1..=60]));
    store.close();
    let (store, opening) = open(&disk, TIGHT);
    assert_eq!((opening.repairs, store.status().tail_bytes), (vec![], tail));
    assert_eq!(store.acknowledged(), &set(&[1..=60]));
}

#[test]
fn without_a_tail_nothing_is_kept() {
    let disk = Simulated::default();
    drop(emptied(&disk));
    let (mut store, _) = open(&disk, Rules { tail: 0, ..TIGHT });
    store.tick();
    assert_eq!(store.status().tail_bytes, 0);
    assert!(disk.open(&file_name(20)).is_err());
}

#[test]
fn what_a_server_lost_is_backlog_again_as_far_as_it_is_there_and_else_a_gap() {
    let disk = Simulated::default();
    let mut store = emptied(&disk);
    append(&mut store, 2, 5000);
    store.acknowledge(&[62..=62]);
    let before = store.status().counts;
    let revived = store.revive(&[31..=u64::MAX]);
    let backlog = found(&mut store);
    let there: Vec<u64> = backlog.iter().copied().filter(|sequence| *sequence != 61).collect();
    assert_eq!(there.last(), Some(&62), "of a living segment too");
    let lost = 30 - (there.len() as u64 - 1);
    assert_eq!(revived, Revived { batches: there.len() as u64, lost });
    assert!(lost > 10 && there.len() > 9, "{revived:?}");
    let gaps = store.gaps(0, 9);
    assert_eq!((gaps.len(), gaps[0].reason()), (1, Reason::ServerLost));
    assert_eq!(gaps[0].count, readings(31..31 + lost), "whole segments are counted exactly");
    assert!(gaps[0].from_us > 0 && gaps[0].to_us > gaps[0].from_us, "{gaps:?}");
    let counts = store.status().counts;
    assert_eq!((counts.appended, counts.dropped), (before.appended, 0));
    assert_eq!(counts.acknowledged, before.acknowledged - readings(there.iter().copied()));
    assert_eq!(store.acknowledged(), &set(&[1..=30]), "the lost ones are told once");
    assert_eq!(store.revive(&[31..=70]), Revived::default());
    // All of it survives a kill, and can be acknowledged as before.
    drop(store);
    let (mut store, opening) = open(&disk, TIGHT);
    assert_eq!((opening.repairs, found(&mut store)), (vec![], backlog));
    assert_eq!((store.status().counts, store.acknowledged()), (counts, &set(&[1..=30])));
    store.acknowledge(&[0..=u64::MAX]);
    assert_eq!(store.status().counts.acknowledged, counts.appended);
}

#[test]
fn a_sequence_that_was_never_acknowledged_is_passed_over() {
    let disk = Simulated::default();
    let (mut store, _) = open(&disk, TIGHT);
    append(&mut store, 6, 5000);
    store.drop_oldest(true).unwrap();
    let dropped = store.status().counts.dropped;
    assert!(dropped > 0);
    assert_eq!(store.revive(&[1..=900]), Revived::default());
    assert_eq!(store.gaps(0, 9).len(), 1, "the one of the drop");
}

#[test]
fn a_hole_in_the_sequences_is_not_acknowledged() {
    let disk = Simulated::default();
    let (mut store, _) = open(&disk, TIGHT);
    store.append(&[batch(1, 100), batch(5, 100)]).unwrap();
    store.acknowledge(&[1..=9]);
    assert_eq!(store.acknowledged(), &set(&[1..=1, 5..=5]));
}

#[test]
fn the_tail_goes_before_anything_of_the_backlog() {
    let disk = Simulated::default();
    let mut store = emptied(&disk);
    let mut had_a_tail = 0;
    while store.status().counts.dropped == 0 {
        had_a_tail = store.status().tail_bytes;
        append(&mut store, 1, 5000);
    }
    assert_eq!(had_a_tail, 0, "the tail was gone when the first batch was dropped");
    assert_books_balance(&mut store);
}

#[test]
fn a_buffer_told_to_stop_gives_its_tail_before_it_stops() {
    let disk = Simulated::default();
    drop(emptied(&disk));
    let (mut store, _) = open(&disk, Rules { when_full: WhenFull::Stop, ..TIGHT });
    let room = TIGHT.limit - store.status().disk_bytes;
    let mut written = 0;
    while store.append(&[batch(store.next_sequence().0, 5000)]).is_ok() {
        written += 5000;
    }
    assert!(written > room, "{written} of {room}");
    assert_eq!(store.status().tail_bytes, 0);
}

#[test]
fn a_full_disk_gets_the_tail_back() {
    let disk = Simulated::default();
    let mut store = emptied(&disk);
    disk.set_quota(disk.used());
    append(&mut store, 10, 5000);
    assert_eq!((store.status().counts.dropped, found(&mut store).len()), (0, 10));
}

#[test]
fn a_damaged_tail_segment_costs_only_what_is_damaged() {
    let disk = Simulated::default();
    let store = emptied(&disk);
    let oldest = *store.segments.keys().next().unwrap();
    let first = store.segments[&oldest].first;
    disk.remove(&file_name(oldest)).unwrap();
    store.close();
    let (mut store, opening) = open(&disk, TIGHT);
    assert_eq!(opening.repairs, Vec::<String>::new(), "nothing of the backlog is missing");
    let revived = store.revive(&[first..=60]);
    assert_eq!((revived.lost, revived.batches), (3, 60 - first + 1 - 3));
    assert_eq!(store.gaps(0, 9)[0].count, readings(first..first + 3));
}

#[test]
fn however_small_the_segments_of_the_tail_are_they_are_bounded_in_number() {
    let disk = Simulated::default();
    let (mut store, _) = open(&disk, TIGHT);
    for _ in 0..300 {
        let last = *append(&mut store, 1, 10).last().unwrap();
        store.acknowledge(&[last..=last]);
        store.seal_growing();
    }
    assert_eq!(store.segments.len(), 256);
}

#[test]
fn a_revived_batch_is_back_in_sled_too() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open_dir(dir.path());
    append(&mut store, 60, 20_000);
    store.acknowledge(&[1..=60]);
    store.tick();
    assert_eq!(store.revive(&[3..=50]).batches, 48);
    assert_eq!(found(&mut store), (3..=50).collect::<Vec<_>>());
    store.close();
    let (mut store, opening) = open_dir(dir.path());
    assert_eq!((opening.repairs, found(&mut store)), (vec![], (3..=50).collect()));
}

#[test]
fn what_was_acknowledged_is_known_when_the_logbook_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open_dir(dir.path());
    append(&mut store, 60, 100_000);
    store.acknowledge(&[1..=60]);
    store.close();
    std::fs::remove_file(dir.path().join("logbook")).unwrap();
    let (mut store, _) = open_dir(dir.path());
    let backlog = found(&mut store);
    assert!(!backlog.is_empty() && backlog[0] > 1, "what is on the disk is backlog again: {backlog:?}");
    assert_eq!(store.acknowledged(), &set(&[1..=backlog[0] - 1]), "the rest is known to be acknowledged");
}

#[test]
fn what_was_set_aside_earlier_is_not_overwritten() {
    let disk = Simulated::default();
    let (mut store, _) = open(&disk, TIGHT);
    append(&mut store, 3, 3000);
    drop(store);
    for garbage in [1u8, 2, 3] {
        disk.create(&file_name(7)).unwrap().write_at(&foreign(garbage), 0).unwrap();
        drop(open(&disk, TIGHT));
    }
    for (name, garbage) in [("", 1u8), (".2", 2), (".3", 3)] {
        let aside = disk.open(&format!("damaged/{}{name}", file_name(7))).unwrap();
        let mut bytes = vec![0; foreign(garbage).len()];
        aside.read_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes, foreign(garbage));
    }
}

/// A segment of another epoch.
fn foreign(number: u8) -> Vec<u8> {
    FileFacts { segment: true, epoch: Epoch([number; 16]), number: 7, first: 1, appended_before: 0, level: 0 }
        .encode()
}

#[test]
fn dropped_readings_are_counted_by_reason_across_restarts() {
    let disk = Simulated::default();
    let (mut store, _) = open(&disk, TIGHT);
    append(&mut store, 6, 5000);
    store.drop_oldest(true).unwrap();
    let full = store.status().counts.dropped;
    disk.open(&file_name(2)).unwrap().write_at(&[0xFF; 40], 2000).unwrap();
    alive(&mut store);
    store.tick();
    let by = store.status().dropped_by;
    assert!(full > 0 && by.corrupt > 0, "{by:?}");
    assert_eq!((by.full, by.full + by.corrupt, by.thinned), (full, store.status().counts.dropped, 0));
    drop(store);
    let (mut store, _) = open(&disk, TIGHT);
    assert_eq!(store.status().dropped_by, by);
    assert_books_balance(&mut store);
}
