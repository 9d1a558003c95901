//! `forebay-agent serial`: which serial ports this gateway has, under which name to configure them, and
//! whether the agent could use them. Opens none.

mod ports;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use forebay_config::field::{Link, Protocol};
use serde_json::{Value as Json, json};

use self::ports::{Found, Port, Rights, Roots, find};
use super::table::{Side, harmless, table};
use super::{BAD_CONFIG, DEFAULT_CONFIG, FAILED, complain, print};
use crate::fittings;

pub const HELP: &str = "Exit codes: 0 all is well, 1 a configured port is missing or may not be opened by \
                        this user, 78 configuration refused.";

/// Which ports there are.
#[derive(Debug, Args)]
pub struct Serial {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// The configuration, to say which link uses a port. Without one the ports are shown all the same.
    #[arg(long, value_name = "PATH", env = "FOREBAY_AGENT_CONFIG")]
    config: Option<PathBuf>,
}

/// Looks and shows.
pub fn run(serial: &Serial) -> ExitCode {
    let Serial { json, config } = serial;
    let default: &Path = DEFAULT_CONFIG.as_ref();
    let path = config.as_deref().or_else(|| default.exists().then_some(default));
    let links = match path.map(fittings::configuration).transpose() {
        Ok(agent) => agent.map_or_else(Vec::new, |agent| agent.links),
        Err(findings) => {
            complain(&findings);
            return ExitCode::from(BAD_CONFIG);
        }
    };
    let configured = configured(&links);
    let also: Vec<PathBuf> = configured.iter().map(|(_, port)| port.clone()).collect();
    let found = match find(&Roots::default(), &also) {
        Ok(found) => found,
        Err(why) => {
            complain(&format!("the kernel's list of terminals (/sys/class/tty) cannot be read: {why}"));
            return ExitCode::from(FAILED);
        }
    };
    let page = Page { found, configured };
    let code = print(&if *json { page.json().to_string() + "\n" } else { page.text() });
    page.hints().iter().for_each(|hint| complain(hint));
    code.unwrap_or_else(|| ExitCode::from(if page.troubles().is_empty() { 0 } else { FAILED }))
}

/// Ports of these links as configured, and what keeps them from being used; `None` if there are none.
pub fn troubles(links: &[Arc<Link>]) -> Option<(Vec<String>, Vec<String>)> {
    let configured = configured(links);
    if configured.is_empty() {
        return None;
    }
    let also: Vec<PathBuf> = configured.iter().map(|(_, port)| port.clone()).collect();
    let ports = also.iter().map(|port| port.display().to_string()).collect();
    let troubles = match find(&Roots::default(), &also) {
        Ok(found) => Page { found, configured }.troubles(),
        Err(why) => vec![format!("the kernel's list of terminals (/sys/class/tty) cannot be read: {why}")],
    };
    Some((ports, troubles))
}

/// Links on serial ports: name and port as configured.
fn configured(links: &[Arc<Link>]) -> Vec<(String, PathBuf)> {
    let port = |link: &Arc<Link>| match &link.protocol {
        Protocol::ModbusRtu(rtu) => Some((link.name.to_string(), rtu.port.clone())),
        _ => None,
    };
    links.iter().filter_map(port).collect()
}

/// Ports and who wants them.
struct Page {
    found: Found,
    configured: Vec<(String, PathBuf)>,
}

impl Page {
    /// The links that use a port.
    fn links_of(&self, port: &Port) -> Vec<&str> {
        let is_here = |path: &Path| fs::canonicalize(path).is_ok_and(|path| path == port.path);
        self.configured.iter().filter(|(_, path)| is_here(path)).map(|(link, _)| link.as_str()).collect()
    }

    fn text(&self) -> String {
        let rows: Vec<_> = self
            .found
            .ports
            .iter()
            .map(|port| {
                let best = port.names.first().unwrap_or(&port.path);
                let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
                [
                    best.display().to_string(),
                    port.path.display().to_string(),
                    or_dash(port.driver.clone().unwrap_or_default()),
                    or_dash(harmless(port.adapter.as_deref().unwrap_or_default())),
                    or_dash(self.links_of(port).join(", ")),
                    used(port, self.found.some_hidden),
                    access(port.rights.as_ref()),
                ]
            })
            .collect();
        if rows.is_empty() {
            return "no serial ports; is the adapter plugged in?\n".into();
        }
        let columns =
            ["name to configure", "port", "driver", "adapter", "link", "in use", "this user may open it"];
        table(columns.map(|head| (head, Side::Left)), &rows)
    }

    fn json(&self) -> Json {
        let port = |port: &Port| {
            let rights = port.rights.as_ref();
            let users = port.users.iter().map(|user| json!({ "process": user.process, "name": user.name }));
            json!({
                "port": port.path,
                "names": port.names,
                "driver": port.driver,
                "adapter": port.adapter,
                "links": self.links_of(port),
                "users": users.collect::<Vec<_>>(),
                "granted": rights.map(|rights| rights.granted),
                "group": rights.map(|rights| rights.group.as_str()),
                "mode": rights.map(|rights| format!("{:04o}", rights.mode)),
            })
        };
        json!({
            "ports": self.found.ports.iter().map(port).collect::<Vec<_>>(),
            "users_may_be_hidden": self.found.some_hidden,
            "troubles": self.troubles(),
        })
    }

    /// What keeps configured links from working, as this user sees it.
    fn troubles(&self) -> Vec<String> {
        let mut troubles = Vec::new();
        for (link, path) in &self.configured {
            let Ok(real) = fs::canonicalize(path) else {
                troubles.push(format!(
                    "link.{link}: {} is not there; is the adapter plugged in?",
                    path.display()
                ));
                continue;
            };
            let rights =
                self.found.ports.iter().find(|port| port.path == real).and_then(|port| port.rights.as_ref());
            if let Some(Rights { group, .. }) = rights.filter(|rights| !rights.granted) {
                troubles.push(format!(
                    "link.{link}: this user may not open {}; the agent's user must be in the group {group}: \
                     usermod -aG {group} forebay",
                    path.display()
                ));
            }
        }
        troubles
    }

    fn hints(&self) -> Vec<String> {
        let mut hints = self.troubles();
        for (link, path) in &self.configured {
            let port = fs::canonicalize(path)
                .ok()
                .and_then(|real| self.found.ports.iter().find(|port| port.path == real));
            let better = port
                .and_then(|port| port.names.first())
                .filter(|_| port.is_some_and(|port| port.path == *path));
            if let Some(name) = better {
                hints.push(format!(
                    "hint: link.{link}.modbus-rtu.port = {name:?} stays right when adapters are plugged in \
                     in another order"
                ));
            }
        }
        if self.found.some_hidden {
            hints.push(
                "hint: processes of other users could not be looked at; sudo shows whether they use a port"
                    .into(),
            );
        }
        hints
    }
}

fn used(port: &Port, some_hidden: bool) -> String {
    let users: Vec<_> =
        port.users.iter().map(|user| format!("{} ({})", harmless(&user.name), user.process)).collect();
    match users.as_slice() {
        [] if some_hidden => "not known".into(),
        [] => "no".into(),
        users => users.join(", "),
    }
}

fn access(rights: Option<&Rights>) -> String {
    match rights {
        None => "not there".into(),
        Some(Rights { granted: true, .. }) => "yes".into(),
        Some(Rights { group, mode, .. }) => format!("no (group {group}, mode {mode:04o})"),
    }
}
