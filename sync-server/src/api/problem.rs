//! Errors as RFC 9457 problems: a title for people, a status for machines, the way out in `detail`.

use axum::Json;
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::PLACE;
use crate::store::StoreError;

/// Seconds after which to ask again while the database is away.
const RETRY_AFTER: &str = "5";

/// Why a request was not answered.
#[derive(Debug)]
pub enum Problem {
    /// The request makes no sense as it stands.
    BadRequest(String),
    /// Nothing of that name.
    NotFound(String),
    /// Not by this method.
    OtherMethod(String),
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
        let away = matches!(self, Self::Store(StoreError::Away(_)));
        let (status, title, detail) = match self {
            Self::BadRequest(detail) => (StatusCode::BAD_REQUEST, "The request is not understood", detail),
            Self::NotFound(detail) => (StatusCode::NOT_FOUND, "There is no such thing", detail),
            Self::OtherMethod(detail) => {
                (StatusCode::METHOD_NOT_ALLOWED, "The path has no such method", detail)
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
        if away {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
        }
        response
    }
}

pub(super) async fn no_such_path(uri: Uri) -> Problem {
    let path = uri.path().trim_end_matches('/');
    Problem::NotFound(format!(
        "`{PLACE}{path}` is no path of this API: there are fleet, points, query, query.csv, statistics, gaps, \
         silences, ledger, faults, alarms, time-marks, quarantine, server and live"
    ))
}

pub(super) async fn other_method(method: Method, uri: Uri) -> Problem {
    let way_out = if uri.path().ends_with("/acknowledge") { "POST" } else { "GET" };
    Problem::OtherMethod(format!("{method} is not answered here: use {way_out}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_that_is_away_is_worth_another_try_and_a_refusal_is_not() {
        let away = Problem::from(StoreError::Away("no route".into())).into_response();
        assert_eq!(away.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(away.headers()[header::RETRY_AFTER], RETRY_AFTER);
        let refused = Problem::from(StoreError::Refused("no such table".into())).into_response();
        assert_eq!(refused.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!refused.headers().contains_key(header::RETRY_AFTER));
    }
}
