//! Deliveries into PostgreSQL: one transaction, a dozen statements whatever the number of batches.
//! Readings go in by binary COPY, sorted by (point, time), which is three times as fast as anything
//! with a unique index.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::pin::pin;

use deadpool_postgres::{Client, Transaction};
use forebay_protocols::reading::Point;
use forebay_protocols::sync::batch::Epoch;
use prost::Message;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::{ToSql, Type};

use super::super::plan::{self, Book, Fault, Plan, Row, Sheet};
use super::super::{AgentKey, Delivery, PointKey, Receipt, StoreError, sieve};
use super::values::{Columns, Moment};

/// Stores all deliveries or none. What the database refuses for its content is set aside alone.
pub async fn ingest(client: &mut Client, deliveries: &[Delivery]) -> Result<Vec<Receipt>, StoreError> {
    let transaction = client.transaction().await?;
    let all: Vec<&Delivery> = deliveries.iter().collect();
    match Box::pin(apply(&transaction, &all)).await {
        Ok(receipts) => {
            transaction.commit().await?;
            return Ok(receipts);
        }
        Err(Fault::Content(_)) => transaction.rollback().await?,
        Err(fault) => return Err(fault.into()),
    }
    let mut transaction = client.transaction().await?;
    lock(&transaction, &all).await?;
    let mut receipts = Vec::with_capacity(deliveries.len());
    for delivery in deliveries {
        receipts.push(match attempt(&mut transaction, delivery).await {
            Err(Fault::Content(_)) => piecemeal(&mut transaction, delivery).await?,
            receipt => receipt?,
        });
    }
    transaction.commit().await?;
    Ok(receipts)
}

async fn piecemeal(transaction: &mut Transaction<'_>, delivery: &Delivery) -> Result<Receipt, Fault> {
    let mut receipts = Vec::new();
    for piece in plan::pieces(delivery) {
        receipts.push(match attempt(transaction, &piece).await {
            Err(Fault::Content(why)) => attempt(transaction, &plan::put_aside(piece, &why)).await?,
            receipt => receipt?,
        });
    }
    Ok(plan::join(receipts))
}

/// One delivery under a savepoint.
async fn attempt(transaction: &mut Transaction<'_>, delivery: &Delivery) -> Result<Receipt, Fault> {
    let savepoint = transaction.savepoint("attempt").await?;
    match Box::pin(apply(&savepoint, &[delivery])).await {
        Ok(receipts) => {
            savepoint.commit().await?;
            Ok(receipts.into_iter().next().unwrap_or_default())
        }
        Err(fault) => {
            savepoint.rollback().await?;
            Err(fault)
        }
    }
}

async fn apply(on: &Transaction<'_>, deliveries: &[&Delivery]) -> Result<Vec<Receipt>, Fault> {
    lock(on, deliveries).await?;
    let mut books = open_books(on, deliveries).await?;
    let mut plans = Vec::with_capacity(deliveries.len());
    for delivery in deliveries {
        let book = books.entry((delivery.agent, delivery.epoch)).or_default();
        plans.push(Plan::new(book, delivery));
    }
    extend_dictionary(on, &plans).await?;
    let keys = point_keys(on, &plans).await?;
    let sheet = Sheet::new(&mut plans, &keys)?;
    copy_readings(on, &sheet.rows).await?;
    quarantine(on, &sheet).await?;
    renew_latest(on, &sheet.newest).await?;
    set_aside(on, &plans).await?;
    keep_gaps(on, &plans).await?;
    close_books(on, &plans, &books).await?;
    update_agents(on, &plans).await?;
    Ok(plans.into_iter().map(|plan| plan.receipt).collect())
}

/// Runs a statement that stays prepared on its connection.
async fn run(
    on: &Transaction<'_>,
    sql: &str,
    with: &[&(dyn ToSql + Sync)],
) -> Result<Vec<tokio_postgres::Row>, Fault> {
    let statement = on.prepare_cached(sql).await?;
    Ok(on.query(&statement, with).await?)
}

