//! Rollups in SQLite (see [`super::super::rollups`]): what is due, rows in, rows out. A step runs on
//! the writer's thread, so it is kept short by who asks for it.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};

use super::super::plan::Failure;
use super::super::rollups::{
    Due, Gatherer, Grain, Horizons, Made, Piece, Points, Ripe, Rolled, Source, Stale, Work,
};
use super::super::upkeep::{Progress, Removal, Removed};
use super::super::{AgentKey, Micros, PointKey, StoreError};
use super::values::{column, quality, value};

/// Dues looked at in one step.
const DUES: i64 = 4_096;
/// Free pages given back to the disk in one step: 16 MiB.
const PAGES: u32 = 4_096;

/// Notes what became due, in the transaction that made it so.
pub fn note(on: &Connection, dues: &[Due], noted: Micros) -> Result<(), Failure> {
    let sql = "insert into rollups_due (agent, grain, first, last, points, noted) values (?, ?, ?, ?, ?, ?)";
    for Due { agent, grain, first, last, points } in dues {
        on.prepare_cached(sql)?.execute(params![
            agent.0,
            grain.number(),
            first,
            last,
            points.encode(),
            noted
        ])?;
    }
    Ok(())
}

pub fn roll_up(
    connection: &mut Connection,
    grain: Grain,
    now: Micros,
    most: u64,
) -> Result<Progress, Failure> {
    let on = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let Ripe { dues, oldest } = ripe(&on, grain, now)?;
    let work = Work::new(&dues, grain, most);
    let (mut gatherer, mut read) = (Gatherer::new(grain), 0);
    let mut points = BTreeSet::new();
    for Piece { points: of, from, to } in &work.pieces {
        for &point in of {
            points.insert(point);
            read += gather(&on, &mut gatherer, grain, point, *from, *to)?;
        }
    }
    let horizons = horizons(&on, points.into_iter())?;
    let made = gatherer.finish(&horizons);
    write(&on, grain, &made)?;
    for number in &work.done {
        on.prepare_cached("delete from rollups_due where due = ?")?.execute([number])?;
    }
    if let Some((number, first)) = work.shortened {
        on.prepare_cached("update rollups_due set first = ? where due = ?")?.execute([first, number])?;
    }
    note(&on, &work.next, now)?;
    on.commit()?;
    let more = work.shortened.is_some() || work.done.len() < dues.len() || dues.len() as i64 == DUES;
    Ok(Progress { busy: false, read, written: made.len() as u64, more, oldest })
}

fn ripe(on: &Connection, grain: Grain, now: Micros) -> Result<Ripe, Failure> {
    let (before, old) = grain.ripe(now);
    let sql = "select due, agent, grain, first, last, points, noted from rollups_due \
               where grain = ?1 and (last < ?2 or noted <= ?3 or noted > ?4) order by due limit ?5";
    let mut find = on.prepare_cached(sql)?;
    let mut rows = find.query(params![grain.number(), before, old, now, DUES])?;
    let (mut dues, mut oldest, mut all) = (Vec::new(), None::<Micros>, BTreeMap::new());
    while let Some(row) = rows.next()? {
        let noted: Micros = row.get(6)?;
        oldest = Some(oldest.map_or(noted, |oldest| oldest.min(noted)));
        let Some(mut due) = due(row, 1)? else { continue };
        if due.points == Points::All {
            if let Entry::Vacant(place) = all.entry(due.agent) {
                let mut of = on.prepare_cached("select point from points where agent = ? order by point")?;
                let points: Vec<i64> =
                    of.query_map([due.agent.0], |row| row.get(0))?.collect::<Result<_, _>>()?;
                place.insert(points);
            }
            due.points = Points::These(all.get(&due.agent).cloned().unwrap_or_default());
        }
        dues.push((row.get(0)?, due));
    }
    Ok(Ripe { dues, oldest })
}

/// A due of the columns from `first` on; nothing for a grain of a newer server.
fn due(row: &Row<'_>, first: usize) -> rusqlite::Result<Option<Due>> {
    let Some(grain) = Grain::of(row.get(first + 1)?) else { return Ok(None) };
    let points: Vec<u8> = row.get(first + 4)?;
    Ok(Some(Due {
        agent: AgentKey(row.get(first)?),
        grain,
        first: row.get(first + 2)?,
        last: row.get(first + 3)?,
        points: Points::decode(&points),
    }))
}

