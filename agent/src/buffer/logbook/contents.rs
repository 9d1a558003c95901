//! Reading the logbook: its records from the first to the last, folded into what is still true.
//! Damage costs the records it lies in and is counted; a torn tail was never synced and costs
//! nothing. Nothing is written here.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::Arc;

use forebay_protocols::reading::Point;
use forebay_protocols::sync::batch::Epoch;
use forebay_protocols::sync::wire;
use prost::Message;

use super::LOGBOOK;
use super::record::{Books, Boot, Entry, Life, Record, Sequences};
use crate::buffer::acknowledged::Acknowledged;
use crate::buffer::boots::Boots;
use crate::buffer::disk::{Disk, DiskFile};
use crate::buffer::frame::{FileFacts, Found, Frame, Kind, look};
use crate::buffer::lineage::Lineage;
use crate::buffer::segments::{Segment, Tally};

/// What a logbook says, folded.
#[derive(Debug, Default)]
pub struct Contents {
    /// Of the file's head; `None` if that is damaged.
    pub epoch: Option<Epoch>,
    /// The last boot.
    pub boot: Option<Boot>,
    /// Every segment that is not retired; the flag says whether it is sealed.
    pub segments: BTreeMap<u64, (Segment, bool)>,
    /// The dictionary as far as it was readable.
    pub points: BTreeMap<u32, Arc<Point>>,
    /// The gaps.
    pub gaps: BTreeMap<u64, wire::Gap>,
    /// What a server has.
    pub acknowledged: Acknowledged,
    /// The openings.
    pub lineage: Lineage,
    /// The boots.
    pub boots: Boots,
    /// The last sign of life of the last run that gave one.
    pub life: Option<Life>,
    /// The totals.
    pub books: Books,
    /// Is a clean stop the last thing that happened?
    pub closed: bool,
    /// Bytes from the middle that could not be read.
    pub damaged_bytes: u64,
    /// Is there garbage at the end?
    pub torn: bool,
}

impl Contents {
    /// Was all of it readable that was ever synced? A torn tail never was.
    pub fn is_whole(&self) -> bool {
        self.epoch.is_some() && self.damaged_bytes == 0
    }

    /// Reads the logbook; `None` if there is none. `length` is where it may be continued.
    pub fn load(disk: &dyn Disk) -> io::Result<Option<(Self, u64)>> {
        let file = match disk.open(LOGBOOK) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let end = file.length()?;
        let mut contents = Self::default();
        // Damage is what has something readable behind it; anything else is a torn tail.
        let (mut at, mut readable_to) = (0, 0);
        loop {
            match look(file.as_ref(), at, end)? {
                Found::Frame(frame) => {
                    at = frame.end();
                    if contents.take_in(file.as_ref(), frame)? {
                        contents.damaged_bytes += frame.at - readable_to;
                        readable_to = at;
                    }
                }
                Found::Damage { to } => at = to,
                Found::Torn | Found::End => break,
            }
        }
        contents.torn = readable_to < end;
        if contents.torn || contents.damaged_bytes > 0 {
            contents.closed = false;
        }
        Ok(Some((contents, readable_to)))
    }

    /// False if the frame is not what was written.
    fn take_in(&mut self, file: &dyn DiskFile, frame: Frame) -> io::Result<bool> {
        let Some(body) = frame.body(file)? else { return Ok(false) };
        match frame.kind {
            Some(Kind::File) => {
                self.epoch = FileFacts::read(file)?.filter(|facts| !facts.segment).map(|facts| facts.epoch);
            }
            Some(Kind::Record) => {
                let Ok(record) = Record::decode(&*body) else { return Ok(false) };
                self.closed = false;
                record.entries.into_iter().filter_map(|wrapped| wrapped.entry).for_each(|e| self.fold(e));
            }
            Some(Kind::Batch | Kind::Thinned) | None => {}
        }
        Ok(true)
    }

