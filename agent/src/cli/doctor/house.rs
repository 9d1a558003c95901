//! What lies on this gateway: configuration, rights, serial ports, disk, clock, certificate, service.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use forebay_config::load;
use forebay_config::redact::redact;
use forebay_config::units::ByteSize;
use forebay_protocols::boot_time::wall_micros;
use forebay_protocols::checkup::Finding;
use rustix::fs::{Access, access, statvfs};

use super::super::buffer::words::{count, moment};
use super::super::check;
use super::super::serial;
use super::super::sight::{Seen, Sight, list, text};
use super::super::status::{Page, backlog};
use crate::clock::machine::Machine;

/// Less free space than this beyond the reserve, and soon readings have to go.
const LITTLE_ROOM: u64 = 64 << 20;
/// Certificates are renewed when two thirds of their year are over, at 122 days.
const FEW_DAYS: i64 = 60;

/// Everything but the service, which comes last.
pub fn examine(sight: &Sight) -> Vec<Finding> {
    let mut findings = vec![configuration(sight)];
    findings.extend(warnings(sight));
    findings.extend(secrets(&sight.path));
    findings.push(state(&sight.state_dir));
    findings.extend(ports(sight));
    findings.push(disk(sight));
    findings.push(buffer(sight));
    findings.push(clock(sight));
    findings.push(certificate(sight));
    findings
}

fn configuration(sight: &Sight) -> Finding {
    let what = "configuration";
    match &sight.config {
        Ok(config) => Finding::ok(what, format!("{} {}", sight.path.display(), check::summary(config))),
        Err(findings) => {
            let told: Vec<_> = findings.0.iter().map(ToString::to_string).collect();
            Finding::fail(
                what,
                format!("{} in {}", count(told.len() as u64, "mistake", "mistakes"), sight.path.display()),
                told.join("\n"),
            )
        }
    }
}

/// What cannot work although the words are right.
fn warnings(sight: &Sight) -> Option<Finding> {
    let overloads = check::overloads(sight.config.as_ref().ok()?);
    (!overloads.is_empty()).then(|| {
        Finding::warn("bus load", "points cannot be read as often as is asked for", overloads.join("\n"))
    })
}

/// Passwords in a file that everybody on this gateway may read.
fn secrets(path: &Path) -> Option<Finding> {
    let is_open = |path: &PathBuf| {
        let is_open = fs::metadata(path).is_ok_and(|about| about.mode() & 0o004 != 0);
        let text = if is_open { fs::read_to_string(path).unwrap_or_default() } else { String::new() };
        redact(&text).is_some_and(|redacted| !redacted.secrets.is_empty())
    };
    let open: Vec<_> = load::files(path).into_iter().filter(is_open).collect();
    (!open.is_empty()).then(|| {
        let commands = open.iter().map(|path| {
            let path = path.display();
            format!("chgrp forebay {path} && chmod 640 {path}")
        });
        Finding::warn(
            "secrets",
            "passwords stand in files that every user may read",
            commands
                .chain(["or leave them to systemd: password = \"${credential:NAME}\"".into()])
                .collect::<Vec<_>>()
                .join("\n"),
        )
    })
}

fn state(folder: &Path) -> Finding {
    let what = "state directory";
    let about = match fs::metadata(folder) {
        Ok(about) => about,
        Err(why) => {
            return Finding::fail(
                what,
                format!("{}: {why}", folder.display()),
                format!("install -d -o forebay -g forebay -m 700 {}", folder.display()),
            );
        }
    };
    if access(folder, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK).is_err() {
        return Finding::fail(
            what,
            format!("{} may not be written by this user", folder.display()),
            "run this as the agent's user: sudo -u forebay forebay-agent doctor; if it fails there too: \
             chown -R forebay:forebay on that folder",
        );
    }
    if about.mode() & 0o022 != 0 {
        return Finding::warn(
            what,
            format!("{} may be written by others (mode {:04o})", folder.display(), about.mode() & 0o7777),
            format!("chmod 700 {}", folder.display()),
        );
    }
    // Files that root made here, when it ran the agent by hand, stop it under its own user.
    let foreign = ["buffer", "identity", "learnt", "opcua"]
        .map(|name| folder.join(name))
        .into_iter()
        .find(|path| fs::metadata(path).is_ok_and(|inner| inner.uid() != about.uid()));
    match foreign {
        Some(path) => Finding::fail(
            what,
            format!("{} belongs to another user than the folder it is in", path.display()),
            format!("chown -R --reference={} {}", folder.display(), path.display()),
        ),
        None => Finding::ok(what, folder.display().to_string()),
    }
}

/// One finding for all serial ports of the configuration; none without any.
fn ports(sight: &Sight) -> Option<Finding> {
    let what = "serial ports";
    let links = &sight.config.as_ref().ok()?.links;
    let (ports, troubles) = serial::troubles(links)?;
    Some(match troubles.as_slice() {
        [] => Finding::ok(what, ports.join(", ")),
        troubles => Finding::fail(
            what,
            format!("{} of {} cannot be used", troubles.len(), ports.len()),
            troubles.join("\n"),
        ),
    })
}

