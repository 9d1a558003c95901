//! Alarms, their events, and how far webhooks are. See `store/alarms.rs`.

use std::borrow::Cow;

use async_trait::async_trait;
use deadpool_postgres::{Client, Transaction};
use tokio_postgres::Row;

use super::super::alarms::{
    Acknowledgement, Alarm, AlarmChange, AlarmEvent, AlarmKey, AlarmQuery, AlarmRow, AlarmState,
    AlarmSummary, Alarms, EVENTS, EventKind, KEPT, LONGEST_PAUSE, Pending, TOLD_WITHIN, Told, members_of,
    members_text,
};
use super::super::plan::Failure;
use super::super::scope::Scope;
use super::super::{AgentKey, Latest, Micros, PointKey, Silence, StoreError, TenantKey, sieve};
use super::ingest::run;
use super::read::limit;
use super::values::{Moment, quality, value};
use super::{Timescale, limited};

/// "alarms" in ASCII: servers change alarms one after another.
const LOCK: i64 = 0x616c_6172_6d73;

const ROW: &str = "select alarm, rule, kind, priority, site, subject, words, remedy, members, raised, \
                   changed, acknowledged, by_whom, note, cleared, version from alarms";

fn row(row: &Row) -> Result<AlarmRow, tokio_postgres::Error> {
    let acknowledged = row.try_get::<_, Option<Moment>>(11)?;
    let (by, note) = (row.try_get(12)?, row.try_get(13)?);
    Ok(AlarmRow {
        key: AlarmKey(row.try_get(0)?),
        alarm: Alarm {
            rule: row.try_get(1)?,
            kind: row.try_get(2)?,
            priority: row.try_get(3)?,
            site: row.try_get(4)?,
            subject: row.try_get(5)?,
            words: row.try_get(6)?,
            remedy: row.try_get(7)?,
            members: members_of(row.try_get(8)?),
        },
        raised: row.try_get::<_, Moment>(9)?.0,
        changed: row.try_get::<_, Moment>(10)?.0,
        acknowledged: acknowledged.map(|at| Acknowledgement { at: at.0, by, note }),
        cleared: row.try_get::<_, Option<Moment>>(14)?.map(|at| at.0),
        version: row.try_get(15)?,
    })
}

pub async fn standing(
    client: &mut Client,
    scope: Scope,
) -> Result<(Vec<AlarmRow>, Vec<Pending>), StoreError> {
    // One moment for both.
    let on = client
        .build_transaction()
        .isolation_level(tokio_postgres::IsolationLevel::RepeatableRead)
        .read_only(true)
        .start()
        .await?;
    let sql = format!("{ROW} where cleared is null and ($1::bigint is null or tenant = $1) order by alarm");
    let rows = on.query(&sql, &[&scope.tenant]).await?;
    let rows = rows.iter().map(row).collect::<Result<_, _>>()?;
    let sql = "select rule, member, since, base from alarms_pending \
               where $1::bigint is null or tenant = $1 order by rule, member";
    let mut pending = Vec::new();
    for row in on.query(sql, &[&scope.tenant]).await? {
        pending.push(Pending {
            rule: row.try_get(0)?,
            member: row.try_get(1)?,
            since: row.try_get::<_, Moment>(2)?.0,
            base: row.try_get(3)?,
        });
    }
    on.commit().await?;
    Ok((rows, pending))
}

pub async fn alarms(client: &Client, scope: Scope, query: &AlarmQuery) -> Result<Vec<AlarmRow>, StoreError> {
    let sql = format!(
        "{ROW} where ($1::text is null or site = $1) and ($2::bigint is null or alarm < $2) and (\
         ($3 and cleared is null and acknowledged is null) \
         or ($4 and cleared is null and acknowledged is not null) or ($5 and cleared is not null)) \
         and ($7::bigint is null or tenant = $7) order by alarm desc limit $6"
    );
    let [active, acknowledged, cleared] = AlarmState::ALL.map(|state| query.states.contains(&state));
    let before = query.before.map(|before| before.0);
    let most = limit(query.most);
    let with: [&(dyn tokio_postgres::types::ToSql + Sync); 7] =
        [&query.site, &before, &active, &acknowledged, &cleared, &most, &scope.tenant];
    let rows = client.query(&sql, &with).await?;
    Ok(rows.iter().map(row).collect::<Result<_, _>>()?)
}

