//! Several servers behind a balancer on one TimescaleDB, and several gateways: real processes, as an
//! operator runs them. The servers share a CA by sharing its file (`ca/ca.pem`).

use std::ffi::OsStr;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use forebay_demo::http;
use forebay_demo::ledger::{self, Kept};
use forebay_demo::process::{Process, log_tail};
use forebay_demo::rough_road::RoughRoad;
use forebay_demo::site::Programs;

use crate::load_device::LoadDevice;

const READY_WITHIN: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
const ENDED_WITHIN: Duration = Duration::from_secs(60);

/// Servers, gateways and the balancer between them, in one folder.
pub struct Several {
    folder: PathBuf,
    programs: Programs,
    balancer: RoughRoad,
    servers: Vec<Server>,
    gateways: Vec<Gateway>,
}

struct Server {
    name: String,
    sync: SocketAddr,
    web: SocketAddr,
    process: Option<Process>,
}

struct Gateway {
    name: String,
    telemetry: SocketAddr,
    process: Process,
}

impl Several {
    /// Starts so many servers on the database at `url`, behind a balancer that cuts and stalls by
    /// `seed` once it is told to.
    ///
    /// # Errors
    /// When one does not start, with its last words.
    pub async fn start(
        folder: &Path,
        programs: Programs,
        url: &str,
        servers: usize,
        seed: u64,
    ) -> Result<Self> {
        let folder = folder.canonicalize()?;
        let balancer = RoughRoad::start(seed, Vec::new()).await?;
        let mut all = Self { folder, programs, balancer, servers: Vec::new(), gateways: Vec::new() };
        for number in 0..servers {
            let (name, sync, web) = (format!("server{number}"), free_port()?, free_port()?);
            let state = all.file(&name);
            let config = format!(
                "[server]\nstate_dir = {state:?}\n[store]\nurl = {url:?}\n[sync]\nlisten = \"{sync}\"\naddress = \"{}\"\n\
                 [web]\nlisten = \"{web}\"\n[log]\nformat = \"text\"\n",
                all.balancer.address()
            );
            std::fs::write(all.file(&format!("{name}.toml")), config)?;
            if number > 0 {
                copy_ca(&all.file("server0"), &state)?;
            }
            all.servers.push(Server { name, sync, web, process: None });
            all.start_server(number).await?;
        }
        all.balancer.lead_to(all.servers.iter().map(|server| server.sync).collect());
        Ok(all)
    }

    /// The balancer.
    pub fn balancer(&self) -> &RoughRoad {
        &self.balancer
    }

    /// Page, API and live feed of a server.
    pub fn web_address(&self, number: usize) -> SocketAddr {
        self.servers[number].web
    }

    /// How many servers there are, running or not.
    pub fn servers(&self) -> usize {
        self.servers.len()
    }

    /// Starts a server that does not run.
    ///
    /// # Errors
    /// When it is not ready in time, with its last words.
    pub async fn start_server(&mut self, number: usize) -> Result<()> {
        let name = self.servers[number].name.clone();
        let (config, log) = (self.file(&format!("{name}.toml")), self.file(&format!("{name}.log")));
        let words: [&OsStr; 3] = ["run".as_ref(), "--config".as_ref(), config.as_os_str()];
        let mut process = self.programs.server.start(&words, &log)?;
        ready(self.servers[number].web, &mut process).await.with_context(|| format!("start {name}"))?;
        self.servers[number].process = Some(process);
        Ok(())
    }

    /// SIGKILL. The balancer does not know and goes on sending gateways there.
    ///
    /// # Errors
    /// When it did not run.
    pub async fn kill_server(&mut self, number: usize) -> Result<()> {
        let process = self.servers[number].process.take();
        process.context("the server did not run")?.kill().await
    }

