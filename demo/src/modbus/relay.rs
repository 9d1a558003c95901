//! The wire between a client and the simulated units, and where its faults live: whole frames pass
//! through here and are swallowed, held back or spoilt as [`Faults`] says. The units behind it
//! answer rightly and at once, so that a late answer of one unit overtakes nobody else's.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use forebay_config::field::Framing;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until};

/// What is wrong with a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It does not answer.
    Silent,
    /// It answers everything with this exception.
    Exception(u8),
    /// Its answers come so much later.
    Slow(Duration),
    /// Its answers are random bytes of the right number.
    Garbage,
    /// Its answers hold one register less than asked for.
    WrongLength,
}

/// The faults of a plant's units, to be set and cleared while it runs. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Mutex<BTreeMap<u8, Fault>>>);

impl Faults {
    /// Gives a unit a fault in place of the one it has.
    pub fn set(&self, unit: u8, fault: Fault) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(unit, fault);
    }

    /// Mends a unit.
    pub fn clear(&self, unit: u8) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&unit);
    }

    /// What is wrong with a unit.
    pub fn of(&self, unit: u8) -> Option<Fault> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&unit).copied()
    }
}

/// Passes frames between `client` and `units` until either side closes.
pub async fn relay<C, U>(mut client: C, mut units: U, framing: Framing, faults: Faults)
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let mut asked = Vec::new();
    let mut answered = Vec::new();
    let mut held: Vec<(Instant, Vec<u8>)> = Vec::new();
    loop {
        let next = held.iter().map(|(at, _)| *at).min();
        tokio::select! {
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                let now = Instant::now();
                let (ripe, rest) = held.into_iter().partition(|(at, _)| *at <= now);
                held = rest;
                for (_, frame) in ripe {
                    if client.write_all(&frame).await.is_err() {
                        return;
                    }
                }
            }
            read = client.read_buf(&mut asked) => {
                if !matches!(read, Ok(n) if n > 0) {
                    return;
                }
                while let Some(frame) = take_frame(framing, &mut asked, request_length) {
                    let is_heard = faults.of(unit(framing, &frame)) != Some(Fault::Silent);
                    if is_heard && units.write_all(&frame).await.is_err() {
                        return;
                    }
                }
            }
            read = units.read_buf(&mut answered) => {
                if !matches!(read, Ok(n) if n > 0) {
                    return;
                }
                while let Some(mut frame) = take_frame(framing, &mut answered, answer_length) {
                    let mut at = Instant::now();
                    match faults.of(unit(framing, &frame)) {
                        Some(Fault::Slow(late)) => at += late,
                        Some(Fault::Garbage) if getrandom::fill(&mut frame).is_err() => frame.fill(0xa5),
                        _ => {}
                    }
                    held.push((at, frame));
                }
            }
        }
    }
}

fn unit(framing: Framing, frame: &[u8]) -> u8 {
    let at = if framing == Framing::Tcp { 6 } else { 0 };
    frame.get(at).copied().unwrap_or_default()
}

/// Takes the first frame off `received` when it is complete.
fn take_frame(
    framing: Framing,
    received: &mut Vec<u8>,
    rtu_length: impl Fn(&[u8]) -> Option<usize>,
) -> Option<Vec<u8>> {
    let length = match framing {
        Framing::Tcp => match received[..] {
            [_, _, _, _, high, low, ..] => 6 + usize::from(u16::from_be_bytes([high, low])),
            _ => return None,
        },
        Framing::Rtu => rtu_length(received)?,
    };
    (received.len() >= length).then(|| received.drain(..length).collect())
}

/// Reads and single writes are eight bytes, and this plant is asked nothing else.
fn request_length(_: &[u8]) -> Option<usize> {
    Some(8)
}

fn answer_length(received: &[u8]) -> Option<usize> {
    match received {
        [_, 1..=4, size, ..] => Some(5 + usize::from(*size)),
        [_, 0x80..=0xff, _, ..] => Some(5),
        [_, _, _, ..] => Some(8),
        _ => None,
    }
}
