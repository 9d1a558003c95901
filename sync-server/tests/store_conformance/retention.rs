//! Retention takes what was asked for and is rolled up, and nothing else.

use std::sync::Arc;

use forebay_server::store::{
    AgentKey, Delivery, Grain, Horizons, Micros, PointKey, Removal, Source, Store, Tier,
};

use crate::place::{NOW, Place, SECOND, agent, batch, delivery, delivery_of, float};
use crate::rollups::{DAY, HOUR, LATER, MINUTE, ask, roll_all};

/// Four days of two points, a reading every ten minutes.
async fn four_days(store: &Arc<dyn Store>) -> (AgentKey, [PointKey; 2]) {
    let agent = agent(store, "gate").await;
    let of = |point| (0..4 * 144).map(move |n| float(point, NOW + n * 10 * MINUTE, n as f64));
    let readings = (1..=2).flat_map(of).collect();
    let receipts = store.ingest(vec![delivery_of(agent, 2, vec![batch(1, readings)])]).await.unwrap();
    (agent, [receipts[0].points[0].1, receipts[0].points[1].1])
}

fn removal(source: Source, points: &[PointKey], before: Micros) -> Removal {
    Removal { source, points: points.to_vec(), before, stretch: 5 * HOUR }
}

/// Removes in steps until there is nothing more; how many rows went.
async fn remove(store: &Arc<dyn Store>, removal: Removal) -> u64 {
    let mut rows = 0;
    for _ in 0..1_000 {
        let removed = store.remove(&removal).await.unwrap();
        assert!(!removed.waits, "all is rolled up");
        rows += removed.rows;
        if !removed.more {
            return rows;
        }
    }
    panic!("it comes to no end");
}

async fn readings(place: &Place) -> i64 {
    place.number("select count(*) from readings").await
}

pub async fn nothing_goes_that_is_not_rolled_up(place: Arc<Place>) {
    let store = place.open().await;
    let (agent, points) = four_days(&store).await;
    let all = removal(Source::Readings, &points, NOW + 2 * DAY);
    assert!(store.remove(&all).await.unwrap().waits);
    assert_eq!(store.drop_before(NOW + 2 * DAY).await.unwrap(), None);
    assert_eq!(readings(&place).await, 1_152);

    roll_all(&store, LATER).await;
    // A late reading comes: what it touches waits again.
    let late = batch(2, vec![float(1, NOW + HOUR, 5.0)]);
    store.ingest(vec![Delivery { batches: vec![late], ..delivery(agent) }]).await.unwrap();
    assert!(store.remove(&all).await.unwrap().waits);
    assert_eq!(readings(&place).await, 1_153);
    roll_all(&store, LATER).await;
    assert_eq!(remove(&store, all).await, 577);
    assert_eq!(readings(&place).await, 576);
}

pub async fn what_goes_stays_in_rollups_and_in_the_books(place: Arc<Place>) {
    let store = place.open().await;
    let (_, points) = four_days(&store).await;
    roll_all(&store, LATER).await;
    let days = ask(&store, points[0], NOW, NOW + 4 * DAY, DAY).await;
    let hours = ask(&store, points[0], NOW, NOW + 4 * DAY, HOUR).await;
    let ledgers = format!("{:?}", store.ledgers(None).await.unwrap());

    assert_eq!(remove(&store, removal(Source::Readings, &points[..1], NOW + 2 * DAY)).await, 288);
    assert_eq!(ask(&store, points[0], NOW, NOW + 4 * DAY, 0).await.len(), 288);
    assert_eq!(ask(&store, points[1], NOW, NOW + 4 * DAY, 0).await.len(), 576, "of the others nothing went");
    assert_eq!(ask(&store, points[0], NOW, NOW + 4 * DAY, HOUR).await, hours);
    assert_eq!(remove(&store, removal(Source::Rollup(Grain::Minutes), &points[..1], NOW + DAY)).await, 144);
    assert_eq!(ask(&store, points[0], NOW, NOW + 4 * DAY, HOUR).await, hours);
    assert_eq!(ask(&store, points[0], NOW, NOW + 4 * DAY, DAY).await, days);
    // A range that begins in the middle of what is left is told from its hour on.
    let odd = ask(&store, points[0], NOW + HOUR + 30 * MINUTE, NOW + 4 * DAY, HOUR).await;
    assert_eq!(odd, hours[1..]);
    let horizons = Horizons { readings: NOW + 2 * DAY, minutes: NOW + DAY, hours: 0 };
    assert_eq!(store.horizons(&points).await.unwrap(), horizons);
    assert_eq!(store.horizons(&points[1..]).await.unwrap(), Horizons::default());
    assert_eq!(remove(&store, removal(Source::Rollup(Grain::Hours), &points, NOW + DAY)).await, 48);
    assert_eq!(remove(&store, removal(Source::Rollup(Grain::Days), &points[1..], NOW + DAY)).await, 1);
    assert_eq!(ask(&store, points[0], NOW, NOW + 4 * DAY, DAY).await, days);
    assert_eq!(
        format!("{:?}", store.ledgers(None).await.unwrap()),
        ledgers,
        "the books do not count what is left"
    );
}

