//! By what the fleet may be sorted. Total, with the name as the last word, so that a page has one place.

use std::cmp::Ordering;

use super::super::problem::Problem;
use super::state;
use crate::store::{AgentRow, Micros};

/// A key, and whether it goes down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Order {
    by: By,
    down: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum By {
    #[default]
    Name,
    State,
    LastSeen,
    Backlog,
    Dropped,
    SetAside,
    Stored,
    Version,
    Certificate,
}

const KEYS: [(&str, By); 9] = [
    ("agent", By::Name),
    ("state", By::State),
    ("last_seen", By::LastSeen),
    ("backlog", By::Backlog),
    ("dropped", By::Dropped),
    ("set_aside", By::SetAside),
    ("stored", By::Stored),
    ("version", By::Version),
    ("certificate_valid_until", By::Certificate),
];

impl Order {
    /// `key`, or `-key` for the largest first.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let (down, key) = text.strip_prefix('-').map_or((false, text), |key| (true, key));
        let found = KEYS.iter().find(|(word, _)| *word == key);
        found.map(|(_, by)| Self { by: *by, down }).ok_or_else(|| {
            let keys: Vec<&str> = KEYS.iter().map(|(word, _)| *word).collect();
            Problem::BadRequest(format!("sort: `{text}` is none of {}, nor one with a `-`", keys.join(", ")))
        })
    }

    /// Sorts rows that stand by name already.
    pub fn apply(self, rows: &mut [&AgentRow], now: Micros) {
        if self != Self::default() {
            rows.sort_unstable_by(|a, b| self.compare(a, b, now));
        }
    }

    /// Which of two comes first.
    pub fn compare(self, a: &AgentRow, b: &AgentRow, now: Micros) -> Ordering {
        let name = |row: &AgentRow| (row.site.clone(), row.gateway.clone());
        let by_name = || (&a.site, &a.gateway).cmp(&(&b.site, &b.gateway));
        let ordering = match self.by {
            By::Name => return if self.down { name(b).cmp(&name(a)) } else { by_name() },
            By::State => urgency(a, now).cmp(&urgency(b, now)),
            By::LastSeen => a.last_seen.cmp(&b.last_seen),
            By::Backlog => {
                told(a, |report| report.backlog_readings).cmp(&told(b, |report| report.backlog_readings))
            }
            By::Dropped => told(a, |report| report.dropped).cmp(&told(b, |report| report.dropped)),
            By::SetAside => a.set_aside.cmp(&b.set_aside),
            By::Stored => a.stored.cmp(&b.stored),
            By::Version => version(a).cmp(&version(b)),
            By::Certificate => until(a).cmp(&until(b)),
        };
        let ordering = if self.down { ordering.reverse() } else { ordering };
        ordering.then_with(by_name)
    }
}

/// What wants a look comes first.
fn urgency(row: &AgentRow, now: Micros) -> u8 {
    match state(row, now) {
        "silent" => 0,
        "never seen" => 1,
        "revoked" => 2,
        _ => 3,
    }
}

fn told(row: &AgentRow, count: fn(&forebay_protocols::sync::wire::Report) -> u64) -> Option<u64> {
    row.report.as_ref().map(count)
}

fn version(row: &AgentRow) -> Option<&str> {
    row.report.as_ref().map(|report| report.version.as_str())
}

fn until(row: &AgentRow) -> Option<Micros> {
    row.certificate.map(|(_, until)| until)
}
