//! `forebay-agent support-bundle`: everything somebody far away needs to help, in one file, without
//! secrets. What is in it can be read before it is sent: it is text.
//!
//! Secrets are kept out twice: files that hold them are never read into it, and every text is cleaned of
//! what `scrub` knows: values of the configuration that are secrets, what environment and credentials put
//! in their place, passwords in addresses, private keys, join strings.

mod archive;
mod log;
mod scrub;

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use forebay_protocols::boot_time::wall_micros;
use serde_json::json;

use self::scrub::Scrub;
use super::paint::Paint;
use super::sight::{Sight, ask_metrics};
use super::status::Page;
use super::{ConfigPath, FAILED, complain, doctor, say};
use crate::status::VERSION;

pub const HELP: &str = "In it: the configuration without secrets and comments, `status`, `doctor`, the books of the \
     buffer, metrics, the log of the last days, versions. Not in it: readings, keys, passwords, certificates.\n\n\
     Exit codes: 0 written, 1 it could not be written, 2 command line not understood.";

/// Where to.
#[derive(Debug, Args)]
pub struct Bundle {
    /// The file. By default `forebay-support-SITE-GATEWAY-TIME.tar.gz` in the current folder.
    #[arg(long, short, value_name = "PATH")]
    output: Option<PathBuf>,
    /// Lines of the log, the latest.
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    log_lines: u32,
    #[command(flatten)]
    config: ConfigPath,
}

/// Gathers, cleans, packs.
pub fn run(bundle: &Bundle) -> ExitCode {
    let sight = Sight::look(&bundle.config.config);
    let output = bundle.output.clone().unwrap_or_else(|| default_name(&sight));
    let pages = gather(&sight, bundle.log_lines);
    let folder = output.file_name().and_then(|name| name.to_str()).unwrap_or("forebay-support");
    let folder = folder.trim_end_matches(".tar.gz").to_owned();
    let now = wall_micros().div_euclid(1_000_000).unsigned_abs();
    let written = archive::pack(&folder, &pages, now).and_then(|bytes| {
        // Not for others on this machine either: names of devices are nobody's business.
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&output)?;
        file.write_all(&bytes)?;
        Ok(bytes.len())
    });
    match written {
        Ok(length) => say(&format!(
            "{} ({} KiB, {} files). It holds no secrets that are known of, and no readings; look into it before \
             you send it: tar -tzf",
            output.display(),
            length.div_ceil(1024),
            pages.len()
        )),
        Err(why) => {
            complain(&format!(
                "cannot write {}: {why}\n  hint: --output names another file",
                output.display()
            ));
            ExitCode::from(FAILED)
        }
    }
}

fn default_name(sight: &Sight) -> PathBuf {
    let whose = sight
        .config
        .as_ref()
        .map_or_else(|_| "unknown".to_owned(), |config| format!("{}-{}", config.site, config.gateway));
    let now = jiff::Timestamp::from_microsecond(wall_micros()).unwrap_or_default();
    format!("forebay-support-{whose}-{}.tar.gz", now.strftime("%Y%m%d-%H%M%S")).into()
}

/// Every file of the bundle: name and text, cleaned.
fn gather(sight: &Sight, log_lines: u32) -> Vec<(String, String)> {
    let mut pages = Vec::new();
    let (configuration, scrub) = configuration(sight);
    pages.extend(configuration);
    let page = Page::new(sight);
    let pretty = |json: &serde_json::Value| serde_json::to_string_pretty(json).unwrap_or_default() + "\n";
    pages.push(("status.txt".into(), page.text(Paint::plain())));
    pages.push(("status.json".into(), pretty(&page.json())));
    match doctor::examine(sight) {
        Ok(findings) => {
            pages.push(("doctor.txt".into(), doctor::text(&findings, Paint::plain())));
            pages.push(("doctor.json".into(), pretty(&doctor::json(&findings))));
        }
        Err(why) => pages.push(("doctor.txt".into(), why + "\n")),
    }
    let buffer = match &sight.buffer {
        Ok(overview) => super::buffer::page(overview, sight.config.as_ref().ok()),
        Err(why) => format!("{why}\n"),
    };
    pages.push(("buffer.txt".into(), buffer));
    pages.push(("metrics.txt".into(), ask_metrics(&sight.state_dir).unwrap_or_else(|why| why + "\n")));
    pages.push(("log.txt".into(), log::tail(log_lines)));
    pages.push(("versions.txt".into(), versions()));
    pages.push(("files.txt".into(), files(&sight.state_dir)));
    pages.into_iter().map(|(name, text)| (name, scrub.clean(&text))).collect()
}

