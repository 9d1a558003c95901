//! Whose history a delivery continues. A buffer tells by its openings (wire.proto, `Greeting`) what it
//! follows; where two buffers follow the same opening, the folder was copied or an older state of it
//! restored, and from there on each has a branch of its own. Pure.
//!
//! - A branch begins at a [`Border`]: what lies below it is history that both have in common, and is
//!   booked in the branch it left. So a batch from before the copy is stored once, whoever brings it.
//! - An opening in a later boot leaves numbers out, in case the disk lost batches at a power cut. Its
//!   original, if there is one, goes on in the midst of them: what it delivers there, from the moment the
//!   server knows of the copy, is its own. What it had delivered before counts as common: that may be
//!   what the disk lost.
//! - A copy is found by its first word: by what it follows, by where it begins, or by what the buffer
//!   it was copied from does after it.
//! - Who continues nothing known, continues the main branch: a server restored from a backup knows
//!   less than the gateways do.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use forebay_protocols::sync::batch::Epoch;
use forebay_protocols::sync::ranges::Ranges;
use forebay_protocols::sync::wire;

use super::super::{AgentKey, Arrived, Content, Delivery, Micros, OpeningId};
use super::ledger::{Event, Former, Ledger};

/// Branches of one epoch. A gateway whose disk goes back to the same state at every start makes one
/// each time; beyond this they are no longer told apart by their openings.
const MOST_BRANCHES: usize = 1_000;
/// Ranges of committed sequences told in answer to a greeting.
pub const MOST_RANGES: usize = 64;

/// Where a history of its own begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Border {
    /// The first sequence beyond it.
    pub first: u64,
    /// Dictionary entries up to this one are common.
    pub revision: u32,
    /// Gap records up to this one are common.
    pub gaps: u64,
}

/// An opening the server has heard of.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// The branch its batches belong to, as an index of [`Family::branches`].
    pub branch: usize,
    /// Where the opening left it that followed it in the same branch.
    pub until: Option<Border>,
}

/// An opening to be written down.
#[derive(Clone, Copy, Debug)]
pub struct Heard {
    pub id: OpeningId,
    pub parent: Option<OpeningId>,
    pub begins: Border,
    pub blind: bool,
}

/// The main history of an epoch, or a fork of it. Read under a lock; moved on by each plan.
#[derive(Debug, Default)]
pub struct Branch {
    /// The store's number of it; 0 until the store has made it.
    pub key: i64,
    /// 0, or the number of the fork among the agent's.
    pub fork: u32,
    /// The branch it left, as an index of [`Family::branches`].
    pub parent: Option<usize>,
    /// Where it left it.
    pub border: Border,
    /// Highest dictionary number of its own without a hole.
    pub revision: u32,
    /// Highest gap number of its own.
    pub gaps_known: u64,
    /// Highest sequence that came with readings, and was not refused.
    pub newest: u64,
    /// Committed sequences: all, or at least those of the batches in hand and the highest ranges.
    pub committed: Ranges,
    /// The first sequence beyond all committed ones, where the store reads it beforehand.
    pub end: u64,
    /// Were lower ranges left in the database when the highest were read?
    pub more_ranges: bool,
    /// Checksums of committed batches, as far as they are kept.
    pub prints: HashMap<u64, u32>,
    /// Batches set aside, by sequence and checksum.
    pub aside: BTreeSet<(u64, u32)>,
    pub ledger: Ledger,
    /// What this transaction commits.
    pub fresh: Vec<i64>,
    /// Did this transaction change it?
    pub touched: bool,
    /// `newest` when it was read.
    pub newest_before: u64,
}

