//! Many browsers at once: each looks at a live feed, and may ask for a page of the fleet every two seconds,
//! while agents' batches are committed once a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use axum::body::Body;
use forebay_protocols::boot_time::wall_micros;
use http_body_util::BodyExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Scene;
use super::asking::{Http, ask, http, millis};
use super::filling::name_of;
use super::served::{POINTS, Served};

/// What a page of the fleet asks for.
pub const PAGE: &str = "/fleet?fields=agent,site,gateway,state,last_seen,clock,certificate_valid_until,backlog,ledger,batches,\
                        device_counts,faults,version&sort=agent&offset=0&limit=60";
const ASK_EVERY: Duration = Duration::from_secs(2);
/// How long what browsers cost is measured.
const WATCHED: Duration = Duration::from_secs(20);

/// What browsers look at.
#[derive(Clone, Copy)]
pub enum Look {
    /// Each at an agent of its own.
    Each,
    /// All at the same agent.
    One,
    /// All at everything.
    All,
}

/// Open browsers. Dropped, they close.
pub struct Browsers {
    tasks: JoinSet<()>,
    lateness: mpsc::UnboundedReceiver<f64>,
    pages: mpsc::UnboundedReceiver<f64>,
    came: Arc<Came>,
}

/// What came to all of them since the last look.
#[derive(Default)]
struct Came {
    quiet: AtomicBool,
    events: AtomicU64,
    rows: AtomicU64,
    missed: AtomicU64,
}

/// Milliseconds.
pub struct Seen {
    /// From a commit to the browser.
    lateness: Vec<f64>,
    /// That a page of the fleet took.
    pages: Vec<f64>,
}

impl Browsers {
    /// Opens as many as the scene has.
    pub async fn open(scene: &Scene, served: &Served, look: Look, asks: bool) -> Self {
        let (seen, lateness) = mpsc::unbounded_channel();
        let (asked, pages) = mpsc::unbounded_channel();
        let (came, mut tasks) = (Arc::new(Came::default()), JoinSet::new());
        came.quiet.store(true, Relaxed);
        for number in 0..scene.browsers {
            // Each has connections of its own, as browsers have.
            let http = http();
            let of = |agent: i64| {
                let (site, gateway) = name_of(1 + agent % scene.agents);
                format!("?agent={site}/{gateway}")
            };
            let wanted = match look {
                Look::Each => of(number),
                Look::One => of(0),
                Look::All => String::new(),
            };
            let url = format!("{}/live{wanted}", served.place);
            let answer = http.request(http::Request::get(&url).body(Body::empty()).unwrap()).await.unwrap();
            assert_eq!(answer.status(), 200, "{url}");
            tasks.spawn(read(answer.into_body(), seen.clone(), came.clone()));
            if asks {
                let after = ASK_EVERY * number as u32 / scene.browsers as u32;
                let page = format!("{}{PAGE}", served.place);
                tasks.spawn(ask_on(http, page, after, asked.clone(), came.clone()));
            }
        }
        tokio::time::sleep(ASK_EVERY).await;
        came.quiet.store(false, Relaxed);
        Self { tasks, lateness, pages, came }
    }

    /// Closes them.
    pub async fn close(mut self) -> Seen {
        self.came.quiet.store(true, Relaxed);
        self.tasks.shutdown().await;
        Seen { lateness: all(&mut self.lateness), pages: all(&mut self.pages) }
    }
}

impl Seen {
    pub fn tell(self, scene: &Scene, among: &str) {
        for (what, times) in [
            ("from commit to browser", self.lateness),
            ("a page of the fleet, asked by the browsers", self.pages),
        ] {
            if !times.is_empty() {
                scene.teller.times(&format!("{what}{among}"), times, "seen");
            }
        }
    }
}

