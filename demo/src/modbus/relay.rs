//! The wire between a client and the simulated units, and where its faults live: whole frames pass
//! through here and are swallowed, held back or spoilt as [`Faults`] says. The units behind it
//! answer rightly and at once, so that a late answer of one unit overtakes nobody else's.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use forebay_config::field::Framing;
use forebay_protocols::field::modbus::frame::crc;
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
    /// Its answers bear the number of the next unit.
    WrongUnit,
}

/// What is wrong with the units, and what their maps are like.
#[derive(Debug, Default)]
struct Book {
    faults: BTreeMap<u8, Fault>,
    limits: BTreeMap<u8, u16>,
    holes: BTreeMap<u8, RangeInclusive<u16>>,
}

/// The faults of a plant's units, to be set and cleared while it runs. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Mutex<Book>>);

impl Faults {
    /// Gives a unit a fault in place of the one it has.
    pub fn set(&self, unit: u8, fault: Fault) {
        self.book().faults.insert(unit, fault);
    }

    /// Mends a unit.
    pub fn clear(&self, unit: u8) {
        self.book().faults.remove(&unit);
    }

    /// What is wrong with a unit.
    pub fn of(&self, unit: u8) -> Option<Fault> {
        self.book().faults.get(&unit).copied()
    }

    /// The unit gives so many registers at once and refuses more (exception 3); `None`: all that fit.
    pub fn limit(&self, unit: u8, registers: Option<u16>) {
        match registers {
            Some(registers) => drop(self.book().limits.insert(unit, registers)),
            None => drop(self.book().limits.remove(&unit)),
        }
    }

    /// The unit does not have these addresses (exception 2), in no table; `None`: it has all again.
    pub fn hole(&self, unit: u8, addresses: Option<RangeInclusive<u16>>) {
        match addresses {
            Some(addresses) => drop(self.book().holes.insert(unit, addresses)),
            None => drop(self.book().holes.remove(&unit)),
        }
    }

    /// The exception that limit or hole of a unit answer a request with.
    pub(super) fn refuses(&self, unit: u8, address: u16, count: u16) -> Option<u8> {
        let book = self.book();
        if book.limits.get(&unit).is_some_and(|limit| count > *limit) {
            return Some(3);
        }
        let hole = book.holes.get(&unit)?;
        let last = address.saturating_add(count.saturating_sub(1));
        (address <= *hole.end() && last >= *hole.start()).then_some(2)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
                        Some(Fault::WrongUnit) => misname(framing, &mut frame),
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

/// Gives a frame the number of the next unit, with a checksum that is right.
fn misname(framing: Framing, frame: &mut [u8]) {
    match framing {
        Framing::Tcp => frame.iter_mut().skip(6).take(1).for_each(|unit| *unit = unit.wrapping_add(1)),
        Framing::Rtu => {
            let Some((body, checksum)) = frame.split_last_chunk_mut::<2>() else { return };
            body.iter_mut().take(1).for_each(|unit| *unit = unit.wrapping_add(1));
            *checksum = crc(body).to_le_bytes();
        }
    }
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
