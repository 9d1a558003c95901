//! Keeps over restarts what Modbus links learnt of their units: addresses they refuse and the most
//! registers they give. One small file a link, in `learnt/` below the state directory.
//!
//! - It is written, durably and whole, when something new was learnt, and at no other time.
//! - Reading devices never waits for the disk, and nothing depends on the file: one that is missing or
//!   no good costs the refusals it would have saved.
//! - Deleting it forgets. So does a change of the device's settings in the configuration. Files of links
//!   that are configured no more are deleted at the start.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use forebay_config::field::{Link, Protocol};
use forebay_protocols::field::modbus::{ModbusSource, learnt};
use forebay_protocols::field::occupancy::Occupancy;
use forebay_protocols::field::source::{Harvest, LinkFault, Source};
use forebay_protocols::private_files::{private_folder, replace};
use forebay_protocols::reading::Point;
use tokio::task::{JoinHandle, spawn_blocking};
use tracing::{debug, info, warn};

/// Below the state directory.
const FOLDER: &str = "learnt";

fn file_name(link: &Link) -> String {
    format!("{}.json", link.name)
}

/// The names of the files that `links` keep, to be held against what lies there.
pub fn files_of(links: &[Arc<Link>]) -> BTreeSet<OsString> {
    let is_modbus =
        |link: &&Arc<Link>| matches!(link.protocol, Protocol::ModbusTcp(_) | Protocol::ModbusRtu(_));
    links.iter().filter(is_modbus).map(|link| file_name(link).into()).collect()
}

/// Deletes what links learnt that are configured no more: all files but those in `kept`. Blocks; nothing
/// depends on it.
pub fn forget_removed(state_dir: &Path, kept: &BTreeSet<OsString>) {
    let folder = state_dir.join(FOLDER);
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) => return debug!(folder = %folder.display(), %error, "Nothing was learnt yet."),
    };
    for entry in entries.flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        // A draft that is being written, by whom ever, has another ending.
        if kept.contains(&name) || path.extension().is_none_or(|ending| ending != "json") {
            continue;
        }
        match fs::remove_file(&path) {
            Ok(()) => info!(file = %path.display(), "What a link learnt that is no more was deleted."),
            Err(error) => debug!(file = %path.display(), %error, "Cannot be deleted."),
        }
    }
}

/// A Modbus source that keeps what it learns.
pub struct Keeper {
    source: ModbusSource,
    link: Arc<Link>,
    file: PathBuf,
    /// What the file says as far as is known; `None`: nothing that would be of use.
    text: Option<String>,
    /// Of the source, when it was last looked at; `None`: the file must be written in any case.
    lessons: Option<u64>,
    writing: Option<JoinHandle<io::Result<()>>>,
    /// Is anything written?
    pub keeps: bool,
    /// That the file cannot be written was said.
    is_complained: bool,
}

impl Keeper {
    /// The source of a link with what earlier lives learnt; `None` if the link does not speak Modbus.
    pub async fn open(link: Arc<Link>, state_dir: &Path) -> Option<Self> {
        let file = state_dir.join(FOLDER).join(file_name(&link));
        let found = tokio::fs::read_to_string(&file).await;
        let judged = match &found {
            Ok(text) => learnt::from_text(&link, text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Default::default()),
            Err(error) => Err(error.to_string()),
        };
        let is_good = judged.is_ok();
        let known = judged.unwrap_or_else(|why| {
            warn!(link = %link.name, file = %file.display(), "What was learnt of the link's devices cannot be read and is forgotten: {why}. It is learnt anew.");
            Default::default()
        });
        let source = ModbusSource::with_learnt(&link, &known)?;
        let lessons = is_good.then(|| source.lessons());
        let text = found.ok().filter(|_| is_good);
        Some(Self { source, link, file, text, lessons, writing: None, keeps: true, is_complained: false })
    }

    /// Starts writing what is new, unless an earlier write is still under way or nothing is to be kept.
    async fn keep(&mut self) {
        if !self.keeps || self.writing.as_ref().is_some_and(|writing| !writing.is_finished()) {
            return;
        }
        self.finish().await;
        let lessons = Some(self.source.lessons());
        if std::mem::replace(&mut self.lessons, lessons) == lessons {
            return;
        }
        let text = learnt::to_text(&self.link, &self.source.learnt());
        // A request that was tried again and refused again taught nothing.
        if self.text.as_ref() == Some(&text) {
            return;
        }
        self.text = Some(text.clone());
        let file = self.file.clone();
        self.writing = Some(spawn_blocking(move || {
            private_folder(file.parent().unwrap_or(Path::new(".")))?;
            replace(&file, text.as_bytes(), 0o600)
        }));
    }

    /// Waits for the write that is under way.
    async fn finish(&mut self) {
        // Not taken before it has ended: whoever drops this future drops no handle.
        let Some(writing) = &mut self.writing else { return };
        let written = writing.await.unwrap_or_else(|fall| Err(io::Error::other(fall)));
        self.writing = None;
        if let Err(error) = written {
            self.text = None;
            if !std::mem::replace(&mut self.is_complained, true) {
                warn!(link = %self.link.name, file = %self.file.display(), "What was learnt of the link's devices cannot be kept: {error}. After a restart it is learnt anew.");
            }
        }
    }
}

impl Source for Keeper {
    fn points(&self) -> &[Point] {
        self.source.points()
    }

    async fn connect(&mut self) -> Result<(), LinkFault> {
        self.source.connect().await
    }

    async fn next(&mut self) -> Result<Harvest, LinkFault> {
        // Before the wait for a harvest and not after it: dropping this future must cost none.
        self.keep().await;
        self.source.next().await
    }

    async fn knock(&mut self) -> bool {
        self.source.knock().await
    }

    fn occupancy(&self) -> Option<Occupancy> {
        self.source.occupancy()
    }

    async fn close(&mut self) {
        self.source.close().await;
        self.finish().await;
        self.keep().await;
        self.finish().await;
    }
}

#[cfg(test)]
mod tests;
