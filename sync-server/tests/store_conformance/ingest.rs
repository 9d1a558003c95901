//! Exactly once, all or nothing, and nothing lost.

use std::sync::Arc;

use bytes::Bytes;
use forebay_protocols::reading::PointId;
use forebay_protocols::sync::batch::{Epoch, Sequence};
use forebay_protocols::sync::wire::{self, sync_answer::Verdict};
use forebay_server::store::{AgentKey, Arrived, Content, Delivery, StoreError};
use futures::future::try_join_all;

use crate::place::{NOW, Place, SECOND, agent, batch, delivery, delivery_of, float};

pub async fn a_repeated_batch_is_acknowledged_and_not_stored_again(place: Arc<Place>) {
    let store = place.open().await;
    let agent = agent(&store, "gate").await;
    let sent = delivery_of(agent, 2, vec![batch(1, vec![float(1, NOW, 1.0), float(2, NOW, 2.0)])]);
    let first = store.ingest(vec![sent.clone()]).await.unwrap();
    assert_eq!(first[0].verdicts, [(Sequence(1), Verdict::Committed)]);
    assert_eq!(first[0].dictionary_revision, 2);
    assert_eq!(first[0].points.iter().map(|(id, _)| id.0).collect::<Vec<_>>(), [1, 2]);
    let again = store.ingest(vec![sent]).await.unwrap();
    assert_eq!(again[0].verdicts, [(Sequence(1), Verdict::Duplicate)]);
    assert!(again[0].points.is_empty());
    assert_eq!(place.number("select count(*) from readings").await, 2);
    let row = &store.fleet().await.unwrap()[0];
    assert_eq!((row.stored, row.committed_batches, row.set_aside), (2, 1, 0));
}

pub async fn one_batch_sent_many_times_at_once_is_stored_once(place: Arc<Place>) {
    let stores = [place.open().await, place.open().await];
    let agent = agent(&stores[0], "gate").await;
    let sent =
        delivery_of(agent, 1, (1..=5).map(|s| batch(s, vec![float(1, NOW + s as i64, 1.0)])).collect());
    let receipts = try_join_all((0..16).map(|n| stores[n % 2].ingest(vec![sent.clone()]))).await.unwrap();
    let verdicts = receipts.iter().flatten().flat_map(|receipt| receipt.verdicts.clone());
    assert_eq!(verdicts.filter(|(_, verdict)| *verdict == Verdict::Committed).count(), 5);
    assert_eq!(place.number("select count(*) from readings").await, 5);
    assert_eq!(place.number("select count(*) from points").await, 1);
}

pub async fn two_servers_on_one_database_store_everything_once(place: Arc<Place>) {
    let stores = [place.open().await, place.open().await];
    let agents = [agent(&stores[0], "a").await, agent(&stores[0], "b").await, agent(&stores[0], "c").await];
    // Every call holds all agents, in an order of its own: none may wait for another in a circle.
    let calls = (0..40u64).map(|n| {
        let sequences = [n + 1, n + 2];
        let mut deliveries: Vec<Delivery> = agents
            .iter()
            .map(|&agent| {
                let batches = sequences.map(|s| batch(s, vec![float(1, NOW + s as i64 * SECOND, s as f64)]));
                delivery_of(agent, 1, batches.into())
            })
            .collect();
        deliveries.rotate_left(n as usize % 3);
        stores[n as usize % 2].ingest(deliveries)
    });
    try_join_all(calls).await.unwrap();
    assert_eq!(place.number("select count(*) from readings").await, 3 * 41);
    assert_eq!(
        place.number("select count(*) from (select distinct point, time from readings) d").await,
        3 * 41
    );
    for row in stores[1].fleet().await.unwrap() {
        assert_eq!((row.stored, row.committed_batches), (41, 41), "{}", row.gateway);
    }
}

pub async fn one_agent_twice_in_a_call_is_as_twice_in_a_row(place: Arc<Place>) {
    let store = place.open().await;
    let agent = agent(&store, "gate").await;
    let first = delivery_of(agent, 1, vec![batch(1, vec![float(1, NOW, 1.0)])]);
    let second = Delivery {
        epoch: Epoch([8; 16]),
        ..delivery_of(agent, 2, vec![batch(1, vec![float(2, NOW, 2.0)]), batch(2, vec![float(1, NOW, 3.0)])])
    };
    let third =
        delivery_of(agent, 2, vec![batch(1, vec![float(1, NOW, 1.0)]), batch(2, vec![float(2, NOW, 4.0)])]);
    let receipts = store.ingest(vec![first, second, third]).await.unwrap();
    let of = |n: usize| receipts[n].verdicts.iter().map(|(_, verdict)| *verdict).collect::<Vec<_>>();
    assert_eq!(of(0), [Verdict::Committed]);
    assert_eq!(of(1), [Verdict::Committed, Verdict::Committed], "another epoch counts for itself");
    assert_eq!(of(2), [Verdict::Duplicate, Verdict::Committed]);
    assert_eq!(receipts[2].dictionary_revision, 2);
    assert_eq!(
        receipts[1].points,
        [(PointId(1), receipts[0].points[0].1), (PointId(2), receipts[2].points[0].1)]
    );
    assert_eq!(place.number("select count(*) from readings").await, 4);
    assert_eq!(
        place.number("select count(*) from points").await,
        2,
        "paths are the agent's, not the epoch's"
    );
}

