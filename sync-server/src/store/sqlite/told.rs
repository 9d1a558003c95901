//! What people should know: ledgers, faults, corrected times.

use forebay_protocols::sync::batch::Epoch;
use forebay_protocols::sync::wire;
use prost::Message;
use rusqlite::{Connection, Row, params};

use super::super::plan::Failure;
use super::super::scope::Scope;
use super::super::{
    AgentKey, Fault, FaultKind, FaultRow, LedgerRow, Micros, StoreError, TimeMark, sieve, words,
};
use super::read::limit;

pub fn raise(on: &Connection, fault: &Fault) -> Result<(), Failure> {
    let sql = "insert into faults (agent, kind, subject, words, remedy, at, last) \
               values (?1, ?2, ?3, ?4, ?5, ?6, ?6) \
               on conflict (agent, kind, subject) where over is null do update set \
               words = excluded.words, remedy = excluded.remedy, last = max(last, excluded.last)";
    let Fault { agent, kind, subject, words, remedy, at } = fault;
    let texts = [subject, words, remedy].map(|text| sieve::text(text));
    let [subject, words, remedy] = texts;
    on.prepare_cached(sql)?.execute(params![
        agent.0,
        kind.word(),
        subject,
        words,
        remedy,
        sieve::time(*at)
    ])?;
    Ok(())
}

pub fn clear(
    on: &Connection,
    agent: AgentKey,
    kind: FaultKind,
    subject: &str,
    now: Micros,
) -> Result<(), Failure> {
    let sql = "update faults set over = max(?4, last) \
               where agent = ?1 and kind = ?2 and subject = ?3 and over is null";
    on.prepare_cached(sql)?.execute(params![agent.0, kind.word(), sieve::text(subject), sieve::time(now)])?;
    Ok(())
}

pub fn faults(on: &Connection, scope: Scope, most: usize) -> Result<Vec<FaultRow>, StoreError> {
    let sql = "select agent, kind, subject, words, remedy, at, last, over from \
               (select * from (select * from faults where over is null \
                 and (?1 is null or agent = ?1) \
                 and (?3 is null or agent in (select agent from agents where tenant = ?3)) order by last desc, fault desc) \
                union all select * from (select * from faults where over is not null \
                 and (?1 is null or agent = ?1) \
                 and (?3 is null or agent in (select agent from agents where tenant = ?3)) order by over desc, fault desc limit ?2)) \
               order by over is not null, coalesce(over, last) desc, fault desc";
    let mut statement = on.prepare_cached(sql)?;
    let mut rows = statement.query(params![scope.agent, limit(most), scope.tenant])?;
    let mut faults = Vec::new();
    while let Some(row) = rows.next()? {
        // A kind of a newer server: for that one to show.
        let Some(kind) = words::fault_kind(row.get_ref(1)?.as_str().unwrap_or_default()) else { continue };
        faults.push(FaultRow {
            fault: Fault {
                agent: AgentKey(row.get(0)?),
                kind,
                subject: row.get(2)?,
                words: row.get(3)?,
                remedy: row.get(4)?,
                at: row.get(5)?,
            },
            last: row.get(6)?,
            over: row.get(7)?,
        });
    }
    Ok(faults)
}

pub fn ledgers(on: &Connection, scope: Scope) -> Result<Vec<LedgerRow>, StoreError> {
    let sql = "select e.agent, e.epoch, fork, e.stored, set_aside_readings, stored_at_report, e.report, \
               reported, e.last_seen, a.current is e.epoch_key \
               from epochs e join agents a on a.agent = e.agent where (?1 is null or e.agent = ?1) \
               and (?2 is null or a.tenant = ?2) order by e.agent, e.epoch, fork";
    let mut statement = on.prepare_cached(sql)?;
    let rows = statement.query_map(params![scope.agent, scope.tenant], |row: &Row<'_>| {
        let report: Option<Vec<u8>> = row.get(6)?;
        let report = report.and_then(|bytes| wire::Report::decode(bytes.as_slice()).ok());
        Ok(LedgerRow {
            agent: AgentKey(row.get(0)?),
            epoch: Epoch(row.get(1)?),
            fork: row.get(2)?,
            stored: row.get::<_, i64>(3)? as u64,
            set_aside: row.get::<_, i64>(4)? as u64,
            stored_at_report: row.get::<_, i64>(5)? as u64,
            report: report.zip(row.get(7)?),
            last_seen: row.get(8)?,
            current: row.get(9)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub fn time_marks(
    on: &Connection,
    scope: Scope,
    from: Micros,
    to: Micros,
    most: usize,
) -> Result<Vec<TimeMark>, StoreError> {
    let sql = "select e.agent, boot_counter, clock, from_time, to_time, readings, correction \
               from time_marks m join epochs e on e.epoch_key = m.epoch_key \
               where (?1 is null or e.agent = ?1) and from_time < ?3 and to_time >= ?2 \
               and (?5 is null or e.agent in (select agent from agents where tenant = ?5)) \
               order by e.agent, from_time, boot_counter, clock limit ?4";
    let mut statement = on.prepare_cached(sql)?;
    let rows = statement.query_map(params![scope.agent, from, to, limit(most), scope.tenant], |row| {
        Ok(TimeMark {
            agent: AgentKey(row.get(0)?),
            boot_counter: row.get::<_, i64>(1)? as u64,
            clock: wire::sent_batch::Clock::try_from(row.get::<_, i32>(2)?).unwrap_or_default(),
            from: row.get(3)?,
            to: row.get(4)?,
            readings: row.get::<_, i64>(5)? as u64,
            correction_us: row.get(6)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}
