//! The status, in words and as JSON.

use std::fmt::Write;

use forebay_config::agent::Agent;
use forebay_config::units::ByteSize;
use forebay_protocols::boot_time::wall_micros;
use serde_json::{Value as Json, json};

use super::super::buffer::words::{count, grouped, moment, stamp};
use super::super::check;
use super::super::paint::Paint;
use super::super::sight::{Seen, Sight, list, number, text};
use super::super::table::{Side, age, harmless, table};
use super::backlog;

/// A certificate that should have been renewed long ago: two thirds of a year are over at 122 days.
const FEW_DAYS: i64 = 60;
const DAY: i64 = 86_400;

/// What is shown of a sight.
pub struct Page<'s> {
    sight: &'s Sight,
    now_us: i64,
}

impl<'s> Page<'s> {
    /// As of now.
    pub fn new(sight: &'s Sight) -> Self {
        Self { sight, now_us: wall_micros() }
    }

    /// What a person should look at, in words. Of an agent that does not run: that.
    pub fn troubles(&self) -> Vec<String> {
        let mut troubles = Vec::new();
        let Sight { path, config, state_dir: _, agent, buffer, identity } = self.sight;
        if let Err(findings) = config {
            let mistakes = count(findings.0.len() as u64, "mistake", "mistakes");
            troubles.push(format!(
                "{mistakes} in the configuration: `forebay-agent check --config {}` lists them",
                path.display()
            ));
        }
        match agent {
            Seen::Running(agent) => of_agent(agent, &mut troubles),
            Seen::Absent => troubles.push("the agent does not run: `systemctl start forebay-agent`".into()),
            Seen::Unknown(why) => troubles.push(why.clone()),
        }
        match buffer {
            Ok(overview) if !overview.troubles.is_empty() => {
                let parts = count(overview.troubles.len() as u64, "damaged part", "damaged parts");
                troubles.push(format!("{parts} in the buffer: see `forebay-agent buffer verify`"));
            }
            _ => {}
        }
        match (identity, self.days_left()) {
            (Err(why), _) => troubles.push(why.clone()),
            (_, Some(days)) if days < FEW_DAYS => troubles.push(format!(
                "the certificate ends in {days} days and was not renewed: try `forebay-agent renew`"
            )),
            _ => {}
        }
        troubles
    }

    /// Whole days until the certificate ends; `None` without one.
    pub fn days_left(&self) -> Option<i64> {
        let identity = self.sight.identity.as_ref().ok()?.as_ref()?;
        Some((identity.validity()?.1 - self.now_us.div_euclid(1_000_000)).div_euclid(DAY))
    }

    /// One object; documented in docs/operation.md.
    pub fn json(&self) -> Json {
        let Sight { path, config, state_dir, agent, buffer, identity } = self.sight;
        let (running, why, agent) = match agent {
            Seen::Running(json) => (Json::Bool(true), None, json.clone()),
            Seen::Absent => (Json::Bool(false), None, Json::Null),
            Seen::Unknown(why) => (Json::Null, Some(why.as_str()), Json::Null),
        };
        let mistakes: Vec<String> = config
            .as_ref()
            .err()
            .map_or_else(Vec::new, |findings| findings.0.iter().map(ToString::to_string).collect());
        let identity = identity.as_ref().ok().and_then(Option::as_ref);
        json!({
            "running": running,
            "unknown_because": why,
            "troubles": self.troubles(),
            "configuration": { "path": path, "mistakes": mistakes, "summary": config.as_ref().ok().map(check::summary) },
            "state_dir": state_dir,
            "agent": agent,
            "server": identity.map(|identity| identity.server.as_str()),
            "certificate_days": self.days_left(),
            "buffer": buffer.as_ref().ok().map(|overview| json!({
                "backlog_batches": overview.backlog.batches,
                "backlog_readings": overview.backlog.readings,
                "backlog_bytes": overview.backlog.bytes,
                "oldest": overview.backlog.oldest.map(|edge| stamp(edge.wall_us)),
                "newest": overview.backlog.newest.map(|edge| stamp(edge.wall_us)),
                "disk_bytes": overview.disk.total(),
                "limit_bytes": config.as_ref().ok().map(|config| config.buffer.max_size.0),
                "free_bytes": overview.free,
                "dropped": overview.dropped,
                "gaps": overview.gaps,
                "damaged": overview.troubles.len(),
            })),
            "buffer_unreadable_because": buffer.as_ref().err(),
        })
    }

