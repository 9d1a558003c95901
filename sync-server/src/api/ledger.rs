//! `/ledger`: where every reading is, buffer by buffer, and whether the books close.
//!
//! A verdict joins what the last report says by itself with the faults that stand, so that every
//! server on one database tells the same.

use std::collections::HashMap;

use axum::Json;
use forebay_protocols::sync::wire::Report;
use serde::Deserialize;
use serde_json::{Value, json};

use super::guard::Caller;
use super::parameters::Parameters;
use super::problem::Problem;
use super::words::{agent_in, agent_names, now, time};
use crate::ledger::{Books, Dropped, Totals, subject};
use crate::store::{AgentKey, FaultKind, FaultRow, LedgerRow};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// `site/gateway`.
    agent: Option<String>,
}

pub(super) async fn ledger(
    caller: Caller,
    Parameters(wanted): Parameters<Wanted>,
) -> Result<Json<Value>, Problem> {
    let fleet = caller.fleet.with(wanted.agent.as_deref()).await?;
    let agent = wanted.agent.map(|name| agent_in(&fleet, &name)).transpose()?;
    let rows = caller.store.ledgers(agent).await?;
    let faults = caller.store.faults(agent, 0).await?;
    let standing: HashMap<(AgentKey, &str), &str> = faults.iter().filter_map(imbalance).collect();
    let names = agent_names(&fleet.agents);
    let mut open = 0;
    let mut buffers = Vec::with_capacity(rows.len());
    for row in &rows {
        let fault = standing.get(&(row.agent, subject(row).as_str())).copied();
        open += u32::from(fault.is_some());
        buffers.push(buffer(names.get(&row.agent), row, fault));
    }
    Ok(Json(json!({ "time": time(now()), "fleet": sums(&Totals::of(&rows), open), "buffers": buffers })))
}

/// Whose books do not close, and the words of it.
fn imbalance(row: &FaultRow) -> Option<((AgentKey, &str), &str)> {
    let FaultRow { fault, over, .. } = row;
    (over.is_none() && fault.kind == FaultKind::Imbalance)
        .then_some(((fault.agent, fault.subject.as_str()), fault.words.as_str()))
}

fn buffer(agent: Option<&String>, row: &LedgerRow, fault: Option<&str>) -> Value {
    let verdict = Books(row).verdict();
    let (word, words) = match fault {
        Some(words) => ("open", words.to_owned()),
        None => (verdict.word(), verdict.words()),
    };
    let report = row.report.as_ref().map(|(report, _)| report);
    // What no report told is unknown, and must not look like a zero.
    let told = |count: fn(&Report) -> u64| report.map(count);
    json!({
        "agent": agent,
        "epoch": row.epoch.to_string(),
        "fork": row.fork,
        "current": row.current,
        "verdict": word,
        "words": words,
        "last_seen": time(row.last_seen),
        "reported": row.report.as_ref().map(|(_, received)| time(*received)),
        "produced": told(|report| report.produced),
        "filtered": told(|report| report.filtered),
        "in_hand": told(|report| report.in_hand),
        "appended": told(|report| report.appended),
        "dropped": told(|report| report.dropped),
        "dropped_by": report.map(|report| dropped_by(Dropped::of(report))),
        "acknowledged": told(|report| report.acknowledged),
        "backlog": told(|report| report.backlog_readings),
        "stored": row.stored,
        "set_aside": row.set_aside,
    })
}

fn sums(totals: &Totals, open: u32) -> Value {
    let Totals { buffers, produced, filtered, in_hand, appended, dropped, .. } = *totals;
    json!({
        "buffers": buffers,
        "open": open,
        "produced": produced,
        "filtered": filtered,
        "in_hand": in_hand,
        "appended": appended,
        "dropped": dropped.all(),
        "dropped_by": dropped_by(dropped),
        "acknowledged": totals.acknowledged,
        "backlog": totals.backlog,
        "stored": totals.stored,
        "set_aside": totals.set_aside,
    })
}

pub(super) fn dropped_by(dropped: Dropped) -> Value {
    let Dropped { full, corrupt, thinned, other } = dropped;
    json!({ "full": full, "corrupt": corrupt, "thinned": thinned, "other": other })
}
