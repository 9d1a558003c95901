//! Segments: append-only files of batches. This file owns what is known of one without reading
//! it ([`Segment`]), and how one is read when that is not enough ([`scan`]).

use std::io;
use std::ops::{AddAssign, RangeInclusive, SubAssign};

use forebay_config::agent::WhenFull;
use forebay_protocols::sync::ranges::Ranges;

use super::acknowledged::without;
use super::catalogue::Place;
use super::disk::DiskFile;
use super::frame::{BatchFacts, Found, Frame, Kind, look};
use super::logbook::{Entry, Forgotten, Made, Sealed, Sequences, Thinned};

const PREFIX: &str = "segment-";
/// A segment's level says how often it was thinned and, in steps of so many, how often cleared.
pub(super) const CLEARING: u32 = 32;
/// Of ten thousand readings a few are left then.
pub(super) const MOST_HALVINGS: u32 = 16;
/// Once or twice is usual, unless the classes change while nothing can be sent.
pub(super) const MOST_CLEARINGS: u32 = 7;
/// What a small file takes of a disk.
pub(super) const BLOCK: u64 = 4 << 10;

/// How many, in three ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Batches.
    pub batches: u64,
    /// Readings in them.
    pub readings: u64,
    /// Bytes of the encoded batches, frames not counted.
    pub bytes: u64,
}

/// What is known of a segment. The store holds one of these per file, whatever the backlog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its number; never given twice in an epoch.
    pub number: u64,
    /// The lowest sequence it may hold; 0 if its head is damaged and it was not read yet.
    pub first: u64,
    /// The highest sequence it holds; below `first` while it is empty.
    pub last: u64,
    /// Bytes of the file that count.
    pub length: u64,
    /// Everything that was appended to it.
    pub total: Tally,
    /// What of that is forgotten: acknowledged, dropped or lost.
    pub gone: Tally,
    /// The same as sequences.
    pub forgotten: Ranges,
    /// Readings appended in the epoch before it.
    pub appended_before: u64,
    /// Highest point number its batches use.
    pub revision: u32,
    /// Wall time of its first and last reading.
    pub wall_us: Option<(i64, i64)>,
    /// The boot that wrote it; 0 where that was not noted. An opening begins a new segment, so it
    /// was one boot.
    pub boot: u64,
    /// How often it was thinned, and cleared.
    pub level: u32,
    /// Thinning it again would make no room.
    pub bare: bool,
    /// Clearing it of what gives way by this rule would make no room. Not in the books: the rules
    /// may be others at the next opening.
    pub spent: Option<WhenFull>,
}

impl Segment {
    /// An empty one.
    pub fn new(number: u64, first: u64, appended_before: u64) -> Self {
        Self {
            number,
            first,
            last: first.saturating_sub(1),
            length: 0,
            total: Tally::default(),
            gone: Tally::default(),
            forgotten: Ranges::default(),
            appended_before,
            revision: 0,
            wall_us: None,
            boot: 0,
            level: 0,
            bare: false,
            spent: None,
        }
    }

    /// How often it was thinned.
    pub fn halvings(&self) -> u32 {
        self.level % CLEARING
    }

    /// How often it was cleared.
    pub fn clearings(&self) -> u32 {
        self.level / CLEARING
    }

    /// What it takes of the budget.
    pub fn room(&self) -> u64 {
        if self.clearings() > 0 { self.length.max(BLOCK) } else { self.length }
    }

    /// What is still wanted of it.
    pub fn live(&self) -> Tally {
        self.total.less(self.gone)
    }

    /// Wall time of its first and last reading, or zeros where that is not known.
    pub fn wall(&self) -> (i64, i64) {
        self.wall_us.unwrap_or_default()
    }

    /// The lowest and highest sequence that are alive in it.
    pub fn living(&self) -> Option<(u64, u64)> {
        let alive = self.live().batches > 0;
        alive.then(|| (self.forgotten.first_missing(self.first), self.forgotten.last_missing(self.last)))
    }

    /// The sequences it may hold, or `None` while it is empty.
    pub fn span(&self) -> Option<RangeInclusive<u64>> {
        Some(self.first..=self.last).filter(|span| !span.is_empty())
    }

