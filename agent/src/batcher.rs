//! Readings of all links to batches on the flash. A harvest is confirmed to its peer after the
//! append that holds it, never before.
//!
//! The batcher collects for the durability window, or until a batch is full, then defines points,
//! encodes, appends, confirms. Where the window since the last append is over already, as with points
//! that are read once a window, it collects only what comes in the same moment. While the disk refuses it holds what it has, tries again, and takes
//! nothing more: its channel fills and the links wait. When the agent ends it writes what is in
//! hand without waiting for the window, and ends itself when the last link hung up.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use forebay_protocols::field::source::{Receipt, Sample};
use forebay_protocols::reading::{Point, PointId, Reading, Value};
use forebay_protocols::sync::batch::{Encoded, Epoch, Head, Sequence};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::backoff::{Backoff, Waited};
use crate::buffer::{Appender, BufferError};
use crate::clock::Clock;
use crate::ledger::Books;
use crate::systemd::Progress;

/// A full collection is written at once, whatever the window says: below the codec's limit of
/// 65,536 readings in a batch, and well below what servers take in one request.
const FULL_READINGS: usize = 20_000;
const FULL_BYTES: usize = 1 << 20;
/// What comes within this time comes in the same moment.
const TOGETHER: Duration = Duration::from_millis(50);
/// The longest the batcher is without a sign of life while nothing arrives.
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);

/// What a link task hands over: one harvest, processed.
#[derive(Debug)]
pub struct Handover {
    /// Which link, counted in the order of the configuration.
    pub link: usize,
    /// Points the batcher has not seen yet; they take the slots from `first_slot` on. A source
    /// that was made anew begins at zero again.
    pub points: Vec<Arc<Point>>,
    /// Slot of the first of `points`.
    pub first_slot: usize,
    /// The readings, by slot.
    pub samples: Vec<Sample>,
    /// To be confirmed when all of this is durable.
    pub receipt: Option<Receipt>,
    /// The link hangs up, and closes when this is confirmed: no window is waited for.
    pub last: bool,
}

/// The writing side of the buffer. A trait so that tests can be the disk that refuses.
pub trait Flash: Send + 'static {
    /// As [`Appender::define`].
    fn define(
        &mut self,
        points: &[Arc<Point>],
    ) -> impl Future<Output = Result<Vec<PointId>, BufferError>> + Send;
    /// As [`Appender::next_sequence`].
    fn next_sequence(&self) -> Sequence;
    /// As [`Appender::append`].
    fn append(&mut self, batches: Vec<Encoded>) -> impl Future<Output = Result<(), BufferError>> + Send;
}

impl Flash for Appender {
    fn define(
        &mut self,
        points: &[Arc<Point>],
    ) -> impl Future<Output = Result<Vec<PointId>, BufferError>> + Send {
        self.define(points)
    }
    fn next_sequence(&self) -> Sequence {
        self.next_sequence()
    }
    fn append(&mut self, batches: Vec<Encoded>) -> impl Future<Output = Result<(), BufferError>> + Send {
        self.append(batches)
    }
}

/// Encodes the first [`Encoded::count`] readings, at least one, as `sync::batch::Encoder::encode` does.
pub trait Encode: FnMut(&Head, &mut [Reading]) -> Encoded + Send + 'static {}
impl<F: FnMut(&Head, &mut [Reading]) -> Encoded + Send + 'static> Encode for F {}

/// What the batcher works with.
pub struct Batcher<F, E> {
    /// The writing side of the buffer.
    pub flash: F,
    /// The codec.
    pub encode: E,
    /// The life of the buffer store.
    pub epoch: Epoch,
    /// Boot and wall offset for the heads.
    pub clock: Clock,
    /// `buffer.durability_window`.
    pub window: Duration,
    /// The ledger's books.
    pub books: Books,
    /// The watchdog's food.
    pub progress: Progress,
    /// Pauses between attempts at a disk that refuses.
    pub backoff: Backoff,
    /// Cancelled when the agent ends: no window is waited for any more.
    pub hurry: CancellationToken,
    /// Cancelled when the agent will not wait for a refusing disk any longer.
    pub give_up: CancellationToken,
}

