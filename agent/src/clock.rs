//! What time it is, as far as this gateway can know (DESIGN, 6).
//!
//! Readings are stamped with boot time, which is never wrong. This file keeps the one number that
//! turns boot time into wall time, where it comes from, and what it should have been in batches
//! that were encoded before it was known. The system's clock is believed while it is synchronised
//! or agrees with the server; else the server's time is, which came with an authenticated answer.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{fs, io};

use forebay_protocols::boot_time::{BootTime, wall_offset_micros};
use forebay_protocols::sync::batch::Boot;
use forebay_protocols::sync::tls::EARLIEST_TIME;
use forebay_protocols::sync::wire;
use rustls_pki_types::UnixTime;

/// No clock that shows less can be right.
const BUILT_US: i64 = EARLIEST_TIME * 1_000_000;
/// Servers that claim to live later than 30 years from then are not believed.
const FAR_FUTURE_US: i64 = BUILT_US + 30 * 365 * 86_400_000_000;
/// The system's clock is believed if it is this close to the server's.
const AGREEMENT_US: i64 = 1_000_000;
/// How much the boot clock may drift: microseconds in a second. Cheap crystals do 20 to 50.
const DRIFT_PPM: i64 = 50;
/// How often the last good time is written down: flash wears.
const REMEMBER_EVERY: Duration = Duration::from_secs(3600);
/// systemd-timesyncd makes this file when it has set the clock.
const TIMESYNC: &str = "/run/systemd/timesync/synchronized";

/// The gateway's clock. Cheap to clone; every clone is the same clock.
#[derive(Clone, Debug)]
pub struct Clock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    counter: u64,
    id: [u8; 8],
    /// Where the last good time is kept.
    file: PathBuf,
    learnt: Mutex<Learnt>,
}

#[derive(Debug)]
struct Learnt {
    /// What the server's answers say.
    server: Option<Estimate>,
    /// Wall time that has certainly passed, microseconds since 1970.
    floor_us: i64,
    remembered: Option<BootTime>,
}

/// The wall offset according to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Estimate {
    offset_us: i64,
    uncertainty_us: i64,
    at: BootTime,
}

/// What to add to boot time, and whether that can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Belief {
    /// Microseconds to add to boot time for wall time.
    pub offset_us: i64,
    /// From a synchronised system clock or from the server.
    pub synchronised: bool,
}

/// The clock for brokers' and servers' certificates.
impl rustls::time_provider::TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        // UnixTime::now() panics on a clock before 1970; such a clock has no say here.
        let system = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let floor = Duration::from_secs(self.tls_floor().max(0) as u64);
        Some(UnixTime::since_unix_epoch(system.max(floor)))
    }
}

impl Clock {
    /// The clock of this boot, the `counter`th, with the last good time found in `state_dir`.
    pub fn open(state_dir: &Path, counter: u64) -> Self {
        Self::with_boot_id(state_dir, counter, boot_id())
    }

