//! `/gaps`: where readings are missing, and why.

use axum::Json;
use forebay_protocols::sync::wire::{self, gap::Reason};
use serde::Deserialize;
use serde_json::{Value, json};

use super::guard::Caller;
use super::parameters::{Parameters, range, within};
use super::problem::Problem;
use super::words::{agent_in, agent_names, now, time};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// `site/gateway`.
    agent: Option<String>,
    /// Default `-1d`.
    from: Option<String>,
    /// Default `now`.
    to: Option<String>,
    limit: Option<usize>,
}

pub(super) async fn gaps(
    caller: Caller,
    Parameters(wanted): Parameters<Wanted>,
) -> Result<Json<Value>, Problem> {
    let Wanted { agent, from, to, limit } = wanted;
    let (from, to) = range(from.as_deref().unwrap_or("-1d"), to.as_deref().unwrap_or("now"), now())?;
    let limit = within("limit", limit, 200, 1..=1_000)?;
    let fleet = caller.fleet.with(agent.as_deref()).await?;
    let agent = agent.map(|name| agent_in(&fleet, &name)).transpose()?;
    let names = agent_names(&fleet.agents);
    // One more than asked for tells whether that was all.
    let mut rows = caller.store.gaps(agent, from, to, limit + 1).await?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let gaps: Vec<Value> = rows.iter().map(|(agent, row)| gap(names.get(agent), row)).collect();
    Ok(Json(json!({ "gaps": gaps, "more": more })))
}

fn gap(agent: Option<&String>, gap: &wire::Gap) -> Value {
    json!({
        "agent": agent,
        "point": (gap.point != 0).then_some(gap.point),
        "device": (!gap.device.is_empty()).then_some(&gap.device),
        "from": time(gap.from_us),
        "to": time(gap.to_us),
        "count": (gap.count != 0).then_some(gap.count),
        "reason": reason(gap.reason()),
    })
}

fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::Unspecified => "unspecified",
        Reason::DeviceSilent => "device silent",
        Reason::BufferFull => "buffer full",
        Reason::Corrupt => "corrupt",
        Reason::AgentDown => "agent down",
        Reason::Clock => "clock",
        Reason::ServerLost => "server lost it",
        Reason::Thinned => "thinned out",
        Reason::Wiped => "buffer wiped",
    }
}
