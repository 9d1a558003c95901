//! How the agent is watched: `/metrics`, `/livez`, `/readyz` and `/status` on loopback.
//!
//! All metric names stand in this file. Nothing counts for the metrics' sake: at every look the
//! figures are taken from the ledger and the tasks' own state, so that they cannot tell otherwise.

mod exposition;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use self::exposition::{Exposition, Metric};
use crate::clock::Source;
use crate::status::{Board, Snapshot};

const PRODUCED: Metric = Metric::counter(
    "forebay_agent_readings_produced_total",
    "Readings taken from the field since the epoch began.",
);
const FILTERED: Metric =
    Metric::counter("forebay_agent_readings_filtered_total", "Readings left out by point processing.");
const APPENDED: Metric = Metric::counter("forebay_agent_readings_appended_total", "Readings made durable.");
const DROPPED: Metric =
    Metric::counter("forebay_agent_readings_dropped_total", "Readings given up, each with a gap record.");
const ACKNOWLEDGED: Metric =
    Metric::counter("forebay_agent_readings_acknowledged_total", "Readings the server committed.");
const IN_HAND: Metric =
    Metric::gauge("forebay_agent_readings_in_hand", "Readings on the way from a link to the flash.");
const BACKLOG_READINGS: Metric =
    Metric::gauge("forebay_agent_backlog_readings", "Readings durable and not acknowledged.");
const BACKLOG_BATCHES: Metric =
    Metric::gauge("forebay_agent_backlog_batches", "Batches durable and not acknowledged.");
const BACKLOG_BYTES: Metric =
    Metric::gauge("forebay_agent_backlog_bytes", "Bytes of batches not acknowledged.");
const BUFFER_BYTES: Metric =
    Metric::gauge("forebay_agent_buffer_bytes", "Bytes of the buffer on disk, overhead included.");
const BUFFER_LIMIT: Metric = Metric::gauge("forebay_agent_buffer_limit_bytes", "The buffer's budget.");
const BUFFER_WRITABLE: Metric =
    Metric::gauge("forebay_agent_buffer_writable", "1 while the disk takes writes.");
const LINK_UP: Metric = Metric::gauge("forebay_agent_link_up", "1 while the link is connected.");
const LINK_CONNECTIONS: Metric = Metric::counter("forebay_agent_link_connections_total", "Connections made.");
const LINK_DISCARDED: Metric =
    Metric::counter("forebay_agent_link_discarded_total", "Messages and frames that gave no reading.");
const BUS_UTILISATION: Metric = Metric::gauge(
    "forebay_agent_bus_utilisation_ratio",
    "Share of about the last minute in which a Modbus line was in use.",
);
const BUS_BUSY: Metric = Metric::counter(
    "forebay_agent_bus_busy_seconds_total",
    "Whole seconds in which a Modbus line was in use.",
);
const DEVICE_ANSWERS: Metric = Metric::gauge("forebay_agent_device_answers", "1 while the device answers.");
const BUFFER_TAIL: Metric = Metric::gauge(
    "forebay_agent_buffer_tail_bytes",
    "Bytes of acknowledged batches kept for a server that loses them.",
);
const BUFFER_OPEN: Metric =
    Metric::gauge("forebay_agent_buffer_open", "1 once the buffer is open; links are read before.");
const IMBALANCE: Metric = Metric::gauge(
    "forebay_agent_ledger_imbalance_readings",
    "Readings by which the conservation ledger does not close.",
);
const GAPS: Metric = Metric::counter(
    "forebay_agent_gaps_recorded_total",
    "Gaps recorded since the start, where readings were never taken.",
);
const UPLINK_UP: Metric = Metric::gauge("forebay_agent_uplink_up", "1 while the server takes readings.");
const CLOCK_SYNCHRONISED: Metric =
    Metric::gauge("forebay_agent_clock_synchronised", "1 while the wall clock is trusted.");
const CLOCK_SOURCE: Metric = Metric::gauge(
    "forebay_agent_clock_source",
    "1 for whose word the wall clock is: system, server or nobody.",
);
const CLOCK_AHEAD: Metric = Metric::gauge(
    "forebay_agent_clock_system_ahead_seconds",
    "Seconds that the system's clock is ahead of what is believed.",
);
const CLOCK_UNSURE: Metric = Metric::gauge(
    "forebay_agent_clock_boots_unsure",
    "Earlier boots in the buffer of which nobody knows the exact time.",
);
const CONFIG_REFUSED: Metric = Metric::gauge(
    "forebay_agent_config_reload_failed",
    "1 while the configuration that was read last is not taken.",
);
const CONFIG_RELOADS: Metric =
    Metric::counter("forebay_agent_config_reloads_total", "Times that the configuration was read again.");
const CONFIG_RESTART: Metric = Metric::gauge(
    "forebay_agent_config_restart_needed",
    "Keys of the configuration that have changed and need a restart.",
);
const UPTIME: Metric = Metric::gauge("forebay_agent_uptime_seconds", "Seconds since the agent started.");
const MEMORY_PEAK: Metric =
    Metric::gauge("forebay_agent_memory_peak_bytes", "Most memory ever resident (VmHWM).");

/// Looks served at the same time; more wait in the listener's queue.
const MOST_CONNECTIONS: usize = 16;
/// A look takes no longer than this, idle time included.
const LOOK_WITHIN: Duration = Duration::from_secs(30);

