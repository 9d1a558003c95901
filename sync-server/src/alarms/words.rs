//! Alarms in plain words: what is so, and what to do.

use forebay_config::alarms::{FaultKind, Rule, When};

use crate::store::alarms::Member;
use crate::store::{AgentRow, Micros};

/// Members that are named one by one.
const NAMED: usize = 5;

/// The word for a kind of rule, as in the configuration.
pub fn kind(when: &When) -> &'static str {
    match when {
        When::Silent { .. } => "silent",
        When::Backlog { .. } => "backlog",
        When::Clock { .. } => "clock",
        When::Certificate { .. } => "certificate",
        When::Fault(FaultKind::Fork) => "fork",
        When::Fault(FaultKind::Imbalance) => "imbalance",
        When::Fault(FaultKind::Wiped) => "wiped",
        When::Fault(FaultKind::Restored) => "restored",
        When::Value(_) => "value",
    }
}

/// What to do.
pub fn remedy(when: &When) -> &'static str {
    match when {
        When::Silent { .. } => {
            "If it is a whole site, look at its uplink and its power first. On a gateway, `forebay-agent doctor` tells \
             what it can reach. What it reads waits in its buffer and follows."
        }
        When::Backlog { .. } => {
            "The link is slower than what the gateway reads, or a budget holds it back: `forebay-agent status` tells. \
             Nothing is lost until its buffer is full."
        }
        When::Clock { .. } => {
            "See that the gateway reaches a time server: `timedatectl` on it tells. Readings are corrected once it \
             knows the time."
        }
        When::Certificate { .. } => {
            "An agent renews its certificate by itself when a third of its life is left; this one did not. \
             `forebay-agent doctor` on the gateway tells why; a new join string makes a new one."
        }
        When::Fault(_) => "`forebay-server faults` tells more.",
        When::Value(_) => "It clears by itself when the value lies within its limits again.",
    }
}

/// What an alarm of these members says.
pub fn alarm(rule: &Rule, subject: &str, members: &[Member], agents: &[AgentRow]) -> String {
    let count = members.len();
    let named = || {
        let names: Vec<&str> = members.iter().take(NAMED).map(|member| member.name.as_str()).collect();
        let more = count.saturating_sub(NAMED);
        if more > 0 { format!("{} and {more} more", names.join(", ")) } else { names.join(", ") }
    };
    let one = members.first().map(|member| capital(&member.words)).unwrap_or_default();
    match &rule.when {
        _ if count == 1 => format!("{one}."),
        When::Silent { .. } => {
            let all = agents
                .iter()
                .filter(|agent| agent.site == subject && !agent.revoked && agent.last_seen.is_some());
            match all.count() {
                all if all <= count => format!(
                    "All {count} gateways of {subject} are silent: its uplink or its power is the likely cause."
                ),
                all => format!("{count} of {all} gateways of {subject} are silent: {}.", named()),
            }
        }
        When::Backlog { .. } => format!("The backlog of {count} gateways of {subject} grows: {}.", named()),
        When::Clock { .. } => format!("The clocks of {count} gateways of {subject} are off: {}.", named()),
        When::Certificate { .. } => {
            format!("The certificates of {count} gateways of {subject} end soon: {}.", named())
        }
        When::Fault(_) | When::Value(_) => {
            let words: Vec<&str> = members.iter().take(NAMED).map(|member| member.words.as_str()).collect();
            format!("{}.", capital(&words.join(". ")))
        }
    }
}

/// RFC 3339, whole seconds.
pub fn time(at: Micros) -> String {
    let seconds = at.div_euclid(1_000_000);
    jiff::Timestamp::from_second(seconds)
        .map_or_else(|_| format!("{seconds} s after 1970"), |at| at.to_string())
}

/// "4 min".
pub fn span(length: Micros) -> String {
    let seconds = length.unsigned_abs() / 1_000_000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// "4 min slow".
pub fn off(offset: Micros) -> String {
    format!("{} {}", span(offset), if offset < 0 { "slow" } else { "fast" })
}

/// "1,234,567".
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// At most six digits that mean something.
pub fn number(value: f64) -> String {
    if value != 0.0 && !(1e-4..1e12).contains(&value.abs()) {
        return format!("{value:e}");
    }
    let whole = (value.abs().max(1.0).log10().floor() as usize).min(5);
    let text = format!("{value:.*}", 5 - whole);
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

fn capital(words: &str) -> String {
    // A name is written as it is.
    let is_name = words.split(' ').next().is_some_and(|first| first.contains('/'));
    let mut letters = words.chars();
    match letters.next() {
        Some(first) if !is_name => first.to_uppercase().chain(letters).collect(),
        _ => words.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_exact_enough() {
        for (value, text) in [
            (0.0, "0"),
            (93.1, "93.1"),
            (-0.5, "-0.5"),
            (93.123_456, "93.1235"),
            (100.0, "100"),
            (1_234_567.0, "1234567"),
            (1e-9, "1e-9"),
        ] {
            assert_eq!(number(value), text);
        }
        assert_eq!(
            (count(0), count(1_234), count(1_234_567)),
            ("0".into(), "1,234".into(), "1,234,567".into())
        );
    }

    #[test]
    fn times_and_spans_are_read_by_people() {
        assert_eq!(time(1_795_219_200_500_000), "2026-11-21T00:00:00Z");
        assert_eq!((off(-240_000_000), off(90_000_000)), ("4 min slow".to_owned(), "90 s fast".to_owned()));
        assert_eq!(capital("the clock"), "The clock");
        assert_eq!(capital("north/one was"), "north/one was");
    }
}
