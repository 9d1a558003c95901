//! Does chrony keep the system's clock? It makes no file that would say so, and asking the kernel is a
//! system call that a hardened unit forbids; but chronyd answers anybody on this machine over UDP.
//!
//! One request and one answer of its command protocol, version 6, as `chronyc tracking` has them (candm.h of
//! chrony 2.2 to 4). A daemon that has no source but itself (`local`) says that all is normal too, and
//! is not believed.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::timeout;

/// Where chronyd listens, unless it is told otherwise (`cmdport`).
const PORT: u16 = 323;
/// It answers at once.
const ANSWERS_WITHIN: Duration = Duration::from_millis(500);
const VERSION: u8 = 6;
const REQUEST: u8 = 1;
const ANSWER: u8 = 2;
/// REQ_TRACKING and RPY_TRACKING.
const TRACKING: (u16, u16) = (33, 5);
/// Of the answer, and so of the request too: chronyd sends nobody more than it got.
const LENGTH: usize = 104;
/// Not synchronised.
const LEAP_UNKNOWN: u16 = 3;
/// No source, and chronyd's own clock (127.127.1.1).
const NO_SOURCES: [u32; 2] = [0, 0x7f7f_0101];
/// Seconds by which a clock that is still being slewed may be wrong.
const MOST_WRONG: f64 = 0.5;

/// The chronyd of this machine, if there is one. Clones are the same.
#[derive(Clone, Debug)]
pub struct Chrony {
    address: SocketAddr,
    keeps: Arc<AtomicBool>,
}

impl Default for Chrony {
    fn default() -> Self {
        Self { address: (Ipv4Addr::LOCALHOST, PORT).into(), keeps: Arc::default() }
    }
}

impl Chrony {
    /// Did it say, when it was asked last, that the clock is synchronised?
    pub fn keeps_the_clock(&self) -> bool {
        self.keeps.load(Ordering::Relaxed)
    }

    /// Asks it. One that does not answer does not keep the clock.
    pub async fn ask(&self) {
        let asked = timeout(ANSWERS_WITHIN, self.exchange()).await;
        let keeps = asked.is_ok_and(|answer| answer.is_ok_and(|keeps| keeps));
        self.keeps.store(keeps, Ordering::Relaxed);
    }

    async fn exchange(&self) -> std::io::Result<bool> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        // From now on the socket hears nobody else.
        socket.connect(self.address).await?;
        let sequence = getrandom::u32().unwrap_or_default();
        socket.send(&request(sequence)).await?;
        let mut answer = [0; 2 * LENGTH];
        loop {
            let length = socket.recv(&mut answer).await?;
            if let Some(keeps) = judge(answer.get(..length).unwrap_or_default(), sequence) {
                return Ok(keeps);
            }
        }
    }
}

fn request(sequence: u32) -> [u8; LENGTH] {
    let mut request = [0; LENGTH];
    request[..2].copy_from_slice(&[VERSION, REQUEST]);
    request[4..6].copy_from_slice(&TRACKING.0.to_be_bytes());
    request[8..12].copy_from_slice(&sequence.to_be_bytes());
    request
}

/// Whether the clock is synchronised; `None` if this is no answer to the request.
fn judge(answer: &[u8], sequence: u32) -> Option<bool> {
    let short = |at: usize| Some(u16::from_be_bytes(*answer.get(at..)?.first_chunk()?));
    let long = |at: usize| Some(u32::from_be_bytes(*answer.get(at..)?.first_chunk()?));
    if answer.first_chunk::<2>()? != &[VERSION, ANSWER] || long(16)? != sequence {
        return None;
    }
    let [command, reply, status] = [short(4)?, short(6)?, short(8)?];
    if (command, reply, status) != (TRACKING.0, TRACKING.1, 0) {
        // It speaks, and does not tell.
        return Some(false);
    }
    let (source, leap, wrong) = (long(28)?, short(54)?, seconds(long(68)?));
    Some(leap != LEAP_UNKNOWN && !NO_SOURCES.contains(&source) && wrong.abs() <= MOST_WRONG)
}

