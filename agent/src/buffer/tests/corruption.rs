//! One kind of damage each. In all of them the store opens, says what it did, loses only what is
//! damaged, and its books balance.

use std::fs;
use std::path::PathBuf;

use forebay_protocols::sync::wire::gap::Reason;

use super::super::segments::file_name;
use super::super::simulated::Simulated;
use super::*;

/// A store of 60 batches of 20 kB in three segments, two points and a gap, closed or killed.
struct Damaged {
    dir: tempfile::TempDir,
    first: Opening,
}

impl Damaged {
    fn killed() -> Self {
        Self::made(drop)
    }

    fn closed() -> Self {
        Self::made(Store::close)
    }

    fn made(end: impl FnOnce(Store)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, first) = open_dir(dir.path());
        store.define(&[point("flow"), point("return")]);
        append(&mut store, 60, 20_000);
        store.acknowledge(&[1..=1]);
        store.tick();
        end(store);
        Self { dir, first }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn flip(&self, name: &str, at: u64) {
        let mut bytes = fs::read(self.file(name)).unwrap();
        bytes[at as usize] ^= 0x10;
        fs::write(self.file(name), bytes).unwrap();
    }

    /// Opens, checks what must hold after any damage, opens again: mended once is mended.
    fn open(&self) -> (Store, Opening) {
        let (mut store, opening) = open_dir(self.dir.path());
        assert_books_balance(&mut store);
        assert_eq!(store.dictionary(PointId(0)).len(), 2);
        assert!(store.next_sequence().0 > 60);
        let before = alive(&mut store);
        let next = append(&mut store, 1, 100);
        assert_eq!(alive(&mut store).len(), before.len() + 1);
        store.acknowledge(&[next[0]..=next[0]]);
        store.close();
        let (store, again) = open_dir(self.dir.path());
        assert_eq!(again.repairs, Vec::<String>::new());
        (store, opening)
    }
}

#[test]
fn a_flipped_bit_in_a_batch_costs_that_batch_and_is_a_gap() {
    let damaged = Damaged::closed();
    damaged.flip(&file_name(1), 30_000); // inside the second batch
    let (mut store, opening) = damaged.open();
    assert_eq!((opening.epoch, opening.repairs.len()), (damaged.first.epoch, 0), "found when it is read");
    assert_eq!(alive(&mut store).into_keys().collect::<Vec<_>>(), (3..=60).collect::<Vec<_>>());
    let gap = store.gaps(0, 9).remove(0);
    assert_eq!((gap.reason(), gap.count), (Reason::Corrupt, readings([2])));
    assert!(fs::read_dir(damaged.file("damaged")).unwrap().count() > 0, "its bytes are kept for a person");
}

#[test]
fn a_flipped_bit_in_a_frame_of_the_growing_segment_costs_that_batch() {
    let damaged = Damaged::killed();
    let growing = file_name(3);
    let length = fs::metadata(damaged.file(&growing)).unwrap().len();
    damaged.flip(&growing, length - 3 * 20_076 + 5); // the head of the last frame but two
    let (mut store, opening) = damaged.open();
    assert!(opening.repairs.iter().any(|words| words.contains("are damaged")), "{opening:?}");
    let lost: Vec<u64> = (2..=60).filter(|sequence| !alive(&mut store).contains_key(sequence)).collect();
    assert_eq!(lost, [58]);
    assert_eq!(store.gaps(0, 9)[0].count, readings([58]));
}

#[test]
fn a_flipped_bit_in_the_head_of_a_segment_costs_nothing() {
    let damaged = Damaged::killed();
    damaged.flip(&file_name(3), 30);
    let (mut store, _) = damaged.open();
    assert_eq!(alive(&mut store).len(), 59);
}

#[test]
fn a_cut_tail_costs_the_batches_in_it() {
    let damaged = Damaged::killed();
    let file = fs::OpenOptions::new().write(true).open(damaged.file(&file_name(3))).unwrap();
    file.set_len(file.metadata().unwrap().len() - 25_000).unwrap();
    let (mut store, opening) = damaged.open();
    assert!(opening.repairs.iter().any(|words| words.contains("torn tail")), "{opening:?}");
    assert_eq!(alive(&mut store).into_keys().next_back(), Some(58));
    assert_eq!(store.gaps(0, 9)[0].count, readings([59, 60]), "the catalogue remembered them");
}

#[test]
fn what_was_done_with_behind_a_cut_is_not_taken_off_what_is_damaged_before_it() {
    let damaged = Damaged::made(|mut store| {
        store.acknowledge(&[56..=56, 59..=59]);
        store.tick();
    });
    let growing = damaged.file(&file_name(3));
    let length = fs::metadata(&growing).unwrap().len();
    for from_the_end in [6, 5] {
        damaged.flip(&file_name(3), length - from_the_end * 20_076 + 5); // the heads of 55 and 56
    }
    fs::OpenOptions::new().write(true).open(&growing).unwrap().set_len(length - 2 * 20_076).unwrap();
    let (_, opening) = damaged.open();
    assert_eq!(opening.counts.appended, readings(1..=60), "{opening:?}");
    assert_eq!(opening.counts.dropped, readings([55, 60]), "{opening:?}");
}

