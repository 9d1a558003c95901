//! The books: what each buffer sent, what it says of itself, and the faults that follow.

use std::sync::Arc;

use forebay_protocols::sync::batch::Epoch;
use forebay_protocols::sync::wire::{self, sent_batch::Clock};
use forebay_server::store::{Arrived, Delivery, Fault, FaultKind, FaultRow, LedgerRow, Store, TimeMark};

use crate::lineage::{greeting, of, opening, under};
use crate::place::{NOW, Place, SECOND, agent, batch, delivery, delivery_of, float};

fn report(acknowledged: u64, backlog_readings: u64) -> Option<wire::Report> {
    Some(wire::Report { acknowledged, backlog_readings, ..Default::default() })
}

/// The same delivery, received `seconds` after the tests begin.
fn at(seconds: i64, delivery: Delivery) -> Delivery {
    Delivery { received: NOW + seconds * SECOND, ..delivery }
}

async fn ledger(store: &Arc<dyn Store>, fork: u32) -> LedgerRow {
    store.ledgers(None).await.unwrap().into_iter().find(|row| row.fork == fork).unwrap()
}

async fn faults(store: &Arc<dyn Store>) -> Vec<FaultRow> {
    store.faults(None, 100).await.unwrap()
}

pub async fn each_buffer_has_its_books(place: Arc<Place>) {
    let store = place.open().await;
    let (gate, other) = (agent(&store, "gate").await, agent(&store, "other").await);
    let broken = Arrived { count: 7, checksum: 5, ..batch(0, vec![float(1, NOW, 1.0)]) };
    let readings = vec![float(1, NOW, 1.0), float(1, i64::MAX, 2.0)];
    let sent = Delivery { report: report(0, 9), ..delivery_of(gate, 1, vec![batch(1, readings), broken]) };
    store.ingest(vec![sent.clone(), at(1, sent.clone())]).await.unwrap();
    let row = ledger(&store, 0).await;
    assert_eq!((row.agent, row.stored, row.set_aside, row.stored_at_report), (gate, 2, 7, 9));
    assert_eq!((row.last_seen, row.current), (NOW + SECOND, true));
    assert_eq!(row.report.unwrap().1, NOW + SECOND);
    let more = Delivery { report: report(9, 3), ..delivery_of(gate, 1, vec![of(0, 2)]) };
    store.ingest(vec![at(2, more)]).await.unwrap();
    let row = ledger(&store, 0).await;
    assert_eq!((row.stored, row.stored_at_report), (3, 9), "its own batch came after what it says");
    // An older report of another server does not count; a new epoch has a row of its own.
    store.ingest(vec![at(1, Delivery { report: report(1, 1), ..delivery(gate) })]).await.unwrap();
    assert_eq!(ledger(&store, 0).await.report.unwrap().0.acknowledged, 9);
    let newer = Delivery { epoch: Epoch([8; 16]), ..delivery_of(gate, 1, vec![of(0, 1)]) };
    store.ingest(vec![at(3, newer), delivery_of(other, 1, vec![of(0, 1)])]).await.unwrap();
    let rows = store.ledgers(Some(gate)).await.unwrap();
    let rows: Vec<_> = rows.iter().map(|row| (row.epoch.0[0], row.stored, row.current)).collect();
    assert_eq!(rows, [(7, 3, false), (8, 1, true)]);
    assert_eq!(store.ledgers(None).await.unwrap().len(), 3);
    let fleet = store.fleet().await.unwrap();
    assert_eq!((fleet[0].stored, fleet[0].set_aside, fleet[1].stored), (4, 1, 1));
}

