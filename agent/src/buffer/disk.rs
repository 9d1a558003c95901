//! The disk as the buffer sees it: one folder, a handful of operations. Everything the store
//! writes (the catalogue apart, see `catalogue.rs`) goes through [`Disk`], so that a fault suite
//! can be the disk: refuse, tear, forget what was not synced.
//!
//! The trait has two implementations: [`Flash`] here, and the disk of the fault suites in
//! `simulated.rs`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rustix::fs::{FlockOperation, flock, statvfs};

/// Where damaged parts are set aside, below the buffer's folder. Counts towards the budget.
pub const DAMAGED: &str = "damaged/";

/// The file whose lock says that an agent works here.
const LOCK: &str = "lock";

/// So often is it asked.
const ATTEMPTS: u8 = 3;

/// The buffer's folder. Names are relative to it and may start with [`DAMAGED`].
pub trait Disk: Send + Sync {
    /// Makes the folder if it is missing and takes its lock if it is not held. Says what it had to move out of the
    /// way. [`ErrorKind::WouldBlock`] when another process holds the lock.
    fn prepare(&self) -> io::Result<Option<String>>;
    /// Every plain file with its length, those set aside included, in no order.
    fn files(&self) -> io::Result<Vec<(String, u64)>>;
    /// Opens a file that exists, for reading and, where the disk allows it, writing.
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Makes an empty file, replacing one of that name.
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Renames, replacing what stood at `to`.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Deletes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes files made, renamed and removed so far survive a power cut.
    fn sync_folder(&self) -> io::Result<()>;
    /// Bytes that an ordinary process may still write on this file system.
    fn free(&self) -> io::Result<u64>;
    /// Where the catalogue may keep its own files; `None` if it must live in memory.
    fn catalogue(&self) -> Option<PathBuf>;
}

/// One open file. Every operation names its place; there is no cursor.
pub trait DiskFile: Send {
    /// Its length.
    fn length(&self) -> io::Result<u64>;
    /// Fills `into` from `at` on; returns fewer bytes only at the end of the file.
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize>;
    /// Writes all of `bytes` at `at`, growing the file.
    fn write_at(&mut self, bytes: &[u8], at: u64) -> io::Result<()>;
    /// Cuts the file.
    fn cut(&mut self, length: u64) -> io::Result<()>;
    /// What was written survives a power cut once this returns.
    fn sync(&mut self) -> io::Result<()>;
}

/// For readings of which what is not given is taken for lost: a disk that stumbles is asked again.
pub(super) fn persistently<T>(mut ask: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    (1..ATTEMPTS).find_map(|_| ask().ok()).map_or_else(ask, Ok)
}

/// The real thing.
#[derive(Debug)]
pub struct Flash {
    folder: PathBuf,
    /// Held as long as the store is open.
    lock: Mutex<Option<File>>,
}

impl Flash {
    /// The folder at this path; nothing is touched yet.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), lock: Mutex::new(None) }
    }

    /// A file that stands where the folder should be is renamed to `NAME.set-aside-1`, `-2` …
    fn move_out_of_the_way(&self) -> io::Result<Option<String>> {
        match fs::metadata(&self.folder) {
            Ok(found) if !found.is_dir() => {}
            _ => return Ok(None),
        }
        let mut name = self.folder.as_os_str().to_owned();
        name.push(".set-aside-");
        for number in 1u32.. {
            let mut aside = name.clone();
            aside.push(number.to_string());
            if !Path::new(&aside).exists() {
                fs::rename(&self.folder, &aside)?;
                return Ok(Some(format!(
                    "{} is not a folder; moved to {}",
                    self.folder.display(),
                    Path::new(&aside).display()
                )));
            }
        }
        Ok(None)
    }

    fn take_lock(&self) -> io::Result<()> {
        let mut held = self.lock.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if held.is_some() {
            return Ok(());
        }
        let path = self.folder.join(LOCK);
        // A read-only disk still has the file of better days.
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .or_else(|_| File::open(&path))?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        *held = Some(file);
        Ok(())
    }
}

impl Disk for Flash {
    fn prepare(&self) -> io::Result<Option<String>> {
        let words = self.move_out_of_the_way()?;
        if !self.folder.join(DAMAGED).is_dir() {
            fs::create_dir_all(self.folder.join(DAMAGED))?;
            // The folder's own entry must survive too.
            if let Some(parent) = self.folder.parent().filter(|p| !p.as_os_str().is_empty()) {
                File::open(parent)?.sync_all()?;
            }
        }
        self.take_lock()?;
        Ok(words)
    }

    fn files(&self) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for (folder, prefix) in [(self.folder.clone(), ""), (self.folder.join(DAMAGED), DAMAGED)] {
            let entries = match fs::read_dir(&folder) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                entries => entries?,
            };
            for entry in entries {
                let entry = entry?;
                let Ok(about) = entry.metadata() else { continue };
                if let (true, Some(name)) = (about.is_file(), entry.file_name().to_str()) {
                    files.push((format!("{prefix}{name}"), about.len()));
                }
            }
        }
        Ok(files)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let path = self.folder.join(name);
        match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => Ok(Box::new(file)),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(error),
            Err(_) => Ok(Box::new(File::open(&path)?)),
        }
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        Ok(Box::new(options.open(self.folder.join(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.folder.join(from), self.folder.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.folder.join(name))
    }

    fn sync_folder(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()?;
        File::open(self.folder.join(DAMAGED))?.sync_all()
    }

    fn free(&self) -> io::Result<u64> {
        let about = statvfs(&self.folder)?;
        Ok(about.f_bavail.saturating_mul(about.f_frsize))
    }

    fn catalogue(&self) -> Option<PathBuf> {
        Some(self.folder.join("catalogue"))
    }
}

impl DiskFile for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = into.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match FileExt::read_at(self, rest, at + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write_at(&mut self, bytes: &[u8], at: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, at)
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}
