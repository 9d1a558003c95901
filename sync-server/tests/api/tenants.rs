//! Two tenants on one server, with gateways of the same and of other names: over every route of the
//! list neither learns of the other.

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use forebay_protocols::reading::PointId;
use forebay_protocols::sync::batch::Sequence;
use forebay_protocols::sync::wire::{self, gap::Reason};
use forebay_server::access::{Right, Role};
use forebay_server::api::Needs;
use forebay_server::store::alarms::{Alarm, AlarmChange, Member};
use forebay_server::store::{
    AgentKey, Applied, Arrived, Change, Content, Delivery, Fault, FaultKind, NewApplication, NewToken,
    PointKey, TenantKey, UserKey,
};
use http_body_util::BodyExt;
use serde_json::json;
use tokio::time::timeout;

use crate::access::{Somebody, done, key, log_in, routes, send, user};
use crate::house::{House, PATIENCE, SECOND, batch, float};

/// Stands in the name of everything the other tenant has.
const HIDDEN: &str = "verborgen";

struct Tenant {
    who: Somebody,
    user: i64,
    key: i64,
    agent: AgentKey,
    point: PointKey,
    alarm: i64,
    waiting: i64,
    name: String,
}

/// A tenant with an admin, a key, and an agent with something to tell at every path.
async fn settle(house: &House, tenant: TenantKey, word: &str, secret: u8) -> Tenant {
    let number = user(house, tenant, &format!("admin-{word}"), Role::Admin).await;
    let who = log_in(house, &format!("admin-{word}")).await;
    let (key, _) = key(house, tenant, &[Right::Read], 60 + i64::from(secret)).await;
    let hash = [secret; 32];
    let expires = house.now + 1_000 * SECOND;
    let token = NewToken {
        secret_hash: hash,
        expires,
        uses: 2,
        note: String::new(),
        approval: false,
        created: house.now,
    };
    house.store.add_token(token).await.unwrap();
    house.gate.access().give_token(hash, tenant).await.unwrap();
    let gateway = format!("gate-{word}");
    let agent = house.store.join(hash, "hall", &gateway, hash, expires, house.now).await.unwrap().1.unwrap();
    let dictionary = vec![(PointId(1), crate::house::point(&format!("boiler-{word}"), "p1"))];
    let why = format!("cut short at {word}");
    let aside =
        Arrived::plain(Sequence(2), PointId(1), Content::SetAside { bytes: vec![1, 2, 3].into(), why });
    let corrected = Arrived {
        clock: wire::sent_batch::Clock::Corrected,
        correction_us: 5,
        ..batch(1, vec![float(1, 5, 1.0), float(1, house.now - SECOND, 2.0)])
    };
    let gap = wire::Gap {
        number: 1,
        from_us: house.now - SECOND,
        to_us: house.now,
        count: 3,
        reason: Reason::DeviceSilent.into(),
        device: format!("boiler-{word}"),
        ..Default::default()
    };
    let report = Some(wire::Report { version: word.into(), ..Default::default() });
    let delivery = house.delivery(agent);
    let batches = vec![corrected, aside];
    let keys = house.ingest(Delivery { dictionary, batches, gaps: vec![gap], report, ..delivery }).await;
    let fault = Fault {
        agent,
        kind: FaultKind::Wiped,
        subject: "07".into(),
        words: format!("It happened at {word}."),
        remedy: "Look.".into(),
        at: house.now,
    };
    house.store.raise(fault).await.unwrap();
    let member = Member { name: gateway.clone(), since: house.now, words: String::new(), base: 0.0 };
    let alarm = Alarm {
        rule: "silent".into(),
        kind: "silent".into(),
        priority: 2,
        site: "hall".into(),
        subject: "hall".into(),
        words: format!("Nothing is heard of {word}."),
        remedy: "Look.".into(),
        members: vec![member],
    };
    let own = house.store.clone().within(tenant);
    let raised = own.change_alarms(vec![AlarmChange::Raise(alarm)], house.now).await.unwrap();
    let alarm = raised[0].1.key.0;
    let asks = NewApplication {
        secret_hash: hash,
        key_hash: [secret + 100; 32],
        site: "hall".into(),
        gateway: format!("wait-{word}"),
        peer: "192.0.2.9".into(),
        version: String::new(),
        approval: true,
        now: house.now,
    };
    let Applied::Pending { id, .. } = house.store.apply(asks).await.unwrap() else { panic!("it waits") };
    Tenant {
        who,
        user: number,
        key,
        agent,
        point: keys[0].1,
        alarm,
        waiting: id.0,
        name: format!("hall/{gateway}"),
    }
}

