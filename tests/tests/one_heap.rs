//! An agent that runs has one heap for all its threads, and is the process that was started all the same.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use forebay_demo::site::Site;
use forebay_tests::load_device::LoadDevice;
use forebay_tests::programs;

#[tokio::test]
async fn an_agent_that_runs_begins_anew_in_one_heap_as_the_same_process() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let device = LoadDevice::start().await?;
    let site = Site::new(folder.path(), programs()?, None, 0).await?;
    site.configure_agent("t", "heap", &device.link_toml(1, "1s"), "")?;
    let agent = site.start_agent().await?;
    let id = agent.id().context("it runs")?;
    let of_process = |what: &str| std::fs::read(format!("/proc/{id}/{what}"));
    let (environment, words) = (of_process("environ")?, of_process("cmdline")?);
    ensure!(
        environment.split(|byte| *byte == 0).any(|line| line == b"MALLOC_ARENA_MAX=1"),
        "no word of its heap"
    );
    ensure!(words.ends_with(b"agent.toml\0"), "{:?}", String::from_utf8_lossy(&words));
    // SIGTERM goes to who was started: that this one ends in order says that it is still that one.
    let status = agent.terminate(Duration::from_secs(30)).await?;
    ensure!(status.success(), "{status}");
    Ok(())
}
