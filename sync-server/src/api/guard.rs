//! Who asks, and may they: before any handler runs.
//!
//! [`guard`] stands before every route of the list. It finds out who asks, refuses with 401, 403 or 429,
//! and hands the handler a [`Caller`]. A route without the guard has no caller, and its handler answers 500.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, Uri, header};
use axum::middleware::Next;
use axum::response::Response;
use forebay_protocols::boot_time::wall_micros;
use tokio_util::sync::CancellationToken;

use super::problem::Problem;
use super::{About, Api, Roster};
use crate::access::{Asked, Gate, Identity, Refusal, Right};
use crate::listener::Peer;
use crate::live::Feed;
use crate::store::{Act, Store, TenantKey};

/// What a page of ours sends with every change, and a form or a link of another site cannot.
const OURS: &str = "x-forebay";

/// What the guard passes callers through to. Private to the API, so that no handler goes round it.
#[derive(Clone)]
pub(crate) struct Doors {
    pub(super) api: Arc<Api>,
    pub(super) about: Arc<About>,
}

/// What it takes to be let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing: whoever asks.
    Nothing,
    /// To be known, whatever one may do.
    Identity,
    /// A right, which roles and keys have or have not.
    Right(Right),
    /// A right, and to be of the main tenant: what is told is of the whole server.
    MainTenant(Right),
}

impl From<Right> for Needs {
    fn from(right: Right) -> Self {
        Self::Right(right)
    }
}

/// Somebody, known or not.
#[derive(Clone)]
pub(crate) struct Visitor {
    /// Users and keys.
    pub(super) gate: Arc<Gate>,
    /// Where from.
    pub(super) from: Option<IpAddr>,
    /// Does the browser speak TLS, with us or with a proxy?
    pub(super) is_tls: bool,
}

/// Who asks, and what of the server they may see.
#[derive(Clone)]
pub(crate) struct Caller {
    /// Who it is.
    pub(super) identity: Identity,
    /// The store as the caller's tenant sees it.
    pub(super) store: Arc<dyn Store>,
    /// Its fleet, as it was a moment ago.
    pub(super) fleet: Roster,
    /// What is being committed, of all tenants: see `live.rs`.
    pub(super) feed: Feed,
    /// Ends what would hang on.
    pub(super) stop: CancellationToken,
    /// How it came.
    pub(super) visitor: Visitor,
    /// What this server is.
    pub(super) about: Arc<About>,
}

impl Caller {
    /// What the caller changes now, for the audit.
    pub(super) fn act(&self) -> Act {
        Act {
            tenant: self.identity.tenant,
            who: self.identity.who(),
            origin: self.visitor.from.map_or_else(String::new, |from| from.to_string()),
            at: wall_micros(),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get::<Self>().cloned().ok_or(Problem::Unguarded)
    }
}

impl<S: Sync> FromRequestParts<S> for Visitor {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get::<Self>().cloned().ok_or(Problem::Unguarded)
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Unknown(words) => Self::Unauthorized(words),
            Refusal::Conflict(words) => Self::Conflict(words),
            Refusal::Store(error) => Self::Store(error),
            Refusal::TooMany(wait) => {
                let seconds = wait.as_secs_f64().ceil() as u64;
                Self::TooMany(format!("wait {seconds} s before the next one"), seconds)
            }
        }
    }
}

/// Lets a request through to its handler, or not.
pub(crate) async fn guard(
    State((doors, needs)): State<(Doors, Needs)>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let Doors { api, about } = doors;
    let headers = request.headers();
    let asked = Asked::new(headers, peer(&request));
    let from = asked.from;
    let identity = match needs {
        Needs::Nothing => None,
        _ => Some(api.gate.identify(&asked).await?),
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD)
        && !headers.contains_key(header::AUTHORIZATION)
    {
        ours(headers, request.uri())?;
    }
    if is_socket(headers)
        && !headers.contains_key(header::AUTHORIZATION)
        && is_foreign(headers, request.uri())
    {
        let words = "a WebSocket is opened by this server's own page (same origin), or with an API key";
        return Err(Problem::Forbidden(words.into()));
    }
    let is_tls = api.gate.rules().is_tls
        || headers.get("x-forwarded-proto").is_some_and(|scheme| scheme.as_bytes() == b"https");
    let visitor = Visitor { gate: api.gate.clone(), from, is_tls };
    request.extensions_mut().insert(visitor.clone());
    if let Some(identity) = identity {
        if let Needs::Right(right) | Needs::MainTenant(right) = needs
            && !identity.may(right)
        {
            return Err(Problem::Forbidden(refused(&identity, right)));
        }
        if matches!(needs, Needs::MainTenant(_)) && identity.tenant != TenantKey::MAIN {
            let words = "this is of the whole server, and so for the tenant that runs it";
            return Err(Problem::Forbidden(words.into()));
        }
        let store = api.store.clone().within(identity.tenant);
        let fleet = api.fleet.within(identity.tenant);
        let (feed, stop) = (api.feed.clone(), api.stop.clone());
        request.extensions_mut().insert(Caller { identity, store, fleet, feed, stop, visitor, about });
    }
    Ok(next.run(request).await)
}

