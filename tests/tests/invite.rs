//! A gateway added on the page: an admin makes a join string there, a telephone reads it, the gateway asks, and
//! somebody lets it in or turns it away.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use forebay_agent::cli::join::identity_folder;
use forebay_demo::site::Site;
use forebay_tests::browser::Browser;
use forebay_tests::joining::agent;
use forebay_tests::patience::{HASTY, PATIENCE};
use forebay_tests::{ask_peer, programs};

const PASSWORD: &str = "four words and a pear";

/// `root`, by the command line, which reads the password from its standard input.
fn add_admin(site: &Site) -> Result<()> {
    let words = programs()?.server.words().to_vec();
    let (program, first) = words.split_first().context("a program")?;
    let mut child = Command::new(program)
        .args(first)
        .args(["user", "add", "root", "--role", "admin", "--config"])
        .arg(site.file("server.toml"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    let mut input = child.stdin.take().context("standard input")?;
    std::io::Write::write_all(&mut input, format!("{PASSWORD}\n").as_bytes())?;
    drop(input);
    ensure!(child.wait()?.success(), "an admin is made");
    Ok(())
}

/// Writes into the field of this label, as a person does.
async fn fill(browser: &mut Browser, label: &str, text: &str) -> Result<()> {
    let focus = format!(
        "(() => {{ const label = [...document.querySelectorAll('label')].find((one) => one.textContent === {label:?}); \
         const input = document.getElementById(label?.htmlFor); input?.focus(); input?.select?.(); \
         return !!input && document.activeElement === input; }})()"
    );
    browser.until(&focus).await?;
    browser.write(text).await
}

/// Presses the button of these words.
async fn press(browser: &mut Browser, words: &str) -> Result<()> {
    let click = format!(
        "(() => {{ const found = [...document.querySelectorAll('button, summary')].find((one) => \
         one.innerText.startsWith({words:?}) && one.checkVisibility()); found?.focus(); found?.click(); return !!found; }})()"
    );
    browser.until(&click).await
}

async fn shows(browser: &mut Browser, words: &str) -> Result<()> {
    browser.until(&format!("document.body.innerText.includes({words:?})")).await
}

/// The join string that the page shows.
async fn made(browser: &mut Browser) -> Result<String> {
    press(browser, "Make a join string").await?;
    browser.until("document.querySelector('.made code') !== null").await?;
    let command = browser.evaluate("document.querySelector('.made code').innerText").await?;
    let command = command.as_str().context("a command")?;
    let join = command.split('\'').nth(1).context("a join string in quotes")?;
    ensure!(command == format!("sudo -u forebay forebay-agent join '{join}'"), "{command}");
    Ok(join.to_owned())
}

#[tokio::test]
async fn a_gateway_is_invited_let_in_and_turned_away_on_the_page() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let site = Site::new(folder.path(), programs()?, None, 0).await?;
    site.configure_agent("t", "gate", "", HASTY)?;
    let running = site.start_server().await?;
    add_admin(&site)?;
    let mut browser = Browser::start(1280).await?;
    browser.go(&format!("http://{}/#/join", site.web_address())).await?;
    fill(&mut browser, "Name", "root").await?;
    fill(&mut browser, "Password", PASSWORD).await?;
    browser.press("Enter").await?;
    shows(&mut browser, "Nobody waits.").await?;

    fill(&mut browser, "Note", "boiler house").await?;
    browser.evaluate("document.querySelector('form input[type=checkbox]').click()").await?;
    let join = made(&mut browser).await?;
    shows(&mut browser, "It lets one gateway in until").await?;
    shows(&mut browser, "after your word").await?;
    // A telephone reads the same.
    let code = browser
        .evaluate("[document.querySelector('.qr').getAttribute('viewBox'), document.querySelector('.qr path').getAttribute('d')]")
        .await?;
    let side: usize =
        code[0].as_str().and_then(|view| view.split(' ').nth(2)?.parse().ok()).context("a size")?;
    let path = code[1].as_str().context("a path")?.to_owned();
    let size = (side - 8).to_string();
    let read = tokio::task::spawn_blocking(move || ask_peer("qr_read.py", &[&size, &path])).await??;
    ensure!(read["text"] == format!("sudo -u forebay forebay-agent join '{join}'"), "{read}");
    let found = browser.accessibility().await?;
    ensure!(found.is_empty(), "axe-core finds:\n{}", found.join("\n"));
    browser.keep_picture("join-1280-light").await?;

    // It asks, waits, and is let in by hand and eye.
    let waiting = async { agent(&site, &["join", "--wait=60s", &join]).await };
    let approving = async {
        browser.until("document.querySelector('.waiting tbody')?.innerText.includes('t/gate')").await?;
        shows(&mut browser, "boiler house").await?;
        for width in [1280, 360] {
            browser.resize(width, 900).await?;
            let wide = browser.evaluate("document.documentElement.scrollWidth").await?;
            ensure!(
                wide.as_u64().is_some_and(|wide| wide <= u64::from(width)),
                "{wide} pixels wide at {width}"
            );
            let found = browser.accessibility().await?;
            ensure!(found.is_empty(), "axe-core finds at {width}:\n{}", found.join("\n"));
            browser.keep_picture(&format!("waiting-{width}-light")).await?;
        }
        browser.resize(1280, 900).await?;
        press(&mut browser, "Approve").await?;
        // Asked once more, with the key; by keyboard.
        browser.until("document.activeElement.innerText.startsWith('Approve t/gate, key ')").await?;
        browser.press("Enter").await?;
        shows(&mut browser, "t/gate is approved").await
    };
    let (said, approved) = tokio::join!(waiting, approving);
    approved?;
    let said = said?;
    ensure!(said.code == 0, "{said:?}");

    // Another one is turned away, and told why.
    browser.evaluate("document.querySelector('form input[type=checkbox]').checked || document.querySelector('form input[type=checkbox]').click()").await?;
    browser.evaluate("document.querySelector('.made').remove()").await?;
    let join = made(&mut browser).await?;
    std::fs::remove_dir_all(identity_folder(&site.agent_state()))?;
    let waiting = async { agent(&site, &["join", "--wait=60s", &join]).await };
    let refusing = async {
        browser
            .until("document.querySelector('.waiting tbody')?.innerText.includes('takes the place')")
            .await?;
        press(&mut browser, "Reject").await?;
        browser.until("document.activeElement.placeholder === 'Why? The gateway is told'").await?;
        browser.write("this hall has one already").await?;
        browser.press("Enter").await?;
        shows(&mut browser, "t/gate is turned away").await
    };
    let (said, refused) = tokio::join!(waiting, refusing);
    refused?;
    let said = said?;
    ensure!(said.code == 20 && said.words.contains("this hall has one already"), "{said:?}");

    // Who did it stands in the audit.
    browser.go(&format!("http://{}/#/settings", site.web_address())).await?;
    shows(&mut browser, "gateway rejected").await?;
    shows(&mut browser, "gateway approved").await?;
    shows(&mut browser, "What is kept, and how long").await?;
    browser.keep_picture("settings-1280-light").await?;
    let is_told = |one: &&String| !one.contains("401") && !one.contains("\"verbose\"");
    let complaints: Vec<_> = browser.complaints().iter().filter(is_told).collect();
    ensure!(complaints.is_empty(), "{complaints:?}");
    running.terminate(PATIENCE).await?;
    Ok(())
}
