//! Openings and boots: who writes here, and by which clock.

use std::io::ErrorKind;

use super::super::frame::FileFacts;
use super::super::inspect::Inspection;
use super::super::segments::{file_name, number_of};
use super::super::simulated::Simulated;
use super::super::{BootKnown, LastRun};
use super::real::{OFFSET_US, append_real};
use super::*;

fn ids(store: &Store) -> Vec<Vec<u8>> {
    store.openings().into_iter().map(|opening| opening.id).collect()
}

fn reopen(disk: &Simulated, boot: u8) -> (Store, Opening) {
    Store::open(Arc::new(disk.clone()), TIGHT, [boot; 16]).unwrap()
}

#[test]
fn every_opening_has_an_id_of_its_own_and_says_what_is_older() {
    let disk = Simulated::default();
    let (mut store, _) = open(&disk, TIGHT);
    store.define(&[point("flow")]);
    append(&mut store, 3, 100);
    store.record_gap(Default::default());
    store.tick();
    let first = ids(&store);
    drop(store);
    let (store, _) = open(&disk, TIGHT);
    let openings = store.openings();
    assert_eq!((openings.len(), &openings[0].id), (2, &first[0]));
    let new = &openings[1];
    assert!(new.id != first[0] && new.id.len() == 8 && !new.blind);
    assert_eq!((new.first, new.dictionary_revision, new.gaps), (4, 1, 1));
}

#[test]
fn a_segment_that_was_made_and_never_written_to_leaves_no_trace() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, opening) = open_dir(dir.path());
    append(&mut store, 3, 100);
    store.close();
    // The power went off after the file was made, and before the logbook was told of it.
    let empty = dir.path().join(file_name(7));
    let head =
        FileFacts { segment: true, epoch: opening.epoch, number: 7, first: 4, appended_before: 0, level: 0 };
    std::fs::write(&empty, head.encode()).unwrap();
    let (mut store, _) = open_dir(dir.path());
    assert_eq!(alive(&mut store).len(), 3);
    store.close();
    assert!(!empty.exists());
    let overview = Inspection::open(dir.path()).unwrap().overview(0).unwrap();
    assert!(overview.troubles.is_empty(), "nothing is missed: {:?}", overview.troubles);
}

#[test]
fn an_opening_in_a_later_boot_leaves_numbers_out_and_says_what_it_knows() {
    let disk = Simulated::default();
    let (mut store, _) = reopen(&disk, 1);
    append(&mut store, 3, 100);
    let told = |store: &Store| store.openings().last().map(|last| (last.known_below, last.first)).unwrap();
    assert_eq!(told(&store), (1, 1));
    drop(store);
    assert_eq!(told(&reopen(&disk, 1).0), (4, 4), "the same boot: nothing can have been lost");
    let (mut store, _) = reopen(&disk.after_power_cut(0), 2);
    let (known_below, first) = told(&store);
    assert_eq!((known_below, first > 200), (4, true));
    append(&mut store, 1, 100);
    store.close();
    assert_eq!(told(&reopen(&disk, 3).0).0, 4, "another copy of the same state");
}

#[test]
fn what_a_server_acknowledged_is_known_even_if_the_disk_lost_it() {
    let disk = Simulated::default();
    let (mut store, _) = reopen(&disk, 1);
    append(&mut store, 3, 100);
    store.acknowledge(&[1..=3]);
    store.tick();
    drop(store);
    for (name, length) in disk.files().unwrap().iter().filter(|(name, _)| number_of(name).is_some()) {
        disk.open(name).unwrap().cut(length - 1).unwrap();
    }
    let last = reopen(&disk, 2).0.openings().pop().unwrap();
    assert_eq!(last.known_below, 4);
}

#[test]
fn what_a_server_has_heard_of_stays_in_the_list() {
    let disk = Simulated::default();
    for _ in 0..3 {
        drop(open(&disk, TIGHT));
    }
    let (mut store, _) = open(&disk, TIGHT);
    let all = ids(&store);
    assert_eq!(all.len(), 4);
    store.greeted([9; 8]);
    store.greeted(all[2].as_slice().try_into().unwrap());
    assert_eq!(ids(&store), all);
    store.tick();
    drop(store);
    for _ in 0..40 {
        drop(open(&disk, TIGHT));
    }
    let now = ids(&open(&disk, TIGHT).0);
    assert_eq!((now.len(), &now[..3]), (40, &all[..3]));
}

