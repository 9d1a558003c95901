//! What people should know: ledgers, faults, corrected times.

use deadpool_postgres::{Client, Transaction};
use forebay_protocols::sync::batch::Epoch;
use forebay_protocols::sync::wire;
use prost::Message;

use super::super::plan::Failure;
use super::super::scope::Scope;
use super::super::{
    AgentKey, Fault, FaultKind, FaultRow, LedgerRow, Micros, StoreError, TimeMark, sieve, words,
};
use super::ingest::run;
use super::read::limit;
use super::values::Moment;

pub async fn raise(on: &Transaction<'_>, fault: &Fault) -> Result<(), Failure> {
    let sql = "insert into faults as f (agent, kind, subject, words, remedy, at, last) \
               values ($1, $2, $3, $4, $5, $6, $6) \
               on conflict (agent, kind, subject) where over is null do update set \
               words = excluded.words, remedy = excluded.remedy, last = greatest(f.last, excluded.last)";
    let Fault { agent, kind, subject, words, remedy, at } = fault;
    let [subject, words, remedy] = [subject, words, remedy].map(|text| sieve::text(text));
    run(on, sql, &[&agent.0, &kind.word(), &subject, &words, &remedy, &Moment(*at)]).await?;
    Ok(())
}

pub async fn clear(
    on: &Transaction<'_>,
    agent: AgentKey,
    kind: FaultKind,
    subject: &str,
    now: Micros,
) -> Result<(), Failure> {
    let sql = "update faults set over = greatest($4, last) \
               where agent = $1 and kind = $2 and subject = $3 and over is null";
    run(on, sql, &[&agent.0, &kind.word(), &sieve::text(subject), &Moment(now)]).await?;
    Ok(())
}

pub async fn faults(client: &Client, scope: Scope, most: usize) -> Result<Vec<FaultRow>, StoreError> {
    let sql = "select agent, kind, subject, words, remedy, at, last, over from \
               (select * from faults where over is null and ($1::bigint is null or agent = $1) \
                 and ($3::bigint is null or agent in (select agent from agents where tenant = $3)) \
                union all (select * from faults where over is not null \
                 and ($1::bigint is null or agent = $1) \
                 and ($3::bigint is null or agent in (select agent from agents where tenant = $3)) order by over desc, fault desc limit $2)) f \
               order by over is not null, coalesce(over, last) desc, fault desc";
    let mut faults = Vec::new();
    for row in client.query(sql, &[&scope.agent, &limit(most), &scope.tenant]).await? {
        // A kind of a newer server: for that one to show.
        let Some(kind) = words::fault_kind(row.try_get(1)?) else { continue };
        faults.push(FaultRow {
            fault: Fault {
                agent: AgentKey(row.try_get(0)?),
                kind,
                subject: row.try_get(2)?,
                words: row.try_get(3)?,
                remedy: row.try_get(4)?,
                at: row.try_get::<_, Moment>(5)?.0,
            },
            last: row.try_get::<_, Moment>(6)?.0,
            over: row.try_get::<_, Option<Moment>>(7)?.map(|moment| moment.0),
        });
    }
    Ok(faults)
}

pub async fn ledgers(client: &Client, scope: Scope) -> Result<Vec<LedgerRow>, StoreError> {
    let sql = "select e.agent, e.epoch, fork, e.stored, set_aside_readings, stored_at_report, e.report, \
               reported, e.last_seen, a.current is not distinct from e.epoch_key \
               from epochs e join agents a on a.agent = e.agent \
               where ($1::bigint is null or e.agent = $1) \
               and ($2::bigint is null or a.tenant = $2) order by e.agent, e.epoch, fork";
    let mut ledgers = Vec::new();
    for row in client.query(sql, &[&scope.agent, &scope.tenant]).await? {
        let Ok(epoch) = row.try_get::<_, &[u8]>(1)?.try_into() else { continue };
        let report = row.try_get::<_, Option<&[u8]>>(6)?;
        let report = report.and_then(|bytes| wire::Report::decode(bytes).ok());
        let reported = row.try_get::<_, Option<Moment>>(7)?.map(|moment| moment.0);
        ledgers.push(LedgerRow {
            agent: AgentKey(row.try_get(0)?),
            epoch: Epoch(epoch),
            fork: row.try_get::<_, i32>(2)? as u32,
            stored: row.try_get::<_, i64>(3)? as u64,
            set_aside: row.try_get::<_, i64>(4)? as u64,
            stored_at_report: row.try_get::<_, i64>(5)? as u64,
            report: report.zip(reported),
            last_seen: row.try_get::<_, Moment>(8)?.0,
            current: row.try_get(9)?,
        });
    }
    Ok(ledgers)
}

pub async fn time_marks(
    client: &Client,
    scope: Scope,
    from: Micros,
    to: Micros,
    most: usize,
) -> Result<Vec<TimeMark>, StoreError> {
    let sql = "select e.agent, boot_counter, clock, from_time, to_time, readings, correction \
               from time_marks m join epochs e on e.epoch_key = m.epoch_key \
               where ($1::bigint is null or e.agent = $1) and from_time < $3 and to_time >= $2 \
               and ($5::bigint is null or e.agent in (select agent from agents where tenant = $5)) \
               order by e.agent, from_time, boot_counter, clock limit $4";
    let mut marks = Vec::new();
    for row in
        client.query(sql, &[&scope.agent, &Moment(from), &Moment(to), &limit(most), &scope.tenant]).await?
    {
        marks.push(TimeMark {
            agent: AgentKey(row.try_get(0)?),
            boot_counter: row.try_get::<_, i64>(1)? as u64,
            clock: wire::sent_batch::Clock::try_from(row.try_get::<_, i32>(2)?).unwrap_or_default(),
            from: row.try_get::<_, Moment>(3)?.0,
            to: row.try_get::<_, Moment>(4)?.0,
            readings: row.try_get::<_, i64>(5)? as u64,
            correction_us: row.try_get(6)?,
        });
    }
    Ok(marks)
}
