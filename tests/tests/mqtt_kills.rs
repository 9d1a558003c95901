//! Nothing is lost at QoS 1: messages through Mosquitto while the agent is killed, counted in the
//! server's database.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use forebay_demo::dice::Dice;
use forebay_demo::ledger::Database;
use forebay_demo::site::Site;
use forebay_tests::mosquitto::{Mosquitto, Security};
use forebay_tests::{kills, messages, programs, seed};
use rusqlite::{Connection, OpenFlags};
use tokio::time::sleep;

/// Lines that the publisher gets at once, and the time between two portions: 20,000 messages/s.
const PORTION: u64 = 1_000;
const PORTION_EVERY: Duration = Duration::from_millis(50);

/// What of the messages stands in the database.
#[derive(Debug)]
struct Stored {
    /// Different messages.
    different: u64,
    /// Rows, with what a broker sent again.
    rows: u64,
}

fn stored(site: &Site) -> Result<Stored> {
    let Database::Sqlite(path) = site.database() else { anyhow::bail!("stored in SQLite") };
    let database = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let sql = "select count(distinct value), count(value) from readings where value is not null";
    let (different, rows): (i64, i64) = database.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(Stored { different: different.try_into()?, rows: rows.try_into()? })
}

async fn until_linked(site: &Site) -> Result<()> {
    let started = Instant::now();
    while site.agent_metric("forebay_agent_link_up").await.unwrap_or(0.0) < 1.0 {
        ensure!(started.elapsed() < Duration::from_secs(30), "no connection:\n{}", site.log_tails());
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// The agent is killed five times (`FOREBAY_TEST_KILLS`) under 100,000 messages (`FOREBAY_TEST_MESSAGES`).
/// A message that was durable and whose acknowledgement had not reached the broker comes again: that is
/// the broker's right at QoS 1, and counted.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_messages_at_qos_1_survive_five_kills_of_the_agent() -> Result<()> {
    let (messages, kills, mut dice) = (messages(100_000)?, kills(5)?, Dice::new(seed()?));
    let broker = Mosquitto::start(Security::None).await;
    let folder = tempfile::tempdir()?;
    let site = Site::new(folder.path(), programs()?, None, 0).await?;
    let link = format!(
        "[link.hall.mqtt]\nbroker = \"mqtt://127.0.0.1:{}\"\nversion = \"5\"\n\
         [[link.hall.topic]]\ntopic = \"plant/{{device}}/{{point}}\"\ntype = \"integer\"\n",
        broker.port
    );
    site.configure_agent("t", "mqtt", &link, "[buffer]\ndurability_window = \"100ms\"")?;
    let server = site.start_server().await?;
    site.join().await?;
    let mut agent = site.start_agent().await?;
    until_linked(&site).await?;

    let begun = Instant::now();
    let mut publisher = broker.publisher_of_lines("plant/pump/count")?;
    let publishing = tokio::spawn(async move {
        for from in (0..messages).step_by(PORTION as usize) {
            let lines: String = (from..(from + PORTION).min(messages)).map(|n| format!("{n}\n")).collect();
            publisher.say(&lines).await?;
            sleep(PORTION_EVERY).await;
        }
        publisher.finish().await
    });
    let whole = PORTION_EVERY * (messages / PORTION) as u32;
    let share = (whole / (kills as u32 + 1)).as_millis() as u64;
    for kill in 0..kills {
        sleep(dice.millis(share / 2..share)).await;
        agent.kill().await.context("kill the agent")?;
        agent = site.start_agent().await.with_context(|| format!("after kill {kill}"))?;
    }
    publishing.await??;
    println!("{messages} messages were published in {:?}", begun.elapsed());
    let mut seen = stored(&site)?;
    let published = Instant::now();
    while seen.different < messages {
        ensure!(
            published.elapsed() < Duration::from_secs(60),
            "of {messages} messages {seen:?} after a minute:\n{}",
            site.log_tails()
        );
        sleep(Duration::from_millis(200)).await;
        seen = stored(&site)?;
    }
    agent.terminate(Duration::from_secs(30)).await?;
    server.terminate(Duration::from_secs(30)).await?;
    let seen = stored(&site)?;
    println!(
        "{messages} messages, {kills} kills: {} missing, {} rows of messages that came again, in {:?}",
        messages - seen.different,
        seen.rows - seen.different,
        begun.elapsed()
    );
    assert_eq!(seen.different, messages);
    Ok(())
}

/// The link is ended and started again under messages: what it has in hand is written at once, though the
/// window is longer than the test. What the broker has not read of our word when the connection closes it
/// sends again: that is its right at QoS 1, and counted.
#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_reloaded_five_times_under_messages_loses_none() -> Result<()> {
    const MESSAGES: u64 = 20_000;
    let broker = Mosquitto::start(Security::None).await;
    let folder = tempfile::tempdir()?;
    let site = Site::new(folder.path(), programs()?, None, 0).await?;
    let configure = |keep_alive: u32| {
        let link = format!(
            "[link.hall.mqtt]\nbroker = \"mqtt://127.0.0.1:{}\"\nkeep_alive = \"{keep_alive}s\"\n\
             [[link.hall.topic]]\ntopic = \"plant/{{device}}/{{point}}\"\ntype = \"integer\"\n",
            broker.port
        );
        site.configure_agent("t", "reloaded", &link, "[buffer]\ndurability_window = \"10s\"")
    };
    configure(30)?;
    let server = site.start_server().await?;
    site.join().await?;
    let agent = site.start_agent().await?;
    until_linked(&site).await?;
    let mut publisher = broker.publisher_of_lines("plant/pump/count")?;
    let publishing = tokio::spawn(async move {
        for from in (0..MESSAGES).step_by(200) {
            let lines: String = (from..from + 200).map(|n| format!("{n}\n")).collect();
            publisher.say(&lines).await?;
            sleep(PORTION_EVERY).await;
        }
        publisher.finish().await
    });
    let id = rustix::process::Pid::from_raw(agent.id().context("it runs")? as i32).context("an id")?;
    for reload in 1..=5_u32 {
        sleep(Duration::from_millis(700)).await;
        configure(30 + reload)?;
        let begun = Instant::now();
        rustix::process::kill_process(id, rustix::process::Signal::HUP)?;
        let applied = "forebay_agent_config_reloads_total{outcome=\"applied\"}";
        while site.agent_metric(applied).await? < f64::from(reload) {
            ensure!(begun.elapsed() < Duration::from_secs(20), "no reload:\n{}", site.log_tails());
            sleep(Duration::from_millis(20)).await;
        }
        println!("reload {reload} took {:?}", begun.elapsed());
    }
    publishing.await??;
    // The end of the agent writes what is in hand, and its last requests carry it.
    until_linked(&site).await?;
    let published = Instant::now();
    while site.agent_metric("forebay_agent_readings_produced_total").await? < MESSAGES as f64 {
        ensure!(published.elapsed() < Duration::from_secs(60), "{}", site.log_tails());
        sleep(Duration::from_millis(100)).await;
    }
    agent.terminate(Duration::from_secs(30)).await?;
    server.terminate(Duration::from_secs(30)).await?;
    let seen = stored(&site)?;
    println!(
        "{MESSAGES} messages, 5 reloads: {} missing, {} rows of messages that came again",
        MESSAGES - seen.different,
        seen.rows - seen.different
    );
    assert_eq!(seen.different, MESSAGES);
    Ok(())
}

