//! One request: what the plan wants, read from the buffer and packed. Reading forgets nothing.

use std::future::Future;
use std::ops::RangeInclusive;
use std::sync::Arc;

use forebay_protocols::reading::{Point, PointId};
use forebay_protocols::sync::batch::{Boot, Epoch, Sequence};
use forebay_protocols::sync::wire;
use prost::Message;

use super::state::{Plan, Sent, Wants};
use crate::buffer::{Buffer, BufferError, Status, Stored};
use crate::clock::Clock;

/// The most gap records in one request.
const MOST_GAPS: usize = 200;

/// The reading side of the buffer. A trait so that tests can be a buffer with any content.
pub trait Backlog: Send + Sync + 'static {
    /// As [`Buffer::oldest`].
    fn oldest(
        &self,
        from: Sequence,
        max: usize,
    ) -> impl Future<Output = Result<Vec<Stored>, BufferError>> + Send;
    /// As [`Buffer::acknowledge`].
    fn acknowledge(
        &self,
        ranges: Vec<RangeInclusive<u64>>,
    ) -> impl Future<Output = Result<(), BufferError>> + Send;
    /// As [`Buffer::dictionary`].
    fn dictionary(
        &self,
        after: PointId,
    ) -> impl Future<Output = Result<Vec<(PointId, Arc<Point>)>, BufferError>> + Send;
    /// As [`Buffer::gaps`].
    fn gaps(
        &self,
        after: u64,
        most: usize,
    ) -> impl Future<Output = Result<Vec<wire::Gap>, BufferError>> + Send;
    /// As [`Buffer::status`].
    fn status(&self) -> Status;
    /// As [`Buffer::appended`].
    fn appended(&self) -> impl Future<Output = ()> + Send;
}

impl Backlog for Buffer {
    fn oldest(
        &self,
        from: Sequence,
        max: usize,
    ) -> impl Future<Output = Result<Vec<Stored>, BufferError>> + Send {
        self.oldest(from, max)
    }
    fn acknowledge(
        &self,
        ranges: Vec<RangeInclusive<u64>>,
    ) -> impl Future<Output = Result<(), BufferError>> + Send {
        self.acknowledge(ranges)
    }
    fn dictionary(
        &self,
        after: PointId,
    ) -> impl Future<Output = Result<Vec<(PointId, Arc<Point>)>, BufferError>> + Send {
        self.dictionary(after)
    }
    fn gaps(
        &self,
        after: u64,
        most: usize,
    ) -> impl Future<Output = Result<Vec<wire::Gap>, BufferError>> + Send {
        self.gaps(after, most)
    }
    fn status(&self) -> Status {
        self.status()
    }
    fn appended(&self) -> impl Future<Output = ()> + Send {
        self.appended()
    }
}

/// A request and what it holds.
#[derive(Debug)]
pub struct Parcel {
    /// The request, but for its report.
    pub request: wire::SyncRequest,
    /// What the state machine needs to know of it.
    pub sent: Sent,
    /// There was room for the backlog, and nothing left in its lane.
    pub backlog_over: bool,
}

/// Reads and packs what `plan` wants.
pub async fn pack(
    plan: Plan,
    backlog: &impl Backlog,
    epoch: Epoch,
    clock: &Clock,
) -> Result<Parcel, BufferError> {
    let request = wire::SyncRequest { epoch: epoch.0.to_vec().into(), ..Default::default() };
    let mut parcel = Parcel { request, sent: Sent::default(), backlog_over: false };
    if let Plan::Send(wants) = plan {
        let covered = parcel.add_dictionary(&wants, backlog).await?;
        parcel.add_gaps(&wants, backlog).await?;
        parcel.add_batches(&wants, covered, backlog, clock).await?;
    }
    Ok(parcel)
}

