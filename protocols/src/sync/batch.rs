//! Readings to batches and back: the envelope of `batch.proto` around the columns of
//! `columns.proto`. What is encoded comes back bit for bit, sorted by (point, time). Decoding is
//! total: any bytes give a batch or an error, in bounded memory.
//!
//! The columns, the choice of kinds and shapes, and the order of readings are pure rooms of their
//! own below this file; here are the envelope, the checksum, compression, and every bound.

use std::fmt;

use bytes::Bytes;
use prost::Message;

use crate::hexadecimal::Hexadecimal;
use crate::reading::{Fault, PointId, Quality, Reading, Value};
use crate::sync::wire;

mod axes;
mod columns;
mod compression;
mod corrected;
mod kinds;
mod odd;
mod order;
mod packing;
mod runs;
mod shapes;
mod tens;

/// The newest format that this version reads and writes. Each batch is of the oldest that has what it
/// needs: 2 has decimals with corrections, which 1 has not.
pub const NEWEST_FORMAT: u32 = 2;
/// Readings in one batch.
pub const MAX_READINGS: usize = 65_536;
/// Bytes of the columns before compression.
pub const MAX_PAYLOAD: usize = 16 << 20;
/// Bytes of a whole batch: a payload that does not compress, and its envelope.
pub const MAX_BATCH_BYTES: usize = MAX_PAYLOAD + (128 << 10);
/// Bytes of one text value. A longer one is kept as a reading without a value, bad: wrong type.
pub const MAX_TEXT: usize = 1 << 20;

/// Bytes of all texts together in one batch. With the worst of readings (about 80 bytes each) this
/// stays below `MAX_PAYLOAD`.
const MAX_TEXTS: usize = 4 << 20;
/// The life of one buffer store: 16 random bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub [u8; 16]);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hexadecimal(&self.0).fmt(f)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Epoch({self})")
    }
}

/// The number of a batch within its epoch: 1, 2, 3 …
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub u64);

/// The boot in which a batch was taken, and what its clock was believed to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boot {
    /// 1, 2, 3 … counted by the agent.
    pub counter: u64,
    /// The first 8 bytes of the kernel's boot id.
    pub id: [u8; 8],
    /// Microseconds to add to boot time for wall time.
    pub wall_offset_us: i64,
    /// Was the wall clock synchronised?
    pub synchronised: bool,
}

/// What the batcher knows of a batch besides its readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The buffer store's life.
    pub epoch: Epoch,
    /// The batch's number.
    pub sequence: Sequence,
    /// Boot and clock.
    pub boot: Boot,
}

/// A batch ready for flash and wire.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// The batch's number.
    pub sequence: Sequence,
    /// Readings inside.
    pub count: u32,
    /// Highest point number inside.
    pub dictionary_revision: PointId,
    /// Boot time of the earliest and latest reading, microseconds.
    pub span_us: (i64, i64),
    /// The whole `Batch` message.
    pub bytes: Bytes,
}

/// A batch read back.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// Its format.
    pub format: u32,
    /// Epoch, sequence, boot.
    pub head: Head,
    /// Highest point number the batch may use.
    pub dictionary_revision: PointId,
    /// The readings, ordered by (point, time).
    pub readings: Vec<Reading>,
}

/// What an envelope says, without a look at its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peek {
    /// Epoch, sequence, boot.
    pub head: Head,
    /// Highest point number the batch may use.
    pub dictionary_revision: PointId,
    /// Readings inside.
    pub count: u32,
    /// Boot time of the earliest and latest reading, microseconds; zeros if there is none.
    pub span_us: (i64, i64),
}

