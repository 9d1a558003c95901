//! The open connections by the certificates shown on them, so that a revocation closes them: one that
//! idles, and one in the middle of a long request, which was judged when it began.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::store::Store;

/// How often the store is asked; with the time a request may be judged by an older word, this keeps a
/// revocation below five seconds.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Clones are the same doors.
#[derive(Clone, Debug, Default)]
pub struct Doors {
    open: Arc<Mutex<HashMap<[u8; 32], Open>>>,
}

#[derive(Debug)]
struct Open {
    shut: CancellationToken,
    connections: usize,
}

/// One connection inside; dropping it is leaving.
#[derive(Debug)]
pub struct Entered {
    doors: Doors,
    certificate: [u8; 32],
    shut: CancellationToken,
}

impl Doors {
    /// A connection on which this certificate was shown.
    pub fn enter(&self, certificate: [u8; 32]) -> Entered {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || Open { shut: CancellationToken::new(), connections: 0 };
        let entry = open.entry(certificate).or_insert_with(fresh);
        if entry.shut.is_cancelled() {
            // Those before are on their way out; this one came after, and is judged by its requests.
            *entry = fresh();
        }
        entry.connections += 1;
        Entered { doors: self.clone(), certificate, shut: entry.shut.clone() }
    }

    /// Closes every connection on which this certificate was shown; how many there were.
    pub fn shut(&self, certificate: [u8; 32]) -> usize {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = open.remove(&certificate) else { return 0 };
        entry.shut.cancel();
        entry.connections
    }

    /// Asks the store for revocations and closes their connections, until `stop`.
    pub async fn watch(self, store: Arc<dyn Store>, stop: CancellationToken) {
        while timeout(LOOK_EVERY, stop.cancelled()).await.is_err() {
            // While the store is away nothing is stored either; requests and the log tell of it.
            let Ok(Ok(revoked)) = timeout(ANSWER_WITHIN, store.revoked_lately()).await else {
                debug!("Could not ask for revocations.");
                continue;
            };
            let closed: usize = revoked.into_iter().map(|certificate| self.shut(certificate)).sum();
            if closed > 0 {
                info!(closed, "Closed the connections of revoked gateways.");
            }
        }
    }
}

impl Entered {
    /// Returns when the connection must be closed.
    pub async fn shut(&self) {
        self.shut.cancelled().await;
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut open = self.doors.open.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = open.get_mut(&self.certificate) else { return };
        // One that was shut is no longer counted.
        if self.shut.is_cancelled() {
            return;
        }
        entry.connections -= 1;
        if entry.connections == 0 {
            open.remove(&self.certificate);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::tests::memory::Memory;
    use crate::store::Store;

    #[tokio::test(start_paused = true)]
    async fn a_revocation_closes_open_connections_of_that_certificate_within_five_seconds() {
        let store = Arc::new(Memory::default());
        let key = store.enrol("site", "gw", [1; 32], i64::MAX);
        let (doors, stop) = (Doors::default(), CancellationToken::new());
        let (mine, other) = ([doors.enter([1; 32]), doors.enter([1; 32])], doors.enter([2; 32]));
        let task = tokio::spawn(doors.clone().watch(store.clone(), stop.clone()));
        assert!(timeout(Duration::from_secs(60), mine[0].shut()).await.is_err(), "nobody was revoked");
        store.revoke(key).await.unwrap();
        for entered in &mine {
            timeout(Duration::from_secs(5), entered.shut()).await.unwrap();
        }
        assert!(timeout(Duration::from_secs(60), other.shut()).await.is_err());
        stop.cancel();
        task.await.unwrap();
    }

    #[test]
    fn who_has_left_is_not_counted() {
        let doors = Doors::default();
        let first = doors.enter([1; 32]);
        drop(doors.enter([1; 32]));
        assert_eq!(doors.shut([1; 32]), 1);
        let second = doors.enter([1; 32]);
        drop(first);
        assert_eq!(doors.shut([1; 32]), 1, "one that came after is counted for itself");
        drop(second);
        assert!(doors.open.lock().unwrap().is_empty());
    }
}
