//! Topic templates: MQTT filters in which `{device}` and `{point}` each stand for one level and
//! name what is read. Pure: a template makes the filter to subscribe to, and takes the names out
//! of the topics that come back (MQTT 3.1.1, 4.7; shared subscriptions: MQTT 5, 4.8.2).

use std::sync::Arc;

/// The longest topic or filter MQTT can carry, bytes.
const LONGEST: usize = 65_535;
/// The longest [`forebay_config::units::Name`], characters.
const LONGEST_NAME: usize = 64;

/// `plant/{device}/{point}`, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template {
    filter: String,
    levels: Vec<Level>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Level {
    Literal(String),
    /// `+`: any one level.
    One,
    /// `#`: this level and everything below, or nothing at all.
    Rest,
    Device,
    Point,
}

/// The levels of a topic that its template gives a meaning, as the peer wrote them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Captured<'t> {
    pub(super) device: Option<&'t str>,
    pub(super) point: Option<&'t str>,
}

impl Template {
    /// Takes `text` apart, or says in plain words what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > LONGEST || text.contains('\0') {
            return Err(format!("a topic has 1 to {LONGEST} bytes and no NUL character"));
        }
        let (share, topic) = split_share(text)?;
        let levels = topic.split('/').map(Level::parse).collect::<Result<Vec<_>, _>>()?;
        if levels.iter().rev().skip(1).any(|level| *level == Level::Rest) {
            return Err("`#` stands for all levels below, so nothing can follow it".into());
        }
        for (level, word) in [(Level::Device, "{device}"), (Level::Point, "{point}")] {
            if levels.iter().filter(|l| **l == level).count() > 1 {
                return Err(format!("`{word}` appears more than once; use `+` for levels that name nothing"));
            }
        }
        let words: Vec<&str> = levels.iter().map(Level::in_filter).collect();
        Ok(Self { filter: format!("{share}{}", words.join("/")), levels })
    }

    /// What to subscribe to.
    pub(super) fn filter(&self) -> &str {
        &self.filter
    }

    /// Does the topic itself name the device?
    pub(super) fn names_device(&self) -> bool {
        self.levels.contains(&Level::Device)
    }

    /// Does the topic itself name the point?
    pub(super) fn names_point(&self) -> bool {
        self.levels.contains(&Level::Point)
    }

    /// The named levels of `topic`, or `None` if the template does not fit it.
    pub(super) fn read<'t>(&self, topic: &'t str) -> Option<Captured<'t>> {
        let wild_start = !matches!(self.levels.first(), Some(Level::Literal(_)));
        if topic.starts_with('$') && wild_start {
            return None; // Wildcards do not reach into `$SYS` and its like (MQTT 3.1.1, 4.7.2).
        }
        let mut captured = Captured::default();
        let mut parts = topic.split('/');
        for level in &self.levels {
            if *level == Level::Rest {
                return Some(captured);
            }
            let part = parts.next()?;
            match level {
                Level::Literal(word) if word != part => return None,
                Level::Device => captured.device = Some(part),
                Level::Point => captured.point = Some(part),
                Level::Literal(_) | Level::One | Level::Rest => {}
            }
        }
        parts.next().is_none().then_some(captured)
    }
}

impl Level {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "+" => Ok(Self::One),
            "#" => Ok(Self::Rest),
            "{device}" => Ok(Self::Device),
            "{point}" => Ok(Self::Point),
            _ if text.contains(['+', '#']) => {
                Err(format!("`{text}`: a wildcard fills a whole level, between two `/`"))
            }
            _ if text.contains(['{', '}']) => Err(format!(
                "`{text}`: only `{{device}}` and `{{point}}` are known, each filling a whole level"
            )),
            _ => Ok(Self::Literal(text.into())),
        }
    }

    fn in_filter(&self) -> &str {
        match self {
            Self::Literal(word) => word,
            Self::Rest => "#",
            Self::One | Self::Device | Self::Point => "+",
        }
    }
}

