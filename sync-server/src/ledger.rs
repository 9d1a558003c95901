//! The server's half of the conservation ledger: is every reading that was produced somewhere,
//! exactly once? Pure; [`Keeper`] asks every minute, the API whenever somebody looks.
//!
//! The books of a buffer close when four things hold. `held` is what the server keeps of the buffer,
//! set aside or not; the other counts come from the gateway's report.
//!
//! ```text
//! before the flash   produced     = filtered + in hand + appended       one report
//! behind the flash   appended     = dropped + acknowledged + backlog    one report
//! nothing lost       acknowledged <= held                               a report and our books
//! nothing doubled    held         <= appended                           a report and our books
//! ```
//!
//! # What a report proves
//!
//! A report is written at one moment and booked at a later one. Meanwhile answers are swallowed,
//! requests are repeated, and others that were sent later overtake it.
//!
//! - *Lost* may be judged by any report, however late. The gateway acknowledges only what was
//!   committed before, and the books only grow: what it had acknowledged when it wrote the report was
//!   held when the report was booked, and before the batches that came with it were. (An exception is
//!   a database that was restored from a backup: the gateway takes those acknowledgements back as
//!   soon as it hears of it, before it reports again.)
//! - *Doubled* may not: a request that overtook the report can have brought readings appended after
//!   it was written. So what is held is noted at each check ([`Watch`]), and a note is held against a
//!   report that came in [`UNDER_WAY`] later: it was written after the note, and all that was held
//!   then had been appended. What came in between is the price: as many doubled readings as were
//!   appended since the note show only when the gateway is quieter, or when there are more of them.
//!   As many as were dropped may hide for ever: a batch can be committed, its answer be lost, and
//!   the gateway drop it.
//! - That nothing is doubled is *proven* by `held <= acknowledged + dropped` when a report is booked.
//!   Only then is a fault over. Mere growth of `appended` ends none.
//!
//! An equation that does not hold is doubtful until the next report says the same at another check:
//! counts that a gateway takes at one moment may lie a moment apart.
//!
//! # Forks
//!
//! A fork of a buffer (see [`Receipt::fork`](crate::store::Receipt::fork)) counts from the beginning of
//! the epoch, and its history before the fork is booked with the buffer it left. The store adds that
//! history to `stored_at_report`, so *lost* is as sharp for a fork as for any other. *Doubled* looks at
//! what the fork brought itself, and so misses as much as the history has.

use std::collections::VecDeque;
use std::fmt;

use forebay_protocols::sync::batch::Epoch;
use forebay_protocols::sync::wire::Report;

use crate::store::{AgentKey, FaultKind, LedgerRow, Micros};

mod keeper;

pub use keeper::Keeper;

/// No request is under way for longer, from its making at the gateway to its commit here: a gateway
/// gives up after 30 s by default, and what this server makes it wait adds up to two minutes.
pub const UNDER_WAY: Micros = 180_000_000;

/// Notes kept of one buffer. More are needed only while a gateway sends batches and no report.
const NOTES: usize = 16;

/// What tells one buffer from all others.
pub type BufferId = (AgentKey, Epoch, u32);

/// The books of one buffer, as they are kept.
#[derive(Clone, Copy, Debug)]
pub struct Books<'a>(pub &'a LedgerRow);

/// An equation that does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Imbalance {
    /// Readings vanished or appeared between the field and the gateway's flash.
    BeforeFlash {
        /// Taken from the field.
        produced: u64,
        /// Filtered, in hand or appended.
        accounted: u64,
    },
    /// Readings vanished or appeared in the gateway's buffer.
    BehindFlash {
        /// Made durable.
        appended: u64,
        /// Dropped, acknowledged or backlog.
        accounted: u64,
    },
    /// The gateway was told that readings are safe here, and they are not here.
    Lost {
        /// By the gateway's books.
        acknowledged: u64,
        /// By ours.
        held: u64,
    },
    /// More is here than was ever appended.
    Doubled {
        /// By the gateway's books.
        appended: u64,
        /// By ours.
        held: u64,
    },
}

/// What can be said of a buffer's books.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No report yet.
    Unreported,
    /// Nothing speaks against them.
    Closed {
        /// Does the last report also prove that nothing is doubled?
        proven: bool,
    },
    /// An equation does not hold in the last report; the next one will tell.
    Doubtful(Vec<Imbalance>),
    /// An equation did not hold in two reports, at two checks in a row.
    Open(Vec<Imbalance>),
}

/// Readings of the whole fleet, summed over the last reports of all buffers. What forks share is
/// reported by each of them, and counted as often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words say it")]
pub struct Totals {
    pub buffers: u64,
    pub produced: u64,
    pub filtered: u64,
    pub in_hand: u64,
    pub appended: u64,
    pub dropped: Dropped,
    pub acknowledged: u64,
    pub backlog: u64,
    pub stored: u64,
    pub set_aside: u64,
}

