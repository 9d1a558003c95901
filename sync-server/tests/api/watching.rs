//! The live feed: what is committed reaches a reader at once, and a reader never costs the server
//! more than a fixed amount of memory, nor keeps it from stopping.

use std::sync::{Arc, Weak};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::{Request, header};
use forebay_config::server;
use forebay_protocols::reading::{Fault, Quality};
use forebay_server::app::App;
use forebay_server::store;
use http_body_util::BodyExt;
use serde_json::{Value as Json, json};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tower::Service;

use crate::house::{House, PATIENCE, SECOND, ask, committed, float, reading};

/// A reader of server-sent events.
struct Watcher<B> {
    body: B,
    text: String,
}

impl<B: HttpBody<Data = axum::body::Bytes, Error: std::fmt::Debug> + Unpin> Watcher<B> {
    fn new(body: B) -> Self {
        Self { body, text: String::new() }
    }

    /// The next event's name and data; `None` when the stream has ended.
    async fn next(&mut self) -> Option<(String, Json)> {
        // One limit for all of it: comments keep coming on a stream that says nothing.
        timeout(PATIENCE, self.wait()).await.expect("an event or an end in time")
    }

    async fn wait(&mut self) -> Option<(String, Json)> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
                let told = field("event: ").zip(field("data: "));
                let told = told.map(|(name, data)| (name.to_string(), serde_json::from_str(data).unwrap()));
                self.text = rest.to_string();
                // Comments keep the connection alive and tell nothing.
                let Some(told) = told else { continue };
                return Some(told);
            }
            let frame = self.body.frame().await?;
            self.text += std::str::from_utf8(frame.unwrap().data_ref().unwrap()).unwrap();
        }
    }
}

async fn watch(house: &House, query: &str) -> Watcher<hyper::body::Incoming> {
    let request = house.request(&format!("/api/v1/live{query}")).body(Body::empty()).unwrap();
    let answer = house.ask(request).await;
    assert_eq!(answer.headers()[header::CONTENT_TYPE], "text/event-stream");
    assert_eq!(answer.headers()["x-accel-buffering"], "no");
    Watcher::new(answer.into_body())
}

#[tokio::test]
async fn what_is_committed_is_seen_within_a_second() {
    let house = House::build().await;
    let agent = house.agent("one").await;
    let keys = house.stored(agent, 2, vec![float(1, house.now, 0.0), float(2, house.now, 0.0)]).await;
    let mut watcher = watch(&house, "").await;
    let bad = Quality::Bad(Fault::Silent);
    let readings = vec![
        float(1, house.now + SECOND, 1.5),
        float(1, house.now + 2 * SECOND, 2.5),
        reading(2, house.now + SECOND, None, bad),
    ];
    let shown = Instant::now();
    house.show(agent, &keys, readings);
    let (name, rows) = watcher.next().await.unwrap();
    assert!(shown.elapsed() < Duration::from_secs(1), "{:?}", shown.elapsed());
    let ms = |seconds: i64| (house.now + seconds * SECOND) as f64 / 1_000.0;
    let newest = json!([[keys[0].0, ms(2), 2.5, "good"], [keys[1].0, ms(1), null, bad.words()]]);
    assert_eq!((name.as_str(), rows), ("readings", newest), "the newest of each point");
}

#[tokio::test]
async fn a_reader_sees_the_agent_it_asked_for_and_no_backlog() {
    let house = House::build().await;
    let (one, other) = (house.agent("one").await, house.agent("other").await);
    let ones = house.stored(one, 1, vec![float(1, house.now, 0.0)]).await;
    let others = house.stored(other, 1, vec![float(1, house.now, 0.0)]).await;
    let mut watcher = watch(&house, "?agent=hall/one").await;
    house.show(other, &others, vec![float(1, house.now, 666.0)]);
    // By its time it would win.
    let backlog = committed(one, &ones, vec![float(1, house.now + SECOND, 777.0)]);
    house.feed.publish(forebay_server::live::Committed { backlog: true, ..backlog });
    house.show(one, &ones, vec![float(1, house.now, 1.0)]);
    let (_, rows) = watcher.next().await.unwrap();
    assert_eq!(rows.as_array().unwrap().len(), 1);
    assert_eq!((&rows[0][0], &rows[0][2]), (&json!(ones[0].0), &json!(1.0)));
}

#[tokio::test]
async fn a_reader_that_takes_nothing_costs_a_fixed_amount_and_then_gets_the_newest() {
    let house = House::build().await;
    let agent = house.agent("one").await;
    let keys = house.stored(agent, 1, vec![float(1, house.now, 0.0)]).await;
    // Without a socket between: what is not read here is not read at all.
    let request = Request::get("/api/v1/live").body(Body::empty()).unwrap();
    let answer = house.router().call(request).await.unwrap();
    let mut watcher = Watcher::new(answer.into_body());
    let mut shown = Vec::new();
    for n in 0..2_000_i32 {
        let readings = Arc::new(vec![float(1, house.now + i64::from(n), f64::from(n))]);
        shown.push(Arc::downgrade(&readings));
        house
            .feed
            .publish(forebay_server::live::Committed { readings, ..committed(agent, &keys, Vec::new()) });
    }
    let kept = shown.iter().filter_map(Weak::upgrade).count();
    assert!(kept <= 128, "{kept} batches are kept for a reader that does not read");

    let (name, passed_over) = watcher.next().await.unwrap();
    assert_eq!((name.as_str(), passed_over), ("missed", json!(2_000 - kept)));
    let (name, rows) = watcher.next().await.unwrap();
    assert_eq!((name.as_str(), &rows[0][2]), ("readings", &json!(1_999.0)));
}

#[tokio::test]
async fn nobody_is_watched_for_once_the_reader_is_gone() {
    let house = House::build().await;
    let agent = house.agent("one").await;
    let watcher = watch(&house, "").await;
    assert!(house.feed.watched());
    drop(watcher);
    // The server notices when it next has something to say, or at once when the connection closes.
    let gone = async {
        while house.feed.watched() {
            house.show(agent, &[], Vec::new());
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, gone).await.expect("the subscription ends with the connection");
}

#[tokio::test]
async fn live_streams_end_with_the_server() {
    let mut house = House::build().await;
    let mut watcher = watch(&house, "").await;
    house.stop.cancel();
    assert_eq!(watcher.next().await, None);
    timeout(PATIENCE, &mut house.serving).await.expect("serving ends").unwrap().unwrap();
}

/// As the real server puts it together: a page left open must not cost the whole drain time, at
/// whose end the web listener is cut off (5 s).
#[tokio::test]
async fn an_open_page_does_not_delay_the_stop_of_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let state_dir = folder.path().to_owned();
    let free = "127.0.0.1:0".parse().unwrap();
    let config = server::Server {
        alarms: Default::default(),
        store: server::Store::Sqlite { path: state_dir.join("forebay.db") },
        state_dir,
        sync: server::Sync { listen: free, ..server::Sync::default() },
        web: server::Web { listen: free },
        retention: Default::default(),
        log: Default::default(),
    };
    let store = store::open(&config.store).await.unwrap();
    let app = App::build(config, store).await.unwrap();
    let web = app.web_address().unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(app.run(stop.clone()));
    let request = Request::get(format!("http://{web}/api/v1/live")).body(Body::empty()).unwrap();
    let mut watcher = Watcher::new(ask(request).await.into_body());
    stop.cancel();
    let ended = timeout(Duration::from_secs(4), running).await;
    ended.expect("the server stops before it loses patience").unwrap().unwrap();
    assert_eq!(watcher.next().await, None);
}
