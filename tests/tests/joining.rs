//! Gateways that come, wait, are turned away, leave and are shut out. Real programs; what they say is
//! what an installer reads over the telephone, and the exit codes are those of docs/join.md.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use forebay_agent::cli::join::identity_folder;
use forebay_agent::uplink::line::{Line, Peer};
use forebay_agent::uplink::meter::Meter;
use forebay_demo::site::Site;
use forebay_protocols::sync::join::TokenSecret;
use forebay_protocols::sync::tls::{self, Identity, fingerprint};
use forebay_tests::browser::Browser;
use forebay_tests::joining::{Said, agent, impostor, run, server, speaker, token};
use forebay_tests::load_device::LoadDevice;
use forebay_tests::patience::{HASTY, PATIENCE, until};
use forebay_tests::programs;
use tokio::time::{Instant, sleep};

async fn house(folder: &tempfile::TempDir, links: &str) -> Result<Site> {
    tls::install_provider();
    let site = Site::new(folder.path(), programs()?, None, 0).await?;
    site.configure_agent("t", "gate", links, HASTY)?;
    Ok(site)
}

async fn join(site: &Site, string: impl ToString) -> Result<Said> {
    agent(site, &["join", &string.to_string()]).await
}

fn rows(site: &Site) -> Result<i64> {
    Ok(database(site)?.query_row("select count(*) from readings", [], |row| row.get(0))?)
}

fn database(site: &Site) -> Result<rusqlite::Connection> {
    let database = rusqlite::Connection::open(site.file("server/forebay.db"))?;
    database.busy_timeout(Duration::from_secs(5))?;
    Ok(database)
}

fn identity(site: &Site) -> Result<Option<Identity>> {
    Ok(Identity::load(&identity_folder(&site.agent_state()))?)
}

#[tokio::test]
async fn each_refusal_has_its_words_and_its_exit_code() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let site = house(&folder, "").await?;
    let running = site.start_server().await?;
    let good = token(&site, &["--uses", "2"]).await?;
    let with = |change: &dyn Fn(&mut forebay_protocols::sync::join::JoinString)| {
        let mut string = good.clone();
        change(&mut string);
        string.to_string()
    };
    let at = |address: std::net::SocketAddr| with(&|string| string.address = address.to_string());
    let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let used = token(&site, &[]).await?.to_string();
    let expired = token(&site, &["--expires", "1s"]).await?.to_string();
    let waits = token(&site, &["--approval"]).await?.to_string();
    ensure!(join(&site, &used).await?.code == 0, "the first one is let in");
    sleep(Duration::from_millis(1_100)).await;
    let table: Vec<(i32, String, &str, &str)> = vec![
        (10, "fbj1.nonsense".into(), "join string", "damaged"),
        (10, String::new(), "join string", "token create"),
        (12, at(free), "server reachable", "nothing listens there"),
        (
            13,
            with(&|string| string.ca_pin[0] ^= 1),
            "server known",
            "is not the server this join string was made by",
        ),
        (14, at(impostor(&site, "127.0.0.1", (2001, 2002))?), "server known", "set the clock"),
        (15, with(&|string| string.secret = TokenSecret([7; 32])), "let in", "made no such join token"),
        (17, expired, "let in", "time is over"),
        (18, used, "let in", "used already"),
        (19, waits.clone(), "let in", "waits for an operator"),
        (21, at(speaker(b"HTTP/1.1 400 Bad Request\r\n\r\n")?), "server known", "not a Forebay server"),
        (21, at(speaker(b"SSH-2.0-OpenSSH_9.2\r\n")?), "server known", "not a Forebay server"),
        (22, at(impostor(&site, "plant.example", (2025, 2100))?), "server known", "sync.address"),
    ];
    for (code, string, step, words) in table {
        let said = join(&site, &string).await?;
        let last =
            said.words.lines().rfind(|line| line.starts_with("FAIL")).context("it says what failed")?;
        ensure!(said.code == code, "{code} expected: {said:?}");
        ensure!(last[6..].starts_with(step) && last.contains(words), "{step}, {words}: {said:?}");
        ensure!(!said.words.contains(&good.secret.to_text()), "it keeps the secret: {said:?}");
    }
    // A gateway that was joined before is not harmed by any of this.
    ensure!(identity(&site)?.is_some(), "it has its identity");

    server(&site, &["agents", "reject", "t/gate", "--because", "this hall has one already"]).await?;
    let said = join(&site, &waits).await?;
    ensure!(said.code == 20 && said.words.contains("this hall has one already"), "{said:?}");
    let said = join(&site, &waits).await?;
    ensure!(said.code == 18, "another key finds the token used up: {said:?}");

    // No place to keep an identity: a file where the folder must be. It costs no token.
    let state = folder.path().join("other");
    std::fs::create_dir(&state)?;
    std::fs::write(state.join("identity"), "")?;
    let config = folder.path().join("other.toml");
    std::fs::write(&config, format!("[agent]\nsite = \"t\"\ngateway = \"other\"\nstate_dir = {state:?}\n"))?;
    let said = run(&programs()?.agent, &["join", &good.to_string()], &config).await?;
    ensure!(said.code == 11 && said.words.contains("identity"), "{said:?}");

    // Not now: another process holds the database.
    let holder = database(&site)?;
    holder.execute_batch("begin immediate")?;
    let said = join(&site, &good).await?;
    ensure!(said.code == 16 && said.words.contains("out of reach"), "{said:?}");
    holder.execute_batch("rollback")?;
    let said = join(&site, &good).await?;
    ensure!(said.code == 0, "a refusal for now cost nothing: {said:?}");
    running.terminate(PATIENCE).await?;
    Ok(())
}

