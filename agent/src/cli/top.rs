//! `forebay-agent top`: links, devices, rates, backlog and uplink, once a second, from the same source as
//! `status`. On a terminal it takes the whole screen and gives it back as it was; into a file or a pipe it
//! prints page after page.

mod terminal;
#[cfg(test)]
mod tests;

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use forebay_config::units::ByteSize;
use forebay_protocols::boot_time::wall_micros;
use serde_json::Value as Json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval};

use self::terminal::{Key, Screen};
use super::buffer::words::{grouped, moment};
use super::paint::Paint;
use super::run::runtime;
use super::sight::{Seen, Sight, ask_status, list, number, text};
use super::status::{figure, link_words, per_second};
use super::table::{Side, age, harmless, table};
use super::{ConfigPath, FAILED, complain, print};

pub const HELP: &str = "Keys: q or Ctrl-C quits, the arrows (or j and k) scroll.\n\n\
     Exit codes: 0 quit, 1 it cannot be shown, 2 command line not understood.";

/// A page is shown for so long.
const EVERY: Duration = Duration::from_secs(1);
/// Keys are looked for so often.
const KEYS_EVERY: Duration = Duration::from_millis(100);

/// How to show it.
#[derive(Debug, Args)]
pub struct Top {
    /// End after so many pages. Without it: at `q` or Ctrl-C.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    #[command(flatten)]
    config: ConfigPath,
}

/// Shows until somebody quits.
pub fn run(top: &Top) -> ExitCode {
    let sight = Sight::look(&top.config.config);
    let title = sight
        .config
        .as_ref()
        .map_or_else(|_| "?".to_owned(), |config| format!("{}/{}", config.site, config.gateway));
    let shown = runtime().and_then(|runtime| runtime.block_on(show(&title, &sight, top.count)));
    match shown {
        Ok(code) => code,
        Err(why) => {
            complain(&format!("cannot show it: {why}"));
            ExitCode::from(FAILED)
        }
    }
}

