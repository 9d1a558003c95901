//! What durability costs: bytes written to the disk per byte of payload, and syncs a minute, of the
//! buffer and of other ways to keep the same batches: payload in sled, SQLite in WAL mode with
//! `synchronous=FULL`, and a bare append-only file. One run, one load, one table.
//!
//!     cargo bench -p forebay-agent --bench durability -- [--json] [--minutes N] [--points N]
//!
//! The load: N points read each second, encoded into a batch each window of 1 or 10 seconds, kept
//! durably, and acknowledged (deleted) ten minutes later. Played as fast as the disk allows; syncs
//! are given per minute of the plant's time.
//!
//! Each contender runs in a process of its own. Bytes are those the kernel counted as written for it
//! (`write_bytes` of /proc/self/io), on the file system of the temporary folder (TMPDIR), which must
//! be a real one. Syncs are those the process asked the kernel for, counted by `strace -c` in a run
//! of its own; without strace the column says `-`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench is read by people, and may stop")]

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use forebay_agent::buffer::disk::Flash;
use forebay_agent::buffer::store::{Rules, Store};
use forebay_config::agent::WhenFull;
use forebay_protocols::boot_time::BootTime;
use forebay_protocols::reading::{DataType, Point, PointId, PointKind, Quality, Reading, Stamp, Value};
use forebay_protocols::sync::batch::{Boot, Encoded, Encoder, Epoch, Head, Sequence};

const CONTENDERS: [(&str, &str); 4] = [
    ("buffer", "Forebay's buffer"),
    ("sled", "payload in sled, with an fdatasync of its file"),
    ("sqlite", "SQLite, WAL, synchronous=FULL"),
    ("file", "a bare append-only file that never forgets"),
];
const WINDOWS: [u64; 2] = [1, 10];
/// Seconds after which a batch is acknowledged.
const KEPT: u64 = 600;
/// Seconds that acknowledgements wait for the buffer's thread to write them.
const ACKNOWLEDGEMENTS: u64 = 60;
/// Seconds between two rests of the buffer's thread.
const REST: u64 = 300;

#[derive(Clone, Copy)]
struct Load {
    minutes: u64,
    points: u64,
    window: u64,
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let after = |flag: &str| arguments.iter().position(|a| a == flag).and_then(|at| arguments.get(at + 1));
    let number = |flag: &str, usual: u64| after(flag).and_then(|n| n.parse().ok()).unwrap_or(usual);
    let mut load = Load {
        minutes: number("--minutes", 20),
        points: number("--points", 200),
        window: number("--window", 1),
    };
    if let Some(contender) = after("--as") {
        let folder = tempfile::tempdir().unwrap();
        let before = written();
        let payload = play(contender, folder.path(), load);
        println!("{payload} {}", written() - before);
        return;
    }
    let json = arguments.iter().any(|argument| argument == "--json");
    if !json {
        println!("{} points/s for {} minutes, acknowledged after {KEPT} s", load.points, load.minutes);
        println!("window  written/payload  to ours  syncs/min");
    }
    for window in WINDOWS {
        load.window = window;
        let mut ours = None;
        for (contender, words) in CONTENDERS {
            let (payload, bytes) = measured(contender, load);
            let ratio = bytes as f64 / payload as f64;
            let to_ours = ratio / *ours.get_or_insert(ratio);
            let syncs = syncs(contender, load).map(|syncs| syncs as f64 / load.minutes as f64);
            if json {
                let line = serde_json::json!({
                    "window_s": window, "contender": contender, "payload_bytes": payload,
                    "written_bytes": bytes, "written_per_payload": ratio, "to_ours": to_ours,
                    "syncs_per_minute": syncs,
                });
                println!("{line}");
            } else {
                let syncs = syncs.map_or("-".into(), |syncs| format!("{syncs:.1}"));
                println!("{window:>4} s  {ratio:>15.2}  {to_ours:>6.2}x  {syncs:>9}  {words}");
            }
        }
    }
}

/// Payload and written bytes of a contender in a process of its own.
fn measured(contender: &str, load: Load) -> (u64, u64) {
    let out = child(contender, load, Command::new(std::env::current_exe().unwrap())).output().unwrap();
    assert!(out.status.success(), "{contender}: {}", String::from_utf8_lossy(&out.stderr));
    let line = String::from_utf8(out.stdout).unwrap();
    let (payload, bytes) = line.trim().split_once(' ').unwrap();
    (payload.parse().unwrap(), bytes.parse().unwrap())
}

/// Syncs that the kernel was asked for, if strace is on this machine.
fn syncs(contender: &str, load: Load) -> Option<u64> {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-c", "-e", "trace=fsync,fdatasync"]).arg(std::env::current_exe().ok()?);
    let out = child(contender, load, strace).output().ok().filter(|out| out.status.success())?;
    let table = String::from_utf8_lossy(&out.stderr).into_owned();
    // % time, seconds, usecs/call, calls, [errors,] name
    let rows = table.lines().filter(|line| line.ends_with(" fsync") || line.ends_with(" fdatasync"));
    Some(rows.filter_map(|line| line.split_whitespace().nth(3)?.parse::<u64>().ok()).sum())
}

fn child(contender: &str, load: Load, mut command: Command) -> Command {
    command.args(["--as", contender]);
    for (flag, number) in [("--minutes", load.minutes), ("--points", load.points), ("--window", load.window)]
    {
        command.args([flag, &number.to_string()]);
    }
    command
}

/// Bytes this process caused to be written.
fn written() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap().parse().unwrap()
}

