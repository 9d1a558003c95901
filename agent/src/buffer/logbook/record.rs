//! The records of the logbook, as protobuf messages. This is the format on the disk: tags are never
//! given twice, and an entry of a newer version is passed over.

use forebay_protocols::sync::ranges::Ranges;
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
    #[prost(oneof = "Entry", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17")]
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
    /// A server has these.
    #[prost(message, tag = "9")]
    Acknowledged(Sequences),
    /// The server has them no more: they are alive again, or nobody has them.
    #[prost(message, tag = "10")]
    Unacknowledged(Sequences),
    /// Forgotten batches of a segment are alive again.
    #[prost(message, tag = "11")]
    Revived(Forgotten),
    /// What was in segments that are retired.
    #[prost(message, tag = "12")]
    Past(Past),
    /// The store was opened under this id.
    #[prost(message, tag = "13")]
    Opening(wire::Opening),
    /// A server has heard of the opening with this id.
    #[prost(bytes = "vec", tag = "14")]
    Greeted(Vec<u8>),
    /// What is known of a boot; a later one of the same counter replaces it.
    #[prost(message, tag = "15")]
    BootKnown(BootNote),
    /// The last sign of life of a run.
    #[prost(message, tag = "16")]
    Life(Life),
    /// A sealed segment was rewritten with fewer readings.
    #[prost(message, tag = "17")]
    Thinned(Thinned),
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
    /// The boot that writes it; 0 where that was not noted.
    #[prost(uint64, tag = "4")]
    pub boot: u64,
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
    /// The boot that wrote it; 0 where that was not noted.
    #[prost(uint64, tag = "12")]
    pub boot: u64,
    /// How often it was thinned, plus 32 for each time it was cleared.
    #[prost(uint32, tag = "13")]
    pub level: u32,
    /// Thinning it again would make no room.
    #[prost(bool, tag = "14")]
    pub bare: bool,
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
    /// Not zero in the last record of a clean stop.
    #[prost(fixed64, tag = "7")]
    pub closed: u64,
    /// Of `dropped`: no room.
    #[prost(uint64, tag = "8")]
    pub dropped_full: u64,
    /// Of `dropped`: left out of batches that stayed.
    #[prost(uint64, tag = "9")]
    pub dropped_thinned: u64,
}

/// A set of sequences.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Sequences {
    /// First and last of each range, in turn.
    #[prost(uint64, repeated, tag = "1")]
    pub ranges: Vec<u64>,
}

/// What was in one or more segments that are no longer there, so that a gap in them has a place in
/// time and a count.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Past {
    /// The lowest sequence.
    #[prost(uint64, tag = "1")]
    pub first: u64,
    /// The highest.
    #[prost(uint64, tag = "2")]
    pub last: u64,
    /// Readings appended.
    #[prost(uint64, tag = "3")]
    pub readings: u64,
    /// Wall time of the first reading.
    #[prost(int64, tag = "4")]
    pub from_us: i64,
    /// Wall time of the last.
    #[prost(int64, tag = "5")]
    pub to_us: i64,
}

/// A line of the table of boots.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct BootNote {
    /// 1, 2, 3 …
    #[prost(uint64, tag = "1")]
    pub counter: u64,
    /// First 8 bytes of the kernel's boot id.
    #[prost(bytes = "vec", tag = "2")]
    pub id: Vec<u8>,
    /// Boot time of the last sign of life, microseconds.
    #[prost(sint64, tag = "3")]
    pub last_us: i64,
    /// The wall offset believed then.
    #[prost(sint64, tag = "4")]
    pub believed_offset_us: i64,
    /// Was it believed for good reason?
    #[prost(bool, tag = "5")]
    pub synchronised: bool,
    /// The true wall offset, once it is known.
    #[prost(sint64, optional, tag = "6")]
    pub learnt_offset_us: Option<i64>,
    /// The wall offset of the system's clock when the boot first opened the store.
    #[prost(sint64, optional, tag = "7")]
    pub first_offset_us: Option<i64>,
}

/// When a run was last known to be alive, and what its clock was believed to be.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Life {
    /// Counter of the boot.
    #[prost(uint64, tag = "1")]
    pub boot: u64,
    /// Boot time, microseconds.
    #[prost(sint64, tag = "2")]
    pub until_us: i64,
    /// To be added to it for wall time.
    #[prost(sint64, tag = "3")]
    pub wall_offset_us: i64,
    /// Was that the truth, as far as the gateway knew?
    #[prost(bool, tag = "4")]
    pub synchronised: bool,
    /// Did the run end cleanly at that moment?
    #[prost(bool, tag = "5")]
    pub clean: bool,
}

/// A segment whose file was replaced by a shorter one; what is said of batches that are not in it is
/// said by a [`Forgotten`] in the same record.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Thinned {
    /// Its number.
    #[prost(uint64, tag = "1")]
    pub segment: u64,
    /// Bytes of the new file.
    #[prost(uint64, tag = "2")]
    pub length: u64,
    /// How often it was thinned, plus 32 for each time it was cleared, this time included.
    #[prost(uint32, tag = "3")]
    pub level: u32,
    /// Readings that were alive and are left out now.
    #[prost(uint64, tag = "4")]
    pub readings: u64,
    /// Bytes by which its living batches shrank.
    #[prost(uint64, tag = "5")]
    pub bytes: u64,
    /// Thinning it again would make no room.
    #[prost(bool, tag = "6")]
    pub bare: bool,
}

impl Sequences {
    /// Of a set.
    pub fn of(ranges: &Ranges) -> Self {
        Self { ranges: ranges.iter().flat_map(|(first, last)| [first, last]).collect() }
    }

    /// As a set.
    pub fn set(&self) -> Ranges {
        let mut set = Ranges::default();
        for pair in self.ranges.chunks_exact(2) {
            set.insert(pair[0]..=pair[1]);
        }
        set
    }
}