/// Why bytes are no batch. None of these mends itself: the same bytes fail again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not the protobuf message of a batch.
    #[error("{length} bytes are not a batch: {why}")]
    NotABatch {
        /// How many bytes there were.
        length: usize,
        /// What is wrong with them.
        why: String,
    },
    /// Written by a later version.
    #[error("batch format {found} is unknown here, {NEWEST_FORMAT} is the newest known: update the reader")]
    UnknownFormat {
        /// The format the batch states.
        found: u32,
    },
    /// Compressed by a later version.
    #[error("batch codec {found} is unknown here: update the reader")]
    UnknownCodec {
        /// The codec the batch states.
        found: i32,
    },
    /// The bytes were altered on their way or on their medium.
    #[error("the payload's checksum is {found:08x}, the batch states {stated:08x}: its bytes were altered")]
    Checksum {
        /// The checksum in the envelope.
        stated: u32,
        /// The checksum of the payload.
        found: u32,
    },
    /// Above a bound of this version.
    #[error("{what}: {found} is above the limit of {limit}")]
    TooLarge {
        /// What is counted.
        what: &'static str,
        /// How much the batch has or claims.
        found: u64,
        /// How much it may have.
        limit: u64,
    },
    /// Envelope or payload contradict themselves or each other.
    #[error("the batch is inconsistent: `{part}` {fault}")]
    Inconsistent {
        /// The field of the envelope, or the column of the payload.
        part: &'static str,
        /// What is wrong with it.
        fault: &'static str,
    },
}

impl From<packing::Flaw> for DecodeError {
    fn from(flaw: packing::Flaw) -> Self {
        Self::Inconsistent { part: flaw.column, fault: flaw.fault }
    }
}

/// Writes batches. Keeps the compressor and all scratch space from batch to batch.
pub struct Encoder {
    newest: u32,
    order: order::Order,
    writer: columns::Writer,
    press: compression::Press,
}

impl Default for Encoder {
    fn default() -> Self {
        Self {
            newest: NEWEST_FORMAT,
            order: order::Order::default(),
            writer: columns::Writer::default(),
            press: compression::Press::default(),
        }
    }
}

impl Encoder {
    /// A ready encoder, of any format. It grows to the size of the batches it writes.
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on no batch is of a newer format than this, which its reader knows.
    pub fn up_to(&mut self, format: u32) -> &mut Self {
        self.newest = format;
        self
    }

    /// Encodes the first [`Encoded::count`] readings, which are all of them unless there are more
    /// than [`MAX_READINGS`] or their texts are very large; the others stay as they are, for the
    /// next batch. So `readings.drain(..count)` forgets what was encoded and nothing else.
    ///
    /// The encoded readings are sorted in place, stably, by (point, time), and stay in `readings`.
    /// Point numbers and the sequence count from 1: a decoder refuses 0.
    pub fn encode(&mut self, head: &Head, readings: &mut [Reading]) -> Encoded {
        let fitting = fitting(readings);
        let readings = &mut readings[..fitting];
        self.order.sort(readings);
        let (columns, span_us, format) = self.writer.write(readings, self.newest);
        let (payload, payload_length) = self.press.compress(columns);
        let dictionary_revision = readings.last().map_or(PointId(0), |reading| reading.point);
        let batch = wire::Batch {
            format,
            epoch: Bytes::copy_from_slice(&head.epoch.0),
            sequence: head.sequence.0,
            boot: Some(wire::Boot {
                counter: head.boot.counter,
                id: Bytes::copy_from_slice(&head.boot.id),
                wall_offset_us: head.boot.wall_offset_us,
                synchronised: head.boot.synchronised,
            }),
            dictionary_revision: dictionary_revision.0,
            count: readings.len() as u32,
            first_us: span_us.0,
            last_us: span_us.1,
            codec: wire::Codec::ColumnsZstd.into(),
            payload_length: payload_length as u32,
            payload_crc32c: crc32c::crc32c(&payload),
            payload: payload.into(),
        };
        Encoded {
            sequence: head.sequence,
            count: batch.count,
            dictionary_revision,
            span_us,
            bytes: batch.encode_to_vec().into(),
        }
    }
}

/// How many of the first readings go into one batch. A single text above its bound loses its value
/// here, so that the first reading always fits.
fn fitting(readings: &mut [Reading]) -> usize {
    let most = readings.len().min(MAX_READINGS);
    let mut room = MAX_TEXTS;
    for (place, reading) in readings[..most].iter_mut().enumerate() {
        let Some(Value::Text(text)) = &reading.value else { continue };
        if text.len() > MAX_TEXT {
            reading.value = None;
            reading.quality = Quality::Bad(Fault::WrongType);
            continue;
        }
        match room.checked_sub(text.len()) {
            Some(rest) => room = rest,
            None => return place,
        }
    }
    most
}

