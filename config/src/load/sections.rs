//! The top-level sections of both configurations.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeTable;

use super::field::{all, checked_name};
use super::findings::{Book, Complaint};
use super::table::{File, Table};
use super::words::{
    boolean, byte_size, duration, host_port, integer, loopback, name, one_of, path, secret, socket,
};
use super::{link, processing};
use crate::access::Access;
use crate::agent::{Agent, Buffer, Log, LogFormat, LogLevel, Telemetry, Uplink, WhenFull};
use crate::classes::Class;
use crate::retention::Retention;
use crate::server::{Server, Store, Sync, Web};
use crate::units::{ByteSize, Name};

/// Default state directories, as the packages make them.
const AGENT_STATE: &str = "/var/lib/forebay";
const SERVER_STATE: &str = "/var/lib/forebay-server";

pub(super) fn agent(files: &[File], book: &Book) -> Option<Agent> {
    let parsed = parse(files, book);
    let roots = roots(files, &parsed, book);
    let header = section(&roots, "agent");
    let (site, gateway, state_dir) = match &header {
        Some(t) => {
            let found = (
                t.required("site", "the place this gateway stands in: site = \"north\"", name),
                t.required("gateway", "this computer's name: gateway = \"boiler-house\"", name),
                t.or("state_dir", AGENT_STATE.into(), path),
            );
            t.finish();
            found
        }
        None => {
            if let Some(root) = roots.first() {
                root.complain(Complaint::new(
                    "[agent] is missing",
                    "begin with [agent], site = \"…\" and gateway = \"…\"",
                ));
            }
            (None, None, PathBuf::new())
        }
    };
    let buffer = section(&roots, "buffer").map_or_else(Buffer::default, |t| buffer(&t));
    let classes =
        section(&roots, "class").map_or_else(|| Some(Vec::new()), |t| classes(&t, buffer.when_full));
    let processing =
        section(&roots, "processing").map_or_else(|| Some(Vec::new()), |t| processing::rules(&t));
    let uplink = section(&roots, "uplink").map_or_else(Uplink::default, |t| super::uplink::uplink(&t));
    let telemetry = section(&roots, "telemetry").map_or_else(Telemetry::default, |t| telemetry(&t));
    let log = section(&roots, "log").map_or_else(Log::default, |t| log(&t));
    let owner = (site.as_ref().map(ToString::to_string), gateway.as_ref().map(ToString::to_string));

    let mut links = Vec::new();
    let mut seen: BTreeMap<&str, String> = BTreeMap::new();
    let mut devices: BTreeMap<Name, &str> = BTreeMap::new();
    for table in roots.iter().filter_map(|root| root.table("link")) {
        for (link_name, link) in table.named_tables() {
            if let Some(first) = seen.insert(link_name, link.place()) {
                link.complain(Complaint::new(
                    "this link stands in two files",
                    format!("it begins at {first}"),
                ));
                continue;
            }
            let found = link::link(link_name, &link, &owner);
            for device in found.iter().flat_map(|found| found.device_names()) {
                if let Some(other) = devices.insert(device.clone(), link_name) {
                    let words = format!("device `{device}` stands in link `{other}` too");
                    link.complain(Complaint::new(
                        words,
                        "a device's name is part of its points' paths: give each its own",
                    ));
                }
            }
            links.push(found.map(Arc::new));
        }
    }
    roots.iter().for_each(Table::finish);
    let links = links.into_iter().collect::<Option<Vec<_>>>();
    Some(Agent {
        site: site?,
        gateway: gateway?,
        state_dir,
        buffer,
        classes: classes?,
        processing: processing?,
        uplink,
        telemetry,
        log,
        links: links?,
    })
}

pub(super) fn server(files: &[File], book: &Book) -> Option<Server> {
    let parsed = parse(files, book);
    let roots = roots(files, &parsed, book);
    let state_dir = section(&roots, "server").map_or_else(
        || SERVER_STATE.into(),
        |t| {
            let found = t.or("state_dir", SERVER_STATE.into(), path);
            t.finish();
            found
        },
    );
    let store = match section(&roots, "store") {
        Some(t) => store(&t, &state_dir),
        None => Some(Store::Sqlite { path: state_dir.join("forebay.db") }),
    };
    let retention = section(&roots, "retention")
        .map_or_else(|| Some(Retention::default()), |t| super::retention::retention(&t));
    let alarms = super::alarms::alarms(section(&roots, "alarm"), section(&roots, "webhook"));
    let sync = section(&roots, "sync").map_or_else(Sync::default, |t| sync(&t));
    let web = section(&roots, "web").map_or_else(Web::default, |t| super::access::web(&t));
    let table = section(&roots, "access");
    let access = table.as_ref().map_or_else(Access::default, super::access::access);
    super::access::agree(table.as_ref(), access, &web);
    let log = section(&roots, "log").map_or_else(Log::default, |t| log(&t));
    roots.iter().for_each(Table::finish);
    let (store, retention, alarms) = (store?, retention?, alarms?);
    Some(Server { state_dir, store, retention, alarms, sync, web, access, log })
}

fn parse<'a>(files: &'a [File], book: &Book) -> Vec<Spanned<DeTable<'a>>> {
    files.iter().map(|file| file.parse(book)).collect()
}

