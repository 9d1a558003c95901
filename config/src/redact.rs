//! A configuration file that may be shown to strangers: without its secrets, and with every line where it
//! was, so that `file:line` in findings still tells.
//!
//! Removed are the values of keys that sound like secrets, whatever stands in them but `${…}` references
//! (names, not secrets), passwords in URLs, and all comments: people keep old passwords there. What is
//! not TOML is not shown at all, for nobody can tell where its strings end.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// What stands in place of a secret.
pub const REMOVED: &str = "(removed)";
/// Keys with one of these in them hold secrets,
const SECRET: [&str; 6] = ["password", "passwd", "passphrase", "secret", "token", "credential"];
/// and those that end with one of these.
const SECRET_END: [&str; 3] = ["key", "pass", "private"];

/// A file without its secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redacted {
    /// The text.
    pub text: String,
    /// What was removed from values, to be looked for elsewhere.
    pub secrets: Vec<String>,
    /// Names of environment variables that the file refers to.
    pub variables: Vec<String>,
    /// Names of systemd credentials that the file refers to.
    pub credentials: Vec<String>,
}

/// Takes the secrets out of `text`; `None` if it is not TOML.
pub fn redact(text: &str) -> Option<Redacted> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return None;
    }
    let mut found = Redacted::default();
    let mut cuts: Vec<(Range<usize>, String)> = Vec::new();
    walk(table.get_ref(), false, text, &mut found, &mut cuts);
    cuts.extend(comments(text).into_iter().map(|range| (range, "#".into())));
    cuts.sort_by_key(|(range, _)| range.start);
    let mut at = 0;
    for (range, instead) in cuts {
        // An array within a secret array is gone with it.
        if range.start < at {
            continue;
        }
        found.text += text.get(at..range.start)?;
        found.text += &instead;
        // Lines stay where they were.
        let lines = text.get(range.clone())?.matches('\n').count();
        found.text.extend(std::iter::repeat_n('\n', lines));
        at = range.end;
    }
    found.text += text.get(at..)?;
    found.text = without_passwords(&found.text, &mut found.secrets);
    Some(found)
}

/// `scheme://user:password@host` without what stands before the host, anywhere in a text. What stood
/// there is added to `secrets`.
pub fn without_passwords(text: &str, secrets: &mut Vec<String>) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once("://") {
        clean += before;
        clean += "://";
        let end =
            behind.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '/' | '?' | '#' | '`' | '>'));
        let authority = &behind[..end.unwrap_or(behind.len())];
        rest = match authority.rsplit_once('@') {
            None => behind,
            Some((user, _)) => {
                clean += REMOVED;
                secrets.push(user.split_once(':').map_or(user, |(_, password)| password).to_owned());
                &behind[user.len()..]
            }
        };
    }
    clean + rest
}

/// Does a key with this name hold a secret?
pub fn is_secret(key: &str) -> bool {
    let key = key.to_lowercase();
    SECRET.iter().any(|word| key.contains(word)) || SECRET_END.iter().any(|word| key.ends_with(word))
}

fn walk(
    table: &DeTable<'_>,
    is_inside: bool,
    text: &str,
    found: &mut Redacted,
    cuts: &mut Vec<(Range<usize>, String)>,
) {
    for (key, value) in table.iter() {
        judge(value, is_inside || is_secret(key.get_ref()), text, found, cuts);
    }
}

fn judge(
    value: &Spanned<DeValue<'_>>,
    is_secret: bool,
    text: &str,
    found: &mut Redacted,
    cuts: &mut Vec<(Range<usize>, String)>,
) {
    match value.get_ref() {
        DeValue::Table(table) => walk(table, is_secret, text, found, cuts),
        DeValue::Array(array) => array.iter().for_each(|value| judge(value, is_secret, text, found, cuts)),
        DeValue::String(string) => {
            let is_reference = references(string, found);
            // Where a key or a certificate lies is no secret.
            if is_secret && !is_reference && !string.starts_with('/') {
                found.secrets.push(string.to_string());
                cuts.push((value.span(), format!("\"{REMOVED}\"")));
            }
        }
        // `password_in_clear = true` says how, not what.
        DeValue::Boolean(_) => {}
        _ if is_secret => {
            found.secrets.extend(text.get(value.span()).map(str::to_owned));
            cuts.push((value.span(), format!("\"{REMOVED}\"")));
        }
        _ => {}
    }
}

