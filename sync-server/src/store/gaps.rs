//! Where readings are missing: what is asked, and what is kept.

use forebay_protocols::sync::wire;

use super::{AgentKey, Micros};

/// Which gaps are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GapQuery {
    /// Of this agent only.
    pub agent: Option<AgentKey>,
    /// The first moment, inside.
    pub from: Micros,
    /// The last moment, outside.
    pub to: Micros,
    /// For this reason only.
    pub reason: Option<wire::gap::Reason>,
    /// Of this device, or of a point of it, only.
    pub device: Option<String>,
    /// The latest first; else by beginning.
    pub latest_first: bool,
    /// The most rows.
    pub most: usize,
}

impl GapQuery {
    /// All of a range.
    pub fn between(from: Micros, to: Micros) -> Self {
        Self { agent: None, from, to, reason: None, device: None, latest_first: false, most: usize::MAX }
    }

    /// How rows are ordered, in SQL.
    pub(super) fn order(&self) -> &'static str {
        if self.latest_first {
            "from_time desc, e.agent, g.number desc"
        } else {
            "from_time, e.agent, g.number"
        }
    }
}

/// A gap as it is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct GapRow {
    /// Whose.
    pub agent: AgentKey,
    /// The record; its `point` is a [`PointKey`].
    pub gap: wire::Gap,
    /// Device and name of the point, if it is of one.
    pub point: Option<(String, String)>,
}
