//! Recovery: opening the store, whatever lies there.
//!
//! The segments rule. The logbook says which segments there should be and what of them is
//! forgotten; a segment that was not sealed is read from end to end; what is missing is counted
//! and becomes a gap. After a clean stop nothing but the logbook is read. Nothing must be written for this to succeed: on a disk that refuses, the
//! store opens, reads, and writes its news when it can.
//!
//! `segments` compares what the logbook knows with what lies there, `reconcile` asks the catalogue what
//! it alone remembers, and what stands here draws the conclusions.

mod reconcile;
mod segments;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::ErrorKind;
use std::sync::Arc;

use forebay_protocols::sync::batch::Epoch;
use forebay_protocols::sync::wire::gap::Reason;

use self::reconcile::catalogue_for;
use super::catalogue::Catalogue;
use super::charts::Charts;
use super::classes::PointRules;
use super::dictionary::Dictionary;
use super::disk::{DAMAGED, Disk, persistently};
use super::evidence::{copy_part, rename_aside};
use super::frame::FileFacts;
use super::gaps::Gaps;
use super::logbook::{Boot, Contents, Entry, LOGBOOK, Life, Logbook};
use super::opening::random;
use super::rewrite::THINNING;
use super::room::BALLAST;
use super::segments::{Tally, number_of};
use super::store::{Around, Rules, Store};
use super::{BufferError, LastRun, Opening};
use crate::clock::machine::Machine;

/// How far the sequences jump when the logbook is gone and nobody knows what was given away.
const BLIND_JUMP: u64 = 1 << 16;

/// What was found wrong, and how sure the store may be of the rest.
#[derive(Default)]
struct Findings {
    repairs: Vec<String>,
    /// The newest boot seen in segments that were read.
    boot_counter: u64,
    /// Is anything missing that was on the disk before?
    losses: bool,
    /// Segments without a file.
    missing: Vec<u64>,
}

impl Findings {
    /// Of this file that much is lost.
    fn lose(&mut self, name: &str, Tally { batches, readings, .. }: Tally) {
        self.losses = true;
        self.repairs.push(format!("{name}: {batches} batches with {readings} readings are lost"));
    }
}

impl Store {
    /// Opens the store. The only error is that another process has it open.
    pub fn open(
        disk: Arc<dyn Disk>,
        rules: Rules,
        boot_id: [u8; 16],
    ) -> Result<(Self, Opening), BufferError> {
        Self::open_on(disk, rules, Machine::in_boot(boot_id))
    }

    /// As [`Store::open`], on a machine of one's own.
    pub fn open_on(
        disk: Arc<dyn Disk>,
        rules: Rules,
        machine: Machine,
    ) -> Result<(Self, Opening), BufferError> {
        let boot_id = machine.boot_id();
        let mut findings = Findings::default();
        let mut fault = None;
        match disk.prepare() {
            Ok(words) => findings.repairs.extend(words),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return Err(BufferError::Disk("another process has this buffer open; end it first".into()));
            }
            Err(error) => fault = Some(error.to_string()),
        }
        let files: BTreeMap<String, u64> =
            persistently(|| disk.files()).unwrap_or_default().into_iter().collect();
        if files.contains_key(THINNING) {
            // Half of a segment that is still there whole. If it stays, the next one replaces it.
            drop(disk.remove(THINNING));
        }
        let (mut contents, mut logbook) = read_logbook(disk.as_ref(), &files, &mut findings);
        let mut catalogue = catalogue_for(disk.as_ref(), &rules, &mut findings);
        let of_catalogue = catalogue.epoch().ok().flatten();
        let mut blind = false;
        let known_epoch = contents
            .epoch
            .or_else(|| usual_epoch(disk.as_ref(), &files))
            .or_else(|| of_catalogue.filter(|_| files.contains_key(LOGBOOK)));
        let epoch = known_epoch.unwrap_or_else(random_epoch);
        let kept = of_catalogue == Some(epoch);
        let mut whole = contents.is_whole();
        if known_epoch.is_none() {
            set_store_aside(disk.as_ref(), &files, &mut findings);
            (contents, logbook, whole) = (Contents::default(), Logbook::fresh(0), true);
        } else if contents.torn || !whole {
            let newer = kept && contents.complete_from(&catalogue);
            blind = !whole && !newer;
        }
        if !kept && catalogue.begin(epoch).is_err() {
            catalogue = Catalogue::in_memory();
        }
        let highest =
            catalogue.behind(0..=u64::MAX, 1).unwrap_or_default().first().map_or(0, |(last, _)| *last);

