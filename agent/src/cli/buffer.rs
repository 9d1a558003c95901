//! `forebay-agent buffer`: a look into the buffer, for a person in front of the gateway or with a
//! copy of its folder. Nothing is changed, no network is needed, and an agent that runs is not
//! disturbed; see `buffer/inspect.rs`, which does the looking. What stands here chooses the folder
//! and turns what was seen into words.

mod export;
mod status;
mod verify;
pub(super) mod words;

#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use forebay_config::agent::Agent;

use super::{BAD_CONFIG, complain};
use crate::buffer::inspect::{Inspection, Overview};
use crate::fittings;

/// All is well.
const FINE: u8 = 0;
/// Damaged parts were found; everything else was done.
const DAMAGED: u8 = 1;
/// The buffer cannot be read, or the output cannot be written.
const UNREADABLE: u8 = 2;

const EXIT_CODES: &str = "Exit codes: 0 all is well, 1 damaged parts were found, 2 the buffer cannot be read \
                          (or the command line was not understood), 78 configuration refused.";

/// What to do with the buffer.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Say what is in the buffer, what became of the rest, and when it will be full.
    #[command(after_help = EXIT_CODES)]
    Status {
        #[command(flatten)]
        place: Place,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Read every byte and check it against everything that is known of it.
    #[command(after_help = EXIT_CODES)]
    Verify {
        #[command(flatten)]
        place: Place,
        /// Print JSON lines: one object for each trouble, and a summary as the last.
        #[arg(long)]
        json: bool,
    },
    /// Write the readings as CSV or JSON lines, in the order of their batches.
    #[command(after_help = export::HELP)]
    Export(export::Export),
}

/// Which buffer.
#[derive(Debug, Args)]
pub struct Place {
    /// The buffer's folder, or a copy of it. Without it, `buffer` in the configuration's `state_dir`.
    #[arg(long, value_name = "PATH")]
    dir: Option<PathBuf>,
    /// The configuration, which also tells the budget. With --dir it may be left out.
    #[arg(long, value_name = "PATH", env = "FOREBAY_AGENT_CONFIG")]
    config: Option<PathBuf>,
}

/// Does it, and says how it went.
pub fn run(command: &Command) -> ExitCode {
    let outcome = match command {
        Command::Status { place, json } => place.look().and_then(|seen| status::run(&seen, *json)),
        Command::Verify { place, json } => place.look().and_then(|seen| verify::run(&seen, *json)),
        Command::Export(export) => export.place().look().and_then(|seen| export.run(&seen)),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(Refusal { words, code }) => {
            complain(&words);
            ExitCode::from(code)
        }
    }
}

/// The books as `buffer status` shows them.
pub fn page(overview: &Overview, config: Option<&Agent>) -> String {
    status::Page { overview, budget: config.map(|config| &config.buffer) }.to_string()
}

/// The buffer, and the configuration where there is one.
struct Seen {
    inspection: Inspection,
    config: Option<Agent>,
}

/// It could not be done.
struct Refusal {
    words: String,
    code: u8,
}

impl Refusal {
    fn unreadable(words: impl ToString) -> Self {
        Self { words: words.to_string(), code: UNREADABLE }
    }

    /// A reader that has seen enough went away: that is no failure.
    fn unless_closed(why: io::Error, doing: &str) -> Result<u8, Self> {
        match why.kind() {
            io::ErrorKind::BrokenPipe => Ok(FINE),
            _ => Err(Self::unreadable(format!("cannot {doing}: {why}"))),
        }
    }
}

impl Place {
    fn look(&self) -> Result<Seen, Refusal> {
        let config = match (&self.config, &self.dir) {
            (Some(path), _) => Some(configuration(path)?),
            (None, None) => Some(configuration(super::DEFAULT_CONFIG.as_ref())?),
            (None, Some(_)) => None,
        };
        let of_config = config.as_ref().map(|config| config.state_dir.join("buffer"));
        let Some(folder) = self.dir.clone().or(of_config) else {
            return Err(Refusal::unreadable("name the buffer's folder with --dir"));
        };
        let inspection = Inspection::open(&folder).map_err(Refusal::unreadable)?;
        Ok(Seen { inspection, config })
    }
}

fn configuration(path: &std::path::Path) -> Result<Agent, Refusal> {
    fittings::configuration(path).map_err(|findings| Refusal {
        words: format!(
            "{}\nhint: --dir names the buffer's folder without a configuration",
            findings.trim_end()
        ),
        code: BAD_CONFIG,
    })
}
