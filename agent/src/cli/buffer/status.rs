//! `forebay-agent buffer status`: the books at a glance, as text or as one JSON object.

use std::fmt;
use std::io::{self, Write};

use forebay_config::agent::Buffer as Budget;
use forebay_config::units::ByteSize;
use forebay_protocols::sync::wire::Gap;
use serde_json::{Value, json};

use super::words::{Why, about, count, gap, grouped, moment, stamp};
use super::{DAMAGED, FINE, Refusal, Seen};
use crate::buffer::inspect::{Edge, Overview, Trouble, User};

/// Gap records that are shown.
const LATEST_GAPS: usize = 5;

/// Prints the status.
pub fn run(seen: &Seen, json: bool) -> Result<u8, Refusal> {
    let overview = seen.inspection.overview(LATEST_GAPS).map_err(Refusal::unreadable)?;
    let budget = seen.config.as_ref().map(|config| &config.buffer);
    let page = Page { overview: &overview, budget };
    let mut out = io::stdout().lock();
    let printed = if json { writeln!(out, "{}", page.json()) } else { write!(out, "{page}") };
    if let Err(why) = printed.and_then(|()| out.flush()) {
        return Refusal::unless_closed(why, "print");
    }
    Ok(if overview.troubles.is_empty() { FINE } else { DAMAGED })
}

/// The books, and the budget where it is known.
pub struct Page<'p> {
    /// What was seen.
    pub overview: &'p Overview,
    /// `[buffer]` of the configuration.
    pub budget: Option<&'p Budget>,
}

impl Page<'_> {
    /// Seconds until there is no room, if nothing is acknowledged.
    fn full_in(&self) -> Option<f64> {
        let (budget, rate) = (self.budget?, self.overview.rate?);
        let within_budget = budget.max_size.0.saturating_sub(self.overview.disk.total());
        let on_the_disk = self.overview.free.map_or(u64::MAX, |free| free.saturating_sub(budget.reserve.0));
        (rate > 0.0).then(|| within_budget.min(on_the_disk) as f64 / rate)
    }

    fn json(&self) -> Value {
        let overview = self.overview;
        let edge = |edge: Option<Edge>| {
            edge.map(|edge| {
                json!({
                    "sequence": edge.sequence,
                    "time": stamp(edge.wall_us),
                    "synchronised": edge.synchronised,
                })
            })
        };
        let gap = |(gap, point): &(Gap, Option<String>)| {
            json!({
                "number": gap.number,
                "from": stamp(gap.from_us),
                "to": stamp(gap.to_us),
                "point": point,
                "device": (!gap.device.is_empty()).then_some(&gap.device),
                "readings": gap.count,
                "reason": gap.reason().as_str_name().to_lowercase(),
                "words": Why(gap.reason()).to_string(),
            })
        };
        let by = overview.dropped_by;
        json!({
            "folder": overview.folder,
            "used_by": match overview.user {
                User::Process(process) => json!(process),
                User::Nobody => Value::Null,
                User::Unknown => json!("unknown"),
            },
            "epoch": overview.epoch.map(|epoch| epoch.to_string()),
            "boot": overview.boot,
            "clean_stop": overview.closed,
            "backlog": {
                "batches": overview.backlog.batches,
                "readings": overview.backlog.readings,
                "bytes": overview.backlog.bytes,
                "oldest": edge(overview.backlog.oldest),
                "newest": edge(overview.backlog.newest),
            },
            "next_sequence": overview.next_sequence,
            "readings": {
                "appended": overview.appended,
                "acknowledged": overview.acknowledged,
                "dropped": overview.dropped,
                "dropped_by": { "full": by.full, "corrupt": by.corrupt, "thinned": by.thinned },
            },
            "disk": {
                "bytes": overview.disk.total(),
                "segments": overview.disk.segments,
                "logbook": overview.disk.logbook,
                "catalogue": overview.disk.catalogue,
                "damaged": overview.disk.damaged,
                "other": overview.disk.other,
                "limit": self.budget.map(|budget| budget.max_size.0),
                "free": overview.free,
            },
            "bytes_per_second": overview.rate,
            "full_in_seconds": self.full_in().map(f64::round),
            "segments": overview.segments,
            "acknowledged_segments": overview.finished_segments,
            "points": overview.points,
            "gaps": { "records": overview.gaps, "latest": overview.latest_gaps.iter().map(gap).collect::<Vec<_>>() },
            "damaged_parts": overview.damaged.iter().map(|(name, _)| name).collect::<Vec<_>>(),
            "troubles": overview.troubles.iter().map(trouble).collect::<Vec<_>>(),
        })
    }
}

/// A trouble for programs.
pub fn trouble(trouble: &Trouble) -> Value {
    json!({
        "file": trouble.file,
        "from_byte": trouble.bytes.map(|(from, _)| from),
        "to_byte": trouble.bytes.map(|(_, to)| to),
        "kind": trouble.what.word(),
        "words": trouble.what.to_string(),
        "then": trouble.what.then(),
        "lost": trouble.what.lost(),
    })
}

/// A trouble for people: where, what it means, what the agent does.
pub fn paragraph(trouble: &Trouble) -> String {
    let place = match trouble.bytes {
        Some((from, to)) if from == to => format!("{}, at byte {from}", trouble.file),
        Some((from, to)) => format!("{}, bytes {from} to {to}", trouble.file),
        None => trouble.file.clone(),
    };
    format!("{place}\n  {}\n  {}\n", trouble.what, trouble.what.then())
}

