//! Many browsers at once: each looks at one agent's live feed and asks for a page of the fleet every two
//! seconds, while every agent's batches are committed once a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use forebay_protocols::boot_time::wall_micros;
use forebay_protocols::reading::{PointId, Quality, Value};
use forebay_server::live::{Committed, Feed};
use forebay_server::store::{AgentKey, PointKey, Timed};
use http_body_util::BodyExt;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{ask, name_of};

/// What a page of the fleet asks for.
pub const PAGE: &str = "/fleet?fields=agent,site,gateway,state,last_seen,clock,certificate_valid_until,backlog,ledger,batches,\
                        device_counts,faults,version&sort=agent&offset=0&limit=60";
/// Readings in a batch.
const POINTS: u32 = 20;
const ASK_EVERY: Duration = Duration::from_secs(2);

/// Open browsers. Dropped, they close.
pub struct Browsers {
    tasks: JoinSet<()>,
    lateness: mpsc::UnboundedReceiver<f64>,
    pages: mpsc::UnboundedReceiver<f64>,
    quiet: Arc<AtomicBool>,
}

impl Browsers {
    /// Opens so many, and lets all agents send.
    pub async fn open(count: usize, agents: i64, place: &str, feed: Feed) -> Self {
        let (seen, lateness) = mpsc::unbounded_channel();
        let (asked, pages) = mpsc::unbounded_channel();
        let quiet = Arc::new(AtomicBool::new(true));
        let mut tasks = JoinSet::new();
        for number in 0..count {
            // Each has connections of its own, as browsers have.
            let client: Client<HttpConnector, Body> = Client::builder(TokioExecutor::new()).build_http();
            let (site, gateway) = name_of(1 + number as i64 % agents);
            let url = format!("{place}/live?agent={site}/{gateway}");
            let answer = client.get(url.parse().unwrap()).await.unwrap();
            assert_eq!(answer.status(), 200, "{url}");
            let (seen, quieter) = (seen.clone(), quiet.clone());
            tasks.spawn(read(answer.into_body(), seen, quieter));
            let (asked, quieter, page) = (asked.clone(), quiet.clone(), format!("{place}{PAGE}"));
            tasks.spawn(async move {
                tokio::time::sleep(ASK_EVERY * number as u32 / count as u32).await;
                loop {
                    let begin = Instant::now();
                    ask(&client, page.clone()).await;
                    if !quieter.load(Ordering::Relaxed) {
                        let _ = asked.send(begin.elapsed().as_secs_f64() * 1_000.0);
                    }
                    tokio::time::sleep(ASK_EVERY.saturating_sub(begin.elapsed())).await;
                }
            });
        }
        tasks.spawn(send(agents, feed));
        tokio::time::sleep(ASK_EVERY).await;
        quiet.store(false, Ordering::Relaxed);
        Self { tasks, lateness, pages, quiet }
    }

    /// Closes them. Milliseconds from a commit to the browser, and that a page of the fleet took, ascending.
    pub async fn close(mut self) -> (Vec<f64>, Vec<f64>) {
        self.quiet.store(true, Ordering::Relaxed);
        self.tasks.shutdown().await;
        (sorted(&mut self.lateness), sorted(&mut self.pages))
    }
}

fn sorted(from: &mut mpsc::UnboundedReceiver<f64>) -> Vec<f64> {
    let mut all: Vec<f64> = std::iter::from_fn(|| from.try_recv().ok()).collect();
    all.sort_unstable_by(f64::total_cmp);
    all
}

async fn read(mut body: hyper::body::Incoming, seen: mpsc::UnboundedSender<f64>, quiet: Arc<AtomicBool>) {
    let mut text = String::new();
    while let Some(Ok(frame)) = body.frame().await {
        let now = wall_micros() as f64 / 1_000.0;
        text += frame.data_ref().map_or("", |data| std::str::from_utf8(data).unwrap());
        while let Some((event, rest)) = text.split_once("\n\n") {
            let data = event.lines().find_map(|line| line.strip_prefix("data: ")).unwrap_or("null");
            let rows: serde_json::Value = serde_json::from_str(data).unwrap_or_default();
            let times = rows.as_array().into_iter().flatten().filter_map(|row| row.get(1)?.as_f64());
            if !quiet.load(Ordering::Relaxed) {
                times.for_each(|time| {
                    let _ = seen.send(now - time);
                });
            }
            text = rest.to_owned();
        }
    }
}

/// Every agent once a second, spread over it.
async fn send(agents: i64, feed: Feed) {
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    let mut next = 0;
    loop {
        tick.tick().await;
        for _ in 0..agents / 100 {
            let agent = AgentKey(1 + next % agents);
            next += 1;
            if !feed.wants(agent) {
                continue;
            }
            let time = wall_micros();
            let reading = |point| Timed {
                point: PointId(point),
                time,
                value: Some(Value::Float(f64::from(point))),
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
