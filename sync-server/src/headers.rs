//! What every answer of the web listener tells a browser, whichever part of the server gives it.

use axum::Router;
use axum::http::{HeaderName, HeaderValue, header};
use tower_http::set_header::SetResponseHeaderLayer;

/// Nobody may guess types, frame us, learn our addresses or share a browser's process with us; and what
/// says nothing of its own loads nothing.
const FIXED: [(HeaderName, &str); 7] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (
        HeaderName::from_static("permissions-policy"),
        "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    ),
];
/// Once a year is enough; only with a certificate that browsers trust, for they allow no exception then.
const ONLY_TLS: &str = "max-age=31536000";

/// Adds the headers where a part has not set its own.
pub fn secure(router: Router, only_tls: bool) -> Router {
    let add = |router: Router, name: HeaderName, value: &'static str| {
        router.layer(SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value)))
    };
    let router = FIXED.into_iter().fold(router, |router, (name, value)| add(router, name, value));
    if only_tls { add(router, header::STRICT_TRANSPORT_SECURITY, ONLY_TLS) } else { router }
}
