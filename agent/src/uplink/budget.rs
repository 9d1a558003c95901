//! What the uplink may spend: bytes a second, bytes a day, hours of the day. Pure.
//!
//! - **Bandwidth** is a bucket that fills at the rate and may be overdrawn by one request: a request
//!   goes while the bucket is not empty, and what it really took on the wire is taken out. So the
//!   average over some seconds is the rate, whatever the overhead. The backlog waits until the
//!   bucket has something for it; fresh readings may overdraw it by two seconds, and so go first.
//! - **A day** is the last 24 hours by a clock that never jumps, in 96 parts: there is no midnight at
//!   which twice the budget goes. The backlog stops at half of it, so that fresh readings have the
//!   other half; a last part is left to heartbeats, one an hour, when all else is spent.
//!   The count is kept in memory: a restart of the agent begins a new one.
//! - **Hours** hold back the backlog only, by UTC.

use std::collections::VecDeque;
use std::time::Duration;

use forebay_config::agent::Hours;
use forebay_config::units::ByteSize;

/// How much of the rate may lie in the bucket: an idle minute buys no burst of a minute.
const BUCKET: Duration = Duration::from_secs(1);
/// How far fresh readings may overdraw it.
const OVERDRAFT: Duration = Duration::from_secs(2);
/// A request takes about this much of the rate, so that nothing waits long behind it.
const REQUEST: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// A day's count forgets in these steps.
const PART: Duration = Duration::from_secs(15 * 60);
/// Of a day's budget, this part is for heartbeats, and at most so much.
const FOR_HEARTBEATS: (u64, u64) = (16, 256 << 10);
/// While the budget of a day is spent.
pub const SPARSE_HEARTBEAT: Duration = Duration::from_secs(3600);

/// The limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes a second.
    pub bandwidth: Option<ByteSize>,
    /// Bytes in any 24 hours.
    pub daily: Option<ByteSize>,
    /// When the backlog goes.
    pub hours: Option<Hours>,
}

/// What may go now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leave {
    /// Readings just taken.
    pub fresh: bool,
    /// Older ones.
    pub backlog: bool,
    /// A request with anything but a report should not be larger.
    pub most: usize,
    /// The budget of the day is spent: heartbeats go at [`SPARSE_HEARTBEAT`].
    pub spent: bool,
    /// When to ask again, if something is held back.
    pub again: Option<Duration>,
}

impl Leave {
    /// Nothing is limited.
    #[cfg(test)]
    pub const FREE: Self = Self { fresh: true, backlog: true, most: usize::MAX, spent: false, again: None };
}

/// What was spent, and what may be. Moments are a duration since any fixed one.
#[derive(Clone, Debug)]
pub struct Budget {
    limits: Limits,
    /// Bytes in the bucket; less than nothing while it is overdrawn.
    bucket: f64,
    filled: Duration,
    /// What the meter showed when it was read last.
    meter: u64,
    /// Bytes by parts of a day, oldest first, each with its number.
    parts: VecDeque<(u64, u64)>,
}

impl Budget {
    /// A bucket that is full, and a day in which nothing was spent.
    pub fn new(limits: Limits, now: Duration) -> Self {
        let bucket = limits.bandwidth.map_or(0.0, |rate| rate.0 as f64 * BUCKET.as_secs_f64());
        Self { limits, bucket, filled: now, meter: 0, parts: VecDeque::new() }
    }

    /// The meter shows this many bytes since it was made.
    pub fn read(&mut self, meter: u64, now: Duration) {
        let spent = meter.saturating_sub(self.meter);
        self.meter = self.meter.max(meter);
        self.fill(now);
        self.bucket -= spent as f64;
        let part = part_of(now);
        self.forget(part);
        match self.parts.back_mut() {
            Some((last, bytes)) if *last == part => *bytes += spent,
            _ if spent > 0 => self.parts.push_back((part, spent)),
            _ => {}
        }
    }

