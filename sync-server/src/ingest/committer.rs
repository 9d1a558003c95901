//! Group commit: deliveries that wait at the same time share one transaction, and each gets its
//! own receipt. While one transaction is under way the next group gathers; nobody waits for a
//! timer.
//!
//! A group the database refuses is tried one by one, so that one agent's oddity is its own.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use forebay_protocols::sync::problem::{Kind, Problem};
use forebay_protocols::sync::wire::sync_answer::Verdict;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::arrivals::Arrivals;
use super::outage::Outage;
use crate::store::{Content, Delivery, Receipt, Store, StoreError, within_reason};
use crate::telemetry::Telemetry;
use crate::watchdog::Progress;

/// Deliveries waiting for the committer; more wait at the door for [`ROOM_WITHIN`], then get 503.
const QUEUE: usize = 64;
const ROOM_WITHIN: Duration = Duration::from_secs(30);
/// A transaction is closed at either.
const GROUP_DELIVERIES: usize = 64;
const GROUP_READINGS: usize = 400_000;
/// A database that takes longer is away. Should the transaction still go through, the agent's
/// second try finds its batches committed.
const TRANSACTION_WITHIN: Duration = Duration::from_secs(60);
/// Without deliveries it goes round so often, so that the watchdog sees it alive.
const ROUND: Duration = Duration::from_secs(10);

/// Where handlers hand in deliveries. Cheap to clone; the task ends when all clones are gone.
#[derive(Clone, Debug)]
pub struct Committer {
    queue: mpsc::Sender<Waiting>,
    arrivals: Arrivals,
}

#[derive(Debug)]
struct Waiting {
    delivery: Delivery,
    receipt: oneshot::Sender<Result<Receipt, Problem>>,
}

impl Committer {
    /// The handle, and the task to be owned and run by the caller.
    pub fn new(
        store: Arc<dyn Store>,
        outage: Arc<Outage>,
        telemetry: Arc<Telemetry>,
        progress: Progress,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let arrivals = Arrivals::default();
        let task = Task { store, outage, telemetry, progress, arrivals: arrivals.clone() };
        (Self { queue, arrivals }, task.run(waiting))
    }

    /// Where what comes from agents is counted until it is in the books.
    pub(super) fn arrivals(&self) -> &Arrivals {
        &self.arrivals
    }

    /// Returns when the delivery is in the database, or why it is not.
    pub(super) async fn commit(&self, delivery: Delivery) -> Result<Receipt, Problem> {
        let (receipt, answered) = oneshot::channel();
        let stopping = || Problem::new(Kind::Busy, "the server is stopping; try again later");
        timeout(ROOM_WITHIN, self.queue.send(Waiting { delivery, receipt }))
            .await
            .map_err(|_| {
                Problem::new(Kind::Busy, "too many requests wait for the database; try again later")
            })?
            .map_err(|_| stopping())?;
        // Ends: the committer answers or is gone, and each transaction has a time limit.
        answered.await.map_err(|_| stopping())?
    }
}

struct Task {
    store: Arc<dyn Store>,
    outage: Arc<Outage>,
    telemetry: Arc<Telemetry>,
    progress: Progress,
    arrivals: Arrivals,
}