/// All branches of one epoch of one agent.
#[derive(Debug)]
pub struct Family {
    pub agent: AgentKey,
    pub epoch: Epoch,
    /// The main one first, and each after the one it left.
    pub branches: Vec<Branch>,
    /// Those of the openings that the deliveries name and the store knows.
    pub openings: HashMap<OpeningId, Known>,
    /// New ones; their branch and end are in `openings`.
    pub heard: Vec<Heard>,
    /// Of the ones the store has: those whose branch or end has changed.
    pub altered: BTreeSet<OpeningId>,
    /// What this agent wrote from before, if the epoch is new.
    pub former: Option<Former>,
    pub events: Vec<(Event, Micros)>,
}

impl Border {
    fn of(opening: &wire::Opening) -> Self {
        Self {
            // Within what every database can hold.
            first: opening.first.min(i64::MAX as u64),
            revision: opening.dictionary_revision.min(i32::MAX as u32),
            gaps: opening.gaps.min(i64::MAX as u64),
        }
    }

    /// Where the history of `opening` leaves the one it follows. What it leaves out is not common: a copy
    /// does not know what its original appends there.
    fn leaving(opening: &wire::Opening) -> Self {
        let begins = Self::of(opening);
        let told = Some(opening.known_below).filter(|known_below| *known_below > 0);
        Self { first: told.map_or(begins.first, |known_below| known_below.min(begins.first)), ..begins }
    }

    /// The same border, with all up to the sequence `newest` on this side of it.
    fn behind(self, newest: u64) -> Self {
        Self { first: self.first.max(newest.saturating_add(1)).min(i64::MAX as u64), ..self }
    }

    fn is_beyond(&self, other: &Self) -> bool {
        self.first > other.first || self.revision > other.revision || self.gaps > other.gaps
    }

    /// Does the delivery hold anything that lies beyond?
    fn is_crossed_by(&self, delivery: &Delivery) -> bool {
        delivery.batches.iter().any(|batch| batch.sequence.0 >= self.first)
            || delivery.dictionary.iter().any(|(number, _)| number.0 > self.revision)
            || delivery.gaps.iter().any(|gap| gap.number > self.gaps)
    }
}

impl Branch {
    /// A batch of this number is here, or will be when the transaction is done.
    pub fn has_come(&mut self, sequence: u64) {
        self.newest = self.newest.max(sequence);
    }
}

impl Delivery {
    /// The openings it names.
    pub fn openings(&self) -> BTreeSet<OpeningId> {
        let greeted = self.greeting.iter().flatten().filter_map(id_of);
        greeted.chain(self.opening).collect()
    }
}

impl Family {
    pub fn new(agent: AgentKey, epoch: Epoch) -> Self {
        Self {
            agent,
            epoch,
            branches: Vec::new(),
            openings: HashMap::new(),
            heard: Vec::new(),
            altered: BTreeSet::new(),
            former: None,
            events: Vec::new(),
        }
    }

    /// The branch that `delivery` belongs to, made if need be; nothing if its opening is unknown.
    pub fn settle(&mut self, delivery: &Delivery) -> Option<usize> {
        let at = match delivery.opening {
            // A buffer that tells nothing of itself.
            None => self.main(delivery.received),
            Some(present) => {
                if let Some(greeting) = &delivery.greeting {
                    self.greet(greeting, delivery.received);
                }
                let Known { branch, until } = *self.openings.get(&present)?;
                match until.filter(|border| border.is_crossed_by(delivery)) {
                    Some(border) => self.part(present, branch, border, delivery.received),
                    None => branch,
                }
            }
        };
        let revision = self.revision_with(at, delivery);
        // What comes before its points do is refused, and is not here yet.
        if delivery.batches.iter().all(|batch| batch.dictionary_revision.0 <= revision) {
            for batch in &delivery.batches {
                // What did not decode may state any number.
                if matches!(batch.content, Content::Readings(_)) && countable(batch.sequence.0).is_some() {
                    let home = self.home(at, batch);
                    self.branches[home].has_come(batch.sequence.0);
                }
            }
        }
        Some(at)
    }

