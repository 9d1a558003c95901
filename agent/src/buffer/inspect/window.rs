//! The buffer's folder behind glass: everything can be seen, nothing can be touched. Files are
//! opened for reading only, so that not even a mistake in what stands above could write.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::buffer::disk::{Disk, DiskFile, Flash};

/// A folder to look at.
pub struct Window {
    folder: PathBuf,
    /// Lists and measures; never prepared, so it holds no lock.
    flash: Flash,
}

impl Window {
    /// The folder at this path; nothing is touched, now or later.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), flash: Flash::new(folder) }
    }
}

impl Disk for Window {
    fn prepare(&self) -> io::Result<Option<String>> {
        Ok(None)
    }

    fn files(&self) -> io::Result<Vec<(String, u64)>> {
        self.flash.files()
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let path = self.folder.join(name);
        // A pipe of that name would keep us waiting for ever.
        if !fs::metadata(&path)?.is_file() {
            return Err(io::Error::new(ErrorKind::InvalidInput, "it is not a plain file"));
        }
        Ok(Box::new(File::open(&path)?))
    }

    fn create(&self, _: &str) -> io::Result<Box<dyn DiskFile>> {
        untouched()
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        untouched()
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        untouched()
    }

    fn sync_folder(&self) -> io::Result<()> {
        untouched()
    }

    fn free(&self) -> io::Result<u64> {
        self.flash.free()
    }

    fn catalogue(&self) -> Option<PathBuf> {
        None
    }
}

fn untouched<T>() -> io::Result<T> {
    Err(io::Error::new(ErrorKind::ReadOnlyFilesystem, "an inspection changes nothing"))
}
