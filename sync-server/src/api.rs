//! The query API, `/api/v1`: JSON out, `application/problem+json` where something is wrong.
//!
//! | path | gives |
//! |---|---|
//! | `fleet` | every agent with its state, devices and backlog |
//! | `points` | points with their latest readings; `agent`, `search`, `after`, `limit` |
//! | `query` | readings of points over a time range, at a resolution that fits `max_points` |
//! | `gaps` | intervals in which readings are missing |
//! | `live` | server-sent events: newest values as they are committed |

mod fleet;
mod gaps;
mod live;
mod points;
mod problem;
mod query;
mod words;

use std::sync::Arc;

use axum::Router;
use axum::routing::get;

use crate::live::Feed;
use crate::store::Store;

/// What the handlers need.
#[derive(Clone)]
pub struct Api {
    /// Where everything is kept.
    pub store: Arc<dyn Store>,
    /// What is being committed.
    pub feed: Feed,
}

/// The routes below `/api/v1`.
pub fn router(api: Api) -> Router {
    let routes = Router::new()
        .route("/fleet", get(fleet::fleet))
        .route("/points", get(points::points))
        .route("/query", get(query::query))
        .route("/gaps", get(gaps::gaps))
        .route("/live", get(live::live))
        .fallback(problem::no_such_path)
        .with_state(api);
    Router::new().nest("/api/v1", routes)
}
