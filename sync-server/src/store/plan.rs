//! What a delivery comes to, given what the store knows of its buffer: which dictionary entries are
//! new, which batches are new, what must be set aside, what a person must be told. Pure, and the same
//! for both stores. A transaction goes like this:
//!
//! 1. The store reads the [`Families`] of the deliveries, under a lock.
//! 2. [`Families::settle`] says to which branch each delivery belongs; the store makes the new ones.
//! 3. The store reads what it knows of the sequences in hand.
//! 4. [`Plan::new`] decides, delivery by delivery, and moves the families on as if it were done.
//! 5. The store writes the readings and the rest of the plans, then the families.

use std::collections::BTreeSet;

use bytes::Bytes;
use forebay_protocols::reading::Point;
use forebay_protocols::sync::batch::Sequence;
use forebay_protocols::sync::wire::{self, sync_answer::Verdict};

use super::{Arrived, Content, Delivery, Micros, Pace, Receipt, StoreError, Timed};

mod ledger;
mod lineage;
mod pieces;
mod sheet;

pub use ledger::{Event, Former, Ledger, Note};
pub use lineage::{Border, Branch, Families, Family, Known, MOST_RANGES, countable};
pub use pieces::{join, pieces, put_aside};
pub use sheet::{Mark, News, Row, Sheet, marks, news};

/// Of how many of the newest sequences of a branch the checksums are kept.
pub const PRINTS: u64 = 4_096;
/// Older ones are cleared away each time the newest sequence passes a multiple of this.
const PRUNED_EVERY: u64 = 1_024;

/// Why a transaction did not go through.
#[derive(Debug)]
pub enum Failure {
    /// Something in the data: without it the rest will do.
    Content(String),
    /// The database itself.
    Store(StoreError),
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Content(words) => Self::Refused(words),
            Failure::Store(error) => error,
        }
    }
}

/// Set by the bench that asks what exactly-once costs: which batches came is neither asked nor kept.
#[cfg(feature = "measure")]
pub static WITHOUT_EXACTLY_ONCE: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// Whether batches are to be stored exactly once: always, but in a bench.
pub fn exactly_once() -> bool {
    #[cfg(feature = "measure")]
    return !WITHOUT_EXACTLY_ONCE.load(std::sync::atomic::Ordering::Relaxed);
    #[cfg(not(feature = "measure"))]
    true
}

/// What to write for one delivery. Branches stand here by their keys.
#[derive(Debug)]
pub struct Plan<'a> {
    /// The delivery itself.
    pub delivery: &'a Delivery,
    /// The branch it belongs to; nothing if the agent must greet first.
    pub branch: Option<i64>,
    /// New dictionary entries.
    pub entries: Vec<Entry<'a>>,
    /// Readings of the new batches.
    pub taken: Vec<Taken<'a>>,
    /// Branches and dictionary numbers used by them.
    pub used: BTreeSet<(i64, u32)>,
    /// Those used by gap records.
    pub named: BTreeSet<(i64, u32)>,
    /// Batches that are kept, but not as readings.
    pub aside: Vec<Aside>,
    /// Checksums to keep of `taken`.
    pub prints: Vec<Print>,
    /// Gaps not known yet.
    pub gaps: Vec<(i64, &'a wire::Gap)>,
    /// How the backlog of its branch changes, and what of it is not here yet.
    pub pace: Option<Pace>,
    pub waiting: u64,
    /// All but its points.
    pub receipt: Receipt,
}

/// A dictionary entry to write.
#[derive(Debug)]
pub struct Entry<'a> {
    pub branch: i64,
    pub fork: u32,
    pub number: u32,
    pub point: &'a Point,
}

/// A batch to store.
#[derive(Debug)]
pub struct Taken<'a> {
    pub branch: i64,
    pub readings: &'a [Timed],
    pub boot_counter: u64,
    pub clock: wire::sent_batch::Clock,
    pub correction_us: i64,
}

/// A batch to keep for a person.
#[derive(Debug)]
pub struct Aside {
    pub branch: i64,
    pub sequence: u64,
    pub checksum: u32,
    pub bytes: Bytes,
    pub why: String,
    /// Readings that the books count as aside with it.
    pub readings: u32,
    pub correction_us: i64,
}

/// What a later batch of the same number is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Print {
    pub branch: i64,
    pub sequence: i64,
    pub checksum: u32,
    pub readings: u32,
}

