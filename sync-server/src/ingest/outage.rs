//! The database's faults, as agents and the log are told of them. An outage is two lines in the
//! log, its beginning and its end, however many requests run into it.

use std::sync::{Arc, Mutex, PoisonError};

use forebay_protocols::sync::problem::{Kind, Problem};
use tracing::{error, info, warn};

use crate::store::StoreError;
use crate::telemetry::Telemetry;

/// What the log was last told. Shared by everything in ingest that asks the store.
#[derive(Debug)]
pub struct Outage {
    telemetry: Arc<Telemetry>,
    told: Mutex<Option<Kind>>,
}

impl Outage {
    /// All is well so far.
    pub fn new(telemetry: Arc<Telemetry>) -> Self {
        telemetry.store_ready(true);
        Self { telemetry, told: Mutex::new(None) }
    }

    /// The store did what it was asked.
    pub(super) fn over(&self) {
        self.telemetry.store_ready(true);
        if self.told.lock().unwrap_or_else(PoisonError::into_inner).take().is_some() {
            info!("The database answers again.");
        }
    }

    /// The store failed: the problem to answer with. The database's own words stay in our log.
    pub(super) fn problem(&self, error: &StoreError) -> Problem {
        let (kind, detail) = match error {
            StoreError::Away(_) => {
                (Kind::StoreAway, "nothing was taken; keep everything and try again later")
            }
            StoreError::Refused(_) => (
                Kind::StoreRefuses,
                "nothing was taken; keep everything and try again later; the server's log has the reason",
            ),
        };
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner).replace(kind);
        if told != Some(kind) {
            match error {
                StoreError::Away(_) => {
                    warn!(%error, "Agents keep their readings until the database is back.")
                }
                StoreError::Refused(_) => error!(%error, "Agents keep their readings; a person must look."),
            }
        }
        if kind == Kind::StoreAway {
            self.telemetry.store_ready(false);
        }
        Problem::new(kind, detail)
    }
}
