//! The families of a transaction, read from PostgreSQL and written back (see [`plan`]). What every
//! transaction needs goes in a statement or two, whatever the number of batches; what is rare goes
//! row by row.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use deadpool_postgres::Transaction;
use forebay_protocols::sync::batch::Epoch;
use tokio::try_join;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::super::plan::{
    Border, Branch, Event, Failure, Families, Family, Former, Known, Ledger, MOST_RANGES, Note, Plan,
    countable,
};
use super::super::{AgentKey, Delivery, OpeningId, StoreError, sieve};
use super::ingest::run;
use super::told;
use super::values::{Moment, pace};

const BRANCH: &str = "e.epoch_key, fork, e.parent, forked_at, forked_revision, forked_gaps, \
                      dictionary_revision, gaps_known, newest, stored, set_aside_readings, inherited, \
                      uncounted, stored_at_report, reported, backlog, drained, refilling, wiped, \
                      e.last_seen, agent, e.epoch, came, shrank";

const LOCK: &str = "select agent, current from agents where agent = any($1) order by agent for no key update";

/// Locks the agents in ascending order, and says from which branch each wrote last. Whoever writes an
/// agent's epochs, dictionary, points or latest values holds this lock, so nothing else of it needs
/// one, and no two servers wait for each other.
pub async fn lock(
    on: &Transaction<'_>,
    deliveries: &[&Delivery],
) -> Result<BTreeMap<AgentKey, Option<i64>>, Failure> {
    let wanted: BTreeSet<i64> = deliveries.iter().map(|delivery| delivery.agent.0).collect();
    let agents: Vec<i64> = wanted.iter().copied().collect();
    let mut found = BTreeMap::new();
    for row in run(on, LOCK, &[&agents]).await? {
        found.insert(AgentKey(row.try_get(0)?), row.try_get(1)?);
    }
    let missing: Vec<_> = wanted.iter().filter(|agent| !found.contains_key(&AgentKey(**agent))).collect();
    match missing.is_empty() {
        true => Ok(found),
        false => Err(Failure::Store(StoreError::Refused(format!("no agent has the key {missing:?}")))),
    }
}

/// Locks the agents (see [`lock`]), and reads all that is known of the epochs of `deliveries` and of
/// the openings they name.
pub async fn open(on: &Transaction<'_>, deliveries: &[&Delivery]) -> Result<Families, Failure> {
    let mut families = Families::of(deliveries);
    let agents: Vec<i64> = families.iter().map(|family| family.agent.0).collect();
    let epochs: Vec<[u8; 16]> = families.iter().map(|family| family.epoch.0).collect();
    let epochs: Vec<&[u8]> = epochs.iter().map(<[u8; 16]>::as_slice).collect();
    let ids: BTreeSet<OpeningId> = deliveries.iter().flat_map(|delivery| delivery.openings()).collect();
    let ids: Vec<&[u8]> = ids.iter().map(<[u8; 8]>::as_slice).collect();
    // A branch comes once for each of its openings that is named, and once if none is.
    let sql = format!(
        "select {BRANCH}, upper(committed), o.id, until_first, until_revision, until_gaps from epochs e \
         join unnest($1::bigint[], $2::bytea[]) as w(of, epoch) on e.agent = w.of and e.epoch = w.epoch \
         left join openings o on o.epoch_key = e.epoch_key and o.id = any($3) \
         order by fork > 0, e.epoch_key"
    );
    // Sent behind the lock without waiting for its answer: the database takes one after the other, and
    // each statement sees what was committed before it began. What is not prepared yet would overtake.
    on.prepare_cached(LOCK).await?;
    on.prepare_cached(&sql).await?;
    let with: [&(dyn ToSql + Sync); 3] = [&agents, &epochs, &ids];
    let (current, rows) = try_join!(biased; lock(on, deliveries), run(on, &sql, &with))?;
    for row in rows {
        let epoch: &[u8] = row.try_get(21)?;
        let Ok(epoch) = epoch.try_into() else { continue };
        let Some(family) = families.get_mut(AgentKey(row.try_get(20)?), Epoch(epoch)) else { continue };
        let key: i64 = row.try_get(0)?;
        if family.branches.last().is_none_or(|last| last.key != key) {
            let end = row.try_get::<_, Option<i64>>(24)?.unwrap_or_default() as u64;
            let branch = Branch { end, ..branch(&row, family)? };
            family.branches.push(branch);
        }
        if let Some(id) = row.try_get::<_, Option<&[u8]>>(25)?.and_then(|id| id.try_into().ok()) {
            let until = match row.try_get::<_, Option<i64>>(26)? {
                None => None,
                Some(first) => Some(Border {
                    first: first as u64,
                    revision: row.try_get::<_, i32>(27)? as u32,
                    gaps: row.try_get::<_, i64>(28)? as u64,
                }),
            };
            let branch = family.branches.len() - 1;
            family.openings.insert(id, Known { branch, until });
        }
    }
    for family in families.iter_mut().filter(|family| family.branches.is_empty()) {
        if let Some(key) = current.get(&family.agent).copied().flatten() {
            family.former = former(on, key).await?;
        }
    }
    Ok(families)
}

