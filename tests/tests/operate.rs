//! What a technician sees of a gateway: `status`, `top`, `doctor`, `support-bundle`, with real programs.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use forebay_demo::site::Site;
use forebay_tests::load_device::LoadDevice;
use forebay_tests::patience::{HASTY, until};
use forebay_tests::programs;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};
use serde_json::Value;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

const PATIENCE: Duration = Duration::from_secs(60);

/// `forebay-agent WORDS --config …` of this site.
async fn agent(site: &Site, words: &[&str]) -> Result<Output> {
    let mut command = Command::new(&programs()?.agent.words()[0]);
    command.args(words).arg("--config").arg(site.file("agent.toml")).stdin(Stdio::null());
    command.current_dir(site.file("")).env("TEST_BROKER_PASSWORD", "environment-Pa55");
    Ok(spawn_blocking(move || command.output()).await??)
}

async fn status(site: &Site) -> Result<(Option<i32>, Value)> {
    let out = agent(site, &["status", "--json"]).await?;
    let json = serde_json::from_slice(&out.stdout);
    Ok((out.status.code(), json.with_context(|| String::from_utf8_lossy(&out.stderr).into_owned())?))
}

/// A link that is read, and one whose device nobody switched on.
fn links(device: &LoadDevice) -> String {
    device.link_toml(10, "200ms")
        + "[link.dead]\nbackoff_max = \"5s\"\n[link.dead.modbus-tcp]\naddress = \"127.0.0.1:1\"\n\
           [link.dead.device.ghost]\npoints.p = { address = 0 }\n"
}

#[tokio::test(flavor = "multi_thread")]
async fn status_tells_a_running_agent_from_one_that_does_not_run_and_what_to_look_at() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let device = LoadDevice::start().await?;
    let site = Site::new(folder.path(), programs()?, None, 0).await?;
    site.configure_agent("t", "seen", &device.link_toml(10, "200ms"), "")?;
    let (code, json) = status(&site).await?;
    assert_eq!((code, &json["running"]), (Some(3), &Value::from(false)), "{json:#}");

    let server = site.start_server().await?;
    site.join().await?;
    let running = site.start_agent().await?;
    let started = Instant::now();
    loop {
        let (code, json) = status(&site).await?;
        if code == Some(0) && json["agent"]["uplink"]["acknowledged_s"].is_number() {
            assert_eq!(json["agent"]["process"].as_u64(), running.id().map(u64::from));
            assert_eq!(json["agent"]["links"][0]["state"], "connected");
            assert!((360..=366).contains(&json["certificate_days"].as_i64().unwrap_or_default()), "{json:#}");
            break;
        }
        ensure!(started.elapsed() < PATIENCE, "{code:?}: {json:#}\n{}", site.log_tails());
        sleep(Duration::from_millis(200)).await;
    }
    let out = agent(&site, &["status"]).await?;
    let text = String::from_utf8(out.stdout)?;
    println!("{text}");
    for words in ["running since ", "connected to ", "Clock", "load  modbus-tcp   1 of 1"] {
        assert!(text.contains(words), "no {words:?} in\n{text}");
    }
    assert!(!text.contains('\x1b'), "colours in a pipe");

    // A file that somebody has broken since: the agent goes on, and both are told.
    fs::write(site.file("agent.toml"), format!("[agent]\nsite = 7\nstate_dir = {:?}\n", site.agent_state()))?;
    let (code, json) = status(&site).await?;
    assert_eq!((code, &json["running"]), (Some(1), &Value::from(true)), "{json:#}");
    assert!(
        json["configuration"]["mistakes"].as_array().is_some_and(|mistakes| mistakes.len() >= 2),
        "{json:#}"
    );

    site.configure_agent("t", "seen", &device.link_toml(10, "200ms"), "")?;
    running.terminate(Duration::from_secs(30)).await?;
    let (code, json) = status(&site).await?;
    assert_eq!((code, &json["running"]), (Some(3), &Value::from(false)));
    assert!(json["buffer"]["disk_bytes"].as_u64() > Some(0), "the disk tells: {json:#}");
    server.terminate(Duration::from_secs(30)).await?;
    Ok(())
}

