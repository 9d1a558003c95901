//! Promise 1 where somebody handles the files: a buffer folder is copied and both copies live on, the
//! server's database is put back to yesterday's copy, a buffer is deleted with a backlog inside. Real
//! programs; the rows are counted in SQL behind their back.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use forebay_demo::http;
use forebay_demo::ledger;
use forebay_demo::lossy_link::Road;
use forebay_demo::process::Process;
use forebay_demo::site::Site;
use forebay_tests::load_device::LoadDevice;
use forebay_tests::patience::{HASTY, PATIENCE, until};
use forebay_tests::programs;
use serde_json::Value;
use tokio::time::sleep;

#[tokio::test]
async fn a_copied_buffer_is_found_with_its_first_delivery_and_both_histories_can_be_queried() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let device = LoadDevice::start().await?;
    let site = Site::new(folder.path(), programs()?, None, 0).await?;
    site.configure_agent("t", "copied", &device.link_toml(20, "200ms"), HASTY)?;
    let server = site.start_server().await?;
    site.join().await?;
    // It ends with a backlog, so that both copies hold batches that neither has delivered.
    let agent = site.start_agent().await?;
    until(&site, "the first rows", async || Ok(rows(&site, "1 = 1")? > 100)).await?;
    site.road().set(Road::Cut);
    device.asked_beyond(device.asked() + 5).await?;
    agent.terminate(PATIENCE).await?;
    let shared = ledger::kept(&site.agent_state()).await?;
    ensure!(shared.backlog > 0, "both copies hold a backlog: {shared:?}");
    copy_folder(&site.agent_state(), &site.file("copy"))?;
    site.road().set(Road::Open);

    let original = site.start_agent().await?;
    until(&site, "the original delivers", async || Ok(rows(&site, "1 = 1")? > shared.appended + 100)).await?;
    ensure!(faults(&site).await?.is_empty(), "one buffer alone is no fork: {:?}", faults(&site).await?);
    let copy = start_copy(&site)?;
    until(&site, "the copy delivers", async || Ok(rows(&site, "fork = 1")? > 0)).await?;
    // The very next look: it stood in the transaction that brought the first row.
    let found = faults(&site).await?;
    let fork = found.iter().find(|fault| fault["kind"] == "fork").context("no fork at the API")?;
    assert_eq!((&fork["agent"], &fork["over"]), (&"t/copied".into(), &Value::Null));
    assert!(fork["words"].as_str().is_some_and(|words| words.contains("copied")), "{fork}");
    assert!(fork["remedy"].as_str().is_some_and(|words| words.contains("join")), "{fork}");
    until(&site, "the copy goes on", async || Ok(rows(&site, "fork = 1")? > 100)).await?;
    original.terminate(PATIENCE).await?;
    copy.terminate(PATIENCE).await?;

    let of_original = ledger::kept(&site.agent_state()).await?;
    let of_copy = ledger::kept(&site.file("copy")).await?;
    assert_eq!((of_original.backlog, of_copy.backlog, of_original.dropped, of_copy.dropped), (0, 0, 0, 0));
    assert_eq!(rows(&site, "fork = 0")?, of_original.appended, "the shared history, and the original's own");
    assert_eq!(rows(&site, "fork = 1")?, of_copy.appended - shared.appended, "the copy's own");
    assert_eq!(site.database().count().await?.twice, 0);

    let points = http::get_json(site.web_address(), "/api/v1/points?agent=t/copied&limit=1000").await?;
    for fork in [0, 1] {
        let listed = points["points"].as_array().context("points are listed")?;
        let point = listed.iter().find(|point| point["fork"] == fork && point["name"] == "p7");
        let point = point.with_context(|| format!("no p7 of fork {fork}"))?;
        let query = format!("/api/v1/query?points={}", point["id"]);
        let answer = http::get_json(site.web_address(), &query).await?;
        let rows = answer["series"][0]["rows"].as_array().context("a series has rows")?;
        assert!(rows.len() > 2 && rows.iter().all(|row| row[1].is_number()), "fork {fork}: {answer}");
    }
    server.terminate(PATIENCE).await?;
    Ok(())
}

#[tokio::test]
async fn a_database_from_yesterday_is_filled_again_from_the_gateways_tail() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let device = LoadDevice::start().await?;
    let site = Site::new(folder.path(), programs()?, None, 0).await?;
    site.configure_agent("t", "restored", &device.link_toml(20, "200ms"), HASTY)?;
    let server = site.start_server().await?;
    site.join().await?;
    let agent = site.start_agent().await?;
    until(&site, "the first rows", async || Ok(rows(&site, "1 = 1")? > 200)).await?;
    server.terminate(PATIENCE).await?;
    let yesterday = site.file("yesterday");
    copy_folder(&site.file("server"), &yesterday)?;
    let before = rows(&site, "1 = 1")?;

    let server = site.start_server().await?;
    until(&site, "more rows", async || Ok(rows(&site, "1 = 1")? > before + 500)).await?;
    server.terminate(PATIENCE).await?;
    std::fs::remove_dir_all(site.file("server"))?;
    copy_folder(&yesterday, &site.file("server"))?;
    assert_eq!(rows(&site, "1 = 1")?, before, "the database is yesterday's");

    let server = site.start_server().await?;
    until(&site, "the fault", async || {
        Ok(faults(&site).await?.iter().any(|fault| fault["kind"] == "server restored"))
    })
    .await?;
    until(&site, "the refill", async || Ok(rows(&site, "1 = 1")? > before + 500)).await?;
    agent.terminate(PATIENCE).await?;
    let kept = ledger::kept(&site.agent_state()).await?;
    let stored = site.database().count().await?;
    assert_eq!((kept.backlog, kept.dropped), (0, 0));
    assert_eq!((stored.rows, stored.twice), (kept.appended, 0), "the tail gave back every reading");
    assert_eq!(rows(&site, "fork <> 0")?, 0, "a restored database is no fork");
    let found = faults(&site).await?;
    assert!(found.iter().all(|fault| !fault["over"].is_null()), "all is well again: {found:?}");
    server.terminate(PATIENCE).await?;
    Ok(())
}

