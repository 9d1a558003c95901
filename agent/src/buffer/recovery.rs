//! Recovery: opening the store, whatever lies there.
//!
//! The segments rule. The logbook says which segments there should be and what of them is
//! forgotten; a segment that was not sealed is read from end to end; what is missing is counted
//! and becomes a gap; and the catalogue is made to agree. After a clean stop nothing but the
//! logbook is read. Nothing must be written for this to succeed: on a disk that refuses, the
//! store opens, reads, and writes its news when it can.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;

use forebay_protocols::boot_time::wall_micros;
use forebay_protocols::sync::batch::Epoch;
use forebay_protocols::sync::wire::gap::Reason;

use super::catalogue::Catalogue;
use super::dictionary::Dictionary;
use super::disk::{DAMAGED, Disk};
use super::frame::{FileFacts, epoch_tag};
use super::gaps::Gaps;
use super::logbook::{Boot, Contents, Entry, LOGBOOK, Logbook};
use super::ranges::Ranges;
use super::room::BALLAST;
use super::segments::{Segment, Tally, file_name, number_of, survey};
use super::store::{Around, Rules, Store};
use super::{BufferError, Opening};

/// How far the sequences jump when the logbook is gone and nobody knows what was given away.
const BLIND_JUMP: u64 = 1 << 16;
/// Damaged parts above this size are not copied aside.
const LARGEST_EVIDENCE: u64 = 1 << 20;

/// What was found wrong, and how sure the store may be of the rest.
#[derive(Default)]
struct Findings {
    repairs: Vec<String>,
    /// The newest boot seen in segments that were read.
    boot_counter: u64,
    /// Is anything missing that was on the disk before?
    losses: bool,
}

impl Store {
    /// Opens the store. The only error is that another process has it open.
    pub fn open(
        disk: Arc<dyn Disk>,
        rules: Rules,
        boot_id: [u8; 16],
    ) -> Result<(Self, Opening), BufferError> {
        let mut findings = Findings::default();
        let mut fault = None;
        match disk.prepare() {
            Ok(words) => findings.repairs.extend(words),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return Err(BufferError::Disk("another process has this buffer open; end it first".into()));
            }
            Err(error) => fault = Some(error.to_string()),
        }
        let files: BTreeMap<String, u64> = disk.files().unwrap_or_default().into_iter().collect();
        let (mut contents, mut logbook) = read_logbook(disk.as_ref(), &files, &mut findings);
        let mut catalogue = catalogue_for(disk.as_ref(), &rules, &mut findings);
        let of_catalogue = catalogue.epoch().ok().flatten();
        let known_epoch = contents
            .epoch
            .or_else(|| newest_epoch(disk.as_ref(), &files))
            .or_else(|| of_catalogue.filter(|_| files.contains_key(LOGBOOK)));
        let epoch = known_epoch.unwrap_or_else(random_epoch);
        let kept = of_catalogue == Some(epoch);
        let mut whole = contents.is_whole();
        if known_epoch.is_none() {
            set_store_aside(disk.as_ref(), &files, &mut findings);
            (contents, logbook, whole) = (Contents::default(), Logbook::fresh(0), true);
        } else if kept && (contents.torn || !whole) {
            contents.complete_from(&catalogue);
        }
        let closed = contents.closed.filter(|_| kept && catalogue.closed().ok().flatten() == contents.closed);
        if (!kept && catalogue.begin(epoch).is_err()) || catalogue.set_closed(None).is_err() {
            catalogue = Catalogue::in_memory();
        }
        let highest =
            catalogue.behind(0..=u64::MAX, 1).unwrap_or_default().first().map_or(0, |(last, _)| *last);

        let mut store = Self {
            rules,
            epoch,
            boot: Boot::default(),
            logbook,
            catalogue,
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
            unreadable: HashMap::new(),
            fault,
            around: Around::default(),
            disk,
        };
        store.around.damaged =
            files.iter().filter(|(name, _)| name.starts_with(DAMAGED)).map(|(_, length)| length).sum();
        store.around.ballast = files.get(BALLAST).copied().unwrap_or(0);

