//! Power cuts on a real file system: ext4 on a loop device. A child appends and says what was
//! confirmed; at random moments it is stopped, the file behind the device is copied, and the copy is
//! what the disk held when the power went off: all that was given to the device, nothing of what the
//! kernel still kept. It is mounted elsewhere, where the store must open with all that was confirmed.
//!
//! A copy during which the kernel wrote to the device is thrown away: it would be of two moments.
//! Needs root, a free loop device and mkfs.ext4; where it cannot be had it says so.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use forebay_agent::buffer::disk::Flash;
use forebay_config::agent::WhenFull;
use forebay_protocols::sync::batch::{Encoded, Epoch};
use rustix::process::{Pid, Signal, kill_process};

use super::plant::{Maker, measured, open, rules};
use super::witness::{books, contents};
use super::{Broken, Dice, Order, Tally};

const IMAGE_BYTES: u64 = 96 << 20;
const LIMIT: u64 = 32 << 20;
/// The child says no more for so long when it is stopped.
const SILENCE: Duration = Duration::from_millis(50);

pub fn run(order: &Order) -> Tally {
    let mut tally = Tally::default();
    if let Err(error) = cut_again_and_again(order, &mut tally) {
        tally.skipped = Some(format!("{error:#}"));
    }
    tally
}

/// The child: appends below `folder` and prints each confirmed sequence, until it is killed.
///
/// # Errors
/// When the store does not open.
pub fn append_until_killed(folder: &Path, seed: u64) -> Result<()> {
    let (mut store, opening, _) =
        open(Arc::new(Flash::new(folder)), &rules(LIMIT, WhenFull::DropOldest), seed)
            .map_err(|broken| anyhow::anyhow!("{broken:?}"))?;
    let mut dice = Dice::new(seed);
    let mut out = std::io::stdout().lock();
    writeln!(out, "epoch {}", opening.epoch)?;
    store.define(&measured());
    loop {
        let next = store.next_sequence().0;
        let batches: Vec<Encoded> = (next..=next + dice.below(3)).map(|n| batch(opening.epoch, n)).collect();
        if store.append(&batches).is_ok() {
            batches.iter().try_for_each(|batch| writeln!(out, "appended {}", batch.sequence.0))?;
        }
        if dice.once_in(5) {
            // Keeps 200 batches or so.
            let upto = next.saturating_sub(dice.within(50, 200));
            writeln!(out, "acknowledged {upto}")?;
            out.flush()?;
            store.acknowledge(&[0..=upto]);
        }
        if dice.once_in(10) {
            store.tick();
        }
        out.flush()?;
    }
}

/// The batch of a sequence, the same for whoever asks.
fn batch(epoch: Epoch, sequence: u64) -> Encoded {
    let mut dice = Dice::new(sequence);
    let readings = dice.within(1, 800);
    Maker::default().batch(epoch, sequence, readings, &mut dice)
}

fn cut_again_and_again(order: &Order, tally: &mut Tally) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "needs root, for a loop device");
    let folder = tempfile::tempdir()?;
    let image = folder.path().join("disk");
    std::fs::File::create(&image)?.set_len(IMAGE_BYTES)?;
    command("mkfs.ext4", &["-q", "-F", &text(&image)])?;
    let disk = Mounted::new(&image, &folder.path().join("at-work"))?;
    let mut dice = Dice::new(order.seed);
    let mut life = Life::begin(&disk.at.join("buffer"), order.seed)?;
    while tally.faults < order.rounds && tally.failures() == 0 {
        life.listen(Duration::from_millis(dice.within(20, 400)));
        let copy = folder.path().join("copy");
        life.stop_and_copy(&disk, &copy)?;
        tally.faults += 1;
        let after = Mounted::new(&copy, &folder.path().join("after"))?;
        life.judge(&after.at.join("buffer"), tally);
    }
    tally.produced +=
        (1..=life.newest).map(|sequence| u64::from(batch(life.epoch, sequence).count)).sum::<u64>();
    Ok(())
}

/// A file system in a file. Unmounted when dropped.
struct Mounted {
    at: PathBuf,
    device: String,
}

impl Mounted {
    fn new(image: &Path, at: &Path) -> Result<Self> {
        std::fs::create_dir_all(at)?;
        let device = command("losetup", &["--find", "--show", &text(image)])?.trim().to_owned();
        let mounted = Self { at: at.to_owned(), device };
        // A write that fails must fail here, as on any gateway.
        command("mount", &["-t", "ext4", "-o", "errors=remount-ro", &mounted.device, &text(at)])?;
        Ok(mounted)
    }

