//! What a message says: plain text or a JSON document to values, and a device's own time. Pure.
//!
//! A number may be quoted ("21.5"), since many devices do so; `NaN` and infinities are not
//! measurements; text has at most 4 KiB. What cannot be read as the configured type is
//! [`Fault::WrongType`], JSON's `null` ("I have no value") [`Fault::Unspecified`].

use serde_json::Value as Json;

use crate::field::scaling::Scaling;
use crate::reading::{DataType, Fault, Value};

/// The longest text kept as a reading, bytes. Longer is a file, not a state.
const LONGEST_TEXT: usize = 4096;

/// A value, or why there is none.
pub(super) type Measured = Result<Value, Fault>;

/// How raw values of a point become values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Conversion {
    wanted: DataType,
    scaling: Option<Scaling>,
}

impl Conversion {
    /// Reads values as `wanted`; numbers are then scaled and shifted.
    pub(super) fn new(wanted: DataType, scale: Option<f64>, offset: Option<f64>) -> Self {
        Self { wanted, scaling: Scaling::new(scale, offset) }
    }

    /// What comes out: a scaled integer is a float.
    pub(super) fn data_type(self) -> DataType {
        match (self.wanted, self.scaling) {
            (DataType::Integer, Some(_)) => DataType::Float,
            (wanted, _) => wanted,
        }
    }

    /// Reads the payload of a message that is one value as text.
    pub(super) fn of_text(self, payload: &[u8]) -> Measured {
        let text = std::str::from_utf8(payload).map_err(|_| Fault::WrongType)?;
        self.scaled(parse(text, self.wanted)?)
    }

    /// Reads one value of a JSON document.
    pub(super) fn of_json(self, json: &Json) -> Measured {
        let value = match (json, self.wanted) {
            (Json::Null, _) => return Err(Fault::Unspecified),
            (Json::String(text), wanted) => parse(text, wanted)?,
            (Json::Bool(bit), DataType::Boolean) => Value::Boolean(*bit),
            (Json::Bool(bit), DataType::Text) => Value::Text(if *bit { "true" } else { "false" }.into()),
            (Json::Number(number), wanted) => parse(&number.to_string(), wanted)?,
            (Json::Bool(_) | Json::Array(_) | Json::Object(_), _) => return Err(Fault::WrongType),
        };
        self.scaled(value)
    }

    fn scaled(self, value: Value) -> Measured {
        let (Some(scaling), Some(raw)) = (self.scaling, number(&value)) else { return Ok(value) };
        finite(scaling.apply(raw)).map(Value::Float)
    }
}

/// The time a device states, in microseconds since 1970-01-01 UTC: RFC 3339 text, or a number of
/// seconds, milliseconds, microseconds or nanoseconds, told apart by their size. `None` if it is
/// none of these; a text without a zone is ambiguous and none of these either.
pub(super) fn device_time(json: &Json) -> Option<i64> {
    match json {
        Json::String(text) => match text.trim().parse::<jiff::Timestamp>() {
            Ok(time) => Some(time.as_microsecond()),
            Err(_) => epoch_micros(text.trim()),
        },
        Json::Number(number) => epoch_micros(&number.to_string()),
        _ => None,
    }
}

fn epoch_micros(text: &str) -> Option<i64> {
    // Whole numbers apart, because nanoseconds do not fit into a float.
    if let Ok(whole) = text.parse::<i64>() {
        return match whole {
            1..100_000_000_000 => Some(whole * 1_000_000),
            100_000_000_000..100_000_000_000_000 => Some(whole * 1_000),
            100_000_000_000_000..100_000_000_000_000_000 => Some(whole),
            100_000_000_000_000_000.. => Some(whole / 1_000),
            _ => None,
        };
    }
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite() && *number > 0.0)?;
    let to_micros = [(1e11, 1e6), (1e14, 1e3), (1e17, 1.0), (1e20, 1e-3)];
    let (_, factor) = to_micros.into_iter().find(|(below, _)| number < *below)?;
    Some((number * factor).round() as i64)
}

fn parse(text: &str, wanted: DataType) -> Measured {
    let word = text.trim();
    match wanted {
        DataType::Float => float(word).map(Value::Float),
        DataType::Integer => integer(word),
        DataType::Boolean => boolean(word).map(Value::Boolean),
        DataType::Text if text.len() <= LONGEST_TEXT => Ok(Value::Text(text.into())),
        DataType::Text => Err(Fault::WrongType),
    }
}

