//! Alarms in plain words: what is so, and what to do.

use std::time::Duration;

use forebay_config::alarms::{FaultKind, Limits, Rule, When};

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

/// What a rule looks after, with its limits and its delay.
pub fn rule(rule: &Rule) -> String {
    let delay = Some(rule.delay).filter(|delay| !delay.is_zero()).map(length);
    let lasts = |words: &str| delay.as_ref().map_or(String::new(), |delay| format!("{words}{delay}"));
    match &rule.when {
        When::Silent { after } => {
            let longer = delay.as_ref().map_or(String::new(), |delay| format!(", and {delay} more"));
            format!("Nothing is heard of a gateway for {}{longer}.", length(*after))
        }
        When::Backlog { least } => {
            let longer = lasts(", and more and more for ");
            format!("At least {} readings wait in a gateway{longer}.", count(*least))
        }
        When::Clock { off } => {
            format!("A gateway's clock is off by more than {}{}.", length(*off), lasts(", for "))
        }
        When::Certificate { within } => {
            format!("A gateway's certificate ends within {}{}.", length(*within), lasts(", for "))
        }
        When::Fault(kind) => {
            let words = match kind {
                FaultKind::Fork => "A gateway's buffer was copied, or an older state of it restored",
                FaultKind::Imbalance => "The books of a gateway do not close",
                FaultKind::Wiped => "A gateway came back with a new buffer while its old one held readings",
                FaultKind::Restored => "This server had lost readings that it had acknowledged",
            };
            format!("{words}{}.", lasts(", for "))
        }
        When::Value(Limits { above, below, deadband, .. }) => {
            let limits =
                [above.map(|above| format!("above {above}")), below.map(|below| format!("below {below}"))];
            let limits: Vec<String> = limits.into_iter().flatten().collect();
            let inside = match *deadband {
                0.0 => "inside again".to_owned(),
                deadband => format!("inside by {deadband}"),
            };
            let limits = limits.join(" or ");
            format!("A value is {limits}{}. It clears when the value is {inside}.", lasts(", for "))
        }
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

/// "150 s", "10 min": a length that was chosen, as exactly.
fn length(length: Duration) -> String {
    let seconds = length.as_secs_f64();
    for (unit, words) in [(86_400.0, "days"), (3_600.0, "h"), (60.0, "min")] {
        if seconds >= unit && seconds % unit == 0.0 {
            let count = seconds / unit;
            return if unit == 86_400.0 && count == 1.0 {
                "1 day".into()
            } else {
                format!("{count} {words}")
            };
        }
    }
    format!("{seconds} s")
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

    #[test]
    fn a_rule_is_told_with_its_limits_its_deadband_and_its_delay() {
        let text = "[alarm.clock]\ndelay = \"500ms\"\n[alarm.hot]\nwhen = \"value\"\npoints = [\"boiler/*\"]\n\
                    above = 90\nbelow = 10.5\ndeadband = 2\ndelay = \"5m\"\n\
                    [alarm.off]\nwhen = \"value\"\npoints = [\"pump/on\"]\nbelow = 1\n";
        let alarms = forebay_config::load::server_text("server.toml", text).expect("a configuration").alarms;
        let told: Vec<(String, bool)> = alarms.rules.iter().map(|one| (rule(one), one.is_usual())).collect();
        let told: Vec<(&str, bool)> =
            told.iter().map(|(words, is_usual)| (words.as_str(), *is_usual)).collect();
        assert_eq!(
            told,
            [
                ("Nothing is heard of a gateway for 150 s, and 1 min more.", true),
                ("At least 1,000 readings wait in a gateway, and more and more for 10 min.", true),
                ("A gateway's clock is off by more than 10 s, for 0.5 s.", false),
                ("A gateway's certificate ends within 30 days.", true),
                ("A gateway's buffer was copied, or an older state of it restored.", true),
                ("The books of a gateway do not close.", true),
                ("A gateway came back with a new buffer while its old one held readings.", true),
                ("This server had lost readings that it had acknowledged.", true),
                (
                    "A value is above 90 or below 10.5, for 5 min. It clears when the value is inside by 2.",
                    false
                ),
                ("A value is below 1. It clears when the value is inside again.", false),
            ]
        );
    }
}
