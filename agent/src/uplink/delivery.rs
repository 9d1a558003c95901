//! The work of one identity: plans, packs, sends, and takes in what comes back, with several requests
//! under way at once. `state` and `budget` decide.

use std::time::Duration;

use forebay_protocols::boot_time::BootTime;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, timeout_at};
use tracing::{debug, info, warn};

use super::body::Body;
use super::budget::{Budget, Leave, SPARSE_HEARTBEAT};
use super::bulletin::Bulletin;
use super::flight::{Landed, Outgoing, Way, fly, present};
use super::line::Peer;
use super::lines::Lines;
use super::lost::lost;
use super::meter::Meter;
use super::notices;
use super::parcel::{Backlog, pack};
use super::state::{Action, Notice, Pause, Plan, Reply, State};
use super::{Uplink, UplinkStatus};
use crate::backoff::{Backoff, full_jitter};
use crate::buffer::BufferError;

/// How often the identity is looked for while the server answers: after a renewal the old one still
/// works.
const IDENTITY_HOLDS_FOR: Duration = Duration::from_secs(60);

/// What outlives an identity: what was spent.
pub struct Purse {
    pub budget: Budget,
    pub meter: Meter,
    pub began: Instant,
}

/// How a delivery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The agent ends.
    Finished,
    /// There is another identity, or none.
    Moved,
}

/// Everything that is under way to one server.
pub struct Delivery<'a, B> {
    uplink: &'a Uplink<B>,
    purse: &'a mut Purse,
    peer: Peer,
    state: State,
    lines: Lines,
    flights: FuturesUnordered<BoxFuture<'a, Result<Landed, BufferError>>>,
    backoff: Backoff,
    bulletin: Bulletin,
    /// The opening a server was last known to have heard of.
    greeted: Option<bytes::Bytes>,
    /// No departure before.
    rest_until: Option<Instant>,
    /// The last departure.
    contact: Instant,
    /// When to look whether the identity is still the one we use.
    look_at: Instant,
    /// The budget of the day is spent, and that was told.
    spent: bool,
    finishing: Finishing,
}

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finishing {
    NotYet,
    /// What is there is sent.
    Asked,
    /// A request failed, which may have begun before the end, on a way that works again by now.
    TriedOnceMore,
    /// The server is out of reach.
    GivenUp,
}

impl<'a, B: Backlog> Delivery<'a, B> {
    /// Nothing is under way yet.
    pub fn new(uplink: &'a Uplink<B>, purse: &'a mut Purse, peer: Peer) -> Self {
        let settings = &uplink.settings;
        let now = Instant::now();
        Self {
            purse,
            peer,
            state: State::new(settings.max_request, settings.connections, settings.order),
            lines: Lines::new(settings.spread),
            flights: FuturesUnordered::new(),
            backoff: settings.backoff.clone(),
            bulletin: Bulletin::default(),
            greeted: None,
            rest_until: None,
            contact: now,
            look_at: now + IDENTITY_HOLDS_FOR,
            spent: false,
            finishing: Finishing::NotYet,
            uplink,
        }
    }

    /// Runs until everything is sent and the agent ends, or until the identity is another one.
    pub async fn run(mut self) -> Result<Ending, BufferError> {
        let uplink = self.uplink;
        loop {
            if self.has_moved() {
                // What is under way the next server knows, or gets again.
                return Ok(Ending::Moved);
            }
            let Some(wake) = self.depart().await? else { return Ok(Ending::Finished) };
            tokio::select! {
                biased;
                // Dropping next() leaves every request where it is.
                Some(landed) = self.flights.next() => self.land(landed?).await?,
                () = uplink.finish.cancelled(), if self.finishing == Finishing::NotYet => {
                    self.finishing = Finishing::Asked;
                    self.rest_until = None;
                }
                // An append that is missed here is found by the next look at the buffer.
                _ = timeout_at(wake, uplink.backlog.appended()) => {}
            }
        }
    }

    /// Has the gateway joined anew, elsewhere, or left?
    fn has_moved(&mut self) -> bool {
        let now = Instant::now();
        if now < self.look_at {
            return false;
        }
        let pause = if self.rest_until.is_some() {
            self.uplink.settings.look_for_identity
        } else {
            IDENTITY_HOLDS_FOR
        };
        self.look_at = now + pause;
        // The one we have is kept where it is the same: its TLS remembers the server.
        self.uplink.introduce().is_ok_and(|next| next.is_none_or(|next| next.mark != self.peer.mark))
    }

