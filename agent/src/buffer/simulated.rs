//! A disk for tests that keeps its promises and no more: what was not synced is gone when the
//! power is cut, and it can be full, refuse, or lose its power at any operation.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::disk::{Disk, DiskFile};

/// The disk. Clones are the same disk.
#[derive(Clone, Default)]
pub struct Simulated {
    platter: Arc<Mutex<Platter>>,
    /// Where sled may lie, outside the simulation.
    pub catalogue: Option<PathBuf>,
}

#[derive(Default)]
struct Platter {
    /// Names as a process sees them, and as they are after a power cut.
    names: BTreeMap<String, usize>,
    synced_names: BTreeMap<String, usize>,
    files: Vec<Content>,
    /// Operations that change something, so far.
    changes: u64,
    /// The power goes off at this one, halfway through.
    cut_at: Option<u64>,
    /// This one fails, halfway through, and those after it work again.
    fail_at: Option<u64>,
    /// Every change is refused with this.
    refusal: Option<ErrorKind>,
    capacity: Option<u64>,
    /// Says that there is room when there is none, as under a quota.
    boasts: bool,
}

#[derive(Clone, Default)]
struct Content {
    now: Vec<u8>,
    synced: Vec<u8>,
}

struct OpenFile {
    disk: Simulated,
    file: usize,
}

impl Simulated {
    /// A disk whose power goes off at its `change`th change.
    pub fn with_cut_at(change: u64) -> Self {
        let disk = Self::default();
        disk.platter().cut_at = Some(change);
        disk
    }

    /// A disk with the files of a real folder on it.
    pub fn of_folder(folder: &Path) -> Self {
        let disk = Self::default();
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_file() {
                let mut file = disk.create(entry.file_name().to_str().unwrap()).unwrap();
                file.write_at(&std::fs::read(entry.path()).unwrap(), 0).unwrap();
            }
        }
        disk
    }

    /// The disk as it comes back after a power cut. `kept` eighths of what was written behind the
    /// end of a file and not synced happen to have reached it.
    pub fn after_power_cut(&self, kept: usize) -> Self {
        let platter = self.platter();
        let files = platter.files.iter().map(|content| {
            let extra = content.now.get(content.synced.len()..).unwrap_or_default();
            let mut bytes = content.synced.clone();
            bytes.extend_from_slice(extra.get(..extra.len() * kept / 8).unwrap_or_default());
            Content { now: bytes.clone(), synced: bytes }
        });
        let after = Platter {
            names: platter.synced_names.clone(),
            synced_names: platter.synced_names.clone(),
            files: files.collect(),
            ..Platter::default()
        };
        Self { platter: Arc::new(Mutex::new(after)), catalogue: self.catalogue.clone() }
    }

    /// Did the power go off?
    pub fn is_dead(&self) -> bool {
        let platter = self.platter();
        platter.cut_at.is_some_and(|at| platter.changes >= at)
    }

    /// The `change`th change from now on fails.
    pub fn fail_at(&self, change: u64) {
        let mut platter = self.platter();
        platter.fail_at = Some(platter.changes + change);
    }

    /// Did the change that was to fail come?
    pub fn has_failed(&self) -> bool {
        let platter = self.platter();
        platter.fail_at.is_some_and(|at| platter.changes >= at)
    }

    /// From now on every change is refused so, or none.
    pub fn refuse(&self, with: Option<ErrorKind>) {
        self.platter().refusal = with;
    }

    /// Bytes the disk holds.
    pub fn set_capacity(&self, bytes: u64) {
        self.platter().capacity = Some(bytes);
    }

    /// The same, but only a write tells that it is full.
    pub fn set_quota(&self, bytes: u64) {
        self.set_capacity(bytes);
        self.platter().boasts = true;
    }

    /// Bytes of all files.
    pub fn used(&self) -> u64 {
        self.platter().used()
    }

    fn platter(&self) -> MutexGuard<'_, Platter> {
        self.platter.lock().unwrap()
    }
}

impl Platter {
    fn used(&self) -> u64 {
        self.names.values().map(|file| self.files[*file].now.len() as u64).sum()
    }

    /// Counts a change; false if it is the one at which the power goes off.
    fn change(&mut self) -> io::Result<bool> {
        if let Some(kind) = self.refusal {
            return Err(kind.into());
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

    fn whole(&mut self) -> io::Result<()> {
        if self.change()? { Ok(()) } else { Err(io::Error::other("the power went off")) }
    }
}

impl Disk for Simulated {
    fn prepare(&self) -> io::Result<Option<String>> {
        Ok(None)
    }

    fn files(&self) -> io::Result<Vec<(String, u64)>> {
        let platter = self.platter();
        Ok(platter.names.iter().map(|(n, f)| (n.clone(), platter.files[*f].now.len() as u64)).collect())
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = *self.platter().names.get(name).ok_or(ErrorKind::NotFound)?;
        Ok(Box::new(OpenFile { disk: self.clone(), file }))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut platter = self.platter();
        platter.whole()?;
        platter.files.push(Content::default());
        let file = platter.files.len() - 1;
        platter.names.insert(name.into(), file);
        drop(platter);
        Ok(Box::new(OpenFile { disk: self.clone(), file }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut platter = self.platter();
        platter.whole()?;
        let file = platter.names.remove(from).ok_or(ErrorKind::NotFound)?;
        platter.names.insert(to.into(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut platter = self.platter();
        platter.whole()?;
        platter.names.remove(name).map(drop).ok_or(ErrorKind::NotFound.into())
    }

    fn sync_folder(&self) -> io::Result<()> {
        let mut platter = self.platter();
        platter.whole()?;
        platter.synced_names = platter.names.clone();
        Ok(())
    }

    fn free(&self) -> io::Result<u64> {
        let platter = self.platter();
        let capacity = platter.capacity.filter(|_| !platter.boasts);
        Ok(capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(platter.used())))
    }

    fn catalogue(&self) -> Option<PathBuf> {
        self.catalogue.clone()
    }
}

impl DiskFile for OpenFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.disk.platter().files[self.file].now.len() as u64)
    }

    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        let platter = self.disk.platter();
        let rest = platter.files[self.file].now.get(at as usize..).unwrap_or_default();
        let length = rest.len().min(into.len());
        into[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn write_at(&mut self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut platter = self.disk.platter();
        let whole = platter.change()?;
        let (at, used, capacity) = (at as usize, platter.used(), platter.capacity);
        let content = &mut platter.files[self.file].now;
        let growth = (at + bytes.len()).saturating_sub(content.len()) as u64;
        let full = capacity.is_some_and(|capacity| used + growth > capacity);
        let written = if whole && !full { bytes } else { &bytes[..bytes.len() / 2] };
        if !full || growth == 0 {
            content.resize(content.len().max(at + written.len()), 0);
            content[at..at + written.len()].copy_from_slice(written);
        }
        match (whole, full) {
            (_, true) => Err(ErrorKind::StorageFull.into()),
            (true, _) => Ok(()),
            (false, _) => Err(io::Error::other("the power went off")),
        }
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        let mut platter = self.disk.platter();
        platter.whole()?;
        platter.files[self.file].now.truncate(length as usize);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut platter = self.disk.platter();
        platter.whole()?;
        let content = &mut platter.files[self.file];
        content.synced = content.now.clone();
        Ok(())
    }
}
