//! What README and docs/ show of a running house is what our programs say in one: numbers, times and keys may
//! differ, words and names may not. The commands are taken from the pages; only what a test cannot have
//! (addresses, folders, join strings) is put in another's place.

use std::fs;
use std::net::TcpListener;
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use forebay_demo::http;
use forebay_demo::process::Program;
use forebay_demo::site::Site;
use forebay_protocols::sync::tls;
use forebay_tests::documents::{Command, Document, documents, is_said};
use forebay_tests::load_device::LoadDevice;
use forebay_tests::patience::{HASTY, PATIENCE};
use forebay_tests::{FIVE_MISTAKES, programs};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::time::{Instant, sleep, timeout};

/// How a command ended, and what it said: standard output, then standard error.
#[derive(Debug)]
struct Said {
    code: i32,
    out: String,
    all: String,
}

/// A site under the names that the pages use.
struct House {
    site: Site,
    folder: tempfile::TempDir,
}

impl House {
    async fn new(gateway: (&str, &str), links: &str, extra: &str) -> Result<Self> {
        tls::install_provider();
        let folder = tempfile::tempdir()?;
        let site = Site::new(folder.path(), programs()?, None, 0).await?;
        site.configure_agent(gateway.0, gateway.1, links, extra)?;
        Ok(Self { site, folder })
    }

    /// Runs a command of a page with this configuration; `change` puts in what a test has.
    async fn perform(&self, command: &Command, change: &[(&str, &str)]) -> Result<Said> {
        self.perform_with(command, change, "").await
    }

    async fn perform_with(&self, command: &Command, change: &[(&str, &str)], input: &str) -> Result<Said> {
        let (program, words) = command.words.split_first().context("a command")?;
        let (program, config) = match program.as_str() {
            "forebay-agent" => (programs()?.agent, self.site.file("agent.toml")),
            "forebay-server" => (programs()?.server, self.site.file("server.toml")),
            other => bail!("{other} is no program of ours"),
        };
        let mut words: Vec<String> = words
            .iter()
            .map(|word| change.iter().fold(word.clone(), |word, (from, to)| word.replace(from, to)))
            .collect();
        words.extend(["--config".to_owned(), config.to_string_lossy().into_owned()]);
        let said = run(&program, &words, input).await.with_context(|| command.place.clone())?;
        let as_installed = |text: &str| {
            let path = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
            // The file's name begins with the folder's.
            text.replace(&path(self.site.file("agent.toml")), "/etc/forebay/agent.toml")
                .replace(&path(self.site.agent_state()), "/var/lib/forebay")
        };
        Ok(Said { code: said.code, out: as_installed(&said.out), all: as_installed(&said.all) })
    }

    /// The same, and it must end well.
    async fn done(&self, page: &Document, begins: &str, change: &[(&str, &str)]) -> Result<String> {
        let command = page.command(begins)?;
        let said = self.perform(&command, change).await?;
        ensure!(said.code == 0, "{}: {begins}: {said:?}", command.place);
        Ok(said.out)
    }

    fn database(&self) -> Result<rusqlite::Connection> {
        let database = rusqlite::Connection::open(self.site.file("server/forebay.db"))?;
        database.busy_timeout(Duration::from_secs(5))?;
        Ok(database)
    }
}