impl<'a> Plan<'a> {
    /// Decides about `delivery`, which belongs to the branch `seat` of the family, and moves the
    /// family on as if that were done.
    pub fn new(family: &mut Family, seat: Option<usize>, delivery: &'a Delivery) -> Self {
        let mut plan = Self {
            delivery,
            branch: seat.map(|at| family.branches[at].key),
            entries: Vec::new(),
            taken: Vec::new(),
            used: BTreeSet::new(),
            named: BTreeSet::new(),
            aside: Vec::new(),
            prints: Vec::new(),
            gaps: Vec::new(),
            pace: None,
            waiting: 0,
            receipt: Receipt { greet: seat.is_none(), ..Receipt::default() },
        };
        let Some(at) = seat else { return plan };
        if let Some(report) = &delivery.report {
            family.report(at, report, delivery.received);
        }
        plan.learn(family, at);
        let missing = |batch: &Arrived| {
            let home = &family.branches[family.home(at, batch)];
            matches!(batch.content, Content::Readings(_))
                && batch.dictionary_revision.0 > family.revision(at)
                && !home.committed.contains(batch.sequence.0)
        };
        plan.receipt.dictionary_missing = delivery.batches.iter().any(missing);
        if !plan.receipt.dictionary_missing {
            delivery.batches.iter().for_each(|batch| plan.take(family, at, batch));
        }
        family.seen(at, delivery.received);
        let ledger = &family.branches[at].ledger;
        (plan.pace, plan.waiting) = (ledger.pace, ledger.held());
        plan.receipt.fork = family.branches[at].fork;
        let horizon = family.horizon(delivery);
        plan.receipt.dictionary_revision = family.revision(at).min(horizon.revision);
        plan.receipt.gaps_known = family.gaps_known(at).min(horizon.gaps);
        plan.receipt.committed = delivery.greeting.as_ref().map(|_| family.told(at, horizon.first));
        plan
    }

    /// Dictionary and gaps.
    fn learn(&mut self, family: &mut Family, at: usize) {
        for (number, point) in &self.delivery.dictionary {
            // What lies beyond a hole is sent again: the answer says from where.
            if number.0.checked_sub(1) == Some(family.revision(at)) && number.0 < i32::MAX as u32 {
                let home = family.entry_home(at, number.0);
                let branch = &mut family.branches[home];
                (branch.revision, branch.touched) = (number.0, true);
                let (branch, fork) = (branch.key, branch.fork);
                self.entries.push(Entry { branch, fork, number: number.0, point });
            }
        }
        let known = family.gaps_known(at);
        // The first request of a connection was made with what another server said, or this one before
        // its database was put back: what lies between is sent again after the answer. Later requests
        // may leave a hole: a gateway keeps its newest records only.
        let lowest = self.delivery.gaps.iter().map(|gap| gap.number).min();
        if self.delivery.greeting.is_some() && lowest.is_some_and(|lowest| lowest - known.min(lowest) > 1) {
            return;
        }
        for gap in self.delivery.gaps.iter().filter(|gap| gap.number > known) {
            let home = family.gap_home(at, gap.number);
            let is_entry = (1..=family.revision(home)).contains(&gap.point);
            let branch = &mut family.branches[home];
            branch.gaps_known = branch.gaps_known.max(gap.number.min(i64::MAX as u64));
            branch.touched = true;
            self.gaps.push((branch.key, gap));
            if is_entry {
                self.named.insert((branch.key, gap.point));
            }
        }
    }

    fn take(&mut self, family: &mut Family, at: usize, batch: &'a Arrived) {
        let Sequence(sequence) = batch.sequence;
        let home = family.home(at, batch);
        // Not a number that a buffer gives, nor one that every database can hold in a range.
        // It is kept once, and answered as set aside each time it comes.
        let Some(countable) = countable(sequence) else {
            let (bytes, before) = batch.content.bytes_aside();
            let why = before.map_or_else(|| format!("{sequence} is not a sequence number"), Into::into);
            self.set_aside(family, home, batch, bytes, why);
            return;
        };
        let branch = &mut family.branches[home];
        if !branch.committed.insert(sequence..=sequence) {
            if batch.thinned || !branch.differs(sequence, batch.checksum) {
                self.receipt.verdicts.push((batch.sequence, Verdict::Duplicate));
                return;
            }
            let (bytes, _) = batch.content.bytes_aside();
            let why = format!("another batch {sequence} is stored already, with different content");
            if self.set_aside(family, home, batch, bytes, why) {
                let event = Event::Differs { branch: home, sequence };
                family.events.push((event, self.delivery.received));
            }
            return;
        }
        if exactly_once() {
            branch.fresh.push(countable);
        }
        match &batch.content {
            Content::Readings(readings) => {
                let revision = family.revision(home);
                // Numbers come in runs: few look-ups.
                let mut numbers: Vec<u32> = readings.iter().map(|reading| reading.point.0).collect();
                numbers.dedup();
                if let Some(stranger) = numbers.iter().find(|&&n| n == 0 || n > revision) {
                    let why = format!(
                        "it has a reading of point {stranger}, and the dictionary ends at {revision}"
                    );
                    let (bytes, _) = batch.content.bytes_aside();
                    self.set_aside(family, home, batch, bytes, why);
                    return;
                }
                self.store(family, home, batch, readings, numbers);
            }
            Content::SetAside { bytes, why } => {
                self.set_aside(family, home, batch, bytes.clone(), why.clone());
            }
        }
    }

