//! What time it is, as far as this gateway can know (DESIGN, 6).
//!
//! Readings are stamped with boot time, which is never wrong. This file keeps the one number that
//! turns boot time into wall time, where it comes from, and what it should have been in batches
//! and gap records that were written down before it was known, in this boot or an earlier one
//! (`boots`). The system's clock is believed while it is synchronised or agrees with the server;
//! else the server's time is, which came with an authenticated answer. A clock that says it is
//! synchronised and is an hour off was set by somebody since, and is not believed either.

pub mod boots;
pub mod chrony;
pub mod keeping;
pub mod machine;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{fmt, fs, io};

use forebay_protocols::boot_time::BootTime;
use forebay_protocols::sync::batch::Boot;
use forebay_protocols::sync::tls::{EARLIEST_TIME, GatewayClock};
use forebay_protocols::sync::wire;
use rustls_pki_types::UnixTime;
use tokio::sync::Notify;
use tracing::warn;

use self::boots::{CRYSTAL, Solved, Sure, earliest_start, solve};
use self::machine::{Machine, Shown};
use crate::buffer::BootKnown;

/// No clock that shows less can be right.
const BUILT_US: i64 = EARLIEST_TIME * 1_000_000;
/// Servers that claim to live later than 30 years from then are not believed.
const FAR_FUTURE_US: i64 = BUILT_US + 30 * 365 * 86_400_000_000;
/// The system's clock is believed if it is this close to the server's. Over a restart of the agent it
/// may creep away by as much once more, and no time shall be wrong by much more than a second.
const AGREEMENT_US: i64 = 500_000;
/// What the buffer remembers of an offset lags behind what was believed by this much.
const NOTED_US: i64 = 200_000;
/// One that claims to be synchronised is believed up to here: the server's own may be wrong too.
const CLAIM_US: i64 = 3_600_000_000;
/// Two offsets that differ by less are one: a small gateway may be kept from its work for so long
/// between its looks at two clocks.
const SAME_US: i64 = 10_000;
/// How much the boot clock may drift: microseconds in a second. Cheap crystals do 20 to 50.
const DRIFT_PPM: i64 = 50;
/// How often the last good time is written down: flash wears.
const REMEMBER_EVERY: Duration = Duration::from_secs(3600);

/// The gateway's clock. Cheap to clone; every clone is the same clock.
#[derive(Clone)]
pub struct Clock(Arc<Inner>);

struct Inner {
    id: [u8; 8],
    /// Where the last good time is kept.
    file: PathBuf,
    machine: Machine,
    learnt: Mutex<Learnt>,
    /// Told when the server's time was heard.
    news: Notify,
}

struct Learnt {
    /// The present boot's number; 0 until the buffer is open.
    counter: u64,
    /// As the buffer knows them, the present one last; empty until it is open.
    boots: Vec<BootKnown>,
    /// Where they lie, and the belief about the present that this was worked out with.
    solved: Option<(Belief, Vec<Solved>)>,
    /// What the server's answers say.
    server: Option<Estimate>,
    /// Wall time that has certainly passed, microseconds since 1970. Goes up only.
    floor_us: i64,
    /// This boot began no earlier, if the buffer remembers one that learnt the time.
    begun_us: Option<i64>,
    remembered: Option<BootTime>,
    /// The system's clock claims to be synchronised, is not, and that was said.
    doubted: bool,
}

/// The wall offset according to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Estimate {
    offset_us: i64,
    uncertainty_us: i64,
    at: BootTime,
}

/// What to add to boot time, and whose word that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Belief {
    /// Microseconds to add to boot time for wall time.
    pub offset_us: i64,
    /// Where it comes from.
    pub source: Source,
}

/// Whom the gateway believes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The system's clock: it is synchronised, or the server says the same.
    System,
    /// The server: the system's clock is wrong.
    Server,
    /// Nobody: this is what the system's clock shows, and it may be anything.
    Nobody,
}

impl Belief {
    /// Can it be trusted?
    pub fn synchronised(&self) -> bool {
        self.source != Source::Nobody
    }
}

impl Source {
    /// The word for it in `/status` and `/metrics`.
    pub fn word(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Server => "server",
            Self::Nobody => "nobody",
        }
    }
}

