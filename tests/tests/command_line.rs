//! What the programs say on the command line, and how they exit.

use std::process::{Command, Output};

use anyhow::Result;
use forebay_tests::programs;

const FIVE_MISTAKES: &str = r#"[agent]
site = "north"
gateway = "boiler-house"

[link.boiler.modbus-tcp]
adress = "10.0.0.5:502"
address = "10.0.0.5:502"

[link.boiler.device.pump.points]
speed = { address = 70000 }
flow = { address = 1, type = "float23" }

[link.meters.modbus-rtu]
port = "/dev/ttyUSB0"
baud = 9500

[link.meters.device.main]
points.power = { address = 0 }

[buffer]
durability_window = 10
"#;

fn run(program: &forebay_demo::process::Program, arguments: &[&std::ffi::OsStr]) -> Result<Output> {
    let words = program.words();
    Ok(Command::new(&words[0]).args(&words[1..]).args(arguments).output()?)
}

#[test]
fn check_reports_five_mistakes_with_line_and_column_and_exits_78() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("agent.toml");
    std::fs::write(&config, FIVE_MISTAKES)?;
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
        std::fs::write(
            &config,
            format!("[server]\nstate_dir = {:?}\n[nonsense]\n", folder.path().join("state")),
        )?;
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
    Ok(())
}
