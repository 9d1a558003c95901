//! Deliveries into PostgreSQL: one transaction, a dozen statements whatever the number of batches.
//! Readings go in by binary COPY, sorted by (point, time), which is three times as fast as anything
//! with a unique index. What does not wait for each other's answers is sent at once: a transaction
//! costs five waits for the database, not one a statement.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::pin::pin;

use deadpool_postgres::{Client, Transaction};
use forebay_protocols::reading::Point;
use futures::SinkExt;
use prost::Message;
use tokio::join;
use tokio_postgres::types::ToSql;

use super::super::plan::{self, Entry as New, Failure, Families, Mark, Plan, Row, Sheet};
use super::super::{Delivery, PointKey, Receipt, SILENT_AFTER, StoreError, sieve};
use super::values::{Columns, Moment};
use super::{books, copy, rollups};

/// Stores all deliveries or none. What the database refuses for its content is set aside alone.
pub async fn ingest(client: &mut Client, deliveries: &[Delivery]) -> Result<Vec<Receipt>, StoreError> {
    let transaction = client.transaction().await?;
    let all: Vec<&Delivery> = deliveries.iter().collect();
    match Box::pin(apply(&transaction, &all)).await {
        Ok(receipts) => {
            transaction.commit().await?;
            return Ok(receipts);
        }
        Err(Failure::Content(_)) => transaction.rollback().await?,
        Err(failure) => return Err(failure.into()),
    }
    let mut transaction = client.transaction().await?;
    books::lock(&transaction, &all).await?;
    let mut receipts = Vec::with_capacity(deliveries.len());
    for delivery in deliveries {
        receipts.push(match attempt(&mut transaction, delivery).await {
            Err(Failure::Content(_)) => piecemeal(&mut transaction, delivery).await?,
            receipt => receipt?,
        });
    }
    transaction.commit().await?;
    Ok(receipts)
}

async fn piecemeal(transaction: &mut Transaction<'_>, delivery: &Delivery) -> Result<Receipt, Failure> {
    let mut receipts = Vec::new();
    for piece in plan::pieces(delivery) {
        receipts.push(match attempt(transaction, &piece).await {
            Err(Failure::Content(why)) => attempt(transaction, &plan::put_aside(piece, &why)).await?,
            receipt => receipt?,
        });
    }
    Ok(plan::join(receipts))
}

/// One delivery under a savepoint.
async fn attempt(transaction: &mut Transaction<'_>, delivery: &Delivery) -> Result<Receipt, Failure> {
    let savepoint = transaction.savepoint("attempt").await?;
    match Box::pin(apply(&savepoint, &[delivery])).await {
        Ok(receipts) => {
            savepoint.commit().await?;
            Ok(receipts.into_iter().next().unwrap_or_default())
        }
        Err(failure) => {
            savepoint.rollback().await?;
            Err(failure)
        }
    }
}

async fn apply(on: &Transaction<'_>, deliveries: &[&Delivery]) -> Result<Vec<Receipt>, Failure> {
    let mut families = books::open(on, deliveries).await?;
    let seats = families.settle(deliveries);
    books::settle(on, &mut families).await?;
    if plan::exactly_once() {
        books::recall(on, &mut families, deliveries, &seats).await?;
    }
    let mut plans = Vec::with_capacity(deliveries.len());
    for (delivery, seat) in deliveries.iter().zip(seats) {
        let Some(family) = families.get_mut(delivery.agent, delivery.epoch) else { continue };
        plans.push(Plan::new(family, seat, delivery));
    }
    extend_dictionary(on, &plans).await?;
    let keys = point_keys(on, &families, &plans).await?;
    let sheet = Sheet::new(&mut plans, &keys)?;
    let marks = plan::marks(&plans);
    let outcomes = join!(
        biased;
        copy_readings(on, &sheet.rows),
        quarantine(on, &sheet),
        renew_latest(on, &sheet.newest),
        rollups::note(on, &sheet.due, plan::noted(&plans)),
        mark_times(on, &marks),
        set_aside(on, &plans),
        keep_gaps(on, &plans),
        update_agents(on, &plans),
        books::close(on, &families, &plans),
        books::prune(on, &families),
    );
    all(outcomes.into())?;
    books::tell(on, &families).await?;
    Ok(plans.into_iter().map(|plan| plan.receipt).collect())
}

