//! The agent's state at one moment: one source for `/metrics`, `/status`, the words systemd shows
//! and the report the server gets. Reads what the tasks show anyway; changes nothing.

use std::time::Duration;

use forebay_protocols::boot_time::BootTime;
use forebay_protocols::sync::wire;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::buffer;
use crate::clock::Clock;
use crate::gaps::Tally;
use crate::ledger::{Books, Ledger};
use crate::link::{LinkState, LinkStatus};
use crate::roster::{Entry, Roster};
use crate::uplink::UplinkStatus;

/// This program's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Where everything about the agent can be seen.
pub struct Board {
    /// The ledger's books.
    pub books: Books,
    /// The durable half of the ledger; `None` until the buffer is open.
    pub buffer: Box<dyn Fn() -> Option<buffer::Status> + Send + Sync>,
    /// Links, in the order of the configuration.
    pub links: Roster,
    /// What became of the configuration when it was read again.
    pub config: watch::Receiver<ConfigShown>,
    /// The uplink.
    pub uplink: watch::Receiver<UplinkStatus>,
    /// The clock.
    pub clock: Clock,
    /// Gaps that were recorded.
    pub gaps: Tally,
    /// When the agent started.
    pub started: BootTime,
}

/// Everything, at one moment. As JSON it is the answer of `/status`.
#[derive(Clone, Debug, Serialize)]
pub struct Snapshot {
    /// This program's version.
    pub version: &'static str,
    /// Its process.
    pub process: u32,
    /// Seconds since the agent started.
    pub uptime_s: u64,
    /// When it started, by the wall time that is believed now, microseconds since 1970.
    pub started_us: i64,
    /// Wall time as believed, microseconds since 1970.
    pub wall_us: i64,
    /// Is it trusted?
    pub synchronised: bool,
    /// Where that comes from.
    pub clock: ClockShown,
    /// The configuration.
    pub config: ConfigShown,
    /// Where every reading is.
    pub ledger: Ledger,
    /// Readings by which the ledger does not close.
    pub imbalance: u64,
    /// Gaps recorded since the agent started.
    pub gaps: GapsShown,
    /// What the flash holds.
    pub buffer: BufferShown,
    /// The way to the server.
    pub uplink: UplinkShown,
    /// The field.
    pub links: Vec<LinkShown>,
}

/// The configuration in a [`Snapshot`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ConfigShown {
    /// What was wrong when it was read last, for people; empty when it was taken. Meanwhile the one
    /// before runs.
    pub mistakes: Vec<String>,
    /// Keys that have changed and need a restart.
    pub needs_restart: Vec<&'static str>,
    /// How often it was read again and taken, since the start.
    pub applied: u64,
    /// How often it was not.
    pub refused: u64,
}

/// The buffer in a [`Snapshot`].
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "the words say it")]
pub struct BufferShown {
    /// `opening`, `open`.
    pub state: &'static str,
    pub backlog_batches: u64,
    pub backlog_bytes: u64,
    /// Seconds that the oldest of the backlog has waited; `None` if nothing waits, or for a minute and more, or since
    /// before the agent was started.
    pub oldest_s: Option<f64>,
    pub disk_bytes: u64,
    pub limit_bytes: u64,
    pub tail_bytes: u64,
    pub dropped_full: u64,
    pub dropped_corrupt: u64,
    pub dropped_thinned: u64,
    pub writable: bool,
}

/// The clock in a [`Snapshot`].
#[derive(Clone, Debug, Serialize)]
pub struct ClockShown {
    /// Whose word it is: `system`, `server`, `nobody`.
    pub source: &'static str,
    /// Seconds that the system's clock is ahead of it.
    pub system_ahead_s: f64,
    /// Earlier boots that nobody knows exactly the time of.
    pub boots_unsure: usize,
}

/// Gaps in a [`Snapshot`], by reason. Those for readings that are gone are the buffer's, and its
/// dropped readings are counted there.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "the words say it")]
pub struct GapsShown {
    pub device_silent: u64,
    pub agent_down: u64,
}

/// The uplink in a [`Snapshot`].
#[derive(Clone, Debug, Serialize)]
pub struct UplinkShown {
    /// `waiting` until the buffer is open, `not_joined`, `connecting`, `up`, `troubled`.
    pub state: &'static str,
    /// Why it is troubled, or what must be known while it is up.
    pub words: String,
    /// Seconds since the server acknowledged something; `None` if it did not since the start.
    pub acknowledged_s: Option<f64>,
}

