//! Odd readings: those without a value, and those whose value is not of their series' kind (a NaN
//! among tenths, the last text before a point became a number). They are listed apart, so that one
//! of them does not make its whole series expensive.

use std::ops::Range;
use std::sync::Arc;

use super::kinds::{Kind, Texts};
use super::packing::{Column, Flaw, put_signed};
use super::runs::{RunColumns, Runs};
use crate::reading::{Reading, Value};
use crate::sync::wire;

/// The codes of `odd_type`.
const MISSING: u8 = 0;
const FLOAT: u8 = 1;
const INTEGER: u8 = 2;
const BOOLEAN: u8 = 3;
const TEXT: u8 = 4;

fn type_of(reading: &Reading) -> u8 {
    match reading.value {
        None => MISSING,
        Some(Value::Float(_)) => FLOAT,
        Some(Value::Integer(_)) => INTEGER,
        Some(Value::Boolean(_)) => BOOLEAN,
        Some(Value::Text(_)) => TEXT,
    }
}

/// Lists odd readings.
#[derive(Default)]
pub(super) struct OddWriter {
    runs: Runs,
}

impl OddWriter {
    /// Lists the readings of a series at the places `odd`; the series begins at `start` in the batch.
    pub fn write(
        &mut self,
        series: &[Reading],
        start: usize,
        odd: &[u32],
        texts: &mut Texts,
        to: &mut wire::Columns,
    ) {
        let reading = |place: &u32| &series[*place as usize];
        for run in odd.chunk_by(|a, b| a + 1 == *b && type_of(reading(a)) == type_of(reading(b))) {
            let first = start + run[0] as usize;
            self.runs.write(first..first + run.len(), &mut to.odd_gap, &mut to.odd_run);
            to.odd_type.push(type_of(reading(&run[0])));
            for place in run {
                match &reading(place).value {
                    None => {}
                    Some(Value::Float(value)) => to.odd_float.extend(value.to_bits().to_le_bytes()),
                    Some(Value::Integer(value)) => put_signed(&mut to.odd_number, *value),
                    Some(Value::Boolean(value)) => put_signed(&mut to.odd_number, i64::from(*value)),
                    Some(Value::Text(value)) => put_signed(&mut to.odd_number, texts.place(value)),
                }
            }
        }
    }
}

/// Odd readings being read, in step with the series.
pub(super) struct OddColumns<'a> {
    runs: Vec<(Range<usize>, u8)>,
    /// The first run that was not used up.
    next: usize,
    numbers: Column<'a>,
    floats: Column<'a>,
}

impl<'a> OddColumns<'a> {
    /// Reads the places of all odd readings of a batch of `count`; every run holds one at least.
    pub fn new(columns: &'a wire::Columns, count: usize) -> Result<Self, Flaw> {
        let mut places = RunColumns::new(("odd_gap", &columns.odd_gap), ("odd_run", &columns.odd_run));
        let mut types = Column::new("odd_type", &columns.odd_type);
        let mut runs = Vec::new();
        while let Some(run) = places.next(count)? {
            runs.push((run, types.byte()?));
        }
        places.end()?;
        types.end()?;
        let numbers = Column::new("odd_number", &columns.odd_number);
        let floats = Column::new("odd_float", &columns.odd_float);
        Ok(Self { runs, next: 0, numbers, floats })
    }

    /// How many readings of a series are odd.
    pub fn within(&self, series: &Range<usize>) -> Result<usize, Flaw> {
        let mut odd = 0;
        for (run, _) in self.runs[self.next..].iter().take_while(|(run, _)| run.start < series.end) {
            if run.start < series.start || run.end > series.end {
                return Err(Flaw { column: "odd_run", fault: "runs out of its series" });
            }
            odd += run.len();
        }
        Ok(odd)
    }

    /// Is the reading at this place, none passed over, odd?
    pub fn is_at(&self, place: usize) -> bool {
        self.runs.get(self.next).is_some_and(|(run, _)| run.contains(&place))
    }

    /// The value of the odd reading at `place`.
    pub fn value(&mut self, place: usize, texts: &[Arc<str>]) -> Result<Option<Value>, Flaw> {
        let Some((run, code)) = self.runs.get(self.next) else {
            return Err(self.numbers.flaw("ends early"));
        };
        self.next += usize::from(place + 1 >= run.end);
        Ok(Some(match *code {
            MISSING => return Ok(None),
            FLOAT => {
                let bytes = self.floats.take(8)?;
                Value::Float(f64::from_bits(
                    bytes.iter().rev().fold(0, |bits, byte| bits << 8 | u64::from(*byte)),
                ))
            }
            INTEGER => Kind::Integer.value(self.numbers.signed()?, texts)?,
            BOOLEAN => Kind::Boolean.value(self.numbers.signed()?, texts)?,
            TEXT => Kind::Text.value(self.numbers.signed()?, texts)?,
            _ => return Err(Flaw { column: "odd_type", fault: "names an unknown type" }),
        }))
    }

    pub fn end(self) -> Result<(), Flaw> {
        self.numbers.end()?;
        self.floats.end()
    }
}
