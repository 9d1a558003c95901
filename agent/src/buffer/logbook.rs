//! The logbook: the small facts of an epoch, in one append-only file of record frames
//! (`frame.rs`). Segments hold batches; the logbook holds all that must outlive them: openings,
//! boots, dictionary, gaps, what of which segment is forgotten, what a server has acknowledged, the
//! counters. Together they are the
//! truth; the catalogue only finds things faster.
//!
//! A record is one protobuf message [`Record`] of entries that become true together. Counters are
//! stated as totals, so a record that is lost costs the story, not the sum. When the file has
//! grown to several times what is still true, it is rewritten: `logbook.new`, fsync, rename,
//! fsync of the folder. That is also how it is first made, and how it is mended.
//!
//! `record` is the format, `contents` reads a whole book, and what stands here writes it.

mod contents;
mod record;

use std::io;

use forebay_protocols::sync::batch::Epoch;
use prost::Message;

use super::disk::{Disk, DiskFile};
use super::frame::{FileFacts, Kind, frame};

pub use self::contents::Contents;
pub use self::record::{
    Books, Boot, BootNote, Entry, Forgotten, Life, Made, Past, Sealed, Sequences, Thinned,
};
use self::record::{Record, Wrapped};

/// The file's name.
pub const LOGBOOK: &str = "logbook";
const NEW: &str = "logbook.new";
/// A logbook below this size is never rewritten for its size.
const SMALL: u64 = 64 << 10;
/// What may wait for a disk that refuses; beyond it the whole book is written anew later.
const PENDING: usize = 256 << 10;

/// The writing side.
#[derive(Default)]
pub struct Logbook {
    /// `None` until the first write, and after a failure.
    file: Option<Box<dyn DiskFile>>,
    /// Bytes that are written and synced.
    length: u64,
    /// Entries that are not, as the body of one record: messages that follow each other are one.
    /// A write of several frames might lose the first to a power cut and keep the second, which
    /// would look like damage.
    pending: Vec<u8>,
    /// Is anything of it to be durable soon?
    urgent: bool,
    /// Write the whole book anew instead of `pending`.
    rewrite: bool,
    /// Its length when it was last written anew.
    length_then: u64,
}

impl Logbook {
    /// A logbook that will be written anew at the first [`Logbook::write`].
    pub fn fresh(length: u64) -> Self {
        Self { length, rewrite: true, ..Self::default() }
    }

    /// A logbook to go on with.
    pub fn at_end(length: u64) -> Self {
        Self { length, length_then: length / 2, ..Self::default() }
    }

    /// Entries that become true together, and durable with the next write.
    pub fn push(&mut self, entries: impl IntoIterator<Item = Entry>) {
        self.urgent = true;
        self.push_later(entries);
    }

    /// The same of entries that may wait for a write that happens anyway: lost, they cost work, not readings.
    pub fn push_later(&mut self, entries: impl IntoIterator<Item = Entry>) {
        if self.rewrite {
            return; // The snapshot will say it.
        }
        let entries = entries.into_iter().map(|entry| Wrapped { entry: Some(entry) }).collect();
        self.pending.extend(Record { entries }.encode_to_vec());
        if self.pending.len() > PENDING {
            self.pending = Vec::new();
            self.rewrite = true;
        }
    }

    /// Is there anything to write?
    pub fn has_news(&self) -> bool {
        self.rewrite || !self.pending.is_empty()
    }

    /// Is any of it to be written soon?
    pub fn has_urgent_news(&self) -> bool {
        self.rewrite || self.urgent
    }

    /// Bytes it takes on the disk.
    pub fn length(&self) -> u64 {
        self.length + self.pending.len() as u64
    }

    /// Will the next write need a snapshot?
    pub fn wants_snapshot(&self) -> bool {
        self.rewrite || self.length() > SMALL + 4 * self.length_then
    }

    /// Makes everything pushed durable. `snapshot` is used if the book is written anew.
    pub fn write(
        &mut self,
        disk: &dyn Disk,
        epoch: Epoch,
        snapshot: Option<impl Iterator<Item = Entry>>,
    ) -> io::Result<()> {
        let result = match snapshot {
            Some(entries) => self.write_anew(disk, epoch, entries),
            None => self.write_pending(disk),
        };
        if result.is_err() {
            // After an I/O error or a remount an old handle may be good for nothing.
            self.file = None;
        }
        result
    }

    fn write_pending(&mut self, disk: &dyn Disk) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(disk.open(LOGBOOK)?),
        };
        // What an earlier attempt left behind the synced part is overwritten.
        let record = frame(Kind::Record, &self.pending);
        if let Err(error) = file.write_at(&record, self.length).and_then(|()| file.sync()) {
            // After a sync that failed the kernel shows what the disk does not have. An agent that
            // starts again must not read it, go on behind it, and find a hole after a power cut.
            drop(file.cut(self.length));
            return Err(error);
        }
        self.length += record.len() as u64;
        self.pending = Vec::new();
        self.urgent = false;
        Ok(())
    }

    /// Takes some entries at a time: there is one for every point.
    fn write_anew(
        &mut self,
        disk: &dyn Disk,
        epoch: Epoch,
        entries: impl Iterator<Item = Entry>,
    ) -> io::Result<()> {
        let head = FileFacts { segment: false, epoch, number: 0, first: 0, appended_before: 0, level: 0 };
        let mut bytes = head.encode();
        let mut entries = entries.map(|entry| Wrapped { entry: Some(entry) }).peekable();
        while entries.peek().is_some() {
            let some = Record { entries: entries.by_ref().take(64).collect() };
            bytes.extend(frame(Kind::Record, &some.encode_to_vec()));
        }
        let mut file = disk.create(NEW)?;
        file.write_at(&bytes, 0)?;
        file.sync()?;
        disk.rename(NEW, LOGBOOK)?;
        self.file = Some(file);
        self.length = bytes.len() as u64;
        self.length_then = self.length;
        self.pending = Vec::new();
        self.urgent = false;
        self.rewrite = false;
        if let Err(error) = disk.sync_folder() {
            // The old book may come back after a power cut, so the new one is not durable yet.
            self.rewrite = true;
            return Err(error);
        }
        Ok(())
    }
}
