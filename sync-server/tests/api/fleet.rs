//! The fleet in pages: filtered, sorted, counted, compressed, and looked at once for all who ask.

use std::io::Read;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, header};
use forebay_protocols::reading::PointId;
use forebay_protocols::sync::wire;
use forebay_server::api::Roster;
use forebay_server::store::{Delivery, Fault, FaultKind};
use http_body_util::BodyExt;
use serde_json::{Value as Json, json};

use crate::house::{House, SECOND, batch, float, point, report};

/// Twelve agents of the site `hall`; the n-th has n readings waiting.
async fn twelve(house: &House) {
    for n in 1..=12u64 {
        let key = house.agent(&format!("g{n:02}")).await;
        let told = wire::Report { backlog_readings: n, ..report(house.now, house.now) };
        let received = if n % 4 == 0 { house.now - 200 * SECOND } else { house.now };
        house.ingest(Delivery { report: Some(told), received, ..house.delivery(key) }).await;
        if n == 5 {
            let (words, remedy) = ("it was copied".into(), "look".into());
            let fault = Fault {
                agent: key,
                kind: FaultKind::Fork,
                subject: "1".into(),
                words,
                remedy,
                at: house.now,
            };
            house.store.raise(fault).await.unwrap();
        }
    }
}

fn names(answer: &Json) -> Vec<&str> {
    answer["agents"].as_array().unwrap().iter().map(|agent| agent["agent"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn pages_follow_each_other_without_a_hole_whatever_they_are_sorted_by() {
    let house = House::build().await;
    twelve(&house).await;
    let sorts = ["agent", "-agent", "-backlog", "backlog", "state", "last_seen", "-dropped"];
    for sort in sorts.into_iter().chain(["lag_s", "-lag_s", "drain_s", "-drain_s", "-bytes_today"]) {
        let (mut seen, mut after, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let page = house.json(&format!("/api/v1/fleet?limit=5&sort={sort}{after}")).await;
            assert_eq!((&page["matching"], &page["summary"]["agents"]), (&json!(12), &json!(12)));
            seen.extend(names(&page).into_iter().map(str::to_owned));
            pages += 1;
            match &page["next"] {
                Json::Null => break,
                next => after = format!("&after={}", next.as_str().unwrap()),
            }
        }
        let whole = house.json(&format!("/api/v1/fleet?sort={sort}")).await;
        assert_eq!((pages, seen), (3, names(&whole).into_iter().map(str::to_owned).collect()), "{sort}");
        assert_eq!(whole["next"], Json::Null);
        let window = house.json(&format!("/api/v1/fleet?limit=3&offset=4&sort={sort}")).await;
        assert_eq!(names(&window), names(&whole)[4..7], "{sort}");
    }
    let most = house.json("/api/v1/fleet?sort=-backlog&limit=2").await;
    assert_eq!(names(&most), ["hall/g12", "hall/g11"]);
}

#[tokio::test]
async fn agents_are_found_by_part_of_a_name_by_state_and_by_fault_and_counted() {
    let house = House::build().await;
    twelve(&house).await;
    let found = async |query: &str| {
        let answer = house.json(&format!("/api/v1/fleet?{query}")).await;
        assert_eq!(answer["matching"], names(&answer).len(), "{query}");
        names(&answer).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(found("search=G1").await, ["hall/g10", "hall/g11", "hall/g12"]);
    assert_eq!(found("state=silent").await, ["hall/g04", "hall/g08", "hall/g12"]);
    assert_eq!(found("state=silent&search=1").await, ["hall/g12"]);
    assert_eq!(found("state=faulty").await, ["hall/g05"]);
    assert_eq!(found("agent=hall/g07").await, ["hall/g07"]);
    assert!(found("site=elsewhere").await.is_empty() && found("agent=hall/g7").await.is_empty());
    let answer = house.json("/api/v1/fleet?limit=1&fields=agent,backlog").await;
    let keys: Vec<_> = answer["agents"][0].as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["agent", "backlog"]);
    let counts = json!({ "agents": 12, "online": 9, "silent": 3, "never_seen": 0, "revoked": 0, "faulty": 1, "stored": 0,
        "backlog_readings": 78 });
    assert_eq!(answer["summary"], counts);
    let sites = house.json("/api/v1/sites").await;
    assert_eq!((&sites["sites"][0]["site"], &sites["sites"][0]["silent"]), (&json!("hall"), &json!(3)));
    assert_eq!(sites["sites"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn lag_drain_bytes_and_days_of_the_certificate_are_told_and_sorted_by() {
    let house = House::build().await;
    let now = house.now;
    // Minutes behind, readings that waited 20 s ago and now, bytes. Each makes 100 readings a second.
    for (gateway, behind, waited, waiting, bytes) in
        [("calm", 1, 900, 1_000, 5), ("full", 2, 90_000, 91_000, 700), ("soon", 3, 60_000, 30_000, 60)]
    {
        let key = house.agent(gateway).await;
        let told = |received, waiting: i64| {
            Some(wire::Report { backlog_readings: waiting as u64, ..report(received, received) })
        };
        // They are booked after the report that came with them.
        let readings = (0..2_000 + waited - waiting).map(|n| float(1, now - behind * 60 * SECOND - n, 1.0));
        let received = now - 20 * SECOND;
        let dictionary = vec![(PointId(1), point("boiler", "p1"))];
        let batches = vec![batch(1, readings.collect())];
        let first =
            Delivery { report: told(received, waited), received, dictionary, batches, ..house.delivery(key) };
        house.ingest(first).await;
        house.ingest(Delivery { report: told(now, waiting), bytes, ..house.delivery(key) }).await;
    }
    house.agent("new").await;
    let answer = house.json("/api/v1/fleet").await;
    let told = |gateway: &str| {
        let agents = answer["agents"].as_array().unwrap();
        let agent = agents.iter().find(|agent| agent["gateway"] == gateway).unwrap();
        let minutes = agent["lag_s"].as_i64().map(|s| s / 60);
        (
            json!([minutes, agent["backlog"]["trend"], agent["bytes_today"]]),
            agent["backlog"]["drain_s"].clone(),
        )
    };
    assert_eq!(told("calm"), (json!([1, "none", 5]), json!(0)));
    assert_eq!(told("full"), (json!([2, "grows", 700]), Json::Null));
    assert_eq!(told("new"), (json!([null, null, 0]), Json::Null), "nothing is known of it, and nothing came");
    let (soon, drain_s) = told("soon");
    assert_eq!(soon, json!([3, "shrinks", 60]));
    assert!((10..=20).contains(&drain_s.as_i64().unwrap()), "30,000 at 1,500 a second: {drain_s}");
    for agent in answer["agents"].as_array().unwrap() {
        assert_eq!(agent["certificate_days"], 0, "some minutes: {agent}");
    }
    for (sort, order) in [
        ("lag_s", ["new", "calm", "full", "soon"]),
        ("-lag_s", ["soon", "full", "calm", "new"]),
        ("-drain_s", ["full", "soon", "calm", "new"]),
        ("-bytes_today", ["full", "soon", "calm", "new"]),
    ] {
        let sorted = house.json(&format!("/api/v1/fleet?sort={sort}")).await;
        assert_eq!(names(&sorted), order.map(|name| format!("hall/{name}")), "{sort}");
    }
}

#[tokio::test]
async fn what_the_fleet_cannot_be_asked_is_refused_with_what_it_can() {
    let house = House::build().await;
    house.agent("one").await;
    for (query, status, words) in [
        ("sort=speed", 400, "last_seen"),
        ("state=broken", 400, "never seen"),
        ("fields=agent,speed", 400, "certificate_valid_until"),
        ("limit=1001", 400, "1000"),
        ("after=hall/nobody", 404, "hall/nobody"),
    ] {
        let answer = house.get(&format!("/api/v1/fleet?{query}")).await;
        assert_eq!(answer.status.as_u16(), status, "{query}");
        assert!(answer.json()["detail"].as_str().unwrap().contains(words), "{query}: {}", answer.body);
    }
}

#[tokio::test]
async fn a_long_answer_is_compressed_for_those_who_can_read_it() {
    let house = House::build().await;
    twelve(&house).await;
    let ask = async |encoding: &str| {
        let request = house.request("/api/v1/fleet").header(header::ACCEPT_ENCODING, encoding);
        let (head, body) = house.ask(request.body(Body::empty()).unwrap()).await.into_parts();
        (head.headers, body.collect().await.unwrap().to_bytes())
    };
    let (headers, plain) = ask("identity").await;
    assert!(headers.get(header::CONTENT_ENCODING).is_none());
    let (headers, packed) = ask("br, gzip").await;
    assert_eq!(headers[header::CONTENT_ENCODING], "gzip");
    assert_eq!(headers[header::VARY], "accept-encoding");
    assert!(packed.len() * 4 < plain.len(), "{} of {} bytes", packed.len(), plain.len());
    let mut text = String::new();
    flate2::read::GzDecoder::new(&packed[..]).read_to_string(&mut text).unwrap();
    let agents = |text: &[u8]| serde_json::from_slice::<Json>(text).unwrap()["agents"].clone();
    assert_eq!(agents(text.as_bytes()), agents(&plain));
    let small = house.request("/api/v1/sites").header(header::ACCEPT_ENCODING, "gzip");
    let small = house.answer(small.body(Body::empty()).unwrap()).await;
    assert!(!small.headers.contains_key(header::CONTENT_ENCODING), "it fits a packet as it is");
}

#[tokio::test]
async fn a_look_at_the_database_serves_all_who_ask_soon_after_and_a_new_agent_is_found_all_the_same() {
    let house = House::build().await;
    let fleet = Roster::fresh_for(house.store.clone(), Duration::from_secs(3_600));
    let router = house.router_with(fleet);
    let get = async |path: &str| {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let answer = tower::ServiceExt::oneshot(router.clone(), request).await.unwrap();
        let status = answer.status().as_u16();
        (
            status,
            serde_json::from_slice::<Json>(&answer.into_body().collect().await.unwrap().to_bytes()).unwrap(),
        )
    };
    house.agent("one").await;
    let asked = futures::future::join_all((0..50).map(|_| get("/api/v1/fleet"))).await;
    assert!(asked.iter().all(|(status, fleet)| (*status, &fleet["matching"]) == (200, &json!(1))));
    house.agent("two").await;
    assert_eq!(get("/api/v1/fleet").await.1["matching"], 1, "a moment old");
    tokio::time::sleep(Duration::from_millis(120)).await;
    assert_eq!(get("/api/v1/points?agent=hall/two").await.0, 200);
    assert_eq!(get("/api/v1/points?agent=hall/three").await.0, 404);
    assert_eq!(get("/api/v1/fleet").await.1["matching"], 2);
}
