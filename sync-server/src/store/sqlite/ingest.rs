//! Deliveries into SQLite: one immediate transaction, readings by a prepared statement of many rows.

use std::collections::{BTreeSet, HashMap};

use forebay_protocols::reading::Point;
use prost::Message;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::super::plan::{self, Entry, Failure, Families, Mark, News, Plan, Row, Sheet};
use super::super::{Delivery, PointKey, Receipt, SILENT_AFTER, StoreError, sieve};
use super::books;
use super::rollups;
use super::values::column;

/// Rows of one statement: beyond, it does not get faster.
const ROWS: usize = 128;

/// Stores all deliveries or none. What the database refuses for its content is set aside alone.
pub fn ingest(connection: &mut Connection, deliveries: &[Delivery]) -> Result<Vec<Receipt>, StoreError> {
    // Immediate: who reads first and writes later can be refused in between.
    let mut transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let all: Vec<&Delivery> = deliveries.iter().collect();
    let receipts = match attempt(&mut transaction, &all) {
        Err(Failure::Content(_)) => {
            let mut receipts = Vec::with_capacity(deliveries.len());
            for delivery in deliveries {
                receipts.push(match alone(&mut transaction, delivery) {
                    Err(Failure::Content(_)) => piecemeal(&mut transaction, delivery)?,
                    receipt => receipt?,
                });
            }
            receipts
        }
        receipts => receipts?,
    };
    transaction.commit()?;
    Ok(receipts)
}

fn piecemeal(transaction: &mut Transaction<'_>, delivery: &Delivery) -> Result<Receipt, Failure> {
    let mut receipts = Vec::new();
    for piece in plan::pieces(delivery) {
        receipts.push(match alone(transaction, &piece) {
            Err(Failure::Content(why)) => alone(transaction, &plan::put_aside(piece, &why))?,
            receipt => receipt?,
        });
    }
    Ok(plan::join(receipts))
}

fn alone(transaction: &mut Transaction<'_>, delivery: &Delivery) -> Result<Receipt, Failure> {
    let receipts = attempt(transaction, &[delivery])?;
    Ok(receipts.into_iter().next().unwrap_or_default())
}

/// All of `deliveries` under a savepoint, or nothing.
fn attempt(transaction: &mut Transaction<'_>, deliveries: &[&Delivery]) -> Result<Vec<Receipt>, Failure> {
    let savepoint = transaction.savepoint()?;
    // On a fault the savepoint is dropped, which rolls back to it.
    let receipts = apply(&savepoint, deliveries)?;
    savepoint.commit()?;
    Ok(receipts)
}

fn apply(on: &Connection, deliveries: &[&Delivery]) -> Result<Vec<Receipt>, Failure> {
    let mut families = books::open(on, deliveries)?;
    let seats = families.settle(deliveries);
    books::settle(on, &mut families)?;
    if plan::exactly_once() {
        books::recall(on, &mut families, deliveries, &seats)?;
    }
    let mut plans = Vec::with_capacity(deliveries.len());
    for (delivery, seat) in deliveries.iter().zip(seats) {
        let Some(family) = families.get_mut(delivery.agent, delivery.epoch) else { continue };
        plans.push(Plan::new(family, seat, delivery));
    }
    extend_dictionary(on, &plans)?;
    let keys = point_keys(on, &families, &plans)?;
    let sheet = Sheet::new(&mut plans, &keys)?;
    insert_readings(on, &sheet.rows)?;
    rollups::note(on, &sheet.due, plan::noted(&plans))?;
    quarantine(on, &sheet)?;
    renew_latest(on, &sheet.newest)?;
    mark_times(on, &plan::marks(&plans))?;
    for plan in &plans {
        set_aside(on, plan)?;
        keep_gaps(on, plan)?;
    }
    for news in plan::news(&plans) {
        update_agent(on, &news)?;
    }
    books::close(on, &families, &plans)?;
    books::tell(on, &families)?;
    Ok(plans.into_iter().map(|plan| plan.receipt).collect())
}

