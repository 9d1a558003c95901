//! A batch of every released format must decode for ever: its bytes lie in `fixtures` beside its
//! readings as text. A format that is released is never written anew; while one is being made,
//! FOREBAY_WRITE_FIXTURES with its number writes its files.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::path::PathBuf;

use forebay_protocols::boot_time::BootTime;
use forebay_protocols::hexadecimal::Hexadecimal;
use forebay_protocols::reading::{Clock, Fault, PointId, Quality, Reading, Stamp, Value};
use forebay_protocols::sync::batch::{Boot, Decoded, Decoder, Encoder, Epoch, Head, Sequence};

#[test]
fn a_batch_of_format_1_decodes_for_ever() {
    assert_decodes(1, every_kind_and_shape());
}

#[test]
fn a_batch_of_format_2_decodes_for_ever() {
    let mut readings = every_kind_and_shape();
    readings.extend(every_way_of_decimals());
    assert_decodes(2, readings);
}

/// The batch that lies there is of this format, and so is what these readings give today.
fn assert_decodes(format: u32, mut readings: Vec<Reading>) {
    let (bytes, text) = (fixture(format, "bin"), fixture(format, "txt"));
    if std::env::var_os("FOREBAY_WRITE_FIXTURES").is_some_and(|value| *value == *format.to_string()) {
        let head = Head {
            epoch: Epoch(std::array::from_fn(|i| i as u8 * 17)),
            sequence: Sequence(4_711),
            boot: Boot {
                counter: 12,
                id: *b"\x01boot\xffid",
                wall_offset_us: -86_400_000_000,
                synchronised: true,
            },
        };
        let encoded = Encoder::new().encode(&head, &mut readings);
        std::fs::write(&bytes, &encoded.bytes).unwrap();
        std::fs::write(&text, spell(&Decoder::new().decode(&encoded.bytes).unwrap())).unwrap();
    }
    let decoded = Decoder::new().decode(&std::fs::read(bytes).unwrap()).unwrap();
    let expected = std::fs::read_to_string(text).unwrap();
    for (number, (found, expected)) in (1..).zip(spell(&decoded).lines().zip(expected.lines())) {
        assert_eq!(found, expected, "line {number}");
    }
    assert_eq!(spell(&decoded), expected);
    assert_eq!(decoded.format, format);
    let today = Encoder::new().encode(&decoded.head, &mut readings);
    let today = Decoder::new().decode(&today.bytes).unwrap();
    assert_eq!((today.format, spell(&today)), (format, expected));
}

fn fixture(format: u32, ending: &str) -> PathBuf {
    let name = format!("batch-v{format}.{ending}");
    [env!("CARGO_MANIFEST_DIR"), "tests", "fixtures", &name].iter().collect()
}

/// The batch as text: a line for its head, then a line for each reading. Floats stand as their bits.
fn spell(decoded: &Decoded) -> String {
    let Head { epoch, sequence, boot } = decoded.head;
    let id = Hexadecimal(&boot.id);
    let mut text = format!(
        "epoch {epoch} sequence {} boot {} {id} offset {} synchronised {} dictionary {}\n",
        sequence.0, boot.counter, boot.wall_offset_us, boot.synchronised, decoded.dictionary_revision.0,
    );
    for Reading { point, stamp, value, quality } in &decoded.readings {
        let clock = match stamp.clock {
            Clock::Boot => "boot",
            Clock::Device => "device",
        };
        let value = match value {
            None => "missing".to_owned(),
            Some(Value::Float(value)) => format!("float {:016x} ({value:?})", value.to_bits()),
            Some(Value::Integer(value)) => format!("integer {value}"),
            Some(Value::Boolean(value)) => format!("boolean {value}"),
            Some(Value::Text(value)) => format!("text {value:?}"),
        };
        text += &format!("{} {clock} {} {} {value}\n", point.0, stamp.micros, quality.code());
    }
    text
}

