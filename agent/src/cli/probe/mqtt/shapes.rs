//! Topics to `[[link.probed.topic]]`: which level is the device, which the point. Pure.
//!
//! Where topics differ in one level and say the same things, that level is the device; where the last
//! level differs, it is the point. What fits nowhere stands for itself, before the templates: the
//! first topic that fits a message reads it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use forebay_protocols::field::mqtt::look::name_of;

use super::guess::{Document, Kind, Meaning};
use crate::cli::table::harmless;

/// The `[[link.probed.topic]]` that read `said`; `None` if nothing in it can be read.
pub fn topics_toml<'m>(said: impl Iterator<Item = (&'m str, &'m Meaning)>) -> Option<String> {
    let (mut plain, mut documents) = (BTreeMap::new(), BTreeMap::new());
    for (topic, meaning) in said {
        // A level that looks like a placeholder or holds a wildcard cannot be written.
        if topic.contains(['+', '#', '{', '}', '\0', '$']) {
            continue;
        }
        let levels: Vec<&str> = topic.split('/').collect();
        match meaning {
            Meaning::Nothing => {}
            Meaning::Plain(kind, example) => drop(plain.insert(levels, (*kind, example.as_str()))),
            Meaning::Document(document) => drop(documents.insert(levels, document)),
        }
    }
    if plain.is_empty() && documents.is_empty() {
        return None;
    }
    let mut book = Book::default();
    of_documents(documents, &mut book);
    of_plain(plain, &mut book);
    Some(book.single + &book.templates)
}

/// What is written so far.
#[derive(Default)]
struct Book {
    single: String,
    templates: String,
    /// The templates, in their order.
    shapes: Vec<Vec<String>>,
    /// Device and point of what stands for itself.
    names: BTreeSet<(String, String)>,
}

impl Book {
    /// False if a template before this one would read the messages of its `members`.
    fn claim(&mut self, template: &[&str], members: &[Vec<&str>]) -> bool {
        let fits = |shape: &Vec<String>, levels: &Vec<&str>| {
            let mut pairs = shape.iter().zip(levels);
            shape.len() == levels.len() && pairs.all(|(own, level)| own.starts_with('{') || own == level)
        };
        if self.shapes.iter().any(|shape| members.iter().any(|levels| fits(shape, levels))) {
            return false;
        }
        self.shapes.push(template.iter().map(|level| (*level).to_owned()).collect());
        true
    }

    /// A point name that its device does not have yet.
    fn point(&mut self, device: &str, wanted: &str) -> String {
        let mut number = 1;
        loop {
            let name = if number == 1 { wanted.to_owned() } else { format!("{wanted}-{number}") };
            if self.names.insert((device.to_owned(), name.clone())) {
                return name;
            }
            number += 1;
        }
    }
}

fn of_documents(mut left: BTreeMap<Vec<&str>, &Document>, book: &mut Book) {
    let mut alone = BTreeMap::new();
    while let Some((at, members)) = widest(
        &left,
        |levels, at| {
            let mut key = levels.to_vec();
            key[at] = "{device}";
            Some(key)
        },
        alike,
    ) {
        let mut template = members[0].clone();
        template[at] = "{device}";
        let mut all = Document::default();
        let taken: Vec<_> = members.iter().filter_map(|levels| left.remove_entry(levels)).collect();
        if !book.claim(&template, &members) {
            alone.extend(taken);
            continue;
        }
        for (_, document) in taken {
            all.time = all.time.or_else(|| document.time.clone());
            all.fields.extend(document.fields.clone());
        }
        let names = point_names(&all, |_, name| name);
        book.templates += &document_toml(&template.join("/"), None, &all, &names);
    }
    alone.extend(left);
    for (levels, document) in alone {
        let device = device_of(&levels, levels.len());
        let names = point_names(document, |_, name| book.point(&device, &name));
        book.single += &document_toml(&levels.join("/"), Some(&device), document, &names);
    }
}

/// Do these documents say the same things? At least half of what one says, another says too.
fn alike(one: &&Document, other: &&Document) -> bool {
    let shared = one.fields.keys().filter(|pointer| other.fields.contains_key(*pointer)).count();
    shared > 0 && 2 * shared >= one.fields.len().max(other.fields.len())
}

