//! The backlog to the server. A batch is forgotten when the server says that it is committed,
//! and for no other reason.
//!
//! `state` decides, `parcel` reads and packs, `bulletin` says when to report, `line` talks; this
//! file makes them meet and waits between requests. Not joined is no fault: the uplink looks for an
//! identity every few seconds and the buffer fills meanwhile.

pub mod bulletin;
pub mod line;
pub mod parcel;
pub mod state;

use std::time::Duration;

use bytes::Bytes;
use forebay_protocols::boot_time::BootTime;
use forebay_protocols::sync::batch::Epoch;
use forebay_protocols::sync::wire;
use prost::Message;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use self::bulletin::Bulletin;
use self::line::{Line, Peer, shown};
use self::parcel::{Backlog, Parcel, pack};
use self::state::{Action, Notice, Pause, Plan, Reply, State};
use crate::backoff::{Backoff, Waited, full_jitter, wait};
use crate::buffer::BufferError;
use crate::clock::Clock;

const PATH: &str = "/v1/batches";
const LOOK_FOR_IDENTITY: Duration = Duration::from_secs(3);
/// How often it is looked for while the server answers: after a renewal the old one still works.
const IDENTITY_HOLDS_FOR: Duration = Duration::from_secs(60);
/// The shortest pause after a failure.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

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
}

