//! A store at work, and all that may be done to it. What it is asked and what it confirms goes to
//! the [`Witness`].

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_agent::buffer::disk::Disk;
use forebay_agent::buffer::store::{Rules, Store};
use forebay_agent::buffer::{BufferError, Opening};
use forebay_config::agent::WhenFull;
use forebay_config::classes::{Class, Pattern};
use forebay_config::units::Name;
use forebay_protocols::boot_time::BootTime;
use forebay_protocols::reading::{DataType, Point, PointId, PointKind, Quality, Reading, Stamp, Value};
use forebay_protocols::sync::batch::{Boot, Encoded, Encoder, Epoch, Head, Sequence};
use forebay_protocols::sync::wire;
use forebay_protocols::sync::wire::gap::Reason;

use super::witness::{NOW, What, Witness};
use super::{Broken, Dice, words_of};

/// The store's rules; here alone, so that a new rule is entered once.
pub fn rules(limit: u64, when_full: WhenFull) -> Rules {
    Rules { limit, reserve: 0, when_full, tail: limit / 8, classes: Vec::new() }
}

/// Rules with classes: each of [`measured`] has one of its own, and all others have that of the store.
pub fn classed(limit: u64, dice: &mut Dice) -> Rules {
    let mut any = || [WhenFull::DropOldest, WhenFull::Stop, WhenFull::Thin][dice.below(3) as usize];
    let mut rules = rules(limit, any());
    for point in measured() {
        // Both are fit: they are the names of points.
        let (Ok(name), Ok(pattern)) = (Name::new(&point.name), Pattern::new(&format!("*/{}", point.name)))
        else {
            continue;
        };
        rules.classes.push(Class { name, when_full: any(), points: vec![pattern] });
    }
    rules
}

/// May a store of these rules say that it is full?
pub fn may_stop(rules: &Rules) -> bool {
    rules.when_full == WhenFull::Stop || rules.classes.iter().any(|class| class.when_full == WhenFull::Stop)
}

/// Opens a store in a boot. One that refuses or panics is a promise broken.
pub fn open(disk: Arc<dyn Disk>, rules: &Rules, boot: u64) -> Result<(Store, Opening, Duration), Broken> {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&boot.to_le_bytes());
    let started = Instant::now();
    match catch_unwind(AssertUnwindSafe(|| Store::open(disk, rules.clone(), id))) {
        Ok(Ok((store, opening))) => Ok((store, opening, started.elapsed())),
        Ok(Err(error)) => Err(Broken::Unopened(error.to_string())),
        Err(cause) => Err(Broken::Unopened(format!("panicked: {}", words_of(cause.as_ref())))),
    }
}

/// A point of this name.
pub fn point(name: &str) -> Arc<Point> {
    Arc::new(Point {
        device: "boiler".into(),
        name: name.into(),
        unit: "°C".into(),
        kind: PointKind::Gauge,
        data_type: DataType::Float,
    })
}

/// The points of all batches.
pub fn measured() -> [Arc<Point>; 4] {
    ["flow", "return", "level", "pressure"].map(point)
}

/// Makes batches as a batcher would.
#[derive(Default)]
pub struct Maker {
    encoder: Option<Encoder>,
    made: u64,
}

impl Maker {
    /// A real batch of `readings` readings of the points 1 to 4, which are [`measured`].
    pub fn batch(&mut self, epoch: Epoch, sequence: u64, readings: u64, dice: &mut Dice) -> Encoded {
        self.made += 1;
        let mut batch: Vec<Reading> = (0..readings)
            .map(|n| Reading {
                point: PointId(1 + (n % 4) as u32),
                stamp: Stamp::boot(BootTime((self.made * 1000 + n) as i64 * 10_000)),
                value: Some(Value::Float(f64::from(dice.throw() as u16) / 16.0)),
                quality: Quality::Good,
            })
            .collect();
        let boot = Boot { counter: 1, id: [0; 8], wall_offset_us: 1_795_219_200_000_000, synchronised: true };
        let head = Head { epoch, sequence: Sequence(sequence), boot };
        self.encoder.get_or_insert_with(Encoder::new).encode(&head, &mut batch)
    }
}

/// A store at work.
pub struct Plant {
    /// The store. `None` between two openings.
    pub store: Option<Store>,
    /// What it confirmed.
    pub witness: Witness,
    /// Readings whose append was confirmed.
    pub produced: u64,
    epoch: Epoch,
    maker: Maker,
    named: u64,
    /// Batches whose append failed; the batcher tries the same ones again.
    again: Vec<Encoded>,
}

impl Plant {
    /// Nothing is open yet. What is opened will have these rules.
    pub fn new(rules: &Rules) -> Self {
        let stops = |number: &PointId| {
            let class = rules.classes.get(number.0 as usize - 1);
            class.is_none_or(|class| class.when_full == WhenFull::Stop)
        };
        let stopping = (!rules.classes.is_empty()).then(|| (1..=4).map(PointId).filter(stops).collect());
        Self {
            store: None,
            witness: Witness::new(stopping),
            produced: 0,
            epoch: Epoch([0; 16]),
            maker: Maker::default(),
            named: 0,
            again: Vec::new(),
        }
    }

