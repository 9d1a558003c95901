//! Buffer folders as released versions left them: each opens for ever, with every batch.
//!
//! `buffer-v1` is of format 1, before there were openings, a tail, boots and thinned batches:
//! `killed` ended without a word, `closed` with a clean stop. Both hold the batches 1 to 9 of
//! [`readings_of`] in three segments, of which 2 and 3 were acknowledged, two points and a gap.

use std::path::PathBuf;

use forebay_protocols::reading::{Clock, Quality, Reading, Stamp, Value};
use forebay_protocols::sync::batch::Decoder;

use super::super::simulated::Simulated;
use super::*;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn readings_of(sequence: u64) -> Vec<Reading> {
    let reading = |point, micros, value| Reading {
        point: PointId(point),
        stamp: Stamp { clock: Clock::Boot, micros },
        value: Some(value),
        quality: Quality::Good,
    };
    let at = sequence as i64 * 1_000_000;
    let mut readings: Vec<_> =
        (0..8).map(|i| reading(1, at + i * 1000, Value::Float(sequence as f64 + i as f64 / 8.0))).collect();
    readings.push(reading(2, at, Value::Text(format!("batch {sequence}").into())));
    readings
}

#[test]
fn a_buffer_of_format_1_opens_with_every_batch() {
    for name in ["killed", "closed"] {
        let disk = Simulated::of_folder(&fixture("buffer-v1").join(name));
        let (mut store, opening) = open(&disk, TIGHT);
        assert_eq!((opening.repairs, opening.boot_counter), (vec![], 1), "{name}");
        let found = store.oldest(Sequence(0), usize::MAX);
        assert_eq!(found.iter().map(|b| b.sequence.0).collect::<Vec<_>>(), [1, 4, 5, 6, 7, 8, 9], "{name}");
        for stored in found {
            let decoded = Decoder::new().decode(&stored.bytes).unwrap();
            assert_eq!(decoded.head.epoch, opening.epoch, "{name}");
            assert_eq!(decoded.readings, readings_of(stored.sequence.0), "{name}");
        }
        assert_eq!(store.dictionary(PointId(0)).len(), 2, "{name}");
        assert_eq!((store.gaps(0, 9).len(), store.next_sequence()), (1, Sequence(10)), "{name}");
        let counts = store.status().counts;
        assert_eq!((counts.appended, counts.acknowledged, counts.dropped), (81, 18, 0), "{name}");
        append(&mut store, 1, 100);
    }
}
