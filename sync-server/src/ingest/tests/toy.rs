//! Batches in the real envelope with a payload simple enough to write by hand: point (4 bytes),
//! boot time (8) per reading. The codec has its own tests; here it must only be called rightly.

use bytes::{Buf, Bytes};
use forebay_protocols::boot_time::BootTime;
use forebay_protocols::reading::{PointId, Quality, Reading, Stamp, Value};
use forebay_protocols::sync::batch::{Boot, Decoded, Epoch, Head, Sequence};
use forebay_protocols::sync::wire;
use prost::Message;

use crate::ingest::Decode;

/// Added to boot time: a day in 2026.
pub const WALL_OFFSET: i64 = 1_795_000_000_000_000;

/// A batch of (point, boot time) readings.
pub fn batch(epoch: Epoch, sequence: u64, readings: &[(u32, i64)]) -> Bytes {
    in_boot(epoch, sequence, 1, true, readings)
}

/// A batch of a certain boot.
pub fn in_boot(epoch: Epoch, sequence: u64, boot: u64, synchronised: bool, readings: &[(u32, i64)]) -> Bytes {
    let revision = readings.iter().map(|(point, _)| *point).max().unwrap_or(0);
    write(epoch, sequence, boot, synchronised, revision, readings)
}

/// A batch that states this dictionary revision, true or not.
pub fn with_revision(epoch: Epoch, sequence: u64, revision: u32, readings: &[(u32, i64)]) -> Bytes {
    write(epoch, sequence, 1, true, revision, readings)
}

/// A whole envelope around a payload nobody can read.
pub fn unreadable(epoch: Epoch, sequence: u64) -> Bytes {
    let batch = wire::Batch {
        epoch: Bytes::copy_from_slice(&epoch.0),
        sequence,
        payload: Bytes::from_static(b"odd"),
        ..Default::default()
    };
    batch.encode_to_vec().into()
}

fn write(
    epoch: Epoch,
    sequence: u64,
    boot: u64,
    synchronised: bool,
    revision: u32,
    readings: &[(u32, i64)],
) -> Bytes {
    let payload: Vec<u8> = readings
        .iter()
        .flat_map(|(point, at)| [point.to_be_bytes().as_slice(), &at.to_be_bytes()].concat())
        .collect();
    let boot = wire::Boot { counter: boot, wall_offset_us: WALL_OFFSET, synchronised, ..Default::default() };
    let batch = wire::Batch {
        format: 1,
        epoch: Bytes::copy_from_slice(&epoch.0),
        sequence,
        boot: Some(boot),
        dictionary_revision: revision,
        payload: payload.into(),
        ..Default::default()
    };
    batch.encode_to_vec().into()
}

/// Reads what [`batch`] wrote.
pub fn decoder() -> Decode {
    Box::new(|bytes| {
        let batch = wire::Batch::decode(bytes).map_err(|error| error.to_string())?;
        let mut payload = batch.payload;
        if payload.len() % 12 != 0 {
            return Err("the payload is odd".into());
        }
        let boot = batch.boot.unwrap_or_default();
        let mut readings = Vec::new();
        while payload.has_remaining() {
            let (point, at) = (PointId(payload.get_u32()), BootTime(payload.get_i64()));
            let value = Some(Value::Float(1.5));
            readings.push(Reading { point, stamp: Stamp::boot(at), value, quality: Quality::Good });
        }
        let boot = Boot {
            counter: boot.counter,
            id: [0; 8],
            wall_offset_us: boot.wall_offset_us,
            synchronised: boot.synchronised,
        };
        let epoch = batch.epoch.as_ref().try_into().map_err(|_| "the epoch is odd")?;
        let head = Head { epoch: Epoch(epoch), sequence: Sequence(batch.sequence), boot };
        Ok(Decoded { head, dictionary_revision: PointId(batch.dictionary_revision), readings })
    })
}
