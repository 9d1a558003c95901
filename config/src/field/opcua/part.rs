//! Which part of a node's value a point reads: an element of an array, a field of a structure, and these in
//! one another.

use std::fmt;

/// The longest array that is taken apart: 131,072 elements, as many as one message may bring.
pub const MOST_ELEMENTS: u32 = 1 << 17;
/// Steps to a part. Nothing that could be a reading is as deep.
const MOST_STEPS: usize = 16;
/// Dimensions of an array.
const MOST_DIMENSIONS: usize = 8;

/// A part of a value, by steps from the whole; without steps the whole. Written `[3]`, `[1,2]`,
/// `Position.X` or `Axes[1].Torque`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpcUaPart(Vec<PartStep>);

/// One step into a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PartStep {
    /// An element of an array, by its index in each dimension, from 0. At least one.
    Element(Vec<u32>),
    /// A field of a structure, by its name.
    Field(String),
}

/// As written: a step that names several elements makes as many parts.
enum Written {
    Elements(Elements),
    Field(String),
}

struct Elements {
    /// First and last index of each dimension.
    ranges: Vec<(u32, u32)>,
    /// Written as an index, not as a range, be it one of a single element.
    is_one: bool,
}

impl OpcUaPart {
    /// A part at the end of these steps.
    pub fn new(steps: Vec<PartStep>) -> Self {
        Self(steps)
    }

    /// From the whole to it.
    pub fn steps(&self) -> &[PartStep] {
        &self.0
    }

    /// Is it the whole value?
    pub fn is_whole(&self) -> bool {
        self.0.is_empty()
    }

    /// The same, one step further.
    pub fn then(&self, step: PartStep) -> Self {
        Self(self.0.iter().cloned().chain([step]).collect())
    }

    /// What `element`, `elements` and `field` name: the parts, each with what is to stand behind the point's
    /// name, which is nothing where there is only one. `elements` is `3`, `1,2`, `0:15` or `0:3,0:4`, in
    /// brackets or not; `..` stands for `:`.
    ///
    /// # Errors
    /// In plain words: what is wrong with the text.
    pub fn all(elements: Option<&str>, field: Option<&str>) -> Result<Vec<(String, Self)>, String> {
        let mut steps = Vec::new();
        if let Some(text) = elements {
            let inside = text.trim().strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
            steps.push(Written::Elements(indices(text, inside.unwrap_or(text.trim()))?));
        }
        if let Some(text) = field {
            steps.extend(written(text)?);
        }
        if steps.len() > MOST_STEPS {
            return Err(format!("more than {MOST_STEPS} steps into a value"));
        }
        unfolded(steps)
    }
}

