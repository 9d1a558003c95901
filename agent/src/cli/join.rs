//! `forebay-agent join`: makes a key on this gateway, has the server certify it and keeps the
//! result. Shows a checklist, so that the first step that fails is the one to mend.
//!
//! The key never leaves the gateway. The server is known by the CA pin in the join string before
//! anything is sent to it. The token is shown last, after everything else that can fail on this
//! side was tried: a full disk must not cost a token. Without a network: [`offline`].

mod call;
mod checklist;
mod offline;
mod waiting;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use forebay_config::agent::Proxy;
use forebay_protocols::boot_time::wall_micros;
use forebay_protocols::private_files;
use forebay_protocols::sync::join::{JoinString, JoinStringError};
use forebay_protocols::sync::problem::{Kind, Problem};
use forebay_protocols::sync::tls::{self, Application, Errand, FreshKey, Identity, IdentityError};
use forebay_protocols::sync::wire::JoinRequest;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff::wait;
use crate::uplink::admission::{self, Refusal};

pub use checklist::{Checklist, Mark, Step};
pub use waiting::Waiting;

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
    /// Something answers there that does not speak TLS as a Forebay server does.
    #[error("{server} is not a Forebay server's port for agents: {why}")]
    NotForebay {
        /// `host:port`.
        server: String,
        /// What came instead.
        why: String,
    },
    /// The token is unknown, too old or used.
    #[error("{}", .0.detail)]
    Token(Problem),
    /// An operator must approve first. The key is kept, and the agent asks again by itself.
    #[error(
        "{0}. The agent that runs on this gateway asks again by itself; or run this command again, with --wait"
    )]
    Pending(String),
    /// An operator said no.
    #[error("{0}. If that was a mistake, ask for a new join string")]
    Rejected(String),
    /// The request for a server out of reach is written, and has to get there.
    #[error(
        "take {} to the server and run `forebay-server agents answer` with it there; compare the key ({key}); bring \
         it back and run this command again",
        .folder.display()
    )]
    ToBeCarried {
        /// Where the request lies.
        folder: PathBuf,
        /// The words of our key.
        key: String,
    },
    /// The folder with request and answer cannot be used.
    #[error("{0}")]
    Folder(String),
    /// The answer is for somebody else.
    #[error(
        "{} is for {whom}, and this gateway is {us}: bring the answer to this gateway's request, or take the file away \
         and run this command again for a new request",
        .path.display()
    )]
    ForAnother {
        /// The answer.
        path: PathBuf,
        /// Whose it is.
        whom: String,
        /// Who we are.
        us: String,
    },
    /// The certificate in the answer has ended, by our clock.
    #[error(
        "the certificate in the answer ended at {until}, and this gateway's time is {now}; set the clock of the gateway, \
         or of the server if that one is wrong"
    )]
    Ended {
        /// When.
        until: String,
        /// This gateway's time.
        now: String,
    },
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
    /// Stable: docs/join.md has the same table.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::BadString(_) => 10,
            Self::CannotKeep(_) => 11,
            Self::Unreachable { .. } => 12,
            Self::WrongServer { .. } => 13,
            Self::Clock { .. } | Self::Ended { .. } => 14,
            Self::Token(Problem { kind: Kind::ExpiredToken, .. }) => 17,
            Self::Token(Problem { kind: Kind::UsedToken, .. }) => 18,
            Self::Token(_) => 15,
            Self::Refused { .. } => 16,
            Self::Pending(_) | Self::ToBeCarried { .. } => 19,
            Self::Rejected(_) => 20,
            Self::NotForebay { .. } => 21,
            Self::WrongName { .. } => 22,
            Self::Folder(_) => 23,
            Self::ForAnother { .. } => 24,
        }
    }

    /// Will asking again with the same key lead nowhere?
    fn is_final(&self) -> bool {
        matches!(self, Self::Token(_) | Self::Rejected(_))
    }
}

/// Shown behind its options.
pub const HELP: &str = "Exit codes: 0 joined; 10 not a join string; 11 the state directory cannot keep an identity; \
     12 server out of reach; 13 not the server of the join string (CA pin); 14 a clock is wrong; 15 token unknown; \
     16 refused for another reason, or not yet; 17 token expired; 18 token used; 19 waits for an operator; \
     20 rejected by an operator; 21 not a Forebay server; 22 the server's certificate bears another name; \
     23 the folder of --offline or the answer in it cannot be used; 24 the answer is for another gateway or key.";

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

