//! What people ask for: fleet, points, readings, gaps.

use std::pin::pin;

use deadpool_postgres::Client;
use forebay_protocols::sync::batch::Epoch;
use forebay_protocols::sync::wire;
use futures::TryStreamExt;
use prost::Message;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use super::super::buckets::Buckets;
use super::super::plan::Failure;
use super::super::rollups::{Grain, Rolled, Segment, Source, Stale, cover};
use super::super::scope::Scope;
use super::super::{
    AgentKey, AgentRow, Bucket, GapQuery, GapRow, Latest, Micros, PointKey, PointRow, Pulse, Query,
    StoreError, Traffic, words,
};
use super::rollups;
use super::values::{Moment, pace, quality, value};

// Readings are asked for without a prepared statement: its sixth use would be planned for any time at all, over
// every day or week that is kept apart, for a tenth of a second on each connection.

/// From this stretch on readings are gathered in the database, and not brought here one by one.
const GATHERED_THERE: Micros = 1_800_000_000;
/// So many rows of a rollup and more are gathered there to one; fewer are sooner brought here.
const GATHERED_OF: Micros = 4;

const AGENTS: &str = "select a.agent, site, gateway, joined, last_seen, a.revoked, \
                      c.fingerprint, c.valid_until, \
                      report, stored, committed_batches, set_aside, epoch, \
                      newest, bytes_day, bytes, came, shrank, waiting from agents a \
                      left join lateral (select fingerprint, valid_until from certificates c \
                      where c.agent = a.agent order by certificate desc limit 1) c on true";

pub async fn fleet(client: &Client, scope: Scope) -> Result<Vec<AgentRow>, StoreError> {
    let sql = format!("{AGENTS} where ($1::bigint is null or a.tenant = $1) order by site, gateway, a.agent");
    client.query(&sql, &[&scope.tenant]).await?.iter().map(agent_row).collect()
}

pub async fn agent(client: &Client, agent: AgentKey) -> Result<Option<AgentRow>, StoreError> {
    let statement = client.prepare_cached(&format!("{AGENTS} where a.agent = $1")).await?;
    client.query_opt(&statement, &[&agent.0]).await?.as_ref().map(agent_row).transpose()
}

fn agent_row(row: &Row) -> Result<AgentRow, StoreError> {
    let fingerprint: Option<&[u8]> = row.try_get(6)?;
    let until: Option<Moment> = row.try_get(7)?;
    let report: Option<&[u8]> = row.try_get(8)?;
    let epoch: Option<&[u8]> = row.try_get(12)?;
    Ok(AgentRow {
        key: AgentKey(row.try_get(0)?),
        site: row.try_get(1)?,
        gateway: row.try_get(2)?,
        joined: row.try_get::<_, Moment>(3)?.0,
        last_seen: row.try_get::<_, Option<Moment>>(4)?.map(|moment| moment.0),
        revoked: row.try_get(5)?,
        certificate: fingerprint.and_then(|bytes| bytes.try_into().ok()).zip(until.map(|until| until.0)),
        // A report of a form we cannot read is as good as none.
        report: report.and_then(|bytes| wire::Report::decode(bytes).ok()),
        stored: row.try_get::<_, i64>(9)? as u64,
        committed_batches: row.try_get::<_, i64>(10)? as u64,
        set_aside: row.try_get::<_, i64>(11)? as u64,
        epoch: epoch.and_then(|bytes| bytes.try_into().ok()).map(Epoch),
        pulse: Pulse {
            newest: row.try_get::<_, Option<Moment>>(13)?.map(|moment| moment.0),
            traffic: Traffic { day: row.try_get(14)?, bytes: row.try_get::<_, i64>(15)? as u64 },
            waiting: row.try_get::<_, i64>(18)? as u64,
            pace: pace(row, 16)?,
        },
    })
}

pub async fn points(
    client: &Client,
    scope: Scope,
    search: &str,
    after: Option<PointKey>,
    most: usize,
) -> Result<Vec<PointRow>, StoreError> {
    let sql = "select p.point, p.agent, site, gateway, device, name, unit, kind, data_type, \
               l.time, l.quality, l.value, l.whole, l.state, l.text, p.fork \
               from points p join agents a on a.agent = p.agent left join latest l on l.point = p.point \
               where ($1::bigint is null or p.agent = $1) and p.point > $3::bigint \
               and ($5::bigint is null or a.tenant = $5) \
               and not exists (select from unnest($2::text[]) w where strpos(case when $1::bigint is null \
                 then lower(site || '/' || gateway) || '/' else '' end || p.search, w) = 0) \
               order by p.point limit $4";
    // No text holds a NUL, and PostgreSQL would refuse to look for one.
    let search = super::super::sieve::text(search).to_lowercase();
    let search: Vec<&str> = search.split_whitespace().collect();
    let (after, most) = (after.map_or(i64::MIN, |a| a.0), limit(most));
    let mut points = Vec::new();
    for row in client.query(sql, &[&scope.agent, &search, &after, &most, &scope.tenant]).await? {
        let time: Option<Moment> = row.try_get(9)?;
        let latest = match time {
            Some(Moment(time)) => {
                Some(Latest { time, quality: quality(row.try_get(10)?), value: value(&row, 11)? })
            }
            None => None,
        };
        points.push(PointRow {
            key: PointKey(row.try_get::<_, i32>(0)?.into()),
            agent: AgentKey(row.try_get(1)?),
            site: row.try_get(2)?,
            gateway: row.try_get(3)?,
            device: row.try_get(4)?,
            name: row.try_get(5)?,
            unit: row.try_get(6)?,
            kind: words::kind(row.try_get(7)?),
            data_type: words::data_type(row.try_get(8)?),
            fork: row.try_get::<_, i32>(15)? as u32,
            latest,
        });
    }
    Ok(points)
}

