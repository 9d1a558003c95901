//! `forebay-agent doctor`: what this gateway needs, tried one after the other, each with its verdict and
//! with what to do about it. Every check has a time limit; without a network it says so and goes on.
//! Nothing is changed, and devices are left alone.

mod house;
mod road;
#[cfg(test)]
mod tests;

use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::{Value as Json, json};
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
/// Something does not work.
const BROKEN: u8 = 2;

/// How to show it.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigPath,
}

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, and deserves a look.
    Warn,
    /// It does not work.
    Fail,
}

/// One check, done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was checked.
    pub what: String,
    /// How it went.
    pub verdict: Verdict,
    /// What was found.
    pub words: String,
    /// What to do; empty where nothing is to be done.
    pub remedy: String,
}

impl Finding {
    fn ok(what: impl Into<String>, words: impl Into<String>) -> Self {
        Self { what: what.into(), verdict: Verdict::Ok, words: words.into(), remedy: String::new() }
    }

    fn warn(what: impl Into<String>, words: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), verdict: Verdict::Warn, words: words.into(), remedy: remedy.into() }
    }

    fn fail(what: impl Into<String>, words: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), verdict: Verdict::Fail, words: words.into(), remedy: remedy.into() }
    }
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
    print(&shown).unwrap_or_else(|| ExitCode::from(exit_code(&findings)))
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

/// One object.
pub fn json(findings: &[Finding]) -> Json {
    let one = |finding: &Finding| {
        let Finding { what, verdict, words, remedy } = finding;
        json!({ "check": what, "verdict": word(*verdict), "words": words, "remedy": remedy })
    };
    let worst = findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok);
    json!({ "verdict": word(worst), "checks": findings.iter().map(one).collect::<Vec<_>>() })
}

/// A line for each check, the remedy below those that need one, and a sum.
pub fn text(findings: &[Finding], paint: Paint) -> String {
    let mut page = String::new();
    for Finding { what, verdict, words, remedy } in findings {
        let mark = format!("{:<4}", word(*verdict));
        let mark = match verdict {
            Verdict::Ok => paint.good(&mark),
            Verdict::Warn => paint.doubtful(&mark),
            Verdict::Fail => paint.bad(&mark),
        };
        let _ = writeln!(page, "{mark}  {what:<20}  {words}");
        remedy.lines().for_each(|line| {
            let _ = writeln!(page, "{:<28}{line}", "");
        });
    }
    let number = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let (warned, failed) = (number(Verdict::Warn), number(Verdict::Fail));
    let _ = match (warned, failed) {
        (0, 0) => writeln!(page, "All is well."),
        _ => writeln!(page, "{failed} FAIL, {warned} WARN, {} OK.", findings.len() - warned - failed),
    };
    page
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "OK",
        Verdict::Warn => "WARN",
        Verdict::Fail => "FAIL",
    }
}

fn exit_code(findings: &[Finding]) -> u8 {
    match findings.iter().map(|finding| finding.verdict).max() {
        None | Some(Verdict::Ok) => 0,
        Some(Verdict::Warn) => FAILED,
        Some(Verdict::Fail) => BROKEN,
    }
}

/// A check that waits for others: past its time it has failed.
async fn limited(what: &str, check: impl Future<Output = Finding>) -> Finding {
    timeout(CHECK_WITHIN, check).await.unwrap_or_else(|_| {
        let words = format!("no result within {} s", CHECK_WITHIN.as_secs());
        Finding::fail(what, words, "try again; if it stays like this, something on the way swallows packets")
    })
}