async fn two() -> (House, Tenant, Tenant) {
    let house = House::closed().await;
    let other = Change::AddTenant { name: "other".into() };
    let other = TenantKey(done(&house, TenantKey::MAIN, other).await);
    let mine = settle(&house, TenantKey::MAIN, "plain", 1).await;
    let theirs = settle(&house, other, HIDDEN, 2).await;
    (house, mine, theirs)
}

#[tokio::test]
async fn no_route_tells_of_another_tenant() {
    let (house, mine, theirs) = two().await;
    let (mut told, mut asked) = (Vec::new(), 0);
    for (method, path, _) in routes(1) {
        // A feed has no end; what it shows has a test of its own.
        if method != Method::GET || path.contains("/live") {
            continue;
        }
        // What a path cannot do without.
        let all = match path.as_str() {
            "/api/v1/query" | "/api/v1/query.csv" | "/api/v1/statistics" => {
                format!("{path}?points={},{}", mine.point.0, theirs.point.0)
            }
            "/api/v1/silences" => format!("{path}?agent={}", mine.name),
            _ => path.clone(),
        };
        let answer = send(&house, Method::GET, &all, Some(&mine.who), None).await;
        assert_eq!(answer.status, StatusCode::OK, "{all}: {}", answer.body);
        assert!(!answer.body.contains(HIDDEN), "{all}: {}", answer.body);
        // Asked for by name it is not there, or there is no such parameter.
        let glue = if all.contains('?') { '&' } else { '?' };
        let by_name = format!("{all}{glue}agent={}", theirs.name);
        let answer = send(&house, Method::GET, &by_name, Some(&mine.who), None).await;
        match answer.status {
            StatusCode::OK => assert!(!answer.body.contains(HIDDEN), "{by_name}: {}", answer.body),
            StatusCode::NOT_FOUND => asked += 1,
            status => assert_eq!(status, StatusCode::BAD_REQUEST, "{by_name}: {}", answer.body),
        }
        // That this can fail: whose it is sees it, at the same path.
        let answer = send(&house, Method::GET, &all, Some(&theirs.who), None).await;
        if answer.body.contains(HIDDEN) {
            told.push(path);
        }
    }
    let should = [
        "alarms",
        "rules",
        "joining",
        "fleet",
        "points",
        "gaps",
        "ledger",
        "faults",
        "time-marks",
        "quarantine",
        "users",
        "audit",
        "me",
    ];
    for part in should {
        assert!(told.iter().any(|path| path.ends_with(part)), "{part} tells nothing: {told:?}");
    }
    assert!(asked >= 5, "paths that take an agent: {asked}");
}

#[tokio::test]
async fn a_point_of_another_tenant_has_no_readings() {
    let (house, mine, theirs) = two().await;
    let path = format!("/api/v1/query?points={},{}", theirs.point.0, mine.point.0);
    for (who, empty, full) in [(&mine.who, 0, 1), (&theirs.who, 1, 0)] {
        let series = send(&house, Method::GET, &path, Some(who), None).await.json()["series"].clone();
        assert_eq!(series[empty]["rows"], json!([]), "{series}");
        assert_eq!(series[full]["rows"].as_array().unwrap().len(), 1, "{series}");
    }
}