/// Serves until `stop`. `/readyz` says no once `ending` is cancelled.
pub async fn serve(
    listener: TcpListener,
    board: Arc<Board>,
    ending: CancellationToken,
    stop: CancellationToken,
) {
    let window = Arc::new(Window { board, ending });
    let mut looks = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            Some(_) = looks.join_next() => {}
            accepted = listener.accept(), if looks.len() < MOST_CONNECTIONS => match accepted {
                Err(error) => {
                    debug!("Telemetry could not accept a connection: {error}");
                    tokio::task::yield_now().await;
                }
                Ok((stream, _)) => {
                    let window = window.clone();
                    let service = service_fn(move |request| {
                        let answer = window.answer(&request);
                        async move { Ok::<_, Infallible>(answer) }
                    });
                    let connection = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(LOOK_WITHIN / 3)
                        .serve_connection(TokioIo::new(stream), service);
                    looks.spawn(timeout(LOOK_WITHIN, connection));
                }
            },
        }
    }
}

/// The metrics of this moment. Taken anew at each look: of a link that a reload took away nothing is left.
pub fn text(board: &Board) -> String {
    page(&board.snapshot()).text()
}

struct Window {
    board: Arc<Board>,
    ending: CancellationToken,
}

impl Window {
    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        }
        match request.uri().path() {
            "/livez" => plain(StatusCode::OK, "alive\n"),
            "/readyz" if self.ending.is_cancelled() => plain(StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
            "/readyz" if (self.board.buffer)().is_none() => plain(
                StatusCode::SERVICE_UNAVAILABLE,
                "opening the buffer; links are started, readings are held\n",
            ),
            "/readyz" => plain(StatusCode::OK, "ready: the buffer is open and links are started\n"),
            "/metrics" => respond(StatusCode::OK, "text/plain; version=0.0.4", text(&self.board)),
            "/status" => match serde_json::to_string(&self.board.snapshot()) {
                Ok(json) => respond(StatusCode::OK, "application/json", json),
                Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
            },
            _ => plain(StatusCode::NOT_FOUND, "try /metrics, /status, /livez or /readyz\n"),
        }
    }
}

fn page(snapshot: &Snapshot) -> Exposition {
    let Snapshot {
        version: _,
        process: _,
        started_us: _,
        uptime_s,
        wall_us: _,
        synchronised,
        clock,
        config,
        ledger,
        imbalance,
        gaps,
        buffer,
        uplink,
        links,
    } = snapshot;
    let mut page = Exposition::default();
    page.tell(&PRODUCED, &[], ledger.produced);
    page.tell(&FILTERED, &[], ledger.filtered);
    page.tell(&APPENDED, &[], ledger.appended);
    page.tell(&DROPPED, &[("reason", "full")], buffer.dropped_full);
    page.tell(&DROPPED, &[("reason", "corrupt")], buffer.dropped_corrupt);
    page.tell(&DROPPED, &[("reason", "thinned")], buffer.dropped_thinned);
    page.tell(&ACKNOWLEDGED, &[], ledger.acknowledged);
    page.tell(&IN_HAND, &[], ledger.in_hand);
    page.tell(&BACKLOG_READINGS, &[], ledger.backlog);
    page.tell(&BACKLOG_BATCHES, &[], buffer.backlog_batches);
    page.tell(&BACKLOG_BYTES, &[], buffer.backlog_bytes);
    page.tell(&BUFFER_BYTES, &[], buffer.disk_bytes);
    page.tell(&BUFFER_LIMIT, &[], buffer.limit_bytes);
    page.tell(&BUFFER_WRITABLE, &[], buffer.writable);
    page.tell(&BUFFER_TAIL, &[], buffer.tail_bytes);
    page.tell(&BUFFER_OPEN, &[], buffer.state == "open");
    page.tell(&IMBALANCE, &[], *imbalance);
    page.tell(&GAPS, &[("reason", "device_silent")], gaps.device_silent);
    page.tell(&GAPS, &[("reason", "agent_down")], gaps.agent_down);
    for link in links {
        let of_link = [("link", link.name.as_str())];
        page.tell(&LINK_UP, &of_link, link.state == "connected");
        page.tell(&LINK_CONNECTIONS, &of_link, link.connections);
        page.tell(&LINK_DISCARDED, &of_link, link.discarded);
        if let Some(bus) = &link.bus {
            page.tell(&BUS_UTILISATION, &of_link, bus.utilisation);
            page.tell(&BUS_BUSY, &of_link, bus.busy_s as u64);
        }
        for device in &link.devices {
            let labels = [("link", link.name.as_str()), ("device", device.name.as_str())];
            page.tell(&DEVICE_ANSWERS, &labels, device.answers);
        }
    }
    page.tell(&UPLINK_UP, &[], uplink.state == "up");
    page.tell(&CLOCK_SYNCHRONISED, &[], *synchronised);
    for source in [Source::System, Source::Server, Source::Nobody].map(Source::word) {
        page.tell(&CLOCK_SOURCE, &[("source", source)], clock.source == source);
    }
    page.tell(&CLOCK_AHEAD, &[], clock.system_ahead_s);
    page.tell(&CLOCK_UNSURE, &[], clock.boots_unsure as u64);
    page.tell(&CONFIG_REFUSED, &[], !config.mistakes.is_empty());
    page.tell(&CONFIG_RELOADS, &[("outcome", "applied")], config.applied);
    page.tell(&CONFIG_RELOADS, &[("outcome", "refused")], config.refused);
    page.tell(&CONFIG_RESTART, &[], config.needs_restart.len() as u64);
    page.tell(&UPTIME, &[], *uptime_s);
    if let Some(bytes) = memory_peak() {
        page.tell(&MEMORY_PEAK, &[], bytes);
    }
    page
}

/// `VmHWM` of this process, in bytes.
fn memory_peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? << 10)
}

fn plain(status: StatusCode, words: &str) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", words.to_owned())
}

fn respond(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests;
