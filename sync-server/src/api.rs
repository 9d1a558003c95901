//! The API, `/api/v1`: JSON out, `application/problem+json` (RFC 9457) where something is wrong.
//!
//! | path | gives |
//! |---|---|
//! | [`fleet`](#fleet) | every agent with its state, devices, backlog and ledger, in pages |
//! | [`sites`](#sites) | how many agents are how, site by site |
//! | [`points`](#points) | points with their latest readings, in pages |
//! | [`query`](#query) | readings of points over a time range, at a resolution that fits |
//! | [`query.csv`](#querycsv) | the same as a file, or every reading |
//! | [`statistics`](#statistics) | count, least, mean, most, first and last of points over a time range |
//! | [`gaps`](#gaps), `gaps.csv` | intervals in which readings are missing, and why |
//! | [`silences`](#silences) | when an agent was not heard |
//! | [`ledger`](#ledger) | where every reading is, and whether the books close |
//! | [`faults`](#faults) | what a person should know of, in words, with what to do |
//! | [`alarms`](#alarms) | what a person must know of until it is over; acknowledging it |
//! | [`alarms/rules`](#alarms) | what is looked after |
//! | [`time-marks`](#time-marks) | readings whose times are not what the gateway believed |
//! | [`quarantine`](#quarantine) | what is kept aside: batches that could not be stored, impossible times |
//! | [`joining`](#joining) | gateways that wait for an operator's word; letting in, turning away; join strings |
//! | [`server`](#server) | this server: version, what its store is and how large |
//! | `openapi.json` | all of this as OpenAPI 3.1, for programs |
//! | [`live`](#live) | server-sent events: newest values as they are committed |
//! | [`live/socket`](#live) | the same over a WebSocket |
//! | [`login`, `logout`, `me`, `password`, `setup`](#access) | who asks |
//! | [`users`, `keys`, `audit`](#access) | who may, for admins |
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
//! `agent` (this one alone), `site`, `search` (part of `site/gateway`, any case), `state` (a state, or
//! `faulty`), `sort` (`agent`, the default, `state`: what wants a look first, `last_seen`, `lag_s`, `backlog`,
//! `drain_s`, `bytes_today`, `dropped`, `set_aside`, `stored`, `version`, `certificate_valid_until`; with a `-`
//! before it the other way round), `fields` (keys of an agent, separated by commas; default all), `limit` (1 to 1000, default
//! 200), `after` (the `next` of the page before), `offset` (agents to pass over).
//! `{store, time, summary, matching, agents: [...], next}`: `summary` counts the whole fleet, `matching`
//! is how many agents were asked for, `next` is `null` on the last page. An answer may be a second old.
//! Agents never vanish; `state` is `online`, `silent` (no word for 150 s; a heartbeat comes every 60 s unless configured otherwise),
//! `never seen` (joined, and no delivery yet) or `revoked`. `ledger` counts readings since the agent's
//! buffer began, and closes: `produced = filtered + in_hand + appended`, and
//! `appended = dropped + acknowledged + backlog.readings`; `dropped_by` has `full`, `corrupt`,
//! `thinned` and `other`. `stored` counts readings since the agent joined. `newest` is when the newest stored
//! reading was taken (one from the future counts as of when it came), and `lag_s` how long ago that was: how
//! far what is stored is behind. `backlog.tail_bytes` are acknowledged and kept for a server that loses them.
//! `backlog.trend` is `none` (no more waits than the gateway makes in a minute), `shrinks`, `grows` (it does
//! not shrink), or `null` while the agent is silent or has not reported twice; `backlog.drain_s` is how long
//! until it is empty, if it goes on as by the last reports. `bytes_today` are the bodies of the agent's requests
//! since midnight UTC, as they arrived, those of refused ones too; HTTP's and TLS's own bytes and the answers
//! are not counted. `certificate_days` are whole days, below zero once the certificate has ended. `clock.offset_ms` is the gateway's clock less
//! the server's when it last reported. `device_counts` are those of `devices`, with the first that is
//! silent. `faults` are those that stand, as [`faults`](#faults) has them. `refused` is when and why this
//! server sent the agent away last, since it started; `null` if it did not.
//!
//! # sites
//!
//! No parameters. `{time, sites: [...]}` by name, each with the counts of `summary`.
//!
//! # points
//!
//! `agent` (default: all), `search` (words, each a part of `device/name unit` in any case, and of
//! `site/gateway/` too where no agent is named), `limit` (1 to 1000, default 200), `after` (the `next` of the
//! page before); or `ids` (1 to 50, separated by commas) alone. `{points: [...], next}`, points by id;
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
//! # query.csv
//!
//! As [`query`](#query), as `text/csv` (RFC 4180); so answers `query` itself to `Accept: text/csv`. With
//! `max_points` the rows are those of the query; without it every reading stands in a row of its own, at most
//! 100,000,000 of them: a range that holds more is refused before it begins. A connection that breaks in
//! the middle is a file that is not whole.
//!
//! # statistics
//!
//! `points`, `from` and `to` as [`query`](#query). `{from, to, series: [...]}`, each with `count` and `good`
//! readings, `numbers` (those that count below), `min`, `mean`, `max`, and `first` and `last`, the earliest
//! and latest value whose quality is not bad.
//!
//! # gaps
//!
//! `agent` (default: all), `device` (this one, and its points), `reason`, `from` (default `-1d`), `to` (default `now`),
//! `sort` (`from`, by beginning, the default; `-from`, the latest first), `limit` (1 to 1000, default
//! 200). `{gaps: [...], more}`, those that touch the range; `more` tells that the limit
//! cut some off. `point` is an id and `name` its name, or `null`; then all points of `device` are meant, and if that is
//! `null` too, the whole gateway. `count` is `null` where nobody knows how many readings are missing.
//! `reason` is `device silent`, `buffer full`, `corrupt`, `agent down`, `clock`, `server lost it` (a
//! restored database, and the gateway had forgotten), `thinned out` (no room: the resolution was
//! halved), `buffer wiped` (the gateway came back with a new one) or `unspecified`; `words` say it plainly.
//! `gaps.csv` is the same as a file, with at most 100,000 of them.
//!
//! # silences
//!
//! `agent` (needed), `from` (default `-1d`), `to` (default `now`), `limit` (1 to 1000, default 200).
//! `{silences: [{from, to}], more}`: for more than 150 s nothing was heard of the agent. Readings with times
//! inside came later. The last one may last still: then `to` is `null`.
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
//! # alarms
//!
//! `state` (words separated by commas, default `active,acknowledged`; `cleared` too), `site`, `limit` (1 to
//! 1000, default 200), `after` (the `next` of the page before). `{time, active, acknowledged, alarms: [...],
//! next}`, the newest first; `active` and `acknowledged` count all that stand. `rule` is the name of its section
//! in the configuration, `kind` what it looks at, `priority` `low`, `medium` or `high`; `members` are what it is
//! about, each with `since`. `acknowledged` is `null` or `{time, by, note}`, `cleared` a time once it is over.
//!
//! `POST alarms/ID/acknowledge` with JSON `{"note": "…"}` (note and `by` may be left out) acknowledges one, and
//! answers with the alarm. An alarm that grows is active again.
//!
//! `alarms/rules`: no parameters. `{time, rules: [...]}`: what is looked after for the caller's tenant. `from` is
//! `usual` where a rule stands without being written, else `configuration` (`[alarm.NAME]` in the server's file);
//! `words` tell it with its limits. `agents` and `points` are patterns. `after_s`, `least`, `off_s`, `within_s`,
//! `above`, `below` and `deadband` are `null` where a rule of this kind has none. Of a rule that stands for every
//! tenant others than the main one are told no points, and only those `agents` that are theirs.
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
//! - `POST joining/NUMBER/approve {agent}` lets one in that waits, `POST joining/NUMBER/reject {agent, reason}` turns one
//!   away that has not come in yet; the gateway is told the reason. 204. `agent` may be left out; where a gateway goes
//!   by another name by now, 409.
//! - `POST joining/tokens {note, uses, expires_s, approval}` makes a join string. All may be left out: one gateway, for a
//!   day, without approval. The answer has `join`, once, `command`, what to type on the gateway, and `qr`, that command
//!   as a QR code: `size` modules each way and the `path` of the dark ones, as SVG draws it.
//!
//! # server
//!
//! No parameters. `{time, version, store: {words, tier, gives, bytes}, retention}`. `tier` is `sqlite`,
//! `timescaledb-community`, `timescaledb-apache`, `postgresql-partitions` or `postgresql-plain-table`,
//! as found at start; `gives` says what that means, `bytes` what is on disk, indexes included. `retention` is
//! how long `readings` and rollups of `minutes`, `hours` and `days` are kept, in seconds; `null` is for ever;
//! `classes` are points kept for a time of their own. Both are `null` for other tenants than the main one.
//!
//! # live
//!
//! `agent` (default: all), `events` (`readings` or `alarms`; default both), `after` (an event's id). Server-sent
//! events, at most four a second. `readings` carries an array of
//! `[id, time_ms, value, quality]`, the newest reading of each point since the event before; here
//! quality is in words (`"bad: the device did not answer in time"`), and its first word is the class.
//! A backlog is history and is not shown. `missed` tells a reader who was too slow for all: it carries
//! the number of batches passed over; ask `points` for the latest. `alarms` carries
//! `{active, acknowledged, event}` whenever an alarm has changed. The stream ends when the server stops, and
//! within seconds when the log-in or the key is over.
//!
//! Each event has an id. Who comes back with the last one it has read, as `Last-Event-ID` (a browser does so
//! by itself) or in `after`, is told first what has been committed since: the newest reading of each point
//! of the gateways that were heard meanwhile, and how many alarms there are. Some of it may be known to it. Of
//! more than 5,000 points or 500 gateways it is told `missed` instead.
//!
//! `live/socket` is the same over a WebSocket: each message is an event, `{id, event, data}`, the first one
//! `ready`. The server pings every 20 s and goes when it hears nothing for 65 s. It takes no messages, and closes
//! with 1001 when it stops, 1008 when the log-in or the key is over. A browser must be on a page of this
//! server; a program sends its key as elsewhere.
//!
//! # Access
//!
//! A program sends `Authorization: Bearer fbk_…`. The page has a cookie, and sends `X-Forebay: 1` with
//! every change; so does a program that asks without a key. Which right a path needs stands in
//! `routes.rs`: `read`, `operate` (replay) or `manage` (users, keys, audit). A user's rights are those of
//! its role: viewer (read, metrics), operator (and operate), admin (and manage). Everything answered and
//! changed is of the caller's tenant; what is another's is not there (404, an empty series, no row).
//!
//! - `POST login {name, password}`, `POST logout`, `GET me`, `POST password {old, new}`;
//!   `POST setup {secret, name, password}` makes the first user by the link the server printed.
//! - `GET users`, `POST users {name, role, password}`, `PATCH users/ID {role, password}` (either),
//!   `DELETE users/ID`. A tenant's last admin stays.
//! - `GET keys`, `POST keys {name, rights: [...], expires_s}`; the answer has `key`, once. `DELETE keys/ID`.
//! - `GET audit`: `before` (the `next` of the page before), `limit` (1 to 1000, default 100). `{entries:
//!   [...], next}`, latest first: `time`, `who`, `from`, `action`, `subject`, `was`, `became`.
//! - `POST quarantine/replay {id, shift_s}`: `id` as `quarantine` tells it, a batch's or a point's;
//!   `shift_s` is added to its times. `{stored, odd}` count readings.
//!
//! # Errors
//!
//! `{type, title, status, detail}`; `detail` names the value and the way out. 400 a parameter that is
//! unknown or makes no sense, 401 nobody knows who asks, 403 it is not allowed, 404 no such path or agent,
//! 405 the path has no such method, 409 it cannot be done now, 429 too often, 500 the database refused, 503
//! the database is out of reach; with 429 and 503 `Retry-After` tells the seconds to wait.
//!
//! Answers of some length are compressed for those who send `Accept-Encoding: gzip`.