    fn fold(&mut self, entry: Entry) {
        match entry {
            Entry::Boot(boot) => {
                self.boots.begin(boot.counter, &boot.id);
                self.boot = Some(boot);
                if let Some(life) = &mut self.life {
                    // Somebody ran after it, and nobody knows how that ended.
                    life.clean = false;
                }
            }
            Entry::Made(made) => {
                self.books.next_segment = self.books.next_segment.max(made.segment + 1);
                let mut segment = Segment::new(made.segment, made.first, made.appended_before);
                segment.boot = made.boot;
                self.segments.entry(made.segment).or_insert((segment, false));
            }
            Entry::Sealed(sealed) => {
                self.books.next_segment = self.books.next_segment.max(sealed.segment + 1);
                let (segment, complete) = self
                    .segments
                    .entry(sealed.segment)
                    .or_insert_with(|| (Segment::new(sealed.segment, sealed.first, 0), false));
                segment.unseal(&sealed);
                *complete = true;
            }
            Entry::Forgotten(forgotten) => {
                if let Some((segment, _)) = self.segments.get_mut(&forgotten.segment) {
                    for pair in forgotten.ranges.chunks_exact(2) {
                        segment.forgotten.insert(pair[0]..=pair[1]);
                    }
                    segment.gone += Tally {
                        batches: forgotten.batches,
                        readings: forgotten.readings,
                        bytes: forgotten.bytes,
                    };
                }
            }
            Entry::Retired(number) => {
                if let Some((segment, _)) = self.segments.remove(&number) {
                    self.acknowledged.bury(&segment);
                }
            }
            Entry::Revived(revived) => {
                if let Some((segment, _)) = self.segments.get_mut(&revived.segment) {
                    let tally =
                        Tally { batches: revived.batches, readings: revived.readings, bytes: revived.bytes };
                    segment.revive(&Sequences { ranges: revived.ranges }.set(), tally);
                }
            }
            Entry::Thinned(thinned) => {
                if let Some((segment, _)) = self.segments.get_mut(&thinned.segment) {
                    segment.thin(&thinned);
                }
            }
            Entry::Acknowledged(sequences) => self.acknowledged.insert(&sequences.set()),
            Entry::Unacknowledged(sequences) => self.acknowledged.remove(&sequences.set()),
            Entry::Past(past) => self.acknowledged.remember(past),
            Entry::Opening(opening) => self.lineage.push(opening),
            Entry::Greeted(id) => drop(self.lineage.greeted(&id)),
            Entry::BootKnown(note) => self.boots.note(&note),
            Entry::Life(life) => {
                self.boots.saw(&life);
                self.life = Some(life);
            }
            Entry::Point(entry) => {
                let mut point = entry.describe();
                // Most have device and unit of the one before: ten thousand points need not keep their own.
                if let Some((_, before)) = self.points.last_key_value() {
                    let share = |own: &mut Arc<str>, others: &Arc<str>| {
                        if own == others {
                            own.clone_from(others);
                        }
                    };
                    share(&mut point.device, &before.device);
                    share(&mut point.unit, &before.unit);
                }
                self.points.insert(entry.point, Arc::new(point));
            }
            Entry::Gap(gap) => {
                self.books.next_gap = self.books.next_gap.max(gap.number + 1);
                self.gaps.insert(gap.number, gap);
            }
            Entry::Books(books) => {
                let own = &mut self.books;
                own.appended = own.appended.max(books.appended);
                own.dropped = own.dropped.max(books.dropped);
                own.reserved = own.reserved.max(books.reserved);
                own.next_sequence = own.next_sequence.max(books.next_sequence);
                own.next_segment = own.next_segment.max(books.next_segment);
                own.next_gap = own.next_gap.max(books.next_gap);
                own.dropped_full = own.dropped_full.max(books.dropped_full);
                own.dropped_thinned = own.dropped_thinned.max(books.dropped_thinned);
                self.closed = books.closed != 0;
            }
        }
    }
}
