//! The families of a transaction, read from SQLite and written back (see [`plan`]).

use std::collections::{BTreeSet, HashMap};

use forebay_protocols::sync::batch::Epoch;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::super::plan::{
    Border, Branch, Event, Failure, Families, Family, Former, Known, Ledger, Note, Plan, countable,
};
use super::super::{AgentKey, Delivery, PointKey, StoreError, sieve};
use super::values::pace;
use super::{committed, told};

const BRANCH: &str = "epoch_key, fork, parent, forked_at, forked_revision, forked_gaps, \
                      dictionary_revision, gaps_known, newest, stored, set_aside_readings, inherited, \
                      uncounted, stored_at_report, reported, backlog, drained, refilling, wiped, last_seen, \
                      came, shrank";

/// All that is known of the epochs of `deliveries` and of the openings they name.
pub fn open(on: &Connection, deliveries: &[&Delivery]) -> Result<Families, Failure> {
    let mut families = Families::of(deliveries);
    for family in families.iter_mut() {
        let agent = family.agent.0;
        let mut find = on.prepare_cached("select current from agents where agent = ?")?;
        let current: Option<Option<i64>> = find.query_row([agent], |row| row.get(0)).optional()?;
        let Some(current) = current else {
            return Err(Failure::Store(StoreError::Refused(format!("no agent has the key {agent}"))));
        };
        let sql =
            format!("select {BRANCH} from epochs where agent = ? and epoch = ? order by fork > 0, epoch_key");
        let mut find = on.prepare_cached(&sql)?;
        let mut rows = find.query(params![agent, family.epoch.0])?;
        while let Some(row) = rows.next()? {
            let branch = branch(row, family)?;
            family.branches.push(branch);
        }
        if let Some(current) = current.filter(|_| family.branches.is_empty()) {
            family.former = former(on, current)?;
        }
    }
    for delivery in deliveries {
        let Some(family) = families.get_mut(delivery.agent, delivery.epoch) else { continue };
        find_openings(on, family, delivery)?;
    }
    Ok(families)
}

fn branch(row: &Row<'_>, family: &Family) -> rusqlite::Result<Branch> {
    let count = |at| row.get::<_, i64>(at).map(|count| count as u64);
    let parent: Option<i64> = row.get(2)?;
    Ok(Branch {
        key: row.get(0)?,
        fork: row.get(1)?,
        parent: parent.and_then(|key| family.branches.iter().position(|branch| branch.key == key)),
        border: Border { first: count(3)?, revision: row.get(4)?, gaps: count(5)? },
        revision: row.get(6)?,
        gaps_known: count(7)?,
        newest: count(8)?,
        newest_before: count(8)?,
        ledger: Ledger {
            stored: count(9)?,
            set_aside: count(10)?,
            inherited: count(11)?,
            uncounted: row.get(12)?,
            stored_at_report: count(13)?,
            reported: row.get(14)?,
            report: None,
            backlog: count(15)?,
            pace: pace(row, 20)?,
            drained: row.get(16)?,
            refilling: row.get(17)?,
            wiped: row.get(18)?,
            last_seen: row.get(19)?,
        },
        ..Branch::default()
    })
}

fn former(on: &Connection, key: i64) -> Result<Option<Former>, Failure> {
    let sql = format!("select {BRANCH}, epoch, agent from epochs where epoch_key = ?");
    let mut find = on.prepare_cached(&sql)?;
    let read = |row: &Row<'_>| {
        let epoch = Epoch(row.get(22)?);
        let Branch { fork, ledger, .. } = branch(row, &Family::new(AgentKey(row.get(23)?), epoch))?;
        Ok(Former::new(key, epoch, fork, &ledger))
    };
    Ok(find.query_row([key], read).optional()?)
}

fn find_openings(on: &Connection, family: &mut Family, delivery: &Delivery) -> Result<(), Failure> {
    let sql = "select until_first, until_revision, until_gaps from openings where epoch_key = ? and id = ?";
    let mut find = on.prepare_cached(sql)?;
    for id in delivery.openings() {
        for (at, branch) in family.branches.iter().enumerate() {
            let until = find
                .query_row(params![branch.key, id], |row| {
                    let first: Option<i64> = row.get(0)?;
                    Ok(match first {
                        None => None,
                        Some(first) => Some(Border {
                            first: first as u64,
                            revision: row.get(1)?,
                            gaps: row.get::<_, i64>(2)? as u64,
                        }),
                    })
                })
                .optional()?;
            if let Some(until) = until {
                family.openings.insert(id, Known { branch: at, until });
            }
        }
    }
    Ok(())
}