/// Of several statements sent at once, those behind one that failed only say that the transaction is
/// broken: why is what counts.
fn all<const N: usize>(outcomes: [Result<(), Failure>; N]) -> Result<(), Failure> {
    let telling = |failure: &Failure| match failure {
        Failure::Content(_) => 0,
        Failure::Store(StoreError::Away(_)) => 1,
        Failure::Store(_) => 2,
    };
    outcomes.into_iter().filter_map(Result::err).min_by_key(telling).map_or(Ok(()), Err)
}

/// Runs a statement that stays prepared on its connection.
pub async fn run(
    on: &Transaction<'_>,
    sql: &str,
    with: &[&(dyn ToSql + Sync)],
) -> Result<Vec<tokio_postgres::Row>, Failure> {
    let statement = on.prepare_cached(sql).await?;
    Ok(on.query(&statement, with).await?)
}

async fn extend_dictionary(on: &Transaction<'_>, plans: &[Plan<'_>]) -> Result<(), Failure> {
    // A path may stand there twice: the newest entry says what it is. Keys go by first appearance.
    type Path = (i64, String, String, i32);
    let mut places: HashMap<Path, usize> = HashMap::new();
    let mut paths: Vec<(Path, &Point)> = Vec::new();
    let mut entries = Vec::new();
    for plan in plans {
        for &New { branch, fork, number, point } in &plan.entries {
            let (device, name) =
                (sieve::name(&point.device).into_owned(), sieve::name(&point.name).into_owned());
            let path = (plan.delivery.agent.0, device, name, fork as i32);
            entries.push((branch, number as i32, path.clone()));
            match places.entry(path) {
                Entry::Occupied(place) => paths[*place.get()].1 = point,
                Entry::Vacant(place) => {
                    paths.push((place.key().clone(), point));
                    place.insert(paths.len() - 1);
                }
            }
        }
    }
    if entries.is_empty() {
        return Ok(());
    }
    let agents: Vec<i64> = paths.iter().map(|(path, _)| path.0).collect();
    let devices: Vec<&str> = paths.iter().map(|(path, _)| path.1.as_str()).collect();
    let names: Vec<&str> = paths.iter().map(|(path, _)| path.2.as_str()).collect();
    let forks: Vec<i32> = paths.iter().map(|(path, _)| path.3).collect();
    let units: Vec<_> = paths.iter().map(|(_, point)| sieve::name(&point.unit)).collect();
    let kinds: Vec<&str> = paths.iter().map(|(_, point)| point.kind.word()).collect();
    let types: Vec<&str> = paths.iter().map(|(_, point)| point.data_type.word()).collect();
    let search: Vec<String> = paths
        .iter()
        .zip(&units)
        .map(|(((_, device, name, _), _), unit)| format!("{device}/{name} {unit}").to_lowercase())
        .collect();
    let upsert = "insert into points (agent, device, name, unit, kind, data_type, search, fork) \
                  select * from unnest($1::bigint[], $2::text[], $3::text[], $4::text[], \
                  $5::text[], $6::text[], $7::text[], $8::int[]) \
                  on conflict (agent, device, name, fork) do update set unit = excluded.unit, \
                  kind = excluded.kind, data_type = excluded.data_type, search = excluded.search \
                  returning point, agent, device, name, fork";
    let mut keys: HashMap<Path, i32> = HashMap::new();
    for row in run(on, upsert, &[&agents, &devices, &names, &units, &kinds, &types, &search, &forks]).await? {
        let path = (row.try_get(1)?, row.try_get(2)?, row.try_get(3)?, row.try_get(4)?);
        keys.insert(path, row.try_get(0)?);
    }
    let (mut of, mut numbers, mut points) = (Vec::new(), Vec::new(), Vec::new());
    for (branch, number, path) in entries {
        let Some(&point) = keys.get(&path) else { continue };
        of.push(branch);
        numbers.push(number);
        points.push(point);
    }
    let insert = "insert into dictionary (epoch_key, number, point) \
                  select * from unnest($1::bigint[], $2::int[], $3::int[]) on conflict do nothing";
    run(on, insert, &[&of, &numbers, &points]).await?;
    Ok(())
}

