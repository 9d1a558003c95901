//! `[link.NAME.opcua]` and its devices.

use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::field::{
    Inherited, all, data_type, devices, existing_file, interval, is_numeric, kind, meta, points_or, together,
    user, usual_kind,
};
use super::findings::Complaint;
use super::table::{Item, Table, wrong_type};
use super::words::{boolean, filled, float, integer, one_of, string};
use crate::field::{
    Deadband, OpcUa, OpcUaDevice, OpcUaFolder, OpcUaMode, OpcUaPart, OpcUaPoint, OpcUaPolicy, OpcUaReading,
    OpcUaSecurity, OpcUaUser, PathPattern, PointKind, Timestamp,
};

/// So many points one entry makes.
const MOST_PARTS: usize = 10_000;
/// What a device without anything to read is told.
const NO_POINTS: &str = "add a `points` table: NAME = { … }, or a [[….folder]] with a `node`";

pub(super) fn opcua(link: &Table<'_>, from: &Inherited) -> Option<OpcUa> {
    let t = link.table("opcua")?;
    let endpoint = t.required("endpoint", "endpoint = \"opc.tcp://10.0.0.7:4840\"", |item| {
        let text = filled(item)?;
        match text.strip_prefix("opc.tcp://") {
            Some(rest) if !rest.is_empty() && !text.contains(char::is_whitespace) => Ok(text),
            _ => Err(Complaint::new(
                format!("\"{text}\" is not an OPC UA endpoint"),
                "example: \"opc.tcp://10.0.0.7:4840\"",
            )),
        }
    });
    let (security, allow_deprecated) = security(&t);
    let user = identity(&t);
    let server_certificate = t.optional("server_certificate", existing_file);
    let trust_first_contact = t.or("trust_first_contact", true, boolean);
    let polls = t.or("mode", false, one_of(&[("subscribe", false), ("poll", true)]));
    let publishing_interval = interval(&t, "publishing_interval", from.interval);
    for key in ["publishing_interval", "queue_size"] {
        if polls && t.has(key) {
            t.complain_of(
                key,
                Complaint::new(
                    "is for `mode = \"subscribe\"`",
                    "leave it away: with \"poll\", `sampling_interval` is how often values are read",
                ),
            );
        }
    }
    let reading = if polls { OpcUaReading::Poll } else { OpcUaReading::Subscribe { publishing_interval } };
    let sampling_interval = interval(&t, "sampling_interval", from.interval);
    let queue_size = t.or("queue_size", 10, integer(1..=100_000));
    let timestamp = t.or(
        "timestamp",
        Timestamp::Agent,
        one_of(&[("agent", Timestamp::Agent), ("source", Timestamp::Source)]),
    );
    t.finish();
    let devices = all(devices(link).into_iter().map(|(name, t)| {
        let folders = all(t.tables("folder").iter().map(|t| folder(t, sampling_interval, polls)));
        // A device of folders needs no points.
        let listed = if t.has("folder") && !t.has("points") { Vec::new() } else { points_or(&t, NO_POINTS) };
        let found = all(listed.into_iter().map(|(name, t)| points(name, &t, sampling_interval, polls)));
        t.finish();
        Some(OpcUaDevice { name: name?, points: found?.concat(), folders: folders? })
    }));
    Some(OpcUa {
        endpoint: endpoint?,
        security,
        allow_deprecated,
        user,
        server_certificate,
        trust_first_contact,
        reading,
        sampling_interval,
        queue_size,
        timestamp,
        devices: devices?,
    })
}