#[tokio::test]
async fn a_buffer_wiped_with_a_backlog_is_a_fault_and_a_gap_with_the_count() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let device = LoadDevice::start().await?;
    let site = Site::new(folder.path(), programs()?, None, 0).await?;
    // Far less may be sent than is read: a backlog grows, and the server hears of it.
    let slow = HASTY.replace("[uplink]", "[uplink]\nbandwidth = \"1KiB\"");
    site.configure_agent("t", "wiped", &device.link_toml(200, "200ms"), &slow)?;
    let server = site.start_server().await?;
    site.join().await?;
    let agent = site.start_agent().await?;
    until(&site, "a reported backlog", async || Ok(reported(&site, "backlog").await? > 500)).await?;
    // The devices fall silent, so that what the server hears last is all there ever was.
    drop(device);
    until(&site, "the last count", async || {
        let appended = site.agent_metric("forebay_agent_readings_appended_total").await?;
        sleep(Duration::from_secs(1)).await;
        let still = site.agent_metric("forebay_agent_readings_appended_total").await?;
        Ok(still == appended && reported(&site, "appended").await? == appended as u64)
    })
    .await?;
    agent.kill().await?;
    let kept = ledger::kept(&site.agent_state()).await?;
    ensure!(kept.backlog > 0, "it is killed with a backlog: {kept:?}");
    std::fs::remove_dir_all(site.agent_state().join("buffer"))?;
    let stored = site.database().count().await?.rows;

    let agent = site.start_agent().await?;
    until(&site, "the fault", async || {
        Ok(faults(&site).await?.iter().any(|fault| fault["kind"] == "buffer wiped"))
    })
    .await?;
    let gaps = http::get_json(site.web_address(), "/api/v1/gaps?agent=t/wiped").await?;
    let gaps = gaps["gaps"].as_array().context("gaps are listed")?;
    let wiped: Vec<&Value> = gaps.iter().filter(|gap| gap["reason"] == "buffer wiped").collect();
    assert_eq!(wiped.len(), 1, "{gaps:?}");
    assert_eq!(wiped[0]["count"], kept.appended - stored, "{wiped:?} {kept:?}");
    agent.terminate(PATIENCE).await?;
    server.terminate(PATIENCE).await?;
    Ok(())
}

/// Asks again and again.
/// Readings in the database whose points are so.
fn rows(site: &Site, points: &str) -> Result<u64> {
    let file = site.file("server/forebay.db");
    let database = rusqlite::Connection::open_with_flags(file, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    database.busy_timeout(Duration::from_secs(5))?;
    let sql = format!("select count(*) from readings join points using (point) where {points}");
    let quarantined: i64 =
        database.query_row("select count(*) from readings_quarantine", [], |row| row.get(0))?;
    ensure!(quarantined == 0, "{quarantined} readings have strange times");
    Ok(database.query_row(&sql, [], |row| row.get::<_, i64>(0))? as u64)
}

/// What the API says people should know.
async fn faults(site: &Site) -> Result<Vec<Value>> {
    let answer = http::get_json(site.web_address(), "/api/v1/faults").await?;
    Ok(answer["faults"].as_array().context("faults are listed")?.clone())
}

/// A count of the one buffer, as the gateway told it last; 0 before it told any.
async fn reported(site: &Site, count: &str) -> Result<u64> {
    let ledger = http::get_json(site.web_address(), "/api/v1/ledger").await?;
    Ok(ledger["buffers"][0][count].as_u64().unwrap_or(0))
}

/// The agent once more, in the folder `copy`, on a port of its own.
fn start_copy(site: &Site) -> Result<Process> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let original = std::fs::read_to_string(site.file("agent.toml"))?;
    let state = format!("state_dir = {:?}", site.agent_state());
    let listen =
        original.lines().find(|line| line.starts_with("listen = ")).context("the agent has telemetry")?;
    ensure!(original.contains(&state), "the configuration says where the state is");
    let config = original
        .replace(&state, &format!("state_dir = {:?}", site.file("copy")))
        .replace(listen, &format!("listen = \"{port}\""));
    std::fs::write(site.file("copy.toml"), config)?;
    let file = site.file("copy.toml");
    programs()?.agent.start(&["run".as_ref(), "--config".as_ref(), file.as_os_str()], &site.file("copy.log"))
}

/// As `cp -a` does it: permissions go along.
fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir(to)?;
    std::fs::set_permissions(to, std::fs::metadata(from)?.permissions())?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else if entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
