//! Errors as RFC 9457 problems: a title for people, a status for machines, the way out in `detail`.

use std::collections::BTreeSet;

use axum::Json;
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::PLACE;
use super::routes::routes;
use crate::store::StoreError;

/// Seconds after which to ask again while the database is away.
const RETRY_AFTER: u64 = 5;

/// Why a request was not answered.
#[derive(Debug)]
pub enum Problem {
    /// The request makes no sense as it stands.
    BadRequest(String),
    /// Nothing of that name.
    NotFound(String),
    /// Nobody knows who asks.
    Unauthorized(String),
    /// It is known who asks, and they may not.
    Forbidden(String),
    /// Something stands in the way, as things are now.
    Conflict(String),
    /// Too much at once; with the seconds to wait.
    TooMany(String, u64),
    /// The path has other methods.
    MethodNotAllowed(String),
    /// A route that is not in the list: our mistake.
    Unguarded,
    /// The database is away or refused.
    Store(StoreError),
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let wait = match &self {
            Self::Store(StoreError::Away(_)) => Some(RETRY_AFTER),
            Self::TooMany(_, seconds) => Some(*seconds),
            _ => None,
        };
        let is_unknown = matches!(self, Self::Unauthorized(_));
        let (status, title, detail) = match self {
            Self::BadRequest(detail) => (StatusCode::BAD_REQUEST, "The request is not understood", detail),
            Self::NotFound(detail) => (StatusCode::NOT_FOUND, "There is no such thing", detail),
            Self::Unauthorized(detail) => (StatusCode::UNAUTHORIZED, "Log in first", detail),
            Self::Forbidden(detail) => (StatusCode::FORBIDDEN, "This is not allowed", detail),
            Self::Conflict(detail) => (StatusCode::CONFLICT, "This cannot be done now", detail),
            Self::TooMany(detail, _) => (StatusCode::TOO_MANY_REQUESTS, "Too many requests", detail),
            Self::MethodNotAllowed(detail) => {
                (StatusCode::METHOD_NOT_ALLOWED, "The path does not take this method", detail)
            }
            Self::Unguarded => {
                tracing::error!("A route of the API has no guard; this is a bug, please report it.");
                let detail = "this path has no rule of access, so nobody is let in".to_owned();
                (StatusCode::INTERNAL_SERVER_ERROR, "This is a bug", detail)
            }
            Self::Store(StoreError::Away(why)) => {
                let detail =
                    format!("{why}. Agents keep their readings meanwhile; try again in {RETRY_AFTER} s.");
                (StatusCode::SERVICE_UNAVAILABLE, "The database is out of reach", detail)
            }
            Self::Store(StoreError::Refused(why)) => {
                tracing::error!(why, "The database refused a query.");
                let detail = format!("{why}. This is not the request's fault: see the server's log.");
                (StatusCode::INTERNAL_SERVER_ERROR, "The database refused", detail)
            }
        };
        let body =
            json!({ "type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail });
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        let mut response = (status, kind, Json(body)).into_response();
        if let Some(seconds) = wait {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if is_unknown {
            // Of the schemes there are, the one that makes no browser ask for a password by itself.
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

pub(super) async fn no_such_path(uri: Uri) -> Problem {
    let path = uri.path().trim_end_matches('/');
    let known: BTreeSet<&str> = routes().iter().filter_map(|route| route.path.split('/').nth(1)).collect();
    let known = known.into_iter().collect::<Vec<_>>().join(", ");
    Problem::NotFound(format!("`{PLACE}{path}` is no path of this API: there are {known}"))
}

pub(super) async fn other_method(method: Method) -> Problem {
    Problem::MethodNotAllowed(format!("{method} is not answered here"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_that_is_away_is_worth_another_try_and_a_refusal_is_not() {
        let away = Problem::from(StoreError::Away("no route".into())).into_response();
        assert_eq!(away.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(away.headers()[header::RETRY_AFTER], RETRY_AFTER.to_string());
        let refused = Problem::from(StoreError::Refused("no such table".into())).into_response();
        assert_eq!(refused.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!refused.headers().contains_key(header::RETRY_AFTER));
    }
}
