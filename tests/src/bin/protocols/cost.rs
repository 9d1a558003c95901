//! CPU of the agent per million readings: the program as it runs, from the devices to the flash, with
//! simulated devices in this process. No server: what the uplink costs is not in it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use forebay_demo::mqtt::Broker;
use forebay_demo::opcua::{OpcUaPlant, PlantOptions};
use forebay_demo::site::Site;
use forebay_tests::load_device::LoadDevice;
use forebay_tests::processor::seconds_of;
use forebay_tests::programs_beside;
use serde_json::json;
use tokio::time::sleep;

use super::Measure;

/// Until the agent has connected, and everything was read once.
const WARM_UP: Duration = Duration::from_secs(4);

/// Modbus TCP, OPC UA and MQTT.
pub async fn cpu(measure: Measure) -> Result<()> {
    measure.title(
        "CPU of the agent, from the devices to the flash\n  readings/s  of a core  CPU s per million  what is read",
    );
    for interval in ["1s", "100ms"] {
        let device = LoadDevice::start().await?;
        let words = format!("Modbus TCP, 5,000 registers every {interval}");
        agent(measure, &words, &device.link_toml(5_000, interval)).await?;
    }
    let options =
        PlantOptions { tick: Duration::from_millis(100), max_sessions: 40, ..PlantOptions::default() };
    let plant = OpcUaPlant::start(options).await?;
    for sessions in [1, 30] {
        let words = format!("OPC UA, 60 nodes that move 10 times a second, in each of {sessions} sessions");
        // Sampled and published as often as the values move.
        let links: String = (0..sessions)
            .map(|n| {
                let toml =
                    plant.link_toml(&format!("bench{n}")).replace(".device.", &format!(".device.n{n}-"));
                toml.replacen("]\n", "]\ninterval = \"100ms\"\n", 1)
            })
            .collect();
        agent(measure, &words, &links).await?;
    }
    plant.shutdown().await;
    let broker = Broker::start().await?;
    let publishers = broker.publish(Duration::from_millis(10));
    let words = "MQTT, QoS 1, 12 messages with 30 values every 10 ms";
    agent(measure, words, &broker.link_toml("bench")).await?;
    publishers.stop().await;
    Ok(())
}

/// An agent of its own on these links.
async fn agent(measure: Measure, words: &str, links: &str) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let site = Site::new(folder.path(), programs_beside(1)?, None, 0).await?;
    site.configure_agent("bench", "cost", links, "")?;
    let agent = site.start_agent().await?;
    sleep(WARM_UP).await;
    let id = agent.id().context("the agent has ended")?;
    let before = (seconds_of(id)?, appended(&site).await?);
    sleep(measure.time).await;
    let (seconds, readings) = (seconds_of(id)? - before.0, appended(&site).await? - before.1);
    agent.terminate(Duration::from_secs(30)).await?;
    ensure!(readings > 0.0, "nothing was read:\n{}", site.log_tails());
    let per_million = seconds / readings * 1e6;
    let (a_second, share) = (readings / measure.time.as_secs_f64(), seconds / measure.time.as_secs_f64());
    measure.row(
        &format!("{a_second:>12.0}  {:>7.1} %  {per_million:>17.2}  {words}", share * 100.0),
        &json!({
            "bench": "cpu", "what": words, "readings_per_s": a_second, "share_of_a_core": share,
            "cpu_s_per_million_readings": per_million,
        }),
    );
    Ok(())
}

async fn appended(site: &Site) -> Result<f64> {
    site.agent_metric("forebay_agent_readings_appended_total").await
}
