//! By what the fleet may be sorted. Total, with the name as the last word, so that a page has one place; and
//! cursors that keep the place where a page ended, though the agent that ended it may stand elsewhere by now.

use std::cmp::Ordering;

use super::super::problem::Problem;
use super::super::words::agent_name;
use super::state;
use crate::store::{AgentRow, Drain, Micros};

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
    Lag,
    Backlog,
    Drain,
    BytesToday,
    Dropped,
    SetAside,
    Stored,
    Version,
    Certificate,
}

const KEYS: [(&str, By); 12] = [
    ("agent", By::Name),
    ("state", By::State),
    ("last_seen", By::LastSeen),
    ("lag_s", By::Lag),
    ("backlog", By::Backlog),
    ("drain_s", By::Drain),
    ("bytes_today", By::BytesToday),
    ("dropped", By::Dropped),
    ("set_aside", By::SetAside),
    ("stored", By::Stored),
    ("version", By::Version),
    ("certificate_valid_until", By::Certificate),
];

/// What one may sort by.
pub fn keys() -> impl Iterator<Item = &'static str> {
    KEYS.iter().map(|(word, _)| *word)
}

impl Order {
    /// `key`, or `-key` for the largest first.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let (down, key) = text.strip_prefix('-').map_or((false, text), |key| (true, key));
        let found = KEYS.iter().find(|(word, _)| *word == key);
        found.map(|(_, by)| Self { by: *by, down }).ok_or_else(|| {
            let keys: Vec<&str> = keys().collect();
            Problem::BadRequest(format!("sort: `{text}` is none of {}, nor one with a `-`", keys.join(", ")))
        })
    }

    /// Sorts rows that stand by name already.
    pub fn apply(self, rows: &mut [&AgentRow], now: Micros) {
        if self != Self::default() {
            rows.sort_unstable_by(|a, b| self.compare(self.place(a, now), self.place(b, now)));
        }
    }

    /// Where an agent stands now.
    pub fn place(self, row: &AgentRow, now: Micros) -> Place<'_> {
        let number = match self.by {
            By::Name | By::Version => None,
            By::State => Some(urgency(row, now)),
            By::LastSeen => row.last_seen,
            // By moments that stand still while pages are turned, not by how long ago or ahead they are.
            By::Lag => row.pulse.newest.map(i64::saturating_neg),
            By::Backlog => told(row, |report| report.backlog_readings),
            By::Drain => row.drain(now).map(|drain| match drain {
                Drain::Nothing => 0,
                Drain::Until(at) => at,
                Drain::Never => i64::MAX,
            }),
            By::BytesToday => Some(count(row.bytes_today(now))),
            By::Dropped => told(row, |report| report.dropped),
            By::SetAside => Some(count(row.set_aside)),
            By::Stored => Some(count(row.stored)),
            By::Certificate => row.certificate.map(|(_, until)| until),
        };
        let text = Some(row).filter(|_| self.by == By::Version).and_then(version);
        Place { number, text, name: (&row.site, &row.gateway) }
    }

    /// Which of two places comes first.
    pub fn compare(self, a: Place<'_>, b: Place<'_>) -> Ordering {
        let ordering = match self.by {
            By::Name => a.name.cmp(&b.name),
            _ => (a.number, a.text).cmp(&(b.number, b.text)),
        };
        let ordering = if self.down { ordering.reverse() } else { ordering };
        ordering.then_with(|| a.name.cmp(&b.name))
    }

    /// Where a page ended: the name, with the number it was sorted by where that may change at any moment.
    pub fn cursor(self, row: &AgentRow, now: Micros) -> String {
        let name = agent_name(row);
        match (self.by, self.place(row, now).number) {
            (By::Name | By::Version, _) => name,
            // No name has an `@`.
            (_, Some(number)) => format!("{number}@{name}"),
            (_, None) => format!("@{name}"),
        }
    }

    /// The place of a cursor at which the agent `row` stood. A bare name is where it stands now.
    pub fn place_of<'a>(self, cursor: &str, row: &'a AgentRow, now: Micros) -> Result<Place<'a>, Problem> {
        let place = self.place(row, now);
        let Some((number, _)) = cursor.split_once('@').filter(|_| place.text.is_none()) else {
            return Ok(place);
        };
        if number.is_empty() {
            return Ok(Place { number: None, ..place });
        }
        let no_cursor =
            |_| Problem::BadRequest(format!("after: `{cursor}` is not what a page gave as its `next`"));
        Ok(Place { number: Some(number.parse().map_err(no_cursor)?), ..place })
    }
}

/// The agent's name in a cursor.
pub fn name_in(cursor: &str) -> &str {
    cursor.split_once('@').map_or(cursor, |(_, name)| name)
}

/// A place in the order.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    number: Option<i64>,
    text: Option<&'a str>,
    name: (&'a str, &'a str),
}

/// What wants a look comes first.
fn urgency(row: &AgentRow, now: Micros) -> i64 {
    match state(row, now) {
        "silent" => 0,
        "never seen" => 1,
        "revoked" => 2,
        _ => 3,
    }
}

fn told(row: &AgentRow, of: fn(&forebay_protocols::sync::wire::Report) -> u64) -> Option<i64> {
    row.report.as_ref().map(|report| count(of(report)))
}

fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn version(row: &AgentRow) -> Option<&str> {
    row.report.as_ref().map(|report| report.version.as_str())
}
