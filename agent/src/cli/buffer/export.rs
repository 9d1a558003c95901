//! `forebay-agent buffer export`: the readings as CSV (RFC 4180) or JSON lines, one at a time.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use forebay_protocols::reading::Value;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::words::{count, grouped, stamp};
use super::{DAMAGED, FINE, Place, Refusal, Seen, complain};
use crate::buffer::inspect::{Extracted, Row, Wanted};

/// What a row of CSV holds.
const COLUMNS: &str = "time,device,point,value,unit,quality,sequence,clock";

pub const HELP: &str = "\
Columns: time,device,point,value,unit,quality,sequence,clock. Times are UTC. `clock` says how far to trust one: \
`synchronised`, `believed` (the gateway did not know the time) or `device` (the device's own clock). Text values \
stand in quotes, numbers do not. A TIME is `2026-11-21`, `2026-11-21T08:30` (both UTC) or \
`2026-11-21T08:30:00+01:00`.

Exit codes: 0 all is well, 1 damaged parts were left out, 2 the buffer cannot be read or the output cannot be \
written (or the command line was not understood), 78 configuration refused.";

/// What to write, and where.
#[derive(Debug, Args)]
pub struct Export {
    #[command(flatten)]
    place: Place,
    /// How to write a reading.
    #[arg(long, value_enum, default_value_t = Format::Csv)]
    format: Format,
    /// Also what was acknowledged and is not deleted yet.
    #[arg(long)]
    all: bool,
    /// Only readings from this moment on.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    from: Option<i64>,
    /// Only readings before this moment.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    to: Option<i64>,
    /// Only readings of this device. May be given several times.
    #[arg(long = "device", value_name = "NAME")]
    devices: Vec<String>,
    /// Only readings of points with this name. May be given several times.
    #[arg(long = "point", value_name = "NAME")]
    points: Vec<String>,
    /// Write to this file, replacing it, instead of standard output.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// How a reading is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Comma-separated, with a line of column names.
    Csv,
    /// One JSON object a line.
    Json,
}

impl Export {
    /// Which buffer.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Writes the readings and says on standard error what came of it.
    pub(super) fn run(&self, seen: &Seen) -> Result<u8, Refusal> {
        let (extracted, to) = match &self.output {
            Some(path) => {
                let file = create(path, seen.inspection.folder())?;
                (self.write(seen, BufWriter::new(file)), format!("write {}", path.display()))
            }
            None => (self.write(seen, BufWriter::new(io::stdout().lock())), "print".to_owned()),
        };
        let extracted = match extracted {
            Ok(extracted) => extracted,
            Err(why) => return Refusal::unless_closed(why, &to),
        };
        for line in remarks(&extracted, self.output.is_some() || !io::stdout().is_terminal()) {
            complain(&line);
        }
        Ok(if extracted.damaged == 0 { FINE } else { DAMAGED })
    }

    fn write(&self, seen: &Seen, mut out: impl Write) -> io::Result<Extracted> {
        let wanted = Wanted {
            all: self.all,
            from_us: self.from,
            to_us: self.to,
            devices: self.devices.clone(),
            points: self.points.clone(),
        };
        if self.format == Format::Csv {
            write!(out, "{COLUMNS}\r\n")?;
        }
        let extracted = seen.inspection.extract(&wanted, &mut |row| match self.format {
            Format::Csv => csv(&mut out, row),
            Format::Json => json(&mut out, row),
        })?;
        out.flush()?;
        Ok(extracted)
    }
}

/// The output file, anywhere but among the files of the buffer.
pub(super) fn create(path: &Path, buffer: &Path) -> Result<File, Refusal> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let inside = match (folder.canonicalize(), buffer.canonicalize()) {
        (Ok(folder), Ok(buffer)) => folder.starts_with(buffer),
        _ => false,
    };
    if inside {
        return Err(Refusal::unreadable(format!(
            "{} lies in the buffer's own folder, where only the agent writes: choose another place",
            path.display()
        )));
    }
    File::create(path).map_err(|why| Refusal::unreadable(format!("cannot write {}: {why}", path.display())))
}

