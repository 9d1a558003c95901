//! How numbers, moments and gaps are written for people.

use std::fmt;

use forebay_protocols::sync::wire::Gap;
use forebay_protocols::sync::wire::gap::Reason;
use jiff::Timestamp;

/// `1234567` as `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// "1 batch", "1,200 batches".
pub fn count(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", grouped(number), if number == 1 { one } else { many })
}

/// A moment to the second.
pub fn moment(wall_us: i64) -> String {
    match Timestamp::from_microsecond(wall_us) {
        Ok(at) => at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        Err(_) => format!("{wall_us} us since 1970"),
    }
}

/// A moment to the microsecond, as ISO 8601. One that no calendar reaches is written as a number.
pub fn stamp(wall_us: i64) -> String {
    match Timestamp::from_microsecond(wall_us) {
        Ok(at) => format!("{at:.6}"),
        Err(_) => format!("@{wall_us}us"),
    }
}

/// "about 40 minutes", "about 12 days".
pub fn about(seconds: f64) -> String {
    let (number, unit) = match seconds {
        s if s < 120.0 => (s, "seconds"),
        s if s < 7_200.0 => (s / 60.0, "minutes"),
        s if s < 172_800.0 => (s / 3_600.0, "hours"),
        s if s < 63_072_000.0 => (s / 86_400.0, "days"),
        s => (s / 31_536_000.0, "years"),
    };
    format!("about {number:.0} {unit}")
}

/// Why readings are missing.
pub struct Why(pub Reason);

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Reason::DeviceSilent => "no answer, or its link was down",
            Reason::BufferFull => "no room: the oldest were dropped",
            Reason::Corrupt => "damaged on the disk",
            Reason::AgentDown => "the agent did not run",
            Reason::Clock => "the clock was set",
            Reason::ServerLost => "the server lost what it had, and it was deleted here",
            Reason::Thinned => "no room: old readings were thinned out",
            Reason::Wiped => "the buffer was replaced",
            Reason::Unspecified => "for a reason that this version does not know",
        })
    }
}

/// One gap in a line.
pub fn gap(gap: &Gap, point: Option<&str>) -> String {
    let unsure = [&gap.start, &gap.end].into_iter().flatten().any(|end| !end.synchronised);
    let unsure = if unsure { ", clock not synchronised" } else { "" };
    let whom = match (point, gap.point, gap.device.as_str()) {
        (_, 0, "") => "all points".to_owned(),
        (_, 0, device) => format!("device `{device}`"),
        (Some(point), ..) => format!("point `{point}`"),
        (None, number, _) => format!("point number {number}"),
    };
    let readings = match gap.count {
        0 => String::new(),
        count => format!(" ({})", self::count(count, "reading", "readings")),
    };
    let (from, to, why) = (moment(gap.from_us), moment(gap.to_us), Why(gap.reason()));
    format!("#{} {from} to {to}{unsure}, {whom}: {why}{readings}", gap.number)
}

#[cfg(test)]
mod tests {
    use forebay_protocols::sync::wire::GapEnd;

    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        let texts: Vec<_> = [0, 12, 999, 1_000, 12_345, 1_234_567].map(grouped).into();
        assert_eq!(texts, ["0", "12", "999", "1,000", "12,345", "1,234,567"]);
        assert_eq!(count(1, "batch", "batches"), "1 batch");
        assert_eq!(count(2_000, "batch", "batches"), "2,000 batches");
    }

    #[test]
    fn moments_that_no_calendar_reaches_are_numbers() {
        assert_eq!(moment(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(stamp(1_700_000_000_000_001), "2023-11-14T22:13:20.000001Z");
        assert_eq!(stamp(-1), "1969-12-31T23:59:59.999999Z");
        assert_eq!(stamp(i64::MAX), "@9223372036854775807us");
        assert_eq!(moment(i64::MIN), "-9223372036854775808 us since 1970");
    }

    #[test]
    fn spans_are_told_in_the_unit_people_would_use() {
        let told: Vec<_> = [90.0, 3_000.0, 90_000.0, 1_000_000.0, 1e9].map(about).into();
        assert_eq!(
            told,
            ["about 90 seconds", "about 50 minutes", "about 25 hours", "about 12 days", "about 32 years"]
        );
    }

    #[test]
    fn a_gap_says_when_whom_and_why() {
        let one =
            |reason: Reason| Gap { number: 7, to_us: 60_000_000, reason: reason.into(), ..Gap::default() };
        let damaged = Gap { count: 3, ..one(Reason::Corrupt) };
        assert_eq!(
            gap(&damaged, None),
            "#7 1970-01-01 00:00:00 UTC to 1970-01-01 00:01:00 UTC, all points: damaged on the disk (3 readings)"
        );
        let guess = GapEnd { boot: 1, wall_offset_us: 0, synchronised: false };
        let silent = Gap { device: "pump".into(), start: Some(guess), ..one(Reason::DeviceSilent) };
        assert_eq!(
            gap(&silent, None),
            "#7 1970-01-01 00:00:00 UTC to 1970-01-01 00:01:00 UTC, clock not synchronised, device `pump`: no \
             answer, or its link was down"
        );
        let later = Gap { point: 4, reason: 99, ..one(Reason::Clock) };
        let end = "for a reason that this version does not know";
        assert!(gap(&later, Some("pump/speed")).ends_with(&format!("point `pump/speed`: {end}")));
        assert!(gap(&later, None).ends_with(&format!("point number 4: {end}")));
    }
}