/// Chrony's own kind of number: seven bits of exponent and 25 of coefficient, both with a sign.
fn seconds(float: u32) -> f64 {
    let exponent = float.cast_signed() >> 25;
    let coefficient = (float << 7).cast_signed() >> 7;
    f64::from(coefficient) * 2f64.powi(exponent - 25)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEQUENCE: u32 = 0x1234;
    /// Of chronyd 4.3, synchronised to a server, 1.3 microseconds off.
    const SYNCHRONISED: &str = "060200000021000500000000000000000000123400000000000000007f0000017f0000010000000000000000000000000001000000040000000000006b0c1b981bd52af9dd51c42fd178e8e9d6f5342cfa90ce56ef115e28fa99488fe0b996eeda9216ff0081b60b";
    /// Of the same with `local stratum 10` and no server.
    const OWN_CLOCK: &str = "060200000021000500000000000000000000123400000000000000007f7f01010000000000000000000000000000000000000000000a0000000000006b0c1b700ddeadf4000000000000000000000000000000000000000000000000000000000000000000000000";
    /// Of the same with nothing to go by.
    const UNSYNCHRONISED: &str = "0602000000210005000000000000000000001234000000000000000000000000000000000000000000000000000000000000000000000003000000000000000000000000000000000000000000000000000000000000000000000000048000000480000000000000";
    /// Of the same to a request that was too short.
    const REFUSED: &str = "06020000002100010013000000000000000012340000000000000000";

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn what_chronyd_said_is_understood() {
        assert_eq!(judge(&bytes(SYNCHRONISED), SEQUENCE), Some(true));
        assert_eq!(judge(&bytes(OWN_CLOCK), SEQUENCE), Some(false));
        assert_eq!(judge(&bytes(UNSYNCHRONISED), SEQUENCE), Some(false));
        assert_eq!(judge(&bytes(REFUSED), SEQUENCE), Some(false));
        assert_eq!(judge(&bytes(SYNCHRONISED), SEQUENCE + 1), None, "an answer to somebody else");
        let with = |at: usize, value: &[u8]| {
            let mut answer = bytes(SYNCHRONISED);
            answer[at..at + value.len()].copy_from_slice(value);
            judge(&answer, SEQUENCE)
        };
        assert_eq!(with(54, &[0, 3]), Some(false), "it has lost its sources, or never had one");
        assert_eq!(with(28, &[0; 4]), Some(false));
        // 1.0 is 2 to the 23rd, times 2 to the power of 2 - 25.
        assert_eq!(with(68, &(2 << 25 | 1_u32 << 23).to_be_bytes()), Some(false), "a second off");
        assert_eq!(seconds(2 << 25 | 1 << 23), 1.0);
        assert!((seconds(0xdd51_c42f) + 1.298e-6).abs() < 1e-9);
    }

    #[test]
    fn any_part_of_an_answer_is_survived() {
        let answer = bytes(SYNCHRONISED);
        for length in 0..72 {
            assert_eq!(judge(&answer[..length], SEQUENCE), None, "{length} bytes");
        }
    }

    #[tokio::test]
    async fn a_daemon_that_answers_is_believed_until_it_is_gone() {
        let daemon = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let chrony = Chrony { address: daemon.local_addr().unwrap(), ..Chrony::default() };
        let answering = async {
            let mut asked = [0; 2 * LENGTH];
            let (length, from) = daemon.recv_from(&mut asked).await.unwrap();
            assert_eq!((length, asked[..6].to_vec()), (LENGTH, vec![6, 1, 0, 0, 0, 33]));
            // Something else comes first.
            daemon.send_to(&[0; 300], from).await.unwrap();
            let mut answer = bytes(SYNCHRONISED);
            answer[16..20].copy_from_slice(&asked[8..12]);
            daemon.send_to(&answer, from).await.unwrap();
        };
        assert!(!chrony.keeps_the_clock());
        tokio::join!(chrony.ask(), answering);
        assert!(chrony.keeps_the_clock());
        drop(daemon);
        chrony.ask().await;
        assert!(!chrony.keeps_the_clock());
    }
}