pub async fn a_new_buffer_while_the_old_one_held_readings_is_told_as_wiped(place: Arc<Place>) {
    let store = place.open().await;
    let gate = agent(&store, "gate").await;
    let readings =
        |sequence, count: i64| batch(sequence, (0..count).map(|n| float(1, NOW + n, 1.0)).collect());
    // All is here at 10 s; at 20 s a hundred wait, of which ten come.
    let first = Delivery { report: report(0, 5), ..delivery_of(gate, 1, vec![readings(1, 5)]) };
    let drained = at(10, Delivery { report: report(5, 0), ..delivery(gate) });
    let waiting = at(20, Delivery { report: report(5, 100), ..delivery_of(gate, 1, vec![readings(2, 10)]) });
    for sent in [first, drained, waiting] {
        store.ingest(vec![sent]).await.unwrap();
    }
    let fresh = Delivery { epoch: Epoch([8; 16]), ..delivery_of(gate, 1, vec![of(0, 1)]) };
    store.ingest(vec![at(60, fresh.clone()), at(61, fresh)]).await.unwrap();
    let told = faults(&store).await;
    assert_eq!(told.len(), 1);
    let FaultRow { fault, over, .. } = &told[0];
    assert_eq!((fault.kind, fault.at, *over), (FaultKind::Wiped, NOW + 60 * SECOND, None));
    assert_eq!(fault.subject, "07070707070707070707070707070707/0");
    assert!(
        fault.words.contains("held 90 readings") && fault.words.contains("2026-11-21T00:00:20Z"),
        "{fault:?}"
    );
    assert!(fault.remedy.contains("forebay-agent buffer export"), "{fault:?}");
    let gaps = store.gaps(Some(gate), 0, NOW + 100 * SECOND, 10).await.unwrap();
    assert_eq!(gaps.len(), 1);
    let gap = &gaps[0].1;
    assert_eq!((gap.number, gap.count, gap.reason()), (0, 90, wire::gap::Reason::Wiped));
    assert_eq!((gap.from_us, gap.to_us), (NOW + 10 * SECOND, NOW + 20 * SECOND));
    // The old card is back and is drained: nothing is lost after all, and its own gap 1 is kept.
    let own = wire::Gap { number: 1, from_us: NOW, to_us: NOW + 1, ..Default::default() };
    let back =
        Delivery { gaps: vec![own], report: report(15, 90), ..delivery_of(gate, 1, vec![readings(3, 50)]) };
    assert_eq!(store.ingest(vec![at(70, back)]).await.unwrap()[0].gaps_known, 1);
    assert_eq!(faults(&store).await[0].over, None, "not all of it is here");
    store.ingest(vec![at(71, delivery_of(gate, 1, vec![readings(4, 40)]))]).await.unwrap();
    assert_eq!(faults(&store).await[0].over, Some(NOW + 71 * SECOND));
    let gaps = store.gaps(Some(gate), 0, NOW + 100 * SECOND, 10).await.unwrap();
    assert_eq!(gaps.iter().map(|(_, gap)| gap.number).collect::<Vec<_>>(), [1]);
}

pub async fn a_new_buffer_after_a_drained_one_is_no_fault(place: Arc<Place>) {
    let store = place.open().await;
    let gate = agent(&store, "gate").await;
    let sent = Delivery { report: report(0, 1), ..delivery_of(gate, 1, vec![of(0, 1)]) };
    store.ingest(vec![sent]).await.unwrap();
    store.ingest(vec![at(1, Delivery { epoch: Epoch([8; 16]), ..delivery(gate) })]).await.unwrap();
    assert_eq!(faults(&store).await, []);
    assert!(store.gaps(None, 0, i64::MAX, 10).await.unwrap().is_empty());
}

