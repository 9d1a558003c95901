//! `[alarm.NAME]` and `[webhook.NAME]`: what people are told of, and who is told.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::classes::Pattern;
use crate::units::{Name, Secret};

/// The tenant that is always there.
pub const MAIN_TENANT: &str = "main";

/// Rules and webhooks. Without configuration the usual rules stand and nobody is called.
#[derive(Clone, Debug, PartialEq)]
pub struct Alarms {
    /// The usual rules first, then those of the file, each name once.
    pub rules: Vec<Rule>,
    /// `[webhook.NAME]`, in the order of the file.
    pub webhooks: Vec<Webhook>,
}

impl Default for Alarms {
    fn default() -> Self {
        Self { rules: usual(), webhooks: Vec::new() }
    }
}

/// When an alarm is raised.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// The table's name.
    pub name: Name,
    /// `priority`: how soon a person must act.
    pub priority: Priority,
    /// `agents`: patterns of `site/gateway`. Default all.
    pub agents: Vec<Pattern>,
    /// `tenants`: whose gateways it looks at. Empty: every tenant's, each for itself.
    pub tenants: Vec<String>,
    /// `delay`: how long it must be so before the alarm is raised.
    pub delay: Duration,
    /// `when` and what belongs to it.
    pub when: When,
}

impl Rule {
    /// Does it stand for this tenant?
    pub fn is_of(&self, tenant: &str) -> bool {
        self.tenants.is_empty() || self.tenants.iter().any(|name| name == tenant)
    }

    /// Does it stand as it does without being written?
    pub fn is_usual(&self) -> bool {
        usual().contains(self)
    }

    /// Does it look at this agent?
    pub fn concerns(&self, site: &str, gateway: &str) -> bool {
        self.agents.iter().any(|pattern| pattern.matches(site, gateway))
    }
}

/// What an alarm is raised for.
#[derive(Clone, Debug, PartialEq)]
pub enum When {
    /// An agent says nothing for longer than `after`.
    Silent {
        /// At least 10 s; a heartbeat comes every 60 s unless configured otherwise.
        after: Duration,
    },
    /// More and more readings wait in a gateway.
    Backlog {
        /// `least`: fewer readings than this are no backlog.
        least: u64,
    },
    /// A gateway's clock is off.
    Clock {
        /// By more than this.
        off: Duration,
    },
    /// A certificate ends, and was not renewed.
    Certificate {
        /// Within this time.
        within: Duration,
    },
    /// A fault stands, as `/api/v1/faults` tells them.
    Fault(FaultKind),
    /// A value lies outside its limits.
    Value(Limits),
}

/// The kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// A buffer was copied, or an older state of it restored.
    Fork,
    /// The books do not close.
    Imbalance,
    /// A gateway came back with a new buffer while its old one held readings.
    Wiped,
    /// The server had lost what it had acknowledged.
    Restored,
}

/// Limits of values; at least one of the two.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// `points`: patterns of `device/point`.
    pub points: Vec<Pattern>,
    /// `above`: a higher value raises the alarm.
    pub above: Option<f64>,
    /// `below`: a lower value raises it.
    pub below: Option<f64>,
    /// `deadband`: how far inside its limit a value must be again for the alarm to clear. Not negative.
    pub deadband: f64,
}

/// How soon a person must act (ANSI/ISA-18.2 calls it priority).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// At the next occasion.
    Low,
    /// Today.
    #[default]
    Medium,
    /// Now.
    High,
}

/// Somebody who is called when an alarm changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Webhook {
    /// The table's name.
    pub name: Name,
    /// `url`.
    pub url: WebhookUrl,
    /// `secret`: the key of the signature.
    pub secret: Secret,
    /// `tenant`: whose alarms it is told. Default the main tenant's.
    pub tenant: String,
    /// `priority`: alarms of lower priority are not told.
    pub priority: Priority,
    /// `ca`: a file with the certificates (PEM) that the receiver's must come from. Default the system's.
    pub ca: Option<PathBuf>,
}

