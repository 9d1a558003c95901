//! Fleet, points, readings, gaps; and what is said to those who ask for something else.

use axum::body::Body;
use axum::http::{Method, StatusCode, header};
use forebay_protocols::reading::{Fault, PointId, Quality, Value};
use forebay_protocols::sync::wire::{self, gap::Reason};
use forebay_server::store::{Delivery, Grain, Removal, Source};
use serde_json::{Value as Json, json};

use crate::house::{House, SECOND, batch, float, point, reading, report};

#[tokio::test]
async fn the_fleet_tells_the_state_of_every_agent_and_what_its_devices_say() {
    let house = House::build().await;
    let (works, asleep, gone) =
        (house.agent("a-works").await, house.agent("b-asleep").await, house.agent("c-gone").await);
    house.agent("d-new").await;
    let device = |device: &str, answers, words: &str| wire::report::Device {
        link: "bus".into(),
        device: device.into(),
        answers,
        words: words.into(),
    };
    let told = wire::Report {
        produced: 10,
        filtered: 2,
        in_hand: 1,
        appended: 7,
        dropped: 1,
        acknowledged: 4,
        backlog_readings: 2,
        backlog_batches: 1,
        backlog_bytes: 99,
        buffer_limit_bytes: 1_000,
        uptime_s: 3_600,
        devices: vec![device("boiler", true, ""), device("pump", false, "no answer for 40 s")],
        ..report(house.now - 2 * SECOND, house.now)
    };
    house.ingest(Delivery { report: Some(told), ..house.delivery(works) }).await;
    let minutes_ago = house.now - 200 * SECOND;
    house.ingest(Delivery { received: minutes_ago, ..house.delivery(asleep) }).await;
    house.ingest(house.delivery(gone)).await;
    house.store.revoke(gone).await.unwrap();

    let fleet = house.json("/api/v1/fleet").await;
    let agents = fleet["agents"].as_array().unwrap();
    let states: Vec<_> = agents.iter().map(|one| (one["agent"].as_str(), one["state"].as_str())).collect();
    assert_eq!(
        states,
        [
            (Some("hall/a-works"), Some("online")),
            (Some("hall/b-asleep"), Some("silent")),
            (Some("hall/c-gone"), Some("revoked")),
            (Some("hall/d-new"), Some("never seen")),
        ]
    );
    let works = &agents[0];
    assert_eq!(
        works["devices"],
        json!([
            { "link": "bus", "device": "boiler", "answers": true, "words": "" },
            { "link": "bus", "device": "pump", "answers": false, "words": "no answer for 40 s" },
        ])
    );
    assert_eq!(
        works["ledger"],
        json!({ "produced": 10, "filtered": 2, "in_hand": 1, "appended": 7, "dropped": 1, "acknowledged": 4, "stored": 0,
            "dropped_by": { "full": 0, "corrupt": 0, "thinned": 0, "other": 1 } })
    );
    assert_eq!(
        works["backlog"],
        json!({ "readings": 2, "batches": 1, "bytes": 99, "limit_bytes": 1_000, "tail_bytes": 0, "trend": null,
            "drain_s": null })
    );
    assert_eq!(works["clock"], json!({ "synchronised": true, "offset_ms": -2_000 }));
    assert!(fleet["store"].as_str().unwrap().starts_with("SQLite"));
}

#[tokio::test]
async fn what_nobody_reported_is_unknown_and_not_zero() {
    let house = House::build().await;
    house.agent("new").await;
    let agent = &house.json("/api/v1/fleet").await["agents"][0];
    for unknown in [
        "/last_seen",
        "/newest",
        "/lag_s",
        "/backlog/trend",
        "/version",
        "/uptime_s",
        "/clock/synchronised",
        "/clock/offset_ms",
    ] {
        assert_eq!(agent.pointer(unknown), Some(&Json::Null), "{unknown}");
    }
    assert_eq!((&agent["ledger"]["produced"], &agent["backlog"]["bytes"]), (&Json::Null, &Json::Null));
    assert_eq!(agent["ledger"]["stored"], 0, "this the server knows itself");
}

#[tokio::test]
async fn a_gateway_may_believe_in_any_moment() {
    let house = House::build().await;
    let agent = house.agent("dreamer").await;
    for wall in [i64::MIN, i64::MAX, 1] {
        house.ingest(Delivery { report: Some(report(wall, house.now)), ..house.delivery(agent) }).await;
        let fleet = house.json("/api/v1/fleet").await;
        assert!(fleet["agents"][0]["clock"]["offset_ms"].is_i64(), "{wall}: {fleet}");
    }
}

