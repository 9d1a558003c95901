//! What an agent with nothing to say costs on a metered link: bytes of its heartbeats, TLS and HTTP
//! included, counted on the road between real programs. Prints a table, or with --json one object.
//!
//!   idle [--json] [--heartbeats 20]

#![expect(clippy::print_stdout, reason = "a bench prints its table")]

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use forebay_demo::site::Site;
use forebay_tests::load_device::LoadDevice;
use forebay_tests::programs_beside;
use serde_json::json;
use tokio::time::{Instant, sleep};

/// The shortest that may be configured: the bytes of one do not depend on it.
const HEARTBEAT: Duration = Duration::from_secs(5);
const A_DAY: u64 = 86_400;
/// What is configured where nothing is.
const DEFAULT_HEARTBEAT_S: u64 = 60;

#[tokio::main]
async fn main() -> Result<()> {
    let (mut json, mut heartbeats) = (false, 20_u32);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--json" => json = true,
            "--heartbeats" => {
                heartbeats =
                    words.next().and_then(|n| n.parse().ok()).context("--heartbeats takes a number")?;
            }
            other => bail!("there is no option {other}: --json, --heartbeats"),
        }
    }
    let folder = tempfile::tempdir()?;
    let device = LoadDevice::start().await?;
    let site = Site::new(folder.path(), programs_beside(1)?, None, 0).await?;
    // One reading at the start, the next one tomorrow.
    let extra = format!("[uplink]\nheartbeat = \"{}s\"", HEARTBEAT.as_secs());
    site.configure_agent("bench", "idle", &device.link_toml(1, "24h"), &extra)?;
    let server = site.start_server().await?;
    site.join().await?;
    let agent = site.start_agent().await?;
    let joining = Instant::now();
    while site.agent_metric("forebay_agent_readings_acknowledged_total").await? < 1.0 {
        ensure!(
            joining.elapsed() < Duration::from_secs(30),
            "the first reading did not arrive:\n{}",
            site.log_tails()
        );
        sleep(Duration::from_millis(200)).await;
    }
    // What still follows the first reading is over with the next heartbeat.
    sleep(HEARTBEAT * 2).await;
    let before = site.road().bytes();
    sleep(HEARTBEAT * heartbeats).await;
    let each = (site.road().bytes() - before) / u64::from(heartbeats);
    agent.terminate(Duration::from_secs(30)).await?;
    server.terminate(Duration::from_secs(30)).await?;
    let a_day = each * (A_DAY / DEFAULT_HEARTBEAT_S);
    if json {
        println!(
            "{}",
            json!({ "bytes_per_heartbeat": each, "heartbeat_s": DEFAULT_HEARTBEAT_S, "bytes_per_day": a_day })
        );
    } else {
        println!(
            "a heartbeat: {each} bytes both ways; every {DEFAULT_HEARTBEAT_S} s: {:.2} MB a day",
            a_day as f64 / 1e6
        );
    }
    Ok(())
}
