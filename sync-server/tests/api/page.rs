//! The page as it is served. What it does in a browser is tried in the tests crate.

use axum::body::Body;
use axum::http::{StatusCode, header};

use crate::house::House;

/// Everything `text` names below `/ui/`.
fn parts(text: &str) -> Vec<String> {
    let named = text.split(['"', '\'', '`']).filter(|part| part.starts_with("/ui/"));
    named.map(str::to_owned).collect()
}

#[tokio::test]
async fn the_page_has_all_its_parts_and_says_what_they_are() {
    let house = House::build().await;
    let page = house.get("/").await;
    assert_eq!(page.status, StatusCode::OK);
    assert_eq!(page.header(header::CONTENT_TYPE), "text/html; charset=utf-8");
    let (mut found, mut next) = (Vec::new(), parts(&page.body));
    while let Some(part) = next.pop() {
        if found.contains(&part) {
            continue;
        }
        let answer = house.get(&part).await;
        assert_eq!(answer.status, StatusCode::OK, "{part}");
        let kind = match part.rsplit('.').next() {
            Some("js") => "text/javascript; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            _ => "image/svg+xml",
        };
        assert_eq!(answer.header(header::CONTENT_TYPE), kind, "{part}");
        next.extend(parts(&answer.body));
        found.push(part);
    }
    assert!(found.len() > 5, "{found:?}");
}

#[tokio::test]
async fn the_page_loads_nothing_from_elsewhere_and_may_not_be_framed() {
    let house = House::build().await;
    for path in ["/", "/ui/page.js", "/ui/nothing.js", "/nothing"] {
        let answer = house.get(path).await;
        let policy = answer.header(header::CONTENT_SECURITY_POLICY);
        for rule in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"] {
            assert!(policy.contains(rule), "{path}: {rule} in {policy}");
        }
        assert!(!policy.contains("unsafe"), "{path}");
        assert_eq!(answer.header(header::X_CONTENT_TYPE_OPTIONS), "nosniff", "{path}");
        assert_eq!(answer.header(header::REFERRER_POLICY), "no-referrer", "{path}");
    }
    for path in ["/api/v1/fleet", "/api/v1/nothing", "/api/v1/points?limit=0"] {
        let answer = house.get(path).await;
        assert_eq!(answer.header(header::X_CONTENT_TYPE_OPTIONS), "nosniff", "{path}");
        assert_eq!(answer.header(header::CACHE_CONTROL), "no-store", "{path}");
        assert!(answer.header(header::CONTENT_SECURITY_POLICY).contains("default-src 'none'"), "{path}");
    }
}

#[tokio::test]
async fn a_browser_fetches_a_part_again_only_when_it_changed() {
    let house = House::build().await;
    let first = house.get("/ui/page.css").await;
    let tag = first.header(header::ETAG).to_owned();
    let ask =
        |tag: &str| house.request("/ui/page.css").header(header::IF_NONE_MATCH, tag).body(Body::empty());
    let again = house.answer(ask(&tag).unwrap()).await;
    assert_eq!((again.status, again.body.as_str()), (StatusCode::NOT_MODIFIED, ""));
    let other = house.answer(ask("\"older\"").unwrap()).await;
    assert_eq!((other.status, other.body), (StatusCode::OK, first.body));
}

#[tokio::test]
async fn nothing_but_the_page_is_served() {
    let house = House::build().await;
    for path in ["/ui/", "/ui/../ui.rs", "/ui/..%2fui.rs", "/ui/%2fetc%2fpasswd", "/ui/%00", "/etc/passwd"] {
        let answer = house.get(path).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}: {}", answer.body);
    }
}
