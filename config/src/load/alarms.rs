//! `[alarm.NAME]` and `[webhook.NAME]`.

use std::time::Duration;

use super::field::{all, checked_name};
use super::findings::Complaint;
use super::processing::patterns;
use super::table::{Item, Table, wrong_type};
use super::words::{boolean, duration, filled, float, integer, one_of, path, secret};
use crate::alarms::{
    Alarms, FaultKind, Limits, MAIN_TENANT, Priority, Rule, Webhook, WebhookUrl, When, usual,
};
use crate::classes::Pattern;
use crate::units::Name;

const PRIORITIES: &[(&str, Priority)] =
    &[("low", Priority::Low), ("medium", Priority::Medium), ("high", Priority::High)];

/// What `when` may say.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Silent,
    Backlog,
    Clock,
    Certificate,
    Fault(FaultKind),
    Value,
}

const KINDS: &[(&str, Kind)] = &[
    ("silent", Kind::Silent),
    ("backlog", Kind::Backlog),
    ("clock", Kind::Clock),
    ("certificate", Kind::Certificate),
    ("fork", Kind::Fault(FaultKind::Fork)),
    ("imbalance", Kind::Fault(FaultKind::Imbalance)),
    ("wiped", Kind::Fault(FaultKind::Wiped)),
    ("restored", Kind::Fault(FaultKind::Restored)),
    ("value", Kind::Value),
];

/// A heartbeat comes every 60 s by default, every 5 s at the most.
const SHORTEST_SILENCE: Duration = Duration::from_secs(10);
/// A signature with a key that can be guessed is none.
const SHORTEST_SECRET: usize = 16;

pub(super) fn alarms(rules: Option<Table<'_>>, webhooks: Option<Table<'_>>) -> Option<Alarms> {
    let mut found = usual();
    let mut is_whole = true;
    for (name, t) in rules.iter().flat_map(Table::named_tables) {
        let place = found.iter().position(|rule| rule.name.as_str() == name);
        match (rule(name, &t, place.map(|place| &found[place])), place) {
            (Some(Told::Rule(rule)), Some(place)) => found[place] = rule,
            (Some(Told::Rule(rule)), None) => found.push(rule),
            (Some(Told::Off), Some(place)) => drop(found.remove(place)),
            (Some(Told::Off), None) => {}
            (None, _) => is_whole = false,
        }
    }
    let webhooks = webhooks.map_or_else(
        || Some(Vec::new()),
        |t| all(t.named_tables().into_iter().map(|(name, t)| webhook(name, &t))),
    );
    let alarms = Alarms { rules: found, webhooks: webhooks? };
    is_whole.then_some(alarms)
}

enum Told {
    Rule(Rule),
    /// `enabled = false`.
    Off,
}

/// One rule; `standing` is the usual one of this name, whose settings hold where the file says nothing.
fn rule(name: &str, t: &Table<'_>, standing: Option<&Rule>) -> Option<Told> {
    let checked = checked_name(name, t);
    let is_on = t.or("enabled", true, boolean);
    let usual_kind = standing.map(|rule| kind_of(&rule.when));
    let kind = match usual_kind {
        Some(kind) => t.or("when", kind, one_of(KINDS)),
        None => t.required("when", "when = \"silent\", \"value\" …", one_of(KINDS))?,
    };
    // Only where it is still the same thing that is looked at.
    let standing = standing.filter(|rule| kind_of(&rule.when) == kind);
    let model = standing.cloned().or_else(|| usual().into_iter().find(|rule| kind_of(&rule.when) == kind));
    let when = condition(t, kind, model.as_ref().map(|rule| &rule.when));
    let priority = t.or(
        "priority",
        model.as_ref().map_or(Priority::default(), |rule| rule.priority),
        one_of(PRIORITIES),
    );
    let delay =
        t.or("delay", model.as_ref().map_or(Duration::ZERO, |rule| rule.delay), duration(Duration::ZERO));
    let agents = t.optional("agents", patterns);
    let agents = match agents {
        Some(agents) if agents.is_empty() => {
            t.complain_of("agents", Complaint::new("no agent is looked at", "leave it away to mean all"));
            None
        }
        Some(agents) => Some(agents),
        None => Pattern::new("*/*").ok().map(|all| vec![all]),
    };
    let whose = t.or("tenants", Vec::new(), tenants);
    t.finish();
    if !is_on {
        return Some(Told::Off);
    }
    Some(Told::Rule(Rule { name: checked?, priority, agents: agents?, tenants: whose, delay, when: when? }))
}

