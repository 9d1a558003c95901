//! `forebay-agent doctor`: what this gateway needs, tried one after the other, each with its verdict and
//! with what to do about it. Every check has a time limit; without a network it says so and goes on.
//! Nothing is changed, and devices are left alone.

mod house;
mod road;
#[cfg(test)]
mod tests;

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
pub use forebay_protocols::checkup::json;
use forebay_protocols::checkup::{self, Finding, Verdict};
use tokio::time::timeout;

use super::paint::Paint;
use super::run::runtime;
use super::sight::Sight;
use super::{ConfigPath, FAILED, complain, print};

pub const HELP: &str = "Run it as the agent's user (sudo -u forebay), whose rights are what counts.\n\n\
     Exit codes: 0 all is well, 1 something deserves a look (WARN), 2 something does not work (FAIL), or the \
     command line was not understood.";

/// The longest a check may take; the ones over the network limit themselves to less.
const CHECK_WITHIN: Duration = Duration::from_secs(20);

/// How to show it.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigPath,
}

/// Examines and shows.
pub fn run(doctor: &Doctor) -> ExitCode {
    let sight = Sight::look(&doctor.config.config);
    let findings = match examine(&sight) {
        Ok(findings) => findings,
        Err(why) => {
            complain(&why);
            return ExitCode::from(FAILED);
        }
    };
    let shown =
        if doctor.json { json(&findings).to_string() + "\n" } else { text(&findings, Paint::of_stdout()) };
    print(&shown).unwrap_or_else(|| ExitCode::from(checkup::exit_code(&findings)))
}

/// All checks, in the order in which their remedies make sense.
pub fn examine(sight: &Sight) -> Result<Vec<Finding>, String> {
    let runtime = runtime().map_err(|error| format!("cannot start: {error}"))?;
    let mut findings = house::examine(sight);
    findings.extend(runtime.block_on(road::examine(sight)));
    findings.push(house::service(sight));
    // A name that is being looked up still is left to itself.
    runtime.shutdown_background();
    Ok(findings)
}

/// The findings for people.
pub fn text(findings: &[Finding], paint: Paint) -> String {
    checkup::text(findings, |verdict, mark| match verdict {
        Verdict::Ok => paint.good(mark),
        Verdict::Warn => paint.doubtful(mark),
        Verdict::Fail => paint.bad(mark),
    })
}

/// A check that waits for others: past its time it has failed.
async fn limited(what: &str, check: impl Future<Output = Finding>) -> Finding {
    timeout(CHECK_WITHIN, check).await.unwrap_or_else(|_| {
        let words = format!("no result within {} s", CHECK_WITHIN.as_secs());
        Finding::fail(what, words, "try again; if it stays like this, something on the way swallows packets")
    })
}
