//! The driver against this plant: somebody else's framing on the other side, over a real socket
//! and a real tty.

use std::collections::BTreeMap;

use forebay_protocols::field::modbus::ModbusSource;
use forebay_protocols::field::source::{LinkFault, Sample, Source};
use forebay_protocols::reading::{Fault as BadFor, Quality, Value};
use tokio::time::timeout;

use super::*;

const ANY_PORT: &str = "127.0.0.1:0";
const PATIENCE: Duration = Duration::from_secs(30);

/// A plant, its driver, and the latest sample of each point by `device/point`.
struct Site {
    plant: ModbusPlant,
    source: ModbusSource,
    latest: BTreeMap<String, Sample>,
}

impl Site {
    async fn tcp(units: &[u8]) -> Self {
        Self::of(ModbusPlant::start_tcp(ANY_PORT.parse().unwrap(), units).await.unwrap()).await
    }

    async fn rtu(units: &[u8]) -> Self {
        Self::of(ModbusPlant::start_rtu_bus(units).unwrap()).await
    }

    async fn of(plant: ModbusPlant) -> Self {
        let mut link = plant.link(&Name::new("plant").unwrap());
        link.timeout = Duration::from_millis(500);
        link.backoff_max = Duration::from_millis(1_200);
        let (Protocol::ModbusTcp(ModbusTcp { bus, .. }) | Protocol::ModbusRtu(ModbusRtu { bus, .. })) =
            &mut link.protocol
        else {
            panic!("not Modbus")
        };
        let points = bus.devices.iter_mut().flat_map(|device| &mut device.points);
        points.for_each(|point| point.interval = Duration::from_millis(50));
        let mut source = ModbusSource::new(&link).unwrap();
        source.connect().await.unwrap();
        Self { plant, source, latest: BTreeMap::new() }
    }

    async fn next(&mut self) -> Result<(), LinkFault> {
        for sample in self.source.next().await?.samples {
            let point = &self.source.points()[sample.slot];
            self.latest.insert(format!("{}/{}", point.device, point.name), sample);
        }
        Ok(())
    }

    /// Reads on until `done` holds, or fails the test.
    async fn until(&mut self, what: &str, done: impl Fn(&BTreeMap<String, Sample>) -> bool) {
        let reading = async {
            while !done(&self.latest) {
                self.next().await.unwrap();
            }
        };
        assert!(timeout(PATIENCE, reading).await.is_ok(), "waited in vain until {what}");
    }

    async fn until_every_point_is_read(&mut self) {
        let points = self.source.points().len();
        self.until("every point is read", |latest| latest.len() == points).await;
    }

    /// Reads on until every point of `unit` is good, and checks each against its signal. Waiting
    /// forgives the timeouts of a machine under load.
    async fn until_right(&mut self, unit: u8) {
        let device = format!("{}-{unit}/", self.plant.equipment().word());
        let points = self.plant.equipment().places().len();
        let what = format!("all of {device} is good");
        self.until(&what, |latest| with_quality(latest, &device, Quality::Good) == points).await;
        self.assert_right(unit);
    }

    fn assert_right(&self, unit: u8) {
        for place in self.plant.equipment().places() {
            let name = format!("{}-{unit}/{}", self.plant.equipment().word(), place.name);
            let sample = &self.latest[&name];
            assert_eq!(sample.quality, Quality::Good, "{name}");
            match (place.shows, sample.value.as_ref().unwrap()) {
                (Shows::Text(expected), value) => assert_eq!(value, &Value::Text(expected.into())),
                (Shows::Signal(signal), value) => {
                    let range = signal.range();
                    let number = value.as_number().unwrap();
                    let slack = number.abs() * f64::from(f32::EPSILON);
                    let is_in = number >= range.start() - slack && number <= range.end() + slack;
                    assert!(is_in, "{name} is {number}, not within {range:?}");
                }
            }
        }
    }
}