fn float(word: &str) -> Result<f64, Fault> {
    word.parse().map_err(|_| Fault::WrongType).and_then(finite)
}

fn integer(word: &str) -> Measured {
    if let Ok(whole) = word.parse::<i64>() {
        return Ok(Value::Integer(whole));
    }
    // Counters of 64 unsigned bits pass the signed range; see `DataType::Integer`.
    if let Ok(large) = word.parse::<u64>() {
        return Ok(Value::Float(large as f64));
    }
    // "21.0" is a whole number; "21.5" read as 21 would be a lie. Beyond 2^53 floats have gaps.
    let number = float(word)?;
    let whole = number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0;
    if whole { Ok(Value::Integer(number as i64)) } else { Err(Fault::WrongType) }
}

fn boolean(word: &str) -> Result<bool, Fault> {
    const YES: [&str; 4] = ["true", "on", "yes", "1"];
    const NO: [&str; 4] = ["false", "off", "no", "0"];
    if YES.iter().any(|yes| word.eq_ignore_ascii_case(yes)) {
        Ok(true)
    } else if NO.iter().any(|no| word.eq_ignore_ascii_case(no)) {
        Ok(false)
    } else {
        Err(Fault::WrongType)
    }
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Float(number) => Some(*number),
        Value::Integer(whole) => Some(*whole as f64),
        Value::Boolean(_) | Value::Text(_) => None,
    }
}

