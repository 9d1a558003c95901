//! `[link.NAME]`: the keys of every link, then its one protocol.

use std::time::Duration;

use super::field::{FASTEST, Inherited, checked_name};
use super::findings::Complaint;
use super::table::Table;
use super::words::duration;
use super::{modbus, mqtt, opcua};
use crate::field::{Link, Protocol};
use crate::units::Name;

const PROTOCOLS: [&str; 4] = ["modbus-tcp", "modbus-rtu", "opcua", "mqtt"];

pub(super) fn link(name: &str, t: &Table<'_>, owner: &(Option<String>, Option<String>)) -> Option<Link> {
    let name = checked_name(name, t);
    let interval = t.or("interval", Duration::from_secs(1), duration(FASTEST));
    let backoff_max = t.or("backoff_max", Duration::from_secs(60), duration(Duration::from_secs(1)));
    let patience = Duration::from_secs(if t.has("opcua") || t.has("mqtt") { 10 } else { 1 });
    let timeout = t.or("timeout", patience, duration(FASTEST));

    let (site, gateway) = (owner.0.as_deref().unwrap_or("site"), owner.1.as_deref().unwrap_or("gateway"));
    let client_id = format!("forebay-{site}-{gateway}-{}", name.as_ref().map_or("link", Name::as_str));
    let inherited = Inherited { interval, client_id };

    let present: Vec<&'static str> = PROTOCOLS.into_iter().filter(|protocol| t.has(protocol)).collect();
    let protocol = match present.as_slice() {
        ["modbus-tcp"] => modbus::tcp(t, &inherited).map(Protocol::ModbusTcp),
        ["modbus-rtu"] => modbus::rtu(t, &inherited).map(Protocol::ModbusRtu),
        ["opcua"] => opcua::opcua(t, &inherited).map(Protocol::OpcUa),
        ["mqtt"] => mqtt::mqtt(t, &inherited).map(Protocol::Mqtt),
        [] => {
            t.complain(Complaint::new(
                "the link has no protocol",
                format!(
                    "add one of [{}.modbus-tcp], .modbus-rtu, .opcua, .mqtt",
                    t.path_of("").trim_end_matches('.')
                ),
            ));
            None
        }
        several => {
            t.complain(Complaint::new(
                format!("the link has {} protocols: {}", several.len(), several.join(", ")),
                "one link, one protocol",
            ));
            None
        }
    };
    // Without a protocol, what stands below the link cannot be judged.
    if !present.is_empty() {
        t.finish();
    }
    Some(Link { name: name?, interval, timeout, backoff_max, protocol: protocol? })
}
