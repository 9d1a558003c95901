//! `forebay-demo simulate` as a user starts it, an agent with the configuration it prints, and what an
//! operator would see of both: the link's state, and the readings that were kept.

use std::ffi::OsStr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use forebay_demo::process::Process;
use forebay_demo::site::Site;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::time::{Instant, sleep, timeout};

use crate::programs;

const PATIENCE: Duration = Duration::from_secs(20);

/// A simulated device, and an agent that reads it.
pub struct Simulated {
    device: Child,
    typed: ChildStdin,
    _printed: Lines<BufReader<ChildStdout>>,
    site: Site,
    agent: Process,
    _folder: TempDir,
}

/// A reading that was kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// Seconds since 1970.
    pub time: f64,
    /// `device/point`.
    pub point: String,
    /// As printed.
    pub value: String,
    /// In words.
    pub quality: String,
}

impl Simulated {
    /// Starts `forebay-demo simulate WORDS` and an agent. `settings` take the place of the printed link's
    /// interval.
    ///
    /// # Errors
    /// When one of them does not start.
    pub async fn start(words: &[&str], settings: &str) -> Result<Self> {
        // target/debug/deps/NAME-HASH
        let own = std::env::current_exe()?;
        let program = own.ancestors().nth(2).context("a program lies below target/")?.join("forebay-demo");
        ensure!(program.exists(), "{} is missing: run `cargo build --workspace` first", program.display());
        let mut command = tokio::process::Command::new(program);
        command.arg("simulate").args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut device = command.spawn()?;
        let typed = device.stdin.take().context("its input is piped")?;
        let mut printed = BufReader::new(device.stdout.take().context("its output is piped")?).lines();
        let reading = async {
            let mut toml = String::new();
            while let Some(line) = printed.next_line().await? {
                if line == "# Ready." {
                    return Ok(toml);
                }
                toml += &(line + "\n");
            }
            bail!("the device ended:\n{toml}")
        };
        let toml = timeout(PATIENCE, reading).await.context("the device starts")??;
        let toml = toml.replacen("[link.simulated]\ninterval = \"1s\"\n", "[link.simulated]\n", 1);
        let toml = toml.replacen("[link.simulated]\n", &format!("[link.simulated]\n{settings}\n"), 1);
        let folder = tempfile::tempdir()?;
        let site = Site::new(folder.path(), programs()?, None, 0).await?;
        site.configure_agent("t", "simulated", &toml, "[buffer]\ndurability_window = \"100ms\"\n")?;
        let agent = site.start_agent().await?;
        Ok(Self { device, typed, _printed: printed, site, agent, _folder: folder })
    }

    /// Types a line: a fault begins, or with `mend` all end.
    ///
    /// # Errors
    /// When the device has ended.
    pub async fn say(&mut self, words: &str) -> Result<()> {
        Ok(self.typed.write_all(format!("{words}\n").as_bytes()).await?)
    }

    /// A fault for so long; the moments between which it is sure to have been there.
    ///
    /// # Errors
    /// When the device has ended.
    pub async fn suffer(&mut self, fault: &str, time: Duration, takes: Duration) -> Result<(f64, f64)> {
        self.say(fault).await?;
        sleep(takes).await;
        let began = now();
        sleep(time.saturating_sub(takes)).await;
        let ended = now();
        self.say("mend").await?;
        Ok((began, ended))
    }