mod alarms;
mod audit;
mod body;
mod csv;
mod faults;
mod fleet;
mod gaps;
mod guard;
mod joining;
mod keys;
mod ledger;
mod live;
mod openapi;
mod packing;
mod parameters;
mod points;
mod problem;
mod qr;
mod quarantine;
mod query;
mod roster;
mod routes;
mod rules;
mod server;
mod session;
mod silences;
mod statistics;
mod time_marks;
mod users;
mod words;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, Method, header};
use axum::middleware::from_fn_with_state;
use forebay_config::alarms::Rule;
use forebay_config::retention::Retention;
use tokio_util::sync::CancellationToken;
use tower_http::set_header::SetResponseHeaderLayer;

use self::guard::Doors;
pub use self::guard::Needs;
use crate::access::{Gate, Right};
use crate::invitation::Inviter;
use crate::live::Feed;
use crate::store::Store;

pub use roster::Roster;

/// Where the API is mounted.
const PLACE: &str = "/api/v1";
/// What a request may carry, in bytes.
const LARGEST_BODY: usize = 64 << 10;

/// What the handlers need.
#[derive(Clone)]
pub struct Api {
    /// Where everything is kept.
    pub store: Arc<dyn Store>,
    /// Who there is, looked at once for all who ask.
    pub fleet: Roster,
    /// What is being committed.
    pub feed: Feed,
    /// Who may do what.
    pub gate: Arc<Gate>,
    /// Ends the live streams, which else would hang on and keep the server from stopping.
    pub stop: CancellationToken,
}

