//! `/points`: what is measured, with the latest reading of each.

use axum::Json;
use axum::extract::{Query, State};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Api;
use super::problem::Problem;
use super::words::{agent_named, quality_class, time, value};
use crate::store::{PointKey, PointRow};

const MOST: usize = 1_000;

#[derive(Deserialize)]
pub(super) struct Wanted {
    /// `site/gateway`.
    agent: Option<String>,
    /// Part of a device, name or unit.
    #[serde(default)]
    search: String,
    /// `next` of the page before.
    after: Option<i64>,
    limit: Option<usize>,
}

pub(super) async fn points(
    State(api): State<Api>,
    Query(wanted): Query<Wanted>,
) -> Result<Json<Value>, Problem> {
    let agent = match &wanted.agent {
        Some(name) => Some(agent_named(api.store.as_ref(), name).await?),
        None => None,
    };
    let limit = wanted.limit.unwrap_or(200).clamp(1, MOST);
    let rows = api.store.points(agent, &wanted.search, wanted.after.map(PointKey), limit).await?;
    let next = (rows.len() == limit).then(|| rows.last().map(|row| row.key.0)).flatten();
    Ok(Json(json!({ "points": rows.iter().map(point).collect::<Vec<_>>(), "next": next })))
}

/// One point as JSON; also what the live feed names it by.
fn point(row: &PointRow) -> Value {
    json!({
        "id": row.key.0,
        "path": format!("{}/{}/{}/{}", row.site, row.gateway, row.device, row.name),
        "agent": format!("{}/{}", row.site, row.gateway),
        "device": row.device,
        "name": row.name,
        "unit": row.unit,
        "kind": row.kind.word(),
        "type": row.data_type.word(),
        "latest": row.latest.as_ref().map(|latest| json!({
            "time": time(latest.time),
            "value": value(latest.value.as_ref()),
            "quality": quality_class(latest.quality),
            "words": latest.quality.words(),
        })),
    })
}
