//! A program of ours as a child process: started with its log in a file, ended by its id.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

/// How a program is called: the binary itself, or this one with a word in front.
#[derive(Clone, Debug)]
pub struct Program(Vec<OsString>);

impl Program {
    /// A binary.
    pub fn new(path: impl Into<OsString>) -> Self {
        Self(vec![path.into()])
    }

    /// A binary that becomes the program when its first argument is `word`.
    pub fn with_word(path: impl Into<OsString>, word: &str) -> Self {
        Self(vec![path.into(), word.into()])
    }

    /// The words it is called with, the program first.
    pub fn words(&self) -> &[OsString] {
        &self.0
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.0[0]);
        command.args(&self.0[1..]).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Runs to the end and gives what it printed on standard output.
    ///
    /// # Errors
    /// When it does not end well within half a minute; with what it said.
    pub async fn output<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> Result<String> {
        let running = self.command().args(arguments).output();
        let out = tokio::time::timeout(Duration::from_secs(30), running)
            .await
            .with_context(|| format!("{self:?} did not end within 30 s"))??;
        if !out.status.success() {
            bail!(
                "{self:?} ended with {}: {}{}",
                out.status,
                String::from_utf8_lossy(&out.stderr),
                String::from_utf8_lossy(&out.stdout)
            );
        }
        Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
    }

    /// Starts it with its words going to `log`, appended.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S], log: &Path) -> Result<Process> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("open {}", log.display()))?;
        let child = self
            .command()
            // Ctrl-C is for us: what we started we end in order.
            .process_group(0)
            .args(arguments)
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("start {self:?}"))?;
        Ok(Process { child, log: log.to_owned() })
    }
}

/// A running program. Killed when dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Its process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// SIGKILL, as a power cut for the process, and waits for its end.
    ///
    /// # Errors
    /// When it had ended already: then something else went wrong.
    pub async fn kill(mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("had ended with {status} before it was killed:\n{}", self.log_tail());
        }
        self.child.kill().await.context("kill")
    }

    /// SIGTERM, and waits until it has drained and ended.
    ///
    /// # Errors
    /// When it does not end within `patience`.
    pub async fn terminate(mut self, patience: Duration) -> Result<ExitStatus> {
        let id = self.child.id().and_then(|id| Pid::from_raw(id as i32)).context("had ended already")?;
        kill_process(id, Signal::TERM).context("send SIGTERM")?;
        match tokio::time::timeout(patience, self.child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => bail!("did not end within {patience:?} after SIGTERM:\n{}", self.log_tail()),
        }
    }

    /// Has it ended by itself?
    ///
    /// # Errors
    /// When it has, with the end of its log.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("ended by itself with {status}:\n{}", self.log_tail()),
        }
    }

    /// Largest resident memory so far in bytes (VmHWM of `/proc/PID/status`).
    pub fn peak_memory(&self) -> Option<u64> {
        self.memory("VmHWM:")
    }

    /// Resident memory now in bytes (VmRSS).
    pub fn resident_memory(&self) -> Option<u64> {
        self.memory("VmRSS:")
    }

    fn memory(&self, which: &str) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id()?)).ok()?;
        let line = status.lines().find(|line| line.starts_with(which))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
    }

    /// The last lines it wrote.
    pub fn log_tail(&self) -> String {
        log_tail(&self.log)
    }
}

/// Ctrl-C, a terminal that is closed, or a polite kill: the books are closed in any case.
///
/// # Errors
/// When signals cannot be listened to.
pub async fn asked_to_end() -> std::io::Result<()> {
    let (mut closed, mut killed) = (signal(SignalKind::hangup())?, signal(SignalKind::terminate())?);
    tokio::select! {
        done = tokio::signal::ctrl_c() => done,
        _ = closed.recv() => Ok(()),
        _ = killed.recv() => Ok(()),
    }
}

/// The last lines of a log.
pub fn log_tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

#[cfg(test)]
mod tests {
    use rustix::process::getpgid;

    use super::*;

    #[tokio::test]
    async fn ctrl_c_does_not_end_what_was_started() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let process = Program::new("/bin/sleep").start(&["60"], &folder.path().join("log"))?;
        let id = process.id().and_then(|id| Pid::from_raw(id as i32));
        assert!(id.is_some() && getpgid(id).ok() == id, "the terminal's signals go to its own group");
        process.kill().await
    }
}
