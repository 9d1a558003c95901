//! Intervals in which readings were never taken: a device did not answer, or the agent did not run.
//! What was taken and is gone is the buffer's to tell.
//!
//! Link tasks note in [`Silences`] who answers, which costs them a lock and never a wait; the
//! [`Recorder`] carries what is over to the buffer. A silence is recorded when it ends, when the
//! agent ends, and piece by piece while it lasts: so the server sees a long one before it is over,
//! and at most half of it is forgotten with the power. It begins with the last answer and ends with
//! the first, by boot time; wall time is worked out when it is sent.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use forebay_protocols::boot_time::BootTime;
use forebay_protocols::sync::batch::Boot;
use forebay_protocols::sync::wire;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::buffer::{Buffer, BufferError, LastRun};
use crate::clock::Clock;
use crate::roster::Roster;

/// An agent that is back sooner missed no reading worth a record: the shortest usual interval is a
/// second, and the last batch before the end was up to a window old.
const SHORTEST_DOWN: Duration = Duration::from_secs(2);
/// The pieces in which a silence is recorded while it lasts: as long as it is old already, within
/// these limits.
const PIECES: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));
/// How often the recorder looks.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Silences of a link that may wait for the buffer; beyond it those of one device become one.
const MOST_WAITING: usize = 256;

/// Who of a link answers. Cheap to clone; every clone is the same.
#[derive(Clone, Debug, Default)]
pub struct Silences(Arc<Mutex<Watch>>);

#[derive(Debug, Default)]
struct Watch {
    devices: BTreeMap<Arc<str>, Course>,
    /// When the link brought anything last.
    link_heard: Option<BootTime>,
    over: VecDeque<Silence>,
}

/// How one device is.
#[derive(Debug)]
struct Course {
    /// When it answered last; when it was first expected to, if it never did.
    heard: BootTime,
    silent: Option<Spell>,
}

/// A silence that lasts.
#[derive(Clone, Copy, Debug)]
struct Spell {
    /// The last answer before.
    since: BootTime,
    /// Up to here it is recorded.
    from: BootTime,
}

/// An interval in which a device did not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Silence {
    /// The device's name.
    pub device: Arc<str>,
    /// The last answer before.
    pub from: BootTime,
    /// The first answer after, or now.
    pub to: BootTime,
}

impl Silences {
    /// This device is there, or should be, from `at` on.
    pub fn expect(&self, device: &Arc<str>, at: BootTime) {
        let mut watch = self.watch();
        if !watch.devices.contains_key(device) {
            watch.devices.insert(device.clone(), Course { heard: at, silent: None });
        }
    }

    /// The link brought something, and in it these devices answered.
    pub fn heard(&self, answers: impl IntoIterator<Item = (Arc<str>, BootTime)>, at: BootTime) {
        let mut watch = self.watch();
        watch.link_heard = Some(at);
        for (device, at) in answers {
            watch.answered(device, at);
        }
    }

    /// This device does not answer, says the driver.
    pub fn silent(&self, device: &str) {
        if let Some(course) = self.watch().devices.get_mut(device) {
            course.silent.get_or_insert(Spell::since(course.heard));
        }
    }

    /// The link is down. A device that seldom speaks was not silent before the link was.
    pub fn link_lost(&self) {
        let mut watch = self.watch();
        let link_heard = watch.link_heard;
        for course in watch.devices.values_mut() {
            let heard = link_heard.map_or(course.heard, |link| link.max(course.heard));
            course.silent.get_or_insert(Spell::since(heard));
        }
    }

    /// Takes what is over, and the pieces of what lasts.
    pub(crate) fn take(&self, now: BootTime, lasting: Lasting) -> Vec<Silence> {
        let mut watch = self.watch();
        let mut taken: Vec<_> = watch.over.drain(..).collect();
        for (device, course) in &mut watch.devices {
            let Some(spell) = &mut course.silent else { continue };
            let from = spell.from;
            if now.since(from) >= spell.piece(lasting) && now > from {
                taken.push(Silence { device: device.clone(), from, to: now });
                spell.from = now;
            }
        }
        taken
    }

    fn watch(&self) -> MutexGuard<'_, Watch> {
        // Whatever panicked beside it, every course is whole by itself.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What to take of silences that last.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lasting {
    /// The pieces that are due.
    Pieces,
    /// All: the agent ends.
    All,
}

impl Spell {
    fn since(since: BootTime) -> Self {
        Self { since, from: since }
    }

