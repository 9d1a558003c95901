//! `[link.NAME.mqtt]` and `[[link.NAME.topic]]`.

use std::time::Duration;

use super::field::{
    Inherited, all, data_type, existing_file, is_numeric, kind, meta, points, together, user, usual_kind,
};
use super::findings::Complaint;
use super::table::{Item, Table};
use super::words::{byte_size, duration, filled, integer, name, one_of, string};
use crate::field::{Broker, JsonPoint, Mqtt, MqttTopic, MqttVersion, Payload};
use crate::units::ByteSize;

pub(super) fn mqtt(link: &Table<'_>, from: &Inherited) -> Option<Mqtt> {
    let t = link.table("mqtt")?;
    let broker = t.required("broker", "broker = \"mqtt://10.0.0.9:1883\"", broker);
    let version =
        t.or("version", MqttVersion::V311, one_of(&[("3.1.1", MqttVersion::V311), ("5", MqttVersion::V5)]));
    let client_id = t.or("client_id", from.client_id.clone(), filled);
    let user = user(&t);
    let ca = t.optional("ca", existing_file);
    let identity = together(
        &t,
        ("certificate", t.optional("certificate", existing_file)),
        ("key", t.optional("key", existing_file)),
    );
    let keep_alive = t.or("keep_alive", Duration::from_secs(30), duration(Duration::from_secs(5)));
    let max_packet = t.or("max_packet", ByteSize::mib(1), byte_size(ByteSize::kib(1)));
    if let Some(broker) = &broker
        && !broker.tls
        && (ca.is_some() || identity.is_some())
    {
        t.complain_of(
            "broker",
            Complaint::new("certificates are given, and the connection is not encrypted", "write mqtts://"),
        );
    }
    t.finish();
    let tables = link.tables("topic");
    if tables.is_empty() {
        link.complain(Complaint::new("the link has no topics", format!("add [[{}topic]]", link.path_of(""))));
    }
    let topics = all(tables.iter().map(topic));
    Some(Mqtt {
        broker: broker?,
        version,
        client_id,
        user,
        ca,
        identity,
        keep_alive,
        max_packet,
        topics: topics?,
    })
}

fn topic(t: &Table<'_>) -> Option<MqttTopic> {
    let filter = t.required("topic", "topic = \"plant/{device}/{point}\"", topic_filter);
    let device = t.optional("device", name);
    let qos = t.or("qos", 1, integer(0..=1));
    let has =
        |placeholder: &str| filter.as_deref().is_some_and(|f| f.split('/').any(|level| level == placeholder));
    if filter.is_some() && !t.has("device") && !has("{device}") {
        t.complain(Complaint::new(
            "nothing names the device",
            "write {device} in the topic, or device = \"…\"",
        ));
    }
    if t.has("device") && has("{device}") {
        t.complain_of(
            "device",
            Complaint::new("the topic names the device already", "leave one of them away"),
        );
    }
    let payload = if t.has("points") {
        let timestamp = t.optional("timestamp", pointer);
        if has("{point}") {
            t.complain_of(
                "points",
                Complaint::new(
                    "`points` name the points, and so does {point} in the topic",
                    "leave one of them away",
                ),
            );
        }
        let found = all(points(t).into_iter().map(|(name, t)| json_point(name, &t)));
        found.map(|points| Payload::Json { timestamp, points })
    } else {
        let point = t.optional("point", name);
        if filter.is_some() && !t.has("point") && !has("{point}") {
            t.complain(Complaint::new(
                "nothing names the point",
                "write {point} in the topic, point = \"…\", or a `points` table for JSON",
            ));
        }
        if t.has("point") && has("{point}") {
            t.complain_of(
                "point",
                Complaint::new("the topic names the point already", "leave one of them away"),
            );
        }
        let data_type = data_type(t);
        Some(Payload::Plain {
            point,
            data_type,
            unit: t.or("unit", String::new(), string),
            kind: kind(t, usual_kind(data_type)),
        })
    };
    t.finish();
    Some(MqttTopic { topic: filter?, device, qos, payload: payload? })
}

