//! What the explorer asks for: statistics, files, points by id, silences.

use axum::body::Body;
use axum::http::{StatusCode, header};
use forebay_protocols::reading::{Fault, Quality, Value};
use forebay_server::store::Delivery;
use serde_json::json;

use crate::house::{House, SECOND, batch, float, reading};

#[tokio::test]
async fn statistics_are_of_exactly_the_range_and_of_what_was_measured() {
    let house = House::build().await;
    let agent = house.agent("one").await;
    let at = |seconds: i64| house.now + seconds * SECOND;
    let mut readings: Vec<_> = (-100..0).map(|n| float(1, at(n), n as f64)).collect();
    readings.push(reading(1, at(0), Some(Value::Float(1e6)), Quality::Bad(Fault::Silent)));
    let keys = house.stored(agent, 1, readings).await;
    let ms = |seconds: i64| at(seconds) as f64 / 1_000.0;
    let path = format!("/api/v1/statistics?points={}&from={}&to={}", keys[0].0, ms(-10), ms(1));
    let found = &house.json(&path).await["series"][0];
    assert_eq!((&found["count"], &found["numbers"], &found["good"]), (&json!(11), &json!(10), &json!(10)));
    assert_eq!((&found["min"], &found["mean"], &found["max"]), (&json!(-10.0), &json!(-5.5), &json!(-1.0)));
    assert_eq!((&found["first"], &found["last"]), (&json!(-10.0), &json!(-1.0)));
    let nothing = house.json(&format!("/api/v1/statistics?points={},999&from=-3w&to=-2w", keys[0].0)).await;
    assert_eq!((&nothing["series"][0]["count"], &nothing["series"][1]["mean"]), (&json!(0), &json!(null)));
}

#[tokio::test]
async fn a_file_has_every_reading_once_however_many_share_a_moment() {
    let house = House::build().await;
    let agent = house.agent("one").await;
    // More than one page, with a moment that holds more than one page, too.
    let mut readings: Vec<_> = (0..6_000).map(|n| float(1, house.now - 7_000 + n, n as f64)).collect();
    readings.extend((0..11_000).map(|n| float(1, house.now - 10, f64::from(n))));
    readings.extend([float(1, house.now - 5, -1.5), float(2, house.now - 5, 2.5)]);
    readings.sort_by_key(|reading| (reading.point, reading.time));
    let keys = house.stored(agent, 2, readings).await;
    let path = format!("/api/v1/query.csv?points={},{}", keys[0].0, keys[1].0);
    let file = house.get(&path).await;
    assert_eq!(
        (file.status, file.header(header::CONTENT_DISPOSITION)),
        (StatusCode::OK, "attachment; filename=\"forebay.csv\"")
    );
    let lines: Vec<&str> = file.body.split("\r\n").collect();
    assert_eq!(lines[0], "time,point,unit,value,quality");
    assert_eq!(lines.len(), 1 + 6_000 + 11_000 + 2 + 1, "and an end of line");
    let mut all = lines.clone();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), lines.len(), "none twice");
    assert!(
        lines[lines.len() - 2].ends_with(",hall/one/boiler/p2,°C,2.5,good"),
        "{}",
        lines[lines.len() - 2]
    );
    // As the page shows it.
    let request = house.request(&format!("/api/v1/query?points={}&max_points=10", keys[0].0));
    let buckets = house.answer(request.header(header::ACCEPT, "text/csv").body(Body::empty()).unwrap()).await;
    assert!(
        buckets.body.starts_with("time,point,unit,mean,min,max,last,count,good,quality\r\n"),
        "{}",
        buckets.body
    );
    assert!(buckets.body.split("\r\n").count() < 13);
}

#[tokio::test]
async fn points_are_told_by_their_ids_and_silences_by_their_agent() {
    let house = House::build().await;
    let agent = house.agent("one").await;
    let keys = house.stored(agent, 3, vec![float(1, house.now, 1.0), float(3, house.now, 3.0)]).await;
    let ids = format!("{},{},999", keys[1].0, keys[0].0);
    let found = house.json(&format!("/api/v1/points?ids={ids}")).await;
    let found: Vec<i64> =
        found["points"].as_array().unwrap().iter().map(|point| point["id"].as_i64().unwrap()).collect();
    assert_eq!(found, [keys[1].0, keys[0].0], "in the order asked");

    let silence = house.json("/api/v1/silences?agent=hall/one").await;
    assert_eq!(silence, json!({ "silences": [], "more": false }));
    let later = house.now + 600 * SECOND;
    house
        .ingest(Delivery { received: later, batches: vec![batch(9, vec![])], ..house.delivery(agent) })
        .await;
    let silence = house.json("/api/v1/silences?agent=hall/one&to=9999-01-01T00:00:00Z").await;
    assert_eq!(silence["silences"].as_array().unwrap().len(), 1, "{silence}");
}
