//! `[[link.NAME.device.DEVICE.folder]]`: all that stands below a node of an OPC UA server as one entry.

use std::fmt;
use std::time::Duration;

use super::Deadband;
use crate::field::PointKind;

/// `[[link.NAME.device.DEVICE.folder]]`: variables below a node become points of the device, named by the
/// way to them: `Press/Temperature` is `Press.Temperature`.
#[derive(Clone, Debug, PartialEq)]
pub struct OpcUaFolder {
    /// `node`: where they stand; an id or a browse path, as for a point.
    pub node: String,
    /// `include`: a variable is read if one of these fits the way to it. Default `["**"]`, all of them.
    pub include: Vec<PathPattern>,
    /// `exclude`: what one of these fits is left out, with all that stands below it. Default none.
    pub exclude: Vec<PathPattern>,
    /// `depth`: how many levels below the node, 1 to 32. Default 8.
    pub depth: usize,
    /// `max_points`: how many of them, 1 to 10,000. Default 1,000. Those beyond are left out, and said.
    pub max_points: usize,
    /// `unfold`: values with at most so many elements and fields become as many points, `Press.Curve[0]` and
    /// `Robot.Position.X`, 0 to 1,000. Default 0: arrays and structures are left out.
    pub unfold: usize,
    /// `unit` of all of them. Default none.
    pub unit: String,
    /// `kind` of all of them. Default gauge for numbers, state for boolean and text.
    pub kind: Option<PointKind>,
    /// `sampling_interval`: how often they are sampled, or read. Default the link's.
    pub sampling_interval: Duration,
    /// `deadband` of those that are numbers. Default none: every change is reported.
    pub deadband: Option<Deadband>,
}

impl OpcUaFolder {
    /// Is what stands here left out, with all that is below it?
    pub fn excludes(&self, way: &[&str]) -> bool {
        self.exclude.iter().any(|pattern| pattern.fits(way))
    }

    /// Is a variable that stands here read?
    pub fn includes(&self, way: &[&str]) -> bool {
        self.include.iter().any(|pattern| pattern.fits(way)) && !self.excludes(way)
    }
}

/// Names from a node to one below it, `Press/*/Temp*`: `*` stands for any letters of a name, `**` between
/// slashes for any number of names, none too. `&` takes the meaning from the letter behind it, as in browse
/// paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPattern {
    text: String,
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// `**`.
    Any,
    /// What stands between the stars of a name: at least one piece.
    Name(Vec<String>),
}

impl PathPattern {
    /// # Errors
    /// In plain words: what is wrong with `text`.
    pub fn new(text: &str) -> Result<Self, String> {
        let refuse = |why: &str| Err(format!("\"{text}\" {why}"));
        let mut steps = Vec::new();
        let mut pieces = vec![String::new()];
        let mut letters = text.chars();
        loop {
            let letter = letters.next();
            match letter {
                Some('*') => pieces.push(String::new()),
                Some('&') => match letters.next() {
                    Some(letter) => pieces.last_mut().into_iter().for_each(|piece| piece.push(letter)),
                    None => return refuse("ends in the middle of a name: `&` takes a letter behind it"),
                },
                Some('/') | None => {
                    let name = std::mem::replace(&mut pieces, vec![String::new()]);
                    match (name.len(), name.iter().all(String::is_empty)) {
                        (1, true) => return refuse("has a step without a name"),
                        (3, true) => steps.push(Step::Any),
                        _ if name.iter().skip(1).rev().skip(1).any(String::is_empty) => {
                            return refuse("has `**` beside letters; it stands alone between slashes");
                        }
                        _ => steps.push(Step::Name(name)),
                    }
                }
                Some(letter) => pieces.last_mut().into_iter().for_each(|piece| piece.push(letter)),
            }
            if letter.is_none() {
                return Ok(Self { text: text.to_owned(), steps });
            }
        }
    }

    /// Does it fit these names, the whole way?
    pub fn fits(&self, way: &[&str]) -> bool {
        // Where in the pattern we may be: behind so many of its steps.
        let mut places = vec![false; self.steps.len() + 1];
        self.reach(0, &mut places);
        for name in way {
            let mut next = vec![false; places.len()];
            for (at, step) in self.steps.iter().enumerate() {
                match step {
                    _ if !places[at] => {}
                    Step::Any => self.reach(at, &mut next),
                    Step::Name(pieces) if fits(pieces, name) => self.reach(at + 1, &mut next),
                    Step::Name(_) => {}
                }
            }
            places = next;
        }
        places.last() == Some(&true)
    }

