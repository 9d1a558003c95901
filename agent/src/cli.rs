//! The gateway's command line. The only room that prints.
//!
//! Exit codes: 0 done; 1 it failed, and said why; 2 the command line was not understood;
//! 10 to 24 why joining failed ([`join::JoinError::exit_code`]);
//! of `buffer`: 1 damaged parts were found, 2 the buffer cannot be read;
//! of `read`: 1 some point could not be read, 2 there is no such point;
//! of `status`: 1 something needs a look, 3 the agent does not run, 4 it cannot be told;
//! of `doctor`: 1 something deserves a look, 2 something does not work;
//! of `serial`: 1 a configured port is missing or may not be opened;
//! 78 the configuration was refused (`EX_CONFIG` of sysexits.h).

pub mod join;

mod buffer;
mod bundle;
mod check;
mod doctor;
mod leave;
mod opcua;
mod paint;
mod probe;
mod read;
mod run;
mod serial;
mod sight;
mod status;
mod table;
mod tail;
mod top;

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};
use forebay_config::agent::Agent;
use forebay_config::classes::Pattern;

use crate::fittings;
use crate::status::VERSION;

/// Where the configuration lies unless something else is said.
const DEFAULT_CONFIG: &str = "/etc/forebay/agent.toml";
/// It failed.
const FAILED: u8 = 1;
/// The configuration was refused.
const BAD_CONFIG: u8 = 78;

/// Forebay's agent: collects readings from field devices, keeps them safe, brings them to the server.
#[derive(Debug, Parser)]
#[command(
    name = "forebay-agent",
    version,
    after_help = "Exit codes: 0 done, 1 failed, 2 command line not understood, 10 to 24 joining failed, 78 configuration refused."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Collect until SIGTERM. SIGHUP reads the configuration again and restarts the links that changed.
    Run(ConfigPath),
    /// Read the configuration and say everything that is wrong with it.
    Check(ConfigPath),
    /// Join a server with the string that `forebay-server token create` printed there.
    #[command(after_help = join::HELP)]
    Join(join::Join),
    /// Leave the server: it lets this gateway in no more, and the identity is removed here.
    #[command(after_help = leave::HELP)]
    Leave(leave::Leave),
    /// Renew this gateway's certificate now. A running agent does so by itself when two thirds of its time are over.
    Renew(ConfigPath),
    /// Look into the buffer. Changes nothing, needs no network, and an agent may run meanwhile.
    #[command(subcommand)]
    Buffer(buffer::Command),
    /// Look at field devices before configuring them. Never writes to a device.
    #[command(subcommand)]
    Probe(probe::Command),
    /// Read the configured points now, from the devices themselves, and show them.
    #[command(after_help = read::HELP)]
    Read(read::Read),
    /// Show the serial ports: lasting names, drivers, who uses them, who may.
    #[command(after_help = serial::HELP)]
    Serial(serial::Serial),
    /// Say how the agent is: links, devices, buffer, uplink, and what to look at.
    #[command(after_help = status::HELP)]
    Status(status::Status),
    /// Show the same live, once a second.
    #[command(after_help = top::HELP)]
    Top(top::Top),
    /// Try everything this gateway needs, and say what to do about what is wrong.
    #[command(after_help = doctor::HELP)]
    Doctor(doctor::Doctor),
    /// Pack everything somebody far away needs to help, without secrets.
    #[command(after_help = bundle::HELP)]
    SupportBundle(bundle::Bundle),
    /// Show what the agent that runs reads, as it reads it.
    #[command(after_help = tail::HELP)]
    Tail(tail::Tail),
    /// Decide which OPC UA servers to believe.
    #[command(subcommand)]
    Opcua(opcua::Command),
    /// Print the version.
    Version,
}

#[derive(Debug, clap::Args)]
struct ConfigPath {
    /// The configuration. Files in the folder `NAME.d` beside it are read too.
    #[arg(
        long,
        value_name = "PATH",
        env = "FOREBAY_AGENT_CONFIG",
        default_value = DEFAULT_CONFIG
    )]
    config: PathBuf,
}

/// Which points.
#[derive(Debug, clap::Args)]
struct Wanted {
    /// Only this device; `*` stands for any letters.
    device: Option<String>,
    /// Only this point of it; `*` stands for any letters.
    point: Option<String>,
}

impl Wanted {
    /// As a pattern. The words of an error are for people.
    fn pattern(&self) -> Result<Pattern, String> {
        let part = |given: &Option<String>| given.clone().unwrap_or_else(|| "*".into());
        let text = format!("{}/{}", part(&self.device), part(&self.point));
        let nonsense = |_| format!("{text} is not a device and a point: both are names without a slash");
        Pattern::new(&text).map_err(nonsense)
    }
}