/// A link in a [`Snapshot`].
#[derive(Clone, Debug, Serialize)]
pub struct LinkShown {
    /// The link's name.
    pub name: String,
    /// Its protocol, as in the configuration.
    pub protocol: &'static str,
    /// `connecting`, `connected`, `backing_off`, `gave_up`, `stopped`.
    pub state: &'static str,
    /// Why it is not connected.
    pub words: String,
    /// Seconds until the next attempt, while it is waited for.
    pub next_attempt_s: Option<f64>,
    /// Readings taken since the link was started.
    pub readings: u64,
    /// Readings a second over about the last minute; `None` while that cannot be told.
    pub per_second: Option<f64>,
    /// Failed attempts in a row.
    pub attempts: u32,
    /// Connections made so far.
    pub connections: u64,
    /// Messages and frames that gave no reading.
    pub discarded: u64,
    /// The line, where the protocol knows how busy it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bus: Option<BusShown>,
    /// Its devices.
    pub devices: Vec<DeviceShown>,
}

/// A line in a [`Snapshot`]: in use from a query, with the silence before it, until its answer or the
/// timeout.
#[derive(Clone, Debug, Serialize)]
pub struct BusShown {
    /// The share of about the last minute in which it was in use, 0 to 1.
    pub utilisation: f64,
    /// Seconds in which it was in use since the start of the link.
    pub busy_s: f64,
}

/// A device in a [`Snapshot`].
#[derive(Clone, Debug, Serialize)]
pub struct DeviceShown {
    /// The device's name.
    pub name: String,
    /// Does it answer?
    pub answers: bool,
    /// Why it does not.
    pub words: String,
}

impl Board {
    /// Looks at everything once.
    pub fn snapshot(&self) -> Snapshot {
        let status = (self.buffer)();
        let acknowledged = status.and_then(|status| status.acknowledged_at);
        let acknowledged_s = acknowledged.map(|at| rounded(BootTime::now().since(at)));
        let buffer = BufferShown::new(status);
        let belief = self.clock.belief();
        let ledger = self.books.ledger(|| (self.buffer)().unwrap_or_default());
        Snapshot {
            version: VERSION,
            process: std::process::id(),
            uptime_s: BootTime::now().since(self.started).as_secs(),
            started_us: self.started.0.saturating_add(belief.offset_us),
            wall_us: self.clock.wall_us(),
            synchronised: belief.synchronised(),
            clock: ClockShown {
                source: belief.source.word(),
                system_ahead_s: self.clock.system_ahead_us() as f64 / 1e6,
                boots_unsure: self.clock.boots_unsure(),
            },
            config: self.config.borrow().clone(),
            ledger,
            imbalance: ledger.imbalance(),
            gaps: GapsShown { device_silent: self.gaps.device_silent(), agent_down: self.gaps.agent_down() },
            uplink: match buffer.state {
                "opening" => UplinkShown {
                    state: "waiting",
                    words: "the buffer is not open yet".into(),
                    acknowledged_s,
                },
                _ => UplinkShown::new(&self.uplink.borrow(), acknowledged_s),
            },
            buffer,
            links: self.links.entries().iter().map(LinkShown::new).collect(),
        }
    }

    /// What the server is told with every request.
    pub fn report(&self) -> wire::Report {
        let Snapshot { version, uptime_s, wall_us, synchronised, ledger, buffer, links, .. } =
            self.snapshot();
        let devices = links.into_iter().flat_map(|link| {
            let LinkShown { name: link, devices, .. } = link;
            devices.into_iter().map(move |DeviceShown { name, answers, words }| wire::report::Device {
                link: link.clone(),
                device: name,
                answers,
                words,
            })
        });
        wire::Report {
            // Whoever sends it knows.
            ca_generation: 0,
            version: version.into(),
            boot_counter: self.clock.boot_counter(),
            wall_us,
            synchronised,
            produced: ledger.produced,
            filtered: ledger.filtered,
            appended: ledger.appended,
            dropped: ledger.dropped,
            acknowledged: ledger.acknowledged,
            backlog_batches: buffer.backlog_batches,
            backlog_readings: ledger.backlog,
            backlog_bytes: buffer.backlog_bytes,
            buffer_limit_bytes: buffer.limit_bytes,
            devices: devices.collect(),
            uptime_s,
            in_hand: ledger.in_hand,
            received_us: 0,
            dropped_full: buffer.dropped_full,
            dropped_corrupt: buffer.dropped_corrupt,
            dropped_thinned: buffer.dropped_thinned,
            tail_bytes: buffer.tail_bytes,
        }
    }