#[tokio::test]
async fn a_gateway_that_waits_is_let_in_by_an_operator_who_compares_its_key() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let device = LoadDevice::start().await?;
    let site = house(&folder, &device.link_toml(20, "200ms")).await?;
    let config = std::fs::read_to_string(site.file("server.toml"))?;
    std::fs::write(site.file("server.toml"), config.replace("[sync]\n", "[sync]\napproval = true\n"))?;
    let running = site.start_server().await?;
    let collecting = site.start_agent().await?;
    let string = token(&site, &[]).await?;
    let said = join(&site, &string).await?;
    ensure!(said.code == 19, "{said:?}");
    let key = said.words.lines().find(|line| line.contains("made on this gateway")).context("its key")?;
    let key = key.split_whitespace().nth(2).context("its key")?.trim_end_matches(',').to_owned();
    let pending = server(&site, &["agents", "pending"]).await?;
    ensure!(pending.contains("t/gate") && pending.contains(&key), "{key} in {pending}");
    // The same key asks again, even without the string; another one finds the token used.
    let said = agent(&site, &["join"]).await?;
    ensure!(said.code == 19 && said.words.contains(&key), "{said:?}");
    // The installer has gone home: the agent finds out by itself.
    let said = server(&site, &["agents", "approve", "t/gate"]).await?;
    ensure!(said.contains(&key), "{said}");
    until(&site, "the agent to join by itself", async || Ok(identity(&site)?.is_some())).await?;
    until(&site, "readings", async || Ok(rows(&site)? > 100)).await?;
    ensure!(server(&site, &["agents", "pending"]).await?.contains("Nobody waits"), "it waits no longer");

    // The operator looks at the page.
    let mut browser = Browser::start(1280).await?;
    browser.go(&format!("http://{}/#/join", site.web_address())).await?;
    browser.until("document.body.innerText.includes('Nobody waits')").await?;

    // The installer waits, and sees it come in.
    let string = token(&site, &[]).await?.to_string();
    let waiting = async { agent(&site, &["join", "--wait=50s", &string]).await };
    let approving = async {
        until(&site, "somebody who waits", async || {
            Ok(server(&site, &["agents", "pending"]).await?.contains("TAKES THE PLACE"))
        })
        .await?;
        browser
            .until("document.querySelector('.waiting tbody')?.innerText.includes('takes the place')")
            .await?;
        server(&site, &["agents", "approve", "t/gate"]).await
    };
    let (said, approved) = tokio::join!(waiting, approving);
    approved?;
    ensure!(said?.code == 0, "it came in");
    collecting.terminate(PATIENCE).await?;
    running.terminate(PATIENCE).await?;
    Ok(())
}

