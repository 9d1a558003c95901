//! Our types as PostgreSQL's: times, and values spread over the columns value, whole, state, text.

use std::borrow::Cow;
use std::error::Error;

use bytes::{Buf, BufMut, BytesMut};
use forebay_protocols::reading::{Quality, Value};
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, accepts, to_sql_checked};

use super::super::{Micros, Pace, sieve};

/// 2000-01-01, from which PostgreSQL counts, in ours.
const PG_EPOCH: Micros = 946_684_800_000_000;

/// A moment as `timestamptz`, between 1970 and 9999; what lies outside stands at the edge. (PostgreSQL
/// refuses some numbers, and TimescaleDB more of them, but only once a query meets several chunks.)
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moment(pub Micros);

impl Moment {
    /// Microseconds since 2000, as PostgreSQL keeps it.
    pub fn as_postgres(self) -> i64 {
        sieve::time(self.0) - PG_EPOCH
    }
}

impl ToSql for Moment {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_i64(self.as_postgres());
        Ok(IsNull::No)
    }

    accepts!(TIMESTAMPTZ);
    to_sql_checked!();
}

impl FromSql<'_> for Moment {
    fn from_sql(_: &Type, mut raw: &[u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(raw.try_get_i64()?.saturating_add(PG_EPOCH)))
    }

    accepts!(TIMESTAMPTZ);
}

/// A value over its four columns; all empty where there is none.
#[derive(Debug, Default)]
pub struct Columns<'a> {
    pub value: Option<f64>,
    pub whole: Option<i64>,
    pub state: Option<bool>,
    pub text: Option<Cow<'a, str>>,
}

impl<'a> From<Option<&'a Value>> for Columns<'a> {
    fn from(value: Option<&'a Value>) -> Self {
        let none = Self::default();
        match value {
            None => none,
            Some(Value::Float(v)) => Self { value: Some(*v), ..none },
            Some(Value::Integer(v)) => Self { whole: Some(*v), ..none },
            Some(Value::Boolean(v)) => Self { state: Some(*v), ..none },
            Some(Value::Text(v)) => Self { text: Some(sieve::text(v)), ..none },
        }
    }
}

/// The value in the four columns from `first` on.
pub fn value(row: &Row, first: usize) -> Result<Option<Value>, tokio_postgres::Error> {
    Ok(if let Some(v) = row.try_get(first)? {
        Some(Value::Float(v))
    } else if let Some(v) = row.try_get(first + 1)? {
        Some(Value::Integer(v))
    } else if let Some(v) = row.try_get(first + 2)? {
        Some(Value::Boolean(v))
    } else {
        row.try_get::<_, Option<&str>>(first + 3)?.map(|v| Value::Text(v.into()))
    })
}

/// The quality of a column; a code that no agent sends is bad.
pub fn quality(code: i16) -> Quality {
    Quality::from_code(u8::try_from(code).unwrap_or(128))
}

/// The pace in the two columns from `first` on.
pub fn pace(row: &Row, first: usize) -> Result<Option<Pace>, tokio_postgres::Error> {
    let (came, shrank): (Option<f64>, Option<f64>) = (row.try_get(first)?, row.try_get(first + 1)?);
    Ok(came.zip(shrank).map(|(came, shrank)| Pace { came, shrank }))
}
