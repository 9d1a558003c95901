//! Registers to values. Pure: words in, value and quality out, for every type, byte order and
//! scaling an operator may write.
//!
//! Four decisions stand here, because devices disagree and somebody has to choose:
//! - A byte order is about numbers of 16 bits and more. `bit`, `bool`, `int8` and `uint8` look at
//!   the register as it came. Text runs through its registers in ascending order and only the two
//!   bytes of each register may be swapped: a device with `CDAB` floats still writes its name
//!   forwards.
//! - Text ends at its first NUL (PostgreSQL could not store one) and loses the spaces at its end.
//!   Bytes that are no UTF-8 are read as Latin-1, which old devices mean by `°` and `ä`.
//! - A number that an `enum` has no word for is given as its digits, in doubt: out of range.
//! - An unscaled `uint64` is an integer. Above `i64::MAX` it is given as the nearest float, in
//!   doubt: out of range.

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay_config::field::{ByteOrder, ModbusPoint, RawType, Register};

use super::rollover::Rollover;
use crate::field::scaling::Scaling;
use crate::reading::{DataType, Doubt, Fault, Quality, Value};

/// How the registers of one point become its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Format {
    raw: RawType,
    order: ByteOrder,
    scaling: Option<Scaling>,
    // There may be ten thousand of these, and few have one of the last two.
    /// `None` where numbers stay numbers.
    labels: Option<Arc<BTreeMap<i64, Arc<str>>>>,
    rollover: Option<Box<Rollover>>,
}

/// A number as the registers hold it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Number {
    Signed(i64),
    Unsigned(u64),
    Float(f64),
}

impl Format {
    /// The format of a configured point on a device with this byte order. Coils and discrete
    /// inputs are booleans whatever else is written.
    pub fn new(point: &ModbusPoint, order: ByteOrder) -> Self {
        let raw = match point.register {
            Register::Coil | Register::Discrete => RawType::Bool,
            Register::Input | Register::Holding => point.raw,
        };
        let labels = point.labels.iter().map(|(number, word)| (*number, word.as_str().into()));
        let labels = (!point.labels.is_empty()).then(|| Arc::new(labels.collect()));
        let scaling = Scaling::new(point.meta.scale, point.meta.offset);
        let rollover = if point.rollover { Rollover::of(raw).map(Box::new) } else { None };
        Self { raw, order, scaling, labels, rollover }
    }

    /// Registers the value takes; one for a coil or discrete input.
    pub fn width(&self) -> u16 {
        match self.raw {
            RawType::Bool | RawType::Bit(_) | RawType::Int8 | RawType::Uint8 => 1,
            RawType::Int16 | RawType::Uint16 | RawType::Float16 | RawType::Bcd16 => 1,
            RawType::Int32 | RawType::Uint32 | RawType::Float32 | RawType::Bcd32 => 2,
            RawType::Int64 | RawType::Uint64 | RawType::Float64 => 4,
            RawType::String { registers } => registers,
        }
    }

    /// What the values are. Scaled integers are floats.
    pub fn data_type(&self) -> DataType {
        match self.raw {
            _ if self.labels.is_some() => DataType::Text,
            RawType::Bool | RawType::Bit(_) => DataType::Boolean,
            RawType::String { .. } => DataType::Text,
            RawType::Float16 | RawType::Float32 | RawType::Float64 => DataType::Float,
            _ if self.scaling.is_some() => DataType::Float,
            _ => DataType::Integer,
        }
    }

    /// The value in `words`, which begin at the point's address. A coil is a word of 0 or 1.
    /// Too few words are no value: [`Fault::WrongType`]. Of a counter with a rollover, each reading
    /// goes on from the one before.
    pub fn value(&mut self, words: &[u16]) -> (Option<Value>, Quality) {
        match self.decode(words) {
            Some((value, quality)) => {
                let (value, quality) = self.labelled(value, quality);
                (Some(value), quality)
            }
            None => (None, Quality::Bad(Fault::WrongType)),
        }
    }

    fn labelled(&self, value: Value, quality: Quality) -> (Value, Quality) {
        let Some(labels) = &self.labels else { return (value, quality) };
        let number = match value {
            Value::Integer(number) => Some(number),
            Value::Boolean(is_on) => Some(is_on.into()),
            Value::Float(_) | Value::Text(_) => None,
        };
        match number.and_then(|number| labels.get(&number)) {
            Some(word) => (Value::Text(word.clone()), quality),
            None => {
                let digits = number.map_or(value.to_string(), |number| number.to_string());
                (Value::Text(digits.into()), Quality::Uncertain(Doubt::OutOfRange))
            }
        }
    }