impl Parcel {
    /// Adds entries and says up to which number the server has them after this request.
    async fn add_dictionary(&mut self, wants: &Wants, backlog: &impl Backlog) -> Result<u32, BufferError> {
        let mut covered = wants.dictionary_after;
        for (id, point) in backlog.dictionary(PointId(covered)).await? {
            let entry = wire::DictionaryEntry::new(id, &point);
            let bytes = entry.encoded_len() + 8;
            if self.sent.others > 0 && self.sent.bytes + bytes > wants.bytes {
                break;
            }
            covered = id.0;
            self.request.dictionary.push(entry);
            self.add_other(bytes);
        }
        Ok(covered)
    }

    async fn add_gaps(&mut self, wants: &Wants, backlog: &impl Backlog) -> Result<(), BufferError> {
        for gap in backlog.gaps(wants.gaps_after, MOST_GAPS).await? {
            let bytes = gap.encoded_len() + 8;
            if self.sent.others > 0 && self.sent.bytes + bytes > wants.bytes {
                break;
            }
            self.request.gaps.push(gap);
            self.add_other(bytes);
        }
        Ok(())
    }

    fn add_other(&mut self, bytes: usize) {
        self.sent.others += 1;
        self.sent.bytes += bytes;
    }

    async fn add_batches(
        &mut self,
        wants: &Wants,
        covered: u32,
        backlog: &impl Backlog,
        clock: &Clock,
    ) -> Result<(), BufferError> {
        for stored in self.read(wants, wants.fresh_from, backlog).await?.unwrap_or_default() {
            if !self.fits(&stored, wants) {
                break;
            }
            if stored.dictionary_revision.0 <= covered {
                self.sent.fresh.push(stored.sequence.0);
                self.add(stored, false, clock);
            }
        }
        let Some(mut older) = self.read(wants, wants.backlog_from, backlog).await? else { return Ok(()) };
        older.retain(|stored| stored.sequence.0 < wants.backlog_below);
        self.backlog_over = older.is_empty();
        older.retain(|stored| !wants.left_out.contains(&stored.sequence.0));
        for stored in older {
            if !self.fits(&stored, wants) {
                break;
            }
            // One that needs more dictionary than fits here comes again when its lane starts anew.
            if stored.dictionary_revision.0 <= covered {
                self.sent.backlog.push(stored.sequence.0);
                self.add(stored, true, clock);
            }
        }
        Ok(())
    }

    /// At least one batch if the request is empty, else what still fits; `None` without room.
    async fn read(
        &self,
        wants: &Wants,
        from: u64,
        backlog: &impl Backlog,
    ) -> Result<Option<Vec<Stored>>, BufferError> {
        let room = wants.bytes.saturating_sub(self.sent.bytes);
        if room == 0 && !self.sent.is_empty() {
            return Ok(None);
        }
        backlog.oldest(Sequence(from), room).await.map(Some)
    }

    fn fits(&self, stored: &Stored, wants: &Wants) -> bool {
        self.sent.is_empty() || self.sent.bytes + stored.bytes.len() <= wants.bytes
    }

    fn add(&mut self, stored: Stored, backlog: bool, clock: &Clock) {
        self.sent.bytes += stored.bytes.len() + 16;
        let time_correction_us = boot_of(&stored).map_or(0, |boot| clock.correction_us(&boot));
        self.request.batches.push(wire::SentBatch {
            batch: stored.bytes,
            time_correction_us,
            backlog,
            ..Default::default()
        });
    }
}

/// The boot a batch states. Its bytes are shared, not copied; a batch that cannot be read is the
/// server's to judge.
fn boot_of(stored: &Stored) -> Option<Boot> {
    let boot = wire::Batch::decode(stored.bytes.clone()).ok()?.boot?;
    let id = boot.id.as_ref().try_into().ok()?;
    let (counter, wall_offset_us, synchronised) = (boot.counter, boot.wall_offset_us, boot.synchronised);
    Some(Boot { counter, id, wall_offset_us, synchronised })
}