pub async fn ten_thousand_sequences_in_any_order_become_one_range(place: Arc<Place>) {
    let store = place.open().await;
    let agent = agent(&store, "gate").await;
    // 7919 is prime: every number once, far from in order.
    let order: Vec<u64> = (0..10_000).map(|n| 1 + n * 7919 % 10_000).collect();
    for some in order.chunks(1_000) {
        let batches = some.iter().map(|&sequence| batch(sequence, Vec::new())).collect();
        let receipts = store.ingest(vec![Delivery { batches, ..delivery(agent) }]).await.unwrap();
        assert!(receipts[0].verdicts.iter().all(|(_, verdict)| *verdict == Verdict::Committed));
    }
    assert_eq!(place.committed().await, (1, 10_000));
}

pub async fn an_error_leaves_nothing_of_the_transaction(place: Arc<Place>) {
    let store = place.open().await;
    let known = agent(&store, "gate").await;
    let good = delivery_of(known, 1, vec![batch(1, vec![float(1, NOW, 1.0)])]);
    let stranger = delivery_of(AgentKey(4_711), 1, vec![batch(1, vec![float(1, NOW, 1.0)])]);
    let error = store.ingest(vec![good.clone(), stranger]).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused(_)) && error.to_string().contains("4711"), "{error}");
    for table in ["readings", "points", "dictionary", "latest"] {
        assert_eq!(place.number(&format!("select count(*) from {table}")).await, 0, "{table}");
    }
    assert_eq!(store.fleet().await.unwrap()[0].last_seen, None);
    let receipts = store.ingest(vec![good]).await.unwrap();
    assert_eq!(receipts[0].verdicts, [(Sequence(1), Verdict::Committed)]);
}

pub async fn a_batch_ahead_of_the_dictionary_waits_for_it(place: Arc<Place>) {
    let store = place.open().await;
    let (one, other) = (agent(&store, "one").await, agent(&store, "other").await);
    let ahead = vec![batch(1, vec![float(1, NOW, 1.0)]), batch(2, vec![float(2, NOW, 1.0)])];
    let good = delivery_of(other, 1, vec![batch(1, vec![float(1, NOW, 1.0)])]);
    let receipts = store.ingest(vec![delivery_of(one, 1, ahead.clone()), good]).await.unwrap();
    assert!(receipts[0].dictionary_missing && receipts[0].verdicts.is_empty());
    assert_eq!(receipts[0].dictionary_revision, 1, "what came of the dictionary is kept");
    assert_eq!(receipts[1].verdicts, [(Sequence(1), Verdict::Committed)], "others are not hindered");
    assert_eq!(place.number("select count(*) from readings").await, 1);
    let receipts = store.ingest(vec![delivery_of(one, 2, ahead)]).await.unwrap();
    assert!(!receipts[0].dictionary_missing);
    assert_eq!(receipts[0].verdicts.len(), 2);
    assert_eq!(place.number("select count(*) from readings").await, 3);
}

pub async fn what_lies_beyond_a_hole_in_the_dictionary_is_not_taken(place: Arc<Place>) {
    let store = place.open().await;
    let agent = agent(&store, "gate").await;
    let mut sent = delivery_of(agent, 5, Vec::new());
    sent.dictionary.remove(2);
    assert_eq!(store.ingest(vec![sent.clone()]).await.unwrap()[0].dictionary_revision, 2);
    sent.dictionary.drain(..2);
    assert_eq!(store.ingest(vec![sent]).await.unwrap()[0].dictionary_revision, 2);
    assert_eq!(
        store.ingest(vec![delivery_of(agent, 5, Vec::new())]).await.unwrap()[0].dictionary_revision,
        5
    );
}

pub async fn late_readings_are_found_and_do_not_become_the_latest(place: Arc<Place>) {
    let store = place.open().await;
    let agent = agent(&store, "gate").await;
    let (year, month) = (365 * 86_400 * SECOND, 30 * 86_400 * SECOND);
    let fresh = batch(9, vec![float(1, NOW, 1.0), float(2, NOW - year, 1.0)]);
    store.ingest(vec![delivery_of(agent, 2, vec![fresh])]).await.unwrap();
    let late =
        batch(1, vec![float(1, NOW - year, 2.0), float(1, NOW - month, 3.0), float(2, NOW - month, 2.0)]);
    store.ingest(vec![delivery_of(agent, 2, vec![late])]).await.unwrap();
    let points = store.points(None, "", None, 10).await.unwrap();
    let latest: Vec<_> = points.iter().map(|point| point.latest.as_ref().unwrap().time).collect();
    assert_eq!(latest, [NOW, NOW - month]);
    let all = forebay_server::store::Query {
        points: vec![points[0].key],
        from: NOW - 2 * year,
        to: NOW + 1,
        step: 0,
        most: 10,
    };
    let rows = store.query(&all).await.unwrap().remove(0).1;
    assert_eq!(rows.iter().map(|row| row.time).collect::<Vec<_>>(), [NOW - year, NOW - month, NOW]);
}

