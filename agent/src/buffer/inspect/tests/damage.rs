//! One kind of damage each: it is found, at its place, with what is lost by it, and what can still
//! be read comes out. What `verify` says is what the store then does.

use forebay_protocols::sync::wire::gap::Reason;

use super::*;
use crate::buffer::frame::{FACTS, HEADER, Kind, frame};
use crate::buffer::logbook::LOGBOOK;

/// 40 batches in several segments; the first one is acknowledged.
fn plant() -> Plant {
    let mut plant = Plant::new();
    plant.append(40);
    plant.store().acknowledge(&[1..=1]);
    plant.store().tick();
    plant
}

/// Where the frame of a batch stands.
fn place(plant: &Plant, sequence: u64) -> (String, u64, u64) {
    let inspection = plant.look();
    for part in inspection.parts() {
        let Opened::File(file, end) = inspection.open_part(&part) else { panic!("not a file") };
        let mut walk = Walk::new(file.as_ref(), end, Depth::Heads);
        while let Some((piece, from, to)) = walk.step().unwrap() {
            if matches!(piece, Piece::Batch(batch) if batch.facts.sequence.0 == sequence) {
                return (part.file(), from, to);
            }
        }
    }
    panic!("no batch {sequence}")
}

fn lost(first: u64, last: u64) -> Lost {
    Lost { first, last, readings: (last - first + 1) * 2 * EACH, waiting: true }
}

fn only(mut troubles: Vec<Trouble>) -> Trouble {
    assert_eq!(troubles.len(), 1, "{troubles:?}");
    troubles.remove(0)
}

/// The store opens, and loses what `verify` said it would.
fn assert_the_store_agrees(plant: &Plant, readings: u64) {
    let (mut store, _) = open(plant.folder());
    store.oldest(batch::Sequence(0), usize::MAX);
    let gaps = store.gaps(0, usize::MAX);
    let told: u64 = gaps.iter().filter(|gap| gap.reason() == Reason::Corrupt).map(|gap| gap.count).sum();
    assert_eq!(told, readings, "{gaps:?}");
    store.tick();
    drop(store);
    let inspection = plant.look();
    let overview = inspection.overview(5).unwrap();
    assert_eq!(overview.dropped_by.corrupt, readings);
    assert_eq!(overview.appended, overview.acknowledged + overview.dropped + overview.backlog.readings);
}

#[test]
fn a_flipped_bit_in_a_batch_names_the_batch_and_its_place() {
    let plant = plant().close();
    let (file, from, to) = place(&plant, 3);
    plant.flip(&file, from as usize + HEADER + FACTS + 50);
    let (troubles, checked) = verify(&plant.look());
    let what = What::Damaged { lost: Some(lost(3, 3)), tail: false, at_start: false };
    assert_eq!(only(troubles), Trouble { file, bytes: Some((from, to)), what });
    assert_eq!((checked.waiting_batches, checked.batches), (38, 39));
    let (sequences, extracted) = extract(&plant.look(), &Wanted::default());
    assert_eq!((sequences.len(), extracted.damaged), (38, 1));
    assert_the_store_agrees(&plant, 2 * EACH);
}

#[test]
fn a_flipped_bit_in_a_frames_header_costs_no_more() {
    let plant = plant().close();
    let (file, from, to) = place(&plant, 3);
    plant.flip(&file, from as usize + 9);
    let what = What::Damaged { lost: Some(lost(3, 3)), tail: false, at_start: false };
    assert_eq!(only(verify(&plant.look()).0), Trouble { file, bytes: Some((from, to)), what });
    assert_the_store_agrees(&plant, 2 * EACH);
}

#[test]
fn neighbouring_damage_is_one_trouble() {
    let plant = plant().close();
    let ((file, from, _), (_, then, to)) = (place(&plant, 3), place(&plant, 4));
    plant.flip(&file, from as usize + 30);
    plant.flip(&file, then as usize + 2);
    let what = What::Damaged { lost: Some(lost(3, 4)), tail: false, at_start: false };
    assert_eq!(only(verify(&plant.look()).0), Trouble { file, bytes: Some((from, to)), what });
    assert_the_store_agrees(&plant, 4 * EACH);
}

#[test]
fn damage_in_what_was_acknowledged_harms_nothing() {
    let plant = plant().close();
    let (file, from, _) = place(&plant, 1);
    plant.flip(&file, from as usize + HEADER + FACTS + 50);
    let trouble = only(verify(&plant.look()).0);
    let what = Lost { waiting: false, ..lost(1, 1) };
    assert_eq!(trouble.what, What::Damaged { lost: Some(what), tail: false, at_start: false });
    assert_eq!(
        trouble.what.to_string(),
        "These bytes are not what was written. Here stood batch 1 with 80 readings: acknowledged or counted as \
         lost before, so nothing is lost now."
    );
    assert_eq!(extract(&plant.look(), &Wanted::default()).1.damaged, 0);
    assert_the_store_agrees(&plant, 0);
}

