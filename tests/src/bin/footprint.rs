//! How small the agent is: bytes of the program, and the highest memory use (VmHWM) and CPU time of one
//! that reads simulated Modbus TCP devices once a second and brings everything to a real server. Prints a
//! table, or with --json one object per row.
//!
//!   footprint [--json] [--points 1000]... [--seconds 120]
//!
//! The programs are those beside this one: `tests/bench footprint` builds them for release.

#![expect(clippy::print_stdout, reason = "a bench prints its table")]

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use forebay_demo::site::Site;
use forebay_tests::load_device::LoadDevice;
use forebay_tests::processor::seconds_of;
use forebay_tests::programs_beside;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

const MIB: f64 = 1_048_576.0;
/// What the agent counts when the server has said that it has them.
const ACKNOWLEDGED: &str = "forebay_agent_readings_acknowledged_total";

struct Options {
    json: bool,
    points: Vec<usize>,
    time: Duration,
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::read(std::env::args().skip(1))?;
    let own = std::env::current_exe()?;
    let agent =
        std::fs::metadata(own.with_file_name("forebay-agent")).context("the agent beside this")?.len();
    if options.json {
        println!("{}", json!({ "bench": "footprint", "program_bytes": agent }));
    } else {
        println!("forebay-agent: {:.2} MiB", agent as f64 / MIB);
        println!("{:>7} {:>12} {:>10} {:>12}", "points", "acknowledged", "VmHWM", "of a core");
    }
    for points in options.points.iter().copied() {
        row(&options, points).await?;
    }
    Ok(())
}

async fn row(options: &Options, points: usize) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let device = LoadDevice::start().await?;
    let site = Site::new(folder.path(), programs_beside(1)?, None, 0).await?;
    site.configure_agent("bench", "footprint", &device.link_toml(points, "1s"), "")?;
    let server = site.start_server().await?;
    site.join().await?;
    let agent = site.start_agent().await?;
    let id = agent.id().context("the agent has ended")?;
    let joining = async {
        while site.agent_metric(ACKNOWLEDGED).await.unwrap_or_default() < 1.0 {
            sleep(Duration::from_millis(200)).await;
        }
    };
    timeout(Duration::from_secs(30), joining).await.with_context(|| site.log_tails())?;
    let (began, before) = (Instant::now(), seconds_of(id)?);
    let first = site.agent_metric(ACKNOWLEDGED).await?;
    sleep(options.time).await;
    let share = (seconds_of(id)? - before) / began.elapsed().as_secs_f64();
    let acknowledged = site.agent_metric(ACKNOWLEDGED).await? - first;
    let memory = agent.peak_memory().context("the agent's VmHWM")?;
    agent.terminate(Duration::from_secs(30)).await?;
    server.terminate(Duration::from_secs(30)).await?;
    // A busy machine may be a second or two behind.
    let due = points as f64 * (options.time.as_secs_f64() - 5.0);
    ensure!(acknowledged >= due, "{acknowledged} readings for {due}:\n{}", site.log_tails());
    if options.json {
        let row = json!({ "bench": "footprint", "points": points, "acknowledged": acknowledged,
                          "vm_hwm": memory, "share_of_a_core": share });
        println!("{row}");
    } else {
        let (memory, percent) = (memory as f64 / MIB, share * 100.0);
        println!("{points:>7} {acknowledged:>12} {memory:>6.1} MiB {percent:>10.2} %");
    }
    Ok(())
}

impl Options {
    fn read(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self { json: false, points: Vec::new(), time: Duration::from_secs(120) };
        while let Some(word) = words.next() {
            let mut number = || {
                let next = words.next().with_context(|| format!("{word} needs a value"))?;
                next.parse::<u64>().with_context(|| format!("{word} takes a number"))
            };
            match word.as_str() {
                "--json" => options.json = true,
                "--points" => options.points.push(usize::try_from(number()?)?),
                "--seconds" => options.time = Duration::from_secs(number()?.max(10)),
                other => bail!("there is no option {other}: --json, --points, --seconds"),
            }
        }
        if options.points.is_empty() {
            options.points = vec![1_000, 10_000];
        }
        Ok(options)
    }
}
