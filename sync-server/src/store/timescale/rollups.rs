//! Rollups in PostgreSQL (see [`super::super::rollups`]): what is due, rows out, rows in. One server at a
//! time is at it; the others find the advisory lock taken and come back later. Ingest waits for nothing
//! here: a step only reads readings.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::pin::pin;

use deadpool_postgres::{Client, GenericClient, Transaction};
use forebay_protocols::reading::Value;
use futures::TryStreamExt;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::super::plan::Failure;
use super::super::rollups::{Due, Gatherer, Grain, Horizons, Made, Piece, Points, Ripe, Rolled, Stale, Work};
use super::super::upkeep::Progress;
use super::super::{AgentKey, Micros, PointKey};
use super::ingest::run;
use super::values::{Columns, Moment, quality, value};

/// Dues looked at in one step.
const DUES: i64 = 8_192;
/// The number of the lock that a step of rollups or of retention holds: "rollups" in ASCII.
const LOCK: i64 = 0x72_6f6c_6c75_7073;
/// Of a rollup's table, but for point and time.
const COLUMNS: &str = "count, good, numbers, quality, sum, min, max, first_value, first_whole, first_state, \
                       first_text, last_value, last_whole, last_state, last_text";

/// Notes what became due, in the transaction that made it so.
pub async fn note(on: &Transaction<'_>, dues: &[Due], noted: Micros) -> Result<(), Failure> {
    if dues.is_empty() {
        return Ok(());
    }
    let agents: Vec<i64> = dues.iter().map(|due| due.agent.0).collect();
    let grains: Vec<i16> = dues.iter().map(|due| due.grain.number()).collect();
    let first: Vec<i64> = dues.iter().map(|due| due.first).collect();
    let last: Vec<i64> = dues.iter().map(|due| due.last).collect();
    let points: Vec<Vec<u8>> = dues.iter().map(|due| due.points.encode()).collect();
    let sql = "insert into rollups_due (agent, grain, first, last, points, noted) \
               select *, $6::bigint from unnest($1::bigint[], $2::smallint[], $3::bigint[], $4::bigint[], \
               $5::bytea[])";
    run(on, sql, &[&agents, &grains, &first, &last, &points, &noted]).await?;
    Ok(())
}

/// Is no other server at rollups or retention? Holds until the end of the transaction.
pub async fn alone(on: &Transaction<'_>) -> Result<bool, Failure> {
    let rows = run(on, "select pg_try_advisory_xact_lock($1)", &[&LOCK]).await?;
    Ok(rows.first().map(|row| row.try_get(0)).transpose()?.unwrap_or(false))
}

pub async fn roll_up(client: &mut Client, grain: Grain, now: Micros, most: u64) -> Result<Progress, Failure> {
    let on = client.transaction().await?;
    if !alone(&on).await? {
        return Ok(Progress { busy: true, ..Progress::default() });
    }
    let Ripe { dues, oldest } = ripe(&on, grain, now).await?;
    if dues.is_empty() {
        return Ok(Progress { oldest, ..Progress::default() });
    }
    let work = Work::new(&dues, grain, most);
    let (mut gatherer, mut read) = (Gatherer::new(grain), 0);
    for piece in &work.pieces {
        read += gather(&on, &mut gatherer, grain, piece).await?;
    }
    let points: BTreeSet<i64> = work.pieces.iter().flat_map(|piece| &piece.points).copied().collect();
    let points: Vec<i32> = points.into_iter().map(|point| point as i32).collect();
    let made = gatherer.finish(&horizons(&on, &points).await?);
    let (added, new): (Vec<&Made>, Vec<&Made>) = made.iter().partition(|made| made.added);
    write(&on, grain, &new, false).await?;
    write(&on, grain, &added, true).await?;
    run(&on, "delete from rollups_due where due = any($1)", &[&work.done]).await?;
    if let Some((number, first)) = work.shortened {
        run(&on, "update rollups_due set first = $2 where due = $1", &[&number, &first]).await?;
    }
    note(&on, &work.next, now).await?;
    on.commit().await?;
    let more = work.shortened.is_some() || work.done.len() < dues.len() || dues.len() as i64 == DUES;
    Ok(Progress { busy: false, read, written: made.len() as u64, more, oldest })
}

