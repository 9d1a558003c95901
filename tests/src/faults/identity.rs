//! Identity: buffers are copied, put back from older snapshots, wiped; the server's database is put back
//! to an older copy; answers are lost and requests repeated. Real stores on the simulated disk, the
//! uplink's own decisions, real servers on SQLite; only sockets and time are played.
//!
//! What must be true, after each answer and when everything is delivered:
//! - A reading whose append was confirmed, in the history of any gateway that still runs, is kept by
//!   the server: once, however many copies hold it, or never where the server lost it and no tail had
//!   it any more; then a gap record has the exact count (batches are of one size in a scenario).
//! - Two batches under one number raise a fork with the delivery that brings the second; a restored
//!   server is a fault with the first report that knows more; a buffer wiped with a reported backlog is
//!   a fault with the first delivery of the next one, and a gap of the count last heard. None of these
//!   without its cause: a snapshot put back that holds the last state is no fork.
//! - What each copy appended by itself stands under a fork of its own, each reading under the name of
//!   its point, and the equations of the ledger close but for what a gap explains.
//!
//! What is *not* asked for, because the act itself takes it: readings that only a wiped folder, or the
//! newer state of one that was put back, held undelivered. Nor that a copy in a later boot stands apart
//! from what its original delivered before the server heard of the copy: under numbers that the copy
//! leaves out, it might be what a power cut took from the disk.

mod gateway;
mod house;
mod judge;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use forebay_agent::buffer::simulated::Simulated;
use forebay_agent::buffer::store::Rules;
use forebay_agent::uplink::state::Reply;
use forebay_config::agent::WhenFull;
use forebay_protocols::boot_time::BootTime;
use forebay_protocols::reading::{DataType, Point, PointId, PointKind, Quality, Reading, Stamp, Value};
use forebay_protocols::sync::batch::{Boot, Encoder, Epoch, Head};
use forebay_protocols::sync::wire;
use forebay_protocols::sync::wire::gap::Reason;

use self::gateway::{Flight, Folder, Gateway};
use self::house::{Copy, House};
use super::{Broken, Dice, Order, Tally};

/// Gateways that run with one identity at a time.
const MOST_GATEWAYS: usize = 3;
/// Snapshots and backups that lie around.
const MOST_COPIES: usize = 4;
/// Far more than any scenario needs: nothing gives way for lack of room.
const LIMIT: u64 = 1 << 20;
/// Disturbing moves, as bits of what a scenario has.
const LOSE_ANSWER: u64 = 0;
const REPEAT: u64 = 1;
const COPY: u64 = 2;
const RESTORE: u64 = 3;
const WIPE: u64 = 4;
const PUT_BACK: u64 = 5;

pub fn run(order: &Order) -> Tally {
    order.each(|dice| {
        let mut world_tally = Tally::default();
        let played = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .context("start a runtime")
            .and_then(|runtime| runtime.block_on(scenario(dice)));
        match played {
            Ok(tally) => world_tally.take_in(tally),
            Err(error) => {
                world_tally.faults = 1;
                world_tally.add(Broken::Other(format!("{error:#}")));
            }
        }
        world_tally
    })
}

async fn scenario(dice: &mut Dice) -> Result<Tally> {
    let mut world = World::build(dice).await?;
    for _ in 0..dice.within(30, 120) {
        world.step(dice).await?;
        if world.tally.failures() > 0 {
            return Ok(world.tally);
        }
    }
    world.drain(dice).await?;
    if world.tally.failures() == 0 {
        world.judge().await?;
    }
    Ok(world.tally)
}

/// A batch that was confirmed.
struct Batch {
    epoch: Epoch,
    sequence: u64,
    values: Vec<i64>,
    point: Arc<Point>,
}