#[test]
fn a_damaged_head_of_a_file_costs_no_batch() {
    let plant = plant().close();
    plant.flip(&file_name(2), 5);
    let trouble = only(verify(&plant.look()).0);
    assert_eq!(trouble.what, What::Damaged { lost: None, tail: false, at_start: false });
    assert_the_store_agrees(&plant, 0);
}

#[test]
fn a_segment_cut_short_loses_what_stood_behind_the_cut() {
    let plant = plant().close();
    let (file, from, _) = place(&plant, 3);
    let length = plant.length(&file);
    let last = plant.look().contents.segments.values().next().unwrap().0.last;
    plant.cut(&file, from + 100);
    let what = What::Damaged { lost: Some(lost(3, last)), tail: true, at_start: true };
    assert_eq!(only(verify(&plant.look()).0), Trouble { file, bytes: Some((from, length)), what });
    assert_eq!(plant.look().overview(0).unwrap().troubles.len(), 1, "its length tells");
    assert_the_store_agrees(&plant, (last - 2) * 2 * EACH);
}

#[test]
fn a_torn_tail_after_a_power_cut_is_no_loss() {
    let plant = plant().kill();
    let newest = plant.look().parts().last().unwrap().file();
    let length = plant.length(&newest);
    let mut bytes = fs::read(plant.folder().join(&newest)).unwrap();
    bytes.extend_from_slice(&frame(Kind::Batch, &[1; 900])[..500]);
    fs::write(plant.folder().join(&newest), bytes).unwrap();
    let trouble = only(verify(&plant.look()).0);
    assert_eq!(trouble.bytes, Some((length, length + 500)));
    assert_eq!(trouble.what, What::Damaged { lost: None, tail: true, at_start: true });
    assert_eq!(trouble.what.then(), "At its next start the agent cuts it off and goes on.");
    assert_the_store_agrees(&plant, 0);
}

#[test]
fn a_batch_that_is_being_written_is_no_damage() {
    let plant = plant();
    let newest = plant.look().parts().last().unwrap().file();
    let mut bytes = fs::read(plant.folder().join(&newest)).unwrap();
    bytes.extend_from_slice(&frame(Kind::Batch, &[1; 900])[..500]);
    fs::write(plant.folder().join(&newest), bytes).unwrap();
    let (troubles, checked) = verify(&plant.look());
    assert_eq!((troubles, checked.unfinished), (vec![], true));
    assert_eq!(extract(&plant.look(), &Wanted::default()).1.damaged, 0);
}

#[test]
fn a_segment_that_is_gone_is_counted_with_what_waited_in_it() {
    let plant = plant().close();
    let known = plant.look().contents.segments[&2].0.clone();
    fs::remove_file(plant.folder().join(file_name(2))).unwrap();
    let what = What::SegmentGone { batches: known.live().batches, readings: known.live().readings };
    let trouble = Trouble { file: file_name(2), bytes: None, what };
    assert_eq!(only(verify(&plant.look()).0), trouble);
    assert_eq!(only(plant.look().overview(0).unwrap().troubles), trouble);
    assert_eq!(extract(&plant.look(), &Wanted::default()).1.damaged, 1);
    assert_the_store_agrees(&plant, known.live().readings);
}

#[test]
fn without_a_logbook_the_segments_tell_everything_but_the_names() {
    let plant = plant().close();
    fs::remove_file(plant.folder().join(LOGBOOK)).unwrap();
    let inspection = plant.look();
    assert_eq!(inspection.epoch, Some(plant.opening.epoch));
    let overview = inspection.overview(5).unwrap();
    assert_eq!((overview.backlog.batches, overview.boot), (40, None), "also what was acknowledged");
    let (troubles, checked) = verify(&inspection);
    let whats: Vec<_> = troubles.iter().map(|trouble| trouble.what.word()).collect();
    assert_eq!((whats, checked.batches), (vec!["logbook-gone", "points-lost"], 40));
    let mut names = Vec::new();
    let take = &mut |row: &Row<'_>| {
        names.push(format!("{}/{}", row.point.device, row.point.name));
        Ok(())
    };
    assert_eq!(inspection.extract(&Wanted::default(), take).unwrap().readings, 40 * 2 * EACH);
    names.sort();
    names.dedup();
    assert_eq!(names, ["lost/point-1", "lost/point-2"], "as the agent would name them");
}