#[test]
fn a_disk_that_lost_the_newest_batch_in_silence_does_not_make_us_give_its_sequence_twice() {
    let damaged = Damaged::killed();
    let file = fs::OpenOptions::new().write(true).open(damaged.file(&file_name(3))).unwrap();
    file.set_len(file.metadata().unwrap().len() - 20_076).unwrap();
    fs::remove_dir_all(damaged.file("catalogue")).unwrap();
    let disk = Arc::new(Flash::new(damaged.dir.path()));
    let (mut store, _) = Store::open(disk, ROOMY, NEXT_BOOT).unwrap();
    assert_eq!(alive(&mut store).into_keys().next_back(), Some(59));
    assert!(store.next_sequence().0 > 60, "the server may have batch 60");
}

#[test]
fn a_cut_tail_of_a_sealed_segment_costs_the_batches_in_it() {
    let damaged = Damaged::closed();
    let file = fs::OpenOptions::new().write(true).open(damaged.file(&file_name(1))).unwrap();
    file.set_len(file.metadata().unwrap().len() - 25_000).unwrap();
    let (mut store, _) = damaged.open();
    let lost: Vec<u64> = (2..=60).filter(|sequence| !alive(&mut store).contains_key(sequence)).collect();
    assert_eq!(lost.len(), 2);
    assert_eq!(store.gaps(0, 9)[0].count, readings(lost));
}

#[test]
fn zeros_behind_the_tail_are_cut_and_cost_nothing() {
    let damaged = Damaged::killed();
    let file = fs::OpenOptions::new().write(true).open(damaged.file(&file_name(3))).unwrap();
    file.set_len(file.metadata().unwrap().len() + 70_000).unwrap();
    let (mut store, opening) = damaged.open();
    assert!(opening.repairs.iter().any(|words| words.contains("70000 bytes was cut")), "{opening:?}");
    assert_eq!((alive(&mut store).len(), store.status().counts.dropped), (59, 0));
}

#[test]
fn a_deleted_segment_is_a_gap_with_its_count() {
    let damaged = Damaged::closed();
    fs::remove_file(damaged.file(&file_name(2))).unwrap();
    let (mut store, opening) = damaged.open();
    assert!(opening.repairs.iter().any(|words| words.contains("is gone")), "{opening:?}");
    let lost: Vec<u64> = (2..=60).filter(|sequence| !alive(&mut store).contains_key(sequence)).collect();
    assert!(lost.len() > 20, "{lost:?}");
    assert_eq!(store.gaps(0, 9)[0].count, readings(lost));
}

#[test]
fn a_deleted_growing_segment_is_a_gap_and_no_sequence_is_given_twice() {
    let damaged = Damaged::killed();
    fs::remove_file(damaged.file(&file_name(3))).unwrap();
    let (mut store, _) = damaged.open();
    let lost: Vec<u64> = (2..=60).filter(|sequence| !alive(&mut store).contains_key(sequence)).collect();
    assert!(!lost.is_empty());
    assert_eq!(store.gaps(0, 9)[0].count, readings(lost));
}

#[test]
fn a_catalogue_of_garbage_is_rebuilt_and_loses_nothing() {
    let damaged = Damaged::closed();
    for name in ["db", "conf"] {
        fs::write(damaged.file("catalogue").join(name), [0xA5; 70_000]).unwrap();
    }
    let (mut store, opening) = damaged.open();
    assert!(opening.repairs.iter().any(|words| words.contains("rebuilt from the segments")), "{opening:?}");
    assert_eq!((opening.epoch, alive(&mut store).len()), (damaged.first.epoch, 59));
    assert_eq!(store.status().counts.dropped, 0);
}

#[test]
fn a_flipped_bit_anywhere_in_the_catalogue_loses_nothing() {
    let damaged = Damaged::killed();
    let db = damaged.file("catalogue").join("db");
    let good = fs::read(&db).unwrap();
    for at in (0..good.len()).step_by(good.len() / 12) {
        let mut bytes = good.clone();
        bytes[at] ^= 0x40;
        fs::write(&db, bytes).unwrap();
        let (mut store, opening) = open_dir(damaged.dir.path());
        assert_eq!(alive(&mut store).len(), 59, "byte {at}: {opening:?}");
        assert_eq!(store.status().counts.dropped, 0);
    }
}

#[test]
fn a_file_where_the_catalogue_should_be_is_replaced() {
    let damaged = Damaged::closed();
    fs::remove_dir_all(damaged.file("catalogue")).unwrap();
    fs::write(damaged.file("catalogue"), "not a folder").unwrap();
    let (mut store, _) = damaged.open();
    assert_eq!(alive(&mut store).len(), 59);
}

#[test]
fn a_half_written_snapshot_of_sled_does_not_keep_it_from_opening() {
    let damaged = Damaged::closed();
    fs::write(damaged.file("catalogue").join("snap.0000000000000FFF.generating"), "half").unwrap();
    let (mut store, opening) = damaged.open();
    assert_eq!((opening.repairs, alive(&mut store).len()), (vec![], 59));
}

