//! What a reading costs on the wire, everything included: batches, requests, answers, HTTP, TLS and heartbeats,
//! counted in bytes on the road between real programs, over connections that stay open. The plant is the mix of
//! the codec bench, read from simulated Modbus TCP devices. Prints a table, or with --json one object per row.
//!
//!   wire [--json] [--seconds 60]
//!
//! The programs are those beside this one: `tests/bench wire` builds them for release.

#![expect(clippy::print_stdout, reason = "a bench prints its table")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use forebay_demo::dice::Dice;
use forebay_demo::site::Site;
use forebay_tests::load_device::LoadDevice;
use forebay_tests::programs_beside;
use serde_json::json;
use tokio::time::{Instant, sleep};

/// What the agent counts when the server has said that it has them.
const ACKNOWLEDGED: &str = "forebay_agent_readings_acknowledged_total";
/// Points of one unit, and so of one request.
const UNIT: usize = 50;

/// One agent's plant.
struct Case {
    points: usize,
    interval: &'static str,
    /// Appends are nine tenths of it apart.
    window: &'static str,
    /// Readings in a batch, about.
    batch: u64,
}

const CASES: [Case; 4] = [
    Case { points: 10, interval: "1s", window: "11s", batch: 100 },
    Case { points: 50, interval: "1s", window: "22s", batch: 1_000 },
    Case { points: 50, interval: "100ms", window: "22s", batch: 10_000 },
    Case { points: 500, interval: "100ms", window: "2200ms", batch: 10_000 },
];

#[tokio::main]
async fn main() -> Result<()> {
    let (mut json, mut time) = (false, Duration::from_secs(60));
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--json" => json = true,
            "--seconds" => {
                let seconds = words.next().and_then(|n| n.parse().ok());
                time = Duration::from_secs(seconds.context("--seconds takes a number")?);
            }
            other => bail!("there is no option {other}: --json, --seconds"),
        }
    }
    if !json {
        println!(
            "{:>7} {:>9} {:>7} {:>8} {:>16}",
            "points", "interval", "batch", "batches", "bytes a reading"
        );
    }
    let [a, b, c, d] = &CASES;
    // At the same time: none of them does much.
    let (a, b, c, d) = tokio::try_join!(a.measure(time), b.measure(time), c.measure(time), d.measure(time))?;
    for (case, Found { bytes, readings }) in CASES.iter().zip([a, b, c, d]) {
        let (batches, each) = (readings / case.batch, bytes as f64 / readings as f64);
        let Case { points, interval, batch, .. } = case;
        if json {
            let row = json!({ "bench": "wire", "points": points, "interval": interval, "batch": batch,
                              "batches": batches, "bytes": bytes, "readings": readings, "bytes_per_reading": each });
            println!("{row}");
        } else {
            println!("{points:>7} {interval:>9} {batch:>7} {batches:>8} {each:>16.2}");
        }
    }
    Ok(())
}

struct Found {
    bytes: u64,
    readings: u64,
}

impl Case {
    async fn measure(&self, time: Duration) -> Result<Found> {
        let folder = tempfile::tempdir()?;
        let mut plant = Plant::default();
        let device = LoadDevice::showing(move |unit, _, registers| plant.show(unit, registers)).await?;
        let site = Site::new(folder.path(), programs_beside(1)?, None, 0).await?;
        let extra = format!("[buffer]\ndurability_window = \"{}\"", self.window);
        site.configure_agent("bench", "wire", &self.link(&device), &extra)?;
        let server = site.start_server().await?;
        site.join().await?;
        let agent = site.start_agent().await?;
        // The first batch brings the dictionary too, and connects.
        let mut begin = until(&site, 1).await?;
        begin = until(&site, begin.readings + 1).await?;
        let mut end = until(&site, begin.readings + 1).await?;
        let enough = Instant::now() + time;
        while Instant::now() < enough {
            end = until(&site, end.readings + 1).await?;
        }
        agent.terminate(Duration::from_secs(30)).await?;
        server.terminate(Duration::from_secs(30)).await?;
        Ok(Found { bytes: end.bytes - begin.bytes, readings: end.readings - begin.readings })
    }

