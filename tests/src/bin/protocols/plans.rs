//! One map, read in several ways; and how long it takes to plan.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use forebay_config::field::{Link, Protocol, Register};
use forebay_demo::dice::Dice;
use forebay_demo::long_link::LongLink;
use forebay_demo::paced_bus::PacedBus;
use forebay_protocols::field::modbus::ModbusSource;
use forebay_protocols::field::modbus::bus::{Bus, Member, Settings};
use forebay_protocols::field::modbus::planner::{Cost, Limits, Plan, Wanted, plan};
use forebay_protocols::field::modbus::registers::Format;
use forebay_protocols::field::modbus::transport::{LineTiming, Transport};
use forebay_protocols::field::serial::Line;
use forebay_protocols::field::source::{Sample, Source};
use forebay_tests::load_device::LoadDevice;
use serde_json::json;
use tokio::net::TcpStream;

use super::Measure;
use super::lines::link;

/// A map as devices have them: groups of some values close to each other, with holes between the
/// groups that are sometimes worth crossing and sometimes not. First address and registers of each.
fn map() -> Vec<(u16, u16)> {
    let mut dice = Dice::new(11);
    let mut points = Vec::new();
    let mut address = 0;
    while points.len() < 120 {
        for _ in 0..dice.within(1..7) {
            let width = if dice.within(0..3) == 0 { 1 } else { 2 };
            points.push((address as u16, width as u16));
            address += width;
            address += if dice.within(0..4) == 0 { dice.within(1..4) } else { 0 };
        }
        address += dice.within(4..40);
    }
    points
}

/// A way to read the map. All but ours join whatever their rule allows, whatever it costs.
struct Way {
    name: &'static str,
    /// `None`: nothing is joined.
    max_gap: Option<u16>,
    is_ours: bool,
}

const WAYS: [Way; 5] = [
    Way { name: "one request a point", max_gap: None, is_ours: false },
    Way { name: "adjacent points together (gap 0)", max_gap: Some(0), is_ours: false },
    Way { name: "fixed rule: gaps up to 10", max_gap: Some(10), is_ours: false },
    Way { name: "fixed rule: gaps up to 100", max_gap: Some(100), is_ours: false },
    Way { name: "ours, max_gap = 125", max_gap: Some(125), is_ours: true },
];

/// Who reads: our source with the plan it makes itself, or its bus with the plan of another rule.
enum Reader {
    Ours(ModbusSource),
    Other(Bus),
}

impl Reader {
    async fn next(&mut self) -> Result<Vec<Sample>> {
        let harvest = match self {
            Self::Ours(source) => source.next().await?,
            Self::Other(bus) => bus.turn().await?,
        };
        Ok(harvest.samples)
    }
}

impl Way {
    async fn reader(&self, link: &Link) -> Result<Reader> {
        if self.is_ours {
            let mut source = ModbusSource::new(link).context("a Modbus link")?;
            source.connect().await?;
            return Ok(Reader::Ours(source));
        }
        let (device, transport) = match &link.protocol {
            Protocol::ModbusRtu(rtu) => {
                let line = Line::of(rtu);
                let (character, fast) = (line.character(), Duration::from_micros(1_750));
                let silence = if rtu.baud > 19_200 { fast } else { character * 7 / 2 };
                let timing = LineTiming { silence, character };
                (rtu.bus.devices.first(), Transport::rtu(Box::new(line.open()?), timing).with_fine_silence())
            }
            Protocol::ModbusTcp(tcp) => {
                let stream = TcpStream::connect(&tcp.address).await?;
                stream.set_nodelay(true)?;
                (tcp.bus.devices.first(), Transport::mbap(Box::new(stream), Duration::ZERO))
            }
            _ => bail!("not Modbus"),
        };
        let device = device.context("one device")?;
        let wanted: Vec<Wanted> = device
            .points
            .iter()
            .enumerate()
            .map(|(slot, point)| Wanted {
                slot,
                device: 0,
                table: point.register,
                address: point.address,
                width: point.raw.registers(),
                interval: point.interval,
            })
            .collect();
        let limits = Limits { max_registers: 125, max_gap: self.max_gap.unwrap_or(0), forbidden: Vec::new() };
        let cost = Cost { per_request: Duration::from_secs(1), per_register: Duration::ZERO };
        let plan_of = |wanted: &[Wanted]| plan(wanted, cost, |_| limits.clone());
        let plan = match self.max_gap {
            Some(_) => plan_of(&wanted),
            None => Plan {
                requests: wanted.chunks(1).flat_map(|one| plan_of(one).requests).collect(),
                unreachable: Vec::new(),
            },
        };
        let settings = Settings {
            peer: "the bench".into(),
            timeout: link.timeout,
            backoff_max: link.backoff_max,
            cost,
            in_flight: 1,
            lost_in_silence: false,
        };
        let formats = device.points.iter().map(|point| Format::new(point, device.byte_order)).collect();
        let member = Member {
            name: device.name.to_arc(),
            unit: device.unit_id,
            slots: Vec::new(),
            limits,
            known: Default::default(),
        };
        let mut bus = Bus::new(settings, vec![member], plan, formats);
        bus.attach(transport);
        Ok(Reader::Other(bus))
    }
}

