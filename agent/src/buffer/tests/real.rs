//! Real batches, for what looks into them.

use forebay_protocols::reading::{Clock, Fault, Quality, Reading, Stamp, Value};
use forebay_protocols::sync::batch::{Boot, Decoded, Decoder, Encoder, Epoch, Head};
use forebay_protocols::sync::wire::gap::Reason;

use super::super::Stored;
use super::*;

/// The wall offset that real batches state.
pub const OFFSET_US: i64 = 1_700_000_000_000_000;

/// Readings of a real batch: a number that changes, a text, and a number with a hole.
pub fn readings_of(sequence: u64, many: u64) -> Vec<Reading> {
    let reading = |point, i: u64, value, quality| Reading {
        point: PointId(point),
        stamp: Stamp { clock: Clock::Boot, micros: sequence as i64 * 1_000_000 + i as i64 * 1000 },
        value: Some(value),
        quality,
    };
    // Numbers that do not compress, so that half of them takes half the room.
    let number = |i: u64| {
        let mut bits = (sequence * 7919 + i).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        bits = (bits ^ (bits >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        f64::from_bits((bits ^ (bits >> 32)) >> 2)
    };
    let mut readings: Vec<_> =
        (0..many).map(|i| reading(1, i, Value::Float(number(i)), Quality::Good)).collect();
    readings.extend((0..3).map(|i| reading(2, i, Value::Text(format!("mode {i}").into()), Quality::Good)));
    readings.extend((0..5).map(|i| {
        let quality = if i == 3 { Quality::Bad(Fault::WrongType) } else { Quality::Good };
        reading(3, i, Value::Integer(i as i64), quality)
    }));
    readings
}

/// A batch as the batcher makes them.
pub fn real(epoch: Epoch, boot_counter: u64, sequence: u64, many: u64) -> Encoded {
    let boot = Boot {
        counter: boot_counter,
        id: [boot_counter as u8; 8],
        wall_offset_us: OFFSET_US,
        synchronised: true,
    };
    let head = Head { epoch, sequence: Sequence(sequence), boot };
    Encoder::new().encode(&head, &mut readings_of(sequence, many))
}

/// Appends a real batch of `many` readings and a few.
pub fn append_real(store: &mut Store, many: u64) -> u64 {
    let next = store.next_sequence().0;
    store.append(&[real(store.epoch, store.boot.counter, next, many)]).unwrap();
    next
}

pub fn decoded(stored: &Stored) -> Decoded {
    Decoder::new().decode(&stored.bytes).unwrap()
}

/// The backlog as the store counts it is the backlog as it can be read, and every reading is in
/// exactly one place.
pub fn assert_real_books_balance(store: &mut Store) {
    let backlog = store.oldest(Sequence(0), usize::MAX);
    for stored in &backlog {
        assert_eq!(decoded(stored).readings.len(), stored.count as usize, "{:?}", stored.sequence);
    }
    let readings: u64 = backlog.iter().map(|stored| u64::from(stored.count)).sum();
    let bytes: u64 = backlog.iter().map(|stored| stored.bytes.len() as u64).sum();
    let status = store.status();
    assert_eq!((status.backlog_readings, status.backlog_bytes), (readings, bytes), "{status:?}");
    assert_eq!(status.backlog_batches, backlog.len() as u64, "{status:?}");
    let counts = status.counts;
    assert_eq!(counts.appended, counts.acknowledged + counts.dropped + readings, "{status:?}");
    let by = status.dropped_by;
    assert_eq!(by.full + by.corrupt + by.thinned, counts.dropped, "{status:?}");
    let told = store.gaps(0, usize::MAX);
    let told: u64 = told.iter().filter(|gap| gap.reason() != Reason::ServerLost).map(|gap| gap.count).sum();
    assert_eq!(told, counts.dropped, "every dropped reading is in a gap record");
}
