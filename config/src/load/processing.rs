//! `[processing.NAME]`, all of them.

use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::field::{all, checked_name};
use super::findings::Complaint;
use super::opcua::deadband;
use super::table::{Item, Table, wrong_type};
use super::words::{boolean, duration, float, one_of};
use crate::classes::Pattern;
use crate::field::Deadband;
use crate::processing::{Changes, Filter, Keep, MAX_SILENCE, Rule, Window};

const SHORTEST: Duration = Duration::from_millis(1);
const SHORTEST_WINDOW: Duration = Duration::from_secs(1);
const KEEP: &[(&str, Keep)] = &[
    ("first", Keep::First),
    ("last", Keep::Last),
    ("min", Keep::Min),
    ("max", Keep::Max),
    ("mean", Keep::Mean),
    ("count", Keep::Count),
];

pub(super) fn rules(t: &Table<'_>) -> Option<Vec<Rule>> {
    all(t.named_tables().into_iter().map(|(name, t)| rule(name, &t)))
}

/// `points`: a list of patterns.
pub(super) fn patterns(item: &Item<'_>) -> Result<Vec<Pattern>, Complaint> {
    let hint = "a list of \"device/point\", in which * stands for any letters";
    let list = item.value.as_array().ok_or_else(|| wrong_type(item.value, "a list", hint))?;
    let one = |value: &Spanned<DeValue<'_>>| {
        let text = value.get_ref().as_str().ok_or_else(|| wrong_type(value.get_ref(), "a string", hint))?;
        Pattern::new(text).map_err(|why| Complaint::new(why, hint))
    };
    list.iter().map(one).collect()
}

fn rule(name: &str, t: &Table<'_>) -> Option<Rule> {
    let name = checked_name(name, t);
    let points = t.required("points", "points = [\"pump/*\", \"*/temperature\"]", patterns);
    let round = t.optional("round", step);
    let changes = changes(t);
    let min_interval = t.optional("min_interval", duration(SHORTEST));
    let window = window(t);
    if min_interval.is_some() && t.has("window") {
        t.complain_of(
            "min_interval",
            Complaint::new("a `window` spaces its results already", "leave one of them away"),
        );
    }
    t.finish();
    if !["round", "on_change", "deadband", "max_silence", "min_interval", "window", "keep"]
        .iter()
        .any(|key| t.has(key))
    {
        t.complain(Complaint::new(
            "the rule does nothing",
            "add `round`, `on_change`, `deadband`, `min_interval` or `window`, or leave it away",
        ));
    }
    Some(Rule { name: name?, points: points?, round, filter: Filter { changes, min_interval }, window })
}

/// `round = 0.1`.
fn step(item: &Item<'_>) -> Result<f64, Complaint> {
    let step = float(item)?;
    let good = step.is_finite() && step > 0.0;
    good.then_some(step)
        .ok_or_else(|| Complaint::new("a step is more than 0", "the sensor's real resolution: round = 0.1"))
}

/// `on_change`, `deadband` and `max_silence`.
fn changes(t: &Table<'_>) -> Option<Changes> {
    let on_change = t.or("on_change", t.has("deadband"), boolean);
    let deadband: Option<Deadband> = t.optional("deadband", deadband);
    let max_silence = t.or("max_silence", MAX_SILENCE, duration(SHORTEST_WINDOW));
    if !on_change {
        if t.has("deadband") {
            t.complain_of(
                "on_change",
                Complaint::new("a `deadband` reports changes only", "leave one of them away"),
            );
        } else if t.has("max_silence") {
            t.complain_of(
                "max_silence",
                Complaint::new(
                    "nothing is left out that could be silent",
                    "it goes with on_change = true or a `deadband`",
                ),
            );
        }
    }
    on_change.then_some(Changes { deadband, max_silence })
}

/// `window` and `keep`.
fn window(t: &Table<'_>) -> Option<Window> {
    let length = t.optional("window", duration(SHORTEST_WINDOW));
    let keep = t.optional("keep", kept);
    match (t.has("window"), t.has("keep")) {
        (true, false) => t.complain_of(
            "window",
            Complaint::new(
                "nothing is kept of the window",
                "add keep = \"mean\", or keep = [\"min\", \"max\"]",
            ),
        ),
        (false, true) if keep.is_some() => {
            t.complain_of("keep", Complaint::new("`keep` goes with a `window`", "window = \"1m\""));
        }
        _ => {}
    }
    Some(Window { length: length?, keep: keep? })
}

/// `"mean"`, or `["min", "max"]`.
fn kept(item: &Item<'_>) -> Result<Vec<Keep>, Complaint> {
    let Some(list) = item.value.as_array() else { return Ok(vec![one_of(KEEP)(item)?]) };
    let mut keep = Vec::new();
    for value in list {
        let kind =
            one_of(KEEP)(&Item { value: value.get_ref(), span: value.span(), path: item.path.clone() })?;
        if keep.contains(&kind) {
            return Err(Complaint::new(format!("\"{}\" stands twice", kind.word()), "leave one away"));
        }
        keep.push(kind);
    }
    if keep.is_empty() {
        return Err(Complaint::new("nothing is kept of the window", "keep = [\"mean\"]"));
    }
    Ok(keep)
}
