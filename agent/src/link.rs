//! One task per link: drives a [`Source`], whatever its protocol, and hands over what it brings.
//!
//! - The only owner of reconnecting: jittered, growing pauses; seldom where the peer refuses us; at
//!   once when a peer that was away is seen to be there again.
//! - When a connection is lost each point gets one bad reading, so that charts show a hole.
//! - A fault is logged once and counted after that. It is over when a connection has held.
//! - Notes which device answers: the time in which one does not is a gap.
//! - Waits for the batcher when the batcher waits for the disk: then devices are read later.
//! - At the end it hangs up and, where a peer waits for our word, keeps its connection until the
//!   batcher has confirmed what is in hand: a broker that does not hear of it would send all of that
//!   again.

mod absence;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use forebay_config::processing::Rule;
use forebay_protocols::boot_time::BootTime;
use forebay_protocols::field::occupancy::Occupancy;
use forebay_protocols::field::source::{DeviceNews, Harvest, LinkFault, Receipt, Sample, Source};
use forebay_protocols::reading::{Clock, Fault, Point, Quality, Stamp};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use self::absence::{Absence, Pause};
use crate::backoff::{Backoff, Waited};
use crate::batcher::Handover;
use crate::gaps::Silences;
use crate::ledger::Books;
use crate::live::Feed;
use crate::processing::{Processed, Processing};
use crate::rate::Rate;

/// A connection that lives this long ends an episode of faults. Shorter ones are flapping.
pub const SETTLED_AFTER: Duration = Duration::from_secs(5);
/// The batcher may take this long with what is in hand: behind it stands the disk.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(30);
/// Saying goodbye may take this long.
const CLOSE_WITHIN: Duration = Duration::from_secs(3);

/// How a link is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LinkState {
    /// The first attempt is under way.
    #[default]
    Connecting,
    /// The connection stands.
    Connected,
    /// Waiting for the next attempt, because of this.
    BackingOff(String),
    /// Never to be tried again, because of this: a person must come.
    GaveUp(String),
    /// The link or the agent ends.
    Stopped,
}

/// What people and the server may know of a link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkStatus {
    /// How the connection is.
    pub state: LinkState,
    /// Failed attempts in a row.
    pub attempts: u32,
    /// When the next attempt begins, while it is waited for.
    pub next_attempt: Option<Instant>,
    /// Connections made so far.
    pub connections: u64,
    /// Devices by name: what was said of them last on this connection, if anything.
    pub devices: BTreeMap<Arc<str>, Option<DeviceNews>>,
    /// Has anything arrived on this connection?
    pub heard: bool,
    /// Messages and frames that gave no reading.
    pub discarded: u64,
    /// How busy the line is, if the protocol knows.
    pub occupancy: Option<Occupancy>,
}

impl LinkStatus {
    /// Does the device answer, and if not, why.
    pub fn device(&self, name: &str) -> (bool, String) {
        match &self.state {
            LinkState::Connecting => (false, "connecting".into()),
            LinkState::BackingOff(why) | LinkState::GaveUp(why) => (false, why.clone()),
            LinkState::Stopped => (false, "the agent is stopping".into()),
            LinkState::Connected => match self.devices.get(name) {
                Some(Some(news)) => {
                    (news.answers, if news.answers { String::new() } else { news.words.clone() })
                }
                _ if self.heard => (true, String::new()),
                _ => (false, "nothing has arrived yet".into()),
            },
        }
    }
}

/// What a link task works with.
pub struct Link<S> {
    /// The driver.
    pub source: S,
    /// Everything about the link that is not its driver.
    pub desk: Desk,
}

/// A link's name, papers and ways out.
pub struct Desk {
    /// The link's name.
    pub name: Arc<str>,
    /// Its place in the configuration.
    pub index: usize,
    /// To the batcher; bounded.
    pub handovers: mpsc::Sender<Handover>,
    /// The ledger's books.
    pub books: Books,
    /// Who answers, and since when not.
    pub silences: Silences,
    /// What is done with readings before they are kept.
    pub rules: Arc<[Rule]>,
    /// Seen by telemetry, systemd and the server.
    pub status: watch::Sender<LinkStatus>,
    /// Counts readings, for people.
    pub rate: Rate,
    /// Where what is read is shown to whoever watches.
    pub feed: Feed,
    /// Pauses between attempts.
    pub backoff: Backoff,
    /// Cancelled when the link or the agent ends: nothing more is taken from the field.
    pub stop: CancellationToken,
    /// Cancelled when every receipt has had its word, or the time for that is over.
    pub goodbye: CancellationToken,
}

