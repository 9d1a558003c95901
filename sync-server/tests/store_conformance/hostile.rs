//! What a broken or hostile agent sends harms neither the store nor the others in its transaction.

use std::sync::Arc;

use forebay_protocols::reading::{PointId, Quality, Value};
use forebay_protocols::sync::batch::Sequence;
use forebay_protocols::sync::wire::{self, sync_answer::Verdict};
use forebay_server::store::{AgentKey, Delivery, Query};

use crate::place::{NOW, Place, SECOND, agent, batch, delivery, delivery_of, float, point, reading};

pub async fn times_outside_reason_go_to_quarantine(place: Arc<Place>) {
    let store = place.open().await;
    let agent = agent(&store, "gate").await;
    let (y2000, y2106) = (946_684_800_000_000, 4_291_747_200_000_000);
    let times = [i64::MIN, -1, 0, y2000 - 1, y2000, NOW, NOW + SECOND, y2106, i64::MAX];
    let readings = times.iter().map(|&time| float(1, time, 1.0)).collect();
    let receipts = store.ingest(vec![delivery_of(agent, 1, vec![batch(1, readings)])]).await.unwrap();
    assert_eq!(receipts[0].verdicts, [(Sequence(1), Verdict::Committed)]);
    assert_eq!(place.number("select count(*) from readings").await, 3);
    assert_eq!(place.number("select count(*) from readings_quarantine").await, 6);
    assert_eq!(store.fleet().await.unwrap()[0].stored, 9, "the ledger must close");
    let key = receipts[0].points[0].1;
    let all = Query { points: vec![key], from: i64::MIN, to: i64::MAX, step: 0, most: 100 };
    let found: Vec<_> = store.query(&all).await.unwrap()[0].1.iter().map(|row| row.time).collect();
    assert_eq!(found, [y2000, NOW, NOW + SECOND]);
    let latest = store.points(None, "", None, 1).await.unwrap()[0].latest.clone().unwrap();
    assert_eq!(latest.time, NOW + SECOND);
}

pub async fn a_batch_the_database_refuses_is_set_aside_alone(place: Arc<Place>) {
    let store = place.open().await;
    let (poisoned, healthy) = (agent(&store, "poisoned").await, agent(&store, "healthy").await);
    // Stands for all that nobody thought of.
    place
        .sql(match &*place {
            Place::Sqlite { .. } => {
                "create trigger no666 before insert on readings when new.value = 666.0 \
                 begin select raise(abort, 'the number of the beast'); end"
            }
            Place::Postgres { .. } => "alter table readings add constraint no666 check (value <> 666)",
        })
        .await;
    let sent = |agent: AgentKey, bad: f64| {
        let batches = vec![
            batch(1, vec![float(1, NOW, 1.0)]),
            batch(2, vec![float(1, NOW + 1, bad), float(2, NOW, f64::NAN)]),
            batch(3, vec![float(2, NOW + 2, 3.0)]),
        ];
        Delivery { bytes: 500, ..delivery_of(agent, 2, batches) }
    };
    let deliveries = vec![sent(healthy, 0.0), sent(poisoned, 666.0)];
    let receipts = store.ingest(deliveries.clone()).await.unwrap();
    assert!(receipts[0].verdicts.iter().all(|(_, verdict)| *verdict == Verdict::Committed));
    assert_eq!(
        receipts[1].verdicts,
        [
            (Sequence(1), Verdict::Committed),
            (Sequence(2), Verdict::SetAside),
            (Sequence(3), Verdict::Committed)
        ]
    );
    assert_eq!(receipts[1].dictionary_revision, 2);
    assert_eq!(receipts[1].points.len(), 2);
    assert_eq!(place.number("select count(*) from readings").await, 6);
    let fleet = store.fleet().await.unwrap();
    assert_eq!([fleet[0].bytes_today(NOW), fleet[1].bytes_today(NOW)], [500, 500], "in pieces or whole");
    let line = "1\t1795219200000001\t0\tfloat\t666.0\n2\t1795219200000000\t0\tfloat\t0x7ff8000000000000\n";
    let kept =
        format!("select count(*) from set_aside where sequence = 2 and length(bytes) = {}", line.len());
    assert_eq!(place.number(&kept).await, 1, "the readings themselves are kept");
    let again = store.ingest(deliveries).await.unwrap();
    assert!(again.iter().flat_map(|r| &r.verdicts).all(|(_, verdict)| *verdict == Verdict::Duplicate));
    let fleet = store.fleet().await.unwrap();
    assert_eq!(fleet.iter().map(|row| (row.stored, row.set_aside)).collect::<Vec<_>>(), [(4, 0), (2, 1)]);
}

