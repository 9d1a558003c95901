//! A Mosquitto broker and its publisher, run from the machine's packages (`mosquitto`,
//! `mosquitto-clients`) in a folder of its own. Stops with the test.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may stop where it stands")]

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

const PATIENCE: Duration = Duration::from_secs(20);

/// Whom the broker lets in at [`Mosquitto::port`].
pub enum Security<'a> {
    /// Everybody.
    None,
    /// One user; the publisher must be it too.
    Password {
        /// Its name.
        user: &'a str,
        /// Its password.
        password: &'a str,
    },
    /// TLS, and certificates of this authority. The publisher has a plain port of its own.
    Certificates(&'a Authority),
}

/// A running broker.
pub struct Mosquitto {
    /// Where the driver connects.
    pub port: u16,
    /// Where `mosquitto_pub` connects.
    publisher_port: u16,
    dir: TempDir,
    running: Option<Running>,
}

struct Running {
    child: Child,
    _log: AbortOnDropHandle<()>,
}

impl Mosquitto {
    /// Starts a broker; it listens when this returns.
    pub async fn start(security: Security<'_>) -> Self {
        // A free port may be taken before Mosquitto has it; then another one is tried.
        for _ in 0..5 {
            let (port, other) = free_ports().await;
            let dir = tempfile::tempdir().unwrap();
            let plain = matches!(security, Security::None | Security::Password { .. });
            let publisher_port = if plain { port } else { other };
            fs::write(dir.path().join("mosquitto.conf"), settings(&security, dir.path(), port, other))
                .unwrap();
            let running = run(dir.path()).await;
            if running.is_some() {
                return Self { port, publisher_port, dir, running };
            }
        }
        panic!("mosquitto did not start; see its words above")
    }

    /// Ends the broker as an administrator would; it saves its sessions.
    pub async fn stop(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        let id = running.child.id().expect("it runs");
        kill_process(Pid::from_raw(id as i32).expect("not zero"), Signal::TERM).unwrap();
        timeout(PATIENCE, running.child.wait()).await.expect("mosquitto ends").unwrap();
    }

    /// Starts it again, with the same port and sessions.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.running = run(self.dir.path()).await;
        assert!(self.running.is_some(), "mosquitto did not start again");
    }

    /// Runs `mosquitto_pub` at QoS 1 (unless `arguments` say otherwise) until it is done.
    pub async fn publish(&self, arguments: &[&str]) {
        let output = self.publisher().args(arguments).output().await.unwrap();
        assert!(output.status.success(), "mosquitto_pub: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Publishes each line as a message.
    pub async fn publish_lines(&self, topic: &str, lines: &str) {
        let mut child = self
            .publisher()
            .args(["-t", topic, "-l"])
            .stdin(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(lines.as_bytes()).await.unwrap();
        drop(input);
        assert!(timeout(PATIENCE, child.wait()).await.expect("mosquitto_pub ends").unwrap().success());
    }

    /// A publisher at QoS 1 that is given its lines bit by bit.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn publisher_of_lines(&self, topic: &str) -> std::io::Result<Publisher> {
        self.publisher_at("1", topic)
    }

    /// The same at another quality of service.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn publisher_at(&self, qos: &str, topic: &str) -> std::io::Result<Publisher> {
        let mut command = self.publisher();
        command.args(["-q", qos, "-t", topic, "-l"]).stdin(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let lines = child.stdin.take().ok_or_else(|| std::io::Error::other("its input is piped"))?;
        Ok(Publisher { child, lines })
    }

    fn publisher(&self) -> Command {
        let mut command = Command::new(program("mosquitto_pub", "FOREBAY_TEST_MOSQUITTO_PUB"));
        command.args(["-h", "127.0.0.1", "-q", "1", "-p"]).arg(self.publisher_port.to_string());
        command
    }
}

/// A running `mosquitto_pub`.
pub struct Publisher {
    child: Child,
    lines: ChildStdin,
}

impl Publisher {
    /// Publishes each line as a message.
    ///
    /// # Errors
    /// When it has ended.
    pub async fn say(&mut self, lines: &str) -> std::io::Result<()> {
        self.lines.write_all(lines.as_bytes()).await
    }

    /// Waits until the broker has all of it.
    ///
    /// # Errors
    /// When it does not end well within a minute.
    pub async fn finish(self) -> std::io::Result<()> {
        let Self { mut child, lines } = self;
        drop(lines);
        let status = timeout(PATIENCE * 3, child.wait()).await??;
        if status.success() { Ok(()) } else { Err(std::io::Error::other(format!("mosquitto_pub: {status}"))) }
    }
}

/// Starts the broker of `dir`; it listens when this returns. `None`: it ended instead.
async fn run(dir: &Path) -> Option<Running> {
    let mut child = Command::new(program("mosquitto", "FOREBAY_TEST_MOSQUITTO"))
        .arg("-c")
        .arg(dir.join("mosquitto.conf"))
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let ready = timeout(PATIENCE, async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.ends_with("running") {
                return true;
            }
            eprintln!("mosquitto: {line}");
        }
        false
    });
    if !ready.await.expect("mosquitto says that it runs, or ends") {
        return None;
    }
    let log = tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Some(Running { child, _log: AbortOnDropHandle::new(log) })
}