    /// What may go now, while requests of `in_flight` bytes are on their way, which the meter may
    /// not have seen yet. `minute` is the minute of the day in UTC.
    pub fn leave(&mut self, in_flight: usize, minute: u16, now: Duration) -> Leave {
        self.fill(now);
        self.forget(part_of(now));
        let mut leave = Leave { fresh: true, backlog: true, most: usize::MAX, spent: false, again: None };
        if let Some(ByteSize(rate)) = self.limits.bandwidth {
            let rate = rate as f64;
            leave.most = (rate * REQUEST.as_secs_f64()) as usize;
            leave.fresh = self.bucket > -rate * OVERDRAFT.as_secs_f64();
            let left = self.bucket - in_flight as f64;
            leave.backlog = left > 0.0;
            if !leave.backlog {
                let until_backlog = -left / rate;
                let until_fresh = (-self.bucket / rate - OVERDRAFT.as_secs_f64()).max(0.0);
                let wait = if leave.fresh { until_backlog } else { until_fresh };
                // A little later, for the bucket must have more than nothing.
                leave.again = Some(Duration::from_secs_f64(wait.clamp(0.0, 60.0) + 0.01));
            }
        }
        if self.limits.hours.is_some_and(|hours| !hours.contains(minute)) {
            leave.backlog = false;
            leave.again = Some(leave.again.unwrap_or(Duration::MAX).min(Duration::from_secs(60)));
        }
        if let Some(ByteSize(daily)) = self.limits.daily {
            let spent = self.spent().saturating_add(in_flight as u64);
            let (part, most) = FOR_HEARTBEATS;
            let for_readings = daily - (daily / part).min(most);
            leave.spent = spent >= for_readings;
            leave.fresh &= !leave.spent;
            leave.backlog &= spent < for_readings / 2;
            // The last request does not go far beyond it.
            leave.most =
                leave.most.min(usize::try_from(for_readings.saturating_sub(spent)).unwrap_or(usize::MAX));
            if !leave.backlog {
                leave.again = Some(leave.again.unwrap_or(Duration::MAX).min(Duration::from_secs(60)));
            }
        }
        leave
    }

    /// Bytes of the last 24 hours.
    pub fn spent(&self) -> u64 {
        self.parts.iter().map(|(_, bytes)| bytes).sum()
    }

    fn fill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.filled).as_secs_f64();
        self.filled = self.filled.max(now);
        let rate = self.limits.bandwidth.map_or(0.0, |rate| rate.0 as f64);
        self.bucket = (self.bucket + rate * passed).min(rate * BUCKET.as_secs_f64());
    }

    /// One part more than a day is kept: the oldest one may have begun less than a day ago.
    fn forget(&mut self, part: u64) {
        let parts = DAY.as_secs() / PART.as_secs();
        while self.parts.front().is_some_and(|(number, _)| number + parts < part) {
            self.parts.pop_front();
        }
    }
}

