//! How long the API takes to answer, over HTTP on loopback, from a database with many readings: a day of
//! one point, a year at 1,000 pixels, the fleet of 5,000 agents; from memory and from the disk, and all of
//! it again with 200 browsers open. What a browser costs the server, and what files of millions of
//! readings do to its memory. Readings are made in SQL; rollups by the server's own steps, whose rate is
//! told too. Every question is asked of another point.
//!
//!     cargo bench -p forebay-server --bench api -- [--json] [--sqlite ROWS] [--timescale ROWS] \
//!         [--readings ROWS] [--agents N] [--browsers N] [--asked N] [--keep FOLDER] [--only PART,PART]
//!
//! A year of points that are read every ten seconds, as many as the rows are enough for. The server is a
//! process of its own, so that its processor time and memory are its own. Parts are `cold`, `warm`, `live`,
//! `browsers` and `files`. `--keep` leaves the database and what is in it for the next time. Without
//! FOREBAY_TEST_DATABASE_URL only SQLite is measured; `cold` needs a database on this machine, its files
//! readable (PostgreSQL's with its extension pg_buffercache).

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench is read by people, and may stop")]

mod asking;
mod browsers;
mod cold;
mod files;
mod filling;
mod served;

use std::path::PathBuf;
use std::time::Instant;

use forebay_config::server;
use forebay_config::units::Secret;
use forebay_protocols::boot_time::wall_micros;
use forebay_server::store::{self, Grain, Micros};

use asking::{Question, Teller, ask_all};
use filling::{Kept, connect};
use served::Served;

const DAY: Micros = 86_400_000_000;
const YEAR: Micros = 365 * DAY;
/// Readings of a point in a year.
const EACH: i64 = 3_153_600;
/// Buckets in a step of rollups: as many as the server takes at most.
const STEP: u64 = 50_000;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(config) = served::told() {
        return served::serve(config).await;
    }
    let word = |key: &str| {
        let at = arguments.iter().position(|argument| argument == key);
        at.and_then(|at| arguments.get(at + 1)).cloned()
    };
    let rows = |key: &str, otherwise: i64| word(key).and_then(|word| word.parse().ok()).unwrap_or(otherwise);
    let (sqlite, timescale) = (rows("--readings", 10_000_000), rows("--readings", 20_000_000));
    let (sqlite, timescale) = (rows("--sqlite", sqlite), rows("--timescale", timescale));
    let folder = tempfile::tempdir().unwrap();
    let keep = word("--keep").map(PathBuf::from);
    let mut scene = Scene {
        teller: Teller { json: arguments.iter().any(|argument| argument == "--json") },
        agents: rows("--agents", 5_000).max(1),
        browsers: rows("--browsers", 200).max(0),
        asked: rows("--asked", 200).max(1) as usize,
        only: word("--only").unwrap_or_else(|| "cold,warm,live,browsers,files".into()),
        end: wall_micros() / DAY * DAY,
        points: 1,
    };
    if sqlite > 0 {
        let path = keep.as_deref().unwrap_or(folder.path()).join("forebay.db");
        let config = server::Store::Sqlite { path: path.clone() };
        measure(&mut scene, config, sqlite).await;
    }
    if let Some(url) = std::env::var("FOREBAY_TEST_DATABASE_URL").ok().filter(|_| timescale > 0) {
        let name = match keep {
            Some(_) => "forebay_bench_kept".into(),
            None => format!("forebay_bench_{}", std::process::id()),
        };
        let admin = connect(&url).await;
        let known = admin.query_opt("select from pg_database where datname = $1", &[&name]).await.unwrap();
        if known.is_none() {
            admin.batch_execute(&format!("create database {name}")).await.unwrap();
        }
        let (host, _) = url.rsplit_once('/').expect("a database URL has a path");
        let config = server::Store::Postgres { url: Secret::new(format!("{host}/{name}")), connections: 8 };
        measure(&mut scene, config, timescale).await;
        if keep.is_none() {
            admin.batch_execute(&format!("drop database {name} with (force)")).await.unwrap();
        }
    }
}

/// What is measured.
pub struct Scene {
    teller: Teller,
    agents: i64,
    browsers: i64,
    /// Questions of each kind.
    asked: usize,
    only: String,
    /// The last moment with readings.
    end: Micros,
    /// Points with readings, all of the first agent: keys from 1 on.
    points: i64,
}

impl Scene {
    fn has(&self, part: &str) -> bool {
        self.only.split(',').any(|word| word == part)
    }
}

