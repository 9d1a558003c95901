//! How the readings of a gateway come: what came of it today, how far what is stored is behind, and what
//! becomes of its backlog.

use std::sync::Arc;

use forebay_protocols::sync::batch::Epoch;
use forebay_protocols::sync::wire;
use forebay_server::store::{AgentKey, Delivery, Drain, Micros, Pace, Pulse, Store, Traffic};
use futures::future::try_join_all;

use crate::place::{EPOCH, NOW, Place, SECOND, agent, batch, delivery, delivery_of, float};

const DAY: Micros = 86_400 * SECOND;

async fn pulse(store: &Arc<dyn Store>) -> Pulse {
    store.fleet().await.unwrap().remove(0).pulse
}

pub async fn bytes_of_a_day_are_counted_by_all_servers_together(place: Arc<Place>) {
    let stores = [place.open().await, place.open().await];
    let (one, other) = (agent(&stores[0], "gate").await, agent(&stores[0], "other").await);
    assert_eq!(pulse(&stores[0]).await, Pulse::default(), "nothing came yet");
    let sent = |received: Micros, bytes| Delivery { received, bytes, ..delivery(one) };
    let calls = (0..20).map(|n| {
        // An agent may be there twice in a transaction.
        let theirs = Delivery { bytes: 1_000, ..delivery(other) };
        stores[n % 2].ingest(vec![sent(NOW, 100), theirs, sent(NOW + n as Micros, 7)])
    });
    try_join_all(calls).await.unwrap();
    let rows = stores[1].fleet().await.unwrap();
    assert_eq!([rows[0].bytes_today(NOW), rows[1].bytes_today(NOW)], [2_140, 20_000]);
    // Two servers whose clocks differ, around midnight: of yesterday nothing is added to today.
    stores[0].ingest(vec![sent(NOW + DAY, 5)]).await.unwrap();
    stores[1].ingest(vec![sent(NOW + DAY - 1, 900)]).await.unwrap();
    stores[1].ingest(vec![sent(NOW + DAY - 1, 900), sent(NOW + DAY + SECOND, 6)]).await.unwrap();
    drop(stores);
    let again = place.open().await;
    assert_eq!(pulse(&again).await.traffic, Traffic::of(NOW + DAY, 11), "after a restart too");
    let row = again.fleet().await.unwrap().remove(0);
    assert_eq!([row.bytes_today(NOW + DAY), row.bytes_today(NOW + 2 * DAY)], [11, 0]);
}

pub async fn the_newest_reading_tells_how_far_what_is_stored_is_behind(place: Arc<Place>) {
    let store = place.open().await;
    let agent = agent(&store, "gate").await;
    let behind = async || store.fleet().await.unwrap()[0].lag(NOW + 10 * SECOND);
    assert_eq!(behind().await, None, "nothing is stored yet");
    let readings = vec![float(1, NOW - 3 * SECOND, 1.0), float(2, NOW - 9 * SECOND, 1.0)];
    store.ingest(vec![delivery_of(agent, 2, vec![batch(1, readings)])]).await.unwrap();
    assert_eq!(behind().await, Some(13 * SECOND));
    // Backlog, what carries nothing, and what is in quarantine do not make it older or newer.
    let late = vec![float(1, NOW - 5_000 * SECOND, 1.0)];
    let odd = vec![float(1, 0, 1.0), float(1, NOW + 4_000 * DAY, 1.0)];
    let batches = vec![batch(2, late), batch(3, odd)];
    store.ingest(vec![Delivery { batches, ..delivery(agent) }]).await.unwrap();
    store.ingest(vec![Delivery { received: NOW + SECOND, ..delivery(agent) }]).await.unwrap();
    assert_eq!(behind().await, Some(13 * SECOND));
    // A device whose clock is an hour ahead.
    let ahead = vec![float(1, NOW + 3_600 * SECOND, 1.0)];
    let sent = Delivery { batches: vec![batch(4, ahead)], received: NOW + 2 * SECOND, ..delivery(agent) };
    store.ingest(vec![sent]).await.unwrap();
    assert_eq!(pulse(&store).await.newest, Some(NOW + 2 * SECOND), "as of when it came");
}

/// A delivery `seconds` after [`NOW`] that brings `readings`, and says how many wait.
fn reporting(agent: AgentKey, sequence: u64, seconds: i64, readings: i64, waiting: u64) -> Delivery {
    let received = NOW + seconds * SECOND;
    let report = wire::Report { backlog_readings: waiting, received_us: received, ..Default::default() };
    let readings = (0..readings).map(|n| float(1, received + n, 1.0)).collect();
    let batches = vec![batch(sequence, readings)];
    Delivery { report: Some(report), received, ..delivery_of(agent, 1, batches) }
}

pub async fn a_backlogs_pace_is_told_by_its_reports_and_begins_anew_with_another_buffer(place: Arc<Place>) {
    let stores = [place.open().await, place.open().await];
    let agent = agent(&stores[0], "gate").await;
    let drain = async |seconds: i64| stores[0].fleet().await.unwrap()[0].drain(NOW + seconds * SECOND);
    let come = async |delivery: Delivery| {
        let at = (delivery.received / SECOND % 2) as usize;
        stores[at].ingest(vec![delivery]).await.unwrap();
    };
    come(reporting(agent, 1, 0, 10, 1_000)).await;
    assert_eq!((pulse(&stores[0]).await.pace, drain(0).await), (None, None), "one report tells no pace");
    // Of 30 that came in 20 s, 10 were of the first request, whose report was made before they were booked.
    come(reporting(agent, 2, 20, 20, 1_200)).await;
    assert_eq!(pulse(&stores[1]).await.pace, Some(Pace { came: 0.5, shrank: -10.0 }));
    assert_eq!(drain(20).await, Some(Drain::Never));
    come(reporting(agent, 3, 41, 400, 1_179)).await;
    let pace = Pace { came: 20.0 / 21.0, shrank: 1.0 };
    assert_eq!(pulse(&stores[0]).await.pace, Some(pace));
    // 400 of them came with the report.
    assert_eq!(drain(41).await, Some(Drain::Until(NOW + (41 + 779) * SECOND)));
    // What carries no report tells no other pace, and an older word nothing; but what comes waits no more.
    let late = (1..=500).map(|n| float(1, NOW - n, 1.0)).collect();
    let batches = vec![batch(5, late)];
    come(Delivery { batches, received: NOW + 42 * SECOND, ..delivery(agent) }).await;
    come(reporting(agent, 4, 30, 1, 5)).await;
    assert_eq!(pulse(&stores[0]).await.pace, Some(pace));
    assert_eq!(drain(42).await, Some(Drain::Until(NOW + (42 + 279) * SECOND)));
    let other = Delivery { epoch: Epoch([8; 16]), ..reporting(agent, 1, 60, 1, 9_000) };
    assert_ne!(other.epoch, EPOCH);
    come(other).await;
    assert_eq!((pulse(&stores[0]).await.pace, drain(60).await), (None, None), "another buffer");
}
