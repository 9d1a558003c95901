//! A new certificate before the old one runs out. The key is made here each time, and the old
//! identity is replaced as a whole when the new one is durable: whenever the power goes off, the
//! gateway has one that the server lets in. An identity that has run out renews itself all the same:
//! the handshake proves that its key is here.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use forebay_config::agent::Proxy;
use forebay_protocols::sync::tls::{self, FreshKey, GatewayClock, Identity};
use forebay_protocols::sync::wire::JoinRequest;
use rustls::time_provider::TimeProvider;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::admission::{self, CONNECT_WITHIN};
use crate::backoff::{Backoff, Waited, full_jitter, wait};
use crate::clock::Clock;

/// How often the certificate is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(3600);
/// After a renewal. A gateway that wakes ten years ahead, far from its server's time, finds every
/// certificate too old.
const REST: Duration = Duration::from_secs(86_400);
/// Pauses after failures.
const PAUSES: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(6 * 3600));

/// Keeps this gateway's certificate fresh.
pub struct Renewal {
    /// Where the identity is kept.
    pub folder: PathBuf,
    /// `site/gateway`, for whoever looks at the request.
    pub name: String,
    /// What certificates are judged by.
    pub clock: Clock,
    /// `uplink.proxy`.
    pub proxy: Option<Proxy>,
    /// The first look comes a random part of this after the start, so that a fleet that was switched
    /// on together does not ask as one.
    pub spread: Duration,
}

impl Renewal {
    /// Looks now and then, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut backoff = Backoff::up_to(PAUSES.0, PAUSES.1);
        let mut pause = full_jitter(self.spread);
        while wait(pause, &stop).await == Waited::Over {
            let looked = stop.run_until_cancelled(self.look()).await;
            pause = match looked {
                None => return,
                Some(Ok(false)) => LOOK_EVERY / 2 + full_jitter(LOOK_EVERY / 2),
                Some(Ok(true)) => {
                    backoff.reset();
                    info!("The certificate of this gateway was renewed.");
                    REST
                }
                Some(Err(words)) if backoff.attempts() == 0 => {
                    warn!(
                        "The certificate of this gateway is due, and could not be renewed: {words}. Trying again."
                    );
                    backoff.next_pause()
                }
                Some(Err(words)) => {
                    debug!("The certificate could not be renewed: {words}");
                    backoff.next_pause()
                }
            };
        }
    }

    /// Renews what is due. True if something was. A gateway that has not joined has nothing to renew,
    /// and an identity that cannot be read is the uplink's to tell of.
    async fn look(&self) -> Result<bool, String> {
        let Ok(Some(identity)) = self.identity().await else { return Ok(false) };
        let now = self.clock.current_time().map_or(0, |now| now.as_secs().cast_signed());
        if !identity.renewal_due(now) {
            return Ok(false);
        }
        self.renew(identity).await.map(|_| true)
    }

    /// The identity as it is kept.
    pub async fn identity(&self) -> Result<Option<Identity>, String> {
        let folder = self.folder.clone();
        let loaded = spawn_blocking(move || Identity::load(&folder)).await;
        loaded.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    /// Asks the server that `identity` is of for a certificate of a new key, and keeps it.
    pub async fn renew(&self, identity: Identity) -> Result<Identity, String> {
        let server = identity.server.as_str();
        let key = FreshKey::generate().map_err(|error| error.to_string())?;
        let csr = key.request(&self.name).map_err(|error| error.to_string())?;
        let tcp = admission::reach(server, self.proxy.as_ref())
            .await
            .map_err(|why| format!("cannot reach {server}: {why}"))?;
        let clock: Arc<dyn GatewayClock> = Arc::new(self.clock.clone());
        let config = tls::gateway_config(&identity, clock).map_err(|error| error.to_string())?;
        let mut config = Arc::unwrap_or_clone(config);
        config.alpn_protocols = vec![tls::ALPN[1].to_vec()];
        let name = tls::server_name(server)?;
        let stream = timeout(CONNECT_WITHIN, TlsConnector::from(Arc::new(config)).connect(name, tcp))
            .await
            .map_err(|_| format!("{server} accepts connections but does not speak TLS"))?
            .map_err(|error| format!("{server} does not agree on TLS: {error}"))?;
        let version = env!("CARGO_PKG_VERSION").into();
        let request = JoinRequest { csr: csr.into(), version, ..JoinRequest::default() };
        let answer = admission::ask(stream, server, "/v1/renew", request)
            .await
            .map_err(|refusal| format!("{server} refused: {refusal}"))?;
        let renewed = admission::certified(server, tls::fingerprint(&identity.ca), answer, key)
            .map_err(|why| format!("{server}: {why}"))?;
        let (kept, folder) = (renewed.clone(), self.folder.clone());
        let saved = spawn_blocking(move || kept.save(&folder)).await;
        saved.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        Ok(renewed)
    }
}
