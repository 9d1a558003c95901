//! The last lines of the service's log, from the journal where there is one.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A journal on a slow card takes its time.
const WITHIN: Duration = Duration::from_secs(20);
/// More is not taken.
const MOST_BYTES: u64 = 32 << 20;

/// At most so many lines; where there are none, why.
pub fn tail(lines: u32) -> String {
    let lines = lines.to_string();
    let arguments = [
        "--unit",
        "forebay-agent",
        "--lines",
        &lines,
        "--no-pager",
        "--output",
        "short-iso-precise",
        "--utc",
    ];
    let started = Command::new("journalctl")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut journal = match started {
        Ok(journal) => journal,
        Err(why) => return format!("no journal: journalctl: {why}\n"),
    };
    let Some(out) = journal.stdout.take() else { return "no journal\n".into() };
    // Read beside us, so that a journal that hangs can be ended.
    let reading = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = out.take(MOST_BYTES).read_to_end(&mut bytes);
        read.map(|_| String::from_utf8_lossy(&bytes).into_owned())
    });
    let begun = Instant::now();
    while !reading.is_finished() && begun.elapsed() < WITHIN {
        std::thread::park_timeout(Duration::from_millis(20));
    }
    let is_late = !reading.is_finished();
    let _ = journal.kill();
    let _ = journal.wait();
    match reading.join() {
        _ if is_late => format!("no journal: journalctl did not end within {} s\n", WITHIN.as_secs()),
        Ok(Ok(text)) if text.is_empty() => {
            "the journal holds nothing of forebay-agent, or not for this user\n".into()
        }
        Ok(Ok(text)) => text,
        Ok(Err(why)) => format!("no journal: {why}\n"),
        Err(_) => "no journal\n".into(),
    }
}