    /// For people.
    pub fn text(&self, paint: Paint) -> String {
        let mut page = String::new();
        let mut line = |what: &str, words: &str| {
            let _ = writeln!(page, "{} {words}", paint.head(&format!("{what:<12}")));
        };
        let Sight { path, config, state_dir: _, agent, .. } = self.sight;
        match agent {
            Seen::Running(agent) => {
                let since = moment(agent["started_us"].as_i64().unwrap_or_default());
                let uptime = age(number(agent, "uptime_s") as f64);
                line(
                    "Agent",
                    &format!(
                        "{} since {since} ({uptime}), version {}, process {}",
                        paint.good("running"),
                        text(agent, "version"),
                        number(agent, "process")
                    ),
                );
            }
            Seen::Absent => line("Agent", &paint.bad("not running")),
            Seen::Unknown(why) => line("Agent", &format!("{}: {why}", paint.doubtful("not known"))),
        }
        line("Config", &self.of_config(config, paint, path));
        line("Uplink", &self.of_uplink(paint));
        if let Some(days) = self.days_left() {
            line("Certificate", &format!("{} days left", paint_days(days, paint)));
        }
        if let Seen::Running(agent) = agent {
            line("Clock", &of_clock(agent, paint));
        }
        line("Buffer", &self.of_buffer(paint));
        if let Seen::Running(agent) = agent {
            let (ledger, gaps) = (&agent["ledger"], &agent["gaps"]);
            let dropped = number(ledger, "dropped");
            let dropped_words = format!("{} dropped", grouped(dropped));
            line(
                "Readings",
                &format!(
                    "{} a second, {} since the buffer began, {}",
                    figure(per_second(agent)),
                    grouped(number(ledger, "produced")),
                    if dropped == 0 { dropped_words } else { paint.doubtful(&dropped_words) }
                ),
            );
            line(
                "Gaps",
                &format!(
                    "since the start: {} of silent devices, {} of an agent that did not run",
                    grouped(number(gaps, "device_silent")),
                    grouped(number(gaps, "agent_down"))
                ),
            );
            page.push('\n');
            page += &links(agent, paint);
        }
        let troubles = self.troubles();
        if !troubles.is_empty() {
            let _ = writeln!(page, "\n{}", paint.head("To look at"));
            troubles.iter().for_each(|trouble| {
                let _ = writeln!(page, "  {trouble}");
            });
        }
        page
    }

    fn of_config(
        &self,
        config: &Result<Agent, forebay_config::load::Findings>,
        paint: Paint,
        path: &std::path::Path,
    ) -> String {
        match config {
            Ok(config) => format!("{} {}", path.display(), check::summary(config)),
            Err(findings) => {
                let mistakes = count(findings.0.len() as u64, "mistake", "mistakes");
                format!("{} {}", path.display(), paint.bad(&mistakes))
            }
        }
    }

    fn of_uplink(&self, paint: Paint) -> String {
        let server = match &self.sight.identity {
            Ok(Some(identity)) => identity.server.clone(),
            Ok(None) => {
                return format!(
                    "{}: readings stay in the buffer until `forebay-agent join`",
                    paint.doubtful("not joined")
                );
            }
            Err(_) => "the server".into(),
        };
        let Seen::Running(agent) = &self.sight.agent else { return format!("to {server}") };
        let uplink = &agent["uplink"];
        let words = match text(uplink, "words") {
            "" => String::new(),
            words => format!(": {}", harmless_line(words)),
        };
        let last = match uplink["acknowledged_s"].as_f64() {
            Some(seconds) => format!(", acknowledged {} ago", age(seconds)),
            None => ", nothing acknowledged since the start".into(),
        };
        match text(uplink, "state") {
            "up" => format!("{} {server}{last}{words}", paint.good("connected to")),
            "troubled" => format!("{} {server}{words}{last}", paint.bad("cannot use")),
            "waiting" => "waits until the buffer is open".into(),
            _ => format!("{} {server}", paint.doubtful("connecting to")),
        }
    }

    fn of_buffer(&self, paint: Paint) -> String {
        let overview = match &self.sight.buffer {
            Ok(overview) => overview,
            Err(why) => return why.clone(),
        };
        let waiting = backlog::words(&self.sight.agent, &overview.backlog, self.now_us);
        let limit = self.sight.config.as_ref().ok().map(|config| config.buffer.max_size);
        let limit = limit.map_or_else(String::new, |limit| format!(" of {limit}"));
        let disk = match &self.sight.agent {
            Seen::Running(agent)
                if agent["buffer"]["writable"] == false && agent["buffer"]["state"] == "open" =>
            {
                format!("; {}", paint.bad("the disk refuses writes"))
            }
            _ => String::new(),
        };
        format!("{waiting}; {}{limit} on the disk{disk}", ByteSize(overview.disk.total()))
    }
}

/// Readings a second over all links.
pub fn per_second(agent: &Json) -> Option<f64> {
    let links = list(agent, "links");
    let rates = links.iter().filter_map(|link| link["per_second"].as_f64());
    links.iter().any(|link| link["per_second"].is_number()).then(|| rates.sum())
}

