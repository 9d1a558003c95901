//! Room: what the store does so as not to outgrow its budget or the file system.
//!
//! Room is made in this order: segments that are done with, then the tail, then what was set aside as
//! damaged, then, if the rule is to thin, half the readings of the oldest segment, then, unless the
//! rule is to stop, the oldest segment; where points have rules of their own, those of its readings
//! that may (`clear.rs`). While the file system is short of
//! its reserve the store does not shrink to nothing for others' sake: it stops growing, and gives
//! up as much old as it takes in new.

use std::io;

use forebay_config::agent::WhenFull;
use forebay_config::units::ByteSize;
use forebay_protocols::sync::batch::peek;
use forebay_protocols::sync::ranges::Ranges;
use forebay_protocols::sync::wire::GapEnd;
use forebay_protocols::sync::wire::gap::Reason;

use super::BufferError;
use super::catalogue::{Catalogue, Place};
use super::disk::{DAMAGED, DiskFile};
use super::frame::{epoch_tag, frame_at};
use super::segments::{Segment, file_name, survey};
use super::store::{Span, Store, is_full};

/// A file that takes room only to give it back when the disk is full and the logbook must be
/// written to go on.
pub(super) const BALLAST: &str = "ballast";
/// Made and deleted at once, to see whether the disk does that.
const PROBE: &str = "probe";
const BALLAST_BYTES: u64 = 64 << 10;
/// A catalogue below this size is never rebuilt for its size.
const CATALOGUE_FLOOR: u64 = 4 << 20;

impl Store {
    /// Everything the store takes on the disk.
    pub(super) fn disk_bytes(&self) -> u64 {
        let segments: u64 = self.segments.values().map(Segment::room).sum();
        let retired: u64 = self.retired.iter().map(|(_, length)| length).sum();
        let around = &self.around;
        segments + retired + self.logbook.length() + around.catalogue + around.damaged + around.ballast
    }

    /// Makes room for `need` bytes of batches, or says that there is none.
    pub(super) fn make_room(&mut self, need: u64) -> Result<(), BufferError> {
        let bytes = need;
        let need = need + self.margin();
        let fixed = self.logbook.length() + self.around.catalogue + self.around.ballast;
        if fixed + need > self.rules.limit {
            // Nothing that could be dropped would help.
            return Err(BufferError::Full {
                used: ByteSize(self.disk_bytes()),
                limit: ByteSize(self.rules.limit),
            });
        }
        loop {
            let used = self.disk_bytes();
            let over_budget = used + need > self.rules.limit;
            // A disk that does not answer will say so when it is written to.
            let free = self.disk.free().unwrap_or(u64::MAX);
            let short = free < self.rules.reserve.saturating_add(need);
            if !over_budget && (!short || self.around.allowance >= bytes) {
                self.around.allowance = if short { self.around.allowance - bytes } else { 0 };
                return Ok(());
            }
            let mut made = self.finish_retired() || self.drop_tail() || self.remove_damaged();
            if !made && self.points.has(WhenFull::Thin) {
                made = self.thin_oldest().map_err(|error| self.refused(&error))?;
            }
            if !made {
                made = self.give_up_oldest(true).map_err(|error| self.refused(&error))?;
            }
            if !made {
                return Err(BufferError::Full { used: ByteSize(used), limit: ByteSize(self.rules.limit) });
            }
            if short {
                self.around.allowance += used.saturating_sub(self.disk_bytes());
            }
        }
    }

    /// What an append may add besides its batches: heads, entries of the logbook, and what sled
    /// writes until its folder is looked at again.
    fn margin(&self) -> u64 {
        let catalogue = match self.catalogue {
            Catalogue::Sled(_) => 1 << 20,
            Catalogue::Memory(_) => 1 << 10,
        };
        // While a segment is rewritten it takes its room twice.
        let rewriting = self.points.only().is_none_or(|rule| rule == WhenFull::Thin);
        catalogue + if rewriting { self.rules.segment_bytes() } else { 0 }
    }

