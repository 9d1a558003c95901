//! What comes back is what went in, and both stores answer alike.

use std::sync::Arc;

use forebay_protocols::reading::{DataType, Doubt, Fault, Point, PointId, PointKind, Quality, Value};
use forebay_protocols::sync::batch::Epoch;
use forebay_server::store::{Bucket, Delivery, Latest, PointKey, Query, Store, Timed};

use crate::place::{NOW, Place, SECOND, agent, batch, delivery, delivery_of, float, point, reading};

/// Stores the readings as one batch, and gives the keys of their points.
async fn stored(store: &Arc<dyn Store>, points: u32, readings: Vec<Timed>) -> Vec<PointKey> {
    let agent = agent(store, "gate").await;
    let receipts = store.ingest(vec![delivery_of(agent, points, vec![batch(1, readings)])]).await.unwrap();
    receipts[0].points.iter().map(|(_, key)| *key).collect()
}

/// Bits, because NaN is not equal to itself.
fn bits(value: &Option<Value>) -> (Option<DataType>, u64, String) {
    match value {
        None => (None, 0, String::new()),
        Some(Value::Float(v)) => (Some(DataType::Float), v.to_bits(), String::new()),
        Some(Value::Integer(v)) => (Some(DataType::Integer), *v as u64, String::new()),
        Some(Value::Boolean(v)) => (Some(DataType::Boolean), u64::from(*v), String::new()),
        Some(Value::Text(v)) => (Some(DataType::Text), 0, v.to_string()),
    }
}

pub async fn every_value_comes_back_bit_for_bit(place: Arc<Place>) {
    let store = place.open().await;
    let floats = [
        0.0,
        -0.0,
        5.0,
        0.1,
        -1e300,
        f64::MIN_POSITIVE,
        f64::from_bits(1),
        f64::MAX,
        f64::MIN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
        f64::from_bits(0xfff8_0000_0000_beef),
    ];
    let mut values: Vec<Value> = floats.map(Value::Float).into();
    values.extend([0, 1, -1, i64::MIN, i64::MAX, (1 << 53) + 1].map(Value::Integer));
    values.extend([true, false].map(Value::Boolean));
    values.extend(["", "0", "läuft 🌊", "'; drop table readings; --"].map(|text| Value::Text(text.into())));
    let mut values: Vec<Option<Value>> = values.into_iter().map(Some).collect();
    values.push(None);
    let at = |n: usize| NOW + n as i64;
    // Each as a reading among many, and each as the latest of a point of its own.
    let mut readings: Vec<Timed> =
        values.iter().enumerate().map(|(n, value)| reading(1, at(n), value.clone(), Quality::Good)).collect();
    readings.extend(
        values.iter().enumerate().map(|(n, value)| reading(2 + n as u32, NOW, value.clone(), Quality::Good)),
    );
    let keys = stored(&store, 1 + values.len() as u32, readings).await;
    let query = Query { points: vec![keys[0]], from: NOW, to: NOW + 1_000, step: 0, most: 1_000 };
    let rows = store.query(&query).await.unwrap().remove(0).1;
    assert_eq!(rows.len(), values.len());
    for (n, (row, value)) in rows.iter().zip(&values).enumerate() {
        assert_eq!((row.time, bits(&row.first), bits(&row.last)), (at(n), bits(value), bits(value)));
        let number = value.as_ref().and_then(Value::as_number).filter(|number| number.is_finite());
        assert_eq!((row.count, row.min, row.max, row.mean), (1, number, number, number));
    }
    let points = store.points(None, "", Some(keys[0]), 100).await.unwrap();
    for (point, value) in points.iter().zip(&values) {
        assert_eq!(bits(&point.latest.as_ref().unwrap().value), bits(value), "latest of {}", point.name);
    }
    assert_eq!(points.len(), values.len());
}

pub async fn every_quality_comes_back(place: Arc<Place>) {
    let store = place.open().await;
    let qualities: Vec<Quality> = (0..=255).map(Quality::from_code).collect();
    let readings =
        qualities.iter().enumerate().map(|(n, &quality)| reading(1, NOW + n as i64, None, quality)).collect();
    let keys = stored(&store, 1, readings).await;
    let query = Query { points: keys, from: NOW, to: NOW + 1_000, step: 0, most: 1_000 };
    let rows = store.query(&query).await.unwrap().remove(0).1;
    assert_eq!(rows.iter().map(|row| row.quality).collect::<Vec<_>>(), qualities);
}

