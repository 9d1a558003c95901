//! The live feed: the newest value of each point, a few times a second, and how many alarms there are. One
//! stream of events, as server-sent events ([`events`], `/live`) or over a WebSocket ([`socket`],
//! `/live/socket`). A slow reader gets newer values, never a longer queue: while its connection takes
//! nothing, nothing is gathered for it, and the feed forgets what it did not fetch.

mod events;
mod socket;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

pub(super) use events::live;
use serde::Deserialize;
use serde_json::{Value, json};
pub(super) use socket::socket;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::guard::Caller;
use super::problem::Problem;
use super::words::{agent_in, millis, now, value};
use crate::access::{Gate, Proof};
use crate::live::{Committed, Subscription};
use crate::store::alarms::AlarmSummary;
use crate::store::{AgentKey, Micros, PointKey, TenantKey, Timed};

/// The shortest time between two events.
const PACE: Duration = Duration::from_millis(250);
/// A first value is sent after so long: others that were committed with it go along.
const GATHER: Duration = Duration::from_millis(20);

/// How soon a reader is out who may read no more.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Clocks of several servers may be this far apart, and a transaction takes as long at the most: who comes
/// back is told of what was committed from so long before its last event on.
const OVERLAP: Micros = 15_000_000;
/// Points and agents that somebody who comes back is told of; who looks at more is told that it missed some.
const AGAIN: (usize, usize) = (5_000, 500);
/// Points of one question.
const PAGE: usize = 1_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// `site/gateway`; without it, the whole fleet.
    agent: Option<String>,
    /// `readings`, `alarms`; without it, both.
    events: Option<String>,
    /// The id of the last event that was read: what is newer is told first.
    after: Option<String>,
}

/// One event.
struct Told {
    /// By which somebody who comes back tells what it knows: the server's time in milliseconds.
    id: String,
    name: &'static str,
    /// JSON.
    data: String,
}

impl Told {
    fn new(name: &'static str, data: String) -> Self {
        Self { id: event_id(), name, data }
    }
}

/// Whatever is committed from now on is not told yet.
fn event_id() -> String {
    now().div_euclid(1_000).to_string()
}

/// Why there are no more events.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// The server stops.
    Stop,
    /// The log-in or the key is over.
    Over,
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
    /// It came back, and there is more than it can be told.
    missed: bool,
}

impl Reader {
    /// From here on nothing is missed. `last` is the id of the last event that a reader knows who comes back.
    async fn new(caller: &Caller, wanted: &Wanted, last: Option<&str>) -> Result<Self, Problem> {
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
        let last = wanted.after.as_deref().or(last).map(parsed).transpose()?;
        let mut reader = Self {
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
            missed: false,
        };
        if let Some(last) = last {
            if let Some(alarms) = &mut reader.alarms {
                alarms.mark_changed();
            }
            if readings {
                // Behind the subscription, so that nothing falls between.
                reader.catch_up(caller, agent, last).await?;
            }
        }
        Ok(reader)
    }

    /// The newest reading of every point of the agents that were heard since. By when it was committed, not by
    /// its own time: a gateway's clock may be anything.
    async fn catch_up(
        &mut self,
        caller: &Caller,
        agent: Option<AgentKey>,
        last: Micros,
    ) -> Result<(), Problem> {
        // A server's clock that was set back says nothing of what is known.
        let since = if last > now() { Micros::MIN } else { last.saturating_sub(OVERLAP) };
        let heard = caller.store.fleet().await?.into_iter().filter(|row| {
            agent.is_none_or(|agent| agent == row.key) && row.last_seen.is_some_and(|seen| seen >= since)
        });
        let heard: Vec<AgentKey> = heard.map(|row| row.key).collect();
        let (points, agents) = AGAIN;
        self.missed = heard.len() > agents;
        for key in heard.into_iter().take(agents) {
            let mut after = None;
            while !self.missed {
                let page = caller.store.points(Some(key), "", after, PAGE).await?;
                let is_last = page.len() < PAGE;
                after = page.last().map(|row| row.key);
                for row in page {
                    let Some(latest) = row.latest else { continue };
                    // The number in a dictionary means nothing here.
                    let point = forebay_protocols::reading::PointId(0);
                    let (time, value, quality) = (latest.time, latest.value, latest.quality);
                    self.newest.insert(row.key, Timed { point, time, value, quality });
                }
                self.missed = self.newest.len() > points;
                if is_last {
                    break;
                }
            }
        }
        if self.missed {
            self.newest.clear();
        }
        self.due = (!self.newest.is_empty()).then(Instant::now);
        Ok(())
    }

