//! A serial bus that is as slow as a real one. Behind its tty are units that answer function 3 and 4
//! for any address, each register holding its address; bytes take their time on the line in both
//! directions, and the silences of the standard are kept and looked for.
//!
//! It counts what the exchanges would have needed on a line where nobody ever waits: the characters
//! of query and answer, and three and a half characters of silence before each of them (1.75 ms above
//! 19200 baud; Modbus over Serial Line V1.02, 2.5.1.1). That is the line's limit.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::pty::{Pair, pair};

/// Start bit, eight bits, parity, stop bit.
const BITS_PER_CHARACTER: u32 = 11;
/// Characters that arrive together, as a UART hands them over.
const PIECE: usize = 16;
/// Sleeping wakes late; the rest of a wait is spent looking at the clock.
const SPUN: Duration = Duration::from_micros(120);
/// How often the thread looks whether it should end.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// A bus with its units. Ends when dropped.
pub struct PacedBus {
    path: PathBuf,
    silence: Duration,
    tally: Arc<Mutex<Tally>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// What passed so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Queries answered.
    pub exchanges: u64,
    /// Queries that nobody answered.
    pub unanswered: u64,
    /// Registers given.
    pub registers: u64,
    /// What the exchanges needed of the line at least.
    pub line_time: Duration,
    /// Queries that came before the line had been silent for long enough.
    pub too_soon: u64,
    /// When the last answer ended.
    pub last_end: Option<Instant>,
}

impl PacedBus {
    /// A bus at `baud` bits a second. Units in `dead` do not answer.
    ///
    /// # Errors
    /// When there is no pseudo terminal to be had.
    pub fn start(baud: u32, dead: &[u8]) -> io::Result<Self> {
        let Pair { wire, path, keeper } = pair()?;
        let (tally, stop) = (Arc::<Mutex<Tally>>::default(), Arc::<AtomicBool>::default());
        let character = Duration::from_secs(1) * BITS_PER_CHARACTER / baud.max(1);
        let silence = if baud > 19_200 { Duration::from_micros(1_750) } else { character * 7 / 2 };
        let mut line =
            Line { wire, character, silence, dead: dead.to_vec(), tally: tally.clone(), stop: stop.clone() };
        let thread = std::thread::Builder::new().name("paced bus".into()).spawn(move || {
            if let Err(why) = line.serve() {
                tracing::warn!(%why, "The paced bus ended.");
            }
            drop(keeper);
        })?;
        Ok(Self { path, silence, tally, stop, thread: Some(thread) })
    }

    /// What a driver opens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The silence that ends a frame.
    pub fn silence(&self) -> Duration {
        self.silence
    }

