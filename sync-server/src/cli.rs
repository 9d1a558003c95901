//! The command line of `forebay-server`. Commands print their answer on standard output and
//! everything else on standard error.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage, 78 the configuration is refused (sysexits); of `agents answer` those
//! of `forebay-agent join`.

mod agents;
mod answer;
mod ask;
mod backup;
mod ca;
mod columns;
mod doctor;
mod faults;
mod keys;
mod listing;
mod quarantine;
mod run;
mod tenants;
mod token;
mod users;

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser, Subcommand};
use forebay_config::load::{self, Findings};
use forebay_config::server::Server;
use forebay_protocols::sync::tls;

use crate::identity;
use crate::store::{self, Store};

/// Read if `--config` is not given; may be missing, as every setting has a default.
const DEFAULT_CONFIG: &str = "/etc/forebay/server.toml";
/// EX_CONFIG of sysexits.h.
const REFUSED: u8 = 78;

/// Takes readings from Forebay agents, stores them and shows them.
#[derive(Debug, Parser)]
#[command(name = "forebay-server", version, max_term_width = 100)]
struct Arguments {
    /// The configuration file.
    #[arg(long, global = true, value_name = "PATH", env = "FOREBAY_SERVER_CONFIG")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server until SIGTERM or SIGINT.
    Run,
    /// Read the configuration and say what is wrong with it.
    Check,
    /// Make join strings, which let gateways in.
    #[command(subcommand)]
    Token(token::Token),
    /// List the gateways that have joined; let in those that ask to; shut out others.
    Agents(agents::Agents),
    /// The CA that gateways trust: show it, put a new one in its place.
    #[command(subcommand)]
    Ca(ca::Command),
    /// Copy the database, as it is at one moment, and the CA into a folder, while the server runs.
    Backup(backup::Backup),
    /// Put a backup back. Gateways then send again what they brought since.
    Restore(backup::Restore),
    /// Try everything this server needs, and say what to do about what is wrong.
    #[command(after_help = doctor::HELP)]
    Doctor(doctor::Doctor),
    /// List what is wrong, and what to do about it.
    Faults(faults::Faults),
    /// Look at what is kept aside, and replay it.
    #[command(subcommand)]
    Quarantine(quarantine::Quarantine),
    /// Say who may log in at the page.
    #[command(subcommand)]
    User(users::User),
    /// Make and remove API keys, for programs.
    #[command(subcommand)]
    Key(keys::Key),
    /// Keep customers apart that share this server.
    #[command(subcommand)]
    Tenant(tenants::Tenant),
    /// Print the version.
    Version,
}

/// The whole command line, for its man pages and completions.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Runs the command line. Used by the binary, and by the demo as a child of itself.
pub fn run_cli(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version come this way too; clap knows which stream they belong on.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    tls::install_provider();
    let config = match load_config(arguments.config.as_deref()) {
        Ok(config) => config,
        Err(findings) => {
            eprint(&format!("{findings}\n"));
            return ExitCode::from(REFUSED);
        }
    };
    let outcome = match arguments.command {
        Command::Run => run::run(config),
        Command::Check => print("The configuration is good.\n"),
        Command::Token(token::Token::Create(create)) => block_on(create.run(config)),
        Command::Agents(agents) => block_on(agents.run(config)),
        Command::Ca(ca) => block_on(ca.run(config)),
        Command::Backup(backup) => backup.run(&config),
        Command::Restore(restore) => restore.run(&config),
        Command::Doctor(doctor) => {
            return block_on(doctor.run(config)).unwrap_or_else(|error| {
                eprint(&format!("forebay-server: {error:#}\n"));
                ExitCode::FAILURE
            });
        }
        Command::Faults(faults) => block_on(faults.run(config)),
        Command::Quarantine(quarantine) => block_on(quarantine.run(config)),
        Command::User(user) => block_on(user.run(config)),
        Command::Key(key) => block_on(key.run(config)),
        Command::Tenant(tenant) => block_on(tenant.run(config)),
        Command::Version => print(concat!("forebay-server ", env!("CARGO_PKG_VERSION"), "\n")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint(&format!("forebay-server: {error:#}\n"));
            let unanswered = error.downcast_ref::<answer::Unanswered>();
            unanswered.map_or(ExitCode::FAILURE, |error| ExitCode::from(error.exit_code))
        }
    }
}

fn load_config(path: Option<&Path>) -> Result<Server, Findings> {
    let default = Path::new(DEFAULT_CONFIG);
    load::server(path.or_else(|| default.exists().then_some(default)))
}

/// The store, for commands that work beside a running server.
async fn open_store(config: &Server) -> Result<Arc<dyn Store>> {
    identity::make_state_folder(&config.state_dir)?;
    store::open(&config.store).await.context("open the store (`[store]`)")
}

fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("start the runtime")?.block_on(work)
}

/// To standard output, in one write. A reader that went away (`| head`) is not a failure.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("write the answer")
        }
        _ => Ok(()),
    }
}

fn eprint(text: &str) {
    // There is nowhere left to complain to.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn wrong_usage_is_two_and_asking_for_the_version_is_fine() {
        let run = |arguments: &[&str]| run_cli(arguments.iter().map(OsString::from));
        let same = |a: ExitCode, b: ExitCode| format!("{a:?}") == format!("{b:?}");
        assert!(same(run(&["forebay-server", "fly"]), ExitCode::from(2)));
        assert!(same(run(&["forebay-server", "version"]), ExitCode::SUCCESS));
    }

    #[test]
    fn a_new_state_directory_is_closed_to_others_and_one_that_is_there_stays_as_it_is() {
        use std::fs::{self, Permissions};
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().unwrap();
        let (new, shared) = (folder.path().join("new"), folder.path().join("shared"));
        fs::create_dir(&shared).unwrap();
        fs::set_permissions(&shared, Permissions::from_mode(0o750)).unwrap();
        for (state, mode) in [(new, 0o700), (shared, 0o750)] {
            let config = state.with_extension("toml");
            fs::write(&config, format!("[server]\nstate_dir = {state:?}\n")).unwrap();
            let arguments =
                ["forebay-server".as_ref(), "agents".as_ref(), "--config".as_ref(), config.as_os_str()];
            let exit = run_cli(arguments.map(OsString::from));
            assert_eq!(format!("{exit:?}"), format!("{:?}", ExitCode::SUCCESS));
            assert!(state.join("forebay.db").exists());
            assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o777, mode, "{state:?}");
        }
    }
}