fn branch(row: &Row, family: &Family) -> Result<Branch, Failure> {
    let count = |at: usize| row.try_get::<_, i64>(at).map(|count| count as u64);
    let parent: Option<i64> = row.try_get(2)?;
    Ok(Branch {
        key: row.try_get(0)?,
        fork: row.try_get::<_, i32>(1)? as u32,
        parent: parent.and_then(|key| family.branches.iter().position(|branch| branch.key == key)),
        border: Border { first: count(3)?, revision: row.try_get::<_, i32>(4)? as u32, gaps: count(5)? },
        revision: row.try_get::<_, i32>(6)? as u32,
        gaps_known: count(7)?,
        newest: count(8)?,
        newest_before: count(8)?,
        ledger: Ledger {
            stored: count(9)?,
            set_aside: count(10)?,
            inherited: count(11)?,
            uncounted: row.try_get(12)?,
            stored_at_report: count(13)?,
            reported: row.try_get::<_, Option<Moment>>(14)?.map(|moment| moment.0),
            report: None,
            backlog: count(15)?,
            pace: pace(row, 22)?,
            drained: row.try_get::<_, Moment>(16)?.0,
            refilling: row.try_get(17)?,
            wiped: row.try_get(18)?,
            last_seen: row.try_get::<_, Moment>(19)?.0,
        },
        ..Branch::default()
    })
}

