//! `/quarantine`: what is kept aside, and its replay.

use axum::Json;
use serde::Deserialize;
use serde_json::{Value, json};

use super::body::Body;
use super::guard::Caller;
use super::parameters::{Parameters, within};
use super::problem::Problem;
use super::words::{agent_names, now, time};
use crate::store::{AsideId, AsideRow, Note, OddPoint, PointKey, read_batch};

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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Replay {
    /// Of a batch or of a point.
    id: Value,
    /// Added to the times.
    #[serde(default)]
    shift_s: i64,
}

pub(super) async fn replay(
    caller: Caller,
    Body(Replay { id, shift_s }): Body<Replay>,
) -> Result<Json<Value>, Problem> {
    let (store, now) = (&caller.store, now());
    let shift = shift_s.saturating_mul(1_000_000);
    let unknown = || Problem::NotFound(format!("nothing of the id {id} is kept aside"));
    let replayed = match (&id, id.as_i64()) {
        (_, Some(point)) => {
            let point = PointKey(point);
            if store.odd_readings(point, 1).await?.is_empty() {
                return Err(unknown());
            }
            store.replay_readings(point, shift, now).await?
        }
        (Value::String(text), _) => {
            let batch: AsideId = text.parse().map_err(Problem::BadRequest)?;
            let (_, bytes, correction) = store.batch_aside(batch).await?.ok_or_else(unknown)?;
            let readings = read_batch(&bytes, correction.saturating_add(shift))
                .map_err(|why| Problem::Conflict(format!("the batch cannot be read: {why}")))?;
            store.replay_batch(batch, readings, now).await?.ok_or_else(unknown)?
        }
        _ => return Err(Problem::BadRequest("id: a batch's is a text, a point's a number".into())),
    };
    let became = format!("{} readings stored, {} with impossible times", replayed.stored, replayed.odd);
    let subject = id.as_str().map_or_else(|| id.to_string(), str::to_owned);
    let note = Note::new("quarantine replayed", subject).from_to("", became);
    caller.visitor.gate.access().record(&caller.act(), note).await?;
    Ok(Json(json!({ "stored": replayed.stored, "odd": replayed.odd })))
}