/// What this server is by its configuration.
#[derive(Debug, Default)]
pub struct About {
    /// How long it keeps what it has.
    pub retention: Retention,
    /// What alarms are raised for, of all tenants.
    pub rules: Vec<Rule>,
    /// Makes join strings; `None`: it makes none.
    pub inviter: Option<Inviter>,
}

/// The routes below `/api/v1`, of a server that says nothing about itself.
pub fn router(api: Api) -> Router {
    router_about(api, About::default())
}

/// The routes below `/api/v1`.
pub fn router_about(api: Api, about: About) -> Router {
    let fixed = |name, value| SetResponseHeaderLayer::overriding(name, HeaderValue::from_static(value));
    let doors = Doors { api: Arc::new(api), about: Arc::new(about) };
    let routes = routes::router(&doors)
        .fallback(problem::no_such_path)
        .method_not_allowed_fallback(problem::other_method)
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .layer(axum::middleware::from_fn(packing::pack))
        .layer(fixed(header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"))
        .layer(fixed(header::CACHE_CONTROL, "no-store"))
        .with_state(doors);
    Router::new().nest(PLACE, routes)
}

/// What `/metrics` needs.
pub const METRICS: Needs = Needs::MainTenant(Right::Metrics);

/// Lets only those to a router that is not the API's own who have what it needs.
pub fn guarded(router: Router, api: &Api, needs: Needs) -> Router {
    let doors = Doors { api: Arc::new(api.clone()), about: Arc::default() };
    router.route_layer(from_fn_with_state((doors, needs), guard::guard))
}

/// Every method and path of the API, and what it takes to be let in: for tests of just that.
pub fn table() -> Vec<(Method, String, Needs)> {
    let listed = |route: routes::Route| (route.method, format!("{PLACE}{}", route.path), route.needs);
    routes::routes().into_iter().map(listed).collect()
}
