//! Alarms from end to end: looked after, listed, acknowledged, told live and to a webhook that is away at
//! first.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::routing::post;
use forebay_config::alarms::Alarms;
use forebay_config::load;
use forebay_protocols::boot_time::wall_micros;
use forebay_server::alarms::{Evaluator, Webhooks, sign};
use forebay_server::store::{Change, TenantKey};
use forebay_server::telemetry::Telemetry;
use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::access::done;
use crate::house::{House, PATIENCE, SECOND, float};

/// The certificates of the house end within the hour.
const HOT: &str = "[alarm.certificate]\nenabled = false\n\
                   [alarm.hot]\nwhen = \"value\"\npoints = [\"boiler/p1\"]\nabove = 90\n";
const SECRET: &str = "a secret of sixteen and more";

fn alarms(text: &str) -> Alarms {
    load::server_text("server.toml", text).unwrap().alarms
}

fn evaluator(house: &House, text: &str) -> Evaluator {
    let telemetry = Arc::new(Telemetry::new());
    Evaluator::new(house.store.clone(), house.feed.clone(), telemetry, alarms(text).rules)
}

async fn acknowledge(house: &House, id: &Json, kind: &str, body: &str) -> crate::house::Answer {
    let request = house.request(&format!("/api/v1/alarms/{id}/acknowledge"));
    let request = request.method(Method::POST).header("x-forebay", "1").header(header::CONTENT_TYPE, kind);
    house.answer(request.body(Body::from(body.to_owned())).unwrap()).await
}

#[tokio::test]
async fn an_alarm_is_listed_acknowledged_and_over_when_the_value_is() {
    let house = House::build().await;
    let agent = house.agent("one").await;
    house.stored(agent, 1, vec![float(1, house.now, 95.5)]).await;
    let mut evaluator = evaluator(&house, HOT);
    let none = house.json("/api/v1/alarms").await;
    assert_eq!((&none["alarms"], &none["active"]), (&json!([]), &json!(0)));
    let mut bell = house.feed.alarms(TenantKey::MAIN);
    evaluator.look(true, house.now, 0).await.unwrap();
    assert_eq!(bell.borrow_and_update().active, 1);
    let found = house.json("/api/v1/alarms").await;
    let alarm = &found["alarms"][0];
    assert_eq!(alarm["words"], "hall/one/boiler/p1 is 95.5 °C, above 90 °C.");
    assert_eq!(
        (&alarm["rule"], &alarm["kind"], &alarm["state"]),
        (&json!("hot"), &json!("value"), &json!("active"))
    );
    assert_eq!((&alarm["site"], &alarm["priority"]), (&json!("hall"), &json!("medium")));

    let id = alarm["id"].clone();
    let form = acknowledge(&house, &id, "text/plain", "{}").await;
    assert_eq!(form.status, StatusCode::BAD_REQUEST, "no form of another site: {}", form.body);
    for body in ["", "[]", "{\"nte\": \"x\"}", &format!("{{\"note\": \"{}\"}}", "x".repeat(1_001))] {
        let refused = acknowledge(&house, &id, "application/json", body).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{body:.20}");
    }
    let unknown = acknowledge(&house, &json!(999), "application/json", "{}").await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    let seen = acknowledge(&house, &id, "application/json", "{\"note\": \" on my way \"}").await;
    assert_eq!(seen.status, StatusCode::OK, "{}", seen.body);
    assert_eq!(seen.json()["acknowledged"]["note"], "on my way");
    assert_eq!(
        (bell.borrow_and_update().active, house.json("/api/v1/alarms").await["acknowledged"].clone()),
        (0, json!(1))
    );
    assert_eq!(house.json("/api/v1/alarms?state=active").await["alarms"], json!([]));

    let cool = vec![crate::house::batch(2, vec![float(1, house.now + SECOND, 20.0)])];
    house.ingest(forebay_server::store::Delivery { batches: cool, ..house.delivery(agent) }).await;
    evaluator.look(false, house.now + SECOND, 0).await.unwrap();
    assert_eq!(house.json("/api/v1/alarms").await["alarms"], json!([]));
    let over = house.json("/api/v1/alarms?state=cleared").await;
    assert_eq!(over["alarms"][0]["acknowledged"]["note"], "on my way", "it stays to be read");
}

