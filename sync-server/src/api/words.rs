//! Stored values as JSON, and times as people and programs write them.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use forebay_protocols::boot_time::wall_micros;
use forebay_protocols::reading::{Quality, Value};
use serde::{Serialize, Serializer};
use serde_json::{Value as Json, json};

use super::problem::Problem;
use super::roster::Muster;
use crate::store::{AgentKey, AgentRow, Micros, rfc3339};

/// A number, boolean or text; `null` where there is none. JSON has no NaN and no infinities:
/// they are the strings "NaN", "inf" and "-inf".
pub(super) fn value(value: Option<&Value>) -> Json {
    match value {
        None => Json::Null,
        Some(Value::Float(number)) if !number.is_finite() => json!(number.to_string()),
        Some(Value::Float(number)) => json!(number),
        Some(Value::Integer(number)) => json!(number),
        Some(Value::Boolean(flag)) => json!(flag),
        Some(Value::Text(text)) => json!(text.as_ref()),
    }
}

/// The same, written without a detour.
pub(super) struct Shown<'a>(pub Option<&'a Value>);

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            None => serializer.serialize_unit(),
            Some(Value::Float(number)) if !number.is_finite() => serializer.collect_str(number),
            Some(Value::Float(number)) => serializer.serialize_f64(*number),
            Some(Value::Integer(number)) => serializer.serialize_i64(*number),
            Some(Value::Boolean(flag)) => serializer.serialize_bool(*flag),
            Some(Value::Text(text)) => serializer.serialize_str(text),
        }
    }
}

/// "good", "uncertain" or "bad".
pub(super) fn quality_class(quality: Quality) -> &'static str {
    match quality {
        Quality::Good => "good",
        Quality::Uncertain(_) => "uncertain",
        Quality::Bad(_) => "bad",
    }
}

/// Microseconds since 1970 as RFC 3339 in UTC; `null` for what no calendar holds.
pub(super) fn time(at: Micros) -> Json {
    json!(rfc3339(at))
}

/// Microseconds as the milliseconds that browsers count, fraction kept.
pub(super) fn millis(at: Micros) -> f64 {
    at as f64 / 1000.0
}

/// The moments a request may name: years 1 to 9999. Their differences fit, and every one can be written.
const CALENDAR: RangeInclusive<Micros> = -62_135_596_800_000_000..=253_402_207_200_000_000;

/// `now`, `-90m`, RFC 3339, or milliseconds since 1970.
pub(super) fn parse_time(key: &str, text: &str, now: Micros) -> Result<Micros, Problem> {
    let text = text.trim();
    let moment = if text == "now" {
        Some(now)
    } else if let Some(back) = text.strip_prefix('-').and_then(span) {
        Some(now.saturating_sub(back))
    } else if let Ok(stamp) = text.parse::<jiff::Timestamp>() {
        Some(stamp.as_microsecond())
    } else {
        // The cast keeps to the bounds of i64, which lie outside the calendar.
        text.parse::<f64>().ok().filter(|ms| ms.is_finite()).map(|ms| (ms * 1_000.0) as Micros)
    };
    match moment {
        Some(moment) if CALENDAR.contains(&moment) => Ok(moment),
        Some(_) => Err(Problem::BadRequest(format!("{key}: `{text}` lies outside the years 1 to 9999"))),
        None => Err(Problem::BadRequest(format!(
            "{key}: `{text}` is not a time: write `now`, `-90s`, `-15m`, `-6h`, `-7d`, `2026-11-21T08:00:00Z`, \
             or milliseconds since 1970"
        ))),
    }
}

/// "90m" in microseconds.
fn span(text: &str) -> Option<Micros> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit_at);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 604_800,
        _ => return None,
    };
    number.parse::<i64>().ok()?.checked_mul(seconds)?.checked_mul(1_000_000)
}

/// The present moment by the server's wall clock.
pub(super) fn now() -> Micros {
    wall_micros()
}

/// The agent named `site/gateway`.
pub(super) fn agent_in(fleet: &Muster, name: &str) -> Result<AgentKey, Problem> {
    fleet.agent(name).map(|agent| agent.key).ok_or_else(|| no_such_agent(name))
}

/// What to say of a name that nobody has.
pub(super) fn no_such_agent(name: &str) -> Problem {
    Problem::NotFound(format!("no agent is named `{name}`; names are site/gateway, /api/v1/fleet tells them"))
}

/// All agents' names.
pub(super) fn agent_names(fleet: &[AgentRow]) -> HashMap<AgentKey, String> {
    fleet.iter().map(|row| (row.key, agent_name(row))).collect()
}

/// `site/gateway`.
pub(super) fn agent_name(agent: &AgentRow) -> String {
    format!("{}/{}", agent.site, agent.gateway)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_every_usual_form() {
        let now = 1_000_000_000_000_000;
        let read = |text| parse_time("from", text, now).expect("a time");
        assert_eq!(read("now"), now);
        assert_eq!(read("-90m"), now - 5_400_000_000);
        assert_eq!(read("2001-09-09T01:46:40Z"), now);
        assert_eq!(read("1000000000000"), now);
        assert_eq!(read("0001-01-01T00:00:00Z"), *CALENDAR.start());
        let outside = ["1e300", "-1e18", "-99999999w", "-99999999999999w", "-000001-01-01T00:00:00Z", "9e15"];
        for bad in ["", "yesterday", "-1y", "-", "--1h", "1h", "NaN", "inf"].iter().chain(&outside) {
            assert!(parse_time("from", bad, now).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_json_cannot_hold_become_words() {
        assert_eq!(value(Some(&Value::Float(f64::NAN))), json!("NaN"));
        assert_eq!(value(Some(&Value::Float(f64::NEG_INFINITY))), json!("-inf"));
        assert_eq!(value(Some(&Value::Integer(i64::MAX))), json!(i64::MAX));
        let values = [f64::NAN, f64::INFINITY, -0.5, 1e300, 7.0].map(Value::Float).into_iter();
        let others = [Value::Integer(i64::MIN), Value::Boolean(true), Value::Text("\"\u{1}ü".into())];
        for one in values.chain(others).map(Some).chain([None]) {
            let one = one.as_ref();
            assert_eq!(serde_json::to_string(&Shown(one)).expect("text"), value(one).to_string());
        }
    }
}
