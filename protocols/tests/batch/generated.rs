//! Random batches: readings that share nothing, and polls of a plausible plant with exceptions.

use std::sync::Arc;

use forebay_protocols::reading::{Clock, PointId, Quality, Reading, Stamp, Value};
use proptest::prelude::*;

use super::reading;

pub fn float() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<u64>().prop_map(f64::from_bits),
        any::<u32>().prop_map(|bits| f64::from(f32::from_bits(bits))),
        (-100_000i64..100_000, 0i32..12).prop_map(|(whole, digits)| whole as f64 / 10f64.powi(digits)),
        (-100_000i64..100_000, 0i32..12, -20i64..20).prop_map(|(whole, digits, ulps)| {
            f64::from_bits((whole as f64 * 10f64.powi(-digits)).to_bits().wrapping_add(ulps as u64))
        }),
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
    let kinds = prop::collection::vec((0u8..9, 1i64..1_000), 1..12);
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
                    // Decimals, and units in the last place beside.
                    5 => Value::Float((poll * pace % 97_001) as f64 * 0.001),
                    6 => Value::Float((poll * pace % 97_001) as f64 / 10.0 / 100.0),
                    7 => Value::Float((poll * pace % 97) as f64 / 10.0 - 0.3),
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