    /// Sends all that may go now. Says when to look again at the latest; `None` when the agent ends and
    /// nothing is left to do.
    async fn depart(&mut self) -> Result<Option<Instant>, BufferError> {
        let uplink = self.uplink;
        loop {
            let (now, is_idle) = (Instant::now(), self.flights.is_empty());
            if self.finishing == Finishing::GivenUp {
                return Ok((!is_idle).then_some(self.look_at));
            }
            if let Some(until) = self.rest_until.filter(|until| now < *until) {
                return Ok(Some(until.min(self.look_at)));
            }
            self.rest_until = None;
            let leave = self.leave(now);
            let waiting = uplink.backlog.status();
            self.state.sees_backlog(waiting.backlog_bytes);
            let plan = self.state.plan(waiting.newest.map_or(0, |newest| newest.0), leave);
            let is_greeting = plan == Plan::Greet;
            let mut parcel = pack(plan, &uplink.backlog, uplink.epoch, &uplink.clock).await?;
            let lane_begins_anew = parcel.backlog_over && self.state.backlog_ends();
            let mut report = (uplink.reporter)();
            report.ca_generation = self.peer.ca_generation;
            let is_finishing = self.finishing != Finishing::NotYet;
            let heartbeat = if leave.spent { SPARSE_HEARTBEAT } else { Duration::ZERO };
            let heartbeat = self.contact + heartbeat.max(uplink.settings.heartbeat);
            // The last requests carry the counts with which the server closes its ledger.
            let only_report = is_greeting
                || is_idle && (now >= heartbeat || is_finishing && self.bulletin.is_behind(&report));
            if only_report || !parcel.sent.is_empty() {
                if is_idle && !self.lines.any() {
                    self.bulletin.forget();
                }
                let due = only_report || is_finishing || self.bulletin.is_due(&report, now);
                parcel.request.report = due.then_some(report);
                self.takes_off(parcel).await?;
                continue;
            }
            if lane_begins_anew {
                continue;
            }
            if is_finishing && is_idle {
                return Ok(None);
            }
            let heartbeat = if is_idle { heartbeat } else { self.look_at };
            let again = leave.again.map_or(self.look_at, |again| now + again);
            return Ok(Some(heartbeat.min(again).min(self.look_at)));
        }
    }

    /// What the budget allows.
    fn leave(&mut self, now: Instant) -> Leave {
        let since = now.duration_since(self.purse.began);
        self.purse.budget.read(self.purse.meter.bytes(), since);
        let minute = self.uplink.clock.wall_us().div_euclid(60_000_000).rem_euclid(24 * 60);
        let leave = self.purse.budget.leave(self.state.bytes_under_way(), minute as u16, since);
        if leave.spent != self.spent {
            self.spent = leave.spent;
            match self.uplink.settings.limits.daily {
                Some(daily) if leave.spent => warn!("Readings wait: {}.", notices::of_spent_budget(daily)),
                _ => info!("The day's budget has room again."),
            }
            if matches!(*self.uplink.status.borrow(), UplinkStatus::Up | UplinkStatus::UpBut(_)) {
                self.all_is_well();
            }
        }
        leave
    }

    async fn takes_off(&mut self, parcel: super::parcel::Parcel) -> Result<(), BufferError> {
        let uplink = self.uplink;
        let super::parcel::Parcel { mut request, sent, backlog_over: _ } = parcel;
        let openings = uplink.backlog.openings().await?;
        request.opening = present(&openings);
        request.untyped = true;
        let report = request.report.clone();
        let ticket = self.state.departs(sent);
        let outgoing = Outgoing { ticket, body: Body::of(request), openings, report };
        let way = Way {
            peer: self.peer.clone(),
            proxy: uplink.settings.proxy.as_ref(),
            meter: self.purse.meter.clone(),
            kept: self.lines.take(),
            not_before: self.lines.not_before(),
            spread: self.lines.spread(),
            patience: uplink.settings.request_timeout,
            finish: &uplink.finish,
        };
        self.contact = Instant::now();
        self.flights.push(Box::pin(fly(&uplink.backlog, way, outgoing)));
        Ok(())
    }

    /// Takes in what came of a request.
    async fn land(&mut self, landed: Landed) -> Result<(), BufferError> {
        let Landed { ticket, reply, took, line, report, greeted, opening, asked } = landed;
        if let Some(line) = line {
            self.lines.put(line, ticket);
        }
        self.learn_time(&reply, asked).await;
        let mut missing = Vec::new();
        if let Reply::Answer(answer) = &reply {
            if let Some(report) = report {
                self.bulletin.told(report, Instant::now());
            }
            if let Some(acknowledged) = greeted {
                missing = lost(&acknowledged, answer);
                self.peer.server_reads.learn(answer.batch_format);
                self.has_greeted(opening).await?;
            }
        }
        let mut pause = None;
        for action in self.state.step(ticket, reply, took) {
            match action {
                Action::Acknowledge(ranges) => self.acknowledge(ranges).await?,
                Action::GreetAnew => self.lines.greet_anew(ticket),
                Action::Pause(length) => pause = Some(length),
                Action::Tell(notice) => self.tell(&notice),
            }
        }
        self.revive(missing).await?;
        match pause {
            Some(pause) => self.rest(pause),
            None => {
                self.backoff.reset();
                if self.finishing == Finishing::TriedOnceMore {
                    self.finishing = Finishing::Asked;
                }
                self.all_is_well();
            }
        }
        Ok(())
    }

