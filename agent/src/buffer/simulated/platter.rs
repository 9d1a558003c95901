//! What lies on the simulated disk: for every file and for the folder, what is synced, and every
//! step since. A power cut takes what is synced and as many of the steps as the dice allow.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes a disk writes whole, or so it says.
const SECTOR: usize = 512;

/// Names and files.
#[derive(Clone, Default)]
pub(super) struct Platter {
    /// As a process sees them.
    names: BTreeMap<String, usize>,
    synced_names: BTreeMap<String, usize>,
    namings: Vec<Naming>,
    files: Vec<Content>,
}

/// A step in the folder since it was synced.
#[derive(Clone)]
pub(super) enum Naming {
    Link(String, usize),
    Unlink(String),
    Rename { from: String, to: String, file: usize },
}

/// A step in a file since it was synced.
#[derive(Clone)]
pub(super) enum Write {
    Bytes { at: usize, bytes: Arc<[u8]> },
    Cut(usize),
}

#[derive(Clone, Default)]
struct Content {
    /// As a process sees it.
    now: Arc<Vec<u8>>,
    synced: Arc<Vec<u8>>,
    writes: Vec<Write>,
}

/// What becomes of the steps that were not synced.
#[derive(Clone, Copy)]
enum Luck {
    /// None happened.
    None,
    /// All happened.
    All,
    /// Each for itself.
    Mixed,
}

impl Platter {
    pub fn used(&self) -> u64 {
        self.names.values().map(|file| self.content(*file).len() as u64).sum()
    }

    pub fn files(&self) -> Vec<(String, u64)> {
        self.names.iter().map(|(name, file)| (name.clone(), self.content(*file).len() as u64)).collect()
    }

    pub fn file_of(&self, name: &str) -> Option<usize> {
        self.names.get(name).copied()
    }

    pub fn content(&self, file: usize) -> &[u8] {
        self.files.get(file).map_or(&[], |content| content.now.as_slice())
    }

    /// An empty file of this name: the one that had it, cut, or a new one.
    pub fn create(&mut self, name: &str) -> usize {
        if let Some(file) = self.file_of(name) {
            self.write(file, Write::Cut(0));
            return file;
        }
        self.files.push(Content::default());
        let file = self.files.len() - 1;
        self.name(Naming::Link(name.into(), file));
        file
    }

    pub fn name(&mut self, naming: Naming) {
        naming.apply(&mut self.names);
        self.namings.push(naming);
    }

    pub fn sync_names(&mut self) {
        self.synced_names = self.names.clone();
        self.namings.clear();
    }

    pub fn write(&mut self, file: usize, write: Write) {
        if let Some(content) = self.files.get_mut(file) {
            write.apply(Arc::make_mut(&mut content.now));
            content.writes.push(write);
        }
    }

    pub fn sync(&mut self, file: usize) {
        if let Some(content) = self.files.get_mut(file) {
            // Step by step: what an earlier sync forgot stays forgotten.
            let synced = Arc::make_mut(&mut content.synced);
            content.writes.drain(..).for_each(|write| write.apply(synced));
        }
    }

    pub fn forget_unsynced(&mut self, file: usize) {
        if let Some(content) = self.files.get_mut(file) {
            content.writes.clear();
        }
    }

    /// Gives back the bytes of files that no name leads to, now or after a power cut.
    pub fn forget_the_unnamed(&mut self) {
        let mut named: Vec<usize> = self.names.values().chain(self.synced_names.values()).copied().collect();
        named.extend(self.namings.iter().filter_map(Naming::file));
        for (file, content) in self.files.iter_mut().enumerate() {
            if !named.contains(&file) {
                *content = Content::default();
            }
        }
    }

    pub fn wreck(&self, below: &mut dyn FnMut(u64) -> u64) -> Self {
        let mut names = self.synced_names.clone();
        let luck = Luck::throw(below);
        self.namings.iter().filter(|_| luck.holds(below)).for_each(|naming| naming.apply(&mut names));
        let mut files = Vec::with_capacity(self.files.len());
        for content in &self.files {
            files.push(Content::of(content.wreck(below)));
        }
        Self { synced_names: names.clone(), names, namings: Vec::new(), files }
    }

    pub fn after_power_cut(&self, kept: usize) -> Self {
        let files = self.files.iter().map(|content| {
            let extra = content.now.get(content.synced.len()..).unwrap_or_default();
            let mut bytes = content.synced.to_vec();
            bytes.extend_from_slice(extra.get(..extra.len() * kept / 8).unwrap_or_default());
            Content::of(Arc::new(bytes))
        });
        let names = self.synced_names.clone();
        Self { synced_names: names.clone(), names, namings: Vec::new(), files: files.collect() }
    }
}

impl Naming {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Link(name, file) => drop(names.insert(name.clone(), *file)),
            Self::Unlink(name) => drop(names.remove(name)),
            Self::Rename { from, to, file } => {
                names.remove(from);
                names.insert(to.clone(), *file);
            }
        }
    }

    fn file(&self) -> Option<usize> {
        match self {
            Self::Link(_, file) | Self::Rename { file, .. } => Some(*file),
            Self::Unlink(_) => None,
        }
    }
}

impl Write {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Bytes { at, bytes } => put(content, *at, bytes),
            Self::Cut(length) => content.resize(*length, 0),
        }
    }
}

impl Content {
    fn of(bytes: Arc<Vec<u8>>) -> Self {
        Self { now: bytes.clone(), synced: bytes, writes: Vec::new() }
    }

    fn wreck(&self, below: &mut dyn FnMut(u64) -> u64) -> Arc<Vec<u8>> {
        if self.writes.is_empty() {
            return self.synced.clone();
        }
        let luck = Luck::throw(below);
        let mut content = self.synced.to_vec();
        for write in &self.writes {
            match (luck, write) {
                (Luck::None, _) => {}
                (Luck::Mixed, Write::Bytes { at, bytes }) => tear(&mut content, *at, bytes, below),
                (Luck::Mixed, Write::Cut(_)) if below(2) == 0 => {}
                (_, write) => write.apply(&mut content),
            }
        }
        Arc::new(content)
    }
}

impl Luck {
    fn throw(below: &mut dyn FnMut(u64) -> u64) -> Self {
        match below(4) {
            0 => Self::None,
            1 => Self::All,
            _ => Self::Mixed,
        }
    }

    fn holds(self, below: &mut dyn FnMut(u64) -> u64) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Mixed => below(2) == 0,
        }
    }
}

fn put(content: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[at..end].copy_from_slice(bytes);
}

/// A write of which each sector happened, did not, or happened up to some byte.
fn tear(content: &mut Vec<u8>, at: usize, bytes: &[u8], below: &mut dyn FnMut(u64) -> u64) {
    let (mut from, end) = (at, at + bytes.len());
    while from < end {
        let to = end.min((from / SECTOR + 1) * SECTOR);
        let part = &bytes[from - at..to - at];
        match below(5) {
            0 | 1 => {}
            2 => put(content, from, &part[..below(part.len() as u64) as usize]),
            _ => put(content, from, part),
        }
        from = to;
    }
    // The length may have come without the data.
    if content.len() < end && below(2) == 0 {
        content.resize(end, 0);
    }
}
