//! The batch codec as its users meet it: what is encoded comes back bit for bit, what was written
//! by any released version decodes for ever, and no bytes whatever do harm.
//!
//! Random tests are proptest's: a failure prints its smallest case and the seed, and keeps the seed
//! in `proptest-regressions`.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

use std::sync::Arc;

use forebay_protocols::boot_time::BootTime;
use forebay_protocols::reading::{Clock, Fault, PointId, Quality, Reading, Stamp, Value};
use forebay_protocols::sync::batch::{
    Boot, DecodeError, Decoder, Encoder, Epoch, Head, MAX_BATCH_BYTES, MAX_PAYLOAD, MAX_READINGS, MAX_TEXT,
    Sequence, peek,
};
use forebay_protocols::sync::wire;
use proptest::prelude::*;
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

mod generated {
    use super::*;

    pub fn float() -> impl Strategy<Value = f64> {
        prop_oneof![
            any::<u64>().prop_map(f64::from_bits),
            any::<u32>().prop_map(|bits| f64::from(f32::from_bits(bits))),
            (-100_000i64..100_000, 0i32..12).prop_map(|(whole, digits)| whole as f64 / 10f64.powi(digits)),
            prop::sample::select(vec![
                0.0,
                -0.0,
                f64::NAN,
                f64::INFINITY,
                f64::NEG_INFINITY,
                f64::MAX,
                f64::MIN,
                5e-324,
                f64::from_bits(0x7ff0_0000_0000_0001),
                f64::from_bits(0xfff8_dead_beef_0001),
                0.1 + 0.2,
                1e15,
                2e15 + 0.5,
            ]),
        ]
    }

    fn integer() -> impl Strategy<Value = i64> {
        prop_oneof![any::<i64>(), -5i64..5, Just(i64::MIN), Just(i64::MAX)]
    }