    /// Works with a store that was just opened.
    pub fn take_over(&mut self, mut store: Store, opening: &Opening) {
        self.epoch = opening.epoch;
        store.define(&measured());
        self.store = Some(store);
        self.again.clear();
    }

    /// Does one thing or another. `changes` is the disk's count.
    pub fn act(&mut self, dice: &mut Dice, changes: impl Fn() -> u64) -> Result<(), BufferError> {
        match dice.below(20) {
            0..9 => return self.append(dice, changes).map(drop),
            9..13 => self.acknowledge(dice, changes()),
            13 | 14 => self.define(changes()),
            15 => self.record_gap(changes()),
            16..19 => self.tick(changes),
            _ => self.store.iter_mut().for_each(Store::rest),
        }
        Ok(())
    }

    /// Appends one to three batches, or those that could not be appended last time. Says how many
    /// batches were dropped for it.
    pub fn append(&mut self, dice: &mut Dice, changes: impl Fn() -> u64) -> Result<usize, BufferError> {
        let Some(store) = &mut self.store else { return Ok(0) };
        if self.again.is_empty() {
            // Numbers left out take a short life past the reservations of a long one.
            let left_out = if dice.once_in(16) { dice.below(400) } else { 0 };
            let next = store.next_sequence().0 + left_out;
            for sequence in next..=next + dice.below(3) {
                let largest = if dice.once_in(4) { 1500 } else { 200 };
                let readings = dice.within(1, largest);
                self.again.push(self.maker.batch(self.epoch, sequence, readings, dice));
            }
        }
        let batches = self.again.clone();
        let (asked, dropped) = (changes(), store.status().counts.dropped);
        let result = store.append(&batches);
        let dropped = store.status().counts.dropped - dropped;
        let gave_way = self.gave_way(dropped);
        let many = gave_way.len();
        self.witness.note(asked, changes(), What::Drop(gave_way));
        match result {
            Ok(()) => {
                self.produced += batches.iter().map(|batch| u64::from(batch.count)).sum::<u64>();
                self.again.clear();
                self.witness.note(asked, changes(), What::Append(batches));
                self.witness.note(asked, changes(), What::Told);
                Ok(many)
            }
            Err(error) => {
                self.witness.note(asked, NOW, What::Append(batches));
                Err(error)
            }
        }
    }

    /// Appends a batch as large as they come, of bytes that need not be readings.
    pub fn append_large(&mut self, dice: &mut Dice) -> Result<(), BufferError> {
        let Some(store) = &mut self.store else { return Ok(()) };
        let bytes: Vec<u8> = (0..32 << 10).flat_map(|_| dice.throw().to_le_bytes()).collect();
        store.append(&[Encoded {
            sequence: store.next_sequence(),
            count: 1000,
            dictionary_revision: PointId(4),
            span_us: (1, 2),
            bytes: bytes.into(),
        }])
    }

    /// The oldest batches with so many readings. If they do not come to that, others gave way: the
    /// witness will miss them.
    fn gave_way(&self, dropped: u64) -> Vec<u64> {
        if self.witness.stopping.is_some() {
            return Vec::new(); // Not batches: readings.
        }
        let mut sum = 0;
        let oldest = self.witness.alive.iter().take_while(|(_, batch)| {
            sum += u64::from(batch.count);
            sum <= dropped
        });
        oldest.map(|(sequence, _)| *sequence).collect()
    }

    fn acknowledge(&mut self, dice: &mut Dice, changes: u64) {
        let Some(store) = &mut self.store else { return };
        let alive: Vec<u64> = self.witness.alive.keys().copied().collect();
        let last = alive.last().copied().unwrap_or(0);
        let range = match dice.below(5) {
            0 => 0..=last,
            1 | 2 => 0..=dice.pick(&alive).copied().unwrap_or(0),
            _ => {
                let from = dice.pick(&alive).copied().unwrap_or(1);
                from..=from + dice.below(6)
            }
        };
        store.acknowledge(std::slice::from_ref(&range));
        let known = alive.into_iter().filter(|sequence| range.contains(sequence)).collect();
        self.witness.note(changes, changes, What::Acknowledge(known));
    }

    fn define(&mut self, changes: u64) {
        let Some(store) = &mut self.store else { return };
        self.named += 1;
        let point = point(&format!("valve {}", self.named));
        for number in store.define(std::slice::from_ref(&point)) {
            self.witness.note(changes, changes, What::Define(number, point.clone()));
        }
    }

    fn record_gap(&mut self, changes: u64) {
        let Some(store) = &mut self.store else { return };
        self.named += 1;
        let device = format!("pump {}", self.named);
        let reason = Reason::DeviceSilent as i32;
        store.record_gap(wire::Gap {
            reason,
            device: device.clone(),
            from_us: 1,
            to_us: 2,
            ..wire::Gap::default()
        });
        self.witness.note(changes, changes, What::Gap(device));
    }

    /// What a second of nothing does.
    pub fn tick(&mut self, changes: impl Fn() -> u64) {
        let Some(store) = &mut self.store else { return };
        let asked = changes();
        store.tick();
        if store.fault().is_none() {
            self.witness.note(asked, changes(), What::Durable);
        }
    }
}
