//! What was just committed, for whoever is looking now. Not a way to keep data: a subscriber that
//! falls behind loses the oldest and is told so, and asks the store for the rest.
//!
//! Readers of one agent have a channel of their own, so that a page costs nothing while other agents
//! send. What other servers on the same database commit comes by [`Exchange`].

mod elsewhere;
mod exchange;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use forebay_protocols::reading::PointId;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, broadcast, watch};

use crate::store::alarms::AlarmSummary;
use crate::store::{AgentKey, Micros, PointKey, TenantKey, Timed};

use elsewhere::Elsewhere;
pub use exchange::Exchange;

/// Batches a slow subscriber may be behind. Bounds the memory of the feed: at most this many
/// batches are kept for its sake.
const DEPTH: usize = 128;

/// WebSockets open at once; their listener does not count them.
const SEATS: usize = 1_024;

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

type Channel = broadcast::Sender<Arc<Committed>>;

/// The feed: cheap to clone, shared by ingest (publishes) and the API (subscribes).
#[derive(Clone, Debug)]
pub struct Feed(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    all: Channel,
    /// What this server commits, for its own ears.
    own: Channel,
    /// One for each agent that somebody looks at.
    one: Mutex<HashMap<AgentKey, Channel>>,
    /// Told when somebody begins to look.
    begun: Notify,
    elsewhere: Elsewhere,
    /// Of each tenant that has looked or was looked at: bounded by their number.
    alarms: Mutex<HashMap<TenantKey, watch::Sender<AlarmSummary>>>,
    seats: Arc<Semaphore>,
    /// Of agents that joined, the last one of each: bounded by their number.
    refusals: Mutex<HashMap<AgentKey, Refusal>>,
}

/// Why an agent that is known was sent away, as far as this server knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// When.
    pub at: Micros,
    /// In plain words.
    pub words: String,
}

/// What somebody looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Looks {
    Nowhere,
    At(Vec<AgentKey>),
    Everywhere,
}

