//! A backup taken while readings pour in, put back later: gateways bring what came since, once, and one
//! that joined since is known again.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use forebay_agent::cli::join::identity_folder;
use forebay_demo::site::Site;
use forebay_protocols::sync::tls::{self, Identity};
use forebay_tests::joining::{agent, run, server};
use forebay_tests::load_device::LoadDevice;
use forebay_tests::patience::{HASTY, PATIENCE, until};
use forebay_tests::programs;

fn count(site: &Site, sql: &str) -> Result<i64> {
    let database = rusqlite::Connection::open(site.file("server/forebay.db"))?;
    database.busy_timeout(Duration::from_secs(5))?;
    Ok(database.query_row(sql, [], |row| row.get(0))?)
}

#[tokio::test]
async fn a_backup_under_load_is_restored_and_every_reading_is_there_once() -> Result<()> {
    tls::install_provider();
    let folder = tempfile::tempdir()?;
    let device = LoadDevice::start().await?;
    let site = Site::new(folder.path(), programs()?, None, 0).await?;
    site.configure_agent("t", "gate", &device.link_toml(100, "100ms"), HASTY)?;
    let running = site.start_server().await?;
    site.join().await?;
    let collecting = site.start_agent().await?;
    let all = "select count(*) from readings";
    until(&site, "readings", async || Ok(count(&site, all)? > 2_000)).await?;

    let backup = site.file("backup");
    let to = backup.to_str().context("a name")?;
    let words = server(&site, &["backup", to]).await?;
    ensure!(words.contains("CA's key"), "{words}");
    ensure!(server(&site, &["restore", "--check", to]).await?.contains("is whole"), "it is whole");
    let at_backup = {
        let copy = rusqlite::Connection::open(backup.join("forebay.db"))?;
        copy.query_row(all, [], |row| row.get::<_, i64>(0))?
    };
    let config = site.file("server.toml");
    let again = run(&programs()?.server, &["backup", to], &config).await?;
    ensure!(again.code == 1 && again.words.contains("is there already"), "{again:?}");
    until(&site, "readings behind the backup", async || Ok(count(&site, all)? > at_backup + 2_000)).await?;
    // Since then the certificate was renewed: the backup does not know it.
    ensure!(agent(&site, &["renew"]).await?.code == 0, "renewed");

    let refused = run(&programs()?.server, &["restore", "--replace", to], &config).await?;
    ensure!(refused.code == 1 && refused.words.contains("stop the server"), "{refused:?}");
    running.terminate(PATIENCE).await?;
    let refused = run(&programs()?.server, &["restore", to], &config).await?;
    ensure!(refused.code == 1 && refused.words.contains("--replace"), "{refused:?}");
    let restored = server(&site, &["restore", "--replace", to]).await?;
    ensure!(restored.contains("before-restore-1"), "what was there is kept: {restored}");
    ensure!(count(&site, all)? == at_backup, "as at the backup");

    let running = site.start_server().await?;
    until(&site, "what came since the backup", async || Ok(count(&site, all)? > at_backup + 4_000)).await?;
    ensure!(collecting.terminate(PATIENCE).await?.success(), "the agent drains");
    // Each poll of 100 points carries one number in all of them, and no number comes twice.
    let rows = count(&site, all)?;
    let distinct = count(&site, "select count(*) from (select distinct point, time from readings)")?;
    ensure!(rows == distinct, "{rows} rows, {distinct} of them different");
    let produced = count(&site, "select stored from agents")?;
    ensure!(produced == rows, "{produced} by the books, {rows} rows");
    let buffer = site.agent_state().join("buffer");
    let status = agent(&site, &["buffer", "status", "--json"]).await?;
    let status: serde_json::Value = serde_json::from_str(&status.words)
        .with_context(|| format!("{}: {}", buffer.display(), status.words))?;
    let appended = status["readings"]["appended"].as_i64().context("readings appended")?;
    ensure!(appended == rows, "{appended} appended by the gateway, {rows} rows: none is missing");
    let own = Identity::load(&identity_folder(&site.agent_state()))?.context("joined")?;
    ensure!(!own.chain.is_empty(), "with the renewed certificate");
    let doctor = run(&programs()?.server, &["doctor", "--deep"], &config).await?;
    ensure!(doctor.code < 2 && doctor.words.contains("every page and index of it"), "{doctor:?}");
    running.terminate(PATIENCE).await?;

    // A backup that was damaged is not put back.
    let file = backup.join("forebay.db");
    let mut bytes = std::fs::read(&file)?;
    bytes[5_000] ^= 1;
    std::fs::write(&file, bytes)?;
    let refused = run(&programs()?.server, &["restore", "--replace", to], &config).await?;
    ensure!(refused.code == 1 && refused.words.contains("damaged"), "{refused:?}");
    Ok(())
}