    /// Counts in a batch that was appended.
    pub fn count_in(&mut self, facts: &BatchFacts, bytes: u32) {
        self.total += Tally { batches: 1, readings: u64::from(facts.appended()), bytes: u64::from(bytes) };
        self.gone.readings += u64::from(facts.left_out());
        self.last = self.last.max(facts.sequence.0);
        self.revision = self.revision.max(facts.revision);
        self.boot = self.boot.max(facts.boot_counter);
        let (from, to) = facts.wall_us;
        self.wall_us = Some(self.wall_us.map_or((from, to), |(first, last)| (first.min(from), last.max(to))));
    }

    /// Counts out what was alive in `ranges`, and says so to the logbook.
    pub fn forget(&mut self, ranges: &Ranges, tally: Tally) -> Entry {
        self.gone += tally;
        for (first, last) in ranges.iter() {
            self.forgotten.insert(first..=last);
        }
        Entry::Forgotten(Forgotten {
            segment: self.number,
            ranges: Sequences::of(ranges).ranges,
            batches: tally.batches,
            readings: tally.readings,
            bytes: tally.bytes,
        })
    }

    /// As the logbook knows it while it grows.
    pub fn made(&self) -> Entry {
        Entry::Made(Made {
            segment: self.number,
            first: self.first,
            appended_before: self.appended_before,
            boot: self.boot,
        })
    }

    /// As the logbook knows it when it is complete.
    pub fn seal(&self) -> Entry {
        let (from_us, to_us) = self.wall_us.unwrap_or_default();
        Entry::Sealed(Sealed {
            segment: self.number,
            first: self.first,
            last: self.last,
            length: self.length,
            batches: self.total.batches,
            readings: self.total.readings,
            bytes: self.total.bytes,
            appended_before: self.appended_before,
            revision: self.revision,
            from_us,
            to_us,
            boot: self.boot,
            level: self.level,
            bare: self.bare,
        })
    }

    /// Takes over what [`Segment::seal`] said.
    pub fn unseal(&mut self, sealed: &Sealed) {
        self.first = sealed.first;
        self.last = sealed.last;
        self.length = sealed.length;
        self.total = Tally { batches: sealed.batches, readings: sealed.readings, bytes: sealed.bytes };
        self.appended_before = sealed.appended_before;
        self.revision = sealed.revision;
        self.wall_us = (sealed.batches > 0).then_some((sealed.from_us, sealed.to_us));
        self.boot = sealed.boot;
        self.level = sealed.level;
        self.bare = sealed.bare;
    }

    /// Counts in again what was forgotten of it, and says so to the logbook.
    pub fn revive(&mut self, ranges: &Ranges, tally: Tally) -> Entry {
        self.gone -= tally;
        self.spent = None;
        self.forgotten = without(&self.forgotten, ranges);
        Entry::Revived(Forgotten {
            segment: self.number,
            ranges: Sequences::of(ranges).ranges,
            batches: tally.batches,
            readings: tally.readings,
            bytes: tally.bytes,
        })
    }

    /// Takes over that its file was replaced by a shorter one.
    pub fn thin(&mut self, thinned: &Thinned) {
        self.length = thinned.length;
        self.level = thinned.level;
        self.bare = thinned.bare;
        self.gone += Tally { batches: 0, readings: thinned.readings, bytes: thinned.bytes };
    }

    /// What is gone of it, in one entry.
    pub fn forgotten_so_far(&self) -> Entry {
        Entry::Forgotten(Forgotten {
            segment: self.number,
            ranges: Sequences::of(&self.forgotten).ranges,
            batches: self.gone.batches,
            readings: self.gone.readings,
            bytes: self.gone.bytes,
        })
    }
}

