//! What the programs say on the command line, and how they exit.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use forebay_demo::modbus::ModbusPlant;
use forebay_demo::process::Program;
use forebay_tests::load_device::LoadDevice;
use forebay_tests::{FIVE_MISTAKES, programs};
use serde_json::Value;

fn run(program: &Program, arguments: &[&OsStr]) -> Result<Output> {
    let words = program.words();
    Ok(Command::new(&words[0]).args(&words[1..]).args(arguments).output()?)
}

#[test]
fn check_reports_five_mistakes_with_line_and_column_and_exits_78() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("agent.toml");
    fs::write(&config, FIVE_MISTAKES)?;
    let out = run(&programs()?.agent, &["check".as_ref(), "--config".as_ref(), config.as_os_str()])?;
    let words = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    println!("{words}");
    assert_eq!(out.status.code(), Some(78), "{words}");
    for place in [":6:1)", ":10:21)", ":11:30)", ":15:8)", ":21:21)"] {
        assert!(words.contains(place), "{place} is not in:\n{words}");
    }
    assert!(words.contains("did you mean `address`?"), "{words}");
    assert!(words.contains("5 mistakes"), "{words}");
    Ok(())
}

#[test]
fn run_starts_nothing_on_a_bad_configuration_and_exits_78() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for (program, name) in [(programs()?.agent, "agent.toml"), (programs()?.server, "server.toml")] {
        let config = folder.path().join(name);
        fs::write(&config, format!("[server]\nstate_dir = {:?}\n[nonsense]\n", folder.path().join("state")))?;
        let out = run(&program, &["run".as_ref(), "--config".as_ref(), config.as_os_str()])?;
        assert_eq!(out.status.code(), Some(78), "{}", String::from_utf8_lossy(&out.stderr));
        assert!(!folder.path().join("state").exists(), "nothing was made");
    }
    Ok(())
}

#[test]
fn the_example_files_pass_the_check() -> Result<()> {
    let examples = forebay_tests::tests_folder().join("../config/examples");
    for (program, name) in [(programs()?.agent, "agent.toml"), (programs()?.server, "server.toml")] {
        let out = run(&program, &["check".as_ref(), "--config".as_ref(), examples.join(name).as_os_str()])?;
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
    let composed = forebay_tests::tests_folder().join("../sync-server/compose/server/server.toml");
    let server = programs()?.server;
    let out = Command::new(&server.words()[0])
        .args(["check".as_ref(), "--config".as_ref(), composed.as_os_str()])
        .envs([("POSTGRES_PASSWORD", "secret"), ("FOREBAY_ADDRESS", "forebay.example:8443")])
        .output()?;
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    Ok(())
}

/// `forebay-agent buffer WORDS --dir FOLDER`: its exit code and what it said.
fn buffer(agent: &Program, words: &[&str], folder: &Path) -> Result<(Option<i32>, String, String)> {
    let mut arguments: Vec<&OsStr> = vec!["buffer".as_ref()];
    arguments.extend(words.iter().map(OsStr::new));
    arguments.extend(["--dir".as_ref(), folder.as_os_str()]);
    let out = run(agent, &arguments)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((out.status.code(), text(&out.stdout), text(&out.stderr)))
}

/// Flips a bit in the last batch but a few of the largest segment.
fn flip_a_bit(folder: &Path) -> Result<()> {
    let entries = fs::read_dir(folder)?.collect::<std::io::Result<Vec<_>>>()?;
    let segments =
        entries.iter().map(fs::DirEntry::path).filter(|path| path.to_string_lossy().contains("segment-"));
    let path =
        segments.max_by_key(|path| fs::metadata(path).map_or(0, |about| about.len())).context("a segment")?;
    let mut bytes = fs::read(&path)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    Ok(fs::write(path, bytes)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_technician_looks_into_the_buffer_of_an_agent_that_runs() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let device = LoadDevice::start().await?;
    let (config, state) = (folder.path().join("agent.toml"), folder.path().join("state"));
    fs::write(
        &config,
        format!(
            "[agent]\nsite = \"t\"\ngateway = \"looked-at\"\nstate_dir = {state:?}\n[telemetry]\nlisten = \"127.0.0.1:0\"\n\
             [buffer]\ndurability_window = \"100ms\"\n{}",
            device.link_toml(200, "100ms")
        ),
    )?;
    let agent = programs()?.agent;
    let running = agent.start(
        &["run".as_ref(), "--config".as_ref(), config.as_os_str()],
        &folder.path().join("agent.log"),
    )?;
    let started = Instant::now();
    loop {
        let (_, json, _) = buffer(&agent, &["status", "--json"], &state)?;
        let status: Value = serde_json::from_str(&json).unwrap_or_default();
        if status["backlog"]["batches"].as_u64() > Some(5) {
            assert_eq!(status["used_by"].as_u64(), running.id().map(u64::from));
            break;
        }
        ensure!(started.elapsed() < Duration::from_secs(30), "no batches:\n{}", running.log_tail());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for _ in 0..3 {
        let (code, words, stderr) = buffer(&agent, &["verify"], &state)?;
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "no progress line where nobody watches: {words}");
        assert!(words.ends_with("all is well\n"), "{words}");
    }
    let (code, words, _) = buffer(&agent, &["status", "--config", &config.to_string_lossy()], &state)?;
    assert_eq!(code, Some(0), "{words}");
    assert!(words.contains(" of 1.0 GiB ("), "the budget is the configuration's: {words}");
    let pid = running.id().context("it runs")?;
    running.terminate(Duration::from_secs(30)).await?;
    let (_, words, _) = buffer(&agent, &["status"], &state)?;
    assert!(words.contains("in use        no; it was closed in good order\n"), "after {pid}: {words}");

    let (_, json, _) = buffer(&agent, &["status", "--json"], &state)?;
    let readings = serde_json::from_str::<Value>(&json)?["backlog"]["readings"].as_u64();
    let (code, csv, stderr) = buffer(&agent, &["export"], &state)?;
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(csv.lines().count() as u64 - 1, readings.context("a number")?);
    assert!(csv.starts_with("time,device,point,value,unit,quality,sequence,clock\r\n"), "{csv:.200}");
    let (_, lines, _) =
        buffer(&agent, &["export", "--format", "json", "--device", "d1", "--point", "p7"], &state)?;
    for line in lines.lines() {
        let row: Value = serde_json::from_str(line)?;
        assert_eq!((&row["device"], &row["point"]), (&Value::from("d1"), &Value::from("p7")));
    }
    assert!(lines.lines().count() > 5, "{lines}");

    flip_a_bit(&state.join("buffer"))?;
    let (code, words, _) = buffer(&agent, &["verify"], &state)?;
    assert_eq!(code, Some(1), "{words}");
    assert!(words.contains("1 trouble, told above") && words.contains("gap record"), "{words}");
    let (code, _, stderr) = buffer(&agent, &["export"], &state)?;
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("1 damaged part was left out"), "{stderr}");
    Ok(())
}

#[test]
fn a_buffer_that_cannot_be_read_exits_2_and_says_what_to_do() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let agent = programs()?.agent;
    for words in [["status"], ["verify"], ["export"]] {
        let (code, stdout, stderr) = buffer(&agent, &words, &folder.path().join("nowhere"))?;
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{stderr}");
        assert!(stderr.starts_with("there is no buffer at ") && stderr.contains("--dir"), "{stderr}");
        let (code, _, stderr) = buffer(&agent, &words, folder.path())?;
        assert_eq!(code, Some(2), "{stderr}");
        assert!(stderr.contains(" holds no buffer"), "{stderr}");
    }
    Ok(())
}

