//! `forebay-agent tail`: what an agent that runs reads, and an agent that does not care who watches.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result};
use forebay_demo::modbus::ModbusPlant;
use forebay_demo::site::Site;
use forebay_tests::load_device::LoadDevice;
use forebay_tests::programs;
use serde_json::Value;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

async fn tail(site: &Site, words: &[&str]) -> Result<(Option<i32>, String, String)> {
    let mut command = Command::new(&programs()?.agent.words()[0]);
    command.arg("tail").args(words).arg("--config").arg(site.file("agent.toml"));
    let Output { status, stdout, stderr } = spawn_blocking(move || command.output()).await??;
    Ok((status.code(), String::from_utf8(stdout)?, String::from_utf8(stderr)?))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_agent_reads_is_shown_as_it_reads_it() -> Result<()> {
    let boilers = ModbusPlant::start_tcp("127.0.0.1:0".parse()?, &[1, 2]).await?;
    let folder = tempfile::tempdir()?;
    let site = Site::new(folder.path(), programs()?, None, 0).await?;
    let name = forebay_config::units::Name::new("boilers").map_err(anyhow::Error::msg)?;
    site.configure_agent("t", "g", &boilers.link_toml(&name), "")?;
    let (code, out, told) = tail(&site, &[]).await?;
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(told.contains("no agent runs here"), "{told}");

    let agent = site.start_agent().await?;
    let socket = site.agent_state().join("live.sock");
    assert_eq!(fs::metadata(&socket)?.mode() & 0o777, 0o660);
    let (code, out, _) = tail(&site, &["boiler-2", "supply_*", "--count", "4", "--json"]).await?;
    assert_eq!(code, Some(0));
    let rows = out.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    assert_eq!(rows.len(), 4);
    assert!(rows.iter().all(|row| row["device"] == "boiler-2" && row["quality"] == "good"), "{out}");
    let points: std::collections::BTreeSet<_> = rows.iter().filter_map(|row| row["point"].as_str()).collect();
    assert_eq!(points.into_iter().collect::<Vec<_>>(), ["supply_setpoint", "supply_temperature"]);
    let (code, text, _) = tail(&site, &["boiler-1", "supply_temperature", "--count", "1"]).await?;
    assert_eq!(code, Some(0));
    assert!(text.contains("boiler-1/supply_temperature") && text.ends_with(" °C\n"), "{text}");

    // The agent goes while somebody watches.
    let config = site.file("agent.toml");
    let mut watching = Command::new(&programs()?.agent.words()[0])
        .args(["tail", "nobody", "--config"])
        .arg(&config)
        .stderr(std::process::Stdio::piped())
        .spawn()?;
    sleep(Duration::from_millis(500)).await;
    agent.terminate(Duration::from_secs(30)).await?;
    let ended = spawn_blocking(move || {
        let mut told = String::new();
        if let Some(words) = &mut watching.stderr {
            std::io::Read::read_to_string(words, &mut told)?;
        }
        Ok::<_, std::io::Error>((watching.wait()?, told))
    });
    let (status, told) = ended.await??;
    assert_eq!((status.code(), told.as_str()), (Some(1), "the agent has ended\n"));
    assert!(!socket.exists(), "the socket goes with the agent");
    boilers.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_that_take_nothing_neither_slow_the_agent_nor_fill_its_memory() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let device = LoadDevice::start().await?;
    let site = Site::new(folder.path(), programs()?, None, 0).await?;
    site.configure_agent("t", "g", &device.link_toml(2_000, "100ms"), "")?;
    let agent = site.start_agent().await?;
    let produced = async || site.agent_metric("forebay_agent_readings_produced_total").await;
    let of_three_seconds = async || -> Result<f64> {
        let before = produced().await?;
        sleep(Duration::from_secs(3)).await;
        Ok(produced().await? - before)
    };
    let alone = of_three_seconds().await?;
    let before = agent.peak_memory().context("it runs")?;
    let mut watchers = Vec::new();
    for _ in 0..8 {
        let mut stream = UnixStream::connect(site.agent_state().join("live.sock"))?;
        stream.write_all(b"*/*\n")?;
        watchers.push(stream);
    }
    let watched = of_three_seconds().await?;
    let grown = agent.peak_memory().context("it runs")?.saturating_sub(before);
    println!("{alone} readings in 3 s, {watched} while eight watch and take nothing; {grown} bytes more");
    assert!(watched > 0.8 * alone, "{watched} readings in 3 s beside {alone}");
    // The ring, and for each watcher a piece as text and what its socket holds.
    assert!(grown < 16 << 20, "{grown} bytes more");
    agent.terminate(Duration::from_secs(30)).await?;
    Ok(())
}