async fn ripe(on: &Transaction<'_>, grain: Grain, now: Micros) -> Result<Ripe, Failure> {
    let (before, old) = grain.ripe(now);
    let sql = "select due, agent, grain, first, last, points, noted from rollups_due \
               where grain = $1 and (last < $2 or noted <= $3 or noted > $4) order by due limit $5";
    let (mut dues, mut oldest, mut all) = (Vec::new(), None::<Micros>, BTreeMap::<AgentKey, Vec<i64>>::new());
    for row in run(on, sql, &[&grain.number(), &before, &old, &now, &DUES]).await? {
        let noted: Micros = row.try_get(6)?;
        oldest = Some(oldest.map_or(noted, |oldest| oldest.min(noted)));
        let Some(mut due) = due(&row, 1)? else { continue };
        if due.points == Points::All {
            if let Entry::Vacant(place) = all.entry(due.agent) {
                let sql = "select point from points where agent = $1 order by point";
                let rows = run(on, sql, &[&due.agent.0]).await?;
                let points = rows.iter().map(|row| Ok(row.try_get::<_, i32>(0)?.into()));
                place.insert(points.collect::<Result<_, Failure>>()?);
            }
            due.points = Points::These(all.get(&due.agent).cloned().unwrap_or_default());
        }
        dues.push((row.try_get(0)?, due));
    }
    Ok(Ripe { dues, oldest })
}

/// A due of the columns from `first` on; nothing for a grain of a newer server.
fn due(row: &Row, first: usize) -> Result<Option<Due>, Failure> {
    let Some(grain) = Grain::of(row.try_get(first + 1)?) else { return Ok(None) };
    Ok(Some(Due {
        agent: AgentKey(row.try_get(first)?),
        grain,
        first: row.try_get(first + 2)?,
        last: row.try_get(first + 3)?,
        points: Points::decode(row.try_get(first + 4)?),
    }))
}

/// Source rows of a piece into the gatherer, one at a time; how many.
async fn gather(
    on: &Transaction<'_>,
    gatherer: &mut Gatherer,
    grain: Grain,
    piece: &Piece,
) -> Result<u64, Failure> {
    let points: Vec<i32> = piece.points.iter().map(|&point| point as i32).collect();
    let (from, to) = (Moment(piece.from), Moment(piece.to));
    let with: [&(dyn ToSql + Sync); 3] = [&points, &from, &to];
    let within = "where point = any($1) and time >= $2 and time < $3";
    let sql = match grain.finer() {
        None => format!("select point, time, quality, value, whole, state, text from readings {within}"),
        Some(finer) => format!("select point, time, {COLUMNS} from {} {within}", finer.table()),
    };
    let statement = on.prepare_cached(&sql).await?;
    let mut rows = pin!(on.query_raw(&statement, with).await?);
    let mut read = 0;
    while let Some(row) = rows.try_next().await? {
        let key = PointKey(row.try_get::<_, i32>(0)?.into());
        match grain.finer() {
            None => {
                let time = row.try_get::<_, Moment>(1)?.0;
                gatherer.reading(key, time, value(&row, 3)?, quality(row.try_get(2)?));
            }
            Some(_) => gatherer.rolled(key, rolled(&row)?),
        }
        read += 1;
    }
    Ok(read)
}

/// A row of (point, time, [`COLUMNS`]).
fn rolled(row: &Row) -> Result<Rolled, tokio_postgres::Error> {
    Ok(Rolled {
        time: row.try_get::<_, Moment>(1)?.0,
        count: row.try_get::<_, i64>(2)? as u64,
        good: row.try_get::<_, i64>(3)? as u64,
        numbers: row.try_get::<_, i64>(4)? as u64,
        quality: quality(row.try_get(5)?),
        sum: row.try_get(6)?,
        min: row.try_get(7)?,
        max: row.try_get(8)?,
        first: value(row, 9)?,
        last: value(row, 13)?,
    })
}

/// Buckets of one point, by time, until `take` has enough.
pub async fn buckets(
    client: &Client,
    grain: Grain,
    point: i32,
    (from, to): (Micros, Micros),
    mut take: impl FnMut(Rolled) -> bool,
) -> Result<(), Failure> {
    let sql = format!(
        "select point, time, {COLUMNS} from {} where point = $1 and time >= $2 and time < $3 order by time",
        grain.table()
    );
    let statement = client.prepare_cached(&sql).await?;
    let (from, to) = (Moment(from), Moment(to));
    let with: [&(dyn ToSql + Sync); 3] = [&point, &from, &to];
    let mut rows = pin!(client.query_raw(&statement, with).await?);
    while let Some(row) = rows.try_next().await? {
        if !take(rolled(&row)?) {
            break;
        }
    }
    Ok(())
}

