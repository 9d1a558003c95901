//! Budget, reserve, full disks and disks that refuse.

use std::io::ErrorKind;

use forebay_protocols::sync::wire::gap::Reason;

use super::super::BufferError;
use super::super::simulated::Simulated;
use super::*;

#[test]
fn the_oldest_give_way_with_a_gap_record_and_the_budget_holds() {
    let disk = Simulated::default();
    let (mut store, _) = open(&disk, TIGHT);
    for _ in 0..300 {
        append(&mut store, 1, 4000);
        assert!(disk.used() <= TIGHT.limit, "{} bytes on disk", disk.used());
    }
    let found = alive(&mut store);
    let oldest = *found.keys().next().unwrap();
    assert!(oldest > 200 && found.len() > 50, "{oldest} … {}", found.len());
    assert_eq!(store.status().counts.dropped, readings(1..oldest));
    let gaps = store.gaps(0, 100);
    assert_eq!((gaps.len(), gaps[0].reason()), (1, Reason::BufferFull), "one overflow, one record");
    assert_eq!(gaps[0].count, readings(1..oldest));
    assert!(gaps[0].to_us - gaps[0].from_us >= (oldest as i64 - 2) * 1000);
    assert_books_balance(&mut store);
    drop(store);
    let (mut store, _) = open(&disk, TIGHT);
    assert_eq!(alive(&mut store), found);
    assert_books_balance(&mut store);
}

#[test]
fn the_budget_holds_with_sled_too() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open_dir(dir.path());
    for round in 0..40u64 {
        append(&mut store, 8, 80_000);
        store.acknowledge(&[round * 8 + 1..=round * 8 + 2]);
        store.tick();
        store.rest();
        let used = super::super::catalogue::bytes_below(dir.path());
        assert!(used <= ROOMY.limit, "{used} bytes on disk in round {round}");
    }
    assert!(store.status().counts.dropped > 0, "{:?}", store.status());
    assert_books_balance(&mut store);
}

#[test]
fn a_buffer_told_to_stop_says_full_and_goes_on_when_there_is_room() {
    let disk = Simulated::default();
    let (mut store, _) = open(&disk, Rules { when_full: WhenFull::Stop, ..TIGHT });
    let refused = loop {
        let next = store.next_sequence().0;
        if let Err(refused) = store.append(&[batch(next, 4000)]) {
            break refused;
        }
    };
    assert!(matches!(refused, BufferError::Full { .. }), "{refused}");
    let full = store.next_sequence().0 - 1;
    assert_eq!((store.status().counts.dropped, alive(&mut store).len() as u64), (0, full));
    store.acknowledge(&[1..=20]);
    assert_eq!(append(&mut store, 3, 4000), [full + 1, full + 2, full + 3]);
    assert_books_balance(&mut store);
}

#[test]
fn a_batch_larger_than_the_budget_costs_no_other_batch() {
    let disk = Simulated::default();
    let (mut store, _) = open(&disk, TIGHT);
    append(&mut store, 10, 4000);
    let refused = store.append(&[batch(11, TIGHT.limit as usize)]).unwrap_err();
    assert!(matches!(refused, BufferError::Full { .. }), "{refused}");
    assert_eq!(alive(&mut store).len(), 10);
}

#[test]
fn short_of_its_reserve_the_buffer_stops_growing_but_does_not_empty_itself() {
    let disk = Simulated::default();
    disk.set_capacity(400 << 10);
    let (mut store, _) = open(&disk, Rules { reserve: 200 << 10, ..TIGHT });
    append(&mut store, 200, 4000);
    let (used, kept) = (disk.used(), alive(&mut store).len());
    assert!(used < 200 << 10, "{used}");
    // Somebody else takes the reserve.
    disk.set_capacity(220 << 10);
    append(&mut store, 50, 4000);
    assert!(alive(&mut store).len() + 8 > kept, "{} of {kept} left", alive(&mut store).len());
    assert_books_balance(&mut store);
}

