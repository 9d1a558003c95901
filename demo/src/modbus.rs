//! A simulated Modbus plant: boilers behind a TCP server, or power meters on an RTU bus. Requests
//! are decoded and answers encoded by tokio-modbus, so that the driver meets a peer with somebody
//! else's reading of the standard. Units can be made faulty while they run.

mod equipment;
mod relay;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::future::{Ready, ready};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use forebay_config::field::{
    ByteOrder, Framing, Link, ModbusBus, ModbusDevice, ModbusPoint, ModbusRtu, ModbusTcp, Parity, PointKind,
    PointMeta, Protocol, RawType, Register,
};
use forebay_config::units::Name;
use tokio::io::DuplexStream;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_modbus::server::{Service, rtu, tcp};
use tokio_modbus::{ExceptionCode, Request, Response, SlaveRequest};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

pub use self::equipment::{Equipment, Place, Shows};
pub use self::relay::{Fault, Faults};
use crate::pty::Pty;

/// The bus speed written into configurations; a pseudo terminal has none.
const BAUD: u32 = 19_200;

/// A running plant. Ends when shut down or dropped.
pub struct ModbusPlant {
    place: Location,
    equipment: Equipment,
    units: Vec<u8>,
    faults: Faults,
    tasks: TaskTracker,
    stop: DropGuard,
}

/// Where a plant is found.
#[derive(Clone, Debug, PartialEq)]
enum Location {
    Tcp(SocketAddr),
    Tty(PathBuf),
}