#[test]
fn an_opening_that_the_disk_refused_is_told_to_nobody_until_it_is_durable() {
    let disk = Simulated::default();
    drop(open(&disk, TIGHT));
    disk.refuse(Some(ErrorKind::ReadOnlyFilesystem));
    let (mut store, _) = open(&disk, TIGHT);
    assert_eq!(store.openings().len(), 1);
    store.tick();
    assert_eq!(store.openings().len(), 1);
    disk.refuse(None);
    append(&mut store, 1, 10);
    let told = ids(&store);
    assert_eq!(told.len(), 2);
    let (store, _) = open(&disk.after_power_cut(0), TIGHT);
    assert_eq!(ids(&store)[..2], told);
}

#[test]
fn a_copied_folder_shows_as_two_openings_after_the_same_one() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open_dir(dir.path());
    append(&mut store, 3, 100);
    store.close();
    let (one, other) = (Simulated::of_folder(dir.path()), Simulated::of_folder(dir.path()));
    let (one, other) = (open(&one, TIGHT).0.openings(), open(&other, TIGHT).0.openings());
    assert_eq!(one[0], other[0]);
    assert_ne!(one[1].id, other[1].id);
    assert_eq!((one[1].first, other[1].first), (4, 4));
}

#[test]
fn when_the_logbook_is_gone_the_openings_come_from_sled() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open_dir(dir.path());
    append(&mut store, 3, 100);
    let before = ids(&store);
    drop(store);
    std::fs::remove_file(dir.path().join("logbook")).unwrap();
    let (store, _) = open_dir(dir.path());
    let openings = store.openings();
    assert_eq!((&openings[0].id, openings.len(), openings[1].blind), (&before[0], 2, false));
}

#[test]
fn an_opening_that_does_not_know_what_it_follows_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open_dir(dir.path());
    append(&mut store, 3, 100);
    drop(store);
    std::fs::remove_file(dir.path().join("logbook")).unwrap();
    std::fs::remove_dir_all(dir.path().join("catalogue")).unwrap();
    let (store, _) = open_dir(dir.path());
    let openings = store.openings();
    assert_eq!((openings.len(), openings[0].blind), (1, true));
    drop(store);
    assert!(!open_dir(dir.path()).0.openings()[1].blind, "the next one knows");
}

#[test]
fn a_killed_run_ends_with_its_last_batch_and_a_stopped_one_with_its_stop() {
    let disk = Simulated::default();
    let (mut store, opening) = reopen(&disk, 1);
    assert_eq!((opening.last_run, opening.boots.len()), (None, 1));
    append_real(&mut store, 4);
    append_real(&mut store, 4);
    drop(store);
    // Killed, same boot: read from the newest batch.
    let (store, opening) = reopen(&disk, 1);
    let run =
        LastRun { boot: 1, until_us: 2_004_000, wall_offset_us: OFFSET_US, synchronised: true, clean: false };
    assert_eq!(opening.last_run, Some(run));
    // This one wrote nothing and was stopped.
    store.close();
    let (store, opening) = reopen(&disk, 2);
    let stopped = opening.last_run.unwrap();
    assert!(stopped.clean && stopped.boot == 1 && stopped.until_us > 0, "{stopped:?}");
    drop(store);
    // And this one was killed before it wrote anything.
    let (_, opening) = reopen(&disk, 3);
    assert_eq!(opening.last_run, Some(LastRun { clean: false, ..stopped }));
    let counters: Vec<u64> = opening.boots.iter().map(|boot| boot.counter).collect();
    assert_eq!(counters, [1, 2, 3]);
}

