//! `forebay-agent read`: devices that nobody here wrote, and a broker whose session with the running
//! agent must not suffer.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use forebay_demo::modbus::{Fault, ModbusPlant};
use forebay_demo::opcua::{OpcUaPlant, PlantOptions};
use forebay_demo::process::Program;
use forebay_tests::programs;
use serde_json::Value;
use tokio::task::spawn_blocking;

use forebay_tests::mosquitto::{Mosquitto, Security};

/// A configuration in a folder of its own.
struct Gateway {
    agent: Program,
    folder: tempfile::TempDir,
}

impl Gateway {
    fn new(links: &str) -> Result<Self> {
        let gateway = Self { agent: programs()?.agent, folder: tempfile::tempdir()? };
        let state = gateway.folder.path().join("state");
        fs::write(
            gateway.config(),
            format!(
                "[agent]\nsite = \"t\"\ngateway = \"g\"\nstate_dir = {state:?}\n[telemetry]\nlisten = \"off\"\n\
                 [buffer]\ndurability_window = \"100ms\"\n{links}"
            ),
        )?;
        Ok(gateway)
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("agent.toml")
    }

    /// `forebay-agent read --once WORDS`: exit code, standard output, standard error. In a thread of its
    /// own: the devices are played by this one.
    async fn read(&self, words: &[&str]) -> Result<(Option<i32>, String, String)> {
        let mut command = Command::new(&self.agent.words()[0]);
        command.args(["read", "--once"]).args(words).arg("--config").arg(self.config());
        let Output { status, stdout, stderr } = spawn_blocking(move || command.output()).await??;
        Ok((status.code(), String::from_utf8(stdout)?, String::from_utf8(stderr)?))
    }

    async fn read_json(&self, words: &[&str]) -> Result<(Option<i32>, Value, String)> {
        let words: Vec<&str> = words.iter().copied().chain(["--json"]).collect();
        let (code, out, told) = self.read(&words).await?;
        Ok((code, serde_json::from_str(&out).with_context(|| out.clone())?, told))
    }

    fn run(&self) -> Result<forebay_demo::process::Process> {
        let (config, log) = (self.config(), self.folder.path().join("agent.log"));
        self.agent.start(&["run".as_ref(), "--config".as_ref(), config.as_os_str()], &log)
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }
}