pub async fn summary(client: &Client, scope: Scope) -> Result<AlarmSummary, StoreError> {
    let sql = "select count(*) filter (where acknowledged is null), \
               count(*) filter (where acknowledged is not null), \
               (select coalesce(max(event), 0) from alarm_events where $1::bigint is null or tenant = $1) \
               from alarms where cleared is null and ($1::bigint is null or tenant = $1)";
    let row = client.query_one(sql, &[&scope.tenant]).await?;
    let (active, acknowledged) = (row.try_get::<_, i64>(0)? as u64, row.try_get::<_, i64>(1)? as u64);
    Ok(AlarmSummary { active, acknowledged, newest: row.try_get(2)? })
}

pub async fn change(
    client: &mut Client,
    scope: Scope,
    changes: &[AlarmChange],
    now: Micros,
) -> Result<Vec<Told>, Failure> {
    let tenant = scope.tenant.unwrap_or(TenantKey::MAIN.0);
    let on = client.transaction().await?;
    run(&on, "select pg_advisory_xact_lock($1)", &[&LOCK]).await?;
    let mut told = Vec::new();
    for change in changes {
        told.extend(one(&on, tenant, change, now).await?);
    }
    on.commit().await?;
    Ok(told)
}

async fn one(
    on: &Transaction<'_>,
    tenant: i64,
    change: &AlarmChange,
    now: Micros,
) -> Result<Option<Told>, Failure> {
    let at = Moment(now);
    match change {
        AlarmChange::Wait(Pending { rule, member, since, base }) => {
            let sql = "insert into alarms_pending (rule, member, since, base, tenant) values ($1, $2, $3, $4, $5) \
                       on conflict (tenant, rule, member) do update set since = excluded.since, base = excluded.base";
            run(on, sql, &[rule, &sieve::text(member), &Moment(*since), base, &tenant]).await?;
            Ok(None)
        }
        AlarmChange::Forget { rule, member } => {
            forget(on, tenant, rule, member).await?;
            Ok(None)
        }
        AlarmChange::Raise(alarm) => {
            for member in &alarm.members {
                forget(on, tenant, &alarm.rule, &member.name).await?;
            }
            let sql = "insert into alarms (rule, kind, priority, site, subject, words, remedy, members, \
                       raised, changed, tenant) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9, $10) \
                       on conflict (tenant, rule, subject) where cleared is null do nothing returning alarm";
            let [site, subject, words, remedy] = texts(alarm);
            let members = members_text(&alarm.members);
            let Alarm { rule, kind, priority, .. } = alarm;
            let made = run(
                on,
                sql,
                &[rule, kind, priority, &site, &subject, &words, &remedy, &members, &at, &tenant],
            )
            .await?;
            match made.first() {
                Some(made) => Ok(Some(note(on, tenant, made.try_get(0)?, EventKind::Raised, now).await?)),
                None => Ok(None),
            }
        }
        AlarmChange::Renew { alarm, version, now: is, grew } => {
            for member in &is.members {
                forget(on, tenant, &is.rule, &member.name).await?;
            }
            let sql = "update alarms set words = $3, remedy = $4, members = $5, priority = $6, \
                       changed = greatest(changed, $7), version = version + 1, \
                       acknowledged = case when $8 then null else acknowledged end, \
                       by_whom = case when $8 then '' else by_whom end, note = case when $8 then '' else note end \
                       where alarm = $1 and version = $2 and cleared is null and tenant = $9 returning alarm";
            let [_, _, words, remedy] = texts(is);
            let members = members_text(&is.members);
            let done = run(
                on,
                sql,
                &[&alarm.0, version, &words, &remedy, &members, &is.priority, &at, grew, &tenant],
            )
            .await?;
            let kind = if *grew { EventKind::Grew } else { EventKind::Changed };
            match done.is_empty() {
                true => Ok(None),
                false => Ok(Some(note(on, tenant, alarm.0, kind, now).await?)),
            }
        }
        AlarmChange::Clear { alarm, version } => {
            let sql = "update alarms set cleared = greatest(raised, $3), changed = greatest(changed, $3), \
                       version = version + 1 where alarm = $1 and version = $2 and cleared is null \
                       and tenant = $4 returning alarm";
            let done = run(on, sql, &[&alarm.0, version, &at, &tenant]).await?;
            run(on, "delete from alarms where cleared < $1", &[&Moment(now - KEPT)]).await?;
            match done.is_empty() {
                true => Ok(None),
                false => Ok(Some(note(on, tenant, alarm.0, EventKind::Cleared, now).await?)),
            }
        }
    }
}

fn texts(alarm: &Alarm) -> [Cow<'_, str>; 4] {
    [&alarm.site, &alarm.subject, &alarm.words, &alarm.remedy].map(|text| sieve::text(text))
}

async fn forget(on: &Transaction<'_>, tenant: i64, rule: &str, member: &str) -> Result<(), Failure> {
    let sql = "delete from alarms_pending where tenant = $1 and rule = $2 and member = $3";
    run(on, sql, &[&tenant, &rule, &sieve::text(member)]).await?;
    Ok(())
}

