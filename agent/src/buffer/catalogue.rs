//! The catalogue: where each unacknowledged batch of the growing segment lies, and copies of what the
//! logbook says. sled keeps it; it never holds anything that segments and logbook do not say too,
//! except how much was in a segment of which the disk has lost the end.
//!
//! What sled 0.34.7 needs (each point a measured trap):
//! - `flush()` is no power-cut barrier: [`Catalogue::flush`] adds an fdatasync of its file;
//! - a half-written `snap.*.generating` makes it un-openable: deleted before opening;
//! - errors can be panics, and opening can hang: it opens in a thread of its own under a time
//!   limit, and every call is caught; whoever gets [`Fault`] rebuilds from the segments;
//! - `iter()` walks emptied leaves: only ranges from the oldest live sequence are used;
//! - its memory grows with what is in it, at opening too: 200,000 places took 9 MiB, and 39 MiB once
//!   all were looked at. So it knows the growing segment only; of the others there are charts;
//! - a fresh store takes a MiB or two: where the budget is small it lives in memory instead,
//!   as it does after a fault.

use std::collections::BTreeMap;
use std::fs;
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use forebay_protocols::reading::{Point, PointId};
use forebay_protocols::sync::batch::Epoch;
use forebay_protocols::sync::wire;
use prost::Message;
use rustix::fs::{FlockOperation, flock};

use super::logbook::Sequences;

/// Longer than any sane opening, even on a slow card.
const OPENING_LIMIT: Duration = Duration::from_secs(10);
/// sled's page cache; its real memory runs to several times this.
const CACHE: u64 = 1 << 20;

const EPOCH: &[u8] = b"epoch";
const OPENINGS: &[u8] = b"openings";
const ACKNOWLEDGED: &[u8] = b"acknowledged";

/// Why the catalogue cannot go on. It is never asked again.
#[derive(Debug, thiserror::Error)]
#[error("catalogue: {0}")]
pub struct Fault(String);

/// Where a batch lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Number of the segment.
    pub segment: u64,
    /// Where its frame starts.
    pub at: u64,
    /// Bytes of the encoded batch.
    pub length: u32,
    /// Readings inside.
    pub count: u32,
}

/// Sequence to place, and copies of dictionary, gaps, openings and acknowledgements for the day the logbook is damaged.
pub enum Catalogue {
    /// In sled.
    Sled(Shelves),
    /// In memory, rebuilt at every opening.
    Memory(BTreeMap<u64, Place>),
}

/// sled's trees.
pub struct Shelves {
    db: sled::Db,
    places: sled::Tree,
    points: sled::Tree,
    gaps: sled::Tree,
    folder: PathBuf,
    /// Anything changed since the last flush?
    changed: bool,
}

impl Catalogue {
    /// An empty one in memory.
    pub fn in_memory() -> Self {
        Self::Memory(BTreeMap::new())
    }

    /// Opens or makes sled in `folder`. Whatever lies there, this returns.
    pub fn open(folder: &Path) -> Result<Self, Fault> {
        remove_half_written_snapshots(folder);
        let (sender, receiver) = sync_channel(1);
        let path = folder.to_owned();
        std::thread::Builder::new()
            .name("catalogue-open".into())
            .spawn(move || {
                let opened =
                    catch_unwind(|| open_shelves(&path)).unwrap_or_else(|cause| Err(Fault::panic(cause)));
                // Nobody waits any more after the time limit; then the shelves close here.
                drop(sender.send(opened));
            })
            .map_err(|error| Fault(format!("no thread to open it: {error}")))?;
        match receiver.recv_timeout(OPENING_LIMIT) {
            Ok(opened) => opened.map(Self::Sled),
            Err(RecvTimeoutError::Timeout) => {
                Err(Fault(format!("did not open within {} s", OPENING_LIMIT.as_secs())))
            }
            Err(RecvTimeoutError::Disconnected) => Err(Fault("its opening ended without a word".into())),
        }
    }

    /// The epoch it was made for; `None` if it is new.
    pub fn epoch(&self) -> Result<Option<Epoch>, Fault> {
        self.read(|shelves| {
            Ok(shelves.db.get(EPOCH)?.and_then(|bytes| bytes.as_ref().try_into().ok()).map(Epoch))
        })
    }

    /// Empties it for this epoch.
    pub fn begin(&mut self, epoch: Epoch) -> Result<(), Fault> {
        match self {
            Self::Memory(places) => places.clear(),
            Self::Sled(_) => self.change(|shelves| {
                shelves.places.clear()?;
                shelves.points.clear()?;
                shelves.gaps.clear()?;
                for of_another_epoch in [OPENINGS, ACKNOWLEDGED] {
                    shelves.db.remove(of_another_epoch)?;
                }
                shelves.db.insert(EPOCH, &epoch.0)?;
                Ok(())
            })?,
        }
        Ok(())
    }