/// Locks the agents in ascending order. Whoever writes an agent's epochs, dictionary, points or latest
/// values holds this lock, so nothing else of it needs one, and no two servers wait for each other.
async fn lock(on: &Transaction<'_>, deliveries: &[&Delivery]) -> Result<(), Fault> {
    let agents: BTreeSet<i64> = deliveries.iter().map(|delivery| delivery.agent.0).collect();
    let wanted: Vec<i64> = agents.iter().copied().collect();
    let sql = "select agent from agents where agent = any($1) order by agent for no key update";
    let found = run(on, sql, &[&wanted]).await?;
    if found.len() < agents.len() {
        let found = found.iter().map(|row| row.try_get(0)).collect::<Result<BTreeSet<i64>, _>>()?;
        let missing: Vec<_> = agents.difference(&found).collect();
        return Err(Fault::Store(StoreError::Refused(format!("no agent has the key {missing:?}"))));
    }
    Ok(())
}

async fn open_books(
    on: &Transaction<'_>,
    deliveries: &[&Delivery],
) -> Result<BTreeMap<(AgentKey, Epoch), Book>, Fault> {
    let wanted: BTreeSet<(AgentKey, Epoch)> = deliveries.iter().map(|d| (d.agent, d.epoch)).collect();
    let agents: Vec<i64> = wanted.iter().map(|(agent, _)| agent.0).collect();
    let epochs: Vec<&[u8]> = wanted.iter().map(|(_, epoch)| epoch.0.as_slice()).collect();
    let find = "select epoch_key, agent, e.epoch, dictionary_revision, gaps_known from epochs e \
                join unnest($1::bigint[], $2::bytea[]) as w(of, epoch) \
                on e.agent = w.of and e.epoch = w.epoch";
    let mut found = run(on, find, &[&agents, &epochs]).await?;
    if found.len() < wanted.len() {
        let make = "insert into epochs (agent, epoch) select * from unnest($1::bigint[], $2::bytea[]) \
                    on conflict do nothing";
        run(on, make, &[&agents, &epochs]).await?;
        found = run(on, find, &[&agents, &epochs]).await?;
    }
    let mut books = BTreeMap::new();
    for row in &found {
        let epoch: &[u8] = row.try_get(2)?;
        let Ok(epoch) = epoch.try_into() else { continue };
        let book = Book {
            key: row.try_get(0)?,
            revision: row.try_get::<_, i32>(3)? as u32,
            gaps_known: row.try_get::<_, i64>(4)? as u64,
            ..Book::default()
        };
        books.insert((AgentKey(row.try_get(1)?), Epoch(epoch)), book);
    }
    // Only what is asked for: the whole set may be large when much is still under way.
    let (mut of, mut sequences) = (Vec::new(), Vec::new());
    for delivery in deliveries {
        let Some(book) = books.get(&(delivery.agent, delivery.epoch)) else { continue };
        for sequence in delivery.batches.iter().filter_map(|batch| i64::try_from(batch.sequence.0).ok()) {
            of.push(book.key);
            sequences.push(sequence);
        }
    }
    if !sequences.is_empty() {
        let sql = "select w.epoch_key, sequence \
                   from unnest($1::bigint[], $2::bigint[]) as w(epoch_key, sequence) \
                   join epochs e on e.epoch_key = w.epoch_key where e.committed @> sequence";
        for row in run(on, sql, &[&of, &sequences]).await? {
            let key: i64 = row.try_get(0)?;
            let sequence: i64 = row.try_get(1)?;
            if let Some(book) = books.values_mut().find(|book| book.key == key) {
                let sequence = sequence as u64;
                book.committed.insert(sequence..=sequence);
            }
        }
    }
    Ok(books)
}