/// The map as one device.
fn device(map: &[(u16, u16)]) -> String {
    let point = |(address, width): &(u16, u16)| {
        let kind = if *width == 1 { "uint16" } else { "uint32" };
        format!("p{address} = {{ address = {address}, type = \"{kind}\" }}\n")
    };
    let points: String = map.iter().map(point).collect();
    format!("[link.bench.device.d]\nmax_gap = 125\n[link.bench.device.d.points]\n{points}")
}

/// Registers of the map that become readings each second.
async fn wanted_a_second(reader: &mut Reader, map: &[(u16, u16)], time: Duration) -> Result<f64> {
    let total: u16 = map.iter().map(|(_, width)| width).sum();
    let per_point = f64::from(total) / map.len() as f64;
    // A first round: each unit is asked alone until it is known.
    let mut heard = 0;
    while heard < map.len() {
        heard += reader.next().await?.len();
    }
    let (began, mut heard) = (Instant::now(), 0);
    while began.elapsed() < time {
        heard += reader.next().await?.len();
    }
    Ok(heard as f64 * per_point / began.elapsed().as_secs_f64())
}

/// The map in several ways, over a serial bus and a far TCP connection.
pub async fn ways(measure: Measure) -> Result<()> {
    let map = map();
    measure.title(&format!(
        "One map of {} points in {} registers, always due: wanted registers a second, and ours to them",
        map.len(),
        map.iter().map(|(_, width)| width).sum::<u16>()
    ));
    for line in ["RTU, 9600 baud", "RTU, 115200 baud", "TCP, 50 ms there and back, in flight 1"] {
        let mut rows = Vec::new();
        for way in &WAYS {
            let device = device(&map);
            let baud =
                line.strip_prefix("RTU, ").and_then(|rest| rest.split(' ').next()).map(str::parse::<u32>);
            let registers = if let Some(baud) = baud.transpose()? {
                let bus = PacedBus::start(baud, &[])?;
                let port = bus.path().display().to_string();
                let text = format!("[link.bench.modbus-rtu]\nport = {port:?}\nbaud = {baud}\n{device}");
                let mut reader = way.reader(&link(&text)?).await?;
                wanted_a_second(&mut reader, &map, measure.time).await?
            } else {
                let load = LoadDevice::start().await?;
                let road = LongLink::start(load.address(), Duration::from_millis(25)).await?;
                let text = format!(
                    "[link.bench.modbus-tcp]\naddress = \"{}\"\nin_flight = 1\n{device}",
                    road.address()
                );
                let mut reader = way.reader(&link(&text)?).await?;
                wanted_a_second(&mut reader, &map, measure.time).await?
            };
            rows.push((way.name, registers));
        }
        let ours = rows.last().map_or(0.0, |(_, registers)| *registers);
        measure.title(&format!("{line}\n  registers/s  ours to it"));
        for (name, registers) in rows {
            let times = ours / registers;
            measure.row(
                &format!("{registers:>13.1}  {times:>9.2}x  {name}"),
                &json!({ "bench": "ways", "line": line, "way": name, "registers_per_s": registers, "ours_to_it": times }),
            );
        }
    }
    Ok(())
}

/// The planner alone.
pub fn planning(measure: Measure) {
    let mut dice = Dice::new(5);
    let points: Vec<Wanted> = (0..5_000)
        .map(|slot| Wanted {
            slot,
            device: dice.within(0..50) as usize,
            table: Register::Holding,
            address: dice.within(0..5_000) as u16,
            width: dice.within(1..5) as u16,
            interval: Duration::from_secs(1),
        })
        .collect();
    let cost = Cost { per_request: Duration::from_millis(20), per_register: Duration::from_millis(1) };
    let limits = Limits { max_registers: 125, max_gap: 125, forbidden: Vec::new() };
    let mut best = Duration::MAX;
    let mut requests = 0;
    for _ in 0..50 {
        let began = Instant::now();
        requests = black_box(plan(black_box(&points), cost, |_| limits.clone())).requests.len();
        best = best.min(began.elapsed());
    }
    measure.title("Planning 5,000 points of 50 devices, the best of 50 rounds");
    let milliseconds = best.as_secs_f64() * 1e3;
    measure.row(
        &format!("  {milliseconds:.2} ms for {requests} requests"),
        &json!({ "bench": "plan", "points": 5_000, "requests": requests, "ms": milliseconds }),
    );
}
