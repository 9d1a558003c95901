//! Values to whole numbers and back, bit for bit. The kind of a series is chosen from its values;
//! a value that does not fit the kind is left out and listed apart as "odd" by the caller.

use std::collections::HashMap;
use std::sync::Arc;

use super::corrected::{self, Correction, Decimal};
use super::packing::{Column, Flaw, put};
use super::tens::{POWERS, rounded};
use crate::reading::{DataType, Reading, Value};
use crate::sync::wire;

/// A decimal kind has at most this many digits after the point.
const MAX_DIGITS: u8 = 9;
/// Whole numbers below 2^51 survive [`rounded`].
const LARGEST_WHOLE: f64 = 2_251_799_813_685_248.0;
/// A kind that leaves out more than one value in eight is not worth its exceptions.
const ODD_SHARE: usize = 8;
/// Listing so many floats apart costs more than [`Kind::Corrected`], where that takes them in ...
const MANY_ODD: usize = 8;
/// ... if they are one in so many at least.
const MANY_ODD_SHARE: usize = 64;

/// The first format with [`Kind::Corrected`].
const CORRECTED_SINCE: u32 = 2;

/// How the values of a series became whole numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Integer,
    Boolean,
    /// The text's place in [`Texts`].
    Text,
    /// Bits of an f32: what most devices measure in.
    Single,
    /// Bits of an f64.
    Double,
    /// Decimal numbers with corrections of their own, see [`corrected`]. Format 2.
    Corrected,
    /// Number divided by ten to this power: what people and most sensors round to.
    Decimal(u8),
}

impl Kind {
    /// The number of `form` in columns.proto.
    pub fn code(self) -> u8 {
        match self {
            Self::Integer => 0,
            Self::Boolean => 1,
            Self::Text => 2,
            Self::Single => 3,
            Self::Double => 4,
            Self::Corrected => 5,
            Self::Decimal(digits) => 6 + digits,
        }
    }

    /// `None` for what the format does not have.
    pub fn from_code(code: u8, format: u32) -> Option<Self> {
        Some(match code {
            0 => Self::Integer,
            1 => Self::Boolean,
            2 => Self::Text,
            3 => Self::Single,
            4 => Self::Double,
            5 if format >= CORRECTED_SINCE => Self::Corrected,
            6..=15 => Self::Decimal(code - 6),
            _ => return None,
        })
    }

    /// The value of a number of this kind.
    pub fn value(self, number: i64, texts: &[Arc<str>]) -> Result<Value, Flaw> {
        let flaw = |fault| Flaw { column: "first and residual", fault };
        Ok(match self {
            Self::Integer => Value::Integer(number),
            Self::Boolean => match number {
                0 => Value::Boolean(false),
                1 => Value::Boolean(true),
                _ => return Err(flaw("hold a boolean that is neither 0 nor 1")),
            },
            Self::Text => {
                let text = usize::try_from(number).ok().and_then(|place| texts.get(place));
                Value::Text(text.ok_or_else(|| flaw("refer to a text that is not there"))?.clone())
            }
            Self::Single => {
                let bits =
                    u32::try_from(number).map_err(|_| flaw("hold a 32-bit float of more than 32 bits"))?;
                Value::Float(f64::from(f32::from_bits(bits)))
            }
            // Corrected numbers are the bits of their floats by now.
            Self::Double | Self::Corrected => Value::Float(f64::from_bits(number as u64)),
            Self::Decimal(digits) => {
                Value::Float(number as f64 / POWERS[usize::from(digits.min(MAX_DIGITS))])
            }
        })
    }
}

/// The value of a number of [`Kind::Decimal`].
pub(super) fn decimal_value(digits: u8) -> impl Fn(i64) -> Value {
    let power = POWERS[usize::from(digits.min(MAX_DIGITS))];
    move |number| Value::Float(number as f64 / power)
}

/// Distinct texts of a batch, in order of first use.
#[derive(Default)]
pub(super) struct Texts {
    list: Vec<Arc<str>>,
    places: HashMap<Arc<str>, usize>,
}

impl Texts {
    pub fn clear(&mut self) {
        self.list.clear();
        self.places.clear();
    }

    pub fn place(&mut self, text: &Arc<str>) -> i64 {
        let place = self.places.get(text).copied().unwrap_or_else(|| {
            self.list.push(text.clone());
            self.places.insert(text.clone(), self.list.len() - 1);
            self.list.len() - 1
        });
        place as i64
    }

    /// Fills the text columns.
    pub fn write(&self, to: &mut wire::Columns) {
        for text in &self.list {
            put(&mut to.text_length, text.len() as u64);
            to.text.extend_from_slice(text.as_bytes());
        }
    }
}

