//! `/server`: what runs here, and on what.

use std::time::Duration;

use axum::Json;
use forebay_config::retention::{Kept, Retention};
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
    // How large the database is and where it lies says something of all tenants, and so do classes of points.
    if caller.identity.tenant != TenantKey::MAIN {
        return Ok(Json(
            json!({ "time": time(now()), "version": version, "store": null, "retention": null }),
        ));
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
        "retention": retention(&caller.about.retention),
    })))
}

fn retention(retention: &Retention) -> Value {
    let mut told = kept(&retention.kept);
    let classes = retention.classes.iter().map(|class| {
        let mut told = kept(&class.kept);
        told["name"] = class.name.as_str().into();
        told["points"] = class.points.iter().map(ToString::to_string).collect();
        told
    });
    told["classes"] = classes.collect();
    told
}

fn kept(kept: &Kept) -> Value {
    let seconds = |kept: Option<Duration>| kept.map(|kept| kept.as_secs());
    json!({
        "readings": seconds(kept.readings),
        "minutes": seconds(kept.minutes),
        "hours": seconds(kept.hours),
        "days": seconds(kept.days),
    })
}
