//! What a delivery comes to, given what the store knows of its epoch: which dictionary entries are
//! new, which batches are new, what must be set aside. Pure, and the same for both stores; they only
//! read the [`Book`] before and write the outcome after, in one transaction.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write;

use bytes::Bytes;
use forebay_protocols::reading::{Point, PointId, Value};
use forebay_protocols::sync::batch::Sequence;
use forebay_protocols::sync::ranges::Ranges;
use forebay_protocols::sync::wire::{self, sync_answer::Verdict};

use super::{Arrived, Content, Delivery, Micros, PointKey, Receipt, StoreError, Timed, sieve};

/// Why a transaction did not go through.
#[derive(Debug)]
pub enum Fault {
    /// Something in the data: without it the rest will do.
    Content(String),
    /// The database itself.
    Store(StoreError),
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Content(words) => Self::Refused(words),
            Fault::Store(error) => error,
        }
    }
}

/// What the store knows of an epoch. Read under a lock; moved on by each plan of the transaction.
#[derive(Debug, Default)]
pub struct Book {
    /// The store's number of the epoch.
    pub key: i64,
    /// Highest dictionary number without a hole.
    pub revision: u32,
    /// Highest gap number.
    pub gaps_known: u64,
    /// Committed sequences: all, or at least those of the batches in hand.
    pub committed: Ranges,
}

/// What to write for one delivery.
#[derive(Debug)]
pub struct Plan<'a> {
    /// The delivery itself.
    pub delivery: &'a Delivery,
    /// The store's number of its epoch.
    pub epoch_key: i64,
    /// New dictionary entries.
    pub entries: Vec<(u32, &'a Point)>,
    /// Readings of the new batches.
    pub taken: Vec<&'a [Timed]>,
    /// Dictionary numbers used by them.
    pub used: BTreeSet<u32>,
    /// New batches that cannot be stored as readings.
    pub aside: Vec<Aside>,
    /// Sequences to commit, of `taken` and `aside`.
    pub fresh: Vec<i64>,
    /// Gaps not known yet.
    pub gaps: Vec<&'a wire::Gap>,
    /// All but its points.
    pub receipt: Receipt,
}

/// A batch to keep for a person.
#[derive(Debug)]
pub struct Aside {
    pub sequence: u64,
    pub bytes: Bytes,
    pub why: String,
}

impl<'a> Plan<'a> {
    /// Decides about `delivery`, and moves `book` on as if that were done.
    pub fn new(book: &mut Book, delivery: &'a Delivery) -> Self {
        let mut plan = Self {
            delivery,
            epoch_key: book.key,
            entries: Vec::new(),
            taken: Vec::new(),
            used: BTreeSet::new(),
            aside: Vec::new(),
            fresh: Vec::new(),
            gaps: Vec::new(),
            receipt: Receipt::default(),
        };
        for (number, point) in &delivery.dictionary {
            // What lies beyond a hole is sent again: the answer says from where.
            if number.0.checked_sub(1) == Some(book.revision) && number.0 < i32::MAX as u32 {
                plan.entries.push((number.0, point));
                book.revision = number.0;
            }
        }
        let known = book.gaps_known;
        for gap in delivery.gaps.iter().filter(|gap| gap.number > known) {
            plan.gaps.push(gap);
            book.gaps_known = book.gaps_known.max(gap.number.min(i64::MAX as u64));
        }
        plan.receipt.dictionary_missing = delivery.batches.iter().any(|batch| {
            matches!(batch.content, Content::Readings(_))
                && batch.dictionary_revision.0 > book.revision
                && !book.committed.contains(batch.sequence.0)
        });
        if !plan.receipt.dictionary_missing {
            delivery.batches.iter().for_each(|batch| plan.take(book, batch));
        }
        plan.receipt.dictionary_revision = book.revision;
        plan.receipt.gaps_known = book.gaps_known;
        plan
    }

