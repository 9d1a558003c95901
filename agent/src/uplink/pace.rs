//! How large the next request is, and how many may be under way. Pure.
//!
//! - A request shall take about a second: small enough that nothing waits long behind it, large
//!   enough that the round trip does not matter. Its size follows from the bytes and the time of
//!   those before. Sizes at most double from one request to the next.
//! - Only a request of at least half the size that was aimed at says something about the link's
//!   rate; a smaller one had nothing more to carry. What small ones take is the round trip.
//! - Where the round trip is a good part of a full request's time the link is idle meanwhile: then
//!   one more request may be under way. There is one until that is measured, for on a metered
//!   link every connection costs.
//! - It is idle too while the server works on a large request. Beside a long backlog a second
//!   connection costs nothing, so there there are always two, unless requests are small.
//! - 413, no answer, and the server's word lower the size at once.

use std::time::Duration;

/// The first request after a start; the next ones grow.
const SMALL_REQUEST: usize = 64 << 10;
/// Requests are not planned smaller than this; one batch is sent even if it is larger.
pub(super) const LEAST_REQUEST: usize = 4 << 10;
/// After this many good answers a lowered ceiling is tried again.
pub(super) const CEILING_HOLDS_FOR: u32 = 16;
/// What a request shall take.
const AIM: Duration = Duration::from_secs(1);
/// A backlog of so many requests is long.
const LONG: u64 = 16;
/// Behind one that takes less, fresh readings wait; else they go on a line of their own.
const SHORT: Duration = Duration::from_millis(200);
/// One more request may be under way where the round trip is this part of a request's time …
const MORE_LANES: u32 = 25;
/// … and one less where it is only this part.
const FEWER_LANES: u32 = 50;

/// What is known of the way to the server.
#[derive(Clone, Debug)]
pub struct Pace {
    /// The most bytes of a request, by configuration.
    limit: usize,
    /// The most bytes the path takes, as far as it told.
    ceiling: usize,
    /// Good answers since the ceiling came down.
    good: u32,
    /// Bytes of the next request.
    bytes: usize,
    /// Bytes a second of full requests, smoothed.
    rate: Option<f64>,
    /// The time of a request that carries next to nothing.
    round_trip: Option<Duration>,
    lanes: usize,
    most_lanes: usize,
    /// The backlog is long.
    long: bool,
}

impl Pace {
    /// Knows nothing yet. `limit` is `uplink.max_request`; `most_lanes` requests may be under way.
    pub fn new(limit: usize, most_lanes: usize) -> Self {
        let limit = limit.max(LEAST_REQUEST);
        Self {
            limit,
            ceiling: limit,
            good: 0,
            bytes: limit.min(SMALL_REQUEST),
            rate: None,
            round_trip: None,
            lanes: 1,
            most_lanes: most_lanes.max(1),
            long: false,
        }
    }

    /// Bytes of the next request.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// As [`Self::bytes`], for the `nth` request in a row: beside others it is a fifth or two smaller.
    /// Equal ones that depart together are answered together, and until then the link is idle.
    pub fn bytes_of(&self, nth: u64) -> usize {
        let fifths = if self.lanes() > 1 { (nth % 3) as usize } else { 0 };
        (self.bytes - self.bytes / 5 * fifths).max(LEAST_REQUEST)
    }

    /// Requests with backlog that may be under way at once.
    pub fn lanes(&self) -> usize {
        let beside_long = self.long && self.rate.is_some() && self.is_wide();
        self.lanes.max(if beside_long { 2 } else { 1 }).min(self.most_lanes)
    }

    /// So many bytes are still to be sent.
    pub fn sees_backlog(&mut self, bytes: u64) {
        self.long = bytes >= LONG * self.bytes as u64;
    }

    /// Of small requests the envelope is a good part, and on a thin link it is paid for.
    fn is_wide(&self) -> bool {
        self.bytes >= self.ceiling.min(SMALL_REQUEST)
    }

    /// Will a request of this size be answered soon? Unknown links get the benefit of the doubt.
    pub fn is_short(&self, bytes: usize) -> bool {
        let carrying = self.rate.map_or(Duration::ZERO, |rate| seconds(bytes as f64 / rate.max(1.0)));
        carrying < SHORT
    }