#[test]
fn a_full_disk_refuses_cleanly_and_an_acknowledgement_makes_room() {
    let disk = Simulated::default();
    let (mut store, _) = open(&disk, Rules { when_full: WhenFull::Stop, ..TIGHT });
    append(&mut store, 20, 4000);
    disk.set_quota(disk.used() + 1000);
    let next = store.next_sequence().0;
    for _ in 0..3 {
        let refused = store.append(&[batch(next, 4000)]).unwrap_err();
        assert!(matches!(refused, BufferError::Disk(_)), "{refused}");
        assert!(!store.status().writable && store.fault().is_some());
    }
    assert_eq!(alive(&mut store).len(), 20);
    store.acknowledge(&[1..=8]);
    store.tick();
    store.append(&[batch(next, 4000)]).unwrap();
    assert!(store.status().writable);
    assert_books_balance(&mut store);
    drop(store);
    let (mut store, _) = open(&disk, TIGHT);
    assert_eq!(alive(&mut store).len(), 13);
    assert_books_balance(&mut store);
}

#[test]
fn on_a_full_disk_the_oldest_segment_makes_room_for_the_new() {
    let disk = Simulated::default();
    let (mut store, _) = open(&disk, TIGHT);
    append(&mut store, 30, 4000);
    disk.set_quota(disk.used());
    append(&mut store, 30, 4000);
    let found = alive(&mut store);
    assert!(found.contains_key(&60) && !found.contains_key(&1), "{found:?}");
    assert_books_balance(&mut store);
    drop(store);
    let (mut store, _) = open(&disk, TIGHT);
    assert_eq!(alive(&mut store), found);
    assert_books_balance(&mut store);
}

#[test]
fn a_read_only_disk_costs_nothing_and_work_goes_on_when_it_is_writable_again() {
    let disk = Simulated::default();
    let (mut store, _) = open(&disk, TIGHT);
    append(&mut store, 300, 4000);
    let before = alive(&mut store);
    disk.refuse(Some(ErrorKind::ReadOnlyFilesystem));
    let next = store.next_sequence().0;
    for _ in 0..20 {
        // Larger than a segment, so that something would have to give way.
        let refused = store.append(&[batch(next, 30_000)]).unwrap_err();
        assert!(matches!(refused, BufferError::Disk(_)), "{refused}");
    }
    assert_eq!(alive(&mut store), before, "dropping would have made no room");
    disk.refuse(None);
    store.append(&[batch(next, 4000)]).unwrap();
    assert_books_balance(&mut store);
}

#[test]
fn a_store_opens_and_reads_on_a_disk_that_refuses_every_write() {
    let disk = Simulated::default();
    let (mut store, first) = open(&disk, TIGHT);
    append(&mut store, 10, 4000);
    drop(store);
    disk.refuse(Some(ErrorKind::ReadOnlyFilesystem));
    let (mut store, opening) = open(&disk, TIGHT);
    assert_eq!((opening.epoch, alive(&mut store).len(), store.status().writable), (first.epoch, 10, false));
    store.acknowledge(&[1..=4]);
    store.define(&[point("flow")]);
    store.tick();
    let next = store.next_sequence().0;
    assert!(store.append(&[batch(next, 10)]).is_err());
    disk.refuse(None);
    store.append(&[batch(next, 10)]).unwrap();
    drop(store);
    let (mut store, _) = open(&disk, TIGHT);
    assert_eq!(alive(&mut store).len(), 7);
    assert_eq!(store.define(&[point("flow")]), [PointId(1)]);
    assert_books_balance(&mut store);
}

#[test]
fn a_new_store_on_a_disk_that_refuses_begins_its_epoch_when_it_can() {
    let disk = Simulated::default();
    disk.refuse(Some(ErrorKind::ReadOnlyFilesystem));
    let (mut store, opening) = open(&disk, TIGHT);
    assert!(!store.status().writable && store.append(&[batch(1, 10)]).is_err());
    disk.refuse(None);
    append(&mut store, 2, 10);
    drop(store);
    assert_eq!(open(&disk, TIGHT).1.epoch, opening.epoch);
}