    /// Notes where a batch lies.
    pub fn insert(&mut self, sequence: u64, place: &Place) -> Result<(), Fault> {
        if let Self::Memory(places) = self {
            places.insert(sequence, *place);
            return Ok(());
        }
        self.change(|shelves| {
            shelves.places.insert(sequence.to_be_bytes(), place.encode().as_slice())?;
            Ok(())
        })
    }

    /// Forgets where a batch lies.
    pub fn remove(&mut self, sequence: u64) -> Result<(), Fault> {
        if let Self::Memory(places) = self {
            places.remove(&sequence);
            return Ok(());
        }
        self.change(|shelves| {
            shelves.places.remove(sequence.to_be_bytes())?;
            Ok(())
        })
    }

    /// The first `most` batches in `range`, ascending.
    pub fn ahead(&self, range: RangeInclusive<u64>, most: usize) -> Result<Vec<(u64, Place)>, Fault> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        if let Self::Memory(places) = self {
            return Ok(places.range(range).take(most).map(|(s, p)| (*s, *p)).collect());
        }
        self.read(|shelves| {
            let keys = range.start().to_be_bytes()..=range.end().to_be_bytes();
            shelves.places.range(keys).take(most).map(|item| decoded(item?)).collect()
        })
    }

    /// The last `most` batches in `range`, descending.
    pub fn behind(&self, range: RangeInclusive<u64>, most: usize) -> Result<Vec<(u64, Place)>, Fault> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        if let Self::Memory(places) = self {
            return Ok(places.range(range).rev().take(most).map(|(s, p)| (*s, *p)).collect());
        }
        self.read(|shelves| {
            let keys = range.start().to_be_bytes()..=range.end().to_be_bytes();
            shelves.places.range(keys).rev().take(most).map(|item| decoded(item?)).collect()
        })
    }

    /// Keeps a copy of a point.
    pub fn copy_point(&mut self, number: u32, point: &Point) -> Result<(), Fault> {
        self.change(|shelves| {
            let entry = wire::DictionaryEntry::new(PointId(number), point);
            shelves.points.insert(number.to_be_bytes(), entry.encode_to_vec())?;
            Ok(())
        })
    }

    /// Keeps a copy of a gap.
    pub fn copy_gap(&mut self, gap: &wire::Gap) -> Result<(), Fault> {
        self.change(|shelves| {
            shelves.gaps.insert(gap.number.to_be_bytes(), gap.encode_to_vec())?;
            Ok(())
        })
    }

    /// Drops the copies of gaps below `number`.
    pub fn forget_gaps_below(&mut self, number: u64) -> Result<(), Fault> {
        self.change(|shelves| {
            for key in shelves.gaps.range(..number.to_be_bytes()).keys() {
                shelves.gaps.remove(key?)?;
            }
            Ok(())
        })
    }

    /// The copies of the dictionary.
    pub fn points(&self) -> Result<BTreeMap<u32, Arc<Point>>, Fault> {
        self.read(|shelves| {
            let mut points = BTreeMap::new();
            for item in &shelves.points {
                let entry =
                    wire::DictionaryEntry::decode(item?.1.as_ref()).map_err(|e| Fault(e.to_string()))?;
                points.insert(entry.point, Arc::new(entry.describe()));
            }
            Ok(points)
        })
    }

    /// The copies of the gaps.
    pub fn gaps(&self) -> Result<BTreeMap<u64, wire::Gap>, Fault> {
        self.read(|shelves| {
            let mut gaps = BTreeMap::new();
            for item in &shelves.gaps {
                let gap = wire::Gap::decode(item?.1.as_ref()).map_err(|e| Fault(e.to_string()))?;
                gaps.insert(gap.number, gap);
            }
            Ok(gaps)
        })
    }

    /// Keeps a copy of the openings.
    pub fn copy_openings(&mut self, openings: &[wire::Opening]) -> Result<(), Fault> {
        self.change(|shelves| {
            let greeting = wire::Greeting { openings: openings.to_vec() };
            shelves.db.insert(OPENINGS, greeting.encode_to_vec())?;
            Ok(())
        })
    }

    /// The copies of the openings.
    pub fn openings(&self) -> Result<Vec<wire::Opening>, Fault> {
        self.read(|shelves| {
            let Some(bytes) = shelves.db.get(OPENINGS)? else { return Ok(Vec::new()) };
            let greeting = wire::Greeting::decode(bytes.as_ref()).map_err(|e| Fault(e.to_string()))?;
            Ok(greeting.openings)
        })
    }

    /// Keeps a copy of what a server has.
    pub fn copy_acknowledged(&mut self, sequences: &Sequences) -> Result<(), Fault> {
        self.change(|shelves| {
            shelves.db.insert(ACKNOWLEDGED, sequences.encode_to_vec())?;
            Ok(())
        })
    }

    /// The copy of what a server has.
    pub fn acknowledged(&self) -> Result<Sequences, Fault> {
        self.read(|shelves| {
            let Some(bytes) = shelves.db.get(ACKNOWLEDGED)? else { return Ok(Sequences::default()) };
            Sequences::decode(bytes.as_ref()).map_err(|e| Fault(e.to_string()))
        })
    }

    /// Makes it survive a power cut as it is now. Without it, it survives in some older state.
    pub fn flush(&mut self) -> Result<(), Fault> {
        match self {
            Self::Sled(shelves) if shelves.changed => {
                shelves.changed = false;
                caught(|| {
                    shelves.db.flush()?;
                    let file = fs::File::open(shelves.folder.join("db")).map_err(Fault::io)?;
                    file.sync_data().map_err(Fault::io)
                })
            }
            _ => Ok(()),
        }
    }

    /// Bytes it takes on the disk.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Sled(shelves) => bytes_below(&shelves.folder),
            Self::Memory(_) => 0,
        }
    }

    fn read<T: Default>(&self, work: impl FnOnce(&Shelves) -> Result<T, Fault>) -> Result<T, Fault> {
        match self {
            Self::Sled(shelves) => caught(|| work(shelves)),
            Self::Memory(_) => Ok(T::default()),
        }
    }

    fn change(&mut self, work: impl FnOnce(&Shelves) -> Result<(), Fault>) -> Result<(), Fault> {
        match self {
            Self::Sled(shelves) => {
                shelves.changed = true;
                caught(|| work(shelves))
            }
            Self::Memory(_) => Ok(()),
        }
    }
}