/// The words behind `Buffer` and `Uplink` of `forebay-agent status`.
async fn buffer_and_uplink(site: &Site) -> Result<(String, String)> {
    let text = String::from_utf8(agent(site, &["status"]).await?.stdout)?;
    let line = |name: &str| {
        let found =
            text.lines().find_map(|line| line.strip_prefix(name)).map(|words| words.trim().to_owned());
        found.with_context(|| format!("no {name} in\n{text}"))
    };
    Ok((line("Buffer")?, line("Uplink")?))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_agent_is_up_to_date_at_every_look_and_one_that_is_cut_off_tells_what_waits() -> Result<()>
{
    let folder = tempfile::tempdir()?;
    let device = LoadDevice::start().await?;
    let site = Site::new(folder.path(), programs()?, None, 0).await?;
    site.configure_agent("t", "seen", &device.link_toml(10, "200ms"), HASTY)?;
    let server = site.start_server().await?;
    site.join().await?;
    let running = site.start_agent().await?;
    let up_to_date = async || Ok(buffer_and_uplink(&site).await?.0.starts_with("up to date"));
    until(&site, "the server to have everything", up_to_date).await?;
    for _ in 0..20 {
        let (buffer, uplink) = buffer_and_uplink(&site).await?;
        ensure!(buffer.starts_with("up to date"), "{buffer}");
        println!("{uplink}\n  {buffer}");
        sleep(Duration::from_millis(150)).await;
    }
    let behind = async || Ok(status(&site).await?.1["buffer"]["backlog_readings"].as_u64() > Some(0));
    until(&site, "a disk that has not heard of it", behind).await?;
    let (_, json) = status(&site).await?;
    ensure!(json["agent"]["buffer"].get("oldest_s").is_some(), "{json:#}");
    for key in
        ["backlog_batches", "backlog_bytes", "oldest", "newest", "disk_bytes", "limit_bytes", "free_bytes"]
    {
        ensure!(json["buffer"].get(key).is_some(), "no {key} any more: {json:#}");
    }

    server.terminate(Duration::from_secs(30)).await?;
    let told = async || {
        let (buffer, uplink) = buffer_and_uplink(&site).await?;
        let words = buffer.split_once(" wait (").and_then(|(_, rest)| rest.split_once(", the oldest from "));
        println!("{uplink}\n  {buffer}");
        Ok(words.is_some_and(|(_, age)| age.contains(" ago)")) && uplink.starts_with("cannot use"))
    };
    until(&site, "a backlog that is told", told).await?;
    let (_, json) = status(&site).await?;
    let before = json["agent"]["ledger"]["backlog"].as_u64();
    sleep(Duration::from_secs(2)).await;
    let (code, json) = status(&site).await?;
    ensure!(code == Some(1) && json["agent"]["ledger"]["backlog"].as_u64() > before, "{json:#}");
    let (buffer, _) = buffer_and_uplink(&site).await?;
    ensure!(buffer.contains(" wait ("), "{buffer}");

    let server = site.start_server().await?;
    until(&site, "the server to have everything again", up_to_date).await?;
    running.terminate(Duration::from_secs(30)).await?;
    // Now the disk has been told of everything.
    ensure!(buffer_and_uplink(&site).await?.0.starts_with("nothing waits"));
    server.terminate(Duration::from_secs(30)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_nothing_on_a_joined_gateway_and_the_server_that_has_gone() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let device = LoadDevice::start().await?;
    let site = Site::new(folder.path(), programs()?, None, 0).await?;
    site.configure_agent(
        "t",
        "examined",
        &device.link_toml(10, "200ms"),
        "[buffer]\nmax_size = \"8MiB\"\nreserve = \"0B\"\n",
    )?;
    let server = site.start_server().await?;
    site.join().await?;
    let running = site.start_agent().await?;
    let started = Instant::now();
    while status(&site).await?.0 != Some(0) {
        ensure!(started.elapsed() < PATIENCE, "{}", site.log_tails());
        sleep(Duration::from_millis(200)).await;
    }
    let out = agent(&site, &["doctor"]).await?;
    let text = String::from_utf8_lossy(&out.stdout);
    println!("{text}");
    // A clock that nobody vouches for is all there may be to complain of here.
    let complaints: Vec<_> =
        text.lines().filter(|line| line.starts_with("WARN") || line.starts_with("FAIL")).collect();
    assert!(complaints.iter().all(|line| line.starts_with("WARN  clock")), "{text}");
    assert_eq!(out.status.code(), Some(complaints.len() as i32), "{text}");
    assert!(text.contains("it is the server this gateway joined"), "{text}");

    running.terminate(Duration::from_secs(30)).await?;
    server.terminate(Duration::from_secs(30)).await?;
    let begun = Instant::now();
    let out = agent(&site, &["doctor", "--json"]).await?;
    let json: Value = serde_json::from_slice(&out.stdout)?;
    assert_eq!((out.status.code(), &json["verdict"]), (Some(2), &Value::from("FAIL")), "{json:#}");
    let failed: Vec<_> = json["checks"]
        .as_array()
        .context("checks")?
        .iter()
        .filter(|check| check["verdict"] == "FAIL")
        .collect();
    assert!(failed.iter().any(|check| check["check"] == "service"), "{json:#}");
    assert!(failed.iter().all(|check| check["remedy"].as_str() != Some("")), "{json:#}");
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn top_prints_pages_where_nobody_has_a_terminal_and_quits_on_one() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let device = LoadDevice::start().await?;
    let site = Site::new(folder.path(), programs()?, None, 0).await?;
    site.configure_agent("t", "watched", &links(&device), "")?;
    let running = site.start_agent().await?;
    let out = agent(&site, &["top", "--count", "3"]).await?;
    let text = String::from_utf8(out.stdout)?;
    println!("{text}");
    assert_eq!(
        (out.status.code(), text.matches("forebay-agent top  t/watched").count()),
        (Some(0), 3),
        "{text}"
    );
    assert!(text.contains("links 1 of 2") && text.contains("ghost"), "{text}");
    assert!(!text.contains('\x1b'), "{text}");

    let config = site.file("agent.toml");
    let (shown, code, is_as_before) = spawn_blocking(move || top_on_a_terminal(&config)).await??;
    assert_eq!(code, Some(0), "{shown}");
    assert!(
        shown.starts_with("\x1b[?1049h\x1b[?25l") && shown.ends_with("\x1b[?25h\x1b[?1049l"),
        "{shown:?}"
    );
    let lines: Vec<_> = shown.split(['\n', '\r']).collect();
    assert!(lines.iter().any(|line| line.contains("link, device")), "{shown:?}");
    assert!(is_as_before, "the terminal is given back as it was");
    running.terminate(Duration::from_secs(30)).await?;
    Ok(())
}

/// What `top` shows on a terminal of 80 by 24 until `q`, its exit code, and whether the terminal is as it
/// was before.
fn top_on_a_terminal(config: &Path) -> Result<(String, Option<i32>, bool)> {
    let near = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&near)?;
    unlockpt(&near)?;
    let path = ptsname(&near, Vec::new())?;
    let far = File::options().read(true).write(true).open(OsStr::from_bytes(path.as_bytes()))?;
    tcsetwinsize(&far, Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 })?;
    let before = tcgetattr(&far)?;
    let mut top = Command::new(&programs()?.agent.words()[0])
        .args(["top", "--config"])
        .arg(config)
        .stdin(far.try_clone()?)
        .stdout(far.try_clone()?)
        .spawn()?;
    let mut near = File::from(near);
    let (mut shown, mut bytes) = (String::new(), [0; 4096]);
    while !shown.contains("link, device") {
        let length = near.read(&mut bytes)?;
        shown += &String::from_utf8_lossy(&bytes[..length]);
    }
    near.write_all(b"q")?;
    let code = top.wait()?.code();
    let after = tcgetattr(&far)?;
    while !shown.ends_with("\x1b[?1049l") {
        let length = near.read(&mut bytes)?;
        shown += &String::from_utf8_lossy(&bytes[..length]);
    }
    let is_as_before = before.local_modes == after.local_modes && before.input_modes == after.input_modes;
    Ok((shown, code, is_as_before))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_of_any_kind_is_in_a_support_bundle() -> Result<()> {
    const SECRETS: [&str; 6] =
        ["inline-Pa55", "environment-Pa55", "credential-Pa55", "proxy-Pa55", "comment-Pa55", "PRIVATE KEY"];
    let folder = tempfile::tempdir()?;
    let site = Site::new(folder.path(), programs()?, None, 0).await?;
    let credentials = folder.path().join("credentials");
    fs::create_dir(&credentials)?;
    fs::write(credentials.join("press"), "credential-Pa55\n")?;
    // Nothing listens at these: what they complain of is in the status, which is in the bundle.
    let links = "[link.hall.mqtt]\nbroker = \"mqtt://127.0.0.1:1\"\nusername = \"joe\"\npassword = \"inline-Pa55\" # comment-Pa55\n\
                 [[link.hall.topic]]\ntopic = \"a/{device}/{point}\"\n\
                 [link.yard.mqtt]\nbroker = \"mqtt://127.0.0.1:1\"\nusername = \"joe\"\npassword = \"${TEST_BROKER_PASSWORD}\"\n\
                 [[link.yard.topic]]\ntopic = \"b/{device}/{point}\"\n\
                 [link.press.opcua]\nendpoint = \"opc.tcp://127.0.0.1:1\"\nusername = \"joe\"\npassword = \"${credential:press}\"\n\
                 password_in_clear = true\n[link.press.device.press]\npoints.p = { node = \"ns=2;s=x\" }\n";
    site.configure_agent("t", "packed", links, "[uplink]\nproxy = \"http://joe:proxy-Pa55@127.0.0.1:1\"\n")?;
    // An identity with a key in it, as joining leaves it.
    let identity = site.agent_state().join("identity");
    fs::create_dir_all(&identity)?;
    fs::write(
        identity.join("identity.pem"),
        "-----BEGIN PRIVATE KEY-----\nMIIEvQ-Pa55\n-----END PRIVATE KEY-----\n",
    )?;
    let program = programs()?.agent;
    let config = site.file("agent.toml");
    let mut running = Command::new(&program.words()[0])
        .args(["run", "--config"])
        .arg(&config)
        .env("TEST_BROKER_PASSWORD", "environment-Pa55")
        .env("CREDENTIALS_DIRECTORY", &credentials)
        .stdin(Stdio::null())
        .stderr(File::create(site.file("agent.log"))?)
        .spawn()?;
    let bundle = folder.path().join("bundle.tar.gz");
    let outcome = async {
        let started = Instant::now();
        while site.agent_metric("forebay_agent_buffer_open").await.ok() != Some(1.0) {
            ensure!(started.elapsed() < PATIENCE, "{}", fs::read_to_string(site.file("agent.log"))?);
            sleep(Duration::from_millis(100)).await;
        }
        let mut command = Command::new(&program.words()[0]);
        command.args(["support-bundle", "--output"]).arg(&bundle).arg("--config").arg(&config);
        command.env("TEST_BROKER_PASSWORD", "environment-Pa55").env("CREDENTIALS_DIRECTORY", &credentials);
        let out = spawn_blocking(move || command.output()).await??;
        ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        anyhow::Ok(())
    };
    let outcome = outcome.await;
    running.kill()?;
    running.wait()?;
    outcome?;
    let unpacked = Command::new("tar").arg("-xzf").arg(&bundle).arg("-C").arg(folder.path()).status()?;
    assert!(unpacked.success());
    let mut folders = vec![folder.path().join("bundle")];
    let mut names = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path)?;
            for secret in SECRETS {
                assert!(!text.contains(secret), "{secret} is in {}:\n{text}", path.display());
            }
            assert!(!text.is_empty(), "{} is empty", path.display());
            names.push(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
        }
    }
    names.sort();
    println!("{names:?}");
    for name in
        ["agent.toml", "buffer.txt", "doctor.txt", "log.txt", "metrics.txt", "status.json", "versions.txt"]
    {
        assert!(names.iter().any(|other| other == name), "no {name} in {names:?}");
    }
    let metrics = fs::read_to_string(folder.path().join("bundle/metrics.txt"))?;
    assert!(metrics.contains("forebay_agent_readings_produced_total"), "{metrics}");
    Ok(())
}
