//! Small files that must be whole or absent after a power cut, and readable by their owner only.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

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
    let draft = Draft::write(path, bytes, mode)?;
    fs::rename(&draft.path, path)?;
    sync_folder(path)
}

/// Like [`replace`], but the first writer wins: false if `path` was there already.
pub fn create_once(path: &Path, bytes: &[u8], mode: u32) -> io::Result<bool> {
    let draft = Draft::write(path, bytes, mode)?;
    match fs::hard_link(&draft.path, path) {
        Ok(()) => sync_folder(path).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// A file beside its later place, gone when dropped.
struct Draft {
    path: PathBuf,
}

impl Draft {
    fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<Self> {
        let name = path.file_name().ok_or_else(|| io::Error::other("the path has no file name"))?;
        let number = getrandom::u64().map_err(|error| io::Error::other(error.to_string()))?;
        let draft = Self { path: path.with_file_name(format!(".{}.{number:016x}", name.display())) };
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&draft.path)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        Ok(draft)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // After a rename there is nothing here any more, and that is as good.
        let _ = fs::remove_file(&self.path);
    }
}

/// The name of a file is durable only when its folder is.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}
