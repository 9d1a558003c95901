//! The query API, `/api/v1`: JSON out, `application/problem+json` (RFC 9457) where something is
//! wrong. It only reads; nothing here changes anything.
//!
//! | path | gives |
//! |---|---|
//! | [`fleet`](#fleet) | every agent with its state, devices, backlog and ledger |
//! | [`points`](#points) | points with their latest readings, in pages |
//! | [`query`](#query) | readings of points over a time range, at a resolution that fits |
//! | [`gaps`](#gaps) | intervals in which readings are missing, and why |
//! | [`live`](#live) | server-sent events: newest values as they are committed |
//!
//! # Shapes they share
//!
//! - An agent is named `site/gateway`. A point is told by its `id`, a number of this server's store.
//! - A time in an answer is RFC 3339 in UTC, microseconds kept; `…_ms` are milliseconds since 1970
//!   with a fraction; `…_s` are seconds. A time in a parameter is `now`, a span back from now
//!   (`-90s`, `-15m`, `-6h`, `-7d`, `-4w`), RFC 3339, or milliseconds since 1970; years 1 to 9999.
//! - A value is a number, a boolean, a text, or `null` where nothing was measured. Floats that JSON
//!   does not know are the texts `"NaN"`, `"inf"`, `"-inf"`. Integers are exact up to 64 bits: read
//!   them as such, if your language does not do so by itself.
//! - A quality is one of the words `good`, `uncertain`, `bad`. A reading of bad quality is no
//!   measurement: its value, if any, is only the last thing the device said.
//! - What is not known is `null`, never zero.
//!
//! # fleet
//!
//! No parameters. `{store, time, agents: [...]}`, agents by name. They never vanish; `state` is
//! `online`, `silent` (no word for 150 s; a heartbeat comes every 60 s unless configured otherwise),
//! `never seen` (joined, and no delivery yet) or `revoked`. `ledger` counts readings since the agent's
//! buffer began, and closes: `produced = filtered + in_hand + appended`, and
//! `appended = dropped + acknowledged + backlog.readings`. `stored` counts readings since the agent
//! joined. `clock.offset_ms` is the gateway's clock less the server's when it last reported.
//!
//! # points
//!
//! `agent` (default: all), `search` (part of `device/name unit`, any case), `limit` (1 to 1000,
//! default 200), `after` (the `next` of the page before). `{points: [...], next}`, points by id;
//! `next` is `null` on the last page.
//!
//! # query
//!
//! `points` (1 to 50 ids, separated by commas), `from` (inside, default `-1h`), `to` (outside, default
//! `now`), `max_points` (2 to 10000, default 500). `{from, to, step_ms, columns, series}`: a series
//! for each id, in the order asked, each with `rows` in the order of `columns`. If every series has at
//! most `max_points` readings, each row is a reading and `step_ms` is 0. Else rows are buckets of
//! `step_ms`, aligned to multiples of it since 1970 and never more than `max_points`; a bucket without
//! readings is left out. `min`, `max` and `mean` are of finite numbers (booleans are 0 and 1) whose
//! quality is not bad, so spikes stay visible and bad readings are holes; `quality` is the worst
//! inside, `count` and `good` count readings, `last` is the latest value. An id that no point has
//! gives a series without rows.
//!
//! # gaps
//!
//! `agent` (default: all), `from` (default `-1d`), `to` (default `now`), `limit` (1 to 1000, default
//! 200). `{gaps: [...], more}`, those that touch the range, by beginning; `more` tells that the limit
//! cut some off. `point` is an id, or `null` for the whole gateway; `count` is `null` where nobody
//! knows how many readings are missing. `reason` is `device silent`, `buffer full`, `corrupt`,
//! `agent down`, `clock` or `unspecified`.
//!
//! # live
//!
//! `agent` (default: all). Server-sent events, at most four a second. `readings` carries an array of
//! `[id, time_ms, value, quality]`, the newest reading of each point since the event before; here
//! quality is in words (`"bad: the device did not answer in time"`), and its first word is the class.
//! A backlog is history and is not shown. `missed` tells a reader who was too slow for all: it carries
//! the number of batches passed over; ask `points` for the latest. The stream ends when the server stops.
//!
//! # Errors
//!
//! `{type, title, status, detail}`; `detail` names the value and the way out. 400 a parameter that is
//! unknown or makes no sense, 404 no such path or agent, 405 not a GET, 500 the database refused,
//! 503 the database is out of reach: try again after `Retry-After` seconds.

mod fleet;
mod gaps;
mod live;
mod parameters;
mod points;
mod problem;
mod query;
mod words;

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderValue, header};
use axum::routing::get;
use tokio_util::sync::CancellationToken;
use tower_http::set_header::SetResponseHeaderLayer;

use crate::live::Feed;
use crate::store::Store;

/// Where the API is mounted.
const PLACE: &str = "/api/v1";

/// What the handlers need.
#[derive(Clone)]
pub struct Api {
    /// Where everything is kept.
    pub store: Arc<dyn Store>,
    /// What is being committed.
    pub feed: Feed,
    /// Ends the live streams, which else would hang on and keep the server from stopping.
    pub stop: CancellationToken,
}

/// The routes below `/api/v1`.
pub fn router(api: Api) -> Router {
    let fixed = |name, value| SetResponseHeaderLayer::overriding(name, HeaderValue::from_static(value));
    let routes = Router::new()
        .route("/fleet", get(fleet::fleet))
        .route("/points", get(points::points))
        .route("/query", get(query::query))
        .route("/gaps", get(gaps::gaps))
        .route("/live", get(live::live))
        .fallback(problem::no_such_path)
        .method_not_allowed_fallback(problem::only_get)
        .layer(fixed(header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"))
        .layer(fixed(header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(fixed(header::CACHE_CONTROL, "no-store"))
        .with_state(api);
    Router::new().nest(PLACE, routes)
}