/// The clock for brokers' and servers' certificates.
impl rustls::time_provider::TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        // A clock before 1970 has no say here.
        let believed = Duration::from_micros(self.wall_us().max(0) as u64);
        let floor = Duration::from_secs(self.tls_floor().max(0) as u64);
        Some(UnixTime::since_unix_epoch(believed.max(floor)))
    }
}

impl GatewayClock for Clock {
    fn earliest(&self) -> Option<UnixTime> {
        let floor = Duration::from_secs(self.tls_floor().max(0) as u64);
        (!self.belief().synchronised()).then(|| UnixTime::since_unix_epoch(floor))
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("belief", &self.belief()).finish_non_exhaustive()
    }
}

impl Clock {
    /// The clock of this boot, with the last good time found in `state_dir`. The boot has no number
    /// until [`Clock::place`].
    pub fn open(state_dir: &Path) -> Self {
        Self::open_on(Machine::this(), state_dir)
    }

    /// As [`Clock::open`], on a machine of one's own.
    pub fn open_on(machine: Machine, state_dir: &Path) -> Self {
        let file = state_dir.join("last-good-time");
        let kept = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse::<i64>().ok());
        let floor_us = kept.filter(|us| *us < FAR_FUTURE_US).unwrap_or(BUILT_US).max(BUILT_US);
        let learnt = Mutex::new(Learnt {
            counter: 0,
            boots: Vec::new(),
            solved: None,
            server: None,
            floor_us,
            begun_us: None,
            remembered: None,
            doubted: false,
        });
        let id = machine.short_boot_id();
        Self(Arc::new(Inner { id, file, machine, learnt, news: Notify::new() }))
    }

    /// The buffer is open: this is the `counter`th boot, and these are all it remembers.
    pub fn place(&self, counter: u64, boots: &[BootKnown]) {
        let shown = self.0.machine.shown();
        let mut boots: Vec<_> = boots.iter().copied().filter(|boot| boot.counter <= counter).collect();
        boots.sort_by_key(|boot| boot.counter);
        if boots.last().is_none_or(|last| last.counter < counter) {
            boots.push(BootKnown {
                counter,
                id: self.0.id,
                last_us: 0,
                believed_offset_us: shown.offset_us,
                first_offset_us: Some(shown.offset_us),
                synchronised: false,
                learnt_offset_us: None,
            });
        }
        self.learnt(|learnt| {
            // What an earlier run of the agent learnt in this boot is as good as ever.
            let told = boots.last().and_then(|present| {
                let at = BootTime(present.last_us.max(0));
                let uncertainty_us = NOTED_US;
                present.learnt_offset_us.map(|offset_us| Estimate { offset_us, uncertainty_us, at })
            });
            learnt.server = learnt.server.or(told);
            learnt.counter = counter;
            learnt.begun_us = earliest_start(&boots);
            learnt.boots = boots;
            learnt.solved = None;
        });
    }

    /// What is believed now.
    pub fn belief(&self) -> Belief {
        believe(self.0.machine.shown(), self.learnt(|learnt| learnt.server))
    }

    /// The wall offset, if the server was heard in this boot.
    pub fn confirmed_us(&self) -> Option<i64> {
        self.learnt(|learnt| learnt.server).map(|_| self.belief().offset_us)
    }

    /// How far the system's clock is ahead of what is believed, microseconds.
    pub fn system_ahead_us(&self) -> i64 {
        self.0.machine.shown().offset_us.saturating_sub(self.belief().offset_us)
    }

    /// The boot as a batch encoded now states it.
    pub fn boot(&self) -> Boot {
        let belief = self.belief();
        let (counter, synchronised) = (self.boot_counter(), belief.synchronised());
        Boot { counter, id: self.0.id, wall_offset_us: belief.offset_us, synchronised }
    }

    /// The boot's number; 0 until the buffer is open.
    pub fn boot_counter(&self) -> u64 {
        self.learnt(|learnt| learnt.counter)
    }

    /// Wall time now, microseconds since 1970, as believed.
    pub fn wall_us(&self) -> i64 {
        self.0.machine.boot_time().0.saturating_add(self.belief().offset_us)
    }

    /// The server said that it was `server_us` some time between question and answer.
    pub fn learn(&self, server_us: i64, asked: BootTime, answered: BootTime) {
        if !(BUILT_US..FAR_FUTURE_US).contains(&server_us) {
            return;
        }
        let heard = Estimate::from_answer(server_us, asked, answered);
        let shown = self.0.machine.shown();
        let apart_us = self.learnt(|learnt| {
            let server = learnt.server.map_or(heard, |known| known.better_of(heard));
            learnt.server = Some(server);
            learnt.floor_us = learnt.floor_us.max(server_us);
            let apart_us = shown.offset_us.saturating_sub(server.offset_us);
            let doubtful = shown.claims && !server.allows(shown.offset_us, CLAIM_US);
            let news = doubtful && !learnt.doubted;
            learnt.doubted = doubtful;
            news.then_some(apart_us)
        });
        if let Some(apart_us) = apart_us {
            let (apart, ahead) = (Duration::from_micros(apart_us.unsigned_abs()), apart_us > 0);
            warn!(
                "The system's clock is {} h {} the server's though it says that it is synchronised: somebody has set it since. The server's time is used until they agree; look at the clock of this gateway.",
                apart.as_secs() / 3600,
                if ahead { "ahead of" } else { "behind" },
            );
        }
        self.0.news.notify_one();
    }

    /// Asks who may keep the system's clock and does not say so by itself. Over within a second.
    pub async fn ask_keeper(&self) {
        self.0.machine.ask_keeper().await;
    }

    /// Looks at the system's clock. One that says that it is synchronised and is where the server's
    /// would be by now, as far as a crystal drifts, stands for it: should somebody set it later, what
    /// the server said long ago is not all that is left.
    pub fn follow(&self) {
        let (now, shown) = (self.0.machine.boot_time(), self.0.machine.shown());
        self.learnt(|learnt| {
            learnt.server = learnt.server.map(|server| server.followed(shown, now));
        });
    }

    /// Waits until the server's time was heard since the last call. One waiter at a time: `keeping`.
    pub async fn news(&self) {
        self.0.news.notified().await;
    }

    /// What to add to the wall offset of a batch that says `boot`, and where that comes from.
    pub fn correction(&self, boot: &Boot) -> (i64, wire::sent_batch::Clock) {
        let Boot { counter, id, wall_offset_us, synchronised } = *boot;
        let solved = self.solved(|solved| solved.id == id && (solved.counter == counter || id == self.0.id));
        solved.map_or((0, wire::sent_batch::Clock::Stated), |solved| {
            solved.differs(wall_offset_us, synchronised)
        })
    }

    /// A gap record as the server shall have it: both ends corrected as batches of their boots
    /// would be, and without the clocks they were written down by.
    pub fn resolve(&self, gap: wire::Gap) -> wire::Gap {
        let right = |us: i64, end: Option<wire::GapEnd>| {
            let Some(wire::GapEnd { boot, wall_offset_us, synchronised }) = end else { return us };
            let solved = self.solved(|solved| solved.counter == boot);
            us.saturating_add(solved.map_or(0, |solved| solved.differs(wall_offset_us, synchronised).0))
        };
        let (from_us, to_us) = (right(gap.from_us, gap.start), right(gap.to_us, gap.end));
        wire::Gap { from_us, to_us: to_us.max(from_us), start: None, end: None, ..gap }
    }

    /// Earlier boots that the buffer remembers and of which nobody knows exactly when they were.
    pub fn boots_unsure(&self) -> usize {
        self.with_solved(|solved| {
            let (_, earlier) = solved.split_last().unzip();
            earlier.unwrap_or(&[]).iter().filter(|boot| boot.sure != Sure::Exact).count()
        })
    }

    /// A moment that has certainly passed, in seconds since 1970; never an earlier one than before.
    /// TLS judges certificates by this or by the time believed, whichever is later, so that a gateway
    /// that wakes in 1970 still connects.
    pub fn tls_floor(&self) -> i64 {
        let now = self.0.machine.boot_time().0;
        let us = self.learnt(|learnt| {
            let offsets = [learnt.begun_us, learnt.server.map(|server| server.offset_us)];
            for offset_us in offsets.into_iter().flatten() {
                learnt.floor_us = learnt.floor_us.max(offset_us.saturating_add(now));
            }
            learnt.floor_us
        });
        us / 1_000_000
    }

    /// Writes the last good time down, now and then. Blocks for one small file.
    pub fn remember(&self) -> io::Result<()> {
        let now = self.0.machine.boot_time();
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

    fn solved(&self, wanted: impl Fn(&Solved) -> bool) -> Option<Solved> {
        self.with_solved(|solved| solved.iter().rev().copied().find(|solved| wanted(solved)))
    }

    /// Looks at the boots as they lie by what is believed now. Worked out anew only when that changed.
    fn with_solved<T>(&self, look: impl FnOnce(&[Solved]) -> T) -> T {
        let (now, belief) = (self.0.machine.boot_time(), self.belief());
        self.learnt(|learnt| {
            let same = |(then, _): &(Belief, _)| then.is_as_good_as(belief);
            if !learnt.solved.as_ref().is_some_and(same) {
                let mut boots = learnt.boots.clone();
                if let Some(present) = boots.last_mut() {
                    present.id = self.0.id;
                    present.last_us = present.last_us.max(now.0);
                    present.believed_offset_us = belief.offset_us;
                    present.synchronised = belief.synchronised();
                    present.learnt_offset_us = belief.synchronised().then_some(belief.offset_us);
                }
                learnt.solved = Some((belief, solve(&boots, BUILT_US..FAR_FUTURE_US)));
            }
            look(learnt.solved.as_ref().map_or(&[], |(_, solved)| solved))
        })
    }

    fn learnt<T>(&self, look: impl FnOnce(&mut Learnt) -> T) -> T {
        look(&mut self.0.learnt.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Belief {
    fn is_as_good_as(&self, other: Self) -> bool {
        let apart = self.offset_us.saturating_sub(other.offset_us).saturating_abs();
        self.synchronised() == other.synchronised() && apart <= SAME_US
    }
}

impl Solved {
    /// What to add to an offset that was stated in this boot.
    fn differs(&self, stated_us: i64, synchronised: bool) -> (i64, wire::sent_batch::Clock) {
        let us = self.offset_us.saturating_sub(stated_us);
        // NTP is better than what the server said, unless the clock was set by hand since.
        let near = if synchronised { CLAIM_US } else { SAME_US };
        match self.sure {
            Sure::Exact if us.saturating_abs() > near => (us, wire::sent_batch::Clock::Corrected),
            Sure::Exact | Sure::Believed => (0, wire::sent_batch::Clock::Stated),
            Sure::Bracketed { .. } => (us, wire::sent_batch::Clock::Bracketed),
        }
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

    /// The same, with the offset that the system's clock `shown` has now, where that can be so.
    fn followed(self, shown: Shown, now: BootTime) -> Self {
        let drift_us = now.0.saturating_sub(self.at.0).max(0) / CRYSTAL;
        if !shown.claims || !self.allows(shown.offset_us, drift_us) {
            return self;
        }
        Self { offset_us: shown.offset_us, at: now, ..self }
    }

    /// Is another offset within `tolerance_us` of what the server may have meant?
    fn allows(&self, offset_us: i64, tolerance_us: i64) -> bool {
        let apart = self.offset_us.saturating_sub(offset_us).saturating_abs();
        apart <= self.uncertainty_us.saturating_add(tolerance_us)
    }
}

fn believe(system: Shown, server: Option<Estimate>) -> Belief {
    let Shown { offset_us, claims } = system;
    // Somebody we do not know of (another NTP daemon, a battery clock) may keep it well: it jitters less.
    let tolerance = if claims { CLAIM_US } else { AGREEMENT_US };
    match server {
        None if claims => Belief { offset_us, source: Source::System },
        None => Belief { offset_us, source: Source::Nobody },
        Some(server) if server.allows(offset_us, tolerance) => Belief { offset_us, source: Source::System },
        Some(server) => Belief { offset_us: server.offset_us, source: Source::Server },
    }
}

/// A clock for tests, in a boot of their own choice.
#[cfg(test)]
impl Clock {
    pub(crate) fn with_boot_id(state_dir: &Path, counter: u64, id: [u8; 8]) -> Self {
        let mut boot_id = [0; 16];
        boot_id[..8].copy_from_slice(&id);
        let clock = Self::open_on(Machine::in_boot(boot_id), state_dir);
        clock.place(counter, &[]);
        clock
    }
}

#[cfg(test)]
mod tests;