impl ModbusPlant {
    /// Boilers behind a Modbus TCP server. Port 0 takes a free one; see [`Self::address`].
    pub async fn start_tcp(address: SocketAddr, units: &[u8]) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (plant, stop) = Self::new(Location::Tcp(address), Equipment::Boiler, units);
        let hall = plant.hall(Some(ExceptionCode::GatewayTargetDevice));
        let (faults, tasks) = (plant.faults.clone(), plant.tasks.clone());
        let stopped = stop.clone();
        plant.tasks.spawn(async move {
            let on_connected = |stream: TcpStream, _| {
                let (client_end, server_end) = tokio::io::duplex(4096);
                let relay = relay::relay(stream, client_end, Framing::Tcp, faults.clone());
                let stop = stop.clone();
                tasks.spawn(async move { stop.run_until_cancelled(relay).await });
                ready(io::Result::<Option<(Arc<Hall>, DuplexStream)>>::Ok(Some((hall.clone(), server_end))))
            };
            let on_error = |why| tracing::debug!(%why, "A simulated Modbus connection ended.");
            let served = tcp::Server::new(listener)
                .serve_until(&on_connected, on_error, stopped.cancelled_owned())
                .await;
            if let Err(why) = served {
                tracing::warn!(%why, "The simulated Modbus server ended.");
            }
        });
        Ok(plant)
    }

    /// Power meters on an RTU bus. The driver opens [`Self::path`], a real tty.
    pub fn start_rtu_bus(units: &[u8]) -> io::Result<Self> {
        // Two lines with the relay between them: the server wants a tty of its own.
        let (line, server_line) = (Pty::open()?, Pty::open()?);
        let server = rtu::Server::new_from_path(server_line.path(), BAUD)?;
        let (plant, stop) = Self::new(Location::Tty(line.path().into()), Equipment::Meter, units);
        let hall = plant.hall(None);
        let relay = relay::relay(line, server_line, Framing::Rtu, plant.faults.clone());
        let stopped = stop.clone();
        plant.tasks.spawn(async move { stop.run_until_cancelled(relay).await });
        plant.tasks.spawn(async move {
            if let Err(why) = server.serve_until(hall, stopped.cancelled_owned()).await {
                tracing::warn!(%why, "The simulated RTU bus ended.");
            }
        });
        Ok(plant)
    }

    /// Where the TCP server listens; `None` for an RTU bus.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.place {
            Location::Tcp(address) => Some(*address),
            Location::Tty(_) => None,
        }
    }

    /// The bus's tty; `None` for a TCP server.
    pub fn path(&self) -> Option<&Path> {
        match &self.place {
            Location::Tcp(_) => None,
            Location::Tty(path) => Some(path),
        }
    }

    /// What stands behind the units.
    pub fn equipment(&self) -> Equipment {
        self.equipment
    }

    /// The faults of the units, to be changed at any time.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// A link that reads every point of every unit each second.
    pub fn link(&self, name: &Name) -> Link {
        let interval = Duration::from_secs(1);
        let devices = self.units.iter().filter_map(|unit| device(self.equipment, *unit, interval)).collect();
        let bus = ModbusBus { pause: Duration::ZERO, devices };
        let protocol = match &self.place {
            Location::Tcp(address) => Protocol::ModbusTcp(ModbusTcp {
                address: address.to_string(),
                framing: Framing::Tcp,
                in_flight: 4,
                bus,
            }),
            Location::Tty(port) => Protocol::ModbusRtu(ModbusRtu {
                port: port.clone(),
                baud: BAUD,
                parity: Parity::Even,
                data_bits: 8,
                stop_bits: 1,
                rs485: None,
                bus,
            }),
        };
        let backoff_max = Duration::from_secs(60);
        Link { name: name.clone(), interval, timeout: interval, backoff_max, protocol }
    }

    /// The same link as an operator would write it.
    pub fn link_toml(&self, name: &Name) -> String {
        let head = match &self.place {
            Location::Tcp(address) => format!("modbus-tcp]\naddress = \"{address}\"\n"),
            Location::Tty(port) => {
                format!("modbus-rtu]\nport = \"{}\"\nbaud = {BAUD}\nparity = \"even\"\n", port.display())
            }
        };
        let link = key(name.as_str());
        let mut toml = format!("[link.{link}]\ninterval = \"1s\"\n\n[link.{link}.{head}");
        for unit in &self.units {
            let device = format!("link.{link}.device.{}-{unit}", self.equipment.word());
            let _ = write!(toml, "\n[{device}]\nunit_id = {unit}\n");
            if self.equipment.byte_order() == ByteOrder::Cdab {
                toml.push_str("byte_order = \"CDAB\"\n");
            }
            let _ = write!(toml, "\n[{device}.points]\n");
            for place in self.equipment.places() {
                let _ = writeln!(toml, "{}", line(&place));
            }
        }
        toml
    }

    /// Stops and waits until every connection is closed.
    pub async fn shutdown(self) {
        let Self { tasks, stop, .. } = self;
        drop(stop);
        tasks.wait().await;
    }

    fn new(place: Location, equipment: Equipment, units: &[u8]) -> (Self, CancellationToken) {
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        // Closed trackers still take tasks; closing only allows waiting for them.
        tasks.close();
        let plant = Self {
            place,
            equipment,
            units: units.to_vec(),
            faults: Faults::default(),
            tasks,
            stop: stop.clone().drop_guard(),
        };
        (plant, stop)
    }

    fn hall(&self, for_strangers: Option<ExceptionCode>) -> Arc<Hall> {
        Arc::new(Hall {
            equipment: self.equipment,
            units: self.units.clone(),
            faults: self.faults.clone(),
            for_strangers,
            started: Instant::now(),
        })
    }
}

/// The units, as the server asks them.
struct Hall {
    equipment: Equipment,
    units: Vec<u8>,
    faults: Faults,
    /// What a unit id that nobody has is answered: a gateway says no, a bus says nothing.
    for_strangers: Option<ExceptionCode>,
    started: Instant,
}

impl Service for Hall {
    type Request = SlaveRequest<'static>;
    type Response = Option<Response>;
    type Exception = ExceptionCode;
    type Future = Ready<Result<Option<Response>, ExceptionCode>>;

    fn call(&self, asked: Self::Request) -> Self::Future {
        ready(self.answer(asked.slave, &asked.request))
    }
}