pub async fn buckets_are_aligned_and_weigh_only_what_was_measured(place: Arc<Place>) {
    let store = place.open().await;
    let minute = 60 * SECOND;
    assert_eq!(NOW % minute, 0);
    let silent = Quality::Bad(Fault::Silent);
    let doubtful = Quality::Uncertain(Doubt::OutOfRange);
    let word = |text: &str| Some(Value::Text(text.into()));
    let readings = vec![
        // Point 1: numbers of all kinds.
        reading(1, NOW + 10 * SECOND, Some(Value::Float(99.0)), silent),
        reading(1, NOW + 11 * SECOND, Some(Value::Float(f64::INFINITY)), Quality::Good),
        reading(1, NOW + 12 * SECOND, Some(Value::Integer(2)), Quality::Good),
        reading(1, NOW + 13 * SECOND, Some(Value::Boolean(true)), doubtful),
        reading(1, NOW + 14 * SECOND, Some(Value::Float(f64::NAN)), Quality::Good),
        reading(1, NOW + 15 * SECOND, Some(Value::Float(6.0)), Quality::Good),
        reading(1, NOW + 59 * SECOND, None, Quality::Bad(Fault::NoConnection)),
        // The next minute holds nothing but the loss of the device; the one after is empty.
        reading(1, NOW + minute, None, silent),
        reading(1, NOW + 3 * minute, Some(Value::Float(-1.5)), Quality::Good),
        // Point 2: words have no mean, and yet a first and a last.
        reading(2, NOW + SECOND, word("off"), Quality::Good),
        reading(2, NOW + 2 * SECOND, word("on"), Quality::Good),
    ];
    let keys = stored(&store, 2, readings).await;
    // From the middle of a bucket: it keeps its beginning, and lacks what lies before.
    let query =
        Query { points: keys.clone(), from: NOW + SECOND, to: NOW + 4 * minute, step: minute, most: 10 };
    let answer = store.query(&query).await.unwrap();
    let (inf, float) = (Some(Value::Float(f64::INFINITY)), |v| Some(Value::Float(v)));
    let bucket = |time, count, good, (min, max, mean, numbers), first, last, quality| Bucket {
        time,
        count,
        good,
        min,
        max,
        mean,
        first,
        last,
        numbers,
        quality,
    };
    let none = (None, None, None, 0);
    let expected = [
        bucket(NOW, 7, 4, (Some(1.0), Some(6.0), Some(3.0), 3), inf, float(6.0), silent),
        bucket(NOW + minute, 1, 0, none, None, None, silent),
        bucket(
            NOW + 3 * minute,
            1,
            1,
            (Some(-1.5), Some(-1.5), Some(-1.5), 1),
            float(-1.5),
            float(-1.5),
            Quality::Good,
        ),
    ];
    assert_eq!(answer[0], (keys[0], expected.into()));
    let words = bucket(NOW, 2, 2, none, word("off"), word("on"), Quality::Good);
    assert_eq!(answer[1], (keys[1], vec![words]));
    let week = Query { points: vec![keys[0]], step: 7 * 86_400 * SECOND, ..query };
    let rows = store.query(&week).await.unwrap().remove(0).1;
    assert_eq!((rows.len(), rows[0].time % week.step, rows[0].count), (1, 0, 9));
}

pub async fn an_answer_is_bounded_and_in_the_order_asked(place: Arc<Place>) {
    let store = place.open().await;
    let readings =
        (1..=2).flat_map(|p| (0..100).map(move |n| float(p, NOW + n * SECOND, n as f64))).collect();
    let keys = stored(&store, 2, readings).await;
    let unknown = PointKey(i64::MAX);
    let points = vec![keys[1], unknown, keys[0], keys[1]];
    for step in [0, 2 * SECOND] {
        let query =
            Query { points: points.clone(), from: NOW + 10 * SECOND, to: NOW + 90 * SECOND, step, most: 3 };
        let answer = store.query(&query).await.unwrap();
        assert_eq!(answer.iter().map(|(key, _)| *key).collect::<Vec<_>>(), points);
        assert_eq!(answer.iter().map(|(_, rows)| rows.len()).collect::<Vec<_>>(), [3, 0, 3, 3]);
        assert_eq!(answer[0].1[0].time, NOW + 10 * SECOND);
        let nothing = Query { to: query.from, ..query.clone() };
        assert!(store.query(&nothing).await.unwrap().iter().all(|(_, rows)| rows.is_empty()));
        let all = Query { from: i64::MIN, to: i64::MAX, most: 1_000, ..query };
        let rows = if step == 0 { 100 } else { 50 };
        assert_eq!(store.query(&all).await.unwrap()[0].1.len(), rows);
    }
}

