//! Power cuts: at every change of the disk, whatever of the unsynced happens to have reached it.

use super::super::simulated::Simulated;
use super::*;

/// What a run was told before the power went off.
#[derive(Default)]
struct Told {
    appended: Vec<u64>,
    acknowledged: Vec<u64>,
    revived: u64,
    /// Told to a server.
    openings: Vec<Vec<u8>>,
    points: usize,
}

/// A short life: definitions, appends over several segments, acknowledgements in the middle and at
/// the front, whole segments that become the tail and are revived, a gap, a stop and a new start.
fn live(disk: &Simulated) -> Told {
    let mut told = Told::default();
    let (mut store, _) = open(disk, TIGHT);
    for round in 0..2 {
        for step in 0..9u64 {
            store.define(&[point(&format!("p{round}-{step}"))]);
            let next = store.next_sequence().0;
            if store.append(&[batch(next, 5000), batch(next + 1, 300)]).is_err() {
                continue;
            }
            told.appended.extend([next, next + 1]);
            told.points = store.dictionary(PointId(0)).len();
            if step % 4 == 3 {
                store.record_gap(Default::default());
                let known = [next - 4..=next - 2, 1..=2];
                store.acknowledge(&known);
                told.acknowledged.extend(known.into_iter().flatten());
                store.tick();
            }
            if step == 6 {
                let segment = store.segments.values().find(|segment| segment.last == next - 1).cloned();
                let Some(whole) = segment.and_then(|segment| segment.span()) else { continue };
                store.acknowledge(std::slice::from_ref(&whole));
                told.acknowledged.extend(whole.clone());
                store.tick();
                let some = *whole.start()..=*whole.end() - 1;
                let revived = store.revive(&[some.clone(), 9000..=9999]);
                assert!(revived.batches > 1 && revived.lost == 0, "{revived:?}");
                if store.fault().is_none() {
                    told.acknowledged.retain(|sequence| !some.contains(sequence));
                    told.revived += revived.batches;
                }
                store.learn_offset(next as i64 * 1_000_000);
            }
            told.openings = store.openings().into_iter().map(|opening| opening.id).collect();
        }
        if round == 0 {
            store.close();
            store = open(disk, TIGHT).0;
        }
    }
    store.close();
    told
}

#[test]
fn nothing_appended_is_lost_at_whatever_change_the_power_goes_off() {
    let mut change = 0;
    loop {
        change += 1;
        let disk = Simulated::with_cut_at(change);
        let told = live(&disk);
        if !disk.is_dead() {
            assert!(told.revived >= 6, "{}", told.revived);
            break;
        }
        for kept in [0, 3, 8] {
            let disk = disk.after_power_cut(kept);
            check_after_cut(&disk, &told, &format!("change {change}, {kept}/8 of the unsynced kept"));
        }
    }
    assert!(change > 100, "the script made only {change} changes");
}

fn check_after_cut(disk: &Simulated, told: &Told, at: &str) {
    let (mut store, opening) = Store::open(Arc::new(disk.clone()), TIGHT, NEXT_BOOT).unwrap();
    let found = alive(&mut store);
    for sequence in &told.appended {
        let there = found.contains_key(sequence);
        assert!(there || told.acknowledged.contains(sequence), "{at}: batch {sequence} is gone; {opening:?}");
    }
    assert_eq!(opening.counts.dropped, 0, "{at}: nothing is lost, so nothing is called lost; {opening:?}");
    assert!(store.dictionary(PointId(0)).len() >= told.points, "{at}: the dictionary lost points");
    let newest = told.appended.iter().max().copied().unwrap_or(0);
    assert!(store.next_sequence().0 > newest, "{at}: sequence {newest} would be given twice");
    let openings: Vec<_> = store.openings().into_iter().map(|opening| opening.id).collect();
    assert!(
        told.openings.iter().all(|id| openings.contains(id)),
        "{at}: a server knows an opening we do not"
    );
    for range in store.acknowledged().iter() {
        let alive = found.range(range.0..=range.1).next();
        assert_eq!(alive, None, "{at}: acknowledged and backlog at once");
        assert!((range.0..=range.1).all(|sequence| told.acknowledged.contains(&sequence)), "{at}: {range:?}");
    }
    assert_books_balance(&mut store);
    let next = *append(&mut store, 3, 400).last().unwrap();
    store.close();
    let (mut store, opening) = Store::open(Arc::new(disk.clone()), TIGHT, NEXT_BOOT).unwrap();
    assert_eq!(opening.repairs, Vec::<String>::new(), "{at}: mended once is mended");
    assert_eq!(alive(&mut store).into_keys().next_back(), Some(next), "{at}");
}

#[test]
fn a_catalogue_from_before_the_power_cut_is_brought_up_to_date() {
    let (dir, old) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut store, _) = open_dir(dir.path());
    append(&mut store, 100, 20_000);
    store.rest();
    copy_folder(&dir.path().join("catalogue"), old.path());
    append(&mut store, 100, 20_000);
    store.acknowledge(&[20..=90, 150..=160]);
    store.tick();
    let before = alive(&mut store);
    drop(store);
    std::fs::remove_dir_all(dir.path().join("catalogue")).unwrap();
    copy_folder(old.path(), &dir.path().join("catalogue"));
    let (mut store, opening) = Store::open(Arc::new(Flash::new(dir.path())), ROOMY, NEXT_BOOT).unwrap();
    assert_eq!(alive(&mut store), before, "{opening:?}");
    assert_eq!(opening.counts.dropped, 0);
    assert_books_balance(&mut store);
}

pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &to.join(entry.file_name()));
        } else {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}
