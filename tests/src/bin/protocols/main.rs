//! What the drivers make of a line, and what a reading costs the agent. Everything is measured in one
//! run, ours beside what others do on the same map. Prints tables, or with --json one object a row.
//!
//!   protocols [bus|ways|far|plan|cpu|turns]... [--json] [--seconds 10]
//!
//! bus   Modbus RTU on a bus as slow as a real one: the share of the line's limit that is used
//! ways  registers a second of one map: our plan beside one request a point and fixed gap rules
//! far   Modbus TCP over 50 ms there and back: requests in flight beside stop-and-wait
//! plan  the time to plan 5,000 points
//! cpu   CPU seconds of the agent per million readings, from the devices to the flash
//! turns CPU per reading of requests for 125 registers: the agent, its source alone, and a bare loop, in turn

#![expect(clippy::print_stdout, reason = "a bench prints its tables")]

mod bare;
mod cost;
mod lines;
mod plans;
mod turns;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// How and how long.
#[derive(Clone, Copy)]
struct Measure {
    json: bool,
    /// Of each figure.
    time: Duration,
}

impl Measure {
    fn title(&self, title: &str) {
        if !self.json {
            println!("\n{title}");
        }
    }

    fn row(&self, words: &str, object: &Value) {
        if self.json { println!("{object}") } else { println!("{words}") }
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    forebay_protocols::sync::tls::install_provider();
    // As the agent runs its links. A future of `main`'s own lives in a thread that never looks at
    // sockets itself and is woken by one that does: a detour at each byte.
    tokio::spawn(run(std::env::args().skip(1).collect())).await?
}

async fn run(words: Vec<String>) -> Result<()> {
    if let [first, way, address] = words.as_slice()
        && first == "as"
    {
        return turns::child(way, address).await;
    }
    let mut measure = Measure { json: false, time: Duration::from_secs(10) };
    let mut wanted = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--json" => measure.json = true,
            "--seconds" => {
                let seconds =
                    words.next().and_then(|n| n.parse().ok()).context("--seconds takes a number")?;
                measure.time = Duration::from_secs(seconds);
            }
            "bus" | "ways" | "far" | "plan" | "cpu" | "turns" => wanted.push(word),
            other => bail!("there is no {other}: bus, ways, far, plan, cpu, turns, --json, --seconds N"),
        }
    }
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|word| word == name);
    if is_wanted("plan") {
        plans::planning(measure);
    }
    if is_wanted("bus") {
        lines::utilisation(measure).await?;
    }
    if is_wanted("ways") {
        plans::ways(measure).await?;
    }
    if is_wanted("far") {
        lines::far(measure).await?;
    }
    if is_wanted("cpu") {
        cost::cpu(measure).await?;
    }
    if is_wanted("turns") {
        turns::turns(measure).await?;
    }
    Ok(())
}
