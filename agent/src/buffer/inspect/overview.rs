//! The buffer's books at a glance. Reads the logbook, the heads of batches in segments that are
//! not sealed, and two batches: the oldest and the newest that wait.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use forebay_protocols::sync::batch::{self, Epoch};
use forebay_protocols::sync::wire;
use forebay_protocols::sync::wire::gap::Reason;

use super::trouble::{Trouble, What};
use super::user::User;
use super::walk::{Depth, Piece, Walk, batch_at};
use super::{Book, Inspection, Opened, Part, Standing};
use crate::buffer::DroppedBy;
use crate::buffer::disk::{DAMAGED, Disk};
use crate::buffer::frame::{BatchFacts, epoch_tag};
use crate::buffer::logbook::LOGBOOK;
use crate::buffer::segments::{Segment, Tally, number_of};

/// The rate is told from this much of the newest data.
const RATE_OVER_US: i64 = 3_600_000_000;
/// From less than this no rate can be told.
const RATE_AT_LEAST_US: i64 = 60_000_000;

/// Everything about a buffer that can be told quickly.
#[derive(Debug)]
pub struct Overview {
    /// The folder.
    pub folder: PathBuf,
    /// Is an agent using it?
    pub user: User,
    /// The life of this store; `None` where nothing tells.
    pub epoch: Option<Epoch>,
    /// The last boot, counted from 1.
    pub boot: Option<u64>,
    /// Was the last thing that happened a clean stop?
    pub closed: bool,
    /// What waits for the server.
    pub backlog: Backlog,
    /// The sequence that the next batch gets; after a power cut a higher one.
    pub next_sequence: u64,
    /// Readings made durable since the epoch began.
    pub appended: u64,
    /// Of those, what the server has.
    pub acknowledged: u64,
    /// Of those, what was given up.
    pub dropped: u64,
    /// The same by reason, as far as gap records tell.
    pub dropped_by: DroppedBy,
    /// Bytes it takes.
    pub disk: OnDisk,
    /// Bytes an ordinary process may still write there.
    pub free: Option<u64>,
    /// Segments that hold batches.
    pub segments: u64,
    /// Of those, segments of which all was acknowledged.
    pub finished_segments: u64,
    /// Points in the dictionary.
    pub points: u64,
    /// Gap records.
    pub gaps: u64,
    /// The latest of them, latest last, each with the name of the point it concerns.
    pub latest_gaps: Vec<(wire::Gap, Option<String>)>,
    /// What was set aside as damaged, with lengths.
    pub damaged: Vec<(String, u64)>,
    /// Bytes a second that the newest data took.
    pub rate: Option<f64>,
    /// What is wrong, as far as can be seen without reading it all.
    pub troubles: Vec<Trouble>,
}

/// What waits for the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Batches.
    pub batches: u64,
    /// Readings in them.
    pub readings: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// The lowest sequence.
    pub oldest: Option<Edge>,
    /// The highest.
    pub newest: Option<Edge>,
}

/// One end of the backlog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    /// The batch.
    pub sequence: u64,
    /// Its first reading (of the oldest batch) or its last (of the newest), wall time in
    /// microseconds since 1970, as the gateway believed.
    pub wall_us: i64,
    /// Was the gateway's clock synchronised? `None` if the batch does not tell.
    pub synchronised: Option<bool>,
}

/// Bytes by what they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OnDisk {
    /// Batches.
    pub segments: u64,
    /// The logbook.
    pub logbook: u64,
    /// The catalogue.
    pub catalogue: u64,
    /// Parts set aside.
    pub damaged: u64,
    /// Ballast and what else lies there.
    pub other: u64,
}

impl OnDisk {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.segments + self.logbook + self.catalogue + self.damaged + self.other
    }
}

/// A segment, and what of it waits.
struct Counted {
    part: Part,
    /// As its file tells it, or, where it is sealed, the logbook.
    segment: Segment,
    waiting: Tally,
}

