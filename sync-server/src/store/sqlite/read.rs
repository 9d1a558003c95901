//! What people ask for: fleet, points, readings, gaps.

use forebay_protocols::sync::batch::Epoch;
use forebay_protocols::sync::wire;
use prost::Message;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::super::buckets::Buckets;
use super::super::rollups::{Grain, Segment, Source, cover};
use super::super::scope::Scope;
use super::super::{
    AgentKey, AgentRow, Bucket, GapQuery, GapRow, Latest, Micros, PointKey, PointRow, Pulse, Query,
    StoreError, Traffic, sieve, words,
};
use super::rollups;
use super::values::{pace, quality, value};

const AGENTS: &str = "select a.agent, site, gateway, joined, last_seen, a.revoked, \
                      c.fingerprint, c.valid_until, \
                      report, stored, committed_batches, set_aside, epoch, \
                      newest, bytes_day, bytes, came, shrank, waiting from agents a \
                      left join certificates c on c.certificate = \
                      (select max(certificate) from certificates where agent = a.agent)";

pub fn fleet(on: &Connection, scope: Scope) -> Result<Vec<AgentRow>, StoreError> {
    let mut statement = on.prepare_cached(&format!(
        "{AGENTS} where (?1 is null or a.tenant = ?1) order by site, gateway, a.agent"
    ))?;
    let rows = statement.query_map([scope.tenant], agent_row)?.collect::<Result<_, _>>()?;
    Ok(rows)
}

pub fn agent(on: &Connection, agent: AgentKey) -> Result<Option<AgentRow>, StoreError> {
    let mut statement = on.prepare_cached(&format!("{AGENTS} where a.agent = ?"))?;
    Ok(statement.query_row([agent.0], agent_row).optional()?)
}

fn agent_row(row: &Row<'_>) -> rusqlite::Result<AgentRow> {
    let fingerprint: Option<Vec<u8>> = row.get(6)?;
    let report: Option<Vec<u8>> = row.get(8)?;
    let epoch: Option<Vec<u8>> = row.get(12)?;
    Ok(AgentRow {
        key: AgentKey(row.get(0)?),
        site: row.get(1)?,
        gateway: row.get(2)?,
        joined: row.get(3)?,
        last_seen: row.get(4)?,
        revoked: row.get(5)?,
        certificate: fingerprint.and_then(|bytes| bytes.try_into().ok()).zip(row.get(7)?),
        // A report of a form we cannot read is as good as none.
        report: report.and_then(|bytes| wire::Report::decode(bytes.as_slice()).ok()),
        stored: row.get::<_, i64>(9)? as u64,
        committed_batches: row.get::<_, i64>(10)? as u64,
        set_aside: row.get::<_, i64>(11)? as u64,
        epoch: epoch.and_then(|bytes| bytes.try_into().ok()).map(Epoch),
        pulse: Pulse {
            newest: row.get(13)?,
            traffic: Traffic { day: row.get(14)?, bytes: row.get::<_, i64>(15)? as u64 },
            waiting: row.get::<_, i64>(18)? as u64,
            pace: pace(row, 16)?,
        },
    })
}

