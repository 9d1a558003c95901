//! How long a value takes from the device to the browser, with the settings nobody changed: one agent
//! that reads every second, one server, and browsers on the live feed. Prints a line, or with --json one
//! object.
//!
//!   live [--json] [--seconds 60] [--browsers 1] [--points 100]
//!
//! The programs are those beside this one: `tests/bench live` builds all of them for release. A value's
//! age is its own time against the moment the browser has it, on one machine.

#![expect(clippy::print_stdout, reason = "a bench prints its table")]

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use forebay_demo::site::Site;
use forebay_tests::lateness::Lateness;
use forebay_tests::load_device::LoadDevice;
use forebay_tests::programs_beside;
use serde_json::json;

#[tokio::main]
async fn main() -> ExitCode {
    match measure().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("live: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn measure() -> Result<()> {
    let (mut is_json, mut seconds, mut browsers, mut points) = (false, 60, 1, 100);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || -> Result<u64> {
            let next = words.next().with_context(|| format!("{word} needs a value"))?;
            next.parse().with_context(|| format!("{word} takes a number"))
        };
        match word.as_str() {
            "--json" => is_json = true,
            "--seconds" => seconds = number()?,
            "--browsers" => browsers = number()?,
            "--points" => points = number()?,
            other => bail!("there is no option {other}: --json, --seconds, --browsers, --points"),
        }
    }
    let folder = tempfile::tempdir()?;
    let device = LoadDevice::start().await?;
    let site = Site::new(folder.path(), programs_beside(1)?, None, 0).await?;
    site.configure_agent("bench", "live", &device.link_toml(points as usize, "1s"), "")?;
    let server = site.start_server().await?;
    site.join().await?;
    let agent = site.start_agent().await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut watching = Vec::new();
    for _ in 0..browsers {
        watching.push(Lateness::watch(site.web_address()).await?);
    }
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let seen: Vec<_> = watching.into_iter().map(Lateness::end).collect();
    agent.terminate(Duration::from_secs(60)).await?;
    server.terminate(Duration::from_secs(60)).await?;
    ensure!(seen.iter().all(|seen| !seen.is_empty()), "a browser saw nothing:\n{}", site.log_tails());
    let values: usize = seen.iter().map(|seen| seen.len()).sum();
    // All browsers see the same values: the worst of them counts.
    let worst = |part| seen.iter().map(|seen| seen.quantile(part)).max().unwrap_or(0);
    let (p50, p95, p99, most) = (worst(0.5), worst(0.95), worst(0.99), worst(1.0));
    if is_json {
        println!(
            "{}",
            json!({ "browsers": browsers, "values": values, "p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "max_ms": most })
        );
    } else {
        println!(
            "{browsers} browsers, {values} values: p50 {p50} ms, p95 {p95} ms, p99 {p99} ms, at most {most} ms from the device"
        );
    }
    Ok(())
}
