//! Alarms: what a person must know of, once, and until it is over.
//!
//! ```text
//! fleet, faults, values ─▶ judge (pure) ─▶ step (pure) ─▶ store: alarms and events ─▶ webhooks
//! ```
//!
//! An alarm is of one rule and one subject. Of what concerns gateways the subject is the site, so that
//! one dead uplink is one alarm with many members. Each tenant is looked at for itself, through a store that
//! shows nothing else: no alarm, no word and no webhook of one tells of another. What stands and what waits for its delay is in the
//! database, not here: a server that starts anew goes on where it was, and of several servers on one
//! database each may look, for a change names the version of the row that it was decided on.

mod judge;
mod post;
mod sight;
mod signature;
mod step;
mod webhooks;
pub(crate) mod words;

pub use judge::{Facts, Finding, PointFact, Verdict, findings};
pub use signature::sign;
pub use step::{Known, step};
pub use webhooks::Webhooks;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_config::alarms::{Rule, When};
use forebay_protocols::boot_time::wall_micros;
use forebay_protocols::reading::{Quality, Value};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::sight::Sight;
use crate::live::{Committed, Feed, Subscription};
use crate::store::alarms::{EventKind, Told};
use crate::store::{Micros, PointKey, Store, StoreError, TenantKey, TenantRow};
use crate::telemetry::Telemetry;

const EVERY: Duration = Duration::from_secs(10);
/// Values that came in are looked at together.
const GATHERED: Duration = Duration::from_secs(1);
/// A database that takes longer for a look is away.
const LOOK_WITHIN: Duration = Duration::from_secs(45);
/// A wall clock that moves by more than this beside the monotonic one has jumped.
const JUMP: Micros = 30_000_000;

/// Looks after all rules. One task of its own; see [`Evaluator::run`].
pub struct Evaluator {
    store: Arc<dyn Store>,
    feed: Feed,
    telemetry: Arc<Telemetry>,
    rules: Vec<Rule>,
    /// Every tenant's own; found at each whole look.
    sights: BTreeMap<TenantKey, Sight>,
    /// Lowest and highest value since the last look, of each point that some tenant's rule names.
    extremes: HashMap<PointKey, (f64, f64)>,
    /// Those points.
    named: HashSet<PointKey>,
    hearing: Hearing,
    failing: bool,
}

/// For how long this server could have heard every agent.
struct Hearing {
    since: Instant,
    last: Option<(Instant, Micros)>,
}

impl Hearing {
    /// `now` by the wall clock. After a jump nobody knows when an agent was heard last.
    fn look(&mut self, now: Micros) -> Micros {
        let at = Instant::now();
        if let Some((then, wall)) = self.last.replace((at, now)) {
            let passed = micros(at.duration_since(then));
            if (now.saturating_sub(wall)).saturating_sub(passed).abs() > JUMP {
                self.since = at;
            }
        }
        micros(self.since.elapsed())
    }
}

fn micros(duration: Duration) -> Micros {
    Micros::try_from(duration.as_micros()).unwrap_or(Micros::MAX)
}

impl Evaluator {
    /// One that has looked at nothing yet.
    pub fn new(store: Arc<dyn Store>, feed: Feed, telemetry: Arc<Telemetry>, rules: Vec<Rule>) -> Self {
        Self {
            store,
            feed,
            telemetry,
            rules,
            sights: BTreeMap::new(),
            extremes: HashMap::new(),
            named: HashSet::new(),
            hearing: Hearing { since: Instant::now(), last: None },
            failing: false,
        }
    }