impl fmt::Display for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let overview = self.overview;
        let mut line = |name: &str, words: String| match words.as_str() {
            "" => writeln!(f),
            words => writeln!(f, "{name:<14}{words}"),
        };
        line("buffer", overview.folder.display().to_string())?;
        line("in use", self.in_use())?;
        line("epoch", overview.epoch.map_or("not known".into(), |epoch| epoch.to_string()))?;
        line("boot", overview.boot.map_or("not known".into(), |boot| format!("number {boot}")))?;
        let backlog = &overview.backlog;
        line("", String::new())?;
        let (batches, readings) =
            (count(backlog.batches, "batch", "batches"), count(backlog.readings, "reading", "readings"));
        line("waiting", format!("{batches} with {readings}, {}", ByteSize(backlog.bytes)))?;
        if let (Some(oldest), Some(newest)) = (backlog.oldest, backlog.newest) {
            line("  sequences", format!("{} to {}", oldest.sequence, newest.sequence))?;
            line("  from", edge_words(oldest))?;
            line("  to", edge_words(newest))?;
        }
        line("next", format!("batch {}", overview.next_sequence))?;
        line("", String::new())?;
        line("appended", count(overview.appended, "reading", "readings") + " since the epoch began")?;
        line("acknowledged", grouped(overview.acknowledged))?;
        line("dropped", self.dropped())?;
        line("", String::new())?;
        line("on the disk", self.used())?;
        line("full in", self.time_to_fill())?;
        line("segments", self.segments())?;
        line("points", grouped(overview.points))?;
        line("gaps", self.gaps())?;
        for (record, point) in &overview.latest_gaps {
            line("", gap(record, point.as_deref()))?;
        }
        line("damaged parts", self.damaged())?;
        if !overview.troubles.is_empty() {
            writeln!(f, "\nNot as it was written (`forebay-agent buffer verify` reads everything):\n")?;
            overview.troubles.iter().try_for_each(|trouble| f.write_str(&paragraph(trouble)))?;
        }
        Ok(())
    }
}

impl Page<'_> {
    fn in_use(&self) -> String {
        match (self.overview.user, self.overview.closed) {
            (User::Process(process), _) => format!("yes, by process {process}"),
            (User::Unknown, _) => "not known: the system does not list its locks".into(),
            (User::Nobody, true) => "no; it was closed in good order".into(),
            (User::Nobody, false) => {
                "no; it was not closed in good order, so the next start reads its newest segment".into()
            }
        }
    }

    fn dropped(&self) -> String {
        let by = self.overview.dropped_by;
        let mut words = grouped(self.overview.dropped);
        let parts = [(by.full, "no room"), (by.corrupt, "damaged"), (by.thinned, "thinned out")];
        let told: Vec<_> = parts
            .iter()
            .filter(|(number, _)| *number > 0)
            .map(|(number, why)| format!("{} {why}", grouped(*number)))
            .collect();
        if !told.is_empty() {
            words += &format!(" ({})", told.join(", "));
        }
        words
    }

    fn used(&self) -> String {
        let used = self.overview.disk.total();
        match self.budget {
            Some(budget) => {
                let percent = used as f64 * 100.0 / budget.max_size.0.max(1) as f64;
                format!("{} of {} ({percent:.0} %)", ByteSize(used), budget.max_size)
            }
            None => {
                format!("{}; the budget is not known here: --config names the configuration", ByteSize(used))
            }
        }
    }

    fn time_to_fill(&self) -> String {
        match (self.full_in(), self.overview.rate) {
            (Some(seconds), Some(rate)) => {
                format!("{} if nothing is acknowledged, at {}/s", about(seconds), ByteSize(rate as u64))
            }
            (None, Some(rate)) => format!("not known; it grows by {}/s", ByteSize(rate as u64)),
            (_, None) => "not known: there is too little to tell a rate from".into(),
        }
    }

    fn segments(&self) -> String {
        let Overview { segments, finished_segments, disk, .. } = self.overview;
        let words = format!("{}, {}", grouped(*segments), ByteSize(disk.segments));
        match finished_segments {
            0 => words,
            finished => format!("{words}; {} of them acknowledged and kept", grouped(*finished)),
        }
    }

    fn gaps(&self) -> String {
        match self.overview.gaps {
            0 => "none".into(),
            gaps if gaps as usize > self.overview.latest_gaps.len() => {
                format!("{}, the latest:", count(gaps, "record", "records"))
            }
            gaps => format!("{}:", count(gaps, "record", "records")),
        }
    }

    fn damaged(&self) -> String {
        let damaged = &self.overview.damaged;
        let bytes = ByteSize(damaged.iter().map(|(_, length)| length).sum());
        match damaged.as_slice() {
            [] => "none set aside".into(),
            [(name, _)] => format!("{bytes} set aside in {name}"),
            many => format!("{bytes} set aside in {} files in damaged/", many.len()),
        }
    }
}

fn edge_words(edge: Edge) -> String {
    let mark = match edge.synchronised {
        Some(true) => "",
        Some(false) => " as the gateway believed: its clock was not synchronised",
        None => " as noted when it was appended",
    };
    format!("{}{mark}", moment(edge.wall_us))
}