fn of_plain(mut left: BTreeMap<Vec<&str>, (Kind, &str)>, book: &mut Book) {
    let mut alone = BTreeMap::new();
    while let Some((at, members)) = widest(&left, plain_key, |one, other| one.0 == other.0) {
        let last = members[0].len() - 1;
        let differ = |at: usize| members.iter().map(|levels| levels[at]).collect::<BTreeSet<_>>().len() > 1;
        // Where only the devices differ, or only the points, the other one has a name already.
        let (by_device, by_point) = (differ(at), differ(last));
        let mut template = members[0].clone();
        if by_device {
            template[at] = "{device}";
        }
        if by_point {
            template[last] = "{point}";
        }
        let taken: Vec<_> = members.iter().filter_map(|levels| left.remove_entry(levels)).collect();
        if !book.claim(&template, &members) {
            alone.extend(taken);
            continue;
        }
        let kind = taken.first().map_or(Kind::Float, |(_, (kind, _))| *kind);
        let _ = writeln!(book.templates, "\n[[link.probed.topic]]\ntopic = {}", quoted(&template.join("/")));
        if !by_device {
            let _ = writeln!(book.templates, "device = {}", quoted(&device_of(&members[0], last)));
        }
        if !by_point {
            let _ = writeln!(book.templates, "point = {}", quoted(&name_of(members[0][last])));
        }
        book.templates += &kind_toml(kind);
    }
    alone.extend(left);
    for (levels, (kind, example)) in alone {
        let last = levels.len() - 1;
        let device = device_of(&levels, last);
        let point = book.point(&device, &name_of(levels[last]));
        let _ = writeln!(
            book.single,
            "\n[[link.probed.topic]]  # {}\ntopic = {}\ndevice = {}\npoint = {}",
            harmless(example),
            quoted(&levels.join("/")),
            quoted(&device),
            quoted(&point)
        );
        book.single += &kind_toml(kind);
    }
}

fn plain_key<'t>(levels: &[&'t str], at: usize) -> Option<Vec<&'t str>> {
    let last = levels.len() - 1;
    (at < last).then(|| {
        let mut key = levels.to_vec();
        key[at] = "{device}";
        key[last] = "{point}";
        key
    })
}

/// The largest set of topics that share a key and are alike, and the level their key leaves open.
fn widest<'t, T>(
    left: &BTreeMap<Vec<&'t str>, T>,
    key: impl Fn(&[&'t str], usize) -> Option<Vec<&'t str>>,
    alike: impl Fn(&T, &T) -> bool,
) -> Option<(usize, Vec<Vec<&'t str>>)> {
    let mut groups: BTreeMap<(usize, Vec<&str>), Vec<&Vec<&'t str>>> = BTreeMap::new();
    for levels in left.keys() {
        for at in 0..levels.len() {
            if let Some(key) = key(levels, at) {
                groups.entry((at, key)).or_default().push(levels);
            }
        }
    }
    let groups = groups.into_iter().filter_map(|((at, _), members)| {
        let first = left.get(*members.first()?)?;
        let same =
            members.into_iter().filter(|levels| left.get(*levels).is_some_and(|one| alike(first, one)));
        let same: Vec<Vec<&str>> = same.cloned().collect();
        (same.len() > 1).then_some((at, same))
    });
    // Of equally wide ones the level further down: `plant/hall/{device}`.
    groups.max_by_key(|(at, members)| (members.len(), *at))
}

/// The level before `end` names the device; of a topic with one level, that one.
fn device_of(levels: &[&str], end: usize) -> String {
    let named = levels[..end].iter().rev().find(|level| !level.is_empty());
    name_of(named.or(levels.first()).copied().unwrap_or_default()).to_string()
}

/// A name for each pointer: its last key, or more of it where that is not enough.
fn point_names(document: &Document, mut unique: impl FnMut(&str, String) -> String) -> Vec<String> {
    let last = |pointer: &str| pointer.rsplit('/').next().unwrap_or_default().to_owned();
    let mut seen = BTreeMap::new();
    document.fields.keys().for_each(|pointer| *seen.entry(last(pointer)).or_insert(0) += 1);
    let mut taken = BTreeSet::new();
    let name = |pointer: &String| {
        let short = last(pointer);
        let is_clear = seen.get(&short) == Some(&1) && !short.bytes().all(|byte| byte.is_ascii_digit());
        let words = if is_clear { short } else { pointer.trim_start_matches('/').replace('/', "_") };
        let mut name = unique(pointer, name_of(&words).to_string());
        while !taken.insert(name.clone()) {
            name.push('_');
        }
        name
    };
    document.fields.keys().map(name).collect()
}

fn document_toml(topic: &str, device: Option<&str>, document: &Document, names: &[String]) -> String {
    let mut text = format!("\n[[link.probed.topic]]\ntopic = {}\n", quoted(topic));
    if let Some(device) = device {
        let _ = writeln!(text, "device = {}", quoted(device));
    }
    if let Some(time) = &document.time {
        let _ = writeln!(text, "timestamp = {}", quoted(time));
    }
    text += "[link.probed.topic.points]\n";
    for ((pointer, (kind, example)), name) in document.fields.iter().zip(names) {
        let _ = writeln!(
            text,
            "{} = {{ pointer = {}{} }}  # {}",
            key(name),
            quoted(pointer),
            kind.words(),
            harmless(example)
        );
    }
    text
}

fn kind_toml(kind: Kind) -> String {
    match kind.words().strip_prefix(", ") {
        Some(words) => format!("{words}\n"),
        None => String::new(),
    }
}

/// A key of a TOML table, quoted where it must be.
fn key(name: &str) -> String {
    let is_bare = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    if is_bare { name.to_owned() } else { quoted(name) }
}

/// A TOML string: JSON's escapes are among TOML's (TOML 1.0, Strings).
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
