//! From what a server said of a node to samples of the points that read parts of it.
//!
//! A server reports a whole array or structure when anything in it changed. Its points are samples only where
//! their own part changed, beyond their deadband if they have one, as if each were a node. Where values are read
//! in turn every round is a sample, as of nodes. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use forebay_config::field::{Deadband, Timestamp};
use opcua::types::{DateTime, NodeId, StatusCode, Variant};

use super::items::Item;
use super::parts::{Missing, Whole};
use super::reports::{Report, mended, stamp};
use super::structures::{Trouble, Types};
use super::values::{float, quality};
use crate::field::source::Sample;
use crate::reading::{Fault, Quality, Value};

/// What the points of one session were last.
pub(super) struct Unfolder {
    /// Only changes are samples.
    only_changes: bool,
    told: HashMap<usize, Told>,
}

struct Told {
    /// As the node had it, before scaling.
    raw: Option<f64>,
    value: Option<Value>,
    quality: Quality,
}

/// What one report says.
#[derive(Default)]
pub(super) struct Unfolded {
    candidates: Vec<Candidate>,
    /// An encoding that has to be learnt first: then there is more to say.
    pub unlearned: Option<NodeId>,
    /// Of the first point whose part cannot be had: why.
    pub trouble: Option<(usize, Arc<str>)>,
}

struct Candidate {
    sample: Sample,
    raw: Option<f64>,
    is_whole: bool,
}

impl Unfolder {
    pub(super) fn new(only_changes: bool) -> Self {
        Self { only_changes, told: HashMap::new() }
    }

    /// Of what a report says, what is new.
    pub(super) fn news(&mut self, item: &Item, unfolded: Unfolded) -> Vec<Sample> {
        let is_new = |candidate: &Candidate| {
            if !self.only_changes || candidate.is_whole {
                return true;
            }
            let told = self.told.get(&candidate.sample.slot);
            told.is_none_or(|told| told.differs(candidate, item.deadband))
        };
        let new: Vec<Candidate> = unfolded.candidates.into_iter().filter(is_new).collect();
        new.into_iter()
            .map(|Candidate { sample, raw, is_whole }| {
                if self.only_changes && !is_whole {
                    let told = Told { raw, value: sample.value.clone(), quality: sample.quality };
                    self.told.insert(sample.slot, told);
                }
                sample
            })
            .collect()
    }

    /// The item's node is not there: what comes after that is new.
    pub(super) fn forget(&mut self, item: &Item) {
        for part in &item.parts {
            self.told.remove(&part.slot);
        }
    }
}

impl Told {
    fn differs(&self, now: &Candidate, deadband: Option<Deadband>) -> bool {
        if self.quality != now.sample.quality {
            return true;
        }
        match (deadband, self.raw, now.raw) {
            // A NaN is as far from everything as can be.
            (Some(Deadband::Absolute(distance)), Some(before), Some(now)) if !(before - now).is_nan() => {
                (before - now).abs() > distance
            }
            _ => match (&self.value, &now.sample.value) {
                (Some(Value::Float(before)), Some(Value::Float(now))) => before.to_bits() != now.to_bits(),
                (before, now) => before != now,
            },
        }
    }
}

impl Report {
    /// What it says of the item's points. Of an array the elements from `first` on were sent.
    pub(super) fn unfold(
        &self,
        item: &Item,
        first: u32,
        types: &Types,
        timestamp: Timestamp,
        server_time: impl Fn(DateTime) -> DateTime,
    ) -> Unfolded {
        let stamp = stamp(self, timestamp);
        let status = self.told.status.unwrap_or(StatusCode::Good);
        let empty = Variant::Empty;
        let mut whole = Whole::new(self.told.value.as_ref().unwrap_or(&empty), types);
        let mut unfolded = Unfolded::default();
        for part in &item.parts {
            let picked = match quality(status) {
                Quality::Bad(_) => Ok(Variant::Empty),
                _ => whole.pick(&part.part, first).map(|picked| match picked.from_structure {
                    true => picked.value,
                    false => mended(picked.value, &server_time),
                }),
            };
            let mut raw = None;
            let (value, quality) = match picked {
                Ok(value) => {
                    raw = float(&value);
                    part.conversion.reading(Some(value), status)
                }
                Err(Missing::Absent) => (None, Quality::Bad(Fault::NotFound)),
                Err(missing) => {
                    let words = match missing {
                        Missing::Closed(Trouble::Unlearned(encoding)) => {
                            let words =
                                format!("the server has more types than are learnt, {encoding} among them");
                            unfolded.unlearned.get_or_insert(encoding);
                            words.into()
                        }
                        Missing::Closed(Trouble::Why(words)) => words,
                        Missing::Shape | Missing::Absent => {
                            format!("the value has no part `{}`", part.part).into()
                        }
                    };
                    unfolded.trouble.get_or_insert((part.slot, words));
                    (None, Quality::Bad(Fault::WrongType))
                }
            };
            let sample = Sample { slot: part.slot, stamp, value, quality };
            unfolded.candidates.push(Candidate { sample, raw, is_whole: part.part.is_whole() });
        }
        unfolded
    }
}

#[cfg(test)]
mod tests;