pub async fn a_restored_server_says_so_until_the_gateway_has_refilled_it(place: Arc<Place>) {
    let store = place.open().await;
    let gate = agent(&store, "gate").await;
    // The backup has batch 1; the gateway was told that 1 to 4 are stored.
    let first = greeting(&[opening(b'a', 1)], delivery_of(gate, 1, vec![of(0, 1)]));
    store.ingest(vec![Delivery { report: report(0, 0), ..first }]).await.unwrap();
    let come = |seconds, acknowledged, batches| {
        let sent = Delivery { report: report(acknowledged, 0), ..delivery_of(gate, 1, batches) };
        store.ingest(vec![at(seconds, under(b'a', sent))])
    };
    come(1, 4, vec![of(0, 5)]).await.unwrap();
    let told = faults(&store).await;
    assert_eq!((told[0].fault.kind, told[0].over), (FaultKind::ServerRestored, None));
    assert!(told[0].fault.words.contains("3 are missing"), "{:?}", told[0]);
    come(2, 5, vec![of(0, 2), of(0, 3)]).await.unwrap();
    let told = faults(&store).await;
    assert_eq!((told.len(), told[0].fault.at, told[0].last), (1, NOW + SECOND, NOW + 2 * SECOND));
    come(3, 5, vec![of(0, 4)]).await.unwrap();
    assert_eq!(faults(&store).await[0].over, None, "what came with the report does not count yet");
    come(4, 5, vec![]).await.unwrap();
    assert_eq!(faults(&store).await[0].over, Some(NOW + 4 * SECOND));
}

pub async fn a_forks_books_count_the_history_it_shares(place: Arc<Place>) {
    let store = place.open().await;
    let gate = agent(&store, "gate").await;
    // 1 to 3 are common, 3 is not here yet; 4 and 5 are the original's own.
    let first = delivery_of(gate, 1, vec![of(0, 1), of(0, 2), of(1, 4), of(1, 5)]);
    store.ingest(vec![greeting(&[opening(b'a', 1)], first)]).await.unwrap();
    let said = [opening(b'a', 1), opening(b'b', 4)];
    let copy = Delivery { report: report(2, 3), ..delivery_of(gate, 1, vec![of(2, 4), of(2, 5), of(2, 6)]) };
    store.ingest(vec![at(1, greeting(&said, copy))]).await.unwrap();
    let row = ledger(&store, 1).await;
    assert_eq!((row.stored, row.stored_at_report), (3, 2));
    // The original brings what is common; so both have it.
    store.ingest(vec![at(2, under(b'a', delivery_of(gate, 1, vec![of(0, 3)])))]).await.unwrap();
    let says = |acknowledged| under(b'b', Delivery { report: report(acknowledged, 0), ..delivery(gate) });
    store.ingest(vec![at(3, says(6))]).await.unwrap();
    assert_eq!(ledger(&store, 1).await.stored_at_report, 6);
    assert!(faults(&store).await.iter().all(|row| row.fault.kind == FaultKind::Fork));
    store.ingest(vec![at(4, says(7))]).await.unwrap();
    let told = faults(&store).await;
    assert_eq!(
        (told[0].fault.kind, &*told[0].fault.subject),
        (FaultKind::ServerRestored, "07070707070707070707070707070707/1")
    );
    let rows = store.ledgers(None).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.stored).collect::<Vec<_>>(), [5, 3], "each reading counts once");
}

pub async fn faults_stand_are_renewed_and_end(place: Arc<Place>) {
    let store = place.open().await;
    let (gate, other) = (agent(&store, "gate").await, agent(&store, "other").await);
    let fault = |agent, subject: &str, words: &str, seconds| Fault {
        agent,
        kind: FaultKind::Imbalance,
        subject: subject.into(),
        words: words.into(),
        remedy: "look\0".into(),
        at: NOW + seconds * SECOND,
    };
    store.raise(fault(gate, "a", "one", 0)).await.unwrap();
    store.raise(fault(gate, "b", "other", 1)).await.unwrap();
    store.raise(fault(gate, "a", "two", 2)).await.unwrap();
    store.raise(fault(other, "a", "elsewhere", 3)).await.unwrap();
    let rows = store.faults(Some(gate), 10).await.unwrap();
    let a = Fault { words: "two".into(), remedy: "look\u{fffd}".into(), ..fault(gate, "a", "", 0) };
    assert_eq!(rows[0], FaultRow { fault: a, last: NOW + 2 * SECOND, over: None });
    assert_eq!((rows.len(), &*rows[1].fault.subject), (2, "b"));
    for n in 0..3 {
        store.clear(gate, FaultKind::Imbalance, "a", NOW + (4 + n) * SECOND).await.unwrap();
        store.clear(gate, FaultKind::Fork, "b", NOW + (4 + n) * SECOND).await.unwrap();
    }
    store.raise(fault(gate, "a", "again", 9)).await.unwrap();
    store.clear(gate, FaultKind::Imbalance, "a", NOW + 10 * SECOND).await.unwrap();
    let rows = store.faults(Some(gate), 10).await.unwrap();
    let rows: Vec<_> =
        rows.iter().map(|row| (&*row.fault.words, row.over.map(|over| (over - NOW) / SECOND))).collect();
    assert_eq!(rows, [("other", None), ("again", Some(10)), ("two", Some(4))]);
    let rows = store.faults(None, 1).await.unwrap();
    let words: Vec<_> = rows.iter().map(|row| &*row.fault.words).collect();
    assert_eq!(words, ["elsewhere", "other", "again"], "all that stand, and the last one that is over");
}