    fn text() -> impl Strategy<Value = Arc<str>> {
        prop_oneof![Just(""), Just("auto"), Just("manuell – Störung"), Just("\0")].prop_map(Arc::from)
    }

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            float().prop_map(Value::Float),
            integer().prop_map(Value::Integer),
            any::<bool>().prop_map(Value::Boolean),
            text().prop_map(Value::Text),
        ]
    }

    fn stamp() -> impl Strategy<Value = Stamp> {
        let micros = prop_oneof![
            integer(),
            (0i64..50).prop_map(|second| second * 1_000_000),
            (0i64..50_000).prop_map(|milli| milli * 1_000),
            0i64..50_000_000,
        ];
        (micros, prop::bool::weighted(0.2)).prop_map(|(micros, device)| Stamp {
            clock: if device { Clock::Device } else { Clock::Boot },
            micros,
        })
    }

    fn quality() -> impl Strategy<Value = Quality> {
        prop_oneof![5 => Just(Quality::Good), 1 => any::<u8>().prop_map(Quality::from_code)]
    }

    /// Everything mixed: nothing about a reading depends on any other.
    fn wild() -> impl Strategy<Value = Vec<Reading>> {
        let point = prop_oneof![5 => 1u32..8, 1 => 1..=u32::MAX];
        let reading = (point, stamp(), prop::option::weighted(0.9, value()), quality());
        prop::collection::vec(
            reading.prop_map(|(point, stamp, value, quality)| Reading {
                point: PointId(point),
                stamp,
                value,
                quality,
            }),
            0..120,
        )
    }

    /// Polls of a few points, each with a type of its own and now and then an exception.
    fn polls() -> impl Strategy<Value = Vec<Reading>> {
        let kinds = prop::collection::vec((0u8..6, 1i64..1_000), 1..12);
        let exceptions =
            prop::collection::vec((any::<prop::sample::Index>(), prop::option::of(value()), quality()), 0..4);
        (kinds, 1usize..40, 0i64..3_000, exceptions).prop_map(|(kinds, polls, jitter, exceptions)| {
            let mut readings = Vec::new();
            for poll in 0..polls as i64 {
                let micros = 1_000_000 * poll + poll * poll * 7919 % (jitter + 1);
                for (point, (kind, pace)) in (1..).zip(&kinds) {
                    let value = match kind {
                        0 => Value::Float((poll * pace % 97) as f64 / 10.0),
                        1 => Value::Float(f64::from((poll as f32 * *pace as f32).sin())),
                        2 => Value::Float((poll as f64 * *pace as f64).sin()),
                        3 => Value::Integer(poll * pace),
                        4 => Value::Boolean(poll / 7 % 2 == 0),
                        _ => Value::Text(if poll % pace == 0 { "on".into() } else { "off".into() }),
                    };
                    readings.push(reading(point, micros, value));
                }
            }
            for (place, value, quality) in exceptions {
                let reading = place.get_mut(&mut readings);
                (reading.value, reading.quality) = (value, quality);
            }
            readings
        })
    }

    pub fn batch() -> impl Strategy<Value = Vec<Reading>> {
        prop_oneof![wild(), polls()]
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_readings_come_back_bit_for_bit(readings in generated::batch()) {
        round_trip(&readings);
    }

    #[test]
    fn floats_of_one_series_come_back_bit_for_bit(floats in prop::collection::vec(generated::float(), 1..60)) {
        let readings: Vec<_> = (0..).zip(floats).map(|(micros, float)| reading(1, micros, Value::Float(float))).collect();
        round_trip(&readings);
    }

    #[test]
    fn random_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Decoder::new().decode(&bytes).is_err());
        let _ = peek(&bytes);
    }

    #[test]
    fn an_altered_batch_gives_readings_or_an_error(
        mut readings in generated::batch(),
        blows in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = Encoder::new().encode(&head(), &mut readings).bytes.to_vec();
        for (place, byte) in blows {
            *place.get_mut(&mut bytes) = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        assert_harmless(&bytes);
    }

    /// The same behind the checksum: a peer that means it.
    #[test]
    fn an_altered_payload_gives_readings_or_an_error(
        readings in generated::batch(),
        blows in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        count in prop::option::of(any::<u32>()),
    ) {
        let mut batch = encode(&readings);
        let mut payload = zstd::bulk::decompress(&batch.payload, MAX_PAYLOAD).unwrap();
        for (place, byte) in blows {
            if !payload.is_empty() {
                *place.get_mut(&mut payload) = byte;
            }
        }
        seal(&mut batch, &payload);
        batch.count = count.map_or(batch.count, |count| count % 70_000);
        assert_harmless(&batch.encode_to_vec());
    }

    /// Column by column, so that the message around them stays whole.
    #[test]
    fn altered_columns_give_readings_or_an_error(
        readings in generated::batch(),
        blows in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut batch = encode(&readings);
        let payload = zstd::bulk::decompress(&batch.payload, MAX_PAYLOAD).unwrap();
        let mut columns = wire::Columns::decode(payload.as_slice()).unwrap();
        let mut all = all_columns(&mut columns);
        for (column, place, byte) in blows {
            let column = column.get_mut(&mut all);
            match byte % 4 {
                0 => column.push(byte),
                1 => column.truncate(column.len().saturating_sub(1)),
                _ if column.is_empty() => {}
                _ => *place.get_mut(column) = byte,
            }
        }
        seal(&mut batch, &columns.encode_to_vec());
        assert_harmless(&batch.encode_to_vec());
    }
}

fn all_columns(columns: &mut wire::Columns) -> Vec<&mut Vec<u8>> {
    let wire::Columns {
        point,
        axis,
        form,
        first,
        residual,
        axis_form,
        axis_count,
        axis_start,
        axis_step,
        axis_residual,
        plane_width,
        change_count,
        change_gap,
        text_length,
        text,
        odd_gap,
        odd_run,
        odd_type,
        odd_number,
        odd_float,
        quality_gap,
        quality_run,
        quality_code,
        plane_0,
        plane_1,
        plane_2,
        plane_3,
        plane_4,
        plane_5,
        plane_6,
        plane_7,
    } = columns;
    vec![
        point,
        axis,
        form,
        first,
        residual,
        axis_form,
        axis_count,
        axis_start,
        axis_step,
        axis_residual,
        plane_width,
        change_count,
        change_gap,
        text_length,
        text,
        odd_gap,
        odd_run,
        odd_type,
        odd_number,
        odd_float,
        quality_gap,
        quality_run,
        quality_code,
        plane_0,
        plane_1,
        plane_2,
        plane_3,
        plane_4,
        plane_5,
        plane_6,
        plane_7,
    ]
}