async fn point_keys(
    on: &Transaction<'_>,
    families: &Families,
    plans: &[Plan<'_>],
) -> Result<HashMap<(i64, u32), PointKey>, Failure> {
    let wanted: BTreeSet<(i64, u32)> =
        plans.iter().flat_map(|plan| plan.used.union(&plan.named)).copied().collect();
    if wanted.is_empty() {
        return Ok(HashMap::new());
    }
    let of: Vec<i64> = wanted.iter().map(|(branch, _)| *branch).collect();
    let numbers: Vec<i32> = wanted.iter().map(|(_, number)| *number as i32).collect();
    let sql = "select d.epoch_key, d.number, d.point from dictionary d \
               join unnest($1::bigint[], $2::int[]) as w(of, number) \
               on d.epoch_key = w.of and d.number = w.number";
    let mut keys = HashMap::new();
    for row in run(on, sql, &[&of, &numbers]).await? {
        let number = row.try_get::<_, i32>(1)? as u32;
        keys.insert((row.try_get(0)?, number), PointKey(row.try_get::<_, i32>(2)?.into()));
    }
    for (branch, number) in wanted {
        if !keys.contains_key(&(branch, number))
            && let Some((from, fork)) = families.inherited(branch, number)
            && let Some(point) = inherit(on, branch, number, from, fork).await?
        {
            keys.insert((branch, number), point);
        }
    }
    Ok(keys)
}

/// Gives a fork a point of its own for a number of its dictionary that it uses for the first time, and
/// did not name itself.
async fn inherit(
    on: &Transaction<'_>,
    branch: i64,
    number: u32,
    from: i64,
    fork: u32,
) -> Result<Option<PointKey>, Failure> {
    let (number, fork) = (number as i32, fork as i32);
    let sql = "insert into points (agent, device, name, unit, kind, data_type, search, fork) \
               select agent, device, name, unit, kind, data_type, search, $3::int \
               from points p join dictionary d on d.point = p.point \
               where d.epoch_key = $1 and d.number = $2 \
               on conflict (agent, device, name, fork) do update set unit = excluded.unit returning point";
    let rows = run(on, sql, &[&from, &number, &fork]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let point: i32 = row.try_get(0)?;
    run(
        on,
        "insert into dictionary (epoch_key, number, point) values ($1, $2, $3)",
        &[&branch, &number, &point],
    )
    .await?;
    Ok(Some(PointKey(point.into())))
}

pub async fn copy_readings(on: &Transaction<'_>, rows: &[Row<'_>]) -> Result<(), Failure> {
    if rows.is_empty() {
        return Ok(());
    }
    let statement =
        on.prepare_cached(&format!("copy readings ({}) from stdin binary", copy::COLUMNS)).await?;
    let mut sink = pin!(on.copy_in(&statement).await?);
    for part in copy::parts(rows) {
        sink.feed(part).await?;
    }
    sink.finish().await?;
    Ok(())
}

/// Rows as columns, for statements that take them by `unnest`.
#[derive(Default)]
struct Spread<'a> {
    points: Vec<i32>,
    times: Vec<i64>,
    qualities: Vec<i16>,
    values: Vec<Option<f64>>,
    wholes: Vec<Option<i64>>,
    states: Vec<Option<bool>>,
    texts: Vec<Option<std::borrow::Cow<'a, str>>>,
}

impl<'a> FromIterator<Row<'a>> for Spread<'a> {
    fn from_iter<I: IntoIterator<Item = Row<'a>>>(rows: I) -> Self {
        let mut spread = Self::default();
        for Row { point, reading } in rows {
            let value = Columns::from(reading.value.as_ref());
            spread.points.push(point.0 as i32);
            spread.times.push(reading.time);
            spread.qualities.push(i16::from(reading.quality.code()));
            spread.values.push(value.value);
            spread.wholes.push(value.whole);
            spread.states.push(value.state);
            spread.texts.push(value.text);
        }
        spread
    }
}

pub async fn quarantine(on: &Transaction<'_>, sheet: &Sheet<'_>) -> Result<(), Failure> {
    if sheet.quarantine.is_empty() {
        return Ok(());
    }
    let received: Vec<Moment> = sheet.quarantine.iter().map(|(_, received)| Moment(*received)).collect();
    let rows: Spread<'_> = sheet.quarantine.iter().map(|(row, _)| *row).collect();
    let sql = "insert into readings_quarantine \
               (point, time_us, quality, value, whole, state, text, received) \
               select * from unnest($1::int[], $2::bigint[], $3::smallint[], $4::float8[], $5::bigint[], \
               $6::bool[], $7::text[], $8::timestamptz[])";
    let Spread { points, times, qualities, values, wholes, states, texts } = rows;
    run(on, sql, &[&points, &times, &qualities, &values, &wholes, &states, &texts, &received]).await?;
    Ok(())
}