        let quiet = store.take_in_segments(contents.segments, &files, whole, &mut findings);
        let clean = quiet && contents.closed.is_some();
        let revision = store.segments.values().map(|segment| segment.revision).max().unwrap_or(0);
        let (dictionary, lost) = Dictionary::new(contents.points, revision);
        store.dictionary = dictionary;
        if !lost.is_empty() {
            findings
                .repairs
                .push(format!("the descriptions of points {lost:?} are lost; they go as `lost/point-N`"));
            store.logbook = Logbook::fresh(store.logbook.length());
        }
        if !kept || findings.losses {
            store.copy_to_catalogue();
        }
        if !clean || closed.is_none() {
            store.reconcile(&mut findings);
        }

        let same_boot = whole && contents.boot.as_ref().is_some_and(|boot| boot.id == boot_id);
        let before = contents.boot.map_or(0, |boot| boot.counter).max(findings.boot_counter);
        let counter = if same_boot { before } else { before + 1 };
        store.boot = Boot { counter, id: boot_id.to_vec() };
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
        let backlog: u64 = store.segments.values().map(|segment| segment.live().readings).sum();
        store.appended = store.appended.max(store.dropped + backlog);

        store.settle();
        let opening = Opening {
            epoch,
            boot_counter: counter,
            repairs: findings.repairs,
            counts: store.status().counts,
        };
        Ok((store, opening))
    }

    /// Writes what the opening brought to light, if the disk lets it.
    fn settle(&mut self) {
        let numbers: Vec<u64> = self.segments.keys().copied().collect();
        numbers.into_iter().for_each(|number| self.retire_if_done(number));
        self.logbook.push([Entry::Boot(self.boot.clone()), Entry::Books(self.books())]);
        if let Err(error) = self.write_logbook() {
            drop(self.refused(&error));
        }
        self.look_around();
    }

    /// Takes in what the logbook knows and what lies there. True if the two agree and every
    /// segment was sealed.
    fn take_in_segments(
        &mut self,
        known: BTreeMap<u64, (Segment, bool)>,
        files: &BTreeMap<String, u64>,
        whole: bool,
        findings: &mut Findings,
    ) -> bool {
        let mut quiet = whole;
        let present: BTreeMap<u64, u64> =
            files.iter().filter_map(|(name, length)| Some((number_of(name)?, *length))).collect();
        for (number, (segment, sealed)) in &known {
            match present.get(number) {
                Some(length) if *sealed && *length >= segment.length => {
                    self.segments.insert(*number, segment.clone());
                }
                Some(length) => {
                    quiet = false;
                    self.read_segment(segment.clone(), *sealed, *length, findings);
                }
                None => {
                    quiet = false;
                    self.miss_segment(segment.clone(), *sealed, &known, findings);
                }
            }
        }
        for (number, length) in present.iter().filter(|(number, _)| !known.contains_key(number)) {
            quiet = false;
            self.meet_segment(*number, *length, whole, findings);
        }
        let next = self.segments.keys().next_back().map_or(1, |number| number + 1);
        self.next_segment = self.next_segment.max(next);
        let appended = self.segments.values().map(|segment| segment.appended_before + segment.total.readings);
        self.appended = self.appended.max(appended.max().unwrap_or(0));
        quiet
    }

    /// A file the logbook does not know.
    fn meet_segment(&mut self, number: u64, length: u64, whole: bool, findings: &mut Findings) {
        let name = file_name(number);
        let facts = self.disk.open(&name).and_then(|file| FileFacts::read(file.as_ref())).ok().flatten();
        if facts.is_some_and(|facts| facts.epoch != self.epoch) {
            findings.repairs.push(format!("{name} belongs to another epoch; moved to {DAMAGED}"));
            return self.move_aside(&name, length);
        }
        if whole && number < self.next_segment {
            // It was done with and deleted; a power cut brought it back.
            return self.retired.push((number, length));
        }
        let (first, before) = facts.map_or((0, 0), |facts| (facts.first, facts.appended_before));
        self.read_segment(Segment::new(number, first, before), false, length, findings);
        if self.segments.get(&number).is_some_and(|segment| segment.total.batches == 0) {
            // Made and never written to.
            self.segments.remove(&number);
            self.retired.push((number, length));
        }
        self.next_segment = self.next_segment.max(number + 1);
    }

    /// Reads a segment from end to end. What is readable is kept, the rest counted as lost.
    fn read_segment(&mut self, known: Segment, sealed: bool, length: u64, findings: &mut Findings) {
        let name = file_name(known.number);
        let mut alive = Tally::default();
        let tag = epoch_tag(self.epoch);
        let surveyed = self.disk.open(&name).and_then(|file| {
            survey(file.as_ref(), &known, length, tag, true, &mut |facts, place| {
                if !known.forgotten.contains(facts.sequence.0) {
                    alive += Tally {
                        batches: 1,
                        readings: u64::from(facts.count),
                        bytes: u64::from(place.length),
                    };
                }
            })
        });
        let survey = match surveyed {
            Ok(survey) => survey,
            Err(error) => {
                findings.repairs.push(format!("{name} cannot be read now: {error}"));
                self.segments.insert(known.number, known);
                return;
            }
        };
        findings.boot_counter = findings.boot_counter.max(survey.boot_counter);
        for (from, to) in &survey.damage {
            findings.losses = true;
            findings.repairs.push(format!("{name}: bytes {from} to {to} are damaged; copied to {DAMAGED}"));
            self.copy_aside(&name, *from, *to);
        }
        if let Some(from) = survey.torn {
            findings.losses = true;
            findings.repairs.push(format!("{name}: a torn tail of {} bytes was cut", length - from));
            if let Ok(mut file) = self.disk.open(&name) {
                // If it cannot be cut it is only in the way: the segment ends before it.
                drop(file.cut(from));
            }
        }
        let mut segment = Segment { forgotten: known.forgotten, gone: known.gone, ..survey.segment };
        if sealed {
            segment.total = known.total;
            segment.last = segment.last.max(known.last);
            segment.wall_us = known.wall_us;
            segment.revision = known.revision;
        }
        let live = segment.live();
        let lost = Tally {
            batches: live.batches.saturating_sub(alive.batches),
            readings: live.readings.saturating_sub(alive.readings),
            bytes: live.bytes.saturating_sub(alive.bytes),
        };
        let (number, wall, span) = (segment.number, segment.wall(), segment.span());
        self.logbook.push([segment.seal()]);
        self.segments.insert(number, segment);
        if let Some(span) = span.filter(|_| lost.batches > 0) {
            findings.losses = true;
            findings
                .repairs
                .push(format!("{name}: {} batches with {} readings are lost", lost.batches, lost.readings));
            self.lose(number, &survey.found.complement(span), lost, Reason::Corrupt, wall);
        }
    }

    /// A segment whose file is gone. If all of it was acknowledged nobody misses it.
    fn miss_segment(
        &mut self,
        mut segment: Segment,
        sealed: bool,
        known: &BTreeMap<u64, (Segment, bool)>,
        findings: &mut Findings,
    ) {
        if !sealed {
            // Its neighbours say how much was in it; of the newest only the catalogue may know.
            let next = known.range(segment.number + 1..).next().map(|(_, (next, _))| next);
            let noted = self.noted_of(&segment);
            let upto = next.map_or(self.appended, |next| next.appended_before);
            segment.last = next.map_or(self.reserved, |next| next.first.saturating_sub(1));
            segment.total = Tally {
                batches: segment.gone.batches + noted.batches.max(1),
                readings: upto
                    .saturating_sub(segment.appended_before)
                    .max(segment.gone.readings + noted.readings),
                bytes: segment.gone.bytes + noted.bytes,
            };
        }
        let (number, live, span) = (segment.number, segment.live(), segment.span());
        self.logbook.push([segment.seal()]);
        self.segments.insert(number, segment);
        let Some(span) = span.filter(|_| live.batches > 0) else { return };
        findings.losses = true;
        findings.repairs.push(format!("{} is gone, with {} readings", file_name(number), live.readings));
        let mut all = Ranges::default();
        all.insert(span);
        let earlier = self.segments.range(..number).filter_map(|(_, segment)| segment.wall_us).next_back();
        let wall = self.segments.get(&number).and_then(|segment| segment.wall_us);
        let wall = wall.unwrap_or_else(|| (earlier.map_or(0, |(_, to)| to), wall_micros()));
        self.lose(number, &all, live, Reason::Corrupt, wall);
    }

    /// What the catalogue has noted of a segment.
    fn noted_of(&mut self, segment: &Segment) -> Tally {
        let mut noted = Tally::default();
        let mut at = segment.first;
        loop {
            let places = self.with_catalogue(|catalogue| catalogue.ahead(at..=u64::MAX, 1024));
            let Some((last, _)) = places.last() else { return noted };
            at = last.saturating_add(1);
            for (_, place) in places.iter().filter(|(sequence, place)| {
                place.segment == segment.number && !segment.forgotten.contains(*sequence)
            }) {
                noted +=
                    Tally { batches: 1, readings: u64::from(place.count), bytes: u64::from(place.length) };
            }
        }
    }

    /// A new catalogue in place of the one in memory.
    pub(super) fn open_catalogue(&mut self, folder: &Path) {
        let mut catalogue = open_catalogue(folder, &mut Vec::new());
        if catalogue.begin(self.epoch).is_ok() {
            self.catalogue = catalogue;
        }
        self.copy_to_catalogue();
        self.reconcile(&mut Findings::default());
    }

    fn copy_to_catalogue(&mut self) {
        let points: Vec<_> = self.dictionary(forebay_protocols::reading::PointId(0));
        let gaps: Vec<_> = self.gaps.iter().copied().collect();
        self.with_catalogue(|catalogue| {
            points.iter().try_for_each(|(number, point)| catalogue.copy_point(number.0, point))?;
            gaps.iter().try_for_each(|gap| catalogue.copy_gap(gap))
        });
    }

    /// Makes the catalogue agree with segments and logbook.
    fn reconcile(&mut self, findings: &mut Findings) {
        let mut there: HashMap<u64, u64> = HashMap::new();
        let mut missed: BTreeMap<u64, (Ranges, Tally)> = BTreeMap::new();
        let mut at = 0;
        loop {
            let places = self.with_catalogue(|catalogue| catalogue.ahead(at..=u64::MAX, 1024));
            let Some((last, _)) = places.last() else { break };
            at = last.saturating_add(1);
            for (sequence, place) in places {
                match self.segments.get(&place.segment) {
                    Some(segment) if segment.forgotten.contains(sequence) => {}
                    Some(segment) if segment.span().is_some_and(|span| span.contains(&sequence)) => {
                        *there.entry(place.segment).or_default() += 1;
                        continue;
                    }
                    // The catalogue saw it appended; the disk has lost it since.
                    Some(_) => {
                        let (ranges, lost) = missed.entry(place.segment).or_default();
                        ranges.insert(sequence..=sequence);
                        *lost += Tally { batches: 1, readings: u64::from(place.count), bytes: 0 };
                    }
                    None => {}
                }
                self.with_catalogue(|catalogue| catalogue.remove(sequence));
            }
        }
        for (number, (ranges, lost)) in missed {
            self.miss_tail(number, &ranges, lost, findings);
        }
        let differ =
            |segment: &&Segment| segment.live().batches != there.get(&segment.number).copied().unwrap_or(0);
        let numbers: Vec<u64> = self.segments.values().filter(differ).map(|segment| segment.number).collect();
        for number in numbers {
            if let Some(words) = self.index(number) {
                findings.losses = true;
                findings.repairs.push(words);
            }
        }
    }

    /// Batches that were appended behind the end of what is left of their segment.
    fn miss_tail(&mut self, number: u64, ranges: &Ranges, lost: Tally, findings: &mut Findings) {
        let Some(segment) = self.segments.get_mut(&number) else { return };
        segment.total += lost;
        segment.last = ranges.iter().last().map_or(segment.last, |(_, last)| last);
        self.appended = self.appended.max(segment.appended_before + segment.total.readings);
        let (wall, seal) = (segment.wall(), segment.seal());
        self.logbook.push([seal]);
        self.lose(number, ranges, lost, Reason::Corrupt, wall);
        findings.losses = true;
        let name = file_name(number);
        findings
            .repairs
            .push(format!("{name}: {} batches with {} readings are lost", lost.batches, lost.readings));
    }

    fn move_aside(&mut self, name: &str, length: u64) {
        if self.disk.rename(name, &format!("{DAMAGED}{name}")).is_ok() {
            self.around.damaged += length;
        }
    }

    fn copy_aside(&mut self, name: &str, from: u64, to: u64) {
        let copied = copy_part(self.disk.as_ref(), name, from, to);
        self.around.damaged += copied.unwrap_or(0);
    }
}

