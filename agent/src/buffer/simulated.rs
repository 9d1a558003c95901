//! A disk for fault suites. It keeps what a disk promises and no more: until it is synced, a write
//! may reach the platter whole, in part or not at all, in any order, and so may a name. It can be
//! full, refuse, fail once, and lose its power at any operation.
//!
//! It is part of the library because two suites in two crates are this disk: the buffer's own tests
//! and `forebay-tests`. No program uses it, so no program contains it.
//!
//! What it may do at a power cut, all of it as the dice fall ([`Simulated::wreck`]):
//! - each 512-byte sector of an unsynced write is old, new, or new up to some byte of it;
//! - a file that was growing has its old length, its new one with zeros where no data came, or
//!   something between; a cut of a file happened or not;
//! - each name made, replaced or removed since the folder was synced is so or not, whatever became of
//!   those before it. A rename is one step: both names or neither.
//!
//! A sync that fails leaves the writes behind it in memory, where they read well, and forgets to
//! write them ever: so does Linux.

mod platter;

use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::platter::{Naming, Platter, Write};
use super::disk::{Disk, DiskFile};

/// The disk. Clones are the same disk.
#[derive(Clone, Default)]
pub struct Simulated {
    state: Arc<Mutex<State>>,
    /// Where sled may lie, outside the simulation.
    pub catalogue: Option<PathBuf>,
}

/// What the disk held before one of its changes; see [`Simulated::watch`].
#[derive(Clone)]
pub struct Moment {
    /// Changes made until then.
    pub changes: u64,
    platter: Platter,
}

#[derive(Default)]
struct State {
    platter: Platter,
    /// Operations that change something, so far.
    changes: u64,
    /// Operations that read something, so far.
    reads: u64,
    /// The power goes off at this change, halfway through.
    cut_at: Option<u64>,
    /// This change fails, halfway through, and those after it work again.
    fail_at: Option<u64>,
    /// The same for reading.
    fail_reading_at: Option<u64>,
    /// Of this file these bytes cannot be read.
    spoiled: Option<(String, Range<u64>)>,
    /// Every change is refused with this.
    refusal: Option<ErrorKind>,
    capacity: Option<u64>,
    /// Says that there is room when there is none, as under a quota.
    boasts: bool,
    moments: Option<Vec<Moment>>,
}

struct OpenFile {
    disk: Simulated,
    file: usize,
}

impl Simulated {
    /// A disk whose power goes off at its `change`th change.
    pub fn with_cut_at(change: u64) -> Self {
        let disk = Self::default();
        disk.state().cut_at = Some(change);
        disk
    }

    /// From now on a [`Moment`] is kept before every change.
    pub fn watch(&self) {
        let mut state = self.state();
        state.platter.forget_the_unnamed();
        state.moments = Some(Vec::new());
    }

    /// The moments since [`Simulated::watch`], and now; none are kept from here on.
    pub fn moments(&self) -> Vec<Moment> {
        let mut state = self.state();
        let mut moments = state.moments.take().unwrap_or_default();
        moments.push(Moment { changes: state.changes, platter: state.platter.clone() });
        moments
    }

    /// Operations so far that changed something, or tried to.
    pub fn changes(&self) -> u64 {
        self.state().changes
    }

    /// Operations so far that read something, or tried to.
    pub fn reads(&self) -> u64 {
        self.state().reads
    }

    /// The disk as it comes back after a power cut right now. `below(n)` throws a die of `n` sides,
    /// numbered from 0.
    pub fn wreck(&self, below: &mut dyn FnMut(u64) -> u64) -> Self {
        self.with(self.state().platter.wreck(below))
    }

    /// The disk as it comes back after a power cut at a moment.
    pub fn wreck_at(&self, moment: &Moment, below: &mut dyn FnMut(u64) -> u64) -> Self {
        self.with(moment.platter.wreck(below))
    }

    /// The tamest power cut: nothing that was not synced is there, except `kept` eighths of what
    /// was written behind the synced end of a file.
    pub fn after_power_cut(&self, kept: usize) -> Self {
        self.with(self.state().platter.after_power_cut(kept))
    }

    /// Did the power go off?
    pub fn is_dead(&self) -> bool {
        let state = self.state();
        state.cut_at.is_some_and(|at| state.changes >= at)
    }

    /// The `change`th change from now on fails.
    pub fn fail_at(&self, change: u64) {
        let mut state = self.state();
        state.fail_at = Some(state.changes + change);
    }

