//! Random lives of buffers: appended to, sent with and without an answer, restarted, copied, restored,
//! their machines' memory cloned while they run. Whatever comes of it, each batch is there once, in a
//! history or set aside, and no false word is said of the server. FOREBAY_SEED repeats a run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use forebay_protocols::sync::wire::{self, sync_answer::Verdict};
use forebay_server::store::{AgentKey, Arrived, Delivery, FaultKind, Query, Receipt, Store};

use crate::place::{NOW, Place, SECOND, agent, batch, delivery_of, float};

/// Gateways that live side by side, in one transaction a step.
const GATEWAYS: usize = 64;
const STEPS: usize = 90;
/// Buffers that say they are one gateway's.
const MOST_BUFFERS: usize = 4;

struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((word ^ (word >> 31)) % most as u64) as usize
    }
}

/// What lies on the disk, and the connection.
#[derive(Clone)]
struct Buffer {
    openings: Vec<wire::Opening>,
    /// The last of them a server is known to have heard of.
    heard: usize,
    has_greeted: bool,
    next: u64,
    /// Batches by sequence; each holds one reading, of a value that no other batch has.
    backlog: BTreeMap<u64, u32>,
    acknowledged: BTreeMap<u64, u32>,
}

struct Gateway {
    key: AgentKey,
    buffers: Vec<Buffer>,
    image: Option<Buffer>,
    /// Values that some buffer was told are stored.
    promised: BTreeSet<u32>,
    /// Was a machine cloned with its memory? Then two buffers are under one opening.
    is_cloned: bool,
}

impl Buffer {
    fn open(&mut self, dice: &mut Dice) {
        let id = (dice.below(usize::MAX) as u64).to_le_bytes();
        let opening =
            wire::Opening { id: id.to_vec(), first: self.next, dictionary_revision: 1, ..Default::default() };
        self.openings.push(opening);
        self.has_greeted = false;
    }

    fn delivery(&self, key: AgentKey, sequences: &[u64], second: i64) -> Delivery {
        let batch = |sequence: &u64| {
            let value = self.backlog[sequence];
            let readings = vec![float(1, NOW + i64::from(value), f64::from(value))];
            Arrived { checksum: value + 1, ..batch(*sequence, readings) }
        };
        let report = wire::Report {
            acknowledged: self.acknowledged.len() as u64,
            backlog_readings: self.backlog.len() as u64,
            ..Default::default()
        };
        Delivery {
            opening: self.openings.last().map(|opening| opening.id[..].try_into().unwrap()),
            greeting: (!self.has_greeted).then(|| self.openings[self.heard..].to_vec()),
            report: Some(report),
            received: NOW + second * SECOND,
            ..delivery_of(key, 1, sequences.iter().map(batch).collect())
        }
    }

    /// Takes an answer; the values it promises.
    fn answered(&mut self, receipt: &Receipt) -> Vec<u32> {
        self.has_greeted = !receipt.greet;
        if receipt.greet {
            return Vec::new();
        }
        self.heard = self.openings.len() - 1;
        let mut promised = Vec::new();
        for (sequence, verdict) in &receipt.verdicts {
            assert!(matches!(verdict, Verdict::Committed | Verdict::Duplicate | Verdict::SetAside));
            let value = self.backlog.remove(&sequence.0).expect("it was sent from the backlog");
            self.acknowledged.insert(sequence.0, value);
            promised.push(value);
        }
        promised
    }
}

impl Gateway {
    /// Something happens; what it sends, if it does: the buffer and the batches.
    fn step(&mut self, dice: &mut Dice, value: &mut u32) -> Option<(usize, Vec<u64>)> {
        let at = dice.below(self.buffers.len());
        match dice.below(20) {
            0..6 => {
                for _ in 0..=dice.below(3) {
                    let buffer = &mut self.buffers[at];
                    buffer.backlog.insert(buffer.next, *value);
                    buffer.next += 1;
                    *value += 1;
                }
            }
            6..15 => {
                // In any order, and by far not all.
                let mut sequences: Vec<u64> = self.buffers[at].backlog.keys().copied().collect();
                while sequences.len() > 3 {
                    sequences.swap_remove(dice.below(sequences.len()));
                }
                return Some((at, sequences));
            }
            15 => self.buffers[at].open(dice),
            16 => self.buffers[at].has_greeted = false,
            17 if self.buffers.len() < MOST_BUFFERS => {
                let mut copy = self.buffers[at].clone();
                copy.has_greeted = false;
                if dice.below(4) == 0 {
                    self.is_cloned = true;
                } else {
                    copy.open(dice);
                }
                self.buffers.push(copy);
            }
            18 => self.image = Some(self.buffers[at].clone()),
            19 => {
                if let Some(mut older) = self.image.clone() {
                    older.open(dice);
                    self.buffers[at] = older;
                }
            }
            _ => {}
        }
        None
    }
}