pub async fn a_batch_that_did_not_decode_is_kept_and_acknowledged(place: Arc<Place>) {
    let store = place.open().await;
    let agent = agent(&store, "gate").await;
    let content = Content::SetAside { bytes: Bytes::from_static(b"\0\xff"), why: "cut \0 short".into() };
    let broken = Arrived::plain(Sequence(3), PointId(0), content);
    let sent = delivery_of(agent, 1, vec![broken, batch(4, vec![float(1, NOW, 1.0)])]);
    let receipts = store.ingest(vec![sent.clone()]).await.unwrap();
    assert_eq!(receipts[0].verdicts, [(Sequence(3), Verdict::SetAside), (Sequence(4), Verdict::Committed)]);
    let again = store.ingest(vec![sent]).await.unwrap();
    assert_eq!(again[0].verdicts, [(Sequence(3), Verdict::Duplicate), (Sequence(4), Verdict::Duplicate)]);
    assert_eq!(
        place.number("select count(*) from set_aside where sequence = 3 and length(bytes) = 2").await,
        1
    );
    let row = &store.fleet().await.unwrap()[0];
    assert_eq!((row.stored, row.committed_batches, row.set_aside), (1, 1, 1));
}

pub async fn a_gap_is_kept_once_and_names_its_point(place: Arc<Place>) {
    let store = place.open().await;
    let agent = agent(&store, "gate").await;
    let gap = |number, point, from_us, to_us| wire::Gap {
        number,
        point,
        from_us,
        to_us,
        count: 5,
        reason: wire::gap::Reason::DeviceSilent.into(),
        ..Default::default()
    };
    let sent = Delivery {
        gaps: vec![
            gap(1, 0, NOW, NOW + SECOND),
            gap(2, 2, NOW + 5 * SECOND, NOW + 9 * SECOND),
            gap(3, 0, i64::MIN, i64::MAX),
        ],
        ..delivery_of(agent, 2, vec![batch(1, vec![float(2, NOW, 1.0)])])
    };
    let receipts = store.ingest(vec![sent.clone()]).await.unwrap();
    assert_eq!(receipts[0].gaps_known, 3);
    assert_eq!(store.ingest(vec![sent]).await.unwrap()[0].gaps_known, 3);
    let all = store.gaps(Some(agent), NOW, NOW + 60 * SECOND, 10).await.unwrap();
    assert_eq!(all.iter().map(|(_, gap)| gap.number).collect::<Vec<_>>(), [3, 1, 2]);
    assert_eq!(all[2].1.point as i64, receipts[0].points[0].1.0, "a point's key, not its number");
    assert_eq!((all[1].1.from_us, all[1].1.to_us, all[1].1.count), (NOW, NOW + SECOND, 5));
    assert_eq!(all[0].1.from_us, 0);
    let some = store.gaps(None, NOW + 2 * SECOND, NOW + 4 * SECOND, 10).await.unwrap();
    assert_eq!(some.iter().map(|(_, gap)| gap.number).collect::<Vec<_>>(), [3]);
    assert!(store.gaps(Some(AgentKey(agent.0 + 1)), NOW, NOW + SECOND, 10).await.unwrap().is_empty());
    assert_eq!(store.gaps(None, NOW, NOW + 60 * SECOND, 2).await.unwrap().len(), 2);
}

pub async fn the_newest_report_says_how_a_gateway_is(place: Arc<Place>) {
    let store = place.open().await;
    let agent = agent(&store, "gate").await;
    let report = |produced| Some(wire::Report { produced, version: "1".into(), ..Default::default() });
    let newest = Delivery { report: report(2), received: NOW + SECOND, ..delivery(agent) };
    let older = Delivery { report: report(1), epoch: Epoch([1; 16]), ..delivery(agent) };
    let silent = Delivery { received: NOW + 2 * SECOND, ..delivery(agent) };
    store.ingest(vec![newest]).await.unwrap();
    store.ingest(vec![older]).await.unwrap();
    let row = store.fleet().await.unwrap().remove(0);
    assert_eq!(
        (row.last_seen, row.report, row.epoch),
        (Some(NOW + SECOND), report(2), Some(crate::place::EPOCH))
    );
    store.ingest(vec![silent]).await.unwrap();
    let row = store.fleet().await.unwrap().remove(0);
    assert_eq!((row.last_seen, row.report), (Some(NOW + 2 * SECOND), report(2)));
}
