//! The running server against its own description of itself: schemathesis asks what `/openapi.json`
//! allows and what it does not, and nothing may be answered that is not in there, least of all a 500.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use forebay_demo::http;
use forebay_demo::site::Site;
use forebay_tests::load_device::LoadDevice;
use forebay_tests::programs;
use tokio::time::{Instant, sleep, timeout};

/// How long to ask.
const SECONDS: u64 = 60;
/// One that never ends, those that end what else is tried here, and the first user, who closes the doors.
const LEFT_OUT: &str = "/(live|login|logout|setup|password)$";

#[tokio::test]
async fn nothing_is_answered_that_the_description_does_not_have() -> Result<()> {
    let python =
        std::env::var("FOREBAY_TEST_PYTHON").context("FOREBAY_TEST_PYTHON: run tests/run --prepare")?;
    let fuzzer = PathBuf::from(python).with_file_name("st");
    let folder = tempfile::tempdir()?;
    let device = LoadDevice::start().await?;
    let site = Site::new(folder.path(), programs()?, None, 0).await?;
    site.configure_agent("t", "described", &device.link_toml(20, "500ms"), "")?;
    let _server = site.start_server().await?;
    site.join().await?;
    let _agent = site.start_agent().await?;
    let web = site.web_address();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !http::get(web, "/api/v1/points").await?.contains("\"latest\":{") {
        ensure!(Instant::now() < deadline, "no reading has arrived");
        sleep(Duration::from_millis(200)).await;
    }

    let mut asking = Command::new(&fuzzer);
    asking
        .current_dir(folder.path())
        .arg("run")
        .arg(format!("http://{web}/api/v1/openapi.json"))
        .args(["--exclude-path-regex", LEFT_OUT, "--exclude-operation-id", "post-users"])
        .args(["--header", "X-Forebay: 1"])
        .args(["--phases", "coverage,fuzzing"])
        .args(["--max-time", &SECONDS.to_string()])
        .args(["--checks", "not_a_server_error,status_code_conformance,content_type_conformance"])
        .args(["--checks", "response_schema_conformance,negative_data_rejection,unsupported_method"])
        .args(["--generation-database", "none", "--no-color", "--warnings", "off", "--continue-on-failure"]);
    let asked = tokio::task::spawn_blocking(move || asking.output());
    let out = timeout(Duration::from_secs(4 * SECONDS), asked).await.context("it does not end")??;
    let out = out.with_context(|| format!("run {}", fuzzer.display()))?;
    let said = String::from_utf8_lossy(&out.stdout);
    ensure!(out.status.success(), "{said}{}", String::from_utf8_lossy(&out.stderr));
    Ok(())
}
