//! A gateway: a real store on the simulated disk, and the uplink's own logic before it. What stands
//! between the uplink's decisions and the server, lines and flights, is played here move by move, as
//! `delivery` and `flight` do it, but without sockets and without waiting.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use forebay_agent::buffer::simulated::Simulated;
use forebay_agent::buffer::store::{Rules, Store};
use forebay_agent::buffer::{Opening, Revived, Status};
use forebay_agent::clock::Clock;
use forebay_agent::uplink::budget::Leave;
use forebay_agent::uplink::lost::lost;
use forebay_agent::uplink::parcel::{Backlog, pack};
use forebay_agent::uplink::state::{Action, Plan, Reply, State, Ticket};
use forebay_config::agent::Order;
use forebay_protocols::boot_time::wall_micros;
use forebay_protocols::reading::{Point, PointId};
use forebay_protocols::sync::batch::{Epoch, Sequence};
use forebay_protocols::sync::ranges::Ranges;
use forebay_protocols::sync::wire::{self, gap::Reason};
use prost::Message;

use super::super::plant::open;
use super::super::shelf::Shelf;
use super::super::{Broken, Dice};

/// Nothing limits the uplink.
const FREE: Leave = Leave { fresh: true, backlog: true, most: usize::MAX, spent: false, again: None };

/// What a folder holds: the disk, and which batches were confirmed on it, by their numbers.
#[derive(Clone)]
pub struct Folder {
    pub disk: Simulated,
    pub epoch: Epoch,
    /// Sequence -> the number of the batch among all that were ever produced.
    pub history: BTreeMap<u64, usize>,
    /// Ids of the openings it went through, and where each begins.
    pub line: Vec<(Vec<u8>, u64)>,
    /// Renewed whenever something is appended, or the buffer is opened: two folders of one stamp hold
    /// the same history.
    pub stamp: u64,
    /// The boot it was used in last.
    pub boot: u64,
}

/// A gateway that runs.
pub struct Gateway {
    pub folder: Folder,
    pub shelf: Shelf,
    pub opening: Opening,
    pub points: Vec<(PointId, Arc<Point>)>,
    state: State,
    clock: Clock,
    /// Open connections that nobody uses just now.
    lines: Vec<Line>,
    /// What greeted before this request departed has to greet again.
    greet_from: Ticket,
    pub flights: Vec<Flight>,
    /// The fork that the last answer named; nothing before the first.
    pub branch: Option<u32>,
}

/// A connection.
#[derive(Clone)]
struct Line {
    server: usize,
    greeted: Option<Bytes>,
}

/// A request under way.
#[derive(Clone)]
pub struct Flight {
    pub ticket: Ticket,
    pub server: usize,
    pub body: Bytes,
    line: Line,
    opening: Bytes,
    /// It carries the greeting: what had been acknowledged before.
    greeted: Option<Ranges>,
}

/// What the landing of an answer did, as far as the judge must know.
#[derive(Default)]
pub struct Landing {
    /// Sequences of which the server had lost what it had acknowledged, and nothing is left here.
    pub given_up: Vec<u64>,
    /// Readings in the gap records about them.
    pub in_gaps: u64,
    /// What [`Revived`] says is lost.
    pub told: u64,
}

impl Folder {
    /// A copy on a disk of its own: what is not synced is in it or not.
    pub fn image(&self, dice: &mut Dice) -> Self {
        Self { disk: self.disk.wreck(&mut |sides| dice.below(sides)), ..self.clone() }
    }
}

impl Gateway {
    /// Opens what lies in the folder.
    pub fn start(mut folder: Folder, rules: &Rules, dice: &mut Dice) -> Result<Self, Broken> {
        let is_new = folder.history.is_empty();
        let (store, opening, _) = open(Arc::new(folder.disk.clone()), rules, folder.boot)?;
        if opening.epoch != folder.epoch && !is_new {
            return Err(Broken::Other(format!("a new epoch began: {:?}", opening.repairs)));
        }
        folder.epoch = opening.epoch;
        folder.line.extend(store.openings().pop().map(|present| (present.id, present.first)));
        let order = if dice.once_in(4) { Order::InOrder } else { Order::FreshFirst };
        let limit = if dice.once_in(2) { 64 << 10 } else { dice.within(300, 3_000) as usize };
        Ok(Self {
            points: store.dictionary(PointId(0)),
            shelf: Shelf::new(store),
            state: State::new(limit, dice.within(1, 4) as usize, order),
            clock: Clock::open(Path::new("/nowhere")),
            lines: Vec::new(),
            greet_from: Ticket::default(),
            flights: Vec::new(),
            branch: None,
            folder,
            opening,
        })
    }

    /// The folder as it lies after an orderly stop, and the requests that nobody waits for any more.
    pub fn stop(self) -> (Folder, Vec<Flight>) {
        let Self { folder, shelf, flights, .. } = self;
        shelf.into_store().close();
        (folder, flights)
    }

    /// The folder as it lies after a power cut right now.
    pub fn cut(self, dice: &mut Dice) -> (Folder, Vec<Flight>) {
        (self.folder.image(dice), self.flights)
    }