impl Inspection {
    /// The books, with the latest `gaps` gap records.
    pub fn overview(&self, gaps: usize) -> io::Result<Overview> {
        let mut troubles = self.book_troubles();
        let mut counted = Vec::new();
        for part in self.parts() {
            counted.extend(self.count(part, &mut troubles)?);
        }
        let mut waiting = Tally::default();
        counted.iter().for_each(|one| waiting += one.waiting);
        let backlog = Backlog {
            batches: waiting.batches,
            readings: waiting.readings,
            bytes: waiting.bytes,
            oldest: self.edge(counted.iter(), false),
            newest: self.edge(counted.iter().rev(), true),
        };
        let books = &self.contents.books;
        let told = counted.iter().map(|one| reached(&one.segment)).max();
        let appended =
            books.appended.max(told.unwrap_or(0)).max(books.dropped.saturating_add(waiting.readings));
        let last = counted.iter().map(|one| one.segment.last).max().unwrap_or(0);
        Ok(Overview {
            folder: self.folder.clone(),
            user: self.user,
            epoch: self.epoch,
            boot: self.contents.boot.as_ref().map(|boot| boot.counter),
            closed: self.contents.closed,
            next_sequence: books.next_sequence.max(last.saturating_add(1)),
            appended,
            acknowledged: appended.saturating_sub(books.dropped).saturating_sub(backlog.readings),
            dropped: books.dropped,
            dropped_by: self.dropped_by(),
            disk: self.on_disk(),
            free: self.window.free().ok(),
            segments: counted.len() as u64,
            finished_segments: counted.iter().filter(|one| one.finished()).count() as u64,
            points: self.contents.points.len() as u64,
            gaps: self.contents.gaps.len() as u64,
            latest_gaps: self.latest_gaps(gaps),
            damaged: self.damaged_parts(),
            rate: rate(&counted),
            backlog,
            troubles,
        })
    }

    /// What is wrong with the logbook itself.
    pub(super) fn book_troubles(&self) -> Vec<Trouble> {
        let contents = &self.contents;
        let mut found = Vec::new();
        match &self.book {
            Book::Gone => found.push(What::LogbookGone),
            Book::Unreadable(why) => found.push(What::LogbookUnreadable(why.clone())),
            Book::Read if contents.damaged_bytes > 0 => {
                found.push(What::LogbookDamaged(contents.damaged_bytes));
            }
            Book::Read if contents.epoch.is_none() => {
                found.push(What::LogbookDamaged(self.files.get(LOGBOOK).copied().unwrap_or(0)));
            }
            Book::Read => {}
        }
        if contents.torn && contents.epoch.is_some() && !self.user.may_write() {
            found.push(What::LogbookTorn);
        }
        let highest = contents.points.keys().next_back().copied().unwrap_or(0);
        let holes: Vec<u32> = (1..=highest).filter(|number| !contents.points.contains_key(number)).collect();
        if !holes.is_empty() {
            found.push(What::PointsLost(holes));
        }
        let explained: u64 = self.explained().iter().map(|(_, count)| count).sum();
        let all_gaps_kept = contents.gaps.len() as u64 + 1 == contents.books.next_gap;
        if all_gaps_kept && contents.books.dropped > explained {
            found.push(What::Unexplained { dropped: contents.books.dropped, explained });
        }
        found.into_iter().map(|what| Trouble { file: LOGBOOK.into(), bytes: None, what }).collect()
    }

    /// Readings that gap records say were dropped.
    fn explained(&self) -> Vec<(Reason, u64)> {
        let dropping =
            |gap: &&wire::Gap| matches!(gap.reason(), Reason::BufferFull | Reason::Corrupt | Reason::Thinned);
        self.contents.gaps.values().filter(dropping).map(|gap| (gap.reason(), gap.count)).collect()
    }

    fn dropped_by(&self) -> DroppedBy {
        let explained = self.explained();
        let of = |reason| explained.iter().filter(|(r, _)| *r == reason).map(|(_, count)| count).sum();
        DroppedBy { full: of(Reason::BufferFull), corrupt: of(Reason::Corrupt), thinned: of(Reason::Thinned) }
    }

    /// `None` if it is not the agent's, or finished.
    fn count(&self, part: Part, troubles: &mut Vec<Trouble>) -> io::Result<Option<Counted>> {
        let trouble = |what| Trouble { file: part.file(), bytes: None, what };
        if part.standing == Standing::Alien {
            troubles.push(trouble(What::Alien));
        }
        if !part.counts() {
            return Ok(None);
        }
        let (file, end) = match self.open_part(&part) {
            Opened::File(file, end) => (file, end),
            Opened::Finished => return Ok(None),
            Opened::Gone => {
                let live = part.known.live();
                troubles.push(trouble(What::SegmentGone { batches: live.batches, readings: live.readings }));
                let segment = part.known.clone();
                return Ok(Some(Counted { part, segment, waiting: live }));
            }
            Opened::Refused(why) => {
                troubles.push(trouble(What::Unreadable(why.to_string())));
                let (segment, waiting) = (part.known.clone(), part.known.live());
                return Ok(Some(Counted { part, segment, waiting }));
            }
        };
        if part.standing == Standing::Sealed {
            if end < part.known.length {
                let bytes = Some((end, part.known.length));
                let why = "it is shorter than it was when it was complete".to_owned();
                troubles.push(Trouble { bytes, ..trouble(What::Unreadable(why)) });
            }
            let (segment, waiting) = (part.known.clone(), part.known.live());
            return Ok(Some(Counted { part, segment, waiting }));
        }
        let mut segment = Segment { length: end, ..part.known.clone() };
        segment.total = Tally::default();
        let mut waiting = Tally::default();
        let mut walk = Walk::new(file.as_ref(), end, Depth::Heads);
        while let Some((piece, ..)) = walk.step()? {
            let Piece::Batch(batch) = piece else { continue };
            if !self.is_ours(&batch.facts) || batch.facts.sequence.0 <= segment.last {
                continue;
            }
            let facts = &batch.facts;
            // So that what is missing between batches counts as appended.
            segment.total.readings =
                facts.appended_before.saturating_sub(segment.appended_before).max(segment.total.readings);
            segment.count_in(facts, batch.length);
            if part.waits(facts.sequence.0) {
                let (readings, bytes) = (u64::from(facts.count), u64::from(batch.length));
                waiting += Tally { batches: 1, readings, bytes };
            }
        }
        Ok(Some(Counted { part, segment, waiting }))
    }

