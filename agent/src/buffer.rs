//! The durable buffer. A batch is here from the moment `append()` returns until `acknowledge()`.
//!
//! What lies below `settings.dir`:
//!
//! | file | holds | format |
//! |---|---|---|
//! | `segment-0000000001` … | batches, append-only, rewritten or deleted whole | `frame.rs` |
//! | `logbook` | dictionary, gaps, openings, boots, what is forgotten, counters | `logbook/record.rs` |
//! | `catalogue/` | where each unacknowledged batch lies; can be deleted at any time | sled |
//! | `damaged/` | parts that could not be read, for a person; counts towards the budget | |
//! | `thinning` | a segment that is being rewritten, of use to nobody after a crash | `frame.rs` |
//! | `ballast` | room to give back when the disk is full | zeros |
//! | `lock` | held while an agent works here | |
//!
//! Segments and logbook are the truth and are written through [`disk::Disk`], each write followed
//! by fsync before anything is said of it. The catalogue only finds things faster. The store is
//! blocking and lives on a thread of its own; [`Buffer`] and [`Appender`] are its handles.

pub mod disk;
pub mod inspect;
pub mod simulated;
pub mod store;

mod acknowledged;
mod age;
mod boots;
mod catalogue;
mod charts;
mod classes;
mod clear;
mod dictionary;
mod evidence;
mod frame;
mod gaps;
mod inflow;
mod lineage;
mod logbook;
mod opening;
mod outflow;
mod recovery;
mod rewrite;
mod room;
mod segments;
mod tail;
mod thin;
mod thread;

#[cfg(test)]
mod tests;

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use forebay_config::agent::WhenFull;
use forebay_config::classes::Class;
use forebay_config::units::ByteSize;
use forebay_protocols::boot_time::BootTime;
use forebay_protocols::reading::{Point, PointId};
use forebay_protocols::sync::batch::{Encoded, Epoch, Sequence};
use forebay_protocols::sync::ranges::Ranges;
use forebay_protocols::sync::wire;
use tokio::sync::{mpsc, oneshot};

use self::thread::{Shared, Wish};
use crate::clock::machine::Machine;

/// Where the buffer lies and what it must keep to.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its folder. Made if it is missing.
    pub dir: PathBuf,
    /// Bytes on disk, overhead included.
    pub max_size: ByteSize,
    /// Bytes to leave free on the file system.
    pub reserve: ByteSize,
    /// What gives way when there is no room, of points that are in none of the classes.
    pub when_full: WhenFull,
    /// Bytes of acknowledged batches to keep, within the budget, for a server that loses them.
    pub tail: ByteSize,
    /// Points with a rule of their own.
    pub classes: Vec<Class>,
}

/// Reading side and books; cheap to clone. Store work happens on the buffer's own thread. When
/// the last handle is gone, or after [`Buffer::close`], the thread closes the store and ends.
#[derive(Clone)]
pub struct Buffer {
    wishes: mpsc::Sender<Wish>,
    shared: Arc<Shared>,
}

/// The one writer.
pub struct Appender {
    wishes: mpsc::Sender<Wish>,
    next: Sequence,
}

/// What was found at open.
#[derive(Clone, Debug)]
pub struct Opening {
    /// The life of this store: the old one's if it could be read, else a new one.
    pub epoch: Epoch,
    /// The boot counter: one more than the last boot this store saw if the kernel's boot id changed.
    pub boot_counter: u64,
    /// Plain words about what was mended, set aside, rebuilt; empty after a clean stop.
    pub repairs: Vec<String>,
    /// Counters that survive restarts (readings since the epoch began).
    pub counts: Counts,
    /// As [`Buffer::boots`].
    pub boots: Vec<BootKnown>,
    /// How the run before ended; `None` if there was none that left a batch behind.
    pub last_run: Option<LastRun>,
}

/// The last sign of life before this opening: where a gap of an agent that was down begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastRun {
    /// Counter of the boot it happened in, the present one perhaps.
    pub boot: u64,
    /// Boot time, microseconds: the moment of a clean stop, else the end of the last batch.
    pub until_us: i64,
    /// The wall offset believed then.
    pub wall_offset_us: i64,
    /// Was that the truth, as far as the gateway knew?
    pub synchronised: bool,
    /// Was it a clean stop?
    pub clean: bool,
}

/// A boot of the gateway as the buffer remembers it. The present one is the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootKnown {
    /// Its number.
    pub counter: u64,
    /// First 8 bytes of the kernel's boot id, as in batches.
    pub id: [u8; 8],
    /// Boot time of the last sign of life: the end of the last batch, microseconds. 0 if there is none.
    pub last_us: i64,
    /// The wall offset believed then.
    pub believed_offset_us: i64,
    /// The wall offset that the system's clock showed when this boot first opened the buffer, before
    /// anybody set it right: says how long the power was off, if the clock kept running meanwhile.
    /// `None` in books of older versions.
    pub first_offset_us: Option<i64>,
    /// Was that the truth, as far as the gateway knew?
    pub synchronised: bool,
    /// The true wall offset, if the boot learnt it, before or after.
    pub learnt_offset_us: Option<i64>,
}