/// `security_policy`, `security_mode` and `allow_deprecated`.
fn security(t: &Table<'_>) -> (OpcUaSecurity, bool) {
    let allow_deprecated = t.or("allow_deprecated", false, boolean);
    let policy = t.or(
        "security_policy",
        None,
        one_of(&[
            ("None", None),
            ("Basic256Sha256", Some(OpcUaPolicy::Basic256Sha256)),
            ("Aes128_Sha256_RsaOaep", Some(OpcUaPolicy::Aes128Sha256RsaOaep)),
            ("Aes256_Sha256_RsaPss", Some(OpcUaPolicy::Aes256Sha256RsaPss)),
            ("Basic256", Some(OpcUaPolicy::Basic256)),
            ("Basic128Rsa15", Some(OpcUaPolicy::Basic128Rsa15)),
        ]),
    );
    let mode = t.optional(
        "security_mode",
        one_of(&[
            ("None", None),
            ("Sign", Some(OpcUaMode::Sign)),
            ("SignAndEncrypt", Some(OpcUaMode::SignAndEncrypt)),
        ]),
    );
    if policy.is_some_and(OpcUaPolicy::is_deprecated) && !allow_deprecated {
        t.complain_of(
            "security_policy",
            Complaint::new(
                "this policy was given up by the standard, because SHA-1 can be forged",
                "take \"Basic256Sha256\"; if the server has nothing better, say so: `allow_deprecated = true`",
            ),
        );
    }
    if mode.is_some_and(|mode| mode.is_some() != policy.is_some()) {
        t.complain_of(
            "security_mode",
            Complaint::new(
                "does not go with `security_policy`",
                "None with None, Sign or SignAndEncrypt with another one; SignAndEncrypt if left away",
            ),
        );
    }
    let security = policy.map_or(OpcUaSecurity::None, |policy| OpcUaSecurity::Secured {
        policy,
        mode: mode.flatten().unwrap_or(OpcUaMode::SignAndEncrypt),
    });
    (security, allow_deprecated)
}

/// `username` and `password`, or `user_certificate` and `user_key`.
fn identity(t: &Table<'_>) -> OpcUaUser {
    let in_clear = t.optional("password_in_clear", boolean);
    let named = user(t);
    let certified = together(
        t,
        ("user_certificate", t.optional("user_certificate", existing_file)),
        ("user_key", t.optional("user_key", existing_file)),
    );
    if in_clear.is_some() && !t.has("password") {
        t.complain_of("password_in_clear", Complaint::new("there is no password", "leave it away"));
    }
    match (named, certified) {
        (None, None) => OpcUaUser::Anonymous,
        (None, Some((certificate, key))) => OpcUaUser::Certificate { certificate, key },
        (Some((name, password)), None) => {
            OpcUaUser::Password { name, password, in_clear: in_clear.unwrap_or(false) }
        }
        (Some((name, password)), Some(_)) => {
            t.complain_of(
                "user_certificate",
                Complaint::new("does not go with `username`", "a server is told one or the other"),
            );
            OpcUaUser::Password { name, password, in_clear: false }
        }
    }
}

/// An entry of `points`: one point, or one for each of `elements`.
fn points(
    name: Option<crate::units::Name>,
    t: &Table<'_>,
    sampling: Duration,
    polls: bool,
) -> Option<Vec<OpcUaPoint>> {
    let node = t.required("node", "node = \"nsu=urn:factory;s=Press.Temperature\"", node_id);
    let parts = parts(t);
    let data_type = data_type(t);
    let meta = meta(name, t, usual_kind(data_type), is_numeric(data_type));
    let sampling_interval = interval(t, "sampling_interval", sampling);
    let deadband = kept_back(t, polls);
    if deadband.is_some() && !is_numeric(data_type) {
        t.complain_of(
            "deadband",
            Complaint::new("`deadband` needs a number, and this type is none", "leave it away"),
        );
    }
    t.finish();
    let (meta, node, parts) = (meta?, node?, parts?);
    let mut points = Vec::with_capacity(parts.len());
    for (index, part) in parts {
        let mut meta = meta.clone();
        match meta.name.element(&index) {
            Ok(name) => meta.name = name,
            Err(why) => {
                t.complain(Complaint::new(why, "its index stands behind the name"));
                return None;
            }
        }
        points.push(OpcUaPoint { meta, node: node.clone(), part, data_type, sampling_interval, deadband });
    }
    Some(points)
}

