//! What is kept aside in SQLite, and its replay.

use forebay_protocols::reading::PointId;
use forebay_protocols::sync::batch::Epoch;
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};

use super::super::plan::{Failure, Sheet};
use super::super::quarantine::{AsideId, AsideRow, OddPoint, Replayed};
use super::super::scope::Scope;
use super::super::{AgentKey, Micros, PointKey, StoreError, Timed};
use super::read::limit;
use super::values::{quality, value};
use super::{ingest, rollups};

const ASIDE: &str = "select s.epoch_key, s.sequence, s.checksum, e.agent, e.epoch, e.fork, length(s.bytes), \
                     s.readings, s.reason, s.received, s.bytes, s.correction \
                     from set_aside s join epochs e on e.epoch_key = s.epoch_key";

fn aside(row: &Row<'_>) -> rusqlite::Result<AsideRow> {
    Ok(AsideRow {
        id: AsideId { branch: row.get(0)?, sequence: row.get(1)?, checksum: row.get::<_, i64>(2)? as u32 },
        agent: AgentKey(row.get(3)?),
        epoch: Epoch(row.get(4)?),
        fork: row.get(5)?,
        bytes: row.get::<_, i64>(6)? as u64,
        readings: row.get::<_, i64>(7)? as u64,
        why: row.get(8)?,
        received: row.get(9)?,
    })
}

pub fn batches(on: &Connection, scope: Scope, most: usize) -> Result<Vec<AsideRow>, StoreError> {
    let sql = format!(
        "{ASIDE} where (?2 is null or e.agent in (select agent from agents where tenant = ?2)) \
         order by s.received desc, s.epoch_key, s.sequence limit ?1"
    );
    let mut find = on.prepare_cached(&sql)?;
    let rows = find.query_map(params![limit(most), scope.tenant], aside)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub fn batch(on: &Connection, id: AsideId) -> Result<Option<(AsideRow, Vec<u8>, Micros)>, Failure> {
    let sql = format!("{ASIDE} where s.epoch_key = ? and s.sequence = ? and s.checksum = ?");
    let read = |row: &Row<'_>| Ok((aside(row)?, row.get(10)?, row.get(11)?));
    let with = params![id.branch, id.sequence, id.checksum];
    Ok(on.prepare_cached(&sql)?.query_row(with, read).optional()?)
}

pub fn odd_points(on: &Connection, scope: Scope, most: usize) -> Result<Vec<OddPoint>, StoreError> {
    let sql = "select q.point, p.agent, p.device, p.name, count(*), min(q.time), max(q.time), max(q.received) \
               from readings_quarantine q join points p on p.point = q.point \
               where (?2 is null or p.agent in (select agent from agents where tenant = ?2)) \
               group by q.point order by q.point limit ?1";
    let mut find = on.prepare_cached(sql)?;
    let rows = find.query_map(params![limit(most), scope.tenant], |row| {
        Ok(OddPoint {
            point: PointKey(row.get(0)?),
            agent: AgentKey(row.get(1)?),
            device: row.get(2)?,
            name: row.get(3)?,
            count: row.get::<_, i64>(4)? as u64,
            from: row.get(5)?,
            to: row.get(6)?,
            received: row.get(7)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Of one point, by time; their point stands as a number that means nothing.
pub fn odd_readings(on: &Connection, point: PointKey, most: usize) -> Result<Vec<Timed>, Failure> {
    let sql = "select time, quality, value from readings_quarantine where point = ? order by time limit ?";
    let mut find = on.prepare_cached(sql)?;
    let mut rows = find.query(params![point.0, limit(most)])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (time, value, quality) = (row.get(0)?, value(row.get_ref(2)?), quality(row.get(1)?));
        found.push(Timed { point: PointId(0), time, value, quality });
    }
    Ok(found)
}

pub fn replay_batch(
    connection: &mut Connection,
    id: AsideId,
    readings: &[Timed],
    now: Micros,
) -> Result<Option<Replayed>, Failure> {
    let on = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let Some((row, ..)) = batch(&on, id)? else { return Ok(None) };
    let mut placed = Vec::with_capacity(readings.len());
    let sql = "select point from dictionary where epoch_key = ? and number = ?";
    for run in readings.chunk_by(|a, b| a.point == b.point) {
        let number = run.first().map_or(0, |reading| reading.point.0);
        let key =
            on.prepare_cached(sql)?.query_row(params![id.branch, number], |row| row.get(0)).optional()?;
        let key = key.ok_or_else(|| unknown(number))?;
        placed.extend(run.iter().map(|reading| (PointKey(key), reading.clone())));
    }
    let replayed = store(&on, &placed, row.agent, now)?;
    let sql = "delete from set_aside where epoch_key = ? and sequence = ? and checksum = ?";
    on.prepare_cached(sql)?.execute(params![id.branch, id.sequence, id.checksum])?;
    let sql = "update epochs set stored = stored + ?2, \
               set_aside_readings = max(set_aside_readings - ?3, 0) where epoch_key = ?1";
    let count = readings.len() as i64;
    on.prepare_cached(sql)?.execute(params![id.branch, count, row.readings as i64])?;
    let sql = "update agents set stored = stored + ?2, set_aside = max(set_aside - 1, 0), \
               committed_batches = committed_batches + 1 where agent = ?1";
    on.prepare_cached(sql)?.execute(params![row.agent.0, count])?;
    on.commit()?;
    Ok(Some(replayed))
}

pub fn replay_readings(
    connection: &mut Connection,
    point: PointKey,
    shift: Micros,
    now: Micros,
) -> Result<Replayed, Failure> {
    let on = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let agent = "select agent from points where point = ?";
    let agent: Option<i64> = on.prepare_cached(agent)?.query_row([point.0], |row| row.get(0)).optional()?;
    let Some(agent) = agent else { return Ok(Replayed::default()) };
    let moved = |reading: Timed| (point, Timed { time: reading.time.saturating_add(shift), ..reading });
    let mut placed: Vec<_> = odd_readings(&on, point, usize::MAX)?.into_iter().map(moved).collect();
    placed.sort_by_key(|(_, reading)| reading.time);
    on.prepare_cached("delete from readings_quarantine where point = ?")?.execute([point.0])?;
    let replayed = store(&on, &placed, AgentKey(agent), now)?;
    on.commit()?;
    Ok(replayed)
}

fn store(
    on: &Connection,
    placed: &[(PointKey, Timed)],
    agent: AgentKey,
    now: Micros,
) -> Result<Replayed, Failure> {
    let sheet = Sheet::replayed(placed, agent, now);
    ingest::insert_readings(on, &sheet.rows)?;
    rollups::note(on, &sheet.due, now)?;
    ingest::quarantine(on, &sheet)?;
    ingest::renew_latest(on, &sheet.newest)?;
    Ok(Replayed { stored: sheet.rows.len() as u64, odd: sheet.quarantine.len() as u64 })
}

pub fn unknown(number: u32) -> Failure {
    let words =
        format!("it has a reading of point {number}, which the dictionary of its buffer does not name");
    Failure::Store(StoreError::Refused(words))
}
