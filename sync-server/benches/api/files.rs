//! What large answers do to the server's memory: a file of millions of readings, the same for a reader who
//! takes nothing, and the largest chart that can be asked for.

use std::time::{Duration, Instant};

use axum::body::Body;
use http_body_util::BodyExt;

use super::asking::{ask, http, millis};
use super::served::Served;
use super::{EACH, Scene, YEAR};

/// Readings in the file.
const READINGS: i64 = 10_000_000;
/// How long nothing is taken.
const STALLED: Duration = Duration::from_secs(20);

pub async fn measure(scene: &Scene, served: &Served) {
    let teller = &scene.teller;
    let points = (READINGS / EACH + 1).min(scene.points);
    let ids: Vec<String> = (1..=points).map(|point| point.to_string()).collect();
    // Of each point as much as makes the number.
    let part = (READINGS as f64 / (points * EACH) as f64).min(1.0);
    let from = scene.end - (YEAR as f64 * part) as i64;
    let url = format!(
        "{}/query.csv?points={}&from={}&to={}",
        served.place,
        ids.join(","),
        from / 1_000,
        scene.end / 1_000
    );
    // What the first questions leave behind is no matter of the file.
    for _ in 0..20 {
        ask(&http(), format!("{}/fleet?limit=10", served.place)).await;
    }
    served.peak();
    let before = served.memory();
    let begin = Instant::now();
    let mut body = get(&url).await;
    let first = begin.elapsed();
    let (mut bytes, mut lines) = (0, 0);
    while let Some(frame) = body.frame().await {
        let Some(data) = frame.unwrap().into_data().ok() else { continue };
        bytes += data.len();
        lines += data.iter().filter(|byte| **byte == b'\n').count();
    }
    let took = begin.elapsed();
    let grown = |most: u64| (most as f64 - before as f64) / 1_048_576.0;
    let file = format!("a file of {} readings, {} MB", lines.saturating_sub(1), bytes / 1_000_000);
    teller.fact(&format!("{file}, first bytes after"), millis(first), "ms");
    teller.fact(&file, lines as f64 / took.as_secs_f64(), "readings/s");
    let most = served.peak();
    teller.memory(&file, most);
    teller.fact(&format!("{file}: more than before"), grown(most), "MiB");

    let before = served.memory();
    let mut body = get(&url).await;
    let _ = body.frame().await;
    tokio::time::sleep(STALLED).await;
    let most = served.peak();
    let words =
        format!("the same for a reader who takes nothing for {} s: more than before", STALLED.as_secs());
    teller.fact(&words, (most as f64 - before as f64) / 1_048_576.0, "MiB");
    drop(body);

    let points = scene.points.min(50);
    let ids: Vec<String> = (1..=points).map(|point| point.to_string()).collect();
    let url = format!(
        "{}/query?points={}&from={}&to={}&max_points=10000",
        served.place,
        ids.join(","),
        (scene.end - YEAR) / 1_000,
        scene.end / 1_000
    );
    let before = served.memory();
    let begin = Instant::now();
    let bytes = ask(&http(), url).await;
    let words = format!("a year of {points} points at 10,000 px, {bytes} bytes");
    teller.fact(&words, millis(begin.elapsed()), "ms");
    let most = served.peak();
    teller.fact(&format!("{words}: more than before"), (most as f64 - before as f64) / 1_048_576.0, "MiB");
}

async fn get(url: &str) -> hyper::body::Incoming {
    let answer = http().request(http::Request::get(url).body(Body::empty()).unwrap()).await.unwrap();
    let status = answer.status();
    assert_eq!(status, 200, "{url}");
    answer.into_body()
}