/// What [`Buffer::revive`] came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Revived {
    /// Batches that are in the backlog again.
    pub batches: u64,
    /// Sequences of which nothing is left; a gap record says so.
    pub lost: u64,
}

/// Dropped readings by what made them go, since the epoch began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DroppedBy {
    /// No room.
    pub full: u64,
    /// Damaged.
    pub corrupt: u64,
    /// Left out to halve the resolution of old data.
    pub thinned: u64,
}

/// Durable counters of the conservation ledger, readings since the epoch began. What is in none
/// of the last two is in the backlog.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Made durable.
    pub appended: u64,
    /// Given up: no room, or damaged. Each with a gap record.
    pub dropped: u64,
    /// The server has them.
    pub acknowledged: u64,
}

/// The buffer's books at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Readings since the epoch began.
    pub counts: Counts,
    /// Batches appended and not acknowledged.
    pub backlog_batches: u64,
    /// Readings in them.
    pub backlog_readings: u64,
    /// Bytes of them.
    pub backlog_bytes: u64,
    /// Bytes on disk, overhead included.
    pub disk_bytes: u64,
    /// The budget.
    pub limit_bytes: u64,
    /// `counts.dropped` by reason.
    pub dropped_by: DroppedBy,
    /// Bytes on disk of segments that are kept only for a server that loses what it acknowledged.
    pub tail_bytes: u64,
    /// The lowest sequence of the backlog.
    pub oldest: Option<Sequence>,
    /// The highest.
    pub newest: Option<Sequence>,
    /// False while the disk refuses writes; [`Buffer::words`] says what it said.
    pub writable: bool,
    /// When the server acknowledged something last, since the store was opened.
    pub acknowledged_at: Option<BootTime>,
    /// How long the oldest of the backlog has waited since it was appended; `None` if nothing waits, or for a minute
    /// and more, or since before the store was opened.
    pub oldest_waits: Option<Duration>,
}

/// A batch read back for sending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its number.
    pub sequence: Sequence,
    /// Readings inside.
    pub count: u32,
    /// Highest point number inside.
    pub dictionary_revision: PointId,
    /// The boot it was appended in.
    pub boot_counter: u64,
    /// Did the buffer leave readings out of it since it was appended?
    pub thinned: bool,
    /// The batch, byte for byte as it was appended.
    pub bytes: Bytes,
}

/// Why the buffer did not do it.
#[derive(Debug, thiserror::Error)]
pub enum BufferError {
    /// Back-pressure: try again later; nothing was appended.
    #[error("the buffer is full ({used} of {limit})")]
    Full {
        /// Bytes on disk.
        used: ByteSize,
        /// The budget.
        limit: ByteSize,
    },
    /// The disk refused; nothing was appended; try again later.
    #[error("cannot write to the buffer: {0}")]
    Disk(String),
    /// The buffer thread is gone: end the process.
    #[error("the buffer has stopped")]
    Stopped,
}

impl Buffer {
    /// Opens or makes the store below `settings.dir`. Whatever lies there, it opens; the only
    /// refusal is [`BufferError::Disk`] while another process has it open.
    pub async fn open(settings: Settings) -> Result<(Self, Appender, Opening), BufferError> {
        Self::open_on(Machine::this(), settings).await
    }

    /// As [`Buffer::open`], on a machine of one's own.
    pub async fn open_on(
        machine: Machine,
        settings: Settings,
    ) -> Result<(Self, Appender, Opening), BufferError> {
        let (wishes, shared, next, opening) = thread::start(settings, machine).await?;
        Ok((Self { wishes: wishes.clone(), shared }, Appender { wishes, next }, opening))
    }

    /// Unacknowledged batches, oldest first, from `from` on, at most `max_bytes` of them (at least
    /// one). A batch that turns out damaged becomes a gap and is left out; one that the disk does
    /// not give just now is left out this time.
    pub async fn oldest(&self, from: Sequence, max_bytes: usize) -> Result<Vec<Stored>, BufferError> {
        ask(&self.wishes, |answer| Wish::Oldest { from, max_bytes, answer }).await
    }

    /// Unacknowledged batches below or at `upto`, newest first, at most `max_bytes` (at least one).
    pub async fn newest(&self, upto: Sequence, max_bytes: usize) -> Result<Vec<Stored>, BufferError> {
        ask(&self.wishes, |answer| Wish::Newest { upto, max_bytes, answer }).await
    }

    /// The server has these; forget them. Unknown or already forgotten sequences are no error.
    /// Durable within a minute: after a crash a batch may be sent again, which is a
    /// duplicate at the server and harmless.
    pub async fn acknowledge(&self, ranges: Vec<RangeInclusive<u64>>) -> Result<(), BufferError> {
        ask(&self.wishes, |answer| Wish::Acknowledge { ranges, answer }).await
    }

