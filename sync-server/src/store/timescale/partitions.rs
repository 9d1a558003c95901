//! Readings in range partitions, where TimescaleDB is not there: one a week, made some weeks ahead,
//! and one for all that lies elsewhere. Retention drops them whole.
//!
//! A partition is never missing: what has none of its own goes to the default one, and moves out of
//! it when its week gets one.

use deadpool_postgres::{Client, Transaction};
use tokio_postgres::error::SqlState;

use super::super::plan::Failure;
use super::super::{Micros, StoreError};
use super::ingest::run;

/// A week.
pub const LENGTH: Micros = 7 * 86_400_000_000;
/// How many weeks ahead of now partitions are made.
const AHEAD: i64 = 2;

/// Makes an empty table of readings a partitioned one. False: it holds readings already.
pub async fn make(client: &Client) -> Result<bool, StoreError> {
    let make = "do $$ begin \
        if not exists (select from pg_partitioned_table where partrelid = 'readings'::regclass) \
           and not exists (select from readings) then \
          alter table readings rename to readings_default; \
          alter index readings_point_time rename to readings_default_point_time; \
          create table readings (like readings_default) partition by range (time); \
          create index readings_point_time on readings (point, time); \
          alter table readings attach partition readings_default default; \
        end if; end $$";
    client.batch_execute(make).await?;
    let sql = "select exists (select from pg_partitioned_table where partrelid = 'readings'::regclass)";
    Ok(client.query_one(sql, &[]).await?.try_get(0)?)
}

/// The partition a moment belongs to: its name and beginning.
fn week(time: Micros) -> (String, Micros) {
    let number = time.div_euclid(LENGTH);
    (format!("readings_week_{number}"), number * LENGTH)
}

/// Names and beginnings of all partitions but the default one.
pub async fn all(on: &Transaction<'_>) -> Result<Vec<(String, Micros)>, Failure> {
    let sql = "select c.relname::text from pg_inherits i join pg_class c on c.oid = i.inhrelid \
               where i.inhparent = 'readings'::regclass";
    let mut found = Vec::new();
    for row in run(on, sql, &[]).await? {
        let name: String = row.try_get(0)?;
        let number = name.strip_prefix("readings_week_").and_then(|number| number.parse::<i64>().ok());
        found.extend(number.map(|number| (name, number * LENGTH)));
    }
    Ok(found)
}

/// Makes the partitions from the week of `now` on. Another server that does it at the same moment
/// does it for both.
pub async fn prepare(client: &mut Client, now: Micros) -> Result<(), StoreError> {
    for ahead in 0..=AHEAD {
        let (name, from) = week(now + ahead * LENGTH);
        let exists = client.query_one("select to_regclass($1) is not null", &[&name]).await?;
        if exists.try_get(0)? {
            continue;
        }
        match make_week(client, &name, from).await {
            Err(error) if error.code() == Some(&SqlState::DUPLICATE_TABLE) => {}
            made => made?,
        }
    }
    Ok(())
}

async fn make_week(client: &mut Client, name: &str, from: Micros) -> Result<(), tokio_postgres::Error> {
    let moment = |time: Micros| format!("to_timestamp({})", time / 1_000_000);
    let (from, to) = (moment(from), moment(from + LENGTH));
    // What is in the default partition of this week must leave it before the week may have its own.
    let make = format!(
        "set local lock_timeout = '5s'; \
         create table {name} (like readings including indexes); \
         lock table readings_default in share row exclusive mode; \
         with moved as (delete from readings_default where time >= {from} and time < {to} returning *) \
           insert into {name} select * from moved; \
         do $$ begin execute format('alter table readings attach partition {name} for values from (%L) to (%L)', \
           {from}, {to}); end $$"
    );
    let on = client.transaction().await?;
    on.batch_execute(&make).await?;
    on.commit().await
}