/// `element` or `elements`, and `field`: the parts of a value, each with what stands behind the point's name.
fn parts(t: &Table<'_>) -> Option<Vec<(String, OpcUaPart)>> {
    let index = |item: &Item<'_>| match item.value.as_integer() {
        Some(number) => Ok(number.to_string()),
        None => filled(item),
    };
    let judged = |elements: Option<&str>, field: Option<&str>, hint: &'static str| {
        OpcUaPart::all(elements, field).map_err(|why| Complaint::new(why, hint))
    };
    let element_hint = "an index from 0, `element = 3`, or one for each dimension, `element = \"[1,2]\"`; \
                        `elements` makes a point of each";
    let elements_hint = "from 0, first and last: `elements = \"0:15\"`, or `\"0:3,0:4\"` of two dimensions";
    let field_hint = "names as the server has them: \"Position.X\", \"Axes[1].Torque\"; `&` before a letter \
                      that is part of a name";
    let element = t.optional("element", |item| {
        let text = index(item)?;
        match judged(Some(&text), None, element_hint)?.len() {
            1 => Ok(text),
            _ => Err(Complaint::new(format!("`{text}` is more than one element"), element_hint)),
        }
    });
    let elements = t.optional("elements", |item| {
        let text = item.value.as_str().map_or_else(
            || Err(wrong_type(item.value, "a range of elements", elements_hint)),
            |_| filled(item),
        )?;
        judged(Some(&text), None, elements_hint)?;
        Ok(text)
    });
    let field = t.optional("field", |item| {
        let text = filled(item)?;
        judged(None, Some(&text), field_hint)?;
        Ok(text)
    });
    for (key, read) in [("element", &element), ("elements", &elements), ("field", &field)] {
        if t.has(key) && read.is_none() {
            return None;
        }
    }
    if element.is_some() && elements.is_some() {
        t.complain_of("elements", Complaint::new("does not go with `element`", "one of them is enough"));
        return None;
    }
    let parts = match judged(element.or(elements).as_deref(), field.as_deref(), field_hint) {
        Ok(parts) => parts,
        Err(complaint) => {
            t.complain_of("field", complaint);
            return None;
        }
    };
    if parts.len() > MOST_PARTS {
        let count = parts.len();
        t.complain(Complaint::new(
            format!("these are {count} points, and {MOST_PARTS} are the most of one entry"),
            "name the elements that are wanted",
        ));
        return None;
    }
    Some(parts)
}

/// One `[[…folder]]`.
fn folder(t: &Table<'_>, sampling: Duration, polls: bool) -> Option<OpcUaFolder> {
    let node = t.required("node", "node = \"nsu=urn:factory;s=Line1\"", node_id);
    let every = || PathPattern::new("**").into_iter().collect();
    let include: Vec<PathPattern> = t.optional("include", path_patterns).unwrap_or_else(every);
    if include.is_empty() {
        t.complain_of("include", Complaint::new("nothing is included", "leave it away for everything"));
    }
    let exclude = t.or("exclude", Vec::new(), path_patterns);
    let depth = t.or("depth", 8, integer(1..=32));
    let max_points = t.or("max_points", 1_000, integer(1..=10_000));
    let unfold = t.or("unfold", 0, integer(0..=1_000));
    let unit = t.or("unit", String::new(), string);
    let kind = t.has("kind").then(|| kind(t, PointKind::Gauge));
    let sampling_interval = interval(t, "sampling_interval", sampling);
    let deadband = kept_back(t, polls);
    t.finish();
    Some(OpcUaFolder {
        node: node?,
        include,
        exclude,
        depth,
        max_points,
        unfold,
        unit,
        kind,
        sampling_interval,
        deadband,
    })
}

/// `include`, `exclude`: one pattern or a list of them.
fn path_patterns(item: &Item<'_>) -> Result<Vec<PathPattern>, Complaint> {
    let hint =
        "ways from the node down: \"Press/Temperature\", \"*/Temp*\" one level down, \"**/Temp*\" anywhere";
    let one = |value: &DeValue<'_>| {
        let text = value.as_str().ok_or_else(|| wrong_type(value, "a pattern", hint))?;
        PathPattern::new(text).map_err(|why| Complaint::new(why, hint))
    };
    match item.value.as_array() {
        Some(list) => list.iter().map(|value: &Spanned<DeValue<'_>>| one(value.get_ref())).collect(),
        None => Ok(vec![one(item.value)?]),
    }
}

/// `deadband`, where the server can keep to it.
fn kept_back(t: &Table<'_>, polls: bool) -> Option<Deadband> {
    let deadband = t.optional("deadband", deadband);
    if deadband.is_some() && polls {
        t.complain_of(
            "deadband",
            Complaint::new(
                "it is the server that keeps small changes back, and only where it is subscribed to",
                "leave it away, or take `mode = \"subscribe\"`",
            ),
        );
    }
    deadband
}