/// Buckets of one point gathered to longer ones where they are, by time: what [`Rolled::follow`] makes of them.
/// The key leads to the first and last value, which else would cost two more looks at all rows.
pub async fn gathered(
    client: &Client,
    grain: Grain,
    point: i32,
    (from, to): (Micros, Micros),
    (step, most): (Micros, usize),
) -> Result<Vec<Rolled>, Failure> {
    let table = grain.table();
    let sql = format!(
        "with bucket as (select \
           date_bin($4::bigint * interval '1 microsecond', time, timestamptz 'epoch') as begin, \
           sum(count)::bigint as count, sum(good)::bigint as good, sum(numbers)::bigint as numbers, \
           max(quality) as quality, sum(sum) as sum, min(min) as min, max(max) as max, \
           min(time) filter (where num_nonnulls(first_value, first_whole, first_state, first_text) > 0) \
             as first, \
           max(time) filter (where num_nonnulls(last_value, last_whole, last_state, last_text) > 0) as last \
           from {table} where point = $1 and time >= $2 and time < $3 group by 1 order by 1 limit $5) \
         select $1, b.begin, b.count, b.good, b.numbers, b.quality, b.sum, b.min, b.max, \
           f.first_value, f.first_whole, f.first_state, f.first_text, \
           l.last_value, l.last_whole, l.last_state, l.last_text from bucket b \
         left join lateral (select * from {table} t where t.point = $1 and t.time = b.first limit 1) f on true \
         left join lateral (select * from {table} t where t.point = $1 and t.time = b.last limit 1) l on true \
         order by b.begin"
    );
    let statement = client.prepare_cached(&sql).await?;
    let (from, to, most) = (Moment(from), Moment(to), super::read::limit(most));
    let rows = client.query(&statement, &[&point, &from, &to, &step, &most]).await?;
    Ok(rows.iter().map(rolled).collect::<Result<_, _>>()?)
}

/// Values over their four columns.
#[derive(Default)]
struct Values<'a> {
    values: Vec<Option<f64>>,
    wholes: Vec<Option<i64>>,
    states: Vec<Option<bool>>,
    texts: Vec<Option<std::borrow::Cow<'a, str>>>,
}

impl<'a> FromIterator<Option<&'a Value>> for Values<'a> {
    fn from_iter<I: IntoIterator<Item = Option<&'a Value>>>(values: I) -> Self {
        let mut spread = Self::default();
        for value in values {
            let Columns { value, whole, state, text } = value.into();
            spread.values.push(value);
            spread.wholes.push(whole);
            spread.states.push(state);
            spread.texts.push(text);
        }
        spread
    }
}

async fn write(on: &Transaction<'_>, grain: Grain, made: &[&Made], add: bool) -> Result<(), Failure> {
    // A statement's arrays are held whole.
    for made in made.chunks(20_000) {
        let points: Vec<i32> = made.iter().map(|made| made.point.0 as i32).collect();
        let times: Vec<Moment> = made.iter().map(|made| Moment(made.rolled.time)).collect();
        let counts: Vec<i64> = made.iter().map(|made| made.rolled.count as i64).collect();
        let good: Vec<i64> = made.iter().map(|made| made.rolled.good as i64).collect();
        let numbers: Vec<i64> = made.iter().map(|made| made.rolled.numbers as i64).collect();
        let qualities: Vec<i16> = made.iter().map(|made| made.rolled.quality.code().into()).collect();
        let sums: Vec<f64> = made.iter().map(|made| made.rolled.sum).collect();
        let min: Vec<Option<f64>> = made.iter().map(|made| made.rolled.min).collect();
        let max: Vec<Option<f64>> = made.iter().map(|made| made.rolled.max).collect();
        let first: Values<'_> = made.iter().map(|made| made.rolled.first.as_ref()).collect();
        let last: Values<'_> = made.iter().map(|made| made.rolled.last.as_ref()).collect();
        let sql = format!(
            "insert into {} as r (point, time, {COLUMNS}) select * from unnest($1::int[], $2::timestamptz[], \
             $3::bigint[], $4::bigint[], $5::bigint[], $6::smallint[], $7::float8[], $8::float8[], \
             $9::float8[], $10::float8[], $11::bigint[], $12::bool[], $13::text[], $14::float8[], \
             $15::bigint[], $16::bool[], $17::text[]) on conflict (point, time) do update set {}",
            grain.table(),
            if add { ADD } else { REPLACE }
        );
        let with: [&(dyn ToSql + Sync); 17] = [
            &points,
            &times,
            &counts,
            &good,
            &numbers,
            &qualities,
            &sums,
            &min,
            &max,
            &first.values,
            &first.wholes,
            &first.states,
            &first.texts,
            &last.values,
            &last.wholes,
            &last.states,
            &last.texts,
        ];
        run(on, &sql, &with).await?;
        if add {
            let sql = format!(
                "delete from {} s using unnest($1::int[], $2::timestamptz[]) as b(point, begin) \
                 where s.point = b.point and s.time >= b.begin and s.time < b.begin + \
                 $3::bigint * interval '1 microsecond'",
                grain.finer().map_or("readings", Grain::table)
            );
            run(on, &sql, &[&points, &times, &grain.length()]).await?;
        }
    }
    Ok(())
}