/// Keeps the load's batches; bytes of them.
fn play(contender: &str, folder: &Path, load: Load) -> u64 {
    let mut keeper: Box<dyn Keeper> = match contender {
        "buffer" => Box::new(Buffer::new(folder, load)),
        "sled" => Box::new(Sled::new(folder)),
        "sqlite" => Box::new(Sqlite::new(folder)),
        _ => Box::new(Bare::new(folder)),
    };
    let mut plant = Plant { encoder: Encoder::new(), second: 0, load };
    let mut kept = VecDeque::new();
    let mut payload = 0;
    for sequence in 1..=load.minutes * 60 / load.window {
        let batch = plant.batch(sequence);
        payload += batch.bytes.len() as u64;
        kept.push_back(sequence);
        keeper.append(batch);
        if kept.len() as u64 > KEPT / load.window {
            keeper.forget(kept.pop_front().unwrap());
        }
        (0..load.window).for_each(|_| keeper.second());
    }
    payload
}

/// Values that wander, in tenths.
struct Plant {
    encoder: Encoder,
    second: u64,
    load: Load,
}

impl Plant {
    fn batch(&mut self, sequence: u64) -> Encoded {
        let mut readings = Vec::new();
        for _ in 0..self.load.window {
            self.second += 1;
            let stamp = Stamp::boot(BootTime(self.second as i64 * 1_000_000));
            for point in 1..=self.load.points {
                let wave = (self.second as f64 / (20.0 + point as f64)).sin() * 500.0;
                let noise = self.second.wrapping_mul(point).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 61;
                let value = (wave + noise as f64).round() / 10.0;
                readings.push(Reading {
                    point: PointId(point as u32),
                    stamp,
                    value: Some(Value::Float(value)),
                    quality: Quality::Good,
                });
            }
        }
        let boot = Boot { counter: 1, id: [0; 8], wall_offset_us: 1_795_219_200_000_000, synchronised: true };
        let head = Head { epoch: Epoch([7; 16]), sequence: Sequence(sequence), boot };
        self.encoder.encode(&head, &mut readings)
    }
}

/// Something that keeps batches durably.
trait Keeper {
    fn append(&mut self, batch: Encoded);
    fn forget(&mut self, sequence: u64);
    /// Another second of the plant's time has passed.
    fn second(&mut self) {}
}

struct Buffer {
    store: Store,
    seconds: u64,
}

impl Buffer {
    fn new(folder: &Path, load: Load) -> Self {
        let when_full = WhenFull::DropOldest;
        let rules = Rules { limit: 512 << 20, reserve: 0, when_full, tail: 0, classes: Vec::new() };
        let (mut store, _) = Store::open(Arc::new(Flash::new(folder)), rules, [1; 16]).unwrap();
        let point = |n| {
            Arc::new(Point {
                device: "plant".into(),
                name: format!("p{n}").into(),
                unit: "".into(),
                kind: PointKind::Gauge,
                data_type: DataType::Float,
            })
        };
        store.define(&(0..load.points).map(point).collect::<Vec<_>>());
        Self { store, seconds: 0 }
    }
}

impl Keeper for Buffer {
    fn append(&mut self, batch: Encoded) {
        self.store.append(&[batch]).unwrap();
    }

    fn forget(&mut self, sequence: u64) {
        self.store.acknowledge(&[sequence..=sequence]);
    }

    /// As the buffer's thread does it.
    fn second(&mut self) {
        self.seconds += 1;
        if self.seconds.is_multiple_of(ACKNOWLEDGEMENTS) {
            self.store.tick();
        } else {
            self.store.tick_lightly();
        }
        if self.seconds.is_multiple_of(REST) {
            self.store.rest();
        }
    }
}

struct Sled {
    db: sled::Db,
    file: File,
}

impl Sled {
    fn new(folder: &Path) -> Self {
        let db = sled::Config::new().path(folder).flush_every_ms(None).open().unwrap();
        Self { db, file: File::open(folder.join("db")).unwrap() }
    }
}

impl Keeper for Sled {
    fn append(&mut self, batch: Encoded) {
        self.db.insert(batch.sequence.0.to_be_bytes(), batch.bytes.as_ref()).unwrap();
        self.db.flush().unwrap();
        self.file.sync_data().unwrap();
    }

    fn forget(&mut self, sequence: u64) {
        self.db.remove(sequence.to_be_bytes()).unwrap();
    }
}

struct Sqlite {
    db: rusqlite::Connection,
}

impl Sqlite {
    fn new(folder: &Path) -> Self {
        let db = rusqlite::Connection::open(folder.join("batches.db")).unwrap();
        db.pragma_update(None, "journal_mode", "WAL").unwrap();
        db.pragma_update(None, "synchronous", "FULL").unwrap();
        db.execute("create table batches (sequence integer primary key, bytes blob)", []).unwrap();
        Self { db }
    }
}

impl Keeper for Sqlite {
    fn append(&mut self, batch: Encoded) {
        let row = (batch.sequence.0 as i64, batch.bytes.as_ref());
        self.db.execute("insert into batches values (?, ?)", row).unwrap();
    }

    fn forget(&mut self, sequence: u64) {
        self.db.execute("delete from batches where sequence = ?", [sequence as i64]).unwrap();
    }
}

/// The least that durability can cost.
struct Bare {
    file: File,
}

impl Bare {
    fn new(folder: &Path) -> Self {
        let mut options = OpenOptions::new();
        Self { file: options.create(true).append(true).open(folder.join("batches")).unwrap() }
    }
}

impl Keeper for Bare {
    fn append(&mut self, batch: Encoded) {
        self.file.write_all(&batch.bytes).unwrap();
        self.file.sync_data().unwrap();
    }

    fn forget(&mut self, _: u64) {}
}