fn disk(sight: &Sight) -> Finding {
    let what = "disk";
    let about = match statvfs(&sight.state_dir) {
        Ok(about) => about,
        Err(why) => {
            return Finding::fail(
                what,
                format!("{}: {why}", sight.state_dir.display()),
                "make the state directory",
            );
        }
    };
    let free = about.f_bavail.saturating_mul(about.f_frsize);
    if about.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
        return Finding::fail(
            what,
            format!("{} lies on a file system that is mounted read-only", sight.state_dir.display()),
            "`dmesg` tells why; a flash card that turned read-only is worn out",
        );
    }
    if about.f_files > 0 && about.f_favail == 0 {
        return Finding::fail(
            what,
            "the file system has no inodes left",
            "delete what made the many small files: df -i",
        );
    }
    let Ok(config) = &sight.config else { return Finding::ok(what, format!("{} free", ByteSize(free))) };
    let (reserve, limit) = (config.buffer.reserve, config.buffer.max_size);
    let used = sight.buffer.as_ref().map_or(0, |overview| overview.disk.total());
    let room = free.saturating_sub(reserve.0);
    let words = format!(
        "{} free, of which {reserve} are left to others; the buffer has {} of {limit}",
        ByteSize(free),
        ByteSize(used)
    );
    if room == 0 {
        return Finding::fail(what, words, "make room: below its reserve the buffer gives up readings");
    }
    let wanted = limit.0.saturating_sub(used);
    if room < wanted.min(LITTLE_ROOM) {
        return Finding::warn(what, words, "make room, or lower buffer.max_size to what there is");
    }
    if room < wanted {
        return Finding::warn(
            what,
            words,
            format!(
                "the buffer cannot grow to its {limit}: lower buffer.max_size to {} or less, or make room",
                ByteSize(used + room)
            ),
        );
    }
    Finding::ok(what, words)
}

fn buffer(sight: &Sight) -> Finding {
    let what = "buffer";
    match &sight.buffer {
        Ok(overview) if overview.troubles.is_empty() => {
            Finding::ok(what, backlog::words(&sight.agent, &overview.backlog, wall_micros()))
        }
        Ok(overview) => Finding::warn(
            what,
            count(overview.troubles.len() as u64, "damaged part", "damaged parts"),
            "`forebay-agent buffer verify` lists them; each is a gap record already, and the agent goes on",
        ),
        Err(why) if matches!(sight.agent, Seen::Running(_)) => {
            Finding::fail(what, why.clone(), "restart the agent")
        }
        Err(why) => Finding::warn(what, why.clone(), "the agent makes it at its first start"),
    }
}

fn clock(sight: &Sight) -> Finding {
    let what = "clock";
    let now = moment(wall_micros());
    if let Seen::Running(agent) = &sight.agent {
        let ahead = agent["clock"]["system_ahead_s"].as_f64().unwrap_or_default();
        return match text(&agent["clock"], "source") {
            "system" => Finding::ok(what, now),
            "server" if ahead.abs() < 2.0 => Finding::ok(what, format!("{now}, agrees with the server")),
            "server" => Finding::warn(
                what,
                format!(
                    "{now} is {ahead:.0} s ahead of the server; readings are stamped with the server's time"
                ),
                "set it, or let it be set: timedatectl set-ntp true",
            ),
            _ => unsure(&now),
        };
    }
    if Machine::this().shown().claims {
        Finding::ok(what, format!("{now}, synchronised"))
    } else {
        unsure(&now)
    }
}

fn unsure(now: &str) -> Finding {
    Finding::warn(
        "clock",
        format!("{now}, and nobody vouches for it"),
        "timedatectl set-ntp true; without NTP the server's time is used once there is a connection",
    )
}

fn certificate(sight: &Sight) -> Finding {
    let what = "certificate";
    let days = Page::new(sight).days_left();
    match (&sight.identity, days) {
        (Err(why), _) => {
            Finding::fail(what, why.clone(), "run this as the agent's user; if it is damaged, join again")
        }
        (Ok(None), _) => Finding::warn(
            what,
            "this gateway has not joined a server; readings stay in the buffer",
            "forebay-server token create on the server, then forebay-agent join here",
        ),
        (Ok(Some(_)), None) => Finding::fail(what, "its dates cannot be read", "join again"),
        (Ok(Some(_)), Some(days)) if days < 0 => Finding::fail(
            what,
            format!("ended {} days ago", -days),
            "forebay-agent renew; it works after the end too",
        ),
        (Ok(Some(_)), Some(days)) if days < FEW_DAYS => Finding::warn(
            what,
            format!("{days} days left, and it was not renewed"),
            "forebay-agent renew says what stands in the way",
        ),
        (Ok(Some(_)), Some(days)) => Finding::ok(what, format!("{days} days left")),
    }
}

/// Does the agent run, and are its links well?
pub fn service(sight: &Sight) -> Finding {
    let what = "service";
    match &sight.agent {
        Seen::Absent => Finding::fail(
            what,
            "the agent does not run",
            "systemctl enable --now forebay-agent; journalctl -u forebay-agent -n 50 tells why it ended",
        ),
        Seen::Unknown(why) => Finding::warn(what, why.clone(), "run this as the agent's user, or with sudo"),
        Seen::Running(agent) => {
            let links = list(agent, "links");
            let down: Vec<_> = links
                .iter()
                .filter(|link| matches!(text(link, "state"), "backing_off" | "gave_up"))
                .collect();
            if down.is_empty() {
                return Finding::ok(
                    what,
                    format!("the agent runs, {}", count(links.len() as u64, "link", "links")),
                );
            }
            let told: Vec<_> = down
                .iter()
                .map(|link| {
                    format!("link {}: {}", text(link, "name"), super::super::status::link_words(link))
                })
                .collect();
            Finding::warn(
                what,
                format!("the agent runs, {} of {} links are down", down.len(), links.len()),
                told.join("\n"),
            )
        }
    }
}