const REPLACE: &str = "count = excluded.count, good = excluded.good, numbers = excluded.numbers, \
    quality = excluded.quality, sum = excluded.sum, min = excluded.min, max = excluded.max, \
    first_value = excluded.first_value, first_whole = excluded.first_whole, \
    first_state = excluded.first_state, first_text = excluded.first_text, \
    last_value = excluded.last_value, last_whole = excluded.last_whole, \
    last_state = excluded.last_state, last_text = excluded.last_text";

/// Values of one row must not mix with those of the other: they stand together or not at all.
const ADD: &str = "count = r.count + excluded.count, good = r.good + excluded.good, \
    numbers = r.numbers + excluded.numbers, quality = greatest(r.quality, excluded.quality), \
    sum = r.sum + excluded.sum, min = least(r.min, excluded.min), max = greatest(r.max, excluded.max), \
    (first_value, first_whole, first_state, first_text) = (select \
      case when told then r.first_value else excluded.first_value end, \
      case when told then r.first_whole else excluded.first_whole end, \
      case when told then r.first_state else excluded.first_state end, \
      case when told then r.first_text else excluded.first_text end \
      from (select num_nonnulls(r.first_value, r.first_whole, r.first_state, r.first_text) > 0 as told) t), \
    (last_value, last_whole, last_state, last_text) = (select \
      case when told then r.last_value else excluded.last_value end, \
      case when told then r.last_whole else excluded.last_whole end, \
      case when told then r.last_state else excluded.last_state end, \
      case when told then r.last_text else excluded.last_text end \
      from (select num_nonnulls(r.last_value, r.last_whole, r.last_state, r.last_text) > 0 as told) t)";

/// Where retention has been with these points; those it never met are left out.
pub async fn horizons(
    on: &impl GenericClient,
    points: &[i32],
) -> Result<HashMap<PointKey, Horizons>, Failure> {
    let sql = "select point, readings, minutes, hours from horizons where point = any($1)";
    let statement = on.prepare_cached(sql).await?;
    let mut found = HashMap::new();
    for row in on.query(&statement, &[&points]).await? {
        let horizons =
            Horizons { readings: row.try_get(1)?, minutes: row.try_get(2)?, hours: row.try_get(3)? };
        found.insert(PointKey(row.try_get::<_, i32>(0)?.into()), horizons);
    }
    Ok(found)
}

/// Which buckets of these points are not what their readings come to.
pub async fn stale(client: &Client, points: &[i32]) -> Result<HashMap<PointKey, Stale>, Failure> {
    let sql = "select agent, grain, first, last, points from rollups_due \
               where agent in (select agent from points where point = any($1))";
    let statement = client.prepare_cached(sql).await?;
    // Keys count over all agents, so a due of another agent holds none of these points, but for one of
    // all points: whose these are must be known.
    let owners = client.prepare_cached("select point, agent from points where point = any($1)").await?;
    let rows = client.query(&owners, &[&points]).await?;
    let owners: Result<Vec<(i32, i64)>, tokio_postgres::Error> =
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect();
    let owners = owners?;
    let mut found: HashMap<PointKey, Stale> = HashMap::new();
    for row in client.query(&statement, &[&points]).await? {
        let Some(due) = due(&row, 0)? else { continue };
        for (point, agent) in &owners {
            if *agent == due.agent.0 && due.points.hold(i64::from(*point)) {
                found.entry(PointKey(i64::from(*point))).or_default().add(&due);
            }
        }
    }
    Ok(found)
}