/// The texts of a batch of `count` readings: no more than one each.
pub(super) fn read_texts(columns: &wire::Columns, count: usize) -> Result<Vec<Arc<str>>, Flaw> {
    let mut lengths = Column::new("text_length", &columns.text_length);
    let mut bytes = Column::new("text", &columns.text);
    let mut texts = Vec::new();
    while !lengths.is_empty() {
        if texts.len() == count {
            return Err(lengths.flaw("holds more than the batch needs"));
        }
        let length = lengths.at_most(columns.text.len(), "states a text longer than all texts")?;
        let text = std::str::from_utf8(bytes.take(length)?).map_err(|_| bytes.flaw("is not UTF-8"))?;
        texts.push(text.into());
    }
    bytes.end()?;
    Ok(texts)
}

/// A series taken apart. Scratch space, kept from series to series.
#[derive(Default)]
pub(super) struct Parts {
    /// The numbers of all values that fit the kind.
    pub plain: Vec<i64>,
    /// The places of all other readings.
    pub odd: Vec<u32>,
    /// What [`Kind::Corrected`] adds.
    corrections: Vec<Correction>,
    decimal: Option<Decimal>,
}

impl Parts {
    /// Chooses a kind for a series that `format` has, and takes the series apart.
    pub fn pack(&mut self, series: &[Reading], format: u32, texts: &mut Texts) -> Kind {
        let Self { plain, odd, .. } = self;
        self.decimal = None;
        match prevailing(series) {
            DataType::Float => self.pack_floats(series, format),
            DataType::Integer => {
                split(
                    series,
                    plain,
                    odd,
                    |value| if let Value::Integer(v) = value { Some(*v) } else { None },
                );
                Kind::Integer
            }
            DataType::Boolean => {
                split(series, plain, odd, |value| {
                    if let Value::Boolean(v) = value { Some((*v).into()) } else { None }
                });
                Kind::Boolean
            }
            DataType::Text => {
                split(series, plain, odd, |value| {
                    if let Value::Text(v) = value { Some(texts.place(v)) } else { None }
                });
                Kind::Text
            }
        }
    }

    /// The fewest digits that restore every value, or all but a few; else the bits.
    fn pack_floats(&mut self, series: &[Reading], format: u32) -> Kind {
        let floats = series.iter().filter(|reading| matches!(reading.value, Some(Value::Float(_)))).count();
        let few = |plain: &Vec<i64>| (floats - plain.len()) * ODD_SHARE <= floats;
        let Self { plain, odd, .. } = self;
        if let Some(digits) = pack_decimals(series, floats, plain, odd) {
            let left_out = floats - plain.len();
            let many = left_out >= MANY_ODD && left_out * MANY_ODD_SHARE >= floats;
            if many && format >= CORRECTED_SINCE {
                if self.pack_corrected(series, floats, left_out / 2) {
                    return Kind::Corrected;
                }
                pack_decimals(series, floats, &mut self.plain, &mut self.odd);
            }
            return Kind::Decimal(digits);
        }
        split(
            series,
            plain,
            odd,
            |value| if let Value::Float(float) = value { single(*float) } else { None },
        );
        if few(plain) {
            return Kind::Single;
        }
        if format >= CORRECTED_SINCE && self.pack_corrected(series, floats, floats / ODD_SHARE) {
            return Kind::Corrected;
        }
        split(series, &mut self.plain, &mut self.odd, |value| {
            if let Value::Float(float) = value { Some(float.to_bits() as i64) } else { None }
        });
        Kind::Double
    }

    /// False if more than `most` floats would be left out.
    fn pack_corrected(&mut self, series: &[Reading], floats: usize, most: usize) -> bool {
        let values = series.iter().filter_map(|reading| match reading.value {
            Some(Value::Float(float)) if float.is_finite() => Some(float),
            _ => None,
        });
        let Some(decimal) = corrected::recognise(values, floats) else { return false };
        let Self { plain, odd, corrections, .. } = self;
        corrections.clear();
        let mut place = 0;
        split(series, plain, odd, |value| {
            let Value::Float(float) = value else { return None };
            let (number, ulps) = decimal.fit(*float)?;
            corrected::note(ulps, place, corrections);
            place += 1;
            Some(number)
        });
        self.decimal = Some(decimal);
        floats - self.plain.len() <= most
    }

    /// Fills the columns that only [`Kind::Corrected`] has.
    pub fn write_corrections(&self, to: &mut wire::Columns) {
        if let Some(decimal) = self.decimal {
            corrected::write(decimal, &self.corrections, to);
        }
    }
}

/// The type most values are of.
fn prevailing(series: &[Reading]) -> DataType {
    const TYPES: [DataType; 4] = [DataType::Integer, DataType::Float, DataType::Boolean, DataType::Text];
    let types = series.iter().filter_map(|reading| reading.value.as_ref()).map(Value::data_type);
    // A point has one type, unless it was configured anew in the middle of the batch.
    let first = types.clone().next().unwrap_or(DataType::Integer);
    if types.clone().all(|data_type| data_type == first) {
        return first;
    }
    let often = |data_type: &DataType| types.clone().filter(|other| other == data_type).count();
    TYPES.into_iter().max_by_key(often).unwrap_or(first)
}

