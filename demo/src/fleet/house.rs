//! One server in a folder for a fleet to come to: started, killed and started again as an operator
//! would, or a storm.

use std::ffi::OsStr;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use forebay_protocols::sync::join::JoinString;

use crate::http;
use crate::ledger::Database;
use crate::process::{Process, Program, log_tail};

const READY_WITHIN: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A folder in which a server lives.
pub struct House {
    folder: PathBuf,
    program: Program,
    database: Database,
    sync: SocketAddr,
    web: SocketAddr,
    server: Option<Process>,
}

impl House {
    /// Picks ports. `web_port` 0 takes a free one; `store` is a PostgreSQL URL, or SQLite is used.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn new(folder: &Path, program: Program, store: Option<&str>, web_port: u16) -> Result<Self> {
        let folder = folder.canonicalize().with_context(|| format!("use {}", folder.display()))?;
        let (sync, web) = (free_port(0)?, free_port(web_port)?);
        let database = match store {
            None => Database::Sqlite(folder.join("server/forebay.db")),
            Some(url) => Database::Postgres(url.to_owned()),
        };
        let house = Self { folder, program, database, sync, web, server: None };
        house.configure(sync)?;
        Ok(house)
    }

    /// Agents are told to come by this address. Before the start.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn configure(&self, reached_by: SocketAddr) -> Result<()> {
        let (state, sync, web) = (self.file("server"), self.sync, self.web);
        let store = match &self.database {
            Database::Sqlite(_) => String::new(),
            Database::Postgres(url) => format!("[store]\nurl = {url:?}\n"),
        };
        let config = format!(
            "[server]\nstate_dir = {state:?}\n{store}[sync]\nlisten = \"{sync}\"\naddress = \"{reached_by}\"\n\
             [web]\nlisten = \"{web}\"\n[log]\nformat = \"text\"\n"
        );
        std::fs::write(self.file("server.toml"), config).context("write server.toml")
    }

    /// Starts the server and waits until it is ready.
    ///
    /// # Errors
    /// When it ends, or is not ready within a minute.
    pub async fn start(&mut self) -> Result<()> {
        let config = self.file("server.toml");
        let words: [&OsStr; 3] = ["run".as_ref(), "--config".as_ref(), config.as_os_str()];
        let mut server = self.program.start(&words, &self.file("server.log"))?;
        let asking = async {
            while http::get(self.web, "/readyz").await.is_err() {
                server.check()?;
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            anyhow::Ok(())
        };
        let ready = tokio::time::timeout(READY_WITHIN, asking).await;
        ready.unwrap_or_else(|_| bail!("not ready within {READY_WITHIN:?}:\n{}", self.log_tail()))?;
        self.server = Some(server);
        Ok(())
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// When it did not run.
    pub async fn kill(&mut self) -> Result<()> {
        self.server.take().context("the server did not run")?.kill().await
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// When it did not run, or does not end in time.
    pub async fn terminate(&mut self) -> Result<()> {
        let server = self.server.take().context("the server did not run")?;
        server.terminate(Duration::from_secs(40)).await.map(drop)
    }

    /// The server, while it runs.
    pub fn server(&mut self) -> Option<&mut Process> {
        self.server.as_mut()
    }

    /// A join string for so many gateways.
    ///
    /// # Errors
    /// When the server's command line refuses.
    pub async fn join_string(&self, uses: usize) -> Result<JoinString> {
        let (config, uses) = (self.file("server.toml"), uses.max(1).to_string());
        let words: [&OsStr; 6] = [
            "token".as_ref(),
            "create".as_ref(),
            "--uses".as_ref(),
            uses.as_ref(),
            "--config".as_ref(),
            config.as_os_str(),
        ];
        Ok(self.program.output(&words).await.context("create a join token")?.parse()?)
    }

    /// A metric of the server, its labels with it; 0 where it was never counted.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        let text = http::get(self.web, "/metrics").await?;
        let line =
            text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
        Ok(line.and_then(|line| line.rsplit(' ').next()).map_or(Ok(0.0), str::parse)?)
    }

    /// Where agents connect.
    pub fn sync_address(&self) -> SocketAddr {
        self.sync
    }

    /// Where page, API and metrics are.
    pub fn web_address(&self) -> SocketAddr {
        self.web
    }

    /// Where the readings end.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// The last words of the server.
    pub fn log_tail(&self) -> String {
        log_tail(&self.file("server.log"))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// A loopback port nobody has now; `wanted` if that is free.
fn free_port(wanted: u16) -> Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", wanted)).or_else(|_| TcpListener::bind("127.0.0.1:0"));
    Ok(listener.context("find a free port")?.local_addr()?)
}
