//! Modbus over TCP, over a tty, and RTU frames over TCP: the four read functions as a [`Source`].
//!
//! `registers` (with `rollover`) turns words into values and `planner` points into requests, both pure. `frame` is
//! the wire, `transport` one exchange on it, `breaker` one unit's patience, and `bus` the schedule
//! that owns them all; `learnt` is what outlives a restart, and `look` a person's view of a unit,
//! outside any schedule. What stands here is the configuration's way into that, and connecting.

pub mod breaker;
pub mod bus;
pub mod frame;
pub mod learnt;
pub mod look;
pub mod planner;
pub mod registers;
pub mod rollover;
#[cfg(test)]
mod scripted;
pub mod transport;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use forebay_config::field::{Framing, Link, ModbusBus, Protocol, Register};
use tokio::net::TcpStream;
use tokio::time::timeout;

use self::bus::{Bus, Member, Settings};
use self::frame::Query;
use self::planner::{Cost, Learnt, Limits, Wanted};
use self::registers::Format;
use self::transport::{LineTiming, Transport};
use super::occupancy::Occupancy;
use super::serial::Line;
use super::source::{Harvest, LinkFault, Source};
use crate::reading::Point;

/// The registered port of Modbus TCP.
const PORT: u16 = 502;

/// One Modbus link.
pub struct ModbusSource {
    points: Vec<Point>,
    endpoint: Endpoint,
    timeout: Duration,
    /// In the bus's order.
    devices: Vec<Arc<str>>,
    bus: Bus,
}

/// Where the units are.
#[derive(Clone, Debug, PartialEq)]
enum Endpoint {
    Tcp { address: String, framing: Framing, pause: Duration },
    Serial { line: Line, pause: Duration },
}

impl ModbusSource {
    /// The source of a link, or `None` if the link speaks another protocol.
    pub fn new(link: &Link) -> Option<Self> {
        Self::with_learnt(link, &BTreeMap::new())
    }

    /// As [`ModbusSource::new`], with what [`ModbusSource::learnt`] said in an earlier life, by
    /// device. It is put to the test again now and then, and forgotten when it holds no more.
    pub fn with_learnt(link: &Link, known: &BTreeMap<Arc<str>, Learnt>) -> Option<Self> {
        let (endpoint, config) = Endpoint::of(link)?;
        let settings = Settings {
            peer: endpoint.peer(),
            timeout: link.timeout,
            backoff_max: link.backoff_max,
            cost: endpoint.cost(),
            in_flight: match &link.protocol {
                Protocol::ModbusTcp(tcp) if tcp.framing == Framing::Tcp && tcp.bus.pause.is_zero() => {
                    tcp.in_flight.into()
                }
                _ => 1,
            },
            lost_in_silence: matches!(endpoint, Endpoint::Tcp { .. }),
        };
        let (points, bus) = equip(settings, config, known);
        let devices = config.devices.iter().map(|device| device.name.to_arc()).collect();
        Some(Self { points, endpoint, timeout: link.timeout, devices, bus })
    }

    /// What is known of each device that the configuration does not say: addresses it refuses and
    /// the most registers it gives. Devices of which nothing is known are left out.
    pub fn learnt(&self) -> BTreeMap<Arc<str>, Learnt> {
        let devices = self.devices.iter().enumerate();
        let learnt = devices.map(|(number, name)| (name.clone(), self.bus.learnt(number)));
        learnt.filter(|(_, learnt)| !learnt.is_empty()).collect()
    }

    /// Grows whenever [`ModbusSource::learnt`] may say something else than before.
    pub fn lessons(&self) -> u64 {
        self.bus.lessons()
    }

