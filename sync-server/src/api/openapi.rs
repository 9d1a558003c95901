//! `/openapi.json`: the API as OpenAPI 3.1 describes it, made from the list of routes, the parameters
//! that their handlers read, and the shapes of their answers.

mod fields;
mod schema;
mod shapes;

use axum::Json;
use axum::http::Method;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use self::schema::{integer, one_of, text};
use super::guard::Needs;
use super::parameters::{Nothing, Parameters};
use super::routes::{Route, routes};
use super::{
    PLACE, alarms, audit, faults, fleet, gaps, joining, keys, ledger, live, points, quarantine, query,
};
use super::{session, silences, statistics, time_marks, users};

/// What is said of a route.
struct Told {
    summary: &'static str,
    /// Names of what the query string may hold.
    asks: Vec<&'static str>,
    /// Of the body, where there is one.
    body: Option<Value>,
    /// Media type and schema.
    answers: Vec<(&'static str, Value)>,
}

/// The document.
pub(super) async fn openapi(Parameters(Nothing {}): Parameters<Nothing>) -> Json<Value> {
    Json(document())
}

fn document() -> Value {
    let mut paths = Map::new();
    for route in routes() {
        let operation = operation(&route);
        let path = paths.entry(format!("{PLACE}{}", route.path)).or_insert_with(|| json!({}));
        if let Some(methods) = path.as_object_mut() {
            methods.insert(route.method.as_str().to_lowercase(), operation);
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Forebay",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0 OR MIT" },
            "description": "Gateways, points and readings of one sync-server. What is not known is `null`, never zero.",
        },
        "servers": [{ "url": "/" }],
        "paths": paths,
        "components": {
            "schemas": { "Problem": shapes::problem() },
            "securitySchemes": {
                "key": { "type": "http", "scheme": "bearer", "description": "An API key." },
            },
        },
    })
}