/// `$share/GROUP/` belongs to the filter and never appears in a topic.
fn split_share(text: &str) -> Result<(&str, &str), String> {
    let Some(rest) = text.strip_prefix("$share/") else { return Ok(("", text)) };
    match rest.split_once('/') {
        Some((group, topic))
            if !group.is_empty() && !group.contains(['+', '#', '{']) && !topic.is_empty() =>
        {
            Ok(text.split_at(text.len() - topic.len()))
        }
        _ => Err("a shared subscription is written `$share/GROUP/TOPIC`".into()),
    }
}

/// A level of a topic as a name: what a name must not contain becomes `_`, what is too long is cut.
pub(super) fn name_of(level: &str) -> Arc<str> {
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
    let name: String = level.chars().take(LONGEST_NAME).map(|c| if fits(c) { c } else { '_' }).collect();
    if name.is_empty() { "_".into() } else { name.into() }
}

#[cfg(test)]
mod tests {
    use forebay_config::units::Name;
    use proptest::prelude::*;

    use super::*;

    fn captured<'t>(template: &str, topic: &'t str) -> Option<(Option<&'t str>, Option<&'t str>)> {
        Template::parse(template).unwrap().read(topic).map(|c| (c.device, c.point))
    }

    #[test]
    fn a_template_becomes_the_filter_to_subscribe_to() {
        for (template, filter) in [
            ("plant/{device}/{point}", "plant/+/+"),
            ("sensors/+/{device}/state", "sensors/+/+/state"),
            ("{device}/#", "+/#"),
            ("/leading/and/trailing/", "/leading/and/trailing/"),
            ("$share/collectors/plant/{device}/temp", "$share/collectors/plant/+/temp"),
        ] {
            assert_eq!(Template::parse(template).unwrap().filter(), filter);
        }
    }

    #[test]
    fn topics_give_up_their_names() {
        let cases = [
            ("plant/{device}/{point}", "plant/pump/flow", Some((Some("pump"), Some("flow")))),
            ("{point}/of/{device}", "flow/of/pump", Some((Some("pump"), Some("flow")))),
            ("sensors/+/{device}/state", "sensors/hall/t1/state", Some((Some("t1"), None))),
            ("plant/{device}/#", "plant/pump/a/b/c", Some((Some("pump"), None))),
            ("plant/{device}/#", "plant/pump", Some((Some("pump"), None))),
            ("$share/g/plant/{device}", "plant/pump", Some((Some("pump"), None))),
            ("plant/{device}", "plant//", None),
            ("plant/{device}", "plant/", Some((Some(""), None))),
            ("plant/{device}/{point}", "plant/pump", None),
            ("plant/{device}/{point}", "plant/pump/flow/raw", None),
            ("plant/{device}/temp", "plant/pump/flow", None),
            ("{device}/#", "$SYS/broker/uptime", None),
            ("$SYS/{device}/{point}", "$SYS/broker/uptime", Some((Some("broker"), Some("uptime")))),
        ];
        for (template, topic, expected) in cases {
            assert_eq!(captured(template, topic), expected, "{template} on {topic}");
        }
    }

    #[test]
    fn wrong_templates_are_refused_in_plain_words() {
        for (template, word) in [
            ("", "1 to 65535"),
            ("a/\0", "NUL"),
            ("plant/#/temp", "nothing can follow"),
            ("plant/pump+", "whole level"),
            ("plant/{devise}", "{device}"),
            ("plant/x{device}", "{device}"),
            ("{device}/{device}", "more than once"),
            ("{point}/+/{point}", "more than once"),
            ("$share/group", "$share/GROUP/TOPIC"),
            ("$share//a", "$share/GROUP/TOPIC"),
        ] {
            let words = Template::parse(template).unwrap_err();
            assert!(words.contains(word), "{template:?}: {words}");
        }
    }

    proptest! {
        #[test]
        fn every_level_becomes_a_valid_name(level in "\\PC{0,80}") {
            prop_assert!(Name::new(&name_of(&level)).is_ok());
        }

        #[test]
        fn no_text_panics(template in "[a{}devicpont+#/$]{0,30}", topic in "\\PC{0,40}") {
            if let Ok(template) = Template::parse(&template) {
                let _ = template.read(&topic);
            }
        }
    }
}