/// Everything there is, and what is true of it.
struct World {
    house: House,
    gateways: Vec<Gateway>,
    snapshots: Vec<Folder>,
    backups: Vec<Copy>,
    /// Requests that may still arrive though nobody waits for the answer.
    strays: Vec<(usize, Bytes)>,
    batches: Vec<Batch>,
    by_bytes: HashMap<Bytes, usize>,
    /// Batches that the server lost and that some gateway could not give again: a gap says so.
    excused: HashSet<usize>,
    /// Of each epoch the stamp of its last state, wherever that is.
    latest: HashMap<Epoch, u64>,
    /// Epochs of which two histories go on from one state.
    diverged: HashSet<Epoch>,
    put_back: u64,
    /// Which disturbing moves this scenario has.
    moves: u64,
    /// Readings of every batch.
    size: u64,
    rules: Rules,
    encoder: Encoder,
    stamp: u64,
    boot: u64,
    named: u64,
    tally: Tally,
}

impl World {
    async fn build(dice: &mut Dice) -> Result<Self> {
        let tail = [0, 32 << 10, LIMIT / 8][dice.below(3) as usize];
        let rules =
            Rules { limit: LIMIT, reserve: 0, when_full: WhenFull::DropOldest, tail, classes: Vec::new() };
        let mut world = Self {
            house: House::build(dice.within(1, 2)).await?,
            gateways: Vec::new(),
            snapshots: Vec::new(),
            backups: Vec::new(),
            strays: Vec::new(),
            batches: Vec::new(),
            by_bytes: HashMap::new(),
            excused: HashSet::new(),
            latest: HashMap::new(),
            diverged: HashSet::new(),
            put_back: 0,
            moves: dice.throw(),
            size: if dice.once_in(2) { dice.within(1, 8) } else { dice.within(100, 400) },
            rules,
            encoder: Encoder::new(),
            stamp: 0,
            boot: 0,
            named: 0,
            tally: Tally::default(),
        };
        world.begin(dice);
        Ok(world)
    }

    /// Does this scenario have this move?
    fn has(&self, which: u64) -> bool {
        self.moves >> which & 1 == 1
    }

    async fn step(&mut self, dice: &mut Dice) -> Result<()> {
        if self.gateways.is_empty() {
            self.begin(dice);
            return Ok(());
        }
        let at = dice.below(self.gateways.len() as u64) as usize;
        match dice.below(44) {
            0..12 => self.append(at, dice),
            12..18 => self.deliver(at, dice).await?,
            18..22 => drop(self.depart(at, false, dice).await),
            22..25 => self.arrive_any(at, dice).await?,
            25 => self.lose_request(at, dice)?,
            26 | 27 if self.has(LOSE_ANSWER) => self.lose_answer(at, dice).await?,
            28 | 29 if self.has(REPEAT) => self.repeat(at, dice).await?,
            30 => self.stray(dice).await?,
            31 => self.gateways[at].store().tick(),
            32 | 33 => self.restart(at, dice),
            34 if self.has(COPY) => self.copy(at, dice),
            35 if self.has(RESTORE) || self.has(COPY) => self.snapshot(at, dice),
            36 | 37 if self.has(RESTORE) => self.restore(at, dice),
            38 if self.has(WIPE) => self.wipe(at, dice),
            39 if self.has(PUT_BACK) => self.back_up()?,
            40 if self.has(PUT_BACK) => self.put_back(dice).await?,
            41 => self.restart_servers().await?,
            42 => {
                self.name_a_point(at);
                self.append(at, dice);
            }
            43 => {
                self.record_gap(at);
                self.append(at, dice);
            }
            _ => {}
        }
        Ok(())
    }

    /// A gateway with an empty folder.
    fn begin(&mut self, dice: &mut Dice) {
        self.boot += 1;
        let folder = Folder {
            disk: Simulated::default(),
            epoch: Epoch([0; 16]),
            history: Default::default(),
            line: Vec::new(),
            stamp: 0,
            boot: self.boot,
        };
        self.start(folder, dice);
    }

    /// A gateway on what lies in the folder.
    fn start(&mut self, folder: Folder, dice: &mut Dice) {
        let before = self.latest.get(&folder.epoch);
        if before.is_some_and(|latest| *latest != folder.stamp) {
            self.diverged.insert(folder.epoch);
        }
        match Gateway::start(folder, &self.rules, dice) {
            Ok(mut gateway) => {
                self.stamp(&mut gateway.folder);
                self.gateways.push(gateway);
            }
            Err(broken) => self.tally.add(broken),
        }
    }