/// Source rows of one point into the gatherer; how many.
fn gather(
    on: &Connection,
    gatherer: &mut Gatherer,
    grain: Grain,
    point: i64,
    from: Micros,
    to: Micros,
) -> Result<u64, Failure> {
    let (key, mut read) = (PointKey(point), 0);
    match grain.finer() {
        None => {
            let sql = "select time, quality, value from readings where point = ? and time >= ? and time < ?";
            let mut find = on.prepare_cached(sql)?;
            let mut rows = find.query(params![point, from, to])?;
            while let Some(row) = rows.next()? {
                gatherer.reading(key, row.get(0)?, value(row.get_ref(2)?), quality(row.get(1)?));
                read += 1;
            }
        }
        Some(finer) => rolled(on, finer, point, from, to, |rolled| {
            gatherer.rolled(key, rolled);
            read += 1;
            true
        })?,
    }
    Ok(read)
}

/// Buckets of one point, by time, until `take` has enough.
pub fn rolled(
    on: &Connection,
    grain: Grain,
    point: i64,
    from: Micros,
    to: Micros,
    mut take: impl FnMut(Rolled) -> bool,
) -> Result<(), Failure> {
    let sql = format!(
        "select time, count, good, numbers, quality, sum, min, max, first, last from {} \
         where point = ? and time >= ? and time < ? order by time",
        grain.table()
    );
    let mut find = on.prepare_cached(&sql)?;
    let mut rows = find.query(params![point, from, to])?;
    while let Some(row) = rows.next()? {
        let rolled = Rolled {
            time: row.get(0)?,
            count: row.get::<_, i64>(1)? as u64,
            good: row.get::<_, i64>(2)? as u64,
            numbers: row.get::<_, i64>(3)? as u64,
            quality: quality(row.get(4)?),
            sum: row.get::<_, Option<f64>>(5)?.unwrap_or(f64::NAN),
            min: row.get(6)?,
            max: row.get(7)?,
            first: value(row.get_ref(8)?),
            last: value(row.get_ref(9)?),
        };
        if !take(rolled) {
            break;
        }
    }
    Ok(())
}

fn write(on: &Connection, grain: Grain, made: &[Made]) -> Result<(), Failure> {
    let insert = format!(
        "insert into {} (point, time, count, good, numbers, quality, sum, min, max, first, last) \
         values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) on conflict (point, time) do update set",
        grain.table()
    );
    let replace = format!(
        "{insert} count = excluded.count, good = excluded.good, numbers = excluded.numbers, \
         quality = excluded.quality, sum = excluded.sum, min = excluded.min, max = excluded.max, \
         first = excluded.first, last = excluded.last"
    );
    let add = format!(
        "{insert} count = count + excluded.count, good = good + excluded.good, \
         numbers = numbers + excluded.numbers, quality = max(quality, excluded.quality), \
         sum = sum + excluded.sum, min = coalesce(min(min, excluded.min), min, excluded.min), \
         max = coalesce(max(max, excluded.max), max, excluded.max), \
         first = coalesce(first, excluded.first), last = coalesce(last, excluded.last)"
    );
    let source = grain.finer().map_or("readings", Grain::table);
    let remove = format!("delete from {source} where point = ? and time >= ? and time < ?");
    for Made { point, rolled, added } in made {
        let Rolled { time, count, good, numbers, quality, sum, min, max, first, last } = rolled;
        on.prepare_cached(if *added { &add } else { &replace })?.execute(params![
            point.0,
            time,
            *count as i64,
            *good as i64,
            *numbers as i64,
            quality.code(),
            Some(*sum).filter(|sum| !sum.is_nan()),
            min,
            max,
            column(first.as_ref()),
            column(last.as_ref()),
        ])?;
        if *added {
            on.prepare_cached(&remove)?.execute(params![point.0, time, time + grain.length()])?;
        }
    }
    Ok(())
}

