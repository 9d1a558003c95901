//! The one owner of a bus: decides what is asked next, asks it, and makes readings of what comes.
//!
//! - A request is due every interval by the monotonic clock. Deadlines missed while the bus was
//!   busy or the unit silent are skipped, not caught up in a burst; the phase is kept.
//! - Of the units with something due the one asked longest ago is next, so that a talkative unit
//!   cannot starve the others.
//! - Trouble stays with its unit: the breaker leaves a silent one alone, its points get one bad
//!   reading each at the loss, and a refusal is a bad reading of the points of that request only.
//! - A refused request of several points is taken apart and asked again at once, so that the
//!   refused address ends up alone. Once each piece was given or refused, the hole or the limit
//!   behind it is known and the rest is joined again. The whole is tried again after an hour, and
//!   after pauses that double.
//! - Several requests are under way at once where the transport can tell their answers apart and
//!   the units are known to answer. A request that fails in company says nothing of its unit: it is
//!   asked again alone, and if that succeeds, or if the connection breaks in company, the link is
//!   asked one at a time for a while that doubles.

mod company;
mod cuts;
mod load;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use self::cuts::Whole;
pub use self::load::UnitLoad;
use super::breaker::Breaker;
use super::frame::{Query, Reply};
use super::planner::{self, Cost, Learnt, Limits, Plan, Request};
use super::registers::Format;
use super::transport::{StreamLost, Transport};
use crate::field::occupancy::Occupancy;
use crate::field::source::{DeviceNews, Harvest, LinkFault, Sample};
use crate::reading::{Fault, Quality, Stamp};

/// Exception codes (Modbus Application Protocol V1.1b3, 7).
mod exception {
    pub const ILLEGAL_ADDRESS: u8 = 0x02;
    pub const ILLEGAL_VALUE: u8 = 0x03;
    pub const DEVICE_FAILURE: u8 = 0x04;
    pub const MEMORY_PARITY: u8 = 0x08;
    pub const GATEWAY_PATH: u8 = 0x0a;
    pub const GATEWAY_TARGET: u8 = 0x0b;
}

/// A shorter interval would let one unit own the bus.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(1);

/// How long a link that fails with several requests under way is first asked one at a time.
const SINGLE_AT_FIRST: Duration = Duration::from_secs(60);

/// A device as the bus sees it.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its name, for news.
    pub name: Arc<str>,
    /// Its unit id. Devices may share one.
    pub unit: u8,
    /// Its points.
    pub slots: Vec<usize>,
    /// What it may be asked for by its configuration.
    pub limits: Limits,
    /// What an earlier life learnt of it.
    pub known: Learnt,
}

/// What does not change with a plan.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Address or port as configured, for faults.
    pub peer: String,
    /// The longest wait for an answer.
    pub timeout: Duration,
    /// The longest pause of a silent unit.
    pub backoff_max: Duration,
    /// What reading costs, for joining anew what was taken apart.
    pub cost: Cost,
    /// Requests under way at once; more than one only over MBAP frames.
    pub in_flight: usize,
    /// Is the connection suspect when no unit answers? True for TCP; a tty cannot get lost that way.
    pub lost_in_silence: bool,
}

/// See the module.
pub struct Bus {
    settings: Settings,
    units: Vec<Unit>,
    /// By device, as configured.
    limits: Vec<Limits>,
    /// By device, what the configuration does not say.
    known: Vec<Learnt>,
    wholes: Vec<Whole>,
    jobs: Vec<Job>,
    next_id: usize,
    /// By slot.
    formats: Vec<Format>,
    unreachable: Vec<usize>,
    turns: u64,
    connection: Option<Connection>,
    /// What is under way, the longest first. Empty where one request at a time is asked.
    flights: Vec<Flight>,
    company: Company,
    lessons: u64,
    occupancy: Occupancy,
}

/// A request under way.
struct Flight {
    transaction: u16,
    job: usize,
    query: Query,
    deadline: Instant,
    /// Others were under way at the same time.
    is_in_company: bool,
    /// No others may be: its unit is not known to answer, or the link is being tried.
    is_alone: bool,
}