    fn stamp(&mut self, folder: &mut Folder) {
        self.stamp += 1;
        folder.stamp = self.stamp;
        self.latest.insert(folder.epoch, self.stamp);
    }

    /// What happened in a folder that others may have been copied from.
    fn goes_on(&mut self, at: usize) {
        self.stamp += 1;
        let folder = &mut self.gateways[at].folder;
        folder.stamp = self.stamp;
        self.latest.insert(folder.epoch, self.stamp);
    }

    fn append(&mut self, at: usize, dice: &mut Dice) {
        if self.gateways[at].points.is_empty() {
            self.name_a_point(at);
        }
        for _ in 0..dice.within(1, 4) {
            let gateway = &mut self.gateways[at];
            let Some((number, point)) = dice.pick(&gateway.points).cloned() else { return };
            let (epoch, made) = (gateway.folder.epoch, self.batches.len() as u64);
            let values: Vec<i64> =
                (0..self.size).map(|n| Dice::new(made * self.size + n).throw() as i64).collect();
            let mut readings: Vec<Reading> = values
                .iter()
                .zip(0..)
                .map(|(value, n)| Reading {
                    point: number,
                    stamp: Stamp::boot(BootTime((made * 1_000 + n) as i64 * 1_000)),
                    value: Some(Value::Integer(*value)),
                    quality: Quality::Good,
                })
                .collect();
            let boot = Boot {
                counter: gateway.opening.boot_counter,
                id: [0; 8],
                wall_offset_us: 1_795_219_200_000_000,
                synchronised: true,
            };
            let mut store = gateway.shelf.store();
            let sequence = store.next_sequence();
            let batch = self.encoder.encode(&Head { epoch, sequence, boot }, &mut readings);
            if let Err(error) = store.append(std::slice::from_ref(&batch)) {
                return self.tally.add(Broken::Other(format!("not appended: {error}")));
            }
            drop(store);
            gateway.folder.history.insert(sequence.0, self.batches.len());
            self.by_bytes.insert(batch.bytes, self.batches.len());
            self.batches.push(Batch { epoch, sequence: sequence.0, values, point });
            self.tally.produced += self.size;
            self.goes_on(at);
        }
    }

    fn name_a_point(&mut self, at: usize) {
        self.named += 1;
        let point = Arc::new(Point {
            device: "boiler".into(),
            name: format!("point {}", self.named).as_str().into(),
            unit: "l".into(),
            kind: PointKind::Gauge,
            data_type: DataType::Integer,
        });
        let gateway = &mut self.gateways[at];
        let numbers: Vec<PointId> = gateway.store().define(std::slice::from_ref(&point));
        gateway.points.extend(numbers.into_iter().map(|number| (number, point.clone())));
        self.goes_on(at);
    }

    fn record_gap(&mut self, at: usize) {
        self.named += 1;
        let gap = wire::Gap {
            reason: Reason::DeviceSilent.into(),
            device: format!("pump {}", self.named),
            from_us: 1_795_219_200_000_000,
            to_us: 1_795_219_300_000_000,
            ..wire::Gap::default()
        };
        self.gateways[at].store().record_gap(gap);
        self.goes_on(at);
    }

    async fn depart(&mut self, at: usize, heartbeat: bool, dice: &mut Dice) -> bool {
        let servers = self.house.servers();
        self.gateways[at].depart(heartbeat, servers, dice).await
    }

    /// Lets requests depart and be answered, one after the other.
    async fn deliver(&mut self, at: usize, dice: &mut Dice) -> Result<()> {
        for _ in 0..dice.within(1, 4) {
            let heartbeat = dice.once_in(4);
            self.depart(at, heartbeat, dice).await;
            self.arrive_any(at, dice).await?;
        }
        Ok(())
    }

    /// One of the requests under way, taken off the road.
    fn take_flight(&mut self, at: usize, dice: &mut Dice) -> Option<Flight> {
        let flights = &mut self.gateways[at].flights;
        (!flights.is_empty()).then(|| flights.swap_remove(dice.below(flights.len() as u64) as usize))
    }

    async fn arrive_any(&mut self, at: usize, dice: &mut Dice) -> Result<()> {
        let Some(flight) = self.take_flight(at, dice) else { return Ok(()) };
        let reply = self.arrive(flight.server, &flight.body).await?;
        self.land(at, flight, reply, dice);
        Ok(())
    }

