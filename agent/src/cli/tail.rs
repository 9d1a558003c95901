//! `forebay-agent tail`: what the agent that runs reads, as it reads it. The devices are not asked.

use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use forebay_config::agent::Agent;
use forebay_config::classes::Pattern;
use forebay_protocols::reading::Value;
use serde_json::Value as Json;

use super::buffer::words::stamp;
use super::table::{harmless, value};
use super::{ConfigPath, FAILED, Wanted, complain, print};
use crate::live::SOCKET;

pub const HELP: &str = "Shows what is read from now on: a device that speaks only when something changes is \
     shown when something changes. Who reads too slowly is told what was left out; the agent waits for nobody.\n\n\
     Exit codes: 0 done, 1 the agent does not run or has ended, 2 command line not understood, 78 configuration refused.";

/// What is to be shown.
#[derive(Debug, Args)]
pub struct Tail {
    #[command(flatten)]
    wanted: Wanted,
    /// End after so many readings. Without it: at Ctrl-C.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Print JSON lines.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub(super) config: ConfigPath,
}

/// Watches.
pub fn run(tail: &Tail, config: &Agent) -> ExitCode {
    let wanted = match tail.wanted.pattern() {
        Ok(wanted) => wanted,
        Err(why) => {
            complain(&why);
            return ExitCode::from(2);
        }
    };
    let socket = config.state_dir.join(SOCKET);
    let stream = match connect(&socket, &wanted) {
        Ok(stream) => stream,
        Err(why) => {
            complain(&why);
            return ExitCode::from(FAILED);
        }
    };
    show(BufReader::new(stream), tail)
}

fn connect(socket: &Path, wish: &Pattern) -> Result<UnixStream, String> {
    use std::io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied};
    let mut stream = UnixStream::connect(socket).map_err(|why| match why.kind() {
        NotFound | ConnectionRefused => format!(
            "no agent runs here: nobody listens at {}\n  hint: `forebay-agent read` asks the devices themselves",
            socket.display()
        ),
        PermissionDenied => format!("{} may not be used by this user: try again with sudo", socket.display()),
        _ => format!("{}: {why}", socket.display()),
    })?;
    let asked = stream.write_all(format!("{wish}\n").as_bytes());
    asked.map_err(|why| format!("the agent does not listen: {why}"))?;
    Ok(stream)
}

fn show(lines: BufReader<UnixStream>, tail: &Tail) -> ExitCode {
    let mut left = tail.count.unwrap_or(u64::MAX);
    let mut is_welcome = false;
    let peer = lines.get_ref().try_clone();
    for line in lines.lines() {
        let Ok(line) = line else { break };
        let Ok(json) = serde_json::from_str::<Json>(&line) else { continue };
        if let Some(why) = json["refused"].as_str() {
            complain(why);
            return ExitCode::from(FAILED);
        }
        if json["watching"] == true {
            is_welcome = true;
            if std::io::stderr().is_terminal() {
                complain("Watching; Ctrl-C ends it.");
            }
            continue;
        }
        if let Some(missed) = json["missed"].as_u64() {
            complain(&format!("… {missed} pieces were left out: this end reads too slowly"));
            continue;
        }
        let text = if tail.json { line } else { row(&json) };
        if let Some(code) = print(&(text + "\n")) {
            return code;
        }
        left -= 1;
        if left == 0 {
            // Said before leaving, so that the agent forgets us at once.
            let _ = peer.map(|peer| peer.shutdown(Shutdown::Both));
            return ExitCode::SUCCESS;
        }
    }
    complain(if is_welcome {
        "the agent has ended"
    } else {
        "the agent turned us away: others watch already"
    });
    ExitCode::from(FAILED)
}

/// "12:00:01.250  pump/speed  1450 rpm": columns that stand still for names of usual length.
fn row(json: &Json) -> String {
    let text = |key: &str| harmless(json[key].as_str().unwrap_or_default());
    let time = stamp(json["time_us"].as_i64().unwrap_or_default());
    let doubt = if json["synchronised"] == true { "" } else { "?" };
    let shown = match &json["value"] {
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => whole.to_string(),
            (None, Some(float)) => value(&Value::Float(float)),
            (None, None) => number.to_string(),
        },
        Json::String(word) => harmless(word),
        Json::Bool(bit) => bit.to_string(),
        _ => "-".to_owned(),
    };
    let quality = match text("quality") {
        good if good == "good" => String::new(),
        other => format!("  {other}"),
    };
    let name = format!("{}/{}", text("device"), text("point"));
    format!("{time}{doubt}  {name:<32}  {shown:>14} {}{quality}", text("unit")).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_reading_is_one_line_whatever_the_device_says() {
        let reading = |value: Json, quality: &str, sure: bool| {
            row(
                &json!({ "device": "pump", "point": "speed", "value": value, "unit": "rpm", "quality": quality,
                "time_us": 1_700_000_000_250_000_i64, "synchronised": sure }),
            )
        };
        let good = reading(json!(1450), "good", true);
        assert_eq!(good, "2023-11-14T22:13:20.250000Z  pump/speed                                  1450 rpm");
        assert!(reading(json!(f64::from(89.8_f32)), "good", true).contains(" 89.8 rpm"));
        assert!(reading(json!("a\x1b[2J\nb"), "good", true).contains("a\\u{1b}[2J\\nb rpm"));
        let bad = reading(Json::Null, "bad: the device did not answer in time", false);
        assert!(
            bad.contains("Z?  ") && bad.ends_with(" - rpm  bad: the device did not answer in time"),
            "{bad}"
        );
    }

    #[test]
    fn where_no_agent_runs_it_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let why = connect(&folder.path().join(SOCKET), &Pattern::new("*/*").unwrap()).unwrap_err();
        assert!(why.starts_with("no agent runs here") && why.contains("forebay-agent read"), "{why}");
    }
}