/// Names of tenants, as `forebay-server tenant list` tells them.
fn tenants(item: &Item<'_>) -> Result<Vec<String>, Complaint> {
    let hint = "a list of names that `forebay-server tenant list` tells; leave it away to mean every tenant";
    let list = item.value.as_array().ok_or_else(|| wrong_type(item.value, "a list", hint))?;
    if list.is_empty() {
        return Err(Complaint::new("no tenant is looked at", hint));
    }
    let one = |value: &toml::Spanned<toml::de::DeValue<'_>>| match value.get_ref().as_str() {
        Some(name) if !name.is_empty() => Ok(name.to_ascii_lowercase()),
        _ => Err(wrong_type(value.get_ref(), "a name", hint)),
    };
    list.iter().map(one).collect()
}

fn kind_of(when: &When) -> Kind {
    match when {
        When::Silent { .. } => Kind::Silent,
        When::Backlog { .. } => Kind::Backlog,
        When::Clock { .. } => Kind::Clock,
        When::Certificate { .. } => Kind::Certificate,
        When::Fault(kind) => Kind::Fault(*kind),
        When::Value(_) => Kind::Value,
    }
}

fn condition(t: &Table<'_>, kind: Kind, model: Option<&When>) -> Option<When> {
    let second = Duration::from_secs(1);
    Some(match (kind, model) {
        (Kind::Silent, Some(When::Silent { after })) => {
            When::Silent { after: t.or("after", *after, duration(SHORTEST_SILENCE)) }
        }
        (Kind::Backlog, Some(When::Backlog { least })) => {
            When::Backlog { least: t.or("least", *least, integer(1..=i64::MAX)) }
        }
        (Kind::Clock, Some(When::Clock { off })) => When::Clock { off: t.or("off", *off, duration(second)) },
        (Kind::Certificate, Some(When::Certificate { within })) => {
            When::Certificate { within: t.or("within", *within, duration(second)) }
        }
        (Kind::Fault(kind), _) => When::Fault(kind),
        (Kind::Value, _) => When::Value(limits(t)?),
        // There is a usual rule of every other kind.
        (_, _) => return None,
    })
}

fn limits(t: &Table<'_>) -> Option<Limits> {
    let points = t.required("points", "points = [\"boiler/temperature\", \"*/pressure\"]", patterns);
    let (above, below) = (t.optional("above", float), t.optional("below", float));
    let deadband = t.or("deadband", 0.0, float);
    if !t.has("above") && !t.has("below") {
        t.complain(Complaint::new("there is no limit", "add above = 90.0, below = 5.0, or both"));
        return None;
    }
    if deadband < 0.0 {
        let words = format!("a deadband of {deadband} is negative");
        t.complain_of(
            "deadband",
            Complaint::new(words, "how far inside its limit a value must be again: 2.0"),
        );
    }
    if let (Some(high), Some(low)) = (above, below)
        && high - deadband < low + deadband
    {
        let words = if high <= low {
            format!("above = {high} does not lie above below = {low}")
        } else {
            format!("a deadband of {deadband} leaves nothing between {low} and {high}: it would never clear")
        };
        let key = if high <= low { "above" } else { "deadband" };
        t.complain_of(key, Complaint::new(words, "exchange the limits, or make the deadband smaller"));
    }
    Some(Limits { points: points?, above, below, deadband })
}

fn webhook(name: &str, t: &Table<'_>) -> Option<Webhook> {
    let name: Option<Name> = checked_name(name, t);
    // The address may hold a token: it is not repeated.
    let url = t.required("url", "url = \"https://alerts.example/forebay\"", |item| {
        WebhookUrl::new(secret(item)?.reveal())
            .map_err(|why| Complaint::new(why, "example: \"https://alerts.example/forebay\""))
    });
    let secret = t.required("secret", "secret = \"${credential:alerts}\"", |item| {
        let found = secret(item)?;
        match found.reveal().len() {
            0..SHORTEST_SECRET => Err(Complaint::new(
                "is too short to sign with",
                format!("at least {SHORTEST_SECRET} characters: `openssl rand -base64 32` makes a good one"),
            )),
            _ => Ok(found),
        }
    });
    let tenant = t.or("tenant", MAIN_TENANT.to_owned(), |item| Ok(filled(item)?.to_ascii_lowercase()));
    let priority = t.or("priority", Priority::Low, one_of(PRIORITIES));
    let ca = t.optional("ca", path);
    if let Some(url) = url.as_ref().filter(|url| !url.tls && ca.is_some()) {
        let words = format!("{url} is reached without TLS");
        t.complain_of("ca", Complaint::new(words, "write https://, or leave `ca` away"));
    }
    t.finish();
    Some(Webhook { name: name?, url: url?, secret: secret?, tenant, priority, ca })
}
