//! The buffer's thread: takes wishes from the handles, one after the other, and keeps the store's
//! house in between.

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use forebay_protocols::boot_time::BootTime;
use forebay_protocols::reading::{Point, PointId};
use forebay_protocols::sync::batch::{Encoded, Sequence};
use forebay_protocols::sync::ranges::Ranges;
use forebay_protocols::sync::wire;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;

use super::age::Ages;
use super::disk::Flash;
use super::store::{Rules, Store};
use super::{BootKnown, BufferError, Opening, Revived, Settings, Status, Stored};
use crate::clock::machine::Machine;

/// Wishes that may wait; beyond it the handles wait instead.
const WISHES: usize = 16;
/// How long definitions, gaps and what else is not appended may stay in memory only.
const TICK: Duration = Duration::from_secs(1);
/// How long acknowledgements may, where nothing else is written: after a crash their batches are sent once more,
/// which is harmless, while each write of a small fact takes whole blocks of the flash.
const ACKNOWLEDGEMENTS: Duration = Duration::from_secs(60);
/// How often the catalogue is flushed, which takes a block or two of the flash: what it alone would know after a crash
/// are batches that the disk has lost since they were synced.
const FLUSH: Duration = Duration::from_secs(300);

/// What a handle may ask for.
pub(super) enum Wish {
    Append { batches: Vec<Encoded>, answer: oneshot::Sender<(Result<(), BufferError>, Sequence)> },
    Define { points: Vec<Arc<Point>>, answer: oneshot::Sender<Vec<PointId>> },
    Oldest { from: Sequence, max_bytes: usize, answer: oneshot::Sender<Vec<Stored>> },
    Newest { upto: Sequence, max_bytes: usize, answer: oneshot::Sender<Vec<Stored>> },
    Acknowledge { ranges: Vec<RangeInclusive<u64>>, answer: oneshot::Sender<()> },
    Dictionary { after: PointId, answer: oneshot::Sender<Vec<(PointId, Arc<Point>)>> },
    Gaps { after: u64, most: usize, answer: oneshot::Sender<Vec<wire::Gap>> },
    RecordGap { gap: wire::Gap, answer: oneshot::Sender<()> },
    Revive { ranges: Vec<RangeInclusive<u64>>, answer: oneshot::Sender<Revived> },
    Acknowledged { answer: oneshot::Sender<Ranges> },
    Openings { answer: oneshot::Sender<Vec<wire::Opening>> },
    Greeted { opening: [u8; 8], answer: oneshot::Sender<()> },
    Boots { answer: oneshot::Sender<Vec<BootKnown>> },
    LearnOffset { offset_us: i64, answer: oneshot::Sender<()> },
    Close { answer: oneshot::Sender<()> },
}

/// What the handles see without asking.
#[derive(Default)]
pub(super) struct Shared {
    books: Mutex<(Status, Option<String>)>,
    acknowledged_at: Mutex<Option<BootTime>>,
    ages: Mutex<Ages>,
    /// Told of every append.
    pub appended: Notify,
}

impl Shared {
    pub fn status(&self) -> Status {
        let acknowledged_at = *self.acknowledged_at();
        let books = self.books().0;
        let oldest_waits = books.oldest.and_then(|oldest| self.ages().of(oldest, BootTime::now()));
        Status { acknowledged_at, oldest_waits, ..books }
    }

    fn ages(&self) -> MutexGuard<'_, Ages> {
        self.ages.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn acknowledged_at(&self) -> MutexGuard<'_, Option<BootTime>> {
        self.acknowledged_at.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn words(&self) -> Option<String> {
        self.books().1.clone()
    }

    fn update(&self, store: &Store) {
        *self.books() = (store.status(), store.fault().map(str::to_owned));
    }