#[tokio::test]
async fn a_revoked_gateway_is_refused_within_five_seconds_and_goes_on_collecting() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let device = LoadDevice::start().await?;
    let site = house(&folder, &device.link_toml(20, "200ms")).await?;
    let running = site.start_server().await?;
    site.join().await?;
    let collecting = site.start_agent().await?;
    until(&site, "readings", async || Ok(rows(&site)? > 100)).await?;
    let own = identity(&site)?.context("joined")?;
    let tls = tls::client_config(&own, tls::EARLIEST_TIME)?;
    let peer = Peer::new(own.server.clone(), &tls, &own.chain[0]).map_err(anyhow::Error::msg)?;
    let idle = Line::connect(&peer, None, &Meter::default()).await.map_err(anyhow::Error::msg)?;

    server(&site, &["agents", "revoke", "t/gate"]).await?;
    let revoked = Instant::now();
    let (mut last, mut stored, mut closed) = (Duration::ZERO, rows(&site)?, None);
    while revoked.elapsed() < Duration::from_secs(10) {
        let now = rows(&site)?;
        if now != stored {
            (last, stored) = (revoked.elapsed(), now);
        }
        if closed.is_none() && !idle.is_open() {
            closed = Some(revoked.elapsed());
        }
        sleep(Duration::from_millis(50)).await;
    }
    ensure!(last < Duration::from_secs(5), "readings were taken {last:?} after the revocation");
    let closed = closed.context("the idle connection is closed")?;
    ensure!(closed < Duration::from_secs(5), "an idle connection stayed for {closed:?}");

    // It says so in plain words, with what to do, and collects.
    let said = agent(&site, &["status"]).await?;
    for words in ["was revoked", "goes on collecting", "forebay-agent join"] {
        ensure!(said.words.contains(words), "{words}: {said:?}");
    }
    let asked = device.asked();
    until(&site, "more polls", async || Ok(device.asked() > asked + 10)).await?;
    let said = agent(&site, &["renew"]).await?;
    ensure!(said.code == 1 && said.words.contains("revoked"), "no way around it: {said:?}");

    // With a new token it is back, and what it collected meanwhile follows.
    site.join().await?;
    until(&site, "what it collected", async || Ok(rows(&site)? > stored + 200)).await?;
    collecting.terminate(PATIENCE).await?;
    running.terminate(PATIENCE).await?;
    Ok(())
}

#[tokio::test]
async fn a_gateway_leaves_and_keeps_what_it_has_not_sent() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let device = LoadDevice::start().await?;
    let site = house(&folder, &device.link_toml(20, "200ms")).await?;
    ensure!(agent(&site, &["leave"]).await?.words.contains("nothing to leave"), "it has not joined");
    // Who has asked by a stick and thinks better of it leaves no key behind.
    let (stick, kept) =
        (folder.path().join("stick"), identity_folder(&site.agent_state()).join("errand.pem"));
    std::fs::create_dir(&stick)?;
    let ask = ["join", "--offline", stick.to_str().context("UTF-8")?];
    ensure!(agent(&site, &ask).await?.code == 19 && kept.exists(), "it has asked");
    let said = agent(&site, &["leave"]).await?;
    ensure!(said.code == 0 && said.words.contains("was to be carried is forgotten"), "{said:?}");
    ensure!(!kept.exists(), "the key is gone");
    ensure!(agent(&site, &ask).await?.words.contains("made on this gateway"), "another one is asked with");
    let running = site.start_server().await?;
    site.join().await?;
    let collecting = site.start_agent().await?;
    until(&site, "readings", async || Ok(rows(&site)? > 100)).await?;
    let said = agent(&site, &["leave"]).await?;
    ensure!(said.code == 1 && said.words.contains("--yes"), "a script must say that it means it: {said:?}");
    let said = agent(&site, &["leave", "--yes", "--remove-buffer"]).await?;
    ensure!(said.code == 1 && said.words.contains("stop it first"), "{said:?}");
    running.terminate(PATIENCE).await?;
    let said = agent(&site, &["leave", "--yes"]).await?;
    ensure!(said.code == 12 && identity(&site)?.is_some(), "nothing was done: {said:?}");
    let running = site.start_server().await?;
    // It is a member, and asks for another house all the same.
    ensure!(agent(&site, &ask).await?.code == 19 && kept.exists(), "it has asked again");
    let said = agent(&site, &["leave", "--yes"]).await?;
    ensure!(said.code == 0 && said.words.contains("t/gate has left"), "{said:?}");
    ensure!(said.words.contains("was to be carried is forgotten") && !kept.exists(), "{said:?}");
    ensure!(identity(&site)?.is_none(), "the identity is gone");
    ensure!(server(&site, &["agents"]).await?.contains("has left"), "the server knows");
    // It collects all the same, and says where it stands.
    until(&site, "the agent to notice", async || {
        Ok(agent(&site, &["status"]).await?.words.contains("not joined"))
    })
    .await?;
    let asked = device.asked();
    until(&site, "more polls", async || Ok(device.asked() > asked + 10)).await?;
    collecting.terminate(PATIENCE).await?;
    let said = agent(&site, &["leave", "--yes", "--remove-buffer"]).await?;
    ensure!(said.code == 1 && said.words.contains("not with the server yet"), "{said:?}");
    // Back, and everything follows; then all of it may go.
    site.join().await?;
    let collecting = site.start_agent().await?;
    let stored = rows(&site)?;
    until(&site, "what it kept", async || Ok(rows(&site)? > stored + 100)).await?;
    collecting.terminate(PATIENCE).await?;
    let said = agent(&site, &["leave", "--yes", "--remove-buffer"]).await?;
    ensure!(said.code == 0 && !site.agent_state().join("buffer").exists(), "{said:?}");
    running.terminate(PATIENCE).await?;
    Ok(())
}

