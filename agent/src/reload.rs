//! What a new configuration changes in an agent that runs with another one. Pure.
//!
//! Links are compared as a whole, together with what `[processing.NAME]` does to their points: a link
//! that differs is ended and started anew, any other one goes on and notices nothing, unless it had
//! given up: what kept it from working may lie in a file that it names. The log's level
//! changes at once. Everything else needs a restart, and is named. Where the gateway itself is another
//! one (`[agent]`), nothing is changed before that restart: its name is part of what links tell peers.

use std::sync::Arc;

use forebay_config::agent::{Agent, Log, LogLevel, Telemetry, Uplink};
use forebay_config::field::Link;
use forebay_config::processing::Rule;
use forebay_config::units::Name;

/// What to do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Links to end, and to start again if they stand in `start` too.
    pub end: Vec<Name>,
    /// Links to start when those have ended, in the order of the configuration.
    pub start: Vec<Arc<Link>>,
    /// Links that go on.
    pub kept: usize,
    /// The log's new level.
    pub level: Option<LogLevel>,
    /// Keys that differ and change nothing until the agent is started again: `buffer.max_size`.
    pub needs_restart: Vec<&'static str>,
}

impl Plan {
    /// From the configuration that runs to the one that was read. `gave_up` says which links have.
    pub fn new(running: &Agent, read: &Agent, gave_up: impl Fn(&Name) -> bool) -> Self {
        let needs_restart = frozen(running, read);
        if needs_restart.iter().any(|key| key.starts_with("agent.")) {
            return Self { needs_restart, kept: running.links.len(), ..Self::default() };
        }
        let same = |old: &Link, new: &Link| {
            old == new && !gave_up(&old.name) && !rules_differ(old, &running.processing, &read.processing)
        };
        let goes_on = |link: &Link, others: &[Arc<Link>]| {
            others.iter().find(|other| other.name == link.name).is_some_and(|other| same(other, link))
        };
        let end: Vec<_> = running.links.iter().filter(|link| !goes_on(link, &read.links)).collect();
        let start: Vec<_> = read.links.iter().filter(|link| !goes_on(link, &running.links)).collect();
        Self {
            kept: running.links.len() - end.len(),
            end: end.into_iter().map(|link| link.name.clone()).collect(),
            start: start.into_iter().cloned().collect(),
            level: (running.log.level != read.log.level).then_some(read.log.level),
            needs_restart,
        }
    }

    /// Links that are ended and started again.
    pub fn changed(&self) -> usize {
        self.start.iter().filter(|link| self.end.contains(&link.name)).count()
    }

    /// "link changed: 1, added: 0, removed: 2; 3 go on untouched"
    pub fn words(&self) -> String {
        let changed = self.changed();
        let (added, removed) = (self.start.len() - changed, self.end.len() - changed);
        format!("links changed: {changed}, added: {added}, removed: {removed}, untouched: {}", self.kept)
    }

    /// What runs once the plan is carried out: what needs a restart is as it was.
    pub fn running(&self, running: Agent, read: Agent) -> Agent {
        if self.needs_restart.iter().any(|key| key.starts_with("agent.")) {
            return running;
        }
        let Agent { processing, links, log: Log { level, .. }, .. } = read;
        Agent { processing, links, log: Log { level, ..running.log }, ..running }
    }
}

/// Keys that differ and cannot change while the agent runs.
fn frozen(running: &Agent, read: &Agent) -> Vec<&'static str> {
    // Taken apart so that no key is forgotten.
    let Agent { site, gateway, state_dir, buffer, classes, processing: _, uplink, telemetry, log, links: _ } =
        running;
    let forebay_config::agent::Buffer { max_size, reserve, durability_window, when_full, tail } = buffer;
    let Uplink {
        request_timeout,
        max_request,
        heartbeat,
        backoff_max,
        order,
        connections,
        bandwidth,
        daily,
        hours,
        proxy,
    } = uplink;
    let Telemetry { listen } = telemetry;
    let Log { format, level: _ } = log;
    [
        ("agent.site", *site != read.site),
        ("agent.gateway", *gateway != read.gateway),
        ("agent.state_dir", *state_dir != read.state_dir),
        ("buffer.max_size", *max_size != read.buffer.max_size),
        ("buffer.reserve", *reserve != read.buffer.reserve),
        ("buffer.durability_window", *durability_window != read.buffer.durability_window),
        ("buffer.when_full", *when_full != read.buffer.when_full),
        ("buffer.tail", *tail != read.buffer.tail),
        ("class", *classes != read.classes),
        ("uplink.request_timeout", *request_timeout != read.uplink.request_timeout),
        ("uplink.max_request", *max_request != read.uplink.max_request),
        ("uplink.heartbeat", *heartbeat != read.uplink.heartbeat),
        ("uplink.backoff_max", *backoff_max != read.uplink.backoff_max),
        ("uplink.order", *order != read.uplink.order),
        ("uplink.connections", *connections != read.uplink.connections),
        ("uplink.bandwidth", *bandwidth != read.uplink.bandwidth),
        ("uplink.daily", *daily != read.uplink.daily),
        ("uplink.hours", *hours != read.uplink.hours),
        ("uplink.proxy", *proxy != read.uplink.proxy),
        ("telemetry.listen", *listen != read.telemetry.listen),
        ("log.format", *format != read.log.format),
    ]
    .into_iter()
    .filter_map(|(key, differs)| differs.then_some(key))
    .collect()
}

