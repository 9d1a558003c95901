//! Batches as agents encode them, and some that nobody should send.

use bytes::Bytes;
use forebay_protocols::boot_time::BootTime;
use forebay_protocols::reading::{PointId, Quality, Reading, Stamp, Value};
use forebay_protocols::sync::batch::{Boot, Encoder, Epoch, Head, Sequence};
use forebay_protocols::sync::wire;
use prost::Message;

/// Added to boot time: a day in 2026.
pub const WALL_OFFSET: i64 = 1_795_000_000_000_000;

/// A batch of (point, boot time) readings.
pub fn batch(epoch: Epoch, sequence: u64, readings: &[(u32, i64)]) -> Bytes {
    in_boot(epoch, sequence, 1, true, readings)
}

/// A batch of a certain boot.
pub fn in_boot(epoch: Epoch, sequence: u64, boot: u64, synchronised: bool, readings: &[(u32, i64)]) -> Bytes {
    let boot = Boot { counter: boot, id: [0; 8], wall_offset_us: WALL_OFFSET, synchronised };
    let mut readings: Vec<Reading> = readings
        .iter()
        .map(|(point, at)| Reading {
            point: PointId(*point),
            stamp: Stamp::boot(BootTime(*at)),
            value: Some(Value::Float(1.5)),
            quality: Quality::Good,
        })
        .collect();
    Encoder::new().encode(&Head { epoch, sequence: Sequence(sequence), boot }, &mut readings).bytes
}

/// A batch that states this dictionary revision, true or not.
pub fn with_revision(epoch: Epoch, sequence: u64, revision: u32, readings: &[(u32, i64)]) -> Bytes {
    altered(batch(epoch, sequence, readings), |batch| batch.dictionary_revision = revision)
}

/// A whole envelope around a payload that flash or wire has altered.
pub fn unreadable(epoch: Epoch, sequence: u64) -> Bytes {
    altered(batch(epoch, sequence, &[(1, 10)]), |batch| batch.payload = Bytes::from_static(b"odd"))
}

fn altered(batch: Bytes, alter: impl FnOnce(&mut wire::Batch)) -> Bytes {
    let mut batch = wire::Batch::decode(batch).unwrap();
    alter(&mut batch);
    batch.encode_to_vec().into()
}
