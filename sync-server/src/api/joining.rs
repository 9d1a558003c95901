//! `/joining`: gateways that wait for an operator's word.

use axum::Json;
use forebay_protocols::sync::tls;
use serde_json::{Value, json};

use super::guard::Caller;
use super::parameters::Parameters;
use super::problem::Problem;
use super::server::Nothing;
use super::words::{now, time};

pub(super) async fn joining(
    caller: Caller,
    Parameters(Nothing {}): Parameters<Nothing>,
) -> Result<Json<Value>, Problem> {
    let (waiting, fleet) = (caller.store.applications().await?, caller.store.fleet().await?);
    let one = |one: &crate::store::Application| {
        let is_it = |row: &&crate::store::AgentRow| row.site == one.site && row.gateway == one.gateway;
        json!({
            "number": one.id.0,
            "agent": format!("{}/{}", one.site, one.gateway),
            "key": tls::key_words(&one.key_hash),
            "from": one.peer,
            "version": one.version,
            "asked": time(one.asked),
            "last_asked": time(one.last_asked),
            "approved": one.approved,
            "replaces": fleet.iter().find(is_it).is_some_and(|row| !row.revoked),
            "note": one.note,
        })
    };
    Ok(Json(json!({ "time": time(now()), "waiting": waiting.iter().map(one).collect::<Vec<_>>() })))
}
