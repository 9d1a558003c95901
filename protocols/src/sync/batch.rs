//! Readings to batches and back: the envelope of `batch.proto`. Decoding is total: any bytes
//! give a batch or an error, in bounded memory.

use std::fmt;

use bytes::Bytes;

use crate::reading::{PointId, Reading};

/// The life of one buffer store: 16 random bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub [u8; 16]);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
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
    /// Epoch, sequence, boot.
    pub head: Head,
    /// Highest point number the batch may use.
    pub dictionary_revision: PointId,
    /// The readings, ordered by (point, time).
    pub readings: Vec<Reading>,
}