fn extend_dictionary(on: &Connection, plans: &[Plan<'_>]) -> Result<(), Failure> {
    let upsert = "insert into points (agent, device, name, unit, kind, data_type, search, fork) \
                  values (?, ?, ?, ?, ?, ?, ?, ?) \
                  on conflict (agent, device, name, fork) do update set unit = excluded.unit, \
                  kind = excluded.kind, data_type = excluded.data_type, search = excluded.search \
                  returning point";
    for plan in plans {
        for Entry { branch, fork, number, point } in &plan.entries {
            let Point { device, name, unit, kind, data_type } = point;
            let (device, name, unit) = (sieve::name(device), sieve::name(name), sieve::name(unit));
            let search = format!("{device}/{name} {unit}").to_lowercase();
            let agent = plan.delivery.agent.0;
            let values = params![agent, device, name, unit, kind.word(), data_type.word(), search, fork];
            let key: i64 = on.prepare_cached(upsert)?.query_row(values, |row| row.get(0))?;
            on.prepare_cached(
                "insert into dictionary (epoch_key, number, point) values (?, ?, ?) on conflict do nothing",
            )?
            .execute(params![branch, number, key])?;
        }
    }
    Ok(())
}

fn point_keys(
    on: &Connection,
    families: &Families,
    plans: &[Plan<'_>],
) -> Result<HashMap<(i64, u32), PointKey>, Failure> {
    let mut find = on.prepare_cached("select point from dictionary where epoch_key = ? and number = ?")?;
    let (mut keys, mut missing) = (HashMap::new(), BTreeSet::new());
    for &(branch, number) in plans.iter().flat_map(|plan| plan.used.union(&plan.named)) {
        match find.query_row(params![branch, number], |row| row.get(0)).optional()? {
            Some(point) => drop(keys.insert((branch, number), PointKey(point))),
            None => drop(missing.insert((branch, number))),
        }
    }
    books::inherit(on, families, &missing, &mut keys)?;
    Ok(keys)
}

pub fn insert_readings(on: &Connection, rows: &[Row<'_>]) -> Result<(), Failure> {
    let mut chunks = rows.chunks_exact(ROWS);
    if rows.len() >= ROWS {
        let places = vec!["(?, ?, ?, ?)"; ROWS].join(", ");
        let mut many = on.prepare_cached(&format!("insert into readings values {places}"))?;
        for chunk in chunks.by_ref() {
            for (row, first) in chunk.iter().zip((1..).step_by(4)) {
                many.raw_bind_parameter(first, row.point.0)?;
                many.raw_bind_parameter(first + 1, row.reading.time)?;
                many.raw_bind_parameter(first + 2, row.reading.quality.code())?;
                many.raw_bind_parameter(first + 3, column(row.reading.value.as_ref()))?;
            }
            many.raw_execute()?;
        }
    }
    let mut one = on.prepare_cached("insert into readings values (?, ?, ?, ?)")?;
    for Row { point, reading } in chunks.remainder() {
        one.execute(params![point.0, reading.time, reading.quality.code(), column(reading.value.as_ref())])?;
    }
    Ok(())
}

pub fn quarantine(on: &Connection, sheet: &Sheet<'_>) -> Result<(), Failure> {
    for (Row { point, reading }, received) in &sheet.quarantine {
        let value = column(reading.value.as_ref());
        on.prepare_cached("insert into readings_quarantine values (?, ?, ?, ?, ?)")?.execute(params![
            point.0,
            reading.time,
            reading.quality.code(),
            value,
            received
        ])?;
    }
    Ok(())
}

pub fn renew_latest(on: &Connection, newest: &[Row<'_>]) -> Result<(), Failure> {
    let sql = "insert into latest (point, time, quality, value) values (?, ?, ?, ?) \
               on conflict (point) do update set time = excluded.time, quality = excluded.quality, \
               value = excluded.value \
               where excluded.time > latest.time";
    let mut renew = on.prepare_cached(sql)?;
    for Row { point, reading } in newest {
        renew.execute(params![
            point.0,
            reading.time,
            reading.quality.code(),
            column(reading.value.as_ref())
        ])?;
    }
    Ok(())
}

fn mark_times(on: &Connection, marks: &[Mark]) -> Result<(), Failure> {
    let sql = "insert into time_marks values (?, ?, ?, ?, ?, ?, ?) \
               on conflict (epoch_key, boot_counter, clock) do update set \
               from_time = min(from_time, excluded.from_time), to_time = max(to_time, excluded.to_time), \
               readings = readings + excluded.readings, correction = excluded.correction";
    for mark in marks {
        let Mark { branch, boot_counter, clock, from, to, readings, correction_us } = mark;
        on.prepare_cached(sql)?.execute(params![
            branch,
            boot_counter,
            clock,
            from,
            to,
            readings,
            correction_us
        ])?;
    }
    Ok(())
}

fn set_aside(on: &Connection, plan: &Plan<'_>) -> Result<(), Failure> {
    for aside in &plan.aside {
        // A number beyond the column's keeps its bits.
        let sequence = aside.sequence as i64;
        let why = sieve::text(&aside.why);
        on.prepare_cached(
            "insert into set_aside \
             (epoch_key, sequence, checksum, bytes, reason, received, readings, correction) \
             values (?, ?, ?, ?, ?, ?, ?, ?) on conflict do nothing",
        )?
        .execute(params![
            aside.branch,
            sequence,
            aside.checksum,
            aside.bytes.as_ref(),
            why,
            plan.delivery.received,
            aside.readings,
            aside.correction_us
        ])?;
    }
    Ok(())
}

fn keep_gaps(on: &Connection, plan: &Plan<'_>) -> Result<(), Failure> {
    for (branch, gap) in &plan.gaps {
        on.prepare_cached(
            "insert into gaps (epoch_key, number, entry, from_time, to_time, count, reason, device) \
             values (?, ?, ?, ?, ?, ?, ?, ?) on conflict do nothing",
        )?
        .execute(params![
            branch,
            sieve::count(gap.number),
            i32::try_from(gap.point).unwrap_or(i32::MAX),
            sieve::time(gap.from_us),
            sieve::time(gap.to_us),
            sieve::count(gap.count),
            gap.reason,
            sieve::name(&gap.device),
        ])?;
    }
    Ok(())
}

fn update_agent(on: &Connection, news: &News<'_>) -> Result<(), Failure> {
    // Servers' clocks differ a little: the newest delivery says how the gateway is.
    let sql = "update agents set stored = stored + ?2, committed_batches = committed_batches + ?3, \
               set_aside = set_aside + ?4, \
               report = case when last_seen > ?5 then report else coalesce(?6, report) end, \
               epoch = case when last_seen > ?5 then epoch else ?7 end, \
               current = case when last_seen > ?5 then current else ?8 end, \
               came = case when last_seen > ?5 then came else ?9 end, \
               shrank = case when last_seen > ?5 then shrank else ?10 end, \
               waiting = case when last_seen > ?5 then waiting else ?14 end, \
               newest = max(coalesce(newest, ?11), coalesce(?11, newest)), \
               bytes = case when bytes_day > ?12 then bytes when bytes_day = ?12 then bytes + ?13 else ?13 end, \
               bytes_day = max(bytes_day, ?12), \
               last_seen = max(coalesce(last_seen, ?5), ?5) where agent = ?1";
    let &News { agent, stored, batches, aside, seen, report, epoch, branch, newest, traffic, pace, waiting } =
        news;
    let report = report.map(Message::encode_to_vec);
    let silence = "insert into silences (agent, from_time, to_time) \
                   select agent, last_seen, ?2 from agents where agent = ?1 and last_seen < ?3 \
                   on conflict do nothing";
    on.prepare_cached(silence)?.execute(params![agent.0, seen, seen - SILENT_AFTER])?;
    on.prepare_cached(sql)?.execute(params![
        agent.0,
        stored,
        batches,
        aside,
        seen,
        report,
        epoch.0,
        branch,
        pace.map(|pace| pace.came),
        pace.map(|pace| pace.shrank),
        newest,
        traffic.day,
        sieve::count(traffic.bytes),
        sieve::count(waiting)
    ])?;
    Ok(())
}
