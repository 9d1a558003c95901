//! The store as the uplink packs from it, without a thread of its own.

use std::future::{Future, ready};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use forebay_agent::buffer::store::Store;
use forebay_agent::buffer::{BufferError, Revived, Status, Stored};
use forebay_agent::uplink::parcel::Backlog;
use forebay_protocols::reading::{Point, PointId};
use forebay_protocols::sync::batch::Sequence;
use forebay_protocols::sync::ranges::Ranges;
use forebay_protocols::sync::wire;

/// An open store.
pub struct Shelf(Mutex<Store>);

impl Shelf {
    /// An open one.
    pub fn new(store: Store) -> Self {
        Self(Mutex::new(store))
    }

    /// To close it, or to drop it.
    pub fn into_store(self) -> Store {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// To work with it.
    pub fn store(&self) -> MutexGuard<'_, Store> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Answer<T> = Result<T, BufferError>;

impl Backlog for Shelf {
    fn oldest(&self, from: Sequence, max: usize) -> impl Future<Output = Answer<Vec<Stored>>> + Send {
        ready(Ok(self.store().oldest(from, max)))
    }
    fn acknowledge(&self, ranges: Vec<RangeInclusive<u64>>) -> impl Future<Output = Answer<()>> + Send {
        self.store().acknowledge(&ranges);
        ready(Ok(()))
    }
    fn dictionary(&self, after: PointId) -> impl Future<Output = Answer<Vec<(PointId, Arc<Point>)>>> + Send {
        ready(Ok(self.store().dictionary_to_tell(after)))
    }
    fn gaps(&self, after: u64, most: usize) -> impl Future<Output = Answer<Vec<wire::Gap>>> + Send {
        ready(Ok(self.store().gaps_to_tell(after, most)))
    }
    fn openings(&self) -> impl Future<Output = Answer<Vec<wire::Opening>>> + Send {
        ready(Ok(self.store().openings()))
    }
    fn greeted(&self, opening: [u8; 8]) -> impl Future<Output = Answer<()>> + Send {
        self.store().greeted(opening);
        ready(Ok(()))
    }
    fn acknowledged(&self) -> impl Future<Output = Answer<Ranges>> + Send {
        ready(Ok(self.store().acknowledged().clone()))
    }
    fn revive(&self, ranges: Vec<RangeInclusive<u64>>) -> impl Future<Output = Answer<Revived>> + Send {
        ready(Ok(self.store().revive(&ranges)))
    }
    fn status(&self) -> Status {
        self.store().status()
    }
    fn appended(&self) -> impl Future<Output = ()> + Send {
        ready(())
    }
}
