//! Decimals that arithmetic left a few units in the last place beside: 1.5119999999999998, and
//! 1512 thousandths are meant. Such a value is a whole number, the way in which it became a float,
//! and a correction, which is mostly zero. Pure, and bit for bit.
//!
//! Only in batches of format 2.

use super::packing::{Column, Flaw, put, put_signed};
use super::tens::{POWERS, rounded};
use crate::sync::wire;

/// The most digits behind the point.
const MAX_DIGITS: u8 = 12;
/// Whole numbers from 2^43 on say so much of a float that the others of its bits are no correction.
const LARGEST_WHOLE: f64 = 8_796_093_022_208.0;
/// More units than this arithmetic does not leave beside.
const MOST_ULPS: u64 = 15;
/// So many values tell what all are like.
const SAMPLE: usize = 32;
/// A digit more costs all values 3.3 bits, a value that is left out costs about 80.
const SAMPLE_ODD_SHARE: usize = 24;

/// How a decimal became a float. The numbers are those of `decimal_way`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Divided by a power of ten: what parsers do that do it right.
    Over = 0,
    /// Multiplied by a tenth, a hundredth ...: `raw * 0.1`.
    Times = 1,
    /// Divided by 10, 100, 10^4 and 10^8 one after the other, for each bit of the digits: what quick parsers do.
    InTurn = 2,
}

/// A way and its digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decimal {
    way: Way,
    digits: u8,
}

/// A number of a series and what must be added to the bits of its float.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Correction {
    place: u32,
    ulps: i64,
}

impl Decimal {
    /// The byte of `decimal_way`.
    fn code(self) -> u8 {
        (self.way as u8) << 4 | self.digits
    }

    fn from_code(code: u8) -> Option<Self> {
        let way = match code >> 4 {
            0 => Way::Over,
            1 => Way::Times,
            2 => Way::InTurn,
            _ => return None,
        };
        let digits = code & 15;
        (digits <= MAX_DIGITS).then_some(Self { way, digits })
    }

    /// From a whole number to its float, before the correction.
    fn float(self) -> impl Fn(i64) -> f64 {
        let Self { way, digits } = self;
        let step = |bit: u8| if digits >> bit & 1 == 1 { POWERS[1 << bit] } else { 1.0 };
        let over = match way {
            Way::Over => [POWERS[usize::from(digits.min(MAX_DIGITS))], 1.0, 1.0, 1.0],
            Way::Times => [1.0 / POWERS[usize::from(digits.min(MAX_DIGITS))], 1.0, 1.0, 1.0],
            Way::InTurn => [step(0), step(1), step(2), step(3)],
        };
        move |number| match way {
            Way::Over => number as f64 / over[0],
            Way::Times => number as f64 * over[0],
            Way::InTurn => over.iter().fold(number as f64, |float, power| float / power),
        }
    }

    /// The whole number and the correction that give `value`, bit for bit. NaN, infinities and -0.0 have
    /// none, nor has what is no decimal of so many digits.
    pub fn fit(self, value: f64) -> Option<(i64, i64)> {
        let whole = rounded(value, POWERS[usize::from(self.digits.min(MAX_DIGITS))]);
        if whole.is_nan() || whole.abs() >= LARGEST_WHOLE {
            return None;
        }
        let number = whole as i64;
        let ulps = value.to_bits().wrapping_sub(self.float()(number).to_bits()) as i64;
        (ulps.unsigned_abs() <= MOST_ULPS).then_some((number, ulps))
    }
}

/// The decimal that a sample of `values` shows; `None` where they are no decimals.
pub(super) fn recognise(values: impl Iterator<Item = f64> + Clone, count: usize) -> Option<Decimal> {
    let sample = || values.clone().step_by(count.div_ceil(SAMPLE).max(1));
    let most_odd = sample().count() / SAMPLE_ODD_SHARE;
    let mut digits = 0;
    let mut tell = [0usize; MAX_DIGITS as usize + 1];
    let mut none = 0;
    for value in sample() {
        let needs =
            (0..=MAX_DIGITS).find(|digits| Decimal { way: Way::Over, digits: *digits }.fit(value).is_some());
        match needs {
            Some(needs) => tell[usize::from(needs)] += 1,
            None => none += 1,
        }
        if none > most_odd {
            return None;
        }
    }
    let mut above = none + tell.iter().sum::<usize>();
    for (needs, many) in (0u8..).zip(tell) {
        above -= many;
        if above <= most_odd {
            digits = needs;
            break;
        }
    }
    let exact = |way: Way| {
        let decimal = Decimal { way, digits };
        sample().filter(|value| matches!(decimal.fit(*value), Some((_, 0)))).count()
    };
    // Of equals the last one.
    let ways = [Way::InTurn, Way::Times, Way::Over].map(|way| (exact(way), way));
    let (_, way) = ways.into_iter().max_by_key(|(exact, _)| *exact)?;
    Some(Decimal { way, digits })
}

/// Notes what must be added to the float of the number at `place`.
pub(super) fn note(ulps: i64, place: usize, corrections: &mut Vec<Correction>) {
    if ulps != 0 {
        corrections.push(Correction { place: place as u32, ulps });
    }
}

/// Fills the columns for a series.
pub(super) fn write(decimal: Decimal, corrections: &[Correction], to: &mut wire::Columns) {
    to.decimal_way.push(decimal.code());
    put(&mut to.correction_count, corrections.len() as u64);
    let mut next = 0;
    for correction in corrections {
        put(&mut to.correction_gap, u64::from(correction.place - next));
        put_signed(&mut to.correction, correction.ulps);
        next = correction.place + 1;
    }
}