/// Points of one device with this quality.
fn with_quality(latest: &BTreeMap<String, Sample>, device: &str, quality: Quality) -> usize {
    latest.iter().filter(|(name, s)| name.starts_with(device) && s.quality == quality).count()
}

#[tokio::test]
async fn every_point_of_every_boiler_is_read_right_over_tcp() {
    let mut site = Site::tcp(&[1, 2, 200]).await;
    site.until_every_point_is_read().await;
    for unit in [1, 2, 200] {
        site.until_right(unit).await;
    }
    site.plant.shutdown().await;
}

#[tokio::test]
async fn every_point_of_every_meter_is_read_right_over_a_tty() {
    let mut site = Site::rtu(&[1, 2, 3]).await;
    assert!(site.plant.path().unwrap().starts_with("/dev/pts"));
    site.until_every_point_is_read().await;
    for unit in [1, 2, 3] {
        site.until_right(unit).await;
    }
    site.plant.shutdown().await;
}

#[tokio::test]
async fn a_tty_can_be_closed_and_opened_again_but_not_twice_at_once() {
    let mut site = Site::rtu(&[1]).await;
    let mut second = ModbusSource::new(&site.plant.link(&Name::new("again").unwrap())).unwrap();
    let fault = second.connect().await.unwrap_err();
    assert!(matches!(&fault, LinkFault::Refused { why, .. } if why.contains("another program")), "{fault}");
    site.source.close().await;
    site.source.connect().await.unwrap();
    site.until_every_point_is_read().await;
    site.until_right(1).await;
}

#[tokio::test]
async fn a_silent_meter_goes_bad_alone_and_comes_back() {
    let mut site = Site::rtu(&[1, 2, 3]).await;
    site.until_every_point_is_read().await;
    site.plant.faults().set(2, Fault::Silent);
    let silent = Quality::Bad(BadFor::Silent);
    site.until("meter 2 is silent", |latest| with_quality(latest, "meter-2/", silent) == 15).await;
    site.latest.retain(|name, _| name.starts_with("meter-2/"));
    site.until("the others are read", |latest| latest.len() == 45).await;
    assert_eq!(with_quality(&site.latest, "meter-2/", silent), 15);
    site.until_right(1).await;
    site.until_right(3).await;
    site.plant.faults().clear(2);
    site.until_right(2).await;
}

#[tokio::test]
async fn a_late_unit_spoils_nobodys_values() {
    for mut site in [Site::rtu(&[1, 2]).await, Site::tcp(&[1, 2]).await] {
        site.plant.faults().set(1, Fault::Slow(Duration::from_millis(750)));
        let device = format!("{}-1/", site.plant.equipment().word());
        let points = site.plant.equipment().places().len();
        let silent = Quality::Bad(BadFor::Silent);
        site.until("unit 1 is silent", |latest| with_quality(latest, &device, silent) == points).await;
        for _ in 0..200 {
            site.next().await.unwrap();
            let late = site.latest.iter().filter(|(name, _)| name.starts_with(&device));
            assert!(late.into_iter().all(|(_, sample)| sample.quality == silent));
        }
        site.until_right(2).await;
    }
}

#[tokio::test]
async fn garbage_on_a_bus_never_becomes_a_value() {
    let mut site = Site::rtu(&[1, 2]).await;
    site.until_every_point_is_read().await;
    site.plant.faults().set(1, Fault::Garbage);
    let silent = Quality::Bad(BadFor::Silent);
    site.until("meter 1 is given up", |latest| with_quality(latest, "meter-1/", silent) == 15).await;
    site.until_right(2).await;
    site.plant.faults().clear(1);
    site.until_right(1).await;
}

#[tokio::test]
async fn garbage_on_a_connection_drops_it_and_a_new_one_is_well() {
    let mut site = Site::tcp(&[1]).await;
    site.plant.faults().set(1, Fault::Garbage);
    let fault = timeout(PATIENCE, async {
        loop {
            if let Err(fault) = site.next().await {
                break fault;
            }
        }
    });
    assert!(matches!(fault.await.unwrap(), LinkFault::Lost { .. }));
    site.plant.faults().clear(1);
    site.source.connect().await.unwrap();
    site.until_right(1).await;
}

