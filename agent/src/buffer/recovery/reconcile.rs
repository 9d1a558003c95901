//! What the catalogue remembers of the segment that grew last. Segments and logbook rule; only of
//! batches that the disk has lost behind the end of a segment may the catalogue alone know, and
//! those it helps to count.

use std::collections::BTreeMap;
use std::path::Path;

use forebay_protocols::reading::PointId;
use forebay_protocols::sync::ranges::Ranges;
use forebay_protocols::sync::wire::gap::Reason;

use super::Findings;
use crate::buffer::catalogue::Catalogue;
use crate::buffer::disk::Disk;
use crate::buffer::logbook::Sequences;
use crate::buffer::segments::{Segment, Tally, file_name};
use crate::buffer::store::{Rules, Store};

impl Store {
    /// What the catalogue has noted of those batches of a segment that are wanted and not done with.
    pub(super) fn noted_of(&mut self, segment: &Segment, wanted: impl Fn(u64) -> bool) -> Tally {
        let mut noted = Tally::default();
        let mut at = segment.first;
        loop {
            let places = self.with_catalogue(|catalogue| catalogue.ahead(at..=u64::MAX, 1024));
            let Some((last, _)) = places.last() else { return noted };
            at = last.saturating_add(1);
            for (_, place) in places.iter().filter(|(sequence, place)| {
                place.segment == segment.number && wanted(*sequence) && !segment.forgotten.contains(*sequence)
            }) {
                noted +=
                    Tally { batches: 1, readings: u64::from(place.count), bytes: u64::from(place.length) };
            }
        }
    }

    /// A new catalogue in place of the one in memory.
    pub(in crate::buffer) fn open_catalogue(&mut self, folder: &Path) {
        let mut catalogue = open_catalogue(folder, &mut Vec::new());
        if catalogue.begin(self.epoch).is_ok() {
            self.catalogue = catalogue;
        }
        self.copy_to_catalogue();
        self.index_growing();
    }

    pub(super) fn copy_to_catalogue(&mut self) {
        let points: Vec<_> = self.dictionary(PointId(0));
        let gaps: Vec<_> = self.gaps.iter().cloned().collect();
        let acknowledged = Sequences::of(self.acknowledged());
        self.with_catalogue(|catalogue| {
            points.iter().try_for_each(|(number, point)| catalogue.copy_point(number.0, point))?;
            gaps.iter().try_for_each(|gap| catalogue.copy_gap(gap))?;
            catalogue.copy_acknowledged(&acknowledged)
        });
        self.copy_openings();
    }

    /// Counts what only the catalogue remembers, and empties it: nothing grows yet.
    pub(super) fn reconcile(&mut self, findings: &mut Findings) {
        let mut missed: BTreeMap<u64, (Ranges, Tally)> = BTreeMap::new();
        let mut at = 0;
        loop {
            let places = self.with_catalogue(|catalogue| catalogue.ahead(at..=u64::MAX, 1024));
            let Some((last, _)) = places.last() else { break };
            at = last.saturating_add(1);
            for (sequence, place) in places {
                let Some(segment) = self.segments.get(&place.segment) else { continue };
                let there = segment.span().is_some_and(|span| span.contains(&sequence));
                if !there && !segment.forgotten.contains(sequence) {
                    // The catalogue saw it appended; the disk has lost it since.
                    let (ranges, lost) = missed.entry(place.segment).or_default();
                    ranges.insert(sequence..=sequence);
                    *lost += Tally { batches: 1, readings: u64::from(place.count), bytes: 0 };
                }
            }
        }
        for (number, (ranges, lost)) in missed {
            self.miss_tail(number, &ranges, lost, findings);
        }
        self.forget_places(0..=u64::MAX);
    }

    /// A damaged logbook may say that more of a segment is alive than it leaves sequences for. Nobody
    /// would ever ask for those batches: they are looked for now.
    pub(super) fn look_for_more(&mut self, findings: &mut Findings) {
        let more = |segment: &&Segment| {
            let alive = segment.span().map(|span| segment.forgotten.complement(span)).unwrap_or_default();
            segment.live().batches > alive.iter().map(|(first, last)| last - first + 1).sum()
        };
        let numbers: Vec<u64> = self.segments.values().filter(more).map(|segment| segment.number).collect();
        for number in numbers {
            if let Some(lost) = self.draw(number) {
                findings.lose(&file_name(number), lost);
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
        self.lose(number, ranges, lost, Reason::Corrupt, wall.into());
        findings.lose(&file_name(number), lost);
    }
}

/// sled in its folder if the budget allows for it, else memory.
pub(super) fn catalogue_for(disk: &dyn Disk, rules: &Rules, findings: &mut Findings) -> Catalogue {
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