impl Task {
    async fn run(self, mut waiting: mpsc::Receiver<Waiting>) {
        let mut round = interval(ROUND);
        round.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Neither loses anything when it is dropped: a delivery stays in the channel.
            let first = tokio::select! {
                first = waiting.recv() => first,
                _ = round.tick() => {
                    self.progress.advance();
                    continue;
                }
            };
            let Some(first) = first else { return };
            let mut readings = weight(&first.delivery);
            let mut group = vec![first];
            while group.len() < GROUP_DELIVERIES && readings < GROUP_READINGS {
                let Ok(next) = waiting.try_recv() else { break };
                readings += weight(&next.delivery);
                group.push(next);
            }
            // Whoever gave up waiting will send again; its batches need not be stored now.
            group.retain(|waiting| !waiting.receipt.is_closed());
            self.commit(group).await;
        }
    }

    async fn commit(&self, group: Vec<Waiting>) {
        let (mut deliveries, receipts): (Vec<_>, Vec<_>) =
            group.into_iter().map(|waiting| (waiting.delivery, waiting.receipt)).unzip();
        if deliveries.is_empty() {
            return;
        }
        self.arrivals.hand_to(deliveries.iter_mut());
        match self.transaction(&deliveries).await {
            Ok(done) => {
                for (receipt, done) in receipts.into_iter().zip(done) {
                    // The handler may be gone with its connection; the agent will ask again.
                    let _ = receipt.send(Ok(done));
                }
            }
            Err(StoreError::Refused(_)) if deliveries.len() > 1 => {
                for (delivery, receipt) in deliveries.iter().zip(receipts) {
                    let alone = self.transaction(std::slice::from_ref(delivery)).await;
                    if alone.is_err() {
                        self.arrivals.take_back(delivery);
                    }
                    let _ = receipt.send(self.one(alone));
                }
            }
            Err(error) => {
                let problem = self.outage.problem(&error);
                deliveries.iter().for_each(|delivery| self.arrivals.take_back(delivery));
                for receipt in receipts {
                    let _ = receipt.send(Err(problem.clone()));
                }
            }
        }
    }

    fn one(&self, outcome: Result<Vec<Receipt>, StoreError>) -> Result<Receipt, Problem> {
        // transaction() gives as many receipts as deliveries.
        outcome
            .map(|mut receipts| receipts.pop().unwrap_or_default())
            .map_err(|error| self.outage.problem(&error))
    }

    async fn transaction(&self, deliveries: &[Delivery]) -> Result<Vec<Receipt>, StoreError> {
        let asked = deliveries.len();
        let began = Instant::now();
        // Readings are shared, so this copies little.
        let ingest = self.store.ingest(deliveries.to_vec());
        let outcome = timeout(TRANSACTION_WITHIN, ingest).await.unwrap_or_else(|_| {
            Err(StoreError::Away(format!("no answer within {} s", TRANSACTION_WITHIN.as_secs())))
        });
        self.telemetry.transaction(asked, began.elapsed());
        self.progress.advance();
        match outcome {
            Ok(receipts) if receipts.len() == asked => {
                self.outage.over();
                deliveries
                    .iter()
                    .zip(&receipts)
                    .for_each(|(delivery, receipt)| self.count(delivery, receipt));
                Ok(receipts)
            }
            Ok(receipts) => {
                Err(StoreError::Refused(format!("{} receipts for {asked} deliveries", receipts.len())))
            }
            Err(error) => Err(error),
        }
    }

    /// Here and not where the answer is made: a handler may be gone with its connection while its
    /// batches are committed.
    fn count(&self, delivery: &Delivery, receipt: &Receipt) {
        if receipt.greet {
            // Nothing of it was taken.
            self.arrivals.take_back(delivery);
        }
        let verdicts: HashMap<_, _> = receipt.verdicts.iter().copied().collect();
        for batch in &delivery.batches {
            let Some(verdict) = verdicts.get(&batch.sequence) else { continue };
            self.telemetry.verdict(*verdict);
            let (Verdict::Committed, Content::Readings(readings)) = (verdict, &batch.content) else {
                continue;
            };
            let odd = readings.iter().filter(|reading| !within_reason(reading.time, delivery.received));
            self.telemetry.readings_quarantined.increment(odd.count() as u64);
            self.telemetry.readings_stored.increment(readings.len() as u64);
        }
    }
}

fn weight(delivery: &Delivery) -> usize {
    let readings = |content: &Content| match content {
        Content::Readings(readings) => readings.len(),
        Content::SetAside { .. } => 1,
    };
    delivery.batches.iter().map(|batch| readings(&batch.content)).sum()
}

#[cfg(test)]
mod tests {
    use forebay_protocols::reading::{PointId, Quality};

    use super::*;
    use crate::ingest::tests::memory::{Memory, delivery};
    use crate::store::Timed;

    fn committer(store: &Arc<Memory>) -> (Committer, impl Future<Output = ()> + Send + use<>) {
        counted_committer(store, Arc::new(Telemetry::new()))
    }

    fn counted_committer(
        store: &Arc<Memory>,
        telemetry: Arc<Telemetry>,
    ) -> (Committer, impl Future<Output = ()> + Send + use<>) {
        let outage = Arc::new(Outage::new(telemetry.clone()));
        Committer::new(store.clone(), outage, telemetry, Progress::default())
    }

