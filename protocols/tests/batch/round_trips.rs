//! What is encoded comes back bit for bit, in the order of point and time.

use forebay_protocols::reading::{Reading, Stamp, Value};
use forebay_protocols::sync::batch::{Decoder, Encoder};
use proptest::prelude::*;

use super::{assert_same, generated, head, reading, round_trip, sample};

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