    async fn learn_time(&mut self, reply: &Reply, asked: BootTime) {
        let (Reply::Answer(answer) | Reply::Lacking(answer)) = reply else { return };
        if self.peer.hears_of_ca(answer.ca_generation) {
            // A new identity will be there soon.
            self.look_at = self.look_at.min(Instant::now() + self.uplink.settings.look_for_identity);
        }
        let clock = self.uplink.clock.clone();
        clock.learn(answer.server_time_us, asked, BootTime::now());
        let remembered = tokio::task::spawn_blocking(move || clock.remember()).await;
        if let Ok(Err(error)) = remembered {
            debug!("The time could not be written down: {error}");
        }
    }

    /// The server has heard of the opening: older ones need not be told again.
    async fn has_greeted(&mut self, opening: bytes::Bytes) -> Result<(), BufferError> {
        if self.greeted.as_ref() == Some(&opening) {
            return Ok(());
        }
        let Ok(id) = <[u8; 8]>::try_from(opening.as_ref()) else { return Ok(()) };
        self.greeted = Some(opening);
        taken(self.uplink.backlog.greeted(id).await, "that a server knows us")
    }

    async fn acknowledge(&mut self, ranges: Vec<std::ops::RangeInclusive<u64>>) -> Result<(), BufferError> {
        // If it fails the batches come again and will be called duplicates: nothing is lost.
        taken(self.uplink.backlog.acknowledge(ranges).await, "an acknowledgement")
    }

    /// The server lost what it had acknowledged: sends again what there still is.
    async fn revive(&mut self, missing: Vec<std::ops::RangeInclusive<u64>>) -> Result<(), BufferError> {
        let Some(lowest) = missing.first().map(|range| *range.start()) else { return Ok(()) };
        match self.uplink.backlog.revive(missing).await {
            Ok(revived) => notices::tell_revived(revived),
            // The next connection asks again.
            Err(error) => taken(Err(error), "that the server lost batches")?,
        }
        self.state.goes_back_to(lowest);
        Ok(())
    }

    fn tell(&self, notice: &Notice) {
        if let Some(trouble) = notices::tell(notice) {
            self.uplink.status.send_replace(UplinkStatus::Troubled(trouble));
        }
    }

    /// The last request was answered well, but there may be something to say all the same.
    fn all_is_well(&self) {
        let spent = self.uplink.settings.limits.daily.filter(|_| self.spent).map(notices::of_spent_budget);
        let fork = Some(self.state.fork()).filter(|fork| *fork != 0).map(notices::of_fork);
        let next = spent.or(fork).map_or(UplinkStatus::Up, UplinkStatus::UpBut);
        self.uplink.status.send_if_modified(|status| {
            let changed = *status != next;
            if changed {
                *status = next;
            }
            changed
        });
    }

    /// No departure for a while, unless the agent ends.
    fn rest(&mut self, pause: Pause) {
        match self.finishing {
            Finishing::NotYet => {}
            Finishing::Asked if pause == Pause::Growing => {
                self.finishing = Finishing::TriedOnceMore;
                return;
            }
            Finishing::Asked | Finishing::TriedOnceMore => {
                info!("The server is out of reach. What is left stays in the buffer.");
                self.finishing = Finishing::GivenUp;
                return;
            }
            Finishing::GivenUp => return,
        }
        let length = match pause {
            Pause::Growing => self.backoff.next_pause(),
            Pause::AtLeast(least) => least + full_jitter(least.max(self.backoff.next_pause())),
            Pause::Longest => self.backoff.longest_pause(),
        };
        let until = Instant::now() + length;
        self.rest_until = self.rest_until.max(Some(until));
        self.look_at = self.look_at.min(Instant::now() + self.uplink.settings.look_for_identity);
    }
}

/// A buffer that has stopped ends the uplink; one that did not take something goes on without.
fn taken(result: Result<(), BufferError>, what: &str) -> Result<(), BufferError> {
    match result {
        Err(BufferError::Stopped) => Err(BufferError::Stopped),
        Err(error) => {
            warn!("The buffer did not note {what}: {error}.");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}