    /// The `read`th reading from now on fails.
    pub fn fail_reading_at(&self, read: u64) {
        let mut state = self.state();
        state.fail_reading_at = Some(state.reads + read);
    }

    /// From now on these bytes of a file cannot be read.
    pub fn spoil(&self, name: &str, bytes: Range<u64>) {
        self.state().spoiled = Some((name.into(), bytes));
    }

    /// Did the change that was to fail come?
    pub fn has_failed(&self) -> bool {
        let state = self.state();
        state.fail_at.is_some_and(|at| state.changes >= at)
    }

    /// From now on every change is refused so, or none.
    pub fn refuse(&self, with: Option<ErrorKind>) {
        self.state().refusal = with;
    }

    /// Bytes the disk holds.
    pub fn set_capacity(&self, bytes: u64) {
        self.state().capacity = Some(bytes);
    }

    /// The same, but only a write tells that it is full.
    pub fn set_quota(&self, bytes: u64) {
        self.set_capacity(bytes);
        self.state().boasts = true;
    }

    /// There is no end of room again.
    pub fn lift_capacity(&self) {
        let mut state = self.state();
        (state.capacity, state.boasts) = (None, false);
    }

    /// Bytes of all files.
    pub fn used(&self) -> u64 {
        self.state().platter.used()
    }

    fn with(&self, platter: Platter) -> Self {
        let state = State { platter, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), catalogue: self.catalogue.clone() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A disk with the files of a real folder on it.
    #[cfg(test)]
    pub fn of_folder(folder: &std::path::Path) -> Self {
        let disk = Self::default();
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_file() {
                let mut file = disk.create(entry.file_name().to_str().unwrap()).unwrap();
                file.write_at(&std::fs::read(entry.path()).unwrap(), 0).unwrap();
            }
        }
        disk
    }
}

impl State {
    /// Counts a change; false if it is one that goes wrong halfway.
    fn change(&mut self) -> io::Result<bool> {
        if let Some(kind) = self.refusal {
            return Err(kind.into());
        }
        if let Some(moments) = &mut self.moments {
            moments.push(Moment { changes: self.changes, platter: self.platter.clone() });
        }
        self.changes += 1;
        if self.fail_at == Some(self.changes) {
            return Ok(false);
        }
        match self.cut_at {
            Some(at) if self.changes > at => Err(io::Error::other("the power is off")),
            Some(at) => Ok(self.changes < at),
            None => Ok(true),
        }
    }

    /// Counts a change that either happens or does not.
    fn whole(&mut self) -> io::Result<()> {
        if self.change()? { Ok(()) } else { Err(io::Error::other("input/output error")) }
    }

    fn read(&mut self) -> io::Result<()> {
        self.reads += 1;
        let fails = self.fail_reading_at == Some(self.reads);
        if fails { Err(io::Error::other("input/output error")) } else { Ok(()) }
    }
}

impl Disk for Simulated {
    fn prepare(&self) -> io::Result<Option<String>> {
        Ok(None)
    }

