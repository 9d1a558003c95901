//! `/live`: server-sent events with the newest value of each point, a few times a second. A slow
//! reader gets newer values, never a longer queue.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures::stream::{self, Stream};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, timeout_at};

use super::Api;
use super::problem::Problem;
use super::words::{agent_named, millis, quality_class, value};
use crate::live::Committed;
use crate::store::{AgentKey, PointKey, Timed};

/// How long values are gathered before they are sent.
const PACE: Duration = Duration::from_millis(250);

#[derive(Deserialize)]
pub(super) struct Wanted {
    /// `site/gateway`; without it, the whole fleet.
    agent: Option<String>,
}

pub(super) async fn live(
    State(api): State<Api>,
    Query(wanted): Query<Wanted>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let agent = match &wanted.agent {
        Some(name) => Some(agent_named(api.store.as_ref(), name).await?),
        None => None,
    };
    let reader = Reader { subscription: api.feed.subscribe(), agent, number: 0 };
    let events = stream::unfold(reader, |mut reader| async {
        let newest = reader.gather().await?;
        Some((Ok(reader.event(&newest)), reader))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

struct Reader {
    subscription: broadcast::Receiver<Arc<Committed>>,
    agent: Option<AgentKey>,
    number: u64,
}

impl Reader {
    /// Waits for something to say, then gathers for one pace. `None` once the server stops.
    async fn gather(&mut self) -> Option<BTreeMap<PointKey, Timed>> {
        let mut newest = BTreeMap::new();
        let mut until: Option<Instant> = None;
        loop {
            let received = match until {
                None => self.subscription.recv().await,
                Some(deadline) => match timeout_at(deadline, self.subscription.recv()).await {
                    Ok(received) => received,
                    Err(_) => return Some(newest),
                },
            };
            match received {
                Ok(committed) => self.keep_newest(&committed, &mut newest),
                // Skipped messages are older than what comes next.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
            if until.is_none() && !newest.is_empty() {
                until = Some(Instant::now() + PACE);
            }
        }
    }

    fn keep_newest(&self, committed: &Committed, newest: &mut BTreeMap<PointKey, Timed>) {
        // A backlog is history: its newest value is older than what is shown.
        if committed.backlog || self.agent.is_some_and(|agent| agent != committed.agent) {
            return;
        }
        let keys: BTreeMap<_, _> = committed.points.iter().copied().collect();
        for reading in committed.readings.iter() {
            let Some(key) = keys.get(&reading.point) else { continue };
            let is_newer = newest.get(key).is_none_or(|known| known.time <= reading.time);
            if is_newer {
                newest.insert(*key, reading.clone());
            }
        }
    }

    fn event(&mut self, newest: &BTreeMap<PointKey, Timed>) -> Event {
        self.number += 1;
        let rows: Vec<Value> = newest
            .iter()
            .map(|(key, reading)| {
                json!([
                    key.0,
                    millis(reading.time),
                    value(reading.value.as_ref()),
                    quality_class(reading.quality)
                ])
            })
            .collect();
        Event::default().event("readings").id(self.number.to_string()).data(json!(rows).to_string())
    }
}