    /// Says so if the plan cannot fit on a serial line even when every unit answers at once, and
    /// which unit needs most and for what: to be shown before the start. What a network or a unit
    /// needs is not known beforehand.
    pub fn overload(&self) -> Option<String> {
        let Endpoint::Serial { line, pause } = &self.endpoint else { return None };
        let loads = self.bus.line_loads(timing(line, *pause));
        let share: f64 = loads.iter().map(|load| load.share).sum();
        let heaviest = loads.first().filter(|_| share > 1.0)?;
        let (unit, requests) = (heaviest.unit, heaviest.requests);
        let overhead = heaviest.overhead / heaviest.share;
        let way_out = if overhead > 0.5 {
            "let requests join: raise `max_gap` if it may be asked for unused registers, or the intervals"
        } else {
            "raise `baud` or the intervals"
        };
        Some(format!(
            "the points of {} need at least {share:.1} s of every 1 s at {} baud; unit {unit} needs {:.1} s \
             of every 1 s on this bus: {requests:.1} requests a second, {:.0} % of their time is overhead; {way_out}",
            line.port.display(),
            line.baud,
            heaviest.share,
            overhead * 100.0,
        ))
    }
}

impl Source for ModbusSource {
    fn points(&self) -> &[Point] {
        &self.points
    }

    async fn connect(&mut self) -> Result<(), LinkFault> {
        self.bus.detach();
        let transport = self.endpoint.open(self.timeout).await?;
        self.bus.attach(transport);
        Ok(())
    }

    async fn next(&mut self) -> Result<Harvest, LinkFault> {
        self.bus.turn().await
    }

    /// Nothing would be gained: a tty's far end cannot be seen, and a device that takes one connection
    /// at a time may hold the one that was closed at once.
    async fn knock(&mut self) -> bool {
        false
    }

    async fn close(&mut self) {
        self.bus.detach();
    }

    fn occupancy(&self) -> Option<Occupancy> {
        Some(self.bus.occupancy())
    }
}

impl Endpoint {
    /// Where the units of a link are, and what is configured of them; `None` if it speaks another protocol.
    fn of(link: &Link) -> Option<(Self, &ModbusBus)> {
        match &link.protocol {
            Protocol::ModbusTcp(tcp) => {
                let address = with_port(&tcp.address);
                Some((Self::Tcp { address, framing: tcp.framing, pause: tcp.bus.pause }, &tcp.bus))
            }
            Protocol::ModbusRtu(rtu) => {
                Some((Self::Serial { line: Line::of(rtu), pause: rtu.bus.pause }, &rtu.bus))
            }
            Protocol::OpcUa(_) | Protocol::Mqtt(_) => None,
        }
    }

    async fn open(&self, patience: Duration) -> Result<Transport, LinkFault> {
        match self {
            Self::Tcp { address, framing, pause } => {
                let stream = Box::new(reach(address, patience).await?);
                Ok(match framing {
                    Framing::Tcp => Transport::mbap(stream, *pause),
                    Framing::Rtu => {
                        // The far line's speed is the converter's business; ours is to be quiet
                        // long enough to notice what is still arriving.
                        let silence = FAST_LINE_SILENCE + *pause;
                        Transport::rtu(stream, LineTiming { silence, character: Duration::ZERO })
                    }
                })
            }
            Self::Serial { line, pause } => {
                Ok(Transport::rtu(Box::new(line.open()?), timing(line, *pause)).with_fine_silence())
            }
        }
    }

    fn peer(&self) -> String {
        match self {
            Self::Tcp { address, .. } => address.clone(),
            Self::Serial { line, .. } => line.port.display().to_string(),
        }
    }

    /// What reading costs here, as far as it is known before the first answer.
    fn cost(&self) -> Cost {
        match self {
            Self::Serial { line, pause } => line_cost(timing(line, *pause)),
            // The speed of the line behind the converter is not known; most are of this kind.
            Self::Tcp { framing: Framing::Rtu, pause, .. } => {
                let character = Duration::from_secs(11) / 19_200;
                line_cost(LineTiming { silence: frame_silence(19_200, character) + *pause, character })
            }
            Self::Tcp { framing: Framing::Tcp, pause, .. } => {
                Cost { per_request: ROUND_TRIP + *pause, per_register: Duration::from_micros(1) }
            }
        }
    }
}

/// Of a local network with a device that needs a moment. Too little makes us shy of reading along
/// unused registers, too much of nothing.
const ROUND_TRIP: Duration = Duration::from_millis(2);
/// What a serial device takes to think; most need some milliseconds.
const THOUGHT: Duration = Duration::from_millis(5);