/// What browsers that only look cost the server.
pub async fn live(scene: &Scene, served: &Served) {
    for (look, words) in
        [(Look::Each, "each at its own agent"), (Look::One, "all at one agent"), (Look::All, "all at all")]
    {
        let count = scene.browsers as f64;
        served.peak();
        let before = served.memory();
        let open = Browsers::open(scene, served, look, false).await;
        let (came, begin, cpu) = (open.came.clone(), Instant::now(), served.seconds());
        let (events, rows) = (came.events.load(Relaxed), came.rows.load(Relaxed));
        tokio::time::sleep(WATCHED).await;
        let took = begin.elapsed().as_secs_f64();
        let (events, rows) = (came.events.load(Relaxed) - events, came.rows.load(Relaxed) - rows);
        let cpu = (served.seconds() - cpu) / took;
        let grown = (served.memory() as f64 - before as f64) / 1_024.0;
        let among = format!(", {count} browsers look {words}");
        let missed = came.missed.load(Relaxed);
        let seen = open.close().await;
        assert!(!seen.lateness.is_empty(), "nothing was seen{among}");
        seen.tell(scene, &among);
        let teller = &scene.teller;
        teller.fact(&format!("events delivered{among}"), events as f64 / took, "1/s");
        teller.fact(&format!("values delivered{among}"), rows as f64 / took, "1/s");
        let owed = count * f64::from(POINTS) * if matches!(look, Look::All) { count } else { 1.0 };
        teller.fact(&format!("of the values committed{among}"), rows as f64 / took / owed * 100.0, "%");
        teller.fact(&format!("words that something was missed{among}"), missed as f64, "in all");
        teller.fact(&format!("of a core for all{among}"), cpu * 100.0, "%");
        teller.fact(&format!("a browser's processor time{among}"), cpu * 1e6 / count, "us/s");
        teller.fact(&format!("a browser's memory{among}"), grown / count, "KiB");
        teller.memory(&among[2..], served.peak());
    }
}

fn all(from: &mut mpsc::UnboundedReceiver<f64>) -> Vec<f64> {
    std::iter::from_fn(|| from.try_recv().ok()).collect()
}

async fn ask_on(
    http: Http,
    page: String,
    after: Duration,
    asked: mpsc::UnboundedSender<f64>,
    came: Arc<Came>,
) {
    tokio::time::sleep(after).await;
    loop {
        let begin = Instant::now();
        ask(&http, page.clone()).await;
        if !came.quiet.load(Relaxed) {
            let _ = asked.send(millis(begin.elapsed()));
        }
        tokio::time::sleep(ASK_EVERY.saturating_sub(begin.elapsed())).await;
    }
}

/// Takes events as they come. Rows are only looked through: this process shares its processors with the
/// one that is measured.
async fn read(mut body: hyper::body::Incoming, seen: mpsc::UnboundedSender<f64>, came: Arc<Came>) {
    let mut text = String::new();
    while let Some(Ok(frame)) = body.frame().await {
        let now = wall_micros() as f64 / 1_000.0;
        text += frame.data_ref().map_or("", |data| std::str::from_utf8(data).unwrap());
        let Some(end) = text.rfind("\n\n") else { continue };
        for event in text[..end].split("\n\n") {
            let Some(rows) = event.lines().find_map(|line| line.strip_prefix("data: [[")) else {
                came.missed.fetch_add(u64::from(event.contains("event: missed")), Relaxed);
                continue;
            };
            came.events.fetch_add(1, Relaxed);
            let (mut count, mut oldest) = (0, f64::MAX);
            for row in rows.split("],[") {
                count += 1;
                // One of many: the oldest tells how late the event is.
                if count % 16 == 1 {
                    let time = row.split(',').nth(1).and_then(|time| time.parse().ok());
                    oldest = oldest.min(time.unwrap());
                }
            }
            came.rows.fetch_add(count, Relaxed);
            if !came.quiet.load(Relaxed) {
                let _ = seen.send(now - oldest);
            }
        }
        text.drain(..end + 2);
    }
}