/// Corrections being read, in step with the series.
pub(super) struct CorrectedColumns<'a> {
    ways: Column<'a>,
    counts: Column<'a>,
    gaps: Column<'a>,
    corrections: Column<'a>,
}

impl<'a> CorrectedColumns<'a> {
    pub fn new(columns: &'a wire::Columns) -> Self {
        Self {
            ways: Column::new("decimal_way", &columns.decimal_way),
            counts: Column::new("correction_count", &columns.correction_count),
            gaps: Column::new("correction_gap", &columns.correction_gap),
            corrections: Column::new("correction", &columns.correction),
        }
    }

    /// Makes the whole numbers of the next series the bits of their floats.
    pub fn restore(&mut self, numbers: &mut [i64]) -> Result<(), Flaw> {
        let code = self.ways.byte()?;
        let decimal = Decimal::from_code(code).ok_or_else(|| self.ways.flaw("names an unknown way"))?;
        let float = decimal.float();
        numbers.iter_mut().for_each(|number| *number = float(*number).to_bits() as i64);
        let many =
            self.counts.at_most(numbers.len(), "claims more corrections than the series has numbers")?;
        let mut rest = numbers;
        for _ in 0..many {
            let beyond = "runs past the end of its series";
            let room = rest.len().checked_sub(1).ok_or_else(|| self.gaps.flaw(beyond))?;
            let gap = self.gaps.at_most(room, beyond)?;
            rest[gap] = rest[gap].wrapping_add(self.corrections.signed()?);
            rest = &mut rest[gap + 1..];
        }
        Ok(())
    }

    pub fn end(self) -> Result<(), Flaw> {
        let Self { ways, counts, gaps, corrections } = self;
        [ways, counts, gaps, corrections].into_iter().try_for_each(Column::end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seen(values: &[f64]) -> Option<(Way, u8)> {
        recognise(values.iter().copied(), values.len()).map(|decimal| (decimal.way, decimal.digits))
    }

    #[test]
    fn each_way_of_making_a_decimal_is_recognised() {
        let numbers = || (1_400..1_900).map(f64::from);
        let over: Vec<_> = numbers().map(|n| n / 1000.0).collect();
        let times: Vec<_> = numbers().map(|n| n * 0.001).collect();
        let in_turn: Vec<_> = numbers().map(|n| n / 10.0 / 100.0).collect();
        assert_eq!(seen(&over), Some((Way::Over, 3)));
        assert_eq!(seen(&times), Some((Way::Times, 3)));
        assert_eq!(seen(&in_turn), Some((Way::InTurn, 3)));
    }

    #[test]
    fn full_precision_is_no_decimal() {
        let roots: Vec<_> = (2..500).map(|n| f64::from(n).sqrt()).collect();
        assert_eq!(seen(&roots), None);
        let narrow: Vec<_> = roots.iter().map(|root| f64::from(*root as f32)).collect();
        assert_eq!(seen(&narrow), None);
    }

    #[test]
    fn a_few_values_with_more_digits_do_not_make_all_of_them_longer() {
        let mut values: Vec<_> = (0..500).map(|n| f64::from(n) / 10.0 + 0.2).collect();
        values[16] = 1.234_567;
        assert_eq!(seen(&values).map(|(_, digits)| digits), Some(1));
    }

    #[test]
    fn what_is_no_number_has_no_correction() {
        for never in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 1e300, 8_796_093_022_208.0] {
            for way in [Way::Over, Way::Times, Way::InTurn] {
                assert!(
                    (0..=MAX_DIGITS).all(|digits| Decimal { way, digits }.fit(never).is_none()),
                    "{never}"
                );
            }
        }
        let whole = Decimal { way: Way::Over, digits: 0 };
        assert_eq!(whole.fit(8_796_093_022_207.0), Some((8_796_093_022_207, 0)));
        assert_eq!(whole.fit(5e-324), Some((0, 1)));
    }

    proptest! {
        #[test]
        fn what_fits_is_restored_bit_for_bit(
            values in prop::collection::vec((any::<i32>(), 0i64..13, -20i64..20, any::<u64>(), 0u8..9), 1..50),
            code in any::<u8>(),
        ) {
            let Some(decimal) = Decimal::from_code(code) else { return Ok(()) };
            prop_assert_eq!(decimal.code(), code);
            let floats = values.into_iter().map(|(whole, digits, ulps, bits, kind)| match kind {
                0 => f64::from_bits(bits),
                _ => f64::from_bits((f64::from(whole) / 10f64.powi(digits as i32)).to_bits().wrapping_add(ulps as u64)),
            });
            let (mut numbers, mut corrections, mut kept) = (Vec::new(), Vec::new(), Vec::new());
            for float in floats {
                let Some((number, ulps)) = decimal.fit(float) else { continue };
                note(ulps, numbers.len(), &mut corrections);
                numbers.push(number);
                kept.push(float.to_bits() as i64);
            }
            let mut columns = wire::Columns::default();
            write(decimal, &corrections, &mut columns);
            let mut read = CorrectedColumns::new(&columns);
            read.restore(&mut numbers).unwrap();
            read.end().unwrap();
            prop_assert_eq!(numbers, kept);
        }
    }
}