#[test]
fn memory_for_a_refusing_disk_is_bounded() {
    let disk = Simulated::default();
    let (mut store, _) = open(&disk, TIGHT);
    append(&mut store, 60, 10);
    disk.refuse(Some(ErrorKind::ReadOnlyFilesystem));
    for _ in 0..20_000 {
        store.record_gap(Default::default());
    }
    store.tick();
    assert!(store.logbook.length() < 600 << 10, "{} bytes", store.logbook.length());
    disk.refuse(None);
    store.tick();
    drop(store);
    let (mut store, _) = open(&disk, TIGHT);
    let gaps = store.gaps(0, usize::MAX);
    assert_eq!((gaps.len(), gaps.last().unwrap().number), (4096, 20_000));
}

#[test]
fn an_acknowledgement_is_durable_on_a_full_disk_too() {
    let disk = Simulated::default();
    let (mut store, _) = open(&disk, TIGHT);
    append(&mut store, 3, 4000);
    store.tick();
    disk.set_quota(disk.used());
    store.acknowledge(&[1..=1]);
    store.tick();
    assert_eq!(store.fault(), None, "the ballast makes room for the logbook");
    drop(store);
    let (mut store, _) = open(&disk, TIGHT);
    assert_eq!(alive(&mut store).into_keys().collect::<Vec<_>>(), [2, 3]);
}

#[test]
fn a_large_catalogue_is_part_of_the_budget() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open_dir(dir.path());
    for round in 0..100u64 {
        let next = store.next_sequence().0;
        let batches: Vec<_> = (next..next + 800).map(|sequence| batch(sequence, 200)).collect();
        store.append(&batches).unwrap();
        store.tick();
        let used = super::super::catalogue::bytes_below(dir.path());
        assert!(used <= ROOMY.limit, "{used} bytes on disk in round {round}");
        assert!(store.status().disk_bytes.abs_diff(used) < 1 << 20, "{used}: {:?}", store.status());
    }
    assert!(store.status().counts.dropped > 0, "{:?}", store.status());
}

#[test]
fn after_a_failed_append_nothing_was_appended_and_the_same_batches_may_be_tried_again() {
    for (change, again) in (1..).flat_map(|change| [(change, false), (change, true)]) {
        let disk = Simulated::default();
        let (mut store, _) = open(&disk, TIGHT);
        append(&mut store, 2, 9000);
        store.define(&[point("flow")]);
        disk.fail_at(change);
        let result = store.append(&[batch(3, 3000), batch(4, 300)]);
        if !disk.has_failed() {
            assert!(change > 6, "the append made only {change} changes");
            break;
        }
        let appended = result.is_ok() || (again && store.append(&[batch(3, 3000), batch(4, 300)]).is_ok());
        drop(store);
        let (mut store, opening) = open(&disk, TIGHT);
        let found: Vec<u64> = alive(&mut store).into_keys().collect();
        let expected: &[u64] = if appended { &[1, 2, 3, 4] } else { &[1, 2] };
        assert_eq!(found, expected, "change {change}, tried again: {again}; {opening:?}");
        assert!(appended || !again, "change {change}: the second attempt failed too");
        assert_books_balance(&mut store);
    }
}

#[test]
fn a_page_that_the_disk_refuses_costs_the_batches_on_it_and_no_others() {
    let disk = Simulated::default();
    let (mut store, _) = open(&disk, TIGHT);
    append(&mut store, 15, 1000);
    store.seal_growing();
    let (whole, before) = (alive(&mut store), store.status().counts);
    drop(store);
    let (mut store, _) = open(&disk, TIGHT);
    disk.spoil("segment-0000000001", 4096..8192);
    for _ in 0..4 {
        store.oldest(Sequence(0), usize::MAX);
    }
    let found = alive(&mut store);
    assert!((9..=11).contains(&found.len()), "{found:?}");
    let lost: u32 = whole.iter().filter(|(sequence, _)| !found.contains_key(*sequence)).map(|(_, n)| n).sum();
    let after = store.status();
    assert_eq!((after.counts.appended, after.dropped_by.corrupt), (before.appended, u64::from(lost)));
    assert_eq!(store.gaps(0, 9).iter().map(|gap| gap.count).sum::<u64>(), u64::from(lost));
    assert_books_balance(&mut store);
}
