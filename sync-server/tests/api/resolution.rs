//! At which resolution a question is answered, and pages that stay what they are while data come in.

use std::collections::BTreeMap;

use forebay_protocols::reading::PointId;
use forebay_protocols::sync::wire;
use forebay_server::store::{Delivery, Grain, Micros};
use serde_json::Value as Json;

use crate::house::{House, SECOND, batch, float, point, report};

const HOUR: Micros = 3_600 * SECOND;

#[tokio::test]
async fn readings_are_told_as_they_are_exactly_if_every_series_fits() {
    let house = House::build().await;
    let agent = house.agent("one").await;
    // Points with 90, 100 and 101 readings, in an hour and over a month.
    let from = house.now - 60 * 24 * HOUR;
    let spread = |points: u32, first: Micros, length: Micros| {
        (1..=3u32).zip([90, 100, 101]).flat_map(move |(number, count)| {
            (0..count).map(move |n| float(points + number, first + n * (length / count), n as f64))
        })
    };
    let mut readings: Vec<_> = spread(0, from, 30 * 24 * HOUR).chain(spread(3, from, HOUR)).collect();
    readings.sort_by_key(|reading| (reading.point, reading.time));
    let keys: Vec<i64> = house.stored(agent, 6, readings).await.iter().map(|key| key.0).collect();
    let ask = async |points: &[i64], length: Micros, most: usize| {
        let points: Vec<String> = points.iter().map(i64::to_string).collect();
        let (from, to) = (from as f64 / 1_000.0, (from + length) as f64 / 1_000.0);
        let path = format!("/api/v1/query?points={}&from={from}&to={to}&max_points={most}", points.join(","));
        let found = house.json(&path).await;
        let rows =
            found["series"].as_array().unwrap().iter().map(|one| one["rows"].as_array().unwrap().len());
        (found["step_ms"].as_f64().unwrap(), rows.collect::<Vec<_>>())
    };
    for rolled_up in [false, true] {
        if rolled_up {
            for grain in Grain::ALL {
                while house.store.roll_up(grain, house.now, 10_000).await.unwrap().more {}
            }
        }
        for (points, length) in [(&keys[..3], 30 * 24 * HOUR), (&keys[3..], HOUR)] {
            assert_eq!(ask(points, length, 101).await, (0.0, vec![90, 100, 101]));
            assert_eq!(ask(&points[..2], length, 100).await, (0.0, vec![90, 100]));
            for most in [2, 7, 100] {
                let (step, rows) = ask(points, length, most).await;
                assert!(step > 0.0 && rows.iter().all(|rows| *rows <= most), "{most}: {step} ms, {rows:?}");
                assert!(rows.iter().all(|rows| *rows > 0));
            }
        }
        // One too many of fifty ids makes all of them buckets, wherever it stands.
        let many: Vec<i64> = std::iter::repeat_n(keys[0], 49).chain([keys[2]]).collect();
        let (step, rows) = ask(&many, 30 * 24 * HOUR, 100).await;
        assert!(step > 0.0 && rows.len() == 50 && rows.iter().all(|rows| *rows <= 100));
        let (step, rows) = ask(&[keys[2]; 50], 30 * 24 * HOUR, 1_000).await;
        assert_eq!((step, rows), (0.0, vec![101; 50]));
    }
}

fn names(page: &Json) -> Vec<String> {
    page["agents"].as_array().unwrap().iter().map(|one| one["agent"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn pages_of_the_fleet_end_and_miss_nobody_who_rests_while_others_report_and_join() {
    for sort in ["agent", "-agent", "last_seen", "-last_seen", "-backlog", "backlog", "-stored", "state"] {
        let house = House::build().await;
        let mut agents = Vec::new();
        for n in 0..24u64 {
            let name = format!("g{n:02}");
            let key = house.agent(&name).await;
            let told = wire::Report { backlog_readings: n * 10, ..report(house.now, house.now) };
            let received = house.now - (24 - n as i64) * SECOND;
            house.ingest(Delivery { report: Some(told), received, ..house.delivery(key) }).await;
            agents.push((name, key));
        }
        let (mut seen, mut after, mut pages) = (BTreeMap::<String, u32>::new(), String::new(), 0);
        loop {
            let page = house.json(&format!("/api/v1/fleet?limit=5&sort={sort}{after}")).await;
            names(&page).into_iter().for_each(|name| *seen.entry(name).or_default() += 1);
            let Some(next) = page["next"].as_str() else { break };
            after = format!("&after={next}");
            pages += 1;
            assert!(pages < 20, "{sort}: it comes to no end");
            if pages > 3 {
                continue;
            }
            // Those with even numbers move to one end, the one that ended the page among them.
            for (_, key) in agents.iter().step_by(2) {
                let told = wire::Report { backlog_readings: 1_000, ..report(house.now, house.now) };
                let batches = vec![batch(pages + 1, vec![])];
                let received = house.now + pages as i64 * SECOND;
                house
                    .ingest(Delivery { report: Some(told), received, batches, ..house.delivery(*key) })
                    .await;
            }
            house.agent(&format!("later{pages}")).await;
        }
        for (name, _) in agents.iter().skip(1).step_by(2) {
            assert_eq!(seen.get(&format!("hall/{name}")), Some(&1), "{sort}: {name} rested");
        }
    }
}

#[tokio::test]
async fn pages_of_points_have_each_once_while_others_appear() {
    let house = House::build().await;
    let agent = house.agent("one").await;
    let keys = house.stored(agent, 20, vec![float(20, house.now, 1.0)]).await;
    assert!(!keys.is_empty());
    let (mut seen, mut after, mut added) = (Vec::new(), String::new(), 20);
    loop {
        let page = house.json(&format!("/api/v1/points?limit=6{after}")).await;
        let found = page["points"].as_array().unwrap().clone();
        seen.extend(found.iter().map(|one| one["name"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_i64() else { break };
        after = format!("&after={next}");
        if added < 30 {
            added += 1;
            let dictionary = vec![(PointId(added), point("boiler", &format!("p{added}")))];
            house.ingest(Delivery { dictionary, ..house.delivery(agent) }).await;
        }
    }
    let mut once = seen.clone();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), seen.len(), "none twice");
    assert!((1..=20).all(|n| once.contains(&format!("p{n}"))), "none missed: {seen:?}");
}
