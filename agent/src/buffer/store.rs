//! The store: segments, logbook and catalogue as one. Blocking; owned by the buffer's thread.
//! Durable first, then memory: nothing here is said to be so before a power cut would leave it so.
//!
//! At all times, also across restarts, in readings:
//! `appended = acknowledged + dropped + backlog`.
//!
//! `recovery.rs` opens it, `inflow.rs` appends, `outflow.rs` reads and forgets what `charts.rs` and the
//! catalogue find, `room.rs`, `thin.rs` and `clear.rs` keep it in its budget, `tail.rs` keeps what a
//! server may lose, `opening.rs` knows who writes and by which clock. What stands here is what they
//! share: the books, and how news become durable.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;

use forebay_config::agent::WhenFull;
use forebay_config::classes::Class;
use forebay_config::units::ByteSize;
use forebay_protocols::reading::{Point, PointId};
use forebay_protocols::sync::batch::{Epoch, Sequence};
use forebay_protocols::sync::ranges::Ranges;
use forebay_protocols::sync::wire;
use forebay_protocols::sync::wire::gap::Reason;

use super::acknowledged::Acknowledged;
use super::boots::Boots;
use super::catalogue::{Catalogue, Fault, Place};
use super::charts::Charts;
use super::classes::PointRules;
use super::dictionary::Dictionary;
use super::disk::{Disk, DiskFile};
use super::gaps::Gaps;
use super::lineage::Lineage;
use super::logbook::{Books, Boot, Entry, Life, Logbook};
use super::segments::{Segment, Tally};
use super::{BufferError, Counts, DroppedBy, Status};
use crate::clock::machine::Machine;

/// What the store must keep to.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Bytes on disk, overhead included.
    pub limit: u64,
    /// Bytes to leave free on the file system.
    pub reserve: u64,
    /// What gives way, of points that are in none of the classes.
    pub when_full: WhenFull,
    /// Bytes of acknowledged segments to keep within the limit.
    pub tail: u64,
    /// Points with a rule of their own.
    pub classes: Vec<Class>,
}

/// An open store. Dropping it without [`Store::close`] is a crash, which it survives.
pub struct Store {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) machine: Machine,
    pub(super) rules: Rules,
    pub(super) epoch: Epoch,
    pub(super) boot: Boot,
    pub(super) boots: Boots,
    /// The last sign of life, of this run or, before there is one, of an earlier one.
    pub(super) life: Option<Life>,
    pub(super) lineage: Lineage,
    /// Is the present opening durable?
    pub(super) opening_written: bool,
    /// The highest numbers of points and gaps that are durable: no others are told to a server, which
    /// would know them for ever, while a power cut would have them given again.
    pub(super) durable: (u32, u64),
    pub(super) acknowledged: Acknowledged,
    pub(super) logbook: Logbook,
    pub(super) catalogue: Catalogue,
    pub(super) charts: Charts,
    pub(super) dictionary: Dictionary,
    /// Of the points in it.
    pub(super) points: PointRules,
    pub(super) gaps: Gaps,
    /// Every segment that holds something alive, those of the tail, and the growing one.
    pub(super) segments: BTreeMap<u64, Segment>,
    /// The one that grows.
    pub(super) growing: Option<u64>,
    /// Its file; `None` after a failure.
    pub(super) writer: Option<Box<dyn DiskFile>>,
    /// The segment read last.
    pub(super) reader: Option<(u64, Box<dyn DiskFile>)>,
    /// Segments to delete once the logbook says so, with their lengths.
    pub(super) retired: Vec<(u64, u64)>,
    pub(super) next_segment: u64,
    pub(super) next_sequence: u64,
    pub(super) reserved: u64,
    /// Readings since the epoch began.
    pub(super) appended: u64,
    /// The same, dropped or lost.
    pub(super) dropped: u64,
    /// Of those: no room.
    pub(super) dropped_full: u64,
    /// Of those: left out of batches that stayed.
    pub(super) dropped_thinned: u64,
    /// A file was renamed and the folder not synced since: before the logbook is.
    pub(super) folder_unsynced: bool,
    /// How often reading a batch failed; after a few times it is given up.
    pub(super) unreadable: HashMap<u64, u8>,
    /// What the disk said last, while it refuses writes.
    pub(super) fault: Option<String>,
    pub(super) around: Around,
}

