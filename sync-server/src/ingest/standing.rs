//! Whether the holder of a certificate is one of us. The store knows; its word is kept for a few
//! seconds, so that a busy agent costs no query per request and a revocation still acts at once
//! as far as people can tell.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use forebay_protocols::sync::problem::{Kind, Problem};
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::named::Named;
use super::outage::Outage;
use crate::listener::Peer;
use crate::store::{AgentKey, Micros, Standing, Store, StoreError};

/// How long the store's word is believed.
pub(super) const FRESH: Duration = Duration::from_secs(3);
/// How long the store may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Certificates remembered at a time. Beyond it the outdated are forgotten, then all: that costs
/// queries, nothing else.
const REMEMBERED: usize = 20_000;

/// An agent in good standing, as far as requests need to know it.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) key: AgentKey,
    pub(super) site: Arc<str>,
    pub(super) gateway: Arc<str>,
    /// When the certificate shown runs out, if it is the agent's newest.
    valid_until: Option<Micros>,
}

impl Member {
    /// The member, unless its certificate has run out.
    pub(super) fn valid_at(self, now: Micros) -> Result<Self, Problem> {
        match self.valid_until {
            Some(until) if until < now => Err(Problem::new(
                Kind::ExpiredCertificate,
                format!("the certificate of {self} ran out; renew it with POST /v1/renew"),
            )),
            _ => Ok(self),
        }
    }
}

impl std::fmt::Display for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.site, self.gateway)
    }
}

/// The store's word on certificates, and whom the log has named.
pub(super) struct Standings {
    store: Arc<dyn Store>,
    outage: Arc<Outage>,
    known: Mutex<HashMap<[u8; 32], Entry>>,
    named: Named,
}

struct Entry {
    asked: Instant,
    verdict: Result<Member, Problem>,
}

impl Standings {
    pub(super) fn new(store: Arc<dyn Store>, outage: Arc<Outage>) -> Self {
        Self { store, outage, known: Mutex::default(), named: Named::default() }
    }

    /// The member behind a connection, or why it is none.
    pub(super) async fn judge(&self, peer: Peer) -> Result<Member, Problem> {
        let Some(certificate) = peer.certificate else {
            return Err(Problem::new(
                Kind::NoCertificate,
                "this address is for gateways that have joined; run `forebay-agent join` on the gateway",
            ));
        };
        if let Some(verdict) = self.remembered(&certificate) {
            return verdict;
        }
        let standing = self.ask(certificate).await?;
        let verdict = verdict(standing, &certificate);
        self.remember(certificate, &verdict);
        match &verdict {
            Ok(member) if self.named.let_in(certificate) => {
                info!(agent = %member, peer = %peer.address, "A refused gateway is let in again.");
            }
            Err(problem) if self.named.is_news(certificate, problem.kind) => {
                warn!(peer = %peer.address, "A gateway is refused; its further tries are counted. {problem}");
            }
            _ => {}
        }
        verdict
    }

    async fn ask(&self, certificate: [u8; 32]) -> Result<Standing, Problem> {
        let answer = timeout(ANSWER_WITHIN, self.store.standing(certificate)).await;
        match answer.unwrap_or_else(|_| Err(StoreError::Away("no answer in time".into()))) {
            Ok(standing) => {
                self.outage.over();
                Ok(standing)
            }
            Err(error) => Err(self.outage.problem(&error)),
        }
    }

    /// What was known of a certificate is known no more.
    pub(super) fn forget(&self, certificate: &[u8; 32]) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(certificate);
    }

    fn remembered(&self, certificate: &[u8; 32]) -> Option<Result<Member, Problem>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = known.get(certificate).filter(|entry| entry.asked.elapsed() < FRESH)?;
        Some(entry.verdict.clone())
    }

    fn remember(&self, certificate: [u8; 32], verdict: &Result<Member, Problem>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.retain(|_, entry| entry.asked.elapsed() < FRESH);
            if known.len() >= REMEMBERED {
                known.clear();
            }
        }
        known.insert(certificate, Entry { asked: Instant::now(), verdict: verdict.clone() });
    }
}

fn verdict(standing: Standing, certificate: &[u8; 32]) -> Result<Member, Problem> {
    match standing {
        Standing::Known(row) => Ok(Member {
            key: row.key,
            valid_until: row.certificate.filter(|(own, _)| own == certificate).map(|(_, until)| until),
            site: row.site.into(),
            gateway: row.gateway.into(),
        }),
        Standing::Revoked(row) => Err(Problem::new(
            Kind::RevokedCertificate,
            format!(
                "the certificate of {}/{} was revoked; join again with a new token if it should be let in",
                row.site, row.gateway
            ),
        )),
        Standing::Unknown => {
            let [a, b, c, d, ..] = certificate;
            Err(Problem::new(
                Kind::UnknownCertificate,
                format!(
                    "this server gave no certificate with the fingerprint {a:02x}{b:02x}{c:02x}{d:02x}…, or a \
                     newer one took its place; join again with a new token"
                ),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

    use super::*;
    use crate::ingest::tests::memory::Memory;

    fn peer(certificate: [u8; 32]) -> Peer {
        Peer { address: SocketAddr::from(([127, 0, 0, 1], 1)), certificate: Some(certificate) }
    }

    fn standings(store: &Arc<Memory>) -> Standings {
        Standings::new(store.clone(), Arc::new(Outage::new(Arc::default())))
    }

    #[tokio::test(start_paused = true)]
    async fn a_revocation_acts_within_five_seconds() {
        let store = Arc::new(Memory::default());
        let key = store.enrol("site", "gw", [1; 32], i64::MAX);
        let standings = standings(&store);
        assert!(standings.judge(peer([1; 32])).await.is_ok());
        store.revoke(key).await.unwrap();
        tokio::time::advance(Duration::from_secs(5)).await;
        let refused = standings.judge(peer([1; 32])).await.unwrap_err();
        assert_eq!(refused.kind, Kind::RevokedCertificate);
        assert!(refused.detail.contains("site/gw") && refused.detail.contains("join again"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_agent_costs_one_query_every_few_seconds() {
        let store = Arc::new(Memory::default());
        store.enrol("site", "gw", [1; 32], i64::MAX);
        let standings = standings(&store);
        for _ in 0..100 {
            standings.judge(peer([1; 32])).await.unwrap();
        }
        assert_eq!(store.standing_queries(), 1);
    }

    /// Counts the lines of a log.
    struct Lines(Arc<AtomicUsize>);

    impl<S: tracing::Subscriber> Layer<S> for Lines {
        fn on_event(&self, _: &tracing::Event<'_>, _: Context<'_, S>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_certificate_refused_for_hours_is_one_line_in_the_log() {
        let lines = Arc::new(AtomicUsize::new(0));
        let log = tracing_subscriber::registry().with(Lines(lines.clone()));
        let _log = tracing::subscriber::set_default(log);
        let store = Arc::new(Memory::default());
        let standings = standings(&store);
        for _ in 0..1_000 {
            assert!(standings.judge(peer([1; 32])).await.is_err());
            tokio::time::advance(Duration::from_secs(10)).await;
        }
        assert_eq!((lines.load(Ordering::Relaxed), store.standing_queries()), (1, 1_000));
        store.enrol("site", "gw", [1; 32], i64::MAX);
        assert!(standings.judge(peer([1; 32])).await.is_ok());
        assert_eq!(lines.load(Ordering::Relaxed), 2, "let in again");
    }
}