    /// Looks every ten seconds, and at values a second after they came in, until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut every = interval(EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // While no rule names values nobody listens, and publishing costs nothing.
        let judges_values = self.rules.iter().any(|rule| matches!(rule.when, When::Value(_)));
        let mut values = judges_values.then(|| self.feed.listen());
        loop {
            // Dropping any of these loses nothing: a look that is cut short did nothing or all of it.
            let is_whole = tokio::select! {
                () = stop.cancelled() => return,
                _ = every.tick() => true,
                () = gather(&mut values, &self.named, &mut self.extremes) => false,
            };
            let now = wall_micros();
            let heard_for = self.hearing.look(now);
            let looking = timeout(LOOK_WITHIN, self.look(is_whole, now, heard_for));
            let outcome = tokio::select! {
                () = stop.cancelled() => return,
                outcome = looking => outcome,
            };
            let outcome = outcome.unwrap_or_else(|_| {
                Err(StoreError::Away(format!("no answer within {} s", LOOK_WITHIN.as_secs())))
            });
            self.tell(outcome);
        }
    }

    /// One look at everything, or at values alone, tenant by tenant. `heard_for` is how long every agent could
    /// be heard. Gives what took place.
    ///
    /// # Errors
    /// When the database is away or refuses: the first time it did so. Of a tenant whose look failed nothing
    /// took place.
    pub async fn look(
        &mut self,
        is_whole: bool,
        now: Micros,
        heard_for: Micros,
    ) -> Result<Vec<Told>, StoreError> {
        if is_whole || self.sights.is_empty() {
            self.meet().await?;
        }
        let (mut told, mut failed) = (Vec::new(), None);
        for (tenant, sight) in &mut self.sights {
            match sight.look(is_whole, now, heard_for, &self.extremes).await {
                Ok((done, summary)) => {
                    told.extend(done);
                    for point in sight.points() {
                        self.extremes.remove(&point);
                        self.named.insert(point);
                    }
                    self.feed.ring(*tenant, summary);
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        let all = self.store.alarm_summary().await?;
        self.telemetry.alarms(all.active, all.acknowledged);
        Ok(told)
    }

    /// Tenants are made while the server runs. They never vanish.
    async fn meet(&mut self) -> Result<(), StoreError> {
        for TenantRow { tenant, name } in self.store.access().tenants().await? {
            if !self.sights.contains_key(&tenant) {
                let rules = self.rules.iter().filter(|rule| rule.is_of(&name)).cloned().collect();
                self.sights.insert(tenant, Sight::new(self.store.clone().within(tenant), rules));
            }
        }
        Ok(())
    }

    fn tell(&mut self, outcome: Result<Vec<Told>, StoreError>) {
        let failed = outcome.is_err();
        match outcome {
            Ok(told) => {
                if self.failing {
                    info!("Alarms are looked after again.");
                }
                for (kind, row) in told {
                    let (rule, subject, words) = (&row.alarm.rule, &row.alarm.subject, &row.alarm.words);
                    match kind {
                        EventKind::Raised => warn!(rule, subject, words, "An alarm was raised."),
                        EventKind::Grew => warn!(rule, subject, words, "An alarm grew."),
                        EventKind::Cleared => info!(rule, subject, "An alarm is over."),
                        EventKind::Changed | EventKind::Acknowledged => {}
                    }
                }
            }
            Err(error) => {
                // While the database was away nobody was heard.
                self.hearing.since = Instant::now();
                if !self.failing {
                    warn!(%error, "Alarms cannot be looked after for now.");
                }
            }
        }
        self.failing = failed;
    }
}

/// Returns a little after values of interest came in, with their extremes.
async fn gather(
    values: &mut Option<Subscription>,
    points: &HashSet<PointKey>,
    extremes: &mut HashMap<PointKey, (f64, f64)>,
) {
    let Some(values) = values else { return std::future::pending().await };
    loop {
        match values.recv().await {
            Ok(committed) if note(&committed, points, extremes) => break,
            // Too slow for all of them: the newest values are in the database.
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return std::future::pending().await,
        }
    }
    let more = async {
        loop {
            match values.recv().await {
                Ok(committed) => drop(note(&committed, points, extremes)),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return std::future::pending::<()>().await,
            }
        }
    };
    let _ = timeout(GATHERED, more).await;
}

/// Whether there was anything of interest. A backlog is history.
fn note(
    committed: &Committed,
    points: &HashSet<PointKey>,
    extremes: &mut HashMap<PointKey, (f64, f64)>,
) -> bool {
    if committed.backlog || points.is_empty() {
        return false;
    }
    let keys: HashMap<_, _> = committed.points.iter().copied().collect();
    let mut found = false;
    for run in committed.readings.chunk_by(|a, b| a.point == b.point) {
        let key = run.first().and_then(|reading| keys.get(&reading.point));
        let Some(key) = key.filter(|key| points.contains(key)) else { continue };
        for value in run.iter().filter_map(|reading| number(reading.value.as_ref(), reading.quality)) {
            let (low, high) = extremes.entry(*key).or_insert((value, value));
            (*low, *high) = (low.min(value), high.max(value));
            found = true;
        }
    }
    found
}

/// A finite number that was measured; booleans are 0 and 1.
fn number(value: Option<&Value>, quality: Quality) -> Option<f64> {
    let number = match value? {
        Value::Float(number) => *number,
        Value::Integer(number) => *number as f64,
        Value::Boolean(flag) => f64::from(u8::from(*flag)),
        Value::Text(_) => return None,
    };
    (number.is_finite() && !matches!(quality, Quality::Bad(_))).then_some(number)
}

#[cfg(test)]
mod tests;