async fn run(program: &Program, words: &[String], input: &str) -> Result<Said> {
    let (first, before) = program.words().split_first().context("a program has a name")?;
    let mut command = tokio::process::Command::new(first);
    command.args(before).args(words).kill_on_drop(true).env("NO_COLOR", "1");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    // One that reads nothing may be gone already.
    let _ = child.stdin.take().context("it is piped")?.write_all(input.as_bytes()).await;
    let out: Output = timeout(PATIENCE, child.wait_with_output()).await.context("it did not end")??;
    let [stdout, stderr] = [out.stdout, out.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let code = out.status.code().context("a signal ended it")?;
    Ok(Said { code, all: stdout.clone() + &stderr, out: stdout })
}

/// All that is shown must be there, word for word, in this order.
fn is_exactly_said(command: &Command, said: &str) -> Result<()> {
    let mut rest = said.lines();
    for line in command.shown.iter().filter(|line| *line != "…") {
        ensure!(rest.any(|said| said == line), "{} shows\n{line}\nand it says\n{said}", command.place);
    }
    Ok(())
}

#[tokio::test]
async fn check_tells_mistakes_as_the_readme_shows() -> Result<()> {
    let house = House::new(("north", "boiler-house"), "", "").await?;
    fs::write(house.site.file("agent.toml"), FIVE_MISTAKES)?;
    let readme = Document::read("README.md")?;
    let commands = readme.commands().into_iter();
    let mut shown = commands.filter(|one| one.words == ["forebay-agent", "check"] && !one.shown.is_empty());
    let command = shown.next_back().context("README shows mistakes")?;
    let said = house.perform(&command, &[]).await?;
    ensure!(said.code == 78, "{said:?}");
    is_exactly_said(&command, &said.all)
}

#[tokio::test]
async fn probe_shows_the_registers_that_the_readme_shows() -> Result<()> {
    // 21.5, 1013.25 and -3.25, the low word first, and a text of three registers.
    let held = [(1, 0x41AC), (2, 0x5000), (3, 0x447D), (5, 0xC050), (6, 0x5055), (7, 0x4D50), (8, 0x3700)];
    let device = LoadDevice::showing(move |_, _, registers| {
        for (place, register) in (0..).zip(registers) {
            *register = held.iter().find(|(at, _)| *at == place).map_or(0, |(_, value)| *value);
        }
    })
    .await?;
    let readme = Document::read("README.md")?;
    let command = readme.command("forebay-agent probe modbus tcp://10.0.0.5")?;
    let target = format!("tcp://{}", device.address());
    let words: Vec<String> =
        command.words[1..].iter().map(|word| word.replace("tcp://10.0.0.5", &target)).collect();
    let said = run(&programs()?.agent, &words, "").await?;
    ensure!(said.code == 0, "{said:?}");
    println!("{}", said.out);
    is_exactly_said(&command, &said.out)
}

#[tokio::test]
async fn read_says_of_a_silent_device_what_the_readme_shows() -> Result<()> {
    // Takes questions and answers none.
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let links = format!(
        "[link.boiler.modbus-tcp]\naddress = \"{}\"\n[link.boiler.device.pump]\n\
         points.speed = {{ register = \"holding\", address = 0, unit = \"rpm\" }}\n",
        silent.local_addr()?
    );
    let house = House::new(("north", "boiler-house"), &links, "").await?;
    let readme = Document::read("README.md")?;
    let command = readme.command("forebay-agent read --once pump")?;
    let said = house.perform(&command, &[]).await?;
    ensure!(said.code == 1, "{said:?}");
    is_said(&command.shown[..1], &said.all)?;
    is_said(&command.shown, &format!("{}\n{}", command.shown[0], said.out))
}

#[tokio::test(flavor = "multi_thread")]
async fn status_says_what_the_readme_shows_and_doctor_checks_what_is_documented() -> Result<()> {
    let device = LoadDevice::start().await?;
    // Rarely enough that most looks find everything acknowledged.
    let boiler = device.link_toml(10, "5s").replace("link.load", "link.boiler");
    let press = "[link.press]\nbackoff_max = \"30s\"\n[link.press.opcua]\nendpoint = \"opc.tcp://127.0.0.1:1\"\n\
                 [link.press.device.press-1]\npoints.t = { node = \"ns=2;s=t\" }\n";
    let house = House::new(("north", "boiler-house"), &format!("{boiler}\n{press}"), HASTY).await?;
    let (site, readme) = (&house.site, Document::read("README.md")?);
    let _server = site.start_server().await?;
    site.join().await?;
    let agent = site.start_agent().await?;
    let command = readme.command("forebay-agent status")?;
    let begun = Instant::now();
    loop {
        let said = house.perform(&command, &[]).await?;
        // Whether it is the system or the server that vouches for the time is this machine's.
        let outcome =
            is_said(&command.shown, &said.all.replace("right by the server", "right by the system"));
        match outcome {
            Ok(()) => {
                ensure!(said.code == 1, "a link is down: {said:?}");
                break;
            }
            Err(why) if begun.elapsed() > PATIENCE => return Err(why.context(site.log_tails())),
            Err(_) => sleep(Duration::from_millis(300)).await,
        }
    }
    let page = Document::read("docs/operation.md")?;
    let (_, after) = page.text.split_once("`--json` prints one object:").context("the keys of status")?;
    let (told, _) = after.split_once("In it every link").context("the keys of status")?;
    let mut asked = command.clone();
    asked.words.push("--json".into());
    let json: Value = serde_json::from_str(&house.perform(&asked, &[]).await?.out)?;
    let keys: Vec<&str> =
        told.split('`').skip(1).step_by(2).filter(|key| !key.contains(['/', ' '])).collect();
    ensure!(keys.len() > 7, "{keys:?}");
    for key in keys {
        ensure!(json.get(key).is_some(), "docs/operation.md names `{key}`: {json:#}");
    }
    for key in ["state", "words", "attempts", "next_attempt_s", "per_second", "devices"] {
        ensure!(page.text.contains(&format!("`{key}`")), "docs/operation.md does not name `{key}`");
        ensure!(json["agent"]["links"][1].get(key).is_some(), "no `{key}`: {json:#}");
    }

    // Every check of doctor has its line, under its name, and no other has.
    let (_, table) = page.text.split_once("## doctor").context("doctor")?;
    let (table, _) = table.split_once("\n\n## ").context("an end")?;
    let lines = table.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
    let documented: Vec<&str> =
        lines.filter(|cell| *cell != "check").flat_map(|cell| cell.split(", ")).collect();
    let mut asked = command.clone();
    asked.words = ["forebay-agent", "doctor", "--json"].map(str::to_owned).to_vec();
    let json: Value = serde_json::from_str(&house.perform(&asked, &[]).await?.out)?;
    let checks = json["checks"].as_array().context("checks")?;
    let names: Vec<&str> = checks.iter().filter_map(|check| check["check"].as_str()).collect();
    ensure!(names.len() > 7, "{json:#}");
    for name in &names {
        let known =
            documented.iter().any(|line| line == name || line.contains("name") && name.contains("name"));
        ensure!(known, "docs/operation.md does not have the check {name:?}: {documented:?}");
    }
    agent.terminate(Duration::from_secs(30)).await?;
    let said = house.perform(&command, &[]).await?;
    ensure!(said.code == 3, "the agent does not run: {said:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn joining_goes_as_its_page_says() -> Result<()> {
    let house = House::new(("hall", "press"), "", HASTY).await?;
    let (site, page) = (&house.site, Document::read("docs/join.md")?);
    let server = site.start_server().await?;

    // The checklist, of a token whose time is over.
    let create = page.command("forebay-server token create")?;
    let mut short = create.clone();
    short.words.extend(["--expires".to_owned(), "1s".to_owned()]);
    let expired = house.perform(&short, &[]).await?.out;
    sleep(Duration::from_millis(1_100)).await;
    let join = page.command("forebay-agent join 'fbj1.…'")?;
    let said = house.perform(&join, &[("fbj1.…", expired.trim())]).await?;
    let list = page.blocks().into_iter().find(|block| block.text.contains("FAIL")).context("a checklist")?;
    let list: Vec<String> = list.text.lines().map(str::to_owned).collect();
    ensure!(said.code == 17, "{said:?}");
    is_said(&list, &said.all)?;

    // An operator's word.
    let mut noted = create.clone();
    noted.words.extend(["--approval", "--note", "hall 3"].map(str::to_owned));
    let waits = house.perform(&noted, &[]).await?.out;
    let said = house.perform(&join, &[("fbj1.…", waits.trim())]).await?;
    ensure!(said.code == 19, "{said:?}");
    let pending = page.command("forebay-server agents pending")?;
    is_said(&pending.shown, &house.perform(&pending, &[]).await?.out)?;
    house.done(&page, "forebay-server agents approve 3", &[("3", "hall/press")]).await?;
    let said = house.perform(&join, &[("fbj1.…", waits.trim())]).await?;
    ensure!(said.code == 0, "{said:?}");

    // Out, and in again; out by itself, and in again.
    house.done(&page, "forebay-server agents revoke hall/press", &[]).await?;
    let again = house.done(&page, "forebay-server token create", &[]).await?;
    ensure!(house.perform(&join, &[("fbj1.…", again.trim())]).await?.code == 0);
    let mut leave = page.command("forebay-agent leave")?;
    leave.words.push("--yes".into());
    let said = house.perform(&leave, &[]).await?;
    ensure!(said.code == 0, "{said:?}");
    let again = house.done(&page, "forebay-server token create", &[]).await?;
    ensure!(house.perform(&join, &[("fbj1.…", again.trim())]).await?.code == 0);

    // Another CA, of which a gateway that was heard of twelve days ago does not know.
    house.done(&page, "forebay-server ca rotate", &[]).await?;
    let twelve_days_ago = forebay_protocols::boot_time::wall_micros() - 12 * 86_400_000_000;
    house.database()?.execute("update agents set last_seen = ?", [twelve_days_ago])?;
    let status = page.command("forebay-server ca status")?;
    is_said(&status.shown, &house.perform(&status, &[]).await?.out)?;
    let retire = page.command("forebay-server ca retire")?;
    let said = house.perform(&retire, &[]).await?;
    ensure!(said.code == 1 && said.all.contains("--force"), "{said:?}");

    // Backups.
    let kept = house.folder.path().join("kept");
    let place = [("/backups/2026-11-29", kept.to_str().context("UTF-8")?)];
    house.done(&page, "forebay-server backup", &place).await?;
    house.done(&page, "forebay-server restore --check", &place).await?;
    let replace = page.command("forebay-server restore --replace")?;
    let said = house.perform(&replace, &place).await?;
    ensure!(said.code == 1, "a server runs: {said:?}");
    server.terminate(Duration::from_secs(30)).await?;
    house.done(&page, "forebay-server restore --replace", &place).await?;
    Ok(())
}

#[tokio::test]
async fn joining_without_a_network_goes_as_its_page_says() -> Result<()> {
    let house = House::new(("hall", "press"), "", "").await?;
    let stick = house.folder.path().join("stick");
    fs::create_dir(&stick)?;
    let stick = stick.to_str().context("UTF-8")?;
    let commands = Document::read("docs/join.md")?.commands();
    let steps =
        commands.iter().filter(|one| one.words.contains(&"/media/stick".to_owned()) && !one.shown.is_empty());
    let steps: Vec<&Command> = steps.collect();
    ensure!(steps.len() == 3, "there, at the server, and back: {steps:?}");
    for (command, code) in steps.into_iter().zip([19, 0, 0]) {
        let said = house.perform(command, &[("/media/stick", stick)]).await?;
        ensure!(said.code == code, "{code} expected: {said:?}");
        is_said(&command.shown, &said.all.replace(stick, "/media/stick"))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn users_keys_and_tenants_are_made_as_their_page_says() -> Result<()> {
    let house = House::new(("hall", "press"), "", "").await?;
    let (site, page) = (&house.site, Document::read("docs/security.md")?);
    let _server = site.start_server().await?;
    let add = page.command("forebay-server user add anna")?;
    let password = "a long enough password\n";
    let said = house.perform_with(&add, &[], password).await?;
    ensure!(said.code == 0, "{said:?}");
    let said = house.perform_with(&page.command("forebay-server user passwd")?, &[], password).await?;
    ensure!(said.code == 0, "{said:?}");
    for begins in ["forebay-server user list", "forebay-server user role", "forebay-server key list"] {
        house.done(&page, begins, &[]).await?;
    }
    let key = house.done(&page, "forebay-server key add grafana", &[]).await?;
    let key = key.split_whitespace().find(|word| word.starts_with("fbk_")).context("it prints the key")?;

    // What curl does there.
    let curl = page.command("curl")?;
    let url = curl.words.last().context("an address")?.replace("https://plant.example:8080", "");
    let header = format!("Authorization: Bearer {key}");
    ensure!(curl.words.contains(&"Authorization: Bearer fbk_…".to_owned()), "{curl:?}");
    let fleet = ask(site, &url, &header).await?;
    ensure!(fleet.starts_with("HTTP/1.1 200") && fleet.contains("\"agents\""), "{fleet}");
    let refused = ask(site, &url, "X-Nothing: 1").await?;
    ensure!(refused.starts_with("HTTP/1.1 401"), "there are users now: {refused}");

    for begins in ["forebay-server key remove", "forebay-server user remove"] {
        house.done(&page, begins, &[]).await?;
    }
    // "`tenant add acme`, `user add --tenant acme`, `token create --tenant acme`"
    let server = |words: &str| Command {
        place: page.name.clone(),
        words: words.split(' ').map(str::to_owned).collect(),
        shown: vec![],
    };
    for (words, input) in [
        ("forebay-server tenant add acme", ""),
        ("forebay-server user add --tenant acme eva --role viewer", password),
        ("forebay-server token create --tenant acme", ""),
    ] {
        let said = house.perform_with(&server(words), &[], input).await?;
        ensure!(said.code == 0, "{words}: {said:?}");
    }
    Ok(())
}

/// GET over plain HTTP with one more header; the whole answer.
async fn ask(site: &Site, path: &str, header: &str) -> Result<String> {
    let mut stream = tokio::net::TcpStream::connect(site.web_address()).await?;
    let host = site.web_address();
    let question = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{header}\r\nConnection: close\r\n\r\n");
    stream.write_all(question.as_bytes()).await?;
    let mut answer = Vec::new();
    timeout(PATIENCE, tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer)).await??;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_aside_is_listed_as_its_page_shows() -> Result<()> {
    let house = House::new(("north", "boiler-house"), "", "").await?;
    let (site, page) = (&house.site, Document::read("docs/stores.md")?);
    let _server = site.start_server().await?;
    site.join().await?;
    let now = forebay_protocols::boot_time::wall_micros();
    let database = house.database()?;
    let agent: i64 = database.query_row("select agent from agents", [], |row| row.get(0))?;
    database.execute("insert into epochs (agent, epoch) values (?, ?)", (agent, [7_u8; 16]))?;
    let epoch = database.last_insert_rowid();
    database.execute(
        "insert into set_aside (epoch_key, sequence, bytes, reason, received, readings, checksum) \
         values (?, 345, ?, 'the payload''s checksum is wrong', ?, 120, 7)",
        (epoch, vec![0_u8; 4096], now - 7_200_000_000),
    )?;
    database.execute(
        "insert into points (agent, device, name, unit, kind, data_type, search) \
         values (?, 'boiler', 'temp', '', 'analog', '', 'boiler/temp')",
        [agent],
    )?;
    let point = database.last_insert_rowid();
    for second in [12, 22, 32, 42, 62] {
        database.execute(
            "insert into readings_quarantine (point, time, quality, value, received) values (?, ?, 0, 1.0, ?)",
            (point, second * 1_000_000, now - 3 * 86_400_000_000),
        )?;
    }
    let list = page.command("forebay-server quarantine list")?;
    let said = house.perform(&list, &[]).await?;
    ensure!(said.code == 0, "{said:?}");
    is_said(&list.shown, &said.out)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_address_of_the_api_that_is_named_is_in_its_description() -> Result<()> {
    let house = House::new(("north", "boiler-house"), "", "").await?;
    let _server = house.site.start_server().await?;
    let web = house.site.web_address();
    let described = http::get_json(web, "/api/v1/openapi.json").await?;
    let paths: Vec<&String> = described["paths"].as_object().context("paths")?.keys().collect();
    let script = http::get(web, "/ui/page.js").await?;
    let (mut faults, mut seen) = (Vec::new(), 0);
    for page in documents()? {
        let typed = page
            .commands()
            .into_iter()
            .flat_map(|one| one.words.into_iter().map(move |word| (one.place.clone(), word)));
        for (place, text) in page.code().into_iter().chain(typed) {
            if let Some((_, path)) = text.split_once("/api/v1/") {
                let path = path.split([' ', '?']).next().unwrap_or_default();
                seen += 1;
                let path = format!("/api/v1/{path}");
                if !paths.iter().any(|known| **known == path) {
                    faults.push(format!("{place}: {path}"));
                }
            } else if ["/metrics", "/livez", "/readyz"].contains(&text.as_str()) {
                seen += 1;
                http::get(web, &text).await.with_context(|| place)?;
            } else if let Some(view) = text.strip_prefix("#/") {
                seen += 1;
                if !script.contains(view) {
                    faults.push(format!("{place}: the page has no {text}"));
                }
            }
        }
    }
    ensure!(seen > 8, "{seen} addresses were found; the pages had more");
    ensure!(faults.is_empty(), "not described: {}", faults.join("\n"));
    Ok(())
}

#[tokio::test]
async fn a_simulated_device_says_what_the_readme_shows() -> Result<()> {
    let readme = Document::read("README.md")?;
    let command = readme.command("cargo demo -- simulate modbus")?;
    let own = std::env::current_exe()?;
    let demo = own.ancestors().nth(2).context("a test lies below target/")?.join("forebay-demo");
    let mut device = tokio::process::Command::new(demo)
        .args(&command.words[2..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(device.stdout.take().context("it is piped")?).lines();
    let mut said = String::new();
    while !said.ends_with("# Ready.\n") {
        let line = timeout(PATIENCE, lines.next_line()).await??.with_context(|| said.clone())?;
        said = said + &line + "\n";
    }
    device.kill().await?;
    is_exactly_said(&command, &said)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_ends_with_the_books_that_the_readme_shows() -> Result<()> {
    let readme = Document::read("README.md")?;
    let shown = readme.blocks().into_iter().find(|block| block.text.starts_with("Conservation ledger"));
    let shown: Vec<String> =
        shown.context("README shows the books")?.text.lines().map(str::to_owned).collect();
    let own = std::env::current_exe()?;
    let demo = own.ancestors().nth(2).context("a test lies below target/")?.join("forebay-demo");
    let words = ["--seconds", "10", "--web-port", "0"].map(str::to_owned);
    let said = run(&Program::new(demo), &words, "").await?;
    ensure!(said.code == 0, "{said:?}");
    is_said(&shown, &said.all)?;
    let books: Value = serde_json::from_str(said.out.trim()).context("one JSON object")?;
    ensure!(books["lost"] == 0 && books["twice"] == 0, "{books}");
    Ok(())
}
