//! Charts: where the batches of a sealed segment lie. A chart is made by reading the heads of the
//! batches when somebody asks for them, and kept for the few segments that were asked for last, so
//! that memory stays small with any backlog. What should be in a segment and is not comes to light
//! here, and is lost. Of the segment that grows the catalogue knows.

use std::collections::HashMap;
use std::io;
use std::ops::RangeInclusive;

use forebay_protocols::sync::ranges::Ranges;
use forebay_protocols::sync::wire::gap::Reason;

use super::catalogue::Place;
use super::disk::{DiskFile, persistently};
use super::frame::{FileFacts, epoch_tag};
use super::segments::{Segment, Tally, file_name, survey};
use super::store::Store;

/// So many places are kept, unless one segment alone has more.
const MOST_PLACES: usize = 16 << 10;
/// A segment that the disk refuses so many times is read without the parts that it refuses.
const PATIENCE: u8 = 3;
/// What a disk refuses, it refuses by the page.
const PAGE: u64 = 4096;

/// The charts of the segments asked for last.
#[derive(Default)]
pub(super) struct Charts {
    /// The one asked for last comes last.
    kept: Vec<Chart>,
    /// How often the disk refused a segment.
    refused: HashMap<u64, u8>,
}

struct Chart {
    segment: u64,
    /// Every batch that is there, ascending, whether anybody still wants it or not.
    places: Vec<(u64, Place)>,
}

/// What reading the heads of a segment came to.
#[derive(Default)]
pub(super) struct Heads {
    /// Every batch that is there, ascending.
    pub places: Vec<(u64, Place)>,
    /// What of that is alive.
    alive: Tally,
    found: Ranges,
}

impl Charts {
    /// The segment was rewritten, or is gone.
    pub fn forget(&mut self, segment: u64) {
        self.kept.retain(|chart| chart.segment != segment);
        self.refused.remove(&segment);
    }

    /// Makes the chart of a segment the last one, if it is here.
    fn take_up(&mut self, segment: u64) -> bool {
        let Some(at) = self.kept.iter().position(|chart| chart.segment == segment) else { return false };
        self.kept[at..].rotate_left(1);
        true
    }

    fn keep(&mut self, chart: Chart) {
        self.refused.remove(&chart.segment);
        self.kept.push(chart);
        let mut places = 0;
        let fits = |chart: &&Chart| {
            places += chart.places.len();
            places <= MOST_PLACES
        };
        let fitting = self.kept.iter().rev().take_while(fits).count().max(1);
        self.kept.drain(..self.kept.len() - fitting);
    }
}

impl Store {
    /// Where the first `most` living batches of a segment within `range` lie, ascending.
    pub(super) fn ahead(
        &mut self,
        number: u64,
        range: RangeInclusive<u64>,
        most: usize,
    ) -> Vec<(u64, Place)> {
        if self.growing == Some(number) {
            return self.with_catalogue(|catalogue| catalogue.ahead(range.clone(), most));
        }
        self.living_places(number, &range).take(most).collect()
    }

    /// The same for the last `most`, descending.
    pub(super) fn behind(
        &mut self,
        number: u64,
        range: RangeInclusive<u64>,
        most: usize,
    ) -> Vec<(u64, Place)> {
        if self.growing == Some(number) {
            return self.with_catalogue(|catalogue| catalogue.behind(range.clone(), most));
        }
        self.living_places(number, &range).rev().take(most).collect()
    }

    fn living_places(
        &mut self,
        number: u64,
        range: &RangeInclusive<u64>,
    ) -> impl DoubleEndedIterator<Item = (u64, Place)> {
        if let Some(lost) = self.draw(number) {
            let Tally { batches, readings, .. } = lost;
            tracing::error!(segment = number, batches, readings, "Batches in the buffer are gone.");
        }
        let chart = self.charts.kept.last().filter(|chart| chart.segment == number);
        let places = chart.map_or(&[][..], |chart| &chart.places);
        let from = places.partition_point(|(sequence, _)| sequence < range.start());
        let to = places.partition_point(|(sequence, _)| sequence <= range.end());
        let segment = self.segments.get(&number);
        let alive = move |sequence| segment.is_some_and(|segment| !segment.forgotten.contains(sequence));
        let within = places.get(from..to).unwrap_or_default();
        within.iter().copied().filter(move |(sequence, _)| alive(*sequence))
    }

