//! A hand for who may do what, on PostgreSQL.

use std::error::Error;

use async_trait::async_trait;
use bytes::BytesMut;
use deadpool_postgres::Transaction;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use super::super::StoreError;
use super::super::access::{Cell, Hand, Hands, Row, Work};
use super::{Timescale, limited};

#[async_trait]
impl Hands for Timescale {
    async fn transact(&self, _: bool, work: Work) -> Result<(), StoreError> {
        limited(async {
            let mut client = self.client().await?;
            let mut here = Here(client.transaction().await?);
            work(&mut here).await?;
            Ok(here.0.commit().await?)
        })
        .await
    }
}

struct Here<'a>(Transaction<'a>);

#[async_trait]
impl Hand for Here<'_> {
    async fn run(&mut self, sql: &str, with: &[Cell]) -> Result<Vec<Row>, StoreError> {
        let statement = self.0.prepare_cached(sql).await?;
        let with: Vec<&(dyn ToSql + Sync)> = with.iter().map(|cell| cell as _).collect();
        self.0.query(&statement, &with).await?.iter().map(cells).collect()
    }

    async fn alone(&mut self) -> Result<(), StoreError> {
        Ok(self.0.batch_execute("lock table users in share row exclusive mode").await?)
    }
}

fn cells(row: &tokio_postgres::Row) -> Result<Row, StoreError> {
    let cell = |(place, column): (usize, &tokio_postgres::Column)| {
        Ok(match *column.type_() {
            Type::INT8 => row.try_get::<_, Option<i64>>(place)?.map_or(Cell::Null, Cell::Whole),
            Type::BYTEA => row.try_get::<_, Option<Vec<u8>>>(place)?.map_or(Cell::Null, Cell::Bytes),
            _ => row.try_get::<_, Option<String>>(place)?.map_or(Cell::Null, Cell::Text),
        })
    };
    row.columns().iter().enumerate().map(cell).collect()
}

impl ToSql for Cell {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Whole(number) => number.to_sql(kind, out),
            Self::Text(text) => text.to_sql(kind, out),
            Self::Bytes(bytes) => bytes.to_sql(kind, out),
        }
    }

    fn accepts(kind: &Type) -> bool {
        matches!(*kind, Type::INT8 | Type::TEXT | Type::BYTEA)
    }

    to_sql_checked!();
}