    fn decode(&mut self, words: &[u16]) -> Option<(Value, Quality)> {
        let first = *words.first()?;
        let low = first.to_be_bytes()[1];
        let order = self.order;
        let number = match self.raw {
            RawType::Bool => return Some((Value::Boolean(first != 0), Quality::Good)),
            RawType::Bit(bit) => {
                let mask = 1u16.checked_shl(u32::from(bit))?;
                return Some((Value::Boolean(first & mask != 0), Quality::Good));
            }
            RawType::String { registers } => {
                let words = words.get(..usize::from(registers))?;
                return Some((Value::Text(text(words, order).into()), Quality::Good));
            }
            RawType::Int8 => Number::Signed(low.cast_signed().into()),
            RawType::Uint8 => Number::Unsigned(low.into()),
            RawType::Int16 => Number::Signed(i16::from_be_bytes(bytes(words, order)?).into()),
            RawType::Uint16 => Number::Unsigned(u16::from_be_bytes(bytes(words, order)?).into()),
            RawType::Int32 => Number::Signed(i32::from_be_bytes(bytes(words, order)?).into()),
            RawType::Uint32 => Number::Unsigned(u32::from_be_bytes(bytes(words, order)?).into()),
            RawType::Int64 => Number::Signed(i64::from_be_bytes(bytes(words, order)?)),
            RawType::Uint64 => Number::Unsigned(u64::from_be_bytes(bytes(words, order)?)),
            RawType::Float16 => Number::Float(half(u16::from_be_bytes(bytes(words, order)?))),
            RawType::Float32 => Number::Float(f32::from_be_bytes(bytes(words, order)?).into()),
            RawType::Float64 => Number::Float(f64::from_be_bytes(bytes(words, order)?)),
            RawType::Bcd16 => Number::Unsigned(decimal(&bytes::<2>(words, order)?)?),
            RawType::Bcd32 => Number::Unsigned(decimal(&bytes::<4>(words, order)?)?),
        };
        let number = match (&mut self.rollover, number) {
            (Some(rollover), Number::Unsigned(shown)) => Number::Unsigned(rollover.count(shown)),
            (_, number) => number,
        };
        Some(self.finish(number))
    }

    fn finish(&self, number: Number) -> (Value, Quality) {
        match (self.scaling, number) {
            (Some(scaling), number) => (Value::Float(scaling.apply(number.as_f64())), Quality::Good),
            (None, Number::Float(v)) => (Value::Float(v), Quality::Good),
            (None, Number::Signed(v)) => (Value::Integer(v), Quality::Good),
            (None, Number::Unsigned(v)) => match i64::try_from(v) {
                Ok(v) => (Value::Integer(v), Quality::Good),
                Err(_) => (Value::Float(v as f64), Quality::Uncertain(Doubt::OutOfRange)),
            },
        }
    }
}

impl Number {
    fn as_f64(self) -> f64 {
        match self {
            Self::Signed(v) => v as f64,
            Self::Unsigned(v) => v as f64,
            Self::Float(v) => v,
        }
    }
}

/// Two decimal digits a byte; nothing if a nibble is no digit.
fn decimal(bytes: &[u8]) -> Option<u64> {
    let nibbles = bytes.iter().flat_map(|byte| [byte >> 4, byte & 0x0f]);
    nibbles.map(u64::from).try_fold(0, |number, digit| (digit <= 9).then_some(number * 10 + digit))
}

/// The first `N` bytes of a number, most significant first, or nothing if words are missing.
fn bytes<const N: usize>(words: &[u16], order: ByteOrder) -> Option<[u8; N]> {
    let words = words.get(..N / 2)?;
    let mut bytes = [0; N];
    for (pair, place) in bytes.chunks_exact_mut(2).zip(0..) {
        let from = if low_word_first(order) { words.len() - 1 - place } else { place };
        pair.copy_from_slice(&word(words[from], order).to_be_bytes());
    }
    Some(bytes)
}