#[test]
fn foreign_files_are_left_alone() {
    let damaged = Damaged::closed();
    for name in ["README", "segment-1", "segment-x", "segment-0000000002.bak", "lost+found"] {
        fs::write(damaged.file(name), "mine").unwrap();
    }
    let (mut store, opening) = damaged.open();
    assert_eq!((opening.repairs, alive(&mut store).len()), (vec![], 59));
    assert_eq!(fs::read(damaged.file("segment-1")).unwrap(), b"mine");
}

#[test]
fn a_segment_of_another_epoch_is_set_aside() {
    let (damaged, other) = (Damaged::closed(), Damaged::closed());
    fs::copy(other.file(&file_name(2)), damaged.file(&file_name(9))).unwrap();
    let (mut store, opening) = damaged.open();
    assert!(opening.repairs.iter().any(|words| words.contains("another epoch")), "{opening:?}");
    assert_eq!((alive(&mut store).len(), store.status().counts.dropped), (59, 0));
    assert!(damaged.file("damaged").join(file_name(9)).exists());
}

#[test]
fn a_segment_replaced_by_one_of_another_epoch_is_lost_not_mistaken() {
    let (damaged, other) = (Damaged::killed(), Damaged::killed());
    fs::copy(other.file(&file_name(3)), damaged.file(&file_name(3))).unwrap();
    let (mut store, _) = damaged.open();
    let found = alive(&mut store);
    assert!(found.len() < 59 && !found.contains_key(&60), "{found:?}");
}

#[test]
fn a_deleted_logbook_is_written_anew_from_segments_and_catalogue() {
    let damaged = Damaged::closed();
    fs::remove_file(damaged.file("logbook")).unwrap();
    let (mut store, opening) = damaged.open();
    assert!(opening.repairs.iter().any(|words| words.contains("logbook is gone")), "{opening:?}");
    assert_eq!(opening.epoch, damaged.first.epoch);
    assert_eq!(store.dictionary(PointId(0))[0].1, point("flow"), "the catalogue has a copy");
    let found = alive(&mut store);
    assert!((2..=60).all(|sequence| found.contains_key(&sequence)), "{found:?}");
    assert!(store.next_sequence().0 > 60 + 256, "nobody knows what was given away");
}

#[test]
fn a_flipped_bit_anywhere_in_the_logbook_loses_no_batch() {
    let damaged = Damaged::killed();
    let good = fs::read(damaged.file("logbook")).unwrap();
    // Every byte would be the same, in longer.
    for at in (0..good.len()).step_by(7) {
        let mut bytes = good.clone();
        bytes[at] ^= 0x04;
        fs::write(damaged.file("logbook"), bytes).unwrap();
        let disk = Simulated::of_folder(damaged.dir.path());
        let (mut store, opening) = open(&disk, ROOMY);
        let found = alive(&mut store);
        assert!((2..=60).all(|sequence| found.contains_key(&sequence)), "byte {at}: {opening:?}");
        assert!(store.next_sequence().0 > 60, "byte {at}");
        assert_eq!(opening.epoch, damaged.first.epoch, "byte {at}");
    }
}

#[test]
fn without_logbook_and_catalogue_the_readings_keep_their_numbers_if_not_their_names() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open_dir(dir.path());
    store.define(&[point("flow"), point("return")]);
    store.append(&[Encoded { dictionary_revision: PointId(2), ..batch(1, 100) }]).unwrap();
    drop(store);
    fs::remove_file(dir.path().join("logbook")).unwrap();
    fs::remove_dir_all(dir.path().join("catalogue")).unwrap();
    let (mut store, opening) = open_dir(dir.path());
    assert!(
        opening.repairs.iter().any(|words| words.contains("descriptions of points [1, 2]")),
        "{opening:?}"
    );
    assert_eq!(&*store.dictionary(PointId(1))[0].1.name, "point-2");
    assert_eq!(alive(&mut store).len(), 1);
    assert_eq!(store.define(&[point("flow")]), [PointId(3)]);
}

#[test]
fn a_store_in_which_nothing_can_be_read_is_set_aside_and_a_new_epoch_starts() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["logbook", "segment-0000000001", "segment-0000000002"] {
        fs::write(dir.path().join(name), [0x5A; 9000]).unwrap();
    }
    let (mut store, opening) = open_dir(dir.path());
    assert!(opening.repairs.iter().any(|words| words.contains("a new epoch starts")), "{opening:?}");
    assert_eq!(append(&mut store, 2, 100), [1, 2]);
    assert!(dir.path().join("damaged/segment-0000000001").exists());
}

#[test]
fn a_file_in_place_of_the_folder_is_moved_away() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("buffer");
    fs::write(&path, "not a folder").unwrap();
    let (mut store, opening) = open_dir(&path);
    assert!(opening.repairs[0].contains("is not a folder"), "{opening:?}");
    append(&mut store, 1, 100);
    assert_eq!(fs::read(dir.path().join("buffer.set-aside-1")).unwrap(), b"not a folder");
}