    /// `**` may stand for no name at all.
    fn reach(&self, mut at: usize, places: &mut [bool]) {
        places[at] = true;
        while matches!(self.steps.get(at), Some(Step::Any)) {
            at += 1;
            places[at] = true;
        }
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Pieces follow one another in the name; the first and the last stand at its ends.
fn fits(pieces: &[String], name: &str) -> bool {
    let Some((last, others)) = pieces.split_last() else { return false };
    let Some((first, middle)) = others.split_first() else { return last == name };
    let Some(mut rest) = name.strip_prefix(first.as_str()) else { return false };
    for piece in middle {
        let Some((_, behind)) = rest.split_once(piece.as_str()) else { return false };
        rest = behind;
    }
    rest.ends_with(last.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(pattern: &str, way: &str) -> bool {
        let names: Vec<&str> = way.split('/').collect();
        PathPattern::new(pattern).unwrap_or_else(|why| panic!("{why}")).fits(&names)
    }

    #[test]
    fn stars_stand_for_letters_and_two_of_them_for_names() {
        for (pattern, way, wanted) in [
            ("Press/Temp", "Press/Temp", true),
            ("Press/Temp", "Press/Temp2", false),
            ("Press", "Press/Temp", false),
            ("Press/Temp", "Press", false),
            ("*", "Press", true),
            ("*", "Press/Temp", false),
            ("*/Temp*", "Press/Temperature", true),
            ("*/Temp*", "Press/Oil/Temperature", false),
            ("**", "Press", true),
            ("**", "a/b/c/d", true),
            ("**/Temp*", "Temp", true),
            ("**/Temp*", "a/b/Temp1", true),
            ("**/Temp*", "a/Temp/b", false),
            ("a/**", "a", true),
            ("a/**", "a/b/c", true),
            ("a/**", "b/a", false),
            ("*/Diagnostics/**", "Press/Diagnostics/Uptime", true),
            ("*/Diagnostics/**", "Diagnostics/Uptime", false),
            ("**/x/**/y", "x/y", true),
            ("**/x/**/y", "a/x/b/x/c/y", true),
            ("**/x/**/y", "a/x/b/x/c/y/z", false),
            ("**/**", "a", true),
            ("a*b*c", "abc", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "acb", false),
            ("a*a", "a", false),
            ("Kessel*", "Kessel läuft", true),
        ] {
            assert_eq!(fits(pattern, way), wanted, "{pattern} and {way}");
        }
    }

    #[test]
    fn an_ampersand_takes_the_meaning_from_the_letter_behind_it() {
        let pattern = PathPattern::new("a&/b/&*&&").unwrap();
        assert!(pattern.fits(&["a/b", "*&"]));
        assert!(!pattern.fits(&["a", "b", "x&"]) && !pattern.fits(&["a/b", "x&"]));
        assert_eq!(pattern.to_string(), "a&/b/&*&&");
    }

    #[test]
    fn what_is_no_pattern_is_refused_with_the_text_and_the_reason() {
        for (text, word) in [
            ("", "without a name"),
            ("/Press", "without a name"),
            ("Press/", "without a name"),
            ("a//b", "without a name"),
            ("Press/**x", "stands alone"),
            ("a**b/c", "stands alone"),
            ("***", "stands alone"),
            ("x&", "middle of a name"),
        ] {
            let why = PathPattern::new(text).unwrap_err();
            assert!(why.contains(word) && why.contains(text), "{text}: {why}");
        }
    }

    /// The same, as slowly as can be.
    fn slowly(pattern: &[&str], way: &[&str]) -> bool {
        fn letters(pattern: &[char], name: &[char]) -> bool {
            match pattern.split_first() {
                None => name.is_empty(),
                Some(('*', rest)) => (0..=name.len()).any(|from| letters(rest, &name[from..])),
                Some((letter, rest)) => name.first() == Some(letter) && letters(rest, &name[1..]),
            }
        }
        let chars = |text: &str| text.chars().collect::<Vec<_>>();
        match pattern.split_first() {
            None => way.is_empty(),
            Some((&"**", rest)) => (0..=way.len()).any(|from| slowly(rest, &way[from..])),
            Some((step, rest)) => way
                .split_first()
                .is_some_and(|(name, behind)| letters(&chars(step), &chars(name)) && slowly(rest, behind)),
        }
    }

    #[test]
    fn every_short_pattern_fits_what_it_says() {
        let steps = ["**", "*", "a", "a*", "*b", "a*b*a", "*a*"];
        let names = ["a", "b", "ab", "aba", "bab"];
        let up_to_three = |of: &[&'static str]| {
            let mut all: Vec<Vec<&'static str>> = of.iter().map(|one| vec![*one]).collect();
            for from in 0..all.len() + of.len() * of.len() {
                let longer: Vec<_> = of.iter().map(|one| [all[from].as_slice(), &[*one]].concat()).collect();
                all.extend(longer);
            }
            all
        };
        let (patterns, ways) = (up_to_three(&steps), up_to_three(&names));
        assert_eq!((patterns.len(), ways.len()), (7 + 49 + 343, 5 + 25 + 125));
        let mut fitting = 0;
        for pattern in &patterns {
            let compiled = PathPattern::new(&pattern.join("/")).unwrap();
            for way in &ways {
                let wanted = slowly(pattern, way);
                assert_eq!(compiled.fits(way), wanted, "{pattern:?} and {way:?}");
                fitting += usize::from(wanted);
            }
        }
        assert!(fitting > 1_000, "{fitting}");
    }
}