/// Two whole agents share the work; what each of them made durable is read out of its buffer.
#[tokio::test(flavor = "multi_thread")]
async fn two_agents_of_a_group_make_each_message_durable_once() -> Result<()> {
    const MESSAGES: u64 = 5_000;
    let broker = Mosquitto::start(Security::None).await;
    let folder = tempfile::tempdir()?;
    let link = format!(
        "[link.hall.mqtt]\nbroker = \"mqtt://127.0.0.1:{}\"\nversion = \"5\"\n\
         [[link.hall.topic]]\ntopic = \"$share/gateways/plant/{{device}}/{{point}}\"\ntype = \"integer\"\n",
        broker.port
    );
    let mut agents = Vec::new();
    for gateway in ["east", "west"] {
        let own = folder.path().join(gateway);
        std::fs::create_dir(&own)?;
        let site = Site::new(&own, programs()?, None, 0).await?;
        site.configure_agent("t", gateway, &link, "[buffer]\ndurability_window = \"100ms\"")?;
        let agent = site.start_agent().await?;
        until_linked(&site).await?;
        agents.push((site, agent));
    }
    let mut publisher = broker.publisher_of_lines("plant/pump/count")?;
    publisher.say(&(0..MESSAGES).map(|n| format!("{n}\n")).collect::<String>()).await?;
    publisher.finish().await?;
    let started = Instant::now();
    loop {
        let mut appended = 0.0;
        for (site, _) in &agents {
            appended += site.agent_metric("forebay_agent_readings_appended_total").await?;
        }
        if appended >= MESSAGES as f64 {
            break;
        }
        ensure!(started.elapsed() < Duration::from_secs(30), "{appended} of {MESSAGES} are durable");
        sleep(Duration::from_millis(100)).await;
    }
    let mut all = Vec::new();
    for (site, agent) in agents {
        agent.terminate(Duration::from_secs(30)).await?;
        let state = site.agent_state();
        let words = ["buffer", "export", "--format", "json", "--dir"].map(std::ffi::OsStr::new);
        let export = programs()?.agent.output(&[&words[..], &[state.as_os_str()]].concat()).await?;
        let values = export.lines().map(|line| {
            let row: serde_json::Value = serde_json::from_str(line)?;
            ensure!(row["device"] == "pump", "the group is no part of the topic: {line}");
            row["value"].as_u64().with_context(|| line.to_owned())
        });
        let values = values.collect::<Result<Vec<u64>>>()?;
        assert!(values.len() as u64 > MESSAGES / 10, "both have work: {}", values.len());
        all.extend(values);
    }
    all.sort_unstable();
    assert_eq!(all, (0..MESSAGES).collect::<Vec<_>>(), "each once");
    Ok(())
}
