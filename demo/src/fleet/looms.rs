//! The field side of the fleet: one task that makes all gateways' readings and batches, each in its
//! turn. One encoder serves all, because an encoder's memory is many times a gateway's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use forebay_agent::clock::Clock;
use forebay_protocols::boot_time::BootTime;
use forebay_protocols::reading::{PointId, Quality, Reading, Stamp, Value};
use forebay_protocols::sync::batch::{Encoder, Head};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::shelf::Shelf;
use super::{Plan, WINDOW};

/// Gateways that have their turn without a pause between: the others' tasks want the processor too.
const TOGETHER: usize = 64;

/// What is needed to make readings.
pub struct Loom {
    pub plan: Plan,
    pub clock: Clock,
    pub shelves: Arc<[Shelf]>,
    /// False: turns pass, and nothing is read.
    pub read: Arc<AtomicBool>,
}

impl Loom {
    /// Works until `finish`.
    pub fn start(self, finish: CancellationToken) -> AbortOnDropHandle<()> {
        AbortOnDropHandle::new(tokio::spawn(async move {
            finish.run_until_cancelled(self.work()).await;
        }))
    }

    async fn work(self) {
        let Self { plan, clock, shelves, read } = self;
        let gateways = shelves.len() as u32;
        if plan.every.is_zero() || plan.points == 0 || gateways == 0 {
            return std::future::pending().await;
        }
        // Readings that come more often than the window share a batch, as they would in an agent.
        let round = plan.every.max(WINDOW);
        let polls = (round.as_secs_f64() / plan.every.as_secs_f64()).round().max(1.0) as u32;
        let (mut encoder, mut readings) = (Encoder::new(), Vec::with_capacity(plan.points * polls as usize));
        let (begin, mut turn) = (Instant::now(), 0u64);
        loop {
            let rounds = u32::try_from(turn / u64::from(gateways)).unwrap_or(u32::MAX);
            let gateway = (turn % u64::from(gateways)) as u32;
            let due = begin + round.saturating_mul(rounds) + round / gateways * gateway;
            if due > Instant::now() {
                sleep_until(due).await;
            } else if turn.is_multiple_of(TOGETHER as u64) {
                tokio::task::yield_now().await;
            }
            turn += 1;
            if !read.load(Ordering::Relaxed) {
                continue;
            }
            let shelf = &shelves[gateway as usize];
            let Some(sequence) = shelf.next_sequence() else { continue };
            let now = BootTime::now();
            for poll in (0..polls).rev() {
                let before = plan.every.saturating_mul(poll).as_micros() as i64;
                take(&mut readings, BootTime(now.0 - before), plan.points, gateway);
            }
            let head = Head { epoch: shelf.epoch(), sequence, boot: clock.boot() };
            let encoded = encoder.encode(&head, &mut readings);
            // More than one batch holds is more than a gateway of this fleet reads in a second.
            readings.clear();
            shelf.append(encoded);
        }
    }
}

/// One poll of one gateway: temperatures that wander, a meter that counts, a valve.
fn take(into: &mut Vec<Reading>, at: BootTime, points: usize, gateway: u32) {
    let seconds = at.0 as f64 / 1e6;
    let stamp = Stamp::boot(at);
    into.extend((1..=points as u32).map(|number| {
        let phase = f64::from(gateway % 97) + f64::from(number) * 7.0;
        let value = match number % 5 {
            0 => Value::Boolean(((seconds + phase) / 60.0) as i64 % 2 == 0),
            4 => Value::Integer((seconds + phase) as i64),
            _ => Value::Float(((20.0 + 5.0 * ((seconds + phase) / 30.0).sin()) * 10.0).round() / 10.0),
        };
        Reading { point: PointId(number), stamp, value: Some(value), quality: Quality::Good }
    }));
}