pub async fn whatever_becomes_of_buffers_each_batch_is_there_once(place: Arc<Place>) {
    let seed = std::env::var("FOREBAY_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    });
    println!("FOREBAY_SEED={seed}");
    let mut dice = Dice(seed);
    let stores = [place.open().await, place.open().await];
    let mut gateways = Vec::new();
    for number in 0..GATEWAYS {
        let key = agent(&stores[0], &format!("gate-{number}")).await;
        let mut first = Buffer {
            openings: Vec::new(),
            heard: 0,
            has_greeted: false,
            next: 1,
            backlog: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
        };
        first.open(&mut dice);
        let (buffers, promised) = (vec![first], BTreeSet::new());
        gateways.push(Gateway { key, buffers, image: None, promised, is_cloned: false });
    }
    let mut value = 0;
    for step in 0..STEPS + 12 {
        let mut sent: Vec<(usize, usize)> = Vec::new();
        let mut deliveries = Vec::new();
        for (number, gateway) in gateways.iter_mut().enumerate() {
            // In the end all of them are heard out.
            let wishes: Vec<(usize, Vec<u64>)> = match step < STEPS {
                true => gateway.step(&mut dice, &mut value).into_iter().collect(),
                false => {
                    let all = |buffer: &Buffer| buffer.backlog.keys().copied().collect();
                    gateway.buffers.iter().map(all).enumerate().collect()
                }
            };
            for (at, sequences) in wishes {
                deliveries.push(gateway.buffers[at].delivery(gateway.key, &sequences, step as i64));
                sent.push((number, at));
            }
        }
        let receipts = stores[step % 2].ingest(deliveries).await.unwrap();
        for ((number, at), receipt) in sent.into_iter().zip(receipts) {
            let is_lost = step < STEPS && dice.below(5) == 0;
            if !is_lost {
                let promised = gateways[number].buffers[at].answered(&receipt);
                gateways[number].promised.extend(promised);
            }
        }
    }
    for gateway in &gateways {
        check(&place, &stores[0], gateway, seed).await;
    }
}

async fn check(place: &Place, store: &Arc<dyn Store>, gateway: &Gateway, seed: u64) {
    let AgentKey(key) = gateway.key;
    let about = format!("gateway {key} of FOREBAY_SEED={seed}");
    assert!(gateway.buffers.iter().all(|buffer| buffer.backlog.is_empty()), "{about}: all was sent");
    let points = store.points(Some(gateway.key), "", None, 100).await.unwrap();
    let mut stored: Vec<u32> = Vec::new();
    let mut histories: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
    for point in &points {
        let query =
            Query { points: vec![point.key], from: NOW, to: NOW + 60 * SECOND, step: 0, most: 10_000 };
        for row in store.query(&query).await.unwrap().remove(0).1 {
            let value = row.mean.unwrap() as u32;
            stored.push(value);
            histories.entry(point.fork).or_default().insert(value);
        }
    }
    let distinct: BTreeSet<u32> = stored.iter().copied().collect();
    assert_eq!(distinct.len(), stored.len(), "{about}: nothing twice");
    let aside = "select count(*) from set_aside s join epochs e on e.epoch_key = s.epoch_key where agent = ";
    let aside = place.number(&format!("{aside}{key}")).await;
    let lacking = gateway.promised.difference(&distinct).count() as i64;
    if gateway.is_cloned {
        assert!(lacking <= aside, "{about}: {lacking} neither stored nor set aside ({aside})");
    } else {
        assert_eq!((lacking, aside), (0, 0), "{about}");
    }
    // The books agree with what is there.
    let ledgers = store.ledgers(Some(gateway.key)).await.unwrap();
    for row in &ledgers {
        let there = histories.get(&row.fork).map_or(0, BTreeSet::len) as u64;
        assert_eq!(row.stored, there, "{about}: fork {}", row.fork);
    }
    assert_eq!(ledgers.iter().map(|row| row.set_aside as i64).sum::<i64>(), aside, "{about}");
    let faults = store.faults(Some(gateway.key), 1_000).await.unwrap();
    for row in &faults {
        let kind = row.fault.kind;
        assert_eq!(kind, FaultKind::Fork, "{about}: nothing was lost here: {:?}", row.fault);
        assert!(gateway.buffers.len() > 1 || gateway.image.is_some(), "{about}: there was no copy");
    }
    if gateway.buffers.len() > 1 && !gateway.is_cloned {
        let own = |buffer: &Buffer| buffer.acknowledged.values().copied().collect::<BTreeSet<u32>>();
        let [one, two] = [0, 1].map(|at| own(&gateway.buffers[at]));
        let differ = one.iter().zip(&two).any(|(one, two)| one != two);
        let both = one.difference(&two).next().is_some() && two.difference(&one).next().is_some();
        let is_silent = faults.is_empty();
        assert!(!(differ && both && is_silent), "{about}: two histories and no word of it");
    }
}