#[tokio::test]
async fn a_spike_in_the_feed_is_an_alarm_within_seconds_and_the_live_feed_tells() {
    let house = House::build().await;
    let agent = house.agent("one").await;
    let keys = house.stored(agent, 1, vec![float(1, house.now, 20.0)]).await;
    let stop = CancellationToken::new();
    let running = tokio::spawn(evaluator(&house, HOT).run(stop.clone()));
    let request = house.request("/api/v1/live?events=alarms").body(Body::empty()).unwrap();
    let mut feed = house.ask(request).await.into_body();
    // Until the evaluator listens.
    timeout(PATIENCE, async {
        loop {
            house.show(agent, &keys, vec![float(1, house.now, 99.0), float(1, house.now + SECOND, 20.0)]);
            let stands = house.store.alarm_summary().await.unwrap().newest;
            if stands > 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .unwrap();
    let mut told = String::new();
    while !told.contains("event: alarms") || !told.ends_with("\n\n") {
        let frame =
            timeout(PATIENCE, http_body_util::BodyExt::frame(&mut feed)).await.unwrap().unwrap().unwrap();
        told += &String::from_utf8_lossy(frame.data_ref().unwrap());
    }
    assert!(told.contains("\"active\":1"), "{told}");
    let all = house.json("/api/v1/alarms?state=active,acknowledged,cleared").await;
    assert_eq!(all["alarms"][0]["members"][0]["words"], "hall/one/boiler/p1 is 99 °C, above 90 °C");
    stop.cancel();
    running.await.unwrap();
}

/// A receiver that answers as told, and what it was sent.
async fn receiver(answers: Vec<u16>) -> (std::net::SocketAddr, mpsc::UnboundedReceiver<(HeaderMap, Bytes)>) {
    let (sent, came) = mpsc::unbounded_channel();
    let answers = Arc::new(Mutex::new(answers));
    let take = move |headers: HeaderMap, body: Bytes| {
        let (sent, answers) = (sent.clone(), answers.clone());
        async move {
            let mut answers = answers.lock().unwrap();
            let answer = if answers.is_empty() { 204 } else { answers.remove(0) };
            sent.send((headers, body)).unwrap();
            StatusCode::from_u16(answer).unwrap()
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, Router::new().route("/hook", post(take))).into_future());
    (address, came)
}

#[tokio::test]
async fn a_webhook_is_signed_tried_again_and_told_in_order() {
    let house = House::build().await;
    let agent = house.agent("one").await;
    house.stored(agent, 1, vec![float(1, house.now, 95.5)]).await;
    let (address, mut came) = receiver(vec![503]).await;
    let text = format!("{HOT}[webhook.desk]\nurl = \"http://{address}/hook\"\nsecret = \"{SECRET}\"\n");
    let telemetry = Arc::new(Telemetry::new());
    let hooks =
        Webhooks::new(house.store.clone(), house.feed.clone(), telemetry.clone(), alarms(&text).webhooks);
    let hooks = hooks.unwrap();
    hooks.register().await.unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(hooks.run(stop.clone()));
    let mut evaluator = evaluator(&house, &text);
    evaluator.look(true, house.now, 0).await.unwrap();
    let id = house.json("/api/v1/alarms").await["alarms"][0]["id"].clone();
    acknowledge(&house, &id, "application/json", "{\"by\": \"eva\"}").await;
    let mut told = Vec::new();
    for _ in 0..3 {
        let (headers, body) = timeout(PATIENCE, came.recv()).await.unwrap().unwrap();
        let text = |name: &str| headers[name].to_str().unwrap().to_owned();
        let seconds: i64 = text("webhook-timestamp").parse().unwrap();
        assert!((wall_micros() / SECOND - seconds).abs() < 60);
        assert_eq!(text("webhook-signature"), sign(SECRET, &text("webhook-id"), seconds, &body));
        let message: Json = serde_json::from_slice(&body).unwrap();
        told.push((
            text("webhook-id"),
            message["type"].as_str().unwrap().to_owned(),
            message["data"].clone(),
        ));
    }
    assert_eq!(told[0], told[1], "the same again, after it was refused");
    assert_eq!((told[0].1.as_str(), told[2].1.as_str()), ("alarm.raised", "alarm.acknowledged"));
    assert_eq!((&told[0].2["id"], &told[2].2["acknowledged"]["by"]), (&id, &json!("eva")));
    // The receiver hears of it before the sender has counted it.
    let counted = async {
        let lines = [
            "forebay_server_webhook_attempts_total{outcome=\"failed\"} 1\n",
            "forebay_server_webhook_attempts_total{outcome=\"told\"} 2\n",
        ];
        while !lines.iter().all(|line| telemetry.render().contains(line)) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, counted).await.unwrap_or_else(|_| panic!("{}", telemetry.render()));
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn what_happened_while_no_server_ran_is_told_by_the_next_one() {
    let house = House::build().await;
    let agent = house.agent("one").await;
    house.stored(agent, 1, vec![float(1, house.now, 95.5)]).await;
    let (address, mut came) = receiver(vec![410]).await;
    let text = format!("{HOT}[webhook.desk]\nurl = \"http://{address}/hook\"\nsecret = \"{SECRET}\"\n");
    let hooks = || {
        let telemetry = Arc::new(Telemetry::new());
        Webhooks::new(house.store.clone(), house.feed.clone(), telemetry, alarms(&text).webhooks).unwrap()
    };
    hooks().register().await.unwrap();
    // Raised, and the server ends before it has told anybody.
    evaluator(&house, &text).look(true, house.now, 0).await.unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(hooks().run(stop.clone()));
    let (_, body) = timeout(PATIENCE, came.recv()).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&body).contains("alarm.raised"));
    // Gone is gone: the next event is told, and this one not again.
    let id = house.json("/api/v1/alarms").await["alarms"][0]["id"].clone();
    acknowledge(&house, &id, "application/json", "{}").await;
    let (_, body) = timeout(PATIENCE, came.recv()).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&body).contains("alarm.acknowledged"));
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn each_tenant_has_its_own_alarms_rules_and_webhook() {
    let house = House::build().await;
    let made = done(&house, TenantKey::MAIN, Change::AddTenant { name: "acme".into() }).await;
    let acme = TenantKey(made);
    let theirs = house.agent_of(acme, "one").await;
    let mine = house.agent("one").await;
    for agent in [mine, theirs] {
        house.stored(agent, 1, vec![float(1, house.now, 95.5)]).await;
    }
    let (main_desk, mut main_came) = receiver(vec![]).await;
    let (acme_desk, mut acme_came) = receiver(vec![]).await;
    let hook = |name: &str, address, more: &str| {
        format!("[webhook.{name}]\nurl = \"http://{address}/hook\"\nsecret = \"{SECRET}\"\n{more}")
    };
    let text = format!(
        "{HOT}[alarm.warm]\nwhen = \"value\"\npoints = [\"boiler/p1\"]\nabove = 50\ntenants = [\"acme\"]\n{}{}",
        hook("main-desk", main_desk, ""),
        hook("acme-desk", acme_desk, "tenant = \"acme\"\n")
    );
    let hooks = Webhooks::new(
        house.store.clone(),
        house.feed.clone(),
        Arc::new(Telemetry::new()),
        alarms(&text).webhooks,
    )
    .unwrap();
    hooks.register().await.unwrap();
    let (main_bell, acme_bell) = (house.feed.alarms(TenantKey::MAIN), house.feed.alarms(acme));
    evaluator(&house, &text).look(true, house.now, 0).await.unwrap();
    assert_eq!((main_bell.borrow().active, acme_bell.borrow().active), (1, 2));
    let rules = async |tenant| {
        let (standing, _) = house.store.clone().within(tenant).standing_alarms().await.unwrap();
        standing.into_iter().map(|row| row.alarm.rule).collect::<Vec<_>>()
    };
    assert_eq!(rules(TenantKey::MAIN).await, ["hot"]);
    assert_eq!(rules(acme).await, ["hot", "warm"], "and one that stands for this tenant alone");

    let stop = CancellationToken::new();
    let running = tokio::spawn(hooks.run(stop.clone()));
    for (came, count) in [(&mut main_came, 1), (&mut acme_came, 2)] {
        for _ in 0..count {
            timeout(PATIENCE, came.recv()).await.unwrap().unwrap();
        }
    }
    // What happens to one is told to its own desk.
    let own = house.store.clone().within(acme);
    let (standing, _) = own.standing_alarms().await.unwrap();
    own.acknowledge_alarm(standing[0].key, "kim", "", house.now).await.unwrap().unwrap();
    house.feed.ring(acme, own.alarm_summary().await.unwrap());
    let (_, body) = timeout(PATIENCE, acme_came.recv()).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&body).contains("alarm.acknowledged"));
    stop.cancel();
    running.await.unwrap();
    assert!(main_came.try_recv().is_err(), "the main tenant's desk hears of its own alone");
}