/// How the link bears several requests at once.
struct Company {
    /// The first request that failed in company, until it was asked again alone.
    suspect: Option<usize>,
    single_until: Option<Instant>,
    next_single: Duration,
}

struct Connection {
    transport: Transport,
    /// The readings of unreachable points were given.
    is_greeted: bool,
    /// Timeouts since anybody answered.
    silences: usize,
}

struct Unit {
    id: u8,
    names: Vec<Arc<str>>,
    slots: Vec<usize>,
    breaker: Breaker,
    /// The turn it was asked last.
    turn: u64,
}

/// A request as it is asked: a whole, or a part of one.
struct Job {
    /// Never given twice: the breaker remembers it.
    id: usize,
    whole: usize,
    unit: usize,
    request: Request,
    due: Instant,
    /// Was it given, when it was asked last? Not known until it was either given or refused.
    is_given: Option<bool>,
}

impl Bus {
    /// A bus with these devices, by the numbers `plan` knows them by, and the formats of all points.
    pub fn new(settings: Settings, members: Vec<Member>, plan: Plan, formats: Vec<Format>) -> Self {
        let mut units: Vec<Unit> = Vec::new();
        let mut unit_of_member = Vec::new();
        let (mut limits, mut known) = (Vec::new(), Vec::new());
        for member in members {
            let at = units.iter().position(|u| u.id == member.unit).unwrap_or(units.len());
            if at == units.len() {
                units.push(Unit {
                    id: member.unit,
                    names: Vec::new(),
                    slots: Vec::new(),
                    breaker: Breaker::new(settings.timeout, settings.backoff_max),
                    turn: 0,
                });
            }
            units[at].names.push(member.name);
            units[at].slots.extend(member.slots);
            unit_of_member.push(at);
            limits.push(member.limits);
            known.push(member.known);
        }
        let whole = |request: Request| Whole::new(unit_of_member[request.device], request);
        let mut bus = Self {
            settings,
            units,
            limits,
            known,
            wholes: plan.requests.into_iter().map(whole).collect(),
            jobs: Vec::new(),
            next_id: 0,
            formats,
            unreachable: plan.unreachable,
            turns: 0,
            connection: None,
            flights: Vec::new(),
            company: Company { suspect: None, single_until: None, next_single: SINGLE_AT_FIRST },
            lessons: 0,
            occupancy: Occupancy::default(),
        };
        (0..bus.wholes.len()).for_each(|whole| bus.begin(whole));
        bus
    }

    /// How busy the bus is. It is in use from a query, with the silence before it, until its answer or
    /// the timeout.
    pub fn occupancy(&self) -> Occupancy {
        self.occupancy.clone()
    }

    /// Takes a fresh connection. Everything is due at once; silent units stay in their pause.
    pub fn attach(&mut self, transport: Transport) {
        let now = Instant::now();
        self.detach();
        (0..self.wholes.len()).for_each(|whole| self.rejoin(whole));
        self.may_have_changed(None);
        self.jobs.iter_mut().for_each(|job| job.due = now);
        self.connection = Some(Connection { transport, is_greeted: false, silences: 0 });
    }

    /// Lets go of the connection.
    pub fn detach(&mut self) {
        self.flights.clear();
        self.occupancy.end();
        self.connection = None;
    }