pub async fn query(client: &Client, query: &Query) -> Result<Vec<(PointKey, Vec<Bucket>)>, StoreError> {
    let known: Vec<i32> = query.points.iter().filter_map(|key| i32::try_from(key.0).ok()).collect();
    let by_rollup = Grain::for_step(query.step).is_some();
    // What is due is read before the rows: what is made anew in between is right in both places.
    let (stale, horizons) = match by_rollup {
        true => tokio::try_join!(rollups::stale(client, &known), rollups::horizons(client, &known))?,
        false => Default::default(),
    };
    let mut answer = Vec::with_capacity(query.points.len());
    for &key in &query.points {
        let mut buckets = Buckets::new(query.step, query.most);
        if let Ok(point) = i32::try_from(key.0) {
            let nowhere = Stale::default();
            let segments = match by_rollup {
                true => {
                    let stale = stale.get(&key).unwrap_or(&nowhere);
                    let horizons = horizons.get(&key).copied().unwrap_or_default();
                    cover(query.from, query.to, query.step, stale, &horizons)
                }
                false => vec![Segment { source: Source::Readings, from: query.from, to: query.to }],
            };
            for segment in segments {
                if !read(client, point, segment, &mut buckets).await? {
                    break;
                }
            }
        }
        answer.push((key, buckets.finish()));
    }
    Ok(answer)
}

/// A segment into the buckets. False: they are full.
async fn read(
    client: &Client,
    point: i32,
    Segment { source, from, to }: Segment,
    buckets: &mut Buckets,
) -> Result<bool, StoreError> {
    let mut room = true;
    match source {
        Source::Rollup(grain) if buckets.step() >= GATHERED_OF * grain.length() => {
            let as_asked = (buckets.step(), buckets.most());
            match rollups::gathered(client, grain, point, (from, to), as_asked).await {
                // A sum beyond the largest float, as below.
                Err(Failure::Content(_)) => room = rolled(client, grain, point, (from, to), buckets).await?,
                rows => room = rows?.into_iter().all(|rolled| buckets.add_rolled(rolled)),
            }
        }
        Source::Rollup(grain) => room = rolled(client, grain, point, (from, to), buckets).await?,
        Source::Readings if buckets.step() == 0 || to.saturating_sub(from) < GATHERED_THERE => {
            room = readings(client, point, (from, to), buckets).await?;
        }
        Source::Readings => match gathered(client, point, (from, to), buckets).await {
            // A sum beyond the largest float: the long way has no such limit.
            Err(Failure::Content(_)) => room = readings(client, point, (from, to), buckets).await?,
            rows => {
                for rolled in rows? {
                    room = room && buckets.add_rolled(rolled);
                }
            }
        },
    }
    Ok(room)
}

/// Bucket by bucket of a rollup. False: the buckets are full.
async fn rolled(
    client: &Client,
    grain: Grain,
    point: i32,
    range: (Micros, Micros),
    buckets: &mut Buckets,
) -> Result<bool, StoreError> {
    let mut room = true;
    rollups::buckets(client, grain, point, range, |rolled| {
        room = buckets.add_rolled(rolled);
        room
    })
    .await?;
    Ok(room)
}