    #[tokio::test(start_paused = true)]
    async fn it_goes_round_without_deliveries_and_not_while_the_database_is_silent() {
        let store = Arc::new(Memory::default());
        let telemetry = Arc::new(Telemetry::new());
        let outage = Arc::new(Outage::new(telemetry.clone()));
        let progress = Progress::default();
        let (committer, task) = Committer::new(store.clone(), outage, telemetry, progress.clone());
        let task = tokio::spawn(task);
        tokio::time::sleep(ROUND * 3 + ROUND / 2).await;
        assert_eq!(progress.count(), 4, "at the start and every ten seconds");
        let _gate = store.hold_ingest();
        let waiting = tokio::spawn(async move { committer.commit(delivery(1, &[1])).await });
        store.ingest_reached().await;
        let before = progress.count();
        tokio::time::sleep(TRANSACTION_WITHIN / 2).await;
        assert_eq!(progress.count(), before, "one transaction is one sign");
        assert!(waiting.await.unwrap().is_err(), "the database never answered");
        assert!(progress.count() > before);
        task.await.unwrap();
    }

    #[tokio::test]
    async fn deliveries_that_wait_together_share_a_transaction_and_each_gets_its_receipt() {
        let store = Arc::new(Memory::default());
        let gate = store.hold_ingest();
        let (committer, task) = committer(&store);
        let task = tokio::spawn(task);
        let waiting: Vec<_> = (1..=9u64)
            .map(|agent| {
                let committer = committer.clone();
                tokio::spawn(async move { committer.commit(delivery(agent as i64, &[agent])).await })
            })
            .collect();
        // All have handed in before the first transaction may end.
        store.ingest_reached().await;
        while committer.queue.capacity() + 9 - store.in_transaction() > QUEUE {
            tokio::task::yield_now().await;
        }
        drop(gate);
        for (agent, waiting) in (1..=9u64).zip(waiting) {
            let receipt = waiting.await.unwrap().unwrap();
            assert_eq!(receipt.verdicts.len(), 1);
            assert_eq!(receipt.verdicts[0].0.0, agent, "each gets its own receipt");
        }
        assert!(store.transactions() <= 2, "{} transactions", store.transactions());
        drop(committer);
        task.await.unwrap();
    }

    #[tokio::test]
    async fn one_refused_delivery_does_not_take_others_with_it() {
        let store = Arc::new(Memory::default());
        store.refuse_agent(2);
        let (committer, task) = committer(&store);
        // Handed in before the task runs, so that they are one group.
        let mut waiting: Vec<_> =
            (1..=3).map(|agent| Box::pin(committer.commit(delivery(agent, &[1])))).collect();
        for one in &mut waiting {
            assert!(futures::poll!(one.as_mut()).is_pending());
        }
        let task = tokio::spawn(task);
        let mut kinds = Vec::new();
        for one in waiting {
            kinds.push(one.await.map(|receipt| receipt.verdicts.len()).map_err(|problem| problem.kind));
        }
        assert_eq!(kinds, [Ok(1), Err(Kind::StoreRefuses), Ok(1)]);
        drop(committer);
        task.await.unwrap();
    }

    #[tokio::test]
    async fn what_is_committed_counts_though_nobody_waits_for_the_receipt_any_more() {
        let (store, telemetry) = (Arc::new(Memory::default()), Arc::new(Telemetry::new()));
        let gate = store.hold_ingest();
        let (committer, task) = counted_committer(&store, telemetry.clone());
        let task = tokio::spawn(task);
        let mut sent = delivery(1, &[1]);
        let reading = Timed { point: PointId(1), time: 0, value: None, quality: Quality::Good };
        sent.batches[0].content = Content::Readings(Arc::new(vec![reading; 3]));
        let mut waiting = Box::pin(committer.commit(sent));
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        store.ingest_reached().await;
        // The connection breaks in the middle of the transaction.
        drop(waiting);
        drop((gate, committer));
        task.await.unwrap();
        let metrics = telemetry.render();
        for line in [
            "forebay_server_batches_total{verdict=\"committed\"} 1\n",
            "forebay_server_readings_stored_total 3\n",
            "forebay_server_readings_quarantined_total 3\n",
        ] {
            assert!(metrics.contains(line), "{line} is not in {metrics}");
        }
    }
}