/// What decodes keeps every promise of `Decoded`, and can be encoded again.
fn assert_harmless(bytes: &[u8]) {
    let Ok(decoded) = Decoder::new().decode(bytes) else { return };
    assert!(decoded.readings.len() <= MAX_READINGS);
    assert!(decoded.readings.is_sorted_by_key(|reading| (reading.point, reading.stamp)));
    let points = decoded.readings.iter().map(|reading| reading.point);
    assert!(points.clone().all(|point| point.0 > 0 && point <= decoded.dictionary_revision));
    let again = Encoder::new().encode(&decoded.head, &mut decoded.readings.clone());
    assert_same(&Decoder::new().decode(&again.bytes).unwrap().readings, &decoded.readings);
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

#[test]
fn an_empty_batch_is_a_batch() {
    round_trip(&[]);
}

#[test]
fn the_span_of_a_batch_knows_only_the_boot_clock() {
    let device =
        Reading { stamp: Stamp::device(1_790_000_000_000_000), ..reading(1, 0, Value::Boolean(true)) };
    let span = |mut readings: Vec<Reading>| Encoder::new().encode(&head(), &mut readings).span_us;
    assert_eq!(span(vec![device.clone()]), (0, 0));
    let boot = |micros| reading(2, micros, Value::Integer(micros));
    assert_eq!(span(vec![boot(40), device, boot(-7), boot(12)]), (-7, 40));
}

#[test]
fn one_encoder_serves_batch_after_batch() {
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
    let text =
        |word: &str| vec![reading(9, 5, Value::Text(word.into())), reading(9, 5, Value::Boolean(true))];
    for mut readings in [sample(), text("a"), Vec::new(), text("b"), sample()] {
        let encoded = encoder.encode(&head(), &mut readings);
        assert_same(&decoder.decode(&encoded.bytes).unwrap().readings, &readings);
        assert_eq!(
            encoded.bytes,
            Encoder::new().encode(&head(), &mut readings).bytes,
            "traces of the batch before"
        );
    }
}

#[test]
fn readings_of_the_same_moment_keep_their_order() {
    let readings: Vec<_> = (0..100).map(|i| reading(1 + i % 3, 7, Value::Integer(i.into()))).collect();
    round_trip(&readings);
}

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
fn a_later_format_is_refused_and_not_misread() {
    let mut batch = encode(&sample());
    batch.format = 2;
    assert_eq!(refusal(&batch), DecodeError::UnknownFormat { found: 2 });
    // Nothing but the number need be the same: here the epoch, field 2, has become a number.
    assert_eq!(Decoder::new().decode(&[0x08, 9, 0x10, 1]), Err(DecodeError::UnknownFormat { found: 9 }));
    batch.format = 1;
    batch.codec = 2;
    assert_eq!(refusal(&batch), DecodeError::UnknownCodec { found: 2 });
}

#[test]
fn a_later_kind_of_value_is_refused_and_not_misread() {
    for unknown in [5 << 4, 5, 1 << 3, 1 << 3 | 4] {
        let mut batch = encode(&[reading(1, 0, Value::Integer(5)), reading(1, 1, Value::Integer(9))]);
        let payload = zstd::bulk::decompress(&batch.payload, MAX_PAYLOAD).unwrap();
        let columns =
            wire::Columns { form: vec![unknown], ..wire::Columns::decode(payload.as_slice()).unwrap() };
        seal(&mut batch, &columns.encode_to_vec());
        assert_eq!(part_of(refusal(&batch)), "form", "{unknown:#x}");
    }
}

#[test]
fn a_flipped_bit_fails_the_checksum() {
    let mut batch = encode(&sample());
    let mut payload = batch.payload.to_vec();
    payload[20] ^= 4;
    batch.payload = payload.into();
    assert!(matches!(refusal(&batch), DecodeError::Checksum { .. }));
}

#[test]
fn a_head_that_is_none_is_refused() {
    let broken = |damage: fn(&mut wire::Batch)| {
        let mut batch = encode(&sample());
        damage(&mut batch);
        assert_eq!(peek(&batch.encode_to_vec()).unwrap_err(), refusal(&batch));
        part_of(refusal(&batch))
    };
    assert_eq!(broken(|batch| batch.epoch = vec![1; 15].into()), "epoch");
    assert_eq!(broken(|batch| batch.sequence = 0), "sequence");
    assert_eq!(broken(|batch| batch.boot = None), "boot");
    assert_eq!(broken(|batch| batch.boot.as_mut().unwrap().id = vec![1; 9].into()), "boot.id");
    assert_eq!(broken(|batch| batch.first_us = i64::MAX), "first_us");
    assert!(matches!(Decoder::new().decode(b""), Err(DecodeError::NotABatch { length: 0, .. })));
}

#[test]
fn a_point_outside_the_dictionary_is_refused() {
    let mut batch = encode(&sample());
    batch.dictionary_revision = 3;
    assert_eq!(part_of(refusal(&batch)), "point");
    batch.dictionary_revision = 4;
    let payload = zstd::bulk::decompress(&batch.payload, MAX_PAYLOAD).unwrap();
    let mut columns = wire::Columns::decode(payload.as_slice()).unwrap();
    columns.point[0] = 0;
    seal(&mut batch, &columns.encode_to_vec());
    assert_eq!(part_of(refusal(&batch)), "point");
}

#[test]
fn a_span_that_is_not_the_payloads_is_refused() {
    let mut batch = encode(&sample());
    batch.last_us += 1;
    assert_eq!(part_of(refusal(&batch)), "first_us and last_us");
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

/// Two points, two polls; each lie is told in one column and found there.
#[test]
fn a_column_that_lies_is_named() {
    let readings: Vec<_> = [(1, 0), (2, 0), (1, 5), (2, 5)]
        .map(|(point, micros)| reading(point, micros, Value::Integer(micros * 40)))
        .to_vec();
    let told = |lie: fn(&mut wire::Columns)| {
        let mut batch = encode(&readings);
        let payload = zstd::bulk::decompress(&batch.payload, MAX_PAYLOAD).unwrap();
        let mut columns = wire::Columns::decode(payload.as_slice()).unwrap();
        lie(&mut columns);
        seal(&mut batch, &columns.encode_to_vec());
        part_of(refusal(&batch))
    };
    assert_eq!(told(|columns| columns.point = vec![1]), "point");
    assert_eq!(told(|columns| columns.point = vec![1, 0]), "point");
    assert_eq!(told(|columns| columns.axis = vec![0, 0]), "axis");
    assert_eq!(told(|columns| columns.axis = vec![1, 9]), "axis");
    assert_eq!(told(|columns| columns.axis.push(0)), "axis");
    assert_eq!(told(|columns| columns.axis_count = vec![0]), "axis_count");
    assert_eq!(
        told(|columns| columns.axis_step = vec![0xff; 9].into_iter().chain([1]).collect()),
        "axis_residual"
    );
    assert_eq!(told(|columns| columns.axis_form = vec![3]), "axis_form");
    assert_eq!(told(|columns| columns.first.push(0)), "first");
    assert_eq!(told(|columns| columns.residual.clear()), "residual");
    assert_eq!(told(|columns| columns.form = vec![1 << 4 | 2; 2]), "first and residual");
    assert_eq!(told(|columns| columns.form = vec![4; 2]), "change_count");
    assert_eq!(told(|columns| columns.form = vec![10; 2]), "plane_width");
    assert_eq!(told(|columns| (columns.text_length, columns.text) = (vec![1], vec![0xff])), "text");
    assert_eq!(told(|columns| (columns.odd_gap, columns.odd_run) = (vec![0], vec![0])), "odd_type");
    assert_eq!(told(|columns| tell_odd(columns, 1, 1)), "odd_run");
    assert_eq!(told(|columns| tell_odd(columns, 0, 2)), "odd_run");
    assert_eq!(told(|columns| tell_odd(columns, 4, 0)), "odd_gap");
    assert_eq!(
        told(|columns| (columns.quality_gap, columns.quality_run) = (vec![3], vec![1])),
        "quality_run"
    );
}

/// A run of missing values.
fn tell_odd(columns: &mut wire::Columns, gap: u8, run: u8) {
    (columns.odd_gap, columns.odd_run, columns.odd_type) = (vec![gap], vec![run], vec![0]);
}

#[test]
fn a_bomb_in_the_payload_is_not_unpacked() {
    let mut batch = encode(&sample());
    let bomb = zstd::bulk::compress(&vec![0; 4 * MAX_PAYLOAD], 3).unwrap();
    batch.payload_crc32c = crc32c::crc32c(&bomb);
    batch.payload = bomb.into();
    assert_eq!(part_of(refusal(&batch)), "payload");
}

#[test]
fn a_small_live_batch_costs_less_than_five_bytes_a_reading() {
    let polls = (0..10).flat_map(|poll| (1..=10).map(move |point| (poll, point)));
    let readings: Vec<_> = polls
        .map(|(poll, point)| {
            let tenths = 200 + i64::from(point) * 13 + poll * i64::from(point) * 7 % 5;
            reading(point, 3_600_000_000 + poll * 1_000_000, Value::Float(tenths as f64 / 10.0))
        })
        .collect();
    assert!(round_trip(&readings) < 500);
}
