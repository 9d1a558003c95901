//! A link cut down to what is asked for, and made harmless to the agent that runs beside. Pure.

use std::time::Duration;

use forebay_config::classes::Pattern;
use forebay_config::field::{
    Link, ModbusDevice, Mqtt, MqttTopic, OpcUaDevice, OpcUaReading, Payload, Protocol,
};

/// The first report of an OPC UA subscription comes with its first interval.
const SOON: Duration = Duration::from_millis(500);

/// `link` with only the points that `wanted` names; `None` if it has none of them.
pub fn narrowed(link: &Link, wanted: &Pattern) -> Option<Link> {
    let mut link = link.clone();
    let is_left = match &mut link.protocol {
        Protocol::ModbusTcp(tcp) => modbus(&mut tcp.bus.devices, wanted),
        Protocol::ModbusRtu(rtu) => modbus(&mut rtu.bus.devices, wanted),
        Protocol::OpcUa(server) => {
            if let OpcUaReading::Subscribe { publishing_interval } = &mut server.reading {
                *publishing_interval = SOON.min(*publishing_interval);
            }
            server.devices.retain_mut(|OpcUaDevice { name, points, folders }| {
                let device = name.as_str();
                points.retain(|point| wanted.matches(device, point.meta.name.as_str()));
                // What they hold is known when the server has told it.
                folders.retain(|_| wanted.may_match(device));
                !points.is_empty() || !folders.is_empty()
            });
            !server.devices.is_empty()
        }
        Protocol::Mqtt(mqtt) => mqtt_harmless(mqtt, wanted),
    };
    is_left.then_some(link)
}

/// Can this link have points that nobody knows before they speak?
pub fn brings_more(link: &Link) -> bool {
    match &link.protocol {
        Protocol::Mqtt(mqtt) => mqtt
            .topics
            .iter()
            .any(|topic| topic.topic.contains("{device}") || topic.topic.contains("{point}")),
        _ => false,
    }
}

fn modbus(devices: &mut Vec<ModbusDevice>, wanted: &Pattern) -> bool {
    devices.retain_mut(|device| {
        device.points.retain(|point| wanted.matches(device.name.as_str(), point.meta.name.as_str()));
        !device.points.is_empty()
    });
    !devices.is_empty()
}

fn mqtt_harmless(mqtt: &mut Mqtt, wanted: &Pattern) -> bool {
    // The agent's name would take its connection away, and its session with what waits in it.
    mqtt.client_id = client_id();
    mqtt.topics.retain_mut(|topic| {
        let MqttTopic { topic: filter, device, qos, payload } = topic;
        // At QoS 0 a broker keeps nothing for us, and a member of the agent's group would get
        // messages in the agent's place.
        *qos = 0;
        *filter = without_group(filter).to_owned();
        let Some(device) = device.as_ref().map(|name| name.as_str()) else { return true };
        match payload {
            Payload::Plain { point: Some(point), .. } => wanted.matches(device, point.as_str()),
            // The topic names the point.
            Payload::Plain { point: None, .. } => true,
            Payload::Json { points, .. } => {
                points.retain(|point| wanted.matches(device, point.meta.name.as_str()));
                !points.is_empty()
            }
        }
    });
    !mqtt.topics.is_empty()
}

/// Up to 23 characters, which every broker takes (MQTT 3.1.1, 3.1.3.1).
fn client_id() -> String {
    format!("forebay-read-{:08x}", getrandom::u32().unwrap_or_else(|_| std::process::id()))
}

/// `$share/GROUP/FILTER` without its group.
fn without_group(filter: &str) -> &str {
    let behind = filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/'));
    behind.map_or(filter, |(_, filter)| filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"
[agent]
site = "north"
gateway = "gw"
[link.boiler.modbus-tcp]
address = "127.0.0.1:502"
[link.boiler.device.pump.points]
speed = { address = 0 }
load = { address = 1 }
[link.boiler.device.fan.points]
speed = { address = 0 }
[link.press]
interval = "1m"
[link.press.opcua]
endpoint = "opc.tcp://127.0.0.1:4840"
[link.press.device.press.points]
force = { node = "ns=1;s=Force" }
[[link.press.device.line.folder]]
node = "ns=1;s=Line"
[link.hall.mqtt]
broker = "mqtt://127.0.0.1"
client_id = "the-agents"
[[link.hall.topic]]
topic = "$share/gateways/plant/{device}/{point}"
[[link.hall.topic]]
topic = "oven"
device = "oven"
points = { temperature = { pointer = "/t" }, door = { pointer = "/d" } }
"#;

    fn narrow(wanted: &str) -> Vec<Link> {
        let agent =
            forebay_config::load::agent_text("t.toml", CONFIG).unwrap_or_else(|error| panic!("{error}"));
        agent.links.iter().filter_map(|link| narrowed(link, &Pattern::new(wanted).unwrap())).collect()
    }

    fn names(links: &[Link]) -> Vec<&str> {
        links.iter().map(|link| link.name.as_str()).collect()
    }

    #[test]
    fn only_what_is_asked_for_is_read() {
        assert_eq!(names(&narrow("*/*")), ["boiler", "press", "hall"]);
        let links = narrow("pump/speed");
        // A topic template may bring a device of that name.
        assert_eq!(names(&links), ["boiler", "hall"]);
        assert_eq!(links[0].point_count(), 1);
        let links = narrow("*/speed");
        assert_eq!(links[0].point_count(), 2);
        let links = narrow("oven/door");
        assert_eq!((names(&links), links[0].point_count()), (vec!["hall"], 1));
        // What a folder holds is not known either.
        assert_eq!(names(&narrow("line/anything")), ["press", "hall"]);
        let links = narrow("press/*");
        let Protocol::OpcUa(server) =
            &links.iter().find(|link| link.name.as_str() == "press").unwrap().protocol
        else {
            panic!("an OPC UA link")
        };
        assert_eq!(server.reading, OpcUaReading::Subscribe { publishing_interval: SOON });
    }

    #[test]
    fn a_broker_meets_another_client_that_takes_nothing_from_the_agent() {
        let links = narrow("*/*");
        let link = links.iter().find(|link| link.name.as_str() == "hall").unwrap();
        let Protocol::Mqtt(mqtt) = &link.protocol else { panic!("an MQTT link") };
        assert!(mqtt.client_id.starts_with("forebay-read-") && mqtt.client_id.len() <= 23);
        assert!(mqtt.topics.iter().all(|topic| topic.qos == 0));
        assert_eq!(mqtt.topics[0].topic, "plant/{device}/{point}");
        assert!(brings_more(link));
        assert_eq!(without_group("$share/g/$SYS/a"), "$SYS/a");
    }
}
