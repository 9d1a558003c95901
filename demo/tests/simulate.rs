//! `forebay-demo simulate` as a user starts it, read by the drivers with the configuration it prints.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use forebay_config::field::{Link, Protocol};
use forebay_config::load;
use forebay_protocols::field::modbus::ModbusSource;
use forebay_protocols::field::mqtt::MqttSource;
use forebay_protocols::field::opcua::{Application, OpcUaSource};
use forebay_protocols::field::source::{LinkFault, Source};
use forebay_protocols::reading::{Fault, Quality};
use rustls::time_provider::DefaultTimeProvider;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin};
use tokio::time::{Instant, sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(20);

/// The program, killed when dropped.
struct Simulated {
    child: Child,
    typed: ChildStdin,
    link: Link,
}

impl Simulated {
    async fn start(words: &[&str]) -> Result<Self> {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_forebay-demo"));
        command.arg("simulate").args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let typed = child.stdin.take().context("its input is piped")?;
        let mut lines = BufReader::new(child.stdout.take().context("its output is piped")?).lines();
        let mut toml = "[agent]\nsite = \"a\"\ngateway = \"b\"\n".to_owned();
        let reading = async {
            while let Some(line) = lines.next_line().await? {
                if line == "# Ready." {
                    return Ok(());
                }
                toml += &(line + "\n");
            }
            anyhow::bail!("it ended:\n{toml}")
        };
        timeout(PATIENCE, reading).await.context("it starts")??;
        let agent = load::agent_text("printed", &toml).map_err(|error| anyhow::anyhow!("{error}\n{toml}"))?;
        let link = agent.links.into_iter().next().context("a link")?;
        let mut link = Link::clone(&link);
        link.timeout = Duration::from_millis(700);
        link.backoff_max = Duration::from_secs(1);
        Ok(Self { child, typed, link })
    }

    async fn say(&mut self, words: &str) -> Result<()> {
        Ok(self.typed.write_all(format!("{words}\n").as_bytes()).await?)
    }

    async fn quit(mut self) -> Result<()> {
        self.say("quit").await?;
        let status = timeout(PATIENCE, self.child.wait()).await.context("it ends")??;
        ensure!(status.success(), "{status}");
        Ok(())
    }
}

/// Drives `source`, reconnecting, until `done` of the latest qualities by `device/point`.
async fn until<S: Source>(
    source: &mut S,
    what: &str,
    done: impl Fn(&BTreeMap<String, Quality>, &[LinkFault]) -> bool,
) -> Result<()> {
    let (mut latest, mut faults) = (BTreeMap::new(), Vec::new());
    let started = Instant::now();
    while !done(&latest, &faults) {
        ensure!(started.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}: {latest:?} {faults:?}");
        match timeout(Duration::from_secs(3), source.next()).await {
            Err(_) => {}
            Ok(Ok(harvest)) => {
                for sample in harvest.samples {
                    let point = &source.points()[sample.slot];
                    latest.insert(format!("{}/{}", point.device, point.name), sample.quality);
                }
                harvest.receipt.into_iter().for_each(|receipt| receipt.confirm());
            }
            Ok(Err(fault)) => {
                faults.push(fault);
                while let Err(fault) = source.connect().await {
                    ensure!(started.elapsed() < PATIENCE, "{what}: {fault}");
                    faults.push(fault);
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
    Ok(())
}

const SUPPLY: &str = "boiler-2/supply_temperature";

#[tokio::test(flavor = "multi_thread")]
async fn a_modbus_device_fails_as_it_is_told_and_mends() -> Result<()> {
    let mut device = Simulated::start(&["modbus", "--units", "1,2", "--fault", "hole=0-1:1@0"]).await?;
    let mut source = ModbusSource::new(&device.link).context("Modbus")?;
    source.connect().await?;
    let of = |quality| {
        move |latest: &BTreeMap<String, Quality>, _: &[LinkFault]| latest.get(SUPPLY) == Some(&quality)
    };
    until(&mut source, "all is well", |latest, _| {
        latest.get(SUPPLY) == Some(&Quality::Good)
            && latest.get("boiler-1/supply_temperature") == Some(&Quality::Bad(Fault::NotFound))
            && latest.get("boiler-1/return_temperature") == Some(&Quality::Good)
    })
    .await?;
    device.say("exception=4:2").await?;
    until(&mut source, "an exception", of(Quality::Bad(Fault::DeviceFailure))).await?;
    device.say("mend").await?;
    until(&mut source, "mended", of(Quality::Good)).await?;
    device.say("wrong-unit:2").await?;
    until(&mut source, "another unit's number", |latest, faults| {
        !faults.is_empty() || latest.get(SUPPLY).is_some_and(|quality| matches!(quality, Quality::Bad(_)))
    })
    .await?;
    device.say("mend").await?;
    until(&mut source, "mended", of(Quality::Good)).await?;
    device.say("drop").await?;
    until(&mut source, "a dropped connection", |_, faults| !faults.is_empty()).await?;
    until(&mut source, "mended", of(Quality::Good)).await?;
    device.say("silent:2").await?;
    until(&mut source, "silence", of(Quality::Bad(Fault::Silent))).await?;
    device.say("mend").await?;
    // A unit that was silent is asked again within its pause.
    until(&mut source, "mended", of(Quality::Good)).await?;
    device.quit().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opc_ua_server_comes_back_with_other_namespaces() -> Result<()> {
    let mut device = Simulated::start(&["opcua"]).await?;
    device.link.timeout = Duration::from_secs(5);
    let folder = tempfile::tempdir()?;
    let application =
        Application { pki_dir: folder.path().into(), name: "test".into(), uri: "urn:test".into() };
    let mut source = OpcUaSource::new(&device.link, application)?;
    source.connect().await?;
    let all_good = |latest: &BTreeMap<String, Quality>, faults: &[LinkFault], lost: usize| {
        faults.len() >= lost && latest.len() >= 60 && latest.values().all(|quality| *quality == Quality::Good)
    };
    until(&mut source, "all is well", |latest, faults| all_good(latest, faults, 0)).await?;
    device.say("renumbered").await?;
    until(&mut source, "renumbered, and found again", |latest, faults| all_good(latest, faults, 1)).await?;
    source.close().await;
    device.quit().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_forgets_the_session_and_babbles() -> Result<()> {
    let mut device = Simulated::start(&["mqtt"]).await?;
    let Protocol::Mqtt(_) = &device.link.protocol else { anyhow::bail!("an MQTT link") };
    device.link.timeout = Duration::from_secs(5);
    let mut source = MqttSource::new(&device.link, Arc::new(DefaultTimeProvider))?;
    source.connect().await?;
    let is_well = |latest: &BTreeMap<String, Quality>| latest.get("feed-pump/flow") == Some(&Quality::Good);
    until(&mut source, "all is well", |latest, _| is_well(latest)).await?;
    device.say("forgets").await?;
    until(&mut source, "a new session", |latest, faults| !faults.is_empty() && is_well(latest)).await?;
    device.say("garbage").await?;
    let flow = |latest: &BTreeMap<String, Quality>| latest.get("feed-pump/flow").copied();
    until(&mut source, "a word for a number", |latest, _| {
        flow(latest) == Some(Quality::Bad(Fault::WrongType))
    })
    .await?;
    device.say("mend").await?;
    until(&mut source, "mended", |latest, _| is_well(latest)).await?;
    source.close().await;
    device.quit().await
}

#[test]
fn a_fault_that_the_device_does_not_have_is_refused() -> Result<()> {
    for (words, why) in [
        (&["opcua", "--fault", "silent:1@0"][..], "this device has no fault Silent"),
        (&["modbus", "--fault", "silent:9@0"], "there is no unit 9"),
        (&["modbus", "--serial", "--units", "1", "--fault", "cut@0"], "this device has no fault Cut"),
        (&["mqtt", "--fault", "loud@0"], "there is no fault `loud`"),
    ] {
        let out = Command::new(env!("CARGO_BIN_EXE_forebay-demo"))
            .arg("simulate")
            .args(words)
            .stdin(Stdio::null())
            .output()?;
        let told = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success() && told.contains(why), "{words:?}: {told}");
    }
    Ok(())
}

#[test]
fn a_device_with_a_plan_and_an_end_needs_nobody_to_type() -> Result<()> {
    let words = [
        "simulate",
        "modbus",
        "--serial",
        "--units",
        "11",
        "--fault",
        "silent:11@0.2..0.5",
        "--seconds",
        "1",
    ];
    let out = Command::new(env!("CARGO_BIN_EXE_forebay-demo")).args(words).stdin(Stdio::null()).output()?;
    let told = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{told}");
    let begins = told.find("begins").context("it begins")?;
    assert!(told.find("ends").is_some_and(|ends| ends > begins), "{told}");
    assert!(String::from_utf8_lossy(&out.stdout).contains("[link.simulated.modbus-rtu]"));
    Ok(())
}