    /// The server lost these, which it had acknowledged: what the tail still holds is backlog again,
    /// the rest becomes a gap ([`wire::gap::Reason::ServerLost`]; whole segments are counted exactly,
    /// of a segment that is lost in part its share) and leaves [`Buffer::acknowledged`], so that it is
    /// told once. Sequences that were never acknowledged are passed over. Durable when this returns,
    /// if the disk lets it.
    pub async fn revive(&self, ranges: Vec<RangeInclusive<u64>>) -> Result<Revived, BufferError> {
        ask(&self.wishes, |answer| Wish::Revive { ranges, answer }).await
    }

    /// Every sequence that was acknowledged, of the newest 1024 ranges.
    pub async fn acknowledged(&self) -> Result<Ranges, BufferError> {
        ask(&self.wishes, |answer| Wish::Acknowledged { answer }).await
    }

    /// The durable openings: the last one a server has heard of, those since (the newest 31 of
    /// them), the present one last. Without the present one while the disk did not take it.
    pub async fn openings(&self) -> Result<Vec<wire::Opening>, BufferError> {
        ask(&self.wishes, |answer| Wish::Openings { answer }).await
    }

    /// A server has heard of this opening: what is older need not be told again.
    pub async fn greeted(&self, opening: [u8; 8]) -> Result<(), BufferError> {
        ask(&self.wishes, |answer| Wish::Greeted { opening, answer }).await
    }

    /// Boots that something in the backlog or a gap record may come from, ascending, the present
    /// one last.
    pub async fn boots(&self) -> Result<Vec<BootKnown>, BufferError> {
        ask(&self.wishes, |answer| Wish::Boots { answer }).await
    }

    /// The present boot's true wall offset, as far as it is known now. Durable when this returns if it is
    /// the first, a better one with the next tick; told again only when it changed by more than a
    /// tenth of a second.
    pub async fn learn_offset(&self, offset_us: i64) -> Result<(), BufferError> {
        ask(&self.wishes, |answer| Wish::LearnOffset { offset_us, answer }).await
    }

    /// Dictionary entries with numbers > `after`.
    pub async fn dictionary(&self, after: PointId) -> Result<Vec<(PointId, Arc<Point>)>, BufferError> {
        ask(&self.wishes, |answer| Wish::Dictionary { after, answer }).await
    }

    /// Gap records numbered > `after`, at most `most`. The buffer keeps the newest 4096.
    pub async fn gaps(&self, after: u64, most: usize) -> Result<Vec<wire::Gap>, BufferError> {
        ask(&self.wishes, |answer| Wish::Gaps { after, most, answer }).await
    }

    /// Writes a gap record (its `number` is set here), durable with the next append.
    pub async fn record_gap(&self, gap: wire::Gap) -> Result<(), BufferError> {
        ask(&self.wishes, |answer| Wish::RecordGap { gap, answer }).await
    }

    /// The books as of the last thing the store did. Does not wait.
    pub fn status(&self) -> Status {
        self.shared.status()
    }

    /// What the disk said last, while [`Status::writable`] is false.
    pub fn words(&self) -> Option<String> {
        self.shared.words()
    }

    /// Wakes when something was appended since the last call. One waiter at a time: the uplink.
    pub async fn appended(&self) {
        self.shared.appended.notified().await;
    }

    /// Ends the store cleanly: all is durable when this returns, and the next opening reads no
    /// segment. Every handle says [`BufferError::Stopped`] from then on.
    pub async fn close(&self) -> Result<(), BufferError> {
        ask(&self.wishes, |answer| Wish::Close { answer }).await
    }
}

impl Appender {
    /// Numbers for points, given once per epoch and distinct description; durable with the next
    /// append.
    pub async fn define(&mut self, points: &[Arc<Point>]) -> Result<Vec<PointId>, BufferError> {
        let points = points.to_vec();
        ask(&self.wishes, |answer| Wish::Define { points, answer }).await
    }

    /// The sequence the next batch must carry.
    pub fn next_sequence(&self) -> Sequence {
        self.next
    }

    /// Returns when the batches (and everything defined or recorded before) survive a power cut.
    /// All of them are appended or none; after an error the same ones may be tried again.
    ///
    /// Dropping this future does not stop the append, so do not drop it: use it outside `select!`.
    pub async fn append(&mut self, batches: Vec<Encoded>) -> Result<(), BufferError> {
        let (result, next) = ask(&self.wishes, |answer| Wish::Append { batches, answer }).await?;
        self.next = next;
        result
    }
}

/// Hands a wish to the thread and waits for the answer.
async fn ask<T>(
    wishes: &mpsc::Sender<Wish>,
    wish: impl FnOnce(oneshot::Sender<T>) -> Wish,
) -> Result<T, BufferError> {
    let (answer, answered) = oneshot::channel();
    wishes.send(wish(answer)).await.map_err(|_| BufferError::Stopped)?;
    answered.await.map_err(|_| BufferError::Stopped)
}