pub fn points(
    on: &Connection,
    scope: Scope,
    search: &str,
    after: Option<PointKey>,
    most: usize,
) -> Result<Vec<PointRow>, StoreError> {
    let sql = "select p.point, p.agent, site, gateway, device, name, unit, kind, data_type, \
               l.time, l.quality, l.value, p.fork \
               from points p join agents a on a.agent = p.agent left join latest l on l.point = p.point \
               where (?1 is null or p.agent = ?1) and p.point > ?3 and (?5 is null or a.tenant = ?5) \
               and not exists (select 1 from json_each(?2) w where instr(case when ?1 is null \
                 then lower(site || '/' || gateway) || '/' else '' end || p.search, w.value) = 0) \
               order by p.point limit ?4";
    let search = sieve::text(search).to_lowercase();
    let search = serde_json::json!(search.split_whitespace().collect::<Vec<_>>()).to_string();
    let after = after.map_or(i64::MIN, |after| after.0);
    let mut statement = on.prepare_cached(sql)?;
    let rows =
        statement.query_map(params![scope.agent, search, after, limit(most), scope.tenant], |row| {
            let time: Option<Micros> = row.get(9)?;
            let latest = match time {
                Some(time) => {
                    Some(Latest { time, quality: quality(row.get(10)?), value: value(row.get_ref(11)?) })
                }
                None => None,
            };
            Ok(PointRow {
                key: PointKey(row.get(0)?),
                agent: AgentKey(row.get(1)?),
                site: row.get(2)?,
                gateway: row.get(3)?,
                device: row.get(4)?,
                name: row.get(5)?,
                unit: row.get(6)?,
                kind: words::kind(row.get_ref(7)?.as_str()?),
                data_type: words::data_type(row.get_ref(8)?.as_str()?),
                fork: row.get(12)?,
                latest,
            })
        })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub fn query(on: &mut Connection, query: &Query) -> Result<Vec<(PointKey, Vec<Bucket>)>, StoreError> {
    // One moment for all: what is due, and the rows.
    let on = on.transaction()?;
    let mut answer = Vec::with_capacity(query.points.len());
    for &key in &query.points {
        let mut buckets = Buckets::new(query.step, query.most);
        if Grain::for_step(query.step).is_none() {
            readings(&on, key, query.from, query.to, &mut buckets)?;
        } else {
            let stale = rollups::stale(&on, key.0)?;
            let horizons = rollups::horizons(&on, [key.0].into_iter())?.remove(&key).unwrap_or_default();
            for Segment { source, from, to } in cover(query.from, query.to, query.step, &stale, &horizons) {
                let room = match source {
                    Source::Readings => readings(&on, key, from, to, &mut buckets)?,
                    Source::Rollup(grain) => {
                        let mut room = true;
                        rollups::rolled(&on, grain, key.0, from, to, |rolled| {
                            room = buckets.add_rolled(rolled);
                            room
                        })?;
                        room
                    }
                };
                if !room {
                    break;
                }
            }
        }
        answer.push((key, buckets.finish()));
    }
    Ok(answer)
}

/// False: the buckets are full.
fn readings(
    on: &Connection,
    point: PointKey,
    from: Micros,
    to: Micros,
    buckets: &mut Buckets,
) -> Result<bool, StoreError> {
    let sql =
        "select time, quality, value from readings where point = ? and time >= ? and time < ? order by time";
    let mut statement = on.prepare_cached(sql)?;
    let mut rows = statement.query(params![point.0, from, to])?;
    while let Some(row) = rows.next()? {
        if !buckets.add(row.get(0)?, value(row.get_ref(2)?), quality(row.get(1)?)) {
            return Ok(false);
        }
    }
    Ok(true)
}

pub fn gaps(on: &Connection, scope: Scope, query: &GapQuery) -> Result<Vec<GapRow>, StoreError> {
    let sql = format!(
        "select e.agent, g.number, coalesce(d.point, 0), from_time, to_time, count, reason, g.device, \
         p.device, p.name from gaps g \
         join epochs e on e.epoch_key = g.epoch_key \
         left join dictionary d on d.epoch_key = g.epoch_key and d.number = g.entry \
         left join points p on p.point = d.point \
         where (?1 is null or e.agent = ?1) and from_time < ?3 and to_time >= ?2 \
         and (?5 is null or e.agent in (select agent from agents where tenant = ?5)) \
         and (?6 is null or reason = ?6) and (?7 is null or coalesce(p.device, g.device) = ?7) \
         order by {} limit ?4",
        query.order()
    );
    let reason = query.reason.map(i32::from);
    let mut statement = on.prepare_cached(&sql)?;
    let with =
        params![scope.agent, query.from, query.to, limit(query.most), scope.tenant, reason, query.device];
    let rows = statement.query_map(with, |row| {
        let gap = wire::Gap {
            // The server's own records have no number of the gateway's.
            number: row.get::<_, i64>(1)?.max(0) as u64,
            point: row.get(2)?,
            from_us: row.get(3)?,
            to_us: row.get(4)?,
            count: row.get::<_, i64>(5)? as u64,
            reason: row.get(6)?,
            device: row.get(7)?,
            ..Default::default()
        };
        let device: Option<String> = row.get(8)?;
        let point = device.zip(row.get(9)?);
        Ok(GapRow { agent: AgentKey(row.get(0)?), gap, point })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub fn limit(most: usize) -> i64 {
    i64::try_from(most).unwrap_or(i64::MAX)
}
