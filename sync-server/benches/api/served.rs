//! The server under measurement, a process of its own: the API over a store as the server has it, and
//! gateways that only seem to send.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use forebay_config::server;
use forebay_config::units::Secret;
use forebay_protocols::boot_time::wall_micros;
use forebay_protocols::reading::{PointId, Quality, Value};
use forebay_server::access::{Gate, Openness, Rules};
use forebay_server::api::{self, Api, Roster};
use forebay_server::live::{Committed, Feed};
use forebay_server::store::{self, AgentKey, PointKey, Store, Timed};
use tokio_util::sync::CancellationToken;

/// Set, this process is the server: `sqlite PATH` or `postgres URL`, and how many agents send.
const TOLD: &str = "FOREBAY_BENCH_SERVES";
/// Readings in a batch of a gateway that seems to send.
pub const POINTS: u32 = 20;
/// Of `/proc/PID/stat` on Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// The server. Dropped, it ends.
pub struct Served {
    child: Child,
    /// Ends the child with its end.
    _line: ChildStdin,
    /// Where the API is.
    pub place: String,
    /// The same with a look at the database for every question about the fleet.
    pub anew: String,
}

/// What this process is to serve, if it is the server: a store, and how many gateways seem to send.
pub fn told() -> Option<(server::Store, i64)> {
    let words = std::env::var(TOLD).ok()?;
    let mut words = words.split(' ');
    let (kind, senders, place) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
    let config = match kind {
        "sqlite" => server::Store::Sqlite { path: place.into() },
        _ => server::Store::Postgres { url: Secret::new(place), connections: 8 },
    };
    Some((config, senders))
}

/// Serves until standard input ends.
pub async fn serve((config, senders): (server::Store, i64)) {
    let store = store::open(&config).await.unwrap();
    let (feed, stop) = (Feed::new(), CancellationToken::new());
    let anew = Roster::fresh_for(store.clone(), Duration::ZERO);
    let usual = Roster::new(store.clone());
    for fleet in [usual, anew] {
        println!("{}", listen(store.clone(), fleet, feed.clone(), stop.clone()).await);
    }
    let told = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    tokio::select! {
        _ = told => {}
        () = send(senders, feed) => {}
    }
    stop.cancel();
}

async fn listen(store: Arc<dyn Store>, fleet: Roster, feed: Feed, stop: CancellationToken) -> String {
    let rules =
        Rules { open: Openness::Always, session: Duration::from_secs(60), requests: 1, is_tls: false };
    let gate = Arc::new(Gate::new(store.access(), rules));
    let router = api::router(Api { store, fleet, feed, gate, stop: stop.clone() });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = format!("http://{}/api/v1", listener.local_addr().unwrap());
    tokio::spawn(async move {
        axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await.unwrap();
    });
    place
}

/// Each of the first agents once a second, spread over it: what a commit shows to those who look.
async fn send(agents: i64, feed: Feed) {
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    let (mut next, mut owed) = (0, 0);
    loop {
        tick.tick().await;
        owed += agents;
        while owed >= 100 {
            owed -= 100;
            let agent = AgentKey(1 + next % agents);
            next += 1;
            if !feed.wants(agent) {
                continue;
            }
            let time = wall_micros();
            let reading = |point| Timed {
                point: PointId(point),
                time,
                value: Some(Value::Float(f64::from(point) + (next % 100) as f64 / 100.0)),
                quality: Quality::Good,
            };
            let points = (1..=POINTS)
                .map(|point| (PointId(point), PointKey(agent.0 * 1_000 + i64::from(point))))
                .collect();
            let readings = Arc::new((1..=POINTS).map(reading).collect());
            feed.publish(Committed { agent, points, readings, backlog: false });
        }
    }
}

impl Served {
    /// Starts it, with so many gateways that seem to send.
    pub async fn start(config: &server::Store, senders: i64) -> Self {
        let words = match config {
            server::Store::Sqlite { path } => format!("sqlite {senders} {}", path.display()),
            server::Store::Postgres { url, .. } => format!("postgres {senders} {}", url.reveal()),
        };
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env(TOLD, words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (line, told) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let places = tokio::task::spawn_blocking(move || {
            let mut lines = BufReader::new(told).lines();
            [lines.next().unwrap().unwrap(), lines.next().unwrap().unwrap()]
        });
        let [place, anew] = places.await.unwrap();
        Self { child, _line: line, place, anew }
    }

    /// Processor time so far, seconds.
    pub fn seconds(&self) -> f64 {
        let stat = self.proc("stat");
        let (_, behind) = stat.rsplit_once(')').unwrap();
        let ticks = behind.split_whitespace().skip(11).take(2).map(|field| field.parse::<f64>().unwrap());
        ticks.sum::<f64>() / TICKS_PER_SECOND
    }

    /// What it holds in memory now, bytes (VmRSS).
    pub fn memory(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most it held since the last look, bytes (VmHWM).
    pub fn peak(&self) -> u64 {
        let peak = self.status("VmHWM:");
        // "5" sets the mark back to what is held now (proc(5)).
        std::fs::write(Path::new("/proc").join(self.child.id().to_string()).join("clear_refs"), "5").unwrap();
        peak
    }

    fn status(&self, key: &str) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1_024
    }

    fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It holds nothing that could be lost.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
