//! The books at a glance are the store's own.

use forebay_protocols::sync::wire;
use forebay_protocols::sync::wire::gap::Reason;

use super::*;

/// The inspection says what the store itself says.
fn assert_same_books(plant: &mut Plant) -> Overview {
    let overview = plant.look().overview(5).unwrap();
    let status = plant.store().status();
    let backlog = &overview.backlog;
    assert_eq!(
        (backlog.batches, backlog.readings, backlog.bytes),
        (status.backlog_batches, status.backlog_readings, status.backlog_bytes)
    );
    assert_eq!(backlog.oldest.map(|edge| edge.sequence), status.oldest.map(|oldest| oldest.0));
    assert_eq!(backlog.newest.map(|edge| edge.sequence), status.newest.map(|newest| newest.0));
    assert_eq!(
        (overview.appended, overview.dropped, overview.acknowledged),
        (status.counts.appended, status.counts.dropped, status.counts.acknowledged)
    );
    assert_eq!(overview.next_sequence, plant.store().next_sequence().0);
    overview
}

#[test]
fn a_new_store_has_nothing_and_nothing_is_wrong_with_it() {
    let mut plant = Plant::new();
    plant.store().tick();
    let overview = assert_same_books(&mut plant);
    assert_eq!(overview.backlog, Backlog::default());
    assert_eq!((overview.epoch, overview.boot), (Some(plant.opening.epoch), Some(1)));
    assert_eq!((overview.points, overview.gaps, overview.segments, overview.rate), (2, 0, 0, None));
    assert_eq!(overview.troubles, []);
    assert!(!overview.closed);
    let plant = plant.close();
    let overview = plant.look().overview(5).unwrap();
    assert!(overview.closed);
    assert_eq!((overview.user, overview.troubles), (User::Nobody, vec![]));
}

#[test]
fn the_books_are_the_stores_own_while_it_grows_forgets_and_overflows() {
    let mut plant = Plant::new();
    for round in 0..12 {
        plant.append(60);
        let next = plant.store().next_sequence().0;
        plant.store().acknowledge(&[next - 7..=next - 5, next - 2..=next - 2]);
        plant.store().tick();
        let overview = assert_same_books(&mut plant);
        assert_eq!(overview.troubles, [], "round {round}");
        assert_eq!(overview.dropped, overview.dropped_by.full);
    }
    assert!(plant.store().status().counts.dropped > 0, "it overflowed");
    assert_eq!(verify(&plant.look()).0, []);
    let before = plant.store().status();
    let plant = plant.close();
    let overview = plant.look().overview(5).unwrap();
    assert_eq!(overview.backlog.readings, before.backlog_readings);
    assert_eq!(overview.appended, before.counts.appended);
}

#[test]
fn the_ends_of_the_backlog_tell_their_time_and_whether_it_was_known() {
    let mut plant = Plant::new();
    plant.synchronised = false;
    plant.append(3);
    plant.synchronised = true;
    plant.append(30);
    plant.store().acknowledge(&[1..=1]);
    plant.store().tick();
    let backlog = assert_same_books(&mut plant).backlog;
    let oldest = Edge { sequence: 2, wall_us: BOOTED_US + 120 * SECOND_US, synchronised: Some(false) };
    assert_eq!(backlog.oldest, Some(oldest));
    let last = BOOTED_US + (33 * 60 + EACH as i64 - 1) * SECOND_US;
    assert_eq!(backlog.newest, Some(Edge { sequence: 33, wall_us: last, synchronised: Some(true) }));
}

#[test]
fn the_rate_is_told_from_the_newest_data_and_not_from_too_little() {
    let mut plant = Plant::new();
    plant.append(1);
    assert_eq!(plant.look().overview(0).unwrap().rate, None, "40 seconds");
    plant.append(9);
    let rate = plant.look().overview(0).unwrap().rate.unwrap();
    let exact = plant.length(&file_name(1)) as f64 / (9.0 * 60.0 + 39.0);
    assert!((rate / exact - 1.0).abs() < 0.5, "{rate} for {exact} bytes a second");
}

#[test]
fn the_latest_gaps_come_last_with_the_names_of_their_points() {
    let mut plant = Plant::new();
    for number in 1..=7 {
        plant.store().record_gap(wire::Gap {
            point: number % 3,
            reason: Reason::DeviceSilent.into(),
            ..wire::Gap::default()
        });
    }
    plant.store().tick();
    let overview = plant.look().overview(3).unwrap();
    let told: Vec<_> =
        overview.latest_gaps.iter().map(|(gap, point)| (gap.number, point.as_deref())).collect();
    assert_eq!(overview.gaps, 7);
    assert_eq!(told, [(5, Some("boiler/mode")), (6, None), (7, Some("boiler/flow"))]);
}

#[test]
fn bytes_are_told_by_what_they_are() {
    let mut plant = Plant::new();
    plant.append(10);
    let plant = plant.close();
    fs::write(plant.folder().join("damaged/segment-0000000009-0"), [0; 300]).unwrap();
    fs::create_dir_all(plant.folder().join("catalogue/blobs")).unwrap();
    fs::write(plant.folder().join("catalogue/blobs/db"), [0; 500]).unwrap();
    let overview = plant.look().overview(0).unwrap();
    assert_eq!((overview.disk.damaged, overview.disk.catalogue), (300, 500));
    assert_eq!(overview.disk.segments, plant.length(&file_name(1)) + on_disk(&plant, 2));
    assert_eq!(overview.disk.logbook, plant.length("logbook"));
    assert_eq!(overview.damaged, [("damaged/segment-0000000009-0".to_owned(), 300)]);
    assert_eq!(overview.troubles, [], "what was set aside before is no new trouble");
}

/// Bytes of the segments from `number` on.
fn on_disk(plant: &Plant, number: u64) -> u64 {
    let from = file_name(number);
    let segments =
        plant.everything().into_iter().filter(|(name, _)| *name >= from && name.starts_with("segment"));
    segments.map(|(_, bytes)| bytes.len() as u64).sum()
}
