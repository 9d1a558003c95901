//! `/server`: what runs here, and on what.

use axum::Json;
use serde_json::{Value, json};

use super::guard::Caller;
use super::parameters::{Nothing, Parameters};
use super::problem::Problem;
use super::words::{now, time};
use crate::store::TenantKey;

pub(super) async fn server(
    caller: Caller,
    Parameters(Nothing {}): Parameters<Nothing>,
) -> Result<Json<Value>, Problem> {
    let version = env!("CARGO_PKG_VERSION");
    // How large the database is and where it lies says something of all tenants.
    if caller.identity.tenant != TenantKey::MAIN {
        return Ok(Json(json!({ "time": time(now()), "version": version, "store": null })));
    }
    let facts = caller.store.facts().await?;
    Ok(Json(json!({
        "time": time(now()),
        "version": version,
        "store": {
            "words": facts.words,
            "tier": facts.tier.word(),
            "gives": facts.tier.words(),
            "bytes": facts.bytes,
        },
    })))
}