/// A small plant that uses every kind, shape, course, unit and exception of format 1.
fn every_kind_and_shape() -> Vec<Reading> {
    let mut readings = Vec::new();
    let mut noise = (0u64..).map(|i| (i.wrapping_add(1)).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ i << 17);
    let mut random = move || noise.next().unwrap_or_default();
    let mut add = |point, stamp, value| {
        readings.push(Reading { point: PointId(point), stamp, value, quality: Quality::Good })
    };
    let mut wander = 0i64;
    for poll in 0..40i64 {
        let second = Stamp::boot(BootTime(3_600_000_000 + poll * 1_000_000));
        let jitter = Stamp::boot(BootTime(3_600_000_500 + poll * 500_000 + (random() % 900) as i64));
        let drift = Stamp::boot(BootTime(3_600_000_000 + poll * 100_000 + poll * poll * 1_000));
        let device = Stamp::device(1_790_000_000_000_000 + poll * 60_000_000);
        wander += (random() % 15) as i64 - 7;
        add(1, second, Some(Value::Integer(7)));
        add(2, second, Some(Value::Float(200.5 + (random() % 16) as f64 / 10.0)));
        add(3, second, Some(Value::Float((10_000 + wander) as f64 / 100.0)));
        add(4, second, Some(Value::Integer(900 * poll * poll)));
        add(5, second, Some(Value::Boolean(poll > 13 && poll != 30)));
        add(6, second, Some(Value::Text(if poll < 20 { "auto" } else { "manual \u{b0}" }.into())));
        add(7, jitter, Some(Value::Float(f64::from(20.0 + (poll as f32).sqrt()))));
        add(8, drift, Some(Value::Float((1.0 + poll as f64).sqrt())));
        add(9, drift, Some(Value::Integer(random() as i64)));
        add(10, if poll < 20 { jitter } else { device }, Some(Value::Boolean(poll % 3 == 0)));
        add(4_000_000_000, device, Some(Value::Integer(if poll % 2 == 0 { i64::MIN } else { i64::MAX })));
    }
    for (place, bits) in [
        (12, f64::NAN.to_bits()),
        (13, (-0.0f64).to_bits()),
        (24, 0x7ff0_0000_0000_0001),
        (35, 5e-324f64.to_bits()),
    ] {
        readings[place * 11 + 1].value = Some(Value::Float(f64::from_bits(bits)));
    }
    readings[11 * 5].value = Some(Value::Text("was text once".into()));
    readings[11 * 6].value = Some(Value::Boolean(true));
    readings[11 * 7 + 4].value = Some(Value::Integer(-5));
    for reading in &mut readings[11 * 20..11 * 21] {
        (reading.value, reading.quality) = (None, Quality::Bad(Fault::Silent));
    }
    readings[11 * 21 + 2].quality = Quality::from_code(66);
    readings
}

/// Decimals that arithmetic left a few units in the last place beside, with exceptions: what format 2 adds.
fn every_way_of_decimals() -> Vec<Reading> {
    let ways: [fn(f64) -> f64; 5] = [
        |number| number * 0.001,
        |number| number / 10.0 / 100.0,
        |number| number / 1e8 + 0.1,
        |number| -number * 0.1 + 0.3,
        |number| (number % 2.0) * 0.7,
    ];
    let mut readings = Vec::new();
    for (point, way) in (20..).zip(ways) {
        for poll in 0..64i64 {
            let number = (1_500 + poll * poll * 7 % 90 + 3 * poll) as f64;
            readings.push(Reading {
                point: PointId(point),
                stamp: Stamp::boot(BootTime(3_600_000_000 + poll * 1_000_000)),
                value: Some(Value::Float(way(number))),
                quality: Quality::Good,
            });
        }
    }
    for (place, bits) in [
        (70, f64::NAN.to_bits()),
        (71, (-0.0f64).to_bits()),
        (90, 0x7ff0_0000_0000_0001),
        (140, f64::NEG_INFINITY.to_bits()),
        (200, 5e-324f64.to_bits()),
    ] {
        readings[place].value = Some(Value::Float(f64::from_bits(bits)));
    }
    readings[3].value = None;
    readings
}
