//! What `forebay-agent` does with OPC UA servers by hand, against the simulated plant.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use forebay_demo::opcua::{OpcUaPlant, PlantOptions, USER};
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
        "Guard = { node = \"nsu=urn:forebay:demo:plant;s=Press.Guard\", type = \"boolean\" }",
    ] {
        assert!(words.contains(expected), "{expected} is missing:\n{words}");
    }
    let checked = accepted(&words, folder.path())?;
    assert!(checked.contains("60 points"), "{checked}");

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
