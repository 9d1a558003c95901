//! A hand for who may do what, on SQLite.

use async_trait::async_trait;
use futures::FutureExt;
use rusqlite::Connection;
use rusqlite::types::{ToSqlOutput, Value, ValueRef};

use super::super::StoreError;
use super::super::access::{Cell, Hand, Hands, Row, Work};
use super::Sqlite;

#[async_trait]
impl Hands for Sqlite {
    async fn transact(&self, writes: bool, work: Work) -> Result<(), StoreError> {
        let desk = if writes { &self.desks.writer } else { &self.desks.readers };
        desk.ask(move |on| transact(on, writes, work)).await
    }
}

fn transact(on: &mut Connection, writes: bool, work: Work) -> Result<(), StoreError> {
    on.execute_batch(if writes { "begin immediate" } else { "begin" })?;
    // Nothing here waits: a statement of SQLite is done when the call returns.
    let waits = || Err(StoreError::Refused("a transaction waits for something else".into()));
    let outcome = work(&mut Here(on)).now_or_never().unwrap_or_else(waits);
    match outcome {
        Ok(()) => Ok(on.execute_batch("commit")?),
        Err(error) => {
            on.execute_batch("rollback")?;
            Err(error)
        }
    }
}

struct Here<'a>(&'a mut Connection);

#[async_trait]
impl Hand for Here<'_> {
    async fn run(&mut self, sql: &str, with: &[Cell]) -> Result<Vec<Row>, StoreError> {
        let mut statement = self.0.prepare_cached(sql)?;
        for (place, cell) in with.iter().enumerate() {
            statement.raw_bind_parameter(place + 1, column(cell))?;
        }
        let columns = statement.column_count();
        let mut rows = statement.raw_query();
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            found.push(
                (0..columns).map(|place| Ok(cell(row.get_ref(place)?))).collect::<Result<_, StoreError>>()?,
            );
        }
        Ok(found)
    }

    async fn alone(&mut self) -> Result<(), StoreError> {
        // Whoever writes here is alone already.
        Ok(())
    }
}

fn column(cell: &Cell) -> ToSqlOutput<'_> {
    match cell {
        Cell::Null => ToSqlOutput::Owned(Value::Null),
        Cell::Whole(number) => ToSqlOutput::Owned(Value::Integer(*number)),
        Cell::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
        Cell::Bytes(bytes) => ToSqlOutput::Borrowed(ValueRef::Blob(bytes)),
    }
}

fn cell(value: ValueRef<'_>) -> Cell {
    match value {
        ValueRef::Null => Cell::Null,
        ValueRef::Integer(number) => Cell::Whole(number),
        ValueRef::Real(number) => Cell::Whole(number as i64),
        ValueRef::Text(text) => Cell::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(bytes) => Cell::Bytes(bytes.to_vec()),
    }
}