    fn land(&mut self, at: usize, flight: Flight, reply: Reply, dice: &mut Dice) {
        let took = Duration::from_millis(dice.within(1, 3_000));
        let landing = match self.gateways[at].land(flight, reply, took) {
            Ok(landing) => landing,
            Err(broken) => return self.tally.add(broken),
        };
        let history = &self.gateways[at].folder.history;
        let gone = landing.given_up.len() as u64;
        self.excused.extend(landing.given_up.iter().filter_map(|sequence| history.get(sequence)));
        if landing.told != gone || landing.in_gaps != gone * self.size {
            let words = format!("{} of {} in gaps; {} told", landing.in_gaps, gone * self.size, landing.told);
            self.tally.add(Broken::Unaccounted(landing.in_gaps.abs_diff(gone * self.size), words));
        }
        if gone > 0 {
            self.goes_on(at);
        }
    }

    /// The server never hears of it, or not yet.
    fn lose_request(&mut self, at: usize, dice: &mut Dice) -> Result<()> {
        let Some(flight) = self.take_flight(at, dice) else { return Ok(()) };
        if dice.once_in(2) {
            self.strays.push((flight.server, flight.body.clone()));
        }
        self.land(at, flight, Reply::Nothing("the road was cut".into()), dice);
        Ok(())
    }

    /// The server did it, and the gateway never hears of it.
    async fn lose_answer(&mut self, at: usize, dice: &mut Dice) -> Result<()> {
        self.depart(at, false, dice).await;
        let Some(flight) = self.take_flight(at, dice) else { return Ok(()) };
        self.tally.faults += 1;
        self.arrive(flight.server, &flight.body).await?;
        self.land(at, flight, Reply::Nothing("the answer was lost".into()), dice);
        Ok(())
    }

    /// It arrives twice, perhaps at two servers.
    async fn repeat(&mut self, at: usize, dice: &mut Dice) -> Result<()> {
        self.depart(at, false, dice).await;
        let Some(flight) = self.take_flight(at, dice) else { return Ok(()) };
        self.tally.faults += 1;
        let first = self.arrive(flight.server, &flight.body).await?;
        let again = dice.below(self.house.servers() as u64) as usize;
        let second = self.arrive(again, &flight.body).await?;
        let reply = if dice.once_in(2) { first } else { second };
        self.land(at, flight, reply, dice);
        Ok(())
    }

    /// A request arrives whose sender no longer waits.
    async fn stray(&mut self, dice: &mut Dice) -> Result<()> {
        if self.strays.is_empty() {
            return Ok(());
        }
        let (server, body) = self.strays.swap_remove(dice.below(self.strays.len() as u64) as usize);
        self.arrive(server, &body).await.map(drop)
    }

    /// The gateway stops in order, or its power goes off. What it had sent may still arrive.
    fn end(&mut self, at: usize, dice: &mut Dice) -> Folder {
        let gateway = self.gateways.swap_remove(at);
        let (folder, flights) = if dice.once_in(2) {
            self.boot += 1;
            let (folder, flights) = gateway.cut(dice);
            (Folder { boot: self.boot, ..folder }, flights)
        } else {
            gateway.stop()
        };
        for flight in flights {
            if dice.once_in(2) {
                self.strays.push((flight.server, flight.body));
            }
        }
        folder
    }

    fn restart(&mut self, at: usize, dice: &mut Dice) {
        let folder = self.end(at, dice);
        self.start(folder, dice);
    }

    /// A second gateway begins with a copy of the folder, or of one that lies around.
    fn copy(&mut self, at: usize, dice: &mut Dice) {
        if self.gateways.len() >= MOST_GATEWAYS {
            return;
        }
        self.tally.faults += 1;
        let old = dice.pick(&self.snapshots).cloned().filter(|_| dice.once_in(3));
        let folder = old.unwrap_or_else(|| self.gateways[at].folder.clone()).image(dice);
        let folder = self.in_some_boot(folder, dice);
        // Its original goes on, if only by being there.
        self.diverged.insert(folder.epoch);
        self.start(folder, dice);
    }