impl fmt::Display for OpcUaPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.0.iter().enumerate() {
            match step {
                PartStep::Element(indices) => f.write_str(&bracketed(indices))?,
                PartStep::Field(name) => {
                    f.write_str(if at == 0 { "" } else { "." })?;
                    for letter in name.chars() {
                        write!(f, "{}{letter}", if is_special(letter) { "&" } else { "" })?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn is_special(letter: char) -> bool {
    matches!(letter, '.' | '[' | ']' | '&')
}

/// `[1,2]`.
fn bracketed(indices: &[u32]) -> String {
    let indices: Vec<String> = indices.iter().map(u32::to_string).collect();
    format!("[{}]", indices.join(","))
}

fn indices(text: &str, inside: &str) -> Result<Elements, String> {
    let number = |word: &str| {
        let word = word.trim();
        let number = word.parse().map_err(|_| format!("`{word}` in `{text}` is not an index"))?;
        if number >= MOST_ELEMENTS {
            return Err(format!("`{text}`: an index is at most {}", MOST_ELEMENTS - 1));
        }
        Ok(number)
    };
    let mut ranges = Vec::new();
    let mut is_one = true;
    for dimension in inside.split(',') {
        let (first, last) = match dimension.split_once("..").or_else(|| dimension.split_once(':')) {
            Some((first, last)) => {
                is_one = false;
                (number(first)?, number(last)?)
            }
            None => (number(dimension)?, number(dimension)?),
        };
        if last < first {
            return Err(format!("`{text}` ends before it begins"));
        }
        ranges.push((first, last));
    }
    if ranges.len() > MOST_DIMENSIONS {
        return Err(format!("`{text}` has more than {MOST_DIMENSIONS} dimensions"));
    }
    Ok(Elements { ranges, is_one })
}

/// Names between dots, each with indices in brackets behind it, or none. `&` takes the meaning from the letter
/// behind it.
fn written(text: &str) -> Result<Vec<Written>, String> {
    let mut steps = Vec::new();
    let mut name = String::new();
    let mut letters = text.chars();
    // Behind a bracket a name needs a dot before it.
    let mut is_closed = false;
    let end = |name: &mut String, may_be_none: bool, steps: &mut Vec<Written>| {
        match (name.is_empty(), may_be_none) {
            (false, _) => steps.push(Written::Field(std::mem::take(name))),
            (true, true) => {}
            (true, false) => return Err(format!("`{text}` has a step without a name")),
        }
        Ok(())
    };
    loop {
        match letters.next() {
            None => {
                end(&mut name, is_closed, &mut steps)?;
                return Ok(steps);
            }
            Some('.') => {
                end(&mut name, is_closed, &mut steps)?;
                is_closed = false;
            }
            Some('[') => {
                end(&mut name, is_closed || steps.is_empty(), &mut steps)?;
                let rest = letters.as_str();
                let (inside, behind) =
                    rest.split_once(']').ok_or_else(|| format!("`{text}` has a `[` without its `]`"))?;
                steps.push(Written::Elements(indices(text, inside)?));
                letters = behind.chars();
                is_closed = true;
            }
            Some(']') => return Err(format!("`{text}` has a `]` without its `[`")),
            Some(letter) if is_closed => {
                return Err(format!("`{text}`: between `]` and `{letter}` belongs a `.`"));
            }
            Some('&') => match letters.next() {
                Some(letter) => name.push(letter),
                None => {
                    return Err(format!(
                        "`{text}` ends in the middle of a name: `&` takes a letter behind it"
                    ));
                }
            },
            Some(letter) => name.push(letter),
        }
    }
}

/// Each part that is meant. Only one step may name several elements, so that a name has one index.
fn unfolded(steps: Vec<Written>) -> Result<Vec<(String, OpcUaPart)>, String> {
    let mut parts = vec![(String::new(), OpcUaPart::default())];
    for step in steps {
        match step {
            Written::Field(name) => {
                parts.iter_mut().for_each(|(_, part)| part.0.push(PartStep::Field(name.clone())));
            }
            Written::Elements(Elements { ranges, is_one }) => {
                if !is_one && parts.len() > 1 {
                    return Err("only one step may name several elements".to_owned());
                }
                let count = ranges.iter().try_fold(1u32, |count, (first, last)| {
                    count.checked_mul(last - first + 1).filter(|count| *count <= MOST_ELEMENTS)
                });
                if count.is_none() {
                    return Err(format!("these are more than {MOST_ELEMENTS} elements"));
                }
                let elements = combinations(&ranges);
                parts = parts
                    .iter()
                    .flat_map(|(suffix, part)| {
                        elements.iter().map(move |element| {
                            let suffix = if is_one { suffix.clone() } else { bracketed(element) };
                            (suffix, part.then(PartStep::Element(element.clone())))
                        })
                    })
                    .collect();
            }
        }
    }
    Ok(parts)
}

/// Every index of these ranges, the last dimension fastest, as arrays are sent.
fn combinations(ranges: &[(u32, u32)]) -> Vec<Vec<u32>> {
    let mut all = vec![Vec::new()];
    for (first, last) in ranges {
        all = all
            .into_iter()
            .flat_map(|begin: Vec<u32>| (*first..=*last).map(move |index| [&begin[..], &[index]].concat()))
            .collect();
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(elements: Option<&str>, field: Option<&str>) -> Vec<String> {
        let parts = OpcUaPart::all(elements, field).unwrap_or_else(|why| panic!("{why}"));
        parts.into_iter().map(|(suffix, part)| format!("{suffix} {part}")).collect()
    }

    #[test]
    fn elements_and_fields_lead_to_one_part_or_to_one_for_each_element() {
        for (elements, field, wanted) in [
            (None, None, &[" "][..]),
            (Some("3"), None, &[" [3]"]),
            (Some(" [1, 2] "), None, &[" [1,2]"]),
            (None, Some("Position.X"), &[" Position.X"]),
            (Some("1"), Some("Torque"), &[" [1].Torque"]),
            (None, Some("Axes[1].Torque"), &[" Axes[1].Torque"]),
            (None, Some("[1][2]"), &[" [1][2]"]),
            (None, Some("Cells[1,2]"), &[" Cells[1,2]"]),
            (Some("0:2"), None, &["[0] [0]", "[1] [1]", "[2] [2]"]),
            (Some("7:7"), None, &["[7] [7]"]),
            (Some("7..8"), Some("Torque"), &["[7] [7].Torque", "[8] [8].Torque"]),
            (Some("1:2,0:1"), None, &["[1,0] [1,0]", "[1,1] [1,1]", "[2,0] [2,0]", "[2,1] [2,1]"]),
            (Some("0:1,3"), None, &["[0,3] [0,3]", "[1,3] [1,3]"]),
            (None, Some("Axes[0:1].Torque"), &["[0] Axes[0].Torque", "[1] Axes[1].Torque"]),
            (Some("2"), Some("Axes[0:1]"), &["[0] [2].Axes[0]", "[1] [2].Axes[1]"]),
            (None, Some("a&.b.c&[d&&"), &[" a&.b.c&[d&&"]),
        ] {
            assert_eq!(parts(elements, field), wanted, "{elements:?} {field:?}");
        }
    }

    #[test]
    fn a_part_written_and_read_again_is_the_same() {
        for text in ["Position.X", "Axes[1].Torque", "a&.b.c&[d&&", "[1,2].x[0][7]", "é.&]"] {
            let all = OpcUaPart::all(None, Some(text)).unwrap();
            assert_eq!(all[0].1.to_string(), text);
        }
    }

    #[test]
    fn what_names_no_part_is_refused_with_the_text_and_the_reason() {
        for (elements, field, word) in [
            (Some(""), None, "not an index"),
            (Some("x"), None, "`x`"),
            (Some("-1"), None, "not an index"),
            (Some("[1"), None, "not an index"),
            (Some("1,"), None, "not an index"),
            (Some("5:3"), None, "ends before it begins"),
            (Some("131072"), None, "at most 131071"),
            (Some("0:131071,0:1"), None, "more than 131072 elements"),
            (Some("0,0,0,0,0,0,0,0,0"), None, "8 dimensions"),
            (None, Some(""), "without a name"),
            (None, Some("a..b"), "without a name"),
            (None, Some(".a"), "without a name"),
            (None, Some("a."), "without a name"),
            (None, Some("a[1]b"), "belongs a `.`"),
            (None, Some("a[1"), "without its `]`"),
            (None, Some("a]"), "without its `[`"),
            (None, Some("a[1]&"), "belongs a `.`"),
            (None, Some("a&"), "middle of a name"),
            (Some("0:1"), Some("a[0:1]"), "only one step"),
            (None, Some("a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a"), "16 steps"),
        ] {
            let why = OpcUaPart::all(elements, field).unwrap_err();
            assert!(why.contains(word), "{elements:?} {field:?}: {why}");
        }
    }
}
