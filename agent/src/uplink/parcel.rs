//! One request: what the plan wants, read from the buffer and packed. Reading forgets nothing.

use std::future::Future;
use std::ops::RangeInclusive;
use std::sync::Arc;

use forebay_protocols::reading::{Point, PointId};
use forebay_protocols::sync::batch::{Boot, Epoch, Sequence};
use forebay_protocols::sync::ranges::Ranges;
use forebay_protocols::sync::wire;
use prost::Message;

use super::state::{Plan, Sent, Wants};
use crate::buffer::{Buffer, BufferError, Revived, Status, Stored};
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
    /// As [`Buffer::openings`].
    fn openings(&self) -> impl Future<Output = Result<Vec<wire::Opening>, BufferError>> + Send;
    /// As [`Buffer::greeted`].
    fn greeted(&self, opening: [u8; 8]) -> impl Future<Output = Result<(), BufferError>> + Send;
    /// As [`Buffer::acknowledged`].
    fn acknowledged(&self) -> impl Future<Output = Result<Ranges, BufferError>> + Send;
    /// As [`Buffer::revive`].
    fn revive(
        &self,
        ranges: Vec<RangeInclusive<u64>>,
    ) -> impl Future<Output = Result<Revived, BufferError>> + Send;
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
    fn openings(&self) -> impl Future<Output = Result<Vec<wire::Opening>, BufferError>> + Send {
        self.openings()
    }
    fn greeted(&self, opening: [u8; 8]) -> impl Future<Output = Result<(), BufferError>> + Send {
        self.greeted(opening)
    }
    fn acknowledged(&self) -> impl Future<Output = Result<Ranges, BufferError>> + Send {
        self.acknowledged()
    }
    fn revive(
        &self,
        ranges: Vec<RangeInclusive<u64>>,
    ) -> impl Future<Output = Result<Revived, BufferError>> + Send {
        self.revive(ranges)
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
        parcel.sent.dictionary_after = wants.dictionary_after;
        let mut covered = Covered { upto: wants.dictionary_after, is_all: !wants.others };
        if wants.others {
            covered = parcel.add_dictionary(&wants, backlog).await?;
            parcel.add_gaps(&wants, backlog, clock).await?;
        }
        parcel.add_fresh(&wants, covered, backlog, clock).await?;
        parcel.add_backlog(&wants, covered, backlog, clock).await?;
    }
    Ok(parcel)
}

/// The dictionary as the server has it after this request.
#[derive(Clone, Copy)]
struct Covered {
    upto: u32,
    /// There is no more of it, or no more can go now.
    is_all: bool,
}

impl Parcel {
    async fn add_dictionary(
        &mut self,
        wants: &Wants,
        backlog: &impl Backlog,
    ) -> Result<Covered, BufferError> {
        let mut covered = Covered { upto: wants.dictionary_after, is_all: true };
        for (id, point) in backlog.dictionary(PointId(covered.upto)).await? {
            let entry = wire::DictionaryEntry::new(id, &point);
            let bytes = entry.encoded_len() + 8;
            if self.sent.others > 0 && self.sent.bytes + bytes > wants.bytes {
                covered.is_all = false;
                break;
            }
            covered.upto = id.0;
            self.request.dictionary.push(entry);
            self.add_other(bytes);
        }
        Ok(covered)
    }

    async fn add_gaps(
        &mut self,
        wants: &Wants,
        backlog: &impl Backlog,
        clock: &Clock,
    ) -> Result<(), BufferError> {
        for gap in backlog.gaps(wants.gaps_after, MOST_GAPS).await? {
            let gap = clock.resolve(gap);
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

    async fn add_fresh(
        &mut self,
        wants: &Wants,
        covered: Covered,
        backlog: &impl Backlog,
        clock: &Clock,
    ) -> Result<(), BufferError> {
        let Some(from) = wants.fresh_from else { return Ok(()) };
        for stored in self.read(wants, from, u64::MAX, backlog).await?.unwrap_or_default() {
            if !self.fits(&stored, wants) {
                break;
            }
            // One that needs more dictionary than goes now is backlog once others have passed it.
            if stored.dictionary_revision.0 <= covered.upto {
                self.sent.fresh.push(stored.sequence.0);
                self.add(stored, wants, clock);
            }
        }
        Ok(())
    }

    async fn add_backlog(
        &mut self,
        wants: &Wants,
        covered: Covered,
        backlog: &impl Backlog,
        clock: &Clock,
    ) -> Result<(), BufferError> {
        let Some((from, below)) = wants.backlog.filter(|_| wants.mixed || self.sent.fresh.is_empty()) else {
            return Ok(());
        };
        let Some(older) = self.read(wants, from, below, backlog).await? else { return Ok(()) };
        self.backlog_over = older.is_empty();
        for stored in older {
            if !self.fits(&stored, wants) {
                break;
            }
            // One that needs more dictionary than goes now comes again when its lane starts anew.
            // One that needs more than there is can never go, and must not stop the others.
            if stored.dictionary_revision.0 <= covered.upto {
                self.sent.backlog.push(stored.sequence.0);
                self.add(stored, wants, clock);
            } else if wants.in_order && !covered.is_all {
                break;
            }
        }
        Ok(())
    }

    /// The next batches of a lane that are not passed over: at least one if the request is empty, else
    /// what still fits; `None` without room.
    async fn read(
        &self,
        wants: &Wants,
        from: u64,
        below: u64,
        backlog: &impl Backlog,
    ) -> Result<Option<Vec<Stored>>, BufferError> {
        let room = wants.bytes.saturating_sub(self.sent.bytes);
        if room == 0 && !self.sent.is_empty() {
            return Ok(None);
        }
        let mut from = from;
        loop {
            from = wants.passed_over.first_missing(from);
            let mut found = backlog.oldest(Sequence(from), room).await?;
            found.retain(|stored| (from..below).contains(&stored.sequence.0));
            let Some(last) = found.last().map(|stored| stored.sequence.0) else { return Ok(Some(found)) };
            found.retain(|stored| !wants.passed_over.contains(stored.sequence.0));
            if !found.is_empty() {
                return Ok(Some(found));
            }
            from = last.saturating_add(1);
        }
    }

    fn fits(&self, stored: &Stored, wants: &Wants) -> bool {
        self.sent.is_empty() || self.sent.bytes + stored.bytes.len() <= wants.bytes
    }

    fn add(&mut self, stored: Stored, wants: &Wants, clock: &Clock) {
        self.sent.bytes += stored.bytes.len() + 16;
        let unknown = (0, wire::sent_batch::Clock::Stated);
        let (time_correction_us, from) = boot_of(&stored).map_or(unknown, |boot| clock.correction(&boot));
        self.request.batches.push(wire::SentBatch {
            backlog: stored.sequence.0 < wants.live_from,
            batch: stored.bytes,
            time_correction_us,
            clock: from.into(),
            thinned: stored.thinned,
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