#[tokio::test]
async fn points_are_searched_and_come_in_pages() {
    let house = House::build().await;
    let (one, other) = (house.agent("one").await, house.agent("other").await);
    let names = |count: u32, device: &str| {
        (1..=count).map(|n| (PointId(n), point(device, &format!("p{n}")))).collect::<Vec<_>>()
    };
    house.ingest(Delivery { dictionary: names(25, "boiler"), ..house.delivery(one) }).await;
    house.ingest(Delivery { dictionary: names(3, "Pump"), ..house.delivery(other) }).await;

    let (mut found, mut pages, mut after) = (Vec::new(), 0, String::new());
    loop {
        let page = house.json(&format!("/api/v1/points?agent=hall/one&limit=5{after}")).await;
        let points = page["points"].as_array().unwrap();
        assert_eq!(points.len(), 5);
        found.extend(points.iter().map(|point| point["name"].as_str().unwrap().to_string()));
        pages += 1;
        match &page["next"] {
            Json::Null => break,
            next => after = format!("&after={next}"),
        }
    }
    assert_eq!((pages, found.len()), (5, 25), "the last full page says that it is the last");
    found.sort();
    found.dedup();
    assert_eq!(found.len(), 25);

    let pumps = house.json("/api/v1/points?search=pump/").await;
    assert_eq!(pumps["points"].as_array().unwrap().len(), 3, "any case, any agent");
    let exact = house.json("/api/v1/points?search=pump/p2&agent=hall%2Fother").await;
    let expected = json!({
        "path": "hall/other/Pump/p2", "agent": "hall/other", "device": "Pump", "name": "p2", "unit": "°C",
        "kind": "gauge", "type": "float", "fork": 0, "latest": null,
    });
    let mut point = exact["points"][0].clone();
    assert!(point.as_object_mut().unwrap().remove("id").unwrap().is_i64());
    assert_eq!((point, &exact["next"]), (expected, &Json::Null));
}

#[tokio::test]
async fn a_point_tells_its_latest_reading_whatever_it_is() {
    let house = House::build().await;
    let agent = house.agent("one").await;
    let moment = 1_700_000_000_123_456;
    let silent = Quality::Bad(Fault::Silent);
    let readings = vec![
        float(1, moment - 1, 5.0),
        reading(1, moment, Some(Value::Float(f64::NAN)), Quality::Good),
        reading(2, moment, Some(Value::Integer(i64::MAX)), Quality::Good),
        reading(3, moment, Some(Value::Boolean(true)), Quality::Good),
        reading(4, moment, Some(Value::Text("läuft".into())), Quality::Good),
        reading(5, moment, None, silent),
    ];
    house.stored(agent, 5, readings).await;
    let points = house.json("/api/v1/points").await;
    let latest: Vec<&Json> = points["points"].as_array().unwrap().iter().map(|one| &one["latest"]).collect();
    let values: Vec<&Json> = latest.iter().map(|one| &one["value"]).collect();
    assert_eq!(values, [&json!("NaN"), &json!(i64::MAX), &json!(true), &json!("läuft"), &Json::Null]);
    assert_eq!(latest[0]["time"], "2023-11-14T22:13:20.123456Z");
    assert_eq!((&latest[4]["quality"], &latest[4]["words"]), (&json!("bad"), &json!(silent.words())));
}

#[tokio::test]
async fn readings_that_fit_come_as_they_are_and_bad_ones_are_holes() {
    let house = House::build().await;
    let agent = house.agent("one").await;
    let at = |n: i64| house.now - 60 * SECOND + n * SECOND;
    let bad = Quality::Bad(Fault::NoConnection);
    let readings =
        vec![float(1, at(0), 1.5), reading(1, at(1), Some(Value::Float(1.5)), bad), float(1, at(2), -2.0)];
    let keys = house.stored(agent, 1, readings).await;
    let id = keys[0].0;
    // Exactly as many as asked for still are readings.
    let answer = house.json(&format!("/api/v1/query?points={id}&max_points=3")).await;
    assert_eq!(answer["step_ms"], 0.0);
    assert_eq!(
        answer["columns"],
        json!(["time_ms", "mean", "min", "max", "count", "quality", "last", "good"])
    );
    let ms = |n| at(n) as f64 / 1_000.0;
    assert_eq!(
        answer["series"],
        json!([{ "id": id, "rows": [
            [ms(0), 1.5, 1.5, 1.5, 1, "good", 1.5, 1],
            [ms(1), null, null, null, 1, "bad", 1.5, 0],
            [ms(2), -2.0, -2.0, -2.0, 1, "good", -2.0, 1],
        ] }])
    );
}

