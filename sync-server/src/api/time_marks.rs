//! `/time-marks`: readings whose times are not what their gateway believed when it took them.

use axum::Json;
use forebay_protocols::sync::wire::sent_batch::Clock;
use serde::Deserialize;
use serde_json::{Value, json};

use super::guard::Caller;
use super::parameters::{Parameters, range, within};
use super::problem::Problem;
use super::words::{agent_in, agent_names, millis, now, time};
use crate::store::TimeMark;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// `site/gateway`.
    agent: Option<String>,
    /// Default `-30d`.
    from: Option<String>,
    /// Default `now`.
    to: Option<String>,
    limit: Option<usize>,
}

pub(super) async fn time_marks(
    caller: Caller,
    Parameters(wanted): Parameters<Wanted>,
) -> Result<Json<Value>, Problem> {
    let Wanted { agent, from, to, limit } = wanted;
    let (from, to) = range(from.as_deref().unwrap_or("-30d"), to.as_deref().unwrap_or("now"), now())?;
    let limit = within("limit", limit, 200, 1..=1_000)?;
    let fleet = caller.fleet.with(agent.as_deref()).await?;
    let agent = agent.map(|name| agent_in(&fleet, &name)).transpose()?;
    let names = agent_names(&fleet.agents);
    // One more than asked for tells whether that was all.
    let mut rows = caller.store.time_marks(agent, from, to, limit + 1).await?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let marks: Vec<Value> = rows.iter().map(|row| mark(names.get(&row.agent), row)).collect();
    Ok(Json(json!({ "marks": marks, "more": more })))
}

fn mark(agent: Option<&String>, mark: &TimeMark) -> Value {
    let clock = match mark.clock {
        Clock::Stated => "as stated",
        Clock::Corrected => "corrected",
        Clock::Bracketed => "bracketed",
    };
    json!({
        "agent": agent,
        "boot": mark.boot_counter,
        "clock": clock,
        "from": time(mark.from),
        "to": time(mark.to),
        "readings": mark.readings,
        "correction_ms": millis(mark.correction_us),
    })
}