fn settings(security: &Security<'_>, dir: &Path, port: u16, other: u16) -> String {
    // As root it would become a user that cannot read the folder. By default it keeps 1,000 messages for
    // a client that is away, and drops the rest.
    let common = format!(
        "user root\nlog_dest stderr\npersistence true\npersistence_location {}/\nper_listener_settings true\n\
         max_queued_messages 0\n\
         listener {port} 127.0.0.1\n",
        dir.display()
    );
    common
        + &match security {
            Security::None => "allow_anonymous true\n".to_owned(),
            Security::Password { user, password } => {
                let file = dir.join("passwords");
                let made =
                    std::process::Command::new(program("mosquitto_passwd", "FOREBAY_TEST_MOSQUITTO_PASSWD"))
                        .args(["-c", "-b"])
                        .arg(&file)
                        .args([user, password])
                        .output()
                        .unwrap();
                assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
                format!("allow_anonymous false\npassword_file {}\n", file.display())
            }
            Security::Certificates(authority) => {
                let (certificate, key) = authority.issue("localhost");
                format!(
                    "allow_anonymous true\ncafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\n\
                     listener {other} 127.0.0.1\nallow_anonymous true\n",
                    authority.file().display(),
                    certificate.display(),
                    key.display()
                )
            }
        }
}

/// Two different ports that were free a moment ago.
async fn free_ports() -> (u16, u16) {
    let one = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let two = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    (one.local_addr().unwrap().port(), two.local_addr().unwrap().port())
}

/// The program that `variable` names, else the one in /usr/sbin or PATH.
fn program(name: &str, variable: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = std::iter::once(PathBuf::from("/usr/sbin")).chain(std::env::split_paths(&path));
    folders.find_map(|folder| Some(folder.join(name)).filter(|file| file.is_file())).unwrap_or_else(|| {
        panic!(
            "{name} is not installed: install the packages mosquitto and mosquitto-clients, or set {variable}"
        )
    })
}

/// A certificate authority in a folder of its own.
pub struct Authority {
    dir: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// A new one.
    #[expect(clippy::new_without_default, reason = "it makes a key and files")]
    pub fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "plant authority");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let authority = Self { dir: tempfile::tempdir().unwrap(), issuer };
        fs::write(authority.file(), authority.issuer.pem()).unwrap();
        authority
    }

    /// Its certificate.
    pub fn file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A certificate for `name` at 127.0.0.1, and its key.
    pub fn issue(&self, name: &str) -> (PathBuf, PathBuf) {
        let mut params = CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let paths =
            (self.dir.path().join(format!("{name}.pem")), self.dir.path().join(format!("{name}.key")));
        fs::write(&paths.0, certificate.pem()).unwrap();
        fs::write(&paths.1, key.serialize_pem()).unwrap();
        paths
    }
}