/// What the task remembers from one connection to the next.
struct Course {
    /// What it has in hand too.
    processing: Processing,
    /// Every point has got its bad reading since the last sample.
    holes_marked: bool,
    /// The fault is in the log.
    fault_logged: bool,
    /// Is the peer there?
    absence: Absence,
    /// The peer waits for our word, or did.
    owes_receipts: bool,
}

/// Why a connection is over.
enum End {
    Fault(LinkFault),
    Stopped,
    /// Nobody takes readings any more: the agent is ending the hard way.
    BatcherGone,
}

impl<S: Source> Link<S> {
    /// Runs until `stop`, whatever the link does.
    pub async fn run(mut self) {
        let mut course = Course::new(&self.desk);
        // Nobody is known yet, unless a life of this task before this one fell.
        self.desk.silences.link_lost();
        self.desk.list_devices(&self.source);
        self.desk.status.send_modify(|status| status.occupancy = self.source.occupancy());
        let stop = self.desk.stop.clone();
        loop {
            let connected = stop.run_until_cancelled(self.source.connect()).await;
            let begun = Instant::now();
            let end = match connected {
                None => End::Stopped,
                Some(Err(fault)) => End::Fault(fault),
                Some(Ok(())) => {
                    self.desk.connected();
                    self.stay(&mut course, begun).await
                }
            };
            let End::Fault(fault) = end else { break };
            if self.rest(fault, &mut course, begun).await == Waited::Stopped {
                break;
            }
        }
        self.farewell(course).await;
    }

    /// Hangs up, which makes the batcher write at once, and closes when it has confirmed.
    async fn farewell(self, mut course: Course) {
        let Self { mut source, desk } = self;
        let held = course.processing.release_all(BootTime::now());
        desk.pass_on(held, None).await;
        let Desk { name, index, handovers, status, goodbye, .. } = desk;
        if course.owes_receipts {
            let (sender, confirmed) = oneshot::channel();
            let receipt = Some(Receipt::new(move || _ = sender.send(())));
            let (points, samples) = (Vec::new(), Vec::new());
            let last = Handover { link: index, points, first_slot: 0, samples, receipt, last: true };
            let confirmed = async {
                let handed_over = handovers.send(last).await.is_ok();
                drop(handovers);
                if !handed_over || confirmed.await.is_err() {
                    goodbye.cancelled().await;
                }
            };
            let patience = goodbye.run_until_cancelled(timeout(CONFIRMED_WITHIN, confirmed)).await;
            if let Some(Err(_)) = patience {
                warn!(link = %name, "The link closes though readings of it are not on the disk. Its peer sends them again.");
            }
        } else {
            drop(handovers);
        }
        if timeout(CLOSE_WITHIN, source.close()).await.is_err() {
            debug!(link = %name, "The peer did not take our goodbye in time.");
        }
        status.send_modify(|status| status.state = LinkState::Stopped);
    }

    /// Harvests until the connection ends.
    async fn stay(&mut self, course: &mut Course, begun: Instant) -> End {
        let settles = begun + SETTLED_AFTER;
        let mut settled = false;
        loop {
            let harvest = {
                let Self { source, desk } = &mut *self;
                let mut next = std::pin::pin!(source.next());
                let stop = desk.stop.clone();
                loop {
                    let wake = course.wake().into_iter().chain((!settled).then_some(settles)).min();
                    // Dropping `next` is safe here: what follows a stop is `close`.
                    let waited = match wake {
                        Some(at) => stop.run_until_cancelled(timeout_at(at, next.as_mut())).await,
                        None => stop.run_until_cancelled(next.as_mut()).await.map(Ok),
                    };
                    let Some(waited) = waited else { break None };
                    if let Ok(harvest) = waited {
                        break Some(harvest);
                    }
                    if !settled && Instant::now() >= settles {
                        settled = true;
                        desk.settled(course);
                    }
                    let due = course.processing.release(BootTime::now());
                    if !desk.pass_on(due, None).await {
                        return End::BatcherGone;
                    }
                }
            };
            match harvest {
                None => return End::Stopped,
                Some(Err(fault)) => return End::Fault(fault),
                Some(Ok(harvest)) => {
                    if !self.hand_over(harvest, course).await {
                        return End::BatcherGone;
                    }
                }
            }
        }
    }

