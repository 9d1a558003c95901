//! `forebay-agent join`: makes a key on this gateway, has the server certify it and keeps the
//! result. Shows a checklist, so that the first step that fails is the one to mend.
//!
//! The key never leaves the gateway. The server is known by the CA pin in the join string before
//! anything is sent to it. The token is shown last, after everything else that can fail on this
//! side was tried: a full disk must not cost a token.

mod call;
mod checklist;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use forebay_config::agent::Proxy;
use forebay_protocols::boot_time::wall_micros;
use forebay_protocols::private_files;
use forebay_protocols::sync::join::{JoinString, JoinStringError};
use forebay_protocols::sync::problem::{Kind, Problem};
use forebay_protocols::sync::tls::{FreshKey, Identity, IdentityError};
use forebay_protocols::sync::wire::JoinRequest;

use crate::uplink::admission::{self, Refusal};

pub use checklist::{Checklist, Mark, Step};

/// Why a gateway could not join. Each has its own exit code.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// What was pasted is no join string.
    #[error(transparent)]
    BadString(#[from] JoinStringError),
    /// The state directory cannot hold an identity.
    #[error("{0}")]
    CannotKeep(#[from] IdentityError),
    /// Nobody answers at the address.
    #[error("cannot reach {server}: {why}")]
    Unreachable {
        /// `host:port`.
        server: String,
        /// The cause, with the way out.
        why: String,
    },
    /// Somebody answers, and it is not the server the join string was made by.
    #[error(
        "{server} is not the server this join string was made by, or something stands in between; make a new \
         join string on the server, and if this comes again look for a proxy that opens TLS"
    )]
    WrongServer {
        /// `host:port`.
        server: String,
    },
    /// The server's certificate does not bear the name we reach it by.
    #[error(
        "the certificate of {server} is not made for that name; set `sync.address` on the server to `{server}`, \
         restart it and make a new join string"
    )]
    WrongName {
        /// `host:port`.
        server: String,
    },
    /// One of the two clocks is far off.
    #[error(
        "the certificate of {server} is not valid at this gateway's time ({now}); set the clock of the gateway, \
         or of the server if that one is wrong"
    )]
    Clock {
        /// `host:port`.
        server: String,
        /// This gateway's time.
        now: String,
    },
    /// The token is unknown, too old or used.
    #[error("{}", .0.detail)]
    Token(Problem),
    /// The server said no for another reason, or not yet.
    #[error("{server} refused: {why}")]
    Refused {
        /// `host:port`.
        server: String,
        /// In its words.
        why: String,
    },
}

impl JoinError {
    /// 10 join string, 11 state directory, 12 unreachable, 13 wrong server or name, 14 clock,
    /// 15 token, 16 refused otherwise.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::BadString(_) => 10,
            Self::CannotKeep(_) => 11,
            Self::Unreachable { .. } => 12,
            Self::WrongServer { .. } | Self::WrongName { .. } => 13,
            Self::Clock { .. } => 14,
            Self::Token(_) => 15,
            Self::Refused { .. } => 16,
        }
    }
}

/// Where an agent keeps who it is.
pub fn identity_folder(state_dir: &Path) -> PathBuf {
    state_dir.join("identity")
}

/// Who wants to join, and by which way.
#[derive(Clone, Copy)]
pub struct Applicant<'a> {
    /// Where its identity is kept.
    pub state_dir: &'a Path,
    /// Its site.
    pub site: &'a str,
    /// Its name there.
    pub gateway: &'a str,
    /// `uplink.proxy`.
    pub proxy: Option<&'a Proxy>,
}

/// Joins the server that made the join string `text`, prints the checklist on standard output and
/// gives the exit code.
pub async fn run(applicant: Applicant<'_>, text: &str) -> ExitCode {
    let (checklist, outcome) = attempt(applicant, text).await;
    // A reader that went away changes nothing about what was done.
    let _ = std::io::Write::write_all(&mut std::io::stdout().lock(), checklist.to_string().as_bytes());
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ExitCode::from(error.exit_code()),
    }
}

async fn attempt(applicant: Applicant<'_>, text: &str) -> (Checklist, Result<(), JoinError>) {
    let mut checklist = Checklist::default();
    let outcome = steps(&mut checklist, applicant, text).await;
    if let Err(error) = &outcome {
        checklist.fail(error.to_string());
    }
    (checklist, outcome)
}

async fn steps(list: &mut Checklist, applicant: Applicant<'_>, text: &str) -> Result<(), JoinError> {
    let Applicant { state_dir, site, gateway, proxy } = applicant;
    list.begin("join string");
    let join: JoinString = text.parse()?;
    let server = join.address.clone();
    list.pass(format!("for the server at {server}"));

    list.begin("state directory");
    let folder = identity_folder(state_dir);
    let former = prepare(&folder)?;
    list.pass(match former {
        true => format!("{} (the identity in it will be replaced)", folder.display()),
        false => folder.display().to_string(),
    });

    list.begin("key");
    let key = FreshKey::generate()?;
    let csr = key.request(&format!("{site}/{gateway}"))?;
    list.pass("made on this gateway; it stays here".into());

    list.begin("server reachable");
    let tcp = call::reach(&server, proxy).await?;
    list.pass(match proxy {
        Some(proxy) => format!("{server} by the proxy {}", proxy.address),
        None => format!("{server} answers"),
    });

    list.begin("server known");
    let stream = call::shake_hands(tcp, &join).await?;
    list.pass("it is the one that made the join string".into());

    list.begin("let in");
    let request = JoinRequest {
        secret: join.secret.to_text(),
        site: site.into(),
        gateway: gateway.into(),
        csr: csr.into(),
        version: env!("CARGO_PKG_VERSION").into(),
    };
    let answer = admission::ask(stream, &server, "/v1/join", request).await.map_err(|error| match error {
        Refusal::Problem(problem)
            if matches!(problem.kind, Kind::UnknownToken | Kind::ExpiredToken | Kind::UsedToken) =>
        {
            JoinError::Token(problem)
        }
        Refusal::Problem(problem) => JoinError::Refused { server: server.clone(), why: problem.to_string() },
        Refusal::Words(why) => JoinError::Refused { server: server.clone(), why },
    })?;
    let behind = answer.server_time_us.saturating_sub(wall_micros());
    let agent = answer.agent.clone();
    let identity = admission::certified(&server, join.ca_pin, answer, key)
        .map_err(|why| JoinError::Refused { server: server.clone(), why })?;
    list.pass(format!("as {agent}"));

    list.begin("identity kept");
    identity.save(&folder)?;
    list.pass(folder.display().to_string());

    list.begin("clock");
    match behind.abs() / 1_000_000 {
        ..5 => list.pass("agrees with the server's".into()),
        seconds => list.warn(format!(
            "{seconds} s {} the server's; readings are corrected on their way, but set it if you can",
            if behind > 0 { "behind" } else { "ahead of" }
        )),
    }
    Ok(())
}

/// Makes the folder and tries to write in it. True if an identity is there already.
fn prepare(folder: &Path) -> Result<bool, IdentityError> {
    let probe = folder.join("probe");
    private_files::private_folder(folder)
        .and_then(|()| private_files::replace(&probe, b"can this be written?\n", 0o600))
        .and_then(|()| std::fs::remove_file(&probe))
        .map_err(|source| IdentityError::File { doing: "write to", path: folder.to_owned(), source })?;
    // A damaged one is no reason to stop: it is about to be replaced.
    Ok(!matches!(Identity::load(folder), Ok(None)))
}

#[cfg(test)]
mod tests;
