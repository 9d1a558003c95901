//! `/live`: server-sent events with the newest value of each point, a few times a second. A slow
//! reader gets newer values, never a longer queue: while its connection takes nothing, nothing is
//! gathered for it, and the feed forgets what it did not fetch.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderName;
use axum::response::sse::{Event, KeepAlive};
use axum::response::{IntoResponse, Sse};
use futures::stream;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::guard::Caller;
use super::parameters::Parameters;
use super::problem::Problem;
use super::words::{agent_in, millis, value};
use crate::access::{Gate, Proof};
use crate::live::{Committed, Subscription};
use crate::store::{AgentKey, PointKey, TenantKey, Timed};

/// How long values are gathered before they are sent.
const PACE: Duration = Duration::from_millis(250);

/// How soon a reader is out who may read no more.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Tells proxies to pass events on as they come (nginx).
const UNBUFFERED: (HeaderName, &str) = (HeaderName::from_static("x-accel-buffering"), "no");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// `site/gateway`; without it, the whole fleet.
    agent: Option<String>,
}

pub(super) async fn live(
    caller: Caller,
    Parameters(wanted): Parameters<Wanted>,
) -> Result<impl IntoResponse, Problem> {
    let agent = match &wanted.agent {
        Some(name) => Some(agent_in(&caller.store.fleet().await?, name)?),
        None => None,
    };
    // From here on nothing is missed, and the answer's head tells the reader so.
    let reader = Reader {
        subscription: caller.feed.subscribe(),
        stop: caller.stop.clone(),
        gate: caller.visitor.gate.clone(),
        tenant: caller.identity.tenant,
        proof: caller.identity.proof,
        look: Instant::now() + LOOK_EVERY,
        agent,
        newest: BTreeMap::new(),
        due: None,
    };
    let events = stream::unfold(reader, |mut reader| async {
        let event = reader.next().await?;
        Some((Ok::<_, Infallible>(event), reader))
    });
    Ok(([UNBUFFERED], Sse::new(events).keep_alive(KeepAlive::default())))
}

struct Reader {
    subscription: Subscription,
    stop: CancellationToken,
    gate: Arc<Gate>,
    tenant: TenantKey,
    /// How it is known who reads.
    proof: Proof,
    /// When to ask whether that still holds.
    look: Instant,
    agent: Option<AgentKey>,
    /// What the next event will tell. Bounded by the number of points.
    newest: BTreeMap<PointKey, Timed>,
    /// When to tell it. Set with the first value.
    due: Option<Instant>,
}

impl Reader {
    /// The next event, as soon as there is something to say. `None` once the server stops.
    async fn next(&mut self) -> Option<Event> {
        loop {
            // Dropping any of these loses nothing: `recv` takes a message only when it returns it.
            let received = tokio::select! {
                () = self.stop.cancelled() => return None,
                () = until(self.due) => return Some(self.tell()),
                () = sleep_until(self.look) => {
                    self.look = Instant::now() + LOOK_EVERY;
                    match self.gate.stays(self.proof).await {
                        Ok(false) => return None,
                        // A database that is away throws nobody out.
                        Ok(true) | Err(_) => continue,
                    }
                }
                received = self.subscription.recv() => received,
            };
            match received {
                Ok(committed) => match self.gate.is_of(committed.agent, self.tenant).await {
                    Ok(true) => self.keep_newest(&committed),
                    Ok(false) => continue,
                    // Whose it is cannot be told now: the reader learns that something passed.
                    Err(_) => return Some(Event::default().event("missed").data("1")),
                },
                Err(RecvError::Lagged(batches)) => {
                    return Some(Event::default().event("missed").data(batches.to_string()));
                }
                Err(RecvError::Closed) => return None,
            }
            if self.due.is_none() && !self.newest.is_empty() {
                self.due = Some(Instant::now() + PACE);
            }
        }
    }

    fn keep_newest(&mut self, committed: &Committed) {
        // A backlog is history: its newest value is older than what is shown.
        if committed.backlog || self.agent.is_some_and(|agent| agent != committed.agent) {
            return;
        }
        let keys: HashMap<_, _> = committed.points.iter().copied().collect();
        // Sorted by (point, time): the last of each run is its newest.
        for run in committed.readings.chunk_by(|a, b| a.point == b.point) {
            let Some(reading) = run.last() else { continue };
            let Some(key) = keys.get(&reading.point) else { continue };
            if self.newest.get(key).is_none_or(|known| known.time <= reading.time) {
                self.newest.insert(*key, reading.clone());
            }
        }
    }

    fn tell(&mut self) -> Event {
        self.due = None;
        let rows: Vec<Value> = std::mem::take(&mut self.newest)
            .iter()
            .map(|(key, reading)| {
                json!([key.0, millis(reading.time), value(reading.value.as_ref()), reading.quality.words()])
            })
            .collect();
        Event::default().event("readings").data(json!(rows).to_string())
    }
}

/// Waits for the moment, or for ever.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}