fn roots<'a>(files: &'a [File], parsed: &'a [Spanned<DeTable<'a>>], book: &'a Book) -> Vec<Table<'a>> {
    files.iter().zip(parsed).map(|(file, table)| Table::root(book, file, table)).collect()
}

/// The one table of a name over all files.
fn section<'a>(roots: &[Table<'a>], key: &'static str) -> Option<Table<'a>> {
    let mut found: Option<Table<'a>> = None;
    for table in roots.iter().filter_map(|root| root.table(key)) {
        match &found {
            Some(first) => {
                table.complain(Complaint::new(
                    format!("[{key}] stands in two files"),
                    format!("keep the one at {}", first.place()),
                ));
            }
            None => found = Some(table),
        }
    }
    found
}

fn buffer(t: &Table<'_>) -> Buffer {
    let default = Buffer::default();
    let max_size = t.or("max_size", default.max_size, byte_size(ByteSize::mib(4)));
    let found = Buffer {
        max_size,
        reserve: t.or("reserve", default.reserve, byte_size(ByteSize(0))),
        durability_window: t.or(
            "durability_window",
            default.durability_window,
            duration(Duration::from_millis(10)),
        ),
        when_full: when_full(t, default.when_full),
        tail: t.or("tail", default.tail.min(ByteSize(max_size.0 / 4)), byte_size(ByteSize(0))),
    };
    if found.tail.0 > max_size.0 / 2 {
        t.complain_of(
            "tail",
            Complaint::new(
                format!("{} leaves too little of max_size = {max_size} to what was not sent yet", found.tail),
                format!("at most half of it, {}; or \"0B\" to keep nothing", ByteSize(max_size.0 / 2)),
            ),
        );
    }
    t.finish();
    found
}

fn when_full(t: &Table<'_>, default: WhenFull) -> WhenFull {
    t.or(
        "when_full",
        default,
        one_of(&[("drop_oldest", WhenFull::DropOldest), ("stop", WhenFull::Stop), ("thin", WhenFull::Thin)]),
    )
}

/// `[class.NAME]`, all of them.
fn classes(t: &Table<'_>, usual: WhenFull) -> Option<Vec<Class>> {
    all(t.named_tables().into_iter().map(|(name, t)| {
        let name = checked_name(name, &t);
        let when_full = when_full(&t, usual);
        let points = t.required("points", "points = [\"pump/fault\", \"*/alarm_*\"]", processing::patterns);
        t.finish();
        Some(Class { name: name?, when_full, points: points? })
    }))
}

fn telemetry(t: &Table<'_>) -> Telemetry {
    let listen = t.or("listen", Telemetry::default().listen, |item| {
        if item.value.as_str() == Some("off") {
            return Ok(None);
        }
        loopback("use 127.0.0.1 or [::1], or \"off\"; metrics carry the plant's names")(item).map(Some)
    });
    t.finish();
    Telemetry { listen }
}

fn log(t: &Table<'_>) -> Log {
    let default = Log::default();
    let found = Log {
        format: t.or(
            "format",
            default.format,
            one_of(&[
                ("auto", LogFormat::Auto),
                ("text", LogFormat::Text),
                ("json", LogFormat::Json),
                ("journald", LogFormat::Journald),
            ]),
        ),
        level: t.or(
            "level",
            default.level,
            one_of(&[
                ("error", LogLevel::Error),
                ("warn", LogLevel::Warn),
                ("info", LogLevel::Info),
                ("debug", LogLevel::Debug),
                ("trace", LogLevel::Trace),
            ]),
        ),
    };
    t.finish();
    found
}

fn store(t: &Table<'_>, state_dir: &std::path::Path) -> Option<Store> {
    let file = t.optional("path", path);
    let url = t.optional("url", |item| {
        let url = secret(item)?;
        if url.reveal().starts_with("postgres://") || url.reveal().starts_with("postgresql://") {
            Ok(url)
        } else {
            // The value may hold a password: it is not repeated.
            Err(Complaint::new(
                "is not a database address",
                "example: \"postgres://forebay:${credential:db}@db.example/forebay\"",
            ))
        }
    });
    let connections = t.or("connections", 8, integer(1..=100));
    t.finish();
    match (file, url, t.has("url")) {
        (Some(_), Some(_), _) => {
            t.complain(Complaint::new(
                "`path` and `url` exclude each other",
                "`path` is SQLite, `url` is TimescaleDB or PostgreSQL",
            ));
            None
        }
        (_, Some(url), _) => Some(Store::Postgres { url, connections }),
        (_, None, true) => None,
        (file, None, false) => {
            Some(Store::Sqlite { path: file.unwrap_or_else(|| state_dir.join("forebay.db")) })
        }
    }
}

fn sync(t: &Table<'_>) -> Sync {
    let default = Sync::default();
    let listen = t.or("listen", default.listen, socket);
    let found = Sync {
        listen,
        address: t.optional("address", host_port(listen.port())),
        max_request: t.or("max_request", default.max_request, byte_size(ByteSize::kib(64))),
        approval: t.or("approval", default.approval, boolean),
    };
    t.finish();
    found
}