impl Hall {
    fn answer(&self, unit: u8, request: &Request<'_>) -> Result<Option<Response>, ExceptionCode> {
        if !self.units.contains(&unit) {
            return self.for_strangers.map_or(Ok(None), Err);
        }
        let fault = self.faults.of(unit);
        if let Some(Fault::Exception(code)) = fault {
            return Err(ExceptionCode::new(code));
        }
        let read = |table, address: u16, count: u16| {
            if let Some(code) = self.faults.refuses(unit, address, count) {
                return Err(ExceptionCode::new(code));
            }
            let image = self.equipment.image(unit, self.started.elapsed());
            let count = count - u16::from(fault == Some(Fault::WrongLength) && count > 0);
            (0..count)
                .map(|i| image.get(&(table, address.checked_add(i)?)).copied())
                .collect::<Option<Vec<u16>>>()
                .ok_or(ExceptionCode::IllegalDataAddress)
        };
        let bits = |words: Vec<u16>| words.into_iter().map(|word| word != 0).collect();
        Ok(Some(match *request {
            Request::ReadCoils(at, n) => Response::ReadCoils(bits(read(Register::Coil, at, n)?)),
            Request::ReadDiscreteInputs(at, n) => {
                Response::ReadDiscreteInputs(bits(read(Register::Discrete, at, n)?))
            }
            Request::ReadInputRegisters(at, n) => Response::ReadInputRegisters(read(Register::Input, at, n)?),
            Request::ReadHoldingRegisters(at, n) => {
                Response::ReadHoldingRegisters(read(Register::Holding, at, n)?)
            }
            _ => return Err(ExceptionCode::IllegalFunction),
        }))
    }
}

fn device(equipment: Equipment, unit_id: u8, interval: Duration) -> Option<ModbusDevice> {
    let point = |place: Place| {
        let Place { name, register, address, raw, unit, kind, scale, shows: _ } = place;
        let meta = PointMeta { name: Name::new(name).ok()?, unit: unit.into(), kind, scale, offset: None };
        let (labels, rollover) = (BTreeMap::new(), false);
        Some(ModbusPoint { meta, register, address, raw, interval, labels, rollover })
    };
    Some(ModbusDevice {
        name: Name::new(&format!("{}-{unit_id}", equipment.word())).ok()?,
        unit_id,
        byte_order: equipment.byte_order(),
        max_registers: 125,
        max_gap: 0,
        interval,
        points: equipment.places().into_iter().filter_map(point).collect(),
    })
}

fn line(place: &Place) -> String {
    let Place { name, register, address, raw, unit, kind, scale, shows: _ } = place;
    let register = match register {
        Register::Coil => "coil",
        Register::Discrete => "discrete",
        Register::Input => "input",
        Register::Holding => "holding",
    };
    let mut line = format!("{name} = {{ register = \"{register}\", address = {address}");
    let _ = match raw {
        RawType::Bit(bit) => write!(line, ", type = \"bit\", bit = {bit}"),
        RawType::String { registers } => write!(line, ", type = \"string\", length = {registers}"),
        // "uint16", "float32": the configuration's word is the type's name in small letters.
        other => write!(line, ", type = \"{}\"", format!("{other:?}").to_lowercase()),
    };
    if !unit.is_empty() {
        let _ = write!(line, ", unit = \"{unit}\"");
    }
    match kind {
        PointKind::Gauge => {}
        PointKind::Counter => line.push_str(", kind = \"counter\""),
        PointKind::State => line.push_str(", kind = \"state\""),
    }
    if let Some(scale) = scale {
        let _ = write!(line, ", scale = {scale:?}");
    }
    line + " }"
}

/// A key of a TOML table, quoted where it must be.
fn key(name: &str) -> String {
    let is_bare = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    if is_bare { name.to_owned() } else { format!("\"{name}\"") }
}

#[cfg(test)]
#[path = "modbus/tests.rs"]
mod tests;
