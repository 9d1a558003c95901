//! The logbook: the small facts of an epoch, in one append-only file of record frames
//! (`frame.rs`). Segments hold batches; the logbook holds all that must outlive them: boots,
//! dictionary, gaps, what of which segment is forgotten, the counters. Together they are the
//! truth; the catalogue only finds things faster.
//!
//! A record is one protobuf message [`Record`] of entries that become true together. Counters are
//! stated as totals, so a record that is lost costs the story, not the sum. When the file has
//! grown to several times what is still true, it is rewritten: `logbook.new`, fsync, rename,
//! fsync of the folder. That is also how it is first made, and how it is mended.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::Arc;

use forebay_protocols::reading::{DataType, Point, PointKind};
use forebay_protocols::sync::batch::Epoch;
use forebay_protocols::sync::wire;
use prost::Message;

use super::disk::{Disk, DiskFile};
use super::frame::{FileFacts, Found, Frame, Kind, frame, look};
use super::segments::{Segment, Tally};

/// The file's name.
pub const LOGBOOK: &str = "logbook";
const NEW: &str = "logbook.new";
/// A logbook below this size is never rewritten for its size.
const SMALL: u64 = 64 << 10;
/// What may wait for a disk that refuses; beyond it the whole book is written anew later.
const PENDING: usize = 256 << 10;

/// Entries that become true together.
#[derive(Clone, PartialEq, Message)]
pub struct Record {
    /// In this order.
    #[prost(message, repeated, tag = "1")]
    pub entries: Vec<Wrapped>,
}

/// One entry.
#[derive(Clone, PartialEq, Message)]
pub struct Wrapped {
    /// `None` from a newer version.
    #[prost(oneof = "Entry", tags = "1, 2, 3, 4, 5, 6, 7, 8")]
    pub entry: Option<Entry>,
}

/// One fact.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Entry {
    /// The store was opened in this boot.
    #[prost(message, tag = "1")]
    Boot(Boot),
    /// A segment was made.
    #[prost(message, tag = "2")]
    Made(Made),
    /// A segment will not grow any more, and what is in it.
    #[prost(message, tag = "3")]
    Sealed(Sealed),
    /// Batches of a segment were acknowledged or lost.
    #[prost(message, tag = "4")]
    Forgotten(Forgotten),
    /// A segment holds nothing alive: its file goes, or went.
    #[prost(uint64, tag = "5")]
    Retired(u64),
    /// A point of the dictionary.
    #[prost(message, tag = "6")]
    Point(wire::DictionaryEntry),
    /// A gap; a later one of the same number replaces it.
    #[prost(message, tag = "7")]
    Gap(wire::Gap),
    /// The totals.
    #[prost(message, tag = "8")]
    Books(Books),
}

/// A boot of the gateway.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Boot {
    /// 1, 2, 3 …
    #[prost(uint64, tag = "1")]
    pub counter: u64,
    /// The kernel's boot id, 16 bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub id: Vec<u8>,
}

/// A new segment.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Made {
    /// Its number.
    #[prost(uint64, tag = "1")]
    pub segment: u64,
    /// The lowest sequence it may hold.
    #[prost(uint64, tag = "2")]
    pub first: u64,
    /// Readings appended in the epoch before it.
    #[prost(uint64, tag = "3")]
    pub appended_before: u64,
}

/// A segment that is complete.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Sealed {
    /// Its number.
    #[prost(uint64, tag = "1")]
    pub segment: u64,
    /// The lowest sequence it may hold.
    #[prost(uint64, tag = "2")]
    pub first: u64,
    /// The highest it holds.
    #[prost(uint64, tag = "3")]
    pub last: u64,
    /// Bytes of the file that count.
    #[prost(uint64, tag = "4")]
    pub length: u64,
    /// Batches appended to it.
    #[prost(uint64, tag = "5")]
    pub batches: u64,
    /// Readings in them.
    #[prost(uint64, tag = "6")]
    pub readings: u64,
    /// Bytes of them.
    #[prost(uint64, tag = "7")]
    pub bytes: u64,
    /// Readings appended in the epoch before it.
    #[prost(uint64, tag = "8")]
    pub appended_before: u64,
    /// Highest point number used.
    #[prost(uint32, tag = "9")]
    pub revision: u32,
    /// Wall time of its first reading.
    #[prost(int64, tag = "10")]
    pub from_us: i64,
    /// Wall time of its last reading.
    #[prost(int64, tag = "11")]
    pub to_us: i64,
}

/// Batches that are gone from a segment.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Forgotten {
    /// The segment's number.
    #[prost(uint64, tag = "1")]
    pub segment: u64,
    /// First and last sequence of each range, in turn.
    #[prost(uint64, repeated, tag = "2")]
    pub ranges: Vec<u64>,
    /// Batches in those ranges that were alive until now.
    #[prost(uint64, tag = "3")]
    pub batches: u64,
    /// Readings in them.
    #[prost(uint64, tag = "4")]
    pub readings: u64,
    /// Bytes of them.
    #[prost(uint64, tag = "5")]
    pub bytes: u64,
}

