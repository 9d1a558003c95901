//! A whole machine with a fresh Debian under systemd, made by `tests/machine` and emulated by QEMU:
//! what is installed there is installed as on a gateway, can be rebooted, and its power can be cut.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::needed;

/// An emulated machine on a busy one takes its time.
const BOOT: Duration = Duration::from_secs(240);
const COMMAND: Duration = Duration::from_secs(180);

/// Two disks, a field bus at `/dev/ttyS1`, and a shell. Its power is cut when it is dropped.
pub struct Machine {
    folder: PathBuf,
    bus: SocketAddr,
    running: Option<Running>,
}

struct Running {
    qemu: Child,
    shell: BufReader<UnixStream>,
}

impl Machine {
    /// A machine of its own with a copy of the fresh disk, in `folder`. The files of `share` lie on
    /// its second disk, `/dev/nvme1n1`. Off as yet.
    ///
    /// # Errors
    /// When there is none to copy, with how to get one.
    pub fn new(folder: &Path, share: &Path, bus: SocketAddr) -> Result<Self> {
        let fresh = fresh()?;
        run(Command::new("cp").arg("--sparse=always").arg(fresh.join("disk.img")).arg(folder))?;
        let disk = folder.join("share.img");
        File::create(&disk)?.set_len(512 << 20)?;
        run(Command::new("mke2fs").args(["-q", "-t", "ext4", "-F", "-d"]).arg(share).arg(&disk))?;
        Ok(Self { folder: folder.to_owned(), bus, running: None })
    }