    fn store(
        &mut self,
        family: &mut Family,
        home: usize,
        batch: &'a Arrived,
        readings: &'a [Timed],
        numbers: Vec<u32>,
    ) {
        let Sequence(sequence) = batch.sequence;
        family.book(home, batch, readings.len() as u64, true);
        let branch = &mut family.branches[home];
        let key = branch.key;
        branch.has_come(sequence);
        if exactly_once() && sequence.saturating_add(PRINTS) > branch.newest {
            branch.prints.insert(sequence, batch.checksum);
            let readings = u32::try_from(readings.len()).unwrap_or(u32::MAX);
            let (sequence, checksum) = (sequence as i64, batch.checksum);
            self.prints.push(Print { branch: key, sequence, checksum, readings });
        }
        self.used.extend(numbers.into_iter().map(|number| (key, number)));
        self.taken.push(Taken {
            branch: key,
            readings,
            boot_counter: batch.boot_counter,
            clock: batch.clock,
            correction_us: batch.correction_us,
        });
        self.receipt.verdicts.push((batch.sequence, Verdict::Committed));
    }

    /// True if it is not kept aside already.
    fn set_aside(
        &mut self,
        family: &mut Family,
        home: usize,
        batch: &Arrived,
        bytes: Bytes,
        why: String,
    ) -> bool {
        let (Sequence(sequence), checksum) = (batch.sequence, batch.checksum);
        self.receipt.verdicts.push((batch.sequence, Verdict::SetAside));
        let branch = &mut family.branches[home];
        let is_new = branch.aside.insert((sequence, checksum));
        if is_new {
            let branch = branch.key;
            let (readings, correction_us) = (batch.count, batch.correction_us);
            self.aside.push(Aside { branch, sequence, checksum, bytes, why, readings, correction_us });
            family.book(home, batch, batch.count.into(), false);
        }
        is_new
    }

    /// Readings this plan stores.
    pub fn stored(&self) -> usize {
        self.taken.iter().map(|taken| taken.readings.len()).sum()
    }
}

/// When what these plans touch became due: at their newest delivery.
pub fn noted(plans: &[Plan<'_>]) -> Micros {
    plans.iter().map(|plan| plan.delivery.received).max().unwrap_or_default()
}

impl Branch {
    /// Is a known sequence known with another content? A checksum of 0 says nothing.
    fn differs(&self, sequence: u64, checksum: u32) -> bool {
        let is_other = |kept: u32| kept != 0 && kept != checksum;
        let mut aside =
            self.aside.range((sequence, 0)..=(sequence, u32::MAX)).map(|(_, kept)| *kept).peekable();
        match self.prints.get(&sequence) {
            _ if checksum == 0 => false,
            Some(stored) => is_other(*stored),
            // It was set aside itself, or is so old that nobody can tell.
            None => aside.peek().is_some() && aside.all(is_other),
        }
    }

    /// Below which sequence the checksums are no longer kept, if it is time to clear them away.
    pub fn prune_below(&self) -> Option<i64> {
        let passed = self.newest / PRUNED_EVERY > self.newest_before / PRUNED_EVERY;
        (passed && exactly_once()).then(|| (self.newest + 1).saturating_sub(PRINTS) as i64)
    }
}

/// The bytes to keep of a batch that cannot be stored.
#[cfg(test)]
pub fn bytes_aside(content: &Content) -> Bytes {
    content.bytes_aside().0
}

impl Content {
    /// The bytes to keep where this cannot be stored as readings, and a reason if it has one.
    fn bytes_aside(&self) -> (Bytes, Option<&str>) {
        match self {
            Self::Readings(readings) => (pieces::lines(readings), None),
            Self::SetAside { bytes, why } => (bytes.clone(), Some(why)),
        }
    }
}