    /// On the machine it comes from before that starts again, or not.
    fn in_some_boot(&mut self, folder: Folder, dice: &mut Dice) -> Folder {
        if dice.once_in(2) {
            return folder;
        }
        self.boot += 1;
        Folder { boot: self.boot, ..folder }
    }

    fn snapshot(&mut self, at: usize, dice: &mut Dice) {
        let image = if dice.once_in(2) {
            self.gateways[at].folder.image(dice)
        } else {
            let folder = self.end(at, dice);
            let image = folder.image(dice);
            self.start(folder, dice);
            image
        };
        if self.snapshots.len() == MOST_COPIES {
            self.snapshots.swap_remove(dice.below(MOST_COPIES as u64) as usize);
        }
        self.snapshots.push(image);
    }

    /// An older state of the folder is put back.
    fn restore(&mut self, at: usize, dice: &mut Dice) {
        let Some(older) = dice.pick(&self.snapshots).cloned() else { return };
        self.tally.faults += 1;
        drop(self.end(at, dice));
        // A snapshot can be put back again and again.
        let older = older.image(dice);
        let older = self.in_some_boot(older, dice);
        if self.gateways.iter().any(|other| other.folder.epoch == older.epoch) {
            self.diverged.insert(older.epoch);
        }
        self.start(older, dice);
    }

    fn wipe(&mut self, at: usize, dice: &mut Dice) {
        self.tally.faults += 1;
        drop(self.end(at, dice));
        self.begin(dice);
    }

    fn back_up(&mut self) -> Result<()> {
        let copy = self.house.back_up()?;
        if self.backups.len() == MOST_COPIES {
            self.backups.remove(0);
        }
        self.backups.push(copy);
        Ok(())
    }

    async fn put_back(&mut self, dice: &mut Dice) -> Result<()> {
        let Some(copy) = dice.pick(&self.backups).cloned() else { return Ok(()) };
        self.tally.faults += 1;
        self.put_back += 1;
        self.house.put_back(&copy).await?;
        self.cut_all_lines(dice);
        Ok(())
    }

    async fn restart_servers(&mut self) -> Result<()> {
        self.house.restart().await?;
        self.cut_all_lines(&mut Dice::new(self.stamp));
        Ok(())
    }

    /// With the servers went their connections, and what had come by them.
    fn cut_all_lines(&mut self, dice: &mut Dice) {
        self.strays.clear();
        for at in 0..self.gateways.len() {
            for flight in self.gateways[at].hang_up() {
                self.land(at, flight, Reply::Nothing("the server is gone".into()), dice);
            }
            self.gateways[at].hang_up();
        }
    }

    /// Everything is delivered, by all who are left.
    async fn drain(&mut self, dice: &mut Dice) -> Result<()> {
        self.strays.clear();
        for _ in 0..20 {
            let before = (self.house.said.stored.len(), self.house.said.aside.len());
            for at in 0..self.gateways.len() {
                self.drain_one(at, dice).await?;
                if self.tally.failures() > 0 {
                    return Ok(());
                }
            }
            let after = (self.house.said.stored.len(), self.house.said.aside.len());
            let waits = |gateway: &Gateway| gateway.store().status().backlog_batches > 0;
            if before == after && !self.gateways.iter().any(waits) {
                return Ok(());
            }
        }
        self.tally.add(Broken::Other("what was appended does not arrive".into()));
        Ok(())
    }

    async fn drain_one(&mut self, at: usize, dice: &mut Dice) -> Result<()> {
        for flight in self.gateways[at].hang_up() {
            self.land(at, flight, Reply::Nothing("the last reconnection".into()), dice);
        }
        self.gateways[at].hang_up();
        // The first heartbeat may bring word of a server that was put back and lacks gap records only.
        self.depart(at, true, dice).await;
        self.arrive_any(at, dice).await?;
        for _ in 0..2_000 {
            let departed = self.depart(at, false, dice).await;
            if !departed && self.gateways[at].flights.is_empty() {
                break;
            }
            self.arrive_any(at, dice).await?;
            if self.tally.failures() > 0 {
                return Ok(());
            }
        }
        self.depart(at, true, dice).await;
        self.arrive_any(at, dice).await
    }
}
