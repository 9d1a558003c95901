//! Whole numbers of a series to small numbers and back: the differences that are cheapest to write.
//! All arithmetic wraps, so any sequence of 64-bit numbers survives any shape.

use super::packing::{Column, Flaw, put, put_signed, transpose, unzigzag, zigzag};
use crate::sync::wire;

/// From this mean size on, residuals are more noise than pattern: planes keep the noisy bytes away
/// from the telling ones, and need no continuation bits.
const NOISE_BITS: u64 = 14;
/// A series is written as changes if at most one number in this many differs from the one before.
const CALM: usize = 8;

/// How the numbers after the first are written. The codes are those of `form` in columns.proto.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// All the same: nothing is written.
    Constant = 0,
    /// Minus the first: a value that hovers.
    Offset = 1,
    /// Minus the one before: a value that wanders, a counter.
    Delta = 2,
    /// Delta of deltas: a steady counter, a ramp.
    Curve = 3,
    /// Only the places where the number changes: a state, a set point.
    Changes = 4,
}

/// Shape, and whether the residuals are written as byte planes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Writing {
    pub shape: Shape,
    pub planes: bool,
}

impl Writing {
    /// The low four bits of `form`.
    pub fn code(self) -> u8 {
        u8::from(self.planes) << 3 | self.shape as u8
    }

    pub fn from_code(code: u8) -> Option<Self> {
        let shape = match code & 7 {
            0 => Shape::Constant,
            1 => Shape::Offset,
            2 => Shape::Delta,
            3 => Shape::Curve,
            4 => Shape::Changes,
            _ => return None,
        };
        let planes = code & 8 != 0;
        (!planes || matches!(shape, Shape::Offset | Shape::Delta | Shape::Curve))
            .then_some(Self { shape, planes })
    }
}

/// Chooses by the bits each shape would need; one pass.
pub(super) fn choose(numbers: &[i64]) -> Writing {
    let Some((&first, rest)) = numbers.split_first() else {
        return Writing { shape: Shape::Constant, planes: false };
    };
    let (mut offset, mut delta, mut curve, mut changes) = (0u64, 0u64, 0u64, 0usize);
    let (mut last, mut last_delta) = (first, 0i64);
    for &number in rest {
        let step = number.wrapping_sub(last);
        offset += bits(number.wrapping_sub(first));
        delta += bits(step);
        curve += bits(step.wrapping_sub(last_delta));
        changes += usize::from(step != 0);
        (last, last_delta) = (number, step);
    }
    if changes == 0 {
        return Writing { shape: Shape::Constant, planes: false };
    }
    if changes * CALM <= rest.len() {
        return Writing { shape: Shape::Changes, planes: false };
    }
    let mut best = (Shape::Delta, delta);
    for other in [(Shape::Offset, offset), (Shape::Curve, curve)] {
        if other.1 < best.1 {
            best = other;
        }
    }
    Writing { shape: best.0, planes: best.1 > NOISE_BITS * rest.len() as u64 }
}

fn bits(number: i64) -> u64 {
    u64::from(64 - zigzag(number).leading_zeros())
}

/// Appends a series to the number columns.
pub(super) fn write(numbers: &[i64], writing: Writing, to: &mut wire::Columns) {
    let Some((&first, rest)) = numbers.split_first() else { return };
    put_signed(&mut to.first, first);
    let delta = |pair: &[i64]| pair[1].wrapping_sub(pair[0]);
    let deltas = numbers.windows(2).map(delta);
    match writing.shape {
        Shape::Constant => {}
        Shape::Offset => put_all(rest.iter().map(|number| number.wrapping_sub(first)), writing.planes, to),
        Shape::Delta => put_all(deltas, writing.planes, to),
        Shape::Curve => {
            let bends = numbers.windows(3).map(|three| delta(&three[1..]).wrapping_sub(delta(three)));
            put_all(deltas.take(1).chain(bends), writing.planes, to);
        }
        Shape::Changes => {
            put(&mut to.change_count, deltas.clone().filter(|delta| *delta != 0).count() as u64);
            let mut gap = 0;
            for delta in deltas {
                if delta == 0 {
                    gap += 1;
                } else {
                    put(&mut to.change_gap, std::mem::take(&mut gap));
                    put_signed(&mut to.residual, delta);
                }
            }
        }
    }
}

