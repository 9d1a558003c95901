//! A road that harms every connection on its own, by a fate drawn from a seed: cut, reset, half
//! closed, stalled, slowed, answers swallowed, bytes sent twice. It leads to several servers in
//! turn, so without faults it is a TCP balancer.
//!
//! The n-th connection's fate depends on the seed and n alone. Which connection is the n-th, and
//! what it carries, is a matter of timing.

mod fate;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

pub use self::fate::{Fate, Fault, Hole, KINDS};
use crate::dice::Dice;

const CONNECT: Duration = Duration::from_secs(5);
/// What moves at a time.
const PIECE: usize = 4 * 1024;

/// The road. Ends with all its connections when dropped.
pub struct RoughRoad {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

struct Shared {
    targets: Mutex<Vec<SocketAddr>>,
    rough: watch::Sender<bool>,
    /// Changes when every open connection must end; true if that is a fault.
    cuts: watch::Sender<bool>,
    struck: [AtomicU64; KINDS.len()],
    connections: AtomicU64,
}

impl RoughRoad {
    /// Listens on a free loopback port. Smooth until [`RoughRoad::roughen`].
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start(seed: u64, targets: Vec<SocketAddr>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("listen for the rough road")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            targets: Mutex::new(targets),
            rough: watch::Sender::new(false),
            cuts: watch::Sender::new(false),
            struck: std::array::from_fn(|_| AtomicU64::new(0)),
            connections: AtomicU64::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Dice::new(seed), shared.clone()));
        Ok(Self { address, shared, accepting })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where new connections lead to from now on, in turn. Without any they are refused.
    pub fn lead_to(&self, targets: Vec<SocketAddr>) {
        *self.shared.targets.lock().unwrap_or_else(PoisonError::into_inner) = targets;
    }

    /// New connections get a fate.
    pub fn roughen(&self) {
        self.shared.rough.send_replace(true);
    }

    /// No more faults; what they left crippled is cut.
    pub fn mend(&self) {
        self.shared.rough.send_replace(false);
        self.shared.cuts.send_replace(false);
    }

    /// Cuts every open connection, whatever its fate.
    pub fn cut_all(&self) {
        self.shared.cuts.send_replace(true);
    }

    /// Faults that struck so far, by kind: those that were drawn and never reached do not count.
    pub fn struck(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let counts = self.shared.struck.iter().map(|count| count.load(Ordering::Relaxed));
        KINDS.into_iter().zip(counts)
    }

    /// All of them.
    pub fn faults(&self) -> u64 {
        self.struck().map(|(_, count)| count).sum()
    }
}

impl Drop for RoughRoad {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Shared {
    fn strike(&self, fault: Fault) {
        self.struck[fault.kind()].fetch_add(1, Ordering::Relaxed);
    }

