//! The fleet in memory, for everybody who asks: one look at the database serves all questions of the
//! next moment, however many pages are open. Nothing is older than [`FRESH`]; an agent that is asked
//! for by name and not known is looked for at once.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::store::{AgentKey, AgentRow, FaultRow, Store, StoreError, TenantKey};

/// How long a look at the fleet is believed. Pages ask every two seconds.
pub const FRESH: Duration = Duration::from_secs(1);
/// A name that nobody has makes the database be asked again this often at most.
const ASKED_AGAIN: Duration = Duration::from_millis(100);

/// The fleet as it was a moment ago. Clones are the same.
#[derive(Clone)]
pub struct Roster(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    fresh: Duration,
    /// The same as tenants see it.
    tenants: std::sync::Mutex<HashMap<TenantKey, Roster>>,
    /// Held during a look, so that whoever asks meanwhile waits for it and does not look too.
    held: Mutex<Option<Arc<Muster>>>,
}

/// One look at the fleet.
pub(super) struct Muster {
    at: Instant,
    /// By site, then gateway.
    pub(super) agents: Vec<AgentRow>,
    /// The faults that stand, the newest first of each agent.
    faults: HashMap<AgentKey, Vec<FaultRow>>,
}

impl Roster {
    /// Over a store, looked at when the last look is older than [`FRESH`].
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self::fresh_for(store, FRESH)
    }

    /// Over a store, looked at when the last look is older than `fresh`.
    pub fn fresh_for(store: Arc<dyn Store>, fresh: Duration) -> Self {
        Self(Arc::new(Inner { store, fresh, tenants: Default::default(), held: Mutex::new(None) }))
    }

    /// The fleet of one tenant.
    pub(super) fn within(&self, tenant: TenantKey) -> Self {
        let mut tenants = self.0.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        let of = || Self::fresh_for(self.0.store.clone().within(tenant), self.0.fresh);
        tenants.entry(tenant).or_insert_with(of).clone()
    }

    /// The fleet.
    pub(super) async fn muster(&self) -> Result<Arc<Muster>, StoreError> {
        self.no_older_than(self.0.fresh).await
    }

    /// The fleet, in which the agent of this name is, if there is one at all.
    pub(super) async fn with(&self, name: Option<&str>) -> Result<Arc<Muster>, StoreError> {
        let muster = self.muster().await?;
        match name {
            Some(name) if muster.agent(name).is_none() => self.no_older_than(ASKED_AGAIN).await,
            _ => Ok(muster),
        }
    }

    async fn no_older_than(&self, age: Duration) -> Result<Arc<Muster>, StoreError> {
        let mut held = self.0.held.lock().await;
        if let Some(muster) = held.as_ref().filter(|muster| muster.at.elapsed() < age.min(self.0.fresh)) {
            return Ok(muster.clone());
        }
        // What is read after this moment is younger than it.
        let at = Instant::now();
        let mut agents = self.0.store.fleet().await?;
        // Databases order texts by their own rules; cursors need one rule.
        agents.sort_by(|a, b| (&a.site, &a.gateway).cmp(&(&b.site, &b.gateway)));
        let mut faults: HashMap<AgentKey, Vec<FaultRow>> = HashMap::new();
        for row in self.0.store.faults(None, 0).await?.into_iter().filter(|row| row.over.is_none()) {
            faults.entry(row.fault.agent).or_default().push(row);
        }
        let muster = Arc::new(Muster { at, agents, faults });
        *held = Some(muster.clone());
        Ok(muster)
    }
}

impl Muster {
    /// The agent named `site/gateway`.
    pub(super) fn agent(&self, name: &str) -> Option<&AgentRow> {
        let (site, gateway) = name.split_once('/')?;
        let place = self.agents.binary_search_by(|row| (&*row.site, &*row.gateway).cmp(&(site, gateway)));
        self.agents.get(place.ok()?)
    }

    /// The faults of one agent that stand.
    pub(super) fn faults(&self, agent: AgentKey) -> &[FaultRow] {
        self.faults.get(&agent).map_or(&[], Vec::as_slice)
    }
}
