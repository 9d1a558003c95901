//! What is so, rule by rule. Pure: facts in, findings out. "Unknown" is neither so nor over: whoever was
//! raised stays raised, and nobody is raised anew.

use forebay_config::alarms::{FaultKind, Limits, Rule, When};

use super::step::{Before, Known};
use super::words;
use crate::store::{self, AgentRow, FaultRow, Micros};

/// What is known at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// By the wall clock.
    pub now: Micros,
    /// How long every agent could have been heard: a server that just started knows of no silence.
    pub heard_for: Micros,
    /// The fleet; `None`: not looked at this time.
    pub agents: Option<&'a [AgentRow]>,
    /// The faults that stand; `None`: not looked at this time.
    pub faults: Option<&'a [FaultRow]>,
    /// Points that rules for values name.
    pub points: &'a [PointFact],
}

/// What is known of a point.
#[derive(Clone, Debug, PartialEq)]
pub struct PointFact {
    /// Where.
    pub site: String,
    /// Its gateway.
    pub gateway: String,
    /// Its device.
    pub device: String,
    /// Its name.
    pub name: String,
    /// Its unit, or empty.
    pub unit: String,
    /// 0, or the number of the buffer's copy.
    pub fork: u32,
    /// The newest number; `None` while it is not known: bad quality, no number, a silent gateway.
    pub value: Option<f64>,
    /// The lowest since the last look, the newest included.
    pub low: f64,
    /// The highest.
    pub high: f64,
}

impl PointFact {
    fn path(&self) -> String {
        let Self { site, gateway, device, name, fork, .. } = self;
        match fork {
            0 => format!("{site}/{gateway}/{device}/{name}"),
            fork => format!("{site}/{gateway}/{device}/{name} (copy {fork})"),
        }
    }
}

/// What a rule says of one gateway, fault or point.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// Of which alarm it would be a member.
    pub subject: String,
    /// Where.
    pub site: String,
    /// Its name, unique within the rule.
    pub member: String,
    /// What it says.
    pub verdict: Verdict,
}

/// Is it so?
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// No.
    Fine,
    /// Nobody can tell now.
    Unknown,
    /// Yes.
    So {
        /// In plain words, without a full stop.
        words: String,
        /// What to do, where the rule alone does not tell.
        remedy: Option<String>,
        /// Since when, where that is known better than by looking.
        since: Option<Micros>,
        /// From when the delay counts; default from when it was seen.
        counted_from: Option<Micros>,
        /// The number it began with.
        base: f64,
        /// It was not so all the time: the delay begins again.
        again: bool,
        /// It may be raised once the delay is over.
        ripens: bool,
    },
}

impl Verdict {
    fn so(words: String) -> Self {
        Self::So {
            words,
            remedy: None,
            since: None,
            counted_from: None,
            base: 0.0,
            again: false,
            ripens: true,
        }
    }
}

/// What `rule` finds; `None`: it was not looked at, and everything stays as it is.
pub fn findings(rule: &Rule, facts: &Facts<'_>, known: &Known<'_>) -> Option<Vec<Finding>> {
    match &rule.when {
        When::Fault(kind) => faults(rule, *kind, facts),
        When::Value(limits) => Some(values(rule, limits, facts, known)),
        When::Silent { .. } | When::Backlog { .. } | When::Clock { .. } | When::Certificate { .. } => {
            gateways(rule, facts, known)
        }
    }
}

fn gateways(rule: &Rule, facts: &Facts<'_>, known: &Known<'_>) -> Option<Vec<Finding>> {
    // One that is revoked is not expected, and one that was never seen is not missed.
    let agents = facts.agents?.iter().filter(|agent| {
        !agent.revoked && agent.last_seen.is_some() && rule.concerns(&agent.site, &agent.gateway)
    });
    let findings = agents.map(|agent| {
        let member = name(agent);
        let verdict = match &rule.when {
            When::Silent { after } => silent(agent, facts, super::micros(*after)),
            When::Backlog { least } => backlog(agent, *least, known.before(rule, &member)),
            When::Clock { off } => clock(agent, super::micros(*off)),
            When::Certificate { within } => certificate(agent, facts.now, super::micros(*within)),
            When::Fault(_) | When::Value(_) => Verdict::Unknown,
        };
        // What a silent gateway said last is not how it is.
        let is_silent =
            agent.last_seen.is_none_or(|seen| facts.now.saturating_sub(seen) > store::SILENT_AFTER);
        let tells_itself = matches!(rule.when, When::Backlog { .. } | When::Clock { .. });
        let verdict = if tells_itself && is_silent { Verdict::Unknown } else { verdict };
        Finding { subject: agent.site.clone(), site: agent.site.clone(), member, verdict }
    });
    Some(findings.collect())
}

fn name(agent: &AgentRow) -> String {
    format!("{}/{}", agent.site, agent.gateway)
}

fn silent(agent: &AgentRow, facts: &Facts<'_>, after: Micros) -> Verdict {
    let Some(seen) = agent.last_seen else { return Verdict::Unknown };
    if facts.now.saturating_sub(seen) <= after {
        return Verdict::Fine;
    }
    if facts.heard_for <= after {
        return Verdict::Unknown;
    }
    Verdict::So {
        words: format!("{} was last heard at {}", name(agent), words::time(seen)),
        remedy: None,
        since: Some(seen),
        counted_from: Some(seen.saturating_add(after)),
        base: 0.0,
        again: false,
        ripens: true,
    }
}