    /// As [`Clock::open`], in a boot of one's own choice.
    pub(crate) fn with_boot_id(state_dir: &Path, counter: u64, id: [u8; 8]) -> Self {
        let file = state_dir.join("last-good-time");
        let kept = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse::<i64>().ok());
        let floor_us = kept.filter(|us| *us < FAR_FUTURE_US).unwrap_or(BUILT_US).max(BUILT_US);
        let learnt = Mutex::new(Learnt { server: None, floor_us, remembered: None });
        Self(Arc::new(Inner { counter, id, file, learnt }))
    }

    /// What is believed now.
    pub fn belief(&self) -> Belief {
        let system = Belief { offset_us: wall_offset_micros(), synchronised: Path::new(TIMESYNC).exists() };
        believe(system, self.learnt(|learnt| learnt.server))
    }

    /// The boot as a batch encoded now states it.
    pub fn boot(&self) -> Boot {
        let Belief { offset_us, synchronised } = self.belief();
        Boot { counter: self.0.counter, id: self.0.id, wall_offset_us: offset_us, synchronised }
    }

    /// Wall time now, microseconds since 1970, as believed.
    pub fn wall_us(&self) -> i64 {
        BootTime::now().0.saturating_add(self.belief().offset_us)
    }

    /// The server said that it was `server_us` some time between question and answer.
    pub fn learn(&self, server_us: i64, asked: BootTime, answered: BootTime) {
        if !(BUILT_US..FAR_FUTURE_US).contains(&server_us) {
            return;
        }
        let heard = Estimate::from_answer(server_us, asked, answered);
        self.learnt(|learnt| {
            learnt.server = Some(learnt.server.map_or(heard, |known| known.better_of(heard)));
            learnt.floor_us = learnt.floor_us.max(server_us);
        });
    }

    /// To be added to the wall offset of a batch that says `boot`. Zero where the batch knew the
    /// time, where nobody knows it yet, and for earlier boots, which the server has to bracket.
    pub fn correction_us(&self, boot: &Boot) -> i64 {
        if boot.synchronised || boot.id != self.0.id {
            return 0;
        }
        match self.belief() {
            Belief { synchronised: true, offset_us } => offset_us.saturating_sub(boot.wall_offset_us),
            Belief { synchronised: false, .. } => 0,
        }
    }

    /// What to add to the wall offset of a batch that says `boot`, and where that comes from.
    pub fn correction(&self, boot: &Boot) -> (i64, wire::sent_batch::Clock) {
        match self.correction_us(boot) {
            0 => (0, wire::sent_batch::Clock::Stated),
            us => (us, wire::sent_batch::Clock::Corrected),
        }
    }

    /// A gap record as the server shall have it: both ends corrected as batches of their boots
    /// would be, and without the clocks they were written down by.
    pub fn resolve(&self, gap: wire::Gap) -> wire::Gap {
        wire::Gap { start: None, end: None, ..gap }
    }

    /// A moment that has certainly passed, in seconds since 1970. TLS judges certificates by this or
    /// the system's clock, whichever is later, so that a gateway that wakes in 1970 still connects.
    pub fn tls_floor(&self) -> i64 {
        let now = BootTime::now().0;
        let us = self.learnt(|learnt| {
            let server = learnt.server.map_or(i64::MIN, |server| server.offset_us.saturating_add(now));
            learnt.floor_us.max(server)
        });
        us / 1_000_000
    }

    /// Writes the last good time down, now and then. Blocks for one small file.
    pub fn remember(&self) -> io::Result<()> {
        let now = BootTime::now();
        let due = |at: BootTime| now.since(at) >= REMEMBER_EVERY;
        let Some(us) = self.learnt(|learnt| {
            let known = learnt.server.map(|server| server.offset_us.saturating_add(now.0));
            known.filter(|_| learnt.remembered.is_none_or(due))
        }) else {
            return Ok(());
        };
        let unfinished = self.0.file.with_extension("new");
        let mut file = fs::File::create(&unfinished)?;
        writeln!(file, "{us}")?;
        file.sync_all()?;
        fs::rename(&unfinished, &self.0.file)?;
        self.learnt(|learnt| learnt.remembered = Some(now));
        Ok(())
    }

    fn learnt<T>(&self, look: impl FnOnce(&mut Learnt) -> T) -> T {
        look(&mut self.0.learnt.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Estimate {
    fn from_answer(server_us: i64, asked: BootTime, answered: BootTime) -> Self {
        // The answer was made somewhere between; the middle is wrong by half the way at most.
        let uncertainty_us = answered.0.saturating_sub(asked.0).max(0) / 2;
        let offset_us = server_us.saturating_sub(asked.0.saturating_add(uncertainty_us));
        Self { offset_us, uncertainty_us, at: answered }
    }

    /// Keeps the sharper one; an old one blurs with the drift of our crystal.
    fn better_of(self, later: Self) -> Self {
        let age_s = later.at.since(self.at).as_secs() as i64;
        let blurred = self.uncertainty_us.saturating_add(age_s.saturating_mul(DRIFT_PPM));
        if later.uncertainty_us <= blurred { later } else { self }
    }
}

fn believe(system: Belief, server: Option<Estimate>) -> Belief {
    match server {
        _ if system.synchronised => system,
        None => system,
        Some(server) => {
            let apart = server.offset_us.saturating_sub(system.offset_us).saturating_abs();
            // Somebody we do not know of (chrony, a battery clock) keeps it well: it jitters less.
            let agrees = apart <= server.uncertainty_us.saturating_add(AGREEMENT_US);
            let offset_us = if agrees { system.offset_us } else { server.offset_us };
            Belief { offset_us, synchronised: true }
        }
    }
}

/// The first 8 bytes of the kernel's boot id. Where there is none (odd containers), random ones:
/// then every start counts as a boot, which is the safe side.
fn boot_id() -> [u8; 8] {
    let mut id = [0; 8];
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16)).map(|d| d as u8).take(16).collect();
    if digits.len() == 16 {
        id.iter_mut().zip(digits.chunks_exact(2)).for_each(|(byte, pair)| *byte = pair[0] << 4 | pair[1]);
    } else if let Ok(random) = getrandom::u64() {
        id = random.to_le_bytes();
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;
    const TRUE_US: i64 = BUILT_US + 86_400 * SECOND;

    fn clock(dir: &Path) -> Clock {
        Clock::with_boot_id(dir, 1, [7; 8])
    }

    fn estimate(offset_us: i64, uncertainty_us: i64, at_s: i64) -> Estimate {
        Estimate { offset_us, uncertainty_us, at: BootTime(at_s * SECOND) }
    }

    #[test]
    fn whom_the_gateway_believes() {
        let synchronised = Belief { offset_us: 100 * SECOND, synchronised: true };
        let free = Belief { synchronised: false, ..synchronised };
        let near = estimate(100 * SECOND + SECOND / 2, 10_000, 0);
        let far = estimate(900 * SECOND, 10_000, 0);
        assert_eq!(believe(free, None), free, "alone, the system's clock is all there is");
        assert_eq!(believe(synchronised, Some(far)), synchronised, "NTP is better than an answer");
        assert_eq!(believe(free, Some(near)), synchronised, "a clock that agrees is kept");
        let corrected = Belief { offset_us: 900 * SECOND, synchronised: true };
        assert_eq!(believe(free, Some(far)), corrected, "a clock that does not is not");
    }

    #[test]
    fn a_slow_answer_does_not_blur_a_sharp_estimate_until_the_crystal_has_drifted() {
        let sharp = estimate(5 * SECOND, 2_000, 0);
        let slow = estimate(6 * SECOND, 400_000, 60);
        assert_eq!(sharp.better_of(slow), sharp);
        let slow_but_days_later = Estimate { at: BootTime(86_400 * SECOND), ..slow };
        assert_eq!(sharp.better_of(slow_but_days_later), slow_but_days_later);
    }

    #[test]
    fn the_server_is_believed_to_have_answered_half_way() {
        let heard = Estimate::from_answer(TRUE_US, BootTime(10 * SECOND), BootTime(12 * SECOND));
        assert_eq!(
            heard,
            Estimate { offset_us: TRUE_US - 11 * SECOND, uncertainty_us: SECOND, at: BootTime(12 * SECOND) }
        );
    }

    #[test]
    fn batches_encoded_before_the_time_was_known_are_corrected_and_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let clock = clock(dir.path());
        let now = BootTime::now();
        // Two days ahead of this machine: surely no agreement.
        let server_us = forebay_protocols::boot_time::wall_micros().max(BUILT_US) + 2 * 86_400 * SECOND;
        clock.learn(server_us, now, now);
        if clock.belief().offset_us == wall_offset_micros() {
            return; // This machine is synchronised by timesyncd and rightly believes itself.
        }
        let early = Boot { counter: 1, id: [7; 8], wall_offset_us: 1_000, synchronised: false };
        assert_eq!(clock.correction_us(&early), server_us - now.0 - 1_000);
        assert_eq!(clock.correction_us(&Boot { synchronised: true, ..early }), 0);
        assert_eq!(clock.correction_us(&Boot { id: [8; 8], ..early }), 0, "another boot has another base");
    }

    #[test]
    fn certificates_are_never_judged_by_a_time_that_has_passed() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(clock(dir.path()).tls_floor(), BUILT_US / SECOND);
        let later_us = BUILT_US + 400 * 86_400 * SECOND;
        let first = clock(dir.path());
        first.learn(later_us, BootTime::now(), BootTime::now());
        assert!(first.tls_floor() >= later_us / SECOND);
        first.remember().unwrap();
        let after_restart = clock(dir.path());
        assert!(after_restart.tls_floor() >= later_us / SECOND - 1, "forgotten over a restart");
    }

    #[test]
    fn nonsense_in_the_file_or_from_the_server_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "yesterday", "9223372036854775807", "-5"] {
            fs::write(dir.path().join("last-good-time"), text).unwrap();
            let clock = clock(dir.path());
            clock.learn(0, BootTime::now(), BootTime::now());
            clock.learn(i64::MAX, BootTime::now(), BootTime::now());
            assert_eq!(clock.tls_floor(), BUILT_US / SECOND, "{text}");
            assert_eq!(clock.learnt(|learnt| learnt.server), None);
        }
    }
}