fn part_of(now: Duration) -> u64 {
    now.as_secs() / PART.as_secs()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOON: u16 = 12 * 60;

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn limited(bandwidth: u64) -> Budget {
        let limits = Limits { bandwidth: Some(ByteSize(bandwidth)), ..Limits::default() };
        Budget::new(limits, Duration::ZERO)
    }

    #[test]
    fn without_limits_everything_may_go_at_once() {
        let mut budget = Budget::new(Limits::default(), Duration::ZERO);
        budget.read(u64::MAX, Duration::ZERO);
        assert_eq!(budget.leave(usize::MAX, NOON, Duration::ZERO), Leave::FREE);
    }

    #[test]
    fn fresh_readings_overdraw_the_bucket_that_the_backlog_waits_for() {
        let mut budget = limited(1000);
        // bytes the meter showed | seconds | fresh | backlog
        let table = [
            (0, 0.0, true, true),
            (999, 0.0, true, true),
            (1000, 0.0, true, false),
            (2999, 0.0, true, false),
            (3000, 0.0, false, false),
            (3000, 0.1, true, false),
            (3000, 1.9, true, false),
            (3000, 2.1, true, true),
            (3000, 100.0, true, true),
            // An hour of silence buys one second's worth, no more.
            (4000, 100.0, true, false),
        ];
        for (meter, at, fresh, backlog) in table {
            budget.read(meter, seconds(at));
            let leave = budget.leave(0, NOON, seconds(at));
            assert_eq!((leave.fresh, leave.backlog, leave.spent), (fresh, backlog, false), "{meter} at {at}");
            assert_eq!(leave.most, 1000);
        }
    }

    #[test]
    fn what_is_on_its_way_counts_for_the_backlog_before_the_meter_sees_it() {
        let mut budget = limited(1000);
        assert!(budget.leave(999, NOON, Duration::ZERO).backlog);
        let leave = budget.leave(1500, NOON, Duration::ZERO);
        assert!(leave.fresh && !leave.backlog);
        assert_eq!(leave.again, Some(Duration::from_millis(510)));
    }

    #[test]
    fn outside_its_hours_the_backlog_waits_and_fresh_readings_go() {
        let hours = Hours::new(22 * 60, 6 * 60);
        let mut budget = Budget::new(Limits { hours, ..Limits::default() }, Duration::ZERO);
        for (minute, goes) in
            [(NOON, false), (22 * 60 - 1, false), (22 * 60, true), (0, true), (6 * 60, false)]
        {
            let leave = budget.leave(0, minute, Duration::ZERO);
            assert_eq!((leave.fresh, leave.backlog), (true, goes), "{minute}");
            assert_eq!(leave.again.is_some(), !goes, "nobody looks at the clock again");
        }
    }

    #[test]
    fn a_day_s_budget_leaves_half_to_fresh_readings_and_the_last_part_to_heartbeats() {
        let daily = Some(ByteSize::mib(16));
        let mut budget = Budget::new(Limits { daily, ..Limits::default() }, Duration::ZERO);
        let for_readings = (16 << 20) - (256 << 10);
        let hour = |hour: f64| seconds(hour * 3600.0);
        let table = [
            (for_readings / 2 - 1, 0.0, true, true),
            (for_readings / 2, 1.0, true, false),
            (for_readings - 1, 2.0, true, false),
            (for_readings, 3.0, false, false),
            (for_readings, 23.9, false, false),
            // The first half has passed out of the last 24 hours.
            (for_readings, 24.5, true, false),
            (for_readings, 25.5, true, false),
            (for_readings, 26.5, true, true),
            (for_readings, 60.0, true, true),
        ];
        for (meter, at, fresh, backlog) in table {
            budget.read(meter, hour(at));
            let leave = budget.leave(0, NOON, hour(at));
            assert_eq!(
                (leave.fresh, leave.backlog, leave.spent),
                (fresh, backlog, !fresh),
                "{meter} at {at} h"
            );
        }
    }

    proptest! {
        /// Whoever asks before each request, and sends no larger ones than it was told, keeps to the
        /// rate and to the day's budget, with the overhead of one request to spare.
        #[test]
        fn nobody_who_asks_spends_more_than_the_budget(
            rate in 1_000u64..200_000,
            daily in 1u64 << 20..100 << 20,
            turns in prop::collection::vec((0.0f64..3000.0, any::<bool>(), 0.0f64..1.0), 1..300),
        ) {
            let limits = Limits { bandwidth: Some(ByteSize(rate)), daily: Some(ByteSize(daily)), hours: None };
            let mut budget = Budget::new(limits, Duration::ZERO);
            let (mut now, mut meter) = (0.0, 0u64);
            let mut history: Vec<(f64, u64)> = Vec::new();
            for (pause, fresh, size) in turns {
                now += pause;
                let leave = budget.leave(0, NOON, seconds(now));
                if (fresh && leave.fresh) || leave.backlog {
                    let bytes = (leave.most as f64 * size) as u64;
                    meter += bytes;
                    budget.read(meter, seconds(now));
                    history.push((now, bytes));
                }
            }
            for (from, (began, _)) in history.iter().enumerate() {
                let mut spent = 0;
                for (at, bytes) in &history[from..] {
                    spent += bytes;
                    let most = rate as f64 * (at - began + 4.0);
                    prop_assert!(spent as f64 <= most, "{spent} in {} s at {rate}/s", at - began);
                    prop_assert!(spent <= daily || at - began >= 86_400.0, "{spent} of {daily} in a day");
                }
            }
        }
    }
}