#[tokio::test]
async fn nothing_of_another_tenant_can_be_changed() {
    let (house, mine, theirs) = two().await;
    let aside = house.store.batches_aside(10).await.unwrap();
    let batch = aside.iter().find(|row| row.agent == theirs.agent).unwrap().id.to_string();
    let before = house.gate.access().audit(None, None, 100).await.unwrap().len();
    for (method, path, needs) in routes(0) {
        if method == Method::GET || !path.starts_with("/api/v1/") || !matches!(needs, Needs::Right(_)) {
            continue;
        }
        let bodies = match path.as_str() {
            // These make something new, in the caller's own tenant.
            "/api/v1/users" | "/api/v1/keys" | "/api/v1/joining/tokens" => continue,
            "/api/v1/quarantine/replay" => {
                vec![json!({ "id": batch }), json!({ "id": theirs.point.0, "shift_s": 1_700_000_000 })]
            }
            path if path.contains("/alarms/") || path.contains("/joining/") => vec![json!({})],
            _ => vec![json!({ "role": "viewer" })],
        };
        let id = match path.split('/').nth(3) {
            Some("keys") => theirs.key,
            Some("alarms") => theirs.alarm,
            Some("joining") => theirs.waiting,
            _ => theirs.user,
        };
        let path = path
            .split('/')
            .map(|part| if part == "0" { id.to_string() } else { part.to_owned() })
            .collect::<Vec<_>>()
            .join("/");
        for body in bodies {
            let answer = send(&house, method.clone(), &path, Some(&mine.who), Some(body)).await;
            assert_eq!(answer.status, StatusCode::NOT_FOUND, "{method} {path}: {}", answer.body);
        }
    }
    assert_eq!(house.gate.access().audit(None, None, 100).await.unwrap().len(), before, "nothing was done");
    assert_eq!(house.store.batches_aside(10).await.unwrap().len(), 2);
    assert_eq!(house.store.alarm_summary().await.unwrap().active, 2);
    assert_eq!(house.store.odd_readings(theirs.point, 9).await.unwrap().len(), 1);
    let waiting = house.store.applications().await.unwrap();
    assert!(waiting.len() == 2 && waiting.iter().all(|one| !one.approved));
    // Whose it is can.
    let path = format!("/api/v1/joining/{}/approve", theirs.waiting);
    let answer = send(&house, Method::POST, &path, Some(&theirs.who), Some(json!({}))).await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT, "{}", answer.body);
    let path = format!("/api/v1/alarms/{}/acknowledge", theirs.alarm);
    let answer = send(&house, Method::POST, &path, Some(&theirs.who), Some(json!({}))).await;
    assert_eq!((answer.status, &answer.json()["state"]), (StatusCode::OK, &json!("acknowledged")));
    let body = json!({ "id": theirs.point.0, "shift_s": 1_700_000_000 });
    let answer = send(&house, Method::POST, "/api/v1/quarantine/replay", Some(&theirs.who), Some(body)).await;
    assert_eq!((answer.status, &answer.json()["stored"]), (StatusCode::OK, &json!(1)));
}

#[tokio::test]
async fn what_is_told_of_the_whole_server_is_for_the_main_tenant() {
    let (house, mine, theirs) = two().await;
    let metrics = send(&house, Method::GET, "/metrics", Some(&theirs.who), None).await;
    assert_eq!(metrics.status, StatusCode::FORBIDDEN, "{}", metrics.body);
    let metrics = send(&house, Method::GET, "/metrics", Some(&mine.who), None).await;
    assert!(metrics.body.contains("forebay_server_") && !metrics.body.contains(HIDDEN));
    for path in ["/api/v1/server", "/api/v1/fleet"] {
        let told = send(&house, Method::GET, path, Some(&theirs.who), None).await.json();
        assert!(told["store"].is_null() && told["retention"].is_null(), "{path}: {told}");
        let told = send(&house, Method::GET, path, Some(&mine.who), None).await.json();
        assert!(!told["store"].is_null(), "{path}: {told}");
    }
}

