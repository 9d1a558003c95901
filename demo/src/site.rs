//! One server and one gateway in a folder: configuration, ports, joining, processes. The demo and
//! the system tests run the same programs the same way an operator does. Between agent and server
//! lies a [`LossyLink`].

use std::ffi::OsStr;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::http;
use crate::ledger::Database;
use crate::lossy_link::LossyLink;
use crate::process::{Process, Program, log_tail};
use crate::thin_link::ThinLink;

/// Our two programs.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `forebay-agent`.
    pub agent: Program,
    /// `forebay-server`.
    pub server: Program,
}

/// A folder in which a server and an agent live.
pub struct Site {
    folder: PathBuf,
    programs: Programs,
    database: Database,
    road: LossyLink,
    thin: Option<ThinLink>,
    web: SocketAddr,
    telemetry: SocketAddr,
}

impl Site {
    /// Picks ports and writes the server's configuration. `web_port` 0 takes a free one.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub async fn new(folder: &Path, programs: Programs, store: Option<&str>, web_port: u16) -> Result<Self> {
        let folder = folder.canonicalize().with_context(|| format!("use {}", folder.display()))?;
        let sync = free_port(0)?;
        let web = free_port(web_port)?;
        let telemetry = free_port(0)?;
        let road = LossyLink::start(sync).await?;
        let through = road.address();
        let state = folder.join("server");
        let (database, store) = match store {
            None => (Database::Sqlite(state.join("forebay.db")), String::new()),
            Some(url) => (Database::Postgres(url.into()), format!("[store]\nurl = {url:?}\n")),
        };
        let config = format!(
            "[server]\nstate_dir = {state:?}\n{store}[sync]\nlisten = \"{sync}\"\naddress = \"{through}\"\n[web]\nlisten = \"{web}\"\n[log]\nformat = \"text\"\n"
        );
        std::fs::write(folder.join("server.toml"), config).context("write server.toml")?;
        Ok(Self { folder, programs, database, road, thin: None, web, telemetry })
    }

    /// Makes `bits` a second of the road between agent and server, each way. Before the server starts
    /// and the agent joins.
    ///
    /// # Errors
    /// When there is no port for it, or the folder cannot be written.
    pub async fn narrow(&mut self, bits: u64) -> Result<()> {
        let thin = ThinLink::start(self.road.address(), bits).await?;
        let file = self.file("server.toml");
        let config = std::fs::read_to_string(&file).context("read server.toml")?;
        let (wide, narrow) = (self.road.address().to_string(), thin.address().to_string());
        std::fs::write(&file, config.replace(&wide, &narrow)).context("write server.toml")?;
        self.thin = Some(thin);
        Ok(())
    }

    /// What [`Site::narrow`] made.
    pub fn thin(&self) -> Option<&ThinLink> {
        self.thin.as_ref()
    }

    /// The road between agent and server.
    pub fn road(&self) -> &LossyLink {
        &self.road
    }

    /// Where the page is.
    pub fn web_address(&self) -> SocketAddr {
        self.web
    }

    /// Where the readings end.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// The agent's state directory.
    pub fn agent_state(&self) -> PathBuf {
        self.folder.join("agent")
    }

    /// Writes the agent's configuration: `links` are `[link.NAME]` sections, `extra` other ones.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn configure_agent(&self, site: &str, gateway: &str, links: &str, extra: &str) -> Result<()> {
        let state = self.agent_state();
        let telemetry = self.telemetry;
        let config = format!(
            "[agent]\nsite = {site:?}\ngateway = {gateway:?}\nstate_dir = {state:?}\n[telemetry]\nlisten = \"{telemetry}\"\n\
             [log]\nformat = \"text\"\n{extra}\n{links}\n"
        );
        std::fs::write(self.folder.join("agent.toml"), config).context("write agent.toml")
    }

    /// Starts the server and waits until it is ready.
    ///
    /// # Errors
    /// When it ends or is not ready within half a minute.
    pub async fn start_server(&self) -> Result<Process> {
        let mut server = self.programs.server.start(
            &["run".as_ref(), "--config".as_ref(), self.file("server.toml").as_os_str()],
            &self.file("server.log"),
        )?;
        ready(self.web, &mut server).await.context("start the server")?;
        Ok(server)
    }

    /// Starts the agent and waits until it is ready.
    ///
    /// # Errors
    /// When it ends or is not ready within half a minute.
    pub async fn start_agent(&self) -> Result<Process> {
        let mut agent = self.launch_agent()?;
        ready(self.telemetry, &mut agent).await.context("start the agent")?;
        Ok(agent)
    }

    /// Starts the agent and waits for nothing.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn launch_agent(&self) -> Result<Process> {
        self.programs.agent.start(
            &["run".as_ref(), "--config".as_ref(), self.file("agent.toml").as_os_str()],
            &self.file("agent.log"),
        )
    }

    /// Makes a join string at the server and joins the agent with it, over the road.
    ///
    /// # Errors
    /// When either program refuses.
    pub async fn join(&self) -> Result<()> {
        let (server, agent) = (self.file("server.toml"), self.file("agent.toml"));
        let create: [&OsStr; 4] =
            ["token".as_ref(), "create".as_ref(), "--config".as_ref(), server.as_os_str()];
        let token = self.programs.server.output(&create).await.context("create a join token")?;
        self.programs
            .agent
            .output(&["join".as_ref(), token.as_ref(), "--config".as_ref(), agent.as_os_str()])
            .await
            .context("join the agent")?;
        Ok(())
    }

    /// The one agent as the server's API shows it.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn agent_at_server(&self) -> Result<Value> {
        let fleet = http::get_json(self.web, "/api/v1/fleet").await?;
        Ok(fleet["agents"][0].clone())
    }

    /// The agent's own metrics, by name with labels.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub async fn agent_metric(&self, name: &str) -> Result<f64> {
        let text = http::get(self.telemetry, "/metrics").await?;
        let line = text
            .lines()
            .find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])));
        let value = line
            .and_then(|line| line.rsplit(' ').next())
            .with_context(|| format!("no metric {name} in:\n{text}"))?;
        Ok(value.parse()?)
    }

    /// The agent as it shows itself (`/status`).
    ///
    /// # Errors
    /// When the agent does not answer.
    pub async fn agent_status(&self) -> Result<Value> {
        http::get_json(self.telemetry, "/status").await
    }

    /// The last words of both programs.
    pub fn log_tails(&self) -> String {
        let tail = |name: &str| format!("-- {name}\n{}", log_tail(&self.file(name)));
        format!("{}\n{}", tail("agent.log"), tail("server.log"))
    }

    /// A file of this site.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// Asks `/readyz` until it says yes.
async fn ready(address: SocketAddr, process: &mut Process) -> Result<()> {
    for _ in 0..300 {
        process.check()?;
        if http::get(address, "/readyz").await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("not ready within 30 s:\n{}", process.log_tail())
}

/// A loopback port nobody has now; `wanted` if that is free.
fn free_port(wanted: u16) -> Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", wanted))
        .or_else(|_| TcpListener::bind("127.0.0.1:0"))
        .context("find a free port")?;
    Ok(listener.local_addr()?)
}
