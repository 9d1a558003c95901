//! What was found wrong, collected while everything else is still being read.

use std::cell::RefCell;
use std::fmt;
use std::path::Path;

/// One mistake in a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file as the user named it.
    pub file: String,
    /// 1-based; 0 when the file could not be read at all.
    pub line: usize,
    /// 1-based, in characters; 0 when the file could not be read at all.
    pub column: usize,
    /// Dotted path of the key: `link.boiler.modbus-rtu.baud`. Empty for the file itself.
    pub key: String,
    /// What is wrong, with the value.
    pub message: String,
    /// The way out. Empty where there is nothing to add.
    pub hint: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{} ({}", self.message, self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        f.write_str(")")?;
        if !self.hint.is_empty() {
            write!(f, "\n  hint: {}", self.hint)?;
        }
        Ok(())
    }
}

/// Every mistake of a configuration, at least one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Findings(pub Vec<Finding>);

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.0 {
            writeln!(f, "{finding}")?;
        }
        match self.0.len() {
            1 => f.write_str("1 mistake; nothing was started."),
            n => write!(f, "{n} mistakes; nothing was started."),
        }
    }
}

/// A complaint about one value, before it is known where the value stands.
#[derive(Debug)]
pub(super) struct Complaint {
    pub message: String,
    pub hint: String,
}

impl Complaint {
    pub fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into() }
    }
}

/// Collects findings.
#[derive(Default)]
pub(super) struct Book(RefCell<Vec<Finding>>);

impl Book {
    pub fn note(&self, finding: Finding) {
        self.0.borrow_mut().push(finding);
    }

    pub fn unreadable(&self, path: &Path, error: &std::io::Error) {
        let hint = match error.kind() {
            std::io::ErrorKind::NotFound => "is the path right? `--config PATH` names another file",
            std::io::ErrorKind::PermissionDenied => "the service's user must be allowed to read it",
            _ => "",
        };
        self.note(Finding {
            file: path.display().to_string(),
            line: 0,
            column: 0,
            key: String::new(),
            message: format!("cannot read the file: {error}"),
            hint: hint.into(),
        });
    }

    /// The configuration, if it is whole and nothing was found.
    pub fn close<T>(self, configuration: Option<T>) -> Result<T, Findings> {
        let mut findings = self.0.into_inner();
        match configuration {
            Some(configuration) if findings.is_empty() => Ok(configuration),
            _ => {
                findings.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
                debug_assert!(!findings.is_empty(), "refused without a reason");
                Err(Findings(findings))
            }
        }
    }
}