/// "12.5", "-" while it cannot be told.
pub fn figure(rate: Option<f64>) -> String {
    rate.map_or_else(
        || "-".into(),
        |rate| if rate < 99.95 { format!("{rate:.1}") } else { grouped(rate.round() as u64) },
    )
}

/// A link's state in plain words.
pub fn link_words(link: &Json) -> String {
    let words = harmless_line(text(link, "words"));
    match text(link, "state") {
        "connected" => "running".into(),
        "connecting" => "connecting".into(),
        "backing_off" => {
            let next = link["next_attempt_s"]
                .as_f64()
                .map_or_else(String::new, |seconds| format!(", next attempt in {}", age(seconds)));
            format!("down{next}: {words}")
        }
        "gave_up" => format!("cannot work: {words}"),
        _ => "stopped".into(),
    }
}

fn links(agent: &Json, paint: Paint) -> String {
    let links = list(agent, "links");
    if links.is_empty() {
        return "No links are configured.\n".into();
    }
    let rows: Vec<_> = links
        .iter()
        .map(|link| {
            let devices = list(link, "devices");
            let answering = devices.iter().filter(|device| device["answers"] == true).count();
            [
                text(link, "name").to_owned(),
                text(link, "protocol").to_owned(),
                format!("{answering} of {}", devices.len()),
                figure(link["per_second"].as_f64()),
                link_words(link),
            ]
        })
        .collect();
    let columns = [
        ("link", Side::Left),
        ("protocol", Side::Left),
        ("devices", Side::Right),
        ("readings/s", Side::Right),
        ("state", Side::Left),
    ];
    let mut page = table(columns, &rows);
    // Of a link that is down, everybody knows why its devices do not answer.
    let silent = links.iter().filter(|link| link["state"] == "connected").flat_map(|link| {
        let silent = list(link, "devices").iter().filter(|device| device["answers"] == false);
        silent.map(move |device| (text(link, "name"), device))
    });
    for (link, device) in silent {
        let (name, words) = (harmless(text(device, "name")), harmless_line(text(device, "words")));
        let _ = writeln!(page, "{} {name} ({link}): {words}", paint.doubtful("silent"));
    }
    page
}

fn of_clock(agent: &Json, paint: Paint) -> String {
    let ahead = agent["clock"]["system_ahead_s"].as_f64().unwrap_or_default();
    match text(&agent["clock"], "source") {
        "system" => format!("{} by the system", paint.good("right")),
        "server" if ahead.abs() >= 1.0 => format!(
            "{} by the server; the system's is {} {}",
            paint.good("right"),
            age(ahead.abs()),
            if ahead > 0.0 { "ahead" } else { "behind" }
        ),
        "server" => format!("{} by the server", paint.good("right")),
        _ => format!(
            "{}: times are corrected when the server or NTP tells",
            paint.doubtful("not known to be right")
        ),
    }
}

fn of_agent(agent: &Json, troubles: &mut Vec<String>) {
    let config = &agent["config"];
    let refused = list(config, "mistakes");
    if !refused.is_empty() {
        troubles.push("the configuration was not reloaded for its mistakes; what ran before goes on".into());
    }
    for key in list(config, "needs_restart").iter().filter_map(Json::as_str) {
        troubles.push(format!("{key} has changed: `systemctl restart forebay-agent` puts it into effect"));
    }
    for link in list(agent, "links") {
        let name = text(link, "name");
        if matches!(text(link, "state"), "backing_off" | "gave_up") {
            troubles.push(format!("link {name} is {}", link_words(link)));
        } else if link["state"] == "connected" {
            let silent = list(link, "devices").iter().filter(|device| device["answers"] == false).count();
            if silent > 0 {
                let devices = count(silent as u64, "device does", "devices do");
                troubles.push(format!("{devices} not answer on link {name}"));
            }
        }
    }
    let uplink = &agent["uplink"];
    match text(uplink, "state") {
        "troubled" => troubles.push(format!("the uplink: {}", harmless_line(text(uplink, "words")))),
        "up" if !text(uplink, "words").is_empty() => {
            troubles.push(format!("the uplink: {}", harmless_line(text(uplink, "words"))));
        }
        _ => {}
    }
    if agent["buffer"]["state"] == "open" && agent["buffer"]["writable"] == false {
        troubles
            .push("the disk refuses writes: readings are held in memory, and devices are read less".into());
    }
    if number(agent, "imbalance") > 0 {
        troubles.push(
            "the ledger does not close; please report this with a `forebay-agent support-bundle`".into(),
        );
    }
}

fn paint_days(days: i64, paint: Paint) -> String {
    match days {
        ..0 => paint.bad(&days.to_string()),
        0..FEW_DAYS => paint.doubtful(&days.to_string()),
        _ => days.to_string(),
    }
}

/// Words of others, on one line and without control characters.
fn harmless_line(words: &str) -> String {
    words.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