    /// Takes down what a buffer says it follows.
    fn greet(&mut self, greeting: &[wire::Opening], now: Micros) {
        let told: Vec<(OpeningId, &wire::Opening)> =
            greeting.iter().filter_map(|opening| Some((id_of(opening)?, opening))).collect();
        let last_known = told.iter().rposition(|(id, _)| self.openings.contains_key(id));
        let newer = &told[last_known.map_or(0, |at| at + 1)..];
        let Some((_, first)) = newer.first() else { return };
        let followed = last_known.and_then(|at| told.get(at)).map(|(id, _)| *id);
        let known = followed.and_then(|id| Some((id, self.openings.get(&id).copied()?)));
        let (mut branch, mut until) =
            known.map_or_else(|| (self.main(now), None), |(_, Known { branch, until })| (branch, until));
        let border = Border::leaving(first);
        // It was copied after the opening it follows had gone on beyond the one that is known to
        // follow it: there are three of them, and this one has more in common with the third.
        if let Some(((id, _), end)) =
            known.zip(until).filter(|(_, end)| !first.blind && border.is_beyond(end))
        {
            (branch, until) = (self.part(id, branch, end, now), None);
        }
        // Its own numbers, of batches or of what explains them, are given already.
        let taken = until.is_some() || self.has_beyond(branch, &Border::of(first));
        let at = if taken && !first.blind && self.branches.len() < MOST_BRANCHES {
            self.fork(branch, border, now)
        } else {
            if let Some(id) = followed.filter(|_| !first.blind && until.is_none()) {
                // What is here beyond it may have been lost by the disk, at a power cut: no reason to
                // part. What comes from now on under the opening that was left is another buffer's.
                let until = Some(border.behind(self.branches[branch].newest));
                self.openings.insert(id, Known { branch, until });
                self.altered.insert(id);
            }
            branch
        };
        let newest = self.branches[at].newest;
        let mut parent = followed;
        for (n, (id, opening)) in newer.iter().enumerate() {
            let next = newer.get(n + 1).filter(|(_, next)| !next.blind);
            let until = next.map(|(_, next)| Border::leaving(next).behind(newest));
            // An id that comes twice in one greeting counts where it stood first.
            if self.openings.contains_key(id) {
                continue;
            }
            self.openings.insert(*id, Known { branch: at, until });
            let begins = Border::of(opening);
            self.heard.push(Heard { id: *id, parent, begins, blind: opening.blind });
            parent = Some(*id);
        }
    }

    /// Has branch `at` anything under a number that a history with this border has yet to give?
    fn has_beyond(&self, at: usize, border: &Border) -> bool {
        let newest = self.branches[at].newest;
        (newest > 0 && border.first <= newest)
            || border.revision < self.revision(at)
            || border.gaps < self.gaps_known(at)
    }

    /// The main branch, made if the epoch is new.
    fn main(&mut self, now: Micros) -> usize {
        if self.branches.is_empty() {
            let ledger = Ledger { drained: now, ..Ledger::default() };
            self.branches.push(Branch { ledger, ..Branch::default() });
            if let Some(former) = self.former.take().filter(|former| former.held > 0) {
                self.events.push((Event::Wiped(former), now));
            }
        }
        0
    }

    /// Another buffer follows the opening `id` since `border`, and yet its own goes on: whoever followed
    /// it is a copy, or it is. The other was first to say so and keeps the branch.
    fn part(&mut self, id: OpeningId, from: usize, border: Border, now: Micros) -> usize {
        if self.branches.len() >= MOST_BRANCHES {
            return from;
        }
        let at = self.fork(from, border, now);
        self.openings.insert(id, Known { branch: at, until: None });
        self.altered.insert(id);
        at
    }

    fn fork(&mut self, from: usize, border: Border, now: Micros) -> usize {
        let newest = border.first.saturating_sub(1);
        self.branches.push(Branch {
            parent: Some(from),
            border,
            revision: border.revision,
            gaps_known: border.gaps,
            newest,
            newest_before: newest,
            ledger: Ledger { drained: now, ..Ledger::default() },
            ..Branch::default()
        });
        let at = self.branches.len() - 1;
        self.events.push((Event::Forked(at), now));
        at
    }

