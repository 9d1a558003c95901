//! What the system tests share: where the programs are, peers that nobody here wrote, databases of
//! their own. What is missing fails with the way out; nothing is skipped.

pub mod bench_mqtt;
pub mod browser;
pub mod counting_meter;
pub mod documents;
pub mod faults;
pub mod fuzz;
pub mod joining;
pub mod lateness;
pub mod load_device;
pub mod machine;
pub mod mosquitto;
pub mod opcua_server;
pub mod own_database;
pub mod patience;
pub mod processor;
pub mod several;
pub mod simulated;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, Result};
use forebay_demo::process::Program;
use forebay_demo::site::Programs;
use serde_json::Value;

/// An agent's configuration with a mistake of each kind; README shows what `check` says of it.
pub const FIVE_MISTAKES: &str = include_str!("five_mistakes.toml");

/// Our programs as `cargo build` left them, beside this test. `FOREBAY_TEST_AGENT` names another agent:
/// `cross/test` has one of another architecture.
///
/// # Errors
/// When they are not built.
pub fn programs() -> Result<Programs> {
    // target/debug/deps/NAME-HASH
    let beside = programs_beside(2)?;
    let agent = std::env::var_os("FOREBAY_TEST_AGENT").map_or(beside.agent, Program::new);
    Ok(Programs { agent, server: beside.server })
}

/// Our programs in the folder so many steps above this program.
///
/// # Errors
/// When they are not built.
pub fn programs_beside(steps: usize) -> Result<Programs> {
    let own = std::env::current_exe()?;
    let folder = own.ancestors().nth(steps).context("a program lies below target/")?;
    let program = |name: &str| {
        let path = folder.join(name);
        anyhow::ensure!(
            path.exists(),
            "{} is missing: run `cargo build --workspace` first, as tests/run does",
            path.display()
        );
        Ok(Program::new(path))
    };
    Ok(Programs { agent: program("forebay-agent")?, server: program("forebay-server")? })
}

/// A database of its own on the PostgreSQL server the tests were given.
pub struct TestDatabase {
    server: String,
    name: String,
    /// `postgres://…/name`.
    pub url: String,
}

impl TestDatabase {
    /// Makes an empty database.
    ///
    /// # Errors
    /// When there is no server, with how to get one.
    pub async fn create() -> Result<Self> {
        let server = needed(
            "FOREBAY_TEST_DATABASE_URL",
            "the URL of a PostgreSQL or TimescaleDB server in which databases may be made",
        )?;
        let mut random = [0; 8];
        getrandom::fill(&mut random).context("random name")?;
        let name = format!("forebay_test_{:016x}", u64::from_le_bytes(random));
        let (base, _) = server.rsplit_once('/').context("the URL ends with a database")?;
        let url = format!("{base}/{name}");
        execute(&server, &format!("create database {name}")).await?;
        Ok(Self { server, name, url })
    }

    /// Drops it, with whoever is still connected.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn drop(self) -> Result<()> {
        execute(&self.server, &format!("drop database {} with (force)", self.name)).await
    }
}

async fn execute(url: &str, sql: &str) -> Result<()> {
    let (client, connection) =
        tokio_postgres::connect(url, tokio_postgres::NoTls).await.context("connect to the test database")?;
    let connection = tokio::spawn(connection);
    client.batch_execute(sql).await.with_context(|| sql.to_owned())?;
    drop(client);
    connection.await??;
    Ok(())
}

/// The one value of the one row that `sql` finds.
///
/// # Errors
/// When there is no such row.
pub async fn ask<T>(url: &str, sql: &str) -> Result<T>
where
    T: for<'a> tokio_postgres::types::FromSql<'a>,
{
    let (client, connection) =
        tokio_postgres::connect(url, tokio_postgres::NoTls).await.context("connect to the test database")?;
    let connection = tokio::spawn(connection);
    let row = client.query_one(sql, &[]).await.with_context(|| sql.to_owned())?;
    let value = row.try_get(0)?;
    drop(client);
    connection.await??;
    Ok(value)
}

/// A Python script of `tests/peers`, running until dropped.
pub struct Peer {
    process: Child,
    /// What it printed first, as JSON.
    pub hello: Value,
    _words: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts a script that prints one line of JSON when it is ready and ends with its standard input.
    ///
    /// # Errors
    /// When Python is missing or the script ends without a word.
    pub fn start(script: &str, arguments: &[&str]) -> Result<Self> {
        let mut process = python(script, arguments)?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start Python")?;
        let mut words = BufReader::new(process.stdout.take().context("its standard output is piped")?);
        let mut line = String::new();
        words.read_line(&mut line)?;
        let hello = serde_json::from_str(&line).with_context(|| format!("{script} said {line:?}"))?;
        Ok(Self { process, hello, _words: words })
    }

    /// The endpoint it serves.
    pub fn endpoint(&self) -> &str {
        self.hello["endpoint"].as_str().unwrap_or_default()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs a script of `tests/peers` to its end; what it printed, as JSON.
///
/// # Errors
/// When it fails, with what it said.
pub fn ask_peer(script: &str, arguments: &[&str]) -> Result<Value> {
    let out = python(script, arguments)?.output()?;
    anyhow::ensure!(out.status.success(), "{script} {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).with_context(|| format!("{script} printed no JSON"))
}

fn python(script: &str, arguments: &[&str]) -> Result<Command> {
    let mut command =
        Command::new(needed("FOREBAY_TEST_PYTHON", "a Python with tests/requirements.txt installed")?);
    command.arg(tests_folder().join("peers").join(script)).args(arguments);
    Ok(command)
}

/// The folder `tests/` of the repository.
pub fn tests_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// The seed of a random test: `FOREBAY_TEST_SEED`, or a new one. Printed, so that it can be given
/// again; with it the plan of faults is the same, and their timing is not.
///
/// # Errors
/// When the variable holds no number.
#[expect(clippy::print_stdout, reason = "whoever sees the test fail needs the seed")]
pub fn seed() -> Result<u64> {
    let seed = number("FOREBAY_TEST_SEED")?.map_or_else(getrandom::u64, Ok).context("random numbers")?;
    println!("FOREBAY_TEST_SEED={seed}");
    Ok(seed)
}

/// How often to kill: `FOREBAY_TEST_KILLS`, or `usual`.
///
/// # Errors
/// When the variable holds no number.
pub fn kills(usual: u64) -> Result<u64> {
    Ok(number("FOREBAY_TEST_KILLS")?.unwrap_or(usual))
}

/// How many faults the network suite makes: `FOREBAY_TEST_FAULTS`, or `usual`.
///
/// # Errors
/// When the variable holds no number.
pub fn faults(usual: u64) -> Result<u64> {
    Ok(number("FOREBAY_TEST_FAULTS")?.unwrap_or(usual))
}

/// How many messages: `FOREBAY_TEST_MESSAGES`, or `usual`.
///
/// # Errors
/// When the variable holds no number.
pub fn messages(usual: u64) -> Result<u64> {
    Ok(number("FOREBAY_TEST_MESSAGES")?.unwrap_or(usual))
}

fn number(variable: &str) -> Result<Option<u64>> {
    let Ok(text) = std::env::var(variable) else { return Ok(None) };
    text.parse().map(Some).with_context(|| format!("{variable} is a number, not {text:?}"))
}

fn needed(variable: &str, what: &str) -> Result<String> {
    std::env::var(variable)
        .with_context(|| format!("{variable} is not set: it is {what}. `tests/run` sets it"))
}