#[test]
fn a_damaged_logbook_is_told_with_its_bytes() {
    let plant = plant().close();
    plant.flip(LOGBOOK, 100);
    let (troubles, checked) = verify(&plant.look());
    assert_eq!(troubles[0].what.word(), "logbook-damaged");
    assert_eq!(checked.batches, 40);
    assert_eq!(troubles, plant.look().overview(0).unwrap().troubles[..1].to_vec());
}

#[test]
fn a_torn_logbook_is_told_when_nobody_writes_to_it() {
    let torn = |plant: Plant| {
        let mut bytes = fs::read(plant.folder().join(LOGBOOK)).unwrap();
        bytes.extend_from_slice(&frame(Kind::Record, &[1; 90])[..50]);
        fs::write(plant.folder().join(LOGBOOK), bytes).unwrap();
        verify(&plant.look()).0.into_iter().map(|trouble| trouble.what).collect::<Vec<_>>()
    };
    assert_eq!(torn(plant().kill()), [What::LogbookTorn]);
    assert_eq!(torn(plant()), [], "a record is being written");
}

#[test]
fn a_segment_of_another_buffer_is_told_and_left_out() {
    let (plant, stranger) = (plant().close(), plant().close());
    let file = file_name(77);
    fs::copy(stranger.folder().join(file_name(1)), plant.folder().join(&file)).unwrap();
    assert_eq!(only(verify(&plant.look()).0), Trouble { file, bytes: None, what: What::Alien });
    assert_eq!(extract(&plant.look(), &Wanted { all: true, ..Wanted::default() }).0.len(), 40);
}

#[test]
fn a_batch_that_is_as_written_and_none_all_the_same_is_told() {
    let mut plant = Plant::new();
    plant.append(2);
    let batch = batch::Encoded {
        sequence: plant.store().next_sequence(),
        count: 5,
        dictionary_revision: PointId(2),
        span_us: (1, 2),
        bytes: bytes::Bytes::from_static(b"no batch"),
    };
    plant.store().append(&[batch]).unwrap();
    plant.append(2);
    let trouble = only(verify(&plant.look()).0);
    assert!(matches!(trouble.what, What::Undecodable { sequence: 3, waiting: true, .. }), "{trouble:?}");
    let (sequences, extracted) = extract(&plant.look(), &Wanted::default());
    assert_eq!((sequences, extracted.damaged), (vec![1, 2, 4, 5], 1));
}

#[test]
fn a_batch_in_two_segments_is_told_and_comes_out_once() {
    let plant = plant().kill();
    let twin = file_name(900);
    fs::copy(plant.folder().join(file_name(1)), plant.folder().join(&twin)).unwrap();
    let troubles = verify(&plant.look()).0;
    assert!(
        !troubles.is_empty() && troubles.iter().all(|t| matches!(t.what, What::Twice { .. })),
        "{troubles:?}"
    );
    let (sequences, _) = extract(&plant.look(), &Wanted { all: true, ..Wanted::default() });
    assert_eq!(sequences, (1..=40).collect::<Vec<_>>());
}

#[test]
fn batches_swapped_within_a_file_are_out_of_order() {
    let plant = plant().close();
    let ((file, from, middle), (_, _, to)) = (place(&plant, 3), place(&plant, 4));
    let mut bytes = fs::read(plant.folder().join(&file)).unwrap();
    bytes[from as usize..to as usize].rotate_left((middle - from) as usize);
    fs::write(plant.folder().join(&file), bytes).unwrap();
    let words: Vec<_> = verify(&plant.look()).0.iter().map(|trouble| trouble.what.word()).collect();
    assert!(words.contains(&"out-of-order"), "{words:?}");
}

#[test]
fn whatever_is_flipped_nothing_panics_and_no_flip_goes_unseen() {
    let plant = plant().close();
    let whole = plant.everything();
    let mut at = 3_usize;
    for round in 0..400_usize {
        let (name, bytes) = &whole[round % whole.len()];
        if bytes.is_empty() || !(name == LOGBOOK || name.starts_with("segment")) {
            continue;
        }
        at = at.wrapping_mul(31).wrapping_add(round * 977);
        let place = at % bytes.len();
        plant.flip(name, place);
        let inspection = plant.look();
        inspection.overview(5).unwrap();
        assert!(!verify(&inspection).0.is_empty(), "{name} byte {place}");
        extract(&inspection, &Wanted { all: true, ..Wanted::default() });
        plant.flip(name, place);
    }
    assert_eq!(verify(&plant.look()).0, [], "mended again");
}
