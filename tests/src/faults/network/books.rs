//! What was produced, and how it differs from what is stored: multisets of (gateway, point, time,
//! value).

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use forebay_protocols::reading::Value;

/// One reading, small enough to hold millions of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Row {
    /// The gateway's number.
    pub gateway: u32,
    /// The point's number in its name.
    pub point: u32,
    /// Wall time, microseconds since 1970.
    pub time: i64,
    /// A hash of the value with its type.
    pub value: u64,
}

/// A value as a number: equal for equal values of one type.
pub fn mark(value: Option<&Value>) -> u64 {
    let mut hasher = DefaultHasher::new();
    match value {
        None => 0_u8.hash(&mut hasher),
        Some(Value::Float(float)) => (1_u8, float.to_bits()).hash(&mut hasher),
        Some(Value::Integer(integer)) => (2_u8, integer).hash(&mut hasher),
        Some(Value::Boolean(boolean)) => (3_u8, boolean).hash(&mut hasher),
        Some(Value::Text(text)) => (4_u8, &**text).hash(&mut hasher),
    }
    hasher.finish()
}

/// The books of all gateways of a scene. Cheap to clone; every clone is the same books.
#[derive(Clone, Default)]
pub struct Books(Arc<Mutex<Vec<Row>>>);

/// How the store differs from what was produced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Readings produced.
    pub produced: u64,
    /// Produced and not stored.
    pub lost: u64,
    /// Stored more often than produced, or never produced.
    pub beyond: u64,
}

impl Books {
    /// The buffer confirmed these.
    pub fn appended(&self, rows: impl IntoIterator<Item = Row>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(rows);
    }

    /// Compares with what the store holds.
    pub fn compare(&self, stored: &[Row]) -> Difference {
        let produced = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut balance: HashMap<Row, i64> = HashMap::with_capacity(produced.len());
        produced.iter().for_each(|row| *balance.entry(*row).or_default() += 1);
        stored.iter().for_each(|row| *balance.entry(*row).or_default() -= 1);
        let sum = |sign: i64| balance.values().map(|rest| (rest * sign).max(0) as u64).sum();
        Difference { produced: produced.len() as u64, lost: sum(1), beyond: sum(-1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(time: i64) -> Row {
        Row { gateway: 1, point: 2, time, value: mark(Some(&Value::Integer(3))) }
    }

    #[test]
    fn a_missing_reading_is_lost_and_one_too_many_is_beyond() {
        let books = Books::default();
        // A device may say the same twice.
        books.appended([row(1), row(1), row(2), row(3)]);
        let found = |stored: &[Row]| books.compare(stored);
        let produced = 4;
        assert_eq!(
            found(&[row(1), row(2), row(3), row(1)]),
            Difference { produced, ..Difference::default() }
        );
        assert_eq!(found(&[row(1), row(2), row(3)]), Difference { produced, lost: 1, beyond: 0 });
        let all = [row(1), row(1), row(1), row(2), row(3), row(3)];
        assert_eq!(found(&all), Difference { produced, lost: 0, beyond: 2 });
        assert_eq!(found(&[row(9)]), Difference { produced, lost: 4, beyond: 1 });
    }

    #[test]
    fn values_of_another_type_are_other_values() {
        let values = [
            Value::Float(0.0),
            Value::Float(-0.0),
            Value::Integer(0),
            Value::Boolean(false),
            Value::Text("0".into()),
        ];
        let mut marks: Vec<u64> = values.iter().map(|value| mark(Some(value))).collect();
        marks.push(mark(None));
        marks.sort_unstable();
        marks.dedup();
        assert_eq!(marks.len(), 6);
    }
}