pub async fn corrected_times_are_marked_by_boot_and_kind(place: Arc<Place>) {
    let store = place.open().await;
    let gate = agent(&store, "gate").await;
    let sent = |sequence, boot_counter, clock, correction_us, seconds: &[i64]| Arrived {
        boot_counter,
        clock,
        correction_us,
        ..batch(sequence, seconds.iter().map(|s| float(1, NOW + s * SECOND, 1.0)).collect())
    };
    let century = sent(4, 2, Clock::Corrected, 7, &[8, 3_000_000_000]);
    let batches = vec![
        sent(1, 1, Clock::Stated, 0, &[0]),
        sent(2, 2, Clock::Corrected, 5, &[10, 12]),
        sent(3, 1, Clock::Bracketed, -3, &[5]),
        century,
        sent(5, u64::MAX, Clock::Bracketed, i64::MIN, &[20]),
    ];
    let sent_once = delivery_of(gate, 1, batches);
    store.ingest(vec![sent_once.clone()]).await.unwrap();
    let later = delivery_of(gate, 1, vec![sent(6, 2, Clock::Corrected, 6, &[13])]);
    store.ingest(vec![sent_once, later]).await.unwrap();
    let marks = store.time_marks(Some(gate), NOW, NOW + 60 * SECOND, 10).await.unwrap();
    let of = |boot_counter, clock, from, to, readings, correction_us| TimeMark {
        agent: gate,
        boot_counter,
        clock,
        from: NOW + from * SECOND,
        to: NOW + to * SECOND,
        readings,
        correction_us,
    };
    let expected = [
        of(1, Clock::Bracketed, 5, 5, 1, -3),
        of(2, Clock::Corrected, 8, 13, 5, 6),
        of(i64::MAX as u64, Clock::Bracketed, 20, 20, 1, i64::MIN),
    ];
    assert_eq!(marks, expected, "a repeated batch counts once, a time in quarantine stretches nothing");
    let touching = async |from, to| store.time_marks(None, NOW + from, NOW + to, 10).await.unwrap().len();
    assert_eq!((touching(9, 9 * SECOND).await, touching(14 * SECOND, 20 * SECOND).await), (2, 0));
    assert_eq!(store.time_marks(None, 0, i64::MAX, 1).await.unwrap().len(), 1);
}

pub async fn a_silent_device_is_named_by_its_gap(place: Arc<Place>) {
    let store = place.open().await;
    let gate = agent(&store, "gate").await;
    let gap = wire::Gap {
        number: 1,
        from_us: NOW,
        to_us: NOW + 1,
        device: "boi\0ler".into(),
        ..Default::default()
    };
    store.ingest(vec![Delivery { gaps: vec![gap], ..delivery(gate) }]).await.unwrap();
    assert_eq!(store.gaps(None, 0, NOW + 2, 10).await.unwrap()[0].1.device, "boi\u{fffd}ler");
}