async fn former(on: &Transaction<'_>, key: i64) -> Result<Option<Former>, Failure> {
    let sql = format!("select {BRANCH} from epochs e where epoch_key = $1");
    let rows = run(on, &sql, &[&key]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let Ok(epoch) = row.try_get::<_, &[u8]>(21)?.try_into() else { return Ok(None) };
    let family = Family::new(AgentKey(row.try_get(20)?), Epoch(epoch));
    let Branch { fork, ledger, .. } = branch(row, &family)?;
    Ok(Some(Former::new(key, family.epoch, fork, &ledger)))
}

/// Makes the branches that are new, and writes down the openings.
pub async fn settle(on: &Transaction<'_>, families: &mut Families) -> Result<(), Failure> {
    for family in families.iter_mut() {
        for at in 0..family.branches.len() {
            if family.branches[at].key == 0 {
                make_branch(on, family, at).await?;
            }
        }
        let keep = "insert into openings (epoch_key, id, parent, first, revision, gaps, blind, \
                    until_first, until_revision, until_gaps) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
        for heard in &family.heard {
            let Some(known) = family.openings.get(&heard.id) else { continue };
            let key = family.branches[known.branch].key;
            let (id, parent) = (heard.id.as_slice(), heard.parent.as_ref().map(<[u8; 8]>::as_slice));
            let begins = spread(Some(heard.begins));
            let until = spread(known.until);
            run(
                on,
                keep,
                &[
                    &key,
                    &id,
                    &parent,
                    &begins.0,
                    &begins.1,
                    &begins.2,
                    &heard.blind,
                    &until.0,
                    &until.1,
                    &until.2,
                ],
            )
            .await?;
        }
        let alter = "update openings set epoch_key = $3, until_first = $4, until_revision = $5, \
                     until_gaps = $6 where epoch_key = any($1) and id = $2";
        let keys: Vec<i64> = family.branches.iter().map(|branch| branch.key).collect();
        for id in &family.altered {
            let Some(known) = family.openings.get(id) else { continue };
            let (key, id) = (family.branches[known.branch].key, id.as_slice());
            let until = spread(known.until);
            run(on, alter, &[&keys, &id, &key, &until.0, &until.1, &until.2]).await?;
        }
    }
    Ok(())
}

fn spread(border: Option<Border>) -> (Option<i64>, Option<i32>, Option<i64>) {
    (
        border.map(|border| border.first as i64),
        border.map(|border| border.revision as i32),
        border.map(|border| border.gaps as i64),
    )
}

async fn make_branch(on: &Transaction<'_>, family: &mut Family, at: usize) -> Result<(), Failure> {
    let parent = family.branches[at].parent.map(|parent| &family.branches[parent]);
    let parent_key = parent.map(|parent| parent.key);
    let border = family.branches[at].border;
    let (first, gaps, revision) = (border.first as i64, border.gaps as i64, border.revision as i32);
    let mut inherited = 0;
    if let Some(parent) = parent {
        // What the other one has beyond the border is not common, as far back as is known of each batch.
        let sql = "select coalesce(sum(readings), 0)::bigint from fingerprints \
                   where epoch_key = $1 and sequence >= $2";
        let rows = run(on, sql, &[&parent.key, &first]).await?;
        let own: i64 = rows.first().map(|row| row.try_get(0)).transpose()?.unwrap_or_default();
        inherited = parent.ledger.booked().saturating_sub(own as u64);
    }
    let sql = "insert into epochs (agent, epoch, fork, parent, forked_at, forked_revision, forked_gaps) \
               values ($1, $2, case when $3::bigint is null then 0 \
               else (select coalesce(max(fork), 0) + 1 from epochs where agent = $1) end, $3, $4, $5, $6) \
               returning epoch_key, fork";
    let (agent, epoch) = (family.agent.0, family.epoch.0.as_slice());
    let branch = &mut family.branches[at];
    for row in run(on, sql, &[&agent, &epoch, &parent_key, &first, &revision, &gaps]).await? {
        (branch.key, branch.fork) = (row.try_get(0)?, row.try_get::<_, i32>(1)? as u32);
    }
    branch.ledger.inherited = inherited;
    branch.touched = true;
    Ok(())
}

/// Reads what is known of the sequences in hand, and for those who greet of the highest others. Only
/// what is asked for: the whole set may be large when much is still under way.
pub async fn recall(
    on: &Transaction<'_>,
    families: &mut Families,
    deliveries: &[&Delivery],
    seats: &[Option<usize>],
) -> Result<(), Failure> {
    let mut asked = families.asked(deliveries, seats);
    // Fresh batches in order, as they mostly come, are beyond all that is committed.
    let ends: HashMap<i64, u64> = families.branches().map(|b| (b.key, b.end)).collect();
    asked.retain(|(key, sequence)| {
        countable(*sequence as u64).is_none_or(|_| ends.get(key).is_none_or(|end| (*sequence as u64) < *end))
    });
    let (of, sequences): (Vec<i64>, Vec<i64>) = asked.into_iter().unzip();
    let mut known = (Vec::new(), Vec::new());
    if !sequences.is_empty() {
        // Numbers that no buffer gives are never committed; they may have been set aside.
        let sql = "select w.epoch_key, sequence, e.committed @> sequence \
                   from unnest($1::bigint[], $2::bigint[]) as w(epoch_key, sequence) \
                   join epochs e on e.epoch_key = w.epoch_key \
                   where e.committed @> sequence or sequence <= 0 or sequence = 9223372036854775807";
        for row in run(on, sql, &[&of, &sequences]).await? {
            let (key, sequence): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
            known.0.push(key);
            known.1.push(sequence);
            if let Some(branch) = families.branch_mut(key).filter(|_| sequence > 0) {
                branch.committed.insert(sequence as u64..=sequence as u64);
            }
        }
    }
    if !known.0.is_empty() {
        let sql = "with w as (select * from unnest($1::bigint[], $2::bigint[]) as w(epoch_key, sequence)) \
                   select epoch_key, sequence, checksum, true from fingerprints \
                   join w using (epoch_key, sequence) \
                   union all select epoch_key, sequence, checksum, false from set_aside \
                   join w using (epoch_key, sequence)";
        for row in run(on, sql, &[&known.0, &known.1]).await? {
            let Some(branch) = families.branch_mut(row.try_get(0)?) else { continue };
            let sequence = row.try_get::<_, i64>(1)? as u64;
            let checksum = row.try_get::<_, i64>(2)? as u32;
            match row.try_get(3)? {
                true => drop(branch.prints.insert(sequence, checksum)),
                false => drop(branch.aside.insert((sequence, checksum))),
            }
        }
    }
    for (key, below) in families.greeted(deliveries, seats) {
        let sql = "select lower(range), upper(range) from epochs, unnest(committed) as range \
                   where epoch_key = $1 and lower(range) < $2 order by range desc limit $3";
        let (below, most) = (sieve::count(below), MOST_RANGES as i64);
        let ranges = run(on, sql, &[&key, &below, &(most + 1)]).await?;
        let Some(branch) = families.branch_mut(key) else { continue };
        branch.more_ranges = ranges.len() > MOST_RANGES;
        for range in &ranges {
            let (first, end): (i64, i64) = (range.try_get(0)?, range.try_get(1)?);
            branch.committed.insert(first as u64..=(end - 1) as u64);
        }
    }
    Ok(())
}

/// Writes what the transaction made of the families: one statement for all branches and batches.
pub async fn close(on: &Transaction<'_>, families: &Families, plans: &[Plan<'_>]) -> Result<(), Failure> {
    let touched: Vec<&Branch> = families.branches().filter(|branch| branch.touched).collect();
    if touched.is_empty() {
        return Ok(());
    }
    let (mut of, mut first, mut last) = (Vec::new(), Vec::<i64>::new(), Vec::<i64>::new());
    for branch in &touched {
        let mut fresh = branch.fresh.clone();
        fresh.sort_unstable();
        for run in fresh.chunk_by(|a, b| a + 1 == *b) {
            of.push(branch.key);
            first.extend(run.first());
            last.extend(run.last());
        }
    }
    let prints = || plans.iter().flat_map(|plan| &plan.prints);
    let print_of: Vec<i64> = prints().map(|print| print.branch).collect();
    let print_sequences: Vec<i64> = prints().map(|print| print.sequence).collect();
    let checksums: Vec<i64> = prints().map(|print| print.checksum.into()).collect();
    let counts: Vec<i64> = prints().map(|print| print.readings.into()).collect();

    let column = |of: fn(&Branch) -> u64| touched.iter().map(|b| sieve::count(of(b))).collect::<Vec<i64>>();
    let moment = |of: fn(&Branch) -> i64| touched.iter().map(|b| Moment(of(b))).collect::<Vec<_>>();
    let flag = |of: fn(&Branch) -> bool| touched.iter().map(|b| of(b)).collect::<Vec<bool>>();
    let keys: Vec<i64> = touched.iter().map(|branch| branch.key).collect();
    let revisions: Vec<i32> = touched.iter().map(|branch| branch.revision as i32).collect();
    let (gaps, newest) = (column(|b| b.gaps_known), column(|b| b.newest));
    let (stored, aside) = (column(|b| b.ledger.stored), column(|b| b.ledger.set_aside));
    let (inherited, at_report) = (column(|b| b.ledger.inherited), column(|b| b.ledger.stored_at_report));
    let backlog = column(|b| b.ledger.backlog);
    let came: Vec<Option<f64>> = touched.iter().map(|b| b.ledger.pace.map(|pace| pace.came)).collect();
    let shrank: Vec<Option<f64>> = touched.iter().map(|b| b.ledger.pace.map(|pace| pace.shrank)).collect();
    let uncounted = flag(|b| b.ledger.uncounted);
    let (refilling, wiped) = (flag(|b| b.ledger.refilling), flag(|b| b.ledger.wiped));
    let (drained, seen) = (moment(|b| b.ledger.drained), moment(|b| b.ledger.last_seen));
    let reported: Vec<Option<Moment>> = touched.iter().map(|b| b.ledger.reported.map(Moment)).collect();
    let reports: Vec<Option<&[u8]>> = touched.iter().map(|b| b.ledger.report.as_deref()).collect();
    let sql = "with kept as (insert into fingerprints (epoch_key, sequence, checksum, readings) \
                 select * from unnest($4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[]) \
                 on conflict do nothing), \
               added as (select epoch_key, range_agg(int8range(first, last, '[]')) as fresh \
                 from unnest($1::bigint[], $2::bigint[], $3::bigint[]) as f(epoch_key, first, last) \
                 group by epoch_key) \
               update epochs e set \
                 committed = case when a.fresh is null then e.committed else e.committed + a.fresh end, \
                 dictionary_revision = w.revision, gaps_known = w.gaps, newest = w.newest, \
                 stored = w.stored, set_aside_readings = w.aside, inherited = w.inherited, \
                 uncounted = w.uncounted, stored_at_report = w.at_report, reported = w.reported, \
                 report = coalesce(w.report, e.report), backlog = w.backlog, drained = w.drained, \
                 refilling = w.refilling, wiped = w.wiped, last_seen = w.seen, came = w.came, \
                 shrank = w.shrank \
               from unnest($8::bigint[], $9::int[], $10::bigint[], $11::bigint[], $12::bigint[], \
                 $13::bigint[], $14::bigint[], $15::bool[], $16::bigint[], $17::timestamptz[], \
                 $18::bytea[], $19::bigint[], $20::timestamptz[], $21::bool[], $22::bool[], \
                 $23::timestamptz[], $24::float8[], $25::float8[]) as w(epoch_key, revision, gaps, newest, stored, aside, inherited, \
                 uncounted, at_report, reported, report, backlog, drained, refilling, wiped, seen, came, \
                 shrank) \
               left join added a on a.epoch_key = w.epoch_key where e.epoch_key = w.epoch_key";
    run(
        on,
        sql,
        &[
            &of,
            &first,
            &last,
            &print_of,
            &print_sequences,
            &checksums,
            &counts,
            &keys,
            &revisions,
            &gaps,
            &newest,
            &stored,
            &aside,
            &inherited,
            &uncounted,
            &at_report,
            &reported,
            &reports,
            &backlog,
            &drained,
            &refilling,
            &wiped,
            &seen,
            &came,
            &shrank,
        ],
    )
    .await?;
    Ok(())
}

