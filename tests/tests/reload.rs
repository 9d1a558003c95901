//! The configuration is changed under an agent that runs: SIGHUP restarts the links that differ, and
//! nothing else.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use forebay_demo::process::Process;
use forebay_demo::site::Site;
use forebay_tests::load_device::LoadDevice;
use forebay_tests::programs;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::sleep;

const INTERVAL: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(60);

/// `[link.NAME]`: so many points of a device, whose name is the link's.
fn link(device: &LoadDevice, name: &str, points: usize) -> String {
    let toml = device.link_toml(points, "500ms");
    toml.replace("link.load", &format!("link.{name}")).replace("device.d0", &format!("device.{name}-d"))
}

fn hang_up(agent: u32) -> Result<()> {
    let id = Pid::from_raw(agent as i32).context("a process id")?;
    kill_process(id, Signal::HUP).context("send SIGHUP")
}

/// Waits until a metric is at least so much.
async fn until(site: &Site, agent: &Process, metric: &str, value: f64) -> Result<()> {
    let started = Instant::now();
    while site.agent_metric(metric).await? < value {
        ensure!(started.elapsed() < PATIENCE, "{metric} is not {value}:\n{}", agent.log_tail());
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_link_is_restarted_and_the_other_two_miss_no_poll() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (one, two, three) =
        (LoadDevice::start().await?, LoadDevice::start().await?, LoadDevice::start().await?);
    let site = Site::new(folder.path(), programs()?, None, 0).await?;
    let configure = |points: usize, rest: &str| {
        let links = [link(&one, "one", 10), link(&two, "two", points), link(&three, "three", 10)].concat();
        site.configure_agent("t", "reloaded", &links, rest)
    };
    configure(10, "")?;
    let agent = site.start_agent().await?;
    let id = agent.id().context("it runs")?;
    for device in [&one, &three] {
        device.asked_beyond(2).await?;
    }

    // Counted from poll to poll, and each reload is one more chance to miss one.
    let (first_one, first_three, begun) = (one.asked(), three.asked(), Instant::now());
    for round in 1..=5_u32 {
        configure(10 + round as usize, "")?;
        hang_up(id)?;
        until(&site, &agent, "forebay_agent_config_reloads_total{outcome=\"applied\"}", round.into()).await?;
        let asked = two.asked();
        tokio::time::timeout(PATIENCE, two.asked_beyond(asked + 1)).await.context("two is read again")??;
    }
    let polls = (begun.elapsed().as_secs_f64() / INTERVAL.as_secs_f64()).floor() as u64;
    for (name, device, first) in [("one", &one, first_one), ("three", &three, first_three)] {
        let polled = device.asked() - first;
        println!("{name} was read {polled} times in {polls} intervals, during 5 reloads");
        ensure!(
            (polls - 1..=polls + 1).contains(&polled),
            "{name} was read {polled} times in {polls} intervals"
        );
        assert_eq!(device.connections(), 1, "{name}'s connection was left alone");
    }
    assert_eq!(two.connections(), 6, "two's was made anew");

    // A file with mistakes: everything goes on, and all of them are told.
    configure(10, "[buffer]\nmax_size = 7\n[nonsense]\n")?;
    hang_up(id)?;
    until(&site, &agent, "forebay_agent_config_reload_failed", 1.0).await?;
    let log = fs::read_to_string(site.file("agent.log"))?;
    for words in ["The configuration is not taken", "buffer.max_size", "nonsense", "agent.toml:"] {
        assert!(log.contains(words), "{words:?} is not in:\n{log}");
    }
    for device in [&one, &two, &three] {
        tokio::time::timeout(PATIENCE, device.asked_beyond(device.asked() + 1)).await??;
    }

    // One link leaves, another comes, and what cannot change is named.
    let links = [link(&one, "one", 10), link(&three, "four", 5)].concat();
    site.configure_agent("t", "reloaded", &links, "[buffer]\nmax_size = \"2GiB\"\n")?;
    hang_up(id)?;
    until(&site, &agent, "forebay_agent_config_restart_needed", 1.0).await?;
    until(&site, &agent, "forebay_agent_link_up{link=\"four\"}", 1.0).await?;
    assert_eq!(site.agent_metric("forebay_agent_config_reload_failed").await?, 0.0);
    let gone = two.asked();
    tokio::time::timeout(PATIENCE, three.asked_beyond(three.asked() + 2)).await??;
    assert_eq!(two.asked(), gone, "a link that was taken away is read no more");
    let left = site.agent_metric("forebay_agent_link_up{link=\"two\"}").await;
    assert!(left.is_err(), "and nothing is told of it: {left:?}");
    let log = fs::read_to_string(site.file("agent.log"))?;
    for words in ["buffer.max_size has changed and needs a restart", "changed: 0, added: 1, removed: 2"] {
        assert!(log.contains(words), "{words:?} is not in:\n{log}");
    }
    assert_eq!(site.agent_metric("forebay_agent_ledger_imbalance_readings").await?, 0.0);
    assert!(agent.terminate(Duration::from_secs(30)).await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_is_told_of_a_reload_and_of_one_that_was_refused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let device = LoadDevice::start().await?;
    let site = Site::new(folder.path(), programs()?, None, 0).await?;
    site.configure_agent("t", "told", &link(&device, "one", 3), "")?;
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut agent = Command::new(&programs()?.agent.words()[0])
        .args(["run", "--config"])
        .arg(site.file("agent.toml"))
        .env("NOTIFY_SOCKET", &path)
        .stdin(Stdio::null())
        .stderr(fs::File::create(site.file("agent.log"))?)
        .spawn()?;
    let told = async {
        let heard = |wanted: &'static str| {
            let socket = socket.try_clone()?;
            anyhow::Ok(tokio::task::spawn_blocking(move || {
                let mut all = String::new();
                let mut bytes = [0; 4096];
                while !all.contains(wanted) {
                    let length = socket.recv(&mut bytes).with_context(|| format!("no {wanted} in {all}"))?;
                    all += &String::from_utf8_lossy(&bytes[..length]);
                    all += "\n";
                }
                anyhow::Ok(all)
            }))
        };
        heard("READY=1")?.await??;
        fs::write(site.file("agent.toml"), "[agent]\nsite = 7\n")?;
        hang_up(agent.id())?;
        let refused = heard("READY=1")?.await??;
        let (reloading, ready) = refused.split_once("READY=1").context("both")?;
        assert!(reloading.contains("RELOADING=1") && reloading.contains("MONOTONIC_USEC="), "{refused}");
        assert!(ready.contains("mistakes and was not reloaded, see the log."), "{ready}");
        site.configure_agent("t", "told", &link(&device, "one", 4), "")?;
        hang_up(agent.id())?;
        let taken = heard("READY=1")?.await??;
        let (_, ready) = taken.split_once("READY=1").context("both")?;
        assert!(ready.contains("links up") && !ready.contains("not reloaded"), "{taken}");
        anyhow::Ok(())
    };
    let outcome = told.await;
    let id = Pid::from_raw(agent.id() as i32).context("a process id")?;
    kill_process(id, Signal::TERM)?;
    let ended = tokio::task::spawn_blocking(move || agent.wait()).await??;
    outcome.with_context(|| fs::read_to_string(site.file("agent.log")).unwrap_or_default())?;
    assert!(ended.success());
    Ok(())
}
