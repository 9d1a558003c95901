//! Copied and restored buffers: found by the first word or batch, kept apart, nothing twice.

use std::sync::Arc;

use forebay_protocols::reading::PointId;
use forebay_protocols::sync::batch::Sequence;
use forebay_protocols::sync::wire::{self, sync_answer::Verdict};
use forebay_server::store::{Arrived, Delivery, FaultKind, PointRow, Query, Receipt, Store};
use futures::future::try_join_all;

use crate::place::{NOW, Place, SECOND, agent, batch, delivery, delivery_of, float, point};

/// An opening named by a letter, of a buffer with two dictionary entries and no gaps.
pub fn opening(name: u8, first: u64) -> wire::Opening {
    wire::Opening { id: vec![name; 8], first, dictionary_revision: 2, ..Default::default() }
}

/// One in a later boot: of the sequences before `first` the buffer knows those below `known_below`.
fn later_boot(name: u8, known_below: u64, first: u64) -> wire::Opening {
    wire::Opening { known_below, ..opening(name, first) }
}

/// The same delivery with a greeting; the last opening is the present one.
pub fn greeting(openings: &[wire::Opening], delivery: Delivery) -> Delivery {
    let present = openings.last().map(|opening| opening.id[..].try_into().unwrap());
    Delivery { opening: present, greeting: Some(openings.to_vec()), ..delivery }
}

/// The same delivery under an opening the server has heard of.
pub fn under(name: u8, delivery: Delivery) -> Delivery {
    Delivery { opening: Some([name; 8]), ..delivery }
}

/// A batch of one reading of point 1, told apart from others of its number by `who`.
pub fn of(who: u32, sequence: u64) -> Arrived {
    let time = NOW + sequence as i64 * SECOND;
    Arrived { checksum: who + 1, ..batch(sequence, vec![float(1, time, f64::from(who))]) }
}

async fn one(store: &Arc<dyn Store>, delivery: Delivery) -> Receipt {
    store.ingest(vec![delivery]).await.unwrap().remove(0)
}

fn verdicts(receipt: &Receipt) -> Vec<Verdict> {
    receipt.verdicts.iter().map(|(_, verdict)| *verdict).collect()
}

/// Values of point 1 by time, of the fork with this number.
async fn history(store: &Arc<dyn Store>, fork: u32) -> Vec<f64> {
    let points = store.points(None, "p1", None, 100).await.unwrap();
    let points: Vec<&PointRow> = points.iter().filter(|point| point.fork == fork).collect();
    assert!(points.len() <= 1, "{points:?}");
    let points = points.iter().map(|point| point.key).collect();
    let query = Query { points, from: NOW, to: NOW + 1_000 * SECOND, step: 0, most: 1_000 };
    let rows = store.query(&query).await.unwrap();
    rows.iter().flat_map(|(_, rows)| rows).map(|row| row.mean.unwrap()).collect()
}

async fn faults(store: &Arc<dyn Store>) -> Vec<(FaultKind, String)> {
    let faults = store.faults(None, 100).await.unwrap();
    faults.into_iter().map(|row| (row.fault.kind, row.fault.subject)).collect()
}

fn fork_of(epoch: &str, number: u32) -> (FaultKind, String) {
    (FaultKind::Fork, format!("{epoch}/{number}"))
}

const EPOCH: &str = "07070707070707070707070707070707";

pub async fn an_unknown_opening_must_greet_before_anything_is_taken(place: Arc<Place>) {
    let store = place.open().await;
    let gate = agent(&store, "gate").await;
    let sent = delivery_of(gate, 2, vec![of(0, 1)]);
    let refused = one(&store, under(b'a', sent.clone())).await;
    assert!(refused.greet && refused.verdicts.is_empty() && refused.dictionary_revision == 0);
    for table in ["epochs", "openings", "points", "readings"] {
        assert_eq!(place.number(&format!("select count(*) from {table}")).await, 0, "{table}");
    }
    assert_eq!(store.fleet().await.unwrap()[0].last_seen, None);
    let taken = one(&store, greeting(&[opening(b'a', 1)], sent)).await;
    assert!(!taken.greet);
    assert_eq!((verdicts(&taken), taken.fork), (vec![Verdict::Committed], 0));
    let (ranges, is_whole) = taken.committed.unwrap();
    assert_eq!((ranges.iter().collect::<Vec<_>>(), is_whole), (vec![(1, 1)], true));
    let next = one(&store, under(b'a', delivery_of(gate, 2, vec![of(0, 2)]))).await;
    assert_eq!((verdicts(&next), next.committed), (vec![Verdict::Committed], None));
}