    /// Passes a harvest on. False if there is nobody left to take it.
    async fn hand_over(&mut self, harvest: Harvest, course: &mut Course) -> bool {
        let Harvest { samples, receipt, news, discarded, remarks } = harvest;
        for remark in remarks {
            warn!(link = %self.desk.name, "{remark}.");
        }
        let answers = answers(&samples, self.source.points());
        self.desk.heard(news, discarded, !samples.is_empty(), answers);
        if samples.is_empty() {
            // Nothing in it needs the disk. A broker sends only so many messages ahead of our word,
            // and foreign ones must not use that up until the next append; where earlier messages wait
            // for the disk, the driver keeps the word back until theirs is said.
            receipt.into_iter().for_each(Receipt::confirm);
            return true;
        }
        course.holes_marked = false;
        course.owes_receipts |= receipt.is_some();
        self.desk.rate.count(samples.len() as u64, BootTime::now());
        self.deliver(samples, receipt, course).await
    }

    async fn deliver(&mut self, samples: Vec<Sample>, receipt: Option<Receipt>, course: &mut Course) -> bool {
        self.desk.feed.show(&self.desk.name, self.source.points(), &samples);
        let processed = course.processing.take(samples, self.source.points(), BootTime::now());
        if !processed.points.is_empty() {
            self.desk.list_devices(&self.source);
        }
        self.desk.pass_on(processed, receipt).await
    }

    /// After a fault: marks the hole, says so once, and waits.
    async fn rest(&mut self, fault: LinkFault, course: &mut Course, begun: Instant) -> Waited {
        let held = begun.elapsed() >= SETTLED_AFTER && matches!(fault, LinkFault::Lost { .. });
        let at_once = held && self.desk.backoff.attempts() == 0;
        let pause = match fault {
            LinkFault::Refused { .. } => self.desk.backoff.longest_pause(),
            _ if at_once => {
                self.desk.backoff.next_pause();
                Duration::ZERO
            }
            _ => self.desk.backoff.next_pause(),
        };
        self.desk.faulted(&fault, course);
        if !course.holes_marked {
            course.holes_marked = true;
            let held = course.processing.release_all(BootTime::now());
            if !self.desk.pass_on(held, None).await {
                return Waited::Stopped;
            }
            let holes = holes(self.source.points().len());
            if !holes.is_empty() && !self.deliver(holes, None, course).await {
                return Waited::Stopped;
            }
        }
        self.desk.status.send_modify(|status| status.next_attempt = Some(Instant::now() + pause));
        match course.absence.wait(&mut self.source, pause, &self.desk.stop).await {
            Pause::Over => Waited::Over,
            Pause::Stopped => Waited::Stopped,
            Pause::Returned => {
                debug!(link = %self.desk.name, "Somebody is there again.");
                // It may need a moment more until it lets us in.
                self.desk.backoff.reset();
                Waited::Over
            }
        }
    }
}

impl Course {
    fn new(desk: &Desk) -> Self {
        let processing = Processing::new(desk.rules.clone());
        let absence = Absence::default();
        Self { processing, holes_marked: false, fault_logged: false, absence, owes_receipts: false }
    }

    /// When something that is held back is due.
    fn wake(&self) -> Option<Instant> {
        self.processing.due().map(|due| Instant::now() + due.since(BootTime::now()))
    }
}