pub async fn renew_latest(on: &Transaction<'_>, newest: &[Row<'_>]) -> Result<(), Failure> {
    if newest.is_empty() {
        return Ok(());
    }
    let Spread { points, times, qualities, values, wholes, states, texts } = newest.iter().copied().collect();
    let times: Vec<Moment> = times.into_iter().map(Moment).collect();
    let sql = "insert into latest as l (point, time, quality, value, whole, state, text) \
               select * from unnest($1::int[], $2::timestamptz[], $3::smallint[], $4::float8[], $5::bigint[], \
               $6::bool[], $7::text[]) \
               on conflict (point) do update set time = excluded.time, quality = excluded.quality, \
               value = excluded.value, whole = excluded.whole, state = excluded.state, text = excluded.text \
               where excluded.time > l.time";
    run(on, sql, &[&points, &times, &qualities, &values, &wholes, &states, &texts]).await?;
    Ok(())
}

async fn mark_times(on: &Transaction<'_>, marks: &[Mark]) -> Result<(), Failure> {
    if marks.is_empty() {
        return Ok(());
    }
    let sql = "insert into time_marks as m \
               (epoch_key, boot_counter, clock, from_time, to_time, readings, correction) \
               select * from unnest($1::bigint[], $2::bigint[], $3::int[], $4::timestamptz[], \
               $5::timestamptz[], $6::bigint[], $7::bigint[]) \
               on conflict (epoch_key, boot_counter, clock) do update set \
               from_time = least(m.from_time, excluded.from_time), \
               to_time = greatest(m.to_time, excluded.to_time), \
               readings = m.readings + excluded.readings, correction = excluded.correction";
    let of: Vec<i64> = marks.iter().map(|mark| mark.branch).collect();
    let boots: Vec<i64> = marks.iter().map(|mark| mark.boot_counter).collect();
    let clocks: Vec<i32> = marks.iter().map(|mark| mark.clock).collect();
    let from: Vec<Moment> = marks.iter().map(|mark| Moment(mark.from)).collect();
    let to: Vec<Moment> = marks.iter().map(|mark| Moment(mark.to)).collect();
    let readings: Vec<i64> = marks.iter().map(|mark| mark.readings).collect();
    let corrections: Vec<i64> = marks.iter().map(|mark| mark.correction_us).collect();
    run(on, sql, &[&of, &boots, &clocks, &from, &to, &readings, &corrections]).await?;
    Ok(())
}

async fn set_aside(on: &Transaction<'_>, plans: &[Plan<'_>]) -> Result<(), Failure> {
    let asides = || plans.iter().flat_map(|plan| plan.aside.iter().map(move |aside| (plan, aside)));
    // Numbers beyond the column's keep their bits.
    let sequences: Vec<i64> = asides().map(|(_, aside)| aside.sequence as i64).collect();
    if sequences.is_empty() {
        return Ok(());
    }
    let of: Vec<i64> = asides().map(|(_, aside)| aside.branch).collect();
    let checksums: Vec<i64> = asides().map(|(_, aside)| aside.checksum.into()).collect();
    let bytes: Vec<&[u8]> = asides().map(|(_, aside)| aside.bytes.as_ref()).collect();
    let reasons: Vec<_> = asides().map(|(_, aside)| sieve::text(&aside.why)).collect();
    let received: Vec<Moment> = asides().map(|(plan, _)| Moment(plan.delivery.received)).collect();
    let readings: Vec<i64> = asides().map(|(_, aside)| aside.readings.into()).collect();
    let corrections: Vec<i64> = asides().map(|(_, aside)| aside.correction_us).collect();
    let sql = "insert into set_aside \
               (epoch_key, sequence, checksum, bytes, reason, received, readings, correction) \
               select * from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bytea[], $5::text[], \
               $6::timestamptz[], $7::bigint[], $8::bigint[]) on conflict do nothing";
    run(on, sql, &[&of, &sequences, &checksums, &bytes, &reasons, &received, &readings, &corrections])
        .await?;
    Ok(())
}

async fn keep_gaps(on: &Transaction<'_>, plans: &[Plan<'_>]) -> Result<(), Failure> {
    let gaps = || plans.iter().flat_map(|plan| &plan.gaps);
    let of: Vec<i64> = gaps().map(|(branch, _)| *branch).collect();
    if of.is_empty() {
        return Ok(());
    }
    let numbers: Vec<i64> = gaps().map(|(_, gap)| sieve::count(gap.number)).collect();
    let entries: Vec<i32> = gaps().map(|(_, gap)| i32::try_from(gap.point).unwrap_or(i32::MAX)).collect();
    let from: Vec<Moment> = gaps().map(|(_, gap)| Moment(gap.from_us)).collect();
    let to: Vec<Moment> = gaps().map(|(_, gap)| Moment(gap.to_us)).collect();
    let counts: Vec<i64> = gaps().map(|(_, gap)| sieve::count(gap.count)).collect();
    let reasons: Vec<i32> = gaps().map(|(_, gap)| gap.reason).collect();
    let devices: Vec<_> = gaps().map(|(_, gap)| sieve::name(&gap.device)).collect();
    let sql = "insert into gaps (epoch_key, number, entry, from_time, to_time, count, reason, device) \
               select * from unnest($1::bigint[], $2::bigint[], $3::int[], $4::timestamptz[], \
               $5::timestamptz[], $6::bigint[], $7::int[], $8::text[]) on conflict do nothing";
    run(on, sql, &[&of, &numbers, &entries, &from, &to, &counts, &reasons, &devices]).await?;
    Ok(())
}