pub async fn an_agent_that_restarts_continues_its_history(place: Arc<Place>) {
    let store = place.open().await;
    let gate = agent(&store, "gate").await;
    let mut said = vec![opening(b'a', 1)];
    for (n, name) in (b'b'..b'z').enumerate() {
        let sequence = n as u64 + 1;
        let sent = greeting(&said, delivery_of(gate, 2, vec![of(0, sequence)]));
        assert_eq!(verdicts(&one(&store, sent.clone()).await), [Verdict::Committed]);
        // The answer was lost: the same again, on a new connection.
        let again = one(&store, sent).await;
        assert_eq!((verdicts(&again), again.fork), (vec![Verdict::Duplicate], 0));
        said.push(opening(name, sequence + 1));
        // It starts twice without a word in between, and forgets what the server has heard.
        said.push(opening(name.to_ascii_uppercase(), sequence + 1));
        said.drain(..said.len() - 3);
    }
    // One from before the last restart was still under way.
    let late = one(&store, under(b'x', delivery_of(gate, 2, vec![of(0, 23)]))).await;
    assert_eq!((verdicts(&late), late.fork), (vec![Verdict::Duplicate], 0));
    assert_eq!(place.number("select count(*) from epochs").await, 1);
    assert_eq!(faults(&store).await, []);
    assert_eq!(history(&store, 0).await.len(), 24);
}

/// The buffer's folder is copied while the agent runs, and a second agent starts on the copy.
pub async fn a_copy_that_speaks_first_leaves_the_original_in_the_fork(place: Arc<Place>) {
    let store = place.open().await;
    let gate = agent(&store, "gate").await;
    one(&store, greeting(&[opening(b'a', 1)], delivery_of(gate, 2, vec![of(0, 1)]))).await;
    // Batches 2 and 3 were in the buffer when it was copied.
    let copy = [opening(b'a', 1), opening(b'b', 4)];
    let receipt = one(&store, greeting(&copy, delivery_of(gate, 2, vec![of(0, 2), of(2, 4)]))).await;
    assert_eq!((receipt.fork, faults(&store).await), (0, vec![]), "it might be the original's next start");
    // The original sends what both have, which is no news, and then what only it has.
    let receipt = one(&store, under(b'a', delivery_of(gate, 2, vec![of(0, 2), of(0, 3)]))).await;
    assert_eq!((verdicts(&receipt), receipt.fork), (vec![Verdict::Duplicate, Verdict::Committed], 0));
    let receipt = one(&store, under(b'a', delivery_of(gate, 2, vec![of(1, 4)]))).await;
    assert_eq!((verdicts(&receipt), receipt.fork), (vec![Verdict::Committed], 1));
    assert_eq!(faults(&store).await, [fork_of(EPOCH, 1)]);
    let more = vec![
        under(b'b', delivery_of(gate, 2, vec![of(0, 3), of(2, 5)])),
        under(b'a', delivery_of(gate, 2, vec![of(1, 5), of(1, 6)])),
        // And both start again.
        greeting(&[opening(b'a', 1), opening(b'c', 7)], delivery_of(gate, 2, vec![of(1, 7)])),
        greeting(&[opening(b'b', 4), opening(b'd', 6)], delivery_of(gate, 2, vec![of(2, 6)])),
    ];
    let receipts = store.ingest(more).await.unwrap();
    assert_eq!(receipts.iter().map(|receipt| receipt.fork).collect::<Vec<_>>(), [0, 1, 1, 0]);
    assert_eq!(history(&store, 0).await, [0.0, 0.0, 0.0, 2.0, 2.0, 2.0]);
    assert_eq!(history(&store, 1).await, [1.0; 4]);
    let (ranges, is_whole) = receipts[2].committed.clone().unwrap();
    assert_eq!((ranges.iter().collect::<Vec<_>>(), is_whole), (vec![(1, 7)], true), "with what is common");
    assert_eq!(faults(&store).await.len(), 1);
    assert_eq!(store.fleet().await.unwrap()[0].stored, 10);
}

pub async fn a_copy_that_speaks_later_is_the_fork(place: Arc<Place>) {
    let store = place.open().await;
    let gate = agent(&store, "gate").await;
    let first = delivery_of(gate, 2, vec![of(0, 1), of(1, 2), of(1, 3)]);
    one(&store, greeting(&[opening(b'a', 1)], first)).await;
    // It was copied before 2 and 3 were appended.
    let copy = [opening(b'a', 1), opening(b'b', 2)];
    let receipt = one(&store, greeting(&copy, delivery_of(gate, 2, vec![of(0, 1), of(2, 2)]))).await;
    assert_eq!((verdicts(&receipt), receipt.fork), (vec![Verdict::Duplicate, Verdict::Committed], 1));
    assert_eq!(faults(&store).await, [fork_of(EPOCH, 1)]);
    let (ranges, _) = receipt.committed.unwrap();
    assert_eq!(ranges.iter().collect::<Vec<_>>(), [(1, 2)], "not what the other one sent since");
    let receipt = one(&store, under(b'a', delivery_of(gate, 2, vec![of(1, 4)]))).await;
    assert_eq!((verdicts(&receipt), receipt.fork), (vec![Verdict::Committed], 0));
    assert_eq!(history(&store, 0).await, [0.0, 1.0, 1.0, 1.0]);
    assert_eq!(history(&store, 1).await, [2.0]);
}

