//! `forebay-server doctor`: what the server needs, tried one after the other, each with its verdict and
//! with what to do about it. Changes nothing, and works beside a running server.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use forebay_config::server::{Server, Store as Kind};
use forebay_protocols::boot_time::wall_micros;
use forebay_protocols::checkup::{self, Finding};
use forebay_protocols::sync::tls;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::app;
use crate::identity::Authority;
use crate::store::{self, Store};

pub(super) const HELP: &str = "Run it as the server's user (sudo -u forebay-server), whose rights are what counts.\n\n\
     Exit codes: 0 all is well, 1 something deserves a look (WARN), 2 something does not work (FAIL), or the \
     command line was not understood.";

/// For the database, and for a connection.
const WITHIN: Duration = Duration::from_secs(10);
const MICROS_A_DAY: i64 = 86_400_000_000;
/// A gateway renews with 122 days left.
const FEW_DAYS: i64 = 60;
/// Not heard of for so long.
const LONG_SILENT: i64 = 7;

/// How to show it.
#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Read all of a SQLite database to see whether it is whole; takes minutes where it is large.
    #[arg(long)]
    deep: bool,
}

impl Doctor {
    /// Examines, shows, and gives the exit code.
    pub(super) async fn run(self, config: Server) -> anyhow::Result<ExitCode> {
        let findings = examine(&config, self.deep).await;
        super::print(&if self.json { format!("{}\n", checkup::json(&findings)) } else { text(&findings) })?;
        Ok(ExitCode::from(checkup::exit_code(&findings)))
    }
}

fn text(findings: &[Finding]) -> String {
    checkup::text(findings, |_, mark| mark.to_owned())
}

async fn examine(config: &Server, deep: bool) -> Vec<Finding> {
    let mut findings =
        vec![Finding::ok("configuration", "understood"), state_folder(&config.state_dir), clock()];
    findings.push(disk(config));
    if let Kind::Sqlite { path } = &config.store
        && !path.exists()
    {
        findings.push(Finding::warn(
            "database",
            format!("{} is not there yet", path.display()),
            "the server makes it when it starts; if there was one, `forebay-server restore` puts a backup back",
        ));
        findings.extend(doors(config).await);
        return findings;
    }
    let opened = timeout(WITHIN, store::open(&config.store)).await;
    let store = match opened.unwrap_or_else(|_| Err(store::StoreError::Away("no answer in time".into()))) {
        Ok(store) => {
            findings.push(Finding::ok("database", store.describe()));
            Some(store)
        }
        Err(error) => {
            let remedy = match config.store {
                Kind::Sqlite { .. } => {
                    "is the disk full or read-only? A backup is put back by `forebay-server restore`"
                }
                Kind::Postgres { .. } => {
                    "does PostgreSQL run, and does `store.url` name it? Agents keep their readings meanwhile"
                }
            };
            findings.push(Finding::fail("database", error.to_string(), remedy));
            None
        }
    };
    if let (true, Kind::Sqlite { path }) = (deep, &config.store) {
        findings.push(whole(path));
    }
    findings.extend(doors(config).await);
    if let Some(store) = store {
        findings.extend(fleet(&*store, config).await);
    }
    findings
}

async fn doors(config: &Server) -> [Finding; 4] {
    [
        ca(config),
        address(config),
        listens("agents' port", config.sync.listen).await,
        listens("page's port", config.web.listen).await,
    ]
}

/// There is a CA. Opening one that is not there would make it.
fn has_ca(config: &Server) -> bool {
    config.state_dir.join("ca/ca.pem").exists()
}

fn state_folder(folder: &Path) -> Finding {
    const WHAT: &str = "state directory";
    let shown = folder.display();
    let Ok(about) = fs::metadata(folder) else {
        return Finding::fail(
            WHAT,
            format!("{shown} is not there"),
            "start the server once, or make it for its user",
        );
    };
    let probe = folder.join(".doctor");
    if let Err(error) = fs::write(&probe, b"can this be written?").and_then(|()| fs::remove_file(&probe)) {
        return Finding::fail(
            WHAT,
            format!("{shown} cannot be written: {error}"),
            "give it to the server's user, with chown",
        );
    }
    match about.permissions().mode() & 0o007 {
        0 => Finding::ok(WHAT, shown.to_string()),
        _ => Finding::warn(WHAT, format!("every user may look into {shown}"), format!("chmod o= {shown}")),
    }
}

