//! Alarms, their events, and how far webhooks are. See `store/alarms.rs`.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};

use super::super::alarms::{
    Acknowledgement, Alarm, AlarmChange, AlarmEvent, AlarmKey, AlarmQuery, AlarmRow, AlarmState,
    AlarmSummary, Alarms, EVENTS, EventKind, KEPT, LONGEST_PAUSE, Pending, TOLD_WITHIN, Told, members_of,
    members_text,
};
use super::super::plan::Failure;
use super::super::scope::Scope;
use super::super::{AgentKey, Latest, Micros, PointKey, Silence, StoreError, TenantKey, sieve};
use super::Sqlite;
use super::read::limit;
use super::values::{quality, value};

const ROW: &str = "select alarm, rule, kind, priority, site, subject, words, remedy, members, raised, \
                   changed, acknowledged, by_whom, note, cleared, version from alarms";

fn row(row: &Row<'_>) -> rusqlite::Result<AlarmRow> {
    let acknowledged: Option<Micros> = row.get(11)?;
    let (by, note) = (row.get(12)?, row.get(13)?);
    Ok(AlarmRow {
        key: AlarmKey(row.get(0)?),
        alarm: Alarm {
            rule: row.get(1)?,
            kind: row.get(2)?,
            priority: row.get(3)?,
            site: row.get(4)?,
            subject: row.get(5)?,
            words: row.get(6)?,
            remedy: row.get(7)?,
            members: members_of(row.get_ref(8)?.as_str()?),
        },
        raised: row.get(9)?,
        changed: row.get(10)?,
        acknowledged: acknowledged.map(|at| Acknowledgement { at, by, note }),
        cleared: row.get(14)?,
        version: row.get(15)?,
    })
}

pub fn standing(on: &mut Connection, scope: Scope) -> Result<(Vec<AlarmRow>, Vec<Pending>), StoreError> {
    // One moment for both.
    let on = on.transaction()?;
    let mut statement = on.prepare_cached(&format!(
        "{ROW} where cleared is null and (?1 is null or tenant = ?1) order by alarm"
    ))?;
    let rows = statement.query_map([scope.tenant], row)?.collect::<Result<_, _>>()?;
    let mut statement = on.prepare_cached(
        "select rule, member, since, base from alarms_pending where ?1 is null or tenant = ?1 \
         order by rule, member",
    )?;
    let pending = statement.query_map([scope.tenant], |row| {
        Ok(Pending { rule: row.get(0)?, member: row.get(1)?, since: row.get(2)?, base: row.get(3)? })
    })?;
    Ok((rows, pending.collect::<Result<_, _>>()?))
}

