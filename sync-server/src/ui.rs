//! The web page, embedded in the binary: no network, no build step, no third party.

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rust_embed::RustEmbed;
use tower_http::set_header::SetResponseHeaderLayer;

/// Everything comes from this server, nothing is inline, and nobody may frame it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

#[derive(RustEmbed)]
#[folder = "src/ui/"]
struct Files;

/// The page and its parts; and the answer to whatever no other part of the server knows.
pub fn router() -> Router {
    let fixed = |name, value| SetResponseHeaderLayer::overriding(name, HeaderValue::from_static(value));
    Router::new()
        .route("/", get(async |asked: HeaderMap| file("index.html", &asked)))
        .route("/ui/{name}", get(async |Path(name): Path<String>, asked: HeaderMap| file(&name, &asked)))
        .fallback(async || (StatusCode::NOT_FOUND, "There is no such page here. The fleet is at /\n"))
        .layer(fixed(header::CONTENT_SECURITY_POLICY, POLICY))
}

fn file(name: &str, asked: &HeaderMap) -> Response {
    let Some(found) = Files::get(name) else {
        return (StatusCode::NOT_FOUND, "There is no such file.\n").into_response();
    };
    let kind = match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    };
    // The files change with the binary only: a browser asks each time, and mostly hears "the same".
    let tag = format!("\"{}\"", URL_SAFE_NO_PAD.encode(found.metadata.sha256_hash()));
    let known = asked.get(header::IF_NONE_MATCH).is_some_and(|held| held.as_bytes() == tag.as_bytes());
    let fixed = [(header::CACHE_CONTROL, "no-cache"), (header::CONTENT_TYPE, kind)];
    let tag = [(header::ETAG, tag)];
    match known {
        true => (StatusCode::NOT_MODIFIED, fixed, tag).into_response(),
        false => (fixed, tag, found.data).into_response(),
    }
}
