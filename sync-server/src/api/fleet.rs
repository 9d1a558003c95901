//! `/fleet`: every agent the server knows, online or not. Agents never vanish.

use axum::Json;
use axum::extract::State;
use forebay_protocols::sync::wire;
use serde_json::{Value, json};

use super::Api;
use super::problem::Problem;
use super::words::{agent_name, now, time};
use crate::store::{AgentRow, Micros};

/// An agent that sends nothing for so long is called silent: a heartbeat comes every 60 s by default.
const SILENT_AFTER: Micros = 150_000_000;

pub(super) async fn fleet(State(api): State<Api>) -> Result<Json<Value>, Problem> {
    let agents = api.store.fleet().await?;
    let now = now();
    let agents: Vec<Value> = agents.iter().map(|row| agent(row, now)).collect();
    Ok(Json(json!({ "store": api.store.describe(), "time": time(now), "agents": agents })))
}

fn agent(row: &AgentRow, now: Micros) -> Value {
    let report = row.report.clone().unwrap_or_default();
    let devices: Vec<Value> = report.devices.iter().map(device).collect();
    let offset = row.last_seen.filter(|_| report.wall_us != 0).map(|seen| (report.wall_us - seen) / 1000);
    json!({
        "agent": agent_name(row),
        "site": row.site,
        "gateway": row.gateway,
        "state": state(row, now),
        "joined": time(row.joined),
        "last_seen": row.last_seen.map(time),
        "version": report.version,
        "uptime_s": report.uptime_s,
        "clock": { "synchronised": report.synchronised, "offset_ms": offset },
        "certificate_valid_until": row.certificate.map(|(_, until)| time(until)),
        "backlog": { "batches": report.backlog_batches, "readings": report.backlog_readings, "bytes": report.backlog_bytes },
        "ledger": {
            "produced": report.produced, "filtered": report.filtered, "appended": report.appended,
            "dropped": report.dropped, "acknowledged": report.acknowledged, "stored": row.stored,
        },
        "batches": { "committed": row.committed_batches, "set_aside": row.set_aside },
        "devices": devices,
    })
}

fn device(device: &wire::report::Device) -> Value {
    json!({ "link": device.link, "device": device.device, "answers": device.answers, "words": device.words })
}

/// "never seen" is not "silent": nobody knows yet.
fn state(row: &AgentRow, now: Micros) -> &'static str {
    match row.last_seen {
        _ if row.revoked => "revoked",
        None => "never seen",
        Some(seen) if now - seen > SILENT_AFTER => "silent",
        Some(_) => "online",
    }
}
