//! The gateway, its clocks, and what truly happened: every reading with its true time.

use std::collections::BTreeMap;
use std::future::ready;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use forebay_agent::buffer::simulated::Simulated;
use forebay_agent::buffer::store::Store;
use forebay_agent::clock::machine::{Machine, Shown};
use forebay_agent::clock::{Clock, keeping};
use forebay_config::agent::WhenFull;
use forebay_protocols::boot_time::BootTime;
use forebay_protocols::reading::{PointId, Quality, Reading, Stamp, Value};
use forebay_protocols::sync::batch::{Boot, Encoder, Epoch, Head};
use forebay_protocols::sync::tls::EARLIEST_TIME;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::super::plant::{point, rules};
use super::super::shelf::Shelf;
use super::super::{Broken, Dice, Tally, words_of};

pub const SECOND: i64 = 1_000_000;
pub const HOUR: i64 = 3_600 * SECOND;
pub const DAY: i64 = 24 * HOUR;
pub const YEAR: i64 = 365 * DAY;
/// The slowest answer. What it says of the time is off by half of that at most.
const ROUND_TRIP: i64 = SECOND / 10;
/// No batch holds older readings than this.
const WINDOW: i64 = 30 * SECOND;
/// A clock that claims to be synchronised is believed up to here against the server's word.
pub const CLAIM: i64 = HOUR + SECOND;

/// Does a boot meet its server?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contact {
    Never,
    /// Now and then.
    Now,
    /// At its end at the latest.
    Sure,
}

/// A boot as it truly was.
pub struct Truth {
    pub id: [u8; 16],
    /// Wall time at its boot time 0.
    pub began_us: i64,
    /// How much faster than its crystal the world is.
    pub drift_ppm: i64,
    /// How long it was up.
    pub length_us: i64,
    /// Boot times at which somebody told it the time: its server, or NTP when looked at.
    pub told_at: Vec<i64>,
    /// The server was heard, and the store has it durably.
    pub noted: bool,
    /// How far off, within what is believed against a server, its clock was while it claimed to be
    /// synchronised.
    pub misled_us: i64,
    /// It claimed to be synchronised and was further off.
    pub deceived: bool,
}

/// A batch as it was taken.
pub struct Taken {
    /// Place of its boot.
    pub boot: usize,
    /// What it states.
    pub stated: Boot,
    /// Boot time and value.
    pub readings: Vec<(i64, i64)>,
    /// The server has it.
    pub delivered: bool,
}

/// What the kernel's clocks show.
#[derive(Default)]
struct Hands {
    boot_us: i64,
    offset_us: i64,
    claims: bool,
}

/// An agent that runs.
pub struct Life {
    pub shelf: Shelf,
    pub clock: Clock,
    pub epoch: Epoch,
    encoder: Encoder,
    /// Seconds; goes up only.
    floor: i64,
}

/// The gateway and its world.
pub struct Gateway {
    pub tally: Tally,
    pub boots: Vec<Truth>,
    /// Batches whose append was confirmed, by sequence.
    pub taken: BTreeMap<u64, Taken>,
    /// First and last time of each boot's readings as the server has them.
    pub delivered: BTreeMap<usize, (i64, i64)>,
    pub life: Option<Life>,
    pub waiting: Runtime,
    flash: Simulated,
    folder: tempfile::TempDir,
    hands: Arc<Mutex<Hands>>,
    /// NTP keeps the clock right just now.
    is_kept: bool,
    /// Wall time as it truly is at boot time 0 of the next boot.
    next_began_us: i64,
    /// What the system's clock last wrote down, and what it would show had it run on.
    saved_us: i64,
    running_us: i64,
    /// The floor of TLS at the last durable sign of life, seconds.
    durable_floor: i64,
    read_until: i64,
    values: i64,
}

impl Truth {
    /// Wall time at a boot time.
    pub fn at(&self, boot_us: i64) -> i64 {
        self.began_us + boot_us + boot_us * self.drift_ppm / 1_000_000
    }

    /// How far its crystal went wrong in all.
    pub fn drifted_us(&self) -> i64 {
        self.length_us * self.drift_ppm.abs() / 1_000_000
    }
}

