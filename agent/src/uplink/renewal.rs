//! A new certificate before the old one runs out, or when the server has a new CA. The key is made
//! here each time, and the old identity is replaced as a whole when the new one is durable: whenever
//! the power goes off, the gateway has one that the server lets in. An identity that has run out renews itself all the same:
//! the handshake proves that its key is here.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use forebay_config::agent::Proxy;
use forebay_protocols::private_files::Place;
use forebay_protocols::sync::tls::{self, FreshKey, GatewayClock, Identity};
use forebay_protocols::sync::wire::JoinRequest;
use rustls::time_provider::TimeProvider;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::admission::{self, Refusal};
use crate::backoff::{Backoff, Waited, full_jitter, wait};
use crate::clock::Clock;

/// How often the certificate is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(3600);
/// After a renewal. A gateway that wakes ten years ahead, far from its server's time, finds every
/// certificate too old.
const REST: Duration = Duration::from_secs(86_400);
/// Agents that hear of a new CA, as one, ask for their certificates over so long.
const NEWS_SPREAD: Duration = Duration::from_secs(20);
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
    /// Hears of the generation of the CA that the server asks us to trust.
    pub ca_news: watch::Receiver<u32>,
}

impl Renewal {
    /// Looks now and then, until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        self.sweep().await;
        let mut backoff = Backoff::up_to(PAUSES.0, PAUSES.1);
        let mut pause = full_jitter(self.spread);
        let mut news = self.ca_news.clone();
        loop {
            tokio::select! {
                waited = wait(pause, &stop) => if waited == Waited::Stopped { return },
                // Where nobody tells any more the pause is what is left.
                Ok(()) = news.changed() => {
                    pause = full_jitter(self.spread.min(NEWS_SPREAD));
                    continue;
                }
            }
            let looked = stop.clone().run_until_cancelled_owned(Box::pin(self.look())).await;
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
    async fn look(&mut self) -> Result<bool, String> {
        let Ok(Some(identity)) = self.identity().await else { return Ok(false) };
        let now = self.clock.current_time().map_or(0, |now| now.as_secs().cast_signed());
        let told = *self.ca_news.borrow_and_update();
        if !identity.renewal_due(now) && told <= identity.ca_generation {
            return Ok(false);
        }
        let renewed = self.renew(identity).await?;
        if renewed.ca_generation < told {
            return Err("it is renewed, but the server that answered does not know the new CA yet".into());
        }
        Ok(true)
    }

    /// A draft that a power cut left behind holds a key.
    async fn sweep(&self) {
        let folder = self.folder.clone();
        let swept = spawn_blocking(move || Identity::sweep(&Place::new(&folder))).await;
        if let Ok(Err(error)) = swept {
            debug!("Drafts of the identity could not be removed: {error}");
        }
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
        let version = env!("CARGO_PKG_VERSION").into();
        let request = JoinRequest { csr: csr.into(), version, ..JoinRequest::default() };
        let clock: Arc<dyn GatewayClock> = Arc::new(self.clock.clone());
        let asked = admission::ask_as(&identity, clock, self.proxy.as_ref(), "/v1/renew", request).await;
        let answer = asked.map_err(|refusal| match refusal {
            Refusal::Unreachable(words) => words,
            refusal => format!("{server} refused: {refusal}"),
        })?;
        let renewed = admission::certified(server, tls::fingerprint(&identity.ca), answer, key)
            .map_err(|why| format!("{server}: {why}"))?;
        let (kept, folder) = (renewed.clone(), self.folder.clone());
        let saved = spawn_blocking(move || kept.save(&folder)).await;
        saved.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        Ok(renewed)
    }
}