/// Query, thought and answer with their silences; a register is two characters.
fn line_cost(timing: LineTiming) -> Cost {
    let empty = Query { unit: 0, table: Register::Holding, address: 0, count: 0 };
    let characters = empty.to_rtu().len() + empty.rtu_answer_length();
    Cost {
        per_request: timing.silence * 2 + timing.character * characters as u32 + THOUGHT,
        per_register: timing.character * 2,
    }
}

/// Above 19200 baud the silence between frames is fixed (Modbus over Serial Line V1.02, 2.5.1.1).
const FAST_LINE_SILENCE: Duration = Duration::from_micros(1750);

fn timing(line: &Line, pause: Duration) -> LineTiming {
    let character = line.character();
    LineTiming { silence: frame_silence(line.baud, character) + pause, character }
}

/// The silence that ends an RTU frame: three and a half characters.
fn frame_silence(baud: u32, character: Duration) -> Duration {
    if baud > 19_200 { FAST_LINE_SILENCE } else { character * 7 / 2 }
}

/// Points, formats, plan and bus of a configuration.
fn equip(settings: Settings, config: &ModbusBus, known: &BTreeMap<Arc<str>, Learnt>) -> (Vec<Point>, Bus) {
    let count = config.devices.iter().map(|device| device.points.len()).sum();
    let mut points = Vec::with_capacity(count);
    let mut formats = Vec::with_capacity(count);
    let mut wanted = Vec::with_capacity(count);
    let mut members = Vec::new();
    // Most points have the unit of the one before.
    let mut unit: Arc<str> = "".into();
    for (number, device) in config.devices.iter().enumerate() {
        let first = points.len();
        for point in &device.points {
            let format = Format::new(point, device.byte_order);
            if *unit != *point.meta.unit {
                unit = point.meta.unit.as_str().into();
            }
            wanted.push(Wanted {
                slot: points.len(),
                device: number,
                table: point.register,
                address: point.address,
                width: format.width(),
                interval: point.interval,
            });
            points.push(Point {
                device: device.name.to_arc(),
                name: point.meta.name.to_arc(),
                unit: unit.clone(),
                kind: point.meta.kind.into(),
                data_type: format.data_type(),
            });
            formats.push(format);
        }
        let slots = (first..points.len()).collect();
        let name = device.name.to_arc();
        let limits =
            Limits { max_registers: device.max_registers, max_gap: device.max_gap, forbidden: Vec::new() };
        let known = known.get(&name).cloned().unwrap_or_default();
        members.push(Member { name, unit: device.unit_id, slots, limits, known });
    }
    let nothing = Limits { max_registers: 1, max_gap: 0, forbidden: Vec::new() };
    let limits = |device: usize| members.get(device).map_or(nothing.clone(), |member| member.limits.clone());
    let plan = planner::plan(&wanted, settings.cost, limits);
    (points, Bus::new(settings, members, plan, formats))
}

/// `host`, `host:port`, `[v6]` and `[v6]:port`; a bare IPv6 address has no port either.
fn with_port(address: &str) -> String {
    if address.parse::<std::net::Ipv6Addr>().is_ok() {
        return format!("[{address}]:{PORT}");
    }
    let host_end = address.rfind(']').map_or(0, |at| at + 1);
    match address[host_end..].contains(':') {
        true => address.to_owned(),
        false => format!("{address}:{PORT}"),
    }
}

async fn reach(address: &str, patience: Duration) -> Result<TcpStream, LinkFault> {
    let unreachable = |why: String| LinkFault::Unreachable { peer: address.to_owned(), why };
    match timeout(patience, TcpStream::connect(address)).await {
        Err(_) => Err(unreachable(format!("no answer within {patience:?}"))),
        Ok(Err(why)) if why.kind() == ErrorKind::ConnectionRefused => {
            Err(unreachable("nothing listens on that port".into()))
        }
        Ok(Err(why)) => Err(unreachable(why.to_string())),
        Ok(Ok(stream)) => {
            // A query is one small segment; waiting for more to send would only delay it.
            stream.set_nodelay(true).map_err(|why| unreachable(why.to_string()))?;
            Ok(stream)
        }
    }
}

#[cfg(test)]
#[path = "modbus/source_tests.rs"]
mod tests;
