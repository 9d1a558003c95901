//! The JSON of a request, read strictly, and the numbers in a path.

use axum::Json;
use axum::extract::{FromRequest, Path, Request};
use axum::extract::{FromRequestParts, rejection::JsonRejection};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::problem::Problem;

/// A request's body, which is an object and nothing else that serde takes for one, or a problem in our
/// own words.
pub(super) struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        match Json::<Map<String, Value>>::from_request(request, state).await {
            Ok(Json(object)) => serde_json::from_value(Value::Object(object))
                .map(Self)
                .map_err(|error| Problem::BadRequest(format!("the body: {error}"))),
            Err(JsonRejection::MissingJsonContentType(_)) => {
                Err(Problem::BadRequest("the body is JSON, with `Content-Type: application/json`".into()))
            }
            Err(refused) => Err(Problem::BadRequest(refused.body_text())),
        }
    }
}

/// The number at the end of a path.
pub(super) struct Number(pub i64);

impl<S: Send + Sync> FromRequestParts<S> for Number {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let text = Path::<String>::from_request_parts(parts, state).await;
        let Path(text) = text.map_err(|refused| Problem::BadRequest(refused.body_text()))?;
        text.parse().map(Self).map_err(|_| Problem::NotFound(format!("`{text}` is no id, which is a number")))
    }
}
