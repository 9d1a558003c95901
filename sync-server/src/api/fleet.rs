//! `/fleet`: every agent the server knows, online or not. Agents never vanish.

use axum::Json;
use axum::extract::State;
use forebay_protocols::sync::wire;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Api;
use super::faults::fault;
use super::ledger::dropped_by;
use super::parameters::Parameters;
use super::problem::Problem;
use super::words::{agent_name, now, time};
use crate::ledger::Dropped;
use crate::live::Refusal;
use crate::store::{AgentRow, FaultRow, Micros, SILENT_AFTER};

/// No parameters, and none are overlooked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {}

pub(super) async fn fleet(
    State(api): State<Api>,
    Parameters(Wanted {}): Parameters<Wanted>,
) -> Result<Json<Value>, Problem> {
    let agents = api.store.fleet().await?;
    let faults = api.store.faults(None, 0).await?;
    let now = now();
    let agents: Vec<Value> =
        agents.iter().map(|row| agent(row, &faults, api.feed.refusal(row.key), now)).collect();
    Ok(Json(json!({ "store": api.store.describe(), "time": time(now), "agents": agents })))
}

fn agent(row: &AgentRow, faults: &[FaultRow], refusal: Option<Refusal>, now: Micros) -> Value {
    let report = row.report.as_ref();
    // What no report told is unknown, and must not look like a zero.
    let told = |count: fn(&wire::Report) -> u64| report.map(count);
    let standing = faults.iter().filter(|fault| fault.over.is_none() && fault.fault.agent == row.key);
    let name = agent_name(row);
    let standing: Vec<Value> = standing.map(|row| fault(Some(&name), row)).collect();
    let devices: Vec<Value> = report.map_or(&[][..], |report| &report.devices).iter().map(device).collect();
    json!({
        "agent": name,
        "site": row.site,
        "gateway": row.gateway,
        "state": state(row, now),
        "joined": time(row.joined),
        "last_seen": row.last_seen.map(time),
        "version": report.map(|report| &report.version),
        "uptime_s": told(|report| report.uptime_s),
        "clock": {
            "synchronised": report.map(|report| report.synchronised),
            "offset_ms": offset_ms(row),
        },
        "certificate_valid_until": row.certificate.map(|(_, until)| time(until)),
        "backlog": {
            "batches": told(|report| report.backlog_batches),
            "readings": told(|report| report.backlog_readings),
            "bytes": told(|report| report.backlog_bytes),
            "limit_bytes": told(|report| report.buffer_limit_bytes),
            "tail_bytes": told(|report| report.tail_bytes),
        },
        "ledger": {
            "produced": told(|report| report.produced),
            "filtered": told(|report| report.filtered),
            "in_hand": told(|report| report.in_hand),
            "appended": told(|report| report.appended),
            "dropped": told(|report| report.dropped),
            "dropped_by": report.map(|report| dropped_by(Dropped::of(report))),
            "acknowledged": told(|report| report.acknowledged),
            "stored": row.stored,
        },
        "batches": { "committed": row.committed_batches, "set_aside": row.set_aside },
        "devices": devices,
        "faults": standing,
        "refused": refusal.map(|refusal| json!({ "time": time(refusal.at), "words": refusal.words })),
    })
}

fn device(device: &wire::report::Device) -> Value {
    json!({ "link": device.link, "device": device.device, "answers": device.answers, "words": device.words })
}

/// The gateway's clock less ours, when its last report came in: it is heard of more often than it
/// reports. A gateway may believe in any moment at all.
fn offset_ms(row: &AgentRow) -> Option<i64> {
    let report = row.report.as_ref().filter(|report| report.wall_us != 0 && report.received_us != 0)?;
    Some(report.wall_us.saturating_sub(report.received_us) / 1_000)
}

/// "never seen" is not "silent": nobody knows yet.
fn state(row: &AgentRow, now: Micros) -> &'static str {
    match row.last_seen {
        _ if row.revoked => "revoked",
        None => "never seen",
        Some(seen) if now.saturating_sub(seen) > SILENT_AFTER => "silent",
        Some(_) => "online",
    }
}
