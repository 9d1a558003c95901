//! Colours on a terminal, as little as tells something: state by word first, by colour too. None where
//! `NO_COLOR` is set (no-color.org), and none into files and pipes.

use std::io::{IsTerminal, stdout};

/// Paints, or does not.
#[derive(Clone, Copy, Debug)]
pub struct Paint(bool);

impl Paint {
    /// For standard output.
    pub fn of_stdout() -> Self {
        let is_wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let is_able = std::env::var_os("TERM").is_none_or(|value| value != "dumb");
        Self(is_wanted && is_able && stdout().is_terminal())
    }

    /// Nothing but text.
    pub fn plain() -> Self {
        Self(false)
    }

    /// As it should be.
    pub fn good(self, text: &str) -> String {
        self.with("32", text)
    }

    /// To look at.
    pub fn doubtful(self, text: &str) -> String {
        self.with("33", text)
    }

    /// Wrong.
    pub fn bad(self, text: &str) -> String {
        self.with("31;1", text)
    }

    /// A heading.
    pub fn head(self, text: &str) -> String {
        self.with("1", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