#[tokio::test]
async fn many_readings_become_no_more_buckets_than_asked_for_and_keep_every_spike() {
    let house = House::build().await;
    let agent = house.agent("one").await;
    let begin = house.now - 3_600 * SECOND;
    let readings: Vec<_> = (0..3_000)
        .map(|n| {
            let value = match n {
                1_234 => 900.0,
                2_345 => -900.0,
                _ => 20.0,
            };
            float(1, begin + n * SECOND, value)
        })
        .collect();
    let id = house.stored(agent, 1, readings).await[0].0;
    // The range begins and ends anywhere; so do buckets.
    let (from, to) = ((begin + 1) as f64 / 1_000.0, house.now as f64 / 1_000.0);
    for most in [2, 3, 7, 100, 2_998] {
        let path = format!("/api/v1/query?points={id}&from={from}&to={to}&max_points={most}");
        let answer = house.json(&path).await;
        let rows = answer["series"][0]["rows"].as_array().unwrap();
        assert!(rows.len() <= most, "{} rows of {most}", rows.len());
        assert!(answer["step_ms"].as_f64().unwrap() > 0.0);
        let numbers = |column: usize| rows.iter().map(move |row| row[column].as_f64().unwrap());
        assert_eq!(numbers(4).sum::<f64>(), 2_999.0, "every reading is in some bucket");
        assert_eq!(numbers(2).fold(f64::MAX, f64::min), -900.0);
        assert_eq!(numbers(3).fold(f64::MIN, f64::max), 900.0);
    }
}

#[tokio::test]
async fn a_range_without_readings_gives_no_rows() {
    let house = House::build().await;
    let agent = house.agent("one").await;
    let id = house.stored(agent, 1, vec![float(1, house.now - 7_200 * SECOND, 1.0)]).await[0].0;
    let answer = house.json(&format!("/api/v1/query?points={id},{}", i64::MAX)).await;
    assert_eq!(answer["series"], json!([{ "id": id, "rows": [] }, { "id": i64::MAX, "rows": [] }]));
}

#[tokio::test]
async fn a_time_may_be_written_in_every_usual_way() {
    let house = House::build().await;
    let agent = house.agent("one").await;
    let id = house.stored(agent, 1, vec![float(1, house.now - 7_200 * SECOND, 4.5)]).await[0].0;
    let stamp = |seconds: i64| {
        let moment = house.now - seconds * SECOND;
        (moment / 1_000, jiff::Timestamp::from_microsecond(moment).unwrap())
    };
    let ((begin, begin_text), (end, end_text)) = (stamp(7_300), stamp(7_100));
    for range in [
        format!("from={begin}&to={end}"),
        format!("from={begin_text}&to={end_text}"),
        "from=-3h".into(),
        "from=-1d&to=-90m".into(),
        "from=0001-01-01T00:00:00Z&to=9999-12-29T00:00:00Z".into(),
    ] {
        let answer = house.json(&format!("/api/v1/query?points={id}&{range}")).await;
        assert_eq!(answer["series"][0]["rows"][0][1], 4.5, "{range}");
    }
}