fn finite(number: f64) -> Result<f64, Fault> {
    if number.is_finite() { Ok(number) } else { Err(Fault::WrongType) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn of_text(wanted: DataType, payload: &[u8]) -> Measured {
        Conversion::new(wanted, None, None).of_text(payload)
    }

    fn of_json(wanted: DataType, json: Json) -> Measured {
        Conversion::new(wanted, None, None).of_json(&json)
    }

    #[test]
    fn plain_text_is_read_as_the_configured_type() {
        let wrong = Err(Fault::WrongType);
        for (wanted, payload, expected) in [
            (DataType::Float, " 21.5\n", Ok(Value::Float(21.5))),
            (DataType::Float, "-1e3", Ok(Value::Float(-1000.0))),
            (DataType::Float, "7", Ok(Value::Float(7.0))),
            (DataType::Float, "21,5", wrong.clone()),
            (DataType::Float, "NaN", wrong.clone()),
            (DataType::Float, "1e999", wrong.clone()),
            (DataType::Float, "on", wrong.clone()),
            (DataType::Integer, "-9223372036854775808", Ok(Value::Integer(i64::MIN))),
            (DataType::Integer, "18446744073709551615", Ok(Value::Float(18_446_744_073_709_551_615.0))),
            (DataType::Integer, "21.0", Ok(Value::Integer(21))),
            (DataType::Integer, "21.5", wrong.clone()),
            (DataType::Boolean, "ON", Ok(Value::Boolean(true))),
            (DataType::Boolean, "0", Ok(Value::Boolean(false))),
            (DataType::Boolean, "2", wrong.clone()),
            (DataType::Text, " open ", Ok(Value::Text(" open ".into()))),
        ] {
            assert_eq!(of_text(wanted, payload.as_bytes()), expected, "{payload:?} as {wanted:?}");
        }
        assert_eq!(of_text(DataType::Text, b"\xff\xfe"), wrong);
        assert_eq!(of_text(DataType::Text, &[b'a'; LONGEST_TEXT + 1]), wrong);
        assert!(of_text(DataType::Text, &[b'a'; LONGEST_TEXT]).is_ok());
    }

    #[test]
    fn json_values_are_read_as_the_configured_type() {
        let wrong = Err(Fault::WrongType);
        for (wanted, json, expected) in [
            (DataType::Float, json!(21.5), Ok(Value::Float(21.5))),
            (DataType::Float, json!(21), Ok(Value::Float(21.0))),
            (DataType::Float, json!("21.5"), Ok(Value::Float(21.5))),
            (DataType::Float, json!(true), wrong.clone()),
            (DataType::Float, json!(null), Err(Fault::Unspecified)),
            (DataType::Float, json!([21.5]), wrong.clone()),
            (DataType::Integer, json!(i64::MAX), Ok(Value::Integer(i64::MAX))),
            (DataType::Integer, json!(3.0), Ok(Value::Integer(3))),
            (DataType::Integer, json!(3.5), wrong.clone()),
            (DataType::Boolean, json!(false), Ok(Value::Boolean(false))),
            (DataType::Boolean, json!(1), Ok(Value::Boolean(true))),
            (DataType::Boolean, json!("off"), Ok(Value::Boolean(false))),
            (DataType::Text, json!("open"), Ok(Value::Text("open".into()))),
            (DataType::Text, json!(3), Ok(Value::Text("3".into()))),
            (DataType::Text, json!(true), Ok(Value::Text("true".into()))),
            (DataType::Text, json!({"a": 1}), wrong),
        ] {
            assert_eq!(of_json(wanted, json.clone()), expected, "{json} as {wanted:?}");
        }
    }

    #[test]
    fn scaling_gives_the_number_a_person_would_write() {
        let tenths = Conversion::new(DataType::Integer, Some(0.1), None);
        assert_eq!(tenths.data_type(), DataType::Float);
        assert_eq!(tenths.of_json(&json!(3)), Ok(Value::Float(0.3)));
        assert_eq!(tenths.of_json(&json!("215")), Ok(Value::Float(21.5)));
        let fahrenheit = Conversion::new(DataType::Float, Some(1.8), Some(32.0));
        assert_eq!(fahrenheit.of_text(b"100"), Ok(Value::Float(212.0)));
        let shifted = Conversion::new(DataType::Float, None, Some(-273.15));
        assert_eq!(shifted.of_text(b"273.15"), Ok(Value::Float(0.0)));
        let huge = Conversion::new(DataType::Float, Some(1e300), None);
        assert_eq!(huge.of_text(b"1e300"), Err(Fault::WrongType));
        let state = Conversion::new(DataType::Boolean, Some(10.0), None);
        assert_eq!(state.of_text(b"on"), Ok(Value::Boolean(true)), "a boolean has no scale");
    }

    #[test]
    fn a_device_states_its_time_in_many_ways() {
        let same = 1_795_248_000_250_000;
        for json in [
            json!("2026-11-21T08:00:00.25Z"),
            json!("2026-11-21T09:00:00.25+01:00"),
            json!(1_795_248_000.25),
            json!(1_795_248_000_250_i64),
            json!(1_795_248_000_250_000_i64),
            json!(1_795_248_000_250_000_000_i64),
            json!("1795248000250"),
        ] {
            assert_eq!(device_time(&json), Some(same), "{json}");
        }
        for json in
            [json!("2026-11-21T08:00:00"), json!("soon"), json!(0), json!(-5), json!(true), json!(null)]
        {
            assert_eq!(device_time(&json), None, "{json}");
        }
    }

    proptest! {
        #[test]
        fn no_payload_panics(payload in proptest::collection::vec(any::<u8>(), 0..64), scale in any::<f64>()) {
            for wanted in [DataType::Float, DataType::Integer, DataType::Boolean, DataType::Text] {
                let conversion = Conversion::new(wanted, Some(scale), None);
                let _ = conversion.of_text(&payload);
                if let Ok(json) = serde_json::from_slice::<Json>(&payload) {
                    let _ = conversion.of_json(&json);
                    let _ = device_time(&json);
                }
            }
        }

        #[test]
        fn no_number_is_a_time_that_overflows(whole in any::<i64>(), number in any::<f64>()) {
            let _ = epoch_micros(&whole.to_string());
            let _ = epoch_micros(&number.to_string());
        }

        #[test]
        fn every_finite_number_survives_json(number in any::<f64>().prop_filter("finite", |n| n.is_finite())) {
            let json: Json = serde_json::from_str(&serde_json::to_string(&number).unwrap()).unwrap();
            let Ok(Value::Float(read)) = of_json(DataType::Float, json) else { panic!("{number} is a number") };
            // The parser may be off by a unit in the last place, which subnormal numbers have few of.
            prop_assert!((read - number).abs() <= (number.abs() * 1e-15).max(f64::from_bits(4)));
        }
    }
}