/// Where retention has been with these points; those it never met are left out.
pub fn horizons(
    on: &Connection,
    points: impl Iterator<Item = i64>,
) -> Result<HashMap<PointKey, Horizons>, Failure> {
    let mut find = on.prepare_cached("select readings, minutes, hours from horizons where point = ?")?;
    let mut found = HashMap::new();
    for point in points {
        let read =
            |row: &Row<'_>| Ok(Horizons { readings: row.get(0)?, minutes: row.get(1)?, hours: row.get(2)? });
        if let Some(horizons) = find.query_row([point], read).optional()? {
            found.insert(PointKey(point), horizons);
        }
    }
    Ok(found)
}

/// Which buckets of a point are not what its readings come to.
pub fn stale(on: &Connection, point: i64) -> Result<Stale, Failure> {
    let sql = "select agent, grain, first, last, points from rollups_due \
               where agent = (select agent from points where point = ?)";
    let mut find = on.prepare_cached(sql)?;
    let mut rows = find.query([point])?;
    let mut stale = Stale::default();
    while let Some(row) = rows.next()? {
        if let Some(due) = due(row, 0)?.filter(|due| due.points.hold(point)) {
            stale.add(&due);
        }
    }
    Ok(stale)
}

pub fn remove(connection: &mut Connection, removal: &Removal) -> Result<Removed, Failure> {
    let Removal { source, points, before, stretch } = removal;
    let (table, column, next, length) = match source {
        Source::Readings => ("readings", Some("readings"), Some(Grain::Minutes), Grain::Minutes.length()),
        Source::Rollup(grain) => {
            let horizon = match grain {
                Grain::Minutes => Some("minutes"),
                Grain::Hours => Some("hours"),
                Grain::Days => None,
            };
            (grain.table(), horizon, grain.coarser(), Grain::Days.length())
        }
    };
    let on = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut lowest: Option<Micros> = None;
    {
        let mut first = on.prepare_cached(&format!("select min(time) from {table} where point = ?"))?;
        for point in points {
            let low: Option<Micros> = first.query_row([point.0], |row| row.get(0))?;
            lowest = [lowest, low].into_iter().flatten().min();
        }
    }
    // A step ends where no bucket of the next grain is cut in two.
    let length = next.map_or(length, Grain::length);
    let upto = lowest.map_or(*before, |lowest| {
        let end = lowest.saturating_add(*stretch).div_euclid(length) * length + length;
        end.min(*before)
    });
    let waits = "select exists (select 1 from rollups_due where grain <= ?1 and first * \
                 case grain when 0 then 60000000 when 1 then 3600000000 else 86400000000 end < ?2 \
                 and agent = (select agent from points where point = ?3))";
    if let Some(next) = next {
        for point in points {
            let with = params![next.number(), upto, point.0];
            if on.prepare_cached(waits)?.query_row(with, |row| row.get(0))? {
                return Ok(Removed { waits: true, ..Removed::default() });
            }
        }
    }
    let mut rows = 0;
    for point in points {
        let sql = format!("delete from {table} where point = ? and time < ?");
        rows += on.prepare_cached(&sql)?.execute(params![point.0, upto])? as u64;
        if let Some(column) = column {
            let sql = format!(
                "insert into horizons (point, {column}) values (?, ?) on conflict (point) \
                 do update set {column} = max({column}, excluded.{column})"
            );
            on.prepare_cached(&sql)?.execute(params![point.0, upto])?;
        }
    }
    on.commit()?;
    if rows > 0 {
        give_back(connection)?;
    }
    Ok(Removed { rows, more: upto < *before, ..Removed::default() })
}

/// Free pages to the disk, a few at a time, from a file that was made for it.
fn give_back(on: &Connection) -> Result<(), Failure> {
    let mut pages = on.prepare(&format!("pragma incremental_vacuum({PAGES})"))?;
    let mut rows = pages.query([])?;
    while rows.next()?.is_some() {}
    Ok(())
}

/// What the file takes, its log included.
pub fn bytes(on: &Connection, path: &std::path::Path) -> Result<u64, StoreError> {
    let pages: i64 =
        on.query_row("select page_count * page_size from pragma_page_count, pragma_page_size", [], |row| {
            row.get(0)
        })?;
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    Ok(pages as u64 + std::fs::metadata(&log).map_or(0, |log| log.len()))
}
