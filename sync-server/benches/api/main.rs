//! How long the API takes to answer, over HTTP on loopback, from a database with many readings: a day of
//! one point, a year at 1,000 pixels, the fleet of 5,000 agents, and all of it again with 200 browsers
//! open. Readings are made in SQL; rollups by the server's own steps, whose rate is told too. Every
//! question is asked of another point.
//!
//!     cargo bench -p forebay-server --bench api -- [--json] [--sqlite ROWS] [--timescale ROWS] \
//!         [--readings ROWS] [--agents N] [--browsers N]
//!
//! A year of points that are read every ten seconds, as many as the rows are enough for. Without
//! FOREBAY_TEST_DATABASE_URL only SQLite is measured.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench is read by people, and may stop")]

mod browsers;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use forebay_config::{server, units::Secret};
use forebay_protocols::boot_time::wall_micros;
use forebay_protocols::sync::wire;
use forebay_server::access::{Gate, Openness, Rules};
use forebay_server::api::{self, Api, Roster};
use forebay_server::live::Feed;
use forebay_server::store::{self, Grain, Micros, Store};
use http_body_util::BodyExt;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use tokio_postgres::NoTls;
use tokio_util::sync::CancellationToken;

const DAY: Micros = 86_400_000_000;
const YEAR: Micros = 365 * DAY;
/// Readings of a point in a year.
const EACH: i64 = 3_153_600;
/// Questions of each kind.
const ASKED: usize = 200;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let json = arguments.iter().any(|argument| argument == "--json");
    let rows = |key: &str, otherwise: i64| {
        let at = arguments.iter().position(|argument| argument == key);
        at.and_then(|at| arguments.get(at + 1)?.parse().ok()).unwrap_or(otherwise)
    };
    let end = wall_micros() / DAY * DAY;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("forebay.db");
    let (sqlite, timescale) = (rows("--readings", 10_000_000), rows("--readings", 20_000_000));
    let (sqlite, timescale) = (rows("--sqlite", sqlite), rows("--timescale", timescale));
    let scene =
        Scene { json, agents: rows("--agents", 5_000).max(1), browsers: rows("--browsers", 200), end };
    if sqlite > 0 {
        let config = server::Store::Sqlite { path: path.clone() };
        let store = store::open(&config).await.unwrap();
        fill_sqlite(&path, sqlite, &scene);
        measure(&scene, store, sqlite).await;
    }
    if let Some(url) = std::env::var("FOREBAY_TEST_DATABASE_URL").ok().filter(|_| timescale > 0) {
        let name = format!("forebay_bench_{}", std::process::id());
        let admin = connect(&url).await;
        admin.batch_execute(&format!("create database {name}")).await.unwrap();
        let (host, _) = url.rsplit_once('/').expect("a database URL has a path");
        let own = format!("{host}/{name}");
        let config = server::Store::Postgres { url: Secret::new(own.clone()), connections: 4 };
        let store = store::open(&config).await.unwrap();
        fill_postgres(&own, timescale, &scene).await;
        measure(&scene, store, timescale).await;
        admin.batch_execute(&format!("drop database {name} with (force)")).await.unwrap();
    }
}

/// What is measured.
struct Scene {
    json: bool,
    agents: i64,
    browsers: i64,
    /// The last moment with readings.
    end: Micros,
}

/// Site and gateway of the n-th agent, counted from 1.
fn name_of(number: i64) -> (String, String) {
    (format!("site-{}", number % 50), format!("gate-{number}"))
}