    /// A gateway that joins over the balancer and reads `points` registers of `device` twice a second.
    ///
    /// # Errors
    /// When a program refuses or is not ready in time.
    pub async fn add_gateway(&mut self, device: &LoadDevice, points: usize) -> Result<()> {
        let name = format!("gw{}", self.gateways.len());
        let (state, telemetry, config) = (self.file(&name), free_port()?, self.file(&format!("{name}.toml")));
        let text = format!(
            "[agent]\nsite = \"several\"\ngateway = {name:?}\nstate_dir = {state:?}\n\
             [telemetry]\nlisten = \"{telemetry}\"\n[log]\nformat = \"text\"\n\
             [uplink]\nrequest_timeout = \"3s\"\nbackoff_max = \"1s\"\n[buffer]\ndurability_window = \"100ms\"\n{}",
            device.link_toml(points, "500ms")
        );
        std::fs::write(&config, text)?;
        let server = self.file("server0.toml");
        let create: [&OsStr; 4] =
            ["token".as_ref(), "create".as_ref(), "--config".as_ref(), server.as_os_str()];
        let token = self.programs.server.output(&create).await.context("create a join token")?;
        let join: [&OsStr; 4] = ["join".as_ref(), token.as_ref(), "--config".as_ref(), config.as_os_str()];
        self.programs.agent.output(&join).await.context("join")?;
        let run: [&OsStr; 3] = ["run".as_ref(), "--config".as_ref(), config.as_os_str()];
        let mut process = self.programs.agent.start(&run, &self.file(&format!("{name}.log")))?;
        ready(telemetry, &mut process).await.with_context(|| format!("start {name}"))?;
        self.gateways.push(Gateway { name, telemetry, process });
        Ok(())
    }

    /// Waits until hardly anything waits in any gateway.
    ///
    /// # Errors
    /// When that takes longer than `patience`, with everybody's last words.
    pub async fn drained(&self, patience: Duration) -> Result<()> {
        let drained = async {
            for gateway in &self.gateways {
                while metric(gateway.telemetry, "forebay_agent_backlog_readings").await? > 2_000.0 {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
            }
            anyhow::Ok(())
        };
        match tokio::time::timeout(patience, drained).await {
            Ok(drained) => drained,
            Err(_) => bail!("readings still wait after {patience:?}:\n{}", self.last_words()),
        }
    }

    /// Readings that each server has stored since it was started.
    ///
    /// # Errors
    /// When one does not run.
    pub async fn stored_by_server(&self) -> Result<Vec<f64>> {
        let mut stored = Vec::new();
        for server in &self.servers {
            stored.push(metric(server.web, "forebay_server_readings_stored_total").await?);
        }
        Ok(stored)
    }

    /// Ends gateways, then servers, in order; what the buffers say for themselves.
    ///
    /// # Errors
    /// When one does not end well.
    pub async fn close(self) -> Result<Vec<Kept>> {
        let mut kept = Vec::new();
        for gateway in self.gateways {
            let status = gateway.process.terminate(ENDED_WITHIN).await?;
            ensure!(status.success(), "{} ended with {status}", gateway.name);
            kept.push(ledger::kept(&self.folder.join(&gateway.name)).await?);
        }
        for process in self.servers.into_iter().filter_map(|server| server.process) {
            process.terminate(ENDED_WITHIN).await?;
        }
        Ok(kept)
    }

    /// The ends of all logs.
    pub fn last_words(&self) -> String {
        let servers = self.servers.iter().map(|server| &server.name);
        let names = servers.chain(self.gateways.iter().map(|gateway| &gateway.name));
        names.map(|name| format!("-- {name}\n{}\n", log_tail(&self.file(&format!("{name}.log"))))).collect()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// As an operator does it: the CA's file goes to the next server, readable for its owner only.
fn copy_ca(from: &Path, to: &Path) -> Result<()> {
    let folder = to.join("ca");
    forebay_protocols::private_files::private_folder(to)?;
    forebay_protocols::private_files::private_folder(&folder)?;
    let ca = std::fs::read(from.join("ca/ca.pem")).context("read the first server's CA")?;
    forebay_protocols::private_files::create_once(&folder.join("ca.pem"), &ca, 0o600)?;
    Ok(())
}

async fn ready(address: SocketAddr, process: &mut Process) -> Result<()> {
    let asking = async {
        while http::get(address, "/readyz").await.is_err() {
            process.check()?;
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(READY_WITHIN, asking).await.context("it is not ready in time")?
}

async fn metric(address: SocketAddr, name: &str) -> Result<f64> {
    let text = http::get(address, "/metrics").await?;
    let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
    let value = line.and_then(|line| line.rsplit(' ').next());
    Ok(value.with_context(|| format!("no metric {name}"))?.parse()?)
}

/// A loopback port nobody has now.
fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