pub async fn sums_beyond_the_largest_float_still_answer(place: Arc<Place>) {
    let store = place.open().await;
    let keys = stored(&store, 1, vec![float(1, NOW, f64::MAX), float(1, NOW + 1, f64::MAX)]).await;
    let query = Query { points: keys, from: NOW, to: NOW + SECOND, step: SECOND, most: 10 };
    let rows = store.query(&query).await.unwrap().remove(0).1;
    assert_eq!((rows.len(), rows[0].count, rows[0].max), (1, 2, Some(f64::MAX)));
    assert_eq!(rows[0].mean, Some(f64::INFINITY));
}

pub async fn points_are_found_by_any_part_of_their_name(place: Arc<Place>) {
    let store = place.open().await;
    let (one, other) = (agent(&store, "one").await, agent(&store, "other").await);
    let entry = |n, device: &str, name: &str| (PointId(n), point(device, name));
    let dictionary = vec![entry(1, "Kühlhaus", "Temp_1"), entry(2, "pump", "100%"), entry(3, "pump", "flow")];
    store
        .ingest(vec![Delivery { dictionary, ..delivery(one) }, delivery_of(other, 1, vec![])])
        .await
        .unwrap();
    let found = async |search: &str, agent| {
        let points = store.points(agent, search, None, 10).await.unwrap();
        points.into_iter().map(|point| format!("{}/{}", point.device, point.name)).collect::<Vec<_>>()
    };
    assert_eq!(found("", None).await.len(), 4);
    assert_eq!(found("kÜhl", None).await, ["Kühlhaus/Temp_1"]);
    assert_eq!(found("pump/", None).await, ["pump/100%", "pump/flow"]);
    assert_eq!(found("%", None).await, ["pump/100%"], "no wildcard");
    assert_eq!(found("°c", None).await.len(), 4, "units too");
    assert_eq!(found("", Some(other)).await, ["boiler/p1"]);
    assert!(found("nothing\0like this", None).await.is_empty());
    let row = store.points(Some(one), "flow", None, 1).await.unwrap().remove(0);
    assert_eq!((row.site.as_str(), row.gateway.as_str(), row.unit.as_str()), ("hall", "one", "°C"));
    assert_eq!((row.agent, row.latest), (one, None::<Latest>));
}

pub async fn points_come_in_pages(place: Arc<Place>) {
    let store = place.open().await;
    let agent = agent(&store, "gate").await;
    store.ingest(vec![delivery_of(agent, 25, vec![])]).await.unwrap();
    let (mut after, mut names) = (None, Vec::new());
    loop {
        let page = store.points(Some(agent), "", after, 10).await.unwrap();
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 10 && Some(last.key) > after);
        after = Some(last.key);
        names.extend(page.into_iter().map(|point| point.name));
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 25);
}

pub async fn a_newer_dictionary_renews_what_is_known_of_a_point(place: Arc<Place>) {
    let store = place.open().await;
    let agent = agent(&store, "gate").await;
    store.ingest(vec![delivery_of(agent, 1, vec![])]).await.unwrap();
    let renewed = Point {
        unit: "kWh".into(),
        kind: PointKind::Counter,
        data_type: DataType::Integer,
        ..(*point("boiler", "p1")).clone()
    };
    // Twice in one dictionary: a configuration edited while the agent ran.
    let dictionary = vec![(PointId(1), point("boiler", "p1")), (PointId(2), Arc::new(renewed))];
    let newer = Delivery { epoch: Epoch([9; 16]), dictionary, ..delivery(agent) };
    assert_eq!(store.ingest(vec![newer]).await.unwrap()[0].dictionary_revision, 2);
    let points = store.points(None, "kwh", None, 10).await.unwrap();
    assert_eq!(points.len(), 1);
    assert_eq!((points[0].kind, points[0].data_type), (PointKind::Counter, DataType::Integer));
    assert_eq!(store.points(None, "", None, 10).await.unwrap().len(), 1);
}