/// What an agent with five devices reports.
fn report(number: i64) -> String {
    let device = |n: i64| wire::report::Device {
        link: format!("line-{}", n % 2),
        device: format!("machine-{n}"),
        answers: (number + n) % 100 != 0,
        words: if (number + n) % 100 == 0 {
            "the device did not answer in time".into()
        } else {
            String::new()
        },
    };
    let report = wire::Report {
        version: "0.1.0".into(),
        wall_us: 1_795_000_000_000_000,
        received_us: 1_795_000_000_000_000,
        synchronised: true,
        produced: 1_000 + number as u64,
        appended: 1_000 + number as u64,
        acknowledged: 1_000,
        backlog_readings: number as u64,
        buffer_limit_bytes: 1 << 30,
        devices: (1..=5).map(device).collect(),
        ..wire::Report::default()
    };
    prost::Message::encode_to_vec(&report).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How many points have so many readings.
fn points(rows: i64) -> i64 {
    (rows / EACH).max(1)
}

/// Agents, and the points of the first one. `moment` makes a time of microseconds, `bytes` of hex.
fn fleet(
    points: i64,
    scene: &Scene,
    moment: impl Fn(Micros) -> String,
    bytes: impl Fn(&str) -> String,
) -> String {
    let mut sql =
        String::from("insert into agents (site, gateway, joined, last_seen, stored, report) values ");
    let (joined, seen) = (moment(scene.end - YEAR), moment(wall_micros()));
    let agents: Vec<String> = (1..=scene.agents)
        .map(|n| {
            let ((site, gateway), report) = (name_of(n), bytes(&report(n)));
            format!("('{site}', '{gateway}', {joined}, {seen}, 1000, {report})")
        })
        .collect();
    sql.push_str(&agents.join(", "));
    let certificates: Vec<String> = (1..=scene.agents)
        .map(|n| format!("({n}, {}, {})", bytes(&format!("{n:064x}")), moment(scene.end + YEAR)))
        .collect();
    sql.push_str("; insert into certificates (agent, fingerprint, valid_until) values ");
    sql.push_str(&certificates.join(", "));
    sql.push_str("; insert into points (agent, device, name, unit, kind, data_type, search) values ");
    let points: Vec<String> = (1..=points)
        .map(|n| format!("(1, 'boiler', 'p{n}', 'C', 'gauge', 'float', 'boiler/p{n} c')"))
        .collect();
    sql.push_str(&points.join(", "));
    sql
}

fn fill_sqlite(path: &std::path::Path, rows: i64, scene: &Scene) {
    let end = scene.end;
    let connection = rusqlite::Connection::open(path).unwrap();
    connection.pragma_update(None, "synchronous", "off").unwrap();
    let points = points(rows);
    connection
        .execute_batch(&fleet(points, scene, |time| time.to_string(), |hex| format!("x'{hex}'")))
        .unwrap();
    let (each, from) = (rows / points, end - YEAR);
    // As they come: all points of a moment, moment after moment.
    let sql = format!(
        "insert into readings with recursive n(n) as (select 0 union all select n + 1 from n where n < {rows} - 1) \
         select 1 + n % {points}, {from} + n / {points} * {step}, 0, 20.0 + n * 7919 % 1000 / 10.0 from n; \
         insert into rollups_due (agent, grain, first, last, points, noted) \
         values (1, 0, {first}, {last}, x'', 0)",
        step = YEAR / each,
        first = from / 60_000_000,
        last = end / 60_000_000,
    );
    connection.execute_batch(&sql).unwrap();
}

async fn fill_postgres(url: &str, rows: i64, scene: &Scene) {
    let end = scene.end;
    let client = connect(url).await;
    let moment = |time: Micros| format!("to_timestamp({})", time / 1_000_000);
    let points = points(rows);
    client.batch_execute(&fleet(points, scene, moment, |hex| format!("'\\x{hex}'"))).await.unwrap();
    let (each, from) = (rows / points, end - YEAR);
    // A week at a time, so that progress is durable and memory bounded.
    for week in 0..53 {
        let (first, last) = (each * week / 53, each * (week + 1) / 53);
        let sql = format!(
            "insert into readings (time, point, quality, value) \
             select to_timestamp({start}) + n * interval '{step} microseconds', p, 0, \
             20.0 + (n * 7919 + p) % 1000 / 10.0 \
             from generate_series({first}::bigint, {last} - 1) n, generate_series(1, {points}) p",
            start = from / 1_000_000,
            step = YEAR / each,
        );
        client.batch_execute(&sql).await.unwrap();
    }
    let due = format!(
        "insert into rollups_due (agent, grain, first, last, points, noted) values (1, 0, {}, {}, '', 0); \
         analyze",
        from / 60_000_000,
        end / 60_000_000
    );
    client.batch_execute(&due).await.unwrap();
}

async fn measure(scene: &Scene, store: Arc<dyn Store>, rows: i64) {
    let &Scene { json, agents, browsers, end } = scene;
    let begin = Instant::now();
    let (mut read, mut written) = (0, 0);
    for grain in Grain::ALL {
        loop {
            let progress = store.roll_up(grain, end + 2 * DAY, 100_000).await.unwrap();
            read += if grain == Grain::Minutes { progress.read } else { 0 };
            written += progress.written;
            if !progress.more {
                break;
            }
        }
    }
    let took = begin.elapsed();
    let rate = read as f64 / took.as_secs_f64();
    let (facts, points) = (store.facts().await.unwrap(), points(rows));
    if json {
        let line = serde_json::json!({
            "store": facts.words, "readings": rows, "points": points, "bytes": facts.bytes, "rolled_up_per_s": rate.round(),
            "buckets": written,
        });
        println!("{line}");
    } else {
        println!("{}: {rows} readings of {points} points, {} MiB", facts.words, facts.bytes >> 20);
        println!("{rate:>9.0} readings/s rolled up, {written} buckets");
    }
    assert!(read as i64 >= rows / points * points, "everything is rolled up");

    let feed = Feed::new();
    // One that looks at the database each time, and one as the server has it.
    let anew = Roster::fresh_for(store.clone(), Duration::ZERO);
    let usual = Roster::new(store.clone());
    let (anew, _close_anew) = serve(store.clone(), anew, feed.clone()).await;
    let (place, _close) = serve(store, usual, feed.clone()).await;
    let ms = |time: Micros| time / 1_000;
    let chart = |n: usize, span: Micros, to: Micros, px: u32| {
        let (point, from) = (1 + n as i64 % points, to - span);
        format!("{place}/query?points={point}&from={}&to={}&max_points={px}", ms(from), ms(to))
    };
    let pages = (agents as usize).div_ceil(1_000);
    type Question<'a> = (String, Box<dyn Fn(usize) -> Vec<String> + 'a>);
    let one = |what: &str, ask: Box<dyn Fn(usize) -> String>| -> Question<'_> {
        (what.to_owned(), Box::new(move |n| vec![ask(n)]))
    };
    let (page, page_anew) = (format!("{place}{}", browsers::PAGE), format!("{anew}{}", browsers::PAGE));
    let (sorted, sites) = (format!("{place}/fleet?sort=-backlog&limit=200"), format!("{place}/sites"));
    let questions: Vec<Question<'_>> = vec![
        (
            "a day of one point".into(),
            Box::new(|n| vec![chart(n, DAY, end - (n as i64 * 7 % 300) * DAY, 1_000)]),
        ),
        ("a year at 1,000 px".into(), Box::new(|n| vec![chart(n, YEAR, end, 1_000)])),
        ("a year at 300 px".into(), Box::new(|n| vec![chart(n, YEAR, end, 300)])),
        one(&format!("a page of the fleet of {agents} agents"), Box::new(move |_| page.clone())),
        one("the same, looked at anew in the database each time", Box::new(move |_| page_anew.clone())),
        one("200 agents by backlog, all fields", Box::new(move |_| sorted.clone())),
        one("sites", Box::new(move |_| sites.clone())),
        (
            format!("the whole fleet, all fields, in {pages} answers"),
            Box::new(|_| {
                (0..pages).map(|n| format!("{place}/fleet?limit=1000&offset={}", n * 1_000)).collect()
            }),
        ),
    ];
    questions_asked(json, "", &questions).await;
    if browsers > 0 {
        let open = browsers::Browsers::open(browsers as usize, agents, &place, feed).await;
        let among = format!(", {browsers} browsers open");
        questions_asked(json, &among, &questions[..4]).await;
        let (late, pages) = open.close().await;
        for (what, times) in
            [("from commit to browser", late), ("a page of the fleet, asked by the browsers", pages)]
        {
            assert!(!times.is_empty(), "{what}: nothing was seen");
            let at =
                |part: usize| (times[(times.len() * part / 100).min(times.len() - 1)] * 10.0).round() / 10.0;
            tell(json, &format!("{what}{among}"), [at(50), at(95), at(100)], times.len(), "seen");
        }
    }
}