/// What a person should know about what was written.
pub(super) fn remarks(extracted: &Extracted, say_count: bool) -> Vec<String> {
    let mut lines = Vec::new();
    if say_count {
        let believed = match extracted.believed {
            0 => String::new(),
            some => format!("; {} with times that the gateway could only believe", grouped(some)),
        };
        lines.push(format!("{}{believed}", count(extracted.readings, "reading", "readings")));
    }
    for name in &extracted.unknown {
        lines.push(format!("no point of this buffer is of {name}"));
    }
    if extracted.finished > 0 {
        let segments = count(extracted.finished, "segment was", "segments were");
        lines.push(format!("{segments} acknowledged and deleted meanwhile; the server has what was in it"));
    }
    if extracted.damaged > 0 {
        let parts = count(extracted.damaged, "damaged part was", "damaged parts were");
        lines.push(format!("{parts} left out: `forebay-agent buffer verify` tells which"));
    }
    lines
}

pub(super) fn csv(out: &mut impl Write, row: &Row<'_>) -> io::Result<()> {
    write!(out, "{},", stamp(row.wall_us))?;
    field(out, &row.point.device)?;
    out.write_all(b",")?;
    field(out, &row.point.name)?;
    out.write_all(b",")?;
    match &row.reading.value {
        None => {}
        // Always in quotes, so that the text 1 and the number 1, no value and no text, stay apart.
        Some(Value::Text(text)) => quoted(out, text)?,
        // The shortest digits that read back as the same number, and always a float.
        Some(Value::Float(number)) => write!(out, "{number:?}")?,
        Some(other) => write!(out, "{other}")?,
    }
    out.write_all(b",")?;
    field(out, &row.point.unit)?;
    out.write_all(b",")?;
    field(out, row.reading.quality.words())?;
    write!(out, ",{},{}\r\n", row.sequence, row.time.word())
}

/// RFC 4180, 2: in quotes where it must be.
fn field(out: &mut impl Write, text: &str) -> io::Result<()> {
    let special = |c| matches!(c, ',' | '"' | '\r' | '\n');
    if text.contains(special) || text.trim() != text {
        quoted(out, text)
    } else {
        out.write_all(text.as_bytes())
    }
}

fn quoted(out: &mut impl Write, text: &str) -> io::Result<()> {
    write!(out, "\"{}\"", text.replace('"', "\"\""))
}

#[derive(Serialize)]
struct Line<'r> {
    time: String,
    device: &'r str,
    point: &'r str,
    value: serde_json::Value,
    unit: &'r str,
    quality: &'r str,
    sequence: u64,
    clock: &'r str,
}

pub(super) fn json(out: &mut impl Write, row: &Row<'_>) -> io::Result<()> {
    let value = match &row.reading.value {
        None => serde_json::Value::Null,
        Some(Value::Text(text)) => (&**text).into(),
        Some(Value::Integer(number)) => (*number).into(),
        Some(Value::Boolean(on)) => (*on).into(),
        // JSON has no word for what is not a number.
        Some(Value::Float(number)) if !number.is_finite() => format!("{number:?}").into(),
        Some(Value::Float(number)) => (*number).into(),
    };
    let line = Line {
        time: stamp(row.wall_us),
        device: &row.point.device,
        point: &row.point.name,
        value,
        unit: &row.point.unit,
        quality: row.reading.quality.words(),
        sequence: row.sequence,
        clock: row.time.word(),
    };
    serde_json::to_writer(&mut *out, &line)?;
    out.write_all(b"\n")
}

/// A moment on the command line, in microseconds since 1970.
pub(super) fn moment(text: &str) -> Result<i64, String> {
    let stamp = text.parse::<Timestamp>();
    let civil = || text.parse::<DateTime>().and_then(|civil| civil.to_zoned(TimeZone::UTC));
    match stamp.or_else(|_| civil().map(|zoned| zoned.timestamp())) {
        Ok(at) => Ok(at.as_microsecond()),
        Err(_) => Err("write it as 2026-11-21, 2026-11-21T08:30 or 2026-11-21T08:30:00+01:00".into()),
    }
}
