//! The breaker of one unit. A unit that does not answer is left alone for a while that doubles
//! with every further silence, so that it costs the others one timeout per pause and no more.
//!
//! It also guards against late answers on RTU, which has no transaction ids: while a unit is
//! silent only the query that timed out is repeated, so that an answer to an older attempt is
//! still the answer to this question; and the pause starts at twice the timeout and is forgotten
//! only after two answers in a row, so that a unit that is always late gets ever more time to
//! finish before it is asked anything else.

use std::time::Duration;

use tokio::time::Instant;

/// Answers in a row after which earlier silences are forgotten.
const TRUSTED_AFTER: u8 = 2;
/// Garbled answers in a row that count as a silence.
const GARBLED_LIMIT: u8 = 2;

/// Whether a unit answers, and when it may be asked again.
#[derive(Clone, Debug)]
pub struct Breaker {
    state: State,
    shortest: Duration,
    longest: Duration,
    next_pause: Duration,
    answers_in_a_row: u8,
    garbled_in_a_row: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Never heard of.
    Unknown,
    Answers,
    Silent {
        until: Instant,
        /// The query that timed out, by the bus's number.
        asked: usize,
    },
}

impl Breaker {
    /// For a unit with this timeout, on a link with this longest pause.
    pub fn new(timeout: Duration, longest: Duration) -> Self {
        let shortest = (timeout * 2).max(Duration::from_secs(1)).min(longest);
        Self {
            state: State::Unknown,
            shortest,
            longest,
            next_pause: shortest,
            answers_in_a_row: 0,
            garbled_in_a_row: 0,
        }
    }

    /// When a query that is due at `due` may go out; `None`: not before the unit answers again.
    pub fn admits(&self, query: usize, due: Instant) -> Option<Instant> {
        match self.state {
            State::Unknown | State::Answers => Some(due),
            State::Silent { until, asked } => (asked == query).then_some(until),
        }
    }

    /// Is a query being waited for that was not answered?
    pub fn is_silent(&self) -> bool {
        matches!(self.state, State::Silent { .. })
    }

    /// Did it answer when it was asked last?
    pub fn answers(&self) -> bool {
        self.state == State::Answers
    }

    /// The unit answered anything at all. True if that is news.
    pub fn answered(&mut self) -> bool {
        self.garbled_in_a_row = 0;
        self.answers_in_a_row = self.answers_in_a_row.saturating_add(1);
        if self.answers_in_a_row >= TRUSTED_AFTER {
            self.next_pause = self.shortest;
        }
        std::mem::replace(&mut self.state, State::Answers) != State::Answers
    }

    /// The unit did not answer this query. True if that is news.
    pub fn silent(&mut self, query: usize, now: Instant) -> bool {
        let was_silent = self.is_silent();
        self.state = State::Silent { until: now + self.next_pause, asked: query };
        self.next_pause = (self.next_pause * 2).min(self.longest);
        self.answers_in_a_row = 0;
        self.garbled_in_a_row = 0;
        !was_silent
    }

    /// Bytes came that were no answer. True if it must now be taken for silent, because noise
    /// costs the bus as much time as silence does.
    pub fn garbled(&mut self) -> bool {
        self.answers_in_a_row = 0;
        self.garbled_in_a_row += 1;
        self.garbled_in_a_row >= GARBLED_LIMIT || self.is_silent()
    }

    /// The connection is new: the unit may be asked at once. That it was silent is remembered.
    pub fn ask_again(&mut self, now: Instant) {
        if let State::Silent { until, .. } = &mut self.state {
            *until = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(1);

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let mut breaker = Breaker::new(TIMEOUT, seconds(10));
        let now = Instant::now();
        let pauses: Vec<_> = (0..5)
            .map(|_| {
                breaker.silent(3, now);
                breaker.admits(3, now).unwrap() - now
            })
            .collect();
        assert_eq!(pauses, [seconds(2), seconds(4), seconds(8), seconds(10), seconds(10)]);
    }

    #[test]
    fn a_silent_unit_is_asked_only_what_it_did_not_answer() {
        let mut breaker = Breaker::new(TIMEOUT, seconds(10));
        let now = Instant::now();
        assert_eq!(breaker.admits(1, now), Some(now));
        assert!(breaker.silent(2, now));
        assert!(!breaker.silent(2, now), "silence is news once");
        assert_eq!(breaker.admits(1, now), None);
        assert!(breaker.admits(2, now).is_some());
        assert!(breaker.answered());
        assert!(!breaker.answered(), "an answer is news once");
        assert_eq!(breaker.admits(1, now), Some(now));
    }

    #[test]
    fn one_answer_does_not_yet_shorten_the_next_pause() {
        let mut breaker = Breaker::new(TIMEOUT, seconds(60));
        let now = Instant::now();
        breaker.silent(0, now);
        breaker.answered();
        breaker.silent(0, now);
        assert_eq!(breaker.admits(0, now), Some(now + seconds(4)));
        breaker.answered();
        breaker.answered();
        breaker.silent(0, now);
        assert_eq!(breaker.admits(0, now), Some(now + seconds(2)));
    }

    #[test]
    fn noise_twice_in_a_row_counts_as_silence() {
        let mut breaker = Breaker::new(TIMEOUT, seconds(60));
        assert!(!breaker.garbled());
        breaker.answered();
        assert!(!breaker.garbled());
        assert!(breaker.garbled());
    }

    #[test]
    fn the_longest_pause_wins_over_the_shortest() {
        let mut breaker = Breaker::new(TIMEOUT, Duration::from_millis(50));
        let now = Instant::now();
        breaker.silent(0, now);
        assert_eq!(breaker.admits(0, now), Some(now + Duration::from_millis(50)));
    }
}