    fn books(&self) -> MutexGuard<'_, (Status, Option<String>)> {
        self.books.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Starts the thread and waits until the store is open.
pub(super) async fn start(
    settings: Settings,
    machine: Machine,
) -> Result<(mpsc::Sender<Wish>, Arc<Shared>, Sequence, Opening), BufferError> {
    let (wishes, waiting) = mpsc::channel(WISHES);
    let (opened, opening) = oneshot::channel();
    let shared = Arc::new(Shared::default());
    let own = shared.clone();
    std::thread::Builder::new()
        .name("buffer".into())
        .spawn(move || match open(&settings, machine) {
            Ok((store, opening)) => {
                *own.ages() = Ages::new(store.next_sequence());
                own.update(&store);
                // If nobody waits any more the channel of wishes is closed too.
                drop(opened.send(Ok((store.next_sequence(), opening))));
                work(store, waiting, &own);
            }
            Err(error) => drop(opened.send(Err(error))),
        })
        .map_err(|error| BufferError::Disk(format!("no thread for it: {error}")))?;
    let (next, opening) = opening.await.map_err(|_| BufferError::Stopped)??;
    Ok((wishes, shared, next, opening))
}

fn open(settings: &Settings, machine: Machine) -> Result<(Store, Opening), BufferError> {
    let rules = Rules {
        limit: settings.max_size.0,
        reserve: settings.reserve.0,
        when_full: settings.when_full,
        tail: settings.tail.0,
        classes: settings.classes.clone(),
    };
    Store::open_on(Arc::new(Flash::new(&settings.dir)), rules, machine)
}

fn work(mut store: Store, mut wishes: mpsc::Receiver<Wish>, shared: &Shared) {
    // A runtime for the one thing it is needed for: waiting for a wish, but not for ever.
    let Ok(clock) = tokio::runtime::Builder::new_current_thread().enable_time().build() else { return };
    let began = BootTime::now();
    let (mut looked, mut ticked, mut flushed) = (began, began, began);
    loop {
        let wish = clock.block_on(async { timeout(TICK, wishes.recv()).await });
        match wish {
            Ok(Some(Wish::Close { answer })) => {
                store.close();
                return tell(answer, ());
            }
            Ok(Some(wish)) => grant(&mut store, wish, shared),
            Ok(None) => return store.close(),
            Err(_) => {}
        }
        let now = BootTime::now();
        if now.since(ticked) >= ACKNOWLEDGEMENTS {
            store.tick();
            (looked, ticked) = (now, now);
        } else if now.since(looked) >= TICK {
            store.tick_lightly();
            looked = now;
        }
        if now.since(flushed) >= FLUSH {
            store.rest();
            flushed = now;
        }
        shared.update(&store);
    }
}

/// Does what is wished.
fn grant(store: &mut Store, wish: Wish, shared: &Shared) {
    match wish {
        Wish::Append { batches, answer } => {
            let result = store.append(&batches);
            // Before the books: whoever reads these finds an age for what stands in them.
            shared.ages().appended(store.next_sequence(), BootTime::now());
            shared.update(store);
            if result.is_ok() {
                shared.appended.notify_one();
            }
            tell(answer, (result, store.next_sequence()));
        }
        Wish::Define { points, answer } => tell(answer, store.define(&points)),
        Wish::Oldest { from, max_bytes, answer } => tell(answer, store.oldest(from, max_bytes)),
        Wish::Newest { upto, max_bytes, answer } => tell(answer, store.newest(upto, max_bytes)),
        Wish::Acknowledge { ranges, answer } => {
            store.acknowledge(&ranges);
            shared.update(store);
            *shared.acknowledged_at() = Some(BootTime::now());
            tell(answer, ());
        }
        Wish::Dictionary { after, answer } => tell(answer, store.dictionary_to_tell(after)),
        Wish::Gaps { after, most, answer } => tell(answer, store.gaps_to_tell(after, most)),
        Wish::RecordGap { gap, answer } => {
            store.record_gap(gap);
            tell(answer, ());
        }
        Wish::Revive { ranges, answer } => {
            let revived = store.revive(&ranges);
            shared.update(store);
            if revived.batches > 0 {
                // For whoever sends, they are as good as new.
                shared.appended.notify_one();
            }
            tell(answer, revived);
        }
        Wish::Acknowledged { answer } => tell(answer, store.acknowledged().clone()),
        Wish::Openings { answer } => tell(answer, store.openings()),
        Wish::Greeted { opening, answer } => {
            store.greeted(opening);
            tell(answer, ());
        }
        Wish::Boots { answer } => tell(answer, store.boots()),
        Wish::LearnOffset { offset_us, answer } => {
            store.learn_offset(offset_us);
            tell(answer, ());
        }
        Wish::Close { answer } => tell(answer, ()),
    }
}

/// An answer that nobody waits for any more is dropped: what was done is done.
fn tell<T>(answer: oneshot::Sender<T>, what: T) {
    drop(answer.send(what).err());
}
