//! The frame: the only thing that lies in the buffer's files. A file is a row of frames, the
//! first of which says what the file is. All numbers are little-endian.
//!
//! ```text
//! frame    0  4  magic "FBF1"; the digit is the version of this format
//!          4  1  kind: 1 file, 2 batch, 3 record, 4 thinned batch
//!          5  3  zero
//!          8  4  length of the body
//!         12  4  CRC32C of the body
//!         16  4  CRC32C of bytes 0..16
//!         20  …  body
//!
//! file     0  1  what the file is: 1 segment, 2 logbook
//! (body)   1 16  epoch
//!         17  8  number of the segment; 0 for the logbook
//!         25  8  sequence that its first batch will have, or a higher one
//!         33  8  readings appended in the epoch before this file
//!         41  4  how often the segment was thinned, plus 32 for each time it was cleared; not there
//!                if never
//!
//! batch    0  8  sequence
//! (body)   8  8  boot counter
//!         16  4  readings
//!         20  4  highest point number used
//!         24  8  wall time of the first reading, microseconds since 1970, as believed at append
//!         32  8  wall time of the last reading
//!         40  8  readings appended in the epoch before this batch
//!         48  4  epoch tag: CRC32C of the epoch
//!         52  4  CRC32C of bytes 0..52
//!         56  …  the encoded `Batch`, byte for byte
//!
//! thinned  0 56  as above; the readings are those that are left
//! batch   56  4  readings when it was appended
//! (body)  60  …  the encoded `Batch`
//!
//! record      protobuf, see `logbook.rs`
//! ```
//!
//! A header has its own checksum, so a reader can hop from frame to frame without reading the
//! bodies, and after damage it finds the next frame by looking for a magic with a right checksum.

use std::io;

use forebay_protocols::sync::batch::{Epoch, Sequence};

use super::disk::DiskFile;

/// Bytes before a frame's body.
pub const HEADER: usize = 20;
/// Bytes of a batch's body before the encoded batch.
pub const FACTS: usize = 56;
/// The same of a thinned batch.
const FACTS_THINNED: usize = FACTS + 4;
/// No body is longer; a header that says otherwise is damaged.
pub const LONGEST_BODY: usize = 64 << 20;

const MAGIC: &[u8; 4] = b"FBF1";
/// How much is read at once while looking for the next frame after damage.
const STRIDE: usize = 64 << 10;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The first of every file.
    File = 1,
    /// A batch.
    Batch = 2,
    /// An entry of the logbook.
    Record = 3,
    /// A batch that readings were left out of.
    Thinned = 4,
}

/// A frame that was found, by its header alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Where its header starts.
    pub at: u64,
    /// What it says it holds; `None` from a newer version.
    pub kind: Option<Kind>,
    /// Bytes of its body.
    pub length: u32,
    crc: u32,
}

impl Frame {
    /// Where the body starts.
    pub fn body_at(&self) -> u64 {
        self.at + HEADER as u64
    }

    /// Where the next frame starts.
    pub fn end(&self) -> u64 {
        self.body_at() + u64::from(self.length)
    }

    /// Is it a batch, thinned or not?
    pub fn is_batch(&self) -> bool {
        matches!(self.kind, Some(Kind::Batch | Kind::Thinned))
    }

    /// Bytes of a batch's body before the encoded batch.
    pub fn lead(&self) -> usize {
        if self.kind == Some(Kind::Thinned) { FACTS_THINNED } else { FACTS }
    }

    /// Reads the body; `None` if it is not what was written.
    pub fn body(&self, file: &dyn DiskFile) -> io::Result<Option<Vec<u8>>> {
        let mut body = vec![0; self.length as usize];
        let whole = file.read_at(&mut body, self.body_at())? == body.len();
        Ok((whole && crc32c::crc32c(&body) == self.crc).then_some(body))
    }
}

/// What stands at a place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A frame. Its body was not looked at.
    Frame(Frame),
    /// Garbage up to `to`, where the next frame starts.
    Damage {
        /// The next frame.
        to: u64,
    },
    /// Garbage, and no frame behind it.
    Torn,
    /// The end of the file.
    End,
}

