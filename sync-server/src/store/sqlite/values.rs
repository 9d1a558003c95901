//! Values as SQLite keeps them, in one column that says the type by itself. SQLite makes NULL of NaN
//! and may lose the sign of zero, so those floats stand as the 8 bytes of their bits; a boolean is a
//! blob of one byte.

use forebay_protocols::reading::{Quality, Value};
use rusqlite::Row;
use rusqlite::types::{ToSqlOutput, Value as Owned, ValueRef};

use super::super::{Pace, sieve};

/// A value as a column.
pub fn column(value: Option<&Value>) -> ToSqlOutput<'_> {
    match value {
        None => ToSqlOutput::Owned(Owned::Null),
        Some(Value::Float(v)) if v.is_nan() || *v == 0.0 && v.is_sign_negative() => {
            ToSqlOutput::Owned(Owned::Blob(v.to_bits().to_be_bytes().to_vec()))
        }
        Some(Value::Float(v)) => ToSqlOutput::Owned(Owned::Real(*v)),
        Some(Value::Integer(v)) => ToSqlOutput::Owned(Owned::Integer(*v)),
        Some(Value::Boolean(v)) => ToSqlOutput::Borrowed(ValueRef::Blob(if *v { &[1] } else { &[0] })),
        Some(Value::Text(v)) => match sieve::text(v) {
            std::borrow::Cow::Borrowed(v) => ToSqlOutput::Borrowed(ValueRef::Text(v.as_bytes())),
            std::borrow::Cow::Owned(v) => ToSqlOutput::Owned(Owned::Text(v)),
        },
    }
}

/// The value of a column; none where it holds what we never write.
pub fn value(column: ValueRef<'_>) -> Option<Value> {
    match column {
        ValueRef::Null => None,
        ValueRef::Real(v) => Some(Value::Float(v)),
        ValueRef::Integer(v) => Some(Value::Integer(v)),
        ValueRef::Text(v) => Some(Value::Text(String::from_utf8_lossy(v).into())),
        ValueRef::Blob([v]) => Some(Value::Boolean(*v != 0)),
        ValueRef::Blob(v) => v.try_into().ok().map(|v| Value::Float(f64::from_bits(u64::from_be_bytes(v)))),
    }
}

/// The quality of a column; a code that no agent sends is bad.
pub fn quality(code: i64) -> Quality {
    Quality::from_code(u8::try_from(code).unwrap_or(128))
}

/// The pace in the two columns from `first` on.
pub fn pace(row: &Row<'_>, first: usize) -> rusqlite::Result<Option<Pace>> {
    let (came, shrank): (Option<f64>, Option<f64>) = (row.get(first)?, row.get(first + 1)?);
    Ok(came.zip(shrank).map(|(came, shrank)| Pace { came, shrank }))
}