async fn show(title: &str, sight: &Sight, count: Option<u64>) -> std::io::Result<ExitCode> {
    // Without a handler a signal would leave the terminal as we have it.
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut screen = Screen::take()?;
    let mut looks = interval(KEYS_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut due, mut left, mut offset) = (Instant::now(), count.unwrap_or(u64::MAX), 0_usize);
    let mut seen = Seen::Absent;
    loop {
        tokio::select! {
            biased;
            _ = term.recv() => return Ok(ExitCode::SUCCESS),
            _ = int.recv() => return Ok(ExitCode::SUCCESS),
            _ = looks.tick() => {}
        }
        let mut is_moved = false;
        if let Some(screen) = &mut screen {
            for key in screen.keys() {
                match key {
                    Key::Quit => return Ok(ExitCode::SUCCESS),
                    Key::Up => offset = offset.saturating_sub(1),
                    Key::Down => offset += 1,
                }
                is_moved = true;
            }
        }
        let is_due = Instant::now() >= due;
        if !is_due && !is_moved {
            continue;
        }
        if is_due {
            due += EVERY;
            due = due.max(Instant::now());
            seen = ask_status(&sight.state_dir);
        }
        match &mut screen {
            Some(screen) => {
                let (width, height) = screen.size();
                let lines = page(title, &seen, width, height, &mut offset, Paint::of_stdout());
                screen.draw(&lines)?;
            }
            None => {
                let lines = page(title, &seen, 110, usize::MAX, &mut offset, Paint::plain());
                if let Some(code) = print(&(lines.join("\n") + "\n\n")) {
                    return Ok(code);
                }
            }
        }
        if is_due {
            left -= 1;
            if left == 0 {
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
}

/// The lines of a page that fits. `offset` is brought back where there is nothing to scroll to.
fn page(
    title: &str,
    seen: &Seen,
    width: usize,
    height: usize,
    offset: &mut usize,
    paint: Paint,
) -> Vec<String> {
    let now = moment(wall_micros());
    let mut lines = vec![fit(&format!("forebay-agent top  {title}  {now}  q quits"), width)];
    match seen {
        Seen::Absent => lines.push(paint.bad("The agent does not run.")),
        Seen::Unknown(why) => lines.push(fit(why, width)),
        Seen::Running(agent) => {
            lines.extend(head(agent).iter().map(|line| fit(line, width)));
            lines.push(String::new());
            let rows = rows(agent);
            let (heading, body) =
                rows.split_first().map_or(("", &[][..]), |(heading, body)| (heading.as_str(), body));
            lines.push(paint.head(&fit(heading, width)));
            let room = height.saturating_sub(lines.len());
            let hidden = body.len().saturating_sub(room);
            *offset = (*offset).min(hidden);
            let shown = body.iter().skip(*offset).take(room);
            lines.extend(shown.map(|line| fit(line, width)));
            if hidden > *offset
                && let Some(last) = lines.last_mut()
            {
                *last = fit(&format!("… {} more lines; the arrows scroll", hidden - *offset + 1), width);
            }
        }
    }
    lines.truncate(height);
    lines
}

fn head(agent: &Json) -> Vec<String> {
    let (uplink, buffer, ledger, gaps) =
        (&agent["uplink"], &agent["buffer"], &agent["ledger"], &agent["gaps"]);
    let links = list(agent, "links");
    let up = links.iter().filter(|link| link["state"] == "connected").count();
    let devices: Vec<_> = links.iter().flat_map(|link| list(link, "devices")).collect();
    let answering = devices.iter().filter(|device| device["answers"] == true).count();
    let last = uplink["acknowledged_s"]
        .as_f64()
        .map_or_else(String::new, |seconds| format!(", acknowledged {} ago", age(seconds)));
    let words = match text(uplink, "words") {
        "" => String::new(),
        words => format!(": {}", harmless(words)),
    };
    vec![
        format!(
            "up {}  links {up} of {}  devices {answering} of {}  clock: {}",
            age(number(agent, "uptime_s") as f64),
            links.len(),
            devices.len(),
            text(&agent["clock"], "source"),
        ),
        format!(
            "readings {} a second  {} produced  {} dropped  gaps {}",
            figure(per_second(agent)),
            grouped(number(ledger, "produced")),
            grouped(number(ledger, "dropped")),
            grouped(number(gaps, "device_silent") + number(gaps, "agent_down")),
        ),
        format!(
            "backlog {} readings, {}  buffer {} of {}{}",
            grouped(number(ledger, "backlog")),
            ByteSize(number(buffer, "backlog_bytes")),
            ByteSize(number(buffer, "disk_bytes")),
            ByteSize(number(buffer, "limit_bytes")),
            if buffer["writable"] == false { "  THE DISK REFUSES WRITES" } else { "" },
        ),
        format!("uplink {}{last}{words}", text(uplink, "state").replace('_', " ")),
    ]
}

/// A table of links, each with its devices below it.
fn rows(agent: &Json) -> Vec<String> {
    let mut rows = Vec::new();
    for link in list(agent, "links") {
        let devices = list(link, "devices");
        let answering = devices.iter().filter(|device| device["answers"] == true).count();
        let busy = link["bus"]["utilisation"].as_f64();
        rows.push([
            text(link, "name").to_owned(),
            format!("{answering}/{}", devices.len()),
            figure(link["per_second"].as_f64()),
            busy.map_or_else(String::new, |share| format!("{:.0}%", share * 100.0)),
            grouped(number(link, "discarded")),
            link_words(link),
        ]);
        for device in devices {
            let state = match device["answers"] == true {
                true => "answers".to_owned(),
                false => harmless(text(device, "words")),
            };
            let nothing = String::new;
            rows.push([
                format!("  {}", harmless(text(device, "name"))),
                nothing(),
                nothing(),
                nothing(),
                nothing(),
                state,
            ]);
        }
    }
    let columns = [
        ("link, device", Side::Left),
        ("devices", Side::Right),
        ("readings/s", Side::Right),
        ("bus", Side::Right),
        ("discarded", Side::Right),
        ("state", Side::Left),
    ];
    table(columns, &rows).lines().map(str::to_owned).collect()
}

/// Cut where the screen ends.
fn fit(line: &str, width: usize) -> String {
    line.chars().take(width).collect()
}
