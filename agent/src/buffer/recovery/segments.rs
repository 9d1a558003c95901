//! What the logbook knows of the segments against what lies there. A sealed segment of the right
//! length is believed; any other is read from end to end, what is readable of it is kept, and the
//! rest is counted as lost. Parts that cannot be read are copied aside for a person.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};

use forebay_protocols::sync::ranges::Ranges;
use forebay_protocols::sync::wire::gap::Reason;

use super::Findings;
use crate::buffer::disk::{DAMAGED, persistently};
use crate::buffer::frame::{FileFacts, epoch_tag};
use crate::buffer::logbook::Entry;
use crate::buffer::segments::{Segment, Tally, file_name, number_of, survey};
use crate::buffer::store::Store;

impl Store {
    /// Takes in what the logbook knows and what lies there. True if the two agree and every
    /// segment was sealed.
    pub(super) fn take_in_segments(
        &mut self,
        mut known: BTreeMap<u64, (Segment, bool)>,
        files: &BTreeMap<String, u64>,
        whole: bool,
        findings: &mut Findings,
    ) -> bool {
        let mut quiet = whole;
        let mut present: BTreeMap<u64, u64> =
            files.iter().filter_map(|(name, length)| Some((number_of(name)?, *length))).collect();
        // They move from one map to the other: of a large backlog there is no room for two.
        while let Some((number, (segment, sealed))) = known.pop_first() {
            match present.remove(&number) {
                Some(length) if sealed && length >= segment.length => {
                    self.segments.insert(number, segment);
                }
                Some(length) => {
                    quiet = false;
                    if !self.read_segment(segment.clone(), sealed, length, findings) {
                        self.move_aside(&file_name(number), length);
                        self.miss_segment(segment, sealed, &known, findings);
                    }
                }
                None => {
                    quiet = false;
                    self.miss_segment(segment, sealed, &known, findings);
                }
            }
        }
        for (number, length) in present {
            quiet = false;
            self.meet_segment(number, length, whole, findings);
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
        if !self.read_segment(Segment::new(number, first, before), false, length, findings) {
            self.move_aside(&name, length);
        }
        if self.segments.get(&number).is_some_and(|segment| segment.total.batches == 0) {
            // Made and never written to. The logbook was just told of it, and must not miss its file.
            self.segments.remove(&number);
            self.logbook.push([Entry::Retired(number)]);
            self.retired.push((number, length));
        }
        self.next_segment = self.next_segment.max(number + 1);
    }

    /// Reads a segment from end to end. What is readable is kept, the rest counted as lost. False
    /// if the disk does not give it and nobody knows what is in it.
    fn read_segment(
        &mut self,
        mut known: Segment,
        sealed: bool,
        length: u64,
        findings: &mut Findings,
    ) -> bool {
        let name = file_name(known.number);
        let (mut alive, mut gone) = (Tally::default(), Tally::default());
        let clearings = known.clearings();
        let tag = epoch_tag(self.epoch);
        let surveyed = persistently(|| {
            (alive, gone) = (Tally::default(), Tally::default());
            let file = self.disk.open(&name)?;
            let head = FileFacts::read(file.as_ref())?;
            if head.is_some_and(|head| head.number != known.number) {
                return Err(io::Error::new(ErrorKind::InvalidData, "it is another file under this name"));
            }
            // Perhaps it was rewritten and the power went off before the logbook knew.
            known.level = known.level.max(head.map_or(0, |head| head.level));
            survey(file.as_ref(), &known, length, tag, true, &mut |facts, place| {
                let found =
                    Tally { batches: 1, readings: u64::from(facts.count), bytes: u64::from(place.length) };
                *(if known.forgotten.contains(facts.sequence.0) { &mut gone } else { &mut alive }) += found;
            })
        });
        let survey = match surveyed {
            Ok(survey) => survey,
            Err(error) => {
                findings.repairs.push(format!("{name} cannot be read now: {error}"));
                findings.losses = true;
                let perhaps_later = sealed && error.kind() != ErrorKind::InvalidData;
                if perhaps_later {
                    self.segments.insert(known.number, known);
                }
                return perhaps_later;
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
            segment.boot = segment.boot.max(known.boot);
        } else {
            // Of what was done with, some may be lost too: between others, or behind the new end.
            // That costs nothing, but it was appended.
            let done_with = segment.gone.less(gone);
            let between = segment.total.less(alive).less(gone);
            let missing = segment.span().map(|span| survey.found.complement(span)).unwrap_or_default();
            let wanted = missing.iter().flat_map(|(first, last)| first..=last);
            let batches = wanted.filter(|sequence| !segment.forgotten.contains(*sequence)).count() as u64;
            let readings = match between.batches == batches {
                true => between.readings,
                // How much of what was done with lay between nobody knows. It was no less than the rest, nor
                // than the catalogue has noted.
                false => {
                    let noted = self.noted_of(&segment, |sequence| missing.contains(sequence)).readings;
                    between.readings.saturating_sub(done_with.readings).max(noted.min(between.readings))
                }
            };
            segment.total = alive;
            for tally in [gone, done_with, Tally { batches, readings, bytes: 0 }] {
                segment.total += tally;
            }
            findings.losses |= done_with.batches > 0;
        }
        let lost = segment.live().less(alive);
        let (number, wall, span) = (segment.number, segment.wall(), segment.span());
        // What is not in the new file was left out of it, unless the disk has lost of that too.
        let cleared = segment.clearings() > clearings && survey.damage.is_empty() && survey.torn.is_none();
        self.logbook.push([segment.seal()]);
        self.segments.insert(number, segment);
        if let Some(span) = span.clone().filter(|_| cleared && lost.readings > 0) {
            self.lose(number, &survey.found.complement(span), lost, Reason::BufferFull, wall.into());
        } else if let Some(span) = span.filter(|_| lost.batches > 0) {
            findings.lose(&name, lost);
            self.lose(number, &survey.found.complement(span), lost, Reason::Corrupt, wall.into());
        } else if lost.readings > 0 {
            self.miss_left_out(number, lost, wall);
        }
        true
    }

    /// A segment whose file is gone. If all of it was acknowledged nobody misses it.
    fn miss_segment(
        &mut self,
        mut segment: Segment,
        sealed: bool,
        later: &BTreeMap<u64, (Segment, bool)>,
        findings: &mut Findings,
    ) {
        if !sealed {
            // Its neighbours say how much was in it; of the newest only the catalogue may know.
            let next = later.values().next().map(|(next, _)| next);
            let noted = self.noted_of(&segment, |_| true);
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
        findings.missing.push(number);
        self.logbook.push([segment.seal()]);
        self.segments.insert(number, segment);
        let Some(span) = span.filter(|_| live.batches > 0) else { return };
        findings.losses = true;
        findings.repairs.push(format!("{} is gone, with {} readings", file_name(number), live.readings));
        let all = Ranges::from(span);
        let earlier = self.segments.range(..number).filter_map(|(_, segment)| segment.wall_us).next_back();
        let wall = self.segments.get(&number).and_then(|segment| segment.wall_us);
        let wall = wall.unwrap_or_else(|| (earlier.map_or(0, |(_, to)| to), self.machine.wall_us()));
        self.lose(number, &all, live, Reason::Corrupt, wall.into());
    }

    /// Readings that by the books were appended to the segment that grew, and of which neither file
    /// nor catalogue knows.
    pub(super) fn miss_noted(&mut self, number: u64, appended: u64, findings: &mut Findings) {
        let Some(segment) = self.segments.get_mut(&number) else { return };
        let readings = appended.saturating_sub(segment.appended_before + segment.total.readings);
        if readings == 0 {
            return;
        }
        let (lost, wall) = (Tally { batches: 1, readings, bytes: 0 }, segment.wall());
        segment.total += lost;
        self.logbook.push([segment.seal()]);
        findings.losses = true;
        findings.repairs.push(format!("{}: {readings} readings at its end are lost", file_name(number)));
        self.lose(number, &Ranges::default(), lost, Reason::Corrupt, wall.into());
    }
}