    /// Walks from `at` to the branch that a thing belongs to, which is common below some borders.
    fn walk(&self, mut at: usize, is_common: impl Fn(&Border) -> bool) -> usize {
        while let Some(parent) = self.branches[at].parent.filter(|_| is_common(&self.branches[at].border)) {
            at = parent;
        }
        at
    }

    /// Where a batch of branch `at` is booked. One with a point that the border leaves out is not common:
    /// a buffer knows the points of all it holds.
    pub fn home(&self, at: usize, batch: &Arrived) -> usize {
        let (sequence, revision) = (batch.sequence.0, batch.dictionary_revision.0);
        self.walk(at, |border| sequence < border.first && revision <= border.revision)
    }

    /// Whose dictionary a number of branch `at` stands in.
    pub fn entry_home(&self, at: usize, number: u32) -> usize {
        self.walk(at, |border| number <= border.revision)
    }

    /// Whose gap record a number of branch `at` is.
    pub fn gap_home(&self, at: usize, number: u64) -> usize {
        self.walk(at, |border| number <= border.gaps)
    }

    /// Highest dictionary number known to branch `at` without a hole.
    pub fn revision(&self, at: usize) -> u32 {
        let branch = &self.branches[at];
        // While the common part has a hole, nothing beyond it counts.
        let common = branch.parent.map(|parent| self.revision(parent));
        common.filter(|common| *common < branch.border.revision).unwrap_or(branch.revision)
    }

    /// The same once `delivery` has been taken in, or less where it fills a hole of the common part.
    fn revision_with(&self, at: usize, delivery: &Delivery) -> u32 {
        let next =
            |known: u32, number: u32| if known.checked_add(1) == Some(number) { number } else { known };
        delivery.dictionary.iter().fold(self.revision(at), |known, (number, _)| next(known, number.0))
    }

    /// Highest gap number known to branch `at`.
    pub fn gaps_known(&self, at: usize) -> u64 {
        let branch = &self.branches[at];
        let common = branch.parent.map(|parent| self.gaps_known(parent));
        common.filter(|common| *common < branch.border.gaps).unwrap_or(branch.gaps_known)
    }

    /// What of its branch a delivery is told of: where another opening followed its own, what came
    /// since is that one's. This buffer must not take it for what it delivered itself.
    pub fn horizon(&self, delivery: &Delivery) -> Border {
        let until = delivery.opening.and_then(|present| self.openings.get(&present)?.until);
        until.unwrap_or(Border { first: u64::MAX, revision: u32::MAX, gaps: u64::MAX })
    }

    /// Branch `at` and those it descends from, each with the sequence below which it counts.
    fn line(&self, at: usize, mut below: u64) -> Vec<(usize, u64)> {
        let (mut line, mut at) = (Vec::new(), Some(at));
        while let Some(here) = at {
            line.push((here, below));
            below = below.min(self.branches[here].border.first);
            at = self.branches[here].parent;
        }
        line
    }

    /// The highest committed ranges of branch `at` below a sequence, history in common with others
    /// included, and whether that is all of them.
    pub fn told(&self, at: usize, below: u64) -> (Ranges, bool) {
        let line = self.line(at, below);
        let mut all = Ranges::default();
        for &(here, below) in &line {
            let ranges = self.branches[here].committed.iter().filter(|(first, _)| *first < below);
            ranges.for_each(|(first, last)| {
                all.insert(first..=last.min(below - 1));
            });
        }
        let left_out = all.iter().count().saturating_sub(MOST_RANGES);
        let is_whole = left_out == 0 && !line.iter().any(|(here, _)| self.branches[*here].more_ranges);
        let mut told = Ranges::default();
        all.iter().skip(left_out).for_each(|(first, last)| {
            told.insert(first..=last);
        });
        (told, is_whole)
    }