/// The copy leaves out the numbers that were reserved; the original goes on in the midst of them.
pub async fn a_copy_that_begins_in_a_later_boot_is_found_with_the_first_batch(place: Arc<Place>) {
    let store = place.open().await;
    let gate = agent(&store, "gate").await;
    let first = delivery_of(gate, 2, vec![of(0, 1), of(0, 2)]);
    one(&store, greeting(&[opening(b'a', 1)], first)).await;
    // It holds 3 too, which nobody delivered yet.
    let copy = [opening(b'a', 1), later_boot(b'b', 4, 260)];
    let receipt = one(&store, greeting(&copy, delivery_of(gate, 2, vec![of(2, 260)]))).await;
    assert_eq!(
        (receipt.fork, faults(&store).await),
        (0, vec![]),
        "it might be the original after a power cut"
    );
    let receipt = one(&store, under(b'a', delivery_of(gate, 2, vec![of(0, 3)]))).await;
    assert_eq!((verdicts(&receipt), receipt.fork), (vec![Verdict::Committed], 0), "common");
    // A second copy of the same day.
    let copy = [opening(b'a', 1), later_boot(b'c', 4, 260)];
    let receipt = one(&store, greeting(&copy, delivery_of(gate, 2, vec![of(0, 3), of(3, 260)]))).await;
    assert_eq!((verdicts(&receipt), receipt.fork), (vec![Verdict::Duplicate, Verdict::Committed], 1));
    let (ranges, _) = receipt.committed.unwrap();
    assert_eq!(ranges.iter().collect::<Vec<_>>(), [(1, 3), (260, 260)]);
    let receipt = one(&store, under(b'a', delivery_of(gate, 2, vec![of(0, 3), of(1, 4)]))).await;
    assert_eq!((verdicts(&receipt), receipt.fork), (vec![Verdict::Duplicate, Verdict::Committed], 2));
    assert_eq!(faults(&store).await.len(), 2);
    // The original starts again.
    let said = [opening(b'a', 1), later_boot(b'd', 5, 5)];
    let receipt = one(&store, greeting(&said, delivery_of(gate, 2, vec![of(1, 5)]))).await;
    assert_eq!((verdicts(&receipt), receipt.fork), (vec![Verdict::Committed], 2));
    assert_eq!(history(&store, 0).await, [0.0, 0.0, 0.0, 2.0]);
    assert_eq!(history(&store, 1).await, [3.0]);
    assert_eq!(history(&store, 2).await, [1.0, 1.0]);
}

pub async fn a_copy_from_a_later_boot_shares_only_what_it_holds(place: Arc<Place>) {
    let store = place.open().await;
    let gate = agent(&store, "gate").await;
    one(&store, greeting(&[opening(b'a', 1)], delivery_of(gate, 2, vec![of(0, 1)]))).await;
    // The original starts again, and goes on; then the copy that was made before.
    let said = [opening(b'a', 1), later_boot(b'o', 2, 2)];
    one(&store, greeting(&said, delivery_of(gate, 2, vec![of(1, 2), of(1, 3)]))).await;
    let copy = [opening(b'a', 1), later_boot(b'b', 2, 257)];
    let receipt = one(&store, greeting(&copy, delivery_of(gate, 2, vec![of(0, 1), of(2, 257)]))).await;
    assert_eq!((verdicts(&receipt), receipt.fork), (vec![Verdict::Duplicate, Verdict::Committed], 1));
    let (ranges, _) = receipt.committed.unwrap();
    assert_eq!(ranges.iter().collect::<Vec<_>>(), [(1, 1), (257, 257)]);
    let receipt = one(&store, under(b'o', delivery_of(gate, 2, vec![of(1, 4)]))).await;
    assert_eq!((verdicts(&receipt), receipt.fork), (vec![Verdict::Committed], 0));
    assert_eq!(faults(&store).await, [fork_of(EPOCH, 1)]);
}