    /// Makes the chart of a sealed segment the last one. What should be on it and is not is lost:
    /// says how much that is.
    pub(super) fn draw(&mut self, number: u64) -> Option<Tally> {
        if self.charts.take_up(number) {
            return None;
        }
        let segment = self.segments.get(&number)?.clone();
        let heads = match self.heads_of(&segment) {
            Ok(heads) => heads,
            Err(error) => {
                let times = self.charts.refused.entry(number).or_default();
                *times += 1;
                if *times < PATIENCE {
                    tracing::debug!(segment = number, %error, "A segment cannot be read now.");
                    return None;
                }
                // Without the disk nothing can be said; perhaps it is not gone for ever.
                self.heads_in_spite(&segment).ok()?
            }
        };
        self.charts.keep(Chart { segment: number, places: heads.places });
        let (live, span) = (segment.live(), segment.span()?);
        if heads.alive.batches >= live.batches {
            return None;
        }
        let lost = live.less(heads.alive);
        self.lose(number, &heads.found.complement(span), lost, Reason::Corrupt, segment.wall().into());
        self.retire_if_done(number);
        Some(lost)
    }

    /// What the heads of its batches tell of a segment. Without its file that is nothing.
    pub(super) fn heads_of(&self, segment: &Segment) -> io::Result<Heads> {
        match persistently(|| self.read_heads(segment, &*self.disk.open(&file_name(segment.number))?)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Heads::default()),
            result => result,
        }
    }

    /// The same, without the parts of the file that the disk refuses.
    fn heads_in_spite(&self, segment: &Segment) -> io::Result<Heads> {
        let file = self.disk.open(&file_name(segment.number))?;
        self.read_heads(segment, &Patchy(file))
    }

    fn read_heads(&self, segment: &Segment, file: &dyn DiskFile) -> io::Result<Heads> {
        let mut heads = Heads::default();
        if FileFacts::read(file)?.is_some_and(|facts| facts.number != segment.number) {
            // Another file under this name: what should be here is gone.
            return Ok(heads);
        }
        let tag = epoch_tag(self.epoch);
        let survey = survey(file, segment, segment.length, tag, false, &mut |facts, place| {
            if !segment.forgotten.contains(facts.sequence.0) {
                let (readings, bytes) = (u64::from(facts.count), u64::from(place.length));
                heads.alive += Tally { batches: 1, readings, bytes };
            }
            heads.places.push((facts.sequence.0, place));
        })?;
        heads.found = survey.found;
        Ok(heads)
    }
}

/// A file in which what cannot be read reads as zeros.
struct Patchy(Box<dyn DiskFile>);

impl DiskFile for Patchy {
    fn length(&self) -> io::Result<u64> {
        self.0.length()
    }

    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        if let Ok(read) = self.0.read_at(into, at) {
            return Ok(read);
        }
        let wanted = self.0.length()?.saturating_sub(at).min(into.len() as u64) as usize;
        let mut read = 0;
        while read < wanted {
            let here = at + read as u64;
            let page_end = (here / PAGE + 1) * PAGE - here;
            let end = wanted.min(read + page_end as usize);
            let part = &mut into[read..end];
            if self.0.read_at(part, here).is_err() {
                part.fill(0);
            }
            read = end;
        }
        Ok(read)
    }

    fn write_at(&mut self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn cut(&mut self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(segment: u64, places: usize) -> Chart {
        let place = |at| (at, Place { segment, at, length: 1, count: 1 });
        Chart { segment, places: (0..places as u64).map(place).collect() }
    }

    fn kept(charts: &Charts) -> Vec<u64> {
        charts.kept.iter().map(|chart| chart.segment).collect()
    }

    #[test]
    fn the_charts_asked_for_last_are_kept_as_far_as_there_is_room() {
        let mut charts = Charts::default();
        for segment in 1..=4 {
            charts.keep(chart(segment, MOST_PLACES / 4));
        }
        assert!(charts.take_up(1) && !charts.take_up(9));
        assert_eq!(kept(&charts), [2, 3, 4, 1]);
        charts.keep(chart(5, MOST_PLACES / 2));
        assert_eq!(kept(&charts), [4, 1, 5]);
        charts.keep(chart(6, MOST_PLACES * 2));
        assert_eq!(kept(&charts), [6], "one is kept however large it is");
        charts.forget(6);
        assert!(kept(&charts).is_empty());
    }
}