    /// The next event, as soon as there is something to say. Dropped before its end it may lose one.
    async fn next(&mut self) -> Result<Told, End> {
        if std::mem::take(&mut self.missed) {
            return Ok(Told::new("missed", "1".into()));
        }
        loop {
            // Dropping any of these loses nothing: `recv` takes a message only when it returns it.
            // What is there already goes along, unless there is no end of it.
            let received = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(End::Stop),
                () = sleep_until(self.look) => {
                    self.judge().await?;
                    continue;
                }
                () = until(self.due.map(|due| due + PACE)) => return Ok(self.tell()),
                summary = changed(&mut self.alarms) => return Ok(alarms(summary)),
                received = received(&mut self.subscription) => received,
                () = until(self.due) => return Ok(self.tell()),
            };
            match received {
                Ok(committed) => match self.gate.is_of(committed.agent, self.tenant).await {
                    Ok(true) => self.keep_newest(&committed),
                    Ok(false) => continue,
                    // Whose it is cannot be told now: the reader learns that something passed.
                    Err(_) => return Ok(Told::new("missed", "1".into())),
                },
                Err(RecvError::Lagged(batches)) => return Ok(Told::new("missed", batches.to_string())),
                Err(RecvError::Closed) => return Err(End::Stop),
            }
            if self.due.is_none() && !self.newest.is_empty() {
                let soon = Instant::now() + GATHER;
                self.due = Some(self.told.map_or(soon, |told| soon.max(told + PACE)));
            }
        }
    }

    /// Returns when nothing more may be told, whatever there is to tell.
    async fn over(&mut self) -> End {
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return End::Stop,
                () = sleep_until(self.look) => if let Err(end) = self.judge().await { return end },
            }
        }
    }

    /// May it still read?
    async fn judge(&mut self) -> Result<(), End> {
        self.look = Instant::now() + LOOK_EVERY;
        match self.gate.stays(self.proof).await {
            Ok(false) => Err(End::Over),
            // A database that is away throws nobody out.
            Ok(true) | Err(_) => Ok(()),
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

    fn tell(&mut self) -> Told {
        (self.due, self.told) = (None, Some(Instant::now()));
        let rows: Vec<Value> = std::mem::take(&mut self.newest)
            .iter()
            .map(|(key, reading)| {
                json!([key.0, millis(reading.time), value(reading.value.as_ref()), reading.quality.words()])
            })
            .collect();
        Told::new("readings", json!(rows).to_string())
    }
}

/// The moment of an event's id.
fn parsed(id: &str) -> Result<Micros, Problem> {
    let moment = id.parse::<i64>().ok().filter(|ms| *ms >= 0).and_then(|ms| ms.checked_mul(1_000));
    moment.ok_or_else(|| {
        Problem::BadRequest(format!("after: `{id}` is no event's id: leave it away to begin with what comes"))
    })
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

fn alarms(summary: AlarmSummary) -> Told {
    let AlarmSummary { active, acknowledged, newest } = summary;
    let told = json!({ "active": active, "acknowledged": acknowledged, "event": newest });
    Told::new("alarms", told.to_string())
}

/// Waits for the moment, or for ever.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}
