//! The store's promises, kept under every kind of trouble.

mod classes;
mod corruption;
mod formats;
mod handles;
mod model;
mod opening;
mod power;
mod real;
mod room;
mod tail;
mod thin;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use forebay_config::agent::WhenFull;
use forebay_protocols::reading::{DataType, Point, PointId, PointKind};
use forebay_protocols::sync::batch::{Encoded, Sequence};

use super::Opening;
use super::disk::{Disk, Flash};
use super::store::{Rules, Store};

const THIS_BOOT: [u8; 16] = [7; 16];
const NEXT_BOOT: [u8; 16] = [8; 16];

/// Enough for sled, and segments of 512 KiB.
const ROOMY: Rules = Rules {
    limit: 16 << 20,
    reserve: 0,
    when_full: WhenFull::DropOldest,
    tail: 2 << 20,
    classes: Vec::new(),
};
/// Segments of 16 KiB and a catalogue in memory.
const TIGHT: Rules = tight(WhenFull::DropOldest);

const fn tight(when_full: WhenFull) -> Rules {
    Rules { limit: 384 << 10, reserve: 0, when_full, tail: 64 << 10, classes: Vec::new() }
}

fn open(disk: &(impl Disk + Clone + 'static), rules: Rules) -> (Store, Opening) {
    Store::open(Arc::new(disk.clone()), rules, THIS_BOOT).unwrap()
}

fn open_dir(dir: &Path) -> (Store, Opening) {
    Store::open(Arc::new(Flash::new(dir)), ROOMY, THIS_BOOT).unwrap()
}

/// A batch that can be told from every other: its bytes follow from number and length.
fn batch(sequence: u64, length: usize) -> Encoded {
    let bytes: Vec<u8> =
        (0..length as u64).map(|i| (sequence.wrapping_mul(31) ^ i.wrapping_mul(i + 7)) as u8).collect();
    Encoded {
        sequence: Sequence(sequence),
        count: (sequence % 9 + 1) as u32,
        dictionary_revision: PointId(0),
        span_us: (sequence as i64 * 1000 + 1, sequence as i64 * 1000 + 900),
        bytes: Bytes::from(bytes),
    }
}

/// Appends `many` batches of `length` bytes, one by one; their sequences.
fn append(store: &mut Store, many: u64, length: usize) -> Vec<u64> {
    (0..many)
        .map(|_| {
            let next = store.next_sequence().0;
            store.append(&[batch(next, length)]).unwrap();
            next
        })
        .collect()
}

/// Everything that can be read back, oldest first; checks the bytes, and that newest first is the
/// same backwards.
fn alive(store: &mut Store) -> BTreeMap<u64, u32> {
    let forwards = store.oldest(Sequence(0), usize::MAX);
    let mut backwards = store.newest(Sequence(u64::MAX), usize::MAX);
    backwards.reverse();
    assert_eq!(forwards, backwards);
    for stored in &forwards {
        let original = batch(stored.sequence.0, stored.bytes.len());
        assert_eq!((stored.count, &stored.bytes), (original.count, &original.bytes), "{:?}", stored.sequence);
    }
    forwards.iter().map(|stored| (stored.sequence.0, stored.count)).collect()
}

/// Every reading is in exactly one place.
fn assert_books_balance(store: &mut Store) {
    let backlog: u64 = alive(store).values().map(|count| u64::from(*count)).sum();
    let status = store.status();
    assert_eq!(status.backlog_readings, backlog, "{status:?}");
    let counts = status.counts;
    assert_eq!(counts.appended, counts.dropped + counts.acknowledged + backlog, "{status:?}");
    let in_gaps: u64 = store.gaps(0, usize::MAX).iter().map(|gap| gap.count).sum();
    assert_eq!(in_gaps, counts.dropped, "every dropped reading is in a gap record");
}

fn readings(sequences: impl IntoIterator<Item = u64>) -> u64 {
    sequences.into_iter().map(|sequence| sequence % 9 + 1).sum()
}

fn point(name: &str) -> Arc<Point> {
    Arc::new(Point {
        device: "boiler".into(),
        name: name.into(),
        unit: "°C".into(),
        kind: PointKind::Gauge,
        data_type: DataType::Float,
    })
}

#[test]
fn a_batch_comes_back_byte_for_byte_until_it_is_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, opening) = open_dir(dir.path());
    assert_eq!((opening.repairs, opening.boot_counter), (vec![], 1));
    assert_eq!(append(&mut store, 5, 3000), [1, 2, 3, 4, 5]);
    store.acknowledge(&[2..=3, RangeInclusive::new(3, 2), 900..=u64::MAX]);
    store.acknowledge(&[2..=2]);
    assert_eq!(alive(&mut store).into_keys().collect::<Vec<_>>(), [1, 4, 5]);
    let status = store.status();
    assert_eq!((status.oldest, status.newest), (Some(Sequence(1)), Some(Sequence(5))));
    assert_eq!((status.backlog_batches, status.backlog_bytes), (3, 9000));
    assert_books_balance(&mut store);
}

