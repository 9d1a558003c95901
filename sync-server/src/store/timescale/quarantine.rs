//! What is kept aside in PostgreSQL, and its replay.

use std::collections::HashMap;

use deadpool_postgres::{Client, Transaction};
use forebay_protocols::reading::PointId;
use forebay_protocols::sync::batch::Epoch;
use tokio_postgres::Row;

use super::super::plan::{Failure, Sheet};
use super::super::quarantine::{AsideId, AsideRow, OddPoint, Replayed};
use super::super::scope::Scope;
use super::super::{AgentKey, Micros, PointKey, StoreError, Timed};
use super::ingest::{copy_readings, quarantine, renew_latest, run};
use super::read::limit;
use super::rollups;
use super::values::{Moment, quality, value};

const ASIDE: &str = "select s.epoch_key, s.sequence, s.checksum, e.agent, e.epoch, e.fork, length(s.bytes), \
                     s.readings, s.reason, s.received, s.correction \
                     from set_aside s join epochs e on e.epoch_key = s.epoch_key";
const ODD: &str =
    "select time_us, quality, value, whole, state, text from readings_quarantine where point = $1";

fn aside(row: &Row) -> Result<AsideRow, StoreError> {
    let epoch: &[u8] = row.try_get(4)?;
    Ok(AsideRow {
        id: AsideId {
            branch: row.try_get(0)?,
            sequence: row.try_get(1)?,
            checksum: row.try_get::<_, i64>(2)? as u32,
        },
        agent: AgentKey(row.try_get(3)?),
        epoch: Epoch(epoch.try_into().unwrap_or_default()),
        fork: row.try_get::<_, i32>(5)? as u32,
        bytes: row.try_get::<_, i32>(6)? as u64,
        readings: row.try_get::<_, i64>(7)? as u64,
        why: row.try_get(8)?,
        received: row.try_get::<_, Moment>(9)?.0,
    })
}

pub async fn batches(client: &Client, scope: Scope, most: usize) -> Result<Vec<AsideRow>, StoreError> {
    let sql = format!(
        "{ASIDE} where ($2::bigint is null or e.agent in (select agent from agents where tenant = $2)) \
         order by s.received desc, s.epoch_key, s.sequence limit $1"
    );
    client.query(&sql, &[&limit(most), &scope.tenant]).await?.iter().map(aside).collect()
}

pub async fn batch(client: &Client, id: AsideId) -> Result<Option<(AsideRow, Vec<u8>, Micros)>, StoreError> {
    let sql = format!("{ASIDE} where s.epoch_key = $1 and s.sequence = $2 and s.checksum = $3");
    let with = (id.branch, id.sequence, i64::from(id.checksum));
    let Some(row) = client.query_opt(&sql, &[&with.0, &with.1, &with.2]).await? else { return Ok(None) };
    let sql = "select bytes from set_aside where epoch_key = $1 and sequence = $2 and checksum = $3";
    let Some(bytes) = client.query_opt(sql, &[&with.0, &with.1, &with.2]).await? else { return Ok(None) };
    Ok(Some((aside(&row)?, bytes.try_get(0)?, row.try_get(10)?)))
}

pub async fn odd_points(client: &Client, scope: Scope, most: usize) -> Result<Vec<OddPoint>, StoreError> {
    let sql = "select q.point, p.agent, p.device, p.name, count(*), min(q.time_us), max(q.time_us), \
               max(q.received) from readings_quarantine q join points p on p.point = q.point \
               where ($2::bigint is null or p.agent in (select agent from agents where tenant = $2)) \
               group by q.point, p.agent, p.device, p.name order by q.point limit $1";
    let mut found = Vec::new();
    for row in client.query(sql, &[&limit(most), &scope.tenant]).await? {
        found.push(OddPoint {
            point: PointKey(row.try_get::<_, i32>(0)?.into()),
            agent: AgentKey(row.try_get(1)?),
            device: row.try_get(2)?,
            name: row.try_get(3)?,
            count: row.try_get::<_, i64>(4)? as u64,
            from: row.try_get(5)?,
            to: row.try_get(6)?,
            received: row.try_get::<_, Moment>(7)?.0,
        });
    }
    Ok(found)
}

fn odd(row: &Row) -> Result<Timed, tokio_postgres::Error> {
    let (time, value, quality) = (row.try_get(0)?, value(row, 2)?, quality(row.try_get(1)?));
    Ok(Timed { point: PointId(0), time, value, quality })
}

