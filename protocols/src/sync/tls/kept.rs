//! One private file beside the identity (0600), in which a gateway keeps the key that it asked with.

use std::io;
use std::path::Path;

use super::identity::IdentityError;
use crate::private_files::{self, Place};

/// What `parse` makes of `file` in `folder`; `None` if there is none. A damaged one is an error that names it.
pub(super) fn load<T>(
    folder: &Path,
    file: &str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, IdentityError> {
    let path = folder.join(file);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(IdentityError::File { doing: "read", path, source }),
    };
    parse(&text).map(Some).map_err(|why| IdentityError::Damaged { path, why })
}

/// Keeps `text` in it, durable when this returns.
pub(super) fn save(folder: &Path, file: &str, text: &str) -> Result<(), IdentityError> {
    let path = folder.join(file);
    private_files::private_folder(folder)
        .and_then(|()| private_files::replace(&path, text.as_bytes(), 0o600))
        .map_err(|source| IdentityError::File { doing: "write", path, source })
}

/// Removes it, if there is one; was there?
pub(super) fn forget(folder: &Path, file: &str) -> Result<bool, IdentityError> {
    let (place, path) = (Place::new(folder), folder.join(file));
    let was_there = path.exists();
    private_files::remove_from(&place, file)
        .and_then(|()| private_files::sweep(&place, file))
        .map(|()| was_there)
        .map_err(|source| IdentityError::File { doing: "remove", path, source })
}
