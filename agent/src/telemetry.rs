//! How the agent is watched: `/metrics`, `/livez`, `/readyz` and `/status` on loopback.
//!
//! All metric names stand in this file. Nothing counts for the metrics' sake: at every look the
//! figures are taken from the ledger and the tasks' own state, so that they cannot tell otherwise.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics::{counter, describe_counter, describe_gauge, gauge, with_local_recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::clock::Source;
use crate::status::{Board, Snapshot};

const PRODUCED: &str = "forebay_agent_readings_produced_total";
const FILTERED: &str = "forebay_agent_readings_filtered_total";
const APPENDED: &str = "forebay_agent_readings_appended_total";
const DROPPED: &str = "forebay_agent_readings_dropped_total";
const ACKNOWLEDGED: &str = "forebay_agent_readings_acknowledged_total";
const IN_HAND: &str = "forebay_agent_readings_in_hand";
const BACKLOG_READINGS: &str = "forebay_agent_backlog_readings";
const BACKLOG_BATCHES: &str = "forebay_agent_backlog_batches";
const BACKLOG_BYTES: &str = "forebay_agent_backlog_bytes";
const BUFFER_BYTES: &str = "forebay_agent_buffer_bytes";
const BUFFER_LIMIT: &str = "forebay_agent_buffer_limit_bytes";
const BUFFER_WRITABLE: &str = "forebay_agent_buffer_writable";
const LINK_UP: &str = "forebay_agent_link_up";
const LINK_CONNECTIONS: &str = "forebay_agent_link_connections_total";
const LINK_DISCARDED: &str = "forebay_agent_link_discarded_total";
const BUS_UTILISATION: &str = "forebay_agent_bus_utilisation_ratio";
const BUS_BUSY: &str = "forebay_agent_bus_busy_seconds_total";
const DEVICE_ANSWERS: &str = "forebay_agent_device_answers";
const BUFFER_TAIL: &str = "forebay_agent_buffer_tail_bytes";
const BUFFER_OPEN: &str = "forebay_agent_buffer_open";
const IMBALANCE: &str = "forebay_agent_ledger_imbalance_readings";
const GAPS: &str = "forebay_agent_gaps_recorded_total";
const UPLINK_UP: &str = "forebay_agent_uplink_up";
const CLOCK_SYNCHRONISED: &str = "forebay_agent_clock_synchronised";
const CLOCK_SOURCE: &str = "forebay_agent_clock_source";
const CLOCK_AHEAD: &str = "forebay_agent_clock_system_ahead_seconds";
const CLOCK_UNSURE: &str = "forebay_agent_clock_boots_unsure";
const CONFIG_REFUSED: &str = "forebay_agent_config_reload_failed";
const CONFIG_RELOADS: &str = "forebay_agent_config_reloads_total";
const CONFIG_RESTART: &str = "forebay_agent_config_restart_needed";
const UPTIME: &str = "forebay_agent_uptime_seconds";
const MEMORY_PEAK: &str = "forebay_agent_memory_peak_bytes";

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

