//! `forebay-agent buffer verify`: what is not as it was written, each with what it means and what
//! the agent will do about it, and a summary.

use std::io::{self, IsTerminal, Write};

use forebay_config::units::ByteSize;
use serde_json::json;

use super::status::{paragraph, trouble};
use super::words::count;
use super::{DAMAGED, FINE, Refusal, Seen};
use crate::buffer::inspect::{Checked, Event};

/// A progress line is not written more often than every so many bytes.
const STEP: u64 = 4 << 20;

/// Reads everything and prints what it finds at once.
pub fn run(seen: &Seen, json: bool) -> Result<u8, Refusal> {
    let mut out = io::stdout().lock();
    let mut progress = Progress::default();
    let mut troubles = 0;
    let verified = seen.inspection.verify(&mut |event| match event {
        Event::Trouble(found) => {
            troubles += 1;
            progress.clear();
            if json { writeln!(out, "{}", trouble(found)) } else { writeln!(out, "{}", paragraph(found)) }
        }
        Event::Progress { done, of } => {
            progress.show(done, of);
            Ok(())
        }
    });
    progress.clear();
    let printed = verified.and_then(|checked| {
        if json {
            writeln!(out, "{}", summary_json(&checked))
        } else {
            write!(out, "{}", summary(&checked))
        }?;
        out.flush()
    });
    if let Err(why) = printed {
        return match Refusal::unless_closed(why, "print") {
            Ok(_) if troubles > 0 => Ok(DAMAGED),
            other => other,
        };
    }
    Ok(if troubles == 0 { FINE } else { DAMAGED })
}

/// The last words.
fn summary(checked: &Checked) -> String {
    let mut words = format!(
        "read {} with {} and {}, {}; {} with {} wait for the server\n",
        count(checked.segments, "segment", "segments"),
        count(checked.batches, "batch", "batches"),
        count(checked.readings, "reading", "readings"),
        ByteSize(checked.bytes),
        count(checked.waiting_batches, "batch", "batches"),
        count(checked.waiting_readings, "reading", "readings"),
    );
    if checked.unfinished {
        words += "the newest segment ends in a batch that is being written\n";
    }
    if checked.finished > 0 {
        let segments = count(checked.finished, "segment was", "segments were");
        words += &format!("{segments} acknowledged and deleted meanwhile\n");
    }
    if checked.done_with > 0 {
        let files = count(checked.done_with, "file", "files");
        words += &format!("not read: {files} that the agent is done with and deletes\n");
    }
    if checked.strange > 0 {
        let parts = count(checked.strange, "part", "parts");
        words += &format!("passed over: {parts} that a later version of the agent may have written\n");
    }
    words
        + &match checked.troubles {
            0 => "all is well\n".to_owned(),
            troubles => format!("{}, told above\n", count(troubles, "trouble", "troubles")),
        }
}

fn summary_json(checked: &Checked) -> serde_json::Value {
    json!({
        "summary": {
            "segments": checked.segments,
            "batches": checked.batches,
            "readings": checked.readings,
            "bytes": checked.bytes,
            "waiting_batches": checked.waiting_batches,
            "waiting_readings": checked.waiting_readings,
            "troubles": checked.troubles,
            "deleted_meanwhile": checked.finished,
            "done_with": checked.done_with,
            "strange": checked.strange,
            "unfinished": checked.unfinished,
        }
    })
}

/// One line on a terminal that is written over; nothing elsewhere.
#[derive(Default)]
struct Progress {
    /// Bytes at which it is written next.
    next: u64,
    shown: usize,
}

impl Progress {
    fn show(&mut self, done: u64, of: u64) {
        if done < self.next || !io::stderr().is_terminal() {
            return;
        }
        self.next = done + STEP;
        let line = format!("  {} of {} read", ByteSize(done), ByteSize(of));
        let width = self.shown.max(line.len());
        self.shown = line.len();
        // A terminal that is gone needs no progress.
        drop(write!(io::stderr(), "\r{line:<width$}"));
    }

    fn clear(&mut self) {
        if self.shown > 0 {
            drop(write!(io::stderr(), "\r{:width$}\r", "", width = self.shown));
            self.shown = 0;
        }
    }
}