impl Tally {
    /// What is left without `other`.
    pub fn less(self, other: Self) -> Self {
        Self {
            batches: self.batches.saturating_sub(other.batches),
            readings: self.readings.saturating_sub(other.readings),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, more: Self) {
        self.batches += more.batches;
        self.readings += more.readings;
        self.bytes += more.bytes;
    }
}

impl SubAssign for Tally {
    fn sub_assign(&mut self, less: Self) {
        self.batches = self.batches.saturating_sub(less.batches);
        self.readings = self.readings.saturating_sub(less.readings);
        self.bytes = self.bytes.saturating_sub(less.bytes);
    }
}

/// The file of a segment.
pub fn file_name(number: u64) -> String {
    format!("{PREFIX}{number:010}")
}

/// The segment of a file, if it is one.
pub fn number_of(name: &str) -> Option<u64> {
    let number = name.strip_prefix(PREFIX)?.parse().ok()?;
    (file_name(number) == name).then_some(number)
}

/// What a reading of a segment's file brought to light.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// The segment as its frames tell it: batches that are missing between others are in its
    /// total, since each batch says how many readings came before it.
    pub segment: Segment,
    /// The sequences that are really there.
    pub found: Ranges,
    /// The newest boot that wrote to it.
    pub boot_counter: u64,
    /// Parts with something readable behind them: first byte and the byte after the last.
    pub damage: Vec<(u64, u64)>,
    /// Where the readable part ends, if that is not the end of the file.
    pub torn: Option<u64>,
}

/// Reads the file of `known` up to `end` and hands every batch to `visit`. Without `verify` only
/// the heads of batches are read; damage inside one shows when that batch is read.
pub fn survey(
    file: &dyn DiskFile,
    known: &Segment,
    end: u64,
    tag: u32,
    verify: bool,
    visit: &mut dyn FnMut(&BatchFacts, Place),
) -> io::Result<Survey> {
    let mut survey = Survey {
        segment: Segment {
            level: known.level,
            ..Segment::new(known.number, known.first, known.appended_before)
        },
        found: Ranges::default(),
        boot_counter: 0,
        damage: Vec::new(),
        torn: None,
    };
    let (mut at, mut readable_to) = (0, 0);
    loop {
        let frame = match look(file, at, end)? {
            Found::Frame(frame) => frame,
            Found::Damage { to } => {
                at = to;
                continue;
            }
            Found::Torn | Found::End => break,
        };
        at = frame.end();
        match frame.kind {
            Some(Kind::Batch | Kind::Thinned) => {
                let Some((facts, place)) = batch_of(file, &frame, known, verify)? else { continue };
                if facts.epoch_tag != tag || facts.sequence.0 <= survey.segment.last {
                    continue;
                }
                survey.count_in(&facts, place.length);
                visit(&facts, place);
            }
            _ if verify && frame.body(file)?.is_none() => continue,
            _ => {}
        }
        if frame.at > readable_to {
            survey.damage.push((readable_to, frame.at));
        }
        readable_to = at;
    }
    survey.segment.length = readable_to;
    survey.torn = (readable_to < end).then_some(readable_to);
    Ok(survey)
}

impl Survey {
    fn count_in(&mut self, facts: &BatchFacts, bytes: u32) {
        let segment = &mut self.segment;
        if segment.first == 0 {
            // The file's head is damaged: its first batch tells where it begins.
            *segment = Segment {
                level: segment.level,
                ..Segment::new(segment.number, facts.sequence.0, facts.appended_before)
            };
        }
        // What should have stood between this batch and the one before it.
        let before = segment.appended_before + segment.total.readings;
        segment.total += Tally {
            batches: facts.sequence.0 - segment.last - 1,
            readings: facts.appended_before.saturating_sub(before),
            bytes: 0,
        };
        segment.count_in(facts, bytes);
        self.found.insert(facts.sequence.0..=facts.sequence.0);
        self.boot_counter = self.boot_counter.max(facts.boot_counter);
    }
}

fn batch_of(
    file: &dyn DiskFile,
    frame: &Frame,
    known: &Segment,
    verify: bool,
) -> io::Result<Option<(BatchFacts, Place)>> {
    let lead = frame.lead();
    let facts = if verify {
        frame.body(file)?.and_then(|body| BatchFacts::decode(frame.kind, &body))
    } else {
        let mut head = vec![0; lead];
        let whole = file.read_at(&mut head, frame.body_at())? == lead;
        BatchFacts::decode(frame.kind, &head).filter(|_| whole)
    };
    Ok(facts.map(|facts| {
        let length = frame.length.saturating_sub(lead as u32);
        let place = Place { segment: known.number, at: frame.at, length, count: facts.count };
        (facts, place)
    }))
}