/// The metrics of this moment. Recorded anew at each look: of a link that a reload took away nothing is left.
pub fn text(board: &Board) -> String {
    let recorder = recorder();
    with_local_recorder(&recorder, || record(&board.snapshot()));
    recorder.handle().render()
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

fn recorder() -> PrometheusRecorder {
    let recorder = PrometheusBuilder::new().build_recorder();
    with_local_recorder(&recorder, || {
        describe_counter!(PRODUCED, "Readings taken from the field since the epoch began.");
        describe_counter!(FILTERED, "Readings left out by point processing.");
        describe_counter!(APPENDED, "Readings made durable.");
        describe_counter!(DROPPED, "Readings given up, each with a gap record.");
        describe_counter!(ACKNOWLEDGED, "Readings the server committed.");
        describe_gauge!(IN_HAND, "Readings on the way from a link to the flash.");
        describe_gauge!(BACKLOG_READINGS, "Readings durable and not acknowledged.");
        describe_gauge!(BACKLOG_BATCHES, "Batches durable and not acknowledged.");
        describe_gauge!(BACKLOG_BYTES, "Bytes of batches not acknowledged.");
        describe_gauge!(BUFFER_BYTES, "Bytes of the buffer on disk, overhead included.");
        describe_gauge!(BUFFER_LIMIT, "The buffer's budget.");
        describe_gauge!(BUFFER_WRITABLE, "1 while the disk takes writes.");
        describe_gauge!(BUFFER_TAIL, "Bytes of acknowledged batches kept for a server that loses them.");
        describe_gauge!(BUFFER_OPEN, "1 once the buffer is open; links are read before.");
        describe_gauge!(IMBALANCE, "Readings by which the conservation ledger does not close.");
        describe_counter!(GAPS, "Gaps recorded since the start, where readings were never taken.");
        describe_gauge!(LINK_UP, "1 while the link is connected.");
        describe_counter!(LINK_CONNECTIONS, "Connections made.");
        describe_counter!(LINK_DISCARDED, "Messages and frames that gave no reading.");
        describe_gauge!(BUS_UTILISATION, "Share of about the last minute in which a Modbus line was in use.");
        describe_counter!(BUS_BUSY, "Whole seconds in which a Modbus line was in use.");
        describe_gauge!(DEVICE_ANSWERS, "1 while the device answers.");
        describe_gauge!(UPLINK_UP, "1 while the server takes readings.");
        describe_gauge!(CLOCK_SYNCHRONISED, "1 while the wall clock is trusted.");
        describe_gauge!(CLOCK_SOURCE, "1 for whose word the wall clock is: system, server or nobody.");
        describe_gauge!(CLOCK_AHEAD, "Seconds that the system's clock is ahead of what is believed.");
        describe_gauge!(CLOCK_UNSURE, "Earlier boots in the buffer of which nobody knows the exact time.");
        describe_gauge!(CONFIG_REFUSED, "1 while the configuration that was read last is not taken.");
        describe_counter!(CONFIG_RELOADS, "Times that the configuration was read again.");
        describe_gauge!(CONFIG_RESTART, "Keys of the configuration that have changed and need a restart.");
        describe_gauge!(UPTIME, "Seconds since the agent started.");
        describe_gauge!(MEMORY_PEAK, "Most memory ever resident (VmHWM).");
    });
    recorder
}

fn record(snapshot: &Snapshot) {
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
    counter!(PRODUCED).absolute(ledger.produced);
    counter!(FILTERED).absolute(ledger.filtered);
    counter!(APPENDED).absolute(ledger.appended);
    counter!(DROPPED, "reason" => "full").absolute(buffer.dropped_full);
    counter!(DROPPED, "reason" => "corrupt").absolute(buffer.dropped_corrupt);
    counter!(DROPPED, "reason" => "thinned").absolute(buffer.dropped_thinned);
    counter!(ACKNOWLEDGED).absolute(ledger.acknowledged);
    gauge!(IN_HAND).set(ledger.in_hand as f64);
    gauge!(BACKLOG_READINGS).set(ledger.backlog as f64);
    gauge!(BACKLOG_BATCHES).set(buffer.backlog_batches as f64);
    gauge!(BACKLOG_BYTES).set(buffer.backlog_bytes as f64);
    gauge!(BUFFER_BYTES).set(buffer.disk_bytes as f64);
    gauge!(BUFFER_LIMIT).set(buffer.limit_bytes as f64);
    gauge!(BUFFER_WRITABLE).set(one_if(buffer.writable));
    gauge!(BUFFER_TAIL).set(buffer.tail_bytes as f64);
    gauge!(BUFFER_OPEN).set(one_if(buffer.state == "open"));
    gauge!(IMBALANCE).set(*imbalance as f64);
    counter!(GAPS, "reason" => "device_silent").absolute(gaps.device_silent);
    counter!(GAPS, "reason" => "agent_down").absolute(gaps.agent_down);
    for link in links {
        gauge!(LINK_UP, "link" => link.name.clone()).set(one_if(link.state == "connected"));
        counter!(LINK_CONNECTIONS, "link" => link.name.clone()).absolute(link.connections);
        counter!(LINK_DISCARDED, "link" => link.name.clone()).absolute(link.discarded);
        if let Some(bus) = &link.bus {
            gauge!(BUS_UTILISATION, "link" => link.name.clone()).set(bus.utilisation);
            counter!(BUS_BUSY, "link" => link.name.clone()).absolute(bus.busy_s as u64);
        }
        for device in &link.devices {
            let labels = [("link", link.name.clone()), ("device", device.name.clone())];
            gauge!(DEVICE_ANSWERS, &labels).set(one_if(device.answers));
        }
    }
    gauge!(UPLINK_UP).set(one_if(uplink.state == "up"));
    gauge!(CLOCK_SYNCHRONISED).set(one_if(*synchronised));
    for source in [Source::System, Source::Server, Source::Nobody].map(Source::word) {
        gauge!(CLOCK_SOURCE, "source" => source).set(one_if(clock.source == source));
    }
    gauge!(CLOCK_AHEAD).set(clock.system_ahead_s);
    gauge!(CLOCK_UNSURE).set(clock.boots_unsure as f64);
    gauge!(CONFIG_REFUSED).set(one_if(!config.mistakes.is_empty()));
    counter!(CONFIG_RELOADS, "outcome" => "applied").absolute(config.applied);
    counter!(CONFIG_RELOADS, "outcome" => "refused").absolute(config.refused);
    gauge!(CONFIG_RESTART).set(config.needs_restart.len() as f64);
    gauge!(UPTIME).set(*uptime_s as f64);
    if let Some(bytes) = memory_peak() {
        gauge!(MEMORY_PEAK).set(bytes as f64);
    }
}

fn one_if(yes: bool) -> f64 {
    f64::from(u8::from(yes))
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
