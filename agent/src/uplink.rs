//! The backlog to the server. A batch is forgotten when the server says that it is committed,
//! and for no other reason.
//!
//! `state` decides what goes next, `pace` how much at once, `budget` what it may cost; `parcel` reads
//! and packs, `flight` carries one request over a `line`, `delivery` makes them meet; `bulletin` says
//! when to report, `lost` what a server has forgotten; `admission` and `renewal` get
//! certificates. This file waits for an identity. Not joined is
//! no fault: the uplink looks for an identity every few seconds and the buffer fills meanwhile.

pub mod admission;
pub mod body;
pub mod budget;
pub mod bulletin;
pub mod line;
pub mod lost;
pub mod meter;
pub mod parcel;
pub mod renewal;
pub mod state;

mod delivery;
mod flight;
mod lines;
mod notices;
mod pace;
pub(crate) mod proxy;

use std::time::Duration;

use forebay_config::agent::{Order, Proxy};
use forebay_protocols::sync::batch::Epoch;
use forebay_protocols::sync::wire;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use self::budget::{Budget, Limits};
use self::delivery::{Delivery, Ending, Purse};
use self::line::Peer;
use self::meter::Meter;
use self::parcel::Backlog;
use crate::backoff::{Backoff, Waited, wait};
use crate::buffer::BufferError;
use crate::clock::Clock;

const LOOK_FOR_IDENTITY: Duration = Duration::from_secs(3);
/// The shortest pause after a failure.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
/// A connection that was cut is replaced after a random part of this, so that the agents of a server
/// that restarts do not come back as one.
const SPREAD: Duration = Duration::from_secs(2);

/// Reads the identity kept on this gateway; `None` if it has not joined. Reads small files.
pub type Introduction = Box<dyn Fn() -> Result<Option<Peer>, String> + Send + Sync>;
/// Says how the gateway is.
pub type Reporter = Box<dyn Fn() -> wire::Report + Send + Sync>;

/// How the uplink is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum UplinkStatus {
    /// No identity: `forebay-agent join` was not run yet.
    #[default]
    NotJoined,
    /// There is an identity, and no answer yet.
    Connecting,
    /// The last request was answered well.
    Up,
    /// It was, and this must be known all the same: the budget is spent, the buffer is a fork.
    UpBut(String),
    /// It was not, because of this.
    Troubled(String),
}

/// Settings, from `[uplink]`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The longest wait for one answer, connecting included.
    pub request_timeout: Duration,
    /// The most bytes of batches in one request.
    pub max_request: usize,
    /// The longest silence towards the server.
    pub heartbeat: Duration,
    /// The shortest and longest pauses after failures.
    pub backoff: Backoff,
    /// How often a new identity is looked for while there is nothing better to do.
    pub look_for_identity: Duration,
    /// What goes first.
    pub order: Order,
    /// The most requests under way.
    pub connections: usize,
    /// What may be spent.
    pub limits: Limits,
    /// On the way to the server.
    pub proxy: Option<Proxy>,
    /// A cut connection is replaced after a random part of this.
    pub spread: Duration,
}

impl Settings {
    /// As configured.
    pub fn new(config: forebay_config::agent::Uplink) -> Self {
        let forebay_config::agent::Uplink {
            request_timeout,
            max_request,
            heartbeat,
            backoff_max,
            order,
            connections,
            bandwidth,
            daily,
            hours,
            proxy,
        } = config;
        Self {
            request_timeout,
            max_request: usize::try_from(max_request.0).unwrap_or(usize::MAX),
            heartbeat,
            backoff: Backoff::up_to(SHORTEST_PAUSE, backoff_max),
            look_for_identity: LOOK_FOR_IDENTITY,
            order,
            connections: connections.into(),
            limits: Limits { bandwidth, daily, hours },
            proxy,
            // A part of the time there is, for the answer is waited for as well.
            spread: SPREAD.min(request_timeout / 4),
        }
    }
}

/// What the uplink works with.
pub struct Uplink<B> {
    /// The reading side of the buffer.
    pub backlog: B,
    /// The life of the buffer store.
    pub epoch: Epoch,
    /// Corrections for batches that did not know the time; learns from answers.
    pub clock: Clock,
    /// Who the server is.
    pub introduction: Introduction,
    /// How the gateway is.
    pub reporter: Reporter,
    /// Seen by telemetry and systemd.
    pub status: watch::Sender<UplinkStatus>,
    /// From the configuration.
    pub settings: Settings,
    /// Everything is appended: send what there is, then end.
    pub finish: CancellationToken,
    /// End now.
    pub give_up: CancellationToken,
}

/// What is worth telling once.
#[derive(Default)]
struct Told {
    not_joined: bool,
    damaged: bool,
}

impl<B: Backlog> Uplink<B> {
    /// Runs until it is asked to finish and has nothing left, or until it must give up.
    pub async fn run(self) -> Result<(), BufferError> {
        // Dropping requests under way is safe: what the server took it will call a duplicate.
        let give_up = self.give_up.clone();
        give_up.run_until_cancelled_owned(self.serve()).await.unwrap_or(Ok(()))
    }

    async fn serve(self) -> Result<(), BufferError> {
        let mut told = Told::default();
        let budget = Budget::new(self.settings.limits, Duration::ZERO);
        let mut purse = Purse { budget, meter: Meter::default(), began: Instant::now() };
        while let Some(peer) = self.meet(&mut told).await {
            // A new identity may mean a new server, which knows nothing of us.
            match Delivery::new(&self, &mut purse, peer).run().await? {
                Ending::Finished => return Ok(()),
                Ending::Moved => info!("The identity has changed. Connecting anew."),
            }
        }
        Ok(())
    }

    /// Waits for an identity. `None` if the agent ends before there is one.
    async fn meet(&self, told: &mut Told) -> Option<Peer> {
        loop {
            match self.introduce() {
                Ok(Some(peer)) => {
                    if std::mem::take(&mut told.not_joined) || std::mem::take(&mut told.damaged) {
                        info!(server = %peer.server, "Joined.");
                    }
                    self.status.send_if_modified(|status| {
                        let first = *status == UplinkStatus::NotJoined;
                        if first {
                            *status = UplinkStatus::Connecting;
                        }
                        first
                    });
                    return Some(peer);
                }
                Ok(None) => {
                    if !std::mem::replace(&mut told.not_joined, true) {
                        info!(
                            "Not joined to a server yet: readings stay in the buffer until `forebay-agent join`."
                        );
                    }
                    self.status.send_replace(UplinkStatus::NotJoined);
                }
                Err(words) => {
                    if !std::mem::replace(&mut told.damaged, true) {
                        error!(
                            "The identity of this gateway cannot be used: {words}. Readings stay in the buffer."
                        );
                    }
                    self.status.send_replace(UplinkStatus::Troubled(words));
                }
            }
            if wait(self.settings.look_for_identity, &self.finish).await == Waited::Stopped {
                return None;
            }
        }
    }

    fn introduce(&self) -> Result<Option<Peer>, String> {
        (self.introduction)()
    }
}

#[cfg(test)]
mod peer;
#[cfg(test)]
mod tests;
