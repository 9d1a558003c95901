//! What is encoded comes back bit for bit, in the order of point and time.

use forebay_protocols::reading::{Reading, Stamp, Value};
use forebay_protocols::sync::batch::{Decoder, Encoder};
use proptest::prelude::*;

use super::{assert_same, encode, generated, head, reading, round_trip, sample};

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

#[test]
fn a_batch_is_of_the_oldest_format_that_has_what_it_needs() {
    let series = |point, float: fn(f64) -> f64| {
        (0..100).map(move |poll| reading(point, poll, Value::Float(float((1_500 + poll * 37 % 900) as f64))))
    };
    let mut plain: Vec<_> = sample().into_iter().chain(series(7, |n| n / 100.0)).collect();
    plain.extend(series(8, |n| (n / 100.0).sqrt()));
    plain.extend(series(9, |n| f64::from((n / 100.0) as f32)));
    assert_eq!(encode(&plain).format, 1);
    let first = Encoder::new().up_to(1).encode(&head(), &mut plain.clone());
    assert_eq!(first.bytes, Encoder::new().encode(&head(), &mut plain.clone()).bytes);

    let mut mixed: Vec<_> = plain.into_iter().chain(series(10, |n| n * 0.001)).collect();
    mixed.sort_by_key(|reading| (reading.point, reading.stamp));
    assert_eq!(encode(&mixed).format, 2);
    let first = Encoder::new().up_to(1).encode(&head(), &mut mixed.clone());
    let decoded = Decoder::new().decode(&first.bytes).unwrap();
    assert_eq!(decoded.format, 1, "for a reader that knows no other");
    assert_same(&decoded.readings, &mixed);
}

#[test]
fn thousandths_that_a_multiplication_left_beside_cost_what_thousandths_cost() {
    let batch = |float: fn(f64) -> f64| {
        let wander = (0..2_000i64).scan(50_000i64, |at, step| {
            *at += step * step * 7_919 % 41 - 20;
            Some(*at as f64)
        });
        let readings: Vec<_> = (0..)
            .zip(wander)
            .map(|(second, at)| reading(1, second * 1_000_000, Value::Float(float(at))))
            .collect();
        round_trip(&readings)
    };
    let exact = batch(|at| at / 1000.0);
    assert!(batch(|at| at * 0.001) < exact + 40, "{exact} bytes");
    assert!(batch(|at| at / 10.0 / 100.0) < exact + 40, "{exact} bytes");
    // One in four or so is a unit beside, at random.
    assert!(batch(|at| at / 1000.0 + 0.1 - 0.1) < exact + 2_000, "{exact} bytes");
}

#[test]
fn exceptions_among_corrected_decimals_come_back_bit_for_bit() {
    let mut readings: Vec<_> =
        (0..300).map(|poll| reading(1, poll, Value::Float((poll * 37 % 900 - 450) as f64 * 0.001))).collect();
    let odd =
        [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 5e-324, f64::from_bits(0xfff8_dead_beef_0001)];
    for (place, odd) in odd.into_iter().enumerate() {
        readings[place * 31].value = Some(Value::Float(odd));
    }
    (readings[299].value, readings[7].value) = (None, Some(Value::Integer(-3)));
    assert_eq!(encode(&readings).format, 2);
    round_trip(&readings);
}
