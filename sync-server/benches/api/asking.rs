//! Questions over HTTP, how long the answers took, and telling it.

use std::time::{Duration, Instant};

use axum::body::Body;
use forebay_server::store::Facts;
use http_body_util::BodyExt;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use serde_json::json;

use super::Scene;

pub type Http = Client<HttpConnector, Body>;

pub fn http() -> Http {
    Client::builder(TokioExecutor::new()).build_http()
}

/// A kind of question, and what is asked the n-th time.
pub struct Question<'a> {
    pub what: String,
    pub urls: Box<dyn Fn(usize) -> Vec<String> + 'a>,
}

impl<'a> Question<'a> {
    pub fn one(what: &str, url: impl Fn(usize) -> String + 'a) -> Self {
        Self { what: what.to_owned(), urls: Box::new(move |n| vec![url(n)]) }
    }

    /// Asks it, and counts the bytes that came.
    pub async fn ask(&self, http: &Http, n: usize) -> (Duration, usize) {
        let (begin, mut bytes) = (Instant::now(), 0);
        for url in (self.urls)(n) {
            bytes += ask(http, url).await;
        }
        (begin.elapsed(), bytes)
    }
}

/// Each of them as often as the scene wants, one after the other.
pub async fn ask_all(scene: &Scene, among: &str, questions: &[Question<'_>]) {
    let http = http();
    for question in questions {
        let mut times = Vec::with_capacity(scene.asked);
        let mut bytes = 0;
        for n in 0..scene.asked {
            let (took, of) = question.ask(&http, n).await;
            (bytes, _) = (of, times.push(millis(took)));
        }
        scene.teller.times(&format!("{}{among}", question.what), times, &format!("{bytes} bytes"));
    }
}

/// As browsers do; the bytes are those of the wire.
pub async fn ask(http: &Http, url: String) -> usize {
    let request = http::Request::get(&url).header("accept-encoding", "gzip").body(Body::empty()).unwrap();
    let answer = http.request(request).await.unwrap();
    assert_eq!(answer.status(), 200, "{url}");
    answer.into_body().collect().await.unwrap().to_bytes().len()
}

pub fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

/// Prints, for people or for programs.
pub struct Teller {
    pub json: bool,
}

impl Teller {
    /// What there is, and how it came there.
    pub fn store(
        &self,
        facts: &Facts,
        rows: i64,
        points: i64,
        (made, filled): (i64, Duration),
        (read, written, rolled): (u64, u64, Duration),
    ) {
        let rate = |count: f64, time: Duration| (count / time.as_secs_f64().max(1e-9)).round();
        let (fill, roll) = (rate(made as f64, filled), rate(read as f64, rolled));
        if self.json {
            let line = json!({
                "store": facts.words, "readings": rows, "points": points, "bytes": facts.bytes,
                "made_per_s": fill, "rolled_up_per_s": roll, "buckets": written,
            });
            return println!("{line}");
        }
        println!("{}: {rows} readings of {points} points, {} MiB", facts.words, facts.bytes >> 20);
        if made > 0 {
            println!("  made in {} s ({fill} readings/s)", filled.as_secs());
        }
        if read > 0 {
            println!("  rolled up in {} s ({roll} readings/s), {written} buckets", rolled.as_secs());
        }
    }

    /// Milliseconds of one kind of question, in any order.
    pub fn times(&self, what: &str, mut times: Vec<f64>, note: &str) {
        times.sort_unstable_by(f64::total_cmp);
        let at = |part: usize| (times[(times.len() * part / 100).min(times.len() - 1)] * 10.0).round() / 10.0;
        let ([p50, p95, most], count) = ([at(50), at(95), at(100)], times.len());
        if self.json {
            let line = json!({
                "question": what, "p50_ms": p50, "p95_ms": p95, "max_ms": most, "asked": count, "note": note,
            });
            return println!("{line}");
        }
        println!("  p50 {p50:>7.1} ms  p95 {p95:>7.1} ms  max {most:>7.1} ms  {what} ({count}; {note})");
    }

    /// A measure that is no time.
    pub fn fact(&self, what: &str, number: f64, unit: &str) {
        match self.json {
            true => println!("{}", json!({ "what": what, "number": number, "unit": unit })),
            false => println!("  {number:>12.2} {unit}: {what}"),
        }
    }

    /// The highest memory use of the server since it was last looked at, bytes.
    pub fn memory(&self, what: &str, bytes: u64) {
        self.fact(&format!("the server's memory at most (VmHWM), {what}"), bytes as f64 / 1_048_576.0, "MiB");
    }
}