impl Feed {
    /// A feed nobody looks at yet.
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            all: Channel::new(DEPTH),
            own: Channel::new(DEPTH),
            one: Mutex::default(),
            begun: Notify::new(),
            elsewhere: Elsewhere::default(),
            alarms: Mutex::default(),
            seats: Arc::new(Semaphore::new(SEATS)),
            refusals: Mutex::default(),
        }))
    }

    /// Is anybody looking here?
    pub fn watched(&self) -> bool {
        self.looks() != Looks::Nowhere
    }

    /// Is anybody looking at this agent, here or at another server? While nobody is, publishing costs
    /// nothing.
    pub fn wants(&self, agent: AgentKey) -> bool {
        self.0.own.receiver_count() > 0 || self.looked_at(agent) || self.0.elsewhere.wants(agent)
    }

    /// Shows a batch to all subscribers. Call it after the commit, never before.
    pub fn publish(&self, committed: Committed) {
        if !committed.backlog
            && self.0.elsewhere.wants(committed.agent)
            && let Some(earliest) = committed.readings.iter().map(|reading| reading.time).min()
        {
            self.0.elsewhere.committed(committed.agent, earliest);
        }
        let committed = Arc::new(committed);
        // An error means that nobody listens.
        let _ = self.0.own.send(committed.clone());
        self.show(committed);
    }

    /// What this server commits from now on, of all agents. No other server tells it anything for that.
    pub fn listen(&self) -> Subscription {
        self.0.own.subscribe()
    }

    /// Everything committed from now on, of one agent or of all.
    pub fn subscribe(&self, agent: Option<AgentKey>) -> Subscription {
        let subscription = match agent {
            None => self.0.all.subscribe(),
            Some(agent) => {
                let mut one = self.one();
                one.retain(|_, channel| channel.receiver_count() > 0);
                one.entry(agent).or_insert_with(|| Channel::new(DEPTH)).subscribe()
            }
        };
        self.0.begun.notify_one();
        subscription
    }

    /// A place for one more WebSocket, until it is dropped; `None` if all are taken.
    pub fn seat(&self) -> Option<OwnedSemaphorePermit> {
        self.0.seats.clone().try_acquire_owned().ok()
    }

    /// Shows a batch here, and tells nobody elsewhere.
    fn show(&self, committed: Arc<Committed>) {
        // An error means that nobody is looking.
        if let Some(channel) = self.one().get(&committed.agent) {
            let _ = channel.send(committed.clone());
        }
        let _ = self.0.all.send(committed);
    }

    fn looked_at(&self, agent: AgentKey) -> bool {
        self.0.all.receiver_count() > 0
            || self.one().get(&agent).is_some_and(|channel| channel.receiver_count() > 0)
    }

    fn looks(&self) -> Looks {
        if self.0.all.receiver_count() > 0 {
            return Looks::Everywhere;
        }
        let one = self.one();
        let seen = one.iter().filter(|(_, channel)| channel.receiver_count() > 0).map(|(agent, _)| *agent);
        let seen: Vec<AgentKey> = seen.collect();
        if seen.is_empty() { Looks::Nowhere } else { Looks::At(seen) }
    }

    fn one(&self) -> MutexGuard<'_, HashMap<AgentKey, Channel>> {
        self.0.one.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An agent was sent away.
    pub fn refused(&self, agent: AgentKey, refusal: Refusal) {
        self.0.refusals.lock().unwrap_or_else(PoisonError::into_inner).insert(agent, refusal);
    }

    /// When and why an agent was sent away last, since this server started.
    pub fn refusal(&self, agent: AgentKey) -> Option<Refusal> {
        self.0.refusals.lock().unwrap_or_else(PoisonError::into_inner).get(&agent).cloned()
    }

    /// Tells how many alarms a tenant has, if anything has changed.
    pub fn ring(&self, tenant: TenantKey, summary: AlarmSummary) {
        let bell = self.bell(tenant);
        bell.send_if_modified(|known| std::mem::replace(known, summary) != summary);
    }

    /// How many alarms a tenant has, from now on.
    pub fn alarms(&self, tenant: TenantKey) -> watch::Receiver<AlarmSummary> {
        self.bell(tenant).subscribe()
    }

    fn bell(&self, tenant: TenantKey) -> watch::Sender<AlarmSummary> {
        let mut bells = self.0.alarms.lock().unwrap_or_else(PoisonError::into_inner);
        bells.entry(tenant).or_default().clone()
    }
}

impl Default for Feed {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committed(agent: i64) -> Committed {
        Committed { agent: AgentKey(agent), points: Vec::new(), readings: Arc::default(), backlog: false }
    }

    #[test]
    fn a_reader_of_one_agent_gets_its_batches_and_those_of_no_other() {
        let feed = Feed::new();
        let (mut one, mut all) = (feed.subscribe(Some(AgentKey(1))), feed.subscribe(None));
        feed.publish(committed(2));
        feed.publish(committed(1));
        assert_eq!(one.try_recv().map(|committed| committed.agent).ok(), Some(AgentKey(1)));
        assert!(one.try_recv().is_err());
        assert_eq!((all.try_recv().is_ok(), all.try_recv().is_ok()), (true, true));
    }

    #[test]
    fn who_listens_to_its_own_server_hears_all_of_it_and_asks_nothing_of_others() {
        let feed = Feed::new();
        let mut own = feed.listen();
        assert!(feed.wants(AgentKey(1)));
        assert_eq!(feed.looks(), Looks::Nowhere);
        feed.publish(committed(1));
        feed.show(Arc::new(committed(2)));
        assert_eq!(own.try_recv().map(|committed| committed.agent).ok(), Some(AgentKey(1)));
        assert!(own.try_recv().is_err(), "what another server committed is that one's to judge");
    }

    #[test]
    fn what_nobody_looks_at_is_not_wanted() {
        let feed = Feed::new();
        assert!(!feed.wants(AgentKey(1)) && !feed.watched());
        let one = feed.subscribe(Some(AgentKey(1)));
        assert!(feed.wants(AgentKey(1)) && !feed.wants(AgentKey(2)) && feed.watched());
        drop(one);
        assert!(!feed.wants(AgentKey(1)) && !feed.watched());
        let all = feed.subscribe(None);
        assert!(feed.wants(AgentKey(2)));
        drop(all);
        assert_eq!(feed.looks(), Looks::Nowhere);
    }
}
