//! The live feed over a WebSocket, and coming back to it: the same events as `watching.rs` sees, for the same
//! people.

use std::sync::{Arc, Weak};
use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use forebay_protocols::reading::{Quality, Value};
use forebay_server::access::{Right, Role};
use forebay_server::live::Committed;
use forebay_server::store::{Change, KeyKey, TenantKey};
use futures::{SinkExt, StreamExt};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value as Json, json};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, duplex};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::access::{Somebody, done, key, log_in, user};
use crate::house::{House, PATIENCE, SECOND, committed, float, reading};

struct Watcher<S>(WebSocketStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> Watcher<S> {
    /// The next event, or the word with which the feed ends.
    async fn next(&mut self) -> Result<Json, Option<CloseFrame>> {
        timeout(PATIENCE, async {
            loop {
                match self.0.next().await {
                    Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).unwrap()),
                    Some(Ok(Message::Close(frame))) => return Err(frame),
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return Err(None),
                }
            }
        })
        .await
        .expect("an event or an end in time")
    }

    /// The code with which it ends, whatever it tells before.
    async fn end(&mut self) -> Option<u16> {
        loop {
            if let Err(frame) = self.next().await {
                return frame.map(|frame| frame.code.into());
            }
        }
    }
}

async fn try_open(
    house: &House,
    query: &str,
    headers: &[(&'static str, &str)],
) -> Result<Watcher<TcpStream>, Error> {
    let stream = TcpStream::connect(house.address).await.unwrap();
    let mut request =
        format!("ws://{}/api/v1/live/socket{query}", house.address).into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    let (socket, _) = timeout(PATIENCE, client_async(request, stream)).await.unwrap()?;
    Ok(Watcher(socket))
}

async fn open(house: &House, query: &str) -> Watcher<TcpStream> {
    let mut watcher = try_open(house, query, &[]).await.unwrap();
    assert_eq!(watcher.next().await.unwrap()["event"], "ready");
    watcher
}

fn status(refused: Result<Watcher<TcpStream>, Error>) -> StatusCode {
    match refused.err().expect("it is refused") {
        Error::Http(answer) => answer.status(),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_socket_tells_what_the_events_tell() {
    let house = House::build().await;
    let (one, other) = (house.agent("one").await, house.agent("other").await);
    let keys = house.stored(one, 1, vec![float(1, house.now, 0.0)]).await;
    let others = house.stored(other, 1, vec![float(1, house.now, 0.0)]).await;
    let mut watcher = open(&house, "?agent=hall/one").await;
    house.show(other, &others, vec![float(1, house.now, 666.0)]);
    house.show(one, &keys, vec![float(1, house.now + SECOND, 1.5)]);
    let told = watcher.next().await.unwrap();
    let ms = (house.now + SECOND) as f64 / 1_000.0;
    assert_eq!((&told["event"], &told["data"]), (&json!("readings"), &json!([[keys[0].0, ms, 1.5, "good"]])));
    assert!(told["id"].as_str().is_some_and(|id| id.parse::<u64>().is_ok()), "{told}");
    // It takes no messages, and is not there for anything but sockets.
    watcher.0.send(Message::text("{}")).await.unwrap();
    assert_eq!(watcher.end().await, Some(1003));
    let plain = house.get("/api/v1/live/socket").await;
    assert_eq!(plain.status, StatusCode::BAD_REQUEST);
    assert!(plain.body.contains("WebSocket") && plain.body.contains("/api/v1/live"), "{}", plain.body);
    assert_eq!(status(try_open(&house, "?agent=hall/nobody", &[]).await), StatusCode::NOT_FOUND);
    assert_eq!(status(try_open(&house, "?after=yesterday", &[]).await), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn who_comes_back_is_told_what_was_committed_meanwhile() {
    let house = House::build().await;
    let (one, other) = (house.agent("one").await, house.agent("other").await);
    let keys = house.stored(one, 2, vec![float(1, house.now - SECOND, 1.0)]).await;
    house.stored(other, 1, vec![float(1, house.now, 3.0)]).await;
    // Nobody looks while this is committed; its time is years behind.
    let late = vec![crate::house::batch(2, vec![float(2, house.now - 1_000_000 * SECOND, 2.0)])];
    let late = forebay_server::store::Delivery { batches: late, ..house.delivery(one) };
    let second = house.ingest(late).await[0].1;
    let last = (house.now / 1_000).to_string();
    let mut watcher = open(&house, &format!("?agent=hall/one&events=readings&after={last}")).await;
    let rows = watcher.next().await.unwrap()["data"].clone();
    let told: Vec<_> = rows.as_array().unwrap().iter().map(|row| (row[0].clone(), row[2].clone())).collect();
    assert_eq!(told, [(json!(keys[0].0), json!(1.0)), (json!(second.0), json!(2.0))]);
    // And goes on from there.
    house.show(one, &keys, vec![float(1, house.now + SECOND, 4.0)]);
    assert_eq!(watcher.next().await.unwrap()["data"][0][2], 4.0);

    // Who has missed nothing is told nothing: agents that were not heard since are left out.
    let later = (house.now / 1_000 + 3_600_000 * 24).to_string();
    house.feed.ring(TenantKey::MAIN, house.store.alarm_summary().await.unwrap());
    let mut watcher = open(&house, "?events=alarms&after=0").await;
    assert_eq!(watcher.next().await.unwrap()["event"], "alarms", "how many alarms there are, in any case");
    // An id from the future is of a clock that was set back: everything is told.
    let mut watcher = open(&house, &format!("?events=readings&after={later}")).await;
    assert_eq!(watcher.next().await.unwrap()["data"].as_array().unwrap().len(), 3);

    // A browser does the same by itself over server-sent events.
    let request = house.request("/api/v1/live?events=readings").header("last-event-id", &last);
    let mut body = house.ask(request.body(Body::empty()).unwrap()).await.into_body();
    let mut text = String::new();
    while !text.contains("event: readings") || !text.ends_with("\n\n") {
        let frame = timeout(PATIENCE, body.frame()).await.unwrap().unwrap().unwrap();
        text += std::str::from_utf8(frame.data_ref().unwrap()).unwrap();
    }
    assert!(text.starts_with("id: "), "it has an id before there is an event: {text}");
    assert_eq!(text.matches("\"good\"").count(), 3, "{text}");
}

#[tokio::test]
async fn a_page_of_another_site_opens_no_socket() {
    let house = House::closed().await;
    user(&house, TenantKey::MAIN, "root", Role::Viewer).await;
    let Somebody(_, cookie) = log_in(&house, "root").await;
    let (_, Somebody(_, bearer)) = key(&house, TenantKey::MAIN, &[Right::Read], 600).await;
    let own = format!("http://{}", house.address);
    assert_eq!(status(try_open(&house, "", &[]).await), StatusCode::UNAUTHORIZED);
    let (evil, cross) = ("https://evil.example", "cross-site");
    for foreign in [
        &[("cookie", cookie.as_str()), ("origin", evil)][..],
        &[("cookie", cookie.as_str()), ("origin", "null")],
        &[("cookie", cookie.as_str()), ("origin", own.as_str()), ("sec-fetch-site", cross)],
    ] {
        assert_eq!(status(try_open(&house, "", foreign).await), StatusCode::FORBIDDEN, "{foreign:?}");
    }
    for good in [
        &[("cookie", cookie.as_str()), ("origin", own.as_str())][..],
        // A key is in no browser's keeping: whoever sends it knows it.
        &[("authorization", bearer.as_str()), ("origin", evil)],
    ] {
        assert!(try_open(&house, "", good).await.is_ok(), "{good:?}");
    }
    // Where nobody logs in either.
    let open_house = House::build().await;
    assert_eq!(status(try_open(&open_house, "", &[("origin", evil)]).await), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_socket_is_of_one_tenant_and_ends_with_the_key_and_with_the_server() {
    let house = House::closed().await;
    let other = TenantKey(done(&house, TenantKey::MAIN, Change::AddTenant { name: "other".into() }).await);
    let (mine, theirs) = (house.agent("one").await, house.agent_of(other, "two").await);
    let keys = house.stored(mine, 1, vec![float(1, house.now, 0.0)]).await;
    let hidden = house.stored(theirs, 1, vec![float(1, house.now, 0.0)]).await;
    let (number, Somebody(name, bearer)) = key(&house, TenantKey::MAIN, &[Right::Read], 600).await;
    let (_, Somebody(_, stays)) = key(&house, TenantKey::MAIN, &[Right::Read], 601).await;
    assert_eq!(status(try_open(&house, "?agent=hall/two", &[(name, &bearer)]).await), StatusCode::NOT_FOUND);
    // Coming back tells no more than staying does.
    let mut watcher = try_open(&house, "?after=0&events=readings", &[(name, &bearer)]).await.unwrap();
    let mut lasting = try_open(&house, "?events=readings", &[(name, &stays)]).await.unwrap();
    assert_eq!(watcher.next().await.unwrap()["event"], "ready");
    let again = watcher.next().await.unwrap();
    assert_eq!(again["data"].as_array().unwrap().len(), 1, "{again}");
    house.show(theirs, &hidden, vec![float(1, house.now, 41.0)]);
    house.show(mine, &keys, vec![float(1, house.now + SECOND, 42.0)]);
    let told = watcher.next().await.unwrap();
    assert_eq!((&told["data"][0][0], told["data"].as_array().unwrap().len()), (&json!(keys[0].0), 1));

    done(&house, TenantKey::MAIN, Change::RemoveKey { key: KeyKey(number) }).await;
    let removed = Instant::now();
    assert_eq!(watcher.end().await, Some(1008));
    assert!(removed.elapsed() < Duration::from_secs(10), "{:?}", removed.elapsed());
    assert_eq!(lasting.next().await.unwrap()["event"], "ready");
    house.stop.cancel();
    assert_eq!(lasting.end().await, Some(1001));
}

/// A socket over a connection in memory, which holds so many bytes, and its server.
async fn connected(house: &House, holds: usize) -> (Watcher<DuplexStream>, JoinHandle<hyper::Result<()>>) {
    let (near, far) = duplex(holds);
    let service = TowerToHyperService::new(house.router());
    let serving = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(near), service)
        .with_upgrades();
    let serving = tokio::spawn(serving);
    let request = "ws://localhost/api/v1/live/socket".into_client_request().unwrap();
    let (socket, _) = timeout(PATIENCE, client_async(request, far)).await.unwrap().unwrap();
    let mut watcher = Watcher(socket);
    assert_eq!(watcher.next().await.unwrap()["event"], "ready");
    (watcher, serving)
}

#[tokio::test]
async fn a_reader_is_pinged_and_who_answers_no_ping_is_gone() {
    let house = House::build().await;
    let (mut watcher, _serving) = connected(&house, 1 << 16).await;
    tokio::time::pause();
    let began = Instant::now();
    for _ in 0..6 {
        // Reading on answers the one before.
        while !matches!(watcher.0.next().await.unwrap().unwrap(), Message::Ping(_)) {}
    }
    assert!(began.elapsed() > Duration::from_secs(100), "it stays: {:?}", began.elapsed());
    assert!(house.feed.watched());
    sleep(Duration::from_secs(120)).await;
    assert!(!house.feed.watched(), "nothing is read here any more, and so nothing answered");
}

/// A connection that holds a kilobyte: what the reader does not take stays with the server.
#[tokio::test]
async fn a_socket_that_takes_nothing_costs_a_fixed_amount_and_then_gets_the_newest() {
    let house = House::build().await;
    let agent = house.agent("one").await;
    let keys = house.stored(agent, 1, vec![float(1, house.now, 0.0)]).await;
    let (mut watcher, serving) = connected(&house, 1 << 10).await;
    let long = Value::Text("x".repeat(16 << 10).into());
    house.show(agent, &keys, vec![reading(1, house.now, Some(long), Quality::Good)]);
    // Until it is under way, and stuck: nothing more is taken from the feed.
    let mut shown = Vec::new();
    let mut publish = |n: i32| {
        let readings = Arc::new(vec![float(1, house.now + 1 + i64::from(n), f64::from(n))]);
        shown.push(Arc::downgrade(&readings));
        house.feed.publish(Committed { readings, ..committed(agent, &keys, Vec::new()) });
    };
    sleep(Duration::from_millis(700)).await;
    (0..2_000).for_each(&mut publish);
    sleep(Duration::from_millis(700)).await;
    (2_000..4_000).for_each(&mut publish);
    let kept = shown.iter().filter_map(Weak::upgrade).count();
    assert!(kept <= 128, "{kept} batches are kept for a reader that does not read");

    let first = watcher.next().await.unwrap();
    assert_eq!(first["data"][0][2].as_str().map(str::len), Some(16 << 10));
    assert_eq!(watcher.next().await.unwrap()["event"], "missed");
    let newest = watcher.next().await.unwrap();
    assert_eq!((&newest["event"], &newest["data"][0][2]), (&json!("readings"), &json!(3_999.0)));
    drop(watcher);
    timeout(PATIENCE, serving).await.unwrap().unwrap().unwrap();
    let gone = async {
        while house.feed.watched() {
            house.show(agent, &[], Vec::new());
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, gone).await.expect("the subscription ends with the connection");
}

#[test]
fn there_is_an_end_to_how_many_are_let_in() {
    let feed = forebay_server::live::Feed::new();
    let seats: Vec<_> = std::iter::from_fn(|| feed.seat()).take(100_000).collect();
    assert_eq!(seats.len(), 1_024);
    drop(seats);
    assert!(feed.seat().is_some());
}