/// Keeps the event, and gives the row as it is now.
async fn note(
    on: &Transaction<'_>,
    tenant: i64,
    key: i64,
    kind: EventKind,
    now: Micros,
) -> Result<Told, Failure> {
    let found = on.query_one(&format!("{ROW} where alarm = $1"), &[&key]).await?;
    let found = row(&found)?;
    let sql = "insert into alarm_events (kind, priority, at, alarm, tenant) values ($1, $2, $3, $4, $5)";
    let json = found.json().to_string();
    run(on, sql, &[&kind.word(), &found.alarm.priority, &Moment(now), &json, &tenant]).await?;
    // Of each tenant for itself: one that is noisy takes no other's place.
    let sql = "delete from alarm_events where tenant = $1 and event <= \
               (select event from alarm_events where tenant = $1 order by event desc limit 1 offset $2)";
    run(on, sql, &[&tenant, &EVENTS]).await?;
    Ok((kind, found))
}

pub async fn acknowledge(
    client: &mut Client,
    scope: Scope,
    alarm: AlarmKey,
    by: &str,
    words: &str,
    now: Micros,
) -> Result<Option<AlarmRow>, Failure> {
    let on = client.transaction().await?;
    run(&on, "select pg_advisory_xact_lock($1)", &[&LOCK]).await?;
    let sql = "select tenant from alarms where alarm = $1 and ($2::bigint is null or tenant = $2)";
    let whose = on.query_opt(sql, &[&alarm.0, &scope.tenant]).await?;
    let Some(tenant) = whose.map(|row| row.try_get::<_, i64>(0)).transpose()? else { return Ok(None) };
    let sql = "update alarms set acknowledged = $2, by_whom = $3, note = $4, changed = greatest(changed, $2), \
               version = version + 1 where alarm = $1 and acknowledged is null returning alarm";
    let done = run(&on, sql, &[&alarm.0, &Moment(now), &sieve::text(by), &sieve::text(words)]).await?;
    let found = match done.is_empty() {
        true => {
            let found = on.query_opt(&format!("{ROW} where alarm = $1"), &[&alarm.0]).await?;
            found.as_ref().map(row).transpose()?
        }
        false => Some(note(&on, tenant, alarm.0, EventKind::Acknowledged, now).await?.1),
    };
    on.commit().await?;
    Ok(found)
}

pub async fn latest(client: &Client, points: &[PointKey]) -> Result<Vec<(PointKey, Latest)>, StoreError> {
    let keys: Vec<i32> = points.iter().filter_map(|point| i32::try_from(point.0).ok()).collect();
    let sql = "select point, time, quality, value, whole, state, text from latest \
               where point = any($1) order by point";
    let statement = client.prepare_cached(sql).await?;
    let mut found = Vec::new();
    for row in client.query(&statement, &[&keys]).await? {
        let (time, quality) = (row.try_get::<_, Moment>(1)?.0, quality(row.try_get(2)?));
        let key = PointKey(i64::from(row.try_get::<_, i32>(0)?));
        found.push((key, Latest { time, value: value(&row, 3)?, quality }));
    }
    Ok(found)
}

pub async fn silences(
    client: &Client,
    agent: AgentKey,
    from: Micros,
    to: Micros,
    most: usize,
) -> Result<Vec<Silence>, StoreError> {
    let sql = "select from_time, to_time from silences where agent = $1 and from_time < $3 \
               and to_time >= $2 order by from_time limit $4";
    let mut found = Vec::new();
    for row in client.query(sql, &[&agent.0, &Moment(from), &Moment(to), &limit(most)]).await? {
        found.push(Silence { from: row.try_get::<_, Moment>(0)?.0, to: row.try_get::<_, Moment>(1)?.0 });
    }
    Ok(found)
}

pub async fn add_webhook(client: &Client, name: &str) -> Result<(), StoreError> {
    let sql = "insert into webhooks (name, position) \
               select $1, coalesce(max(event), 0) from alarm_events on conflict (name) do nothing";
    client.execute(sql, &[&name]).await?;
    Ok(())
}