        let mut store = Self {
            points: PointRules::new(&rules),
            rules,
            epoch,
            boot: Boot::default(),
            boots: contents.boots,
            life: None,
            lineage: contents.lineage,
            opening_written: false,
            durable: (0, 0),
            acknowledged: contents.acknowledged,
            logbook,
            catalogue,
            charts: Charts::default(),
            dictionary: Dictionary::default(),
            gaps: Gaps::new(contents.gaps, contents.books.next_gap),
            segments: BTreeMap::new(),
            growing: None,
            writer: None,
            reader: None,
            retired: Vec::new(),
            next_segment: contents.books.next_segment.max(1),
            next_sequence: 0,
            reserved: contents.books.reserved,
            appended: contents.books.appended,
            dropped: contents.books.dropped,
            dropped_full: contents.books.dropped_full,
            dropped_thinned: contents.books.dropped_thinned,
            folder_unsynced: false,
            unreadable: HashMap::new(),
            fault,
            around: Around::default(),
            disk,
            machine,
        };
        let gaps_before = store.gaps.next() - 1;
        if store.dropped_full + store.dropped_thinned == 0 {
            // Before reasons were kept, the gap records had them.
            let full = store.gaps.iter().filter(|gap| gap.reason() == Reason::BufferFull);
            store.dropped_full = full.map(|gap| gap.count).sum::<u64>().min(store.dropped);
        }
        store.around.damaged =
            files.iter().filter(|(name, _)| name.starts_with(DAMAGED)).map(|(_, length)| length).sum();
        store.around.ballast = files.get(BALLAST).copied().unwrap_or(0);

        let grew = contents.segments.iter().next_back().filter(|(_, (_, sealed))| !sealed).map(|(n, _)| *n);
        let quiet = store.take_in_segments(contents.segments, &files, whole, &mut findings);
        let clean = quiet && contents.closed;
        let revision = store.segments.values().map(|segment| segment.revision).max().unwrap_or(0);
        let (dictionary, lost) = Dictionary::new(contents.points, revision);
        dictionary.after(0).for_each(|(_, point)| store.points.enter(point));
        store.dictionary = dictionary;
        if !lost.is_empty() {
            findings
                .repairs
                .push(format!("the descriptions of points {lost:?} are lost; they go as `lost/point-N`"));
            store.logbook = Logbook::fresh(store.logbook.length());
        }
        if !whole {
            // What the damaged logbook does not know to be forgotten is backlog again.
            for segment in store.segments.values() {
                let alive = segment.span().map(|span| segment.forgotten.complement(span));
                store.acknowledged.remove(&alive.unwrap_or_default());
            }
        }
        if !kept || findings.losses {
            store.copy_to_catalogue();
        }
        store.reconcile(&mut findings);
        store.look_for_more(&mut findings);
        if let Some(number) = grew {
            store.miss_noted(number, contents.books.appended, &mut findings);
        }

        store.life = store.look_back(contents.life);
        let last_run = store.life.map(LastRun::from);
        let same_boot = whole && contents.boot.as_ref().is_some_and(|boot| boot.id == boot_id);
        let before = contents.boot.map_or(0, |boot| boot.counter).max(findings.boot_counter);
        let counter = if same_boot { before } else { before + 1 };
        store.boot = Boot { counter, id: boot_id.to_vec() };
        let first = store.boots.open(counter, &boot_id, store.machine.shown().offset_us);
        store.logbook.push(first);
        let wanted: BTreeSet<u64> = store.segments.values().map(|segment| segment.boot).collect();
        store.boots.keep(|counter| wanted.contains(&counter));
        let seen = store.segments.values().map(|segment| segment.last).max().unwrap_or(0).max(highest);
        let seen = seen.max(contents.books.next_sequence.saturating_sub(1));
        store.next_sequence = 1 + if !whole {
            seen.max(store.reserved) + BLIND_JUMP
        } else if clean || (same_boot && !findings.losses) {
            // Nobody cut the power, so nothing newer than what is here can have been lost.
            seen
        } else {
            seen.max(store.reserved)
        };
        store.reserved = store.reserved.max(store.next_sequence - 1);
        let heard = store.acknowledged.ranges().iter().last().map_or(0, |(_, last)| last);
        let known_below = store.next_sequence.min(1 + seen.max(heard));
        let backlog: u64 = store.segments.values().map(|segment| segment.live().readings).sum();
        store.appended = store.appended.max(store.dropped + backlog);

