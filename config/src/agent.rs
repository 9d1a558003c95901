//! The agent's configuration: `/etc/forebay/agent.toml` and `agent.d/*.toml`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::classes::Class;
use crate::field::Link;
use crate::processing::Rule;
use crate::units::{ByteSize, Name, Secret};

/// Everything `forebay-agent` may be told.
#[derive(Clone, Debug, PartialEq)]
pub struct Agent {
    /// `[agent] site`: the place.
    pub site: Name,
    /// `[agent] gateway`: this computer.
    pub gateway: Name,
    /// `[agent] state_dir`: identity, buffer, boot counter. Default `/var/lib/forebay`.
    pub state_dir: PathBuf,
    /// `[buffer]`.
    pub buffer: Buffer,
    /// `[class.NAME]`: points with a rule of their own for a full buffer, in the order of the file.
    pub classes: Vec<Class>,
    /// `[processing.NAME]`: what is done with readings before they are kept, in the order of the file.
    pub processing: Vec<Rule>,
    /// `[uplink]`. Where to and with which certificate is learnt by `forebay-agent join`.
    pub uplink: Uplink,
    /// `[telemetry]`.
    pub telemetry: Telemetry,
    /// `[log]`.
    pub log: Log,
    /// `[link.NAME]`, in the order of the files. Shared: a link may have ten thousand points, and its driver,
    /// who starts it anew, and who compares it with what is read later look at the same ones.
    pub links: Vec<Arc<Link>>,
}

/// `[buffer]`: what is kept while the link is down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// `max_size`: hard budget on disk, overhead included. Default 1 GiB.
    pub max_size: ByteSize,
    /// `reserve`: free space to leave on the file system. Default 64 MiB.
    pub reserve: ByteSize,
    /// `durability_window`: how long a reading may wait for its batch to be written. Default 1 s.
    pub durability_window: Duration,
    /// `when_full`, of points that no class names. Default drop the oldest.
    pub when_full: WhenFull,
    /// `tail`: acknowledged batches that are kept, within `max_size`, to refill a server that was
    /// restored from a backup. Default 16 MiB, or a quarter of `max_size` if that is less; 0 keeps none.
    pub tail: ByteSize,
}

impl Default for Buffer {
    fn default() -> Self {
        Self {
            max_size: ByteSize::mib(1024),
            reserve: ByteSize::mib(64),
            durability_window: Duration::from_secs(1),
            when_full: WhenFull::DropOldest,
            tail: ByteSize::mib(16),
        }
    }
}

/// `when_full`: what gives way when the budget is used up. Always with a gap record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// `"drop_oldest"`.
    DropOldest,
    /// `"stop"`: devices are not read until there is room.
    Stop,
    /// `"thin"`: the resolution of the oldest data is halved, again and again, before any is dropped.
    Thin,
}

/// `[uplink]`: how the buffer reaches the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// `request_timeout`: the longest wait for one answer. Default 30 s.
    pub request_timeout: Duration,
    /// `max_request`: the most bytes of batches in one request. Default 1 MiB.
    pub max_request: ByteSize,
    /// `heartbeat`: the longest silence towards the server. Default 60 s.
    pub heartbeat: Duration,
    /// `backoff_max`: the longest pause after failures. Default 60 s.
    pub backoff_max: Duration,
    /// `order`. Default the newest readings first.
    pub order: Order,
    /// `connections`: the most that are open at once, 1 to 16. There is one, and there are more only
    /// while a backlog drains. Default 4.
    pub connections: u8,
    /// `bandwidth`: bytes a second, both ways, averaged over a few seconds. Default unlimited.
    pub bandwidth: Option<ByteSize>,
    /// `daily`: bytes in any 24 hours, both ways, since the agent started. The backlog may use half
    /// of them. When they are spent, only a heartbeat an hour goes. Default unlimited.
    pub daily: Option<ByteSize>,
    /// `hours`: when the backlog may be sent, in UTC. Fresh readings go at any time. Default always.
    pub hours: Option<Hours>,
    /// `proxy`: the HTTP proxy on the way to the server. Default none.
    pub proxy: Option<Proxy>,
}

/// `uplink.order`: what goes first when there is a backlog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// `"fresh_first"`: what was just read; the backlog drains behind it.
    FreshFirst,
    /// `"in_order"`: the oldest, one request at a time.
    InOrder,
}

/// `uplink.hours`: a part of each day, minutes since midnight UTC, the end not inside. It may lie
/// across midnight. Made by [`Hours::new`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hours {
    from: u16,
    to: u16,
}

impl Hours {
    /// Minutes of a day.
    pub const DAY: u16 = 24 * 60;

    /// From a minute of the day to another one; `None` where there is no such minute, or no time
    /// between them.
    pub fn new(from: u16, to: u16) -> Option<Self> {
        (from < Self::DAY && to <= Self::DAY && from != to).then_some(Self { from, to })
    }

    /// Does this minute of the day lie inside?
    pub fn contains(self, minute: u16) -> bool {
        let Self { from, to } = self;
        if from < to { (from..to).contains(&minute) } else { minute >= from || minute < to }
    }
}

/// `uplink.proxy`: `http://user:password@host:port`, asked with CONNECT. What passes through it is
/// encrypted between agent and server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// `host:port`.
    pub address: String,
    /// Sent as HTTP Basic.
    pub user: Option<(String, Secret)>,
}

impl Default for Uplink {
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_secs(30),
            max_request: ByteSize::mib(1),
            heartbeat: Duration::from_secs(60),
            backoff_max: Duration::from_secs(60),
            order: Order::FreshFirst,
            connections: 4,
            bandwidth: None,
            daily: None,
            hours: None,
            proxy: None,
        }
    }
}

/// `[telemetry]`: `/metrics`, `/livez`, `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telemetry {
    /// `listen`: a loopback address, or `"off"`. Default `127.0.0.1:9469`.
    pub listen: Option<SocketAddr>,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { listen: Some(SocketAddr::from(([127, 0, 0, 1], 9469))) }
    }
}

/// `[log]`, of agent and server alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// `format`. Default: journald under systemd, else text.
    pub format: LogFormat,
    /// `level`: `error`, `warn`, `info`, `debug` or `trace`. Default `info`.
    pub level: LogLevel,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Auto, level: LogLevel::Info }
    }
}

/// `log.format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// `"auto"`: journald when started by systemd, text otherwise.
    Auto,
    /// `"text"` on standard error.
    Text,
    /// `"json"` on standard error, one object a line.
    Json,
    /// `"journald"`, with fields.
    Journald,
}

/// `log.level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words say it")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}