    fn target(&self, number: u64) -> Option<SocketAddr> {
        let targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        let place = number.checked_rem(targets.len() as u64)?;
        targets.get(place as usize).copied()
    }
}

async fn accept(listener: TcpListener, dice: Dice, shared: Arc<Shared>) {
    // Connections end with this set, and the set with the road.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                let number = shared.connections.fetch_add(1, Ordering::Relaxed);
                let rough = *shared.rough.borrow();
                let fate = if rough { Fate::draw(&mut dice.part(number)) } else { Fate::default() };
                if fate.refused {
                    shared.strike(Fault::Refused);
                } else {
                    connections.spawn(relay(client, number, fate, shared.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn relay(client: TcpStream, number: u64, fate: Fate, shared: Arc<Shared>) {
    let mut cuts = shared.cuts.subscribe();
    let Some(target) = shared.target(number) else { return };
    let Ok(Ok(server)) = timeout(CONNECT, TcpStream::connect(target)).await else { return };
    // A relay must not add delays of its own.
    let (_, _) = (client.set_nodelay(true), server.set_nodelay(true));
    let second = match fate.doubled {
        true => timeout(CONNECT, TcpStream::connect(target)).await.ok().and_then(Result::ok),
        false => None,
    };
    let (mut answers_to_second, second) = match second {
        Some(second) => {
            shared.strike(Fault::Doubled);
            let (answers, second) = second.into_split();
            (Some(answers), Some(second))
        }
        None => (None, None),
    };
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    let up = Way { from: client_in, to: server_out, echo: second, holes: fate.up, shared: &shared };
    let down = Way { from: server_in, to: client_out, echo: None, holes: fate.down, shared: &shared };
    let both = async {
        // Either way may end the connection at once, or only itself.
        let (up, down) = (up.carry(), down.carry());
        tokio::pin!(up, down);
        let (first, went_up) =
            tokio::select! { end = &mut up => (end, true), end = &mut down => (end, false) };
        if matches!(first, End::OneWay) {
            if went_up {
                down.await
            } else {
                up.await
            };
        }
    };
    let heard = async {
        if let Some(answers) = &mut answers_to_second {
            // Nobody asked for these, and nobody misses them.
            let _ = tokio::io::copy(answers, &mut tokio::io::sink()).await;
        }
        std::future::pending::<()>().await
    };
    tokio::select! {
        () = both => {}
        () = heard => {}
        _ = cuts.changed() => {
            if *cuts.borrow() {
                shared.strike(Fault::Cut);
            }
        }
    }
}

/// How a way ended.
enum End {
    /// And the other with it.
    Whole,
    /// Alone.
    OneWay,
}

/// One direction of a connection.
struct Way<'a> {
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    echo: Option<OwnedWriteHalf>,
    holes: VecDeque<Hole>,
    shared: &'a Shared,
}

impl Way<'_> {
    async fn carry(mut self) -> End {
        let (mut piece, mut passed, mut pause) = (vec![0; PIECE], 0u64, Duration::ZERO);
        let mut waiting = 0..0;
        loop {
            while let Some(fault) = self.due(passed) {
                if let Some(end) = self.fall_into(fault, &mut pause).await {
                    return end;
                }
            }
            if waiting.is_empty() {
                let Ok(read) = self.from.read(&mut piece).await else { return End::Whole };
                waiting = 0..read;
            }
            if waiting.is_empty() {
                // An error here is an end that has gone already.
                let _ = self.to.shutdown().await;
                return End::OneWay;
            }
            let free = self.holes.front().map_or(u64::MAX, |hole| hole.after - passed);
            let most = if pause.is_zero() { PIECE } else { PIECE / 4 };
            let length = waiting.len().min(most).min(usize::try_from(free).unwrap_or(PIECE));
            let now = &piece[waiting.start..waiting.start + length];
            if self.to.write_all(now).await.is_err() {
                return End::Whole;
            }
            if let Some(echo) = &mut self.echo
                && echo.write_all(now).await.is_err()
            {
                self.echo = None;
            }
            passed += length as u64;
            waiting.start += length;
            if !pause.is_zero() {
                sleep(pause).await;
            }
        }
    }

    /// The next fault that lies no further than what has passed.
    fn due(&mut self, passed: u64) -> Option<Fault> {
        self.holes.front().filter(|hole| hole.after <= passed)?;
        self.holes.pop_front().map(|hole| hole.fault)
    }

    async fn fall_into(&mut self, fault: Fault, pause: &mut Duration) -> Option<End> {
        if !*self.shared.rough.borrow() {
            return None;
        }
        self.shared.strike(fault);
        match fault {
            Fault::Refused | Fault::Doubled => None,
            Fault::Cut => Some(End::Whole),
            Fault::Reset => {
                // Closing with this set sends a reset. Where it cannot be set it is a cut.
                let _ = self.from.as_ref().set_zero_linger();
                let _ = self.to.as_ref().set_zero_linger();
                Some(End::Whole)
            }
            Fault::HalfClosed => {
                let _ = self.to.shutdown().await;
                Some(End::OneWay)
            }
            Fault::Swallowed(moment) => {
                let mut nowhere = tokio::io::sink();
                // Whoever ends first: the patience of the road or that of the sender.
                let _ = timeout(moment, tokio::io::copy(&mut self.from, &mut nowhere)).await;
                Some(End::Whole)
            }
            Fault::Stalled(moment) => {
                sleep(moment).await;
                None
            }
            Fault::Slow(moment) => {
                *pause = moment;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