pub async fn what_comes_after_retention_is_added_once(place: Arc<Place>) {
    let store = place.open().await;
    let (agent, points) = four_days(&store).await;
    roll_all(&store, LATER).await;
    remove(&store, removal(Source::Readings, &points, NOW + 2 * DAY)).await;
    remove(&store, removal(Source::Rollup(Grain::Minutes), &points, NOW + DAY)).await;
    let before = ask(&store, points[0], NOW, NOW + 4 * DAY, HOUR).await;

    // One for an hour without minutes, one for a minute without readings, one for a minute with them.
    let at = [NOW + HOUR + SECOND, NOW + 25 * HOUR + SECOND, NOW + 3 * DAY + SECOND];
    let late = at.map(|time| float(1, time, 7_777.0)).to_vec();
    store.ingest(vec![Delivery { batches: vec![batch(2, late)], ..delivery(agent) }]).await.unwrap();
    roll_all(&store, LATER).await;
    let after = ask(&store, points[0], NOW, NOW + 4 * DAY, HOUR).await;
    for (n, (before, after)) in before.iter().zip(&after).enumerate() {
        let is_touched = [1, 25, 72].contains(&n);
        assert_eq!(after.count, before.count + u64::from(is_touched), "hour {n}");
        assert_eq!(after.max == Some(7_777.0), is_touched, "hour {n}");
        assert_eq!((&after.first, after.min), (&before.first, before.min), "hour {n}");
    }
    assert_eq!(readings(&place).await, 577, "the readings that were added went with it");
    assert_eq!(roll_all(&store, LATER).await, [0; 3]);
    let days = ask(&store, points[0], NOW, NOW + 4 * DAY, DAY).await;
    assert_eq!(days.iter().map(|day| day.count).sum::<u64>(), 579);
    // Nothing waits, and what is behind the horizon is gone: removal has nothing to do.
    assert_eq!(remove(&store, removal(Source::Readings, &points, NOW + 2 * DAY)).await, 0);
}

pub async fn all_readings_before_a_midnight_go_whole(place: Arc<Place>) {
    let store = place.open().await;
    let (_, points) = four_days(&store).await;
    roll_all(&store, LATER).await;
    let hours = ask(&store, points[1], NOW, NOW + 4 * DAY, HOUR).await;
    match store.drop_before(NOW + 2 * DAY).await.unwrap() {
        Some(chunks) => {
            assert_eq!(readings(&place).await, 576);
            assert_eq!(store.horizons(&points).await.unwrap().readings, NOW + 2 * DAY);
            if store.facts().await.unwrap().tier == Tier::Apache {
                assert_eq!(chunks, 2, "a chunk a day");
            }
        }
        None => {
            assert_eq!((store.facts().await.unwrap().tier, readings(&place).await), (Tier::Sqlite, 1_152))
        }
    }
    assert_eq!(ask(&store, points[1], NOW, NOW + 4 * DAY, HOUR).await, hours);
}

pub async fn the_store_says_what_it_is_and_how_large(place: Arc<Place>) {
    let store = place.open().await;
    let facts = store.facts().await.unwrap();
    let tier = match &*place {
        Place::Sqlite { .. } => Tier::Sqlite,
        Place::Postgres { user: Some(_), .. } => Tier::Partitions,
        Place::Postgres { user: None, .. } => Tier::Apache,
    };
    assert_eq!((facts.tier, facts.words), (tier, store.describe()));
    four_days(&store).await;
    let larger = store.facts().await.unwrap().bytes;
    assert!(facts.bytes > 50_000 && larger > facts.bytes, "{} and {larger}", facts.bytes);
}

pub async fn partitions_are_made_ahead_of_time_and_of_what_came_before_them(place: Arc<Place>) {
    let store = place.open().await;
    let (_, points) = four_days(&store).await;
    let days = ask(&store, points[0], NOW, NOW + 4 * DAY, DAY).await;
    let partitions = "select count(*) from pg_inherits where inhparent = 'readings'::regclass";
    let is_partitioned = store.facts().await.unwrap().tier == Tier::Partitions;
    let before = if is_partitioned { place.number(partitions).await } else { 0 };
    store.prepare_for(NOW + 300 * DAY).await.unwrap();
    // What was in no partition of its own moves into it.
    store.prepare_for(NOW).await.unwrap();
    store.prepare_for(NOW).await.unwrap();
    assert_eq!(readings(&place).await, 1_152);
    assert_eq!(ask(&store, points[0], NOW, NOW + 4 * DAY, DAY).await, days);
    if is_partitioned {
        assert!(place.number(partitions).await >= before + 3);
        let elsewhere = "select count(*) from readings_default";
        assert_eq!(place.number(elsewhere).await, 0);
        roll_all(&store, LATER).await;
        assert!(store.drop_before(NOW + 30 * DAY).await.unwrap().unwrap() >= 1);
        assert_eq!(readings(&place).await, 0);
        assert!(place.number(partitions).await >= 3, "those of the future stay");
    }
}
