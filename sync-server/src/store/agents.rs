//! An agent as the fleet shows it: what is known of it, and what follows from that: how far its stored
//! readings are behind, how long its backlog takes, what it sent today, how long its certificate lasts.

use forebay_protocols::sync::batch::Epoch;
use forebay_protocols::sync::wire;

use super::{AgentKey, Micros};

/// An agent that sends nothing for so long is called silent: a heartbeat comes every 60 s by default.
pub const SILENT_AFTER: Micros = 150_000_000;
const SECOND: Micros = 1_000_000;
const DAY: Micros = 86_400 * SECOND;
/// A gateway always has a few batches under way. What it makes in so many seconds is no backlog.
const UNDER_WAY_S: f64 = 60.0;
/// A backlog that takes longer than these seconds does not shrink, as far as anybody cares.
const FOR_EVER_S: f64 = 30.0 * 86_400.0;
/// Seconds over which a pace is smoothed.
const SMOOTH_S: f64 = 60.0;
/// Seconds from which on two reports tell for sure that a backlog turned.
const SURE_S: f64 = 10.0;

/// An agent as the fleet page shows it.
#[derive(Clone, Debug)]
pub struct AgentRow {
    /// The store's number of it.
    pub key: AgentKey,
    /// Where it stands.
    pub site: String,
    /// Its name there.
    pub gateway: String,
    /// When it first joined.
    pub joined: Micros,
    /// When its last delivery was received.
    pub last_seen: Option<Micros>,
    /// Was it revoked, and has not joined again since?
    pub revoked: bool,
    /// SHA-256 of the current certificate's DER; until when it is valid.
    pub certificate: Option<([u8; 32], Micros)>,
    /// The last report.
    pub report: Option<wire::Report>,
    /// Readings stored since the agent joined.
    pub stored: u64,
    /// Batches committed since the agent joined.
    pub committed_batches: u64,
    /// Batches set aside since the agent joined.
    pub set_aside: u64,
    /// The epoch of the last delivery.
    pub epoch: Option<Epoch>,
    /// How its readings come.
    pub pulse: Pulse,
}

/// How an agent's readings come.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pulse {
    /// The time of the newest reading that is stored; one from the future counts as of when it came.
    pub newest: Option<Micros>,
    /// What came from it.
    pub traffic: Traffic,
    /// Readings that waited by the last report and have not come since.
    pub waiting: u64,
    /// How its backlog changes; `None` before its buffer has reported twice.
    pub pace: Option<Pace>,
}

/// Bytes that came on one day: bodies of requests with batches, as they arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Days since 1970, UTC.
    pub day: i64,
    /// Bytes.
    pub bytes: u64,
}

impl Traffic {
    /// Of these bytes, which came at `at`.
    pub fn of(at: Micros, bytes: u64) -> Self {
        Self { day: at.div_euclid(DAY), bytes }
    }

    /// Both, of the later day.
    pub fn and(self, other: Self) -> Self {
        match self.day.cmp(&other.day) {
            std::cmp::Ordering::Less => other,
            std::cmp::Ordering::Equal => Self { bytes: self.bytes.saturating_add(other.bytes), ..self },
            std::cmp::Ordering::Greater => self,
        }
    }

    /// What came on the day of `now`.
    pub fn on_day_of(self, now: Micros) -> u64 {
        Self::of(now, 0).and(self).bytes
    }
}

/// How a backlog changed from report to report, smoothed over a minute. Readings a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// So many came to the server.
    pub came: f64,
    /// By so many the backlog shrank; below zero it grew.
    pub shrank: f64,
}

impl Pace {
    /// The pace after `before`, if in the next `seconds` so many readings came and the backlog shrank by so
    /// many.
    pub fn after(before: Option<Self>, seconds: f64, came: f64, shrank: f64) -> Option<Self> {
        if seconds <= 0.0 {
            return before;
        }
        let now = Self { came: came / seconds, shrank: shrank / seconds };
        let Some(before) = before else { return Some(now) };
        // An outage is over, or begins: how it was before says nothing any more.
        let has_turned = (before.shrank > 0.0) != (now.shrank > 0.0);
        if has_turned && seconds >= SURE_S {
            return Some(now);
        }
        let weight = (seconds / SMOOTH_S).min(1.0);
        let mixed = |before: f64, now: f64| before + (now - before) * weight;
        Some(Self { came: mixed(before.came, now.came), shrank: mixed(before.shrank, now.shrank) })
    }
}

/// What becomes of a backlog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    /// Nothing waits but what is under way.
    Nothing,
    /// It will be empty at this moment, if all goes on as it does.
    Until(Micros),
    /// It does not shrink.
    Never,
}

impl AgentRow {
    /// Microseconds since the newest stored reading was taken: how far what is stored is behind. `None`
    /// while nothing is stored.
    pub fn lag(&self, now: Micros) -> Option<Micros> {
        self.pulse.newest.map(|newest| now.saturating_sub(newest).max(0))
    }

    /// What becomes of the backlog; `None` while nobody can tell: the agent is silent, or has not reported
    /// twice.
    pub fn drain(&self, now: Micros) -> Option<Drain> {
        let is_heard = self.last_seen.is_some_and(|seen| now.saturating_sub(seen) <= SILENT_AFTER);
        let seen = self.last_seen.filter(|_| is_heard && !self.revoked && self.report.is_some())?;
        if self.pulse.waiting == 0 {
            return Some(Drain::Nothing);
        }
        let Pace { came, shrank } = self.pulse.pace?;
        let waiting = self.pulse.waiting as f64;
        let made = (came - shrank).max(0.0);
        if waiting <= made * UNDER_WAY_S {
            return Some(Drain::Nothing);
        }
        let seconds = waiting / shrank;
        if shrank <= 0.0 || seconds > FOR_EVER_S {
            return Some(Drain::Never);
        }
        Some(Drain::Until(seen.saturating_add((seconds * SECOND as f64) as Micros)))
    }

