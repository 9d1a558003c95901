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
}

/// The three addresses.
pub fn router(health: Health) -> Router {
    Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(health)
}

async fn readyz(State(health): State<Health>) -> (StatusCode, String) {
    let words = match tokio::time::timeout(READY_WITHIN, health.store.ready()).await {
        Ok(Ok(())) => {
            health.telemetry.store_ready(true);
            return (StatusCode::OK, format!("ready: {}\n", health.store.describe()));
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("the database did not answer within {} s", READY_WITHIN.as_secs()),
    };
    health.telemetry.store_ready(false);
    (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {words}\n"))
}

async fn metrics(State(health): State<Health>) -> ([(header::HeaderName, &'static str); 1], String) {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], health.telemetry.render())
}