    /// Switches it on and waits for its shell.
    ///
    /// # Errors
    /// When it does not boot; the console is in `console.log`.
    pub fn switch_on(&mut self) -> Result<()> {
        let file = |name: &str| self.folder.join(name);
        let socket = file("shell");
        let _ = fs::remove_file(&socket);
        let drive = |id: &str, file: PathBuf| format!("if=none,id={id},format=raw,file={}", file.display());
        let qemu = Command::new("qemu-system-x86_64")
            .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "640"])
            .args(["-nodefaults", "-display", "none"])
            .arg("-kernel")
            .arg(fresh()?.join("kernel"))
            .args(["-append", "root=/dev/nvme0n1 rw console=ttyS0 quiet panic=-1"])
            .args([
                "-drive",
                &drive("system", file("disk.img")),
                "-device",
                "nvme,drive=system,serial=system",
            ])
            .args(["-drive", &drive("share", file("share.img")), "-device", "nvme,drive=share,serial=share"])
            .args(["-serial", &format!("file:{}", file("console.log").display())])
            .args([
                "-chardev",
                &format!("socket,id=bus,host={},port={},reconnect=1", self.bus.ip(), self.bus.port()),
            ])
            .args(["-serial", "chardev:bus"])
            .args(["-serial", &format!("unix:{},server=on,wait=off", socket.display())])
            .stdin(Stdio::null())
            .stderr(File::create(file("qemu.log"))?)
            .spawn()
            .context("start qemu-system-x86_64; tests/run --packages installs it")?;
        let until = Instant::now() + Duration::from_secs(20);
        let stream = loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => break stream,
                Err(_) if Instant::now() < until => sleep(Duration::from_millis(100)),
                Err(error) => {
                    return Err(error)
                        .with_context(|| fs::read_to_string(file("qemu.log")).unwrap_or_default());
                }
            }
        };
        self.running = Some(Running { qemu, shell: BufReader::new(stream) });
        self.wait_for_shell()
    }

    /// Restarts it as its administrator would.
    ///
    /// # Errors
    /// When it does not come back.
    pub fn reboot(&mut self) -> Result<()> {
        self.say("systemctl reboot")?;
        self.wait_for_shell()
    }

    /// Cuts its power: what its kernel had not written is gone.
    ///
    /// # Errors
    /// When it was off.
    pub fn cut_power(&mut self) -> Result<()> {
        let mut running = self.running.take().context("the machine is off")?;
        running.qemu.kill()?;
        running.qemu.wait()?;
        Ok(())
    }

    /// Switches it off as its administrator would, and waits for that.
    ///
    /// # Errors
    /// When it does not end.
    pub fn switch_off(&mut self) -> Result<()> {
        self.say("systemctl poweroff")?;
        let mut running = self.running.take().context("the machine is off")?;
        let until = Instant::now() + COMMAND;
        while running.qemu.try_wait()?.is_none() {
            if Instant::now() > until {
                running.qemu.kill()?;
                bail!("the machine does not go off");
            }
            sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Runs a command there as root; what it printed on both streams.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn run(&mut self, command: &str) -> Result<String> {
        let (code, words) = self.ask(command)?;
        ensure!(code == 0, "{command}: exit code {code}\n{words}");
        Ok(words)
    }

    /// Runs a command there as root; its exit code, and what it printed on both streams.
    ///
    /// # Errors
    /// When no answer comes.
    pub fn ask(&mut self, command: &str) -> Result<(i32, String)> {
        self.say(&format!("{{ {command}\n}} </dev/null 2>&1; echo \"@@ $?\""))?;
        let mut words = String::new();
        let until = Instant::now() + COMMAND;
        loop {
            let line =
                self.line(until).with_context(|| format!("wait for `{command}`, which said:\n{words}"))?;
            // The last line of what it printed may lack its end.
            if let Some((before, code)) = line.split_once("@@ ") {
                words.push_str(before);
                return Ok((code.trim().parse().with_context(|| line.clone())?, words));
            }
            words.push_str(&line);
        }
    }

    /// Runs a command until it succeeds.
    ///
    /// # Errors
    /// When it has not for a minute, with what it said last.
    pub fn until(&mut self, command: &str) -> Result<String> {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let (code, words) = self.ask(command)?;
            if code == 0 {
                return Ok(words);
            }
            ensure!(Instant::now() < until, "{command}: still exit code {code}\n{words}");
            sleep(Duration::from_millis(500));
        }
    }

    /// Fetches a file that lies on the second disk while the machine is off.
    ///
    /// # Errors
    /// When it is not there.
    pub fn shared(&self, name: &str) -> Result<PathBuf> {
        let to = self.folder.join(name);
        run(Command::new("debugfs")
            .arg("-R")
            .arg(format!("dump {name} {}", to.display()))
            .arg(self.folder.join("share.img")))?;
        ensure!(to.exists(), "{name} is not on the second disk");
        Ok(to)
    }

    fn wait_for_shell(&mut self) -> Result<()> {
        let until = Instant::now() + BOOT;
        loop {
            let line = self.line(until).with_context(|| {
                let console = fs::read_to_string(self.folder.join("console.log")).unwrap_or_default();
                let from = console.len().saturating_sub(3000);
                format!("the machine boots:\n{}", console.get(from..).unwrap_or_default())
            })?;
            if line.trim_end() == "@@ ready" {
                return Ok(());
            }
        }
    }

    fn say(&mut self, words: &str) -> Result<()> {
        let running = self.running.as_mut().context("the machine is off")?;
        running.shell.get_mut().write_all(format!("{words}\n").as_bytes())?;
        Ok(())
    }

    fn line(&mut self, until: Instant) -> Result<String> {
        let running = self.running.as_mut().context("the machine is off")?;
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        running.shell.get_ref().set_read_timeout(Some(left))?;
        let mut line = Vec::new();
        running.shell.read_until(b'\n', &mut line)?;
        ensure!(!line.is_empty(), "the machine went off: {}", self.qemus_words());
        Ok(String::from_utf8_lossy(&line).into_owned())
    }

    fn qemus_words(&self) -> String {
        fs::read_to_string(self.folder.join("qemu.log")).unwrap_or_default()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if self.running.is_some() {
            let _ = self.cut_power();
        }
    }
}

fn fresh() -> Result<PathBuf> {
    needed("FOREBAY_TEST_MACHINE", "the folder that tests/machine made").map(PathBuf::from)
}

fn run(command: &mut Command) -> Result<()> {
    let out = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    Ok(())
}
