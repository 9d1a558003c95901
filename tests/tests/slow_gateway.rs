//! A slow gateway: few readings, an agent that is killed, a server that counts. `cross/test` runs it
//! with an agent of another architecture; what that agent left on the disk is read by this machine.

use std::time::Duration;

use anyhow::{Context, Result};
use forebay_demo::ledger;
use forebay_demo::site::Site;
use forebay_tests::load_device::LoadDevice;
use forebay_tests::{kills, programs};

#[tokio::test(flavor = "multi_thread")]
async fn every_reading_of_a_killed_agent_stands_once() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let device = LoadDevice::start().await?;
    let site = Site::new(folder.path(), programs()?, None, 0).await?;
    site.configure_agent("t", "slow", &device.link_toml(120, "1s"), "")?;
    let server = site.start_server().await?;
    site.join().await?;
    let mut agent = site.start_agent().await?;
    for kill in 0..kills(3)? {
        device.asked_beyond(device.asked() + 6).await?;
        agent.kill().await.context("kill the agent")?;
        agent = site.start_agent().await.with_context(|| format!("after kill {kill}"))?;
    }
    device.asked_beyond(device.asked() + 6).await?;
    agent.terminate(Duration::from_secs(60)).await?;
    server.terminate(Duration::from_secs(60)).await?;
    let kept = ledger::kept(&site.agent_state()).await?;
    let stored = site.database().count().await?;
    assert!(kept.appended > 500, "{kept:?}");
    assert_eq!((kept.backlog, kept.dropped), (0, 0), "the buffer is empty and dropped nothing");
    assert_eq!((stored.rows, stored.twice), (kept.appended, 0), "every appended reading stands once");
    Ok(())
}