    /// A request of `bytes` was answered well after `took`; the server takes requests of
    /// `server_takes` bytes, 0 if it did not say.
    pub fn answered(&mut self, bytes: usize, took: Duration, server_takes: usize) {
        self.good += 1;
        if self.good >= CEILING_HOLDS_FOR {
            self.good = 0;
            self.ceiling = self.ceiling.saturating_mul(2).min(self.limit);
        }
        if server_takes > 0 {
            // An eighth is left for the report and the envelope.
            self.ceiling = self.ceiling.min(server_takes / 8 * 7).max(LEAST_REQUEST);
        }
        let is_full = bytes >= self.bytes / 2;
        self.learn_round_trip(took, bytes < LEAST_REQUEST);
        if is_full {
            self.learn_rate(bytes, took);
            self.learn_lanes(took);
        }
        self.bytes = self.bytes.min(self.ceiling);
    }

    /// 413: `bytes` were too many.
    pub fn too_large(&mut self, bytes: usize) {
        self.good = 0;
        self.ceiling = (bytes.min(self.ceiling) / 2).max(LEAST_REQUEST);
        self.bytes = self.bytes.min(self.ceiling);
    }

    /// No answer: the path may be thin, or cut whatever is large. It may be another path next time.
    pub fn failed(&mut self) {
        self.bytes = (self.bytes / 2).max(LEAST_REQUEST);
        (self.rate, self.round_trip, self.lanes) = (None, None, 1);
    }

    fn learn_round_trip(&mut self, took: Duration, is_small: bool) {
        self.round_trip = Some(match self.round_trip {
            // The way has become longer: believed little by little, for it may be the server's day.
            Some(known) if is_small && known < took => known + (took - known) / 4,
            Some(known) => known.min(took),
            None => took,
        });
    }

    fn learn_rate(&mut self, bytes: usize, took: Duration) {
        let now = bytes as f64 / took.as_secs_f64().max(1e-3);
        let rate = self.rate.map_or(now, |rate| (rate + now) / 2.0);
        self.rate = Some(rate);
        // A request that aims at less than two round trips would shrink for ever on a long way.
        let aim = self.round_trip.map_or(AIM, |round_trip| AIM.max(2 * round_trip));
        let wanted = (rate * aim.as_secs_f64()) as usize;
        self.bytes =
            wanted.clamp(self.bytes / 4, self.bytes.saturating_mul(2)).clamp(LEAST_REQUEST, self.limit);
    }

    fn learn_lanes(&mut self, took: Duration) {
        let Some(round_trip) = self.round_trip.filter(|round_trip| *round_trip < took) else { return };
        // While requests still grow, the round trip is a large part of each on any link.
        let has_grown = self.bytes >= self.ceiling || took >= AIM / 2;
        if has_grown && self.is_wide() && round_trip * MORE_LANES >= took {
            self.lanes = (self.lanes + 1).min(self.most_lanes);
        } else if round_trip * FEWER_LANES < took {
            self.lanes = (self.lanes - 1).max(1);
        }
    }
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 1 << 20;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Full requests over a link; what each took, and what the last ones looked like.
    fn drain(
        pace: &mut Pace,
        bytes_a_second: f64,
        round_trip: Duration,
        requests: usize,
    ) -> Vec<(usize, Duration)> {
        pace.answered(500, round_trip, 4 << 20);
        let one = |pace: &mut Pace| {
            let bytes = pace.bytes();
            // Those under way share the link.
            let took = round_trip + seconds(bytes as f64 * pace.lanes() as f64 / bytes_a_second);
            pace.answered(bytes, took, 4 << 20);
            (bytes, took)
        };
        (0..requests).map(|_| one(pace)).collect()
    }

    #[test]
    fn requests_take_about_a_second_whatever_the_link() {
        // bytes a second | round trip, ms | bytes of a request: least and most
        let table = [
            (1_000.0, 300, LEAST_REQUEST, LEAST_REQUEST),
            (20_000.0, 200, 6_000, 20_000),
            (100_000.0, 20, 70_000, 110_000),
            (1_250_000.0, 20, 300_000, LIMIT),
            (100e6, 5, LIMIT, LIMIT),
            // A second is less than the way there and back: then as long as that.
            (100_000.0, 3_000, 60_000, 700_000),
        ];
        for (rate, round_trip, least, most) in table {
            let mut pace = Pace::new(LIMIT, 3);
            let last = drain(&mut pace, rate, ms(round_trip), 60).pop().unwrap().0;
            assert!((least..=most).contains(&last), "{last} bytes at {rate}/s and {round_trip} ms");
        }
    }

    #[test]
    fn the_size_doubles_at_most_and_shrinks_at_once_where_the_link_is_thin() {
        let mut pace = Pace::new(LIMIT, 1);
        let sizes: Vec<_> = drain(&mut pace, 100e6, ms(1), 6).iter().map(|(bytes, _)| bytes >> 10).collect();
        assert_eq!(sizes, [64, 128, 256, 512, 1024, 1024]);
        let mut pace = Pace::new(LIMIT, 1);
        let sizes: Vec<_> = drain(&mut pace, 8e3, ms(1), 3).iter().map(|(bytes, _)| bytes >> 10).collect();
        assert_eq!(sizes, [64, 16, 7]);
    }

