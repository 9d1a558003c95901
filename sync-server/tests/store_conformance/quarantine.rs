//! What is aside can be looked at and replayed, and the books follow.

use std::sync::Arc;

use bytes::Bytes;
use forebay_protocols::reading::{PointId, Quality, Reading, Stamp, Value};
use forebay_protocols::sync::batch::{Boot, Encoder, Head, Sequence};
use forebay_server::store::{Arrived, Content, Delivery, Query, read_batch};

use crate::place::{EPOCH, NOW, Place, SECOND, agent, batch, delivery, delivery_of, float};
use crate::rollups::{DAY, LATER, ask, roll_all};

pub async fn a_batch_set_aside_is_replayed_once_and_the_books_follow(place: Arc<Place>) {
    let store = place.open().await;
    let agent = agent(&store, "gate").await;
    let boot = Boot { counter: 1, id: [0; 8], wall_offset_us: 0, synchronised: true };
    let mut readings: Vec<Reading> = (0..3)
        .map(|n| Reading {
            point: PointId(1),
            stamp: Stamp::device(NOW + n * SECOND),
            value: Some(Value::Integer(n)),
            quality: Quality::Good,
        })
        .collect();
    let encoded = Encoder::new().encode(&Head { epoch: EPOCH, sequence: Sequence(2), boot }, &mut readings);
    let content = Content::SetAside { bytes: encoded.bytes.clone(), why: "a codec of tomorrow".into() };
    let aside = Arrived { checksum: 77, count: 3, ..Arrived::plain(Sequence(2), PointId(0), content) };
    let broken = Content::SetAside { bytes: Bytes::from_static(b"\xff\xfe"), why: "noise".into() };
    let broken = Arrived { checksum: 78, ..Arrived::plain(Sequence(3), PointId(0), broken) };
    let fresh = batch(1, vec![float(1, NOW, 1.0)]);
    store.ingest(vec![delivery_of(agent, 1, vec![fresh, aside, broken])]).await.unwrap();

    let rows = store.batches_aside(10).await.unwrap();
    let told: Vec<_> = rows.iter().map(|row| (row.id.sequence, row.readings, &*row.why)).collect();
    assert_eq!(told, [(2, 3, "a codec of tomorrow"), (3, 0, "noise")]);
    let before = store.ledgers(None).await.unwrap().remove(0);
    assert_eq!((before.stored, before.set_aside), (1, 3));

    let (row, bytes, correction) = store.batch_aside(rows[0].id).await.unwrap().unwrap();
    assert_eq!((&row, correction), (&rows[0], 0));
    let readings = read_batch(&bytes, correction).unwrap();
    let replayed = store.replay_batch(row.id, readings.clone(), NOW).await.unwrap().unwrap();
    assert_eq!((replayed.stored, replayed.odd), (3, 0));
    assert_eq!(store.replay_batch(row.id, readings, NOW).await.unwrap(), None, "once");
    let after = store.ledgers(None).await.unwrap().remove(0);
    assert_eq!((after.stored, after.set_aside), (4, 0));
    let fleet = store.fleet().await.unwrap();
    assert_eq!((fleet[0].stored, fleet[0].committed_batches, fleet[0].set_aside), (4, 2, 1));
    let point = store.points(None, "", None, 1).await.unwrap().remove(0);
    assert_eq!(point.latest.unwrap().value, Some(Value::Integer(2)));
    let query = Query { points: vec![point.key], from: NOW, to: NOW + DAY, step: 0, most: 10 };
    assert_eq!(store.query(&query).await.unwrap()[0].1.len(), 4);
    roll_all(&store, LATER).await;
    assert_eq!(ask(&store, point.key, NOW, NOW + DAY, DAY).await[0].count, 4);

    let (_, bytes, _) = store.batch_aside(rows[1].id).await.unwrap().unwrap();
    assert!(read_batch(&bytes, 0).is_err());
    // A batch of a point that nobody named stays where it is.
    let stranger = vec![float(9, NOW, 1.0)];
    assert!(store.replay_batch(rows[1].id, stranger, NOW).await.is_err());
    assert_eq!(store.batches_aside(10).await.unwrap().len(), 1);
}

pub async fn readings_at_impossible_times_are_moved_and_stored(place: Arc<Place>) {
    let store = place.open().await;
    let agent = agent(&store, "gate").await;
    let century = 36_525 * DAY;
    let odd = vec![float(1, NOW - century, 1.0), float(1, NOW - century + SECOND, 2.0), float(1, -5, 3.0)];
    let mut odd = odd;
    odd.sort_by_key(|reading| reading.time);
    let first = Delivery { batches: vec![batch(1, odd)], ..delivery_of(agent, 1, vec![]) };
    let receipts = store.ingest(vec![first]).await.unwrap();
    let key = receipts[0].points[0].1;
    let points = store.odd_points(10).await.unwrap();
    assert_eq!((points.len(), points[0].point, points[0].count), (1, key, 3));
    assert_eq!((points[0].from, points[0].to), (NOW - century, -5));
    assert_eq!(store.odd_readings(key, 2).await.unwrap().len(), 2);
    let ledger = store.ledgers(None).await.unwrap().remove(0).stored;

    let replayed = store.replay_readings(key, century, NOW).await.unwrap();
    // What lay at 1970 lies a century later now: beyond ten years.
    assert_eq!((replayed.stored, replayed.odd), (2, 1));
    assert_eq!(ask(&store, key, NOW, NOW + DAY, 0).await.len(), 2);
    assert_eq!(store.odd_points(10).await.unwrap()[0].from, century - 5);
    assert_eq!(store.ledgers(None).await.unwrap().remove(0).stored, ledger, "they counted as stored already");
    assert_eq!(store.replay_readings(key, 0, NOW).await.unwrap().odd, 1, "nothing is lost by trying");
    let more = Delivery { batches: vec![batch(2, vec![float(1, NOW, 5.0)])], ..delivery(agent) };
    store.ingest(vec![more]).await.unwrap();
}