        store.begin_opening(known_below, gaps_before, blind);
        store.settle(findings.missing);
        let opening = Opening {
            epoch,
            boot_counter: counter,
            repairs: findings.repairs,
            counts: store.status().counts,
            boots: store.boots(),
            last_run,
        };
        Ok((store, opening))
    }

    /// Writes what the opening brought to light, if the disk lets it.
    fn settle(&mut self, missing: Vec<u64>) {
        missing.into_iter().for_each(|number| self.retire(number));
        let numbers: Vec<u64> = self.segments.keys().copied().collect();
        numbers.into_iter().for_each(|number| self.retire_if_done(number));
        let life = self.life.map(|life| Entry::Life(Life { clean: false, ..life }));
        let boot = Entry::Boot(self.boot.clone());
        self.logbook.push(life.into_iter().chain([boot, Entry::Books(self.books())]));
        if let Err(error) = self.write_logbook() {
            drop(self.refused(&error));
        }
        self.copy_openings();
        self.look_around();
    }
}

/// The logbook, or what stands for it, and where to go on writing.
fn read_logbook(
    disk: &dyn Disk,
    files: &BTreeMap<String, u64>,
    findings: &mut Findings,
) -> (Contents, Logbook) {
    let segments = files.keys().any(|name| number_of(name).is_some());
    match persistently(|| Contents::load(disk)) {
        Ok(Some((contents, end))) => {
            if contents.is_whole() && !contents.torn {
                return (contents, Logbook::at_end(end));
            }
            let length = files.get(LOGBOOK).copied().unwrap_or(end);
            if contents.damaged_bytes > 0 || contents.epoch.is_none() {
                findings.losses = true;
                findings.repairs.push(format!(
                    "{} bytes of the logbook are damaged; written anew, the old one is in {DAMAGED}",
                    contents.damaged_bytes
                ));
                // The copy is for a person. Without it the store opens as well.
                drop(copy_part(disk, LOGBOOK, 0, length));
            } else {
                findings.losses = true;
                findings.repairs.push("the logbook's torn tail was cut".into());
            }
            (contents, Logbook::fresh(length))
        }
        Ok(None) => {
            if segments {
                findings.losses = true;
                findings.repairs.push("the logbook is gone; written anew from the segments".into());
            }
            (Contents::default(), Logbook::fresh(0))
        }
        Err(error) => {
            findings.losses = true;
            findings
                .repairs
                .push(format!("the logbook cannot be read ({error}); written anew from the segments"));
            drop(rename_aside(disk, LOGBOOK));
            (Contents::default(), Logbook::fresh(0))
        }
    }
}

/// The epoch that most segments tell, of several the newest: one stray file must not cost all others.
fn usual_epoch(disk: &dyn Disk, files: &BTreeMap<String, u64>) -> Option<Epoch> {
    let numbers = files.keys().filter(|name| number_of(name).is_some());
    let facts = numbers.filter_map(|name| FileFacts::read(disk.open(name).ok()?.as_ref()).ok().flatten());
    let mut told: BTreeMap<Epoch, (usize, u64)> = BTreeMap::new();
    for facts in facts.filter(|facts| facts.segment) {
        let (segments, newest) = told.entry(facts.epoch).or_default();
        (*segments, *newest) = (*segments + 1, facts.number.max(*newest));
    }
    told.into_iter().max_by_key(|(_, weight)| *weight).map(|(epoch, _)| epoch)
}

/// Nothing says which epoch this was: all of it is moved to the damaged parts.
fn set_store_aside(disk: &dyn Disk, files: &BTreeMap<String, u64>, findings: &mut Findings) {
    let ours: Vec<_> = files.keys().filter(|name| *name == LOGBOOK || number_of(name).is_some()).collect();
    for name in &ours {
        drop(rename_aside(disk, name));
    }
    if !ours.is_empty() {
        findings.repairs.push(format!(
            "nothing here can be read; {} files moved to {DAMAGED}, and a new epoch starts",
            ours.len()
        ));
    }
}

fn random_epoch() -> Epoch {
    Epoch(random())
}

impl Contents {
    /// What the logbook lost the catalogue may still know. False if it knows no newer opening.
    fn complete_from(&mut self, catalogue: &Catalogue) -> bool {
        for (number, point) in catalogue.points().unwrap_or_default() {
            self.points.entry(number).or_insert(point);
        }
        for (number, gap) in catalogue.gaps().unwrap_or_default() {
            self.gaps.entry(number).or_insert(gap);
        }
        self.acknowledged.insert(&catalogue.acknowledged().unwrap_or_default().set());
        self.lineage.complete_from(catalogue.openings().unwrap_or_default())
    }
}