/// Reads batches. Keeps the decompressor and all scratch space from batch to batch.
#[derive(Default)]
pub struct Decoder {
    expander: compression::Expander,
    columns: wire::Columns,
    reader: columns::Reader,
}

impl Decoder {
    /// A ready decoder. It grows to the size of the batches it reads.
    pub fn new() -> Self {
        Self::default()
    }

    /// The batch in `bytes`, which may come from anybody.
    pub fn decode(&mut self, bytes: &[u8]) -> Result<Decoded, DecodeError> {
        let (batch, peek) = envelope(bytes)?;
        let found = crc32c::crc32c(&batch.payload);
        if found != batch.payload_crc32c {
            return Err(DecodeError::Checksum { stated: batch.payload_crc32c, found });
        }
        let payload = self.expander.expand(&batch.payload, batch.payload_length as usize)?;
        self.columns.clear();
        let not_columns =
            |why: prost::DecodeError| DecodeError::NotABatch { length: bytes.len(), why: why.to_string() };
        self.columns.merge(payload).map_err(not_columns)?;
        let (readings, span) =
            self.reader.read(&self.columns, batch.format, peek.count as usize, peek.dictionary_revision)?;
        if span != peek.span_us {
            return Err(DecodeError::Inconsistent {
                part: "first_us and last_us",
                fault: "are not the payload's span",
            });
        }
        let Peek { head, dictionary_revision, .. } = peek;
        Ok(Decoded { format: batch.format, head, dictionary_revision, readings })
    }
}

/// What a batch of any format has: the number of its format. All else may be different in a later one.
#[derive(Clone, PartialEq, Message)]
struct AnyFormat {
    #[prost(uint32, tag = "1")]
    format: u32,
}

/// What the envelope says. Neither checksum nor payload are looked at.
pub fn peek(bytes: &[u8]) -> Result<Peek, DecodeError> {
    envelope(bytes).map(|(_, peek)| peek)
}

fn envelope(bytes: &[u8]) -> Result<(wire::Batch, Peek), DecodeError> {
    bounded("bytes of the batch", bytes.len() as u64, MAX_BATCH_BYTES as u64)?;
    let not_a_batch = |why: String| DecodeError::NotABatch { length: bytes.len(), why };
    let malformed = |why: prost::DecodeError| not_a_batch(why.to_string());
    match AnyFormat::decode(bytes).map_err(malformed)?.format {
        1..=NEWEST_FORMAT => {}
        0 => return Err(not_a_batch("it states no format".to_owned())),
        found => return Err(DecodeError::UnknownFormat { found }),
    }
    let batch = wire::Batch::decode(bytes).map_err(malformed)?;
    if batch.codec() != wire::Codec::ColumnsZstd {
        return Err(DecodeError::UnknownCodec { found: batch.codec });
    }
    bounded("readings", batch.count.into(), MAX_READINGS as u64)?;
    bounded("bytes of the payload", batch.payload_length.into(), MAX_PAYLOAD as u64)?;
    let flaw = |part, fault| DecodeError::Inconsistent { part, fault };
    let epoch = batch.epoch.as_ref().try_into().map_err(|_| flaw("epoch", "is not 16 bytes long"))?;
    if batch.sequence == 0 {
        return Err(flaw("sequence", "is 0, but sequences count from 1"));
    }
    let boot = batch.boot.as_ref().ok_or_else(|| flaw("boot", "is missing"))?;
    let boot = Boot {
        counter: boot.counter,
        id: boot.id.as_ref().try_into().map_err(|_| flaw("boot.id", "is not 8 bytes long"))?,
        wall_offset_us: boot.wall_offset_us,
        synchronised: boot.synchronised,
    };
    if batch.first_us > batch.last_us {
        return Err(flaw("first_us", "is after last_us"));
    }
    let peek = Peek {
        head: Head { epoch: Epoch(epoch), sequence: Sequence(batch.sequence), boot },
        dictionary_revision: PointId(batch.dictionary_revision),
        count: batch.count,
        span_us: (batch.first_us, batch.last_us),
    };
    Ok((batch, peek))
}

fn bounded(what: &'static str, found: u64, limit: u64) -> Result<(), DecodeError> {
    if found <= limit { Ok(()) } else { Err(DecodeError::TooLarge { what, found, limit }) }
}