    /// Waits for the next request that is due, asks, and gives what came of it.
    ///
    /// Dropping this future loses what is under way; `detach` must follow.
    pub async fn turn(&mut self) -> Result<Harvest, LinkFault> {
        let Some(connection) = &mut self.connection else {
            return Err(self.lost("it was not connected"));
        };
        if !std::mem::replace(&mut connection.is_greeted, true) && !self.unreachable.is_empty() {
            return Ok(Harvest {
                samples: bad(self.unreachable.iter().copied(), Fault::NotFound),
                ..Harvest::default()
            });
        }
        if self.settings.lost_in_silence
            && self.flights.is_empty()
            && connection.silences >= self.units.len().max(2)
        {
            self.units.iter_mut().for_each(|unit| unit.breaker.ask_again(Instant::now()));
            return Err(self.lost("no unit answers any more"));
        }
        if self.settings.in_flight > 1 {
            return self.turn_in_company().await;
        }
        let number = self.next_job().await;
        let Some(connection) = &mut self.connection else {
            return Err(self.lost("it was not connected"));
        };
        let query = query(&self.units, &self.jobs[number]);
        self.occupancy.begin();
        let exchanged = connection.transport.exchange(query, self.settings.timeout).await;
        self.occupancy.end();
        match exchanged {
            Ok(reply) => {
                let discarded = connection.transport.take_discarded();
                let mut harvest = self.settle(number, reply);
                harvest.discarded += discarded;
                Ok(harvest)
            }
            Err(StreamLost(why)) => Err(self.lost(&why)),
        }
    }

    fn lost(&mut self, why: &str) -> LinkFault {
        if self.flights.iter().any(|flight| flight.is_in_company) {
            self.ask_singly();
        }
        self.detach();
        self.company.suspect = None;
        LinkFault::Lost { peer: self.settings.peer.clone(), why: why.into() }
    }

    /// Waits until a request is due and its unit may be asked; gives its number and marks the turn.
    async fn next_job(&mut self) -> usize {
        let number = loop {
            let now = Instant::now();
            self.restore_old_cuts(now);
            let ready = self
                .admitted()
                .filter(|(at, _)| *at <= now)
                .min_by_key(|&(at, number)| (self.units[self.jobs[number].unit].turn, at));
            if let Some((_, number)) = ready {
                break number;
            }
            match self.admitted().min() {
                Some((at, _)) => sleep_until(at).await,
                // A link without points has nothing to wait for but its end.
                None => std::future::pending().await,
            }
        };
        self.mark_asked(number);
        number
    }

    /// The requests that are not under way and when their units may be asked, by number.
    fn admitted(&self) -> impl Iterator<Item = (Instant, usize)> {
        self.jobs.iter().enumerate().filter(|(_, job)| self.is_askable(job)).filter_map(|(number, job)| {
            let at = self.units[job.unit].breaker.admits(job.id, job.due)?;
            Some((at, number))
        })
    }

    fn is_askable(&self, job: &Job) -> bool {
        let is_to_be_joined = self.wholes[job.whole].cut.as_ref().is_some_and(|cut| !cut.joined.is_empty());
        !is_to_be_joined && !self.is_under_way(job)
    }

    fn is_under_way(&self, job: &Job) -> bool {
        self.flights.iter().any(|flight| flight.job == job.id)
    }

    fn mark_asked(&mut self, number: usize) {
        self.turns += 1;
        let turn = self.turns;
        let job = &mut self.jobs[number];
        job.due = next_deadline(job.due, job.request.interval, Instant::now());
        self.units[job.unit].turn = turn;
    }