impl Desk {
    /// Counts, and hands over to the batcher. False if there is nobody left to take it.
    async fn pass_on(&self, processed: Processed, receipt: Option<Receipt>) -> bool {
        let Processed { points, first_slot, samples, produced, filtered, misplaced } = processed;
        if misplaced > 0 {
            error!(link = %self.name, misplaced, "The driver gave readings of no known point. They are discarded; please report this.");
            self.status.send_modify(|status| status.discarded += misplaced);
        }
        self.books.harvested(produced, filtered);
        if samples.is_empty() && points.is_empty() {
            // Nothing in it needs the disk.
            receipt.into_iter().for_each(Receipt::confirm);
            return true;
        }
        let handover = Handover { link: self.index, points, first_slot, samples, receipt, last: false };
        self.handovers.send(handover).await.is_ok()
    }

    fn list_devices(&self, source: &impl Source) {
        let now = BootTime::now();
        source.points().iter().for_each(|point| self.silences.expect(&point.device, now));
        self.status.send_modify(|status| {
            for point in source.points() {
                if !status.devices.contains_key(&point.device) {
                    status.devices.insert(point.device.clone(), None);
                }
            }
        });
    }

    fn connected(&self) {
        debug!(link = %self.name, "Connected.");
        self.status.send_modify(|status| {
            status.state = LinkState::Connected;
            status.next_attempt = None;
            status.connections += 1;
            status.heard = false;
            status.devices.values_mut().for_each(|news| *news = None);
        });
    }

    fn settled(&mut self, course: &mut Course) {
        let attempts = self.backoff.attempts();
        self.backoff.reset();
        if std::mem::take(&mut course.fault_logged) {
            info!(link = %self.name, attempts, "The link is up again.");
        }
        self.status.send_modify(|status| status.attempts = 0);
    }

    fn faulted(&self, fault: &LinkFault, course: &mut Course) {
        self.silences.link_lost();
        let attempts = self.backoff.attempts();
        if std::mem::replace(&mut course.fault_logged, true) {
            debug!(link = %self.name, attempts, "Still down: {fault}");
        } else {
            warn!(link = %self.name, "The link is down: {fault}. Trying again.");
        }
        self.status.send_modify(|status| {
            status.state = LinkState::BackingOff(fault.to_string());
            status.attempts = attempts;
        });
    }

    fn heard(
        &self,
        news: Vec<DeviceNews>,
        discarded: u64,
        samples: bool,
        answers: Vec<(Arc<str>, BootTime)>,
    ) {
        let now = BootTime::now();
        self.silences.heard(answers, now);
        for DeviceNews { device, answers, words } in &news {
            if *answers {
                self.silences.heard([(device.clone(), now)], now);
                info!(link = %self.name, %device, "The device answers.");
            } else {
                self.silences.silent(device);
                warn!(link = %self.name, %device, "The device does not answer: {words}.");
            }
        }
        self.status.send_if_modified(|status| {
            let changed = !news.is_empty() || discarded > 0 || (samples && !status.heard);
            status.heard |= samples;
            status.discarded += discarded;
            for item in news {
                status.devices.insert(item.device.clone(), Some(item));
            }
            changed
        });
    }
}

/// Which devices said something, be it "no", and when.
fn answers(samples: &[Sample], points: &[Point]) -> Vec<(Arc<str>, BootTime)> {
    let now = BootTime::now();
    let mut answers: Vec<(Arc<str>, BootTime)> = Vec::new();
    for Sample { slot, stamp, quality, .. } in samples {
        let Some(Point { device, .. }) = points.get(*slot) else { continue };
        if matches!(quality, Quality::Bad(Fault::NoConnection | Fault::Silent)) {
            continue;
        }
        let at = if stamp.clock == Clock::Boot { BootTime(stamp.micros) } else { now };
        // A poll brings many samples of one device and one moment.
        if answers.last().is_none_or(|(last, then)| !Arc::ptr_eq(last, device) || *then != at) {
            answers.push((device.clone(), at));
        }
    }
    answers
}

/// One bad reading for each of `points` points, all at this moment.
fn holes(points: usize) -> Vec<Sample> {
    let stamp = Stamp::now();
    let quality = Quality::Bad(Fault::NoConnection);
    (0..points).map(|slot| Sample { slot, stamp, value: None, quality }).collect()
}

#[cfg(test)]
mod tests;
