//! The records of the logbook, as protobuf messages. This is the format on the disk: tags are never
//! given twice, and an entry of a newer version is passed over.

use forebay_protocols::sync::wire;
use prost::Message;

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