/// Of one point, by time; their point stands as a number that means nothing.
pub async fn odd_readings(client: &Client, point: PointKey, most: usize) -> Result<Vec<Timed>, StoreError> {
    let rows =
        client.query(&format!("{ODD} order by time_us limit $2"), &[&(point.0 as i32), &limit(most)]).await?;
    Ok(rows.iter().map(odd).collect::<Result<_, _>>()?)
}

pub async fn replay_batch(
    client: &mut Client,
    id: AsideId,
    readings: &[Timed],
    now: Micros,
) -> Result<Option<Replayed>, Failure> {
    let on = client.transaction().await?;
    // The agent first, as everybody who writes its rows does.
    let sql = "select agent from agents where agent = (select agent from epochs where epoch_key = $1) \
               for no key update";
    let rows = run(&on, sql, &[&id.branch]).await?;
    let Some(agent) = rows.first() else { return Ok(None) };
    let agent = AgentKey(agent.try_get(0)?);
    let sql =
        "delete from set_aside where epoch_key = $1 and sequence = $2 and checksum = $3 returning readings";
    let rows = run(&on, sql, &[&id.branch, &id.sequence, &i64::from(id.checksum)]).await?;
    let Some(booked) = rows.first() else { return Ok(None) };
    let booked: i64 = booked.try_get(0)?;
    let mut keys = HashMap::new();
    for row in run(&on, "select number, point from dictionary where epoch_key = $1", &[&id.branch]).await? {
        keys.insert(row.try_get::<_, i32>(0)? as u32, PointKey(row.try_get::<_, i32>(1)?.into()));
    }
    let mut placed = Vec::with_capacity(readings.len());
    for reading in readings {
        let key = keys.get(&reading.point.0).ok_or_else(|| {
            let number = reading.point.0;
            let words = format!(
                "it has a reading of point {number}, which the dictionary of its buffer does not name"
            );
            Failure::Store(StoreError::Refused(words))
        })?;
        placed.push((*key, reading.clone()));
    }
    let replayed = store(&on, &placed, agent, now).await?;
    let count = readings.len() as i64;
    let sql = "update epochs set stored = stored + $2, \
               set_aside_readings = greatest(set_aside_readings - $3, 0) where epoch_key = $1";
    run(&on, sql, &[&id.branch, &count, &booked]).await?;
    let sql = "update agents set stored = stored + $2, set_aside = greatest(set_aside - 1, 0), \
               committed_batches = committed_batches + 1 where agent = $1";
    run(&on, sql, &[&agent.0, &count]).await?;
    on.commit().await?;
    Ok(Some(replayed))
}

pub async fn replay_readings(
    client: &mut Client,
    point: PointKey,
    shift: Micros,
    now: Micros,
) -> Result<Replayed, Failure> {
    let on = client.transaction().await?;
    let key = point.0 as i32;
    let sql = "select agent from agents where agent = (select agent from points where point = $1) \
               for no key update";
    let rows = run(&on, sql, &[&key]).await?;
    let Some(agent) = rows.first() else { return Ok(Replayed::default()) };
    let agent = AgentKey(agent.try_get(0)?);
    let sql = "delete from readings_quarantine where point = $1 \
               returning time_us, quality, value, whole, state, text";
    let mut placed = Vec::new();
    for row in run(&on, sql, &[&key]).await? {
        let reading = odd(&row)?;
        placed.push((point, Timed { time: reading.time.saturating_add(shift), ..reading }));
    }
    placed.sort_by_key(|(_, reading)| reading.time);
    let replayed = store(&on, &placed, agent, now).await?;
    on.commit().await?;
    Ok(replayed)
}

async fn store(
    on: &Transaction<'_>,
    placed: &[(PointKey, Timed)],
    agent: AgentKey,
    now: Micros,
) -> Result<Replayed, Failure> {
    let sheet = Sheet::replayed(placed, agent, now);
    copy_readings(on, &sheet.rows).await?;
    rollups::note(on, &sheet.due, now).await?;
    quarantine(on, &sheet).await?;
    renew_latest(on, &sheet.newest).await?;
    Ok(Replayed { stored: sheet.rows.len() as u64, odd: sheet.quarantine.len() as u64 })
}