pub async fn next_for_webhook(
    client: &mut Client,
    scope: Scope,
    name: &str,
    least: i16,
    now: Micros,
    lease: Micros,
) -> Result<Option<(AlarmEvent, u32)>, Failure> {
    // Most often there is nothing, and nothing is locked for it.
    let waits = "select exists (select from webhooks w join alarm_events e on event > position \
                 and ($2::bigint is null or e.tenant = $2) where name = $1)";
    let statement = client.prepare_cached(waits).await?;
    if !client.query_one(&statement, &[&name, &scope.tenant]).await?.try_get::<_, bool>(0)? {
        return Ok(None);
    }
    let on = client.transaction().await?;
    let own = "select position, attempts from webhooks where name = $1 and (due <= $2 or due > $3) \
               for update skip locked";
    let own = run(&on, own, &[&name, &Moment(now), &Moment(now + LONGEST_PAUSE)]).await?;
    let Some(own) = own.first() else { return Ok(None) };
    let (position, attempts): (i64, i32) = (own.try_get(0)?, own.try_get(1)?);
    let sql = "select event, kind, at, alarm from alarm_events where event > $1 and priority >= $2 \
               and kind <> 'changed' and at >= $3 and ($4::bigint is null or tenant = $4) \
               order by event limit 1";
    let found = run(&on, sql, &[&position, &least, &Moment(now - TOLD_WITHIN), &scope.tenant]).await?;
    let Some(found) = found.first() else { return Ok(None) };
    let event = AlarmEvent {
        event: found.try_get(0)?,
        kind: EventKind::of(found.try_get(1)?),
        at: found.try_get::<_, Moment>(2)?.0,
        alarm: found.try_get(3)?,
    };
    run(&on, "update webhooks set due = $2 where name = $1", &[&name, &Moment(now + lease)]).await?;
    on.commit().await?;
    Ok(Some((event, u32::try_from(attempts).unwrap_or(0))))
}

pub async fn webhook_told(client: &Client, name: &str, event: i64) -> Result<(), StoreError> {
    let sql = "update webhooks set position = $2, attempts = 0, due = 'epoch', error = '' \
               where name = $1 and position < $2";
    client.execute(sql, &[&name, &event]).await?;
    Ok(())
}

pub async fn webhook_failed(
    client: &Client,
    name: &str,
    event: i64,
    due: Micros,
    why: &str,
) -> Result<(), StoreError> {
    let sql = "update webhooks set attempts = attempts + 1, due = $3, error = $4 \
               where name = $1 and position < $2";
    client.execute(sql, &[&name, &event, &Moment(due), &sieve::text(why)]).await?;
    Ok(())
}

#[async_trait]
impl Alarms for Timescale {
    async fn standing_alarms(&self) -> Result<(Vec<AlarmRow>, Vec<Pending>), StoreError> {
        limited(async { standing(&mut self.client().await?, self.scope(None)).await }).await
    }

    async fn alarms(&self, query: &AlarmQuery) -> Result<Vec<AlarmRow>, StoreError> {
        limited(async { alarms(&self.client().await?, self.scope(None), query).await }).await
    }

    async fn alarm_summary(&self) -> Result<AlarmSummary, StoreError> {
        limited(async { summary(&self.client().await?, self.scope(None)).await }).await
    }

    async fn change_alarms(&self, changes: Vec<AlarmChange>, now: Micros) -> Result<Vec<Told>, StoreError> {
        limited(async { Ok(change(&mut self.client().await?, self.scope(None), &changes, now).await?) }).await
    }

    async fn acknowledge_alarm(
        &self,
        alarm: AlarmKey,
        by: &str,
        note: &str,
        now: Micros,
    ) -> Result<Option<AlarmRow>, StoreError> {
        let scope = self.scope(None);
        limited(async { Ok(acknowledge(&mut self.client().await?, scope, alarm, by, note, now).await?) })
            .await
    }

    async fn latest(&self, points: &[PointKey]) -> Result<Vec<(PointKey, Latest)>, StoreError> {
        limited(async { latest(&self.client().await?, points).await }).await
    }

    async fn silences(
        &self,
        agent: AgentKey,
        from: Micros,
        to: Micros,
        most: usize,
    ) -> Result<Vec<Silence>, StoreError> {
        limited(async { silences(&self.client().await?, agent, from, to, most).await }).await
    }

    async fn add_webhook(&self, name: &str) -> Result<(), StoreError> {
        limited(async { add_webhook(&self.client().await?, name).await }).await
    }

    async fn next_for_webhook(
        &self,
        name: &str,
        least: i16,
        now: Micros,
        lease: Micros,
    ) -> Result<Option<(AlarmEvent, u32)>, StoreError> {
        let scope = self.scope(None);
        limited(async {
            Ok(next_for_webhook(&mut self.client().await?, scope, name, least, now, lease).await?)
        })
        .await
    }

    async fn webhook_told(&self, name: &str, event: i64) -> Result<(), StoreError> {
        limited(async { webhook_told(&self.client().await?, name, event).await }).await
    }

    async fn webhook_failed(&self, name: &str, event: i64, due: Micros, why: &str) -> Result<(), StoreError> {
        limited(async { webhook_failed(&self.client().await?, name, event, due, why).await }).await
    }
}
