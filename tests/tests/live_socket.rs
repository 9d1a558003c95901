//! The live feed over a WebSocket as a program reads it that nobody here wrote: with values as they come, after a
//! cut from where it was, over TLS, and to the word with which the server goes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use forebay_demo::site::Site;
use forebay_tests::load_device::LoadDevice;
use forebay_tests::patience::PATIENCE;
use forebay_tests::{ask_peer, programs};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

/// Reads so many messages; 0: until the server closes.
async fn read(url: String, count: usize, more: Vec<String>) -> Result<Value> {
    let arguments = [vec![url, count.to_string()], more].concat();
    let read = move || {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        ask_peer("websocket_read.py", &arguments)
    };
    timeout(Duration::from_secs(90), spawn_blocking(read)).await??
}

#[tokio::test]
async fn a_program_reads_values_as_they_come_and_comes_back_to_where_it_was() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let device = LoadDevice::start().await?;
    let site = Site::new(folder.path(), programs()?, None, 0).await?;
    site.configure_agent("t", "socket", &device.link_toml(5, "200ms"), "")?;
    let server = site.start_server().await?;
    site.join().await?;
    let agent = site.start_agent().await?;
    let feed = format!("ws://{}/api/v1/live/socket?agent=t/socket&events=readings", site.web_address());
    let told = read(feed.clone(), 5, vec![]).await?;
    let messages = told["messages"].as_array().context("messages")?;
    ensure!(messages[0]["event"] == "ready", "{told}");
    let newest = |message: &Value| message["data"].as_array().and_then(|rows| rows[0][1].as_f64());
    let times: Vec<f64> = messages[1..].iter().filter_map(newest).collect();
    ensure!(times.len() == 4 && times.is_sorted_by(|a, b| a < b), "newer each time: {told}");

    // The gateway goes on for a while and ends; what is told from then on is what was committed since the last event.
    let last = messages[4]["id"].as_str().context("an id")?.to_owned();
    sleep(Duration::from_secs(2)).await;
    agent.terminate(PATIENCE).await?;
    let again = read(format!("{feed}&after={last}"), 2, vec![]).await?;
    let told = &again["messages"][1];
    ensure!(told["event"] == "readings" && newest(told) > times.last().copied(), "{again}");
    ensure!(told["data"].as_array().is_some_and(|rows| rows.len() == 5), "every point: {again}");

    // It stays, and is told that the server goes.
    let staying = tokio::spawn(read(feed, 0, vec![]));
    sleep(Duration::from_secs(2)).await;
    server.terminate(Duration::from_secs(4)).await?;
    let told = staying.await??;
    ensure!(told["code"] == 1001 && told["reason"] == "the server stops", "{told}");
    Ok(())
}

#[tokio::test]
async fn a_socket_over_tls_is_served_by_the_same_door() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let site = Site::new(folder.path(), programs()?, None, 0).await?;
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()])?;
    let (certificate, key) = (site.file("web.crt"), site.file("web.key"));
    std::fs::write(&certificate, made.cert.pem())?;
    std::fs::write(&key, made.signing_key.serialize_pem())?;
    let file = site.file("server.toml");
    let web = format!("[web]\ncertificate = {certificate:?}\nkey = {key:?}\n");
    std::fs::write(&file, std::fs::read_to_string(&file)?.replace("[web]\n", &web))?;
    let run = ["run".as_ref(), "--config".as_ref(), file.as_os_str()];
    let server = programs()?.server.start(&run, &site.file("server.log"))?;
    timeout(PATIENCE, async {
        while TcpStream::connect(site.web_address()).await.is_err() {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .context("the page is served")?;
    let feed = format!("wss://{}/api/v1/live/socket?events=alarms&after=0", site.web_address());
    let trust = vec!["--ca".to_owned(), certificate.display().to_string()];
    let told = read(feed.clone(), 2, trust.clone()).await?;
    ensure!(told["messages"][1]["event"] == "alarms", "{told}");
    let staying = tokio::spawn(read(feed, 0, trust));
    sleep(Duration::from_secs(2)).await;
    server.terminate(Duration::from_secs(4)).await?;
    ensure!(staying.await??["code"] == 1001, "it is told over TLS too");
    Ok(())
}