#[tokio::test]
async fn rules_are_told_to_whom_they_stand_for_without_names_of_others_plants() {
    let (house, mine, theirs) = two().await;
    let told = async |of: &Tenant| {
        let answer = send(&house, Method::GET, "/api/v1/alarms/rules", Some(&of.who), None).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        answer.json()["rules"].as_array().unwrap().clone()
    };
    let names = |rules: &[serde_json::Value]| {
        rules.iter().skip(7).map(|rule| rule["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let (own, others) = (told(&mine).await, told(&theirs).await);
    assert_eq!(
        (names(&own), names(&others)),
        (vec!["cold".into(), "hot".into()], vec!["cold".into(), "theirs".into()])
    );
    assert_eq!(
        (&own[0]["name"], &own[0]["from"], &own[0]["after_s"]),
        (&json!("silent"), &json!("usual"), &json!(150.0))
    );
    assert_eq!(
        (&own[1]["least"], &own[1]["from"], &own[1]["delay_s"]),
        (&json!(5_000), &json!("configuration"), &json!(600.0))
    );
    assert!(own.iter().all(|rule| rule["name"] != "clock"), "it is off");
    let cold = json!({ "name": "cold", "kind": "value", "priority": "medium", "from": "configuration",
        "words": "A value is below 1, for 5 min. It clears when the value is inside by 0.5.", "agents": ["*/*"],
        "points": ["*/p1"], "delay_s": 300.0, "after_s": null, "least": null, "off_s": null, "within_s": null,
        "above": null, "below": 1.0, "deadband": 0.5 });
    assert_eq!(own[7], cold);
    assert_eq!(
        (&own[8]["agents"], &own[8]["points"]),
        (&json!(["hall/gate-plain"]), &json!(["boiler-plain/*"]))
    );
    assert_eq!(
        (&others[7]["points"], &others[7]["agents"]),
        (&json!(null), &json!(["*/*"])),
        "it stands for all"
    );
    assert_eq!(others[8]["points"], json!(["boiler-verborgen/*"]), "this one is theirs");
}

#[tokio::test]
async fn the_live_feed_is_of_one_tenant_and_ends_with_the_log_in() {
    let (house, mine, theirs) = two().await;
    let Somebody(name, value) = &mine.who;
    let request = house.request("/api/v1/live").header(*name, value).body(Body::empty()).unwrap();
    let mut body = house.ask(request).await.into_body();
    house.show(theirs.agent, &[theirs.point], vec![float(1, house.now, 41.0)]);
    house.show(mine.agent, &[mine.point], vec![float(1, house.now, 42.0)]);
    let mut text = String::new();
    while !text.contains("42.0") {
        let frame = timeout(PATIENCE, body.frame()).await.unwrap().unwrap().unwrap();
        text += std::str::from_utf8(frame.data_ref().unwrap()).unwrap();
    }
    assert!(!text.contains("41.0") && !text.contains(&format!("[{},", theirs.point.0)), "{text}");
    let path = format!("/api/v1/live?agent={}", theirs.name);
    let refused = send(&house, Method::GET, &path, Some(&mine.who), None).await;
    assert_eq!(refused.status, StatusCode::NOT_FOUND, "{}", refused.body);

    // Removed, and nothing more is read.
    let remove = Change::RemoveUser { user: UserKey(mine.user), even_last: true };
    done(&house, TenantKey::MAIN, remove).await;
    let removed = Instant::now();
    while let Some(frame) = timeout(PATIENCE, body.frame()).await.unwrap() {
        frame.unwrap();
    }
    assert!(removed.elapsed() < Duration::from_secs(10), "{:?}", removed.elapsed());
}

#[tokio::test]
async fn a_route_that_is_not_there_is_404_for_everybody() {
    let house = House::closed().await;
    let request =
        Request::get(format!("http://{}/api/v1/nothing", house.address)).body(Body::empty()).unwrap();
    let answer = house.answer(request).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert!(answer.body.contains("fleet") && answer.body.contains("audit"), "{}", answer.body);
}