    /// Bytes of request bodies that came today, UTC.
    pub fn bytes_today(&self, now: Micros) -> u64 {
        self.pulse.traffic.on_day_of(now)
    }

    /// Whole days until the certificate ends; below zero once it has. `None` where there is none.
    pub fn certificate_days(&self, now: Micros) -> Option<i64> {
        self.certificate.map(|(_, until)| until.saturating_sub(now).div_euclid(DAY))
    }
}

/// From when to when an agent was not heard: between two deliveries that lay far apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Silence {
    /// When it was heard last.
    pub from: Micros,
    /// When it was heard again.
    pub to: Micros,
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Micros = 1_795_219_200_000_000;

    fn online(waiting: u64, pace: Option<(f64, f64)>) -> AgentRow {
        let pace = pace.map(|(came, shrank)| Pace { came, shrank });
        AgentRow {
            key: AgentKey(1),
            site: "hall".into(),
            gateway: "gate".into(),
            joined: 0,
            last_seen: Some(NOW - 10 * SECOND),
            revoked: false,
            certificate: None,
            report: Some(wire::Report::default()),
            stored: 0,
            committed_batches: 0,
            set_aside: 0,
            epoch: None,
            pulse: Pulse { waiting, pace, ..Pulse::default() },
        }
    }

    #[test]
    fn a_backlog_drains_at_the_pace_it_shrinks_or_does_not() {
        for (waiting, pace, is) in [
            (0, None, Some(Drain::Nothing)),
            (5_000, None, None),
            // 100 a second are made: 5,000 are under way.
            (5_000, Some((100.0, -2.0)), Some(Drain::Nothing)),
            (7_000, Some((100.0, -2.0)), Some(Drain::Never)),
            (7_000, Some((0.0, 0.0)), Some(Drain::Never)),
            // Of 600 that come each second 100 are fresh ones.
            (100_000, Some((600.0, 500.0)), Some(Drain::Until(NOW + 190 * SECOND))),
            (1_000_000, Some((100.1, 0.1)), Some(Drain::Never)),
        ] {
            assert_eq!(online(waiting, pace).drain(NOW), is, "{waiting} {pace:?}");
        }
        let mut gone = online(100_000, Some((600.0, 500.0)));
        gone.last_seen = Some(NOW - SILENT_AFTER - 1);
        assert_eq!(gone.drain(NOW), None, "what a silent gateway said last is not how it is");
        let revoked = AgentRow { revoked: true, ..online(0, None) };
        assert_eq!(revoked.drain(NOW), None);
    }

    #[test]
    fn a_pace_is_smoothed_and_a_turn_counts_at_once() {
        let pace = |came, shrank| Some(Pace { came, shrank });
        for (before, (seconds, came, shrank), after) in [
            (None, (20.0, 2_000.0, 1_000.0), pace(100.0, 50.0)),
            (pace(100.0, 50.0), (30.0, 6_000.0, 3_000.0), pace(150.0, 75.0)),
            // After an hour out of reach.
            (pace(0.0, -100.0), (20.0, 100_000.0, 98_000.0), pace(5_000.0, 4_900.0)),
            (pace(5_000.0, 4_900.0), (20.0, 2_000.0, -20.0), pace(100.0, -1.0)),
            // Two reports within a second may lie on both sides of one batch.
            (pace(100.0, 6.0), (1.0, 100.0, -54.0), pace(100.0, 5.0)),
            (pace(100.0, 6.0), (0.0, 100.0, -54.0), pace(100.0, 6.0)),
            (pace(100.0, 6.0), (3_600.0, 36_000.0, 36_000.0), pace(10.0, 10.0)),
        ] {
            assert_eq!(Pace::after(before, seconds, came, shrank), after, "{before:?}");
        }
    }

    #[test]
    fn bytes_are_of_one_day_by_the_calendar_of_utc() {
        let midnight = NOW;
        let yesterday = Traffic::of(midnight - 1, 700);
        assert_eq!(yesterday.on_day_of(midnight - SECOND), 700);
        assert_eq!(yesterday.on_day_of(midnight), 0, "a new day");
        let today = yesterday.and(Traffic::of(midnight, 20));
        assert_eq!(today.on_day_of(midnight + DAY - 1), 20);
        assert_eq!(today.and(yesterday), today, "a server whose clock is late");
        assert_eq!(today.and(Traffic::of(midnight + 5, 3)).bytes, 23);
    }

    #[test]
    fn lag_and_days_left_are_told_from_the_moment_of_the_question() {
        let mut row = online(0, None);
        assert_eq!((row.lag(NOW), row.certificate_days(NOW)), (None, None));
        row.pulse.newest = Some(NOW - 3 * SECOND);
        assert_eq!(row.lag(NOW), Some(3 * SECOND));
        assert_eq!(row.lag(NOW - 5 * SECOND), Some(0), "another server's clock is ahead");
        for (until, days) in [(NOW + 41 * DAY + 1, 41), (NOW + DAY - 1, 0), (NOW - 1, -1)] {
            row.certificate = Some(([0; 32], until));
            assert_eq!(row.certificate_days(NOW), Some(days));
        }
    }
}
