//! A TOML table that knows where its values stand and which keys it was asked for. The keys asked
//! for are the keys that exist: `finish` refuses all others and suggests the nearest.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::findings::{Book, Complaint, Finding};

/// One configuration file.
pub(super) struct File {
    name: String,
    text: String,
}

impl File {
    pub fn new(name: &str, text: &str) -> Self {
        Self { name: name.into(), text: text.into() }
    }

    /// Reads a file; what stands in the way is noted.
    pub fn read(path: &Path, book: &Book) -> Option<Self> {
        match std::fs::read_to_string(path) {
            Ok(text) => Some(Self { name: path.display().to_string(), text }),
            Err(error) => {
                book.unreadable(path, &error);
                None
            }
        }
    }

    /// Parses the file. Syntax errors are noted, and what could be read is still judged.
    pub fn parse<'a>(&'a self, book: &Book) -> Spanned<DeTable<'a>> {
        let (table, errors) = DeTable::parse_recoverable(&self.text);
        for error in errors {
            let at = error.span().map_or(0, |span| span.start);
            book.note(self.finding(
                at,
                String::new(),
                Complaint::new(error.message().trim().replace('\n', ", "), ""),
            ));
        }
        table
    }

    fn finding(&self, at: usize, key: String, complaint: Complaint) -> Finding {
        let before = self.text.get(..at).unwrap_or(&self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Finding {
            file: self.name.clone(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            key,
            message: complaint.message,
            hint: complaint.hint,
        }
    }
}

/// A table being judged.
pub(super) struct Table<'a> {
    book: &'a Book,
    file: &'a File,
    path: String,
    /// Where the table stands, for what is missing from it.
    at: usize,
    entries: Vec<Entry<'a>>,
    asked: RefCell<Vec<&'static str>>,
}

struct Entry<'a> {
    key: &'a str,
    key_at: usize,
    value: &'a DeValue<'a>,
    span: Range<usize>,
    used: Cell<bool>,
}

/// One value being judged.
#[derive(Clone)]
pub(super) struct Item<'a> {
    pub value: &'a DeValue<'a>,
    pub span: Range<usize>,
    pub path: String,
}

impl<'a> Table<'a> {
    /// A whole file.
    pub fn root(book: &'a Book, file: &'a File, table: &'a Spanned<DeTable<'a>>) -> Self {
        Self::new(book, file, String::new(), 0, table.get_ref())
    }

    fn new(book: &'a Book, file: &'a File, path: String, at: usize, table: &'a DeTable<'a>) -> Self {
        let mut entries: Vec<Entry<'a>> = table
            .iter()
            .map(|(key, value)| Entry {
                key: key.get_ref(),
                key_at: key.span().start,
                value: value.get_ref(),
                span: value.span(),
                used: Cell::new(false),
            })
            .collect();
        // The parser sorts by name; people read by place.
        entries.sort_by_key(|entry| entry.key_at);
        Self { book, file, path, at, entries, asked: RefCell::default() }
    }

