//! The conservation ledger: where every reading is. It must close, always:
//!
//! ```text
//! produced = filtered + in hand + appended
//! appended = dropped + acknowledged + backlog
//! ```
//!
//! [`Books`] are written by the link tasks and the batcher; the buffer keeps the durable half.
//! Counts are readings since the epoch began. What a crash took out of the agent's hands was
//! never promised to anybody, so after a start `produced` begins where `appended` stands. Links do
//! not wait for the buffer to open, so what they took meanwhile is added to that.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::buffer;

/// All counts at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Ledger {
    /// Taken from the field, bad readings for lost links included.
    pub produced: u64,
    /// Left out by point processing.
    pub filtered: u64,
    /// On the way from a link to the flash.
    pub in_hand: u64,
    /// Made durable.
    pub appended: u64,
    /// Given up by the buffer, each with a gap record.
    pub dropped: u64,
    /// Committed by the server.
    pub acknowledged: u64,
    /// Durable and not acknowledged.
    pub backlog: u64,
}

/// The two sides of an equation of the ledger that differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Open {
    /// Readings vanished or doubled before the flash.
    #[error("{produced} readings were produced, {accounted} are accounted for")]
    BeforeFlash {
        /// Left side.
        produced: u64,
        /// Right side.
        accounted: u64,
    },
    /// Readings vanished or doubled behind it.
    #[error("{appended} readings were appended, {accounted} are accounted for")]
    BehindFlash {
        /// Left side.
        appended: u64,
        /// Right side.
        accounted: u64,
    },
}

impl Ledger {
    /// Is every reading accounted for, exactly once?
    pub fn closes(&self) -> Result<(), Open> {
        let accounted = self.filtered.saturating_add(self.in_hand).saturating_add(self.appended);
        if self.produced != accounted {
            return Err(Open::BeforeFlash { produced: self.produced, accounted });
        }
        let accounted = self.dropped.saturating_add(self.acknowledged).saturating_add(self.backlog);
        if self.appended != accounted {
            return Err(Open::BehindFlash { appended: self.appended, accounted });
        }
        Ok(())
    }

    /// Readings by which the books do not close: 0, or somebody has to find out why.
    pub fn imbalance(&self) -> u64 {
        let before = self.filtered.saturating_add(self.in_hand).saturating_add(self.appended);
        let behind = self.dropped.saturating_add(self.acknowledged).saturating_add(self.backlog);
        self.produced.abs_diff(before).saturating_add(self.appended.abs_diff(behind))
    }
}

/// The agent's half of the ledger. Cheap to clone; every clone is the same books.
#[derive(Clone, Debug, Default)]
pub struct Books(Arc<Mutex<Entries>>);

#[derive(Clone, Copy, Debug, Default)]
struct Entries {
    produced: u64,
    filtered: u64,
    in_hand: u64,
    appended: u64,
}

impl Books {
    /// The buffer is open: what it holds was produced once, before what these books say already.
    pub fn open(&self, counts: buffer::Counts) {
        let mut entries = self.entries();
        entries.produced += counts.appended;
        entries.appended += counts.appended;
    }

    /// A link took `produced` readings from the field; processing left out `filtered` of them, or of
    /// those that it took in hand earlier.
    pub fn harvested(&self, produced: u64, filtered: u64) {
        let mut entries = self.entries();
        entries.produced += produced;
        entries.filtered += filtered;
        entries.in_hand = (entries.in_hand + produced).saturating_sub(filtered);
    }

    /// `count` readings in hand will not be appended after all.
    pub fn left_out(&self, count: u64) {
        let mut entries = self.entries();
        entries.in_hand = entries.in_hand.saturating_sub(count);
        entries.filtered += count;
    }

    /// `count` readings in hand are durable now.
    pub fn appended(&self, count: u64) {
        let mut entries = self.entries();
        entries.in_hand = entries.in_hand.saturating_sub(count);
        entries.appended += count;
    }

    /// Both halves at one moment. `status` is asked again if an append came in between.
    pub fn ledger(&self, status: impl Fn() -> buffer::Status) -> Ledger {
        let mut entries = *self.entries();
        let mut durable = status();
        for _ in 0..3 {
            let later = *self.entries();
            if later.appended == durable.counts.appended && later.appended == entries.appended {
                break;
            }
            entries = later;
            durable = status();
        }
        Ledger {
            produced: entries.produced,
            filtered: entries.filtered,
            in_hand: entries.in_hand,
            appended: entries.appended,
            dropped: durable.counts.dropped,
            acknowledged: durable.counts.acknowledged,
            backlog: durable.backlog_readings,
        }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        // Plain numbers are whole whatever panicked beside them.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::{Counts, Status};

    #[test]
    fn a_ledger_closes_only_when_every_reading_is_somewhere_once() {
        let closed = Ledger {
            produced: 100,
            filtered: 10,
            in_hand: 5,
            appended: 85,
            dropped: 5,
            acknowledged: 60,
            backlog: 20,
        };
        assert_eq!(closed.closes(), Ok(()));
        let vanished = Ledger { in_hand: 4, ..closed };
        assert_eq!((closed.imbalance(), vanished.imbalance()), (0, 1));
        assert_eq!(vanished.closes(), Err(Open::BeforeFlash { produced: 100, accounted: 99 }));
        let doubled = Ledger { acknowledged: 61, ..closed };
        assert_eq!(doubled.imbalance(), 1);
        assert_eq!(doubled.closes(), Err(Open::BehindFlash { appended: 85, accounted: 86 }));
    }

    #[test]
    fn books_go_on_where_the_buffer_stands_and_close_at_every_step() {
        let counts = Counts { appended: 1_000, dropped: 0, acknowledged: 400 };
        let books = Books::default();
        books.harvested(8, 1);
        let ledger = books.ledger(Status::default);
        assert_eq!((ledger.in_hand, ledger.closes()), (7, Ok(())), "links do not wait for the buffer");
        books.open(counts);
        let status = |appended| Status {
            counts: Counts { appended, ..counts },
            backlog_readings: appended - 400,
            ..Status::default()
        };
        assert_eq!(books.ledger(|| status(1_000)).closes(), Ok(()));
        books.harvested(50, 8);
        let ledger = books.ledger(|| status(1_000));
        assert_eq!((ledger.in_hand, ledger.closes()), (49, Ok(())));
        books.appended(49);
        let ledger = books.ledger(|| status(1_049));
        assert_eq!((ledger.in_hand, ledger.closes()), (0, Ok(())));
    }
}