/// Fresh batches go first, so 3 is still under way in the buffer when the power goes.
pub async fn batches_that_only_the_disk_lost_at_a_power_cut_are_no_fork(place: Arc<Place>) {
    let store = place.open().await;
    let gate = agent(&store, "gate").await;
    let first = delivery_of(gate, 2, vec![of(0, 1), of(0, 2), of(0, 5), of(0, 6)]);
    one(&store, greeting(&[opening(b'a', 1)], first)).await;
    // The disk has up to 4 of them.
    let said = [opening(b'a', 1), later_boot(b'b', 5, 260)];
    let receipt = one(&store, greeting(&said, delivery_of(gate, 2, vec![of(0, 260), of(0, 3)]))).await;
    assert_eq!((verdicts(&receipt), receipt.fork), (vec![Verdict::Committed; 2], 0));
    // Requests from before the power cut come late, one of them for the second time.
    let receipt = one(&store, under(b'a', delivery_of(gate, 2, vec![of(0, 5), of(0, 6), of(0, 4)]))).await;
    let expected = vec![Verdict::Duplicate, Verdict::Duplicate, Verdict::Committed];
    assert_eq!((verdicts(&receipt), receipt.fork), (expected, 0));
    let receipt = one(&store, under(b'b', delivery_of(gate, 2, vec![of(0, 4), of(0, 261)]))).await;
    assert_eq!((verdicts(&receipt), receipt.fork), (vec![Verdict::Duplicate, Verdict::Committed], 0));
    assert_eq!(faults(&store).await, []);
    assert_eq!(history(&store, 0).await, [0.0; 8]);
    // And if another goes on under the old opening after all, it is the fork, beyond all that.
    let receipt = one(&store, under(b'a', delivery_of(gate, 2, vec![of(0, 6), of(1, 7)]))).await;
    assert_eq!((verdicts(&receipt), receipt.fork), (vec![Verdict::Duplicate, Verdict::Committed], 1));
    assert_eq!(history(&store, 1).await, [1.0]);
}

/// The server goes back to a backup, so both copies deliver again what it had; the copy is first.
pub async fn the_original_is_told_only_of_what_was_common_until_it_speaks_itself(place: Arc<Place>) {
    let store = place.open().await;
    let gate = agent(&store, "gate").await;
    let gap = |number| wire::Gap { number, from_us: NOW, to_us: NOW + 1, ..Default::default() };
    let copy = [opening(b'a', 1), later_boot(b'b', 2, 2)];
    let batches = vec![of(0, 1), of(2, 2), of(2, 3)];
    let sent = Delivery { gaps: vec![gap(1)], ..delivery_of(gate, 3, batches) };
    assert_eq!(one(&store, greeting(&copy, sent)).await.fork, 0);
    let receipt = one(&store, greeting(&[opening(b'a', 1)], delivery(gate))).await;
    let (ranges, is_whole) = receipt.committed.unwrap();
    assert_eq!((ranges.iter().collect::<Vec<_>>(), is_whole), (vec![(1, 1)], true), "2 and 3 are others");
    assert_eq!((receipt.dictionary_revision, receipt.gaps_known), (2, 0));
    let receipt = one(&store, under(b'a', delivery_of(gate, 2, vec![of(1, 2), of(1, 3)]))).await;
    assert_eq!((verdicts(&receipt), receipt.fork), (vec![Verdict::Committed; 2], 1));
    let receipt = one(&store, greeting(&[opening(b'a', 1)], delivery(gate))).await;
    assert_eq!(receipt.committed.unwrap().0.iter().collect::<Vec<_>>(), [(1, 3)]);
    assert_eq!(history(&store, 0).await, [0.0, 2.0, 2.0]);
    assert_eq!(history(&store, 1).await, [1.0, 1.0]);
}

/// The server was put back, and lacks the points of what the original delivers just before the copy speaks.
pub async fn what_was_refused_is_not_common_with_a_copy(place: Arc<Place>) {
    let store = place.open().await;
    let gate = agent(&store, "gate").await;
    let unnamed = Delivery { batches: vec![of(0, 1), of(1, 4), of(1, 5)], ..delivery(gate) };
    let refused = one(&store, greeting(&[opening(b'a', 1)], unnamed)).await;
    assert!(refused.dictionary_missing && refused.verdicts.is_empty());
    // The copy holds 1 to 3.
    let copy = [opening(b'a', 1), later_boot(b'b', 4, 258)];
    let receipt = one(&store, greeting(&copy, delivery_of(gate, 2, vec![of(0, 1), of(2, 258)]))).await;
    assert_eq!((verdicts(&receipt), receipt.fork), (vec![Verdict::Committed; 2], 0));
    let receipt = one(&store, under(b'a', delivery_of(gate, 2, vec![of(1, 4), of(1, 5)]))).await;
    assert_eq!((verdicts(&receipt), receipt.fork), (vec![Verdict::Committed; 2], 1));
    assert_eq!(history(&store, 0).await, [0.0, 2.0]);
    assert_eq!(history(&store, 1).await, [1.0, 1.0]);
}

/// 3 was fresh and went first; 2, with a point the copy does not know, is under way when the copy speaks.
pub async fn a_batch_with_a_point_the_copy_does_not_know_is_the_originals(place: Arc<Place>) {
    let store = place.open().await;
    let gate = agent(&store, "gate").await;
    one(&store, greeting(&[opening(b'a', 1)], delivery_of(gate, 2, vec![of(0, 1), of(0, 3)]))).await;
    let copy = [opening(b'a', 1), later_boot(b'b', 2, 257)];
    assert_eq!(one(&store, greeting(&copy, delivery_of(gate, 2, vec![of(2, 257)]))).await.fork, 0);
    let batch = Arrived { dictionary_revision: PointId(3), ..batch(2, vec![float(3, NOW, 1.0)]) };
    let dictionary = vec![(PointId(3), point("boiler", "mine"))];
    let sent = Delivery { dictionary, batches: vec![batch, of(0, 3)], ..delivery(gate) };
    let receipt = one(&store, under(b'a', sent.clone())).await;
    assert_eq!((verdicts(&receipt), receipt.fork), (vec![Verdict::Committed, Verdict::Duplicate], 1));
    let receipt = one(&store, under(b'a', sent)).await;
    assert_eq!((verdicts(&receipt), receipt.fork), (vec![Verdict::Duplicate; 2], 1));
    assert_eq!(place.number("select count(*) from set_aside").await, 0);
    assert_eq!(place.number("select count(*) from readings").await, 4);
}

