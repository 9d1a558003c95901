//! What many OPC UA items cost an agent: each changes ten times a second, every change must reach the
//! buffer, and the agent's CPU time and memory are told. Prints a line, or with --json an object.
//!
//!   subscribed [--json] [--items 5000] [--seconds 60] [--every 100] [--secure]
//!
//! The agent is the program beside this one; the server is the simulated plant, in this process, so
//! that its own CPU time is told apart. Fails where a change is missing.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use forebay_demo::opcua::{NAMESPACE, OpcUaPlant, PlantOptions};
use forebay_demo::site::Site;
use forebay_tests::programs_beside;
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// USER_HZ, which Linux shows on every machine of ours.
const CLOCK_TICKS: f64 = 100.0;
const APPENDED: &str = "forebay_agent_readings_appended_total";

struct Options {
    json: bool,
    secure: bool,
    items: usize,
    seconds: u64,
    every: Duration,
}

#[tokio::main]
async fn main() -> ExitCode {
    match measure().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("subscribed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn measure() -> Result<()> {
    let options = Options::read(std::env::args().skip(1))?;
    let Options { items, every, .. } = options;
    let plant =
        OpcUaPlant::start(PlantOptions { tick: Duration::from_secs(86_400), ..PlantOptions::default() })
            .await?;
    let names: Vec<String> = (0..items).map(|n| format!("n{n}")).collect();
    names.iter().for_each(|name| plant.add_node(name, -1.0));

    let folder = tempfile::tempdir()?;
    let site = Site::new(folder.path(), programs_beside(1)?, None, 0).await?;
    let mut link = format!(
        "[link.load]\ninterval = \"100ms\"\n[link.load.opcua]\nendpoint = \"{}\"\nsampling_interval = \"10ms\"\n\
         queue_size = 100\n",
        plant.endpoint()
    );
    if options.secure {
        link += "security_policy = \"Basic256Sha256\"\n";
    }
    link += "[link.load.device.d.points]\n";
    for name in &names {
        let _ = writeln!(link, "{name} = {{ node = \"nsu={NAMESPACE};s={name}\" }}");
    }
    site.configure_agent("bench", "subscribed", &link, "")?;
    let agent = site.start_agent().await?;
    let id = agent.id().context("the agent runs")?;
    reached(&site, items as f64, Duration::from_secs(120)).await.context("the first values")?;

    let ticks = options.seconds * 1_000 / u64::try_from(every.as_millis())?;
    let (begin, agent_before, own_before) = (Instant::now(), cpu(id)?, cpu(std::process::id())?);
    let mut clock = interval(every);
    // None is left out, and none comes sooner: a server that cannot keep up shows in the time it took.
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for tick in 0..ticks {
        clock.tick().await;
        plant.set_nodes(
            names.iter().enumerate().map(|(n, name)| (name.as_str(), tick as f64 + n as f64 / 1e4)),
        )?;
    }
    let took = begin.elapsed();
    let (agent_cpu, own_cpu) = (cpu(id)? - agent_before, cpu(std::process::id())? - own_before);
    let expected = items as f64 * (ticks + 1) as f64;
    let counted = reached(&site, expected, Duration::from_secs(60)).await;
    let discarded = site.agent_metric("forebay_agent_link_discarded_total").await.unwrap_or_default();
    let memory = agent.peak_memory().context("the agent's VmHWM")?;
    let appended = site.agent_metric(APPENDED).await?;
    agent.terminate(Duration::from_secs(60)).await?;
    plant.shutdown().await;

    let (share, own) = (agent_cpu / took.as_secs_f64(), own_cpu / took.as_secs_f64());
    let per_value = agent_cpu * 1e6 / (items as f64 * ticks as f64);
    let mib = memory as f64 / 1_048_576.0;
    let build = if cfg!(debug_assertions) { "debug" } else { "release" };
    if options.json {
        let row = json!({
            "build": build, "items": items, "seconds": took.as_secs_f64(), "changes": items as u64 * ticks,
            "appended": appended, "expected": expected, "agent_cpu": share, "server_cpu": own,
            "agent_us_per_value": per_value, "vm_hwm": memory, "secure": options.secure,
        });
        println!("{row}");
    } else {
        println!(
            "{items} items, {} changes in {:.1} s ({build} build{}): {appended} of {expected} readings in the buffer, {discarded} discarded; \
             agent {:.1} % of a core, {per_value:.2} us a value, VmHWM {mib:.1} MiB; server {:.1} % of a core",
            items as u64 * ticks,
            took.as_secs_f64(),
            if options.secure { ", encrypted" } else { "" },
            share * 100.0,
            own * 100.0
        );
    }
    ensure!(discarded == 0.0, "{discarded} were discarded");
    counted.context("changes are missing")?;
    ensure!(appended == expected, "{appended} readings for {expected} changes");
    Ok(())
}

impl Options {
    fn read(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let every = Duration::from_millis(100);
        let mut options = Self { json: false, secure: false, items: 5_000, seconds: 60, every };
        while let Some(word) = words.next() {
            let mut number = || {
                let next = words.next().with_context(|| format!("{word} needs a value"))?;
                next.parse::<u64>().with_context(|| format!("{word} takes a number"))
            };
            match word.as_str() {
                "--json" => options.json = true,
                "--secure" => options.secure = true,
                "--items" => options.items = usize::try_from(number()?)?,
                "--seconds" => options.seconds = number()?,
                "--every" => options.every = Duration::from_millis(number()?.max(1)),
                other => bail!("there is no option {other}: --json, --secure, --items, --seconds, --every"),
            }
        }
        Ok(options)
    }
}

/// Waits until so many readings are in the buffer.
async fn reached(site: &Site, wanted: f64, patience: Duration) -> Result<()> {
    let begin = Instant::now();
    loop {
        let appended = site.agent_metric(APPENDED).await.unwrap_or_default();
        if appended >= wanted {
            return Ok(());
        }
        ensure!(begin.elapsed() < patience, "{appended} of {wanted} readings:\n{}", site.log_tails());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// CPU time of a process so far, in seconds.
fn cpu(process: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // Behind the name, which may hold anything: fields 3 and on. 14 and 15 are user and system time.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let field = |at: usize| fields.get(at - 3).and_then(|field| field.parse::<f64>().ok()).context("a time");
    Ok((field(14)? + field(15)?) / CLOCK_TICKS)
}