#[tokio::test]
async fn gaps_tell_whose_they_are_and_why() {
    let house = House::build().await;
    let (one, other) = (house.agent("one").await, house.agent("other").await);
    let hours_ago = |hours: i64| house.now - hours * 3_600 * SECOND;
    let gap = |number, point, hours, count, reason: Reason| wire::Gap {
        number,
        point,
        from_us: hours_ago(hours),
        to_us: hours_ago(hours) + SECOND,
        count,
        reason: reason.into(),
        ..Default::default()
    };
    let key = house.stored(one, 1, vec![float(1, house.now, 1.0)]).await[0];
    let gaps = vec![gap(1, 1, 5, 12, Reason::BufferFull), gap(2, 0, 3, 0, Reason::AgentDown)];
    house.ingest(Delivery { gaps, ..house.delivery(one) }).await;
    let gaps = vec![gap(1, 0, 4, 0, Reason::Clock), gap(2, 0, 50, 0, Reason::Corrupt)];
    house.ingest(Delivery { gaps, ..house.delivery(other) }).await;

    let all = house.json("/api/v1/gaps").await;
    let told: Vec<_> = all["gaps"].as_array().unwrap().iter().collect();
    let short = |gap: &Json| {
        (gap["agent"].clone(), gap["reason"].clone(), gap["point"].clone(), gap["count"].clone())
    };
    assert_eq!(
        told.iter().map(|gap| short(gap)).collect::<Vec<_>>(),
        [
            (json!("hall/one"), json!("buffer full"), json!(key.0), json!(12)),
            (json!("hall/other"), json!("clock"), Json::Null, Json::Null),
            (json!("hall/one"), json!("agent down"), Json::Null, Json::Null),
        ],
        "of the last day, by beginning"
    );
    assert_eq!(all["more"], false);
    let first = house.json("/api/v1/gaps?from=-1w&limit=1").await;
    assert_eq!((&first["gaps"][0]["reason"], &first["more"]), (&json!("corrupt"), &json!(true)));
    let others = house.json("/api/v1/gaps?agent=hall/other&limit=1").await;
    assert_eq!((&others["gaps"][0]["reason"], &others["more"]), (&json!("clock"), &json!(false)));

    let full = all["gaps"][0].clone();
    assert_eq!((&full["device"], &full["name"]), (&json!("boiler"), &json!("p1")));
    assert!(full["words"].as_str().unwrap().contains("buffer was full"), "{full}");
    let latest = house.json("/api/v1/gaps?sort=-from&limit=1").await;
    assert_eq!((&latest["gaps"][0]["reason"], &latest["more"]), (&json!("agent down"), &json!(true)));
    let damaged = house.json("/api/v1/gaps?reason=corrupt&from=-1w").await;
    assert_eq!(damaged["gaps"].as_array().unwrap().len(), 1);
    let boiler = house.json("/api/v1/gaps?device=boiler&from=-1w").await;
    assert_eq!(boiler["gaps"], json!([full]));
    for wrong in ["reason=hunger", "sort=to"] {
        let refused = house.get(&format!("/api/v1/gaps?{wrong}")).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{}", refused.body);
    }
    let file = house.get("/api/v1/gaps.csv?from=-1w&sort=-from").await;
    let lines: Vec<&str> = file.body.split("\r\n").collect();
    assert_eq!(lines[0], "from,to,seconds,gateway,device,point,readings,reason,words");
    assert_eq!(lines.len(), 6, "{}", file.body);
    assert!(lines[3].contains(",1,hall/one,boiler,p1,12,buffer full,"), "{}", file.body);
}

#[tokio::test]
async fn every_refusal_is_a_problem_that_names_the_way_out() {
    let house = House::build().await;
    let cases = [
        ("/nonsense", 404, "`/api/v1/nonsense` is no path of this API"),
        ("/fleet/hall", 404, "there are alarms, audit, faults, fleet, gaps, gaps.csv, joining, keys"),
        ("", 404, "points, quarantine, query"),
        ("/fleet?colour=blue", 400, "colour"),
        ("/points?agent=hall/nobody", 404, "no agent is named `hall/nobody`; names are site/gateway"),
        ("/points?limit=0", 400, "limit: 0 is not between 1 and 1000"),
        ("/points?limit=many", 400, "limit"),
        ("/points?serach=x", 400, "unknown field `serach`, expected one of `agent`, `search`"),
        ("/points?ids=1&search=x", 400, "leave `agent`, `search` and `after` away"),
        ("/points?ids=one", 400, "is not a list of ids"),
        ("/query.csv?points=", 400, "/api/v1/points tells the ids"),
        ("/statistics?points=1&from=now", 400, "write an earlier `from`"),
        ("/silences", 400, "missing field `agent`"),
        ("/alarms?state=loud", 400, "`loud` is none of `active`"),
        ("/alarms?limit=0", 400, "limit: 0 is not between 1 and 1000"),
        ("/live?events=all", 400, "neither `readings` nor `alarms`"),
        ("/query", 400, "missing field `points`"),
        ("/query?points=", 400, "/api/v1/points tells the ids"),
        ("/query?points=1;drop", 400, "separated by commas"),
        ("/query?points=1&from=yesterday", 400, "from: `yesterday` is not a time: write `now`"),
        ("/query?points=1&from=now", 400, "write an earlier `from`"),
        ("/query?points=1&from=-1h&to=-2h", 400, "does not lie before `to`"),
        ("/query?points=1&from=-9e15&to=9e15", 400, "from: `-9e15` lies outside the years 1 to 9999"),
        ("/query?points=1&max_points=1", 400, "max_points: 1 is not between 2 and 10000"),
        ("/gaps?agent=", 404, "no agent is named ``"),
        ("/gaps?to=never", 400, "to: `never` is not a time"),
        ("/ledger?agent=hall/nobody", 404, "/api/v1/fleet"),
        ("/ledger?fork=1", 400, "unknown field `fork`"),
        ("/faults?agent=hall/nobody", 404, "/api/v1/fleet"),
        ("/faults?limit=1001", 400, "limit: 1001 is not between 0 and 1000"),
        ("/time-marks?limit=0", 400, "limit: 0 is not between 1 and 1000"),
        ("/time-marks?from=now", 400, "write an earlier `from`"),
        ("/live?agent=hall/nobody", 404, "/api/v1/fleet"),
    ];
    for (path, status, words) in cases {
        let answer = house.get(&format!("/api/v1{path}")).await;
        assert_eq!(answer.status.as_u16(), status, "{path}: {}", answer.body);
        assert_eq!(answer.header(header::CONTENT_TYPE), "application/problem+json", "{path}");
        let problem = answer.json();
        assert_eq!((&problem["type"], &problem["status"]), (&json!("about:blank"), &json!(status)));
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(words) && !problem["title"].as_str().unwrap().is_empty(), "{path}: {detail}");
    }
    let many = (0..51).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    let answer = house.get(&format!("/api/v1/query?points={many}")).await;
    assert!(answer.status == StatusCode::BAD_REQUEST && answer.body.contains("50 at a time"));
    let post = house.request("/api/v1/points").method(Method::POST).body(Body::empty()).unwrap();
    let answer = house.answer(post).await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
    assert!(answer.json()["detail"].as_str().unwrap().contains("POST is not answered here"));
}

