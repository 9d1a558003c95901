//! Every path of the API, in one list: what answers it and what it takes to be let in. The router is
//! built from this list and from nothing else, and the tests of access go through it, so that no route
//! is without a rule and none without a test.
//!
//! A new route is one line of [`routes`]: `get("/alarms", Right::Read, alarms::alarms)`. Its handler takes
//! a [`Caller`](super::guard::Caller), which holds the store as the caller's tenant sees it; there is no
//! other way to a store from here.

use axum::Router;
use axum::handler::Handler;
use axum::http::Method;
use axum::middleware::from_fn_with_state;
use axum::routing::{self, MethodRouter};

use super::guard::{Doors, Needs, guard};
use super::{
    alarms, audit, csv, faults, fleet, gaps, joining, keys, ledger, live, openapi, points, quarantine, rules,
    server, session, silences, statistics, time_marks, users,
};
use crate::access::Right;

/// One method of one path.
pub(super) struct Route {
    pub(super) method: Method,
    /// Below `/api/v1`.
    pub(super) path: &'static str,
    pub(super) needs: Needs,
    handler: MethodRouter<Doors>,
}

/// All of them.
pub(super) fn routes() -> Vec<Route> {
    vec![
        get("/fleet", Right::Read, fleet::fleet),
        get("/sites", Right::Read, fleet::sites),
        get("/points", Right::Read, points::points),
        get("/query", Right::Read, csv::json_or_csv),
        get("/query.csv", Right::Read, csv::csv),
        get("/statistics", Right::Read, statistics::statistics),
        get("/gaps", Right::Read, gaps::gaps),
        get("/gaps.csv", Right::Read, gaps::gaps_csv),
        get("/silences", Right::Read, silences::silences),
        get("/ledger", Right::Read, ledger::ledger),
        get("/faults", Right::Read, faults::faults),
        get("/alarms", Right::Read, alarms::alarms),
        get("/alarms/rules", Right::Read, rules::rules),
        post("/alarms/{id}/acknowledge", Right::Operate, alarms::acknowledge),
        get("/joining", Right::Operate, joining::joining),
        post("/joining/{id}/approve", Right::Operate, joining::approve),
        post("/joining/{id}/reject", Right::Operate, joining::reject),
        post("/joining/tokens", Right::Manage, joining::invite),
        get("/time-marks", Right::Read, time_marks::time_marks),
        get("/quarantine", Right::Read, quarantine::quarantine),
        get("/server", Right::Read, server::server),
        get("/live", Right::Read, live::live),
        get("/live/socket", Right::Read, live::socket),
        get("/openapi.json", Right::Read, openapi::openapi),
        post("/quarantine/replay", Right::Operate, quarantine::replay),
        post("/login", Needs::Nothing, session::login),
        post("/setup", Needs::Nothing, session::setup),
        post("/logout", Needs::Identity, session::logout),
        get("/me", Needs::Identity, session::me),
        post("/password", Needs::Identity, session::password),
        get("/users", Right::Manage, users::list),
        post("/users", Right::Manage, users::add),
        patch("/users/{id}", Right::Manage, users::alter),
        delete("/users/{id}", Right::Manage, users::remove),
        get("/keys", Right::Manage, keys::list),
        post("/keys", Right::Manage, keys::add),
        delete("/keys/{id}", Right::Manage, keys::remove),
        get("/audit", Right::Manage, audit::audit),
    ]
}

/// The router over the list.
pub(super) fn router(doors: &Doors) -> Router<Doors> {
    routes().into_iter().fold(Router::new(), |router, Route { path, needs, handler, .. }| {
        let guard = from_fn_with_state((doors.clone(), needs), guard);
        router.route(path, handler.route_layer(guard))
    })
}

fn get<T: 'static>(path: &'static str, needs: impl Into<Needs>, handler: impl Handler<T, Doors>) -> Route {
    Route { method: Method::GET, path, needs: needs.into(), handler: routing::get(handler) }
}

fn post<T: 'static>(path: &'static str, needs: impl Into<Needs>, handler: impl Handler<T, Doors>) -> Route {
    Route { method: Method::POST, path, needs: needs.into(), handler: routing::post(handler) }
}

fn patch<T: 'static>(path: &'static str, needs: impl Into<Needs>, handler: impl Handler<T, Doors>) -> Route {
    Route { method: Method::PATCH, path, needs: needs.into(), handler: routing::patch(handler) }
}

fn delete<T: 'static>(path: &'static str, needs: impl Into<Needs>, handler: impl Handler<T, Doors>) -> Route {
    Route { method: Method::DELETE, path, needs: needs.into(), handler: routing::delete(handler) }
}
