//! Who works in a buffer's folder. Read from the kernel's list of locks: trying the lock, however
//! briefly, could turn away an agent that starts in that moment.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{major, minor};

/// The file whose lock says that an agent works here (`disk.rs`).
const LOCK: &str = "lock";

/// Is an agent using the buffer?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// This process holds its lock.
    Process(u32),
    /// Nobody that can be seen from here.
    Nobody,
    /// The kernel does not say.
    Unknown,
}

impl User {
    /// Who holds the lock in `folder`.
    pub fn of(folder: &Path) -> Self {
        // Without the file nobody can hold it.
        let Ok(lock) = fs::metadata(folder.join(LOCK)) else { return Self::Nobody };
        let Ok(locks) = fs::read_to_string("/proc/locks") else { return Self::Unknown };
        let place = format!("{:02x}:{:02x}:{}", major(lock.dev()), minor(lock.dev()), lock.ino());
        match locks.lines().find_map(|line| holder(line, &place)) {
            Some(process) => Self::Process(process),
            None => Self::Nobody,
        }
    }

    /// May the files change while they are looked at?
    pub fn may_write(self) -> bool {
        self != Self::Nobody
    }
}

/// The process that holds an exclusive `flock` on the file at `place`, if `line` of `/proc/locks`
/// says so. `proc_locks(5)`: `1: FLOCK  ADVISORY  WRITE 7957 fe:00:10010837 0 EOF`; a waiter has
/// an arrow behind the number.
fn holder(line: &str, place: &str) -> Option<u32> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        [_, "FLOCK", _, "WRITE", process, at, ..] if same_file(at, place) => process.parse().ok(),
        _ => None,
    }
}

/// Some file systems (btrfs, overlays) show files under another device than their locks; the inode
/// is the same, and an exclusive lock on a file of that number elsewhere is unlikely.
fn same_file(at: &str, place: &str) -> bool {
    at == place || at.rsplit(':').next() == place.rsplit(':').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_list_is_read_right() {
        let place = "fe:00:10010837";
        let of = |line| holder(line, place);
        assert_eq!(of("1: FLOCK  ADVISORY  WRITE 7957 fe:00:10010837 0 EOF"), Some(7957));
        assert_eq!(of("1: FLOCK  ADVISORY  WRITE 7957 00:1c:10010837 0 EOF"), Some(7957), "btrfs");
        assert_eq!(of("1: -> FLOCK  ADVISORY  WRITE 8000 fe:00:10010837 0 EOF"), None, "it only waits");
        assert_eq!(of("2: POSIX  ADVISORY  WRITE 7957 fe:00:10010837 0 EOF"), None);
        assert_eq!(of("2: FLOCK  ADVISORY  READ 7957 fe:00:10010837 0 EOF"), None);
        assert_eq!(of("3: FLOCK  ADVISORY  WRITE 7957 fe:00:10010838 0 EOF"), None);
        assert_eq!(of("nonsense"), None);
    }
}
