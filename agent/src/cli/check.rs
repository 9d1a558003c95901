//! `forebay-agent check`: what a good configuration amounts to, in one line, and what cannot work
//! although nothing is wrong with the words.

use std::collections::BTreeSet;

use forebay_config::agent::Agent;
use forebay_config::field::{Mqtt, Payload, Protocol};
use forebay_protocols::field::modbus::ModbusSource;

/// "ok: 2 links, 5 devices, 120 points".
pub fn summary(config: &Agent) -> String {
    let (mut devices, mut points, mut folders, mut templates) = (0, 0, 0, false);
    for link in &config.links {
        match &link.protocol {
            Protocol::ModbusTcp(forebay_config::field::ModbusTcp { bus, .. })
            | Protocol::ModbusRtu(forebay_config::field::ModbusRtu { bus, .. }) => {
                devices += bus.devices.len();
                points += bus.devices.iter().map(|device| device.points.len()).sum::<usize>();
            }
            Protocol::OpcUa(opcua) => {
                devices += opcua.devices.len();
                points += opcua.devices.iter().map(|device| device.points.len()).sum::<usize>();
                folders += opcua.devices.iter().map(|device| device.folders.len()).sum::<usize>();
            }
            Protocol::Mqtt(mqtt) => {
                let (named, listed, finds_more) = mqtt_counts(mqtt);
                devices += named;
                points += listed;
                templates |= finds_more;
            }
        }
    }
    let links = config.links.len();
    let more = match (folders, templates) {
        (0, false) => String::new(),
        (0, true) => ", and what MQTT topics bring".to_owned(),
        (_, false) => format!(", and what {} hold", count(folders, "OPC UA folder")),
        (_, true) => format!(", and what {} hold and MQTT topics bring", count(folders, "OPC UA folder")),
    };
    format!("ok: {}, {}, {}{more}", count(links, "link"), count(devices, "device"), count(points, "point"))
}

/// Links whose points cannot be read as often as is asked for, one warning each.
pub fn overloads(config: &Agent) -> Vec<String> {
    let overload = |link| ModbusSource::new(link)?.overload();
    let warnings = config.links.iter().filter_map(|link| Some((&link.name, overload(link)?)));
    warnings.map(|(name, words)| format!("warning: link.{name}: {words}")).collect()
}

/// Devices and points that are named, and whether topics name more while they run.
fn mqtt_counts(mqtt: &Mqtt) -> (usize, usize, bool) {
    let devices: BTreeSet<_> = mqtt.topics.iter().filter_map(|topic| topic.device.as_ref()).collect();
    let named = mqtt.topics.iter().filter(|topic| topic.device.is_some());
    let points = named.map(|topic| match &topic.payload {
        Payload::Plain { point, .. } => usize::from(point.is_some()),
        Payload::Json { points, .. } => points.len(),
    });
    (devices.len(), points.sum(), mqtt.topics.iter().any(|topic| topic.topic.contains('{')))
}

fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use forebay_config::agent::{Buffer, Log, Telemetry, Uplink};
    use forebay_config::field::{DataType, Link, MqttTopic, MqttVersion, PointKind};
    use forebay_config::units::{ByteSize, Name};

    use super::*;

    fn topic(topic: &str, device: Option<&str>, point: Option<&str>) -> MqttTopic {
        let name = |text: &str| Name::new(text).unwrap();
        let payload = Payload::Plain {
            point: point.map(name),
            data_type: DataType::Float,
            unit: String::new(),
            kind: PointKind::Gauge,
        };
        MqttTopic { topic: topic.into(), device: device.map(name), qos: 1, payload }
    }

    fn config(topics: Vec<MqttTopic>) -> Agent {
        let mqtt = Mqtt {
            broker: forebay_config::field::Broker { host: "localhost".into(), port: 1883, tls: false },
            version: MqttVersion::V311,
            client_id: "test".into(),
            user: None,
            ca: None,
            identity: None,
            keep_alive: Duration::from_secs(30),
            max_packet: ByteSize::mib(1),
            topics,
        };
        let second = Duration::from_secs(1);
        let name = Name::new("hall").unwrap();
        let protocol = Protocol::Mqtt(mqtt);
        let link =
            Link { name: name.clone(), interval: second, timeout: second, backoff_max: second, protocol };
        Agent {
            site: name.clone(),
            gateway: name,
            state_dir: "/nowhere".into(),
            buffer: Buffer::default(),
            classes: Vec::new(),
            processing: Vec::new(),
            uplink: Uplink::default(),
            telemetry: Telemetry::default(),
            log: Log::default(),
            links: vec![link.into()],
        }
    }

    #[test]
    fn a_device_of_two_topics_is_one_device() {
        let config =
            config(vec![topic("a/1", Some("pump"), Some("speed")), topic("a/2", Some("pump"), Some("load"))]);
        assert_eq!(summary(&config), "ok: 1 link, 1 device, 2 points");
    }

    #[test]
    fn a_serial_bus_that_cannot_keep_up_is_told_before_the_start() {
        let toml = |interval: &str| {
            format!(
                "[agent]\nsite = \"a\"\ngateway = \"b\"\n[link.meters]\ninterval = \"{interval}\"\n\
                 [link.meters.modbus-rtu]\nport = \"/dev/ttyS0\"\nbaud = 1200\n\
                 [link.meters.device.main]\nunit_id = 7\npoints.name = {{ address = 0, type = \"string\", length = 100 }}\n"
            )
        };
        let config = |interval| forebay_config::load::agent_text("t.toml", &toml(interval)).unwrap();
        assert_eq!(overloads(&config("1m")), [] as [String; 0]);
        let warnings = overloads(&config("1s"));
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(
            warnings[0].starts_with("warning: link.meters: ") && warnings[0].contains("unit 7"),
            "{warnings:?}"
        );
    }

    #[test]
    fn templates_promise_nothing_in_numbers() {
        let config = config(vec![topic("plant/{device}/{point}", None, None)]);
        assert_eq!(summary(&config), "ok: 1 link, 0 devices, 0 points, and what MQTT topics bring");
    }
}
