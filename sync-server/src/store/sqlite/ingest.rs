//! Deliveries into SQLite: one immediate transaction, readings by a prepared statement of many rows.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};

use forebay_protocols::reading::Point;
use forebay_protocols::sync::batch::Epoch;
use prost::Message;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::super::plan::{self, Book, Fault, Plan, Row, Sheet};
use super::super::{AgentKey, Delivery, PointKey, Receipt, StoreError, sieve};
use super::committed;
use super::values::column;

/// Rows of one statement: beyond, it does not get faster.
const ROWS: usize = 128;

/// Stores all deliveries or none. What the database refuses for its content is set aside alone.
pub fn ingest(connection: &mut Connection, deliveries: &[Delivery]) -> Result<Vec<Receipt>, StoreError> {
    // Immediate: who reads first and writes later can be refused in between.
    let mut transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let all: Vec<&Delivery> = deliveries.iter().collect();
    let receipts = match attempt(&mut transaction, &all) {
        Err(Fault::Content(_)) => {
            let mut receipts = Vec::with_capacity(deliveries.len());
            for delivery in deliveries {
                receipts.push(match alone(&mut transaction, delivery) {
                    Err(Fault::Content(_)) => piecemeal(&mut transaction, delivery)?,
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

fn piecemeal(transaction: &mut Transaction<'_>, delivery: &Delivery) -> Result<Receipt, Fault> {
    let mut receipts = Vec::new();
    for piece in plan::pieces(delivery) {
        receipts.push(match alone(transaction, &piece) {
            Err(Fault::Content(why)) => alone(transaction, &plan::put_aside(piece, &why))?,
            receipt => receipt?,
        });
    }
    Ok(plan::join(receipts))
}

fn alone(transaction: &mut Transaction<'_>, delivery: &Delivery) -> Result<Receipt, Fault> {
    let receipts = attempt(transaction, &[delivery])?;
    Ok(receipts.into_iter().next().unwrap_or_default())
}

/// All of `deliveries` under a savepoint, or nothing.
fn attempt(transaction: &mut Transaction<'_>, deliveries: &[&Delivery]) -> Result<Vec<Receipt>, Fault> {
    let savepoint = transaction.savepoint()?;
    // On a fault the savepoint is dropped, which rolls back to it.
    let receipts = apply(&savepoint, deliveries)?;
    savepoint.commit()?;
    Ok(receipts)
}

fn apply(on: &Connection, deliveries: &[&Delivery]) -> Result<Vec<Receipt>, Fault> {
    let mut books: BTreeMap<(AgentKey, Epoch), Book> = BTreeMap::new();
    let mut plans = Vec::with_capacity(deliveries.len());
    for delivery in deliveries {
        let book = match books.entry((delivery.agent, delivery.epoch)) {
            Entry::Occupied(book) => book.into_mut(),
            Entry::Vacant(place) => place.insert(open_book(on, delivery)?),
        };
        let plan = Plan::new(book, delivery);
        extend_dictionary(on, &plan)?;
        plans.push(plan);
    }
    let keys = point_keys(on, &plans)?;
    let sheet = Sheet::new(&mut plans, &keys)?;
    insert_readings(on, &sheet.rows)?;
    quarantine(on, &sheet)?;
    renew_latest(on, &sheet.newest)?;
    for plan in &plans {
        set_aside(on, plan)?;
        keep_gaps(on, plan)?;
        update_agent(on, plan)?;
    }
    for book in books.values() {
        close_book(on, book)?;
    }
    Ok(plans.into_iter().map(|plan| plan.receipt).collect())
}

fn open_book(on: &Connection, delivery: &Delivery) -> Result<Book, Fault> {
    let known = on.prepare_cached("select 1 from agents where agent = ?")?.exists([delivery.agent.0])?;
    if !known {
        let words = format!("no agent has the key {}", delivery.agent.0);
        return Err(Fault::Store(StoreError::Refused(words)));
    }
    on.prepare_cached("insert into epochs (agent, epoch) values (?, ?) on conflict do nothing")?
        .execute(params![delivery.agent.0, delivery.epoch.0])?;
    let sql = "select epoch_key, dictionary_revision, gaps_known, committed from epochs \
               where agent = ? and epoch = ?";
    let (key, revision, gaps, committed): (i64, u32, i64, Vec<u8>) =
        on.prepare_cached(sql)?.query_row(params![delivery.agent.0, delivery.epoch.0], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })?;
    let committed = committed::decode(&committed).ok_or_else(|| {
        let words = format!("the committed sequences of epoch {} are damaged", delivery.epoch);
        Fault::Store(StoreError::Refused(words))
    })?;
    Ok(Book { key, revision, gaps_known: gaps as u64, committed })
}

fn close_book(on: &Connection, book: &Book) -> Result<(), Fault> {
    let sql =
        "update epochs set committed = ?2, dictionary_revision = ?3, gaps_known = ?4 where epoch_key = ?1";
    let gaps = sieve::count(book.gaps_known);
    let committed = committed::encode(&book.committed);
    on.prepare_cached(sql)?.execute(params![book.key, committed, book.revision, gaps])?;
    Ok(())
}

fn extend_dictionary(on: &Connection, plan: &Plan<'_>) -> Result<(), Fault> {
    let upsert = "insert into points (agent, device, name, unit, kind, data_type, search) \
                  values (?, ?, ?, ?, ?, ?, ?) \
                  on conflict (agent, device, name) do update set unit = excluded.unit, kind = excluded.kind, \
                  data_type = excluded.data_type, search = excluded.search returning point";
    for (number, point) in &plan.entries {
        let Point { device, name, unit, kind, data_type } = point;
        let (device, name, unit) = (sieve::name(device), sieve::name(name), sieve::name(unit));
        let search = format!("{device}/{name} {unit}").to_lowercase();
        let values =
            params![plan.delivery.agent.0, device, name, unit, kind.word(), data_type.word(), search];
        let key: i64 = on.prepare_cached(upsert)?.query_row(values, |row| row.get(0))?;
        on.prepare_cached(
            "insert into dictionary (epoch_key, number, point) values (?, ?, ?) on conflict do nothing",
        )?
        .execute(params![plan.epoch_key, number, key])?;
    }
    Ok(())
}

fn point_keys(on: &Connection, plans: &[Plan<'_>]) -> Result<HashMap<(i64, u32), PointKey>, Fault> {
    let mut find = on.prepare_cached("select point from dictionary where epoch_key = ? and number = ?")?;
    let mut keys = HashMap::new();
    for plan in plans {
        for &number in &plan.used {
            let point = find.query_row(params![plan.epoch_key, number], |row| row.get(0)).optional()?;
            if let Some(point) = point {
                keys.insert((plan.epoch_key, number), PointKey(point));
            }
        }
    }
    Ok(keys)
}

fn insert_readings(on: &Connection, rows: &[Row<'_>]) -> Result<(), Fault> {
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

fn quarantine(on: &Connection, sheet: &Sheet<'_>) -> Result<(), Fault> {
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

fn renew_latest(on: &Connection, newest: &[Row<'_>]) -> Result<(), Fault> {
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

fn set_aside(on: &Connection, plan: &Plan<'_>) -> Result<(), Fault> {
    for aside in &plan.aside {
        // A number beyond the column's keeps its bits.
        let sequence = aside.sequence as i64;
        let why = sieve::text(&aside.why);
        on.prepare_cached(
            "insert into set_aside (epoch_key, sequence, bytes, reason, received) values (?, ?, ?, ?, ?) \
             on conflict do nothing",
        )?
        .execute(params![
            plan.epoch_key,
            sequence,
            aside.bytes.as_ref(),
            why,
            plan.delivery.received
        ])?;
    }
    Ok(())
}

fn keep_gaps(on: &Connection, plan: &Plan<'_>) -> Result<(), Fault> {
    for gap in &plan.gaps {
        on.prepare_cached("insert into gaps values (?, ?, ?, ?, ?, ?, ?) on conflict do nothing")?.execute(
            params![
                plan.epoch_key,
                sieve::count(gap.number),
                i32::try_from(gap.point).unwrap_or(i32::MAX),
                sieve::time(gap.from_us),
                sieve::time(gap.to_us),
                sieve::count(gap.count),
                gap.reason,
            ],
        )?;
    }
    Ok(())
}

fn update_agent(on: &Connection, plan: &Plan<'_>) -> Result<(), Fault> {
    let sql = "update agents set stored = stored + ?2, committed_batches = committed_batches + ?3, \
               set_aside = set_aside + ?4, \
               report = case when last_seen > ?5 then report else coalesce(?6, report) end, \
               epoch = case when last_seen > ?5 then epoch else ?7 end, \
               last_seen = max(coalesce(last_seen, ?5), ?5) where agent = ?1";
    let Delivery { agent, epoch, report, received, .. } = plan.delivery;
    let report = report.as_ref().map(Message::encode_to_vec);
    let counts = (plan.stored() as i64, plan.taken.len() as i64, plan.aside.len() as i64);
    on.prepare_cached(sql)?
        .execute(params![agent.0, counts.0, counts.1, counts.2, received, report, epoch.0])?;
    Ok(())
}
