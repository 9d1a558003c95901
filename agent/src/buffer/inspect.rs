//! The buffer as a person with a doubt sees it: what is in it, whether it is whole, and what its
//! readings say. For `forebay-agent buffer`, on the gateway while the agent runs, or on a copy of
//! the folder on another machine.
//!
//! Nothing is written and no lock is taken. The agent may append, forget and delete meanwhile:
//! the logbook is read first and the folder listed after it, so that what is made in between is
//! met as new, and what is gone is asked for in the logbook again before it is called missing.
//! The catalogue is never opened: everything in it follows from segments and logbook.
//!
//! Memory: the logbook's contents, a few words per segment, and one batch at a time.

mod extract;
mod names;
mod overview;
mod trouble;
mod user;
mod verify;
mod walk;
mod window;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use forebay_protocols::sync::batch::{self, Epoch};

pub use self::extract::{Extracted, Row, TimeSource, Wanted};
pub use self::overview::{Backlog, Edge, OnDisk, Overview};
pub use self::trouble::{Lost, Trouble, What};
pub use self::user::User;
pub use self::verify::{Checked, Event};
pub use self::window::Window;

use self::walk::{Depth, Piece, Walk};
use super::disk::{Disk, DiskFile};
use super::frame::FileFacts;
use super::logbook::{Contents, LOGBOOK};
use super::segments::{Segment, file_name, number_of};

/// How often a logbook whose end looks torn is read again while an agent may be writing to it.
const LOOKS: usize = 3;

/// A buffer's folder, looked at.
pub struct Inspection {
    folder: PathBuf,
    window: Window,
    user: User,
    book: Book,
    /// What the logbook says; empty where it cannot be read.
    contents: Contents,
    /// Every file with its length, as listed after the logbook was read.
    files: BTreeMap<String, u64>,
    /// `None` where neither logbook nor segments tell.
    epoch: Option<Epoch>,
}

/// Why there is nothing to look at.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// No such folder.
    #[error(
        "there is no buffer at {0}: the agent makes it at its first start; if it lies elsewhere, name its \
         folder with --dir"
    )]
    NotThere(PathBuf),
    /// Something else is there.
    #[error(
        "{0} holds no buffer, which is a folder with a file `logbook` and files `segment-…`; name the right one \
         with --dir"
    )]
    NotABuffer(PathBuf),
    /// The system does not let us look.
    #[error("{0} may not be read by this user: try again with sudo, or as the user the agent runs as")]
    Denied(PathBuf),
    /// The disk does not answer.
    #[error("cannot read {folder}: {why}")]
    Unreadable {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        why: io::Error,
    },
}

/// In what state the logbook is.
#[derive(Debug, PartialEq, Eq)]
enum Book {
    Read,
    Gone,
    Unreadable(String),
}

/// A segment: what the logbook knows of it, what lies there, or both.
#[derive(Debug)]
struct Part {
    number: u64,
    /// As the logbook knows it; what is known of one that it does not name is nothing.
    known: Segment,
    standing: Standing,
}

/// How the logbook sees a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Complete.
    Sealed,
    /// The one that grows, or grew when the agent ended.
    Growing,
    /// Not in the logbook: made since it was read, or the logbook is damaged.
    New,
    /// Done with, and its file about to be deleted.
    Done,
    /// Of another epoch.
    Alien,
}

/// A segment's file, opened.
enum Opened {
    /// With where it ends, as far as it counts.
    File(Box<dyn DiskFile>, u64),
    /// Acknowledged and deleted since the logbook was read.
    Finished,
    /// Missing.
    Gone,
    /// The disk does not give it.
    Refused(io::Error),
}

impl Inspection {
    /// Looks at the buffer in `folder`, or in the folder `buffer` below it.
    pub fn open(folder: &Path) -> Result<Self, InspectError> {
        let folder = buffer_in(folder);
        let failed = |why: io::Error| match why.kind() {
            ErrorKind::NotFound => InspectError::NotThere(folder.clone()),
            ErrorKind::NotADirectory => InspectError::NotABuffer(folder.clone()),
            ErrorKind::PermissionDenied => InspectError::Denied(folder.clone()),
            _ => InspectError::Unreadable { folder: folder.clone(), why },
        };
        fs::read_dir(&folder).map_err(failed)?;
        let window = Window::new(&folder);
        let user = User::of(&folder);
        let (book, contents) = match load(&window, user) {
            Ok(Some(contents)) => (Book::Read, contents),
            Ok(None) => (Book::Gone, Contents::default()),
            Err(why) if why.kind() == ErrorKind::PermissionDenied => return Err(failed(why)),
            Err(why) => (Book::Unreadable(why.to_string()), Contents::default()),
        };
        let files: BTreeMap<String, u64> = window.files().map_err(failed)?.into_iter().collect();
        if book == Book::Gone && !files.keys().any(|name| number_of(name).is_some()) {
            return Err(InspectError::NotABuffer(folder));
        }
        let epoch = contents.epoch.or_else(|| newest_epoch(&window, &files));
        Ok(Self { folder, window, user, book, contents, files, epoch })
    }

