//! A timer that is exact to some ten microseconds. The runtime's own ticks in milliseconds, and the
//! silence between two frames on a fast serial line is 1.75 of them.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;

/// A timer of the kernel's.
#[derive(Debug)]
pub struct FineTimer(AsyncFd<OwnedFd>);

impl FineTimer {
    /// A new one. To be called within a runtime.
    ///
    /// # Errors
    /// When the kernel has none left to give.
    pub fn new() -> io::Result<Self> {
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe for what any file could do; an OwnedFd cannot"
        )]
        let timer = AsyncFd::new(timer)?;
        Ok(Self(timer))
    }

    /// Returns after `time`. One wait at a time: the next one ends an earlier one unheard.
    ///
    /// # Errors
    /// When the kernel refuses; then no time has passed.
    pub async fn wait(&self, time: Duration) -> io::Result<()> {
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        // A timer set to zero never ends.
        let time = time.max(Duration::from_nanos(1));
        let value = Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: time.subsec_nanos().into(),
        };
        let setting = Itimerspec { it_interval: at_once, it_value: value };
        timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &setting)?;
        loop {
            let mut ready = self.0.readable().await?;
            let mut expirations = [0; 8];
            if let Ok(read) = ready.try_io(|timer| Ok(rustix::io::read(timer.get_ref(), &mut expirations)?)) {
                return read.map(drop);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn a_wait_lasts_no_shorter_than_it_should_and_mostly_hardly_longer() {
        let timer = FineTimer::new().unwrap();
        let time = Duration::from_micros(1_300);
        let mut waits = Vec::new();
        for _ in 0..50 {
            let before = Instant::now();
            timer.wait(time).await.unwrap();
            waits.push(before.elapsed());
        }
        waits.sort_unstable();
        assert!(waits[0] >= time, "{waits:?}");
        // The runtime's own timer would take 2 ms at least. The best of many, on a busy machine.
        assert!(waits[5] < Duration::from_micros(1_900), "{waits:?}");
    }

    #[tokio::test]
    async fn a_wait_that_was_given_up_does_not_end_the_next_one() {
        let timer = FineTimer::new().unwrap();
        let short = Duration::from_millis(20);
        assert!(tokio::time::timeout(short / 10, timer.wait(short)).await.is_err());
        std::thread::sleep(short * 2);
        let before = Instant::now();
        timer.wait(short).await.unwrap();
        assert!(before.elapsed() >= short);
        timer.wait(Duration::ZERO).await.unwrap();
    }
}