/// Waits for the buffer to open, and gives signs of life meanwhile: a large store on a slow card
/// takes long, and a watchdog that ended us would only make it begin again.
pub async fn while_opening<T>(opening: impl Future<Output = T>, progress: &Progress) -> T {
    let mut opening = std::pin::pin!(opening);
    loop {
        progress.advance();
        if let Ok(opened) = timeout(SIGN_OF_LIFE, opening.as_mut()).await {
            return opened;
        }
    }
}

/// Why the batcher ended before its links did.
#[derive(Debug, thiserror::Error)]
pub enum BatcherError {
    /// The buffer's thread is gone.
    #[error("write to the buffer: {0}")]
    Buffer(#[from] BufferError),
    /// The agent had to end while the disk refused.
    #[error("{readings} readings could not be written before the agent ended: {last}")]
    GaveUp {
        /// Readings that were in hand.
        readings: usize,
        /// What the disk said last.
        last: BufferError,
    },
}

/// What was collected since the last append.
#[derive(Default)]
struct Collection {
    readings: Vec<Reading>,
    bytes: usize,
    receipts: Vec<Receipt>,
    /// Somebody waits for it.
    wanted: bool,
}

enum Received {
    Handover(Handover),
    WindowOver,
    HungUp,
}

impl Collection {
    fn is_due(&self) -> bool {
        self.wanted || self.readings.len() >= FULL_READINGS || self.bytes >= FULL_BYTES
    }
    fn is_empty(&self) -> bool {
        // A harvest may carry nothing but a receipt: a message without a reading wants its word too.
        self.readings.is_empty() && self.receipts.is_empty()
    }
}

impl<F: Flash, E: Encode> Batcher<F, E> {
    /// Runs until all links hung up and the last append is done.
    pub async fn run(mut self, mut handovers: mpsc::Receiver<Handover>) -> Result<(), BatcherError> {
        let mut slots: Vec<Vec<PointId>> = Vec::new();
        let mut due = None;
        loop {
            let Received::Handover(first) = self.receive(&mut handovers, None).await else {
                return Ok(());
            };
            let now = Instant::now();
            let until = if self.hurry.is_cancelled() { now } else { until(now, due, self.window) };
            let mut collection = Collection::default();
            self.take(first, &mut slots, &mut collection).await?;
            while !collection.is_due()
                && let Received::Handover(next) = self.receive(&mut handovers, Some(until)).await
            {
                self.take(next, &mut slots, &mut collection).await?;
            }
            due = Some(Instant::now());
            self.write(collection).await?;
        }
    }

    /// Waits for a handover, at the longest until `until`, and gives signs of life meanwhile.
    async fn receive(&self, handovers: &mut mpsc::Receiver<Handover>, until: Option<Instant>) -> Received {
        loop {
            self.progress.advance();
            let sign = Instant::now() + SIGN_OF_LIFE;
            let slice = until.map_or(sign, |until| until.min(sign));
            // Cancel-safe: recv() gives a handover whole or not at all. What is there comes first.
            let received = tokio::select! {
                biased;
                received = timeout_at(slice, handovers.recv()) => received,
                () = self.hurry.cancelled(), if until.is_some() => return Received::WindowOver,
            };
            match received {
                Ok(Some(handover)) => return Received::Handover(handover),
                Ok(None) => return Received::HungUp,
                Err(_) if until == Some(slice) => return Received::WindowOver,
                Err(_) => {}
            }
        }
    }

    async fn take(
        &mut self,
        handover: Handover,
        slots: &mut Vec<Vec<PointId>>,
        into: &mut Collection,
    ) -> Result<(), BatcherError> {
        let Handover { link, points, first_slot, samples, receipt, last } = handover;
        if slots.len() <= link {
            slots.resize_with(link + 1, Vec::new);
        }
        let ids = &mut slots[link];
        if !points.is_empty() {
            ids.truncate(first_slot);
            ids.extend(self.define(&points, into.readings.len() + samples.len()).await?);
        }
        into.readings.reserve(samples.len());
        for Sample { slot, stamp, value, quality } in samples {
            // Link tasks hand over a point before its first sample and drop samples without one.
            let Some(&point) = ids.get(slot) else { continue };
            into.bytes += weight(value.as_ref());
            into.readings.push(Reading { point, stamp, value, quality });
        }
        into.receipts.extend(receipt);
        into.wanted |= last;
        Ok(())
    }