#[test]
fn reading_gives_at_least_one_batch_and_no_more_than_fit() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open_dir(dir.path());
    append(&mut store, 6, 1000);
    let sequences = |batches: Vec<super::Stored>| batches.iter().map(|b| b.sequence.0).collect::<Vec<_>>();
    assert_eq!(sequences(store.oldest(Sequence(3), 1)), [3]);
    assert_eq!(sequences(store.oldest(Sequence(3), 2999)), [3, 4]);
    assert_eq!(sequences(store.newest(Sequence(4), 2000)), [4, 3]);
    assert!(store.oldest(Sequence(7), 5000).is_empty());
    assert!(store.newest(Sequence(0), 5000).is_empty());
}

#[test]
fn after_a_clean_stop_everything_is_there_and_nothing_needs_mending() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, first) = open_dir(dir.path());
    let numbers = store.define(&[point("flow"), point("return"), point("flow")]);
    assert_eq!(numbers, [PointId(1), PointId(2), PointId(1)]);
    append(&mut store, 400, 5000);
    store.acknowledge(&[50..=350]);
    let (before, books) = (alive(&mut store), store.status());
    store.close();
    let (mut store, second) = open_dir(dir.path());
    assert_eq!((second.repairs, second.epoch, second.boot_counter), (vec![], first.epoch, 1));
    assert_eq!(second.counts, books.counts);
    assert_eq!(alive(&mut store), before);
    assert_eq!(store.next_sequence(), Sequence(401));
    assert_eq!(store.define(&[point("return"), point("third")]), [PointId(2), PointId(3)]);
    assert_eq!(store.dictionary(PointId(1)), [(PointId(2), point("return")), (PointId(3), point("third"))]);
    assert_books_balance(&mut store);
}

#[test]
fn a_killed_agent_finds_everything_it_appended() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open_dir(dir.path());
    store.define(&[point("flow")]);
    append(&mut store, 300, 5000);
    store.acknowledge(&[1..=200]);
    store.tick();
    let before = alive(&mut store);
    drop(store);
    let (mut store, opening) = open_dir(dir.path());
    assert_eq!(opening.repairs, Vec::<String>::new(), "nothing was damaged");
    assert_eq!(alive(&mut store), before);
    assert_eq!(store.next_sequence(), Sequence(301), "no hole: nobody cut the power");
    assert_eq!(store.define(&[point("flow")]), [PointId(1)]);
    assert_books_balance(&mut store);
}

#[test]
fn no_sequence_is_given_twice_even_when_all_was_acknowledged_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let mut last = 0;
    for round in 0..4 {
        let (mut store, opening) = open_dir(dir.path());
        assert!(store.next_sequence().0 > last, "round {round}: {opening:?}");
        last = *append(&mut store, 150, 5000).last().unwrap();
        store.acknowledge(&[0..=last]);
        store.seal_growing();
        store.tick();
        assert_eq!(store.status().backlog_batches, 0);
        drop(store);
    }
    assert_eq!(last, 600);
}

#[test]
fn the_boot_counter_counts_boots_not_openings() {
    let dir = tempfile::tempdir().unwrap();
    let counter = |boot| {
        let disk = Arc::new(Flash::new(dir.path()));
        Store::open(disk, ROOMY, boot).unwrap().1.boot_counter
    };
    assert_eq!(
        [counter(THIS_BOOT), counter(THIS_BOOT), counter(NEXT_BOOT), counter(THIS_BOOT)],
        [1, 1, 2, 3]
    );
}

#[test]
fn a_second_agent_is_refused_while_the_first_works() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open_dir(dir.path());
    let refused = Store::open(Arc::new(Flash::new(dir.path())), ROOMY, THIS_BOOT).err().unwrap();
    assert_eq!(
        refused.to_string(),
        "cannot write to the buffer: another process has this buffer open; end it first"
    );
    drop(store);
    open_dir(dir.path());
}

#[test]
fn the_logbook_stays_small_however_long_it_is_kept() {
    let disk = super::simulated::Simulated::default();
    let (mut store, _) = open(&disk, TIGHT);
    let points: Vec<_> = (0..50).map(|i| point(&format!("p{i}"))).collect();
    store.define(&points);
    for _ in 0..3000 {
        let last = *append(&mut store, 1, 900).last().unwrap();
        store.acknowledge(&[last..=last]);
        store.tick();
    }
    assert!(store.logbook.length() < 200 << 10, "{}", store.logbook.length());
    drop(store);
    let (mut store, opening) = open(&disk, TIGHT);
    assert_eq!(opening.repairs, Vec::<String>::new());
    assert_eq!(store.dictionary(PointId(0)).len(), 50);
    assert_eq!(store.next_sequence(), Sequence(3001));
    assert_books_balance(&mut store);
}