    /// The disk is full, whatever the budget says: something old makes room at once.
    pub(super) fn give_way(&mut self) -> bool {
        if self.drop_tail() {
            return true;
        }
        let mut gave_way = false;
        while self.give_up_oldest(false).unwrap_or(false) {
            gave_way = true;
            // A segment is cleared beside itself. What the next one needs for that must not be
            // taken by batches until then, so more than one is cleared if the ballast is spent.
            let rewriting = self.points.only().is_none();
            let fits = self.disk_bytes() + BALLAST_BYTES <= self.rules.limit;
            if !rewriting || self.around.ballast > 0 || !fits || self.lay_ballast().is_ok() {
                return true;
            }
        }
        gave_way
    }

    /// Gives up the oldest of what may be given up. False if that is nothing; an error if the disk
    /// would not let go of it.
    fn give_up_oldest(&mut self, growing_too: bool) -> io::Result<bool> {
        match self.points.only() {
            Some(WhenFull::Stop) => Ok(false),
            Some(WhenFull::DropOldest | WhenFull::Thin) => self.drop_oldest(growing_too),
            None => self.clear_oldest(growing_too),
        }
    }

    /// Drops what is alive in the oldest segment, and its file. The growing one only if
    /// `growing_too` and there is no other. False if there is nothing to drop; an error if the
    /// disk would not let go of it.
    pub(super) fn drop_oldest(&mut self, growing_too: bool) -> io::Result<bool> {
        let alive = |segment: &&Segment| segment.live().batches > 0;
        let Some(segment) = self.segments.values().find(alive).cloned() else { return Ok(false) };
        if self.growing == Some(segment.number) && !growing_too {
            return Ok(false);
        }
        self.ask_for_deletion()?;
        if self.growing == Some(segment.number) {
            self.seal_growing();
        }
        self.drop_whole(&segment)
    }

    /// Drops what is alive in a segment that does not grow, and its file.
    pub(super) fn drop_whole(&mut self, segment: &Segment) -> io::Result<bool> {
        let Some(span) = segment.span() else { return Ok(false) };
        let wall = self.living_span(segment).unwrap_or_else(|_| segment.wall().into());
        let all = Ranges::from(span);
        self.lose(segment.number, &all, segment.live(), Reason::BufferFull, wall);
        self.retire(segment.number);
        self.finish_retired();
        Ok(true)
    }

    /// Would the disk delete a file? A disk that was remounted read-only makes no room however
    /// much is dropped, and what lies on it must not be given up for nothing.
    pub(super) fn ask_for_deletion(&self) -> io::Result<()> {
        match self.disk.create(PROBE) {
            Err(error) if !is_full(&error) => Err(error),
            Err(_) => Ok(()),
            Ok(_) => self.disk.remove(PROBE),
        }
    }

    /// Deletes what is retired; even if the logbook cannot say so: on a full disk this is the only
    /// way to make room, and a segment that is missing at the next opening is counted exactly.
    pub(super) fn finish_retired(&mut self) -> bool {
        if self.retired.is_empty() {
            return false;
        }
        drop(self.write_logbook());
        let before = self.retired.len();
        self.delete_retired();
        self.retired.len() < before || self.retired.is_empty()
    }

