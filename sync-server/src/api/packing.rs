//! Answers of some length go out compressed to those who can read that: a fleet is a tenth of its JSON.

use std::io::Write;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::BodyExt;

/// A shorter answer fits one packet anyway.
const LEAST: u64 = 1_400;
/// A longer one is compressed beside the runtime's threads.
const LONG: usize = 64 << 10;
/// The quickest: a slower one would save a little of a wire, and cost everybody time.
const LEVEL: u32 = 1;

/// Compresses JSON on its way out. Streams pass as they are.
pub(super) async fn pack(request: Request, next: Next) -> Response {
    let takes = takes_gzip(request.headers());
    let mut response = next.run(request).await;
    let is_json = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    if !is_json {
        return response;
    }
    response.headers_mut().append(header::VARY, HeaderValue::from_static("accept-encoding"));
    let length = axum::body::HttpBody::size_hint(response.body()).exact();
    if !takes || length.is_none_or(|length| length < LEAST) {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let Ok(plain) = body.collect().await.map(|body| body.to_bytes()) else {
        // A body that is whole in memory cannot break off.
        return Response::from_parts(head, Body::empty());
    };
    let packed = if plain.len() > LONG {
        let copy = plain.clone();
        tokio::task::spawn_blocking(move || gzip(&copy)).await.ok().flatten()
    } else {
        gzip(&plain)
    };
    let Some(packed) = packed else { return Response::from_parts(head, Body::from(plain)) };
    head.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    head.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(head, Body::from(packed))
}

fn gzip(plain: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(plain.len() / 6), Compression::new(LEVEL));
    encoder.write_all(plain).ok()?;
    encoder.finish().ok()
}

/// Is gzip among what the client takes, and not refused with `q=0`? (RFC 9110, 12.5.3)
fn takes_gzip(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::ACCEPT_ENCODING).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let weight = weight.trim().strip_prefix("q=").map_or(Ok(1.0), str::parse::<f32>);
        name.trim().eq_ignore_ascii_case("gzip") && weight.is_ok_and(|weight| weight > 0.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_used_where_it_is_wanted() {
        for (line, takes) in [
            ("gzip, deflate, br", true),
            ("br;q=1.0, GZIP;q=0.5", true),
            ("gzip;q=0", false),
            ("identity", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(line))]);
            assert_eq!(takes_gzip(&headers), takes, "{line}");
        }
        assert!(!takes_gzip(&HeaderMap::new()));
    }
}
