//! Whether the holder of a certificate is one of us. The store knows; its word is kept for a few
//! seconds, so that a busy agent costs no query per request and a revocation still acts at once
//! as far as people can tell.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use forebay_protocols::sync::problem::{Kind, Problem};
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::outage::Outage;
use crate::listener::Peer;
use crate::store::{AgentKey, Micros, Standing, Store, StoreError};

/// How long the store's word is believed.
pub(super) const FRESH: Duration = Duration::from_secs(3);
/// How long the store may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long a refused certificate is remembered as told, so that the log names it once.
const TOLD: Duration = Duration::from_secs(600);
/// Certificates remembered at a time. Beyond it the outdated are forgotten, then all: that costs
/// queries and log lines, nothing else.
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

/// The store's word on certificates, and what has been said about them in the log.
pub(super) struct Standings {
    store: Arc<dyn Store>,
    outage: Arc<Outage>,
    known: Mutex<HashMap<[u8; 32], Entry>>,
}

struct Entry {
    asked: Instant,
    verdict: Result<Member, Problem>,
    told: Option<Instant>,
}

impl Standings {
    pub(super) fn new(store: Arc<dyn Store>, outage: Arc<Outage>) -> Self {
        Self { store, outage, known: Mutex::default() }
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
        if self.remember(certificate, &verdict) {
            match &verdict {
                Ok(member) => {
                    info!(agent = %member, peer = %peer.address, "A refused gateway is let in again.")
                }
                Err(problem) => warn!(peer = %peer.address, "{problem}"),
            }
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

    fn remembered(&self, certificate: &[u8; 32]) -> Option<Result<Member, Problem>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = known.get(certificate).filter(|entry| entry.asked.elapsed() < FRESH)?;
        Some(entry.verdict.clone())
    }

    /// Keeps a verdict; true when it is news for the log.
    fn remember(&self, certificate: [u8; 32], verdict: &Result<Member, Problem>) -> bool {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.retain(|_, entry| entry.asked.elapsed() < FRESH);
            if known.len() >= REMEMBERED {
                known.clear();
            }
        }
        let now = Instant::now();
        let told = known.get(&certificate).and_then(|entry| entry.told);
        let told = told.filter(|told| now.duration_since(*told) < TOLD);
        let news = verdict.is_err() != told.is_some();
        let told = verdict.is_err().then(|| told.unwrap_or(now));
        known.insert(certificate, Entry { asked: now, verdict: verdict.clone(), told });
        news
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
    use super::*;
    use crate::ingest::tests::memory::Memory;
    use std::net::SocketAddr;

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

    #[test]
    fn a_refused_certificate_is_news_once_and_again_when_it_is_let_in() {
        let standings = standings(&Arc::default());
        let refused = verdict(Standing::Unknown, &[1; 32]);
        let member = Member { key: AgentKey(1), site: "s".into(), gateway: "g".into(), valid_until: None };
        assert!(standings.remember([1; 32], &refused));
        assert!(!standings.remember([1; 32], &refused));
        assert!(standings.remember([1; 32], &Ok(member.clone())));
        assert!(!standings.remember([1; 32], &Ok(member)));
    }
}
