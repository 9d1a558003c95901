//! The batch codec as its users meet it: what is encoded comes back bit for bit, what was written
//! by any released version decodes for ever, and no bytes whatever do harm.
//!
//! `round_trips` holds what must come back, `bounds` what fits into a batch and what one may claim,
//! `damage` what bytes that were altered or invented may do: give readings or an error.
//!
//! Random tests are proptest's: a failure prints its smallest case and the seed, and keeps the seed
//! in `proptest-regressions`.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod bounds;
mod damage;
mod generated;
mod round_trips;

use forebay_protocols::boot_time::BootTime;
use forebay_protocols::reading::{PointId, Quality, Reading, Stamp, Value};
use forebay_protocols::sync::batch::{Boot, DecodeError, Decoder, Encoder, Epoch, Head, Sequence, peek};
use forebay_protocols::sync::wire;
use prost::Message;

fn head() -> Head {
    let boot =
        Boot { counter: 3, id: *b"bootid-1", wall_offset_us: 1_790_000_000_000_000, synchronised: true };
    Head { epoch: Epoch(*b"sixteen bytes id"), sequence: Sequence(17), boot }
}

fn reading(point: u32, micros: i64, value: Value) -> Reading {
    let stamp = Stamp::boot(BootTime(micros));
    Reading { point: PointId(point), stamp, value: Some(value), quality: Quality::Good }
}

/// A reading with its floats as bits: NaN equals itself and -0.0 is not 0.0.
fn bits(reading: &Reading) -> (PointId, Stamp, Quality, Option<(u8, u64, String)>) {
    let value = reading.value.as_ref().map(|value| match value {
        Value::Float(v) => (0, v.to_bits(), String::new()),
        Value::Integer(v) => (1, *v as u64, String::new()),
        Value::Boolean(v) => (2, u64::from(*v), String::new()),
        Value::Text(v) => (3, 0, v.to_string()),
    });
    (reading.point, reading.stamp, reading.quality, value)
}

fn assert_same(found: &[Reading], expected: &[Reading]) {
    assert_eq!(found.len(), expected.len());
    for (place, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(bits(found), bits(expected), "reading {place}");
    }
}

/// Encodes, decodes, compares, and returns the size.
fn round_trip(readings: &[Reading]) -> usize {
    let mut sorted = readings.to_vec();
    sorted.sort_by_key(|reading| (reading.point, reading.stamp));
    let mut given = readings.to_vec();
    let encoded = Encoder::new().encode(&head(), &mut given);
    assert_same(&given, &sorted);
    let decoded = Decoder::new().decode(&encoded.bytes).unwrap();
    assert_same(&decoded.readings, &sorted);
    assert_eq!(decoded.head, head());
    assert_eq!(decoded.dictionary_revision, encoded.dictionary_revision);
    let peeked = peek(&encoded.bytes).unwrap();
    assert_eq!((peeked.head, peeked.count, peeked.span_us), (head(), encoded.count, encoded.span_us));
    assert_eq!(encoded.count as usize, readings.len());
    encoded.bytes.len()
}

fn encode(readings: &[Reading]) -> wire::Batch {
    wire::Batch::decode(Encoder::new().encode(&head(), &mut readings.to_vec()).bytes).unwrap()
}

/// Puts a payload into an envelope that vouches for it.
fn seal(batch: &mut wire::Batch, payload: &[u8]) {
    batch.payload_length = payload.len() as u32;
    batch.payload = zstd::bulk::compress(payload, 3).unwrap().into();
    batch.payload_crc32c = crc32c::crc32c(&batch.payload);
}

fn refusal(batch: &wire::Batch) -> DecodeError {
    Decoder::new().decode(&batch.encode_to_vec()).unwrap_err()
}

fn part_of(error: DecodeError) -> &'static str {
    let DecodeError::Inconsistent { part, .. } = error else { panic!("not inconsistent but: {error}") };
    part
}

fn sample() -> Vec<Reading> {
    (0..50)
        .flat_map(|poll| (1..=4).map(move |point| reading(point, poll * 1_000_000, Value::Integer(poll * 3))))
        .collect()
}
