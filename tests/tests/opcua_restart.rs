//! An OPC UA server (asyncua, which nobody here wrote) that loses its power and comes back with other
//! namespace numbers, under a whole agent and server.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use forebay_demo::http;
use forebay_demo::ledger;
use forebay_demo::site::Site;
use forebay_tests::opcua_server::{Make, NAMESPACE, OpcUaServer};
use forebay_tests::programs;
use serde_json::Value;
use tokio::time::{Instant, sleep};

/// Back-off pauses are long by then, but for what is tested here.
const AWAY: Duration = Duration::from_secs(35);
const SOON: Duration = Duration::from_secs(5);

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

/// (time in ms, class of quality, value) of the newest rows of a point, oldest first.
async fn rows(site: &Site, point: &str) -> Result<Vec<(i64, String, Option<f64>)>> {
    let points = http::get_json(site.web_address(), "/api/v1/points?agent=t/restart").await?;
    let found = points["points"].as_array().and_then(|all| all.iter().find(|p| p["name"] == point));
    let Some(id) = found.map(|point| &point["id"]) else { return Ok(Vec::new()) };
    let path = format!("/api/v1/query?points={id}&from=-15m&max_points=10000");
    let answer = http::get_json(site.web_address(), &path).await?;
    let rows = answer["series"][0]["rows"].as_array().cloned().unwrap_or_default();
    let row = |row: &Value| {
        let quality = row[5].as_str().unwrap_or_default().to_owned();
        (row[0].as_f64().unwrap_or_default() as i64, quality, row[6].as_f64())
    };
    Ok(rows.iter().map(row).collect())
}

/// The first good row of a point after `since`, once it is there.
async fn good_after(site: &Site, point: &str, since: i64, patience: Duration) -> Result<(i64, f64)> {
    let begun = Instant::now();
    loop {
        let rows = rows(site, point).await?;
        let good = rows.iter().find(|(at, quality, _)| *at > since && quality == "good");
        if let Some((at, _, Some(value))) = good {
            return Ok((*at, *value));
        }
        ensure!(begun.elapsed() < patience, "no good {point} came:\n{rows:?}\n{}", site.log_tails());
        sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn a_killed_server_is_read_within_seconds_of_its_return_by_one_session_and_the_hole_is_dated()
-> Result<()> {
    let (folder, keys) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let first = OpcUaServer::start(Make::Asyncua, 0, keys.path(), 0).await?;
    let port = first.port()?;
    let site = Site::new(folder.path(), programs()?, None, 0).await?;
    let links = format!(
        "[link.press.opcua]\nendpoint = \"{}\"\npublishing_interval = \"200ms\"\nsampling_interval = \"100ms\"\n\
         [link.press.device.plc.points]\n\
         ticks = {{ node = \"nsu={NAMESPACE};s=Ticks\", type = \"integer\" }}\n\
         sessions = {{ node = \"nsu={NAMESPACE};s=Sessions\", type = \"integer\" }}\n\
         created = {{ node = \"nsu={NAMESPACE};s=Created\", type = \"integer\" }}\n",
        first.endpoint
    );
    site.configure_agent("t", "restart", &links, "[buffer]\ndurability_window = \"200ms\"")?;
    let server = site.start_server().await?;
    site.join().await?;
    let agent = site.start_agent().await?;
    good_after(&site, "ticks", 0, Duration::from_secs(60)).await?;
    // Longer than a connection must hold to count as one.
    sleep(Duration::from_secs(8)).await;

    let killed = now_ms();
    first.kill().await?;
    sleep(AWAY).await;
    let second = OpcUaServer::start(Make::Asyncua, port, keys.path(), 3).await?;
    let back = now_ms();
    let (resumed, _) = good_after(&site, "ticks", killed + 1_000, Duration::from_secs(120)).await?;
    println!("away for {} ms; read again {} ms after it was back", back - killed, resumed - back);
    ensure!(resumed - back < SOON.as_millis() as i64, "read again only {} ms later", resumed - back);

    // It stays at one session, and there never was another.
    sleep(Duration::from_secs(10)).await;
    for name in ["sessions", "created"] {
        let rows = rows(&site, name).await?;
        let after: Vec<f64> =
            rows.iter().filter(|row| row.0 >= resumed).filter_map(|(_, _, value)| *value).collect();
        ensure!(after.last() == Some(&1.0) && after.iter().all(|n| *n <= 1.0), "{name}: {after:?}");
    }

    // The hole: one bad reading of each point when the server went, none until it was back.
    for name in ["ticks", "sessions", "created"] {
        let rows = rows(&site, name).await?;
        let hole: Vec<_> = rows.iter().filter(|row| row.0 >= killed && row.0 < back).collect();
        let bad: Vec<_> = hole.iter().filter(|(_, quality, _)| quality == "bad").collect();
        ensure!(bad.len() == 1 && bad[0].0 - killed < 2_000, "{name}, killed at {killed}: {hole:?}");
        ensure!(hole.iter().all(|row| row.0 - killed < 2_000), "{name}, killed at {killed}: {hole:?}");
    }
    // And it is on record, from the last answer to the first.
    let begun = Instant::now();
    let gap = loop {
        let answer = http::get_json(site.web_address(), "/api/v1/gaps?agent=t/restart").await?;
        let gaps = answer["gaps"].as_array().cloned().unwrap_or_default();
        let silent = gaps.into_iter().find(|gap| {
            let lasted = (moment(&gap["to"]), moment(&gap["from"]));
            gap["reason"] == "device silent" && matches!(lasted, (Ok(to), Ok(from)) if to - from > 20_000)
        });
        if let Some(gap) = silent {
            break gap;
        }
        ensure!(begun.elapsed() < Duration::from_secs(30), "no gap came: {answer}\n{}", site.log_tails());
        sleep(Duration::from_millis(500)).await;
    };
    println!("{gap}");
    let (from, to) = (moment(&gap["from"])?, moment(&gap["to"])?);
    ensure!(gap["device"] == "plc" && (from - killed).abs() < 2_000, "{gap}, killed at {killed}");
    ensure!((to - resumed).abs() < 2_000, "{gap}, read again at {resumed}");

    second.kill().await?;
    agent.terminate(Duration::from_secs(60)).await?;
    server.terminate(Duration::from_secs(60)).await?;
    let (kept, stored) = (ledger::kept(&site.agent_state()).await?, site.database().count().await?);
    ensure!((kept.dropped, stored.twice) == (0, 0), "{kept:?} {stored:?}");
    Ok(())
}

/// A time of the API, in milliseconds.
fn moment(time: &Value) -> Result<i64> {
    let text = time.as_str().with_context(|| format!("{time} is no time"))?;
    Ok(text.parse::<jiff::Timestamp>()?.as_millisecond())
}