#[tokio::test]
async fn a_new_ca_takes_over_and_a_gateway_that_was_away_is_brought_along() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let device = LoadDevice::start().await?;
    let site = house(&folder, &device.link_toml(20, "200ms")).await?;
    let running = site.start_server().await?;
    site.join().await?;
    let before = identity(&site)?.context("joined")?;
    let old_string = token(&site, &["--uses", "2"]).await?;
    let pin = |identity: &Identity| fingerprint(&identity.ca);
    let status = async || -> Result<serde_json::Value> {
        Ok(serde_json::from_str(&server(&site, &["ca", "status", "--json"]).await?)?)
    };

    // The gateway is away while the CA changes; the running server takes it over by itself.
    let rotated = server(&site, &["ca", "rotate"]).await?;
    ensure!(rotated.contains("0 of 1 trust the new one") && rotated.contains("t/gate"), "{rotated}");
    until(&site, "the server to take it over", async || {
        Ok(std::fs::read_to_string(site.file("server.log"))?.contains("Took over another CA"))
    })
    .await?;
    let said = run(&programs()?.server, &["ca", "retire"], &site.file("server.toml")).await?;
    ensure!(said.code == 1 && said.words.contains("t/gate"), "nobody is left behind by mistake: {said:?}");

    // It comes back with the CA it knows, and is brought over; readings flow all the while.
    let collecting = site.start_agent().await?;
    until(&site, "readings", async || Ok(rows(&site)? > 100)).await?;
    until(&site, "the new CA on the gateway", async || {
        Ok(identity(&site)?.is_some_and(|own| pin(&own) != pin(&before)))
    })
    .await?;
    until(&site, "the server to hear of it", async || Ok(status().await?["arrived"][0] == "t/gate")).await?;

    // A join string of before is good still.
    let state = folder.path().join("second");
    let config = folder.path().join("second.toml");
    std::fs::write(&config, format!("[agent]\nsite = \"t\"\ngateway = \"second\"\nstate_dir = {state:?}\n"))?;
    let said = run(&programs()?.agent, &["join", &old_string.to_string()], &config).await?;
    ensure!(said.code == 0, "{said:?}");
    let second = Identity::load(&identity_folder(&state))?.context("joined")?;
    ensure!(pin(&second) == pin(&identity(&site)?.context("joined")?), "under the new CA");

    // The former one goes. Who knows only that one is told what to do, and the others go on.
    ensure!(server(&site, &["ca", "retire", "--force"]).await?.contains("no more"), "retired");
    let stored = rows(&site)?;
    until(&site, "readings under the new CA", async || Ok(rows(&site)? > stored + 100)).await?;
    until(&site, "the former CA to go from the gateway", async || {
        Ok(identity(&site)?.is_some_and(|own| own.former_ca.is_none()))
    })
    .await?;
    let left = identity_folder(&folder.path().join("left"));
    before.save(&left)?;
    let config = folder.path().join("left.toml");
    let state = folder.path().join("left");
    std::fs::write(&config, format!("[agent]\nsite = \"t\"\ngateway = \"left\"\nstate_dir = {state:?}\n"))?;
    let said = run(&programs()?.agent, &["renew"], &config).await?;
    ensure!(said.code == 1 && said.words.contains("its CA was changed"), "{said:?}");
    let said = join(&site, &old_string).await?;
    ensure!(said.code == 13, "the old string's CA is gone: {said:?}");
    collecting.terminate(PATIENCE).await?;
    running.terminate(PATIENCE).await?;
    Ok(())
}
