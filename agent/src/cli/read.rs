//! `forebay-agent read`: the configured points, read now from the devices themselves by the drivers
//! that the agent uses. For a person in front of the gateway: nothing is stored and nothing is sent.
//!
//! An agent that runs is not disturbed: MQTT brokers meet a client of another name without a session
//! (`narrow`), and no message is ever acknowledged to a broker as stored. What only one program can
//! have at a time (a serial port, the single connection of a simple device) the agent has; then that
//! is what the answer says.

mod narrow;
mod once;
mod page;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use forebay_config::agent::Agent;
use forebay_config::classes::Pattern;
use forebay_config::field::{Link, Protocol};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::narrow::{brings_more, narrowed};
use self::once::{Answer, read_once};
use self::page::Page;
use super::run::runtime;
use super::{ConfigPath, FAILED, Wanted, complain, print};
use crate::buffer::inspect::User;
use crate::clock::Clock;
use crate::fittings::Fitter;

/// There is no such point, or the command line makes no sense.
const NO_SUCH_POINT: u8 = 2;

pub const HELP: &str = "Points with OPC UA use the gateway's own key, so run this as the agent's user: \
     sudo -u forebay forebay-agent read\n\n\
     Exit codes: 0 every point was read, 1 some were not, 2 no such point is configured (or the command \
     line was not understood), 78 configuration refused.";

/// What is to be read.
#[derive(Debug, Args)]
pub struct Read {
    #[command(flatten)]
    wanted: Wanted,
    /// Read every point once, then end. That is what happens without it, too.
    #[arg(long)]
    once: bool,
    /// The longest wait for the last point: "10s", "1m". MQTT devices speak when they like; what a
    /// topic template finds is known only when this is over.
    #[arg(long, default_value = "10s", value_parser = super::span)]
    wait: Duration,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub(super) config: ConfigPath,
}

/// Reads and shows.
pub fn run(read: &Read, config: Agent) -> ExitCode {
    let Read { wanted, once: _, wait, json, config: _ } = read;
    let wanted = match wanted.pattern() {
        Ok(wanted) => wanted,
        Err(why) => {
            complain(&why);
            return ExitCode::from(NO_SUCH_POINT);
        }
    };
    let links: Vec<Link> = config.links.iter().filter_map(|link| narrowed(link, &wanted)).collect();
    if links.is_empty() {
        complain(&no_such_point(&config, &wanted));
        return ExitCode::from(NO_SUCH_POINT);
    }
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("cannot start: {error}"));
            return ExitCode::from(FAILED);
        }
    };
    if links.iter().any(brings_more) {
        complain(&format!("Listening for {wait:?}: MQTT devices speak when they like."));
    }
    let agent = User::of(&config.state_dir.join("buffer"));
    let clock = Clock::open(&config.state_dir);
    let Agent { site, gateway, state_dir, .. } = config;
    let stranger = is_of_another_user(&state_dir);
    let fitter = Arc::new(Fitter::new(site, gateway, state_dir, clock.clone()));
    let answers = runtime.block_on(all(fitter, links, Arc::new(wanted), *wait, stranger));
    // A name that is still being looked up is not waited for.
    runtime.shutdown_background();
    let page = Page { answers: &answers, wait: *wait, offset_us: clock.belief().offset_us };
    let code = print(&if *json { page.json().to_string() + "\n" } else { page.text() });
    if let Some(words) = page.trouble() {
        complain(&words);
        if let User::Process(process) = agent {
            complain(&format!(
                "hint: the agent runs (process {process}) and may have the connection to itself; \
                 `forebay-agent tail` shows what it reads"
            ));
        }
    }
    code.unwrap_or_else(|| ExitCode::from(if page.is_complete() { 0 } else { FAILED }))
}

/// Every link at the same time, in the order of the configuration.
async fn all(
    fitter: Arc<Fitter>,
    links: Vec<Link>,
    wanted: Arc<Pattern>,
    wait: Duration,
    stranger: Option<String>,
) -> Vec<Answer> {
    let until = Instant::now() + wait;
    let mut reading = JoinSet::new();
    for (place, link) in links.into_iter().map(Arc::new).enumerate() {
        let (fitter, wanted, stranger) = (fitter.clone(), wanted.clone(), stranger.clone());
        reading.spawn(async move {
            let name = link.name.to_arc();
            // The key and the certificates of servers would become another user's.
            if let (Protocol::OpcUa(_), Some(words)) = (&link.protocol, stranger) {
                return (place, Answer::none(name, words));
            }
            let made = tokio::time::timeout_at(until, fitter.driver(&link)).await;
            let answer = match made {
                Ok(Ok(driver)) => {
                    Box::pin(read_once(name, driver.for_a_look(), &wanted, until, brings_more(&link))).await
                }
                Ok(Err(words)) => Answer::none(name, words),
                Err(_) => Answer::none(name, format!("its driver was not ready within {wait:?}")),
            };
            (place, answer)
        });
    }
    let mut answers = reading.join_all().await;
    answers.sort_by_key(|(place, _)| *place);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// Says whose the state directory is, if it is somebody else's.
fn is_of_another_user(state_dir: &Path) -> Option<String> {
    let owner = fs::metadata(state_dir).ok()?.uid();
    (owner != rustix::process::geteuid().as_raw()).then(|| {
        format!(
            "not asked: its keys lie in {} of another user, and would change hands; run this as that user: \
             sudo -u '#{owner}' forebay-agent read",
            state_dir.display()
        )
    })
}

fn no_such_point(config: &Agent, wanted: &Pattern) -> String {
    let devices: Vec<String> =
        config.links.iter().flat_map(|link| link.device_names()).map(ToString::to_string).collect();
    let known = match devices.as_slice() {
        [] => "no device is configured by name".to_owned(),
        names => format!("the devices are: {}", names.join(", ")),
    };
    format!("no configured point is {wanted}\n  hint: {known}")
}
