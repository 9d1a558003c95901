//! A gateway's buffer in memory: what the uplink needs of one, in a few hundred bytes while nothing
//! waits. A process that ends loses it, which a simulated gateway may.

use std::collections::BTreeMap;
use std::ops::{AddAssign, RangeInclusive};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use forebay_agent::buffer::{BufferError, Counts, Revived, Status, Stored};
use forebay_agent::uplink::parcel::Backlog;
use forebay_protocols::reading::{DataType, Point, PointId, PointKind};
use forebay_protocols::sync::batch::{Encoded, Epoch, Sequence};
use forebay_protocols::sync::ranges::Ranges;
use forebay_protocols::sync::wire;
use tokio::sync::Notify;

/// What a gateway, or a fleet, holds and held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Readings ever appended.
    pub appended: u64,
    /// Readings the server has.
    pub acknowledged: u64,
    /// Batches that wait.
    pub batches: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Polls that were left out because the buffer was full.
    pub left_out: u64,
    /// Batches that the server had acknowledged and then did not have.
    pub lost_by_server: u64,
}

impl Held {
    /// Readings that wait.
    pub fn backlog(&self) -> u64 {
        self.appended - self.acknowledged
    }
}

impl AddAssign for Held {
    fn add_assign(&mut self, other: Self) {
        let Self { appended, acknowledged, batches, bytes, left_out, lost_by_server } = other;
        self.appended += appended;
        self.acknowledged += acknowledged;
        self.batches += batches;
        self.bytes += bytes;
        self.left_out += left_out;
        self.lost_by_server += lost_by_server;
    }
}

/// One gateway's buffer. Clones are the same.
#[derive(Clone)]
pub struct Shelf(Arc<Whole>);

struct Whole {
    epoch: Epoch,
    opening: [u8; 8],
    points: usize,
    limit: usize,
    inside: Mutex<Inside>,
    appended: Notify,
}

#[derive(Default)]
struct Inside {
    waiting: BTreeMap<u64, Stored>,
    newest: u64,
    held: Held,
    acknowledged: Ranges,
}

impl Shelf {
    /// An empty one with an epoch of its own, for so many points and bytes.
    pub fn new(points: usize, limit: usize) -> Self {
        let (mut epoch, mut opening) = ([0; 16], [0; 8]);
        // Without random numbers two gateways would look like copies of one, which the server tells.
        let _ = getrandom::fill(&mut epoch).and_then(|()| getrandom::fill(&mut opening));
        let inside = Mutex::default();
        let appended = Notify::new();
        Self(Arc::new(Whole { epoch: Epoch(epoch), opening, points, limit, inside, appended }))
    }

    /// The life of this buffer.
    pub fn epoch(&self) -> Epoch {
        self.0.epoch
    }

    /// The most bytes that may wait.
    pub fn limit(&self) -> usize {
        self.0.limit
    }

    /// The books.
    pub fn held(&self) -> Held {
        self.inside().held
    }

    /// The highest sequence ever appended; 0 before the first.
    pub fn newest(&self) -> u64 {
        self.inside().newest
    }

    /// The lowest sequence that waits.
    pub fn oldest_waiting(&self) -> Option<u64> {
        self.inside().waiting.keys().next().copied()
    }

    /// The sequence of the next batch; `None` while there is no room for one, and that is counted.
    pub fn next_sequence(&self) -> Option<Sequence> {
        let mut inside = self.inside();
        if inside.held.bytes as usize >= self.0.limit {
            inside.held.left_out += 1;
            return None;
        }
        Some(Sequence(inside.newest + 1))
    }

