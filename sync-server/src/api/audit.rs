//! `/audit`: who changed what, when, from where.

use axum::Json;
use serde::Deserialize;
use serde_json::{Value, json};

use super::guard::Caller;
use super::parameters::{Parameters, within};
use super::problem::Problem;
use super::words::time;
use crate::store::AuditRow;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// `next` of the page before.
    before: Option<i64>,
    limit: Option<usize>,
}

pub(super) async fn audit(
    caller: Caller,
    Parameters(Wanted { before, limit }): Parameters<Wanted>,
) -> Result<Json<Value>, Problem> {
    let limit = within("limit", limit, 100, 1..=1_000)?;
    let access = caller.visitor.gate.access();
    // One more than asked for tells whether there is a next page.
    let mut rows = access.audit(Some(caller.identity.tenant), before, limit + 1).await?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| more).map(|row| row.entry);
    Ok(Json(json!({ "entries": rows.iter().map(entry).collect::<Vec<_>>(), "next": next })))
}

fn entry(row: &AuditRow) -> Value {
    let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    json!({
        "id": row.entry,
        "time": time(row.at),
        "who": row.who,
        "from": some(&row.origin),
        "action": row.note.action,
        "subject": some(&row.note.subject),
        "was": some(&row.note.was),
        "became": some(&row.note.became),
    })
}