async fn measure(scene: &mut Scene, config: server::Store, rows: i64) {
    prepare(scene, &config, rows).await;
    let scene = &*scene;
    // Each part has a server that has just begun: its memory is of that part.
    let start = || Served::start(&config, scene.browsers.max(1));
    if scene.has("cold") {
        match cold::Cold::of(&config).await {
            Ok(cold) => cold::ask(scene, &start().await, &cold).await,
            Err(why) => println!("  not asked of the disk: {why}"),
        }
    }
    if scene.has("warm") {
        let served = start().await;
        ask_all(scene, "", &charts(scene, &served)).await;
        ask_all(scene, "", &fleet(scene, &served)).await;
        scene.teller.memory("with all that", served.peak());
    }
    if scene.browsers > 0 && scene.has("live") {
        browsers::live(scene, &start().await).await;
    }
    if scene.browsers > 0 && scene.has("browsers") {
        let served = start().await;
        let open = browsers::Browsers::open(scene, &served, browsers::Look::Each, true).await;
        let among = format!(", {} browsers open", scene.browsers);
        ask_all(scene, &among, &charts(scene, &served)).await;
        ask_all(scene, &among, &fleet(scene, &served)[..2]).await;
        open.close().await.tell(scene, &among);
        scene.teller.memory(&format!("with all that{among}"), served.peak());
    }
    if scene.has("files") {
        files::measure(scene, &start().await).await;
    }
}

/// Readings and rollups, if they are not there already.
async fn prepare(scene: &mut Scene, config: &server::Store, rows: i64) {
    let store = store::open(config).await.unwrap();
    let begin = Instant::now();
    let Kept { points, end, made } = filling::fill(config, &*store, rows, scene).await;
    (scene.points, scene.end) = (points, end);
    let filled = begin.elapsed();
    let begin = Instant::now();
    let (mut read, mut written) = (0, 0);
    for grain in Grain::ALL {
        loop {
            let progress = store.roll_up(grain, end + 2 * DAY, STEP).await.unwrap();
            assert!(!progress.busy, "nobody else is at it");
            read += if grain == Grain::Minutes { progress.read } else { 0 };
            written += progress.written;
            if !progress.more {
                break;
            }
        }
    }
    let rolled = begin.elapsed();
    assert!(made == 0 || read as i64 == made, "everything is rolled up: {read} of {made}");
    filling::settle(config).await;
    let facts = store.facts().await.unwrap();
    scene.teller.store(&facts, rows, points, (made, filled), (read, written, rolled));
}

/// Charts of one point, each time of another.
fn charts<'a>(scene: &'a Scene, served: &'a Served) -> Vec<Question<'a>> {
    let (end, place) = (scene.end, &served.place);
    let chart = move |n: usize, span: Micros, to: Micros, px: u32| {
        let (point, from) = (1 + n as i64 % scene.points, to - span);
        format!("{place}/query?points={point}&from={}&to={}&max_points={px}", from / 1_000, to / 1_000)
    };
    let day = move |n: usize| chart(n, DAY, end - (n as i64 * 7 % 300) * DAY, 1_000);
    vec![
        Question::one("a day of one point at 1,000 px", day),
        // Nobody's clock stands at midnight.
        Question::one("the same, from any second on", move |n| {
            chart(n, DAY, end - (n as i64 * 7 % 300) * DAY - 30_001_000_000, 1_000)
        }),
        Question::one("every reading of two hours", move |n| {
            chart(n, DAY / 12, end - (n as i64 * 7 % 300) * DAY, 1_000)
        }),
        Question::one("a year at 1,000 px", move |n| chart(n, YEAR, end, 1_000)),
        Question::one("the same, from any second on", move |n| {
            chart(n, YEAR - DAY, end - 30_001_000_000, 1_000)
        }),
        Question::one("a year at 300 px", move |n| chart(n, YEAR, end, 300)),
        Question::one("a year of ten points at 1,000 px", move |n| {
            let ids: Vec<String> = (0..10).map(|m| (1 + (n as i64 + m) % scene.points).to_string()).collect();
            let (from, to) = ((end - YEAR) / 1_000, end / 1_000);
            format!("{place}/query?points={}&from={from}&to={to}&max_points=1000", ids.join(","))
        }),
    ]
}

fn fleet<'a>(scene: &'a Scene, served: &'a Served) -> Vec<Question<'a>> {
    let (place, anew, agents) = (&served.place, &served.anew, scene.agents);
    let pages = (agents as usize).div_ceil(1_000);
    vec![
        Question::one(&format!("a page of the fleet of {agents} agents"), move |_| {
            format!("{place}{}", browsers::PAGE)
        }),
        Question::one("the same, looked at anew in the database each time", move |_| {
            format!("{anew}{}", browsers::PAGE)
        }),
        Question::one("200 agents by backlog, all fields", move |_| {
            format!("{place}/fleet?sort=-backlog&limit=200")
        }),
        Question::one("sites", move |_| format!("{place}/sites")),
        Question {
            what: format!("the whole fleet, all fields, in {pages} answers"),
            urls: Box::new(move |_| {
                (0..pages).map(|n| format!("{place}/fleet?limit=1000&offset={}", n * 1_000)).collect()
            }),
        },
    ]
}
