//! A backlog of hundreds of MiB drains through a thin link while readings go on: state, pace and
//! budget together, over a simulated link whose bytes are shared fairly by the requests under way.

use std::collections::VecDeque;

use forebay_protocols::sync::wire::sync_answer;

use super::*;
use crate::uplink::budget::{Budget, Limits};

/// A day of batches: one a second, of this many bytes.
const BATCH: usize = 5_000;
/// TLS, HTTP, TCP and the answer, for each request.
const ENVELOPE: f64 = 900.0;

struct Link {
    bytes_a_second: f64,
    round_trip: f64,
}

/// A request on the link.
struct Request {
    ticket: Ticket,
    sequences: Vec<u64>,
    /// Bytes that are still to go through.
    left: f64,
    began: f64,
    /// When the answer is there, once all bytes went through.
    answered: Option<f64>,
}

/// What came of it: seconds until the backlog was gone, and how late each fresh batch was.
struct Outcome {
    drained: f64,
    lateness: Vec<f64>,
    most_under_way: usize,
    bytes: f64,
}

impl Outcome {
    fn p99(&mut self) -> f64 {
        self.lateness.sort_by(f64::total_cmp);
        self.lateness[self.lateness.len() * 99 / 100]
    }
}

fn drain(link: &Link, backlog: u64, connections: usize, limits: Limits) -> Outcome {
    let mut state = State::new(1 << 20, connections, Order::FreshFirst);
    let mut budget = Budget::new(limits, Duration::ZERO);
    let (mut now, mut newest, mut meter) = (0.0, backlog, 0.0f64);
    let mut on_the_way: Vec<Request> = Vec::new();
    // Those below the first number are there no more, but for the ones listed.
    let mut waiting: VecDeque<u64> = (1..=backlog).collect();
    let mut fresh: VecDeque<u64> = VecDeque::new();
    let mut outcome = Outcome { drained: 0.0, lateness: Vec::new(), most_under_way: 0, bytes: 0.0 };
    let appended = |sequence: u64| (sequence - backlog) as f64;
    while outcome.drained == 0.0 || (!on_the_way.is_empty() && outcome.lateness.is_empty()) {
        budget.read(meter as u64, Duration::from_secs_f64(now));
        let mut again = None;
        loop {
            let leave = budget.leave(state.bytes_under_way(), 0, Duration::from_secs_f64(now));
            again = again.or(leave.again);
            let (mut sent, mut sequences) = (Sent::default(), Vec::new());
            match state.plan(newest, leave) {
                Plan::Wait => break,
                Plan::Greet => {}
                Plan::Send(wants) => {
                    let mut room = wants.bytes;
                    let mut take = |lane: &mut VecDeque<u64>, out: &mut Vec<u64>| {
                        while !lane.is_empty() && (sequences.is_empty() || room >= BATCH) {
                            out.push(lane.pop_front().unwrap());
                            sequences.push(*out.last().unwrap());
                            room = room.saturating_sub(BATCH);
                        }
                    };
                    if wants.fresh_from.is_some() {
                        take(&mut fresh, &mut sent.fresh);
                    }
                    if wants.backlog.is_some() && (wants.mixed || sent.fresh.is_empty()) {
                        take(&mut waiting, &mut sent.backlog);
                    }
                    sent.bytes = sequences.len() * BATCH;
                    if sequences.is_empty() {
                        break;
                    }
                }
            }
            let left = sent.bytes as f64 + ENVELOPE;
            outcome.bytes += left;
            let ticket = state.departs(sent);
            on_the_way.push(Request { ticket, sequences, left, began: now, answered: None });
            outcome.most_under_way = outcome.most_under_way.max(on_the_way.len());
        }
        // The next thing that happens: a batch, the end of a request's bytes, an answer, a leave.
        let sharing = on_the_way.iter().filter(|request| request.answered.is_none()).count().max(1);
        let share = link.bytes_a_second / sharing as f64;
        let events = on_the_way.iter().map(|request| request.answered.unwrap_or(now + request.left / share));
        let next_batch = appended(newest + 1);
        let again = again.map_or(f64::MAX, |again| now + again.as_secs_f64());
        let next = events.fold(next_batch.min(again), f64::min).max(now);
        for request in on_the_way.iter_mut().filter(|request| request.answered.is_none()) {
            let through = (share * (next - now)).min(request.left);
            (meter, request.left) = (meter + through, request.left - through);
            if request.left < 1.0 {
                request.answered = Some(next + link.round_trip);
            }
        }
        now = next;
        if now >= next_batch {
            newest += 1;
            fresh.push_back(newest);
        }
        let done = |request: &mut Request| request.answered.is_some_and(|at| at <= now);
        for request in on_the_way.extract_if(.., done).collect::<Vec<_>>() {
            let took = Duration::from_secs_f64(now - request.began);
            let all: Vec<_> =
                request.sequences.iter().map(|&sequence| (sequence, Verdict::Committed)).collect();
            let answer = SyncAnswer {
                outcomes: all
                    .iter()
                    .map(|&(sequence, verdict)| sync_answer::Outcome {
                        sequence,
                        verdict: verdict.into(),
                        words: String::new(),
                    })
                    .collect(),
                server_time_us: 1,
                ..SyncAnswer::default()
            };
            let actions = state.step(request.ticket, Reply::Answer(answer), took);
            assert!(!actions.iter().any(|action| matches!(action, Action::Pause(_))), "{actions:?}");
            // The first seconds are for learning.
            let late = request.sequences.iter().filter(|&&sequence| sequence > backlog + 10);
            outcome.lateness.extend(late.map(|&sequence| now - appended(sequence)));
        }
        if outcome.drained == 0.0
            && waiting.is_empty()
            && state.under_way.values().all(|flight| !flight.drains())
        {
            outcome.drained = now;
        }
    }
    outcome
}

