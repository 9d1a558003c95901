//! A delivery in pieces, for one that the database refuses for its content: what is good in it is
//! stored, what is not is set aside. Pure.

use std::fmt::Write;

use bytes::Bytes;
use forebay_protocols::reading::Value;

use super::super::{Arrived, Content, Delivery, Receipt, Timed};

/// A delivery in pieces that can fail one by one: first all but the batches, then each batch alone.
pub fn pieces(delivery: &Delivery) -> Vec<Delivery> {
    let bare = Delivery {
        opening: delivery.opening,
        ..Delivery::empty(delivery.agent, delivery.epoch, delivery.received)
    };
    let head = Delivery {
        dictionary: delivery.dictionary.clone(),
        gaps: delivery.gaps.clone(),
        report: delivery.report.clone(),
        greeting: delivery.greeting.clone(),
        bytes: delivery.bytes,
        ..bare.clone()
    };
    let each = delivery.batches.iter().map(|batch| Delivery { batches: vec![batch.clone()], ..bare.clone() });
    std::iter::once(head).chain(each).collect()
}

/// The same delivery with its batches to be set aside because of `why`.
pub fn put_aside(piece: Delivery, why: &str) -> Delivery {
    let batches = piece.batches.iter().map(|batch| {
        let (bytes, before) = batch.content.bytes_aside();
        let why = before.unwrap_or(why).to_string();
        Arrived { content: Content::SetAside { bytes, why }, ..batch.clone() }
    });
    Delivery { batches: batches.collect(), ..piece }
}

/// One receipt for the pieces of a delivery.
pub fn join(receipts: Vec<Receipt>) -> Receipt {
    let mut whole = Receipt::default();
    for receipt in receipts {
        whole.verdicts.extend(receipt.verdicts);
        whole.points.extend(receipt.points);
        whole.dictionary_revision = receipt.dictionary_revision;
        whole.gaps_known = receipt.gaps_known;
        whole.dictionary_missing |= receipt.dictionary_missing;
        whole.committed = whole.committed.or(receipt.committed);
        whole.fork = receipt.fork;
        whole.greet |= receipt.greet;
    }
    whole.points.sort_unstable();
    whole.points.dedup();
    whole
}

/// Readings as lines of point number, microseconds, quality, type and value: how a batch is kept that
/// decoded but cannot be stored. Floats that decimals cannot hold stand as their bits.
pub(super) fn lines(readings: &[Timed]) -> Bytes {
    let mut lines = String::new();
    for Timed { point, time, value, quality } in readings {
        // Writing to a String cannot fail.
        let _ = write!(lines, "{}\t{time}\t{}\t", point.0, quality.code());
        let _ = match value {
            None => writeln!(lines, "none\t"),
            Some(Value::Float(v)) if !v.is_finite() => writeln!(lines, "float\t{:#018x}", v.to_bits()),
            Some(Value::Float(v)) => writeln!(lines, "float\t{v:?}"),
            Some(Value::Text(v)) => writeln!(lines, "text\t{v:?}"),
            Some(value) => writeln!(lines, "{}\t{value}", value.data_type().word()),
        };
    }
    lines.into()
}