/// The original holds 2 to 4 when an older image of it, from before 2, speaks first; then comes a copy
/// made after 4. What it holds below 5 is the original's, not the image's.
pub async fn a_third_copy_shares_with_whom_it_was_copied_from(place: Arc<Place>) {
    let store = place.open().await;
    let gate = agent(&store, "gate").await;
    let a = opening(b'a', 1);
    one(&store, greeting(std::slice::from_ref(&a), delivery_of(gate, 2, vec![of(0, 1)]))).await;
    let image = [a.clone(), opening(b'i', 2)];
    assert_eq!(one(&store, greeting(&image, delivery_of(gate, 2, vec![of(3, 2), of(3, 3)]))).await.fork, 0);
    let copy = [a, opening(b'c', 5)];
    let receipt = one(&store, greeting(&copy, delivery_of(gate, 2, vec![of(1, 2), of(2, 5)]))).await;
    assert_eq!((verdicts(&receipt), receipt.fork), (vec![Verdict::Committed; 2], 1));
    let receipt = one(&store, under(b'a', delivery_of(gate, 2, vec![of(1, 2), of(1, 3), of(1, 4)]))).await;
    assert_eq!((verdicts(&receipt)[0], receipt.fork), (Verdict::Duplicate, 1), "common, and there already");
    let receipt = one(&store, under(b'a', delivery_of(gate, 2, vec![of(1, 5)]))).await;
    assert_eq!((verdicts(&receipt), receipt.fork), (vec![Verdict::Committed], 2));
    assert_eq!(history(&store, 0).await, [0.0, 3.0, 3.0]);
    assert_eq!(history(&store, 1).await, [1.0, 1.0, 1.0, 2.0]);
    assert_eq!(history(&store, 2).await, [1.0]);
    assert_eq!(place.number("select count(*) from set_aside").await, 0);
}

pub async fn an_older_state_that_was_restored_is_a_fork_at_its_first_word(place: Arc<Place>) {
    let store = place.open().await;
    let gate = agent(&store, "gate").await;
    one(&store, greeting(&[opening(b'a', 1)], delivery_of(gate, 2, vec![of(0, 1)]))).await;
    one(&store, greeting(&[opening(b'a', 1), opening(b'b', 2)], delivery_of(gate, 2, vec![of(1, 2)]))).await;
    // Three times the image of the first day, each time another future.
    for (n, name) in (1u32..).zip([b'x', b'y', b'z']) {
        let said = [opening(b'a', 1), opening(name, 2)];
        let receipt = one(&store, greeting(&said, delivery(gate))).await;
        assert_eq!((receipt.fork, faults(&store).await.len()), (n, n as usize), "before any batch");
        let receipt = one(&store, under(name, delivery_of(gate, 2, vec![of(n + 1, 2)]))).await;
        assert_eq!((verdicts(&receipt), receipt.fork), (vec![Verdict::Committed], n));
        assert_eq!(history(&store, n).await, [f64::from(n + 1)]);
    }
    assert_eq!(history(&store, 0).await, [0.0, 1.0]);
    assert_eq!(store.ledgers(Some(gate)).await.unwrap().len(), 4);
}

pub async fn a_fork_of_a_fork_keeps_all_histories_apart(place: Arc<Place>) {
    let store = place.open().await;
    let gate = agent(&store, "gate").await;
    let a = opening(b'a', 1);
    one(&store, greeting(std::slice::from_ref(&a), delivery_of(gate, 2, vec![of(0, 1), of(0, 2), of(0, 3)])))
        .await;
    let b = opening(b'b', 3);
    let receipt =
        one(&store, greeting(&[a.clone(), b.clone()], delivery_of(gate, 2, vec![of(1, 3), of(1, 4)])));
    assert_eq!(receipt.await.fork, 1);
    let c = opening(b'c', 4);
    let receipt =
        one(&store, greeting(&[a, b, c], delivery_of(gate, 2, vec![of(2, 4), of(0, 2), of(1, 3)]))).await;
    assert_eq!(receipt.fork, 2);
    assert_eq!(verdicts(&receipt), [Verdict::Committed, Verdict::Duplicate, Verdict::Duplicate]);
    assert_eq!(receipt.committed.unwrap().0.iter().collect::<Vec<_>>(), [(1, 4)]);
    assert_eq!(history(&store, 0).await, [0.0; 3]);
    assert_eq!(history(&store, 1).await, [1.0; 2]);
    assert_eq!(history(&store, 2).await, [2.0]);
}