fn put_all(residuals: impl Iterator<Item = i64> + Clone, planes: bool, to: &mut wire::Columns) {
    if !planes {
        residuals.for_each(|number| put_signed(&mut to.residual, number));
        return;
    }
    let all_bits = residuals.clone().map(zigzag).fold(0, |all, number| all | number);
    let width = (64 - all_bits.leading_zeros()).div_ceil(8).max(1);
    to.plane_width.push(width as u8);
    let mut planes = planes_mut(to);
    let mut residuals = residuals.map(zigzag);
    let mut filled = 8;
    while filled == 8 {
        let mut words = [0; 8];
        filled = words.iter_mut().zip(&mut residuals).fold(0, |filled, (word, number)| {
            *word = number;
            filled + 1
        });
        transpose(&mut words);
        for (plane, word) in planes.iter_mut().zip(words).take(width as usize) {
            plane.extend_from_slice(&word.to_le_bytes()[..filled]);
        }
    }
}

/// The number columns of a batch being read.
pub(super) struct NumberColumns<'a> {
    first: Column<'a>,
    residual: Column<'a>,
    plane_width: Column<'a>,
    /// Least significant first.
    planes: [Column<'a>; 8],
    change_count: Column<'a>,
    change_gap: Column<'a>,
}

impl<'a> NumberColumns<'a> {
    pub fn new(columns: &'a wire::Columns) -> Self {
        Self {
            first: Column::new("first", &columns.first),
            residual: Column::new("residual", &columns.residual),
            plane_width: Column::new("plane_width", &columns.plane_width),
            planes: planes(columns),
            change_count: Column::new("change_count", &columns.change_count),
            change_gap: Column::new("change_gap", &columns.change_gap),
        }
    }

    /// Reads the next series, of `count` numbers (at least one; the caller has bounded it).
    pub fn read(&mut self, count: usize, writing: Writing, numbers: &mut Vec<i64>) -> Result<(), Flaw> {
        numbers.clear();
        let first = self.first.signed()?;
        numbers.push(first);
        match writing.shape {
            Shape::Constant => {
                numbers.resize(count, first);
                return Ok(());
            }
            Shape::Changes => return self.read_changes(count, numbers),
            Shape::Offset | Shape::Delta | Shape::Curve => {}
        }
        if writing.planes {
            self.read_planes(count - 1, numbers)?;
        } else {
            for _ in 1..count {
                numbers.push(self.residual.signed()?);
            }
        }
        let rest = numbers.iter_mut().skip(1);
        match writing.shape {
            Shape::Offset => rest.for_each(|number| *number = number.wrapping_add(first)),
            Shape::Delta => {
                let mut last = first;
                rest.for_each(|number| {
                    last = last.wrapping_add(*number);
                    *number = last;
                });
            }
            Shape::Curve | Shape::Constant | Shape::Changes => {
                let (mut last, mut delta) = (first, 0i64);
                rest.for_each(|number| {
                    delta = delta.wrapping_add(*number);
                    last = last.wrapping_add(delta);
                    *number = last;
                });
            }
        }
        Ok(())
    }

