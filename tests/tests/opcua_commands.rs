//! What `forebay-agent` does with OPC UA servers by hand, against the simulated plant.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use forebay_agent::fittings::opcua_application;
use forebay_demo::opcua::{OpcUaPlant, PlantOptions, USER};
use forebay_protocols::field::opcua::OpcUaSource;
use forebay_protocols::field::source::Source;
use forebay_tests::programs;

/// Runs the agent's program with a secret in its environment.
fn agent(arguments: &[&str]) -> Result<(Output, String, String)> {
    let words = programs()?.agent.words().to_vec();
    let (program, rest) = words.split_first().context("a program has a path")?;
    let arguments = arguments.iter().map(OsStr::new);
    let out = Command::new(program).args(rest).args(arguments).env("PLANT_PASSWORD", USER.1).output()?;
    let (words, told) = (String::from_utf8(out.stdout.clone())?, String::from_utf8(out.stderr.clone())?);
    Ok((out, words, told))
}

/// The configuration that was printed, in a file, if `check` accepts it.
fn accepted(printed: &str, folder: &Path) -> Result<String> {
    let (_, toml) = printed.split_once("\n# ").context("it prints a configuration")?;
    let config = folder.join("agent.toml");
    fs::write(&config, format!("[agent]\nsite = \"north\"\ngateway = \"gw\"\n# {toml}"))?;
    let config = config.to_str().context("UTF-8")?;
    let (out, words, told) = agent(&["check", "--config", config])?;
    ensure!(out.status.success(), "{told}\n{toml}");
    Ok(words)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_probe_prints_of_a_server_is_a_configuration_that_check_accepts() -> Result<()> {
    let plant = OpcUaPlant::start(PlantOptions::default()).await?;
    let folder = tempfile::tempdir()?;
    let (out, words, told) = agent(&["probe", "opcua", &plant.endpoint()])?;
    ensure!(out.status.success(), "{told}");
    assert!(told.contains("Nothing is written to the server."), "{told}");
    for expected in [
        "Basic256Sha256           SignAndEncrypt  anybody, user name and password",
        "Aes256_Sha256_RsaPss     Sign ",
        "Its certificate has the thumbprint ",
        "\n  Press\n    ",
        "    Flow.Temp = ",
        "[link.probed.device.Press.points]",
        "\"Flow.Temp\" = { node = \"nsu=urn:forebay:demo:plant;s=Boiler.Flow.Temp\" }",
        "Joints = { node = \"nsu=urn:forebay:demo:plant;s=Robot.Joints\", elements = \"0:5\" }",
        "s=Robot.Tool\", field = \"CartesianCoordinates.X\" }",
        "Guard = { node = \"nsu=urn:forebay:demo:plant;s=Press.Guard\", type = \"boolean\" }",
    ] {
        assert!(words.contains(expected), "{expected} is missing:\n{words}");
    }
    let checked = accepted(&words, folder.path())?;
    assert!(checked.contains("13 devices, 72 points"), "{checked}");

    // With a user, encrypted, by path, and with a limit.
    let (out, words, told) = agent(&[
        "probe",
        "opcua",
        &plant.endpoint(),
        "--security-policy",
        "Aes128_Sha256_RsaOaep",
        "--username",
        USER.0,
        "--password",
        "${PLANT_PASSWORD}",
        "--paths",
        "--limit",
        "20",
    ])?;
    ensure!(out.status.success(), "{told}");
    assert!(words.contains("There is more"), "{words}");
    assert!(words.contains("node = \"/Objects/nsu=urn:forebay:demo:plant;"), "{words}");
    assert!(words.contains("password = \"${PLANT_PASSWORD}\""), "{words}");

    // Who is not let in sees the ways in all the same.
    let (out, words, told) = agent(&[
        "probe",
        "opcua",
        &plant.endpoint(),
        "--security-policy",
        "Basic256Sha256",
        "--username",
        "x",
        "--password",
        "y",
    ])?;
    assert_eq!(out.status.code(), Some(1));
    assert!(words.contains("security_policy"), "{words}");
    assert!(told.contains("check `username` and `password`"), "{told}");
    let endpoint = plant.endpoint();
    plant.shutdown().await;
    let (out, words, told) = agent(&["probe", "opcua", &endpoint, "--timeout", "3s"])?;
    assert_eq!(out.status.code(), Some(1));
    assert!(words.is_empty() && told.contains("cannot reach"), "{words}{told}");
    let (out, _, told) = agent(&["probe", "opcua", "plc:4840"])?;
    assert_eq!(out.status.code(), Some(78), "{told}");
    Ok(())
}

/// The driver of the link in a configuration, with the keys the agent would use.
fn source(config: &Path) -> Result<OpcUaSource> {
    let agent = forebay_config::load::agent(config)?;
    let link = agent.links.first().context("there is a link")?;
    Ok(OpcUaSource::new(link, opcua_application(&agent.site, &agent.gateway, &agent.state_dir))?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_believed_when_a_person_said_so_and_another_one_in_its_place_is_not() -> Result<()> {
    let (folder, keys) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let of = |name: &str| Some(keys.path().join(name));
    let plant = OpcUaPlant::start(PlantOptions { pki_dir: of("first"), ..PlantOptions::default() }).await?;
    let (address, endpoint) = (plant.address(), plant.endpoint());
    let path = folder.path().join("agent.toml");
    fs::write(
        &path,
        format!(
            "[agent]\nsite = \"north\"\ngateway = \"gw\"\nstate_dir = {:?}\n[link.press]\ntimeout = \"20s\"\n\
             [link.press.opcua]\nendpoint = \"{endpoint}\"\nsecurity_policy = \"Basic256Sha256\"\n\
             trust_first_contact = false\n[link.press.device.d.points]\nx = {{ node = \"i=2258\", type = \"text\" }}\n",
            folder.path().join("state")
        ),
    )?;
    let config = path.to_str().context("UTF-8")?;
    let trust = |rest: &[&str]| {
        let words: Vec<&str> = ["opcua", "trust", "--config", config].iter().chain(rest).copied().collect();
        agent(&words)
    };
    let (_, words, _) = trust(&[])?;
    assert!(words.contains("nothing is trusted yet"), "{words}");

    let mut link = source(&path)?;
    let fault = link.connect().await.expect_err("nobody said that it is trusted");
    assert!(fault.to_string().contains("forebay-agent opcua trust press"), "{fault}");
    let (_, words, _) = trust(&["press"])?;
    let command = words.lines().find_map(|line| line.split("--thumbprint ").nth(1)).context("the way out")?;
    let thumbprint = command.to_owned();
    assert!(fault.to_string().contains(&thumbprint), "{fault} {words}");
    let (out, _, told) = trust(&["press", "--thumbprint", "00ff"])?;
    assert!(out.status.code() == Some(1) && told.contains("another thumbprint"), "{told}");
    ensure!(link.connect().await.is_err(), "a wrong thumbprint changes nothing");
    let (out, words, told) = trust(&["press", "--thumbprint", &thumbprint])?;
    ensure!(out.status.success() && words.contains(&thumbprint), "{words}{told}");
    link.connect().await?;
    link.close().await;
    plant.shutdown().await;

    let other = PlantOptions { address, pki_dir: of("second"), ..PlantOptions::default() };
    let other = OpcUaPlant::start(other).await?;
    let fault = link.connect().await.expect_err("another certificate");
    assert!(fault.to_string().contains("changed since the first contact"), "{fault}");
    let (_, words, _) = trust(&[])?;
    assert!(words.contains(&format!("trusted {thumbprint}")) && words.contains("refused "), "{words}");
    let (out, _, told) = trust(&["oven"])?;
    assert!(out.status.code() == Some(1) && told.contains("there are press"), "{told}");
    other.shutdown().await;
    Ok(())
}