/// Totals of the epoch. Each only grows, so the highest one seen counts.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Books {
    /// Readings appended.
    #[prost(uint64, tag = "1")]
    pub appended: u64,
    /// Readings dropped or lost.
    #[prost(uint64, tag = "2")]
    pub dropped: u64,
    /// No sequence above this one was ever given away.
    #[prost(uint64, tag = "3")]
    pub reserved: u64,
    /// The next sequence, where `closed` is set.
    #[prost(uint64, tag = "4")]
    pub next_sequence: u64,
    /// The number the next segment gets, or a lower one.
    #[prost(uint64, tag = "5")]
    pub next_segment: u64,
    /// The number the next gap gets, or a lower one.
    #[prost(uint64, tag = "6")]
    pub next_gap: u64,
    /// Not zero in the last record of a clean stop; the catalogue holds the same number.
    #[prost(fixed64, tag = "7")]
    pub closed: u64,
}

/// What a logbook says, folded.
#[derive(Debug, Default)]
pub struct Contents {
    /// Of the file's head; `None` if that is damaged.
    pub epoch: Option<Epoch>,
    /// The last boot.
    pub boot: Option<Boot>,
    /// Every segment that is not retired; the flag says whether it is sealed.
    pub segments: BTreeMap<u64, (Segment, bool)>,
    /// The dictionary as far as it was readable.
    pub points: BTreeMap<u32, Arc<Point>>,
    /// The gaps.
    pub gaps: BTreeMap<u64, wire::Gap>,
    /// The totals.
    pub books: Books,
    /// The token of a clean stop, if that is the last thing that happened.
    pub closed: Option<u64>,
    /// Bytes from the middle that could not be read.
    pub damaged_bytes: u64,
    /// Is there garbage at the end?
    pub torn: bool,
}

/// The writing side.
#[derive(Default)]
pub struct Logbook {
    /// `None` until the first write, and after a failure.
    file: Option<Box<dyn DiskFile>>,
    /// Bytes that are written and synced.
    length: u64,
    /// Frames that are not.
    pending: Vec<u8>,
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
        if self.rewrite {
            return; // The snapshot will say it.
        }
        let entries = entries.into_iter().map(|entry| Wrapped { entry: Some(entry) }).collect();
        self.pending.extend(frame(Kind::Record, &Record { entries }.encode_to_vec()));
        if self.pending.len() > PENDING {
            self.pending = Vec::new();
            self.rewrite = true;
        }
    }

    /// Is there anything to write?
    pub fn has_news(&self) -> bool {
        self.rewrite || !self.pending.is_empty()
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
    pub fn write(&mut self, disk: &dyn Disk, epoch: Epoch, snapshot: Option<Vec<Entry>>) -> io::Result<()> {
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
        file.write_at(&self.pending, self.length)?;
        file.sync()?;
        self.length += self.pending.len() as u64;
        self.pending = Vec::new();
        Ok(())
    }

    fn write_anew(&mut self, disk: &dyn Disk, epoch: Epoch, entries: Vec<Entry>) -> io::Result<()> {
        let head = FileFacts { segment: false, epoch, number: 0, first: 0, appended_before: 0 };
        let mut bytes = head.encode();
        for some in entries.chunks(64) {
            let entries = some.iter().map(|entry| Wrapped { entry: Some(entry.clone()) }).collect();
            bytes.extend(frame(Kind::Record, &Record { entries }.encode_to_vec()));
        }
        let mut file = disk.create(NEW)?;
        file.write_at(&bytes, 0)?;
        file.sync()?;
        disk.rename(NEW, LOGBOOK)?;
        self.file = Some(file);
        self.length = bytes.len() as u64;
        self.length_then = self.length;
        self.pending = Vec::new();
        self.rewrite = false;
        if let Err(error) = disk.sync_folder() {
            // The old book may come back after a power cut, so the new one is not durable yet.
            self.rewrite = true;
            return Err(error);
        }
        Ok(())
    }
}

impl Contents {
    /// Was all of it readable that was ever synced? A torn tail never was.
    pub fn is_whole(&self) -> bool {
        self.epoch.is_some() && self.damaged_bytes == 0
    }