#[test]
fn a_buffer_that_belongs_to_another_user_says_so() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let locked = folder.path().join("buffer");
    fs::create_dir(&locked)?;
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o700))?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    // root may read everything, so as root the question is asked by nobody.
    let program = folder.path().join("forebay-agent");
    fs::copy(&programs()?.agent.words()[0], &program)?;
    let mut command = Command::new(&program);
    if rustix::process::getuid().is_root() {
        command.uid(65_534).gid(65_534);
    } else {
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o000))?;
    }
    let out = command.args(["buffer", "status", "--dir"]).arg(&locked).output()?;
    let words = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(2), "{words}");
    assert!(words.contains(" may not be read by this user: try again with sudo"), "{words}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_went_away_is_no_failure() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("agent.toml");
    let state = folder.path().join("state");
    fs::write(
        &config,
        format!(
            "[agent]\nsite = \"t\"\ngateway = \"g\"\nstate_dir = {state:?}\n[telemetry]\nlisten = \"127.0.0.1:0\"\n\
             [link.none.modbus-tcp]\naddress = \"127.0.0.1:1\"\n[link.none.device.d]\npoints.p = {{ address = 0 }}\n"
        ),
    )?;
    let agent = programs()?.agent;
    let running = agent.start(
        &["run".as_ref(), "--config".as_ref(), config.as_os_str()],
        &folder.path().join("agent.log"),
    )?;
    let started = Instant::now();
    while buffer(&agent, &["verify"], &state)?.0 != Some(0) {
        ensure!(started.elapsed() < Duration::from_secs(30), "no buffer:\n{}", running.log_tail());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for words in ["status", "verify", "export"] {
        let mut command = Command::new(&agent.words()[0]);
        // Gone before the program begins: one that goes after may still have taken the words.
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        let out = command.args(["buffer", words, "--dir"]).arg(&state).stdout(writer).output()?;
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert_eq!((out.status.code(), stderr.as_ref()), (Some(0), ""), "{words}");
    }
    running.terminate(Duration::from_secs(30)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_probe_prints_of_a_device_is_a_configuration_that_check_accepts() -> Result<()> {
    let plant = ModbusPlant::start_tcp("127.0.0.1:0".parse()?, &[3]).await?;
    let target = format!("tcp://{}", plant.address().context("a TCP plant has an address")?);
    let agent = &programs()?.agent;
    let probe = |what: &[&str], rest: &[&str]| {
        let words = [&["probe", "modbus"], what, &[target.as_str()], rest].concat();
        let arguments: Vec<&OsStr> = words.iter().map(OsStr::new).collect();
        run(agent, &arguments)
    };
    let out = probe(&[], &["--unit", "3", "--count", "40"])?;
    let (words, told) = (String::from_utf8(out.stdout)?, String::from_utf8(out.stderr)?);
    println!("{told}{words}");
    ensure!(out.status.success());
    assert!(told.contains("Nothing is written to the device."), "{told}");
    let (_, toml) = words.split_once("\n# ").context("it prints a configuration")?;
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("agent.toml");
    fs::write(&config, format!("[agent]\nsite = \"north\"\ngateway = \"gw\"\n# {toml}"))?;
    let checked = run(agent, &["check".as_ref(), "--config".as_ref(), config.as_os_str()])?;
    ensure!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let scanned = probe(&["scan"], &["--to", "5", "--timeout", "200ms"])?;
    assert_eq!(String::from_utf8(scanned.stdout)?, "3\n");
    let refused = probe(&[], &["--count", "0"])?;
    assert_eq!(refused.status.code(), Some(78));
    let nowhere = run(agent, &["probe".as_ref(), "modbus".as_ref()])?;
    assert_eq!(nowhere.status.code(), Some(2), "a target is needed");
    plant.shutdown().await;
    Ok(())
}
