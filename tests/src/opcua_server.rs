//! OPC UA servers that nobody here wrote, as child processes: `tests/peers/asyncua_server.py` and
//! `tests/peers/node/server.cjs`, with the same nodes and the same users.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use forebay_config::field::OpcUaPolicy;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::{needed, tests_folder};

/// They take their time to build an address space on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// The namespace of its nodes.
pub const NAMESPACE: &str = "urn:forebay:test";
/// User name and password that are let in, besides anonymous clients.
pub const USER: (&str, &str) = ("test", "secret");

/// Whose server it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Make {
    /// In Python.
    Asyncua,
    /// In JavaScript.
    NodeOpcua,
}

impl Make {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Asyncua, Self::NodeOpcua];

    /// The policies it knows, but for None.
    pub fn policies(self) -> &'static [OpcUaPolicy] {
        const ALL: [OpcUaPolicy; 5] = [
            OpcUaPolicy::Basic256Sha256,
            OpcUaPolicy::Aes128Sha256RsaOaep,
            OpcUaPolicy::Aes256Sha256RsaPss,
            OpcUaPolicy::Basic256,
            OpcUaPolicy::Basic128Rsa15,
        ];
        match self {
            Self::Asyncua => &ALL,
            Self::NodeOpcua => ALL.split_at(3).0,
        }
    }

    fn command(self) -> Result<Command> {
        let (program, script) = match self {
            Self::Asyncua => {
                let python = needed("FOREBAY_TEST_PYTHON", "a Python with tests/requirements.txt installed")?;
                (python, "peers/asyncua_server.py")
            }
            Self::NodeOpcua => {
                let node = needed(
                    "FOREBAY_TEST_NODE",
                    "a Node.js that finds what tests/peers/node/package.json names",
                )?;
                (node, "peers/node/server.cjs")
            }
        };
        let mut command = Command::new(program);
        command.arg(tests_folder().join(script));
        Ok(command)
    }
}

/// A running server. Killed when dropped.
pub struct OpcUaServer {
    /// `opc.tcp://127.0.0.1:PORT/plant`.
    pub endpoint: String,
    process: Child,
}

impl OpcUaServer {
    /// Starts one and waits until it can be connected to. `port` 0 is any free one; `keys` takes its
    /// certificate; `namespaces` stand before its own.
    ///
    /// # Errors
    /// When its interpreter or its library is missing.
    pub async fn start(make: Make, port: u16, keys: &Path, namespaces: usize) -> Result<Self> {
        let mut process = make
            .command()?
            .arg(port.to_string())
            .arg(keys)
            .arg(namespaces.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start the server of {make:?}"))?;
        let said = process.stdout.take().context("its standard output is piped")?;
        let mut lines = BufReader::new(said).lines();
        let first = timeout(PATIENCE, lines.next_line())
            .await
            .with_context(|| format!("the server of {make:?} did not get ready"))?;
        let endpoint =
            first?.with_context(|| format!("the server of {make:?} ended at once: is it installed?"))?;
        Ok(Self { endpoint, process })
    }

    /// The port it listens on.
    ///
    /// # Errors
    /// When its endpoint has none.
    pub fn port(&self) -> Result<u16> {
        let address = self.endpoint.trim_start_matches("opc.tcp://");
        let port = address.split(['/', ':']).nth(1).context("an endpoint has a port")?;
        Ok(port.parse()?)
    }

    /// SIGKILL, as a power cut for the process.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub async fn kill(mut self) -> Result<()> {
        self.process.kill().await.context("kill the server")
    }

    /// Tells it to end, and waits for that.
    ///
    /// # Errors
    /// When it does not end, or not well.
    pub async fn stop(mut self) -> Result<()> {
        drop(self.process.stdin.take());
        let ended = timeout(PATIENCE, self.process.wait()).await.context("the server does not end")??;
        anyhow::ensure!(ended.success(), "the server ended with {ended}");
        Ok(())
    }
}