    /// Deletes the files of retired segments; those that do not go stay in the list.
    pub(super) fn delete_retired(&mut self) {
        let mut left = Vec::new();
        for (number, length) in std::mem::take(&mut self.retired) {
            if self.reader.as_ref().is_some_and(|(open, _)| *open == number) {
                self.reader = None;
            }
            match self.disk.remove(&file_name(number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => left.push((number, length)),
                _ => {}
            }
        }
        self.retired = left;
    }

    /// Takes sequences out of the catalogue, a few at a time.
    pub(super) fn forget_places(&mut self, span: std::ops::RangeInclusive<u64>) {
        loop {
            let places = self.with_catalogue(|catalogue| catalogue.ahead(span.clone(), 1024));
            if places.is_empty() {
                return;
            }
            self.with_catalogue(|catalogue| {
                places.iter().try_for_each(|(sequence, _)| catalogue.remove(*sequence))
            });
        }
    }

    /// The file system is full: gives back the ballast. False if it was given back already.
    pub(super) fn spend_ballast(&mut self) -> bool {
        let spent = self.around.ballast > 0 && self.disk.remove(BALLAST).is_ok();
        self.around.ballast = if spent { 0 } else { self.around.ballast };
        spent
    }

    /// Looks at the sizes of what others write, and lays the ballast if there is room for it.
    pub(super) fn look_around(&mut self) {
        self.around.catalogue = self.catalogue.bytes();
        let room = self.rules.reserve.saturating_add(4 * BALLAST_BYTES);
        if self.around.ballast == 0
            && self.disk_bytes() + 4 * BALLAST_BYTES < self.rules.limit
            && self.disk.free().is_ok_and(|free| free > room)
        {
            drop(self.lay_ballast()); // Another time, perhaps.
        }
    }

    /// sled never gives space back. When it has grown far beyond need it starts again.
    pub(super) fn keep_catalogue_small(&mut self) {
        let bound = CATALOGUE_FLOOR.max(self.rules.limit / 16);
        let Some(folder) = self.disk.catalogue().filter(|_| self.catalogue.bytes() > bound) else { return };
        self.catalogue = Catalogue::in_memory();
        drop(std::fs::remove_dir_all(&folder));
        self.open_catalogue(&folder);
        self.around.catalogue = self.catalogue.bytes();
    }

    fn lay_ballast(&mut self) -> io::Result<()> {
        let laid = self.disk.create(BALLAST).and_then(|mut file| {
            file.write_at(&vec![0; BALLAST_BYTES as usize], 0)?;
            file.sync()
        });
        match &laid {
            Ok(()) => self.around.ballast = BALLAST_BYTES,
            // Half of it helps nobody.
            Err(_) => drop(self.disk.remove(BALLAST)),
        }
        laid
    }

    /// Deletes the largest of the files set aside.
    fn remove_damaged(&mut self) -> bool {
        if self.around.damaged == 0 {
            return false;
        }
        let files = self.disk.files().unwrap_or_default();
        let aside = files.into_iter().filter(|(name, _)| name.starts_with(DAMAGED));
        match aside.max_by_key(|(_, length)| *length) {
            Some((name, length)) if self.disk.remove(&name).is_ok() => {
                self.around.damaged = self.around.damaged.saturating_sub(length.max(1));
                true
            }
            _ => {
                self.around.damaged = 0;
                false
            }
        }
    }

    /// Where in time the living batches of a segment lie.
    pub(super) fn living_span(&self, segment: &Segment) -> io::Result<Span> {
        let file = self.disk.open(&file_name(segment.number))?;
        let mut ends: Option<[(i64, Place); 2]> = None;
        survey(file.as_ref(), segment, segment.length, epoch_tag(self.epoch), false, &mut |facts, place| {
            if !segment.forgotten.contains(facts.sequence.0) {
                let (from, to) = facts.wall_us;
                let [first, last] = ends.get_or_insert([(from, place), (to, place)]);
                *first = if from < first.0 { (from, place) } else { *first };
                *last = if to >= last.0 { (to, place) } else { *last };
            }
        })?;
        let Some([(from, first), (to, last)]) = ends else { return Ok(segment.wall().into()) };
        let (start, end) = (self.envelope_at(file.as_ref(), &first), self.envelope_at(file.as_ref(), &last));
        let moment = |told: Option<(GapEnd, (i64, i64))>, wall: i64, which: fn((i64, i64)) -> i64| match told
        {
            // By the clock that the batch itself states, so that it can be corrected with it.
            Some((clock, boot_us)) if boot_us != (0, 0) => {
                (which(boot_us).saturating_add(clock.wall_offset_us), Some(clock))
            }
            _ => (wall, None),
        };
        let (from, start) = moment(start, from, |boot_us| boot_us.0);
        let (to, end) = moment(end, to, |boot_us| boot_us.1);
        Ok(Span { wall: (from, to), start, end })
    }

    /// The clock of a batch and the boot times of its first and last reading, from its envelope.
    fn envelope_at(&self, file: &dyn DiskFile, place: &Place) -> Option<(GapEnd, (i64, i64))> {
        let frame = frame_at(file, place.at, u64::MAX).ok()??;
        let body = frame.body(file).ok()??;
        let envelope = peek(body.get(frame.lead()..)?).ok()?;
        let boot = envelope.head.boot;
        let clock = GapEnd {
            boot: boot.counter,
            wall_offset_us: boot.wall_offset_us,
            synchronised: boot.synchronised,
        };
        Some((clock, envelope.span_us))
    }
}
