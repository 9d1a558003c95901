//! What was just committed, for whoever is looking now. Not a way to keep data: a subscriber that
//! falls behind loses the oldest and is told so, and asks the store for the rest.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use forebay_protocols::reading::PointId;
use tokio::sync::{broadcast, watch};

use crate::store::alarms::AlarmSummary;
use crate::store::{AgentKey, Micros, PointKey, Timed};

/// Batches a slow subscriber may be behind. Bounds the memory of the feed: at most this many
/// batches are kept for its sake.
const DEPTH: usize = 128;

/// One committed batch.
#[derive(Debug)]
pub struct Committed {
    /// Whose.
    pub agent: AgentKey,
    /// What the dictionary numbers in `readings` mean (and maybe some more).
    pub points: Vec<(PointId, PointKey)>,
    /// Sorted by (point, time).
    pub readings: Arc<Vec<Timed>>,
    /// Older than the agent's live lane.
    pub backlog: bool,
}

/// What a subscriber reads from.
pub type Subscription = broadcast::Receiver<Arc<Committed>>;

/// The feed: cheap to clone, shared by ingest (publishes) and the API (subscribes).
#[derive(Clone, Debug)]
pub struct Feed {
    sender: broadcast::Sender<Arc<Committed>>,
    alarms: watch::Sender<AlarmSummary>,
    /// Of agents that joined, the last one of each: bounded by their number.
    refusals: Arc<Mutex<HashMap<AgentKey, Refusal>>>,
}

/// Why an agent that is known was sent away, as far as this server knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// When.
    pub at: Micros,
    /// In plain words.
    pub words: String,
}

impl Feed {
    /// A feed nobody looks at yet.
    pub fn new() -> Self {
        Self {
            sender: broadcast::Sender::new(DEPTH),
            alarms: watch::Sender::new(AlarmSummary::default()),
            refusals: Arc::default(),
        }
    }

    /// Is anybody looking? While nobody is, publishing costs nothing.
    pub fn watched(&self) -> bool {
        self.sender.receiver_count() > 0
    }

    /// Shows a batch to all subscribers. Call it after the commit, never before.
    pub fn publish(&self, committed: Committed) {
        // An error means that nobody is looking.
        let _ = self.sender.send(Arc::new(committed));
    }

    /// Everything committed from now on.
    pub fn subscribe(&self) -> Subscription {
        self.sender.subscribe()
    }

    /// An agent was sent away.
    pub fn refused(&self, agent: AgentKey, refusal: Refusal) {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).insert(agent, refusal);
    }

    /// When and why an agent was sent away last, since this server started.
    pub fn refusal(&self, agent: AgentKey) -> Option<Refusal> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).get(&agent).cloned()
    }

    /// Tells how many alarms there are, if anything has changed.
    pub fn ring(&self, summary: AlarmSummary) {
        self.alarms.send_if_modified(|known| std::mem::replace(known, summary) != summary);
    }

    /// How many alarms there are, from now on.
    pub fn alarms(&self) -> watch::Receiver<AlarmSummary> {
        self.alarms.subscribe()
    }
}

impl Default for Feed {
    fn default() -> Self {
        Self::new()
    }
}
