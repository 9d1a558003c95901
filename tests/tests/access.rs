//! Who may look and who may change, as people and programs meet it: a browser, a command line, an API key.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use forebay_demo::http;
use forebay_demo::site::Site;
use forebay_tests::browser::Browser;
use forebay_tests::programs;
use http_body_util::Empty;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

const PASSWORD: &str = "four words and a pear";

/// A command of the server's, with this on its standard input; what it printed.
fn server_says(site: &Site, arguments: &[&str], input: &str) -> Result<String> {
    let words = programs()?.server.words().to_vec();
    let (program, first) = words.split_first().context("a program")?;
    let mut child = Command::new(program)
        .args(first)
        .args(arguments)
        .arg("--config")
        .arg(site.file("server.toml"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    std::io::Write::write_all(&mut child.stdin.take().context("standard input")?, input.as_bytes())?;
    let out = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    ensure!(out.status.success(), "{arguments:?}: {said}{}", String::from_utf8_lossy(&out.stderr));
    Ok(said)
}

/// The link that the server printed.
fn setup_link(site: &Site) -> Result<String> {
    let log = std::fs::read_to_string(site.file("server.log"))?;
    let links: Vec<&str> = log.lines().map(str::trim).filter(|line| line.contains("#/setup/")).collect();
    ensure!(links.len() == 1, "it is printed once: {log}");
    Ok(links[0].to_owned())
}

/// Writes into the field of this label, as a person does.
async fn fill(browser: &mut Browser, label: &str, text: &str) -> Result<()> {
    let focus = format!(
        "(() => {{ const found = [...document.querySelectorAll('label')].filter((one) => one.textContent === {label:?} \
         && one.checkVisibility()); const input = document.getElementById(found[0].htmlFor); input.focus(); input.select?.(); \
         return document.activeElement === input; }})()"
    );
    browser.until(&focus).await?;
    browser.write(text).await
}

/// Presses the button or link of these words.
async fn press(browser: &mut Browser, words: &str) -> Result<()> {
    let click = format!(
        "(() => {{ const found = [...document.querySelectorAll('button, a, summary')].find((one) => \
         one.innerText === {words:?} && one.checkVisibility()); found?.focus(); found?.click(); return !!found; }})()"
    );
    browser.until(&click).await
}

async fn shows(browser: &mut Browser, words: &str) -> Result<()> {
    browser.until(&format!("document.body.innerText.includes({words:?})")).await
}

/// What sticks out of a telephone's screen.
const WIDE: &str = "[...document.querySelectorAll('body *')].filter(one => one.getBoundingClientRect().right > 360)\
                    .map(one => `${one.tagName} ${one.className} ${one.innerText.slice(0, 40)}`).join('; ')";

#[tokio::test]
async fn a_person_sets_up_logs_in_makes_a_key_and_logs_out() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let site = Site::new(folder.path(), programs()?, None, 0).await?;
    let server = site.start_server().await?;
    let web = site.web_address();
    let mut browser = Browser::start(1280).await?;

    // Without users: open to this machine, and by the link there is a first one.
    browser.go(&format!("http://{web}/#/settings")).await?;
    shows(&mut browser, "There are no users yet").await?;
    browser.go(&setup_link(&site)?).await?;
    shows(&mut browser, "The first user").await?;
    ensure!(browser.evaluate("location.hash").await? == "#/setup", "the secret leaves the address");
    fill(&mut browser, "Name", "root").await?;
    fill(&mut browser, "Password", PASSWORD).await?;
    fill(&mut browser, "Once more", "something else").await?;
    browser.press("Enter").await?;
    shows(&mut browser, "The two passwords are not the same.").await?;
    browser.keep_picture("setup").await?;
    fill(&mut browser, "Once more", PASSWORD).await?;
    browser.press("Enter").await?;
    shows(&mut browser, "No gateway has joined yet").await?;
    shows(&mut browser, "Log out").await?;

    // A script of the page cannot read the cookie.
    ensure!(browser.evaluate("document.cookie").await? == "", "HttpOnly");
    press(&mut browser, "Log out").await?;
    browser.until("document.querySelector('h1')?.innerText === 'Log in'").await?;
    browser.until("document.activeElement.autocomplete === 'username'").await?;
    ensure!(http::get(web, "/api/v1/fleet").await.is_err(), "now everybody logs in");

    // Where one wanted to go is where one gets to.
    browser.go(&format!("http://{web}/#/settings")).await?;
    browser.until("location.hash === '#/login'").await?;
    fill(&mut browser, "Name", "root").await?;
    fill(&mut browser, "Password", "not the password").await?;
    browser.press("Enter").await?;
    shows(&mut browser, "There is no user of this name with this password.").await?;
    browser.keep_picture("login").await?;
    fill(&mut browser, "Password", PASSWORD).await?;
    browser.press("Enter").await?;
    shows(&mut browser, "Logged in as root, admin.").await?;
    ensure!(browser.evaluate("location.hash").await? == "#/settings");

    press(&mut browser, "Add a user").await?;
    fill(&mut browser, "Name", "anna").await?;
    fill(&mut browser, "Password", "another pear or two").await?;
    browser.press("Enter").await?;
    shows(&mut browser, "anna may log in, as viewer.").await?;
    let choose = "(() => { const select = document.querySelector('[aria-label=\"Role of anna\"]'); \
                  select.value = 'operator'; select.dispatchEvent(new Event('change')); return true; })()";
    browser.until(choose).await?;
    shows(&mut browser, "anna is operator now.").await?;
    shows(&mut browser, "viewer → operator").await?;
    press(&mut browser, "Add a user").await?;

    press(&mut browser, "Make a key").await?;
    fill(&mut browser, "Name", "grafana").await?;
    browser.press("Enter").await?;
    browser.until("/^fbk_.{43}$/.test(document.querySelector('.secret')?.innerText)").await?;
    let key = browser.evaluate("document.querySelector('.secret').innerText").await?;
    let key = key.as_str().context("a key")?.to_owned();
    browser.keep_picture("settings").await?;
    browser.prefer_dark(true).await?;
    browser.keep_picture("settings-dark").await?;
    browser.resize(360, 800).await?;
    let width = browser.evaluate("document.documentElement.scrollWidth").await?;
    let wide = browser.evaluate(WIDE).await?;
    ensure!(width.as_u64().is_some_and(|width| width <= 360), "{width} pixels wide on a telephone: {wide}");
    browser.keep_picture("settings-small").await?;
    browser.resize(1280, 800).await?;

    // The key is good for a program, until it is removed. One asks once more before that.
    let fleet = async |key: &str| status_of(web, "/api/v1/fleet", key).await.map(|status| status.as_u16());
    ensure!(fleet(&key).await? == 200);
    let remove = "(() => { const row = [...document.querySelectorAll('.keys tbody tr')].find((row) => \
                  row.innerText.includes('grafana')); row.querySelector('.acts button').click(); return true; })()";
    browser.until(remove).await?;
    browser.until("document.activeElement.innerText === 'Remove grafana'").await?;
    browser.press("Escape").await?;
    browser.until("document.activeElement.innerText === 'Remove'").await?;
    ensure!(fleet(&key).await? == 200);
    browser.until(remove).await?;
    press(&mut browser, "Remove grafana").await?;
    shows(&mut browser, "grafana is good for nothing from now on.").await?;
    ensure!(fleet(&key).await? == 401);

    // Of what the policy forbids nothing was tried; refused log-ins are told as such by the browser.
    let is_told = |one: &&String| !one.contains("401") && !one.contains("\"verbose\"");
    let complaints: Vec<_> = browser.complaints().iter().filter(is_told).collect();
    ensure!(complaints.is_empty(), "{complaints:?}");
    press(&mut browser, "Log out").await?;
    browser.until("document.querySelector('h1')?.innerText === 'Log in'").await?;
    server.terminate(Duration::from_secs(4)).await?;
    Ok(())
}

/// The status of a GET with an API key.
async fn status_of(web: std::net::SocketAddr, path: &str, key: &str) -> Result<hyper::StatusCode> {
    let client: Client<_, Empty<hyper::body::Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let request = hyper::Request::get(format!("http://{web}{path}"))
        .header("authorization", format!("Bearer {key}"))
        .body(Empty::new())?;
    Ok(tokio::time::timeout(Duration::from_secs(10), client.request(request)).await??.status())
}

#[tokio::test]
async fn users_and_keys_are_made_beside_a_running_server() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let site = Site::new(folder.path(), programs()?, None, 0).await?;
    let _server = site.start_server().await?;
    let web = site.web_address();
    let says = |arguments: &[&str], input: &str| server_says(&site, arguments, input);
    ensure!(says(&["user", "list"], "")?.contains("user add"));
    ensure!(http::get(web, "/api/v1/fleet").await.is_ok(), "open, as there is nobody");

    let weak = says(&["user", "add", "anna", "--role", "admin"], "short\n").unwrap_err().to_string();
    ensure!(weak.contains("10 characters"), "{weak}");
    let made = says(&["user", "add", "Anna", "--role", "admin"], &format!("{PASSWORD}\n"))?;
    ensure!(made == "anna may log in, as admin.\n", "{made}");
    ensure!(http::get(web, "/api/v1/fleet").await.is_err(), "from the next request on one logs in");
    let again = says(&["user", "add", "anna", "--role", "viewer"], PASSWORD).unwrap_err().to_string();
    ensure!(again.contains("user passwd anna"), "{again}");
    // A password is never on the command line, where every process may read it.
    let refused = says(&["user", "passwd", "anna", PASSWORD], "").unwrap_err().to_string();
    ensure!(refused.contains("unexpected argument"), "{refused}");

    let key = says(&["key", "add", "prometheus", "--rights", "metrics", "--expires", "90d"], "")?;
    let key = key.trim();
    ensure!(status_of(web, "/metrics", key).await? == 200);
    ensure!(status_of(web, "/api/v1/fleet", key).await? == 403);
    let list = says(&["key", "list"], "")?;
    ensure!(list.contains("prometheus") && list.contains(&key[..9]) && !list.contains(key), "{list}");
    ensure!(list.lines().nth(1).is_some_and(|line| !line.contains("never")), "it was used: {list}");
    says(&["key", "remove", "prometheus"], "")?;
    ensure!(status_of(web, "/metrics", key).await? == 401);

    says(&["user", "passwd", "anna"], "another pear or two")?;
    says(&["tenant", "add", "acme"], "")?;
    says(&["user", "add", "bert", "--role", "viewer", "--tenant", "acme"], PASSWORD)?;
    let unknown = says(&["user", "add", "carl", "--role", "viewer", "--tenant", "amce"], PASSWORD);
    ensure!(unknown.unwrap_err().to_string().contains("there are acme, main"));
    let theirs = says(&["key", "add", "k", "--tenant", "acme"], "")?;
    ensure!(status_of(web, "/api/v1/fleet", theirs.trim()).await? == 200);
    says(&["user", "role", "bert", "operator"], "")?;
    ensure!(says(&["user", "list"], "")?.lines().count() == 3);
    says(&["user", "remove", "bert"], "")?;
    let gone = says(&["user", "remove", "anna"], "")?;
    ensure!(gone.contains("open again"), "{gone}");
    Ok(())
}