    /// The branch with this key.
    pub fn branch_mut(&mut self, key: i64) -> Option<&mut Branch> {
        self.branches.iter_mut().find(|branch| branch.key == key)
    }
}

/// The families of a transaction.
#[derive(Debug, Default)]
pub struct Families(BTreeMap<(AgentKey, Epoch), Family>);

impl Families {
    /// Of all deliveries, without anything known of them yet.
    pub fn of(deliveries: &[&Delivery]) -> Self {
        let key = |delivery: &&Delivery| (delivery.agent, delivery.epoch);
        let family = |(agent, epoch)| ((agent, epoch), Family::new(agent, epoch));
        Self(deliveries.iter().map(key).map(family).collect())
    }

    pub fn get_mut(&mut self, agent: AgentKey, epoch: Epoch) -> Option<&mut Family> {
        self.0.get_mut(&(agent, epoch))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Family> {
        self.0.values()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Family> {
        self.0.values_mut()
    }

    /// All branches.
    pub fn branches(&self) -> impl Iterator<Item = &Branch> {
        self.iter().flat_map(|family| &family.branches)
    }

    pub fn branch_mut(&mut self, key: i64) -> Option<&mut Branch> {
        self.iter_mut().find_map(|family| family.branch_mut(key))
    }

    /// [`Family::settle`] for each delivery, in order.
    pub fn settle(&mut self, deliveries: &[&Delivery]) -> Vec<Option<usize>> {
        let settle = |delivery: &&Delivery| self.get_mut(delivery.agent, delivery.epoch)?.settle(delivery);
        deliveries.iter().map(settle).collect()
    }

    /// Which sequences the plans will ask about: by branch, as the database counts them.
    pub fn asked(&self, deliveries: &[&Delivery], seats: &[Option<usize>]) -> Vec<(i64, i64)> {
        let mut asked = Vec::new();
        for (delivery, seat) in deliveries.iter().zip(seats) {
            let family = self.0.get(&(delivery.agent, delivery.epoch));
            let Some((family, at)) = family.zip(*seat) else { continue };
            asked.extend(delivery.batches.iter().map(|batch| {
                let home = family.home(at, batch);
                (family.branches[home].key, batch.sequence.0 as i64)
            }));
        }
        asked
    }

    /// Whose committed ranges are to be told to those who greet, and below which sequence.
    pub fn greeted(&self, deliveries: &[&Delivery], seats: &[Option<usize>]) -> Vec<(i64, u64)> {
        let mut greeted = Vec::new();
        for (delivery, seat) in deliveries.iter().zip(seats) {
            let family = self.0.get(&(delivery.agent, delivery.epoch));
            let Some((family, at)) = family.zip(seat.filter(|_| delivery.greeting.is_some())) else {
                continue;
            };
            let line = family.line(at, family.horizon(delivery).first).into_iter();
            greeted.extend(line.map(|(here, below)| (family.branches[here].key, below)));
        }
        greeted
    }

    /// For a dictionary number that branch `key` has not used yet: the branch whose dictionary it
    /// stands in, if that is another, and the fork number of the one that asks.
    pub fn inherited(&self, key: i64, number: u32) -> Option<(i64, u32)> {
        self.iter().find_map(|family| {
            let at = family.branches.iter().position(|branch| branch.key == key)?;
            let home = family.entry_home(at, number);
            (home != at).then(|| (family.branches[home].key, family.branches[at].fork))
        })
    }
}

fn id_of(opening: &wire::Opening) -> Option<OpeningId> {
    opening.id[..].try_into().ok()
}

/// A number that a buffer gives a batch, and that every database can hold in a range.
pub fn countable(sequence: u64) -> Option<i64> {
    i64::try_from(sequence).ok().filter(|&sequence| sequence > 0 && sequence < i64::MAX)
}
