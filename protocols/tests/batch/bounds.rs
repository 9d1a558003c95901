//! Bounds: what fits into a batch, what waits for the next, and claims that are refused before
//! anything is reserved for them.

use std::sync::Arc;

use forebay_protocols::boot_time::BootTime;
use forebay_protocols::reading::{Fault, PointId, Quality, Reading, Stamp, Value};
use forebay_protocols::sync::batch::{
    DecodeError, Decoder, Encoder, MAX_BATCH_BYTES, MAX_PAYLOAD, MAX_READINGS, MAX_TEXT, peek,
};
use forebay_protocols::sync::wire;
use prost::Message;

use super::{encode, head, part_of, reading, refusal, round_trip, sample, seal};

#[test]
fn a_batch_takes_no_more_readings_than_it_may_and_leaves_the_rest() {
    let mut readings: Vec<_> =
        (0..MAX_READINGS as i64 + 10).map(|i| reading(1, -i, Value::Integer(i))).collect();
    let encoded = Encoder::new().encode(&head(), &mut readings);
    assert_eq!(encoded.count as usize, MAX_READINGS);
    assert_eq!(Decoder::new().decode(&encoded.bytes).unwrap().readings.len(), MAX_READINGS);
    readings.drain(..encoded.count as usize);
    assert_eq!(readings.len(), 10);
    assert_eq!(readings[0].value, Some(Value::Integer(MAX_READINGS as i64)));
}

#[test]
fn texts_above_the_bound_of_a_batch_wait_for_the_next() {
    let text: Arc<str> = "x".repeat(MAX_TEXT).into();
    let mut readings: Vec<_> = (0..7).map(|i| reading(1, i, Value::Text(text.clone()))).collect();
    let encoded = Encoder::new().encode(&head(), &mut readings);
    assert!(encoded.count >= 1 && encoded.count < 7, "{}", encoded.count);
    assert_eq!(Decoder::new().decode(&encoded.bytes).unwrap().readings.len(), encoded.count as usize);
    assert_eq!(readings.len(), 7);
}

#[test]
fn a_text_above_its_bound_is_a_bad_reading_and_blocks_nothing() {
    let mut readings = vec![
        reading(1, 0, Value::Text("x".repeat(MAX_TEXT + 1).into())),
        reading(1, 1, Value::Boolean(true)),
    ];
    let encoded = Encoder::new().encode(&head(), &mut readings);
    let decoded = Decoder::new().decode(&encoded.bytes).unwrap().readings;
    assert_eq!((&decoded[0].value, decoded[0].quality), (&None, Quality::Bad(Fault::WrongType)));
    assert_eq!(decoded[1].value, Some(Value::Boolean(true)));
}

#[test]
fn the_worst_readings_stay_within_the_bounds() {
    // Every reading a series and an axis of its own, every value incompressible and odd in turn.
    let mut state = 1u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state ^ state >> 29
    };
    let readings: Vec<_> = (0..MAX_READINGS)
        .map(|i| Reading {
            point: PointId(1 + random() as u32 / 2),
            stamp: if i % 2 == 0 {
                Stamp::device(random() as i64)
            } else {
                Stamp::boot(BootTime(random() as i64))
            },
            value: Some(Value::Float(f64::from_bits(random()))),
            quality: Quality::from_code(128 + (random() % 8) as u8),
        })
        .collect();
    let batch = encode(&readings);
    assert!((batch.payload_length as usize) < MAX_PAYLOAD - (5 << 20), "{}", batch.payload_length);
    assert!(round_trip(&readings) < MAX_BATCH_BYTES);
}

#[test]
fn claims_above_the_bounds_are_refused_before_anything_is_reserved() {
    let mut batch = encode(&sample());
    batch.count = u32::MAX;
    assert!(matches!(refusal(&batch), DecodeError::TooLarge { found: 0xffff_ffff, limit: 65_536, .. }));
    assert!(matches!(peek(&batch.encode_to_vec()), Err(DecodeError::TooLarge { .. })));
    batch.count = 200;
    batch.payload_length = u32::MAX;
    assert!(matches!(refusal(&batch), DecodeError::TooLarge { found: 0xffff_ffff, .. }));
    batch.payload_length = MAX_PAYLOAD as u32;
    assert_eq!(part_of(refusal(&batch)), "payload");
    assert!(matches!(
        Decoder::new().decode(&vec![0; MAX_BATCH_BYTES + 1]),
        Err(DecodeError::TooLarge { .. })
    ));
}

#[test]
fn a_constant_column_cannot_make_more_readings_than_the_batch_states() {
    let mut batch = encode(&[reading(1, 0, Value::Integer(5)), reading(1, 1, Value::Integer(5))]);
    let payload = zstd::bulk::decompress(&batch.payload, MAX_PAYLOAD).unwrap();
    let whole = wire::Columns::decode(payload.as_slice()).unwrap();
    // An axis of four billion times, and one axis used by a million series.
    let long = wire::Columns { axis_count: vec![0xff, 0xff, 0xff, 0xff, 0x0f], ..whole.clone() };
    let mut many = wire::Columns { point: vec![1; 1_000_000], axis: vec![0; 1_000_000], ..whole };
    many.axis[0] = 1;
    (many.form, many.first) = (vec![0; 1_000_000], vec![0; 1_000_000]);
    for (columns, part) in [(long, "axis_count"), (many, "axis")] {
        seal(&mut batch, &columns.encode_to_vec());
        batch.dictionary_revision = u32::MAX;
        assert_eq!(part_of(refusal(&batch)), part);
    }
}

#[test]
fn a_bomb_in_the_payload_is_not_unpacked() {
    let mut batch = encode(&sample());
    let bomb = zstd::bulk::compress(&vec![0; 4 * MAX_PAYLOAD], 3).unwrap();
    batch.payload_crc32c = crc32c::crc32c(&bomb);
    batch.payload = bomb.into();
    assert_eq!(part_of(refusal(&batch)), "payload");
}