#[test]
fn fresh_readings_are_less_than_a_second_late_while_a_backlog_drains_at_the_rate_of_the_link() {
    // bytes a second | round trip, s | backlog, batches | connections
    let table = [
        (1_250_000.0, 0.02, 40_000, 4),
        (1_250_000.0, 0.05, 40_000, 4),
        (1_250_000.0, 0.3, 40_000, 4),
        (1_250_000.0, 0.05, 40_000, 2),
        (125_000.0, 0.1, 4_000, 4),
        (50_000.0, 0.1, 2_000, 4),
        (12_500_000.0, 0.6, 40_000, 4),
    ];
    for (bytes_a_second, round_trip, backlog, connections) in table {
        let link = Link { bytes_a_second, round_trip };
        let mut outcome = drain(&link, backlog, connections, Limits::default());
        let ideal = outcome.bytes / bytes_a_second;
        let p99 = outcome.p99();
        let words = format!(
            "{bytes_a_second} B/s, {round_trip} s, {connections} connections: {:.1} s (ideal {ideal:.1}), p99 {p99:.2} s, {} under way",
            outcome.drained, outcome.most_under_way
        );
        // Quick links with a long way are bound by the bytes under way: three requests of four fifths.
        let bound = 3.0 * 0.8 * f64::from(1 << 20) / (round_trip + 0.1);
        let allowed = 1.1 * ideal.max(outcome.bytes / bound) + 5.0 * round_trip + 4.0;
        assert!(outcome.drained <= allowed, "{words}");
        assert!(p99 < 0.5 + 1.5 * round_trip, "{words}");
        assert!(outcome.most_under_way <= connections, "{words}");
    }
}

#[test]
fn one_connection_costs_fresh_readings_no_more_than_two_requests() {
    let link = Link { bytes_a_second: 1_250_000.0, round_trip: 0.05 };
    let mut outcome = drain(&link, 20_000, 1, Limits::default());
    assert!(outcome.p99() < 2.2, "{}", outcome.p99());
    assert_eq!(outcome.most_under_way, 1);
}

#[test]
fn within_a_bandwidth_fresh_readings_go_first_and_the_drain_keeps_to_it() {
    let link = Link { bytes_a_second: 12_500_000.0, round_trip: 0.05 };
    let bandwidth = Some(forebay_config::units::ByteSize(100_000));
    let mut outcome = drain(&link, 2_000, 4, Limits { bandwidth, ..Limits::default() });
    let least = outcome.bytes / 100_000.0;
    assert!((least - 5.0..least * 1.1 + 5.0).contains(&outcome.drained), "{} of {least}", outcome.drained);
    assert!(outcome.p99() < 1.0, "{}", outcome.p99());
}
