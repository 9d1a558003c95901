//! Damage: bytes that were altered, invented or written by a later version are readings or an
//! error that names the part, never harm.

use forebay_protocols::reading::Value;
use forebay_protocols::sync::batch::{
    DecodeError, Decoder, Encoder, MAX_PAYLOAD, MAX_READINGS, NEWEST_FORMAT, peek,
};
use forebay_protocols::sync::wire;
use proptest::prelude::*;
use prost::Message;

use super::{assert_same, encode, generated, head, part_of, reading, refusal, sample, seal};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]


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
        decimal_way,
        correction_count,
        correction_gap,
        correction,
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
        decimal_way,
        correction_count,
        correction_gap,
        correction,
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

#[test]
fn a_later_format_is_refused_and_not_misread() {
    let mut batch = encode(&sample());
    batch.format = NEWEST_FORMAT + 1;
    let refused = refusal(&batch);
    assert_eq!(refused, DecodeError::UnknownFormat { found: 3 });
    assert_eq!(
        refused.to_string(),
        "batch format 3 is unknown here, 2 is the newest known: update the reader"
    );
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

/// Decimals with corrections have columns of their own, which format 1 has not.
#[test]
fn a_correction_that_lies_is_named() {
    // Three of four are one to three units beside.
    let beside = |poll: i64| f64::from_bits(((1_500 + poll * 7) as f64 / 1000.0).to_bits() + poll as u64 % 4);
    let readings: Vec<_> = (0..40).map(|poll| reading(1, poll, Value::Float(beside(poll)))).collect();
    let honest = encode(&readings);
    let payload = zstd::bulk::decompress(&honest.payload, MAX_PAYLOAD).unwrap();
    let columns = wire::Columns::decode(payload.as_slice()).unwrap();
    assert_eq!(honest.format, 2);
    assert!(columns.correction.len() > 2, "{columns:?}");
    let told = |format: u32, lie: fn(&mut wire::Columns)| {
        let (mut batch, mut columns) = (honest.clone(), columns.clone());
        lie(&mut columns);
        seal(&mut batch, &columns.encode_to_vec());
        batch.format = format;
        part_of(refusal(&batch))
    };
    assert_eq!(told(1, |_| {}), "form");
    assert_eq!(told(2, |columns| columns.decimal_way.clear()), "decimal_way");
    assert_eq!(told(2, |columns| columns.decimal_way = vec![3 << 4 | 3]), "decimal_way");
    assert_eq!(told(2, |columns| columns.decimal_way = vec![13]), "decimal_way");
    assert_eq!(told(2, |columns| columns.decimal_way.push(1)), "decimal_way");
    assert_eq!(told(2, |columns| columns.correction_count = vec![41]), "correction_count");
    assert_eq!(told(2, |columns| columns.correction_count = vec![0xff; 9]), "correction_count");
    assert_eq!(told(2, |columns| columns.correction_gap[0] = 40), "correction_gap");
    assert_eq!(told(2, |columns| columns.correction_gap.push(0)), "correction_gap");
    assert_eq!(told(2, |columns| columns.correction.truncate(1)), "correction");
    assert_eq!(told(2, |columns| columns.correction.push(0)), "correction");
}

/// A run of missing values.
fn tell_odd(columns: &mut wire::Columns, gap: u8, run: u8) {
    (columns.odd_gap, columns.odd_run, columns.odd_type) = (vec![gap], vec![run], vec![0]);
}