pub async fn a_fork_has_its_own_dictionary_and_gaps_beyond_the_border(place: Arc<Place>) {
    let store = place.open().await;
    let gate = agent(&store, "gate").await;
    let gap = |number, point| wire::Gap { number, point, from_us: NOW, to_us: NOW + 1, ..Default::default() };
    let begin = Delivery { gaps: vec![gap(1, 0)], ..delivery_of(gate, 1, vec![of(0, 1)]) };
    one(&store, greeting(&[opening(b'a', 1)], begin)).await;
    let more = Delivery {
        dictionary: vec![(PointId(2), point("boiler", "p2")), (PointId(3), point("boiler", "mine"))],
        gaps: vec![gap(2, 3)],
        ..delivery_of(gate, 0, vec![of(1, 2)])
    };
    one(&store, under(b'a', more)).await;
    // The copy was made with entry 2, which the server had not heard of yet, and gap 1.
    let begins = wire::Opening { gaps: 1, ..opening(b'b', 2) };
    let receipt = one(&store, greeting(&[opening(b'a', 1), begins], delivery(gate))).await;
    assert_eq!((receipt.fork, receipt.dictionary_revision, receipt.gaps_known), (1, 2, 1));
    let mut other = batch(2, vec![float(1, NOW, 1.0), float(2, NOW, 2.0), float(3, NOW, 3.0)]);
    other.dictionary_revision = PointId(3);
    let sent = Delivery { batches: vec![other.clone()], ..delivery(gate) };
    assert!(one(&store, under(b'b', sent)).await.dictionary_missing, "entry 3 is not that of the other one");
    let sent = Delivery {
        dictionary: vec![(PointId(3), point("boiler", "theirs"))],
        gaps: vec![gap(2, 2)],
        batches: vec![other],
        ..delivery(gate)
    };
    let receipt = one(&store, under(b'b', sent)).await;
    assert_eq!(
        (verdicts(&receipt), receipt.dictionary_revision, receipt.gaps_known),
        (vec![Verdict::Committed], 3, 2)
    );
    let points = store.points(None, "", None, 100).await.unwrap();
    let mut names: Vec<_> = points.iter().map(|point| format!("{} {}", point.name, point.fork)).collect();
    names.sort();
    assert_eq!(names, ["mine 0", "p1 0", "p1 1", "p2 0", "p2 1", "theirs 1"]);
    let of_fork: Vec<i64> = points.iter().filter(|point| point.fork == 1).map(|point| point.key.0).collect();
    assert!(receipt.points.iter().all(|(_, key)| of_fork.contains(&key.0)), "{receipt:?}");
    let gaps = store.gaps(None, 0, NOW + SECOND, 10).await.unwrap();
    let named = |point: u32| {
        points.iter().find(|row| row.key.0 == i64::from(point)).map(|row| (&*row.name, row.fork))
    };
    let gaps: Vec<_> = gaps.iter().map(|(_, gap)| (gap.number, named(gap.point))).collect();
    assert!(gaps.contains(&(1, None)) && gaps.contains(&(2, Some(("mine", 0)))), "{gaps:?}");
    assert!(gaps.contains(&(2, Some(("p2", 1)))), "{gaps:?}");
}

pub async fn a_copy_is_found_by_a_gap_number_that_is_given_already(place: Arc<Place>) {
    let store = place.open().await;
    let gate = agent(&store, "gate").await;
    let gap = |number| wire::Gap { number, from_us: NOW, to_us: NOW + 1, ..Default::default() };
    one(&store, greeting(&[opening(b'a', 1)], delivery_of(gate, 2, vec![of(0, 1)]))).await;
    one(&store, under(b'a', Delivery { gaps: vec![gap(1)], ..delivery(gate) })).await;
    let copy = Delivery { gaps: vec![gap(1)], ..delivery(gate) };
    let receipt = one(&store, greeting(&[opening(b'a', 1), opening(b'b', 2)], copy)).await;
    assert_eq!((receipt.fork, receipt.gaps_known), (1, 1));
    assert_eq!(store.gaps(None, 0, NOW + SECOND, 10).await.unwrap().len(), 2, "each has its own");
}

pub async fn gaps_that_a_restored_server_lost_are_asked_for_again(place: Arc<Place>) {
    let store = place.open().await;
    let gate = agent(&store, "gate").await;
    let gap = |number| wire::Gap { number, from_us: NOW, to_us: NOW + 1, ..Default::default() };
    let later = Delivery { gaps: vec![gap(3)], ..delivery(gate) };
    assert_eq!(one(&store, greeting(&[opening(b'a', 1)], later)).await.gaps_known, 0);
    let all = Delivery { gaps: vec![gap(1), gap(2), gap(3)], ..delivery(gate) };
    assert_eq!(one(&store, under(b'a', all)).await.gaps_known, 3);
    assert_eq!(store.gaps(None, 0, NOW + SECOND, 10).await.unwrap().len(), 3);
}

