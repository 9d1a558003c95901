//! A reading on its way through an agent that runs, from the frame of the device to the batch on the disk, takes no
//! allocation of its own: what is allocated goes by requests and batches, however many registers they carry.

use std::alloc::System;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use forebay_agent::app::{self, Control};
use forebay_agent::supervisor::Ending;
use forebay_tests::load_device::LoadDevice;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::time::timeout;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Requests that are counted.
const REQUESTS: u64 = 300;

/// Allocations of one request for so many registers, each a point of this type, in the steady state. The device's
/// are among them, which are as many for each request.
async fn allocations(registers: usize, kind: &str) -> Result<f64> {
    let folder = tempfile::tempdir()?;
    let device = LoadDevice::start().await?;
    let link = device.link_toml(registers, "10ms").replace(" }", &format!(", {kind} }}"));
    let text = format!(
        "[agent]\nsite = \"t\"\ngateway = \"g\"\nstate_dir = {:?}\n[buffer]\ndurability_window = \"200ms\"\n{}",
        folder.path(),
        link
    );
    let mut config = forebay_config::load::agent_text("agent.toml", &text)?;
    config.telemetry.listen = None;
    let ending = Ending::default();
    let control = Control { reread: Arc::new(|| unreachable!("nobody asked")), level: None };
    let asked = ending.asked.clone();
    let running = tokio::spawn(app::run(config, control, ending));
    // What grows to its size has grown by then.
    timeout(Duration::from_secs(60), device.asked_beyond(REQUESTS)).await??;
    let (region, begun) = (Region::new(ALLOCATOR), device.asked());
    timeout(Duration::from_secs(60), device.asked_beyond(begun + REQUESTS)).await??;
    let (found, requests) = (region.change().allocations, device.asked() - begun);
    asked.cancel();
    running.await?.context("run the agent")?;
    Ok(found as f64 / requests as f64)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reading_takes_no_allocation_of_its_own() -> Result<()> {
    for (kind, least, most) in
        [(r#"type = "int16", scale = 0.1"#, -0.05, 0.05), (r#"type = "string", length = 1"#, 0.95, 20.0)]
    {
        let (few, many) = (allocations(5, kind).await?, allocations(100, kind).await?);
        let each = (many - few) / 95.0;
        let words =
            format!("{kind}: {few:.1} allocations a request of 5, {many:.1} of 100: {each:.3} a reading");
        eprintln!("{words}");
        // Texts are kept one by one, which shows that it is really counted.
        ensure!((least..most).contains(&each), "{words}");
    }
    Ok(())
}
