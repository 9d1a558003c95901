//! How the server is, for those who watch it from outside, on the web listener.
//!
//! `/livez` the process runs; `/readyz` the database answers, or 503 with the reason; `/metrics`
//! Prometheus' text format.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use http::{StatusCode, header};

use crate::store::Store;
use crate::telemetry::Telemetry;

/// How long `/readyz` waits for the database.
const READY_WITHIN: Duration = Duration::from_secs(3);

/// What the handlers share.
#[derive(Clone)]
pub struct Health {
    /// Asked whether it is ready.
    pub store: Arc<dyn Store>,
    /// What is being counted.
    pub telemetry: Arc<Telemetry>,
    /// Can strangers ask? Then the database is not named to them.
    pub is_public: bool,
}

/// `/livez` and `/readyz`, for whoever asks.
pub fn router(health: Health) -> Router {
    Router::new().route("/livez", get(async || "alive\n")).route("/readyz", get(readyz)).with_state(health)
}

/// `/metrics`, for those who may.
pub fn metrics_router(telemetry: Arc<Telemetry>) -> Router {
    Router::new().route("/metrics", get(metrics)).with_state(telemetry)
}

async fn readyz(State(health): State<Health>) -> (StatusCode, String) {
    let words = match tokio::time::timeout(READY_WITHIN, health.store.ready()).await {
        Ok(Ok(())) => {
            health.telemetry.store_ready(true);
            let words = match health.is_public {
                true => "ready\n".to_owned(),
                false => format!("ready: {}\n", health.store.describe()),
            };
            return (StatusCode::OK, words);
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("the database did not answer within {} s", READY_WITHIN.as_secs()),
    };
    health.telemetry.store_ready(false);
    let words = if health.is_public { "the database does not answer".to_owned() } else { words };
    (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {words}\n"))
}

async fn metrics(
    State(telemetry): State<Arc<Telemetry>>,
) -> ([(header::HeaderName, &'static str); 1], String) {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], telemetry.render())
}
