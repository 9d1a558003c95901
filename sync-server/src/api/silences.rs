//! `/silences`: when an agent was not heard. What was read meanwhile came later, or is still to come.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Api;
use super::parameters::{Parameters, range, within};
use super::problem::Problem;
use super::words::{agent_in, now, time};
use crate::store::SILENT_AFTER;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// `site/gateway`.
    agent: String,
    /// Default `-1d`.
    from: Option<String>,
    /// Default `now`.
    to: Option<String>,
    limit: Option<usize>,
}

pub(super) async fn silences(
    State(api): State<Api>,
    Parameters(wanted): Parameters<Wanted>,
) -> Result<Json<Value>, Problem> {
    let Wanted { agent, from, to, limit } = wanted;
    let now = now();
    let (from, to) = range(from.as_deref().unwrap_or("-1d"), to.as_deref().unwrap_or("now"), now)?;
    let limit = within("limit", limit, 200, 1..=1_000)?;
    let fleet = api.store.fleet().await?;
    let key = agent_in(&fleet, &agent)?;
    // One more than asked for tells whether that was all.
    let mut rows = api.store.silences(key, from, to, limit + 1).await?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let mut silences: Vec<Value> =
        rows.iter().map(|row| json!({ "from": time(row.from), "to": time(row.to) })).collect();
    let seen = fleet.iter().find(|row| row.key == key).and_then(|row| row.last_seen);
    let lasts = seen.filter(|seen| !more && now.saturating_sub(*seen) > SILENT_AFTER && *seen < to);
    silences.extend(lasts.map(|seen| json!({ "from": time(seen), "to": null })));
    Ok(Json(json!({ "silences": silences, "more": more })))
}
