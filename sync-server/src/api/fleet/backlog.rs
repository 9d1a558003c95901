//! What waits in a gateway, and what becomes of it.

use forebay_protocols::sync::wire;
use serde::Serialize;

use crate::store::{AgentRow, Drain, Micros};

/// By the last report. What no report told is unknown, and must not look like a zero.
#[derive(Serialize)]
pub struct Backlog {
    batches: Option<u64>,
    readings: Option<u64>,
    bytes: Option<u64>,
    limit_bytes: Option<u64>,
    tail_bytes: Option<u64>,
    trend: Option<&'static str>,
    drain_s: Option<i64>,
}

/// What `trend` may be.
pub const TRENDS: [&str; 3] = ["none", "shrinks", "grows"];

impl Backlog {
    /// What waits in an agent now.
    pub fn of(row: &AgentRow, now: Micros) -> Self {
        let told = |count: fn(&wire::Report) -> u64| row.report.as_ref().map(count);
        let [none, shrinks, grows] = TRENDS;
        let (trend, drain_s) = match row.drain(now) {
            None => (None, None),
            Some(Drain::Nothing) => (Some(none), Some(0)),
            // It may take longer than was thought.
            Some(Drain::Until(at)) => (Some(shrinks), Some((at.saturating_sub(now) / 1_000_000).max(1))),
            Some(Drain::Never) => (Some(grows), None),
        };
        Self {
            batches: told(|report| report.backlog_batches),
            readings: told(|report| report.backlog_readings),
            bytes: told(|report| report.backlog_bytes),
            limit_bytes: told(|report| report.buffer_limit_bytes),
            tail_bytes: told(|report| report.tail_bytes),
            trend,
            drain_s,
        }
    }
}