fn operation(route: &Route) -> Value {
    let told = told(&route.method, route.path);
    let mut parameters: Vec<Value> = placeholders(route.path).map(in_path).collect();
    if route.method != Method::GET {
        parameters.push(json!({
            "name": "X-Forebay", "in": "header", "schema": one_of(&["1"]),
            "description": "Needed with a change that comes without a key: a form of another site cannot send it.",
        }));
    }
    let mut operation = json!({ "operationId": operation_id(route) });
    let mut answers = Vec::new();
    if let Some(told) = told {
        operation["summary"] = told.summary.into();
        parameters.extend(told.asks.iter().map(|name| in_query(route.path, name)));
        if let Some(body) = told.body {
            operation["requestBody"] =
                json!({ "required": true, "content": { "application/json": { "schema": body } } });
        }
        answers = told.answers;
    }
    operation["parameters"] = parameters.into();
    let content: Map<String, Value> =
        answers.into_iter().map(|(kind, schema)| (kind.to_owned(), json!({ "schema": schema }))).collect();
    let good = if route.path == "/live/socket" { "101" } else { "2XX" };
    let mut responses = Map::from_iter([(good.to_owned(), json!({ "description": "The answer." }))]);
    if !content.is_empty() {
        responses[good]["content"] = content.into();
    }
    let problem =
        json!({ "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } });
    for (status, words) in [
        ("400", "The request is not understood."),
        ("401", "Nobody knows who asks."),
        ("403", "Who asks may not."),
        ("404", "There is no such thing."),
        ("405", "The path has other methods."),
        ("409", "This cannot be done now."),
        ("413", "The body is too long."),
        ("429", "Too many requests."),
        ("503", "The database is out of reach."),
    ] {
        responses.insert(status.into(), json!({ "description": words, "content": problem }));
    }
    operation["responses"] = responses.into();
    if let Needs::Right(right) = route.needs {
        operation["description"] = format!("Needs the right to {right}.").into();
        operation["security"] = json!([{}, { "key": [] }]);
    }
    operation
}

/// `get-alarms-id`.
fn operation_id(route: &Route) -> String {
    let mut id = route.method.as_str().to_lowercase();
    for part in route.path.split(['/', '{', '}', '.']).filter(|part| !part.is_empty()) {
        id = id + "-" + part;
    }
    id
}

fn placeholders(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

fn in_path(name: &str) -> Value {
    json!({ "name": name, "in": "path", "required": true, "schema": text() })
}

fn in_query(path: &str, name: &str) -> Value {
    let (words, schema) = parameter(path, name).unwrap_or(("", text()));
    let is_needed =
        matches!((path, name), ("/query" | "/query.csv" | "/statistics", "points") | ("/silences", "agent"));
    json!({ "name": name, "in": "query", "required": is_needed, "description": words, "schema": schema })
}

/// What a parameter means, and what it may be.
fn parameter(path: &str, name: &str) -> Option<(&'static str, Value)> {
    let limit = |usual: usize, least: usize| {
        let schema = json!({ "type": "integer", "minimum": least, "maximum": 1_000, "default": usual });
        Some(("How many at most.", schema))
    };
    let moment = |usual: &str| json!({ "type": "string", "default": usual, "examples": ["now", "-15m", "-7d", "2026-11-21T08:00:00Z"] });
    match (path, name) {
        (_, "agent") => Some(("`site/gateway`.", text())),
        (_, "site") => Some(("Of this site only.", text())),
        ("/points", "search") => Some((
            "Words, each a part of `device/name unit`, in any case; of `site/gateway/` too without `agent`.",
            text(),
        )),
        (_, "search") => Some(("A part of `site/gateway`, in any case.", text())),
        ("/fleet", "state") => {
            Some(("A state, or `faulty`.", one_of(&["online", "silent", "never seen", "revoked", "faulty"])))
        }
        (_, "state") => Some(("Of `active`, `acknowledged`, `cleared`, separated by commas.", text())),
        ("/gaps" | "/gaps.csv", "sort") => {
            Some(("`from`, or `-from`: the latest first.", one_of(&["from", "-from"])))
        }
        (_, "reason") => Some(("For this reason only, as `reason` tells it.", text())),
        (_, "device") => Some(("Of this device, or of a point of it, only.", text())),
        ("/fleet", "sort") => {
            let words: Vec<String> =
                fleet::sort_keys().flat_map(|key| [key.into(), format!("-{key}")]).collect();
            let schema = json!({ "type": "string", "enum": words, "default": "agent" });
            Some(("What to order by; `-` in front turns it round.", schema))
        }
        (_, "fields") => Some(("Keys of an agent to tell, separated by commas; default all.", text())),
        (_, "from") => Some((
            "Inside: `now`, a span back from now, RFC 3339, or milliseconds since 1970.",
            moment(match path {
                "/gaps" | "/gaps.csv" | "/silences" => "-1d",
                "/time-marks" => "-30d",
                _ => "-1h",
            }),
        )),
        (_, "to") => Some(("Outside; as `from`.", moment("now"))),
        ("/faults", "limit") => limit(50, 0),
        ("/audit", "limit") => limit(100, 1),
        ("/gaps.csv", "limit") => Some((
            "How many at most.",
            json!({ "type": "integer", "minimum": 1, "maximum": 100_000, "default": 100_000 }),
        )),
        (_, "limit") => limit(200, 1),
        (_, "max_points") => Some((
            "Rows of a series at most; readings become buckets where there are more.",
            json!({ "type": "integer", "minimum": 2, "maximum": 10_000 }),
        )),
        (_, "points" | "ids") => Some(("1 to 50 ids of points, separated by commas.", text())),
        ("/fleet", "after") => Some(("`next` of the page before.", text())),
        ("/live" | "/live/socket", "after") => {
            Some(("The id of the last event that was read; what is newer is told first.", text()))
        }
        (_, "after") => Some(("`next` of the page before.", json!({ "type": "integer", "format": "int64" }))),
        (_, "before") => {
            Some(("`next` of the page before.", json!({ "type": "integer", "format": "int64" })))
        }
        (_, "offset") => Some(("How many to pass over.", integer())),
        (_, "events") => Some(("`readings` or `alarms`; default both.", one_of(&["readings", "alarms"]))),
        _ => None,
    }
}

/// What is said of a route; nothing where it is one that nobody described.
fn told(method: &Method, path: &str) -> Option<Told> {
    let told = match (method.as_str(), path) {
        ("GET", "/fleet") => {
            get::<fleet::Wanted>("Agents with state, devices, backlog and ledger, in pages", shapes::fleet())
        }
        ("GET", "/sites") => get::<Nothing>("How many agents are how, site by site", shapes::sites()),
        ("GET", "/points") => {
            get::<points::Wanted>("Points with their latest readings, in pages", shapes::points())
        }
        ("GET", "/query") => {
            let mut told = get::<query::Wanted>(
                "Readings over a time range, at a resolution that fits",
                shapes::query(),
            );
            told.answers.push(("text/csv", text()));
            told
        }
        ("GET", "/query.csv") => Told {
            answers: vec![("text/csv", text())],
            ..get::<query::Wanted>("Readings over a time range as a file", Value::Null)
        },
        ("GET", "/statistics") => get::<statistics::Wanted>(
            "Count, least, mean, most, first and last over a time range",
            shapes::statistics(),
        ),
        ("GET", "/gaps") => {
            get::<gaps::Wanted>("Intervals in which readings are missing, and why", shapes::gaps())
        }
        ("GET", "/gaps.csv") => Told {
            answers: vec![("text/csv", text())],
            ..get::<gaps::Wanted>("The same as a file", Value::Null)
        },
        ("GET", "/silences") => get::<silences::Wanted>("When an agent was not heard", shapes::silences()),
        ("GET", "/ledger") => {
            get::<ledger::Wanted>("Where every reading is, and whether the books close", shapes::ledger())
        }
        ("GET", "/faults") => {
            get::<faults::Wanted>("What a person should know of, with what to do", shapes::faults())
        }
        ("GET", "/alarms") => {
            get::<alarms::Wanted>("What a person must know of until it is over", shapes::alarms())
        }
        ("GET", "/alarms/rules") => get::<Nothing>("What is looked after", shapes::rules()),
        ("POST", "/alarms/{id}/acknowledge") => Told {
            body: Some(shapes::notice()),
            ..get::<Nothing>("Takes notice of an alarm", shapes::alarm())
        },
        ("GET", "/time-marks") => {
            get::<time_marks::Wanted>("Readings whose times were corrected", shapes::time_marks())
        }
        ("GET", "/quarantine") => get::<quarantine::Wanted>("What is kept aside", shapes::quarantine()),
        ("GET", "/joining") => get::<Nothing>("Gateways that wait for an operator's word", shapes::joining()),
        ("POST", "/joining/{id}/approve") => {
            sends::<joining::Approved>("Lets a gateway in that waits", Value::Null)
        }
        ("POST", "/joining/{id}/reject") => {
            sends::<joining::Rejected>("Turns a gateway away that waits", Value::Null)
        }
        ("POST", "/joining/tokens") => {
            sends::<joining::NewToken>("Makes a join string, told once", shapes::new_token())
        }
        ("GET", "/server") => get::<Nothing>("This server and its store", shapes::server()),
        ("GET", "/live") => Told {
            answers: vec![("text/event-stream", text())],
            ..get::<live::Wanted>("Server-sent events: newest values as they are committed", Value::Null)
        },
        ("GET", "/live/socket") => get::<live::Wanted>(
            "The same over a WebSocket, one message an event: `{id, event, data}`",
            Value::Null,
        ),
        ("POST", "/quarantine/replay") => {
            sends::<quarantine::Replay>("Stores after all what is kept aside", shapes::replayed())
        }
        ("POST", "/login") => {
            sends::<session::Credentials>("Logs in; the answer brings a cookie", shapes::welcome())
        }
        ("POST", "/setup") => sends::<session::SetUp>("Makes the first user", shapes::welcome()),
        ("POST", "/logout") => get::<Nothing>("Logs out", Value::Null),
        ("GET", "/me") => get::<Nothing>("Who asks, and what they may", shapes::me()),
        ("POST", "/password") => sends::<session::NewPassword>("Another password of one's own", Value::Null),
        ("GET", "/users") => get::<Nothing>("Users of the tenant", shapes::users()),
        ("POST", "/users") => sends::<users::New>("Makes a user", shapes::new_user()),
        ("PATCH", "/users/{id}") => sends::<users::Altered>("Another role or password", Value::Null),
        ("DELETE", "/users/{id}") => get::<Nothing>("Takes a user away", Value::Null),
        ("GET", "/keys") => get::<Nothing>("API keys of the tenant", shapes::keys()),
        ("POST", "/keys") => sends::<keys::New>("Makes a key, told once", shapes::new_key()),
        ("DELETE", "/keys/{id}") => get::<Nothing>("Takes a key away", Value::Null),
        ("GET", "/audit") => get::<audit::Wanted>("Every change, the latest first", shapes::audit()),
        ("GET", "/openapi.json") => get::<Nothing>("This document", json!({ "type": "object" })),
        _ => return None,
    };
    Some(told)
}

/// A route whose query string is read as `T`; without an answer where that is null.
fn get<T: DeserializeOwned>(summary: &'static str, answer: Value) -> Told {
    let answers = if answer.is_null() { Vec::new() } else { vec![("application/json", answer)] };
    Told { summary, asks: fields::of::<T>().to_vec(), body: None, answers }
}

/// A route whose body is read as `T`.
fn sends<T: DeserializeOwned>(summary: &'static str, answer: Value) -> Told {
    Told { body: Some(shapes::body(fields::of::<T>())), ..get::<Nothing>(summary, answer) }
}

/// Paths that nobody described.
#[cfg(test)]
fn silent() -> std::collections::BTreeSet<String> {
    let strange = |route: &Route| told(&route.method, route.path).is_none();
    routes()
        .iter()
        .filter(|route| strange(route))
        .map(|route| format!("{} {}", route.method, route.path))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_route_is_described() {
        assert_eq!(silent(), BTreeSet::new());
    }

    #[test]
    fn every_parameter_that_a_handler_reads_has_its_words() {
        let mut seen = 0;
        for route in routes() {
            for name in told(&route.method, route.path).map(|told| told.asks).unwrap_or_default() {
                assert!(parameter(route.path, name).is_some(), "{} {name}", route.path);
                seen += 1;
            }
        }
        assert!(seen > 30, "{seen} parameters are not all");
    }

    #[test]
    fn operations_have_names_of_their_own() {
        let names: Vec<String> = routes().iter().map(operation_id).collect();
        let unique: BTreeSet<&String> = names.iter().collect();
        assert_eq!(unique.len(), names.len(), "{names:?}");
    }
}