async fn update_agents(on: &Transaction<'_>, plans: &[Plan<'_>]) -> Result<(), Failure> {
    let news = plan::news(plans);
    if news.is_empty() {
        return Ok(());
    }
    // Servers' clocks differ a little: the newest delivery says how the gateway is.
    let sql = "update agents a set stored = a.stored + n.stored, \
               committed_batches = a.committed_batches + n.batches, set_aside = a.set_aside + n.aside, \
               report = case when a.last_seen > n.seen then a.report else coalesce(n.report, a.report) end, \
               epoch = case when a.last_seen > n.seen then a.epoch else n.epoch end, \
               current = case when a.last_seen > n.seen then a.current else n.branch end, \
               came = case when a.last_seen > n.seen then a.came else n.came end, \
               shrank = case when a.last_seen > n.seen then a.shrank else n.shrank end, \
               waiting = case when a.last_seen > n.seen then a.waiting else n.waiting end, \
               newest = greatest(a.newest, n.newest), \
               bytes = case when a.bytes_day > n.day then a.bytes \
                 when a.bytes_day = n.day then a.bytes + n.bytes else n.bytes end, \
               bytes_day = greatest(a.bytes_day, n.day), \
               last_seen = greatest(a.last_seen, n.seen) \
               from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::timestamptz[], \
               $6::bytea[], $7::bytea[], $8::bigint[], $9::float8[], $10::float8[], $11::timestamptz[], \
               $12::bigint[], $13::bigint[], $14::bigint[]) as n(agent, stored, batches, aside, seen, report, epoch, branch, \
               came, shrank, newest, day, bytes, waiting) where a.agent = n.agent";
    let agents: Vec<i64> = news.iter().map(|news| news.agent.0).collect();
    let stored: Vec<i64> = news.iter().map(|news| news.stored).collect();
    let batches: Vec<i64> = news.iter().map(|news| news.batches).collect();
    let aside: Vec<i64> = news.iter().map(|news| news.aside).collect();
    let seen: Vec<Moment> = news.iter().map(|news| Moment(news.seen)).collect();
    let reports: Vec<Option<Vec<u8>>> =
        news.iter().map(|news| news.report.map(Message::encode_to_vec)).collect();
    let epochs: Vec<&[u8]> = news.iter().map(|news| news.epoch.0.as_slice()).collect();
    let branches: Vec<i64> = news.iter().map(|news| news.branch).collect();
    let came: Vec<Option<f64>> = news.iter().map(|news| news.pace.map(|pace| pace.came)).collect();
    let shrank: Vec<Option<f64>> = news.iter().map(|news| news.pace.map(|pace| pace.shrank)).collect();
    let newest: Vec<Option<Moment>> = news.iter().map(|news| news.newest.map(Moment)).collect();
    let days: Vec<i64> = news.iter().map(|news| news.traffic.day).collect();
    let bytes: Vec<i64> = news.iter().map(|news| sieve::count(news.traffic.bytes)).collect();
    let waiting: Vec<i64> = news.iter().map(|news| sieve::count(news.waiting)).collect();
    let before: Vec<Moment> = news.iter().map(|news| Moment(news.seen - SILENT_AFTER)).collect();
    let silence = "insert into silences (agent, from_time, to_time) \
                   select a.agent, a.last_seen, n.seen \
                   from unnest($1::bigint[], $2::timestamptz[], $3::timestamptz[]) as n(agent, seen, before) \
                   join agents a on a.agent = n.agent and a.last_seen < n.before on conflict do nothing";
    run(on, silence, &[&agents, &seen, &before]).await?;
    run(
        on,
        sql,
        &[
            &agents, &stored, &batches, &aside, &seen, &reports, &epochs, &branches, &came, &shrank, &newest,
            &days, &bytes, &waiting,
        ],
    )
    .await?;
    Ok(())
}