    fn link(&self, device: &LoadDevice) -> String {
        let mut text = format!(
            "[link.plant]\ninterval = {:?}\n[link.plant.modbus-tcp]\naddress = \"{}\"\n",
            self.interval,
            device.address()
        );
        for point in 0..self.points {
            let (unit, address) = (point / UNIT, point % UNIT);
            if address == 0 {
                let _ = write!(
                    text,
                    "[link.plant.device.d{unit}]\nunit_id = {}\n[link.plant.device.d{unit}.points]\n",
                    unit + 1
                );
            }
            let _ = writeln!(text, "p{address} = {{ address = {address}, {} }}", kind(address));
        }
        text
    }
}

/// What has passed when the server has so many readings.
async fn until(site: &Site, readings: u64) -> Result<Found> {
    let patience = Instant::now() + Duration::from_secs(60);
    loop {
        let found = site.agent_metric(ACKNOWLEDGED).await.unwrap_or_default() as u64;
        if found >= readings {
            return Ok(Found { bytes: site.road().bytes(), readings: found });
        }
        ensure!(Instant::now() < patience, "{found} of {readings} readings:\n{}", site.log_tails());
        sleep(Duration::from_millis(50)).await;
    }
}

/// As in the codec bench: half are analog, the rest counters, steps, switches and set points.
fn kind(point: usize) -> &'static str {
    match point % 10 {
        0..5 => r#"type = "int16", scale = 0.1"#,
        5 | 6 => r#"type = "uint16", rollover = true"#,
        7 => r#"type = "uint16""#,
        8 => r#"type = "bool""#,
        _ => r#"type = "uint16", scale = 0.5"#,
    }
}

/// The registers of all units.
#[derive(Default)]
struct Plant {
    units: BTreeMap<u8, Unit>,
}

struct Unit {
    dice: Dice,
    registers: Vec<u16>,
}

impl Plant {
    fn show(&mut self, unit: u8, registers: &mut [u16]) {
        let unit = self.units.entry(unit).or_insert_with(|| Unit::new(unit));
        unit.step();
        registers.copy_from_slice(&unit.registers[..registers.len()]);
    }
}

impl Unit {
    fn new(number: u8) -> Self {
        let mut dice = Dice::new(number.into());
        let registers = (0..UNIT).map(|point| match point % 10 {
            0..5 => 200 + dice.within(0..600) as u16,
            5 | 6 => dice.within(0..60_000) as u16,
            7 => dice.within(0..6) as u16,
            8 => dice.within(0..2) as u16,
            _ => dice.within(0..200) as u16,
        });
        let registers = registers.collect();
        Self { dice, registers }
    }

    /// What a second changes.
    fn step(&mut self) {
        let Self { dice, registers } = self;
        for (point, register) in registers.iter_mut().enumerate() {
            match point % 10 {
                0..5 => *register = (i32::from(*register) + bell(dice)).clamp(0, 30_000) as u16,
                5 | 6 => {
                    *register = register.wrapping_add((7 * point % 40) as u16 + dice.within(0..20) as u16)
                }
                7 if dice.within(0..50) == 0 => *register = dice.within(0..6) as u16,
                8 => *register ^= u16::from(dice.within(0..60) == 0),
                9 if dice.within(0..500) == 0 => *register = dice.within(0..200) as u16,
                _ => {}
            }
        }
    }
}

/// About normal, mean 0, deviation 3: tenths of the 0.3 of the codec bench.
fn bell(dice: &mut Dice) -> i32 {
    let sum: u64 = (0..12).map(|_| dice.within(0..1_000)).sum();
    ((sum as f64 - 5_994.0) / 1_000.0 * 3.0).round() as i32
}
