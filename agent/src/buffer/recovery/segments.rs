//! What the logbook knows of the segments against what lies there. A sealed segment of the right
//! length is believed; any other is read from end to end, what is readable of it is kept, and the
//! rest is counted as lost. Parts that cannot be read are copied aside for a person.

use std::collections::BTreeMap;

use forebay_protocols::boot_time::wall_micros;
use forebay_protocols::sync::ranges::Ranges;
use forebay_protocols::sync::wire::gap::Reason;

use super::Findings;
use crate::buffer::disk::{DAMAGED, persistently};
use crate::buffer::frame::{FileFacts, epoch_tag};
use crate::buffer::segments::{Segment, Tally, file_name, number_of, survey};
use crate::buffer::store::Store;

impl Store {
    /// Takes in what the logbook knows and what lies there. True if the two agree and every
    /// segment was sealed.
    pub(super) fn take_in_segments(
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
                    if !self.read_segment(segment.clone(), *sealed, *length, findings) {
                        self.move_aside(&file_name(*number), *length);
                        self.miss_segment(segment.clone(), *sealed, &known, findings);
                    }
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
        if !self.read_segment(Segment::new(number, first, before), false, length, findings) {
            self.move_aside(&name, length);
        }
        if self.segments.get(&number).is_some_and(|segment| segment.total.batches == 0) {
            // Made and never written to.
            self.segments.remove(&number);
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
        let mut alive = Tally::default();
        let tag = epoch_tag(self.epoch);
        let surveyed = persistently(|| {
            alive = Tally::default();
            let file = self.disk.open(&name)?;
            // Perhaps it was thinned and the power went off before the logbook knew.
            let head = FileFacts::read(file.as_ref())?;
            known.level = known.level.max(head.map_or(0, |head| head.level));
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
                findings.losses = true;
                if sealed {
                    self.segments.insert(known.number, known);
                }
                return sealed;
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
        findings.missing.push(number);
        self.logbook.push([segment.seal()]);
        self.segments.insert(number, segment);
        let Some(span) = span.filter(|_| live.batches > 0) else { return };
        findings.losses = true;
        findings.repairs.push(format!("{} is gone, with {} readings", file_name(number), live.readings));
        let all = Ranges::from(span);
        let earlier = self.segments.range(..number).filter_map(|(_, segment)| segment.wall_us).next_back();
        let wall = self.segments.get(&number).and_then(|segment| segment.wall_us);
        let wall = wall.unwrap_or_else(|| (earlier.map_or(0, |(_, to)| to), wall_micros()));
        self.lose(number, &all, live, Reason::Corrupt, wall.into());
    }
}