    /// Writes that the device has seen so far.
    fn writes(&self) -> Result<u64> {
        let name = self.device.trim_start_matches("/dev/");
        let stat = std::fs::read_to_string(format!("/sys/block/{name}/stat"))
            .context("count the device's writes")?;
        stat.split_whitespace().nth(4).context("the device's statistics")?.parse().context("a number")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Nothing can be done about one that stays but to say so, and the tool does.
        drop(command("umount", &[&text(&self.at)]));
        drop(command("losetup", &["--detach", &self.device]));
    }
}

/// A child at work, and what it said.
struct Life {
    child: Child,
    words: Receiver<String>,
    epoch: Epoch,
    newest: u64,
    appended: Vec<u64>,
    acknowledged: u64,
}

impl Life {
    fn begin(folder: &Path, seed: u64) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--append-in", &text(folder), "--seed", &seed.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .context("start the appending child")?;
        let out = child.stdout.take().context("its output is piped")?;
        let (sender, words) = channel();
        std::thread::spawn(move || {
            // Ends with the child.
            BufReader::new(out).lines().map_while(Result::ok).try_for_each(|line| sender.send(line).ok())
        });
        let first = words.recv_timeout(Duration::from_secs(20)).context("the child says its epoch")?;
        let hex = first.strip_prefix("epoch ").context("an epoch")?.as_bytes();
        let mut epoch = Epoch([0; 16]);
        for (byte, pair) in epoch.0.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair)?, 16)?;
        }
        Ok(Self { child, words, epoch, newest: 0, appended: Vec::new(), acknowledged: 0 })
    }

    /// Takes in what the child says until it is silent for so long, or so much time has passed.
    fn listen(&mut self, within: Duration) {
        let until = std::time::Instant::now() + within;
        loop {
            let left = until.saturating_duration_since(std::time::Instant::now());
            match self.words.recv_timeout(left) {
                Ok(line) => self.take_in(&line),
                Err(_) => return,
            }
        }
    }

    fn take_in(&mut self, line: &str) {
        let number = |rest: &str| rest.parse().unwrap_or(0);
        if let Some(rest) = line.strip_prefix("appended ") {
            self.newest = number(rest);
            self.appended.push(self.newest);
        } else if let Some(rest) = line.strip_prefix("acknowledged ") {
            self.acknowledged = self.acknowledged.max(number(rest));
        }
    }

    /// What the disk holds at a moment at which nothing writes to it.
    fn stop_and_copy(&mut self, disk: &Mounted, to: &Path) -> Result<()> {
        let child = Pid::from_child(&self.child);
        for _ in 0..100 {
            kill_process(child, Signal::STOP)?;
            self.listen(SILENCE);
            let before = disk.writes()?;
            std::fs::copy(to.with_file_name("disk"), to)?;
            let quiet = disk.writes()? == before;
            kill_process(child, Signal::CONT)?;
            if quiet {
                return Ok(());
            }
        }
        bail!("the kernel writes to {} all the time", disk.device)
    }

    fn judge(&self, folder: &Path, tally: &mut Tally) {
        let opened = open(Arc::new(Flash::new(folder)), &rules(LIMIT, WhenFull::DropOldest), 77);
        let (mut store, opening, took) = match opened {
            Ok(opened) => opened,
            Err(broken) => return tally.add(broken),
        };
        tally.slowest_opening = tally.slowest_opening.max(took);
        let mut broken = Vec::new();
        let found = contents(&mut store, &mut broken);
        for sequence in self.appended.iter().filter(|sequence| **sequence > self.acknowledged) {
            let original = batch(self.epoch, *sequence);
            if found.get(sequence).is_none_or(|stored| stored.bytes != original.bytes) {
                let words = format!("batch {sequence} is gone; {:?}", opening.repairs);
                broken.push(Broken::Lost(u64::from(original.count), words));
            }
        }
        if store.next_sequence().0 <= self.newest {
            broken.push(Broken::Twice(1, format!("sequence {} is given again", store.next_sequence().0)));
        }
        if opening.counts.dropped > 0 {
            broken.push(Broken::Unaccounted(opening.counts.dropped, "called lost, though nothing is".into()));
        }
        broken.extend(books(&mut store));
        broken.into_iter().for_each(|broken| tally.add(broken));
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn command(program: &str, arguments: &[&str]) -> Result<String> {
    let out = Command::new(program).args(arguments).output().with_context(|| format!("run {program}"))?;
    ensure!(out.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&out.stderr).trim());
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
