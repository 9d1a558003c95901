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
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::guard::Caller;
use super::parameters::Parameters;
use super::problem::Problem;
use super::words::{agent_in, millis, value};
use crate::access::{Gate, Proof};
use crate::live::{Committed, Subscription};
use crate::store::alarms::AlarmSummary;
use crate::store::{PointKey, TenantKey, Timed};

/// The shortest time between two events.
const PACE: Duration = Duration::from_millis(250);
/// A first value is sent after so long: others that were committed with it go along.
const GATHER: Duration = Duration::from_millis(20);

/// How soon a reader is out who may read no more.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Tells proxies to pass events on as they come (nginx).
const UNBUFFERED: (HeaderName, &str) = (HeaderName::from_static("x-accel-buffering"), "no");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// `site/gateway`; without it, the whole fleet.
    agent: Option<String>,
    /// `readings`, `alarms`; without it, both.
    events: Option<String>,
}

pub(super) async fn live(
    caller: Caller,
    Parameters(wanted): Parameters<Wanted>,
) -> Result<impl IntoResponse, Problem> {
    let agent = match &wanted.agent {
        Some(name) => Some(agent_in(&*caller.fleet.with(Some(name)).await?, name)?),
        None => None,
    };
    let (readings, alarms) = match wanted.events.as_deref() {
        None | Some("readings,alarms") => (true, true),
        Some("readings") => (true, false),
        Some("alarms") => (false, true),
        Some(other) => {
            let words =
                format!("events: `{other}` is neither `readings` nor `alarms`; leave it away for both");
            return Err(Problem::BadRequest(words));
        }
    };
    // From here on nothing is missed, and the answer's head tells the reader so.
    let reader = Reader {
        subscription: readings.then(|| caller.feed.subscribe(agent)),
        alarms: alarms.then(|| caller.feed.alarms(caller.identity.tenant)),
        stop: caller.stop.clone(),
        gate: caller.visitor.gate.clone(),
        tenant: caller.identity.tenant,
        proof: caller.identity.proof,
        look: Instant::now() + LOOK_EVERY,
        newest: BTreeMap::new(),
        due: None,
        told: None,
    };
    let events = stream::unfold(reader, |mut reader| async {
        let event = reader.next().await?;
        Some((Ok::<_, Infallible>(event), reader))
    });
    Ok(([UNBUFFERED], Sse::new(events).keep_alive(KeepAlive::default())))
}

struct Reader {
    subscription: Option<Subscription>,
    alarms: Option<watch::Receiver<AlarmSummary>>,
    stop: CancellationToken,
    gate: Arc<Gate>,
    tenant: TenantKey,
    /// How it is known who reads.
    proof: Proof,
    /// When to ask whether that still holds.
    look: Instant,
    /// What the next event will tell. Bounded by the number of points.
    newest: BTreeMap<PointKey, Timed>,
    /// When to tell it. Set with the first value.
    due: Option<Instant>,
    /// When the event before was told.
    told: Option<Instant>,
}

impl Reader {
    /// The next event, as soon as there is something to say. `None` once the server stops.
    async fn next(&mut self) -> Option<Event> {
        loop {
            // Dropping any of these loses nothing: `recv` takes a message only when it returns it.
            // What is there already goes along, unless there is no end of it.
            let received = tokio::select! {
                biased;
                () = self.stop.cancelled() => return None,
                () = sleep_until(self.look) => {
                    self.look = Instant::now() + LOOK_EVERY;
                    match self.gate.stays(self.proof).await {
                        Ok(false) => return None,
                        // A database that is away throws nobody out.
                        Ok(true) | Err(_) => continue,
                    }
                }
                () = until(self.due.map(|due| due + PACE)) => return Some(self.tell()),
                summary = changed(&mut self.alarms) => return Some(alarms(summary)),
                received = received(&mut self.subscription) => received,
                () = until(self.due) => return Some(self.tell()),
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
                let soon = Instant::now() + GATHER;
                self.due = Some(self.told.map_or(soon, |told| soon.max(told + PACE)));
            }
        }
    }

    fn keep_newest(&mut self, committed: &Committed) {
        // A backlog is history: its newest value is older than what is shown.
        if committed.backlog {
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
        (self.due, self.told) = (None, Some(Instant::now()));
        let rows: Vec<Value> = std::mem::take(&mut self.newest)
            .iter()
            .map(|(key, reading)| {
                json!([key.0, millis(reading.time), value(reading.value.as_ref()), reading.quality.words()])
            })
            .collect();
        Event::default().event("readings").data(json!(rows).to_string())
    }
}

async fn received(subscription: &mut Option<Subscription>) -> Result<Arc<Committed>, RecvError> {
    match subscription {
        Some(subscription) => subscription.recv().await,
        None => std::future::pending().await,
    }
}

/// The next state of alarms, whenever it is another one.
async fn changed(alarms: &mut Option<watch::Receiver<AlarmSummary>>) -> AlarmSummary {
    if let Some(alarms) = alarms
        && alarms.changed().await.is_ok()
    {
        return *alarms.borrow_and_update();
    }
    std::future::pending().await
}

fn alarms(summary: AlarmSummary) -> Event {
    let AlarmSummary { active, acknowledged, newest } = summary;
    let told = json!({ "active": active, "acknowledged": acknowledged, "event": newest });
    Event::default().event("alarms").data(told.to_string())
}

/// Waits for the moment, or for ever.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}