    #[test]
    fn small_requests_say_nothing_of_the_rate() {
        let mut pace = Pace::new(LIMIT, 3);
        drain(&mut pace, 1_250_000.0, ms(50), 20);
        let before = (pace.bytes(), pace.lanes());
        for _ in 0..1000 {
            pace.answered(300, ms(60), 4 << 20);
        }
        assert_eq!((pace.bytes(), pace.lanes()), before);
    }

    #[test]
    fn further_lanes_open_only_where_the_round_trip_leaves_the_link_idle() {
        // bytes a second | round trip, ms | lanes
        for (rate, round_trip, least, most) in
            [(10_000.0, 5, 1, 1), (1_250_000.0, 1, 1, 1), (1_250_000.0, 100, 2, 3), (20e6, 600, 3, 3)]
        {
            let mut pace = Pace::new(LIMIT, 3);
            drain(&mut pace, rate, ms(round_trip), 40);
            let lanes = pace.lanes();
            assert!((least..=most).contains(&lanes), "{lanes} lanes at {rate}/s and {round_trip} ms");
        }
        let mut pace = Pace::new(LIMIT, 3);
        for _ in 0..1000 {
            pace.answered(300, ms(600), 0);
        }
        assert_eq!(pace.lanes(), 1, "a link without a backlog opens another connection");
    }

    #[test]
    fn beside_a_long_backlog_there_are_two_lanes_where_requests_are_not_small() {
        for (rate, backlog, lanes) in
            [(1_250_000.0, 1 << 30, 2), (1_250_000.0, 1 << 20, 1), (5_000.0, 1 << 30, 1)]
        {
            let mut pace = Pace::new(LIMIT, 3);
            pace.sees_backlog(backlog);
            assert_eq!(pace.lanes(), 1, "nothing is known of the link");
            drain(&mut pace, rate, ms(1), 20);
            pace.sees_backlog(backlog);
            assert_eq!(pace.lanes(), lanes, "{rate} bytes/s, {backlog} bytes");
        }
        let mut pace = Pace::new(LIMIT, 1);
        drain(&mut pace, 1_250_000.0, ms(1), 20);
        pace.sees_backlog(1 << 30);
        assert_eq!(pace.lanes(), 1, "in order there is never more than one");
    }

    #[test]
    fn a_failure_goes_back_to_one_lane_and_half_the_size() {
        let mut pace = Pace::new(LIMIT, 3);
        drain(&mut pace, 20e6, ms(600), 40);
        pace.failed();
        assert_eq!((pace.bytes(), pace.lanes()), (LIMIT / 2, 1));
        for _ in 0..100 {
            pace.failed();
        }
        assert_eq!(pace.bytes(), LEAST_REQUEST);
    }

    #[test]
    fn after_413_requests_stay_below_it_for_a_while() {
        let mut pace = Pace::new(LIMIT, 1);
        drain(&mut pace, 100e6, ms(1), 10);
        pace.too_large(800_000);
        for _ in 0..CEILING_HOLDS_FOR - 1 {
            assert!(pace.bytes() <= 400_000);
            pace.answered(pace.bytes(), ms(10), 0);
        }
        pace.answered(pace.bytes(), ms(10), 0);
        pace.answered(pace.bytes(), ms(10), 0);
        assert_eq!(pace.bytes(), 800_000, "tried again in the end");
    }

    #[test]
    fn the_server_names_its_largest_request() {
        let mut pace = Pace::new(LIMIT, 1);
        pace.answered(100, ms(1), 32 << 10);
        assert_eq!(pace.bytes(), 28 << 10);
    }

    proptest! {
        #[test]
        fn no_history_leads_outside_the_bounds(
            limit in 0usize..4 << 20,
            events in prop::collection::vec((0u8..3, 0usize..2 << 20, 0u64..100_000, 0usize..2 << 20), 0..200),
        ) {
            let mut pace = Pace::new(limit, 3);
            for (kind, bytes, took, takes) in events {
                match kind {
                    0 => pace.answered(bytes, ms(took), takes),
                    1 => pace.too_large(bytes),
                    _ => pace.failed(),
                }
                prop_assert!((LEAST_REQUEST..=limit.max(LEAST_REQUEST)).contains(&pace.bytes()));
                prop_assert!((1..=3).contains(&pace.lanes()));
            }
        }
    }
}