/// Clears away checksums that are too old to be asked for.
pub async fn prune(on: &Transaction<'_>, families: &Families) -> Result<(), Failure> {
    let old = |branch: &Branch| Some((branch.key, branch.prune_below()?));
    let (keys, below): (Vec<i64>, Vec<i64>) =
        families.branches().filter(|branch| branch.touched).filter_map(old).unzip();
    if keys.is_empty() {
        return Ok(());
    }
    let sql = "delete from fingerprints f using unnest($1::bigint[], $2::bigint[]) as old(epoch_key, below) \
               where f.epoch_key = old.epoch_key and f.sequence < old.below";
    run(on, sql, &[&keys, &below]).await?;
    Ok(())
}

/// Tells of what a person should know.
pub async fn tell(on: &Transaction<'_>, families: &Families) -> Result<(), Failure> {
    for family in families.iter() {
        for (event, _) in &family.events {
            match event {
                Event::Wiped(former) => {
                    let sql = "insert into gaps (epoch_key, number, entry, from_time, to_time, count, reason) \
                               select $1, least(coalesce(min(number), 0), 0) - 1, 0, $2, $3, $4, $5 \
                               from gaps where epoch_key = $1";
                    let (from, to) = (Moment(former.from()), Moment(former.reported));
                    let held = sieve::count(former.held);
                    run(on, sql, &[&former.key, &from, &to, &held, &Former::REASON]).await?;
                    run(on, "update epochs set wiped = true where epoch_key = $1", &[&former.key]).await?;
                }
                Event::Returned(at) => {
                    let sql = "delete from gaps where epoch_key = $1 and number < 0";
                    run(on, sql, &[&family.branches[*at].key]).await?;
                }
                _ => {}
            }
        }
        for note in family.notes() {
            match note {
                Note::Raise(fault) => told::raise(on, &fault).await?,
                Note::Clear { agent, kind, subject, at } => {
                    told::clear(on, agent, kind, &subject, at).await?;
                }
            }
        }
    }
    Ok(())
}
