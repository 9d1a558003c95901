//! Signs that a program still works, counted for the watchdog that looks after it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts signs of progress. Cheap to clone; every clone is the same counter.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<AtomicU64>);

impl Progress {
    /// Something went on.
    pub fn advance(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Signs so far.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