fn split(
    series: &[Reading],
    plain: &mut Vec<i64>,
    odd: &mut Vec<u32>,
    mut fit: impl FnMut(&Value) -> Option<i64>,
) {
    plain.clear();
    odd.clear();
    for (place, reading) in (0u32..).zip(series) {
        match reading.value.as_ref().and_then(&mut fit) {
            Some(number) => plain.push(number),
            None => odd.push(place),
        }
    }
}

/// The fewest digits that restore every value, or all but a few.
///
/// Digits are raised at the first value that needs more, and the series is begun anew; almost
/// always the first value has as many digits as all others.
fn pack_decimals(series: &[Reading], floats: usize, plain: &mut Vec<i64>, odd: &mut Vec<u32>) -> Option<u8> {
    let mut digits = 0;
    loop {
        let (mut needed, mut strangers) = (digits, 0);
        split(series, plain, odd, |value| {
            let Value::Float(float) = value else { return None };
            // This round is lost already: the rest need not be tried.
            if needed > digits || strangers * ODD_SHARE > floats {
                return None;
            }
            let number = decimal(*float, digits);
            if number.is_none() {
                match (digits + 1..=MAX_DIGITS).find(|more| decimal(*float, *more).is_some()) {
                    Some(more) => needed = more,
                    None => strangers += 1,
                }
            }
            number
        });
        if needed > digits {
            digits = needed;
            continue;
        }
        return ((floats - plain.len()) * ODD_SHARE <= floats).then_some(digits);
    }
}

/// The whole number that divided by ten to the `digits` gives `value`, bit for bit. NaN, infinities
/// and -0.0 have none.
fn decimal(value: f64, digits: u8) -> Option<i64> {
    let power = POWERS[usize::from(digits)];
    let whole = rounded(value, power);
    (whole.abs() < LARGEST_WHOLE && (whole / power).to_bits() == value.to_bits()).then_some(whole as i64)
}

/// The bits of the f32 that widens to `value`, bit for bit.
fn single(value: f64) -> Option<i64> {
    let narrow = value as f32;
    (f64::from(narrow).to_bits() == value.to_bits()).then_some(narrow.to_bits().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::{PointId, Quality, Stamp};
    use proptest::prelude::*;

    #[test]
    fn a_decimal_is_chosen_only_where_it_restores_every_bit() {
        assert_eq!(decimal(21.7, 1), Some(217));
        assert_eq!(decimal(0.1 + 0.2, 9), None);
        for never in [f64::NAN, f64::INFINITY, -0.0, 5e-324, 1e300] {
            assert!((0..=MAX_DIGITS).all(|digits| decimal(never, digits).is_none()), "{never}");
        }
        assert_eq!(decimal(LARGEST_WHOLE - 1.0, 0), Some(LARGEST_WHOLE as i64 - 1));
        assert_eq!(decimal(LARGEST_WHOLE, 0), None);
    }

    #[test]
    fn a_few_strangers_do_not_change_the_kind_of_a_series() {
        let kind_of = |floats: Vec<f64>| {
            let reading = |float| Reading {
                point: PointId(1),
                stamp: Stamp::device(0),
                value: Some(Value::Float(float)),
                quality: Quality::Good,
            };
            let series: Vec<_> = floats.into_iter().map(reading).collect();
            let mut parts = Parts::default();
            let kind = parts.pack(&series, CORRECTED_SINCE, &mut Texts::default());
            assert_eq!(parts.plain.len() + parts.odd.len(), series.len());
            (kind, parts.odd)
        };
        let tenths = |i: i32| f64::from(i) / 10.0;
        let mut floats: Vec<_> = (0..20).map(tenths).collect();
        floats[3] = f64::NAN;
        floats[7] = 0.1 + 0.2;
        assert_eq!(kind_of(floats.clone()), (Kind::Decimal(1), vec![3, 7]));
        floats[8..12].fill(-0.0);
        assert_eq!(kind_of(floats).0, Kind::Double);
        assert_eq!(kind_of((0..20).map(|i| f64::from(i as f32 / 10.0)).collect()), (Kind::Single, vec![]));
    }

    #[test]
    fn a_narrow_float_keeps_its_sign_and_its_infinity() {
        for float in [-0.0f32, f32::INFINITY, f32::MIN_POSITIVE / 8.0, 0.1] {
            assert_eq!(single(float.into()), Some(float.to_bits().into()));
        }
        assert_eq!(single(0.1f64), None);
    }

    proptest! {
        #[test]
        fn every_number_of_a_kind_restores_its_value(bits in any::<u64>(), tenths in -1_000_000i64..1_000_000, digits in 0..=MAX_DIGITS) {
            for float in [f64::from_bits(bits), tenths as f64 / POWERS[usize::from(digits)], f64::from(f32::from_bits(bits as u32))] {
                for (kind, number) in [(Kind::Decimal(digits), decimal(float, digits)), (Kind::Single, single(float))] {
                    let Some(number) = number else { continue };
                    let Ok(Value::Float(back)) = kind.value(number, &[]) else { panic!("not a float") };
                    prop_assert_eq!(back.to_bits(), float.to_bits());
                }
            }
        }
    }
}