/// `0.5` in the node's own unit, or `"2%"` of its range.
pub(super) fn deadband(item: &Item<'_>) -> Result<Deadband, Complaint> {
    let hint = "write 0.5 for the node's own unit, or \"2%\" of its range";
    let positive = |number: f64| {
        let good = number.is_finite() && number > 0.0;
        good.then_some(number)
            .ok_or_else(|| Complaint::new("a deadband is more than 0", "leave it away to get every change"))
    };
    if item.value.as_str().is_none() {
        return positive(float(item)?).map(Deadband::Absolute);
    }
    let text = filled(item)?;
    let number = text.trim().strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
    let percent = number.ok_or_else(|| Complaint::new(format!("\"{text}\" is not a deadband"), hint))?;
    if percent > 100.0 {
        return Err(Complaint::new(format!("\"{text}\" is more than the whole range"), hint));
    }
    positive(percent).map(Deadband::Percent)
}

/// `nsu=URI;s=Name`, `ns=2;i=1234`, `i=2258` (OPC UA Part 6, 5.3.1.10), or a browse path.
fn node_id(item: &Item<'_>) -> Result<String, Complaint> {
    let text = filled(item)?;
    if let Some(way) = text.strip_prefix('/') {
        return match browse_path(way) {
            Ok(()) => Ok(text),
            Err(why) => Err(Complaint::new(
                format!("\"{text}\" is not a browse path: {why}"),
                "example: \"/Objects/nsu=urn:factory;Press/2:Temperature\"; `&` before a letter that is part of a name",
            )),
        };
    }
    let bad = |why: &str| {
        Complaint::new(
            format!("\"{text}\" is not a node id: {why}"),
            "example: \"nsu=urn:factory;s=Press.Temperature\", \"ns=2;i=1234\"",
        )
    };
    let identifier = if let Some(rest) = text.strip_prefix("nsu=") {
        match rest.split_once(';') {
            Some((uri, identifier)) if !uri.is_empty() => identifier,
            _ => return Err(bad("after `nsu=URI` a `;` must follow")),
        }
    } else if let Some(rest) = text.strip_prefix("ns=") {
        match rest.split_once(';') {
            Some((index, identifier)) if index.parse::<u16>().is_ok() => identifier,
            _ => return Err(bad("after `ns=` a number and a `;` must follow")),
        }
    } else {
        &text
    };
    match identifier.split_once('=') {
        Some(("i", number)) if number.parse::<u32>().is_ok() => Ok(text),
        Some(("i", _)) => Err(bad("`i=` takes a number")),
        Some(("s" | "g" | "b", value)) if !value.is_empty() => Ok(text),
        _ => Err(bad("the identifier is one of i=, s=, g=, b=")),
    }
}

/// Steps between `/`: a name, behind `2:` or `nsu=URI;`; `&` takes the meaning from the letter
/// behind it.
fn browse_path(mut rest: &str) -> Result<(), &'static str> {
    loop {
        if let Some(uri) = rest.strip_prefix("nsu=") {
            rest = match uri.split_once(';') {
                Some((uri, name)) if !uri.is_empty() => name,
                _ => return Err("after `nsu=URI` a `;` and a name must follow"),
            };
        } else if let Some((index, name)) = rest.split_once(':')
            && !index.is_empty()
            && index.bytes().all(|letter| letter.is_ascii_digit())
        {
            if index.parse::<u16>().is_err() {
                return Err("a namespace index is at most 65535");
            }
            rest = name;
        }
        let mut letters = rest.char_indices();
        let mut end = None;
        while let Some((at, letter)) = letters.next() {
            match letter {
                '/' => {
                    end = Some(at);
                    break;
                }
                '&' if letters.next().is_none() => return Err("`&` takes a letter behind it"),
                _ => {}
            }
        }
        match end {
            Some(0) => return Err("a step has no name"),
            None if rest.is_empty() => return Err("a step has no name"),
            Some(end) => rest = &rest[end + 1..],
            None => return Ok(()),
        }
    }
}
