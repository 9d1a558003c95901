//! A TimescaleDB of one test's own, which may be killed: fsync is on, as at a customer's.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;

use crate::{needed, tests_folder};

const STARTED_WITHIN: Duration = Duration::from_secs(60);
/// Gateways wait ten seconds before they try a server again that was without its database.
const CONNECTED_WITHIN: Duration = Duration::from_secs(40);
const DEAD_WITHIN: Duration = Duration::from_secs(10);

/// It runs until dropped.
pub struct OwnDatabase {
    folder: tempfile::TempDir,
    /// Where its programs lie, unpacked by `tests/timescale`.
    programs: Option<PathBuf>,
    port: u16,
    /// `postgres://…/forebay`, an empty database.
    pub url: String,
}

impl OwnDatabase {
    /// Makes a cluster and starts it. The programs are those of the tests' common TimescaleDB; if
    /// that is somebody else's they are fetched.
    ///
    /// # Errors
    /// When it does not start, with what it said.
    pub async fn start() -> Result<Self> {
        let common = needed("FOREBAY_TEST_DATABASE_URL", "the URL of the TimescaleDB the tests share")?;
        let data: String = crate::ask(&common, "show data_directory").await?;
        let programs = Path::new(&data).parent().filter(|dir| dir.join("root/.unpacked").exists());
        let folder = place()?;
        // Started by root, PostgreSQL runs as somebody else.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut own = Self { folder, programs: programs.map(Path::to_owned), port, url: String::new() };
        let server = own.start_again().await?;
        crate::execute(&server, "create database forebay").await?;
        let (base, _) = server.rsplit_once('/').context("the URL ends with a database")?;
        own.url = format!("{base}/forebay");
        Ok(own)
    }

    /// Starts it after a kill, on the same port, and returns when it answers. The URL of its first
    /// database.
    ///
    /// # Errors
    /// When it does not start, with what it said.
    pub async fn start_again(&self) -> Result<String> {
        let mut command = Command::new(tests_folder().join("timescale"));
        match &self.programs {
            Some(programs) => command.arg("beside").arg(programs).arg(self.place()),
            None => command.arg("up").arg(self.place()),
        };
        let output = command.arg(self.port.to_string()).kill_on_drop(true).output();
        let out = tokio::time::timeout(STARTED_WITHIN, output).await.context("tests/timescale hangs")??;
        let said = String::from_utf8_lossy(&out.stdout);
        ensure!(out.status.success(), "tests/timescale: {}", String::from_utf8_lossy(&out.stderr));
        Ok(said.trim().lines().last().context("tests/timescale prints a URL")?.to_owned())
    }

    /// SIGKILL to the postmaster, as a power cut for the database; what it had in hand goes with it.
    ///
    /// # Errors
    /// When it had ended already.
    pub async fn kill(&self) -> Result<()> {
        let postmaster = self.postmaster()?;
        kill_process(postmaster, Signal::KILL).context("kill the postmaster")?;
        let data = self.place().join("data").canonicalize()?;
        let cwd = format!("/proc/{}/cwd", postmaster.as_raw_nonzero());
        let began = Instant::now();
        while std::fs::read_link(&cwd).is_ok_and(|cwd| cwd == data) {
            ensure!(began.elapsed() < DEAD_WITHIN, "the postmaster survives SIGKILL");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// SIGKILL to one process that serves a Forebay server, as soon as there is one. The postmaster
    /// then ends all of them and recovers by itself.
    ///
    /// # Errors
    /// When no server connects in time.
    pub async fn kill_a_backend(&self) -> Result<()> {
        let sql = "select pid from pg_stat_activity where application_name = 'forebay-server' limit 1";
        let connected = async {
            loop {
                match crate::ask::<i32>(&self.url, sql).await {
                    Ok(backend) => return backend,
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        };
        let backend = tokio::time::timeout(CONNECTED_WITHIN, connected).await;
        let backend = backend.context("no server connects to the database")?;
        let backend = Pid::from_raw(backend).context("a process number")?;
        kill_process(backend, Signal::KILL).context("kill a backend")
    }

    /// Waits until it answers: what recovers from a kill refuses connections for a while.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn ready(&self) -> Result<()> {
        let answering = async {
            while crate::ask::<i32>(&self.url, "select 1").await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(STARTED_WITHIN, answering).await.context("the database does not recover")
    }

    fn place(&self) -> PathBuf {
        self.folder.path().join("timescale")
    }

    fn postmaster(&self) -> Result<Pid> {
        let file = self.place().join("data/postmaster.pid");
        let text = std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let first = text.lines().next().and_then(|line| line.trim().parse().ok());
        first.and_then(Pid::from_raw).context("postmaster.pid begins with a process number")
    }
}

/// In memory where there is room: what is killed here is a process, not the machine, and the recovery
/// of a cluster on a slow disk takes ten seconds of fsync.
fn place() -> Result<tempfile::TempDir> {
    const NEEDED: u64 = 2 << 30;
    let memory = Path::new("/dev/shm");
    let free = rustix::fs::statvfs(memory).map_or(0, |found| found.f_bavail * found.f_frsize);
    if free >= NEEDED {
        return Ok(tempfile::tempdir_in(memory)?);
    }
    Ok(tempfile::tempdir()?)
}

impl Drop for OwnDatabase {
    fn drop(&mut self) {
        let down = std::process::Command::new(tests_folder().join("timescale"))
            .arg("down")
            .arg(self.place())
            .stderr(std::process::Stdio::null())
            .status();
        // Nobody is left to tell; the data is for throwing away.
        drop(down);
    }
}