fn clock() -> Finding {
    match wall_micros() / 1_000_000 < tls::EARLIEST_TIME {
        true => Finding::fail(
            "clock",
            "it shows a time before this program was made",
            "set it: certificates and the times of readings hang on it (`timedatectl set-ntp true`)",
        ),
        false => Finding::ok("clock", "not obviously wrong"),
    }
}

fn disk(config: &Server) -> Finding {
    const WHAT: &str = "disk";
    let folder = match &config.store {
        Kind::Sqlite { path } => path.parent().unwrap_or(Path::new(".")),
        Kind::Postgres { .. } => &config.state_dir,
    };
    let remedy = "make room, or set `[retention]`; while it is full agents keep their readings";
    match rustix::fs::statvfs(folder) {
        Err(error) => Finding::fail(WHAT, format!("{}: {error}", folder.display()), remedy),
        Ok(room) => {
            let free = room.f_bavail.saturating_mul(room.f_frsize) >> 20;
            let share = room.f_bavail.saturating_mul(100) / room.f_blocks.max(1);
            let words = format!("{free} MiB free ({share} %) at {}", folder.display());
            match (free, share) {
                (..100, _) => Finding::fail(WHAT, words, remedy),
                (..1024, _) | (_, ..5) => Finding::warn(WHAT, words, remedy),
                _ => Finding::ok(WHAT, words),
            }
        }
    }
}