    /// The link as `/status` shows it.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub async fn link(&self) -> Result<Value> {
        Ok(self.site.agent_status().await?["links"][0].clone())
    }

    /// Connections made so far.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub async fn connections(&self) -> Result<f64> {
        self.site.agent_metric("forebay_agent_link_connections_total").await
    }

    /// Waits until the link's state is this one; how long that took.
    ///
    /// # Errors
    /// When it is not within twenty seconds.
    pub async fn until(&self, state: &str) -> Result<Duration> {
        let began = Instant::now();
        loop {
            let link = self.link().await?;
            if link["state"] == state {
                return Ok(began.elapsed());
            }
            ensure!(began.elapsed() < PATIENCE, "not {state} within {PATIENCE:?}: {link}");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until a good reading of `point` was kept that was taken after `time`; how much later.
    ///
    /// # Errors
    /// When there is none within twenty seconds.
    pub async fn until_good(&self, point: &str, time: f64) -> Result<f64> {
        let began = Instant::now();
        loop {
            let kept = self.kept(point).await?;
            if let Some(good) = kept.iter().find(|kept| kept.time > time && kept.quality == "good") {
                return Ok(good.time - time);
            }
            ensure!(
                began.elapsed() < PATIENCE,
                "no good {point} within {PATIENCE:?}: {:?}\n{}",
                kept.iter().rev().take(5).collect::<Vec<_>>(),
                self.site.log_tails()
            );
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// Every reading kept so far of points that match `device/point`, in order of time.
    ///
    /// # Errors
    /// When the agent's program refuses.
    pub async fn kept(&self, pattern: &str) -> Result<Vec<Kept>> {
        let (device, point) = pattern.split_once('/').context("device/point")?;
        let config = self.site.file("agent.toml");
        let words = ["buffer", "export", "--config"].map(OsStr::new);
        let words: Vec<&OsStr> = words.into_iter().chain([config.as_os_str()]).collect();
        let csv = programs()?.agent.output(&words).await?;
        let is_meant = |wanted: &str, name: &str| wanted == "*" || wanted == name;
        let mut kept = Vec::new();
        for row in csv.lines().skip(1) {
            let [time, of, name, value, _, quality, ..] = row.split(',').collect::<Vec<_>>()[..] else {
                bail!("a row with few columns: {row}");
            };
            if is_meant(device, of) && is_meant(point, name) {
                let time = time.parse::<jiff::Timestamp>().with_context(|| row.to_owned())?;
                kept.push(Kept {
                    time: time.as_microsecond() as f64 / 1e6,
                    point: format!("{of}/{name}"),
                    value: value.to_owned(),
                    quality: quality.to_owned(),
                });
            }
        }
        kept.sort_by(|a, b| a.time.total_cmp(&b.time));
        Ok(kept)
    }

    /// Ends both in order.
    ///
    /// # Errors
    /// When one does not end well.
    pub async fn end(mut self) -> Result<()> {
        self.agent.terminate(PATIENCE).await?;
        self.typed.write_all(b"quit\n").await?;
        let status = timeout(PATIENCE, self.device.wait()).await.context("the device ends")??;
        ensure!(status.success(), "the device ended with {status}");
        Ok(())
    }
}

/// Seconds since 1970.
pub fn now() -> f64 {
    jiff::Timestamp::now().as_microsecond() as f64 / 1e6
}

/// The words for the qualities within some seconds, each once.
pub fn qualities(kept: &[Kept], (from, to): (f64, f64)) -> Vec<&str> {
    let within = kept.iter().filter(|kept| (from..=to).contains(&kept.time));
    let mut words: Vec<&str> = within.map(|kept| kept.quality.as_str()).collect();
    words.sort_unstable();
    words.dedup();
    words
}

/// How much older than its stamp the value of a counter is at most, in seconds: readings of a counter
/// that runs at `rate` a second, against the freshest of them.
///
/// # Errors
/// When there are few good readings, or one is no number.
pub fn staleness(kept: &[Kept], rate: f64) -> Result<f64> {
    let good = kept.iter().filter(|kept| kept.quality == "good");
    let lag = |kept: &Kept| Ok(kept.time - kept.value.parse::<f64>()? / rate);
    let lags = good.map(lag).collect::<Result<Vec<f64>>>()?;
    ensure!(lags.len() >= 5, "{} good readings", lags.len());
    let freshest = lags.iter().copied().fold(f64::INFINITY, f64::min);
    Ok(lags.iter().copied().fold(f64::NEG_INFINITY, f64::max) - freshest)
}
