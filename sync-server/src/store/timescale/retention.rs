//! Retention in PostgreSQL: rows by point and stretch of time, readings by chunk or partition where all
//! may go. Nothing goes that is not rolled up: what is due is looked at in the same snapshot, and
//! readings that come meanwhile are not in it.

use deadpool_postgres::{Client, Transaction};
use tokio_postgres::IsolationLevel;

use super::super::plan::Failure;
use super::super::rollups::{Grain, Source};
use super::super::upkeep::{Removal, Removed};
use super::super::{Micros, StoreError};
use super::ingest::run;
use super::rollups::alone;
use super::values::Moment;

/// Dues that begin before a moment ($1), of what is made from the rows in question (up to grain $2).
const DUE_BEFORE: &str = "from rollups_due d where d.grain <= $2 and d.first * \
    case d.grain when 0 then 60000000 when 1 then 3600000000 else 86400000000 end < $1";

pub async fn remove(client: &mut Client, removal: &Removal) -> Result<Removed, Failure> {
    let Removal { source, points, before, stretch } = removal;
    let points: Vec<i32> = points.iter().map(|point| point.0 as i32).collect();
    let (table, column, next) = match source {
        Source::Readings => ("readings", Some("readings"), Some(Grain::Minutes)),
        Source::Rollup(grain @ Grain::Minutes) => (grain.table(), Some("minutes"), grain.coarser()),
        Source::Rollup(grain @ Grain::Hours) => (grain.table(), Some("hours"), grain.coarser()),
        Source::Rollup(grain @ Grain::Days) => (grain.table(), None, None),
    };
    let on = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).start().await?;
    if !alone(&on).await? {
        return Ok(Removed { busy: true, ..Removed::default() });
    }
    let lowest = format!(
        "select min(first.time) from unnest($1::int[]) as p(point), \
         lateral (select time from {table} t where t.point = p.point order by time limit 1) first"
    );
    let lowest = match run(&on, &lowest, &[&points]).await?.first() {
        Some(row) => row.try_get::<_, Option<Moment>>(0)?,
        None => None,
    };
    // A step ends where no bucket of the next grain is cut in two.
    let length = next.unwrap_or(Grain::Days).length();
    let upto = lowest.map_or(*before, |Moment(lowest)| {
        let end = lowest.saturating_add(*stretch).div_euclid(length) * length + length;
        end.min(*before)
    });
    if let Some(next) = next {
        let waits = format!(
            "select {DUE_BEFORE} and d.agent in (select agent from points where point = any($3)) limit 1"
        );
        if !run(&on, &waits, &[&upto, &next.number(), &points]).await?.is_empty() {
            return Ok(Removed { waits: true, ..Removed::default() });
        }
    }
    let sql = format!("delete from {table} where point = any($1) and time < $2");
    let statement = on.prepare_cached(&sql).await?;
    let rows = on.execute(&statement, &[&points, &Moment(upto)]).await?;
    if let Some(column) = column {
        let sql = format!(
            "insert into horizons as h (point, {column}) select p, $2 from unnest($1::int[]) as p \
             on conflict (point) do update set {column} = greatest(h.{column}, excluded.{column})"
        );
        run(&on, &sql, &[&points, &upto]).await?;
    }
    on.commit().await?;
    Ok(Removed { rows, more: upto < *before, ..Removed::default() })
}

/// Chunks of a hypertable, or partitions, that end before `before`.
pub async fn drop_before(
    client: &mut Client,
    is_hypertable: bool,
    before: Micros,
) -> Result<Option<u64>, Failure> {
    let on = client.transaction().await?;
    if !alone(&on).await? {
        return Ok(None);
    }
    // Whoever stores readings notes what became due: until we are through, nobody does. One who has
    // stored old readings and not yet noted it holds what is to be dropped; we give up before he does.
    on.batch_execute("set local lock_timeout = '500ms'; lock table rollups_due in share mode").await?;
    let waits = format!("select {DUE_BEFORE} limit 1");
    if !run(&on, &waits, &[&before, &Grain::Minutes.number()]).await?.is_empty() {
        return Ok(None);
    }
    let dropped = match is_hypertable {
        true => {
            let sql = "select drop_chunks('readings', $1::timestamptz)";
            run(&on, sql, &[&Moment(before)]).await?.len() as u64
        }
        false => drop_partitions(&on, before).await?,
    };
    // What came too late for a partition of its own, or lies in a chunk of another length.
    run(&on, "delete from readings where time < $1", &[&Moment(before)]).await?;
    let sql = "insert into horizons as h (point, readings) select point, $1 from points \
               on conflict (point) do update set readings = greatest(h.readings, excluded.readings) \
               where h.readings < excluded.readings";
    run(&on, sql, &[&before]).await?;
    on.commit().await?;
    Ok(Some(dropped))
}

async fn drop_partitions(on: &Transaction<'_>, before: Micros) -> Result<u64, Failure> {
    let mut dropped = 0;
    for (name, from) in super::partitions::all(on).await? {
        if from + super::partitions::LENGTH <= before {
            on.batch_execute(&format!("drop table {name}")).await?;
            dropped += 1;
        }
    }
    Ok(dropped)
}

pub async fn bytes(client: &Client) -> Result<u64, StoreError> {
    let row = client.query_one("select pg_database_size(current_database())", &[]).await?;
    Ok(row.try_get::<_, i64>(0)? as u64)
}