    /// One line for `systemctl status`.
    pub fn words(&self) -> String {
        let Snapshot { config, ledger, buffer, uplink, links, .. } = self.snapshot();
        let config = match config.mistakes.len() {
            0 => String::new(),
            1 => "The configuration has 1 mistake and was not reloaded, see the log. ".into(),
            n => format!("The configuration has {n} mistakes and was not reloaded, see the log. "),
        };
        let up = links.iter().filter(|link| link.state == "connected").count();
        let server = match uplink.state {
            "not_joined" => "not joined",
            "troubled" => "server out of reach",
            state => state,
        };
        let disk = match buffer.state {
            "opening" => " The buffer is being opened; readings are held.",
            _ if buffer.writable => "",
            _ => " The disk refuses writes.",
        };
        format!(
            "{config}{up} of {} links up, {} readings in the buffer, uplink: {server}.{disk}",
            links.len(),
            ledger.backlog
        )
    }
}

/// Seconds, to the tenth.
fn rounded(span: Duration) -> f64 {
    (span.as_secs_f64() * 10.0).round() / 10.0
}

impl BufferShown {
    fn new(status: Option<buffer::Status>) -> Self {
        let state = if status.is_some() { "open" } else { "opening" };
        let status = status.unwrap_or_default();
        Self {
            state,
            backlog_batches: status.backlog_batches,
            backlog_bytes: status.backlog_bytes,
            oldest_s: status.oldest_waits.map(rounded),
            disk_bytes: status.disk_bytes,
            limit_bytes: status.limit_bytes,
            tail_bytes: status.tail_bytes,
            dropped_full: status.dropped_by.full,
            dropped_corrupt: status.dropped_by.corrupt,
            dropped_thinned: status.dropped_by.thinned,
            writable: status.writable,
        }
    }
}

impl UplinkShown {
    fn new(status: &UplinkStatus, acknowledged_s: Option<f64>) -> Self {
        let (state, words) = match status {
            UplinkStatus::NotJoined => ("not_joined", ""),
            UplinkStatus::Connecting => ("connecting", ""),
            UplinkStatus::Up => ("up", ""),
            UplinkStatus::UpBut(words) => ("up", words.as_str()),
            UplinkStatus::Troubled(words) => ("troubled", words.as_str()),
        };
        Self { state, words: words.into(), acknowledged_s }
    }
}

impl LinkShown {
    fn new(entry: &Entry) -> Self {
        let Entry { name, status, rate, protocol, index: _, silences: _ } = entry;
        let status: &LinkStatus = &status.borrow();
        let (state, words) = match &status.state {
            LinkState::Connecting => ("connecting", ""),
            LinkState::Connected => ("connected", ""),
            LinkState::BackingOff(words) => ("backing_off", words.as_str()),
            LinkState::GaveUp(words) => ("gave_up", words.as_str()),
            LinkState::Stopped => ("stopped", ""),
        };
        let devices = status.devices.keys().map(|device| {
            let (answers, words) = status.device(device);
            DeviceShown { name: device.to_string(), answers, words }
        });
        Self {
            name: name.to_string(),
            protocol,
            state,
            words: words.into(),
            next_attempt_s: status
                .next_attempt
                .map(|at| rounded(at.saturating_duration_since(Instant::now()))),
            readings: rate.total(),
            per_second: rate.per_second(BootTime::now()).map(|rate| (rate * 1e3).round() / 1e3),
            attempts: status.attempts,
            connections: status.connections,
            discarded: status.discarded,
            bus: status.occupancy.as_ref().map(|line| BusShown {
                utilisation: (line.share() * 1e4).round() / 1e4,
                busy_s: (line.busy().as_secs_f64() * 1e3).round() / 1e3,
            }),
            devices: devices.collect(),
        }
    }
}
