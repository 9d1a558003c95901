//! An OPC UA server that nobody here wrote: `tests/peers/asyncua_server.py` as a child process.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::{needed, tests_folder};

/// Python takes its time to build an address space on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// The namespace of its nodes.
pub const NAMESPACE: &str = "urn:forebay:test";

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
    /// When Python or asyncua is missing.
    pub async fn start(port: u16, keys: &Path, namespaces: usize) -> Result<Self> {
        let mut process = python()?
            .arg(tests_folder().join("peers/asyncua_server.py"))
            .arg(port.to_string())
            .arg(keys)
            .arg(namespaces.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("start FOREBAY_TEST_PYTHON")?;
        let said = process.stdout.take().context("its standard output is piped")?;
        let mut lines = BufReader::new(said).lines();
        let first =
            timeout(PATIENCE, lines.next_line()).await.context("the asyncua server did not get ready")?;
        let endpoint = first?.context("the asyncua server ended at once: is asyncua installed there?")?;
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
        self.process.kill().await.context("kill the asyncua server")
    }
}

fn python() -> Result<Command> {
    Ok(Command::new(needed("FOREBAY_TEST_PYTHON", "a Python with tests/requirements.txt installed")?))
}
