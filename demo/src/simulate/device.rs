//! The simulated devices, each behind a road that can be cut, and what each fault does to them.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use forebay_config::units::Name;
use rumqttc::{AsyncClient, MqttOptions, QoS};
use tokio::task::JoinHandle;
use tokio::time::{interval, sleep};

use super::script::{Fault, Kind};
use crate::lossy_link::{LossyLink, Road};
use crate::modbus::{self, ModbusPlant};
use crate::mqtt::{Broker, Publishers};
use crate::opcua::{OpcUaPlant, PlantOptions};

/// How often each MQTT device speaks.
const PERIOD: Duration = Duration::from_secs(1);
/// A dropped connection is noticed within this, and the next one is let in after it.
const DROP_TAKES: Duration = Duration::from_millis(100);

/// One device, running.
pub struct Device {
    /// None on a serial line.
    road: Option<LossyLink>,
    kind: Running,
}

enum Running {
    Modbus { plant: ModbusPlant, units: Vec<u8> },
    OpcUa(OpcUa),
    Mqtt(Mqtt),
}

/// A server that can be started again as another one.
struct OpcUa {
    server: Option<OpcUaPlant>,
    address: SocketAddr,
    namespaces_before: usize,
    max_sessions: usize,
    /// Its key outlives its restarts.
    pki: tempfile::TempDir,
}

struct Mqtt {
    broker: Option<Broker>,
    port: u16,
    publishers: Option<Publishers>,
    babble: Option<JoinHandle<()>>,
}

fn anywhere() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

impl Device {
    /// Boilers behind Modbus TCP at `listen`.
    pub async fn modbus(listen: SocketAddr, units: &[u8]) -> Result<Self> {
        let plant = ModbusPlant::start_tcp(anywhere(), units).await.context("start the Modbus server")?;
        let address = plant.address().context("a TCP server has an address")?;
        let road = Some(LossyLink::start_at(listen, address).await?);
        Ok(Self { road, kind: Running::Modbus { plant, units: units.to_vec() } })
    }

    /// Meters on a serial line.
    pub fn serial(units: &[u8]) -> Result<Self> {
        let plant = ModbusPlant::start_rtu_bus(units).context("start the serial line")?;
        Ok(Self { road: None, kind: Running::Modbus { plant, units: units.to_vec() } })
    }

    /// An OPC UA server at `listen`.
    pub async fn opcua(listen: SocketAddr) -> Result<Self> {
        let pki = tempfile::tempdir().context("make a folder for the server's key")?;
        let mut server =
            OpcUa { server: None, address: anywhere(), namespaces_before: 0, max_sessions: 20, pki };
        server.start().await?;
        let road = Some(LossyLink::start_at(listen, server.address).await?);
        Ok(Self { road, kind: Running::OpcUa(server) })
    }