/// Dropped readings by what made them go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// No room.
    pub full: u64,
    /// Damaged on the disk.
    pub corrupt: u64,
    /// Left out to halve the resolution of old data.
    pub thinned: u64,
    /// For a reason the gateway does not tell.
    pub other: u64,
}

/// How a fault names a buffer: the epoch and the fork, in hex.
pub fn subject(row: &LedgerRow) -> String {
    format!("{}/{:x}", row.epoch, row.fork)
}

impl Books<'_> {
    /// Whose they are.
    pub fn buffer(&self) -> BufferId {
        (self.0.agent, self.0.epoch, self.0.fork)
    }

    /// What the last report says by itself. A doubled reading takes a [`Watch`] to be seen.
    pub fn verdict(&self) -> Verdict {
        let Some((report, _)) = &self.0.report else { return Verdict::Unreported };
        let found = self.imbalances(report);
        if found.is_empty() {
            Verdict::Closed { proven: self.proves(report) }
        } else {
            Verdict::Doubtful(found)
        }
    }

    fn imbalances(&self, report: &Report) -> Vec<Imbalance> {
        let Report { produced, appended, acknowledged, .. } = *report;
        let before = sum([report.filtered, report.in_hand, appended]);
        let behind = sum([report.dropped, acknowledged, report.backlog_readings]);
        let held = self.0.stored_at_report;
        let all = [
            (produced != before).then_some(Imbalance::BeforeFlash { produced, accounted: before }),
            (appended != behind).then_some(Imbalance::BehindFlash { appended, accounted: behind }),
            (acknowledged > held).then_some(Imbalance::Lost { acknowledged, held }),
        ];
        all.into_iter().flatten().collect()
    }

    /// Is nothing held that the gateway does not know to be acknowledged, or dropped?
    fn proves(&self, report: &Report) -> bool {
        self.0.stored_at_report <= report.acknowledged.saturating_add(report.dropped)
    }
}

impl Imbalance {
    /// How many readings are in the wrong place.
    pub fn readings(&self) -> u64 {
        let (one, other) = self.sides();
        one.abs_diff(other)
    }

    fn sides(&self) -> (u64, u64) {
        match *self {
            Self::BeforeFlash { produced, accounted } => (produced, accounted),
            Self::BehindFlash { appended, accounted } => (appended, accounted),
            Self::Lost { acknowledged, held } => (acknowledged, held),
            Self::Doubled { appended, held } => (appended, held),
        }
    }

    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::BeforeFlash { .. } | Self::BehindFlash { .. } => {
                "The gateway's own counts do not close, which is a fault of the agent. Run `forebay-agent \
                 buffer verify` there, keep what it prints, and report it with the agent's version."
            }
            Self::Lost { .. } => {
                "Was the database restored from a backup, or changed by hand? Restart the agent: it compares, \
                 and sends again what its buffer still keeps. Batches that were set aside unreadable count as \
                 nothing: look for them too."
            }
            Self::Doubled { .. } => {
                "Was the database changed by hand, or does a copy of this gateway's buffer run elsewhere? \
                 Compare `forebay-agent buffer status` on the gateway with /api/v1/ledger, and report both."
            }
        }
    }

    /// Do both say that the same equation does not hold?
    fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

impl fmt::Display for Imbalance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (one, other) = self.sides();
        let by = self.readings();
        match self {
            Self::BeforeFlash { .. } => {
                write!(f, "the gateway produced {one} readings and accounts for {other}: off by {by}")
            }
            Self::BehindFlash { .. } => {
                write!(f, "the gateway appended {one} readings and accounts for {other}: off by {by}")
            }
            Self::Lost { .. } => {
                write!(f, "{one} readings were acknowledged and {other} are here: {by} missing")
            }
            Self::Doubled { .. } => {
                write!(f, "{other} readings are here and {one} were appended: {by} too many")
            }
        }
    }
}

impl Verdict {
    /// One word: `unreported`, `closed`, `doubtful`, `open`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Unreported => "unreported",
            Self::Closed { .. } => "closed",
            Self::Doubtful(_) => "doubtful",
            Self::Open(_) => "open",
        }
    }

    /// What does not hold.
    pub fn imbalances(&self) -> &[Imbalance] {
        match self {
            Self::Unreported | Self::Closed { .. } => &[],
            Self::Doubtful(found) | Self::Open(found) => found,
        }
    }

    /// All of it in plain words; empty if nothing is wrong.
    pub fn words(&self) -> String {
        let words: Vec<String> = self.imbalances().iter().map(Imbalance::to_string).collect();
        words.join("; ")
    }
}

