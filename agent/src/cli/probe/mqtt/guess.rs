//! What a payload means. Pure.

use std::collections::BTreeMap;

use forebay_protocols::field::mqtt::look::is_time;
use serde_json::Value as Json;

/// Values that are taken from one document.
const MOST_FIELDS: usize = 100;
/// Elements that are taken from one array: more is a waveform, not a list of points.
const MOST_ELEMENTS: usize = 8;
/// Words that name a time.
const TIMES: [&str; 8] = ["time", "ts", "timestamp", "at", "date", "datetime", "tst", "updated"];

/// The type of a value, as the configuration has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A number, quoted or not. Whole ones too: the next may have a fraction.
    Float,
    /// On or off.
    Boolean,
    /// Anything else.
    Text,
}

impl Kind {
    /// `, type = "…"` behind a point; nothing for a float, which is what stands for nothing.
    pub fn words(self) -> &'static str {
        match self {
            Self::Float => "",
            Self::Boolean => ", type = \"boolean\"",
            Self::Text => ", type = \"text\"",
        }
    }

    /// The type that can hold both.
    fn and(self, other: Self) -> Self {
        if self == other { self } else { Self::Text }
    }
}

/// A payload's meaning.
#[derive(Clone, Debug, PartialEq)]
pub enum Meaning {
    /// Nothing that can be configured.
    Nothing,
    /// One value as text, and an example.
    Plain(Kind, String),
    /// A JSON object or array.
    Document(Document),
}

/// The values of a document by pointer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Document {
    /// Pointer to the device's own time.
    pub time: Option<String>,
    /// Type and an example.
    pub fields: BTreeMap<String, (Kind, String)>,
}

impl Meaning {
    /// The meaning of a topic on which both were said.
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nothing, any) | (any, Self::Nothing) => any,
            (Self::Plain(one, _), Self::Plain(other, text)) => Self::Plain(one.and(other), text),
            (Self::Document(mut one), Self::Document(other)) => {
                one.time = one.time.or(other.time);
                for (pointer, (kind, text)) in other.fields {
                    let kind = one.fields.get(&pointer).map_or(kind, |(before, _)| kind.and(*before));
                    if one.fields.len() < MOST_FIELDS || one.fields.contains_key(&pointer) {
                        one.fields.insert(pointer, (kind, text));
                    }
                }
                Self::Document(one)
            }
            (_, later) => later,
        }
    }
}

/// What `payload` means, which is not empty.
pub fn meaning(payload: &[u8]) -> Meaning {
    let Ok(text) = std::str::from_utf8(payload) else { return Meaning::Nothing };
    match serde_json::from_str::<Json>(text) {
        Ok(json @ (Json::Object(_) | Json::Array(_))) => {
            let mut document = Document::default();
            walk(&json, String::new(), &mut document);
            if document.fields.is_empty() { Meaning::Nothing } else { Meaning::Document(document) }
        }
        // A text of several lines is a file.
        _ if text.trim().lines().count() > 1 || text.trim().is_empty() => Meaning::Nothing,
        _ => Meaning::Plain(kind(text), text.trim().to_owned()),
    }
}

fn walk(json: &Json, pointer: String, document: &mut Document) {
    if document.fields.len() >= MOST_FIELDS {
        return;
    }
    // RFC 6901, 3.
    let below = |key: &str| format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"));
    let field = match json {
        Json::Null => return,
        Json::Object(members) => {
            return members.iter().for_each(|(key, member)| walk(member, below(key), document));
        }
        Json::Array(elements) => {
            let few = elements.iter().take(MOST_ELEMENTS).enumerate();
            return few.for_each(|(at, element)| walk(element, below(&at.to_string()), document));
        }
        Json::Bool(bit) => (Kind::Boolean, bit.to_string()),
        Json::Number(number) => (Kind::Float, number.to_string()),
        Json::String(text) => (kind(text), text.clone()),
    };
    let key = pointer.rsplit('/').next().unwrap_or_default().to_lowercase();
    if document.time.is_none() && TIMES.contains(&key.as_str()) && is_time(json) {
        document.time = Some(pointer);
        return;
    }
    document.fields.insert(pointer, field);
}

/// As the driver reads text (`field/mqtt/payload.rs`), but that 0 and 1 are numbers.
fn kind(text: &str) -> Kind {
    let word = text.trim();
    if word.parse::<f64>().is_ok_and(f64::is_finite) {
        Kind::Float
    } else if ["true", "false", "on", "off", "yes", "no"].iter().any(|bit| word.eq_ignore_ascii_case(bit)) {
        Kind::Boolean
    } else {
        Kind::Text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_told_apart() {
        let plain = |kind, text: &str| Meaning::Plain(kind, text.into());
        for (payload, expected) in [
            ("21.5", plain(Kind::Float, "21.5")),
            (" 7\n", plain(Kind::Float, "7")),
            ("ON", plain(Kind::Boolean, "ON")),
            ("\"open\"", plain(Kind::Text, "\"open\"")),
            ("open", plain(Kind::Text, "open")),
            ("NaN", plain(Kind::Text, "NaN")),
            ("a\nb", Meaning::Nothing),
            ("{}", Meaning::Nothing),
        ] {
            assert_eq!(meaning(payload.as_bytes()), expected, "{payload}");
        }
        assert_eq!(meaning(b"\xff\x00"), Meaning::Nothing);
    }

    #[test]
    fn a_document_gives_its_values_by_pointer_and_its_time_apart() {
        let json = r#"{"time":"2026-11-21T08:00:00Z","air":{"temp":21.5,"a/b~c":"7"},"door":true,"mode":"day","none":null,
            "list":[1,2],"at":5}"#;
        let Meaning::Document(document) = meaning(json.as_bytes()) else { panic!("a document") };
        assert_eq!(document.time.as_deref(), Some("/at"), "objects are read in the order of their keys");
        let fields: Vec<_> =
            document.fields.iter().map(|(pointer, (kind, _))| (pointer.as_str(), *kind)).collect();
        assert_eq!(
            fields,
            [
                ("/air/a~1b~0c", Kind::Float),
                ("/air/temp", Kind::Float),
                ("/door", Kind::Boolean),
                ("/list/0", Kind::Float),
                ("/list/1", Kind::Float),
                ("/mode", Kind::Text),
                ("/time", Kind::Text),
            ]
        );
    }

    #[test]
    fn what_changes_its_type_is_text_and_parts_add_up() {
        let of = |text: &str| meaning(text.as_bytes());
        assert_eq!(of("1").and(of("off")), Meaning::Plain(Kind::Text, "off".into()));
        let Meaning::Document(both) = of(r#"{"a":1}"#).and(of(r#"{"b":true,"a":"x"}"#)) else { panic!() };
        assert_eq!(both.fields["/a"].0, Kind::Text);
        assert_eq!(both.fields["/b"].0, Kind::Boolean);
        assert_eq!(of("1").and(Meaning::Nothing), of("1"));
    }

    #[test]
    fn no_document_is_walked_without_end() {
        let many: Vec<String> = (0..1_000).map(|n| format!("\"k{n}\":{n}")).collect();
        let Meaning::Document(document) = meaning(format!("{{{}}}", many.join(",")).as_bytes()) else {
            panic!()
        };
        assert_eq!(document.fields.len(), MOST_FIELDS);
        let wave: Vec<String> = (0..500).map(|n| n.to_string()).collect();
        let Meaning::Document(document) = meaning(format!("[{}]", wave.join(",")).as_bytes()) else {
            panic!()
        };
        assert_eq!(document.fields.len(), MOST_ELEMENTS);
    }
}