    /// Dotted path of a key in this table.
    pub fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.into() } else { format!("{}.{key}", self.path) }
    }

    /// Notes a complaint about the table as a whole.
    pub fn complain(&self, complaint: Complaint) {
        self.book.note(self.file.finding(self.at, self.path.clone(), complaint));
    }

    /// Notes a complaint about the value of `key`, or about the table where the key is not there.
    pub fn complain_of(&self, key: &str, complaint: Complaint) {
        let at = self.entries.iter().find(|e| e.key == key).map_or(self.at, |e| e.span.start);
        self.book.note(self.file.finding(at, self.path_of(key), complaint));
    }

    /// Is the key there? Asking makes it known.
    pub fn has(&self, key: &'static str) -> bool {
        self.item(key).is_some()
    }

    fn item(&self, key: &'static str) -> Option<Item<'a>> {
        self.asked.borrow_mut().push(key);
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        entry.used.set(true);
        Some(Item { value: entry.value, span: entry.span.clone(), path: self.path_of(key) })
    }

    /// The value of `key` as `read` sees it; `None` where it is missing or was complained of.
    pub fn optional<T>(
        &self,
        key: &'static str,
        read: impl FnOnce(&Item<'a>) -> Result<T, Complaint>,
    ) -> Option<T> {
        let item = self.item(key)?;
        match read(&item) {
            Ok(value) => Some(value),
            Err(complaint) => {
                self.book.note(self.file.finding(item.span.start, item.path, complaint));
                None
            }
        }
    }

    /// As [`Table::optional`], with a default.
    pub fn or<T>(
        &self,
        key: &'static str,
        default: T,
        read: impl FnOnce(&Item<'a>) -> Result<T, Complaint>,
    ) -> T {
        self.optional(key, read).unwrap_or(default)
    }

    /// As [`Table::optional`], and complains where the key is missing.
    pub fn required<T>(
        &self,
        key: &'static str,
        hint: &str,
        read: impl FnOnce(&Item<'a>) -> Result<T, Complaint>,
    ) -> Option<T> {
        if !self.has(key) {
            self.complain(Complaint::new(format!("`{key}` is missing"), hint));
        }
        self.optional(key, read)
    }

    /// The table below `key`.
    pub fn table(&self, key: &'static str) -> Option<Table<'a>> {
        let entry_at = self.entries.iter().find(|entry| entry.key == key)?.key_at;
        self.optional(key, |item| Ok((table_of(item)?, item.path.clone())))
            .map(|(table, path)| Table::new(self.book, self.file, path, entry_at, table))
    }

    /// The array of tables below `key`; empty where it is missing.
    pub fn tables(&self, key: &'static str) -> Vec<Table<'a>> {
        let found = self.optional(key, |item| {
            let array = item.value.as_array().ok_or_else(|| {
                wrong_type(item.value, "a list of tables", &format!("write [[{}]]", item.path))
            })?;
            array
                .iter()
                .enumerate()
                .map(|(n, value)| {
                    let path = format!("{}[{}]", item.path, n + 1);
                    let table = value
                        .get_ref()
                        .as_table()
                        .ok_or_else(|| wrong_type(value.get_ref(), "a table", ""))?;
                    Ok(Table::new(self.book, self.file, path, value.span().start, table))
                })
                .collect()
        });
        found.unwrap_or_default()
    }

    /// Every entry as (name, table): for tables whose keys are names the user chose.
    pub fn named_tables(&self) -> Vec<(&'a str, Table<'a>)> {
        let mut found = Vec::new();
        for entry in &self.entries {
            entry.used.set(true);
            let path = self.path_of(entry.key);
            match table_of(&Item { value: entry.value, span: entry.span.clone(), path: path.clone() }) {
                Ok(table) => {
                    found.push((entry.key, Table::new(self.book, self.file, path, entry.key_at, table)))
                }
                Err(complaint) => self.book.note(self.file.finding(entry.span.start, path, complaint)),
            }
        }
        found
    }

    /// Where the table's name stands: file, line, for findings that speak of two places.
    pub fn place(&self) -> String {
        let finding = self.file.finding(self.at, String::new(), Complaint::new("", ""));
        format!("{}:{}", finding.file, finding.line)
    }

    /// Refuses every key that nobody asked for.
    pub fn finish(&self) {
        let asked = self.asked.borrow();
        for entry in self.entries.iter().filter(|entry| !entry.used.get()) {
            let complaint =
                Complaint::new(format!("unknown key `{}`", entry.key), suggest(entry.key, &asked));
            self.book.note(self.file.finding(entry.key_at, self.path_of(entry.key), complaint));
        }
    }
}

/// "did you mean `address`?", or the list of what there is.
pub(super) fn suggest(word: &str, known: &[&'static str]) -> String {
    // Words that users bring along from other collectors.
    let elsewhere = match word {
        "controller" | "host" | "url" | "servers" | "server" => ["address", "endpoint", "broker"].as_slice(),
        "slave_id" | "slave" | "unit" | "slaveID" | "unitId" => &["unit_id"],
        "baud_rate" | "baudrate" => &["baud"],
        "nodeid" | "node_id" | "id" | "nodeId" => &["node"],
        "start_address" | "startingAddress" | "offset_address" => &["address"],
        "data_type" | "datatype" => &["type"],
        "register_type" | "table" | "primaryTable" => &["register"],
        "poll_interval" | "period" | "pollPeriod" => &["interval"],
        "path" => &["pointer", "port"],
        _ => &[],
    };
    let near = known
        .iter()
        .map(|k| (strsim::damerau_levenshtein(word, k), *k))
        .filter(|(distance, k)| *distance <= 1 + k.len().min(word.len()) / 4)
        .min();
    if let Some(k) = elsewhere.iter().find(|k| known.contains(k)) {
        return format!("did you mean `{k}`?");
    }
    match near {
        Some((_, k)) => format!("did you mean `{k}`?"),
        None => {
            let mut all: Vec<String> = known.iter().map(|k| format!("`{k}`")).collect();
            all.sort();
            all.dedup();
            if all.is_empty() { String::new() } else { format!("known here: {}", all.join(", ")) }
        }
    }
}

/// "21 is an integer, not a string".
pub(super) fn wrong_type(value: &DeValue<'_>, wanted: &str, hint: &str) -> Complaint {
    let shown = match value {
        DeValue::String(text) => format!("\"{text}\""),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(_) => "[…]".into(),
        DeValue::Table(_) => "{…}".into(),
    };
    Complaint::new(format!("{shown} is not {wanted}"), hint)
}

fn table_of<'a>(item: &Item<'a>) -> Result<&'a DeTable<'a>, Complaint> {
    item.value.as_table().ok_or_else(|| wrong_type(item.value, "a table", &format!("write [{}]", item.path)))
}
