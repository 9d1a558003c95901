//! Damaged parts, set aside for a person: copied or moved to [`DAMAGED`], each under a name of its
//! own. They count towards the budget and are given up when room is needed.

use std::io;

use super::catalogue::Place;
use super::disk::{DAMAGED, Disk};
use super::frame::frame_at;
use super::segments::file_name;
use super::store::Store;

/// Parts above this size are not copied whole.
const LARGEST: u64 = 1 << 20;
/// A hundred parts of one name are evidence enough.
const MOST_OF_A_NAME: u32 = 100;

impl Store {
    /// Copies the frame of a batch, if the budget has room for it.
    pub(super) fn set_aside(&mut self, place: &Place) -> io::Result<()> {
        let name = file_name(place.segment);
        let file = self.disk.open(&name)?;
        let end = file.length()?;
        // Without a readable head its length is about that of the batch.
        let to = frame_at(file.as_ref(), place.at, end)?
            .map_or(place.at + u64::from(place.length), |frame| frame.end());
        if self.around.damaged + (to - place.at) > self.rules.limit / 16 {
            return Ok(());
        }
        self.around.damaged += copy_part(self.disk.as_ref(), &name, place.at, to)?;
        Ok(())
    }

    /// Moves a whole file.
    pub(super) fn move_aside(&mut self, name: &str, length: u64) {
        if rename_aside(self.disk.as_ref(), name).is_ok() {
            self.around.damaged += length;
        }
    }

    /// Copies a part of a file, as far as that is possible.
    pub(super) fn copy_aside(&mut self, name: &str, from: u64, to: u64) {
        let copied = copy_part(self.disk.as_ref(), name, from, to);
        self.around.damaged += copied.unwrap_or(0);
    }
}

/// Copies a part of a file; says how many bytes that took.
pub(super) fn copy_part(disk: &dyn Disk, name: &str, from: u64, to: u64) -> io::Result<u64> {
    let mut bytes = vec![0; to.saturating_sub(from).min(LARGEST) as usize];
    let read = disk.open(name)?.read_at(&mut bytes, from)?;
    bytes.truncate(read);
    let mut copy = disk.create(&free_name(disk, &format!("{name}-{from}"))?)?;
    copy.write_at(&bytes, 0)?;
    copy.sync()?;
    Ok(read as u64)
}

/// Moves a file.
pub(super) fn rename_aside(disk: &dyn Disk, name: &str) -> io::Result<()> {
    disk.rename(name, &free_name(disk, name)?)
}

/// `name`, or `name.2`, `name.3` …: what was set aside earlier is not overwritten.
fn free_name(disk: &dyn Disk, name: &str) -> io::Result<String> {
    let numbered = (2..=MOST_OF_A_NAME).map(|number| format!("{DAMAGED}{name}.{number}"));
    for candidate in std::iter::once(format!("{DAMAGED}{name}")).chain(numbered) {
        match disk.open(&candidate) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(candidate),
            _ => {}
        }
    }
    Err(io::Error::other(format!("{DAMAGED} has {MOST_OF_A_NAME} parts named {name}")))
}