    /// Is it of this epoch, as far as one is known?
    pub(super) fn is_ours(&self, facts: &BatchFacts) -> bool {
        self.epoch.is_none_or(|epoch| facts.epoch_tag == epoch_tag(epoch))
    }

    /// The first batch that waits, or the last.
    fn edge<'c>(&self, mut counted: impl Iterator<Item = &'c Counted>, last: bool) -> Option<Edge> {
        let one = counted.find(|one| one.waiting.batches > 0)?;
        let Opened::File(file, end) = self.open_part(&one.part) else { return None };
        let mut walk = Walk::new(file.as_ref(), end, Depth::Heads);
        let mut found = None;
        while let Some((piece, at, _)) = walk.step().ok()? {
            if let Piece::Batch(batch) = piece
                && self.is_ours(&batch.facts)
                && one.part.waits(batch.facts.sequence.0)
            {
                found = Some((batch.facts, at));
                if !last {
                    break;
                }
            }
        }
        let (facts, at) = found?;
        let side = |(from, to): (i64, i64)| if last { to } else { from };
        let peek = batch_at(file.as_ref(), at, end).ok().flatten().and_then(|b| batch::peek(&b).ok());
        let stamped = peek.filter(|peek| peek.span_us != (0, 0));
        Some(Edge {
            sequence: facts.sequence.0,
            wall_us: match stamped {
                Some(peek) => side(peek.span_us).saturating_add(peek.head.boot.wall_offset_us),
                None => side(facts.wall_us),
            },
            synchronised: peek.map(|peek| peek.head.boot.synchronised),
        })
    }

    fn on_disk(&self) -> OnDisk {
        let mut disk =
            OnDisk { catalogue: folder_bytes(&self.folder.join("catalogue")), ..OnDisk::default() };
        for (name, length) in &self.files {
            let of = match name.as_str() {
                LOGBOOK => &mut disk.logbook,
                name if name.starts_with(DAMAGED) => &mut disk.damaged,
                name if number_of(name).is_some() => &mut disk.segments,
                _ => &mut disk.other,
            };
            *of += length;
        }
        disk
    }

    fn damaged_parts(&self) -> Vec<(String, u64)> {
        let aside = self.files.iter().filter(|(name, _)| name.starts_with(DAMAGED));
        aside.map(|(name, length)| (name.clone(), *length)).collect()
    }

    fn latest_gaps(&self, most: usize) -> Vec<(wire::Gap, Option<String>)> {
        let mut latest: Vec<_> = self.contents.gaps.values().rev().take(most).cloned().collect();
        latest.reverse();
        let name = |gap: &wire::Gap| {
            let point = self.contents.points.get(&gap.point)?;
            Some(format!("{}/{}", point.device, point.name))
        };
        latest.into_iter().map(|gap| (gap.clone(), name(&gap))).collect()
    }
}

impl Counted {
    fn finished(&self) -> bool {
        self.segment.total.batches > 0 && self.waiting.batches == 0
    }
}

/// Readings of the epoch up to its end.
fn reached(segment: &Segment) -> u64 {
    segment.appended_before.saturating_add(segment.total.readings)
}

/// Bytes a second over the newest data, by the times that the gateway believed.
fn rate(counted: &[Counted]) -> Option<f64> {
    let mut newest = counted.iter().rev().filter_map(|one| Some((one.segment.wall_us?, one.segment.length)));
    let ((mut from, to), mut bytes) = newest.next()?;
    for ((earlier, until), length) in newest {
        // A clock that was set in between tells nothing.
        if until < to.saturating_sub(RATE_OVER_US) || earlier > from || until > to {
            break;
        }
        (from, bytes) = (earlier, bytes + length);
    }
    let span = to.saturating_sub(from);
    (span >= RATE_AT_LEAST_US).then(|| bytes as f64 / (span as f64 / 1e6))
}

/// Bytes of all files below a folder; what vanishes meanwhile or may not be seen counts nothing.
fn folder_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(about) if about.is_dir() => folder_bytes(&entry.path()),
        Ok(about) if about.is_file() => about.len(),
        _ => 0,
    });
    bytes.sum()
}