fn whole(path: &Path) -> Finding {
    const WHAT: &str = "database whole";
    let look = || -> rusqlite::Result<String> {
        let database =
            rusqlite::Connection::open_with_flags(path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        database.query_row("pragma integrity_check(1)", [], |row| row.get(0))
    };
    let remedy = "stop the server, keep the file, and put a backup back with `forebay-server restore --replace`: \
                  gateways send again what they still have";
    match look() {
        Ok(verdict) if verdict == "ok" => Finding::ok(WHAT, "every page and index of it"),
        Ok(verdict) => Finding::fail(WHAT, verdict, remedy),
        Err(error) => Finding::fail(WHAT, error.to_string(), remedy),
    }
}

fn ca(config: &Server) -> Finding {
    const WHAT: &str = "CA";
    if !has_ca(config) {
        return Finding::warn(
            WHAT,
            "there is none yet",
            "the server makes one when it starts; if there was one, restore it from a \
             backup before that, or every gateway must join again",
        );
    }
    match Authority::open(&config.state_dir) {
        Err(error) => Finding::fail(WHAT, error.to_string(), ""),
        Ok(authority) => match authority.former() {
            None => Finding::ok(WHAT, format!("generation {}", authority.generation())),
            Some(_) => Finding::ok(
                WHAT,
                format!("generation {}, the former one is trusted still", authority.generation()),
            ),
        },
    }
}

fn address(config: &Server) -> Finding {
    let address = app::address(config);
    match tls::server_name(&address) {
        Err(why) => {
            Finding::warn("address", why, "set `sync.address` to the host:port agents reach this server by")
        }
        Ok(_) if config.sync.address.is_none() => Finding::warn(
            "address",
            format!("join strings name {address}, by this machine's own name"),
            "set `sync.address`, unless gateways know this name",
        ),
        Ok(_) => Finding::ok("address", format!("join strings name {address}")),
    }
}

async fn listens(what: &'static str, at: SocketAddr) -> Finding {
    let mut to = at;
    if to.ip().is_unspecified() {
        to.set_ip([127, 0, 0, 1].into());
    }
    match timeout(WITHIN, TcpStream::connect(to)).await {
        Ok(Ok(_)) => Finding::ok(what, format!("something listens on {at}")),
        _ => Finding::warn(
            what,
            format!("nothing listens on {at}"),
            "start the server (`systemctl start forebay-server`)",
        ),
    }
}

async fn fleet(store: &dyn Store, config: &Server) -> Vec<Finding> {
    let asked = async {
        let fleet = store.fleet().await?;
        Ok::<_, store::StoreError>((fleet, store.applications().await?, store.faults(None, 0).await?))
    };
    let (fleet, waiting, faults) = match asked.await {
        Ok(asked) => asked,
        Err(error) => {
            return vec![Finding::fail("gateways", error.to_string(), "see the check of the database")];
        }
    };
    let now = wall_micros();
    let members: Vec<_> = fleet.iter().filter(|row| !row.revoked).collect();
    let names = |rows: Vec<String>| {
        let more = rows.len().saturating_sub(5);
        let named = rows.into_iter().take(5).collect::<Vec<_>>().join(", ");
        if more > 0 { format!("{named} and {more} more") } else { named }
    };
    let those = |is_it: &dyn Fn(&store::AgentRow) -> bool| -> Vec<String> {
        members.iter().filter(|row| is_it(row)).map(|row| format!("{}/{}", row.site, row.gateway)).collect()
    };
    let mut findings = Vec::new();
    let silent = those(&|row| row.last_seen.is_none_or(|seen| now - seen > LONG_SILENT * MICROS_A_DAY));
    findings.push(match silent.len() {
        0 => Finding::ok(
            "gateways",
            format!("{} have joined, none silent for {LONG_SILENT} days", members.len()),
        ),
        number => Finding::warn(
            "gateways",
            format!("{number} of {} not heard of for {LONG_SILENT} days: {}", members.len(), names(silent)),
            "`forebay-agent status` there says why; `forebay-server agents revoke` if it is gone for good",
        ),
    });
    let ending =
        those(&|row| row.certificate.is_some_and(|(_, until)| until - now < FEW_DAYS * MICROS_A_DAY));
    findings.push(match ending.is_empty() {
        true => Finding::ok("certificates", "none of a gateway ends soon"),
        false => Finding::warn(
            "certificates",
            format!("fewer than {FEW_DAYS} days are left to {}", names(ending)),
            "gateways renew them by themselves, even late: `forebay-agent renew` there says what hinders it",
        ),
    });
    if has_ca(config)
        && let Ok(authority) = Authority::open(&config.state_dir)
        && authority.former().is_some()
    {
        let awaited = authority.handover(&fleet).awaited;
        findings.push(match awaited.is_empty() {
            true => Finding::warn(
                "change of CA",
                "every gateway trusts the new one",
                "end it: `forebay-server ca retire`",
            ),
            false => {
                Finding::ok("change of CA", format!("{} gateways are to be brought over", awaited.len()))
            }
        });
    }
    let asking = waiting.iter().filter(|one| !one.approved).count();
    if asking > 0 {
        let words = format!("{asking} gateways wait to be let in");
        findings.push(Finding::warn(
            "joining",
            words,
            "`forebay-server agents pending`, then `approve` or `reject`",
        ));
    }
    if !faults.is_empty() {
        findings.push(Finding::warn(
            "faults",
            format!("{} stand", faults.len()),
            "`forebay-server faults` says what to do",
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use forebay_protocols::checkup::Verdict;

    use super::*;

    #[tokio::test]
    async fn a_server_that_never_started_is_told_what_it_needs() {
        let state = tempfile::tempdir().unwrap();
        let name = state.path().join("server.toml");
        let folder = state.path().join("state");
        let config = format!(
            "[server]\nstate_dir = {folder:?}\n[sync]\nlisten = \"127.0.0.1:1\"\n[web]\nlisten = \"127.0.0.1:2\"\n"
        );
        fs::write(&name, config).unwrap();
        let config = forebay_config::load::server(Some(name.as_path())).unwrap();
        let findings = examine(&config, true).await;
        let of = |what: &str| findings.iter().find(|finding| finding.what == what).unwrap();
        assert_eq!(of("state directory").verdict, Verdict::Fail);
        assert!(of("page's port").remedy.contains("systemctl start"));
        assert!(!folder.exists(), "a look changes nothing");
        // Now there is all but a CA.
        store::open(&config.store).await.unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        let findings = examine(&config, true).await;
        let of = |what: &str| findings.iter().find(|finding| finding.what == what).unwrap();
        assert_eq!(
            (of("database whole").verdict, of("state directory").verdict),
            (Verdict::Ok, Verdict::Warn)
        );
        assert!(of("state directory").remedy.contains("chmod") && of("CA").remedy.contains("backup"));
        let page = text(&findings);
        assert!(page.starts_with("OK    configuration         understood\nWARN  state directory"), "{page}");
        assert!(page.ends_with("OK.\n"), "{page}");
    }
}
