//! `/alarms`: what a person must know of until it is over, and taking notice of it.

use axum::Json;
use serde::Deserialize;
use serde_json::{Value, json};

use super::body::{Body, Number};
use super::guard::Caller;
use super::parameters::{Parameters, within};
use super::problem::Problem;
use super::words::{now, time};
use crate::store::Note;
use crate::store::alarms::{AlarmKey, AlarmQuery, AlarmRow, AlarmState, AlarmSummary};

/// A note is a sentence, not a report.
const LONGEST_NOTE: usize = 1_000;
const LONGEST_NAME: usize = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Words separated by commas; default those that stand.
    state: Option<String>,
    /// Of this site only.
    site: Option<String>,
    /// `next` of the page before.
    after: Option<i64>,
    limit: Option<usize>,
}

pub(super) async fn alarms(
    caller: Caller,
    Parameters(wanted): Parameters<Wanted>,
) -> Result<Json<Value>, Problem> {
    let Wanted { state, site, after, limit } = wanted;
    let limit = within("limit", limit, 200, 1..=1_000)?;
    let states = states(state.as_deref().unwrap_or("active,acknowledged"))?;
    let AlarmSummary { active, acknowledged, .. } = caller.store.alarm_summary().await?;
    // One more than asked for tells whether there is a next page.
    let query = AlarmQuery { states, site, before: after.map(AlarmKey), most: limit + 1 };
    let mut rows = caller.store.alarms(&query).await?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| more).map(|row| row.key.0);
    Ok(Json(json!({
        "time": time(now()),
        "active": active,
        "acknowledged": acknowledged,
        "alarms": rows.iter().map(AlarmRow::json).collect::<Vec<_>>(),
        "next": next,
    })))
}

fn states(text: &str) -> Result<Vec<AlarmState>, Problem> {
    let state = |word: &str| {
        AlarmState::ALL.into_iter().find(|state| state.word() == word.trim()).ok_or_else(|| {
            Problem::BadRequest(format!("state: `{word}` is none of `active`, `acknowledged`, `cleared`"))
        })
    };
    text.split(',').map(state).collect()
}

/// What is said with an acknowledgement.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Notice {
    note: String,
    by: String,
}

pub(super) async fn acknowledge(
    caller: Caller,
    Number(id): Number,
    Body(Notice { note, by }): Body<Notice>,
) -> Result<Json<Value>, Problem> {
    for (key, text, longest) in [("note", &note, LONGEST_NOTE), ("by", &by, LONGEST_NAME)] {
        if text.chars().count() > longest {
            return Err(Problem::BadRequest(format!("{key}: longer than {longest} characters")));
        }
    }
    let unknown = || Problem::NotFound(format!("no alarm has the id `{id}`; /api/v1/alarms tells them"));
    // Who is known by a log-in or a key need not say who it is.
    let by = if caller.identity.name.is_empty() { by.trim() } else { &caller.identity.name };
    let row =
        caller.store.acknowledge_alarm(AlarmKey(id), by, note.trim(), now()).await?.ok_or_else(unknown)?;
    let entry = Note::new("alarm acknowledged", row.alarm.words.clone()).from_to("", note.trim());
    caller.visitor.gate.access().record(&caller.act(), entry).await?;
    caller.feed.ring(caller.identity.tenant, caller.store.alarm_summary().await?);
    Ok(Json(row.json()))
}