/// What is remembered of one buffer from check to check. Its size is bounded.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    notes: VecDeque<Note>,
    /// When the last report looked at came in, and what was said then.
    last: Option<(Micros, Verdict)>,
}

/// So much was held by then.
#[derive(Clone, Copy, Debug)]
struct Note {
    at: Micros,
    held: u64,
}

impl Watch {
    /// A check. `now` lies behind the moment at which the books were read.
    pub fn look(&mut self, books: &Books<'_>, now: Micros) -> Verdict {
        self.note(Note { at: now, held: held(books.0) });
        let Some((report, received)) = &books.0.report else { return Verdict::Unreported };
        // The same report proves no more than it did.
        if let Some((last, said)) = &self.last
            && last == received
        {
            return said.clone();
        }
        let mut found = books.imbalances(report);
        found.extend(self.doubled(report, *received));
        let before = self.last.as_ref().map_or(&[][..], |(_, said)| said.imbalances());
        let again = found.iter().any(|one| before.iter().any(|other| one.is_like(other)));
        let says = match (found.is_empty(), again) {
            (true, _) => Verdict::Closed { proven: books.proves(report) },
            (false, false) => Verdict::Doubtful(found),
            (false, true) => Verdict::Open(found),
        };
        self.last = Some((*received, says.clone()));
        says
    }

    /// Of as much held, the earliest note proves the most.
    fn note(&mut self, note: Note) {
        if self.notes.back().is_some_and(|last| last.held == note.held && last.at <= note.at) {
            return;
        }
        if self.notes.len() == NOTES {
            self.notes.pop_front();
        }
        self.notes.push_back(note);
    }

    fn doubled(&mut self, report: &Report, received: Micros) -> Option<Imbalance> {
        let is_before = |note: &Note| note.at.saturating_add(UNDER_WAY) <= received;
        // The newest note that lies before the report stays, for the reports to come.
        while self.notes.get(1).is_some_and(is_before) {
            self.notes.pop_front();
        }
        let note = self.notes.front().filter(|note| is_before(note))?;
        let Report { appended, .. } = *report;
        (note.held > appended).then_some(Imbalance::Doubled { appended, held: note.held })
    }
}

impl Totals {
    /// The sums of these.
    pub fn of(rows: &[LedgerRow]) -> Self {
        rows.iter().fold(Self::default(), |total, row| total.and(row))
    }

    fn and(self, row: &LedgerRow) -> Self {
        let report = row.report.as_ref().map(|(report, _)| report);
        let told = |count: fn(&Report) -> u64| report.map_or(0, count);
        Self {
            buffers: self.buffers + 1,
            produced: self.produced.saturating_add(told(|report| report.produced)),
            filtered: self.filtered.saturating_add(told(|report| report.filtered)),
            in_hand: self.in_hand.saturating_add(told(|report| report.in_hand)),
            appended: self.appended.saturating_add(told(|report| report.appended)),
            dropped: report.map_or(self.dropped, |report| self.dropped.and(Dropped::of(report))),
            acknowledged: self.acknowledged.saturating_add(told(|report| report.acknowledged)),
            backlog: self.backlog.saturating_add(told(|report| report.backlog_readings)),
            stored: self.stored.saturating_add(row.stored),
            set_aside: self.set_aside.saturating_add(row.set_aside),
        }
    }
}

impl Dropped {
    /// As a report tells it.
    pub fn of(report: &Report) -> Self {
        let Report { dropped_full: full, dropped_corrupt: corrupt, dropped_thinned: thinned, .. } = *report;
        Self { full, corrupt, thinned, other: report.dropped.saturating_sub(sum([full, corrupt, thinned])) }
    }

    /// For whatever reason.
    pub fn all(&self) -> u64 {
        sum([self.full, self.corrupt, self.thinned, self.other])
    }

    fn and(self, more: Self) -> Self {
        Self {
            full: self.full.saturating_add(more.full),
            corrupt: self.corrupt.saturating_add(more.corrupt),
            thinned: self.thinned.saturating_add(more.thinned),
            other: self.other.saturating_add(more.other),
        }
    }
}

/// A fault's kind in words, as the API and the command line tell it.
pub fn kind_words(kind: FaultKind) -> &'static str {
    match kind {
        FaultKind::Fork => "fork",
        FaultKind::Wiped => "buffer wiped",
        FaultKind::ServerRestored => "server restored",
        FaultKind::Imbalance => "imbalance",
    }
}

fn held(row: &LedgerRow) -> u64 {
    row.stored.saturating_add(row.set_aside)
}

/// What a gateway tells may be any number.
fn sum(counts: impl IntoIterator<Item = u64>) -> u64 {
    counts.into_iter().fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests;