/// The whole command line, for its man pages and completions.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Does what the command line says. `args` begins with the program's name.
pub fn run_cli(args: impl Iterator<Item = OsString>) -> ExitCode {
    // Before anything can open a TLS connection.
    forebay_protocols::sync::tls::install_provider();
    let words: Vec<OsString> = args.collect();
    let own = words.len();
    if let Some(config) = run::config_of_plain_words(&words) {
        return collect(config, own);
    }
    let cli = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are "errors" too, with exit code 0. A closed pipe is nobody's fault.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(FAILED));
        }
    };
    match cli.command {
        Command::Run(ConfigPath { config }) => collect(&config, own),
        Command::Check(ConfigPath { config }) => with_config(&config, |config| {
            check::overloads(&config).iter().for_each(|warning| complain(warning));
            say(&check::summary(&config))
        }),
        Command::Join(join) => with_config(&join.config.config, |config| run::join(&config, &join)),
        Command::Leave(leave) => with_config(&leave.config.config, |config| leave::run(&leave, &config)),
        Command::Renew(ConfigPath { config }) => with_config(&config, run::renew),
        Command::Buffer(command) => buffer::run(&command),
        Command::Probe(command) => probe::run(command),
        Command::Read(read) => with_config(&read.config.config, |config| read::run(&read, config)),
        Command::Serial(serial) => serial::run(&serial),
        Command::Status(status) => status::run(&status),
        Command::Top(top) => top::run(&top),
        Command::Doctor(doctor) => doctor::run(&doctor),
        Command::SupportBundle(bundle) => bundle::run(&bundle),
        Command::Tail(tail) => with_config(&tail.config.config, |config| tail::run(&tail, &config)),
        Command::Opcua(command) => opcua::run(command),
        Command::Version => say(&format!("forebay-agent {VERSION}")),
    }
}

/// Runs as a service does; this program was begun with so many words of ours.
fn collect(config: &Path, own: usize) -> ExitCode {
    run::in_one_heap(config, own);
    with_config(config, |agent| run::run(agent, config))
}

fn with_config(path: &Path, work: impl FnOnce(Agent) -> ExitCode) -> ExitCode {
    match fittings::configuration(path) {
        Ok(config) => work(config),
        Err(findings) => {
            complain(&findings);
            ExitCode::from(BAD_CONFIG)
        }
    }
}

/// To standard output.
#[expect(clippy::print_stdout, reason = "the command line prints")]
fn say(words: &str) -> ExitCode {
    println!("{words}");
    ExitCode::SUCCESS
}

/// To standard output, as it stands. A reader that has seen enough went away: that is no failure.
fn print(text: &str) -> Option<ExitCode> {
    let mut out = std::io::stdout().lock();
    let why = out.write_all(text.as_bytes()).and_then(|()| out.flush()).err()?;
    if why.kind() == std::io::ErrorKind::BrokenPipe {
        return Some(ExitCode::SUCCESS);
    }
    complain(&format!("cannot print: {why}"));
    Some(ExitCode::from(FAILED))
}

/// "10s", "300ms" on the command line.
fn span(text: &str) -> Result<Duration, String> {
    forebay_config::load::parse_duration(text)
        .ok_or_else(|| "write a number and a unit: 300ms, 10s, 5m".into())
}

/// To standard error.
fn complain(words: &str) {
    eprintln!("{}", words.trim_end());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(args: &[&str]) -> ExitCode {
        run_cli(args.iter().map(OsString::from))
    }

    #[test]
    fn the_command_line_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn exit_codes_are_what_the_help_says() {
        // ExitCode has no equality; its words are all there is to compare.
        let code = |code: u8| format!("{:?}", ExitCode::from(code));
        assert_eq!(format!("{:?}", exit(&["forebay-agent", "version"])), code(0));
        assert_eq!(format!("{:?}", exit(&["forebay-agent", "collect"])), code(2));
        let missing = ["forebay-agent", "check", "--config", "/nowhere/agent.toml"];
        assert_eq!(format!("{:?}", exit(&missing)), code(BAD_CONFIG));
        for what in ["status", "verify", "export"] {
            let nowhere = ["forebay-agent", "buffer", what, "--dir", "/nowhere"];
            assert_eq!(format!("{:?}", exit(&nowhere)), code(2), "{what}");
            let missing = ["forebay-agent", "buffer", what, "--config", "/nowhere/agent.toml"];
            assert_eq!(format!("{:?}", exit(&missing)), code(BAD_CONFIG), "{what}");
        }
    }
}