/// What the command line says.
#[derive(Debug, clap::Args)]
pub struct Join {
    /// The join string, in quotes. Left out: the one that waits for an operator.
    string: Option<String>,
    /// Where an operator must approve: wait for the word, for an hour or as long as given (--wait=10m).
    #[arg(
        long,
        value_name = "TIME",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "1h",
        value_parser = super::span
    )]
    wait: Option<Duration>,
    /// Without a network: write a request into this folder (on a USB stick, say), or take the answer that
    /// `forebay-server agents answer` wrote there.
    #[arg(long, value_name = "FOLDER", conflicts_with = "wait")]
    offline: Option<PathBuf>,
    #[command(flatten)]
    pub(super) config: super::ConfigPath,
}

/// How often an operator's word is looked for.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// Joins the server that made the join string, prints the checklist on standard output and gives the
/// exit code.
pub async fn run(applicant: Applicant<'_>, join: &Join) -> ExitCode {
    if let Some(folder) = &join.offline {
        let (checklist, outcome) = offline::attempt(applicant, folder, join.string.as_deref());
        return told(&checklist, outcome);
    }
    let folder = identity_folder(applicant.state_dir);
    let kept = || Application::load(&folder).ok().flatten();
    let text = match (&join.string, kept()) {
        (Some(text), _) => text.clone(),
        (None, Some(application)) => application.join.to_string(),
        (None, None) => String::new(),
    };
    let (begun, never) = (Instant::now(), CancellationToken::new());
    let mut is_told = false;
    loop {
        let (checklist, outcome) = attempt(applicant, &text).await;
        let waits = join.wait.filter(|wait| begun.elapsed() + ASK_EVERY < *wait);
        match outcome {
            Err(JoinError::Pending(words)) if waits.is_some() => {
                if !std::mem::replace(&mut is_told, true) {
                    super::complain(&format!("{checklist}Waiting: {words}."));
                }
                // It is told to stop by nobody but its user, whose Ctrl-C ends it.
                let _ = wait(ASK_EVERY, &never).await;
                if kept().is_none() && matches!(Identity::load(&folder), Ok(Some(_))) {
                    super::say("OK    let in            the agent that runs here has joined meanwhile");
                    return ExitCode::SUCCESS;
                }
            }
            outcome => return told(&checklist, outcome),
        }
    }
}

/// Prints what was done; the exit code.
fn told(checklist: &Checklist, outcome: Result<(), JoinError>) -> ExitCode {
    // A reader that went away changes nothing about what was done.
    let _ = super::print(&checklist.to_string());
    outcome.map_or_else(|error| ExitCode::from(error.exit_code()), |()| ExitCode::SUCCESS)
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
    let name = format!("{site}/{gateway}");
    // An operator's word is for one key: who waits for it asks with the same again.
    let kept = Application::load(&folder).ok().flatten();
    let kept = kept.filter(|kept| kept.join == join && kept.name == name);
    let asked_before = kept.is_some();
    let application = match kept {
        Some(kept) => kept,
        None => Application::new(name.clone(), join.clone(), FreshKey::generate()?),
    };
    let key = application.key()?;
    let csr = key.request(&name)?;
    let words = tls::key_words(&key.fingerprint());
    list.pass(match asked_before {
        true => format!("{words}, the one it asked with before; it stays here"),
        false => format!("{words}, made on this gateway; it stays here"),
    });

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
    // Before the question: an answer that gets lost must not cost the token.
    application.save(&folder)?;
    let request = JoinRequest {
        secret: join.secret.to_text(),
        site: site.into(),
        gateway: gateway.into(),
        csr: csr.into(),
        version: env!("CARGO_PKG_VERSION").into(),
    };
    let refused = |why: String| JoinError::Refused { server: server.clone(), why };
    let asked = admission::ask(stream, &server, "/v1/join", request).await;
    let answer = asked.map_err(|refusal| match refusal {
        Refusal::Problem(problem) => match problem.kind {
            Kind::UnknownToken | Kind::ExpiredToken | Kind::UsedToken => JoinError::Token(problem),
            Kind::PendingApproval => JoinError::Pending(problem.detail),
            Kind::RejectedJoin => JoinError::Rejected(problem.detail),
            _ => refused(problem.to_string()),
        },
        Refusal::Words(why) | Refusal::Unreachable(why) => refused(why),
    });
    if answer.as_ref().is_err_and(JoinError::is_final) {
        Application::forget(&folder)?;
    }
    let answer = answer?;
    let behind = answer.server_time_us.saturating_sub(wall_micros());
    let agent = answer.agent.clone();
    let identity = admission::certified(&server, join.ca_pin, answer, key).map_err(refused)?;
    list.pass(format!("as {agent}"));

    list.begin("identity kept");
    identity.save(&folder)?;
    Application::forget(&folder)?;
    Errand::forget(&folder)?;
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