fn json_point(name: Option<crate::units::Name>, t: &Table<'_>) -> Option<JsonPoint> {
    let pointer =
        t.required("pointer", "where the value stands in the JSON: pointer = \"/temperature\"", pointer);
    let data_type = data_type(t);
    let meta = meta(name, t, usual_kind(data_type), is_numeric(data_type));
    t.finish();
    Some(JsonPoint { meta: meta?, pointer: pointer?, data_type })
}

fn broker(item: &Item<'_>) -> Result<Broker, Complaint> {
    let text = filled(item)?;
    let bad = |why: &str| {
        Complaint::new(
            format!("\"{text}\" is not a broker: {why}"),
            "example: \"mqtt://10.0.0.9:1883\", \"mqtts://broker.plant:8883\"",
        )
    };
    let (scheme, rest) = text.split_once("://").ok_or_else(|| bad("it begins with mqtt:// or mqtts://"))?;
    let tls = match scheme {
        "mqtt" | "tcp" => false,
        "mqtts" | "ssl" => true,
        _ => return Err(bad("it begins with mqtt:// or mqtts://")),
    };
    let rest = rest.trim_end_matches('/');
    if rest.contains(['/', '@']) || rest.contains(char::is_whitespace) {
        return Err(bad(
            "after the scheme come only host and port; `username` and `password` are keys of their own",
        ));
    }
    let (host, port) = match rest.rsplit_once(':') {
        // A bare IPv6 address has colons and no port.
        Some((host, port)) if !port.ends_with(']') => {
            (host, port.parse().map_err(|_| bad("the port is no number"))?)
        }
        _ => (rest, if tls { 8883 } else { 1883 }),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        Err(bad("the host is missing"))
    } else {
        Ok(Broker { host: host.into(), port, tls })
    }
}

/// An MQTT filter (MQTT 5.0, 4.7) in which `{device}` and `{point}` stand for one level.
fn topic_filter(item: &Item<'_>) -> Result<String, Complaint> {
    let text = filled(item)?;
    let bad = |why: String| {
        Complaint::new(
            format!("\"{text}\" is not a topic: {why}"),
            "example: \"plant/{device}/{point}\", \"sensors/+/{device}/state\"",
        )
    };
    // A shared subscription: its group stands before the filter and never in a topic (MQTT 5, 4.8.2).
    let filter = match text.strip_prefix("$share/") {
        None => text.as_str(),
        Some(rest) => match rest.split_once('/') {
            Some((group, filter))
                if !group.is_empty() && !group.contains(['+', '#', '{', '}']) && !filter.is_empty() =>
            {
                filter
            }
            _ => return Err(bad("a shared subscription is written `$share/GROUP/TOPIC`".into())),
        },
    };
    let levels: Vec<&str> = filter.split('/').collect();
    for (n, level) in levels.iter().enumerate() {
        match *level {
            "+" | "{device}" | "{point}" => {}
            "#" if n + 1 == levels.len() => {}
            "#" => return Err(bad("`#` may only stand at the end".into())),
            other if other.contains(['+', '#']) => {
                return Err(bad(format!("`{other}`: a wildcard is a level of its own")));
            }
            other if other.contains(['{', '}']) => {
                return Err(bad(format!("`{other}`: {{device}} and {{point}} are levels of their own")));
            }
            _ => {}
        }
    }
    for placeholder in ["{device}", "{point}"] {
        if levels.iter().filter(|level| **level == placeholder).count() > 1 {
            return Err(bad(format!("{placeholder} stands twice")));
        }
    }
    Ok(text)
}

/// RFC 6901.
fn pointer(item: &Item<'_>) -> Result<String, Complaint> {
    let text = string(item)?;
    if text.is_empty() || text.starts_with('/') {
        Ok(text)
    } else {
        Err(Complaint::new(
            format!("\"{text}\" is not a JSON pointer"),
            format!("did you mean \"/{}\"?", text.replace('.', "/")),
        ))
    }
}