    /// Takes a batch. One task appends, so sequences go up by one.
    pub fn append(&self, encoded: Encoded) {
        let Encoded { sequence, count, dictionary_revision, bytes, span_us: _ } = encoded;
        let mut inside = self.inside();
        inside.newest = sequence.0;
        inside.held.appended += u64::from(count);
        inside.held.batches += 1;
        inside.held.bytes += bytes.len() as u64;
        let stored = Stored { sequence, count, dictionary_revision, boot_counter: 1, thinned: false, bytes };
        inside.waiting.insert(sequence.0, stored);
        drop(inside);
        self.0.appended.notify_one();
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The n-th point of every gateway, from 1.
fn point(number: u32) -> Arc<Point> {
    let (kind, data_type, unit) = match number % 5 {
        0 => (PointKind::State, DataType::Boolean, ""),
        4 => (PointKind::Counter, DataType::Integer, "kWh"),
        _ => (PointKind::Gauge, DataType::Float, "°C"),
    };
    let name = format!("point-{number:03}").into();
    Arc::new(Point { device: "machine".into(), name, unit: unit.into(), kind, data_type })
}

impl Backlog for Shelf {
    async fn oldest(&self, Sequence(from): Sequence, max: usize) -> Result<Vec<Stored>, BufferError> {
        let mut room = max;
        let inside = self.inside();
        let fits = inside.waiting.range(from..).map(|(_, stored)| stored).enumerate();
        let fits = fits.take_while(|(place, stored)| {
            // One always fits, as in a real buffer.
            let fits = *place == 0 || stored.bytes.len() <= room;
            room = room.saturating_sub(stored.bytes.len());
            fits
        });
        Ok(fits.map(|(_, stored)| stored.clone()).collect())
    }

    async fn acknowledge(&self, ranges: Vec<RangeInclusive<u64>>) -> Result<(), BufferError> {
        let mut inside = self.inside();
        for range in ranges {
            let Inside { waiting, held, acknowledged, .. } = &mut *inside;
            for (sequence, stored) in waiting.extract_if(range, |_, _| true) {
                held.acknowledged += u64::from(stored.count);
                held.batches -= 1;
                held.bytes -= stored.bytes.len() as u64;
                acknowledged.insert(sequence..=sequence);
            }
        }
        Ok(())
    }

    async fn dictionary(&self, PointId(after): PointId) -> Result<Vec<(PointId, Arc<Point>)>, BufferError> {
        Ok((after + 1..=self.0.points as u32).map(|number| (PointId(number), point(number))).collect())
    }

    async fn gaps(&self, _: u64, _: usize) -> Result<Vec<wire::Gap>, BufferError> {
        Ok(Vec::new())
    }

    async fn openings(&self) -> Result<Vec<wire::Opening>, BufferError> {
        Ok(vec![wire::Opening { id: self.0.opening.to_vec(), first: 1, ..wire::Opening::default() }])
    }

    async fn greeted(&self, _: [u8; 8]) -> Result<(), BufferError> {
        Ok(())
    }

    async fn acknowledged(&self) -> Result<Ranges, BufferError> {
        Ok(self.inside().acknowledged.clone())
    }

    async fn revive(&self, ranges: Vec<RangeInclusive<u64>>) -> Result<Revived, BufferError> {
        // Nothing is kept once it was acknowledged: what the server lost is told in the books.
        let lost = ranges.iter().map(|range| range.end().saturating_sub(*range.start()) + 1).sum();
        self.inside().held.lost_by_server += lost;
        Ok(Revived { batches: 0, lost })
    }

    fn status(&self) -> Status {
        let inside = self.inside();
        let held = inside.held;
        Status {
            counts: Counts { appended: held.appended, dropped: 0, acknowledged: held.acknowledged },
            backlog_batches: held.batches,
            backlog_readings: held.backlog(),
            backlog_bytes: held.bytes,
            limit_bytes: self.0.limit as u64,
            oldest: inside.waiting.keys().next().copied().map(Sequence),
            newest: inside.waiting.keys().next_back().copied().map(Sequence),
            writable: true,
            ..Status::default()
        }
    }

    fn appended(&self) -> impl Future<Output = ()> + Send {
        self.0.appended.notified()
    }
}

#[cfg(test)]
mod tests {
    use forebay_protocols::boot_time::BootTime;
    use forebay_protocols::reading::{Quality, Reading, Stamp, Value};
    use forebay_protocols::sync::batch::{Boot, Encoder, Head};

    use super::*;

    fn encoded(shelf: &Shelf) -> Option<Encoded> {
        let sequence = shelf.next_sequence()?;
        let boot = Boot { counter: 1, id: [0; 8], wall_offset_us: 0, synchronised: true };
        let reading = |n| Reading {
            point: PointId(n),
            stamp: Stamp::boot(BootTime(1)),
            value: Some(Value::Float(f64::from(n))),
            quality: Quality::Good,
        };
        let mut readings: Vec<_> = (1..=3).map(reading).collect();
        Some(Encoder::new().encode(&Head { epoch: shelf.epoch(), sequence, boot }, &mut readings))
    }

    #[tokio::test]
    async fn what_is_acknowledged_is_forgotten_and_counted_and_the_rest_stays() {
        let shelf = Shelf::new(3, 1 << 20);
        for _ in 0..5 {
            shelf.append(encoded(&shelf).expect("room"));
        }
        let read = shelf.oldest(Sequence(2), 1 << 20).await.expect("batches");
        assert_eq!(read.iter().map(|stored| stored.sequence.0).collect::<Vec<_>>(), [2, 3, 4, 5]);
        shelf.acknowledge(vec![4..=5, 1..=1, 9..=9]).await.expect("acknowledged");
        let held = shelf.held();
        assert_eq!((held.appended, held.acknowledged, held.backlog(), held.batches), (15, 9, 6, 2));
        assert_eq!(shelf.acknowledged().await.expect("ranges").iter().collect::<Vec<_>>(), [(1, 1), (4, 5)]);
        assert_eq!((shelf.oldest_waiting(), shelf.newest()), (Some(2), 5));
        shelf.acknowledge(vec![2..=3]).await.expect("acknowledged");
        assert_eq!((shelf.held().bytes, shelf.oldest_waiting()), (0, None));
    }

    #[tokio::test]
    async fn a_full_buffer_takes_nothing_more_and_counts_what_it_left_out() {
        let shelf = Shelf::new(3, 1);
        shelf.append(encoded(&shelf).expect("the first has room"));
        assert!(encoded(&shelf).is_none());
        assert_eq!(shelf.held().left_out, 1);
        shelf.acknowledge(vec![1..=1]).await.expect("acknowledged");
        assert!(encoded(&shelf).is_some());
    }
}