/// Bytes of the budget that are not segments or logbook, and room made beyond it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Around {
    /// As of the last look.
    pub catalogue: u64,
    /// As of the last look.
    pub damaged: u64,
    pub ballast: u64,
    /// Bytes freed while the file system was short, which may be used again.
    pub allowance: u64,
}

impl Store {
    /// Numbers for points; durable with the next append.
    pub fn define(&mut self, points: &[Arc<Point>]) -> Vec<PointId> {
        let mut numbers = Vec::with_capacity(points.len());
        for point in points {
            let (number, new) = self.dictionary.define(point);
            if new {
                self.points.enter(point);
                self.logbook.push([Entry::Point(wire::DictionaryEntry::new(PointId(number), point))]);
                self.with_catalogue(|catalogue| catalogue.copy_point(number, point));
            }
            numbers.push(PointId(number));
        }
        numbers
    }

    /// Dictionary entries with numbers > `after`.
    pub fn dictionary(&self, after: PointId) -> Vec<(PointId, Arc<Point>)> {
        self.dictionary.after(after.0).map(|(number, point)| (number, point.clone())).collect()
    }

    /// Numbers a gap record; durable with the next append.
    pub fn record_gap(&mut self, gap: wire::Gap) {
        let gap = self.gaps.record(gap);
        self.logbook.push([Entry::Gap(gap.clone())]);
        let lowest = self.gaps.lowest();
        self.with_catalogue(|catalogue| {
            catalogue.copy_gap(&gap)?;
            catalogue.forget_gaps_below(lowest)
        });
    }

    /// Gap records numbered > `after`, at most `most`.
    pub fn gaps(&mut self, after: u64, most: usize) -> Vec<wire::Gap> {
        self.gaps.after(after, most)
    }

    /// As [`Store::dictionary`], for a server: what is not durable yet is made so first, or left out.
    pub fn dictionary_to_tell(&mut self, after: PointId) -> Vec<(PointId, Arc<Point>)> {
        self.write_numbered();
        let mut entries = self.dictionary(after);
        entries.retain(|(number, _)| number.0 <= self.durable.0);
        entries
    }

    /// As [`Store::gaps`], for a server: what is not durable yet is made so first, or left out.
    pub fn gaps_to_tell(&mut self, after: u64, most: usize) -> Vec<wire::Gap> {
        self.write_numbered();
        let mut gaps = self.gaps(after, most);
        gaps.retain(|gap| gap.number <= self.durable.1);
        gaps
    }

    fn write_numbered(&mut self) {
        if self.durable != self.numbered()
            && let Err(error) = self.write_logbook()
        {
            drop(self.refused(&error));
        }
    }

    /// The highest numbers that were given to points and gaps.
    fn numbered(&self) -> (u32, u64) {
        (self.dictionary.revision(), self.gaps.next().saturating_sub(1))
    }

    /// The sequence the next batch must carry.
    pub fn next_sequence(&self) -> Sequence {
        Sequence(self.next_sequence)
    }

    /// The books as they stand.
    pub fn status(&self) -> Status {
        let mut backlog = Tally::default();
        self.segments.values().for_each(|segment| backlog += segment.live());
        let mut living = self.segments.values().filter_map(Segment::living);
        let oldest = living.next();
        let newest = living.next_back().or(oldest);
        Status {
            counts: Counts {
                appended: self.appended,
                dropped: self.dropped,
                acknowledged: self.appended.saturating_sub(self.dropped).saturating_sub(backlog.readings),
            },
            backlog_batches: backlog.batches,
            backlog_readings: backlog.readings,
            backlog_bytes: backlog.bytes,
            disk_bytes: self.disk_bytes(),
            dropped_by: DroppedBy {
                full: self.dropped_full,
                thinned: self.dropped_thinned,
                corrupt: self.dropped.saturating_sub(self.dropped_full + self.dropped_thinned),
            },
            tail_bytes: self.tail_bytes(),
            limit_bytes: self.rules.limit,
            oldest: oldest.map(|(first, _)| Sequence(first)),
            newest: newest.map(|(_, last)| Sequence(last)),
            writable: self.fault.is_none(),
            // Known to whoever carries the acknowledgement.
            acknowledged_at: None,
            // Known to whoever saw it appended.
            oldest_waits: None,
        }
    }