fn of<'j>(json: &'j Value, device: &str, point: &str) -> &'j Value {
    let readings = json["readings"].as_array().map_or(&[][..], Vec::as_slice);
    readings.iter().find(|row| row["device"] == device && row["point"] == point).unwrap_or(&Value::Null)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_point_of_every_protocol_is_read_once_and_shown() -> Result<()> {
    let boilers = ModbusPlant::start_tcp("127.0.0.1:0".parse()?, &[1, 2]).await?;
    let meters = ModbusPlant::start_rtu_bus(&[11])?;
    let press = OpcUaPlant::start(PlantOptions::default()).await?;
    let name = |text: &str| forebay_config::units::Name::new(text).map_err(anyhow::Error::msg);
    let links =
        [boilers.link_toml(&name("boilers")?), meters.link_toml(&name("meters")?), press.link_toml("press")];
    let gateway = Gateway::new(&links.join("\n"))?;
    let (code, json, told) = gateway.read_json(&[]).await?;
    assert_eq!((code, told.as_str()), (Some(0), ""), "{json}");
    assert_eq!(json["complete"], true);
    let readings = json["readings"].as_array().context("readings")?;
    assert!(readings.len() > 120, "{} readings", readings.len());
    assert!(readings.iter().all(|row| row["quality"] == "good"), "{json}");
    let temperature = of(&json, "boiler-1", "supply_temperature");
    assert!((84.0..=92.0).contains(&temperature["value"].as_f64().context("a number")?), "{temperature}");
    assert!(temperature["age_s"].as_f64().is_some_and(|age| (0.0..10.0).contains(&age)), "{temperature}");

    let (code, text, _) = gateway.read(&["boiler-2", "supply_*"]).await?;
    assert_eq!(code, Some(0));
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.len() == 3 && lines[0].starts_with("device"), "a head and two points:\n{text}");
    assert!(
        text.contains("supply_temperature") && text.contains(" °C ") && text.contains(" good "),
        "{text}"
    );

    // One unit fails; the others are read all the same, and it is said which.
    boilers.faults().set(2, Fault::Silent);
    let (code, json, told) = gateway.read_json(&["boiler-*"]).await?;
    assert_eq!(code, Some(1));
    assert_eq!(of(&json, "boiler-1", "supply_temperature")["quality"], "good");
    assert_eq!(of(&json, "boiler-2", "supply_temperature")["value"], Value::Null);
    assert!(told.contains("device boiler-2: unit 2 did not answer within 1s"), "{told}");

    boilers.shutdown().await;
    let (code, json, told) = gateway.read_json(&["boiler-1"]).await?;
    assert_eq!(code, Some(1));
    assert!(
        told.contains("link boilers: cannot reach 127.0.0.1:") && told.contains("nothing listens"),
        "{told}"
    );
    assert_eq!(json["unreachable"][0]["link"], "boilers");

    let (code, out, told) = gateway.read(&["boyler-1"]).await?;
    assert_eq!((code, out.as_str()), (Some(2), ""));
    assert!(told.contains("the devices are: boiler-1, boiler-2"), "{told}");
    meters.shutdown().await;
    press.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_the_agent_has_is_told_with_who_has_it() -> Result<()> {
    let meters = ModbusPlant::start_rtu_bus(&[11])?;
    let name = forebay_config::units::Name::new("meters").map_err(anyhow::Error::msg)?;
    let gateway = Gateway::new(&meters.link_toml(&name))?;
    let running = gateway.run()?;
    let id = running.id().context("it runs")?;
    appended(&gateway.agent, &gateway.state(), 10).await?;
    let (code, _, told) = gateway.read(&[]).await?;
    assert_eq!(code, Some(1));
    assert!(told.contains("another program has the port open"), "{told}");
    assert!(told.contains(&format!("process {id}")) && told.contains("forebay-agent tail"), "{told}");
    running.terminate(Duration::from_secs(30)).await?;
    meters.shutdown().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_at_a_broker_takes_nothing_from_the_agent_that_runs_and_leaves_no_session() -> Result<()> {
    let broker = Mosquitto::start(Security::None).await;
    broker.publish(&["-r", "-t", "plant/tank/level", "-m", "7.5"]).await;
    let gateway = Gateway::new(&format!(
        "[link.hall.mqtt]\nbroker = \"mqtt://127.0.0.1:{}\"\nversion = \"5\"\n\
         [[link.hall.topic]]\ntopic = \"$share/gateways/plant/{{device}}/{{point}}\"\n\
         [[link.hall.topic]]\ntopic = \"oven/{{device}}\"\npoints = {{ temperature = {{ pointer = \"/t\" }} }}\n",
        broker.port
    ))?;
    let running = gateway.run()?;
    broker.publish(&["-t", "oven/east", "-m", "{\"t\": 1}"]).await;
    appended(&gateway.agent, &gateway.state(), 1).await?;

    let reading = gateway.read_json(&["--wait", "3s"]);
    let publishing = async {
        for n in 0..30 {
            broker.publish(&["-t", "plant/pump/flow", "-m", &n.to_string()]).await;
        }
    };
    let (read, ()) = tokio::join!(reading, publishing);
    let (code, json, told) = read?;
    assert_eq!(code, Some(0), "{told}");
    assert!(told.starts_with("Listening for 3s"), "{told}");
    assert_eq!(of(&json, "tank", "level")["value"], 7.5);
    assert_eq!(of(&json, "tank", "level")["quality"], "uncertain: last known value");
    assert_eq!(of(&json, "tank", "level")["age_s"], Value::Null);
    assert!(of(&json, "pump", "flow")["value"].is_number(), "{json}");
    // 1 of the oven and all 30: a member of its group would have taken some.
    appended(&gateway.agent, &gateway.state(), 31).await?;
    running.terminate(Duration::from_secs(30)).await?;
    let log = fs::read_to_string(gateway.folder.path().join("agent.log"))?;
    ensure!(!log.contains("The link is down"), "the agent's connection was taken away:\n{log}");
    Ok(())
}

/// A key that root makes in the agent's folder the agent could not read any more.
#[tokio::test(flavor = "multi_thread")]
async fn opc_ua_servers_are_not_asked_by_another_user_than_the_agents() -> Result<()> {
    let press = OpcUaPlant::start(PlantOptions::default()).await?;
    let mut gateway = Gateway::new(&press.link_toml("press"))?;
    // The folder of somebody else: root can make one, and anybody else finds root's.
    let state = if rustix::process::geteuid().is_root() {
        fs::create_dir(gateway.state())?;
        std::os::unix::fs::chown(gateway.state(), Some(65_534), None)?;
        gateway.state()
    } else {
        PathBuf::from("/")
    };
    let config = fs::read_to_string(gateway.config())?;
    fs::write(gateway.config(), config.replace(&format!("{:?}", gateway.state()), &format!("{state:?}")))?;
    let (code, json, told) = gateway.read_json(&["Tank"]).await?;
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("link press: not asked") && told.contains("run this as that user"), "{told}");
    assert_eq!(json["complete"], false);
    assert!(!state.join("opcua").exists(), "nothing was made");
    gateway = Gateway::new(&press.link_toml("press"))?;
    let (code, _, told) = gateway.read_json(&["Tank"]).await?;
    assert_eq!((code, told.as_str()), (Some(0), ""));
    press.shutdown().await;
    Ok(())
}

/// Waits until the agent of `state` has appended as many readings.
async fn appended(agent: &Program, state: &Path, readings: u64) -> Result<()> {
    let mut seen = 0;
    for _ in 0..300 {
        let mut command = Command::new(&agent.words()[0]);
        command.args(["buffer", "status", "--json", "--dir"]).arg(state.join("buffer"));
        let out = spawn_blocking(move || command.output()).await??;
        let status: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
        seen = status["readings"]["appended"].as_u64().unwrap_or(0);
        if seen >= readings {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    anyhow::bail!("{seen} of {readings} readings were appended")
}
