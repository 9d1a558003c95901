//! The tail: segments whose batches a server has, kept for the day that server comes back without
//! them. They count towards the budget, have a bound of their own, and are the first to go when room
//! is needed. What is still there can be revived: it is backlog again.

use std::io;
use std::ops::RangeInclusive;

use forebay_protocols::sync::ranges::Ranges;
use forebay_protocols::sync::wire::gap::Reason;

use super::Revived;
use super::acknowledged::{common, is_empty, without};
use super::catalogue::Place;
use super::frame::epoch_tag;
use super::logbook::{Entry, Sequences};
use super::segments::{Segment, Tally, file_name, survey};
use super::store::{Span, Store};

/// However small its segments are: each takes memory, and a line in the logbook.
const MOST_SEGMENTS: usize = 256;
/// A server that lost more ranges than this is told of the rest in one gap record.
const MOST_GAPS: usize = 64;

impl Store {
    /// Every sequence that was acknowledged, of the newest ranges.
    pub fn acknowledged(&self) -> &Ranges {
        self.acknowledged.ranges()
    }

    /// The server lost these, which it had acknowledged. What is still here is backlog again, the
    /// rest becomes a gap; sequences that were never acknowledged are passed over, and so are for
    /// now those that the disk does not give.
    pub fn revive(&mut self, ranges: &[RangeInclusive<u64>]) -> Revived {
        let mut asked = Ranges::default();
        for range in ranges {
            asked.insert(range.clone());
        }
        let mut wanted = self.acknowledged.among(&asked);
        let mut revived = Revived::default();
        let numbers: Vec<u64> = self.segments.keys().copied().collect();
        for number in numbers {
            if is_empty(&wanted) {
                break;
            }
            match self.revive_in(number, &wanted) {
                Ok((found, batches)) => {
                    wanted = without(&wanted, &found);
                    revived.batches += batches;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(_) => {
                    let span = self.segments.get(&number).and_then(Segment::span);
                    wanted = without(&wanted, &span.map(Ranges::from).unwrap_or_default());
                }
            }
        }
        revived.lost = wanted.iter().map(|(first, last)| last - first + 1).sum();
        self.miss(&wanted);
        if let Err(error) = self.write_logbook() {
            // Still true, and durable later; until then a restart asks the server again.
            drop(self.refused(&error));
        }
        revived
    }

    /// Revives what of `wanted` lies in a segment: which, and how many batches.
    fn revive_in(&mut self, number: u64, wanted: &Ranges) -> io::Result<(Ranges, u64)> {
        let nothing = (Ranges::default(), 0);
        let Some(segment) = self.segments.get(&number) else { return Ok(nothing) };
        let Some(span) = segment.span() else { return Ok(nothing) };
        if is_empty(&common(&span.into(), wanted)) {
            return Ok(nothing);
        }
        let (mut found, mut tally) = (Ranges::default(), Tally::default());
        let mut places: Vec<(u64, Place)> = Vec::new();
        let file = self.disk.open(&file_name(number))?;
        survey(file.as_ref(), segment, segment.length, epoch_tag(self.epoch), false, &mut |facts, place| {
            let sequence = facts.sequence.0;
            if wanted.contains(sequence) && segment.forgotten.contains(sequence) {
                found.insert(sequence..=sequence);
                tally +=
                    Tally { batches: 1, readings: u64::from(facts.count), bytes: u64::from(place.length) };
                places.push((sequence, place));
            }
        })?;
        if places.is_empty() {
            return Ok(nothing);
        }
        if let Some(segment) = self.segments.get_mut(&number) {
            let entry = segment.revive(&found, tally);
            self.acknowledged.remove(&found);
            self.logbook.push([entry, Entry::Unacknowledged(Sequences::of(&found))]);
        }
        if self.growing == Some(number) {
            self.with_catalogue(|catalogue| {
                places.iter().try_for_each(|(sequence, place)| catalogue.insert(*sequence, place))
            });
        }
        Ok((found, tally.batches))
    }

    /// Nobody has these any more. They were acknowledged and stay so in the books; they leave the
    /// set, so that this is told once.
    fn miss(&mut self, lost: &Ranges) {
        let mut ranges: Vec<(u64, u64)> = lost.iter().collect();
        if let Some((_, last)) = ranges.last().copied()
            && ranges.len() > MOST_GAPS
        {
            ranges.truncate(MOST_GAPS);
            ranges.iter_mut().next_back().into_iter().for_each(|range| range.1 = last);
        }
        if ranges.is_empty() {
            return;
        }
        let mut entries = Vec::with_capacity(ranges.len() + 1);
        for range in ranges {
            let (count, wall) = self.acknowledged.account(range, self.segments.values());
            let gap = self.gaps.record(Span::from(wall).gap(Reason::ServerLost, count));
            self.with_catalogue(|catalogue| catalogue.copy_gap(&gap));
            entries.push(Entry::Gap(gap));
        }
        self.acknowledged.remove(lost);
        entries.push(Entry::Unacknowledged(Sequences::of(lost)));
        self.logbook.push(entries);
    }

    /// A sealed segment that holds nothing alive becomes part of the tail if a server has some of
    /// it; else its file is deleted after the next write of the logbook.
    pub(super) fn retire_if_done(&mut self, number: u64) {
        let Some(segment) = self.segments.get(&number) else { return };
        if self.growing == Some(number) || segment.live().batches > 0 {
            return;
        }
        if self.rules.tail > 0 && self.acknowledged.has_some_of(segment) {
            self.trim_tail();
        } else {
            self.retire(number);
        }
    }

    /// A segment's file is deleted after the next write of the logbook.
    pub(super) fn retire(&mut self, number: u64) {
        let Some(segment) = self.segments.remove(&number) else { return };
        self.charts.forget(number);
        self.acknowledged.bury(&segment);
        self.retired.push((number, segment.length));
        self.logbook.push([Entry::Retired(number), Entry::Books(self.books())]);
    }

    /// Bytes of the tail.
    pub(super) fn tail_bytes(&self) -> u64 {
        self.tail().map(|segment| segment.length).sum()
    }

    /// Retires the oldest segment of the tail and deletes its file. False if there is no tail.
    pub(super) fn drop_tail(&mut self) -> bool {
        let Some(oldest) = self.tail().next().map(|segment| segment.number) else { return false };
        if self.ask_for_deletion().is_err() {
            return false;
        }
        self.retire(oldest);
        self.finish_retired()
    }

    /// Keeps the tail within its bound; the oldest go first.
    fn trim_tail(&mut self) {
        let mut bytes = self.tail_bytes();
        let tail: Vec<(u64, u64)> = self.tail().map(|segment| (segment.number, segment.length)).collect();
        let mut left = tail.len();
        for (number, length) in tail {
            if bytes <= self.rules.tail && left <= MOST_SEGMENTS {
                return;
            }
            self.retire(number);
            bytes -= length;
            left -= 1;
        }
    }

    fn tail(&self) -> impl Iterator<Item = &Segment> {
        // Those that no server has any of are retired at once.
        self.segments
            .values()
            .filter(|segment| self.growing != Some(segment.number) && segment.live().batches == 0)
    }
}
