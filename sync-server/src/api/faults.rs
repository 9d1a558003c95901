//! `/faults`: what a person should know of, in plain words, with what to do.

use axum::Json;
use serde::Deserialize;
use serde_json::{Value, json};

use super::guard::Caller;
use super::parameters::{Parameters, within};
use super::problem::Problem;
use super::words::{agent_in, agent_names, now, time};
use crate::ledger::kind_words;
use crate::store::FaultRow;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// `site/gateway`.
    agent: Option<String>,
    /// Of those that are over.
    limit: Option<usize>,
}

pub(super) async fn faults(
    caller: Caller,
    Parameters(wanted): Parameters<Wanted>,
) -> Result<Json<Value>, Problem> {
    let Wanted { agent, limit } = wanted;
    let limit = within("limit", limit, 50, 0..=1_000)?;
    let fleet = caller.fleet.with(agent.as_deref()).await?;
    let agent = agent.map(|name| agent_in(&fleet, &name)).transpose()?;
    let names = agent_names(&fleet.agents);
    let mut rows = caller.store.faults(agent, limit).await?;
    // Stable: the newest stay first of each.
    rows.sort_by_key(|row| row.over.is_some());
    let faults: Vec<Value> = rows.iter().map(|row| fault(names.get(&row.fault.agent), row)).collect();
    Ok(Json(json!({ "time": time(now()), "faults": faults })))
}

pub(super) fn fault(agent: Option<&String>, row: &FaultRow) -> Value {
    let FaultRow { fault, last, over } = row;
    json!({
        "agent": agent,
        "kind": kind_words(fault.kind),
        "subject": fault.subject,
        "words": fault.words,
        "remedy": fault.remedy,
        "since": time(fault.at),
        "last": time(*last),
        "over": over.map(time),
    })
}