async fn extend_dictionary(on: &Transaction<'_>, plans: &[Plan<'_>]) -> Result<(), Fault> {
    // A path may stand there twice: the newest entry says what it is. Keys go by first appearance.
    let mut places: HashMap<(i64, String, String), usize> = HashMap::new();
    let mut paths: Vec<((i64, String, String), &Point)> = Vec::new();
    let mut entries = Vec::new();
    for plan in plans {
        for &(number, point) in &plan.entries {
            let (device, name) =
                (sieve::name(&point.device).into_owned(), sieve::name(&point.name).into_owned());
            let path = (plan.delivery.agent.0, device, name);
            entries.push((plan.epoch_key, number as i32, path.clone()));
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
    let units: Vec<_> = paths.iter().map(|(_, point)| sieve::name(&point.unit)).collect();
    let kinds: Vec<&str> = paths.iter().map(|(_, point)| point.kind.word()).collect();
    let types: Vec<&str> = paths.iter().map(|(_, point)| point.data_type.word()).collect();
    let search: Vec<String> = paths
        .iter()
        .zip(&units)
        .map(|(((_, device, name), _), unit)| format!("{device}/{name} {unit}").to_lowercase())
        .collect();
    let upsert = "insert into points (agent, device, name, unit, kind, data_type, search) \
                  select * from unnest($1::bigint[], $2::text[], $3::text[], $4::text[], \
                  $5::text[], $6::text[], $7::text[]) \
                  on conflict (agent, device, name) do update set unit = excluded.unit, kind = excluded.kind, \
                  data_type = excluded.data_type, search = excluded.search \
                  returning point, agent, device, name";
    let mut keys = HashMap::new();
    for row in run(on, upsert, &[&agents, &devices, &names, &units, &kinds, &types, &search]).await? {
        let path: (i64, String, String) = (row.try_get(1)?, row.try_get(2)?, row.try_get(3)?);
        keys.insert(path, row.try_get::<_, i32>(0)?);
    }
    let (mut of, mut numbers, mut points) = (Vec::new(), Vec::new(), Vec::new());
    for (epoch_key, number, path) in entries {
        let Some(&point) = keys.get(&path) else { continue };
        of.push(epoch_key);
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
    plans: &[Plan<'_>],
) -> Result<HashMap<(i64, u32), PointKey>, Fault> {
    let (mut of, mut numbers) = (Vec::new(), Vec::new());
    for plan in plans {
        for &number in &plan.used {
            of.push(plan.epoch_key);
            numbers.push(number as i32);
        }
    }
    if numbers.is_empty() {
        return Ok(HashMap::new());
    }
    let sql = "select d.epoch_key, d.number, d.point from dictionary d \
               join unnest($1::bigint[], $2::int[]) as w(of, number) \
               on d.epoch_key = w.of and d.number = w.number";
    let mut keys = HashMap::new();
    for row in run(on, sql, &[&of, &numbers]).await? {
        let number = row.try_get::<_, i32>(1)? as u32;
        keys.insert((row.try_get(0)?, number), PointKey(row.try_get::<_, i32>(2)?.into()));
    }
    Ok(keys)
}

async fn copy_readings(on: &Transaction<'_>, rows: &[Row<'_>]) -> Result<(), Fault> {
    if rows.is_empty() {
        return Ok(());
    }
    let statement = on
        .prepare_cached("copy readings (time, point, quality, value, whole, state, text) from stdin binary")
        .await?;
    let sink = on.copy_in(&statement).await?;
    let types = [Type::TIMESTAMPTZ, Type::INT4, Type::INT2, Type::FLOAT8, Type::INT8, Type::BOOL, Type::TEXT];
    let mut writer = pin!(BinaryCopyInWriter::new(sink, &types));
    for Row { point, reading } in rows {
        let value = Columns::from(reading.value.as_ref());
        let (time, point, quality) =
            (Moment(reading.time), point.0 as i32, i16::from(reading.quality.code()));
        writer
            .as_mut()
            .write(&[&time, &point, &quality, &value.value, &value.whole, &value.state, &value.text])
            .await?;
    }
    writer.finish().await?;
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

async fn quarantine(on: &Transaction<'_>, sheet: &Sheet<'_>) -> Result<(), Fault> {
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

async fn renew_latest(on: &Transaction<'_>, newest: &[Row<'_>]) -> Result<(), Fault> {
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

async fn set_aside(on: &Transaction<'_>, plans: &[Plan<'_>]) -> Result<(), Fault> {
    for plan in plans {
        for aside in &plan.aside {
            let sql = "insert into set_aside (epoch_key, sequence, bytes, reason, received) \
                       values ($1, $2, $3, $4, $5) on conflict do nothing";
            let why = sieve::text(&aside.why);
            let received = Moment(plan.delivery.received);
            // A number beyond the column's keeps its bits.
            let sequence = aside.sequence as i64;
            run(on, sql, &[&plan.epoch_key, &sequence, &aside.bytes.as_ref(), &why, &received]).await?;
        }
    }
    Ok(())
}

async fn keep_gaps(on: &Transaction<'_>, plans: &[Plan<'_>]) -> Result<(), Fault> {
    let gaps = || plans.iter().flat_map(|plan| plan.gaps.iter().map(|gap| (plan.epoch_key, *gap)));
    let of: Vec<i64> = gaps().map(|(epoch_key, _)| epoch_key).collect();
    if of.is_empty() {
        return Ok(());
    }
    let numbers: Vec<i64> = gaps().map(|(_, gap)| sieve::count(gap.number)).collect();
    let entries: Vec<i32> = gaps().map(|(_, gap)| i32::try_from(gap.point).unwrap_or(i32::MAX)).collect();
    let from: Vec<Moment> = gaps().map(|(_, gap)| Moment(gap.from_us)).collect();
    let to: Vec<Moment> = gaps().map(|(_, gap)| Moment(gap.to_us)).collect();
    let counts: Vec<i64> = gaps().map(|(_, gap)| sieve::count(gap.count)).collect();
    let reasons: Vec<i32> = gaps().map(|(_, gap)| gap.reason).collect();
    let sql = "insert into gaps (epoch_key, number, entry, from_time, to_time, count, reason) \
               select * from unnest($1::bigint[], $2::bigint[], $3::int[], $4::timestamptz[], \
               $5::timestamptz[], $6::bigint[], $7::int[]) on conflict do nothing";
    run(on, sql, &[&of, &numbers, &entries, &from, &to, &counts, &reasons]).await?;
    Ok(())
}

async fn close_books(
    on: &Transaction<'_>,
    plans: &[Plan<'_>],
    books: &BTreeMap<(AgentKey, Epoch), Book>,
) -> Result<(), Fault> {
    let (mut of, mut fresh) = (Vec::new(), Vec::new());
    for plan in plans {
        of.extend(std::iter::repeat_n(plan.epoch_key, plan.fresh.len()));
        fresh.extend_from_slice(&plan.fresh);
    }
    if !fresh.is_empty() {
        let sql = "update epochs e set committed = e.committed + a.added from \
                   (select epoch_key, range_agg(int8range(sequence, sequence, '[]')) as added \
                    from unnest($1::bigint[], $2::bigint[]) as w(epoch_key, sequence) group by epoch_key) a \
                   where e.epoch_key = a.epoch_key";
        run(on, sql, &[&of, &fresh]).await?;
    }
    if plans.iter().any(|plan| !plan.entries.is_empty() || !plan.gaps.is_empty()) {
        let keys: Vec<i64> = books.values().map(|book| book.key).collect();
        let revisions: Vec<i32> = books.values().map(|book| book.revision as i32).collect();
        let gaps: Vec<i64> = books.values().map(|book| book.gaps_known as i64).collect();
        let sql = "update epochs e set dictionary_revision = w.revision, gaps_known = w.gaps \
                   from unnest($1::bigint[], $2::int[], $3::bigint[]) as w(epoch_key, revision, gaps) \
                   where e.epoch_key = w.epoch_key";
        run(on, sql, &[&keys, &revisions, &gaps]).await?;
    }
    Ok(())
}

async fn update_agents(on: &Transaction<'_>, plans: &[Plan<'_>]) -> Result<(), Fault> {
    // Servers' clocks differ a little: the newest delivery says how the gateway is.
    let sql = "update agents set stored = stored + $2, committed_batches = committed_batches + $3, \
               set_aside = set_aside + $4, \
               report = case when last_seen > $5 then report else coalesce($6, report) end, \
               epoch = case when last_seen > $5 then epoch else $7 end, \
               last_seen = greatest(last_seen, $5) where agent = $1";
    for plan in plans {
        let report = plan.delivery.report.as_ref().map(Message::encode_to_vec);
        let (stored, taken, aside) = (plan.stored() as i64, plan.taken.len() as i64, plan.aside.len() as i64);
        let (received, epoch) = (Moment(plan.delivery.received), plan.delivery.epoch.0.as_slice());
        run(on, sql, &[&plan.delivery.agent.0, &stored, &taken, &aside, &received, &report, &epoch]).await?;
    }
    Ok(())
}