/// A router over the store on a port of its own; its end comes with what is dropped.
async fn serve(store: Arc<dyn Store>, fleet: Roster, feed: Feed) -> (String, impl Drop) {
    let stop = CancellationToken::new();
    let rules =
        Rules { open: Openness::Always, session: Duration::from_secs(60), requests: 1, is_tls: false };
    let gate = Arc::new(Gate::new(store.access(), rules));
    let router = api::router(Api { store, fleet, feed, gate, stop: stop.clone() });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = format!("http://{}/api/v1", listener.local_addr().unwrap());
    let guard = stop.clone().drop_guard();
    tokio::spawn(async move {
        axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await.unwrap();
    });
    (place, guard)
}

type Asked<'a> = (String, Box<dyn Fn(usize) -> Vec<String> + 'a>);

async fn questions_asked(json: bool, among: &str, questions: &[Asked<'_>]) {
    let client = Client::builder(TokioExecutor::new()).build_http::<Body>();
    for (what, urls) in questions {
        let mut times = Vec::with_capacity(ASKED);
        let mut bytes = 0;
        for n in 0..ASKED {
            let begin = Instant::now();
            bytes = 0;
            for url in urls(n) {
                bytes += ask(&client, url).await;
            }
            times.push(begin.elapsed());
        }
        times.sort_unstable();
        let times = [ASKED / 2, ASKED * 95 / 100, ASKED - 1].map(|at| millis(times[at]));
        tell(json, &format!("{what}{among}"), times, bytes, "bytes");
    }
}

fn tell(json: bool, what: &str, [p50, p95, most]: [f64; 3], count: usize, of: &str) {
    if json {
        let mut line = serde_json::json!({ "question": what, "p50_ms": p50, "p95_ms": p95, "max_ms": most });
        line[of] = count.into();
        println!("{line}");
    } else {
        println!("  p50 {p50:>7.1} ms  p95 {p95:>7.1} ms  max {most:>7.1} ms  {what} ({count} {of})");
    }
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}

async fn ask(client: &Client<HttpConnector, Body>, url: String) -> usize {
    // As browsers do; the bytes are those of the wire.
    let request = http::Request::get(&url).header("accept-encoding", "gzip").body(Body::empty()).unwrap();
    let answer = client.request(request).await.unwrap();
    assert_eq!(answer.status(), 200, "{url}");
    answer.into_body().collect().await.unwrap().to_bytes().len()
}

async fn connect(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}