/// The logbook, or what stands for it, and where to go on writing.
fn read_logbook(
    disk: &dyn Disk,
    files: &BTreeMap<String, u64>,
    findings: &mut Findings,
) -> (Contents, Logbook) {
    let segments = files.keys().any(|name| number_of(name).is_some());
    match Contents::load(disk) {
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
            drop(disk.rename(LOGBOOK, &format!("{DAMAGED}{LOGBOOK}")));
            (Contents::default(), Logbook::fresh(0))
        }
    }
}

/// The epoch of the newest segment that tells one.
fn newest_epoch(disk: &dyn Disk, files: &BTreeMap<String, u64>) -> Option<Epoch> {
    let numbers = files.keys().rev().filter(|name| number_of(name).is_some());
    numbers
        .filter_map(|name| FileFacts::read(disk.open(name).ok()?.as_ref()).ok().flatten())
        .find(|facts| facts.segment)
        .map(|facts| facts.epoch)
}

/// Nothing says which epoch this was: all of it is moved to the damaged parts.
fn set_store_aside(disk: &dyn Disk, files: &BTreeMap<String, u64>, findings: &mut Findings) {
    let ours: Vec<_> = files.keys().filter(|name| *name == LOGBOOK || number_of(name).is_some()).collect();
    for name in &ours {
        drop(disk.rename(name, &format!("{DAMAGED}{name}")));
    }
    if !ours.is_empty() {
        findings.repairs.push(format!(
            "nothing here can be read; {} files moved to {DAMAGED}, and a new epoch starts",
            ours.len()
        ));
    }
}