/// Is any point of the link processed in another way?
fn rules_differ(link: &Link, old: &[Rule], new: &[Rule]) -> bool {
    if old == new {
        return false;
    }
    // Topics name points while they run, so for such a link any difference may be one.
    let Some(points) = link.point_names() else { return true };
    points.into_iter().any(|(device, point)| {
        let treatment = |rules: &[Rule]| {
            let rule = rules.iter().find(|rule| rule.holds(device.as_str(), point.as_str()))?;
            let Rule { name: _, points: _, round, filter, window } = rule.clone();
            Some((round, filter, window))
        };
        treatment(old) != treatment(new)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "[agent]\nsite = \"t\"\ngateway = \"g\"\n";

    fn agent(rest: &str) -> Agent {
        forebay_config::load::agent_text("t.toml", &format!("{HEAD}{rest}")).unwrap()
    }

    fn link(name: &str, address: u16) -> String {
        format!(
            "[link.{name}.modbus-tcp]\naddress = \"10.0.0.1:502\"\n\
             [link.{name}.device.{name}-d]\npoints.p = {{ address = {address} }}\n"
        )
    }

    fn mqtt(topic: &str) -> String {
        format!("[link.hall.mqtt]\nbroker = \"mqtt://10.0.0.2\"\n[[link.hall.topic]]\ntopic = \"{topic}\"\n")
    }

    fn names(plan: &Plan) -> (Vec<&str>, Vec<&str>) {
        let end = plan.end.iter().map(Name::as_str).collect();
        (end, plan.start.iter().map(|link| link.name.as_str()).collect())
    }

    #[test]
    fn only_links_that_differ_are_ended_and_started() {
        let running = agent(&[link("a", 1), link("b", 1), link("c", 1)].concat());
        let read = agent(&[link("d", 1), link("c", 1), link("b", 2)].concat());
        let plan = Plan::new(&running, &read, |_| false);
        assert_eq!(names(&plan), (vec!["a", "b"], vec!["d", "b"]));
        assert_eq!(plan.words(), "links changed: 1, added: 1, removed: 1, untouched: 1");
        assert_eq!(plan.needs_restart, [] as [&str; 0]);
        assert_eq!(plan.running(running, read.clone()), read);
        assert_eq!(
            Plan::new(&read, &read, |_| false),
            Plan { kept: 3, ..Plan::default() },
            "nothing has changed"
        );
        let plan = Plan::new(&read, &read, |name| name.as_str() == "c");
        assert_eq!(names(&plan), (vec!["c"], vec!["c"]), "what gave up is tried again");
    }

    #[test]
    fn a_rule_touches_the_links_whose_points_it_treats_differently() {
        let links = [link("a", 1), link("b", 1), mqtt("plant/{device}/{point}")].concat();
        let rule = |name: &str, points: &str, round: &str| {
            format!("[processing.{name}]\npoints = [\"{points}\"]\nround = {round}\n")
        };
        let running = agent(&(rule("r", "a-d/*", "0.1") + &links));
        let touched = |rules: String| {
            let plan = Plan::new(&running, &agent(&(rules + &links)), |_| false);
            plan.end.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(touched(rule("r", "a-d/*", "0.1")), "");
        assert_eq!(touched(rule("r", "a-d/*", "0.5")), "a hall");
        assert_eq!(touched(rule("r", "*/p", "0.1")), "b hall", "for a it is the same as before");
        assert_eq!(touched(rule("other", "a-d/p", "0.1")), "hall", "a name changes nothing");
        assert_eq!(touched(String::new()), "a hall");
    }

    #[test]
    fn what_cannot_change_is_named_each_time_and_stays_as_it_was() {
        let running = agent(&link("a", 1));
        let read = agent(
            &("[buffer]\nmax_size = \"2GiB\"\n[uplink]\nbandwidth = \"8KiB\"\n[log]\nlevel = \"debug\"\n"
                .to_owned()
                + &link("a", 2)),
        );
        let plan = Plan::new(&running, &read, |_| false);
        assert_eq!(plan.needs_restart, ["buffer.max_size", "uplink.bandwidth"]);
        assert_eq!((names(&plan), plan.level), ((vec!["a"], vec!["a"]), Some(LogLevel::Debug)));
        let now = plan.running(running.clone(), read.clone());
        assert_eq!((now.buffer.max_size, &now.links), (running.buffer.max_size, &read.links));
        let again = Plan::new(&now, &read, |_| false);
        assert_eq!(again.needs_restart, plan.needs_restart);
        assert_eq!((again.end.len(), again.level), (0, None));
    }

    #[test]
    fn another_gateway_waits_for_the_restart_as_a_whole() {
        let running = agent(&link("a", 1));
        let mut read = agent(&link("b", 1));
        read.gateway = Name::new("elsewhere").unwrap();
        let plan = Plan::new(&running, &read, |_| false);
        assert_eq!(
            (plan.needs_restart.as_slice(), names(&plan)),
            (["agent.gateway"].as_slice(), (vec![], vec![]))
        );
        assert_eq!(plan.running(running.clone(), read), running);
    }
}
