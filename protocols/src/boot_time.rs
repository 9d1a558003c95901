//! Boot time: microseconds since the kernel started, suspend included. The only clock that
//! schedules and stamps here; wall time may jump by ten years at any moment.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Microseconds of `CLOCK_BOOTTIME`. Never goes back while the machine is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootTime(pub i64);

impl BootTime {
    /// The present moment.
    pub fn now() -> Self {
        Self(micros(ClockId::Boottime))
    }

    /// How long ago `earlier` was; zero if it lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0).max(0) as u64)
    }
}

/// Wall clock as the system shows it now: microseconds since 1970-01-01 UTC. It may be wrong.
pub fn wall_micros() -> i64 {
    micros(ClockId::Realtime)
}

/// What must be added to boot time to get the system's wall clock, in microseconds.
pub fn wall_offset_micros() -> i64 {
    wall_micros() - BootTime::now().0
}

fn micros(clock: ClockId) -> i64 {
    let t = clock_gettime(clock);
    t.tv_sec * 1_000_000 + t.tv_nsec / 1_000
}
