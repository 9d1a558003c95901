//! Errors as RFC 9457 problems: a title for people, a status for machines, the way out in `detail`.

use axum::Json;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::store::StoreError;

/// Why a request was not answered.
#[derive(Debug)]
pub enum Problem {
    /// The request makes no sense as it stands.
    BadRequest(String),
    /// Nothing of that name.
    NotFound(String),
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
        let (status, title, detail) = match self {
            Self::BadRequest(detail) => (StatusCode::BAD_REQUEST, "The request is not understood", detail),
            Self::NotFound(detail) => (StatusCode::NOT_FOUND, "There is no such thing", detail),
            Self::Store(StoreError::Away(why)) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "The database is out of reach",
                format!("{why}. Agents keep their readings; try again."),
            ),
            Self::Store(StoreError::Refused(why)) => {
                tracing::error!(why, "The database refused a query.");
                (StatusCode::INTERNAL_SERVER_ERROR, "The database refused", why)
            }
        };
        let body =
            json!({ "type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail });
        (status, [(header::CONTENT_TYPE, "application/problem+json")], Json(body)).into_response()
    }
}

pub(super) async fn no_such_path(uri: Uri) -> Problem {
    Problem::NotFound(format!("{} is not a path of this API: fleet, points, query, gaps, live", uri.path()))
}