impl Settings {
    /// As configured.
    pub fn new(config: forebay_config::agent::Uplink) -> Self {
        let forebay_config::agent::Uplink { request_timeout, max_request, heartbeat, backoff_max } = config;
        Self {
            request_timeout,
            max_request: usize::try_from(max_request.0).unwrap_or(usize::MAX),
            heartbeat,
            backoff: Backoff::up_to(SHORTEST_PAUSE, backoff_max),
            look_for_identity: LOOK_FOR_IDENTITY,
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
        // Dropping a request in flight is safe: what the server took it will call a duplicate.
        let give_up = self.give_up.clone();
        give_up.run_until_cancelled_owned(self.serve()).await.unwrap_or(Ok(()))
    }

    async fn serve(self) -> Result<(), BufferError> {
        let mut state = State::new(self.settings.max_request);
        let mut backoff = self.settings.backoff.clone();
        let (mut told, mut bulletin) = (Told::default(), Bulletin::default());
        let (mut line, mut tried_at_the_end) = (None, false);
        while let Some(peer) = self.meet(&mut told).await {
            let known_until = Instant::now() + IDENTITY_HOLDS_FOR;
            while Instant::now() < known_until {
                if !line.as_ref().is_some_and(Line::is_open) {
                    bulletin.forget();
                }
                let Some(parcel) = self.next_parcel(&mut state, &bulletin).await? else { return Ok(()) };
                let asked = BootTime::now();
                let reply = self.ask(&peer, &mut line, &parcel.request).await;
                if let (Reply::Answer(_), Some(report)) = (&reply, parcel.request.report) {
                    bulletin.told(report, Instant::now());
                }
                self.learn_time(&reply, asked).await;
                let pause = self.act(state.step(&parcel.sent, reply)).await?;
                let Some(pause) = pause else {
                    backoff.reset();
                    tried_at_the_end = false;
                    continue;
                };
                if self.finish.is_cancelled() {
                    // That request may have begun before the end, on a way that works again by now.
                    if pause == Pause::Growing && !std::mem::replace(&mut tried_at_the_end, true) {
                        continue;
                    }
                    info!("The server is out of reach. What is left stays in the buffer.");
                    return Ok(());
                }
                if self.rest(pause, &mut backoff, &peer).await == NextPeer::Changed {
                    break;
                }
            }
            // A new identity may mean a new server, which knows nothing of us.
            if self.introduce().is_ok_and(|next| next.is_none_or(|next| next.mark != peer.mark)) {
                info!("The identity has changed. Connecting anew.");
                (line, state) = (None, State::new(self.settings.max_request));
                backoff.reset();
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

    /// The next request worth sending: now if there is anything, else a heartbeat when it is due.
    /// `None` when everything is sent, the last counts included, and the agent ends.
    async fn next_parcel(
        &self,
        state: &mut State,
        bulletin: &Bulletin,
    ) -> Result<Option<Parcel>, BufferError> {
        let heartbeat = Instant::now() + self.settings.heartbeat;
        loop {
            let plan = state.plan(self.backlog.status().newest.map_or(0, |newest| newest.0));
            let (greeting, finishing) = (plan == Plan::Greet, self.finish.is_cancelled());
            let mut parcel = pack(plan, &self.backlog, self.epoch, &self.clock).await?;
            let lane_begins_anew = parcel.backlog_over && state.backlog_ends();
            let (now, report) = (Instant::now(), (self.reporter)());
            // The last requests carry the counts with which the server closes its ledger.
            let only_report = greeting || now >= heartbeat || (finishing && bulletin.is_behind(&report));
            if only_report || !parcel.sent.is_empty() {
                let due = only_report || finishing || bulletin.is_due(&report, now);
                parcel.request.report = due.then_some(report);
                return Ok(Some(parcel));
            }
            if lane_begins_anew {
                continue;
            }
            if finishing {
                return Ok(None);
            }
            tokio::select! {
                biased;
                () = self.finish.cancelled() => {}
                // An append that is missed here is found by the next look at the buffer.
                _ = timeout_at(heartbeat, self.backlog.appended()) => {}
            }
        }
    }

    /// Sends a request and says what came back. A connection that was kept open may have been
    /// closed meanwhile: then a new one is tried at once, which is harmless, for the server
    /// recognises batches it has.
    async fn ask(&self, peer: &Peer, line: &mut Option<Line>, request: &wire::SyncRequest) -> Reply {
        let body = Bytes::from(request.encode_to_vec());
        let exchange = async {
            let mut kept = line.take().filter(Line::is_open);
            loop {
                let was_kept = kept.is_some();
                let mut now = match kept.take() {
                    Some(line) => line,
                    None => Line::connect(peer).await?,
                };
                match now.post(PATH, body.clone()).await {
                    Ok(reply) => return Ok((now, reply)),
                    Err(words) if was_kept => {
                        debug!("The kept connection is dead ({words}), connecting anew.")
                    }
                    Err(words) => return Err(words),
                }
            }
        };
        match timeout(self.settings.request_timeout, exchange).await {
            Ok(Ok((used, reply))) => {
                *line = Some(used);
                reply
            }
            Ok(Err(words)) => Reply::Nothing(words),
            Err(_) => Reply::Nothing(format!("no answer within {:.0?}", self.settings.request_timeout)),
        }
    }

    async fn learn_time(&self, reply: &Reply, asked: BootTime) {
        let (Reply::Answer(answer) | Reply::Lacking(answer)) = reply else { return };
        self.clock.learn(answer.server_time_us, asked, BootTime::now());
        let clock = self.clock.clone();
        let remembered = tokio::task::spawn_blocking(move || clock.remember()).await;
        if let Ok(Err(error)) = remembered {
            debug!("The time could not be written down: {error}");
        }
    }

    /// Does what the state machine says, and says whether to rest.
    async fn act(&self, actions: Vec<Action>) -> Result<Option<Pause>, BufferError> {
        let mut pause = None;
        for action in actions {
            match action {
                Action::Acknowledge(ranges) => self.acknowledge(ranges).await?,
                Action::Pause(length) => pause = Some(length),
                Action::Tell(notice) => self.tell(notice),
            }
        }
        if pause.is_none() {
            self.status
                .send_if_modified(|status| std::mem::replace(status, UplinkStatus::Up) != UplinkStatus::Up);
        }
        Ok(pause)
    }

    async fn acknowledge(&self, ranges: Vec<std::ops::RangeInclusive<u64>>) -> Result<(), BufferError> {
        match self.backlog.acknowledge(ranges).await {
            Err(BufferError::Stopped) => Err(BufferError::Stopped),
            // The batches come again and will be called duplicates: nothing is lost.
            Err(error) => {
                warn!("The buffer did not take an acknowledgement: {error}.");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn tell(&self, notice: Notice) {
        let trouble = match &notice {
            Notice::WorksAgain => {
                info!("The server takes readings again.");
                return;
            }
            Notice::SetAside { sequence, words } => {
                error!(sequence, "The server could not read a batch and keeps it aside: {}.", shown(words));
                return;
            }
            Notice::Unreachable(words) => format!("the server is out of reach: {words}"),
            Notice::Busy => "the server is busy".into(),
            Notice::Forbidden(Some(words)) => {
                format!("the server refuses this gateway: {words}. `forebay-agent join` lets it in again")
            }
            Notice::Forbidden(None) => {
                "the server, or something before it, refuses this gateway. If its certificate was revoked, join again with `forebay-agent join`"
                    .into()
            }
            Notice::Strange(words) => format!("the server gives a strange answer: {words}"),
            Notice::BatchTooLarge { sequence, bytes } => format!(
                "batch {sequence} ({bytes} bytes) is more than the server or a proxy takes in a request; raise its limit"
            ),
            Notice::Retry { batches, words } => format!("the server put off {batches} batches: {}", shown(words)),
        };
        warn!("Readings stay in the buffer: {trouble}. Trying again.");
        self.status.send_replace(UplinkStatus::Troubled(trouble));
    }

    /// Waits, and ends the wait when the agent ends or a new identity appears.
    async fn rest(&self, pause: Pause, backoff: &mut Backoff, peer: &Peer) -> NextPeer {
        let length = match pause {
            Pause::Growing => backoff.next_pause(),
            Pause::AtLeast(least) => least + full_jitter(least.max(backoff.next_pause())),
            Pause::Longest => backoff.longest_pause(),
        };
        let over = Instant::now() + length;
        while let Some(left) = over.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            if wait(left.min(self.settings.look_for_identity), &self.finish).await == Waited::Stopped {
                return NextPeer::Same;
            }
            if self.introduce().is_ok_and(|next| next.is_none_or(|next| next.mark != peer.mark)) {
                return NextPeer::Changed;
            }
        }
        NextPeer::Same
    }
}

/// Is the identity still the one we use?
#[derive(PartialEq, Eq)]
enum NextPeer {
    Same,
    Changed,
}

#[cfg(test)]
mod peer;
#[cfg(test)]
mod tests;