/// Makes the branches that are new, and writes down the openings.
pub fn settle(on: &Connection, families: &mut Families) -> Result<(), Failure> {
    for family in families.iter_mut() {
        for at in 0..family.branches.len() {
            if family.branches[at].key == 0 {
                make_branch(on, family, at)?;
            }
        }
        let keep = "insert into openings (epoch_key, id, parent, first, revision, gaps, blind, \
                    until_first, until_revision, until_gaps) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        for heard in &family.heard {
            let Some(known) = family.openings.get(&heard.id) else { continue };
            let (begins, until) = (heard.begins, known.until);
            on.prepare_cached(keep)?.execute(params![
                family.branches[known.branch].key,
                heard.id,
                heard.parent,
                begins.first as i64,
                begins.revision,
                begins.gaps as i64,
                heard.blind,
                until.map(|until| until.first as i64),
                until.map(|until| until.revision),
                until.map(|until| until.gaps as i64),
            ])?;
        }
        let alter = "update openings set epoch_key = ?3, until_first = ?4, until_revision = ?5, \
                     until_gaps = ?6 where epoch_key = ?1 and id = ?2";
        for id in &family.altered {
            let Some(Known { branch, until }) = family.openings.get(id) else { continue };
            let key = family.branches[*branch].key;
            for from in &family.branches {
                on.prepare_cached(alter)?.execute(params![
                    from.key,
                    id,
                    key,
                    until.map(|until| until.first as i64),
                    until.map(|until| until.revision),
                    until.map(|until| until.gaps as i64),
                ])?;
            }
        }
    }
    Ok(())
}