fn backlog(agent: &AgentRow, least: u64, before: Before) -> Verdict {
    let Some(report) = &agent.report else { return Verdict::Unknown };
    let waiting = report.backlog_readings;
    // From where it began to grow.
    let (base, again, is_over, ripens) = match before {
        Before::Standing(base) => (base, false, (waiting as f64) < base, true),
        Before::Pending(base) if (waiting as f64) < base => (waiting as f64, true, false, false),
        Before::Pending(base) => (base, false, false, waiting as f64 > base),
        Before::Fine => (waiting as f64, false, false, false),
    };
    if waiting < least || is_over {
        return Verdict::Fine;
    }
    let words = format!("{} readings wait in {}", words::count(waiting), name(agent));
    Verdict::So { words, remedy: None, since: None, counted_from: None, base, again, ripens }
}

fn clock(agent: &AgentRow, off: Micros) -> Verdict {
    let report = agent.report.as_ref().filter(|report| report.wall_us != 0 && report.received_us != 0);
    let Some(report) = report else { return Verdict::Unknown };
    let offset = report.wall_us.saturating_sub(report.received_us);
    if offset.unsigned_abs() <= off.unsigned_abs() {
        return Verdict::Fine;
    }
    Verdict::so(format!("the clock of {} is {}", name(agent), words::off(offset)))
}

fn certificate(agent: &AgentRow, now: Micros, within: Micros) -> Verdict {
    let Some((_, until)) = agent.certificate else { return Verdict::Unknown };
    let left = until.saturating_sub(now);
    if left > within {
        return Verdict::Fine;
    }
    let end = words::time(until);
    Verdict::so(match left <= 0 {
        true => format!("the certificate of {} ended at {end}", name(agent)),
        false => format!("the certificate of {} ends at {end}, in {}", name(agent), words::span(left)),
    })
}

fn faults(rule: &Rule, kind: FaultKind, facts: &Facts<'_>) -> Option<Vec<Finding>> {
    let kind = match kind {
        FaultKind::Fork => store::FaultKind::Fork,
        FaultKind::Imbalance => store::FaultKind::Imbalance,
        FaultKind::Wiped => store::FaultKind::Wiped,
        FaultKind::Restored => store::FaultKind::ServerRestored,
    };
    let (agents, faults) = (facts.agents?, facts.faults?);
    let standing = faults.iter().filter(|row| row.over.is_none() && row.fault.kind == kind);
    let findings = standing.filter_map(|row| {
        let agent = agents.iter().find(|agent| agent.key == row.fault.agent)?;
        if !rule.concerns(&agent.site, &agent.gateway) {
            return None;
        }
        let verdict = Verdict::So {
            words: format!("{}: {}", name(agent), row.fault.words.trim_end_matches('.')),
            remedy: Some(row.fault.remedy.clone()),
            since: Some(row.fault.at),
            counted_from: Some(row.fault.at),
            base: 0.0,
            again: false,
            ripens: true,
        };
        let member = format!("{} {}", name(agent), row.fault.subject);
        Some(Finding { subject: name(agent), site: agent.site.clone(), member, verdict })
    });
    Some(findings.collect())
}

fn values(rule: &Rule, limits: &Limits, facts: &Facts<'_>, known: &Known<'_>) -> Vec<Finding> {
    let named = facts.points.iter().filter(|point| {
        rule.concerns(&point.site, &point.gateway)
            && limits.points.iter().any(|pattern| pattern.matches(&point.device, &point.name))
    });
    let findings = named.map(|point| {
        let path = point.path();
        let verdict = value(point, &path, limits, rule.delay.is_zero(), known.before(rule, &path));
        Finding { subject: path.clone(), site: point.site.clone(), member: path, verdict }
    });
    findings.collect()
}

fn value(point: &PointFact, path: &str, limits: &Limits, at_once: bool, before: Before) -> Verdict {
    let Some(value) = point.value else { return Verdict::Unknown };
    let (above, below) = (limits.above.unwrap_or(f64::INFINITY), limits.below.unwrap_or(f64::NEG_INFINITY));
    let deadband = limits.deadband;
    if let Before::Standing(_) = before {
        let is_inside = value <= above - deadband && value >= below + deadband;
        return if is_inside { Verdict::Fine } else { told(point, path, value, limits, false) };
    }
    if value > above || value < below {
        // It must have been beyond the limit at every reading since the last look.
        let was_inside = if value > above { point.low <= above } else { point.high >= below };
        return told(point, path, value, limits, was_inside && before != Before::Fine);
    }
    // A spike between two looks counts, unless the rule waits for it to last.
    match (point.high > above, point.low < below) {
        (true, _) if at_once => told(point, path, point.high, limits, false),
        (_, true) if at_once => told(point, path, point.low, limits, false),
        (_, _) => Verdict::Fine,
    }
}

fn told(point: &PointFact, path: &str, value: f64, limits: &Limits, again: bool) -> Verdict {
    let unit = if point.unit.is_empty() { String::new() } else { format!(" {}", point.unit) };
    let limit = match (limits.above, limits.below) {
        (Some(above), _) if value > above => format!("above {above}{unit}"),
        (_, Some(below)) if value < below => format!("below {below}{unit}"),
        (_, _) => "not far enough inside its limits yet".to_owned(),
    };
    Verdict::So {
        words: format!("{path} is {}{unit}, {limit}", words::number(value)),
        remedy: None,
        since: None,
        counted_from: None,
        base: value,
        again,
        ripens: true,
    }
}
