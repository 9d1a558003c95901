//! `/joining`: gateways that wait for an operator's word.

use axum::Json;
use forebay_protocols::sync::tls;
use serde_json::{Value, json};

use super::guard::Caller;
use super::parameters::{Nothing, Parameters};
use super::problem::Problem;
use super::words::{now, time};
use crate::store::Application;

pub(super) async fn joining(
    caller: Caller,
    Parameters(Nothing {}): Parameters<Nothing>,
) -> Result<Json<Value>, Problem> {
    let (waiting, fleet) = (caller.store.applications().await?, caller.fleet.muster().await?);
    let one = |one: &Application| {
        let agent = format!("{}/{}", one.site, one.gateway);
        let replaces = fleet.agent(&agent).is_some_and(|row| !row.revoked);
        json!({
            "number": one.id.0,
            "agent": agent,
            "key": tls::key_words(&one.key_hash),
            "from": one.peer,
            "version": one.version,
            "asked": time(one.asked),
            "last_asked": time(one.last_asked),
            "approved": one.approved,
            "replaces": replaces,
            "note": one.note,
        })
    };
    Ok(Json(json!({ "time": time(now()), "waiting": waiting.iter().map(one).collect::<Vec<_>>() })))
}