#[test]
fn the_boot_before_is_summed_up_and_an_offset_that_was_learnt_stays_known() {
    let disk = Simulated::default();
    let (mut store, _) = reopen(&disk, 1);
    append_real(&mut store, 4);
    store.learn_offset(77_000_000);
    store.learn_offset(77_000_001);
    // Batches are sent by it from now on: what lies behind must not depend on the next tick.
    let (store, _) = reopen(&disk.after_power_cut(0), 2);
    let known = store.boots()[0];
    let expected = BootKnown {
        counter: 1,
        id: [1; 8],
        believed_offset_us: 77_000_000,
        synchronised: true,
        learnt_offset_us: Some(77_000_000),
        ..known
    };
    assert_eq!(known, expected);
    assert!(known.last_us > 1_004_000, "it lived until it learnt: {known:?}");
    assert_eq!((store.boots()[1].counter, store.boots()[1].id), (2, [2; 8]));
}

#[test]
fn an_offset_that_moved_far_is_durable_at_once() {
    let disk = Simulated::default();
    let (mut store, _) = reopen(&disk, 1);
    store.learn_offset(77_000_000);
    store.learn_offset(80_000_000);
    let (store, _) = reopen(&disk.after_power_cut(0), 1);
    assert_eq!(store.boots()[0].learnt_offset_us, Some(80_000_000));
}

#[test]
fn the_last_sign_of_life_is_known_when_its_segment_is_gone() {
    let disk = Simulated::default();
    let (mut store, _) = open(&disk, Rules { tail: 0, ..TIGHT });
    append_real(&mut store, 4);
    store.acknowledge(&[1..=1]);
    store.seal_growing();
    store.tick();
    assert!(store.segments.is_empty());
    drop(store);
    let (_, opening) = reopen(&disk, 9);
    assert_eq!(opening.last_run.map(|run| run.until_us), Some(1_004_000));
}

#[test]
fn a_gap_for_want_of_room_says_by_which_clock_its_ends_were_written_down() {
    let disk = Simulated::default();
    for boot in [1, 2] {
        let (mut store, _) = reopen(&disk, boot);
        append_real(&mut store, 4);
        append_real(&mut store, 4);
    }
    let (mut store, _) = reopen(&disk, 3);
    assert!(store.drop_oldest(true).unwrap() && store.drop_oldest(true).unwrap());
    let gaps = store.gaps(0, 9);
    assert_eq!((gaps.len(), gaps[0].from_us, gaps[0].to_us), (1, OFFSET_US + 1_000_000, gaps[0].to_us));
    let [start, end] = [gaps[0].start, gaps[0].end].map(Option::unwrap);
    assert_eq!((start.boot, end.boot, start.wall_offset_us, end.synchronised), (1, 2, OFFSET_US, true));
    assert!(gaps[0].to_us > OFFSET_US + 4_000_000);
}

#[test]
fn hundreds_of_boots_leave_the_last_ones_and_those_with_backlog() {
    let disk = Simulated::default();
    for boot in 0..100u8 {
        let (mut store, _) = reopen(&disk, boot + 1);
        if boot == 4 {
            append(&mut store, 1, 10);
        }
        drop(store);
    }
    let (store, _) = reopen(&disk, 200);
    let counters: Vec<u64> = store.boots().iter().map(|boot| boot.counter).collect();
    assert_eq!(counters, [5].into_iter().chain(38..=101).collect::<Vec<_>>());
}

#[test]
fn a_new_logbook_keeps_openings_boots_acknowledgements_and_the_past() {
    let disk = Simulated::default();
    let (mut store, _) = reopen(&disk, 1);
    store.learn_offset(5_000_000);
    append(&mut store, 60, 5000);
    store.acknowledge(&[1..=60]);
    store.seal_growing();
    store.tick();
    let first: [u8; 8] = ids(&store)[0].as_slice().try_into().unwrap();
    store.greeted(first);
    store.logbook = super::super::logbook::Logbook::fresh(store.logbook.length());
    let (openings, boots) = (ids(&store), store.boots());
    let acknowledged = store.acknowledged().clone();
    store.tick();
    let (mut store, opening) = reopen(&disk.after_power_cut(0), 1);
    assert_eq!((opening.repairs, &ids(&store)[..1]), (vec![], &openings[..]));
    assert_eq!((store.boots(), store.acknowledged()), (boots, &acknowledged));
    store.revive(&[1..=3]);
    assert_eq!(store.gaps(0, 9)[0].count, readings(1..=3), "their segment is long gone");
}
