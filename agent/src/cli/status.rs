//! `forebay-agent status`: what somebody in front of the gateway wants to know first. Asks the agent that
//! runs; of one that does not it tells what lies on the disk.

pub mod backlog;

mod page;
#[cfg(test)]
mod tests;

use std::process::ExitCode;

use clap::Args;

pub use self::page::{Page, figure, link_words, per_second};
use super::sight::{Seen, Sight};
use super::{ConfigPath, print};

pub const HELP: &str = "Exit codes: 0 the agent runs and all is well, 1 it runs and something needs a look (told under \
     `To look at`), 2 command line not understood, 3 it does not run, 4 it cannot be told, for lack of rights \
     or of an answer.";

/// It runs, and something is not as it should be.
const TROUBLED: u8 = 1;
/// It does not run; as of `systemctl status`.
const ABSENT: u8 = 3;
/// Nobody knows.
const UNKNOWN: u8 = 4;

/// How to show it.
#[derive(Debug, Args)]
pub struct Status {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigPath,
}

/// Looks and shows.
pub fn run(status: &Status) -> ExitCode {
    let sight = Sight::look(&status.config.config);
    let page = Page::new(&sight);
    let text = if status.json {
        page.json().to_string() + "\n"
    } else {
        page.text(super::paint::Paint::of_stdout())
    };
    print(&text).unwrap_or_else(|| ExitCode::from(exit_code(&sight, &page)))
}

fn exit_code(sight: &Sight, page: &Page<'_>) -> u8 {
    match &sight.agent {
        Seen::Running(_) if page.troubles().is_empty() => 0,
        Seen::Running(_) => TROUBLED,
        Seen::Absent => ABSENT,
        Seen::Unknown(_) => UNKNOWN,
    }
}