    /// Reads the logbook; `None` if there is none. `length` is where it may be continued.
    pub fn load(disk: &dyn Disk) -> io::Result<Option<(Self, u64)>> {
        let file = match disk.open(LOGBOOK) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let end = file.length()?;
        let mut contents = Self::default();
        let mut at = 0;
        loop {
            match look(file.as_ref(), at, end)? {
                Found::Frame(frame) => {
                    if !contents.take_in(file.as_ref(), frame)? {
                        if frame.end() == end {
                            contents.torn = true;
                            break;
                        }
                        contents.damaged_bytes += frame.end() - at;
                    }
                    at = frame.end();
                }
                Found::Damage { to } => {
                    contents.damaged_bytes += to - at;
                    at = to;
                }
                Found::Torn => {
                    contents.torn = true;
                    break;
                }
                Found::End => break,
            }
        }
        if contents.torn || contents.damaged_bytes > 0 {
            contents.closed = None;
        }
        Ok(Some((contents, at)))
    }

    /// False if the frame is not what was written.
    fn take_in(&mut self, file: &dyn DiskFile, frame: Frame) -> io::Result<bool> {
        let Some(body) = frame.body(file)? else { return Ok(false) };
        match frame.kind {
            Some(Kind::File) => {
                self.epoch = FileFacts::read(file)?.filter(|facts| !facts.segment).map(|facts| facts.epoch);
            }
            Some(Kind::Record) => {
                let Ok(record) = Record::decode(&*body) else { return Ok(false) };
                self.closed = None;
                record.entries.into_iter().filter_map(|wrapped| wrapped.entry).for_each(|e| self.fold(e));
            }
            Some(Kind::Batch) | None => {}
        }
        Ok(true)
    }

    fn fold(&mut self, entry: Entry) {
        match entry {
            Entry::Boot(boot) => self.boot = Some(boot),
            Entry::Made(made) => {
                self.books.next_segment = self.books.next_segment.max(made.segment + 1);
                let segment = Segment::new(made.segment, made.first, made.appended_before);
                self.segments.entry(made.segment).or_insert((segment, false));
            }
            Entry::Sealed(sealed) => {
                self.books.next_segment = self.books.next_segment.max(sealed.segment + 1);
                let (segment, complete) = self
                    .segments
                    .entry(sealed.segment)
                    .or_insert_with(|| (Segment::new(sealed.segment, sealed.first, 0), false));
                segment.unseal(&sealed);
                *complete = true;
            }
            Entry::Forgotten(forgotten) => {
                if let Some((segment, _)) = self.segments.get_mut(&forgotten.segment) {
                    for pair in forgotten.ranges.chunks_exact(2) {
                        segment.forgotten.insert(pair[0]..=pair[1]);
                    }
                    segment.gone += Tally {
                        batches: forgotten.batches,
                        readings: forgotten.readings,
                        bytes: forgotten.bytes,
                    };
                }
            }
            Entry::Retired(number) => {
                self.segments.remove(&number);
            }
            Entry::Point(entry) => {
                self.points.insert(entry.point, Arc::new(point_of(&entry)));
            }
            Entry::Gap(gap) => {
                self.books.next_gap = self.books.next_gap.max(gap.number + 1);
                self.gaps.insert(gap.number, gap);
            }
            Entry::Books(books) => {
                let own = &mut self.books;
                own.appended = own.appended.max(books.appended);
                own.dropped = own.dropped.max(books.dropped);
                own.reserved = own.reserved.max(books.reserved);
                own.next_sequence = own.next_sequence.max(books.next_sequence);
                own.next_segment = own.next_segment.max(books.next_segment);
                own.next_gap = own.next_gap.max(books.next_gap);
                self.closed = (books.closed != 0).then_some(books.closed);
            }
        }
    }
}

/// A point as the dictionary's message.
pub fn entry_of(number: u32, point: &Point) -> wire::DictionaryEntry {
    use wire::dictionary_entry::{Kind, Type};
    wire::DictionaryEntry {
        point: number,
        device: point.device.to_string(),
        name: point.name.to_string(),
        unit: point.unit.to_string(),
        kind: match point.kind {
            PointKind::Gauge => Kind::Gauge,
            PointKind::Counter => Kind::Counter,
            PointKind::State => Kind::State,
        } as i32,
        r#type: match point.data_type {
            DataType::Float => Type::Float,
            DataType::Integer => Type::Integer,
            DataType::Boolean => Type::Boolean,
            DataType::Text => Type::Text,
        } as i32,
    }
}

/// And back.
pub fn point_of(entry: &wire::DictionaryEntry) -> Point {
    use wire::dictionary_entry::{Kind, Type};
    Point {
        device: entry.device.as_str().into(),
        name: entry.name.as_str().into(),
        unit: entry.unit.as_str().into(),
        kind: match entry.kind() {
            Kind::Gauge => PointKind::Gauge,
            Kind::Counter => PointKind::Counter,
            Kind::State => PointKind::State,
        },
        data_type: match entry.r#type() {
            Type::Float => DataType::Float,
            Type::Integer => DataType::Integer,
            Type::Boolean => DataType::Boolean,
            Type::Text => DataType::Text,
        },
    }
}
