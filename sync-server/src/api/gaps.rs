//! `/gaps`: where readings are missing, and why.

use axum::Json;
use axum::extract::{Query, State};
use forebay_protocols::sync::wire::gap::Reason;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Api;
use super::problem::Problem;
use super::words::{agent_named, now, parse_time, time};

#[derive(Deserialize)]
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
    State(api): State<Api>,
    Query(wanted): Query<Wanted>,
) -> Result<Json<Value>, Problem> {
    let now = now();
    let from = parse_time("from", wanted.from.as_deref().unwrap_or("-1d"), now)?;
    let to = parse_time("to", wanted.to.as_deref().unwrap_or("now"), now)?;
    let agent = match &wanted.agent {
        Some(name) => Some(agent_named(api.store.as_ref(), name).await?),
        None => None,
    };
    let rows = api.store.gaps(agent, from, to, wanted.limit.unwrap_or(200).clamp(1, 1_000)).await?;
    let gaps: Vec<Value> = rows
        .iter()
        .map(|(agent, gap)| {
            json!({
                "agent_key": agent.0,
                "point": (gap.point != 0).then_some(gap.point),
                "from": time(gap.from_us),
                "to": time(gap.to_us),
                "count": gap.count,
                "reason": reason(gap.reason()),
            })
        })
        .collect();
    Ok(Json(json!({ "gaps": gaps })))
}

fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::Unspecified => "unspecified",
        Reason::DeviceSilent => "device silent",
        Reason::BufferFull => "buffer full",
        Reason::Corrupt => "corrupt",
        Reason::AgentDown => "agent down",
        Reason::Clock => "clock",
    }
}