impl Gateway {
    /// Nothing has happened yet.
    pub fn new(dice: &mut Dice) -> std::io::Result<Self> {
        Ok(Self {
            tally: Tally::default(),
            boots: Vec::new(),
            taken: BTreeMap::new(),
            delivered: BTreeMap::new(),
            life: None,
            waiting: tokio::runtime::Builder::new_current_thread().enable_time().build()?,
            flash: Simulated::default(),
            folder: tempfile::tempdir()?,
            hands: Arc::default(),
            is_kept: false,
            next_began_us: EARLIEST_TIME * SECOND + 30 * DAY + dice.below(2 * YEAR as u64) as i64,
            saved_us: EARLIEST_TIME * SECOND,
            running_us: 0,
            durable_floor: EARLIEST_TIME,
            read_until: 0,
            values: 0,
        })
    }

    /// The machine comes up.
    pub fn boot(&mut self, dice: &mut Dice) {
        let began_us = self.next_began_us;
        let mut id = [0; 16];
        id.iter_mut().for_each(|byte| *byte = dice.throw() as u8);
        let wall_us = match dice.below(7) {
            0 => 0,
            1 => EARLIEST_TIME * SECOND,
            2 => began_us - YEAR,
            3 => self.saved_us,
            4 => began_us + 10 * YEAR,
            5 => self.running_us,
            _ => began_us,
        };
        self.tally.faults += 1;
        // A battery clock counts whole seconds.
        let offset_us = wall_us - dice.below(SECOND as u64 / 2) as i64;
        *self.hands() = Hands { boot_us: 0, offset_us, claims: false };
        self.is_kept = false;
        let drift_ppm = dice.below(201) as i64 - 100;
        self.boots.push(Truth {
            id,
            began_us,
            drift_ppm,
            length_us: 0,
            told_at: Vec::new(),
            noted: false,
            misled_us: 0,
            deceived: false,
        });
        self.read_until = 0;
        self.pass(2 * SECOND + dice.below(60 * SECOND as u64) as i64, dice);
    }