pub async fn who_continues_nothing_known_continues_the_main_history(place: Arc<Place>) {
    let store = place.open().await;
    let gate = agent(&store, "gate").await;
    // An agent of an earlier version, without openings.
    one(&store, delivery_of(gate, 2, vec![of(0, 1), of(0, 2)])).await;
    let receipt = one(&store, greeting(&[opening(b'm', 3)], delivery_of(gate, 2, vec![of(0, 3)]))).await;
    assert_eq!((receipt.fork, receipt.committed.unwrap().0.iter().collect::<Vec<_>>()), (0, vec![(1, 3)]));
    // A server restored from a backup: it has not heard of these either.
    let said = [opening(b'n', 5), opening(b'o', 9)];
    let receipt = one(&store, greeting(&said, delivery_of(gate, 2, vec![of(0, 9)]))).await;
    assert_eq!((verdicts(&receipt), receipt.fork), (vec![Verdict::Committed], 0));
    // The books were damaged: what it follows nobody knows, and it is no fork whatever it says.
    let blind = wire::Opening { blind: true, ..opening(b'p', 1) };
    let receipt = one(&store, greeting(&[blind], delivery_of(gate, 2, vec![of(0, 10)]))).await;
    assert_eq!((verdicts(&receipt), receipt.fork), (vec![Verdict::Committed], 0));
    // A disk that takes no opening.
    assert_eq!(one(&store, delivery_of(gate, 2, vec![of(0, 11)])).await.fork, 0);
    assert_eq!(faults(&store).await, []);
    // Two copies that both know nothing the server knows are told apart all the same.
    let copy = [opening(b'q', 5), opening(b'r', 9)];
    assert_eq!(one(&store, greeting(&copy, delivery(gate))).await.fork, 1);
}

pub async fn greetings_that_no_buffer_says_do_not_hurt(place: Arc<Place>) {
    let store = place.open().await;
    let (gate, healthy) = (agent(&store, "gate").await, agent(&store, "healthy").await);
    let odd = wire::Opening {
        id: b"short".to_vec(),
        first: u64::MAX,
        dictionary_revision: u32::MAX,
        gaps: u64::MAX,
        blind: false,
        known_below: u64::MAX,
    };
    let huge = wire::Opening { id: vec![9; 8], ..odd.clone() };
    let zero = opening(b'0', 0);
    let said = [odd.clone(), huge.clone(), huge.clone(), zero.clone(), huge.clone(), odd];
    let strange = Delivery {
        opening: Some([b'0'; 8]),
        greeting: Some(said.into()),
        ..delivery_of(gate, 1, vec![of(0, 1)])
    };
    let good = delivery_of(healthy, 1, vec![of(0, 1)]);
    let receipts = store.ingest(vec![strange, good]).await.unwrap();
    assert_eq!(verdicts(&receipts[1]), [Verdict::Committed]);
    assert_eq!(receipts[0].verdicts.len(), 1);
    let receipt = one(&store, greeting(&[zero, huge], delivery_of(gate, 1, vec![of(0, 2), of(1, 1)]))).await;
    assert_eq!(receipt.verdicts.len(), 2);
    let empty = Delivery { greeting: Some(vec![]), opening: Some([77; 8]), ..delivery(gate) };
    assert!(one(&store, empty).await.greet);
}

pub async fn the_highest_ranges_are_told_and_whether_they_are_all(place: Arc<Place>) {
    let store = place.open().await;
    let gate = agent(&store, "gate").await;
    let batches = (1..=64).map(|n| of(0, 2 * n)).collect();
    let receipt = one(&store, greeting(&[opening(b'a', 1)], delivery_of(gate, 1, batches))).await;
    let (ranges, is_whole) = receipt.committed.unwrap();
    assert_eq!((ranges.iter().count(), is_whole), (64, true));
    let more = delivery_of(gate, 1, vec![of(0, 200), of(0, 400)]);
    let receipt = one(&store, greeting(&[opening(b'a', 1)], more)).await;
    let (ranges, is_whole) = receipt.committed.unwrap();
    let ranges: Vec<_> = ranges.iter().collect();
    assert_eq!((ranges.len(), ranges[0], ranges[63], is_whole), (64, (6, 6), (400, 400), false));
}