    /// Makes a harvest of a reply and draws the consequences.
    fn settle(&mut self, number: usize, reply: Reply) -> Harvest {
        let parts = self.jobs[number].request.parts.clone();
        let slots = parts.iter().map(|part| part.slot);
        match reply {
            Reply::Words(words) => {
                let stamp = Stamp::now();
                let mut sample = |part: &planner::Part| {
                    let words = words.get(usize::from(part.start)..).unwrap_or_default();
                    let (value, quality) = self.formats[part.slot].value(words);
                    Sample { slot: part.slot, stamp, value, quality }
                };
                let samples = parts.iter().map(&mut sample).collect();
                let news = self.answered(number);
                self.refuted(number);
                // The last, for the pieces of a whole that is known by now change places.
                self.judged(number, true);
                Harvest { samples, news, ..Harvest::default() }
            }
            Reply::Exception(code @ (exception::GATEWAY_PATH | exception::GATEWAY_TARGET)) => {
                let harvest = self.silent(number, |unit| {
                    format!("the gateway gets no answer from unit {unit} (exception {code:#04x})")
                });
                // The gateway itself is well.
                self.silences(|_| 0);
                harvest
            }
            Reply::Exception(code) => {
                let news = self.answered(number);
                let is_about_extent = matches!(code, exception::ILLEGAL_ADDRESS | exception::ILLEGAL_VALUE);
                if is_about_extent && self.split(number, code == exception::ILLEGAL_ADDRESS) {
                    return Harvest { news, ..Harvest::default() };
                }
                if is_about_extent {
                    self.judged(number, false);
                }
                let fault = match code {
                    exception::ILLEGAL_ADDRESS => Fault::NotFound,
                    exception::DEVICE_FAILURE | exception::MEMORY_PARITY => Fault::DeviceFailure,
                    _ => Fault::Refused,
                };
                Harvest { samples: bad(slots, fault), news, ..Harvest::default() }
            }
            Reply::Malformed(why) => {
                let unit = self.unit(number).id;
                tracing::debug!(peer = %self.settings.peer, unit, %why, "Malformed answer.");
                let news = self.answered(number);
                Harvest { samples: bad(slots, Fault::WrongType), news, discarded: 1, ..Harvest::default() }
            }
            Reply::Garbled if !self.unit(number).breaker.garbled() => {
                Harvest { samples: bad(slots, Fault::WrongType), discarded: 1, ..Harvest::default() }
            }
            Reply::Garbled => {
                let words =
                    |unit| format!("what comes from unit {unit} is garbled; check baud rate and wiring");
                Harvest { discarded: 1, ..self.silent(number, words) }
            }
            Reply::Silent => {
                let timeout = self.settings.timeout;
                self.silent(number, |unit| format!("unit {unit} did not answer within {timeout:?}"))
            }
        }
    }

    fn answered(&mut self, number: usize) -> Vec<DeviceNews> {
        self.silences(|_| 0);
        let unit = self.unit(number);
        if !unit.breaker.answered() {
            return Vec::new();
        }
        let news = unit.news(true, format!("unit {} answers", unit.id));
        self.may_have_changed(Some(self.jobs[number].unit));
        news
    }

    fn silent(&mut self, number: usize, words: impl FnOnce(u8) -> String) -> Harvest {
        self.silences(|n| n.saturating_add(1));
        let asked = self.jobs[number].id;
        let unit = self.unit(number);
        if !unit.breaker.silent(asked, Instant::now()) {
            return Harvest::default();
        }
        Harvest {
            samples: bad(unit.slots.iter().copied(), Fault::Silent),
            news: unit.news(false, words(unit.id)),
            ..Harvest::default()
        }
    }

    fn unit(&mut self, job: usize) -> &mut Unit {
        &mut self.units[self.jobs[job].unit]
    }

    fn silences(&mut self, change: impl FnOnce(usize) -> usize) {
        if let Some(connection) = &mut self.connection {
            connection.silences = change(connection.silences);
        }
    }
}

impl Unit {
    fn news(&self, answers: bool, words: String) -> Vec<DeviceNews> {
        let news = |name: &Arc<str>| DeviceNews { device: name.clone(), answers, words: words.clone() };
        self.names.iter().map(news).collect()
    }
}

fn query(units: &[Unit], job: &Job) -> Query {
    let Request { table, address, count, .. } = job.request;
    Query { unit: units[job.unit].id, table, address, count }
}

/// The first deadline after `now` in step with `due`.
fn next_deadline(due: Instant, interval: Duration, now: Instant) -> Instant {
    let interval = interval.max(SHORTEST_INTERVAL);
    let late = now.saturating_duration_since(due);
    let missed = u32::try_from(late.as_nanos() / interval.as_nanos()).unwrap_or(u32::MAX - 1);
    interval.checked_mul(missed + 1).and_then(|step| due.checked_add(step)).unwrap_or(now + interval)
}

fn bad(slots: impl Iterator<Item = usize>, fault: Fault) -> Vec<Sample> {
    let stamp = Stamp::now();
    slots.map(|slot| Sample { slot, stamp, value: None, quality: Quality::Bad(fault) }).collect()
}

#[cfg(test)]
#[path = "bus_tests.rs"]
mod tests;