fn copy_part(disk: &dyn Disk, name: &str, from: u64, to: u64) -> io::Result<u64> {
    let mut bytes = vec![0; to.saturating_sub(from).min(LARGEST_EVIDENCE) as usize];
    let read = disk.open(name)?.read_at(&mut bytes, from)?;
    bytes.truncate(read);
    let mut copy = disk.create(&format!("{DAMAGED}{name}-{from}"))?;
    copy.write_at(&bytes, 0)?;
    copy.sync()?;
    Ok(read as u64)
}

/// sled in its folder if the budget allows for it, else memory.
fn catalogue_for(disk: &dyn Disk, rules: &Rules, findings: &mut Findings) -> Catalogue {
    let Some(folder) = disk.catalogue() else { return Catalogue::in_memory() };
    if !rules.catalogue_on_disk() {
        // Of a time when the budget was larger.
        drop(std::fs::remove_dir_all(&folder));
        return Catalogue::in_memory();
    }
    open_catalogue(&folder, &mut findings.repairs)
}

/// sled, or a fresh one in its place, or memory.
fn open_catalogue(folder: &Path, repairs: &mut Vec<String>) -> Catalogue {
    let fault = match Catalogue::open(folder) {
        Ok(catalogue) => return catalogue,
        Err(fault) => fault,
    };
    let aside = folder.with_extension("broken");
    drop(std::fs::remove_dir_all(&aside));
    drop(std::fs::rename(folder, &aside));
    let again = Catalogue::open(folder);
    // It has nothing that the segments do not have, and it would count towards the budget.
    drop(std::fs::remove_dir_all(&aside));
    drop(std::fs::remove_file(&aside));
    match again {
        Ok(catalogue) => {
            repairs.push(format!("the catalogue did not open and was rebuilt from the segments ({fault})"));
            catalogue
        }
        Err(fault) => {
            repairs.push(format!("the catalogue is kept in memory for now ({fault})"));
            Catalogue::in_memory()
        }
    }
}

fn random_epoch() -> Epoch {
    let mut bytes = [0; 16];
    if getrandom::fill(&mut bytes).is_err() {
        // No kernel we run on refuses; time and boot make it unlikely enough.
        let moment = wall_micros().unsigned_abs().rotate_left(17) ^ u64::from(std::process::id());
        bytes[..8].copy_from_slice(&moment.to_le_bytes());
    }
    Epoch(bytes)
}

impl Contents {
    /// What the logbook lost the catalogue may still know.
    fn complete_from(&mut self, catalogue: &Catalogue) {
        for (number, point) in catalogue.points().unwrap_or_default() {
            self.points.entry(number).or_insert(point);
        }
        for (number, gap) in catalogue.gaps().unwrap_or_default() {
            self.gaps.entry(number).or_insert(gap);
        }
    }
}