fn make_branch(on: &Connection, family: &mut Family, at: usize) -> Result<(), Failure> {
    let parent = family.branches[at].parent.map(|parent| &family.branches[parent]);
    let border = family.branches[at].border;
    let mut inherited = 0;
    if let Some(parent) = parent {
        // What the other one has beyond the border is not common, as far back as is known of each batch.
        let sql = "select coalesce(sum(readings), 0) from fingerprints where epoch_key = ? and sequence >= ?";
        let own: i64 =
            on.prepare_cached(sql)?.query_row(params![parent.key, border.first as i64], |row| row.get(0))?;
        inherited = parent.ledger.booked().saturating_sub(own as u64);
    }
    let sql = "insert into epochs (agent, epoch, fork, parent, forked_at, forked_revision, forked_gaps) \
               values (?1, ?2, case when ?3 is null then 0 \
               else (select coalesce(max(fork), 0) + 1 from epochs where agent = ?1) end, ?3, ?4, ?5, ?6) \
               returning epoch_key, fork";
    let (key, fork) = on.prepare_cached(sql)?.query_row(
        params![
            family.agent.0,
            family.epoch.0,
            parent.map(|parent| parent.key),
            border.first as i64,
            border.revision,
            border.gaps as i64
        ],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let branch = &mut family.branches[at];
    (branch.key, branch.fork) = (key, fork);
    branch.ledger.inherited = inherited;
    branch.touched = true;
    Ok(())
}

/// Reads what is known of the sequences in hand, and for those who greet of all others.
pub fn recall(
    on: &Connection,
    families: &mut Families,
    deliveries: &[&Delivery],
    seats: &[Option<usize>],
) -> Result<(), Failure> {
    let asked = families.asked(deliveries, seats);
    let mut of: BTreeSet<i64> = asked.iter().map(|(key, _)| *key).collect();
    of.extend(families.greeted(deliveries, seats).into_iter().map(|(key, _)| key));
    let mut find = on.prepare_cached("select committed, epoch from epochs where epoch_key = ?")?;
    for key in of {
        let Some(branch) = families.branch_mut(key) else { continue };
        let (bytes, epoch): (Vec<u8>, [u8; 16]) =
            find.query_row([key], |row| Ok((row.get(0)?, row.get(1)?)))?;
        branch.committed = committed::decode(&bytes).ok_or_else(|| {
            let words = format!("the committed sequences of epoch {} are damaged", Epoch(epoch));
            Failure::Store(StoreError::Refused(words))
        })?;
    }
    let print = "select checksum from fingerprints where epoch_key = ? and sequence = ?";
    let aside = "select checksum from set_aside where epoch_key = ? and sequence = ?";
    for (key, sequence) in asked {
        let Some(branch) = families.branch_mut(key) else { continue };
        let number = sequence as u64;
        // Of a new one nothing is kept.
        if countable(number).is_some() && !branch.committed.contains(number) {
            continue;
        }
        let kept: Option<u32> =
            on.prepare_cached(print)?.query_row(params![key, sequence], |row| row.get(0)).optional()?;
        branch.prints.extend(kept.map(|checksum| (number, checksum)));
        let mut find = on.prepare_cached(aside)?;
        let kept = find.query_map(params![key, sequence], |row| row.get(0))?;
        for checksum in kept {
            branch.aside.insert((number, checksum?));
        }
    }
    Ok(())
}

/// Writes what the transaction made of the families.
pub fn close(on: &Connection, families: &Families, plans: &[Plan<'_>]) -> Result<(), Failure> {
    let mut keep = on.prepare_cached("insert or replace into fingerprints values (?, ?, ?, ?)")?;
    for print in plans.iter().flat_map(|plan| &plan.prints) {
        keep.execute(params![print.branch, print.sequence, print.checksum, print.readings])?;
    }
    let sql = "update epochs set committed = coalesce(?2, committed), dictionary_revision = ?3, \
               gaps_known = ?4, newest = ?5, stored = ?6, set_aside_readings = ?7, inherited = ?8, \
               uncounted = ?9, stored_at_report = ?10, reported = ?11, report = coalesce(?12, report), \
               backlog = ?13, drained = ?14, refilling = ?15, wiped = ?16, last_seen = ?17, \
               came = ?18, shrank = ?19 \
               where epoch_key = ?1";
    for branch in families.branches().filter(|branch| branch.touched) {
        let ledger = &branch.ledger;
        on.prepare_cached(sql)?.execute(params![
            branch.key,
            (!branch.fresh.is_empty()).then(|| committed::encode(&branch.committed)),
            branch.revision,
            sieve::count(branch.gaps_known),
            sieve::count(branch.newest),
            sieve::count(ledger.stored),
            sieve::count(ledger.set_aside),
            sieve::count(ledger.inherited),
            ledger.uncounted,
            sieve::count(ledger.stored_at_report),
            ledger.reported,
            ledger.report,
            sieve::count(ledger.backlog),
            ledger.drained,
            ledger.refilling,
            ledger.wiped,
            ledger.last_seen,
            ledger.pace.map(|pace| pace.came),
            ledger.pace.map(|pace| pace.shrank),
        ])?;
        if let Some(below) = branch.prune_below() {
            on.prepare_cached("delete from fingerprints where epoch_key = ? and sequence < ?")?
                .execute(params![branch.key, below])?;
        }
    }
    Ok(())
}

/// Tells of what a person should know.
pub fn tell(on: &Connection, families: &Families) -> Result<(), Failure> {
    for family in families.iter() {
        for (event, _) in &family.events {
            match event {
                Event::Wiped(former) => {
                    let sql = "insert into gaps (epoch_key, number, entry, from_time, to_time, count, reason) \
                               select ?1, min(coalesce(min(number), 0), 0) - 1, 0, ?2, ?3, ?4, ?5 \
                               from gaps where epoch_key = ?1";
                    on.prepare_cached(sql)?.execute(params![
                        former.key,
                        former.from(),
                        former.reported,
                        sieve::count(former.held),
                        Former::REASON,
                    ])?;
                    on.prepare_cached("update epochs set wiped = 1 where epoch_key = ?")?
                        .execute([former.key])?;
                }
                Event::Returned(at) => {
                    on.prepare_cached("delete from gaps where epoch_key = ? and number < 0")?
                        .execute([family.branches[*at].key])?;
                }
                _ => {}
            }
        }
        for note in family.notes() {
            match note {
                Note::Raise(fault) => told::raise(on, &fault)?,
                Note::Clear { agent, kind, subject, at } => told::clear(on, agent, kind, &subject, at)?,
            }
        }
    }
    Ok(())
}

/// Gives the fork `key` points of its own for the numbers of its dictionary that it uses for the first
/// time, and did not name itself.
pub fn inherit(
    on: &Connection,
    families: &Families,
    wanted: &BTreeSet<(i64, u32)>,
    keys: &mut HashMap<(i64, u32), PointKey>,
) -> Result<(), Failure> {
    let copy = "insert into points (agent, device, name, unit, kind, data_type, search, fork) \
                select agent, device, name, unit, kind, data_type, search, ?3 \
                from points p join dictionary d on d.point = p.point where d.epoch_key = ?1 and d.number = ?2 \
                on conflict (agent, device, name, fork) do update set unit = excluded.unit returning point";
    for &(key, number) in wanted {
        let Some((from, fork)) = families.inherited(key, number) else { continue };
        let point: Option<i64> =
            on.prepare_cached(copy)?.query_row(params![from, number, fork], |row| row.get(0)).optional()?;
        let Some(point) = point else { continue };
        on.prepare_cached("insert into dictionary (epoch_key, number, point) values (?, ?, ?)")?
            .execute(params![key, number, point])?;
        keys.insert((key, number), PointKey(point));
    }
    Ok(())
}