/// A receiver with a certificate of its own for `localhost`; the certificate as PEM.
async fn tls_receiver() -> (u16, String, mpsc::UnboundedReceiver<String>) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sent, came) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((peer, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(peer).await else {
                let _ = sent.send("refused".to_owned());
                continue;
            };
            let mut request = vec![0; 65_536];
            let length = stream.read(&mut request).await.unwrap();
            // It closes behind its answer.
            stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await.unwrap();
            let _ = stream.shutdown().await;
            let _ = sent.send(String::from_utf8_lossy(&request[..length]).into_owned());
        }
    });
    (port, made.cert.pem(), came)
}

#[tokio::test]
async fn a_webhook_over_tls_is_told_only_if_its_certificate_is_of_the_named_authority() {
    let house = House::build().await;
    let agent = house.agent("one").await;
    house.stored(agent, 1, vec![float(1, house.now, 95.5)]).await;
    let (port, own, mut came) = tls_receiver().await;
    let (_, others, _) = tls_receiver().await;
    let folder = tempfile::tempdir().unwrap();
    let telemetry = Arc::new(Telemetry::new());
    let stop = CancellationToken::new();
    let start = |name: &str, pem: &str| {
        let ca = folder.path().join(name);
        std::fs::write(&ca, pem).unwrap();
        let text = format!(
            "{HOT}[webhook.{name}]\nurl = \"https://localhost:{port}/hook?x=1\"\nsecret = \"{SECRET}\"\nca = {ca:?}\n"
        );
        let webhooks = alarms(&text).webhooks;
        Webhooks::new(house.store.clone(), house.feed.clone(), telemetry.clone(), webhooks).unwrap()
    };
    let (wrong, right) = (start("wrong", &others), start("right", &own));
    wrong.register().await.unwrap();
    right.register().await.unwrap();
    evaluator(&house, HOT).look(true, house.now, 0).await.unwrap();
    let wrong = tokio::spawn(wrong.run(stop.clone()));
    let first = timeout(PATIENCE, came.recv()).await.unwrap().unwrap();
    assert_eq!(first, "refused", "it breaks off before it has said anything");
    let right = tokio::spawn(right.run(stop.clone()));
    let told = timeout(PATIENCE, async {
        loop {
            let told = came.recv().await.unwrap();
            if told != "refused" {
                break told;
            }
        }
    });
    let told = told.await.unwrap();
    assert!(told.starts_with("POST /hook?x=1 HTTP/1.1\r\n"), "{told}");
    assert!(told.to_lowercase().contains(&format!("host: localhost:{port}\r\n")), "{told}");
    let line = "forebay_server_webhook_attempts_total{outcome=\"told\"} 1\n";
    timeout(PATIENCE, async {
        while !telemetry.render().contains(line) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
    stop.cancel();
    wrong.await.unwrap();
    right.await.unwrap();
    let nobody = alarms(
        "[webhook.a]\nurl = \"https://localhost/\"\nsecret = \"0123456789abcdef\"\nca = \"/nowhere.pem\"\n",
    );
    let refused = Webhooks::new(house.store.clone(), house.feed.clone(), telemetry.clone(), nobody.webhooks);
    let words = refused.err().unwrap();
    assert!(words.contains("[webhook.a]") && words.contains("/nowhere.pem"), "{words}");
}