    /// What the disk said last, while it refuses writes.
    pub fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    /// To be called every second or so: acknowledgements, definitions and gaps become durable,
    /// empty segments go.
    pub fn tick(&mut self) {
        self.knock();
        let news = self.logbook.has_news();
        match self.write_logbook() {
            Ok(()) if news => self.fault = None,
            Ok(()) => {}
            Err(error) => drop(self.refused(&error)),
        }
        self.look_around();
    }

    /// The same in between, while acknowledgements may still wait.
    pub fn tick_lightly(&mut self) {
        if self.fault.is_some() || self.logbook.has_urgent_news() {
            self.tick();
        } else {
            self.look_around();
        }
    }

    /// To be called now and then.
    pub fn rest(&mut self) {
        self.copy_acknowledged();
        self.with_catalogue(Catalogue::flush);
        self.keep_catalogue_small();
    }

    /// Ends the work so that the next opening has nothing to mend.
    pub fn close(mut self) {
        self.seal_growing();
        self.tick();
        if self.fault.is_some() {
            return;
        }
        self.copy_acknowledged();
        self.with_catalogue(Catalogue::flush);
        self.logbook.push([self.end_of_life(), Entry::Books(Books { closed: 1, ..self.books() })]);
        // If this fails the next opening takes it for a crash, which costs a few sequences.
        let nothing = None::<std::iter::Empty<Entry>>;
        drop(self.logbook.write(self.disk.as_ref(), self.epoch, nothing));
    }

    /// After a refusal even the folder may still have to be made.
    pub(super) fn knock(&self) {
        if self.fault.is_some() {
            // If this fails too, the write that follows says why.
            drop(self.disk.prepare());
        }
    }

    /// The totals as the logbook keeps them.
    pub(super) fn books(&self) -> Books {
        Books {
            appended: self.appended,
            dropped: self.dropped,
            reserved: self.reserved,
            next_sequence: self.next_sequence,
            next_segment: self.next_segment,
            next_gap: self.gaps.next(),
            closed: 0,
            dropped_full: self.dropped_full,
            dropped_thinned: self.dropped_thinned,
        }
    }

    /// Makes everything said so far durable, then deletes the segments that are done with.
    pub(super) fn write_logbook(&mut self) -> io::Result<()> {
        if self.folder_unsynced {
            self.disk.sync_folder()?;
            self.folder_unsynced = false;
        }
        if self.logbook.has_news() {
            let mut result = self.write_news();
            if result.as_ref().is_err_and(is_full) && self.spend_ballast() {
                result = self.write_news();
            }
            result?;
            self.opening_written = true;
        }
        self.durable = self.numbered();
        self.delete_retired();
        Ok(())
    }

    fn write_news(&mut self) -> io::Result<()> {
        let mut logbook = std::mem::take(&mut self.logbook);
        let snapshot = logbook.wants_snapshot().then(|| self.snapshot());
        let result = logbook.write(self.disk.as_ref(), self.epoch, snapshot);
        self.logbook = logbook;
        result
    }

    /// Everything that is still true, for a new logbook.
    fn snapshot(&self) -> impl Iterator<Item = Entry> {
        // If it was a clean stop, there was a start since.
        let life = self.life.map(|life| Entry::Life(Life { clean: false, ..life }));
        let point =
            |(number, point): (PointId, &Arc<Point>)| Entry::Point(wire::DictionaryEntry::new(number, point));
        let segments = self.segments.values().flat_map(|segment| {
            let growing = self.growing == Some(segment.number);
            [if growing { segment.made() } else { segment.seal() }, segment.forgotten_so_far()]
        });
        [Entry::Boot(self.boot.clone()), Entry::Books(self.books())]
            .into_iter()
            .chain(self.boots.entries())
            .chain(life)
            .chain(self.lineage.entries())
            .chain(self.acknowledged.entries())
            .chain(self.dictionary.after(0).map(point))
            .chain(self.gaps.iter().cloned().map(Entry::Gap))
            .chain(segments)
    }