    /// The folder that is looked at.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Every segment, in the order of their sequences.
    fn parts(&self) -> Vec<Part> {
        let mut parts: Vec<Part> = self
            .contents
            .segments
            .iter()
            .map(|(number, (known, sealed))| Part {
                number: *number,
                known: known.clone(),
                standing: if *sealed { Standing::Sealed } else { Standing::Growing },
            })
            .collect();
        let numbers = self.files.keys().filter_map(|name| number_of(name));
        parts.extend(
            numbers.filter(|number| !self.contents.segments.contains_key(number)).map(|n| self.met(n)),
        );
        // An agent that rewrites old data may give it a new number; the sequences tell the order.
        parts.sort_by_key(|part| (part.known.first, part.number));
        parts
    }

    /// A file that the logbook does not know.
    fn met(&self, number: u64) -> Part {
        let head = self.window.open(&file_name(number)).and_then(|file| FileFacts::read(file.as_ref()));
        let head = head.ok().flatten();
        let standing = if head.is_some_and(|head| self.epoch.is_some_and(|epoch| epoch != head.epoch)) {
            Standing::Alien
        } else if self.contents.is_whole() && number < self.contents.books.next_segment {
            Standing::Done
        } else {
            Standing::New
        };
        let known = match head {
            Some(head) => Segment::new(number, head.first, head.appended_before),
            None => Segment::new(number, 0, 0),
        };
        Part { number, known, standing }
    }

    fn open_part(&self, part: &Part) -> Opened {
        let opened = self.window.open(&file_name(part.number)).and_then(|file| Ok((file.length()?, file)));
        match opened {
            // Behind the end of a sealed segment may lie what could not be cut off.
            Ok((length, file)) if part.standing == Standing::Sealed => {
                Opened::File(file, length.min(part.known.length))
            }
            Ok((length, file)) => Opened::File(file, length),
            Err(why) if why.kind() != ErrorKind::NotFound => Opened::Refused(why),
            Err(_) if self.is_still_wanted(part.number) => Opened::Gone,
            Err(_) => Opened::Finished,
        }
    }

    /// Does the logbook, as it is by now, still name this segment?
    fn is_still_wanted(&self, number: u64) -> bool {
        match load(&self.window, self.user) {
            Ok(Some(contents)) => contents.segments.contains_key(&number),
            Ok(None) | Err(_) => self.contents.segments.contains_key(&number),
        }
    }
}

impl Part {
    fn file(&self) -> String {
        file_name(self.number)
    }

    /// Does the batch of this sequence wait for the server?
    fn waits(&self, sequence: u64) -> bool {
        !self.known.forgotten.contains(sequence)
    }

    /// Is all of it acknowledged or given up, by the logbook?
    fn is_finished(&self) -> bool {
        self.standing == Standing::Sealed && self.known.live().batches == 0
    }

    /// Is it the agent's, and not on its way out?
    fn counts(&self) -> bool {
        matches!(self.standing, Standing::Sealed | Standing::Growing | Standing::New)
    }
}

/// The folder itself, or, where a whole state directory was named or copied, the buffer in it.
fn buffer_in(folder: &Path) -> PathBuf {
    let below = folder.join("buffer");
    if !folder.join(LOGBOOK).exists() && below.join(LOGBOOK).exists() { below } else { folder.to_owned() }
}

/// The logbook's contents. A record that is being written just now looks like a torn tail.
fn load(window: &Window, user: User) -> io::Result<Option<Contents>> {
    let mut looks = 1;
    loop {
        let loaded = Contents::load(window)?.map(|(contents, _)| contents);
        let torn = loaded.as_ref().is_some_and(|contents| contents.torn);
        if !torn || !user.may_write() || looks == LOOKS {
            return Ok(loaded);
        }
        looks += 1;
    }
}

/// What the newest segment that tells says, in its head or in one of its batches.
fn newest_epoch(window: &Window, files: &BTreeMap<String, u64>) -> Option<Epoch> {
    let names = || files.keys().rev().filter(|name| number_of(name).is_some());
    let head = |name: &String| FileFacts::read(window.open(name).ok()?.as_ref()).ok()?;
    let told = names().filter_map(head).find(|head| head.segment).map(|head| head.epoch);
    told.or_else(|| names().find_map(|name| epoch_inside(window, name)))
}

fn epoch_inside(window: &Window, name: &str) -> Option<Epoch> {
    let file = window.open(name).ok()?;
    let mut walk = Walk::new(file.as_ref(), file.length().ok()?, Depth::Whole);
    while let Some((piece, ..)) = walk.step().ok()? {
        if let Piece::Batch(batch) = piece
            && let Ok(peek) = batch::peek(&batch.bytes)
        {
            return Some(peek.head.epoch);
        }
    }
    None
}