/// Reading by reading, without holding more than the answer. False: the buckets are full.
async fn readings(
    client: &Client,
    point: i32,
    (from, to): (Micros, Micros),
    buckets: &mut Buckets,
) -> Result<bool, StoreError> {
    let sql = "select time, quality, value, whole, state, text from readings \
               where point = $1 and time >= $2 and time < $3 order by time limit $4";
    let most = if buckets.step() > 0 { i64::MAX } else { limit(buckets.most()) };
    let with: [(&(dyn ToSql + Sync), Type); 4] = [
        (&point, Type::INT4),
        (&Moment(from), Type::TIMESTAMPTZ),
        (&Moment(to), Type::TIMESTAMPTZ),
        (&most, Type::INT8),
    ];
    let mut rows = pin!(client.query_typed_raw(sql, with).await?);
    while let Some(row) = rows.try_next().await? {
        if !buckets.add(row.try_get::<_, Moment>(0)?.0, value(&row, 2)?, quality(row.try_get(1)?)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The same buckets as `Buckets` makes, made where the readings are. Of the first and last value only
/// the time is gathered; the index then leads to the value.
async fn gathered(
    client: &Client,
    point: i32,
    (from, to): (Micros, Micros),
    into: &Buckets,
) -> Result<Vec<Rolled>, Failure> {
    let sql = "with reading as (select time, quality, \
                 quality < 128 and num_nonnulls(value, whole, state, text) > 0 as usable, \
                 coalesce(value, whole::float8, state::int::float8) as number \
                 from readings where point = $1 and time >= $2 and time < $3), \
               weighed as (select time, quality, usable, case when usable \
                 and number between -1.7976931348623157e308 and 1.7976931348623157e308 \
                 then number end as number \
                 from reading), \
               bucket as (select \
                 date_bin($4::bigint * interval '1 microsecond', time, timestamptz 'epoch') as begin, \
                 count(*) as count, count(*) filter (where quality < 64) as good, max(quality) as quality, \
                 min(number) as min, max(number) as max, sum(number) as sum, count(number) as numbers, \
                 min(time) filter (where usable) as first, max(time) filter (where usable) as last \
                 from weighed group by 1 order by 1 limit $5) \
               select begin, count, good, b.quality, min, max, sum, numbers, \
                 f.value, f.whole, f.state, f.text, l.value, l.whole, l.state, l.text from bucket b \
               left join lateral (select value, whole, state, text from readings r \
                 where r.point = $1 and r.time = b.first and quality < 128 \
                 and num_nonnulls(value, whole, state, text) > 0 limit 1) f on true \
               left join lateral (select value, whole, state, text from readings r \
                 where r.point = $1 and r.time = b.last and quality < 128 \
                 and num_nonnulls(value, whole, state, text) > 0 limit 1) l on true \
               order by begin";
    let with: [(&(dyn ToSql + Sync), Type); 5] = [
        (&point, Type::INT4),
        (&Moment(from), Type::TIMESTAMPTZ),
        (&Moment(to), Type::TIMESTAMPTZ),
        (&into.step(), Type::INT8),
        (&limit(into.most()), Type::INT8),
    ];
    let mut gathered = Vec::new();
    for row in client.query_typed(sql, &with).await? {
        gathered.push(Rolled {
            time: row.try_get::<_, Moment>(0)?.0,
            count: row.try_get::<_, i64>(1)? as u64,
            good: row.try_get::<_, i64>(2)? as u64,
            quality: quality(row.try_get(3)?),
            min: row.try_get(4)?,
            max: row.try_get(5)?,
            sum: row.try_get::<_, Option<f64>>(6)?.unwrap_or_default(),
            numbers: row.try_get::<_, i64>(7)? as u64,
            first: value(&row, 8)?,
            last: value(&row, 12)?,
        });
    }
    Ok(gathered)
}

pub async fn gaps(client: &Client, scope: Scope, query: &GapQuery) -> Result<Vec<GapRow>, StoreError> {
    let sql = format!(
        "select e.agent, g.number, coalesce(d.point, 0), from_time, to_time, count, reason, g.device, \
         p.device, p.name from gaps g \
         join epochs e on e.epoch_key = g.epoch_key \
         left join dictionary d on d.epoch_key = g.epoch_key and d.number = g.entry \
         left join points p on p.point = d.point \
         where ($1::bigint is null or e.agent = $1) and from_time < $3 and to_time >= $2 \
         and ($5::bigint is null or e.agent in (select agent from agents where tenant = $5)) \
         and ($6::bigint is null or reason = $6) and ($7::text is null or coalesce(p.device, g.device) = $7) \
         order by {} limit $4",
        query.order()
    );
    let (most, reason) = (limit(query.most), query.reason.map(|reason| i64::from(i32::from(reason))));
    let (from, to) = (Moment(query.from), Moment(query.to));
    let with: [&(dyn ToSql + Sync); 7] =
        [&scope.agent, &from, &to, &most, &scope.tenant, &reason, &query.device];
    let mut gaps = Vec::new();
    for row in client.query(&sql, &with).await? {
        let gap = wire::Gap {
            // The server's own records have no number of the gateway's.
            number: row.try_get::<_, i64>(1)?.max(0) as u64,
            point: row.try_get::<_, i32>(2)? as u32,
            from_us: row.try_get::<_, Moment>(3)?.0,
            to_us: row.try_get::<_, Moment>(4)?.0,
            count: row.try_get::<_, i64>(5)? as u64,
            reason: row.try_get(6)?,
            device: row.try_get(7)?,
            ..Default::default()
        };
        let device: Option<String> = row.try_get(8)?;
        let point = device.zip(row.try_get(9)?);
        gaps.push(GapRow { agent: AgentKey(row.try_get(0)?), gap, point });
    }
    Ok(gaps)
}

pub fn limit(most: usize) -> i64 {
    i64::try_from(most).unwrap_or(i64::MAX)
}
