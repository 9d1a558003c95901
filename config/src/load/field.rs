//! `[link.NAME]`: what all protocols share, then the one protocol.

use std::time::Duration;

use super::findings::Complaint;
use super::table::{Item, Table};
use super::words::{duration, filled, float, one_of, string};
use super::{modbus, mqtt, opcua};
use crate::field::{DataType, Link, PointKind, PointMeta, Protocol};
use crate::units::Name;

const PROTOCOLS: [&str; 4] = ["modbus-tcp", "modbus-rtu", "opcua", "mqtt"];
const FASTEST: Duration = Duration::from_millis(10);

/// What a link hands down to its protocol.
pub(super) struct Inherited {
    pub interval: Duration,
    /// `forebay-SITE-GATEWAY-LINK`: how we name ourselves to brokers.
    pub client_id: String,
}

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

/// The tables below `[link.NAME.device]`, with their names.
pub(super) fn devices<'a>(t: &Table<'a>) -> Vec<(Option<Name>, Table<'a>)> {
    let found = t.table("device").map(|devices| devices.named_tables()).unwrap_or_default();
    if found.is_empty() {
        t.complain(Complaint::new(
            "the link has no devices",
            format!("add [{}.device.NAME]", t.path_of("").trim_end_matches('.')),
        ));
    }
    found.into_iter().map(|(name, table)| (checked_name(name, &table), table)).collect()
}

/// The entries of `points`, with their names.
pub(super) fn points<'a>(t: &Table<'a>) -> Vec<(Option<Name>, Table<'a>)> {
    let found = t.table("points").map(|points| points.named_tables()).unwrap_or_default();
    if found.is_empty() {
        t.complain(Complaint::new("there are no points", "add a `points` table: NAME = { … }"));
    }
    found.into_iter().map(|(name, table)| (checked_name(name, &table), table)).collect()
}

fn checked_name(name: &str, t: &Table<'_>) -> Option<Name> {
    Name::new(name).map_err(|why| t.complain(Complaint::new(why, ""))).ok()
}

/// `unit`, `kind`, `scale`, `offset`.
pub(super) fn meta(
    name: Option<Name>,
    t: &Table<'_>,
    default_kind: PointKind,
    numeric: bool,
) -> Option<PointMeta> {
    let scale = t.optional("scale", float);
    let offset = t.optional("offset", float);
    for (key, set) in [("scale", scale.is_some()), ("offset", offset.is_some())] {
        if set && !numeric {
            t.complain_of(
                key,
                Complaint::new(format!("`{key}` needs a number, and this type is none"), "leave it away"),
            );
        }
    }
    if scale == Some(0.0) {
        t.complain_of("scale", Complaint::new("a scale of 0 makes every value 0", "leave it away for 1"));
    }
    Some(PointMeta {
        name: name?,
        unit: t.or("unit", String::new(), string),
        kind: kind(t, default_kind),
        scale,
        offset,
    })
}

pub(super) fn kind(t: &Table<'_>, default: PointKind) -> PointKind {
    t.or(
        "kind",
        default,
        one_of(&[("gauge", PointKind::Gauge), ("counter", PointKind::Counter), ("state", PointKind::State)]),
    )
}

/// Booleans and text are states, numbers are gauges, unless the user says otherwise.
pub(super) fn usual_kind(data_type: DataType) -> PointKind {
    match data_type {
        DataType::Float | DataType::Integer => PointKind::Gauge,
        DataType::Boolean | DataType::Text => PointKind::State,
    }
}

pub(super) fn is_numeric(data_type: DataType) -> bool {
    matches!(data_type, DataType::Float | DataType::Integer)
}

/// `type` where the protocol carries its own types.
pub(super) fn data_type(t: &Table<'_>) -> DataType {
    t.or("type", DataType::Float, |item: &Item<'_>| {
        let words: &'static [(&'static str, DataType)] = &[
            ("float", DataType::Float),
            ("integer", DataType::Integer),
            ("boolean", DataType::Boolean),
            ("text", DataType::Text),
        ];
        // The words of other collectors are close enough to name ours.
        match item.value.as_str() {
            Some("bool") => Err(Complaint::new("\"bool\" is not known here", "did you mean \"boolean\"?")),
            Some("string") => Err(Complaint::new("\"string\" is not known here", "did you mean \"text\"?")),
            Some("int" | "int16" | "int32" | "int64") => Err(Complaint::new(
                format!("{} is not known here", item.value.as_str().unwrap_or_default()),
                "did you mean \"integer\"?",
            )),
            _ => one_of(words)(item),
        }
    })
}

pub(super) fn interval(t: &Table<'_>, key: &'static str, inherited: Duration) -> Duration {
    t.or(key, inherited, duration(FASTEST))
}

/// A file the user names, said to be missing by `check` rather than at start.
pub(super) fn existing_file(item: &Item<'_>) -> Result<std::path::PathBuf, Complaint> {
    let file = std::path::PathBuf::from(filled(item)?);
    match std::fs::metadata(&file) {
        Ok(found) if found.is_file() => Ok(file),
        Ok(_) => Err(Complaint::new(format!("{} is not a file", file.display()), "")),
        Err(error) => Err(Complaint::new(
            format!("cannot read {}: {error}", file.display()),
            "the service's user must be able to read it",
        )),
    }
}

/// All of them, or none; `collect` alone would stop at the first that is refused and leave the
/// rest unjudged.
pub(super) fn all<T>(judged: impl Iterator<Item = Option<T>>) -> Option<Vec<T>> {
    judged.collect::<Vec<_>>().into_iter().collect()
}
