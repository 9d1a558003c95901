//! `/quarantine`: what is kept aside. It is replayed on the command line.

use axum::Json;
use serde::Deserialize;
use serde_json::{Value, json};

use super::guard::Caller;
use super::parameters::{Parameters, within};
use super::problem::Problem;
use super::words::{agent_names, now, time};
use crate::store::{AsideRow, OddPoint};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Of each kind.
    limit: Option<usize>,
}

pub(super) async fn quarantine(
    caller: Caller,
    Parameters(Wanted { limit }): Parameters<Wanted>,
) -> Result<Json<Value>, Problem> {
    let limit = within("limit", limit, 200, 1..=1_000)?;
    let names = agent_names(&caller.fleet.muster().await?.agents);
    let batch = |row: &AsideRow| {
        json!({
            "id": row.id.to_string(),
            "agent": names.get(&row.agent),
            "fork": row.fork,
            "readings": row.readings,
            "bytes": row.bytes,
            "why": row.why,
            "received": time(row.received),
        })
    };
    let point = |row: &OddPoint| {
        json!({
            "id": row.point.0,
            "agent": names.get(&row.agent),
            "device": row.device,
            "name": row.name,
            "readings": row.count,
            "from_us": row.from,
            "to_us": row.to,
            "received": time(row.received),
        })
    };
    let batches = caller.store.batches_aside(limit).await?;
    let points = caller.store.odd_points(limit).await?;
    Ok(Json(json!({
        "time": time(now()),
        "batches": batches.iter().map(batch).collect::<Vec<_>>(),
        "readings": points.iter().map(point).collect::<Vec<_>>(),
    })))
}
