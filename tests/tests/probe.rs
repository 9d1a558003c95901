//! `forebay-agent probe` before anything is configured: a broker with Mosquitto's own publishers, and a
//! serial line of which nobody knows the speed.

use std::fs;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result};
use forebay_demo::pty::Pty;
use forebay_tests::mosquitto::{Mosquitto, Security};
use forebay_tests::programs;
use rustix::termios::tcgetattr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::spawn_blocking;

/// Runs the agent's command line in a thread of its own: the devices are played by this one.
async fn agent(words: &[&str]) -> Result<(Option<i32>, String, String)> {
    let mut command = Command::new(&programs()?.agent.words()[0]);
    command.args(words);
    let Output { status, stdout, stderr } = spawn_blocking(move || command.output()).await??;
    Ok((status.code(), String::from_utf8(stdout)?, String::from_utf8(stderr)?))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_at_a_broker_becomes_a_configuration_that_check_accepts() -> Result<()> {
    let broker = Mosquitto::start(Security::Password { user: "me", password: "right" }).await;
    let folder = tempfile::tempdir()?;
    let password = folder.path().join("password");
    fs::write(&password, "right\n")?;
    let publish = async |topic: &str, payload: &str, kept: bool| {
        let keep: &[&str] = if kept { &["-r"] } else { &[] };
        let words = [keep, &["-u", "me", "-P", "right", "-t", topic, "-m", payload]].concat();
        broker.publish(&words).await;
    };
    publish("sensors/north/state", r#"{"time":"2026-11-21T08:00:00Z","temp":20.5,"door":false}"#, true).await;
    publish("sensors/south/state", r#"{"temp":21.5,"door":true}"#, true).await;
    let url = format!("mqtt://127.0.0.1:{}", broker.port);
    for version in ["3.1.1", "5"] {
        let password = password.to_string_lossy();
        let words = [
            "probe",
            "mqtt",
            &url,
            "--for",
            "3s",
            "--mqtt-version",
            version,
            "--username",
            "me",
            "--password-file",
            &password,
        ];
        let speaking = async {
            for value in 0..20 {
                tokio::time::sleep(Duration::from_millis(100)).await;
                publish("plant/pump/flow", &value.to_string(), false).await;
                publish("plant/fan/speed", "1450", false).await;
            }
        };
        let (asked, ()) = tokio::join!(agent(&words), speaking);
        let (code, out, told) = asked?;
        assert_eq!(code, Some(0), "{told}");
        assert!(told.contains("Nothing is published."), "{told}");
        assert!(out.contains("  north\n") && out.contains("(kept by the broker)"), "{out}");
        let (tree, toml) = out.split_once("\n# ").context("it prints a configuration")?;
        assert!(tree.contains("pump") && tree.contains(" messages)"), "{tree}");
        assert!(toml.contains("topic = \"sensors/{device}/state\"\ntimestamp = \"/time\""), "{toml}");
        assert!(toml.contains("topic = \"plant/{device}/{point}\""), "{toml}");
        assert!(!out.contains("right"), "no password is printed");
        let config = folder.path().join("agent.toml");
        // The credential is systemd's to give.
        let toml = toml.replace("${credential:mqtt-password}", "right");
        fs::write(&config, format!("[agent]\nsite = \"north\"\ngateway = \"gw\"\n# {toml}"))?;
        let config = config.to_string_lossy();
        let (code, _, told) = agent(&["check", "--config", &config]).await?;
        assert_eq!(code, Some(0), "{told}");
    }
    let (code, _, told) = agent(&["probe", "mqtt", &url, "--for", "1s"]).await?;
    assert_eq!(code, Some(1));
    assert!(told.contains("not authorised"), "{told}");
    let quiet = ["probe", "mqtt", &url, "--for", "300ms", "--topic", "nothing/#", "--username", "me"];
    let password = password.to_string_lossy();
    let (code, out, told) = agent(&[&quiet[..], &["--password-file", &password]].concat()).await?;
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(told.contains("nothing was said on nothing/#"), "{told}");
    Ok(())
}

/// CRC-16/MODBUS (Modbus over Serial Line V1.02, 6.2.2), least significant byte first.
fn with_crc(frame: &[u8]) -> Vec<u8> {
    let mut crc = 0xffff_u16;
    for byte in frame {
        crc ^= u16::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xa001 } else { crc >> 1 };
        }
    }
    [frame, &crc.to_le_bytes()].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_speed_of_a_serial_line_is_found_by_trying() -> Result<()> {
    let mut line = Pty::open()?;
    let path = line.path().to_string_lossy().into_owned();
    let tty = fs::File::open(&path)?;
    // Unit 2 hears only what is said at 38400 baud; a pseudo terminal knows no parity.
    let device = tokio::spawn(async move {
        let mut query = [0; 8];
        while line.read_exact(&mut query).await.is_ok() {
            let hears = tcgetattr(&tty).is_ok_and(|settings| settings.output_speed() == 38_400);
            if hears && query[0] == 2 {
                let _ = line.write_all(&with_crc(&[2, 3, 2, 0, 7])).await;
            }
        }
    });
    let target = format!("rtu://{path}");
    let (code, out, told) =
        agent(&["probe", "modbus", "scan", &target, "--to", "3", "--timeout", "100ms"]).await?;
    assert_eq!((code, out.as_str()), (Some(0), "2\n"), "{told}");
    assert!(told.contains(&format!("nobody answers at {target}?baud=9600&parity=even")), "{told}");
    assert!(told.contains(&format!("The line is {target}?baud=38400&parity=even")), "{told}");
    // What is given is not tried.
    let given = format!("{target}?baud=9600");
    let (code, _, told) =
        agent(&["probe", "modbus", "scan", &given, "--to", "2", "--timeout", "100ms"]).await?;
    assert_eq!(code, Some(1));
    assert!(told.contains("are the port, baud rate and parity right?"), "{told}");
    device.abort();
    Ok(())
}