    /// The agent starts.
    pub fn start(&mut self, dice: &mut Dice) {
        let hands = self.hands.clone();
        let machine = Machine::simulated(self.truth().id, move || {
            let hands = hands.lock().unwrap_or_else(PoisonError::into_inner);
            (BootTime(hands.boot_us), Shown { offset_us: hands.offset_us, claims: hands.claims })
        });
        let clock = Clock::open_on(machine.clone(), self.folder.path());
        let (disk, rules) = (Arc::new(self.flash.clone()), rules(8 << 20, WhenFull::DropOldest));
        let started = Instant::now();
        let opened = catch_unwind(AssertUnwindSafe(|| Store::open_on(disk, rules, machine)));
        self.tally.slowest_opening = self.tally.slowest_opening.max(started.elapsed());
        let (mut store, opening) = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => return self.tally.add(Broken::Unopened(error.to_string())),
            Err(cause) => {
                let words = format!("panicked: {}", words_of(cause.as_ref()));
                return self.tally.add(Broken::Unopened(words));
            }
        };
        clock.place(opening.boot_counter, &opening.boots);
        store.define(&[point("level")]);
        let shelf = Shelf::new(store);
        // An offset that moved by a tenth of a second is not written down anew. One that a clock
        // claims is, even where the server says otherwise. And a floor stood on what a crystal made of
        // an offset, until the server was heard again.
        let floor = self.durable_floor - 1 - (self.misled_us() + self.drifted_us()) / SECOND;
        self.life = Some(Life { shelf, clock, epoch: opening.epoch, encoder: Encoder::new(), floor });
        self.look(dice);
    }

    /// Nothing happens for a while.
    pub fn pass(&mut self, us: i64, dice: &mut Dice) {
        let us = us.max(1);
        self.hands().boot_us += us;
        let now = self.hands().boot_us;
        self.truth_mut().length_us = now;
        if self.is_kept {
            let right = self.truth().at(now) - now;
            self.hands().offset_us = right + dice.below(2_000) as i64 - 1_000;
        }
        self.hold_the_clock_to_its_word();
    }

    /// Somebody sets the clock.
    pub fn step(&mut self, by_us: i64, dice: &mut Dice) {
        self.tally.faults += 1;
        self.hands().offset_us += by_us;
        self.is_kept = false;
        self.pass(SECOND, dice);
    }

    /// NTP has set the clock, and says so for ever after.
    pub fn synchronise(&mut self, dice: &mut Dice) {
        self.tally.faults += 1;
        self.is_kept = true;
        self.pass(SECOND, dice);
        self.hands().claims = true;
        let now = self.now();
        self.truth_mut().told_at.push(now);
    }

    /// The lid is closed: boot time goes on.
    pub fn suspend(&mut self, us: i64, dice: &mut Dice) {
        self.tally.faults += 1;
        self.pass(us, dice);
    }

    /// The agent ends, in order or not, and starts again.
    pub fn restart(&mut self, in_order: bool, dice: &mut Dice) {
        self.tally.faults += 1;
        self.stop(in_order);
        self.pass(SECOND + dice.below(30 * SECOND as u64) as i64, dice);
        self.start(dice);
    }

    /// The machine goes down for a while: by a shutdown, or because the power is cut.
    pub fn end(&mut self, in_order: bool, off_us: i64, dice: &mut Dice) {
        self.tally.faults += 1;
        if in_order || dice.once_in(2) {
            self.saved_us = self.wall_us();
        }
        self.stop(in_order);
        if !in_order {
            self.flash = self.flash.wreck(&mut |sides| dice.below(sides));
        }
        self.next_began_us = self.truth().at(self.now()) + off_us;
        self.running_us = self.wall_us() + off_us;
    }

    /// A batch or two of what was read just now.
    pub fn read(&mut self, dice: &mut Dice) {
        for _ in 0..dice.within(1, 2) {
            self.pass(1 + dice.below(10 * SECOND as u64) as i64, dice);
            let (now, boot) = (self.now(), self.boots.len() - 1);
            let from = self.read_until.max(now - WINDOW);
            let Some(life) = &mut self.life else { return };
            let many = dice.within(1, 9).min((now - from) as u64) as i64;
            let mut readings: Vec<(i64, i64)> = Vec::new();
            for place in 1..=many {
                self.values += 1;
                readings.push((from + (now - from) * place / many, self.values));
            }
            let mut encoding: Vec<Reading> = readings
                .iter()
                .map(|(at, value)| Reading {
                    point: PointId(1),
                    stamp: Stamp::boot(BootTime(*at)),
                    value: Some(Value::Integer(*value)),
                    quality: Quality::Good,
                })
                .collect();
            let sequence = life.shelf.store().next_sequence();
            let head = Head { epoch: life.epoch, sequence, boot: life.clock.boot() };
            let batch = life.encoder.encode(&head, &mut encoding);
            let appended = life.shelf.store().append(&[batch]);
            match appended {
                Ok(()) => {
                    self.tally.produced += many as u64;
                    self.taken
                        .insert(sequence.0, Taken { boot, stated: head.boot, readings, delivered: false });
                    self.read_until = now;
                    self.shows_life();
                }
                Err(error) => self.tally.add(Broken::Other(format!("cannot append: {error}"))),
            }
        }
    }

    /// The server answers.
    pub fn hear(&mut self, dice: &mut Dice) {
        let asked = self.now();
        let (there, back) = (dice.below(ROUND_TRIP as u64 / 2), dice.below(ROUND_TRIP as u64 / 2));
        self.pass(1 + there as i64, dice);
        let server_us = self.truth().at(self.now());
        self.pass(1 + back as i64, dice);
        let now = self.now();
        self.truth_mut().told_at.push(now);
        let Some(life) = &self.life else { return };
        life.clock.learn(server_us, BootTime(asked), BootTime(now));
        if let Err(error) = life.clock.remember() {
            self.tally.add(Broken::Other(format!("cannot remember the time: {error}")));
        }
        self.carry();
    }

    /// What the agent does every few seconds: the buffer hears what was learnt, and ticks.
    pub fn look(&mut self, dice: &mut Dice) {
        if self.is_kept {
            let now = self.now();
            self.truth_mut().told_at.push(now);
        }
        self.carry();
        self.judge_tls();
        if dice.below(4) > 0
            && let Some(life) = &self.life
        {
            life.shelf.store().tick();
        }
    }

    /// Boot time.
    pub fn now(&self) -> i64 {
        self.hands().boot_us
    }

    /// The present boot.
    pub fn truth(&self) -> &Truth {
        &self.boots[self.boots.len() - 1]
    }

    /// How far boot clocks can have gone wrong since somebody told any of them the time.
    pub fn drifted_us(&self) -> i64 {
        self.boots.iter().map(Truth::drifted_us).sum()
    }

    /// How far off clocks were that were believed though they were wrong.
    pub fn misled_us(&self) -> i64 {
        self.boots.iter().map(|boot| boot.misled_us).sum()
    }

    fn carry(&mut self) {
        let Some(life) = &self.life else { return };
        let tell = |offset| {
            life.shelf.store().learn_offset(offset);
            ready(())
        };
        let once = CancellationToken::new();
        once.cancel();
        self.waiting.block_on(keeping::keep(life.clock.clone(), keeping::LOOK_EVERY, tell, once));
        let heard = life.clock.confirmed_us().is_some();
        self.truth_mut().noted |= heard;
    }

    fn stop(&mut self, in_order: bool) {
        if in_order {
            self.carry();
            self.judge_tls();
            self.shows_life();
        }
        let Some(Life { shelf, .. }) = self.life.take() else { return };
        let store = shelf.into_store();
        if in_order { store.close() } else { drop(store) }
    }

    /// It is durable that the agent was alive by now.
    fn shows_life(&mut self) {
        let floor = self.life.as_ref().map_or(0, |life| life.clock.tls_floor());
        self.durable_floor = self.durable_floor.max(floor);
    }

    /// The time that certificates are judged by.
    fn judge_tls(&mut self) {
        let right = self.truth().at(self.now()) / SECOND;
        let slack = (self.drifted_us() + self.misled_us()) / SECOND + 3;
        let Some(life) = &mut self.life else { return };
        let (floor, shown) = (life.clock.tls_floor(), life.clock.time_for_tls());
        let before = std::mem::replace(&mut life.floor, floor);
        let heard = life.clock.confirmed_us().is_some();
        if floor < before {
            self.tally.add(Broken::Other(format!("the floor of TLS fell by {} s", before - floor)));
        }
        if shown < floor || floor < EARLIEST_TIME {
            self.tally.add(Broken::Other(format!("TLS goes by {shown}, its floor is {floor}")));
        }
        if heard && (shown - right).abs() > slack {
            let words = format!("TLS is {} s off though the server was heard", shown - right);
            self.tally.add(Broken::Other(words));
        }
    }

    fn hold_the_clock_to_its_word(&mut self) {
        let (now, offset_us, claims) = {
            let hands = self.hands();
            (hands.boot_us, hands.offset_us, hands.claims)
        };
        let truth = self.truth_mut();
        let off = (now + offset_us - truth.at(now)).abs();
        if claims && off > CLAIM {
            truth.deceived = true;
        } else if claims && off > SECOND / 100 {
            truth.misled_us = truth.misled_us.max(off);
        }
    }

    fn wall_us(&self) -> i64 {
        let hands = self.hands();
        hands.boot_us + hands.offset_us
    }

    fn truth_mut(&mut self) -> &mut Truth {
        let present = self.boots.len() - 1;
        &mut self.boots[present]
    }

    fn hands(&self) -> MutexGuard<'_, Hands> {
        self.hands.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The time that certificates are judged by, seconds.
trait TimeForTls {
    fn time_for_tls(&self) -> i64;
}

impl TimeForTls for Clock {
    fn time_for_tls(&self) -> i64 {
        let now = rustls::time_provider::TimeProvider::current_time(self);
        now.map_or(i64::MIN, |now| now.as_secs() as i64)
    }
}