    /// Batches are gone that were never acknowledged: counted, with a gap record.
    pub(super) fn lose(&mut self, number: u64, ranges: &Ranges, lost: Tally, reason: Reason, span: Span) {
        let Some(segment) = self.segments.get_mut(&number) else { return };
        let forgotten = segment.forget(ranges, lost);
        self.count_out(vec![forgotten], lost.readings, reason, span);
    }

    /// Counts readings as dropped, with a gap record. `why` and the count are one record of the
    /// logbook: half of it would be readings that nobody can account for.
    pub(super) fn count_out(&mut self, mut why: Vec<Entry>, readings: u64, reason: Reason, span: Span) {
        self.dropped += readings;
        match reason {
            Reason::BufferFull => self.dropped_full += readings,
            Reason::Thinned => self.dropped_thinned += readings,
            _ => {}
        }
        let gap = self.gaps.record(span.gap(reason, readings));
        why.extend([Entry::Books(self.books()), Entry::Gap(gap.clone())]);
        self.logbook.push(why);
        self.with_catalogue(|catalogue| catalogue.copy_gap(&gap));
    }

    /// Works with the catalogue. If it faults it is replaced by one in memory and asked again:
    /// whatever `work` changes must be in the segments and the books already.
    pub(super) fn with_catalogue<T: Default>(
        &mut self,
        mut work: impl FnMut(&mut Catalogue) -> Result<T, Fault>,
    ) -> T {
        match work(&mut self.catalogue) {
            Ok(done) => done,
            Err(fault) => {
                tracing::warn!(%fault, "The buffer's catalogue is rebuilt in memory; nothing is lost.");
                self.catalogue = Catalogue::in_memory();
                self.index_growing();
                work(&mut self.catalogue).unwrap_or_default()
            }
        }
    }

    /// Enters what is alive in the growing segment into the catalogue, reading the heads of its
    /// batches.
    pub(super) fn index_growing(&mut self) {
        let Some(segment) = self.growing.and_then(|number| self.segments.get(&number)).cloned() else {
            return;
        };
        let Ok(heads) = self.heads_of(&segment) else {
            // Once it is sealed it is looked at again.
            return self.seal_growing();
        };
        let alive = |place: &&(u64, Place)| !segment.forgotten.contains(place.0);
        for (sequence, place) in heads.places.iter().filter(alive) {
            self.with_catalogue(|catalogue| catalogue.insert(*sequence, place));
        }
    }

    /// For the day the logbook is damaged.
    fn copy_acknowledged(&mut self) {
        if let Some(news) = self.acknowledged.news() {
            self.with_catalogue(|catalogue| catalogue.copy_acknowledged(&news));
        }
    }

    pub(super) fn refused(&mut self, error: &io::Error) -> BufferError {
        let words = error.to_string();
        self.fault = Some(words.clone());
        BufferError::Disk(words)
    }
}

/// Where in time batches were, and by which clocks that was written down.
#[derive(Clone, Debug, Default)]
pub(super) struct Span {
    /// Wall time of the first and the last reading.
    pub wall: (i64, i64),
    pub start: Option<wire::GapEnd>,
    pub end: Option<wire::GapEnd>,
}

impl Span {
    /// The gap that they leave.
    pub fn gap(self, reason: Reason, count: u64) -> wire::Gap {
        wire::Gap {
            from_us: self.wall.0,
            to_us: self.wall.1,
            count,
            reason: reason as i32,
            start: self.start,
            end: self.end,
            ..wire::Gap::default()
        }
    }
}

impl From<(i64, i64)> for Span {
    fn from(wall: (i64, i64)) -> Self {
        Self { wall, ..Self::default() }
    }
}

impl Rules {
    /// A small budget needs small segments, since they are dropped and deleted whole.
    pub fn segment_bytes(&self) -> u64 {
        (self.limit / 32).clamp(16 << 10, 4 << 20)
    }

    /// sled takes a few MiB whatever it holds; a small budget has little to find anyway.
    pub fn catalogue_on_disk(&self) -> bool {
        self.limit >= ByteSize::mib(16).0
    }
}

/// Does more room help?
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
