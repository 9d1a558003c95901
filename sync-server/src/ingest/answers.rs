//! Answers as HTTP: protobuf when all is well, problem+json when not.

use axum::body::Body;
use axum::response::Response;
use forebay_protocols::sync::problem::{self, Kind, Problem};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use prost::Message;

/// An answer that its reader knows for what it is: small batches pay for each header.
pub(super) fn untyped(status: StatusCode, message: &impl Message) -> Response {
    let mut response = Response::new(Body::from(message.encode_to_vec()));
    *response.status_mut() = status;
    response
}

/// A protobuf answer.
pub(super) fn protobuf(status: StatusCode, message: &impl Message) -> Response {
    let mut response = untyped(status, message);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
    response
}

/// A refusal, with the time to wait where waiting helps.
pub(super) fn problem(problem: &Problem) -> Response {
    let mut response = Response::new(Body::from(problem.to_json()));
    *response.status_mut() =
        StatusCode::from_u16(problem.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(problem::CONTENT_TYPE));
    // Seconds, and the least to wait: agents add jitter.
    let wait = match problem.kind {
        Kind::Busy => "2",
        Kind::StoreAway => "5",
        Kind::StoreRefuses => "60",
        _ => return response,
    };
    headers.insert(RETRY_AFTER, HeaderValue::from_static(wait));
    response
}
