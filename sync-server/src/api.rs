//! The query API, `/api/v1`: JSON out, `application/problem+json` (RFC 9457) where something is
//! wrong. It only reads; nothing here changes anything.
//!
//! | path | gives |
//! |---|---|
//! | [`fleet`](#fleet) | every agent with its state, devices, backlog and ledger |
//! | [`points`](#points) | points with their latest readings, in pages |
//! | [`query`](#query) | readings of points over a time range, at a resolution that fits |
//! | [`gaps`](#gaps) | intervals in which readings are missing, and why |
//! | [`ledger`](#ledger) | where every reading is, and whether the books close |
//! | [`faults`](#faults) | what a person should know of, in words, with what to do |
//! | [`time-marks`](#time-marks) | readings whose times are not what the gateway believed |
//! | [`quarantine`](#quarantine) | what is kept aside: batches that could not be stored, impossible times |
//! | [`joining`](#joining) | gateways that wait for an operator's word |
//! | [`server`](#server) | this server: version, what its store is and how large |
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
//! `appended = dropped + acknowledged + backlog.readings`; `dropped_by` has `full`, `corrupt`,
//! `thinned` and `other`. `stored` counts readings since the agent joined. `backlog.tail_bytes` are
//! acknowledged and kept for a server that loses them. `clock.offset_ms` is the gateway's clock less
//! the server's when it last reported. `faults` are those that stand, as [`faults`](#faults) has them.
//!
//! # points
//!
//! `agent` (default: all), `search` (part of `device/name unit`, any case), `limit` (1 to 1000,
//! default 200), `after` (the `next` of the page before). `{points: [...], next}`, points by id;
//! `next` is `null` on the last page. `fork` is 0, or the number of the copy of the gateway's buffer
//! that the point's readings come from: a copied or restored buffer goes on in points of its own.
//!
//! # query
//!
//! `points` (1 to 50 ids, separated by commas), `from` (inside, default `-1h`), `to` (outside, default
//! `now`), `max_points` (2 to 10000, default 500). `{from, to, step_ms, columns, series}`: a series
//! for each id, in the order asked, each with `rows` in the order of `columns`. If every series has at
//! most `max_points` readings, each row is a reading and `step_ms` is 0. Else rows are buckets of
//! `step_ms`, aligned to multiples of it since 1970 and never more than `max_points`; a bucket without
//! readings is left out. Where retention has removed readings, rows are buckets of what is left, a minute,
//! an hour or a day at least, and the first and last may reach beyond the range. `min`, `max` and `mean` are of finite numbers (booleans are 0 and 1) whose
//! quality is not bad, so spikes stay visible and bad readings are holes; `quality` is the worst
//! inside, `count` and `good` count readings, `last` is the latest value. An id that no point has
//! gives a series without rows.
//!
//! # gaps
//!
//! `agent` (default: all), `from` (default `-1d`), `to` (default `now`), `limit` (1 to 1000, default
//! 200). `{gaps: [...], more}`, those that touch the range, by beginning; `more` tells that the limit
//! cut some off. `point` is an id, or `null`; then all points of `device` are meant, and if that is
//! `null` too, the whole gateway. `count` is `null` where nobody knows how many readings are missing.
//! `reason` is `device silent`, `buffer full`, `corrupt`, `agent down`, `clock`, `server lost it` (a
//! restored database, and the gateway had forgotten), `thinned out` (no room: the resolution was
//! halved), `buffer wiped` (the gateway came back with a new one) or `unspecified`.
//!
//! # ledger
//!
//! `agent` (default: all). `{time, fleet, buffers: [...]}`, a row for each buffer that ever wrote here;
//! `current` is the one its gateway writes from now. Counts are readings since the buffer began.
//! `verdict` is `closed`, `doubtful` (the last report does not close; the next one will tell), `open`
//! (a fault stands) or `unreported`; `words` say by how many readings. `reported` is when the report
//! came in that the gateway's counts are from. `fleet` has the sums over the buffers listed.
//!
//! # faults
//!
//! `agent` (default: all), `limit` (0 to 1000, default 50: the most that are over). `{time, faults:
//! [...]}`, those that stand first, the newest first of each. `kind` is `fork`, `buffer wiped`, `server
//! restored` or `imbalance`; `words` say what happened and `remedy` what to do; `subject` tells the
//! faults of one kind apart. `since` is when it began, `last` when it was last seen, `over` when it
//! ended: `null` while it stands.
//!
//! # time-marks
//!
//! `agent` (default: all), `from` (default `-30d`), `to` (default `now`), `limit` (1 to 1000, default
//! 200). `{marks: [...], more}`, those that touch the range. The times of `readings` between `from` and
//! `to`, of one boot of a gateway, are not what it believed then: `clock` is `corrected` (it learnt the
//! time later: exact) or `bracketed` (it never did: laid between the boots before and after).
//! `correction_ms` is the last that was applied.
//!
//! # quarantine
//!
//! `limit` (1 to 1000, default 200). `{time, batches: [...], readings: [...]}`: batches set aside, the
//! newest first, with `why`; and points with readings at impossible times (before 2000, ten years ahead),
//! with their count, and the earliest and latest in microseconds since 1970. Both are stored after all
//! with `forebay-server quarantine replay`.
//!
//! # joining
//!
//! No parameters. `{time, waiting: [...]}`, the oldest first. `number` is what `forebay-server agents approve`
//! takes, `key` the beginning of the hash of its public key, as `forebay-agent join` shows it on the gateway;
//! `approved` tells that an operator has said yes and it has not been back since, `replaces` that a gateway of
//! this name has joined already. The same words for the command line.
//!
//! # server
//!
//! No parameters. `{time, version, store: {words, tier, gives, bytes}}`. `tier` is `sqlite`,
//! `timescaledb-community`, `timescaledb-apache`, `postgresql-partitions` or `postgresql-plain-table`,
//! as found at start; `gives` says what that means, `bytes` what is on disk, indexes included.
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

mod faults;
mod fleet;
mod gaps;
mod joining;
mod ledger;
mod live;
mod parameters;
mod points;
mod problem;
mod quarantine;
mod query;
mod server;
mod time_marks;
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
        .route("/ledger", get(ledger::ledger))
        .route("/faults", get(faults::faults))
        .route("/time-marks", get(time_marks::time_marks))
        .route("/quarantine", get(quarantine::quarantine))
        .route("/joining", get(joining::joining))
        .route("/server", get(server::server))
        .route("/live", get(live::live))
        .fallback(problem::no_such_path)
        .method_not_allowed_fallback(problem::only_get)
        .layer(fixed(header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"))
        .layer(fixed(header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(fixed(header::CACHE_CONTROL, "no-store"))
        .with_state(api);
    Router::new().nest(PLACE, routes)
}
