//! What can be seen of this gateway's agent from its command line: the configuration, the agent through
//! its socket, the buffer and the certificate on the disk. `status`, `top`, `doctor` and
//! `support-bundle` show the same sight. Nothing is changed, and every wait has an end.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use forebay_config::agent::Agent;
use forebay_config::load::{self, Findings};
use forebay_protocols::sync::tls::Identity;
use serde_json::Value as Json;

use super::join::identity_folder;
use crate::buffer::inspect::{Inspection, Overview};
use crate::live::SOCKET;

/// Where an agent without a configuration would keep its state.
const DEFAULT_STATE_DIR: &str = "/var/lib/forebay";
/// An agent that runs answers at once.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// An answer is shorter than this.
const LONGEST_ANSWER: u64 = 16 << 20;

/// The agent, asked through its socket.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    /// It runs; its state, as JSON.
    Running(Json),
    /// Nobody listens.
    Absent,
    /// It cannot be told, because of this.
    Unknown(String),
}

/// Everything that could be seen.
pub struct Sight {
    /// The configuration's path.
    pub path: PathBuf,
    /// What stands in it, or what is wrong with it.
    pub config: Result<Agent, Findings>,
    /// Where the agent keeps its state: as configured, if that much can be read.
    pub state_dir: PathBuf,
    /// The agent.
    pub agent: Seen,
    /// The buffer on the disk.
    pub buffer: Result<Overview, String>,
    /// Its identity; `None` if it has not joined.
    pub identity: Result<Option<Identity>, String>,
}

impl Sight {
    /// Looks at everything once.
    pub fn look(path: &Path) -> Self {
        let config = load::agent(path);
        let state_dir = match &config {
            Ok(config) => config.state_dir.clone(),
            Err(_) => load::state_dir(path).unwrap_or_else(|| DEFAULT_STATE_DIR.into()),
        };
        let agent = ask_status(&state_dir);
        let buffer = Inspection::open(&state_dir.join("buffer"))
            .map_err(|why| why.to_string())
            .and_then(|inspection| inspection.overview(0).map_err(|why| why.to_string()));
        let identity = Identity::load(&identity_folder(&state_dir)).map_err(|why| why.to_string());
        Self { path: path.to_owned(), config, state_dir, agent, buffer, identity }
    }
}

/// Asks the agent how it is.
pub fn ask_status(state_dir: &Path) -> Seen {
    match ask(state_dir, "status") {
        Err(seen) => seen,
        Ok(text) => match serde_json::from_str::<Json>(text.trim()) {
            Ok(json) if json["refused"].is_null() => Seen::Running(json),
            Ok(_) => Seen::Unknown(
                "the agent that runs is of an earlier version and does not tell its state; restart it".into(),
            ),
            Err(_) => Seen::Unknown("the agent that runs is too busy to answer; try again".into()),
        },
    }
}

/// Its metrics, as text.
pub fn ask_metrics(state_dir: &Path) -> Result<String, String> {
    ask(state_dir, "metrics").map_err(|seen| match seen {
        Seen::Unknown(why) => why,
        _ => "the agent does not run".into(),
    })
}

fn ask(state_dir: &Path, question: &str) -> Result<String, Seen> {
    let socket = state_dir.join(SOCKET);
    let exchange = || {
        let mut stream = UnixStream::connect(&socket)?;
        stream.set_read_timeout(Some(ANSWERS_WITHIN))?;
        stream.set_write_timeout(Some(ANSWERS_WITHIN))?;
        stream.write_all(format!("{question}\n").as_bytes())?;
        let mut text = String::new();
        stream.take(LONGEST_ANSWER).read_to_string(&mut text)?;
        Ok(text)
    };
    exchange().map_err(|why: io::Error| match why.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Seen::Absent,
        io::ErrorKind::PermissionDenied => {
            Seen::Unknown(format!("{} may not be used by this user: try again with sudo", socket.display()))
        }
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            Seen::Unknown(format!("the agent does not answer within {} s", ANSWERS_WITHIN.as_secs()))
        }
        _ => Seen::Unknown(format!("{}: {why}", socket.display())),
    })
}

/// Text of a field, empty where there is none.
pub fn text<'j>(json: &'j Json, key: &str) -> &'j str {
    json[key].as_str().unwrap_or_default()
}

/// Number of a field, 0 where there is none.
pub fn number(json: &Json, key: &str) -> u64 {
    json[key].as_u64().unwrap_or_default()
}

/// Elements of a field, none where there is none.
pub fn list<'j>(json: &'j Json, key: &str) -> &'j [Json] {
    json[key].as_array().map(Vec::as_slice).unwrap_or_default()
}