/// An agent newer than the server: its point goes by the first type of the list, a float.
pub async fn values_of_a_point_whose_type_is_unknown_keep_their_own(place: Arc<Place>) {
    let store = place.open().await;
    let entry = wire::DictionaryEntry { point: 1, name: "odd".into(), r#type: 99, ..Default::default() };
    let values =
        [Value::Text("7.5".into()), Value::Boolean(true), Value::Integer(i64::MAX), Value::Float(0.5)];
    let readings =
        (0..).zip(&values).map(|(n, value)| reading(1, NOW + n, Some(value.clone()), Quality::Good));
    let sent = Delivery {
        dictionary: vec![(entry.id(), Arc::new(entry.describe()))],
        batches: vec![batch(1, readings.collect())],
        ..delivery(agent(&store, "newer").await)
    };
    let receipts = store.ingest(vec![sent]).await.unwrap();
    assert_eq!(receipts[0].verdicts, [(Sequence(1), Verdict::Committed)]);
    let all =
        Query { points: vec![receipts[0].points[0].1], from: NOW, to: NOW + SECOND, step: 0, most: 100 };
    let found = store.query(&all).await.unwrap().remove(0).1;
    let found: Vec<Value> = found.into_iter().filter_map(|row| row.last).collect();
    assert_eq!(found, values);
}

pub async fn nul_in_names_and_text_does_not_hurt(place: Arc<Place>) {
    let store = place.open().await;
    let agent = agent(&store, "ga\0te").await;
    let dictionary = vec![(PointId(1), point("boi\0ler", "te\0mp"))];
    let text = Some(Value::Text("a\0b".into()));
    let batches = vec![batch(1, vec![reading(1, NOW, text, Quality::Good)])];
    store.ingest(vec![Delivery { dictionary, batches, ..delivery(agent) }]).await.unwrap();
    let row = store.points(None, "", None, 1).await.unwrap().remove(0);
    assert_eq!((row.gateway.as_str(), row.device.as_str()), ("ga\u{fffd}te", "boi\u{fffd}ler"));
    assert_eq!(row.latest.unwrap().value, Some(Value::Text("a\u{fffd}b".into())));
}

pub async fn endless_names_stay_different_points(place: Arc<Place>) {
    let store = place.open().await;
    let agent = agent(&store, "gate").await;
    // Pseudo-random, so that compression does not make them short again.
    let noise: String =
        (0..20_000u32).map(|n| char::from(b'a' + (n.wrapping_mul(2_654_435_761) >> 24) as u8 % 26)).collect();
    let dictionary = vec![
        (PointId(1), point(&noise, &noise)),
        (PointId(2), point(&noise, &format!("{noise}!"))),
        (PointId(3), point("short", "name")),
    ];
    let batches = vec![batch(1, (1..=3).map(|p| float(p, NOW, 1.0)).collect())];
    let receipts = store.ingest(vec![Delivery { dictionary, batches, ..delivery(agent) }]).await.unwrap();
    assert_eq!(receipts[0].points.len(), 3);
    assert_eq!(store.points(None, "", None, 10).await.unwrap().len(), 3);
}

pub async fn numbers_that_no_buffer_gives_do_not_hurt(place: Arc<Place>) {
    let store = place.open().await;
    let (strange, healthy) = (agent(&store, "strange").await, agent(&store, "healthy").await);
    let gap =
        wire::Gap { number: u64::MAX, point: u32::MAX, count: u64::MAX, reason: 99, ..Default::default() };
    let mut stranger = batch(4, vec![float(0, NOW, 1.0)]);
    stranger.dictionary_revision = PointId(1);
    let mut unknown = batch(5, vec![float(1, NOW, 1.0), float(9, NOW, 1.0)]);
    unknown.dictionary_revision = PointId(1);
    let batches = vec![
        batch(0, vec![float(1, NOW, 1.0)]),
        batch(u64::MAX, vec![float(1, NOW, 1.0)]),
        batch(i64::MAX as u64, vec![float(1, NOW, 1.0)]),
        batch(i64::MAX as u64 - 1, vec![float(1, NOW, 1.0)]),
        stranger,
        unknown,
    ];
    let sent = Delivery { gaps: vec![gap], ..delivery_of(strange, 1, batches) };
    let good = delivery_of(healthy, 1, vec![batch(1, vec![float(1, NOW, 1.0)])]);
    for _ in 0..2 {
        let receipts = store.ingest(vec![sent.clone(), good.clone()]).await.unwrap();
        let verdicts: Vec<_> = receipts[0].verdicts.iter().map(|(_, verdict)| *verdict).collect();
        assert_eq!(verdicts[..3], [Verdict::SetAside; 3]);
        assert_eq!(receipts[0].verdicts.len(), 6, "every batch has an answer");
    }
    assert_eq!(place.number("select count(*) from set_aside").await, 5);
    assert_eq!(place.number("select count(*) from readings").await, 2);
    assert_eq!(store.gaps(None, 0, NOW, 10).await.unwrap().len(), 1);
}
