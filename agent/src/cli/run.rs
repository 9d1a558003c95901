//! `forebay-agent run`, and the runtime that it and `join` work in.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use forebay_config::agent::Agent;
use tokio::runtime::{Builder, Runtime};
use tracing::error;

use super::{FAILED, complain, join, say};
use crate::app::Control;
use crate::clock::Clock;
use crate::fittings::{Fitter, rereads};
use crate::supervisor::{Ending, Verdict};
use crate::{app, log};

/// Links whose names cannot be looked up must not keep the uplink from a thread.
const MOST_BLOCKING: usize = 8;

/// What glibc is told of the heap: one for all threads, and large blocks go back to the system when they are
/// free. As it is by default, each thread that allocates keeps what it ever used: 10,000 points took 10 MiB more.
const HEAP: [(&str, &str); 2] = [("MALLOC_ARENA_MAX", "1"), ("MALLOC_MMAP_THRESHOLD_", "131072")];

/// Begins this program anew with [`HEAP`], which glibc reads before anything else, as the same process. Returns
/// if something was said of the heap already, or if the program cannot be begun anew (it would be larger).
///
/// Of the words that this program began with, the last `own` are ours, its name among them: a program that an agent is
/// one part of has words before them.
pub fn in_one_heap(config: &Path, own: usize) {
    if HEAP.iter().any(|(name, _)| env::var_os(name).is_some()) {
        return;
    }
    let mut words = env::args_os();
    let before_ours = words.len().saturating_sub(own);
    let name = words.next().unwrap_or_else(|| "forebay-agent".into());
    let mut anew = Command::new("/proc/self/exe");
    drop(anew.arg0(name).args(words.take(before_ours)).args(plain_words(config)).envs(HEAP).exec());
}

/// The words after the program's name that [`config_of_plain_words`] understands.
fn plain_words(config: &Path) -> [&OsStr; 3] {
    ["run".as_ref(), "--config".as_ref(), config.as_os_str()]
}

/// The configuration, where the command line is the one that [`in_one_heap`] gives. It is read without the whole
/// of the command line's grammar, which would stay in the memory of an agent that runs for years.
pub fn config_of_plain_words(words: &[OsString]) -> Option<&Path> {
    let [_, run, option, path] = words else { return None };
    let usual = !path.is_empty() && !path.as_encoded_bytes().starts_with(b"-");
    (usual && run == "run" && option == "--config").then(|| Path::new(path))
}

/// Collects until SIGTERM or SIGINT.
pub fn run(config: Agent, path: &Path) -> ExitCode {
    let level = match log::start(&config.log) {
        Ok(level) => level,
        Err(error) => {
            complain(&format!("cannot start logging: {error}"));
            return ExitCode::from(FAILED);
        }
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            error!("Cannot start: {error}.");
            return ExitCode::from(FAILED);
        }
    };
    let control = Control { reread: rereads(path), level: Some(level) };
    let verdict = runtime.block_on(app::run(config, control, Ending::default()));
    // Whatever still blocks a thread had its time.
    runtime.shutdown_timeout(Duration::from_secs(1));
    match verdict {
        Ok(Verdict::Drained) => ExitCode::SUCCESS,
        Ok(Verdict::Failed(words)) => {
            error!("Ended with a fault: {words}.");
            ExitCode::from(FAILED)
        }
        Err(error) => {
            error!("Cannot start: {error:#}.");
            ExitCode::from(FAILED)
        }
    }
}

/// Joins a server; see `join`.
pub fn join(config: &Agent, join: &join::Join) -> ExitCode {
    match runtime() {
        Ok(runtime) => {
            let applicant = join::Applicant {
                state_dir: &config.state_dir,
                site: config.site.as_str(),
                gateway: config.gateway.as_str(),
                proxy: config.uplink.proxy.as_ref(),
            };
            runtime.block_on(join::run(applicant, join))
        }
        Err(error) => {
            complain(&format!("cannot start: {error}"));
            ExitCode::from(FAILED)
        }
    }
}

/// Renews the certificate.
pub fn renew(config: Agent) -> ExitCode {
    let Agent { site, gateway, state_dir, uplink, .. } = config;
    let clock = Clock::open(&state_dir);
    let renewal = Fitter::new(site, gateway, state_dir, clock).renewal(uplink.proxy);
    let renewing = async {
        let identity =
            renewal.identity().await?.ok_or("this gateway has not joined; run `forebay-agent join`")?;
        renewal.renew(identity).await
    };
    let renewed =
        runtime().map_err(|error| format!("cannot start: {error}")).and_then(|it| it.block_on(renewing));
    match renewed {
        Ok(identity) => {
            let until = identity.validity().and_then(|(_, until)| jiff::Timestamp::from_second(until).ok());
            let until = until.map_or_else(String::new, |until| format!(", valid until {until}"));
            say(&format!("The certificate for {} is renewed{until}.", identity.server))
        }
        Err(words) => {
            complain(&words);
            ExitCode::from(FAILED)
        }
    }
}

/// Each thread that allocates costs memory of its own, and the smallest gateways have 64 MiB. Two
/// workers: one may wait for a slow file system while the other polls devices. Blocking work is name
/// look-ups and small files; what finds no thread waits for one.
pub(super) fn runtime() -> std::io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(MOST_BLOCKING)
        .thread_name("forebay")
        .enable_all()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn the_words_it_begins_anew_with_are_understood_without_the_grammar() {
        let path = Path::new("/etc/forebay/agent.toml");
        let mut anew = vec![OsString::from("forebay-agent")];
        anew.extend(plain_words(path).map(OsString::from));
        assert_eq!(config_of_plain_words(&anew), Some(path));
    }

    #[test]
    fn other_words_are_left_to_the_grammar() {
        for other in [
            "a run",
            "a check --config x",
            "a run --config=x y",
            "a run --config --help",
            "a run --config x y",
        ] {
            assert_eq!(config_of_plain_words(&words(other)), None, "{other}");
        }
        assert_eq!(config_of_plain_words(&words("a run --config ")), None);
    }
}