    fn take(&mut self, book: &mut Book, batch: &'a Arrived) {
        let Sequence(sequence) = batch.sequence;
        // Not a number that a buffer gives, nor one that every database can hold in a range.
        // It is kept once, and answered as set aside each time it comes.
        let Some(countable) = i64::try_from(sequence).ok().filter(|&s| s > 0 && s < i64::MAX) else {
            let (bytes, _) = batch.content.bytes_aside();
            self.set_aside(sequence, bytes, format!("{sequence} is not a sequence number"));
            return;
        };
        if !book.committed.insert(sequence..=sequence) {
            self.receipt.verdicts.push((batch.sequence, Verdict::Duplicate));
            return;
        }
        self.fresh.push(countable);
        match &batch.content {
            Content::Readings(readings) => {
                // Numbers come in runs: few look-ups.
                let mut numbers: Vec<u32> = readings.iter().map(|reading| reading.point.0).collect();
                numbers.dedup();
                if let Some(stranger) = numbers.iter().find(|&&n| n == 0 || n > book.revision) {
                    let why = format!(
                        "it has a reading of point {stranger}, and the dictionary ends at {}",
                        book.revision
                    );
                    self.set_aside(sequence, lines(readings), why);
                    return;
                }
                self.used.extend(numbers);
                self.taken.push(readings);
                self.receipt.verdicts.push((batch.sequence, Verdict::Committed));
            }
            Content::SetAside { bytes, why } => self.set_aside(sequence, bytes.clone(), why.clone()),
        }
    }

    fn set_aside(&mut self, sequence: u64, bytes: Bytes, why: String) {
        self.aside.push(Aside { sequence, bytes, why });
        self.receipt.verdicts.push((Sequence(sequence), Verdict::SetAside));
    }

    /// Readings this plan stores.
    pub fn stored(&self) -> usize {
        self.taken.iter().map(|readings| readings.len()).sum()
    }
}

impl Content {
    /// The bytes to keep where this cannot be stored as readings, and a reason if it has one.
    fn bytes_aside(&self) -> (Bytes, Option<&str>) {
        match self {
            Self::Readings(readings) => (lines(readings), None),
            Self::SetAside { bytes, why } => (bytes.clone(), Some(why)),
        }
    }
}

/// A reading and where it goes.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    pub point: PointKey,
    pub reading: &'a Timed,
}

/// All readings of a transaction, sorted for writing.
#[derive(Debug, Default)]
pub struct Sheet<'a> {
    /// By (point, time).
    pub rows: Vec<Row<'a>>,
    /// Times outside reason, with the moment of arrival.
    pub quarantine: Vec<(Row<'a>, Micros)>,
    /// The newest of `rows` for each point.
    pub newest: Vec<Row<'a>>,
}

impl<'a> Sheet<'a> {
    /// Sorts the readings of `plans`, and fills in the points of their receipts. `keys` leads from
    /// (epoch key, dictionary number) to the point.
    pub fn new(plans: &mut [Plan<'a>], keys: &HashMap<(i64, u32), PointKey>) -> Result<Self, Fault> {
        let mut sheet = Self::default();
        for plan in plans {
            let received = plan.delivery.received;
            for &number in &plan.used {
                let key = keys.get(&(plan.epoch_key, number)).ok_or_else(|| {
                    let words = format!("the dictionary has lost its number {number}");
                    Fault::Store(StoreError::Refused(words))
                })?;
                plan.receipt.points.push((PointId(number), *key));
            }
            for run in plan.taken.iter().flat_map(|readings| readings.chunk_by(|a, b| a.point == b.point)) {
                let number = run.first().map_or(0, |reading| reading.point.0);
                let Some(&point) = keys.get(&(plan.epoch_key, number)) else { continue };
                for reading in run {
                    let row = Row { point, reading };
                    match sieve::within_reason(reading.time, received) {
                        true => sheet.rows.push(row),
                        false => sheet.quarantine.push((row, received)),
                    }
                }
            }
        }
        // Batches come sorted, and this sort is quick where it finds runs. An index fills in order.
        sheet.rows.sort_by_key(|row| (row.point, row.reading.time));
        sheet.newest =
            sheet.rows.chunk_by(|a, b| a.point == b.point).filter_map(|run| run.last().copied()).collect();
        Ok(sheet)
    }
}

/// A delivery in pieces that can fail one by one: first all but the batches, then each batch alone.
pub fn pieces(delivery: &Delivery) -> Vec<Delivery> {
    let bare = Delivery {
        dictionary: Vec::new(),
        batches: Vec::new(),
        gaps: Vec::new(),
        report: None,
        agent: delivery.agent,
        epoch: delivery.epoch,
        received: delivery.received,
        opening: delivery.opening,
        greeting: None,
    };
    let head = Delivery {
        dictionary: delivery.dictionary.clone(),
        gaps: delivery.gaps.clone(),
        report: delivery.report.clone(),
        greeting: delivery.greeting.clone(),
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
    }
    whole.points.sort_unstable();
    whole.points.dedup();
    whole
}

/// Readings as lines of point number, microseconds, quality, type and value: how a batch is kept that
/// decoded but cannot be stored. Floats that decimals cannot hold stand as their bits.
fn lines(readings: &[Timed]) -> Bytes {
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