pub fn alarms(on: &Connection, scope: Scope, query: &AlarmQuery) -> Result<Vec<AlarmRow>, StoreError> {
    let sql = format!(
        "{ROW} where (?1 is null or site = ?1) and (?2 is null or alarm < ?2) and (\
         (?3 and cleared is null and acknowledged is null) \
         or (?4 and cleared is null and acknowledged is not null) or (?5 and cleared is not null)) \
         and (?7 is null or tenant = ?7) order by alarm desc limit ?6"
    );
    let [active, acknowledged, cleared] = AlarmState::ALL.map(|state| query.states.contains(&state));
    let before = query.before.map(|before| before.0);
    let mut statement = on.prepare_cached(&sql)?;
    let most = limit(query.most);
    let rows = statement
        .query_map(params![query.site, before, active, acknowledged, cleared, most, scope.tenant], row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub fn summary(on: &Connection, scope: Scope) -> Result<AlarmSummary, StoreError> {
    // Two statements, so that each finds its index: pages ask often.
    let sql = match scope.tenant {
        Some(_) => {
            "select count(*) filter (where acknowledged is null), \
             count(*) filter (where acknowledged is not null), \
             (select coalesce(max(event), 0) from alarm_events where tenant = ?1) \
             from alarms where cleared is null and tenant = ?1"
        }
        None => {
            "select count(*) filter (where acknowledged is null), \
             count(*) filter (where acknowledged is not null), \
             (select coalesce(max(event), 0) from alarm_events) from alarms \
             where cleared is null and ?1 is null"
        }
    };
    let counted = |row: &Row<'_>| {
        let (active, acknowledged) = (row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64);
        Ok(AlarmSummary { active, acknowledged, newest: row.get(2)? })
    };
    Ok(on.prepare_cached(sql)?.query_row([scope.tenant], counted)?)
}

pub fn change(
    on: &mut Connection,
    scope: Scope,
    changes: &[AlarmChange],
    now: Micros,
) -> Result<Vec<Told>, Failure> {
    let tenant = scope.tenant.unwrap_or(TenantKey::MAIN.0);
    let on = on.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut told = Vec::new();
    for change in changes {
        told.extend(one(&on, tenant, change, sieve::time(now))?);
    }
    on.commit()?;
    Ok(told)
}

fn one(
    on: &Transaction<'_>,
    tenant: i64,
    change: &AlarmChange,
    now: Micros,
) -> Result<Option<Told>, Failure> {
    match change {
        AlarmChange::Wait(Pending { rule, member, since, base }) => {
            let sql = "insert into alarms_pending (rule, member, since, base, tenant) values (?1, ?2, ?3, ?4, ?5) \
                       on conflict (tenant, rule, member) do update set since = excluded.since, base = excluded.base";
            let member = sieve::text(member);
            on.prepare_cached(sql)?.execute(params![rule, member, sieve::time(*since), base, tenant])?;
            Ok(None)
        }
        AlarmChange::Forget { rule, member } => forget(on, tenant, rule, member).map(|()| None),
        AlarmChange::Raise(alarm) => {
            for member in &alarm.members {
                forget(on, tenant, &alarm.rule, &member.name)?;
            }
            let sql = "insert into alarms (rule, kind, priority, site, subject, words, remedy, members, \
                       raised, changed, tenant) values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?9, ?10) \
                       on conflict (tenant, rule, subject) where cleared is null do nothing returning alarm";
            let [site, subject, words, remedy] = texts(alarm);
            let members = members_text(&alarm.members);
            let made: Option<i64> = on
                .prepare_cached(sql)?
                .query_row(
                    params![
                        alarm.rule,
                        alarm.kind,
                        alarm.priority,
                        site,
                        subject,
                        words,
                        remedy,
                        members,
                        now,
                        tenant
                    ],
                    |row| row.get(0),
                )
                .optional()?;
            made.map(|key| note(on, tenant, key, EventKind::Raised, now)).transpose()
        }
        AlarmChange::Renew { alarm, version, now: is, grew } => {
            for member in &is.members {
                forget(on, tenant, &is.rule, &member.name)?;
            }
            let sql = "update alarms set words = ?3, remedy = ?4, members = ?5, priority = ?6, \
                       changed = max(changed, ?7), version = version + 1, \
                       acknowledged = case when ?8 then null else acknowledged end, \
                       by_whom = case when ?8 then '' else by_whom end, note = case when ?8 then '' else note end \
                       where alarm = ?1 and version = ?2 and cleared is null and tenant = ?9";
            let [_, _, words, remedy] = texts(is);
            let members = members_text(&is.members);
            let done = on.prepare_cached(sql)?.execute(params![
                alarm.0,
                version,
                words,
                remedy,
                members,
                is.priority,
                now,
                grew,
                tenant
            ])?;
            let kind = if *grew { EventKind::Grew } else { EventKind::Changed };
            (done > 0).then(|| note(on, tenant, alarm.0, kind, now)).transpose()
        }
        AlarmChange::Clear { alarm, version } => {
            let sql = "update alarms set cleared = max(raised, ?3), changed = max(changed, ?3), \
                       version = version + 1 where alarm = ?1 and version = ?2 and cleared is null \
                       and tenant = ?4";
            let done = on.prepare_cached(sql)?.execute(params![alarm.0, version, now, tenant])?;
            on.prepare_cached("delete from alarms where cleared < ?")?.execute([now - KEPT])?;
            (done > 0).then(|| note(on, tenant, alarm.0, EventKind::Cleared, now)).transpose()
        }
    }
}

fn texts(alarm: &Alarm) -> [std::borrow::Cow<'_, str>; 4] {
    [&alarm.site, &alarm.subject, &alarm.words, &alarm.remedy].map(|text| sieve::text(text))
}

fn forget(on: &Connection, tenant: i64, rule: &str, member: &str) -> Result<(), Failure> {
    let sql = "delete from alarms_pending where tenant = ?1 and rule = ?2 and member = ?3";
    on.prepare_cached(sql)?.execute(params![tenant, rule, sieve::text(member)])?;
    Ok(())
}

/// Keeps the event, and gives the row as it is now.
fn note(on: &Connection, tenant: i64, key: i64, kind: EventKind, now: Micros) -> Result<Told, Failure> {
    let found = on.prepare_cached(&format!("{ROW} where alarm = ?"))?.query_row([key], row)?;
    let sql = "insert into alarm_events (kind, priority, at, alarm, tenant) values (?1, ?2, ?3, ?4, ?5)";
    on.prepare_cached(sql)?.execute(params![
        kind.word(),
        found.alarm.priority,
        now,
        found.json().to_string(),
        tenant
    ])?;
    // Of each tenant for itself: one that is noisy takes no other's place.
    let sql = "delete from alarm_events where tenant = ?1 and event <= \
               (select event from alarm_events where tenant = ?1 order by event desc limit 1 offset ?2)";
    on.prepare_cached(sql)?.execute(params![tenant, EVENTS])?;
    Ok((kind, found))
}

pub fn acknowledge(
    on: &mut Connection,
    scope: Scope,
    alarm: AlarmKey,
    by: &str,
    words: &str,
    now: Micros,
) -> Result<Option<AlarmRow>, Failure> {
    let on = on.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let sql = "select tenant from alarms where alarm = ?1 and (?2 is null or tenant = ?2)";
    let whose =
        on.prepare_cached(sql)?.query_row(params![alarm.0, scope.tenant], |row| row.get(0)).optional()?;
    let Some(tenant) = whose else { return Ok(None) };
    let sql = "update alarms set acknowledged = ?2, by_whom = ?3, note = ?4, changed = max(changed, ?2), \
               version = version + 1 where alarm = ?1 and acknowledged is null";
    let now = sieve::time(now);
    let done = on.prepare_cached(sql)?.execute(params![alarm.0, now, sieve::text(by), sieve::text(words)])?;
    let found = match done {
        0 => on.prepare_cached(&format!("{ROW} where alarm = ?"))?.query_row([alarm.0], row).optional()?,
        _ => Some(note(&on, tenant, alarm.0, EventKind::Acknowledged, now)?.1),
    };
    on.commit()?;
    Ok(found)
}

pub fn latest(on: &Connection, points: &[PointKey]) -> Result<Vec<(PointKey, Latest)>, StoreError> {
    let mut found = Vec::new();
    let mut statement = on.prepare_cached("select time, quality, value from latest where point = ?")?;
    for &key in points {
        let mut rows = statement.query([key.0])?;
        if let Some(row) = rows.next()? {
            let (quality, value) = (quality(row.get(1)?), value(row.get_ref(2)?));
            found.push((key, Latest { time: row.get(0)?, value, quality }));
        }
    }
    Ok(found)
}

pub fn silences(
    on: &Connection,
    agent: AgentKey,
    from: Micros,
    to: Micros,
    most: usize,
) -> Result<Vec<Silence>, StoreError> {
    let sql = "select from_time, to_time from silences where agent = ?1 and from_time < ?3 \
               and to_time >= ?2 order by from_time limit ?4";
    let mut statement = on.prepare_cached(sql)?;
    let rows = statement.query_map(params![agent.0, from, to, limit(most)], |row| {
        Ok(Silence { from: row.get(0)?, to: row.get(1)? })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub fn add_webhook(on: &Connection, name: &str) -> Result<(), Failure> {
    let sql = "insert into webhooks (name, position) \
               select ?, coalesce(max(event), 0) from alarm_events where true on conflict (name) do nothing";
    on.prepare_cached(sql)?.execute([name])?;
    Ok(())
}

pub fn next_for_webhook(
    on: &mut Connection,
    scope: Scope,
    name: &str,
    least: i16,
    now: Micros,
    lease: Micros,
) -> Result<Option<(AlarmEvent, u32)>, Failure> {
    let on = on.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let sql = "select event, e.kind, e.at, e.alarm, attempts from webhooks w join alarm_events e \
               on event > position and e.priority >= ?2 and e.kind <> 'changed' and e.at >= ?3 \
               and (?6 is null or e.tenant = ?6) where name = ?1 and (due <= ?4 or due > ?5) order by event limit 1";
    let found = on
        .prepare_cached(sql)?
        .query_row(params![name, least, now - TOLD_WITHIN, now, now + LONGEST_PAUSE, scope.tenant], |row| {
            let kind = EventKind::of(row.get_ref(1)?.as_str()?);
            let event = AlarmEvent { event: row.get(0)?, kind, at: row.get(2)?, alarm: row.get(3)? };
            Ok((event, row.get(4)?))
        })
        .optional()?;
    if found.is_some() {
        on.prepare_cached("update webhooks set due = ?2 where name = ?1")?
            .execute(params![name, now + lease])?;
    }
    on.commit()?;
    Ok(found)
}

pub fn webhook_told(on: &Connection, name: &str, event: i64) -> Result<(), Failure> {
    let sql = "update webhooks set position = ?2, attempts = 0, due = 0, error = '' \
               where name = ?1 and position < ?2";
    on.prepare_cached(sql)?.execute(params![name, event])?;
    Ok(())
}

pub fn webhook_failed(
    on: &Connection,
    name: &str,
    event: i64,
    due: Micros,
    why: &str,
) -> Result<(), Failure> {
    let sql = "update webhooks set attempts = attempts + 1, due = ?3, error = ?4 \
               where name = ?1 and position < ?2";
    on.prepare_cached(sql)?.execute(params![name, event, due, sieve::text(why)])?;
    Ok(())
}

#[async_trait]
impl Alarms for Sqlite {
    async fn standing_alarms(&self) -> Result<(Vec<AlarmRow>, Vec<Pending>), StoreError> {
        let scope = self.scope(None);
        self.desks.readers.ask(move |on| standing(on, scope)).await
    }

    async fn alarms(&self, query: &AlarmQuery) -> Result<Vec<AlarmRow>, StoreError> {
        let (scope, query) = (self.scope(None), query.clone());
        self.desks.readers.ask(move |on| alarms(on, scope, &query)).await
    }

    async fn alarm_summary(&self) -> Result<AlarmSummary, StoreError> {
        let scope = self.scope(None);
        self.desks.readers.ask(move |on| summary(on, scope)).await
    }

    async fn change_alarms(&self, changes: Vec<AlarmChange>, now: Micros) -> Result<Vec<Told>, StoreError> {
        let scope = self.scope(None);
        self.desks.writer.ask(move |on| Ok(change(on, scope, &changes, now)?)).await
    }

    async fn acknowledge_alarm(
        &self,
        alarm: AlarmKey,
        by: &str,
        note: &str,
        now: Micros,
    ) -> Result<Option<AlarmRow>, StoreError> {
        let (scope, by, note) = (self.scope(None), by.to_string(), note.to_string());
        self.desks.writer.ask(move |on| Ok(acknowledge(on, scope, alarm, &by, &note, now)?)).await
    }

    async fn latest(&self, points: &[PointKey]) -> Result<Vec<(PointKey, Latest)>, StoreError> {
        let points = points.to_vec();
        self.desks.readers.ask(move |on| latest(on, &points)).await
    }

    async fn silences(
        &self,
        agent: AgentKey,
        from: Micros,
        to: Micros,
        most: usize,
    ) -> Result<Vec<Silence>, StoreError> {
        self.desks.readers.ask(move |on| silences(on, agent, from, to, most)).await
    }

    async fn add_webhook(&self, name: &str) -> Result<(), StoreError> {
        let name = name.to_string();
        self.desks.writer.ask(move |on| Ok(add_webhook(on, &name)?)).await
    }

    async fn next_for_webhook(
        &self,
        name: &str,
        least: i16,
        now: Micros,
        lease: Micros,
    ) -> Result<Option<(AlarmEvent, u32)>, StoreError> {
        let (scope, name) = (self.scope(None), name.to_string());
        self.desks.writer.ask(move |on| Ok(next_for_webhook(on, scope, &name, least, now, lease)?)).await
    }

    async fn webhook_told(&self, name: &str, event: i64) -> Result<(), StoreError> {
        let name = name.to_string();
        self.desks.writer.ask(move |on| Ok(webhook_told(on, &name, event)?)).await
    }

    async fn webhook_failed(&self, name: &str, event: i64, due: Micros, why: &str) -> Result<(), StoreError> {
        let (name, why) = (name.to_string(), why.to_string());
        self.desks.writer.ask(move |on| Ok(webhook_failed(on, &name, event, due, &why)?)).await
    }
}
