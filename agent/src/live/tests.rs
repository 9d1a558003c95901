use std::os::unix::fs::MetadataExt;

use forebay_protocols::reading::{DataType, Fault, PointKind, Quality, Stamp};
use tokio::io::Lines;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

fn answer(question: Question) -> String {
    json!({ "asked": format!("{question:?}") }).to_string()
}

struct Site {
    feed: Feed,
    folder: tempfile::TempDir,
    stop: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

struct Watcher {
    lines: Lines<BufReader<OwnedReadHalf>>,
    _wish: OwnedWriteHalf,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (feed, stop) = (Feed::default(), CancellationToken::new());
        let door = Door::open(folder.path()).unwrap();
        let clock = Clock::open(folder.path());
        let serving = tokio::spawn(serve(door, feed.clone(), clock, Arc::new(answer), stop.clone()));
        Self { feed, folder, stop, serving }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join(SOCKET)
    }

    /// Somebody who wants to see `wish`, and what was said to that.
    async fn watcher(&self, wish: &str) -> (Watcher, Json) {
        let (from, mut to) = UnixStream::connect(self.socket()).await.unwrap().into_split();
        to.write_all(format!("{wish}\n").as_bytes()).await.unwrap();
        let mut watcher = Watcher { lines: BufReader::new(from).lines(), _wish: to };
        let hello = watcher.line().await.expect("an answer");
        (watcher, hello)
    }

    fn show(&self, device: &str, name: &str, value: Value) {
        let point = Point {
            device: device.into(),
            name: name.into(),
            unit: "rpm".into(),
            kind: PointKind::Gauge,
            data_type: DataType::Integer,
        };
        let sample = Sample { slot: 0, stamp: Stamp::device(7), value: Some(value), quality: Quality::Good };
        self.feed.show(&"hall".into(), &[point], &[sample]);
    }
}

impl Watcher {
    async fn line(&mut self) -> Option<Json> {
        let line = timeout(PATIENCE, self.lines.next_line()).await.expect("a line, or the end").ok()??;
        Some(serde_json::from_str(&line).unwrap())
    }
}

#[tokio::test]
async fn a_watcher_sees_what_it_asked_for_and_nothing_else() {
    let house = Site::new();
    house.show("pump", "speed", Value::Integer(1));
    let (mut watcher, hello) = house.watcher("pump/s*").await;
    assert_eq!(hello, json!({ "watching": true }));
    house.show("fan", "speed", Value::Integer(2));
    house.show("pump", "load", Value::Integer(3));
    house.show("pump", "speed", Value::Integer(4));
    let expected = json!({ "link": "hall", "device": "pump", "point": "speed", "value": 4, "unit": "rpm",
        "type": "integer", "quality": "good", "time_us": 7, "synchronised": true });
    assert_eq!(watcher.line().await.unwrap(), expected);
    house.show("pump", "speed", Value::Float(f64::NAN));
    assert_eq!(watcher.line().await.unwrap()["value"], Json::Null);
    house.show("pump", "state", Value::Text("ö".repeat(1_000).into()));
    assert_eq!(watcher.line().await.unwrap()["value"], format!("{}…", "ö".repeat(LONGEST_TEXT / 2)));
    let bad = Sample { slot: 1, stamp: Stamp::now(), value: None, quality: Quality::Bad(Fault::Silent) };
    house.feed.show(&"hall".into(), &[], &[bad]);
    house.stop.cancel();
    assert_eq!(watcher.line().await, None, "a sample of no point shows nothing");
}

#[tokio::test]
async fn a_watcher_that_takes_nothing_is_skipped_and_stops_nobody() {
    let house = Site::new();
    let (mut slow, _) = house.watcher("*/*").await;
    let (mut quick, _) = house.watcher("*/last").await;
    let begun = std::time::Instant::now();
    // Far more than ring and socket hold. The task of the watcher gets to work in between.
    for n in 0..20_000 {
        house.show("pump", "speed", Value::Integer(n));
        if n % 50 == 0 {
            tokio::task::yield_now().await;
        }
    }
    house.show("pump", "last", Value::Integer(0));
    assert!(begun.elapsed() < PATIENCE, "showing waits for nobody");
    loop {
        let line = quick.line().await.expect("the one that reads sees the last");
        if line["point"] == "last" {
            break;
        }
        assert!(line["missed"].is_u64(), "{line}");
    }
    let (mut seen, mut missed) = (0_u64, 0);
    loop {
        let line = slow.line().await.unwrap();
        missed += line["missed"].as_u64().unwrap_or(0);
        seen += u64::from(line["point"] == "speed");
        if line["point"] == "last" {
            break;
        }
    }
    assert_eq!(seen + missed, 20_000, "what it did not see it was told of");
    assert!(missed > 0);
}

#[tokio::test]
async fn nothing_is_kept_while_nobody_watches() {
    let house = Site::new();
    house.show("pump", "speed", Value::Integer(1));
    assert_eq!((house.feed.0.receiver_count(), house.feed.0.len()), (0, 0));
    let (watcher, _) = house.watcher("*/*").await;
    assert_eq!(house.feed.0.receiver_count(), 1);
    drop(watcher);
    timeout(PATIENCE, async {
        while house.feed.0.receiver_count() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("who went is forgotten, although nothing is shown to notice it by");
}

#[tokio::test]
async fn the_socket_is_the_owners_and_its_groups_and_outlives_nobody() {
    let house = Site::new();
    assert_eq!(fs::metadata(house.socket()).unwrap().mode() & 0o777, 0o660);
    // As one that was killed leaves it; a file that is no socket stays.
    let again = Door::open(house.folder.path()).unwrap();
    drop(again);
    assert!(!house.socket().exists());
    fs::write(house.socket(), "mine").unwrap();
    assert!(Door::open(house.folder.path()).is_err());
    assert_eq!(fs::read_to_string(house.socket()).unwrap(), "mine");
    house.stop.cancel();
    house.serving.await.unwrap();
}

#[tokio::test]
async fn nonsense_and_a_crowd_are_turned_away() {
    let house = Site::new();
    let (mut lost, hello) = house.watcher("no slash").await;
    assert!(hello["refused"].as_str().is_some_and(|why| why.contains("device/point")), "{hello}");
    assert_eq!(lost.line().await, None);
    let (mut lost, _) = house.watcher(&format!("{}/x", "a".repeat(2_000))).await;
    assert_eq!(lost.line().await, None);
    let mut crowd = Vec::new();
    while crowd.len() < MOST_WATCHERS {
        crowd.push(house.watcher("*/*").await.0);
    }
    let late = UnixStream::connect(house.socket()).await.unwrap();
    let mut nothing = Vec::new();
    let mut late = late;
    let read = timeout(PATIENCE, late.read_to_end(&mut nothing)).await.expect("it is turned away");
    assert_eq!(read.unwrap_or(0), 0);
}

#[tokio::test]
async fn questions_are_answered_once_though_eight_watch() {
    let site = Site::new();
    let mut watchers = Vec::new();
    for _ in 0..MOST_WATCHERS {
        watchers.push(site.watcher("*/*").await);
    }
    for (wish, asked) in [("status", "Status"), ("metrics", "Metrics")] {
        let (mut watcher, answer) = site.watcher(wish).await;
        assert_eq!(answer, json!({ "asked": asked }));
        assert_eq!(watcher.line().await, None, "and that is all");
    }
}
