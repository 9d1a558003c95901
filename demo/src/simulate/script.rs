//! Faults as words, and when they begin and end. Pure.

use std::ops::RangeInclusive;
use std::time::Duration;

/// How faults are written, for help and complaints.
pub const GRAMMAR: &str = "KIND[=VALUE][:UNIT]@SECONDS[..SECONDS]";

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Connections are closed, and refused while it lasts.
    Cut,
    /// Connections are closed, once.
    Drop,
    /// Connections stay open and nothing moves.
    Stalled,
    /// Answers come so much later.
    Slow(Duration),
    /// Modbus: the unit does not answer.
    Silent,
    /// Modbus: the unit answers with this exception.
    Exception(u8),
    /// What comes is no answer; at a broker, payloads that are no values.
    Garbage,
    /// Modbus: answers hold one register less than asked for.
    Short,
    /// Modbus: answers bear another unit's number.
    WrongUnit,
    /// Modbus: more registers at once are refused.
    Limit(u16),
    /// Modbus: the unit does not have these addresses.
    Hole(RangeInclusive<u16>),
    /// OPC UA: the server ends, and starts again at the end of the fault.
    Down,
    /// OPC UA: started again, the server numbers its namespaces otherwise.
    Renumbered,
    /// OPC UA: started again, the server takes so many sessions.
    Sessions(usize),
    /// MQTT: the broker starts again and knows no session any more.
    Forgets,
    /// MQTT: nobody publishes.
    Quiet,
}

/// A fault, of one unit or of all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What goes wrong.
    pub kind: Kind,
    /// With which unit; all without it.
    pub unit: Option<u8>,
}

/// A fault with its time, counted from the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// What.
    pub fault: Fault,
    /// When it begins.
    pub from: Duration,
    /// When it ends, if it does.
    pub to: Option<Duration>,
}

impl Fault {
    /// Reads `KIND[=VALUE][:UNIT]`.
    ///
    /// # Errors
    /// In plain words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (word, unit) = match text.trim().split_once(':') {
            Some((word, unit)) => {
                let unit = unit.parse().map_err(|_| format!("`{unit}` is no unit id"))?;
                (word, Some(unit))
            }
            None => (text.trim(), None),
        };
        let (word, value) = word.split_once('=').unwrap_or((word, ""));
        let kind = kind(word, value)?;
        Ok(Self { kind, unit })
    }
}

impl Planned {
    /// Reads `KIND[=VALUE][:UNIT]@SECONDS[..SECONDS]`.
    ///
    /// # Errors
    /// In plain words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (fault, time) = text.rsplit_once('@').ok_or_else(|| format!("`{text}` is not {GRAMMAR}"))?;
        let (from, to) = match time.split_once("..") {
            Some((from, to)) => (seconds(from)?, Some(seconds(to)?)),
            None => (seconds(time)?, None),
        };
        if to.is_some_and(|to| to <= from) {
            return Err(format!("`{text}` ends before it begins"));
        }
        Ok(Self { fault: Fault::parse(fault)?, from, to })
    }
}

fn kind(word: &str, value: &str) -> Result<Kind, String> {
    let wrong = |example: &str| format!("`{word}={value}`: write {example}");
    let number = |usual: u16, example: &str| match value {
        "" => Ok(usual),
        value => value.parse::<u16>().map_err(|_| wrong(example)),
    };
    Ok(match word {
        "cut" => Kind::Cut,
        "drop" => Kind::Drop,
        "stalled" => Kind::Stalled,
        "slow" => Kind::Slow(span(value, Duration::from_millis(500)).ok_or_else(|| wrong("slow=500ms"))?),
        // Later than any usual timeout: the answer to one request comes while the next is waited for.
        "late" => Kind::Slow(span(value, Duration::from_secs(3)).ok_or_else(|| wrong("late=3s"))?),
        "silent" => Kind::Silent,
        "exception" => {
            let code = number(4, "exception=4")?;
            Kind::Exception(u8::try_from(code).map_err(|_| wrong("exception=4"))?)
        }
        "garbage" => Kind::Garbage,
        "short" => Kind::Short,
        "wrong-unit" => Kind::WrongUnit,
        "limit" => Kind::Limit(number(16, "limit=16")?),
        "hole" => {
            let (first, last) = value.split_once('-').ok_or_else(|| wrong("hole=20-29"))?;
            let address = |text: &str| text.parse::<u16>().map_err(|_| wrong("hole=20-29"));
            Kind::Hole(address(first)?..=address(last)?)
        }
        "down" => Kind::Down,
        "renumbered" => Kind::Renumbered,
        "sessions" => Kind::Sessions(number(1, "sessions=1")?.into()),
        "forgets" => Kind::Forgets,
        "quiet" => Kind::Quiet,
        _ => return Err(format!("there is no fault `{word}`")),
    })
}

fn span(value: &str, usual: Duration) -> Option<Duration> {
    if value.is_empty() { Some(usual) } else { forebay_config::load::parse_duration(value) }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.trim_end_matches('s').parse().ok();
    let found = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    found.ok_or_else(|| format!("`{text}` is no number of seconds"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_with_value_unit_and_time() {
        let planned = |text: &str| Planned::parse(text).unwrap();
        let seconds = Duration::from_secs;
        assert_eq!(
            planned("silent:2@10..20"),
            Planned {
                fault: Fault { kind: Kind::Silent, unit: Some(2) },
                from: seconds(10),
                to: Some(seconds(20))
            }
        );
        assert_eq!(planned("slow=1500ms@0.5s").fault.kind, Kind::Slow(Duration::from_millis(1_500)));
        assert_eq!(planned("hole=20-29:1@0").fault, Fault { kind: Kind::Hole(20..=29), unit: Some(1) });
        assert_eq!(planned("exception@3").fault.kind, Kind::Exception(4));
        assert_eq!(
            (planned("cut@3").to, planned("limit@1..2.5").to),
            (None, Some(Duration::from_millis(2_500)))
        );
        for word in [
            "cut",
            "drop",
            "stalled",
            "late",
            "garbage",
            "short",
            "wrong-unit",
            "down",
            "renumbered",
            "sessions=2",
            "forgets",
            "quiet",
        ] {
            Fault::parse(word).unwrap();
        }
    }

    #[test]
    fn what_cannot_be_read_is_told() {
        for (text, word) in [
            ("silent", "@SECONDS"),
            ("silent@soon", "soon"),
            ("silent@9..3", "before it begins"),
            ("silent:x@1", "unit id"),
            ("loud@1", "no fault `loud`"),
            ("hole=5@1", "hole=20-29"),
            ("slow=fast@1", "slow=500ms"),
            ("exception=300@1", "exception=4"),
            ("silent@-1", "-1"),
        ] {
            let why = Planned::parse(text).unwrap_err();
            assert!(why.contains(word), "{text}: {why}");
        }
    }
}