fn text(words: &[u16], order: ByteOrder) -> String {
    let bytes: Vec<u8> = words.iter().flat_map(|&w| word(w, order).to_be_bytes()).collect();
    let until_nul = bytes.split(|&b| b == 0).next().unwrap_or_default();
    let text = match std::str::from_utf8(until_nul) {
        Ok(text) => text.to_owned(),
        Err(_) => until_nul.iter().map(|&b| char::from(b)).collect(),
    };
    text.trim_end_matches(' ').to_owned()
}

fn word(word: u16, order: ByteOrder) -> u16 {
    match order {
        ByteOrder::Abcd | ByteOrder::Cdab => word,
        ByteOrder::Badc | ByteOrder::Dcba => word.swap_bytes(),
    }
}

fn low_word_first(order: ByteOrder) -> bool {
    matches!(order, ByteOrder::Cdab | ByteOrder::Dcba)
}

/// IEEE 754 binary16, widened without loss.
fn half(bits: u16) -> f64 {
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let exponent = i32::from((bits >> 10) & 0x1f);
    let fraction = f64::from(bits & 0x3ff);
    match exponent {
        0 => sign * fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => sign * f64::INFINITY,
        31 => f64::NAN,
        _ => sign * (1.0 + fraction / 1024.0) * 2f64.powi(exponent - 15),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDERS: [ByteOrder; 4] = [ByteOrder::Abcd, ByteOrder::Dcba, ByteOrder::Badc, ByteOrder::Cdab];

    fn format(raw: RawType, order: ByteOrder) -> Format {
        Format { raw, order, scaling: None, labels: None, rollover: None }
    }

    fn scaled(raw: RawType, scale: Option<f64>, offset: Option<f64>) -> Format {
        Format { scaling: Scaling::new(scale, offset), ..format(raw, ByteOrder::Abcd) }
    }

    fn value(format: &Format, words: &[u16]) -> Value {
        let (value, quality) = format.clone().value(words);
        assert_eq!(quality, Quality::Good);
        value.unwrap()
    }

    /// The registers of a big-endian number as a device of this order would show them.
    fn registers(big_endian: &[u8], order: ByteOrder) -> Vec<u16> {
        // Written out by hand from the letters, not by the code under test.
        let places: &[usize] = match (big_endian.len(), order) {
            (2, ByteOrder::Abcd | ByteOrder::Cdab) => &[0, 1],
            (2, ByteOrder::Badc | ByteOrder::Dcba) => &[1, 0],
            (4, ByteOrder::Abcd) => &[0, 1, 2, 3],
            (4, ByteOrder::Dcba) => &[3, 2, 1, 0],
            (4, ByteOrder::Badc) => &[1, 0, 3, 2],
            (4, ByteOrder::Cdab) => &[2, 3, 0, 1],
            (8, ByteOrder::Abcd) => &[0, 1, 2, 3, 4, 5, 6, 7],
            (8, ByteOrder::Dcba) => &[7, 6, 5, 4, 3, 2, 1, 0],
            (8, ByteOrder::Badc) => &[1, 0, 3, 2, 5, 4, 7, 6],
            (8, ByteOrder::Cdab) => &[6, 7, 4, 5, 2, 3, 0, 1],
            other => panic!("no order for {other:?}"),
        };
        places.chunks(2).map(|p| u16::from_be_bytes([big_endian[p[0]], big_endian[p[1]]])).collect()
    }

    #[test]
    fn every_number_reads_the_same_in_every_byte_order() {
        let table: Vec<(RawType, Vec<u8>, Value)> = vec![
            (RawType::Int16, (-12_345i16).to_be_bytes().into(), Value::Integer(-12_345)),
            (RawType::Uint16, 0xfedc_u16.to_be_bytes().into(), Value::Integer(0xfedc)),
            (RawType::Int32, (-123_456_789i32).to_be_bytes().into(), Value::Integer(-123_456_789)),
            (RawType::Uint32, 0xfedc_ba98_u32.to_be_bytes().into(), Value::Integer(0xfedc_ba98)),
            (RawType::Int64, (i64::MIN + 77).to_be_bytes().into(), Value::Integer(i64::MIN + 77)),
            (RawType::Uint64, (i64::MAX as u64).to_be_bytes().into(), Value::Integer(i64::MAX)),
            (RawType::Bcd16, 0x9876_u16.to_be_bytes().into(), Value::Integer(9_876)),
            (RawType::Bcd32, 0x9876_5432_u32.to_be_bytes().into(), Value::Integer(98_765_432)),
            (RawType::Float16, 0xc500_u16.to_be_bytes().into(), Value::Float(-5.0)),
            (RawType::Float32, 21.5f32.to_be_bytes().into(), Value::Float(21.5)),
            (RawType::Float64, (-1.0e-300f64).to_be_bytes().into(), Value::Float(-1.0e-300)),
        ];
        for (raw, bytes, expected) in table {
            for order in ORDERS {
                let format = format(raw, order);
                let words = registers(&bytes, order);
                assert_eq!(usize::from(format.width()), words.len());
                assert_eq!(value(&format, &words), expected, "{raw:?} as {order:?}");
                assert_eq!(expected.data_type(), format.data_type());
            }
        }
    }

    #[test]
    fn bits_and_bytes_look_at_the_register_as_it_came() {
        for order in ORDERS {
            assert_eq!(value(&format(RawType::Bit(0), order), &[0x0001]), Value::Boolean(true));
            assert_eq!(value(&format(RawType::Bit(15), order), &[0x8000]), Value::Boolean(true));
            assert_eq!(value(&format(RawType::Bit(14), order), &[0x8000]), Value::Boolean(false));
            assert_eq!(value(&format(RawType::Bool, order), &[0x0100]), Value::Boolean(true));
            assert_eq!(value(&format(RawType::Bool, order), &[0]), Value::Boolean(false));
            assert_eq!(value(&format(RawType::Int8, order), &[0x7fff]), Value::Integer(-1));
            assert_eq!(value(&format(RawType::Uint8, order), &[0x7fff]), Value::Integer(255));
        }
    }

    #[test]
    fn a_nibble_that_is_no_decimal_digit_is_no_value() {
        for (raw, words) in [(RawType::Bcd16, vec![0x123a]), (RawType::Bcd32, vec![0xf000, 0x0001])] {
            let bad = format(raw, ByteOrder::Abcd).value(&words);
            assert_eq!(bad, (None, Quality::Bad(Fault::WrongType)));
        }
        assert_eq!(value(&scaled(RawType::Bcd16, Some(0.1), None), &[0x0215]), Value::Float(21.5));
    }

    #[test]
    fn a_bit_beyond_the_register_is_no_value() {
        let (value, quality) = format(RawType::Bit(16), ByteOrder::Abcd).value(&[0xffff]);
        assert_eq!((value, quality), (None, Quality::Bad(Fault::WrongType)));
    }

    #[test]
    fn missing_words_are_no_value_for_any_type() {
        let wide = [RawType::Uint32, RawType::Float32, RawType::Float64, RawType::String { registers: 3 }];
        for raw in wide {
            assert_eq!(format(raw, ByteOrder::Cdab).value(&[1]), (None, Quality::Bad(Fault::WrongType)));
        }
        assert_eq!(format(RawType::Bool, ByteOrder::Abcd).value(&[]), (None, Quality::Bad(Fault::WrongType)));
    }

    #[test]
    fn a_scale_of_a_tenth_gives_short_numbers() {
        let tenth = scaled(RawType::Uint16, Some(0.1), None);
        for raw in 0..=u16::MAX {
            let Value::Float(v) = value(&tenth, &[raw]) else { panic!("not a float") };
            assert_eq!(v, format!("{}.{}", raw / 10, raw % 10).parse::<f64>().unwrap());
        }
    }

    #[test]
    fn scale_and_offset_make_floats() {
        assert_eq!(value(&scaled(RawType::Int16, Some(0.1), Some(-40.0)), &[615]), Value::Float(21.5));
        assert_eq!(value(&scaled(RawType::Int16, None, Some(1.0)), &[0xffff]), Value::Float(0.0));
        assert_eq!(value(&scaled(RawType::Uint16, Some(2.5), None), &[4]), Value::Float(10.0));
        assert_eq!(value(&scaled(RawType::Uint16, Some(-0.5), None), &[3]), Value::Float(-1.5));
        assert_eq!(value(&scaled(RawType::Uint16, Some(0.0), None), &[3]), Value::Float(0.0));
        assert_eq!(scaled(RawType::Int16, Some(1.0), None).data_type(), DataType::Float);
    }

    #[test]
    fn a_uint64_beyond_the_integers_is_a_float_in_doubt() {
        let (value, quality) = format(RawType::Uint64, ByteOrder::Abcd).value(&[0xffff; 4]);
        assert_eq!(value, Some(Value::Float(u64::MAX as f64)));
        assert_eq!(quality, Quality::Uncertain(Doubt::OutOfRange));
    }

    #[test]
    fn half_floats_follow_the_standard() {
        let table = [
            (0x0000, 0.0),
            (0x0001, 5.960_464_477_539_063e-8),
            (0x03ff, 6.097_555_160_522_461e-5),
            (0x0400, 6.103_515_625e-5),
            (0x3555, 0.333_251_953_125),
            (0x3c00, 1.0),
            (0x7bff, 65_504.0),
            (0x7c00, f64::INFINITY),
            (0xfc00, f64::NEG_INFINITY),
            (0xc000, -2.0),
        ];
        for (bits, expected) in table {
            assert_eq!(half(bits), expected, "{bits:#06x}");
        }
        assert!(half(0x7e00).is_nan());
        assert!(half(0x8000).is_sign_negative());
    }

    #[test]
    fn text_loses_what_follows_nul_and_the_spaces_at_its_end() {
        let pump = [0x5075, 0x6d70, 0x2041, 0x2000];
        let four = RawType::String { registers: 4 };
        assert_eq!(value(&format(four, ByteOrder::Abcd), &pump), Value::Text("Pump A".into()));
        assert_eq!(value(&format(four, ByteOrder::Cdab), &pump), Value::Text("Pump A".into()));
        let swapped = pump.map(u16::swap_bytes);
        assert_eq!(value(&format(four, ByteOrder::Badc), &swapped), Value::Text("Pump A".into()));
        assert_eq!(value(&format(four, ByteOrder::Dcba), &swapped), Value::Text("Pump A".into()));
        assert_eq!(value(&format(four, ByteOrder::Abcd), &[0; 4]), Value::Text("".into()));
        let two = RawType::String { registers: 2 };
        assert_eq!(value(&format(two, ByteOrder::Abcd), &[0x4100, 0x4243]), Value::Text("A".into()));
    }

    #[test]
    fn text_is_utf8_and_otherwise_latin1() {
        let two = format(RawType::String { registers: 2 }, ByteOrder::Abcd);
        assert_eq!(value(&two, &[0xc2b0, 0x4320]), Value::Text("°C".into()));
        assert_eq!(value(&two, &[0xb043, 0x2020]), Value::Text("°C".into()));
    }

    #[test]
    fn numbers_with_words_are_these_words_and_others_are_their_digits_in_doubt() {
        let words = |raw| Format {
            labels: Some(Arc::new(BTreeMap::from([
                (0, "off".into()),
                (1, "on".into()),
                (-2, "fault".into()),
            ]))),
            ..format(raw, ByteOrder::Abcd)
        };
        assert_eq!(words(RawType::Int16).data_type(), DataType::Text);
        assert_eq!(value(&words(RawType::Int16), &[1]), Value::Text("on".into()));
        assert_eq!(value(&words(RawType::Int16), &[0xfffe]), Value::Text("fault".into()));
        assert_eq!(value(&words(RawType::Bit(3)), &[8]), Value::Text("on".into()));
        assert_eq!(value(&words(RawType::Bool), &[0]), Value::Text("off".into()));
        let doubt = |digits: &str| (Some(Value::Text(digits.into())), Quality::Uncertain(Doubt::OutOfRange));
        assert_eq!(words(RawType::Uint16).value(&[7]), doubt("7"));
        assert_eq!(words(RawType::Uint64).value(&[0xffff; 4]), doubt("18446744073709552000"));
        assert_eq!(words(RawType::Uint32).value(&[7]), (None, Quality::Bad(Fault::WrongType)));
    }

    #[test]
    fn a_counter_goes_on_behind_its_highest_number_before_it_is_scaled() {
        let mut counter = Format {
            rollover: Rollover::of(RawType::Uint16).map(Box::new),
            ..scaled(RawType::Uint16, Some(0.1), None)
        };
        let shown = [65_530, 65_535, 4, 4, 10].map(|raw| counter.value(&[raw]).0);
        assert_eq!(shown, [6_553.0, 6_553.5, 6_554.0, 6_554.0, 6_554.6].map(|v| Some(Value::Float(v))));
    }
}