/// Notes what the string refers to. True if it is one reference and nothing else.
fn references(string: &str, found: &mut Redacted) -> bool {
    let mut rest = string;
    let mut between = String::new();
    let mut count = 0;
    while let Some((before, behind)) = rest.split_once("${") {
        between += before;
        let Some((name, behind)) = behind.split_once('}') else { break };
        match name.strip_prefix("credential:") {
            Some(name) => found.credentials.push(name.to_owned()),
            None => found.variables.push(name.to_owned()),
        }
        count += 1;
        rest = behind;
    }
    between += rest;
    count == 1 && between.is_empty()
}

/// Where comments stand, `#` to the end of the line. `text` is TOML.
fn comments(text: &str) -> Vec<Range<usize>> {
    let mut comments = Vec::new();
    let mut at = 0;
    let rest = |at: usize| text.get(at..).unwrap_or_default();
    while let Some(c) = rest(at).chars().next() {
        at = match c {
            '#' => {
                let end = at + rest(at).find('\n').unwrap_or(rest(at).len());
                comments.push(at..end);
                end
            }
            '"' | '\'' => behind_string(text, at, c),
            _ => at + c.len_utf8(),
        };
    }
    comments
}

/// The first place behind the string that begins at `at` with the quote `quote`.
fn behind_string(text: &str, at: usize, quote: char) -> usize {
    let triple = quote.to_string().repeat(3);
    let is_long = text[at..].starts_with(&triple);
    let mut at = at + if is_long { 3 } else { 1 };
    while let Some(c) = text[at..].chars().next() {
        match c {
            '\\' if quote == '"' => {
                let escaped = text[at + 1..].chars().next().map_or(0, char::len_utf8);
                at += 1 + escaped;
            }
            c if c == quote && !is_long => return at + 1,
            c if c == quote && text[at..].starts_with(&triple) => {
                // Up to two quotes may stand before the three that end it.
                let quotes = text[at..].chars().take_while(|c| *c == quote).count();
                return at + quotes.min(5);
            }
            c => at += c.len_utf8(),
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r##"[agent]            # password = "in a comment"
site = "a # b"
[uplink]
proxy = "http://joe:hunter2@10.0.0.1:3128"  # old: hunter1
[link.hall.mqtt]
broker = "mqtts://10.0.0.9"
username = "joe"
password = "tr#ust\"no1"
certificate = "/etc/forebay/hall.crt"
key = "/etc/forebay/hall.key"
[link.press.opcua]
password = "${credential:press-password}"
user_key = '''/etc/x'''
other_password = """two
lines"""
[link.odd]
secrets = ["alpha", { api = 12345 }]
token = "${PART}and-more"
address = "${HOST}:502"
"##;

    #[test]
    fn no_secret_is_left_and_every_line_stays_where_it_was() {
        let Redacted { text, secrets, mut variables, credentials } = redact(FILE).unwrap();
        variables.sort();
        for secret in ["comment", "hunter", "tr#ust", "no1", "two", "lines", "alpha", "12345", "and-more"] {
            assert!(!text.contains(secret), "{secret} is left in\n{text}");
        }
        for kept in [
            "site = \"a # b\"",
            "username = \"joe\"",
            "\"http://(removed)@10.0.0.1:3128\"",
            "key = \"/etc/forebay/hall.key\"",
            "\"${credential:press-password}\"",
            "address = \"${HOST}:502\"",
        ] {
            assert!(text.contains(kept), "{kept} is missing in\n{text}");
        }
        let line = |text: &str, word: &str| text.lines().position(|line| line.starts_with(word));
        assert_eq!(line(&text, "[link.odd]"), line(FILE, "[link.odd]"));
        assert_eq!(variables, ["HOST", "PART"]);
        assert_eq!(credentials, ["press-password"]);
        for secret in ["tr#ust\"no1", "hunter2", "12345", "two\nlines"] {
            assert!(secrets.iter().any(|known| known == secret), "{secret:?} is not among {secrets:?}");
        }
        assert!(toml::from_str::<toml::Table>(&text).is_ok(), "{text}");
    }

    #[test]
    fn what_is_not_toml_is_not_shown() {
        assert_eq!(redact("password = \"abc\n[agent"), None);
        assert_eq!(redact("").map(|it| it.text), Some(String::new()));
    }

    #[test]
    fn passwords_in_addresses_are_found_in_any_text() {
        let mut secrets = Vec::new();
        let text = "at mqtt://a:b@c@host:1 and http://host/x@y, opc.tcp://u@h";
        let clean = without_passwords(text, &mut secrets);
        assert_eq!(clean, "at mqtt://(removed)@host:1 and http://host/x@y, opc.tcp://(removed)@h");
        assert_eq!(secrets, ["b@c", "u"]);
    }
}