/// What a segment or logbook says of itself in its first frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileFacts {
    /// True for a segment, false for the logbook.
    pub segment: bool,
    /// The epoch it belongs to.
    pub epoch: Epoch,
    /// The segment's number.
    pub number: u64,
    /// The lowest sequence it may hold.
    pub first: u64,
    /// Readings appended in the epoch before it.
    pub appended_before: u64,
    /// How often it was thinned, and cleared.
    pub level: u32,
}

/// What is known of a batch without decoding it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchFacts {
    /// Its number.
    pub sequence: Sequence,
    /// The boot it was appended in.
    pub boot_counter: u64,
    /// Readings inside.
    pub count: u32,
    /// Highest point number inside.
    pub revision: u32,
    /// Wall time of its first and last reading as believed at append.
    pub wall_us: (i64, i64),
    /// Readings appended in the epoch before it.
    pub appended_before: u64,
    /// [`epoch_tag`] of its epoch.
    pub epoch_tag: u32,
    /// Readings when it was appended, if some were left out since.
    pub thinned_from: Option<u32>,
}

/// Four bytes that tell epochs apart well enough to notice a stray batch.
pub fn epoch_tag(epoch: Epoch) -> u32 {
    crc32c::crc32c(&epoch.0)
}

/// A frame's header. The body may come in parts so that nobody copies a batch to frame it.
pub fn header(kind: Kind, body: &[&[u8]]) -> [u8; HEADER] {
    let length: usize = body.iter().map(|part| part.len()).sum();
    let crc = body.iter().fold(0, |crc, part| crc32c::crc32c_append(crc, part));
    let mut bytes = [0; HEADER];
    bytes[..4].copy_from_slice(MAGIC);
    bytes[4] = kind as u8;
    bytes[8..12].copy_from_slice(&(length as u32).to_le_bytes());
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    let own = crc32c::crc32c(&bytes[..16]);
    bytes[16..].copy_from_slice(&own.to_le_bytes());
    bytes
}

/// A whole frame around a short body.
pub fn frame(kind: Kind, body: &[u8]) -> Vec<u8> {
    [header(kind, &[body]).as_slice(), body].concat()
}

/// What stands at `at` in a file that ends at `end`.
pub fn look(file: &dyn DiskFile, at: u64, end: u64) -> io::Result<Found> {
    if at >= end {
        return Ok(Found::End);
    }
    match frame_at(file, at, end)? {
        Some(frame) => Ok(Found::Frame(frame)),
        None => search(file, at + 1, end),
    }
}

/// The frame that starts exactly at `at`, if one does.
pub fn frame_at(file: &dyn DiskFile, at: u64, end: u64) -> io::Result<Option<Frame>> {
    let mut bytes = [0; HEADER];
    let whole = file.read_at(&mut bytes, at)? == HEADER;
    Ok(if whole { parse(&bytes, at, end) } else { None })
}

/// The next frame from `at` on, wherever it is.
fn search(file: &dyn DiskFile, mut at: u64, end: u64) -> io::Result<Found> {
    let mut window = vec![0; STRIDE];
    while at + HEADER as u64 <= end {
        let filled = file.read_at(&mut window, at)?;
        let seen = window.get(..filled).unwrap_or_default();
        for (offset, bytes) in seen.windows(HEADER).enumerate() {
            if bytes.starts_with(MAGIC)
                && let Ok(bytes) = bytes.try_into()
                && parse(bytes, at + offset as u64, end).is_some()
            {
                return Ok(Found::Damage { to: at + offset as u64 });
            }
        }
        if filled < HEADER {
            break;
        }
        // The windows overlap, so that a header on the seam is not missed.
        at += (filled - HEADER + 1) as u64;
    }
    Ok(Found::Torn)
}

