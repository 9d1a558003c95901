//! Files to configuration, or every finding at once.
//!
//! A file is parsed to a table that knows where each value stands and is then judged by hand, key
//! by key, so that no mistake hides another and each is told with file, line, column and hint.

mod alarms;
mod field;
mod findings;
mod link;
mod modbus;
mod mqtt;
mod opcua;
mod processing;
mod retention;
mod sections;
mod table;
mod uplink;
mod words;

use std::path::{Path, PathBuf};

use findings::Book;
pub use findings::{Finding, Findings};
use table::File;
pub use words::parse_duration;

use crate::{agent, server};

/// Reads the agent's configuration: `path`, and every `*.toml` in the folder beside it that bears
/// its name (`agent.toml` and `agent.d/`). A section stands in one file only; so does each link.
///
/// `${NAME}` in a string is the environment variable, `${credential:NAME}` the systemd credential
/// or, by hand, the file in `/etc/forebay/credentials`.
///
/// # Errors
/// Everything that is wrong, in the order of the files.
pub fn agent(path: &Path) -> Result<agent::Agent, Findings> {
    let book = Book::default();
    let drop_ins = drop_ins(path, &book);
    let files: Vec<File> = std::iter::once(path)
        .chain(drop_ins.iter().map(PathBuf::as_path))
        .filter_map(|p| File::read(p, &book))
        .collect();
    let found = sections::agent(&files, &book);
    book.close(found)
}

/// The files an agent's configuration is read from, in order: `path`, and what lies in the folder beside
/// it. Of a folder that cannot be listed, none.
pub fn files(path: &Path) -> Vec<PathBuf> {
    std::iter::once(path.to_owned()).chain(drop_ins(path, &Book::default())).collect()
}

/// `[agent] state_dir`, whatever else is wrong with the file: where to look for an agent that runs with
/// what stood there before. `None` if it says nothing.
pub fn state_dir(path: &Path) -> Option<PathBuf> {
    let text = std::fs::read_to_string(path).ok()?;
    let (table, _) = toml::de::DeTable::parse_recoverable(&text);
    let agent = table.get_ref().get("agent")?.get_ref().as_table()?;
    agent.get("state_dir")?.get_ref().as_str().map(PathBuf::from)
}

/// Judges the text of an agent's configuration that is not a file; `name` stands for it in findings.
///
/// # Errors
/// As [`agent`].
pub fn agent_text(name: &str, text: &str) -> Result<agent::Agent, Findings> {
    let book = Book::default();
    let files = [File::new(name, text)];
    let found = sections::agent(&files, &book);
    book.close(found)
}

/// Reads the server's configuration; without a path, everything is as by default.
///
/// # Errors
/// Everything that is wrong.
pub fn server(path: Option<&Path>) -> Result<server::Server, Findings> {
    let book = Book::default();
    let files: Vec<File> = path.into_iter().filter_map(|p| File::read(p, &book)).collect();
    let found = sections::server(&files, &book);
    book.close(found)
}

/// Judges the text of a server's configuration that is not a file.
///
/// # Errors
/// As [`server`].
pub fn server_text(name: &str, text: &str) -> Result<server::Server, Findings> {
    let book = Book::default();
    let files = [File::new(name, text)];
    let found = sections::server(&files, &book);
    book.close(found)
}

/// `agent.toml` -> the sorted `*.toml` of `agent.d/`. A folder that is not there is no finding.
fn drop_ins(path: &Path, book: &Book) -> Vec<PathBuf> {
    let folder = path.with_extension("d");
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            book.unreadable(&folder, &error);
            return Vec::new();
        }
    };
    let mut found: Vec<PathBuf> =
        entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|x| x == "toml")).collect();
    found.sort();
    found
}
