//! `[class.NAME]`: which points give way first when the buffer is full.

use std::fmt;

use crate::agent::WhenFull;
use crate::units::Name;

/// `[class.NAME]`: points that share a rule for the day the buffer is full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    /// The table's name.
    pub name: Name,
    /// `when_full` of these points; `buffer.when_full` is for all others.
    pub when_full: WhenFull,
    /// `points`: patterns of `device/point`. A point belongs to the first class that names it.
    pub points: Vec<Pattern>,
}

impl Class {
    /// Does this point belong here?
    pub fn holds(&self, device: &str, point: &str) -> bool {
        self.points.iter().any(|pattern| pattern.matches(device, point))
    }
}

/// `device/point`, in which `*` stands for any letters but the slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    device: String,
    point: String,
}

impl Pattern {
    /// # Errors
    /// In plain words, unless the text has one slash with something on both sides.
    pub fn new(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((device, point)) if !device.is_empty() && !point.is_empty() && !point.contains('/') => {
                Ok(Self { device: device.into(), point: point.into() })
            }
            _ => Err(format!("\"{text}\" is not device/point")),
        }
    }

    /// Is this the point, or one of the points, that is meant?
    pub fn matches(&self, device: &str, point: &str) -> bool {
        self.may_match(device) && matches(&self.point, point)
    }

    /// Could it be a point of this device?
    pub fn may_match(&self, device: &str) -> bool {
        matches(&self.device, device)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.device, self.point)
    }
}

/// Pieces between stars must follow one another; the first and the last stand at the ends.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(head) else { return false };
    let (middle, tail) = rest.rsplit_once('*').unwrap_or(("", rest));
    for piece in middle.split('*') {
        let Some(at) = text.find(piece) else { return false };
        text = &text[at + piece.len()..];
    }
    text.ends_with(tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_letters_on_its_side_of_the_slash() {
        let cases = [
            ("pump/fault", "pump", "fault", true),
            ("pump/fault", "pump", "faults", false),
            ("*/fault", "pump", "fault", true),
            ("*/*", "", "x", true),
            ("pump*/al*m*", "pump-2", "alarm_3", true),
            ("pump*/al*m*", "pump-2", "al", false),
            ("*/a*a", "d", "a", false),
            ("*/a*a", "d", "aa", true),
            ("*/*ab*ab", "d", "ab", false),
        ];
        for (pattern, device, point, wanted) in cases {
            let found = Pattern::new(pattern).unwrap().matches(device, point);
            assert_eq!(found, wanted, "{pattern} and {device}/{point}");
        }
    }

    #[test]
    fn a_pattern_names_device_and_point() {
        for text in ["pump", "/fault", "pump/", "a/b/c", ""] {
            assert!(Pattern::new(text).is_err(), "{text}");
        }
    }
}