    fn files(&self) -> io::Result<Vec<(String, u64)>> {
        let mut state = self.state();
        state.read()?;
        Ok(state.platter.files())
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        state.read()?;
        let file = state.platter.file_of(name).ok_or(ErrorKind::NotFound)?;
        Ok(Box::new(OpenFile { disk: self.clone(), file }))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        state.whole()?;
        let file = state.platter.create(name);
        Ok(Box::new(OpenFile { disk: self.clone(), file }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.whole()?;
        let file = state.platter.file_of(from).ok_or(ErrorKind::NotFound)?;
        state.platter.name(Naming::Rename { from: from.into(), to: to.into(), file });
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.whole()?;
        state.platter.file_of(name).ok_or(ErrorKind::NotFound)?;
        state.platter.name(Naming::Unlink(name.into()));
        Ok(())
    }

    fn sync_folder(&self) -> io::Result<()> {
        let mut state = self.state();
        state.whole()?;
        state.platter.sync_names();
        Ok(())
    }

    fn free(&self) -> io::Result<u64> {
        let state = self.state();
        let capacity = state.capacity.filter(|_| !state.boasts);
        Ok(capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(state.platter.used())))
    }

    fn catalogue(&self) -> Option<PathBuf> {
        self.catalogue.clone()
    }
}

impl DiskFile for OpenFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.disk.state().platter.content(self.file).len() as u64)
    }

    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        let mut state = self.disk.state();
        state.read()?;
        if let Some((name, bytes)) = &state.spoiled
            && state.platter.file_of(name) == Some(self.file)
            && at < bytes.end
            && at + into.len() as u64 > bytes.start
        {
            return Err(io::Error::other("input/output error"));
        }
        let rest = state.platter.content(self.file).get(at as usize..).unwrap_or_default();
        let length = rest.len().min(into.len());
        into[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn write_at(&mut self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        let whole = state.change()?;
        let length = state.platter.content(self.file).len();
        let growth = (at as usize + bytes.len()).saturating_sub(length) as u64;
        let full = state.capacity.is_some_and(|capacity| state.platter.used() + growth > capacity);
        let written = if whole && !full { bytes } else { &bytes[..bytes.len() / 2] };
        if !full || growth == 0 {
            state.platter.write(self.file, Write::Bytes { at: at as usize, bytes: written.into() });
        }
        match (whole, full) {
            (_, true) => Err(ErrorKind::StorageFull.into()),
            (true, _) => Ok(()),
            (false, _) => Err(io::Error::other("input/output error")),
        }
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.whole()?;
        state.platter.write(self.file, Write::Cut(length as usize));
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.disk.state();
        match state.whole() {
            Ok(()) => {
                state.platter.sync(self.file);
                Ok(())
            }
            Err(error) => {
                // A cut of the power leaves all possible; a disk that goes on has forgotten them.
                if state.cut_at.is_none() && state.refusal.is_none() {
                    state.platter.forget_unsynced(self.file);
                }
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Dice of no great quality, but enough of them.
    fn dice(seed: u64) -> impl FnMut(u64) -> u64 {
        let mut state = seed;
        move |sides| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % sides.max(1)
        }
    }

    fn read(disk: &Simulated, name: &str) -> Option<Vec<u8>> {
        let mut bytes = vec![0; 10_000];
        let length = disk.open(name).ok()?.read_at(&mut bytes, 0).unwrap();
        bytes.truncate(length);
        Some(bytes)
    }

    #[test]
    fn what_was_synced_survives_every_power_cut_and_what_was_not_may_be_torn() {
        let disk = Simulated::default();
        let mut file = disk.create("a").unwrap();
        file.write_at(&[1; 2000], 0).unwrap();
        file.sync().unwrap();
        disk.sync_folder().unwrap();
        file.write_at(&[2; 3000], 1500).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..300 {
            let found = read(&disk.wreck(&mut dice(seed)), "a").unwrap();
            assert!(found[..1500].iter().all(|byte| *byte == 1));
            assert!(found[1500..2000].iter().all(|byte| *byte == 1 || *byte == 2));
            assert!(found.len() <= 4500 && found[2000..].iter().all(|byte| *byte == 0 || *byte == 2));
            seen.insert(found);
        }
        assert!(seen.len() > 50, "only {} ways to tear it", seen.len());
        file.sync().unwrap();
        assert!((0..50).all(|seed| read(&disk.wreck(&mut dice(seed)), "a") == read(&disk, "a")));
    }

    #[test]
    fn a_rename_is_whole_or_did_not_happen() {
        let disk = Simulated::default();
        disk.create("old").unwrap();
        disk.sync_folder().unwrap();
        disk.rename("old", "new").unwrap();
        let mut seen = [false; 2];
        for seed in 0..100 {
            let wreck = disk.wreck(&mut dice(seed));
            let (old, new) = (read(&wreck, "old").is_some(), read(&wreck, "new").is_some());
            assert_ne!(old, new);
            seen[usize::from(new)] = true;
        }
        assert_eq!(seen, [true; 2]);
    }

    #[test]
    fn a_sync_that_failed_has_forgotten_what_it_was_to_write() {
        let disk = Simulated::default();
        let mut file = disk.create("a").unwrap();
        disk.sync_folder().unwrap();
        file.write_at(b"first", 0).unwrap();
        disk.fail_at(1);
        assert!(file.sync().is_err());
        file.write_at(b"second", 5).unwrap();
        file.sync().unwrap();
        assert_eq!(read(&disk, "a").unwrap(), b"firstsecond", "memory has it");
        assert_eq!(
            read(&disk.wreck(&mut dice(1)), "a").unwrap(),
            b"\0\0\0\0\0second",
            "the platter does not"
        );
    }

    #[test]
    fn a_moment_is_kept_before_every_change() {
        let disk = Simulated::default();
        disk.watch();
        let mut file = disk.create("a").unwrap();
        file.write_at(b"x", 0).unwrap();
        file.sync().unwrap();
        let moments = disk.moments();
        assert_eq!(moments.iter().map(|moment| moment.changes).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert!(read(&disk.wreck_at(&moments[0], &mut dice(1)), "a").is_none());
    }
}