    /// What passed so far.
    pub fn tally(&self) -> Tally {
        *self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for PacedBus {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // It ends within a look.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

struct Line {
    wire: OwnedFd,
    character: Duration,
    silence: Duration,
    dead: Vec<u8>,
    tally: Arc<Mutex<Tally>>,
    stop: Arc<AtomicBool>,
}

impl Line {
    fn serve(&mut self) -> io::Result<()> {
        let mut heard = Vec::new();
        let mut free_at: Option<Instant> = None;
        while !self.stop.load(Ordering::Relaxed) {
            if poll(&mut [PollFd::new(&self.wire, PollFlags::IN)], Some(&LOOK))? == 0 {
                // A query comes in one piece; what is older is none.
                heard.clear();
                continue;
            }
            let began = Instant::now();
            let mut piece = [0; 256];
            let read = rustix::io::read(&self.wire, &mut piece)?;
            heard.extend_from_slice(&piece[..read]);
            let Ok(query) = <[u8; 8]>::try_from(heard.as_slice()) else { continue };
            heard.clear();
            let ended = began + self.character * query.len() as u32;
            let too_soon = free_at.is_some_and(|free_at| began < free_at);
            let Some(answer) = self.answer(query) else {
                wait_until(ended);
                free_at = Some(ended + self.silence);
                self.count(|tally| {
                    tally.unanswered += 1;
                    tally.too_soon += u64::from(too_soon);
                });
                continue;
            };
            let mut at = ended + self.silence;
            for piece in answer.chunks(PIECE) {
                at += self.character * piece.len() as u32;
                wait_until(at);
                rustix::io::write(&self.wire, piece)?;
            }
            free_at = Some(at + self.silence);
            let characters = (query.len() + answer.len()) as u32;
            let needed = self.character * characters + self.silence * 2;
            self.count(|tally| {
                tally.exchanges += 1;
                tally.registers += u64::from(u16::from_be_bytes([query[4], query[5]]));
                tally.line_time += needed;
                tally.too_soon += u64::from(too_soon);
                tally.last_end = Some(at);
            });
        }
        Ok(())
    }

    fn answer(&self, query: [u8; 8]) -> Option<Vec<u8>> {
        let [unit, function, a0, a1, c0, c1, low, high] = query;
        let (address, count) = (u16::from_be_bytes([a0, a1]), u16::from_be_bytes([c0, c1]));
        let is_read = matches!(function, 3 | 4) && (1..=125).contains(&count);
        if crc(&query[..6]) != [low, high] || !is_read || self.dead.contains(&unit) {
            return None;
        }
        let mut answer = vec![unit, function, (count * 2) as u8];
        answer.extend((0..count).flat_map(|n| address.wrapping_add(n).to_be_bytes()));
        let checksum = crc(&answer);
        answer.extend(checksum);
        Some(answer)
    }

    fn count(&self, change: impl FnOnce(&mut Tally)) {
        change(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Modbus over Serial Line V1.02, 6.2.2; low byte first.
fn crc(bytes: &[u8]) -> [u8; 2] {
    let step = |crc: u16| if crc & 1 == 1 { crc >> 1 ^ 0xa001 } else { crc >> 1 };
    let crc =
        bytes.iter().fold(0xffff_u16, |crc, byte| (0..8).fold(crc ^ u16::from(*byte), |crc, _| step(crc)));
    crc.to_le_bytes()
}

fn wait_until(at: Instant) {
    let left = at.saturating_duration_since(Instant::now());
    if left > SPUN {
        std::thread::sleep(left - SPUN);
    }
    while Instant::now() < at {
        std::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn an_exchange_takes_as_long_as_on_a_line_of_that_speed() {
        let bus = PacedBus::start(9_600, &[7]).unwrap();
        let settings = tokio_serial::new(bus.path().to_string_lossy(), 9_600);
        let mut port = tokio_serial::SerialStream::open(&settings).unwrap();
        let mut query = vec![1, 3, 0, 5, 0, 10];
        query.extend(crc(&query));
        let began = Instant::now();
        port.write_all(&query).await.unwrap();
        let mut answer = [0; 25];
        port.read_exact(&mut answer).await.unwrap();
        // 8 and 25 characters of 11 bits, and a silence of 3.5.
        let least = Duration::from_secs(11) * 365 / 96_000;
        assert!(began.elapsed() >= least, "{:?}", began.elapsed());
        assert_eq!((answer[..5].to_vec(), &answer[21..23]), (vec![1, 3, 20, 0, 5], &[0, 14][..]));
        port.write_all(&query).await.unwrap();
        port.read_exact(&mut answer).await.unwrap();
        query[0] = 7;
        let checksum = crc(&query[..6]);
        query[6..].copy_from_slice(&checksum);
        port.write_all(&query).await.unwrap();
        let silent = tokio::time::timeout(Duration::from_millis(100), port.read_u8()).await;
        assert!(silent.is_err(), "unit 7 is dead");
        let tally = bus.tally();
        assert_eq!((tally.exchanges, tally.unanswered, tally.registers), (2, 1, 20));
        assert!(tally.too_soon >= 1, "the second query came at once");
        assert_eq!(
            tally.line_time.as_micros(),
            (least + Duration::from_secs(11) * 35 / 96_000).as_micros() * 2
        );
    }
}
