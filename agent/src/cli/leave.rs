//! `forebay-agent leave`: this gateway belongs to its server no more. The server is told first, and lets
//! it in no more; then the identity is removed here, and with it what this gateway asked to join with and
//! has no answer to. Cut off in between it is run again.

#[cfg(test)]
mod tests;

use std::io::{IsTerminal, Write, stderr, stdin};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use forebay_config::agent::Agent;
use forebay_protocols::sync::problem::Kind;
use forebay_protocols::sync::tls::{Application, Errand, GatewayClock, Identity, IdentityError};
use forebay_protocols::sync::wire::JoinRequest;

use super::join::identity_folder;
use super::run::runtime;
use super::{ConfigPath, FAILED, complain, say};
use crate::buffer::inspect::{Inspection, User};
use crate::clock::Clock;
use crate::uplink::admission::{self, Refusal};

pub const HELP: &str = "The agent goes on collecting into its buffer, and brings it all to the server it joins next. A request to \
     join that has no answer yet is forgotten, with its key.\n\n\
     Exit codes: 0 left, or had not joined; 1 not done, and why is said; 12 the server is out of reach; \
     16 the server refused.";

/// The server is out of reach.
const UNREACHABLE: u8 = 12;
/// The server refused.
const REFUSED: u8 = 16;

/// How.
#[derive(Debug, clap::Args)]
pub struct Leave {
    /// Do not ask whether it is meant.
    #[arg(long)]
    yes: bool,
    /// Remove the buffer as well. The agent must be stopped, and all readings must be with the server.
    #[arg(long)]
    remove_buffer: bool,
    /// Leave even if the server cannot be told: it then believes that this gateway is silent, until it is revoked
    /// there.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    pub(super) config: ConfigPath,
}

/// Why it was not done, in words, with the exit code.
type Hindrance = (u8, String);

/// Leaves.
pub fn run(leave: &Leave, config: &Agent) -> ExitCode {
    match depart(leave, config) {
        Ok(words) => say(&words),
        Err((code, words)) => {
            complain(&words);
            ExitCode::from(code)
        }
    }
}

fn depart(leave: &Leave, config: &Agent) -> Result<String, Hindrance> {
    let failed = |error: &dyn std::fmt::Display| (FAILED, error.to_string());
    let (folder, buffer) = (identity_folder(&config.state_dir), config.state_dir.join("buffer"));
    let identity = Identity::load(&folder).map_err(|error| failed(&error))?;
    if leave.remove_buffer {
        is_drained(&buffer).map_err(|words| (FAILED, words))?;
    }
    if identity.is_none() && !leave.remove_buffer {
        let forgotten = forget_requests(&folder).map_err(|error| failed(&error))?;
        return Ok(match forgotten.as_str() {
            "" => "This gateway has not joined: there is nothing to leave.".into(),
            forgotten => format!("This gateway has not joined.{forgotten}"),
        });
    }
    let server = identity.as_ref().map_or("no server", |identity| identity.server.as_str());
    confirm(leave, server)?;
    let mut words = match &identity {
        Some(identity) => tell(leave, config, identity)?,
        None => "This gateway had not joined.".into(),
    };
    Identity::forget(&folder).map_err(|error| failed(&error))?;
    words += &forget_requests(&folder).map_err(|error| failed(&error))?;
    if leave.remove_buffer {
        // Looked at again: an agent may have been started meanwhile.
        is_drained(&buffer).map_err(|words| (FAILED, words))?;
        remove(&buffer).map_err(|error| (FAILED, format!("cannot remove {}: {error}", buffer.display())))?;
        words.push_str(" Its buffer is removed.");
    } else {
        words.push_str(" Readings stay in the buffer until it joins again.");
    }
    Ok(words)
}

/// Forgets what this gateway asked to join with, whichever way, and the keys it did so with. In words, each
/// with a space before it; empty if it had not asked.
fn forget_requests(folder: &Path) -> Result<String, IdentityError> {
    let mut words = String::new();
    if Application::forget(folder)? {
        words += " The request that waited for an operator is forgotten; `forebay-server agents reject` takes it off \
                  the server's list.";
    }
    if Errand::forget(folder)? {
        words += " The request that was to be carried is forgotten, with its key: no answer to it is taken any more.";
    }
    Ok(words)
}

/// Says goodbye. Who is not known there any more has left already.
fn tell(leave: &Leave, config: &Agent, identity: &Identity) -> Result<String, Hindrance> {
    let server = identity.server.as_str();
    let clock: Arc<dyn GatewayClock> = Arc::new(Clock::open(&config.state_dir));
    let asking = admission::ask_as(
        identity,
        clock,
        config.uplink.proxy.as_ref(),
        "/v1/leave",
        JoinRequest { version: env!("CARGO_PKG_VERSION").into(), ..JoinRequest::default() },
    );
    let runtime = runtime().map_err(|error| (FAILED, format!("cannot start: {error}")))?;
    match runtime.block_on(asking) {
        Ok(answer) => Ok(format!("{} has left {server}.", answer.agent)),
        Err(Refusal::Problem(problem))
            if matches!(problem.kind, Kind::RevokedCertificate | Kind::UnknownCertificate) =>
        {
            Ok(format!("{server} did not let this gateway in any more."))
        }
        Err(refusal) if leave.force => Ok(format!(
            "{server} could not be told ({refusal}): revoke this gateway there with `forebay-server agents revoke`."
        )),
        Err(Refusal::Unreachable(words)) => {
            Err((UNREACHABLE, format!("{words}. Try again when it is within reach, or use --force")))
        }
        Err(refusal) => Err((REFUSED, format!("{server} refused: {refusal}. --force leaves all the same"))),
    }
}

/// Is nothing lost with this buffer?
fn is_drained(buffer: &Path) -> Result<(), String> {
    if !buffer.exists() {
        return Ok(());
    }
    let overview = Inspection::open(buffer)
        .map_err(|error| error.to_string())
        .and_then(|inspection| inspection.overview(0).map_err(|error| error.to_string()))
        .map_err(|why| format!("the buffer cannot be read, so it is not removed: {why}"))?;
    if !matches!(overview.user, User::Nobody) {
        return Err(
            "the agent runs, or may run: stop it first (`systemctl stop forebay-agent`), which also sends \
                    what waits"
                .into(),
        );
    }
    match overview.backlog.readings {
        0 => Ok(()),
        readings => Err(format!(
            "{readings} readings are not with the server yet: start the agent while the server is within reach, stop \
             it, and try again; or leave without --remove-buffer, and keep them"
        )),
    }
}

/// Removes the folder, durably.
fn remove(buffer: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(buffer) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    buffer.parent().map_or(Ok(()), |parent| std::fs::File::open(parent)?.sync_all())
}

fn confirm(leave: &Leave, server: &str) -> Result<(), Hindrance> {
    if leave.yes {
        return Ok(());
    }
    if !stdin().is_terminal() {
        return Err((FAILED, "nobody can be asked whether this is meant: use --yes".into()));
    }
    let _ =
        write!(stderr().lock(), "Leave {server}? To come back this gateway needs a new join string. [y/N] ");
    let mut answer = String::new();
    let read = stdin().read_line(&mut answer);
    match read.is_ok() && ["y", "yes"].contains(&answer.trim().to_lowercase().as_str()) {
        true => Ok(()),
        false => Err((FAILED, "Nothing was done.".into())),
    }
}