#[tokio::test]
async fn late_batches_do_not_hide_the_latest_reading() {
    let house = House::build().await;
    let agent = house.agent("one").await;
    house.stored(agent, 1, vec![float(1, house.now, 2.0)]).await;
    let late = vec![batch(2, vec![float(1, house.now - 3_600 * SECOND, 1.0)])];
    house.ingest(Delivery { batches: late, ..house.delivery(agent) }).await;
    assert_eq!(house.json("/api/v1/points").await["points"][0]["latest"]["value"], 2.0);
}

#[tokio::test]
async fn where_readings_are_gone_buckets_of_what_is_left_are_told() {
    let house = House::build().await;
    let agent = house.agent("gate").await;
    let day = 86_400 * SECOND;
    let begin = house.now / day * day - 10 * day;
    let readings = (0..48).map(|n| float(1, begin + n * 3_600 * SECOND, n as f64)).collect();
    let keys = house.stored(agent, 1, readings).await;
    for grain in Grain::ALL {
        while house.store.roll_up(grain, house.now, 1_000).await.unwrap().more {}
    }
    let (source, points) = (Source::Readings, keys.clone());
    let removal = Removal { source, points, before: begin + day, stretch: day };
    while house.store.remove(&removal).await.unwrap().more {}
    let path = |from| {
        format!("/api/v1/query?points={}&from={}&to={}", keys[0].0, from / 1_000, (begin + 2 * day) / 1_000)
    };
    let whole = house.json(&path(begin)).await;
    assert_eq!(whole["step_ms"].as_f64(), Some(600_000.0), "a minute at least, and what fits 500 rows");
    assert_eq!(whole["series"][0]["rows"].as_array().unwrap().len(), 48);
    let left = house.json(&path(begin + day)).await;
    assert_eq!(left["step_ms"].as_f64(), Some(0.0));
    assert_eq!(left["series"][0]["rows"].as_array().unwrap().len(), 24);
}

#[tokio::test]
async fn the_server_tells_what_its_store_is_and_what_is_aside() {
    let house = House::build().await;
    let agent = house.agent("gate").await;
    house.stored(agent, 1, vec![float(1, 5, 1.0)]).await;
    let server = house.json("/api/v1/server").await;
    assert_eq!(server["store"]["tier"], "sqlite");
    assert!(server["store"]["bytes"].as_u64().unwrap() > 10_000, "{server}");
    let aside = house.json("/api/v1/quarantine").await;
    let odd = &aside["readings"][0];
    assert_eq!(
        (&odd["agent"], &odd["readings"], &odd["from_us"]),
        (&json!("hall/gate"), &json!(1), &json!(5))
    );
    assert_eq!(aside["batches"], json!([]));
}