    /// A broker at `listen`, and its publishers.
    pub async fn mqtt(listen: SocketAddr) -> Result<Self> {
        let broker = Broker::start().await?;
        let port = broker.port();
        let road = Some(LossyLink::start_at(listen, SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?);
        let publishers = Some(broker.publish(PERIOD));
        Ok(Self { road, kind: Running::Mqtt(Mqtt { broker: Some(broker), port, publishers, babble: None }) })
    }

    /// `[link.simulated]`: what an agent needs to read all of it.
    pub fn link_toml(&self) -> Result<String> {
        let name = Name::new("simulated").map_err(anyhow::Error::msg)?;
        let (toml, own) = match &self.kind {
            Running::Modbus { plant, .. } => (plant.link_toml(&name), plant.address()),
            Running::OpcUa(OpcUa { server: Some(server), address, .. }) => {
                (server.link_toml(name.as_str()), Some(*address))
            }
            Running::Mqtt(Mqtt { broker: Some(broker), port, .. }) => {
                (broker.link_toml(name.as_str()), Some(SocketAddr::from((Ipv4Addr::LOCALHOST, *port))))
            }
            Running::OpcUa(_) | Running::Mqtt(_) => anyhow::bail!("it is down"),
        };
        Ok(match (&self.road, own) {
            (Some(road), Some(own)) => toml.replace(&own.to_string(), &road.address().to_string()),
            _ => toml,
        })
    }

    /// # Errors
    /// When this device has no such fault, or no such unit.
    pub fn knows(&self, fault: &Fault) -> Result<(), String> {
        let Fault { kind, unit } = fault;
        let is_of_the_road = matches!(kind, Kind::Cut | Kind::Drop | Kind::Stalled | Kind::Slow(_));
        let is_known = match &self.kind {
            Running::Modbus { .. } => {
                matches!(kind, Kind::Slow(_) | Kind::Silent | Kind::Exception(_) | Kind::Garbage)
                    || matches!(kind, Kind::Short | Kind::WrongUnit | Kind::Limit(_) | Kind::Hole(_))
            }
            Running::OpcUa(_) => matches!(kind, Kind::Down | Kind::Renumbered | Kind::Sessions(_)),
            Running::Mqtt(_) => matches!(kind, Kind::Forgets | Kind::Quiet | Kind::Garbage),
        };
        if !(is_known || is_of_the_road && self.road.is_some()) {
            return Err(format!("this device has no fault {kind:?}; --help lists them"));
        }
        match (&self.kind, unit) {
            (Running::Modbus { units, .. }, Some(unit)) if !units.contains(unit) => {
                Err(format!("there is no unit {unit}: {units:?}"))
            }
            (Running::OpcUa(_) | Running::Mqtt(_), Some(_)) => Err("only Modbus has units".into()),
            _ => Ok(()),
        }
    }

    /// Makes it faulty.
    pub async fn begin(&mut self, fault: &Fault) -> Result<()> {
        if let (Running::Modbus { plant, units }, false) = (&self.kind, is_road_of_all(fault)) {
            of_units(units, fault).for_each(|unit| spoil(plant, unit, &fault.kind));
            return Ok(());
        }
        match (&fault.kind, &mut self.kind) {
            (Kind::Cut, _) => self.set_road(Road::Cut),
            (Kind::Stalled, _) => self.set_road(Road::Stalled),
            (Kind::Slow(late), _) => self.set_road(Road::Slow(*late)),
            (Kind::Drop, _) => {
                self.set_road(Road::Cut);
                sleep(DROP_TAKES).await;
                self.set_road(Road::Open);
            }
            (Kind::Down, Running::OpcUa(server)) => server.stop().await,
            (Kind::Renumbered, Running::OpcUa(server)) => {
                server.namespaces_before = 3;
                server.restart().await?;
            }
            (Kind::Sessions(most), Running::OpcUa(server)) => {
                server.max_sessions = *most;
                server.restart().await?;
            }
            (Kind::Forgets, Running::Mqtt(mqtt)) => {
                // Sessions live in its memory.
                drop(mqtt.broker.take());
                mqtt.broker = Some(Broker::start_again(mqtt.port).await?);
            }
            (Kind::Quiet, Running::Mqtt(mqtt)) => {
                if let Some(publishers) = mqtt.publishers.take() {
                    publishers.stop().await;
                }
            }
            (Kind::Garbage, Running::Mqtt(mqtt)) => mqtt.babble = Some(tokio::spawn(babble(mqtt.port))),
            // `knows` was asked before.
            _ => {}
        }
        Ok(())
    }

    /// Makes it well again.
    pub async fn mend(&mut self, fault: &Fault) -> Result<()> {
        if let (Running::Modbus { plant, units }, false) = (&self.kind, is_road_of_all(fault)) {
            for unit in of_units(units, fault) {
                match fault.kind {
                    Kind::Limit(_) => plant.faults().limit(unit, None),
                    Kind::Hole(_) => plant.faults().hole(unit, None),
                    _ => plant.faults().clear(unit),
                }
            }
            return Ok(());
        }
        match (&fault.kind, &mut self.kind) {
            (Kind::Cut | Kind::Stalled | Kind::Slow(_), _) => self.set_road(Road::Open),
            (Kind::Down, Running::OpcUa(server)) => server.restart().await?,
            (Kind::Renumbered, Running::OpcUa(server)) => {
                server.namespaces_before = 0;
                server.restart().await?;
            }
            (Kind::Sessions(_), Running::OpcUa(server)) => {
                server.max_sessions = 20;
                server.restart().await?;
            }
            (Kind::Quiet, Running::Mqtt(Mqtt { broker: Some(broker), publishers, .. })) => {
                *publishers = Some(broker.publish(PERIOD));
            }
            (Kind::Garbage, Running::Mqtt(mqtt)) => {
                if let Some(babble) = mqtt.babble.take() {
                    babble.abort();
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Ends it in order.
    pub async fn end(self) {
        match self.kind {
            Running::Modbus { plant, .. } => plant.shutdown().await,
            Running::OpcUa(mut server) => server.stop().await,
            Running::Mqtt(Mqtt { broker, publishers, babble, .. }) => {
                if let Some(babble) = babble {
                    babble.abort();
                }
                if let Some(publishers) = publishers {
                    publishers.stop().await;
                }
                drop(broker);
            }
        }
    }

    fn set_road(&self, road: Road) {
        if let Some(link) = &self.road {
            link.set(road);
        }
    }
}

/// Does the fault strike the connection, and not units behind it? A unit is slow by itself.
fn is_road_of_all(fault: &Fault) -> bool {
    matches!(fault.kind, Kind::Cut | Kind::Drop | Kind::Stalled)
}

fn of_units<'u>(units: &'u [u8], fault: &Fault) -> impl Iterator<Item = u8> + 'u {
    let only = fault.unit;
    units.iter().copied().filter(move |unit| only.is_none_or(|only| only == *unit))
}

fn spoil(plant: &ModbusPlant, unit: u8, kind: &Kind) {
    let fault = match kind {
        Kind::Limit(registers) => return plant.faults().limit(unit, Some(*registers)),
        Kind::Hole(addresses) => return plant.faults().hole(unit, Some(addresses.clone())),
        Kind::Slow(late) => modbus::Fault::Slow(*late),
        Kind::Silent => modbus::Fault::Silent,
        Kind::Exception(code) => modbus::Fault::Exception(*code),
        Kind::Garbage => modbus::Fault::Garbage,
        Kind::Short => modbus::Fault::WrongLength,
        Kind::WrongUnit => modbus::Fault::WrongUnit,
        _ => return,
    };
    plant.faults().set(unit, fault);
}

impl OpcUa {
    async fn start(&mut self) -> Result<()> {
        let options = PlantOptions {
            address: self.address,
            pki_dir: Some(self.pki.path().to_owned()),
            namespaces_before: self.namespaces_before,
            max_sessions: self.max_sessions,
            ..PlantOptions::default()
        };
        let server = OpcUaPlant::start(options).await?;
        self.address = server.address();
        self.server = Some(server);
        Ok(())
    }

    async fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.shutdown().await;
        }
    }

    async fn restart(&mut self) -> Result<()> {
        self.stop().await;
        self.start().await
    }
}

/// Payloads that are no values, on topics of the real devices, until it is aborted.
async fn babble(port: u16) {
    let options = MqttOptions::new("demo-babble", Ipv4Addr::LOCALHOST.to_string(), port);
    let (client, mut events) = AsyncClient::new(options, 100);
    let mut pace = interval(PERIOD / 5);
    loop {
        tokio::select! {
            _ = pace.tick() => {
                for (topic, payload) in [("plant/feed-pump/flow", "much"), ("sensors/north/state", "{\"air\":"), ("meters/main/json", "\u{0}\u{1}")] {
                    // No room: the broker is away.
                    let _ = client.try_publish(topic, QoS::AtLeastOnce, false, payload);
                }
            }
            event = events.poll() => if event.is_err() {
                sleep(DROP_TAKES).await;
            },
        }
    }
}
