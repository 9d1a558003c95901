//! The keeper of the ledger: reads all books every minute, raises a fault where they do not close,
//! and ends it when they are proven to close again.
//!
//! What it remembers is only what makes it sure; what stands is in the database. So several servers
//! may each have a keeper: raising is idempotent, and each needs its own two checks.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use forebay_protocols::boot_time::wall_micros;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{Books, BufferId, Imbalance, Totals, Verdict, Watch, subject};
use crate::store::{AgentKey, Fault, FaultKind, FaultRow, Micros, Store, StoreError};
use crate::telemetry::Telemetry;

const EVERY: Duration = Duration::from_secs(60);
/// A database that takes longer for a check is away.
const CHECK_WITHIN: Duration = Duration::from_secs(45);

/// Checks the books of all buffers. One task of its own; see [`Keeper::run`].
pub struct Keeper {
    store: Arc<dyn Store>,
    telemetry: Arc<Telemetry>,
    watches: HashMap<BufferId, Watch>,
    /// Was the log told that checks fail?
    failing: bool,
}

impl Keeper {
    /// One that has seen nothing yet.
    pub fn new(store: Arc<dyn Store>, telemetry: Arc<Telemetry>) -> Self {
        Self { store, telemetry, watches: HashMap::new(), failing: false }
    }

    /// Checks now and every minute, until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            // A check that is cut short did nothing that the next one would not do again.
            let outcome = tokio::select! {
                () = stop.cancelled() => return,
                outcome = timeout(CHECK_WITHIN, self.check(wall_micros)) => outcome,
            };
            self.tell(outcome.unwrap_or_else(|_| {
                Err(StoreError::Away(format!("no answer within {} s", CHECK_WITHIN.as_secs())))
            }));
            if timeout(EVERY, stop.cancelled()).await.is_ok() {
                return;
            }
        }
    }

    /// One check. `now` is asked after the books were read, so that it lies behind them.
    pub async fn check(&mut self, now: impl Fn() -> Micros + Send) -> Result<(), StoreError> {
        let rows = self.store.ledgers(None).await?;
        let now = now();
        let standing = self.store.faults(None, 0).await?;
        let standing: HashSet<(AgentKey, &str)> =
            standing.iter().filter(|row| is_open(row)).map(|row| key(&row.fault)).collect();
        let known: HashSet<BufferId> = rows.iter().map(|row| Books(row).buffer()).collect();
        self.watches.retain(|buffer, _| known.contains(buffer));
        for row in &rows {
            let books = Books(row);
            let verdict = self.watches.entry(books.buffer()).or_default().look(&books, now);
            let (agent, subject) = (row.agent, subject(row));
            let stands = standing.contains(&(agent, subject.as_str()));
            match verdict {
                Verdict::Open(found) => self.raise(agent, subject, &found, now, stands).await?,
                Verdict::Closed { proven: true } if stands => {
                    self.store.clear(agent, FaultKind::Imbalance, &subject, now).await?;
                    info!(agent = agent.0, buffer = subject, "The books of a buffer close again.");
                }
                Verdict::Unreported | Verdict::Doubtful(_) | Verdict::Closed { .. } => {}
            }
        }
        self.telemetry.ledger(&Totals::of(&rows));
        self.telemetry.faults(&self.store.faults(None, 0).await?);
        Ok(())
    }

    async fn raise(
        &self,
        agent: AgentKey,
        subject: String,
        found: &[Imbalance],
        at: Micros,
        stands: bool,
    ) -> Result<(), StoreError> {
        let words = capital(&Verdict::Open(found.to_vec()).words());
        if !stands {
            error!(agent = agent.0, buffer = subject, words, "The books of a buffer do not close.");
        }
        let mut remedies: Vec<&str> = found.iter().map(Imbalance::remedy).collect();
        remedies.dedup();
        let fault =
            Fault { agent, kind: FaultKind::Imbalance, subject, words, remedy: remedies.join(" "), at };
        self.store.raise(fault).await
    }

    /// An outage is two lines in the log, however long it is.
    fn tell(&mut self, outcome: Result<(), StoreError>) {
        let failed = outcome.is_err();
        match outcome {
            Ok(()) if self.failing => info!("The ledger is checked again."),
            Err(error) if !self.failing => warn!(%error, "The ledger cannot be checked for now."),
            Ok(()) | Err(_) => {}
        }
        self.failing = failed;
    }
}

fn is_open(row: &FaultRow) -> bool {
    row.over.is_none() && row.fault.kind == FaultKind::Imbalance
}

fn key(fault: &Fault) -> (AgentKey, &str) {
    (fault.agent, &fault.subject)
}

/// As a sentence.
fn capital(words: &str) -> String {
    let mut letters = words.chars();
    letters
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(letters).chain(['.']).collect())
}