    fn read_planes(&mut self, residuals: usize, numbers: &mut Vec<i64>) -> Result<(), Flaw> {
        let width = self.plane_width.byte()?;
        let planes = match self.planes.get_mut(..usize::from(width)) {
            Some(planes) if width > 0 => planes,
            _ => return Err(self.plane_width.flaw("is not 1 to 8")),
        };
        let mut bytes: [&[u8]; 8] = [&[]; 8];
        for (bytes, plane) in bytes.iter_mut().zip(planes) {
            *bytes = plane.take(residuals)?;
        }
        let bytes = &bytes[..usize::from(width)];
        let start = numbers.len();
        numbers.resize(start + residuals, 0);
        let mut eights = numbers[start..].chunks_exact_mut(8);
        let mut at = 0;
        for eight in &mut eights {
            let mut words = [0; 8];
            for (word, plane) in words.iter_mut().zip(bytes) {
                *word = plane[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
            }
            transpose(&mut words);
            eight.iter_mut().zip(words).for_each(|(number, word)| *number = unzigzag(word));
            at += 8;
        }
        for (number, at) in eights.into_remainder().iter_mut().zip(at..) {
            *number = unzigzag(bytes.iter().rev().fold(0, |word, plane| word << 8 | u64::from(plane[at])));
        }
        Ok(())
    }

    fn read_changes(&mut self, count: usize, numbers: &mut Vec<i64>) -> Result<(), Flaw> {
        let changes =
            self.change_count.at_most(count - 1, "claims more changes than the series has readings")?;
        let mut last = numbers[0];
        for _ in 0..changes {
            // Room for the repeats, when the changed number itself has its place.
            let past_end = "runs past the end of its series";
            let room = count.checked_sub(numbers.len() + 1).ok_or_else(|| self.change_gap.flaw(past_end))?;
            let gap = self.change_gap.at_most(room, past_end)?;
            numbers.resize(numbers.len() + gap, last);
            last = last.wrapping_add(self.residual.signed()?);
            numbers.push(last);
        }
        numbers.resize(count, last);
        Ok(())
    }

    pub fn end(self) -> Result<(), Flaw> {
        let Self { first, residual, plane_width, planes, change_count, change_gap } = self;
        [first, residual, plane_width, change_count, change_gap]
            .into_iter()
            .chain(planes)
            .try_for_each(Column::end)
    }
}

fn planes(columns: &wire::Columns) -> [Column<'_>; 8] {
    [
        Column::new("plane_0", &columns.plane_0),
        Column::new("plane_1", &columns.plane_1),
        Column::new("plane_2", &columns.plane_2),
        Column::new("plane_3", &columns.plane_3),
        Column::new("plane_4", &columns.plane_4),
        Column::new("plane_5", &columns.plane_5),
        Column::new("plane_6", &columns.plane_6),
        Column::new("plane_7", &columns.plane_7),
    ]
}

fn planes_mut(columns: &mut wire::Columns) -> [&mut Vec<u8>; 8] {
    let wire::Columns { plane_0, plane_1, plane_2, plane_3, plane_4, plane_5, plane_6, plane_7, .. } =
        columns;
    [plane_0, plane_1, plane_2, plane_3, plane_4, plane_5, plane_6, plane_7]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip(numbers: &[i64], writing: Writing) -> Vec<i64> {
        let mut columns = wire::Columns::default();
        write(numbers, writing, &mut columns);
        let mut read = NumberColumns::new(&columns);
        let mut back = Vec::new();
        read.read(numbers.len(), writing, &mut back).unwrap();
        read.end().unwrap();
        back
    }

    proptest! {
        #[test]
        fn any_numbers_survive_every_shape(
            numbers in prop::collection::vec(prop_oneof![any::<i64>(), -3i64..3, Just(i64::MIN), Just(i64::MAX)], 1..80)
        ) {
            for code in 1..16 {
                let Some(writing) = Writing::from_code(code) else { continue };
                prop_assert_eq!(writing.code(), code);
                prop_assert_eq!(&round_trip(&numbers, writing), &numbers, "{:?}", writing);
            }
            prop_assert_eq!(&round_trip(&numbers, choose(&numbers)), &numbers);
        }
    }

    #[test]
    fn each_kind_of_signal_gets_its_shape() {
        let shape = |numbers: Vec<i64>| choose(&numbers).shape;
        assert_eq!(shape(vec![7; 100]), Shape::Constant);
        let stir = |i: i64| i.wrapping_mul(0x9e37_79b9_7f4a_7c15u64 as i64);
        let noise = |i: i64| stir(stir(i) >> 17 ^ i);
        assert_eq!(shape((0..100).map(|i| 500 + (noise(i) >> 60)).collect()), Shape::Offset);
        let wandering = (0..100).scan(0, |at, i| {
            *at += noise(i) >> 61;
            Some(*at)
        });
        assert_eq!(shape(wandering.collect()), Shape::Delta);
        assert_eq!(shape((0..100).map(|i| 900 * i + i * i / 40).collect()), Shape::Curve);
        assert_eq!(shape((0..100).map(|i| i64::from(i > 40)).collect()), Shape::Changes);
        assert!(choose(&(0..100).map(noise).collect::<Vec<_>>()).planes);
    }
}
