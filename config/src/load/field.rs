//! What the protocols share below `[link.NAME]`: devices, points, and the keys that mean the same
//! everywhere.

use std::time::Duration;

use super::findings::Complaint;
use super::table::{Item, Table};
use super::words::{duration, filled, float, one_of, secret, string};
use crate::field::{DataType, PointKind, PointMeta};
use crate::units::{Name, Secret};

/// No interval is shorter.
pub(super) const FASTEST: Duration = Duration::from_millis(10);

/// What a link hands down to its protocol.
pub(super) struct Inherited {
    pub interval: Duration,
    /// `forebay-SITE-GATEWAY-LINK`: how we name ourselves to brokers.
    pub client_id: String,
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
    points_or(t, "add a `points` table: NAME = { … }")
}

/// As [`points`], with the way out where there are none.
pub(super) fn points_or<'a>(t: &Table<'a>, way_out: &str) -> Vec<(Option<Name>, Table<'a>)> {
    let found = t.table("points").map(|points| points.named_tables()).unwrap_or_default();
    if found.is_empty() {
        t.complain(Complaint::new("there are no points", way_out));
    }
    found.into_iter().map(|(name, table)| (checked_name(name, &table), table)).collect()
}

/// The name of a table as a [`Name`]; what is wrong with it is noted.
pub(super) fn checked_name(name: &str, t: &Table<'_>) -> Option<Name> {
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

/// A pair of keys that only make sense together.
pub(super) fn together<A, B>(
    t: &Table<'_>,
    a: (&'static str, Option<A>),
    b: (&'static str, Option<B>),
) -> Option<(A, B)> {
    match (a, b) {
        ((_, Some(a)), (_, Some(b))) => Some((a, b)),
        ((here, Some(_)), (missing, None)) | ((missing, None), (here, Some(_))) if !t.has(missing) => {
            t.complain(Complaint::new(format!("`{here}` needs `{missing}` beside it"), ""));
            None
        }
        _ => None,
    }
}

/// `username` and `password`.
pub(super) fn user(t: &Table<'_>) -> Option<(String, Secret)> {
    together(t, ("username", t.optional("username", filled)), ("password", t.optional("password", secret)))
}