/// The configuration's files without secrets, and what was secret in them.
fn configuration(sight: &Sight) -> (Vec<(String, String)>, Scrub) {
    let mut scrub = Scrub::default();
    let mut pages = Vec::new();
    for path in forebay_config::load::files(&sight.path) {
        let name = match path.parent() == sight.path.parent() {
            true => format!("config/{}", file_name(&path)),
            false => format!("config/{}/{}", file_name(path.parent().unwrap_or(&path)), file_name(&path)),
        };
        let text = match fs::read_to_string(&path) {
            Err(why) => format!("{}: {why}\n", path.display()),
            Ok(text) => match forebay_config::redact::redact(&text) {
                Some(redacted) => scrub.learn(redacted),
                None => {
                    format!("left out: {} is not TOML, and nobody can tell its secrets\n", path.display())
                }
            },
        };
        pages.push((name, text));
    }
    if let Ok(config) = &sight.config {
        scrub.learn_of(config);
    }
    if let Err(findings) = &sight.config {
        pages.push(("config/mistakes.txt".into(), findings.to_string() + "\n"));
    }
    (pages, scrub)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn versions() -> String {
    let mut text = format!("forebay-agent {VERSION} ({})\n", std::env::consts::ARCH);
    let first_line = |path: &str| {
        fs::read_to_string(path)
            .ok()
            .and_then(|text| text.lines().next().map(str::to_owned))
            .unwrap_or_default()
    };
    let _ = writeln!(text, "{}", first_line("/proc/version"));
    let _ = writeln!(text, "uptime and idle, seconds: {}", first_line("/proc/uptime"));
    let _ = writeln!(text, "load: {}", first_line("/proc/loadavg"));
    let model = fs::read_to_string("/proc/device-tree/model").unwrap_or_default();
    let _ = writeln!(text, "model: {}", model.trim_end_matches('\0'));
    for (path, keys) in [
        ("/etc/os-release", &["PRETTY_NAME", "VERSION_ID"][..]),
        ("/proc/meminfo", &["MemTotal", "MemAvailable", "SwapTotal"][..]),
    ] {
        let all = fs::read_to_string(path).unwrap_or_default();
        let wanted = all.lines().filter(|line| keys.iter().any(|key| line.starts_with(key)));
        wanted.for_each(|line| {
            let _ = writeln!(text, "{line}");
        });
    }
    text
}

/// Names, sizes and rights of what lies in the state directory; nothing of what stands in it.
fn files(state_dir: &Path) -> String {
    use std::os::unix::fs::MetadataExt;
    let mut rows = Vec::new();
    let mut folders = vec![state_dir.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            rows.push(format!("{}: cannot be listed", folder.display()));
            continue;
        };
        for entry in entries.flatten() {
            let Ok(about) = entry.metadata() else { continue };
            if about.is_dir() && rows.len() < 10_000 {
                folders.push(entry.path());
            }
            let row = json!([
                entry.path(),
                about.len(),
                format!("{:06o}", about.mode()),
                about.uid(),
                about.gid(),
                about.mtime()
            ]);
            rows.push(row.to_string());
        }
    }
    rows.sort();
    "path, bytes, mode, user, group, changed (seconds since 1970)\n".to_owned() + &rows.join("\n") + "\n"
}

#[cfg(test)]
mod tests;