impl Place {
    fn encode(&self) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.segment.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.at.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.length.to_le_bytes());
        bytes[20..].copy_from_slice(&self.count.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 24] = bytes.try_into().ok()?;
        Some(Self {
            segment: u64::from_le_bytes(bytes[..8].try_into().ok()?),
            at: u64::from_le_bytes(bytes[8..16].try_into().ok()?),
            length: u32::from_le_bytes(bytes[16..20].try_into().ok()?),
            count: u32::from_le_bytes(bytes[20..].try_into().ok()?),
        })
    }
}

impl Fault {
    fn io(error: std::io::Error) -> Self {
        Self(error.to_string())
    }

    fn panic(cause: Box<dyn std::any::Any + Send>) -> Self {
        let words = cause
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| cause.downcast_ref::<&str>().copied())
            .unwrap_or("without words");
        Self(format!("panicked: {words}"))
    }
}

impl From<sled::Error> for Fault {
    fn from(error: sled::Error) -> Self {
        Self(error.to_string())
    }
}

/// Bytes of all files below a folder, as far as they can be seen.
pub fn bytes_below(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .filter_map(Result::ok)
        .filter_map(|entry| entry.metadata().ok().map(|about| (entry.path(), about)))
        .map(|(path, about)| if about.is_dir() { bytes_below(&path) } else { about.len() })
        .sum()
}

fn open_shelves(folder: &Path) -> Result<Shelves, Fault> {
    let config = sled::Config::new().path(folder).cache_capacity(CACHE).flush_every_ms(None);
    // sled does not wait for its lock, which a store that was just dropped may hold for a moment.
    if let Ok(file) = fs::File::open(folder.join("db")) {
        flock(&file, FlockOperation::LockExclusive).map_err(|error| Fault::io(error.into()))?;
    }
    let db = config.open()?;
    // Once it knew every segment.
    db.drop_tree("places")?;
    let (places, points, gaps) = (db.open_tree("growing")?, db.open_tree("points")?, db.open_tree("gaps")?);
    Ok(Shelves { db, places, points, gaps, folder: folder.to_owned(), changed: true })
}

fn remove_half_written_snapshots(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.filter_map(Result::ok) {
        if entry.file_name().to_string_lossy().ends_with(".generating") {
            // If it cannot be deleted the opening fails, and that is handled.
            drop(fs::remove_file(entry.path()));
        }
    }
}

fn decoded((key, value): (sled::IVec, sled::IVec)) -> Result<(u64, Place), Fault> {
    let sequence = key.as_ref().try_into().map(u64::from_be_bytes).ok();
    sequence.zip(Place::decode(&value)).ok_or_else(|| Fault("an entry that is none of ours".into()))
}

fn caught<T>(work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|cause| Err(Fault::panic(cause)))
}
