//! A real browser, headless, asked over its debugging pipe. (`--dump-dom` would not do: it takes the
//! page as it is when it has loaded, before it has fetched anything; and a live feed never ends, so
//! the browser's virtual time never passes either.)

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// How long one answer of the browser may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A browser with one page. Killed when dropped.
pub struct Browser {
    /// Held for its life.
    _process: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
    session: Option<String>,
    asked: u64,
    complaints: Vec<String>,
    _profile: TempDir,
}

impl Browser {
    /// Starts `FOREBAY_TEST_CHROMIUM`, or `chromium`, with an empty page of this width in pixels.
    ///
    /// # Errors
    /// When there is none, with how to get one.
    pub async fn start(width: u32) -> Result<Self> {
        let program = std::env::var("FOREBAY_TEST_CHROMIUM").unwrap_or_else(|_| "chromium".into());
        let profile = tempfile::tempdir()?;
        // The pipe is file descriptors 3 (to the browser) and 4 (from it).
        let mut process = Command::new("sh")
            .args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 1>&2", &program])
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .args(["--remote-debugging-pipe", "about:blank"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("start sh")?;
        let questions = process.stdin.take().context("standard input is piped")?;
        let answers = BufReader::new(process.stdout.take().context("standard output is piped")?);
        let mut browser = Self {
            _process: process,
            questions,
            answers,
            session: None,
            asked: 0,
            complaints: Vec::new(),
            _profile: profile,
        };
        browser.open_page(width).await.with_context(|| {
            format!("start `{program}`: install Chromium, or set FOREBAY_TEST_CHROMIUM; `tests/run` does")
        })?;
        Ok(browser)
    }

    async fn open_page(&mut self, width: u32) -> Result<()> {
        let page = self.ask("Target.createTarget", json!({ "url": "about:blank" })).await?;
        let attach = json!({ "targetId": page["targetId"], "flatten": true });
        let attached = self.ask("Target.attachToTarget", attach).await?;
        self.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Runtime.enable", "Log.enable", "Page.enable"] {
            self.ask(domain, json!({})).await?;
        }
        let size = json!({ "width": width, "height": 800, "deviceScaleFactor": 1, "mobile": false });
        self.ask("Emulation.setDeviceMetricsOverride", size).await?;
        Ok(())
    }

    /// Goes to an address.
    ///
    /// # Errors
    /// When the browser cannot.
    pub async fn go(&mut self, url: &str) -> Result<()> {
        let gone = self.ask("Page.navigate", json!({ "url": url })).await?;
        ensure!(gone["errorText"].is_null(), "{url}: {}", gone["errorText"]);
        Ok(())
    }

    /// What a JavaScript expression comes to on the page.
    ///
    /// # Errors
    /// When it throws.
    pub async fn evaluate(&mut self, expression: &str) -> Result<Value> {
        let question = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.ask("Runtime.evaluate", question).await?;
        ensure!(answer["exceptionDetails"].is_null(), "{expression}: {}", answer["exceptionDetails"]);
        Ok(answer["result"]["value"].clone())
    }

    /// The text a person reads on the page.
    ///
    /// # Errors
    /// When the browser does not answer.
    pub async fn text(&mut self) -> Result<String> {
        let text = self.evaluate("document.body.innerText").await?;
        Ok(text.as_str().unwrap_or_default().to_owned())
    }

    /// Another size, in pixels.
    ///
    /// # Errors
    /// When the browser refuses.
    pub async fn resize(&mut self, width: u32, height: u32) -> Result<()> {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.ask("Emulation.setDeviceMetricsOverride", size).await.map(drop)
    }

    /// Whether the reader prefers dark pages.
    ///
    /// # Errors
    /// When the browser refuses.
    pub async fn prefer_dark(&mut self, dark: bool) -> Result<()> {
        let scheme = if dark { "dark" } else { "light" };
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.ask("Emulation.setEmulatedMedia", features).await.map(drop)
    }

    /// Presses and lets go of a key: `Tab`, `Enter`, `ArrowLeft`, `+`, a letter.
    ///
    /// # Errors
    /// When the browser refuses.
    pub async fn press(&mut self, key: &str) -> Result<()> {
        let (code, text) = match key {
            "Enter" => (13, "\r"),
            "Tab" => (9, ""),
            "Escape" => (27, ""),
            "ArrowLeft" => (37, ""),
            "ArrowRight" => (39, ""),
            one => (0, one),
        };
        for kind in ["keyDown", "keyUp"] {
            let pressed = json!({ "type": kind, "key": key, "windowsVirtualKeyCode": code, "text": text });
            self.ask("Input.dispatchKeyEvent", pressed).await?;
        }
        Ok(())
    }

    /// Types a text where the focus is.
    ///
    /// # Errors
    /// When the browser refuses.
    pub async fn write(&mut self, text: &str) -> Result<()> {
        self.ask("Input.insertText", json!({ "text": text })).await.map(drop)
    }

    /// Drags with the mouse from one place of an element to another, told as parts of its width.
    ///
    /// # Errors
    /// When there is no such element.
    pub async fn drag(&mut self, selector: &str, from: f64, to: f64) -> Result<()> {
        let place = format!(
            "(() => {{ const node = document.querySelector({selector:?}); node.scrollIntoView({{ block: 'center' }}); \
             const box = node.getBoundingClientRect(); return [box.left, box.top + box.height / 2, box.width]; }})()"
        );
        let place = self.evaluate(&place).await?;
        let number = |at: usize| place[at].as_f64().context("a place");
        let (left, y, width) = (number(0)?, number(1)?, number(2)?);
        let middle = (from + to) / 2.0;
        // A pointer that comes with its button down already is never pressed.
        for (kind, part, button, buttons) in [
            ("mouseMoved", from, "none", 0),
            ("mousePressed", from, "left", 1),
            ("mouseMoved", middle, "left", 1),
            ("mouseMoved", to, "left", 1),
            ("mouseReleased", to, "left", 0),
        ] {
            let event = json!({ "type": kind, "x": left + width * part, "y": y, "button": button, "buttons": buttons, "clickCount": 1 });
            self.ask("Input.dispatchMouseEvent", event).await?;
        }
        Ok(())
    }

    /// Keeps a picture of all of the page as `NAME.png` in the folder that FOREBAY_TEST_PICTURES names; without one,
    /// nothing.
    ///
    /// # Errors
    /// When the browser cannot make it, or it cannot be written.
    pub async fn keep_picture(&mut self, name: &str) -> Result<()> {
        let Some(folder) = std::env::var_os("FOREBAY_TEST_PICTURES") else { return Ok(()) };
        // Let what was just drawn come to rest.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let whole = json!({ "format": "png", "captureBeyondViewport": true });
        let picture = self.ask("Page.captureScreenshot", whole).await?;
        let picture = STANDARD.decode(picture["data"].as_str().context("a picture")?)?;
        std::fs::create_dir_all(&folder)?;
        Ok(std::fs::write(Path::new(&folder).join(format!("{name}.png")), picture)?)
    }

    /// What axe-core (deque.com/axe) finds wrong with the page by WCAG 2.1 A and AA: one line a violation.
    ///
    /// # Errors
    /// When axe-core is not there, with how to get it, or does not run.
    pub async fn accessibility(&mut self) -> Result<Vec<String>> {
        let path = axe()?;
        let source = std::fs::read_to_string(&path).with_context(|| {
            format!(
                "read {}: `tests/run --prepare` installs axe-core, or set FOREBAY_TEST_AXE",
                path.display()
            )
        })?;
        self.evaluate(&format!("{source}; true")).await?;
        let run = "axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'best-practice'] }).then((found) => \
                   found.violations.flatMap((rule) => rule.nodes.map((node) => \
                   `${rule.id}: ${node.target.join(' ')}: ${node.failureSummary.replaceAll('\\n', ' ')}`)))";
        let found = self.evaluate(run).await?;
        let lines = found.as_array().context("axe-core answers with a list")?;
        Ok(lines.iter().map(|line| line.as_str().unwrap_or_default().to_owned()).collect())
    }

    /// Waits until an expression is true. While a page is on its way there may be nothing to ask:
    /// an expression that cannot be evaluated yet is not true yet.
    ///
    /// # Errors
    /// When it is not within half a minute; with what the page shows instead.
    pub async fn until(&mut self, expression: &str) -> Result<()> {
        let started = Instant::now();
        loop {
            let found = self.evaluate(expression).await;
            if matches!(&found, Ok(value) if *value == json!(true)) {
                break;
            }
            if started.elapsed() > PATIENCE {
                bail!(
                    "not within {PATIENCE:?}: {expression}: {found:?}\n{}\n{:?}",
                    self.text().await?,
                    self.complaints
                );
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Exceptions, refused loads and warnings so far.
    pub fn complaints(&self) -> &[String] {
        &self.complaints
    }

    async fn ask(&mut self, method: &str, parameters: Value) -> Result<Value> {
        self.asked += 1;
        let mut question = json!({ "id": self.asked, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            question["sessionId"] = json!(session);
        }
        let answer = async {
            self.questions.write_all(question.to_string().as_bytes()).await?;
            self.questions.write_all(b"\0").await?;
            self.questions.flush().await?;
            loop {
                let mut message = Vec::new();
                self.answers.read_until(0, &mut message).await?;
                ensure!(message.pop() == Some(0), "the browser has ended");
                let message: Value = serde_json::from_slice(&message)?;
                if message["id"] == self.asked {
                    ensure!(message["error"].is_null(), "{method}: {}", message["error"]);
                    return Ok(message["result"].clone());
                }
                if let Some("Runtime.exceptionThrown" | "Log.entryAdded") = message["method"].as_str() {
                    self.complaints.push(message["params"].to_string());
                }
            }
        };
        tokio::time::timeout(PATIENCE, answer).await.with_context(|| format!("{method}: no answer"))?
    }
}

/// axe-core beside the Node.js peers, or where `FOREBAY_TEST_AXE` says.
fn axe() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("FOREBAY_TEST_AXE") {
        return Ok(path.into());
    }
    let node = std::env::var_os("FOREBAY_TEST_NODE")
        .context("FOREBAY_TEST_NODE is not set: tests/run sets it, and installs axe-core beside it")?;
    let beside = PathBuf::from(node).parent().map(Path::to_owned).unwrap_or_default();
    Ok(beside.join("node_modules/axe-core/axe.min.js"))
}