fn refused(identity: &Identity, right: Right) -> String {
    let has: Vec<&str> = identity.rights().iter().map(|right| right.word()).collect();
    let has = if has.is_empty() { "no rights".to_owned() } else { has.join(", ") };
    match identity.name.is_empty() {
        true => format!(
            "this needs the right to {right}, and so a log-in: make a user with `forebay-server user add`"
        ),
        false => format!("this needs the right to {right}; {} has {has}", identity.who()),
    }
}

/// A browser sends cookies whoever made the request, so a change must come from a page of ours: with a
/// header that other sites cannot send, and from no other origin.
fn ours(headers: &HeaderMap, uri: &Uri) -> Result<(), Problem> {
    if headers.contains_key(OURS) && !is_foreign(headers, uri) {
        return Ok(());
    }
    Err(Problem::Forbidden(format!(
        "a change comes from this server's own page (header `{OURS}`, same origin), or with an API key"
    )))
}

/// Does a browser say that a page of another origin asks?
fn is_foreign(headers: &HeaderMap, uri: &Uri) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let host = text("x-forwarded-host").or(text("host")).or(uri.authority().map(|host| host.as_str()));
    let origin = text("origin").map(|origin| origin.split_once("://").map_or(origin, |(_, host)| host));
    origin.is_some_and(|origin| Some(origin) != host)
        || text("sec-fetch-site").is_some_and(|site| site != "same-origin" && site != "none")
}

/// Any page may open a WebSocket to any server, with the browser's cookies and without asking; but the
/// browser tells whose page it is, always (RFC 6455, 10.2).
fn is_socket(headers: &HeaderMap) -> bool {
    let upgrade = headers.get_all(header::UPGRADE).into_iter().filter_map(|value| value.to_str().ok());
    upgrade.flat_map(|value| value.split(',')).any(|word| word.trim().eq_ignore_ascii_case("websocket"))
}

/// Who connected.
fn peer(request: &Request) -> Option<IpAddr> {
    let extensions = request.extensions();
    let tls = extensions.get::<Peer>().map(|peer| peer.address.ip());
    tls.or_else(|| extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(address)| address.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_from_another_site_is_refused() {
        let judged = |pairs: &[(&'static str, &str)]| {
            let headers: HeaderMap =
                pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
            ours(&headers, &Uri::from_static("/api/v1/users")).is_ok()
        };
        let host = ("host", "plant.example:8080");
        let own = ("origin", "https://plant.example:8080");
        assert!(judged(&[host, (OURS, "1")]));
        assert!(judged(&[host, own, (OURS, "1"), ("sec-fetch-site", "same-origin")]));
        assert!(judged(&[
            ("host", "127.0.0.1:1"),
            ("x-forwarded-host", "plant.example:8080"),
            own,
            (OURS, "1")
        ]));
        assert!(!judged(&[host]), "a form");
        assert!(!judged(&[host, own]), "a form of our own page");
        assert!(!judged(&[host, (OURS, "1"), ("origin", "https://evil.example")]));
        assert!(!judged(&[host, (OURS, "1"), ("origin", "null")]));
        assert!(!judged(&[host, (OURS, "1"), ("sec-fetch-site", "cross-site")]));
        assert!(!judged(&[host, (OURS, "1"), ("sec-fetch-site", "same-site")]), "another port");
    }
}
