//! CPU per reading of Modbus TCP requests for 125 registers, in turn: the agent as it runs, from the socket to the
//! durable buffer; its source alone, whose readings nobody keeps; and a bare tokio-modbus loop that looks at no
//! register. The two last ones are this program, started again. The device is in this process, all read it on
//! the same schedule, and each figure is the middle one of the rounds.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use forebay_config::load;
use forebay_demo::process::{Process, Program};
use forebay_demo::site::Site;
use forebay_protocols::field::modbus::ModbusSource;
use forebay_protocols::field::source::Source;
use forebay_tests::load_device::LoadDevice;
use forebay_tests::processor::seconds_of;
use forebay_tests::programs_beside;
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_modbus::prelude::{Reader, Slave, SlaveContext, tcp};

use super::Measure;

const REGISTERS: u16 = 125;
const UNITS: u8 = 40;
const EVERY: Duration = Duration::from_millis(100);
const ROUNDS: usize = 5;
const WARM_UP: Duration = Duration::from_secs(3);

const WAYS: [(&str, &str); 3] = [
    ("agent", "the agent, from the socket to the durable buffer"),
    ("source", "its Modbus source, without buffer"),
    ("bare", "a bare tokio-modbus loop"),
];

/// Runs all three in turn.
pub async fn turns(measure: Measure) -> Result<()> {
    measure.title(&format!(
        "CPU of {UNITS} requests for {REGISTERS} registers every {EVERY:?}, the middle of {ROUNDS} rounds\n  readings/s  us per reading  to the bare loop"
    ));
    let mut found = [const { Vec::new() }; WAYS.len()];
    for _ in 0..ROUNDS {
        for (way, figures) in WAYS.iter().zip(&mut found) {
            figures.push(figure(way.0, measure.time).await?);
        }
    }
    let middle = found.map(|mut figures| {
        figures.sort_by(|a, b| a.0.total_cmp(&b.0));
        figures[ROUNDS / 2]
    });
    let bare = middle[WAYS.len() - 1].0;
    for ((way, words), (each, a_second)) in WAYS.iter().zip(middle) {
        let ratio = each / bare;
        measure.row(
            &format!("{a_second:>12.0}  {each:>14.3}  {ratio:>15.2}x  {words}"),
            &json!({ "bench": "turns", "way": way, "readings_per_s": a_second, "us_per_reading": each, "to_bare": ratio }),
        );
    }
    Ok(())
}

/// Microseconds of CPU per reading, and readings a second.
async fn figure(way: &str, time: Duration) -> Result<(f64, f64)> {
    let device = LoadDevice::start().await?;
    let folder = tempfile::tempdir()?;
    let process = if way == "agent" {
        let site = Site::new(folder.path(), programs_beside(1)?, None, 0).await?;
        site.configure_agent("bench", "turns", &toml(device.address()), "")?;
        site.start_agent().await?
    } else {
        let own = Program::new(std::env::current_exe()?);
        own.start(&["as", way, &device.address().to_string()], &folder.path().join("log"))?
    };
    let id = process.id().context("it has ended")?;
    sleep(WARM_UP).await;
    let before = (seconds_of(id)?, device.asked());
    sleep(time).await;
    let (seconds, requests) = (seconds_of(id)? - before.0, device.asked() - before.1);
    end(process).await?;
    ensure!(requests > 0, "{way}: nothing was read");
    let readings = (requests * u64::from(REGISTERS)) as f64;
    Ok((seconds / readings * 1e6, readings / time.as_secs_f64()))
}

async fn end(process: Process) -> Result<()> {
    process.terminate(Duration::from_secs(30)).await.map(drop)
}

fn toml(address: SocketAddr) -> String {
    let mut text =
        format!("[link.load]\ninterval = \"{EVERY:?}\"\n[link.load.modbus-tcp]\naddress = \"{address}\"\n");
    for unit in 1..=UNITS {
        text += &format!("[link.load.device.d{unit}]\nunit_id = {unit}\n[link.load.device.d{unit}.points]\n");
        (0..REGISTERS).for_each(|register| text += &format!("p{register} = {{ address = {register} }}\n"));
    }
    text
}

/// What this program is when it is started again: reads until it is ended.
pub async fn child(way: &str, address: &str) -> Result<()> {
    let address: SocketAddr = address.parse()?;
    if way == "source" {
        let text = format!("[agent]\nsite = \"bench\"\ngateway = \"turns\"\n{}", toml(address));
        let config = load::agent_text("bench.toml", &text)?;
        let mut source =
            ModbusSource::new(config.links.first().context("one link")?).context("a Modbus link")?;
        source.connect().await?;
        loop {
            std::hint::black_box(source.next().await?);
        }
    }
    let mut device = tcp::connect(address).await?;
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        for unit in 1..=UNITS {
            device.set_slave(Slave(unit));
            std::hint::black_box(device.read_holding_registers(0, REGISTERS).await??);
        }
    }
}
