//! `/points`: what is measured, with the latest reading of each.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Api;
use super::parameters::{Parameters, within};
use super::problem::Problem;
use super::query;
use super::words::{agent_in, quality_class, time, value};
use crate::store::{PointKey, PointRow};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// `site/gateway`.
    agent: Option<String>,
    /// Part of a device, name or unit.
    #[serde(default)]
    search: String,
    /// `next` of the page before.
    after: Option<i64>,
    limit: Option<usize>,
    /// Only these, separated by commas, instead of a search.
    ids: Option<String>,
}

pub(super) async fn points(
    State(api): State<Api>,
    Parameters(wanted): Parameters<Wanted>,
) -> Result<Json<Value>, Problem> {
    let Wanted { agent, search, after, limit, ids } = wanted;
    if let Some(ids) = ids {
        if agent.is_some() || !search.is_empty() || after.is_some() {
            let words = "ids: names the points; leave `agent`, `search` and `after` away";
            return Err(Problem::BadRequest(words.into()));
        }
        let rows = named(&api, &query::ids(&ids)?).await?;
        return Ok(Json(json!({ "points": rows.iter().map(point).collect::<Vec<_>>(), "next": null })));
    }
    let limit = within("limit", limit, 200, 1..=1_000)?;
    let agent = match &agent {
        Some(name) => Some(agent_in(&api.store.fleet().await?, name)?),
        None => None,
    };
    // One more than asked for tells whether there is a next page.
    let mut rows = api.store.points(agent, &search, after.map(PointKey), limit + 1).await?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| more).map(|row| row.key.0);
    Ok(Json(json!({ "points": rows.iter().map(point).collect::<Vec<_>>(), "next": next })))
}

/// The points of these ids, in their order; an id that no point has is left out.
pub(super) async fn named(api: &Api, ids: &[PointKey]) -> Result<Vec<PointRow>, Problem> {
    let mut rows = Vec::with_capacity(ids.len());
    for id in ids {
        let before = PointKey(id.0.saturating_sub(1));
        let found = api.store.points(None, "", Some(before), 1).await?;
        rows.extend(found.into_iter().filter(|row| row.key == *id));
    }
    Ok(rows)
}

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
        "fork": row.fork,
        "latest": row.latest.as_ref().map(|latest| json!({
            "time": time(latest.time),
            "value": value(latest.value.as_ref()),
            "quality": quality_class(latest.quality),
            "words": latest.quality.words(),
        })),
    })
}
