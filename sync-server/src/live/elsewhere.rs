//! What other servers look at, and what was committed here since they were last told. Bounded by the
//! number of agents.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::Looks;
use crate::store::{AgentKey, Micros};

/// A server that does not repeat itself within this time looks no more: it may have been killed.
pub(super) const BELIEVED: Duration = Duration::from_secs(15);

#[derive(Debug, Default)]
pub(super) struct Elsewhere {
    /// By server.
    looks: Mutex<HashMap<String, (Instant, Looks)>>,
    /// Is there anything in `looks`? Asked for every batch.
    any: AtomicBool,
    /// The earliest reading of each agent since they were last told.
    news: Mutex<HashMap<AgentKey, Micros>>,
    told: Notify,
}

impl Elsewhere {
    /// Does another server want to hear of this agent?
    pub(super) fn wants(&self, agent: AgentKey) -> bool {
        if !self.any.load(Ordering::Relaxed) {
            return false;
        }
        let looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        looks.values().any(|(said, looks)| {
            said.elapsed() < BELIEVED
                && match looks {
                    Looks::Nowhere => false,
                    Looks::At(agents) => agents.contains(&agent),
                    Looks::Everywhere => true,
                }
        })
    }

    /// A server says what it looks at.
    pub(super) fn said(&self, server: &str, now: Looks) {
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        looks.retain(|_, (said, _)| said.elapsed() < BELIEVED);
        match now {
            Looks::Nowhere => looks.remove(server),
            now => looks.insert(server.to_owned(), (Instant::now(), now)),
        };
        self.any.store(!looks.is_empty(), Ordering::Relaxed);
    }

    /// Readings of an agent were committed here.
    pub(super) fn committed(&self, agent: AgentKey, earliest: Micros) {
        let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        news.entry(agent).and_modify(|known| *known = earliest.min(*known)).or_insert(earliest);
        drop(news);
        self.told.notify_one();
    }

    /// Waits until there is something to tell.
    pub(super) async fn news(&self) {
        self.told.notified().await;
    }

    /// What there is to tell, once.
    pub(super) fn take_news(&self) -> Vec<(AgentKey, Micros)> {
        let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        news.drain().collect()
    }
}