/// Where a webhook is sent. The path may hold a token: only the origin is ever shown.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookUrl {
    /// `https`, or `http`.
    pub tls: bool,
    /// Host name or address, IPv6 without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path and query, beginning with `/`.
    pub path: String,
}

impl WebhookUrl {
    /// Reads `https://host[:port][/path]`, or says what is wrong without repeating it.
    ///
    /// # Errors
    /// In plain words.
    pub fn new(text: &str) -> Result<Self, String> {
        let (tls, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return Err("is not an address that begins with https:// or http://".into()),
        };
        if text.contains(|c: char| c.is_whitespace() || c.is_control() || !c.is_ascii()) {
            return Err("holds a character that an address cannot have".into());
        }
        let rest = rest.split('#').next().unwrap_or(rest);
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        if authority.contains('@') {
            return Err("must not hold a user: the signature says who sends".into());
        }
        let usual = if tls { 443 } else { 80 };
        let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, port)) => (host, port.strip_prefix(':').filter(|port| !port.is_empty())),
            None => match authority.rsplit_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let port = match port {
            None => usual,
            Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or("has no valid port")?,
        };
        if host.is_empty() {
            return Err("names no host".into());
        }
        let path = match path {
            "" => "/".to_owned(),
            path if path.starts_with('?') => format!("/{path}"),
            path => path.to_owned(),
        };
        Ok(Self { tls, host: host.into(), port, path })
    }

    /// Host and port as they stand in a `Host` header.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

impl fmt::Display for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }
}

impl fmt::Debug for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}/…")
    }
}

/// The rules that stand without being written: (name, priority, delay in seconds, condition).
pub(crate) fn usual() -> Vec<Rule> {
    let seconds = Duration::from_secs;
    let rules = [
        ("silent", Priority::High, 60, When::Silent { after: seconds(150) }),
        ("backlog", Priority::Medium, 600, When::Backlog { least: 1_000 }),
        ("clock", Priority::Medium, 120, When::Clock { off: seconds(10) }),
        ("certificate", Priority::High, 0, When::Certificate { within: seconds(30 * 86_400) }),
        ("fork", Priority::High, 0, When::Fault(FaultKind::Fork)),
        ("imbalance", Priority::High, 0, When::Fault(FaultKind::Imbalance)),
        ("wiped", Priority::Medium, 0, When::Fault(FaultKind::Wiped)),
        ("restored", Priority::Medium, 0, When::Fault(FaultKind::Restored)),
    ];
    let rules = rules.into_iter().filter_map(|(name, priority, delay, when)| {
        // Both parse: they are written here.
        let (name, all) = (Name::new(name).ok()?, Pattern::new("*/*").ok()?);
        Some(Rule { name, priority, agents: vec![all], tenants: Vec::new(), delay: seconds(delay), when })
    });
    rules.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_apart_and_never_shown_whole() {
        let url = WebhookUrl::new("https://chat.example/hooks/T0K3N?x=1#top").expect("an address");
        assert_eq!(
            (url.tls, url.host.as_str(), url.port, url.path.as_str()),
            (true, "chat.example", 443, "/hooks/T0K3N?x=1")
        );
        assert_eq!(format!("{url} {url:?}"), "https://chat.example https://chat.example/…");
        let six = WebhookUrl::new("http://[::1]:9000").expect("an address");
        assert_eq!((six.host.as_str(), six.port, six.path.as_str()), ("::1", 9000, "/"));
        assert_eq!(six.authority(), "[::1]:9000");
        for bad in ["chat.example", "ftp://x", "https://", "https://u:p@x/", "http://x:0/", "http://x y/"] {
            assert!(WebhookUrl::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_usual_rules_are_all_there() {
        assert_eq!(usual().len(), 8);
    }
}