#[tokio::test]
async fn short_answers_and_exceptions_are_bad_readings_of_that_unit_only() {
    let mut site = Site::tcp(&[1, 2, 3, 4]).await;
    site.plant.faults().set(1, Fault::WrongLength);
    site.plant.faults().set(2, Fault::Exception(1));
    site.plant.faults().set(3, Fault::Exception(0x0b));
    site.until_every_point_is_read().await;
    assert_eq!(with_quality(&site.latest, "boiler-2/", Quality::Bad(BadFor::Refused)), 37);
    assert_eq!(with_quality(&site.latest, "boiler-3/", Quality::Bad(BadFor::Silent)), 37);
    site.until_right(4).await;
    // Bits lack none when one of a few is missing: they come in whole bytes.
    let short = with_quality(&site.latest, "boiler-1/", Quality::Bad(BadFor::WrongType));
    assert_eq!(short, 30);
}

#[tokio::test]
async fn a_register_the_device_does_not_have_leaves_its_neighbours_alone() {
    let plant = ModbusPlant::start_tcp(ANY_PORT.parse().unwrap(), &[1]).await.unwrap();
    let mut link = plant.link(&Name::new("plant").unwrap());
    if let Protocol::ModbusTcp(tcp) = &mut link.protocol {
        // The boiler has nothing at input register 24, right behind `burner_load`.
        let mut missing = tcp.bus.devices[0].points[11].clone();
        missing.meta.name = Name::new("missing").unwrap();
        missing.address = 24;
        tcp.bus.devices[0].points.push(missing);
    }
    let mut source = ModbusSource::new(&link).unwrap();
    source.connect().await.unwrap();
    let mut site = Site { plant, source, latest: BTreeMap::new() };
    site.until_every_point_is_read().await;
    site.until_right(1).await;
    assert_eq!(site.latest["boiler-1/missing"].quality, Quality::Bad(BadFor::NotFound));
}

#[tokio::test]
async fn a_stopped_plant_closes_its_connections_and_its_port() {
    let Site { plant, mut source, .. } = Site::tcp(&[1]).await;
    source.next().await.unwrap();
    timeout(PATIENCE, plant.shutdown()).await.unwrap();
    let lost = timeout(PATIENCE, async { while source.next().await.is_ok() {} });
    assert!(lost.await.is_ok());
    assert!(matches!(source.connect().await, Err(LinkFault::Unreachable { .. })));
}

#[tokio::test]
async fn an_unplugged_adapter_is_a_lost_link() {
    let Site { plant, mut source, .. } = Site::rtu(&[1]).await;
    source.next().await.unwrap();
    plant.shutdown().await;
    let lost = timeout(PATIENCE, async {
        loop {
            if let Err(fault) = source.next().await {
                break fault;
            }
        }
    });
    assert!(matches!(lost.await.unwrap(), LinkFault::Lost { .. }));
    assert!(matches!(source.connect().await, Err(LinkFault::Unreachable { .. })));
}

#[tokio::test]
async fn the_configuration_text_names_every_point_once() {
    let plant = ModbusPlant::start_rtu_bus(&[1, 2]).unwrap();
    let toml = plant.link_toml(&Name::new("power.house").unwrap());
    assert!(toml.starts_with("[link.\"power.house\"]\n"), "{toml}");
    let port = format!("port = \"{}\"\n", plant.path().unwrap().display());
    assert!(toml.contains(&port), "{toml}");
    assert_eq!(toml.matches("byte_order = \"CDAB\"").count(), 2);
    assert_eq!(toml.matches("register = ").count(), 30);
    assert!(toml.contains("[link.\"power.house\".device.meter-2.points]\n"), "{toml}");
    let line = "cabinet_temperature = { register = \"holding\", address = 0, type = \"uint16\", \
                unit = \"°C\", scale = 0.1 }\n";
    assert!(toml.contains(line), "{toml}");
}