    /// How long the next piece must be.
    fn piece(&self, lasting: Lasting) -> Duration {
        match lasting {
            Lasting::Pieces => self.from.since(self.since).clamp(PIECES.0, PIECES.1),
            Lasting::All => Duration::ZERO,
        }
    }
}

impl Watch {
    fn answered(&mut self, device: Arc<str>, at: BootTime) {
        let Some(course) = self.devices.get_mut(&device) else {
            self.devices.insert(device, Course { heard: at, silent: None });
            return;
        };
        course.heard = course.heard.max(at);
        let Some(Spell { from, .. }) = course.silent.take() else { return };
        if at <= from {
            return;
        }
        let waiting = &mut self.over;
        if waiting.len() >= MOST_WAITING
            && let Some(known) = waiting.iter_mut().rev().find(|known| known.device == device)
        {
            // Too much rather than too little: a gap may cover readings, but none may lack a gap.
            known.to = at;
            return;
        }
        waiting.push_back(Silence { device, from, to: at });
    }
}

/// Gaps recorded since the agent started. Cheap to clone; every clone is the same count.
#[derive(Clone, Debug, Default)]
pub struct Tally(Arc<(AtomicU64, AtomicU64)>);

impl Tally {
    /// Of devices that did not answer.
    pub fn device_silent(&self) -> u64 {
        self.0.0.load(Ordering::Relaxed)
    }

    /// Of times when the agent did not run.
    pub fn agent_down(&self) -> u64 {
        self.0.1.load(Ordering::Relaxed)
    }
}

/// Carries gaps to the buffer.
#[derive(Clone)]
pub struct Recorder {
    /// Of every link.
    pub links: Roster,
    /// The clock that both ends are written down by.
    pub clock: Clock,
    /// What was recorded.
    pub tally: Tally,
}

impl Recorder {
    /// Records silences every `every`, until `stop`.
    pub async fn run(
        &self,
        buffer: &Buffer,
        every: Duration,
        stop: &CancellationToken,
    ) -> Result<(), BufferError> {
        while timeout(every, stop.cancelled()).await.is_err() {
            self.record_silences(buffer, Lasting::Pieces).await?;
        }
        Ok(())
    }

    /// Records what is silent still: the agent ends.
    pub async fn finish(&self, buffer: &Buffer) -> Result<(), BufferError> {
        self.record_silences(buffer, Lasting::All).await
    }

    /// Records that the agent was down since its last life, if it was.
    pub async fn agent_was_down(
        &self,
        buffer: &Buffer,
        last_run: Option<LastRun>,
        started: BootTime,
    ) -> Result<(), BufferError> {
        if let Some(gap) = last_run.and_then(|last_run| down_since(last_run, started, self.clock.boot())) {
            buffer.record_gap(gap).await?;
            self.tally.0.1.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn record_silences(&self, buffer: &Buffer, lasting: Lasting) -> Result<(), BufferError> {
        let now = BootTime::now();
        for Silence { device, from, to } in self.links.take_silences(now, lasting) {
            let here = self.clock.boot();
            buffer
                .record_gap(wire::Gap {
                    from_us: from.0.saturating_add(here.wall_offset_us),
                    to_us: to.0.saturating_add(here.wall_offset_us),
                    reason: wire::gap::Reason::DeviceSilent.into(),
                    device: device.to_string(),
                    start: Some(end(here)),
                    end: Some(end(here)),
                    ..wire::Gap::default()
                })
                .await?;
            self.tally.0.0.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// The gap between a life of the agent and this one. Over a boot its length is not known here: the
/// clock may say anything, and no gateway boots so fast that nothing was missed.
fn down_since(last_run: LastRun, started: BootTime, here: Boot) -> Option<wire::Gap> {
    let LastRun { boot, until_us, wall_offset_us, synchronised, clean: _ } = last_run;
    if boot == here.counter && started.since(BootTime(until_us)) < SHORTEST_DOWN {
        return None;
    }
    Some(wire::Gap {
        from_us: until_us.saturating_add(wall_offset_us),
        to_us: started.0.saturating_add(here.wall_offset_us),
        reason: wire::gap::Reason::AgentDown.into(),
        start: Some(wire::GapEnd { boot, wall_offset_us, synchronised }),
        end: Some(end(here)),
        ..wire::Gap::default()
    })
}

fn end(boot: Boot) -> wire::GapEnd {
    let Boot { counter, id: _, wall_offset_us, synchronised } = boot;
    wire::GapEnd { boot: counter, wall_offset_us, synchronised }
}

#[cfg(test)]
mod tests;