/// Two copies greet and send at once, each to a server of its own, over and over.
pub async fn two_copies_at_two_servers_at_once_are_stored_once_each(place: Arc<Place>) {
    let stores = [place.open().await, place.open().await];
    let gate = agent(&stores[0], "gate").await;
    one(&stores[0], greeting(&[opening(b'a', 1)], delivery_of(gate, 2, vec![of(0, 1)]))).await;
    // 2 to 5 are common and were not sent yet; from 6 on each has its own.
    let calls = (0..60usize).map(|n| {
        let (who, name) = if n % 2 == 0 { (1, b'b') } else { (2, b'c') };
        let step = n as u64 / 2;
        let common = (step < 4).then(|| of(0, 2 + step));
        let batches = common.into_iter().chain([of(who, 6 + step), of(who, 6 + step / 2)]).collect();
        let said = [opening(b'a', 1), opening(name, 6)];
        stores[(n / 2) % 2].ingest(vec![greeting(&said, delivery_of(gate, 2, batches))])
    });
    let receipts = try_join_all(calls).await.unwrap();
    let forks: Vec<u32> = receipts.iter().step_by(2).map(|receipts| receipts[0].fork).collect();
    assert!(forks.iter().all(|fork| *fork == forks[0]), "each copy stays in its branch: {forks:?}");
    assert!(
        receipts
            .iter()
            .flatten()
            .all(|receipt| { receipt.verdicts.iter().all(|(_, verdict)| *verdict != Verdict::SetAside) })
    );
    assert_eq!(place.number("select count(*) from epochs").await, 2);
    assert_eq!(place.number("select count(*) from readings").await, 5 + 2 * 30);
    let (main, fork) = (history(&stores[0], 0).await, history(&stores[1], 1).await);
    assert_eq!((main.len(), fork.len()), (35, 30));
    assert!(
        main[5..].iter().all(|value| *value == main[5]) && fork.iter().all(|value| *value == 3.0 - main[5])
    );
    assert_eq!(faults(&stores[0]).await, [fork_of(EPOCH, 1)]);
}

pub async fn another_batch_under_a_known_number_is_set_aside_and_told(place: Arc<Place>) {
    let store = place.open().await;
    let gate = agent(&store, "gate").await;
    let sent = |who, sequence| delivery_of(gate, 1, vec![of(who, sequence)]);
    one(&store, sent(1, 1)).await;
    assert_eq!(verdicts(&one(&store, sent(1, 1)).await), [Verdict::Duplicate]);
    let thinned = Arrived { thinned: true, ..of(9, 1) };
    assert_eq!(verdicts(&one(&store, delivery_of(gate, 1, vec![thinned])).await), [Verdict::Duplicate]);
    assert_eq!(faults(&store).await, []);
    // Two others, each of them twice, one within a call that stores the number first.
    for who in [2, 3, 2, 3] {
        assert_eq!(verdicts(&one(&store, sent(who, 1)).await), [Verdict::SetAside]);
    }
    let receipts = store.ingest(vec![sent(1, 2), sent(2, 2), sent(1, 2)]).await.unwrap();
    let got: Vec<_> = receipts.iter().flat_map(verdicts).collect();
    assert_eq!(got, [Verdict::Committed, Verdict::SetAside, Verdict::Duplicate]);
    assert_eq!(place.number("select count(*) from set_aside").await, 3);
    assert_eq!(place.number("select count(*) from readings").await, 2);
    assert_eq!(faults(&store).await, [fork_of(EPOCH, 0)]);
    let row = store.ledgers(None).await.unwrap().remove(0);
    assert_eq!((row.stored, row.set_aside), (2, 3));
    assert_eq!(store.fleet().await.unwrap()[0].set_aside, 3);
}

pub async fn checksums_are_kept_of_the_newest_batches_only(place: Arc<Place>) {
    let store = place.open().await;
    let gate = agent(&store, "gate").await;
    let empty = |who: u32, sequence| Arrived { checksum: who, ..batch(sequence, vec![]) };
    // In random order with swaps: the committed set stays one range, the checksums stay few.
    let mut order: Vec<u64> = (1..=10_000).collect();
    let mut seed = 7u64;
    for at in (1..order.len()).rev() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        order.swap(at, (seed >> 33) as usize % (at + 1));
    }
    for some in order.chunks(500) {
        let batches = some.iter().map(|&sequence| empty(1, sequence)).collect();
        let receipt = one(&store, Delivery { batches, ..delivery(gate) }).await;
        assert!(verdicts(&receipt).iter().all(|verdict| *verdict == Verdict::Committed));
    }
    for some in (10_001..=14_000u64).collect::<Vec<_>>().chunks(100) {
        let batches = some.iter().map(|&sequence| empty(1, sequence)).collect();
        one(&store, Delivery { batches, ..delivery(gate) }).await;
    }
    assert_eq!(place.committed().await, (1, 14_000));
    let kept = place.number("select count(*) from fingerprints").await;
    assert!((4_000..=4_096 + 1_024).contains(&kept), "{kept}");
    let batches = vec![empty(2, 13_999), empty(2, 1)];
    let receipt = one(&store, Delivery { batches, ..delivery(gate) }).await;
    let expected = [(Sequence(13_999), Verdict::SetAside), (Sequence(1), Verdict::Duplicate)];
    assert_eq!(receipt.verdicts, expected, "what is too old cannot be told apart");
}