    pub fn store(&self) -> MutexGuard<'_, Store> {
        self.shelf.store()
    }

    /// Plans a request and lets it depart, as `delivery` does. False if there is nothing to send.
    pub async fn depart(&mut self, heartbeat: bool, servers: usize, dice: &mut Dice) -> bool {
        loop {
            let status = self.shelf.status();
            let plan = self.state.plan(status.newest.map_or(0, |newest| newest.0), FREE);
            let is_greeting = plan == Plan::Greet;
            // A buffer in memory never stops.
            let Ok(mut parcel) = pack(plan, &self.shelf, self.folder.epoch, &self.clock).await else {
                return false;
            };
            let lane_begins_anew = parcel.backlog_over && self.state.backlog_ends();
            let only_report = is_greeting || heartbeat && self.flights.is_empty();
            if !only_report && parcel.sent.is_empty() {
                if lane_begins_anew {
                    continue;
                }
                return false;
            }
            let is_first = self.flights.is_empty() && self.lines.is_empty();
            if only_report || is_first || dice.once_in(4) {
                parcel.request.report = Some(self.report(&status));
            }
            let openings = self.store().openings();
            let present: Bytes = openings.last().map_or_else(Bytes::new, |last| last.id.clone().into());
            parcel.request.opening = present.clone();
            let server = dice.below(servers as u64) as usize;
            let line = self.lines.pop().unwrap_or(Line { server, greeted: None });
            let greets = line.greeted.as_ref() != Some(&present);
            let greeted = greets.then(|| self.store().acknowledged().clone());
            parcel.request.greeting = greets.then_some(wire::Greeting { openings });
            let ticket = self.state.departs(parcel.sent);
            let body = parcel.request.encode_to_vec().into();
            let server = line.server;
            self.flights.push(Flight { ticket, server, body, line, opening: present, greeted });
            return true;
        }
    }

    fn report(&self, status: &Status) -> wire::Report {
        let counts = status.counts;
        wire::Report {
            boot_counter: self.opening.boot_counter,
            wall_us: wall_micros(),
            synchronised: true,
            produced: counts.appended,
            appended: counts.appended,
            dropped: counts.dropped,
            acknowledged: counts.acknowledged,
            backlog_batches: status.backlog_batches,
            backlog_readings: status.backlog_readings,
            backlog_bytes: status.backlog_bytes,
            ..wire::Report::default()
        }
    }

    /// Takes in what came of a request, as `delivery` does.
    pub fn land(&mut self, flight: Flight, reply: Reply, took: Duration) -> Result<Landing, Broken> {
        let Flight { ticket, mut line, opening, greeted, .. } = flight;
        if !matches!(reply, Reply::Nothing(_)) {
            if matches!(reply, Reply::Answer(_)) {
                line.greeted = Some(opening.clone());
            }
            if ticket < self.greet_from {
                line.greeted = None;
            }
            self.lines.push(line);
        }
        if let Reply::Answer(answer) = &reply {
            self.branch = Some(answer.fork);
        }
        let mut missing = Vec::new();
        if let (Reply::Answer(answer), Some(acknowledged)) = (&reply, &greeted) {
            missing = lost(acknowledged, answer);
            if let Ok(id) = <[u8; 8]>::try_from(opening.as_ref()) {
                self.store().greeted(id);
            }
        }
        let asks_again = reply == Reply::Stranger && greeted.is_some();
        for action in self.state.step(ticket, reply, took) {
            match action {
                Action::Acknowledge(ranges) => self.store().acknowledge(&ranges),
                Action::GreetAnew => {
                    self.greet_from = self.greet_from.max(ticket);
                    self.lines.iter_mut().for_each(|line| line.greeted = None);
                }
                Action::Pause(_) | Action::Tell(_) => {}
            }
        }
        if asks_again {
            return Err(Broken::Other("the server asks who we are, and has just been told".into()));
        }
        Ok(self.revive(missing))
    }

    fn revive(&mut self, missing: Vec<RangeInclusive<u64>>) -> Landing {
        let Some(lowest) = missing.first().map(|range| *range.start()) else { return Landing::default() };
        let mut store = self.store();
        let acknowledged = store.acknowledged().clone();
        let gaps = store.gaps(0, usize::MAX).last().map_or(0, |gap| gap.number);
        let Revived { lost: told, .. } = store.revive(&missing);
        let waiting: Vec<u64> =
            store.oldest(Sequence(lowest), usize::MAX).iter().map(|stored| stored.sequence.0).collect();
        let asked = missing.into_iter().flatten().filter(|sequence| acknowledged.contains(*sequence));
        let given_up = asked.filter(|sequence| waiting.binary_search(sequence).is_err()).collect();
        let in_gaps = store.gaps(gaps, usize::MAX).into_iter();
        let in_gaps = in_gaps.filter(|gap| gap.reason() == Reason::ServerLost).map(|gap| gap.count).sum();
        drop(store);
        self.state.goes_back_to(lowest);
        Landing { given_up, in_gaps, told }
    }

    /// All connections are dead: what is under way is under way no more.
    pub fn hang_up(&mut self) -> Vec<Flight> {
        self.lines.clear();
        std::mem::take(&mut self.flights)
    }

    /// The number the server keeps this buffer apart under.
    pub fn fork(&self) -> u32 {
        self.state.fork()
    }
}
