//! Rollups are what their readings come to, in whatever order these came, and nobody sees that they
//! are there, but for the time an answer takes.

use std::sync::Arc;
use std::time::Duration;

use forebay_protocols::reading::{Fault, Quality, Value};
use forebay_server::store::{AgentKey, Bucket, Delivery, Grain, Micros, PointKey, Query, Store, Timed};

use crate::place::{NOW, Place, SECOND, agent, batch, delivery, delivery_of, float, reading};

pub const MINUTE: Micros = 60 * SECOND;
pub const HOUR: Micros = 60 * MINUTE;
pub const DAY: Micros = 24 * HOUR;
/// When everything that the tests store is long over.
pub const LATER: Micros = NOW + 40 * DAY;

/// A small generator, the same on every machine; it prints its seed.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let seed = std::env::var("FOREBAY_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| getrandom::u64().unwrap());
        println!("FOREBAY_TEST_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// Makes everything that is due at `now`; how many buckets of each grain were written.
pub async fn roll_all(store: &Arc<dyn Store>, now: Micros) -> [u64; 3] {
    let mut written = [0; 3];
    for grain in Grain::ALL {
        loop {
            let progress = store.roll_up(grain, now, 7_000).await.unwrap();
            assert!(!progress.busy, "nobody else is at it");
            written[grain as usize] += progress.written;
            if !progress.more {
                break;
            }
        }
    }
    written
}

pub async fn ask(
    store: &Arc<dyn Store>,
    point: PointKey,
    from: Micros,
    to: Micros,
    step: Micros,
) -> Vec<Bucket> {
    let query = Query { points: vec![point], from, to, step, most: 100_000 };
    store.query(&query).await.unwrap().remove(0).1
}

/// Stores a batch in each of two stores, and gives the keys of its points in both.
struct Twins {
    stores: [Arc<dyn Store>; 2],
    agents: [AgentKey; 2],
    sequence: u64,
}

impl Twins {
    /// The store of the place, and one in SQLite that never makes a rollup.
    async fn new(one: Arc<dyn Store>, other: Arc<dyn Store>) -> Self {
        let agents = [agent(&one, "gate").await, agent(&other, "gate").await];
        let twins = Self { stores: [one, other], agents, sequence: 0 };
        for (store, agent) in twins.stores.iter().zip(twins.agents) {
            store.ingest(vec![delivery_of(agent, 3, vec![])]).await.unwrap();
        }
        twins
    }

    async fn store(&mut self, mut readings: Vec<Timed>) {
        self.sequence += 1;
        readings.sort_by_key(|reading| (reading.point, reading.time));
        for (store, agent) in self.stores.iter().zip(self.agents) {
            let delivery =
                Delivery { batches: vec![batch(self.sequence, readings.clone())], ..delivery(agent) };
            store.ingest(vec![delivery]).await.unwrap();
        }
    }

    async fn compare(&self, point: i64, from: Micros, to: Micros, step: Micros) {
        let [one, other] = &self.stores;
        let (found, wanted) = (
            ask(one, PointKey(point), from, to, step).await,
            ask(other, PointKey(point), from, to, step).await,
        );
        assert_eq!(found, wanted, "point {point}, {from}..{to} by {step}");
    }
}

/// Readings of three points around `at`; times never repeat, so that the last one is certain.
fn some(dice: &mut Dice, at: Micros, taken: &mut Micros) -> Vec<Timed> {
    let many = 1 + dice.below(40);
    let one = |_| {
        let time = at + dice.below(7_200) as i64 * SECOND + *taken;
        *taken += 1;
        let value = match dice.below(6) {
            0 => None,
            1 => Some(Value::Boolean(dice.below(2) == 0)),
            2 => Some(Value::Text(["off", "on"][dice.below(2) as usize].into())),
            // Whole numbers: their sums are the same in any order.
            3 => Some(Value::Integer(dice.below(1_000) as i64 - 500)),
            _ => Some(Value::Float(dice.below(1_000) as f64)),
        };
        let quality = if dice.below(5) == 0 { Quality::Bad(Fault::Silent) } else { Quality::Good };
        reading(1 + dice.below(3) as u32, time, value, quality)
    };
    (0..many).map(one).collect()
}

pub async fn a_query_is_answered_as_if_there_were_no_rollups(place: Arc<Place>) {
    let (mut dice, never_rolled) = (Dice::new(), Place::sqlite());
    let mut twins = Twins::new(place.open().await, never_rolled.open().await).await;
    let mut taken = 0;
    for _ in 0..60 {
        match dice.below(3) {
            // Mostly around now, and some of it late by up to three days.
            0 => {
                let late = if dice.below(2) == 0 { dice.below(72) as i64 * HOUR } else { 0 };
                twins.store(some(&mut dice, NOW - late, &mut taken)).await;
            }
            1 => {
                let grain = Grain::ALL[dice.below(3) as usize];
                let now = if dice.below(3) == 0 { NOW } else { LATER };
                twins.stores[0].roll_up(grain, now, 1 + dice.below(500)).await.unwrap();
            }
            _ => {
                let from = NOW - 3 * DAY + dice.below(4 * 86_400) as i64 * SECOND;
                let to = from + dice.below(3 * 86_400) as i64 * SECOND;
                let step =
                    [30 * SECOND, MINUTE, 5 * MINUTE, HOUR, 2 * HOUR, DAY, 7 * DAY][dice.below(7) as usize];
                twins.compare(1 + dice.below(3) as i64, from, to, step).await;
            }
        }
    }
    roll_all(&twins.stores[0], LATER).await;
    assert_eq!(place.number("select count(*) from rollups_due").await, 0);
    for point in 1..=3 {
        for step in [MINUTE, HOUR, DAY] {
            twins.compare(point, NOW - 4 * DAY, NOW + 2 * DAY, step).await;
        }
    }
}

pub async fn late_readings_make_exactly_their_buckets_anew(place: Arc<Place>) {
    let store = place.open().await;
    let agent = agent(&store, "gate").await;
    let day = |point| (0..1_440).map(move |n| float(point, NOW + n * MINUTE, n as f64));
    let readings = (1..=2).flat_map(day).collect();
    let receipts = store.ingest(vec![delivery_of(agent, 2, vec![batch(1, readings)])]).await.unwrap();
    assert_eq!(place.number("select count(*) from rollups_due").await, 1, "one note a batch");
    assert_eq!(roll_all(&store, LATER).await, [2_880, 48, 2]);
    assert_eq!(roll_all(&store, LATER).await, [0; 3], "what is made is made");

    let late = vec![float(2, NOW + 3 * HOUR + 7 * MINUTE + 1, 9_000.0)];
    let late = Delivery { batches: vec![batch(2, late)], ..delivery(agent) };
    store.ingest(vec![late]).await.unwrap();
    // It is in the answer before it is in a rollup.
    let key = receipts[0].points[1].1;
    let rows = ask(&store, key, NOW, NOW + DAY, DAY).await;
    assert_eq!((rows.len(), rows[0].count, rows[0].max), (1, 1_441, Some(9_000.0)));
    assert_eq!(roll_all(&store, LATER).await, [1, 1, 1]);
    assert_eq!(ask(&store, key, NOW, NOW + DAY, DAY).await, rows);
    let sum = "select cast(sum(count) as bigint) from";
    for table in ["rollup_minutes", "rollup_hours", "rollup_days"] {
        assert_eq!(place.number(&format!("{sum} {table}")).await, 2_881, "{table}");
    }
}

pub async fn a_spike_of_one_reading_shows_in_the_chart_of_years(place: Arc<Place>) {
    let store = place.open().await;
    let agent = agent(&store, "gate").await;
    let from = NOW - 2 * 365 * DAY;
    let mut readings: Vec<Timed> = (0..730 * 6).map(|n| float(1, from + n * 4 * HOUR, 20.0)).collect();
    readings.push(float(1, from + 1_000 * HOUR + 1, 999.0));
    readings.sort_by_key(|reading| reading.time);
    let receipts = store.ingest(vec![delivery_of(agent, 1, vec![batch(1, readings)])]).await.unwrap();
    roll_all(&store, LATER).await;
    let rows = ask(&store, receipts[0].points[0].1, from, NOW, 30 * DAY).await;
    assert!(rows.len() < 30);
    assert_eq!(rows.iter().filter_map(|row| row.max).fold(0.0, f64::max), 999.0);
    assert_eq!(rows.iter().map(|row| row.count).sum::<u64>(), 730 * 6 + 1);
}

pub async fn the_present_minute_waits_until_it_is_over(place: Arc<Place>) {
    let store = place.open().await;
    let agent = agent(&store, "gate").await;
    for n in 0..5 {
        let fresh = batch(n + 1, vec![float(1, NOW + n as i64 * 10 * SECOND, n as f64)]);
        store.ingest(vec![delivery_of(agent, 1, vec![fresh])]).await.unwrap();
        assert_eq!(roll_all(&store, NOW + 50 * SECOND).await, [0; 3]);
    }
    assert_eq!(roll_all(&store, NOW + 85 * SECOND).await, [1, 0, 0], "once for five batches");
    assert_eq!(roll_all(&store, NOW + HOUR + MINUTE).await, [0, 1, 0], "its hour is over");
    assert_eq!(roll_all(&store, NOW + DAY + MINUTE).await, [0, 0, 1]);
}

pub async fn several_servers_and_interruptions_make_the_same_rollups(place: Arc<Place>) {
    let (mut dice, never_rolled) = (Dice::new(), Place::sqlite());
    let mut twins = Twins::new(place.open().await, never_rolled.open().await).await;
    let other = place.open().await;
    let mut taken = 0;
    for _ in 0..12 {
        let at = NOW - dice.below(48) as i64 * HOUR;
        twins.store(some(&mut dice, at, &mut taken)).await;
        for grain in Grain::ALL {
            let patience = Duration::from_micros(dice.below(4_000));
            let most = 1 + dice.below(200);
            // Two at once, of which one is given up in the middle.
            let (_, done) = tokio::join!(
                tokio::time::timeout(patience, twins.stores[0].roll_up(grain, LATER, most)),
                other.roll_up(grain, LATER, most),
            );
            done.unwrap();
        }
    }
    // What was given up may hold its lock for a moment longer.
    let mut left = 1;
    for _ in 0..200 {
        for grain in Grain::ALL {
            other.roll_up(grain, LATER, 10_000).await.unwrap();
        }
        left = place.number("select count(*) from rollups_due").await;
        if left == 0 {
            break;
        }
    }
    assert_eq!(left, 0);
    for point in 1..=3 {
        for step in [MINUTE, HOUR, DAY] {
            twins.compare(point, NOW - 3 * DAY, NOW + DAY, step).await;
        }
    }
}
