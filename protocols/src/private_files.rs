//! Small files that must be whole or absent after a power cut, and readable by their owner only.
//! What they do to a disk goes through [`Folder`], so that a fault suite can be the disk.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What small files need of a folder. It has two implementations: [`Place`], and the simulated disk
/// of the fault suite.
pub trait Folder {
    /// All of a file.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;
    /// Makes a file of this mode that must not be there, empty.
    fn create(&self, name: &str, mode: u32) -> io::Result<Box<dyn Draft>>;
    /// Renames, replacing what stood at `to`.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Deletes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes files made, renamed and removed so far survive a power cut.
    fn sync(&self) -> io::Result<()>;
    /// The files there.
    fn names(&self) -> io::Result<Vec<String>>;
}

/// A file being written.
pub trait Draft {
    /// Appends all of `bytes`.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// What was written survives a power cut once this returns.
    fn sync(&mut self) -> io::Result<()>;
}

/// Makes `folder` (and those above it) if it is not there, and closes it to everybody else.
pub fn private_folder(folder: &Path) -> io::Result<()> {
    if !folder.is_dir() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    fs::set_permissions(folder, Permissions::from_mode(0o700))
}

/// Puts `bytes` at `path` with `mode`: the old file or the new one is there at any moment, and the
/// new one once this has returned.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let (place, name) = split(path)?;
    replace_in(&place, name, bytes, mode)
}

/// The same in any folder.
pub fn replace_in(folder: &dyn Folder, name: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
    let draft = draft(folder, name, bytes, mode)?;
    folder.rename(&draft, name).inspect_err(|_| drop(folder.remove(&draft)))?;
    folder.sync()
}

/// Like [`replace`], but the first writer wins: false if `path` was there already.
pub fn create_once(path: &Path, bytes: &[u8], mode: u32) -> io::Result<bool> {
    let (place, name) = split(path)?;
    let draft = draft(&place, name, bytes, mode)?;
    let linked = fs::hard_link(place.path(&draft), path);
    // A second name that stays would do no harm.
    let _ = place.remove(&draft);
    match linked {
        Ok(()) => place.sync().map(|()| true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes a file, durably. One that is not there is as good as removed.
pub fn remove_from(folder: &dyn Folder, name: &str) -> io::Result<()> {
    match folder.remove(name) {
        Ok(()) => folder.sync(),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes the drafts of a file that a power cut left behind. Not while somebody writes one.
pub fn sweep(folder: &dyn Folder, name: &str) -> io::Result<()> {
    let names = match folder.names() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        names => names?,
    };
    let left_behind = names.iter().filter(|found| found.starts_with(&draft_prefix(name)));
    for found in left_behind {
        folder.remove(found)?;
    }
    // In any case: what is there now may be what a replacement left whose own sync failed, and a power cut
    // would bring back the one before, when others rely on the new one already.
    folder.sync()
}

fn draft_prefix(name: &str) -> String {
    format!(".{name}.")
}

/// Writes a file beside its later place, durably; its name. Gone again if that fails.
fn draft(folder: &dyn Folder, name: &str, bytes: &[u8], mode: u32) -> io::Result<String> {
    let number = getrandom::u64().map_err(|error| io::Error::other(error.to_string()))?;
    let draft = format!("{}{number:016x}", draft_prefix(name));
    let mut file = folder.create(&draft, mode)?;
    file.write(bytes).and_then(|()| file.sync()).inspect_err(|_| drop(folder.remove(&draft)))?;
    Ok(draft)
}

fn split(path: &Path) -> io::Result<(Place, &str)> {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| io::Error::other("the path has no file name"))?;
    Ok((Place::new(path.parent().unwrap_or(Path::new(""))), name))
}

/// A folder of this machine.
#[derive(Clone, Debug)]
pub struct Place(PathBuf);

impl Place {
    /// The one at `path`; nothing is touched.
    pub fn new(path: &Path) -> Self {
        Self(if path.as_os_str().is_empty() { PathBuf::from(".") } else { path.to_owned() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Folder for Place {
    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.path(name))
    }

    fn create(&self, name: &str, mode: u32) -> io::Result<Box<dyn Draft>> {
        Ok(Box::new(OpenOptions::new().write(true).create_new(true).mode(mode).open(self.path(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(&self.0)?.collect::<io::Result<Vec<_>>>()?;
        Ok(entries.iter().filter_map(|entry| entry.file_name().to_str().map(str::to_owned)).collect())
    }
}

impl Draft for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}