    async fn define(&mut self, points: &[Arc<Point>], in_hand: usize) -> Result<Vec<PointId>, BatcherError> {
        loop {
            match self.flash.define(points).await {
                Ok(ids) => {
                    self.wrote_again();
                    return Ok(ids);
                }
                Err(error) => self.wait_for_the_disk(error, in_hand).await?,
            }
        }
    }

    async fn write(&mut self, collection: Collection) -> Result<(), BatcherError> {
        if collection.is_empty() {
            return Ok(());
        }
        let Collection { readings, receipts, bytes: _, wanted: _ } = collection;
        let batches = self.encode(readings);
        if !batches.is_empty() {
            let count = batches.iter().map(|batch| batch.count as usize).sum();
            // The bytes are shared, not copied: a second attempt costs nothing.
            while let Err(error) = self.flash.append(batches.clone()).await {
                self.wait_for_the_disk(error, count).await?;
            }
            self.wrote_again();
            self.books.appended(count as u64);
        }
        receipts.into_iter().for_each(Receipt::confirm);
        self.progress.advance();
        Ok(())
    }

    /// As many batches as the codec needs: it takes what fits and leaves the rest.
    fn encode(&mut self, mut readings: Vec<Reading>) -> Vec<Encoded> {
        let boot = self.clock.boot();
        let Sequence(mut sequence) = self.flash.next_sequence();
        let mut batches = Vec::with_capacity(1);
        while !readings.is_empty() {
            let head = Head { epoch: self.epoch, sequence: Sequence(sequence), boot };
            let encoded = (self.encode)(&head, &mut readings);
            if encoded.count == 0 {
                // The codec promises to take the first reading. Without this a fault there would
                // hang us for ever.
                let reading = readings.remove(0);
                error!(
                    point = reading.point.0,
                    "A reading cannot be encoded and is left out; please report this."
                );
                self.books.left_out(1);
                continue;
            }
            readings.drain(..readings.len().min(encoded.count as usize));
            batches.push(encoded);
            sequence += 1;
        }
        batches
    }

    async fn wait_for_the_disk(&mut self, error: BufferError, in_hand: usize) -> Result<(), BatcherError> {
        if matches!(error, BufferError::Stopped) {
            return Err(error.into());
        }
        if self.backoff.attempts() == 0 {
            warn!(
                in_hand,
                "Cannot write readings ({error}). They are held, devices will be read less, trying again."
            );
        }
        self.progress.advance();
        match self.backoff.pause(&self.give_up).await {
            Waited::Over => Ok(()),
            Waited::Stopped => {
                error!(
                    in_hand,
                    "Readings are lost: the agent had to end while the buffer refused them ({error})."
                );
                Err(BatcherError::GaveUp { readings: in_hand, last: error })
            }
        }
    }

    fn wrote_again(&mut self) {
        let attempts = self.backoff.attempts();
        if attempts > 0 {
            info!(attempts, "The buffer takes readings again. None was lost.");
            self.backoff.reset();
        }
    }
}

/// Until when to collect what begins `now`: a window at the longest. Appends are a window apart, less a
/// tenth: a poll that came late once would else be late for ever.
fn until(now: Instant, last: Option<Instant>, window: Duration) -> Instant {
    let latest = now + window;
    last.map_or(latest, |last| (last + window / 10 * 9).max(now + TOGETHER).min(latest))
}

/// Bytes a value may need, roughly, before compression.
fn weight(value: Option<&Value>) -> usize {
    match value {
        Some(Value::Text(text)) => 16 + text.len(),
        _ => 16,
    }
}

#[cfg(test)]
mod tests;
