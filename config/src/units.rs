//! The small words of configuration: names, sizes, secrets. Parsed at the edge, typed inside.

use std::fmt;
use std::sync::Arc;

/// A name of a site, gateway, link, device or point: 1 to 64 of letters (any script), digits,
/// `_`, `-`, `.`, and never a `/`, which separates the parts of a point's path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// Accepts `text` as a name, or says in plain words what is wrong with it.
    pub fn new(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("a name must not be empty".into());
        }
        if text.chars().count() > 64 {
            return Err(format!("`{text}` is longer than 64 characters"));
        }
        match text.chars().find(|c| !(c.is_alphanumeric() || matches!(c, '_' | '-' | '.'))) {
            Some(c) => Err(format!("`{text}` contains {c:?}; names are letters, digits, `_`, `-` and `.`")),
            None => Ok(Self(text.into())),
        }
    }

    /// The name nearest to `text`: a character that a name cannot have becomes `-`, and what is beyond `most`
    /// characters is left away. `unnamed` where nothing is left.
    pub fn near(text: &str, most: usize) -> Self {
        let letters = text.chars().map(|c| if c.is_alphanumeric() || "_-.".contains(c) { c } else { '-' });
        let name: String = letters.take(most.min(64)).collect();
        Self(if name.is_empty() { "unnamed".into() } else { name.into() })
    }

    /// The name of one element of what has this name: `zones[3]`. Made by `elements` alone; nobody can choose
    /// such a name, so none is ever taken.
    pub fn element(&self, index: &str) -> Result<Self, String> {
        let name = format!("{self}{index}");
        match name.chars().count() {
            0..=64 => Ok(Self(name.into())),
            _ => Err(format!("`{name}` is longer than 64 characters")),
        }
    }

    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name's text, shared.
    pub fn to_arc(&self) -> Arc<str> {
        self.0.clone()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// `n` times 1024 bytes.
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }

    /// `n` times 1024² bytes.
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.0;
        match n {
            0..=1023 => write!(f, "{n} B"),
            1024..=1_048_575 => write!(f, "{:.1} KiB", n as f64 / 1024.0),
            1_048_576..=1_073_741_823 => write!(f, "{:.1} MiB", n as f64 / 1_048_576.0),
            _ => write!(f, "{:.1} GiB", n as f64 / 1_073_741_824.0),
        }
    }
}

/// A password or key. `Debug` and errors never show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself: for the peer it is meant for, and nobody else.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_near_a_name_is_a_name() {
        for (text, most, near) in [
            ("Flow.Temp", 64, "Flow.Temp"),
            ("Ofen 1/läuft", 64, "Ofen-1-läuft"),
            ("abc", 2, "ab"),
            ("", 64, "unnamed"),
        ] {
            assert_eq!(Name::near(text, most).as_str(), near);
            assert!(Name::new(Name::near(text, most).as_str()).is_ok());
        }
        assert_eq!(Name::near(&"x".repeat(100), 99).as_str().len(), 64);
    }
}