fn parse(bytes: &[u8; HEADER], at: u64, end: u64) -> Option<Frame> {
    let own = le_u32(bytes, 16)?;
    if !bytes.starts_with(MAGIC) || crc32c::crc32c(&bytes[..16]) != own {
        return None;
    }
    let kind = match bytes[4] {
        1 => Some(Kind::File),
        2 => Some(Kind::Batch),
        3 => Some(Kind::Record),
        4 => Some(Kind::Thinned),
        _ => None,
    };
    let frame = Frame { at, kind, length: le_u32(bytes, 8)?, crc: le_u32(bytes, 12)? };
    (frame.length as usize <= LONGEST_BODY && frame.end() <= end).then_some(frame)
}

impl FileFacts {
    /// The whole first frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = vec![if self.segment { 1 } else { 2 }];
        body.extend_from_slice(&self.epoch.0);
        for number in [self.number, self.first, self.appended_before] {
            body.extend_from_slice(&number.to_le_bytes());
        }
        if self.level > 0 {
            body.extend_from_slice(&self.level.to_le_bytes());
        }
        frame(Kind::File, &body)
    }

    /// Reads the first frame of a file; `None` if there is none.
    pub fn read(file: &dyn DiskFile) -> io::Result<Option<Self>> {
        let Found::Frame(frame) = look(file, 0, file.length()?)? else { return Ok(None) };
        if frame.kind != Some(Kind::File) {
            return Ok(None);
        }
        Ok(frame.body(file)?.and_then(|body| Self::decode(&body)))
    }

    fn decode(body: &[u8]) -> Option<Self> {
        let segment = match body.first()? {
            1 => true,
            2 => false,
            _ => return None,
        };
        Some(Self {
            segment,
            epoch: Epoch(body.get(1..17)?.try_into().ok()?),
            number: le_u64(body, 17)?,
            first: le_u64(body, 25)?,
            appended_before: le_u64(body, 33)?,
            level: le_u32(body, 41).unwrap_or(0),
        })
    }
}

impl BatchFacts {
    /// Readings when it was appended.
    pub fn appended(&self) -> u32 {
        self.thinned_from.unwrap_or(self.count).max(self.count)
    }

    /// Readings left out of it since.
    pub fn left_out(&self) -> u32 {
        self.appended() - self.count
    }

    /// All of its frame that stands before the encoded batch.
    pub fn lead(&self, batch: &[u8]) -> Vec<u8> {
        let mut facts = self.encode().to_vec();
        let kind = match self.thinned_from {
            Some(count) => {
                facts.extend_from_slice(&count.to_le_bytes());
                Kind::Thinned
            }
            None => Kind::Batch,
        };
        [header(kind, &[&facts, batch]).as_slice(), &facts].concat()
    }

    fn encode(&self) -> [u8; FACTS] {
        let mut bytes = [0; FACTS];
        bytes[..8].copy_from_slice(&self.sequence.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.boot_counter.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.count.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.revision.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.wall_us.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.wall_us.1.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.appended_before.to_le_bytes());
        bytes[48..52].copy_from_slice(&self.epoch_tag.to_le_bytes());
        let own = crc32c::crc32c(&bytes[..52]);
        bytes[52..].copy_from_slice(&own.to_le_bytes());
        bytes
    }

    /// Reads the head of a batch's body, of the kind its frame says; `None` if it is damaged.
    pub fn decode(kind: Option<Kind>, body: &[u8]) -> Option<Self> {
        if le_u32(body, 52)? != crc32c::crc32c(body.get(..52)?) {
            return None;
        }
        Some(Self {
            sequence: Sequence(le_u64(body, 0)?),
            boot_counter: le_u64(body, 8)?,
            count: le_u32(body, 16)?,
            revision: le_u32(body, 20)?,
            wall_us: (le_u64(body, 24)? as i64, le_u64(body, 32)? as i64),
            appended_before: le_u64(body, 40)?,
            epoch_tag: le_u32(body, 48)?,
            thinned_from: if kind == Some(Kind::Thinned) { Some(le_u32(body, FACTS)?) } else { None },
        })
    }
}

fn le_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn le_u64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
