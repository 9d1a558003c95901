//! From what is so, and what stands, to what is to be changed. Pure, and without memory: what waits for
//! its delay is handed in as well. Doing its changes and stepping again at the same moment changes
//! nothing.

use std::collections::{BTreeMap, HashMap, HashSet};

use forebay_config::alarms::{Priority, Rule};

use super::judge::{Facts, Finding, Verdict, findings};
use super::{micros, words};
use crate::store::Micros;
use crate::store::alarms::{Alarm, AlarmChange, AlarmRow, Member, Pending};

/// What the database knows.
pub struct Known<'a> {
    standing: HashMap<(&'a str, &'a str), &'a AlarmRow>,
    pending: HashMap<(&'a str, &'a str), &'a Pending>,
    members: HashMap<(&'a str, &'a str), f64>,
}

/// How a member was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Before {
    /// Nothing was wrong.
    Fine,
    /// It waited for its delay; the number it began with.
    Pending(f64),
    /// It is part of an alarm; the number it began with.
    Standing(f64),
}

impl<'a> Known<'a> {
    /// By rule and subject, or rule and member.
    pub fn new(standing: &'a [AlarmRow], pending: &'a [Pending]) -> Self {
        let members = standing.iter().flat_map(|row| {
            row.alarm.members.iter().map(|m| ((row.alarm.rule.as_str(), m.name.as_str()), m.base))
        });
        Self {
            members: members.collect(),
            standing: standing
                .iter()
                .map(|row| ((row.alarm.rule.as_str(), row.alarm.subject.as_str()), row))
                .collect(),
            pending: pending.iter().map(|wait| ((wait.rule.as_str(), wait.member.as_str()), wait)).collect(),
        }
    }

    pub(super) fn before(&self, rule: &Rule, member: &str) -> Before {
        let key = (rule.name.as_str(), member);
        match (self.members.get(&key), self.pending.get(&key)) {
            (Some(base), _) => Before::Standing(*base),
            (None, Some(wait)) => Before::Pending(wait.base),
            (None, None) => Before::Fine,
        }
    }
}

/// What is to be changed, in an order that is the same for every server.
pub fn step(rules: &[Rule], facts: &Facts<'_>, known: &Known<'_>) -> Vec<AlarmChange> {
    let mut changes = Vec::new();
    for rule in rules {
        if let Some(found) = findings(rule, facts, known) {
            one_rule(rule, found, facts, known, &mut changes);
        }
    }
    // Of rules that are in no configuration any more nothing stays.
    let names: HashSet<&str> = rules.iter().map(|rule| rule.name.as_str()).collect();
    let mut gone: Vec<&AlarmRow> =
        known.standing.values().filter(|row| !names.contains(row.alarm.rule.as_str())).copied().collect();
    gone.sort_by_key(|row| row.key);
    changes.extend(gone.iter().map(|row| AlarmChange::Clear { alarm: row.key, version: row.version }));
    let mut waits: Vec<&Pending> =
        known.pending.values().filter(|wait| !names.contains(wait.rule.as_str())).copied().collect();
    waits.sort_by_key(|wait| (&wait.rule, &wait.member));
    changes.extend(waits.into_iter().map(forget));
    changes
}

fn forget(wait: &Pending) -> AlarmChange {
    AlarmChange::Forget { rule: wait.rule.clone(), member: wait.member.clone() }
}

/// A member that is so, on its way into an alarm.
struct Candidate {
    member: Member,
    remedy: Option<String>,
    counted_from: Micros,
    is_ripe: bool,
}

fn one_rule(
    rule: &Rule,
    found: Vec<Finding>,
    facts: &Facts<'_>,
    known: &Known<'_>,
    changes: &mut Vec<AlarmChange>,
) {
    let name = rule.name.as_str();
    let mut by_subject: BTreeMap<String, Vec<Finding>> = BTreeMap::new();
    for finding in found {
        by_subject.entry(finding.subject.clone()).or_default().push(finding);
    }
    // What was not found at all is fine: an agent revoked, a fault that is over.
    let of_rule = known.standing.keys().filter(|(rule, _)| *rule == name);
    for (_, subject) in of_rule {
        by_subject.entry((*subject).to_owned()).or_default();
    }
    let met: HashSet<&str> = by_subject.values().flatten().map(|finding| finding.member.as_str()).collect();
    let mut lost: Vec<&Pending> = known
        .pending
        .values()
        .filter(|wait| wait.rule == name && !met.contains(wait.member.as_str()))
        .copied()
        .collect();
    lost.sort_by_key(|wait| &wait.member);
    changes.extend(lost.into_iter().map(forget));
    drop(met);
    for (subject, found) in by_subject {
        one_subject(rule, &subject, found, facts, known, changes);
    }
}

fn one_subject(
    rule: &Rule,
    subject: &str,
    found: Vec<Finding>,
    facts: &Facts<'_>,
    known: &Known<'_>,
    changes: &mut Vec<AlarmChange>,
) {
    let row = known.standing.get(&(rule.name.as_str(), subject)).copied();
    let stood: &[Member] = row.map_or(&[], |row| &row.alarm.members);
    let site = found.first().map_or_else(|| row.map_or("", |row| &row.alarm.site), |first| &first.site);
    let site = site.to_owned();
    let (mut stay, mut join) = (Vec::new(), Vec::new());
    for finding in found {
        let stands = stood.iter().find(|member| member.name == finding.member);
        let wait = known.pending.get(&(rule.name.as_str(), finding.member.as_str())).copied();
        match (finding.verdict, stands) {
            (Verdict::Fine, _) => changes.extend(wait.map(forget)),
            (Verdict::Unknown | Verdict::So { .. }, Some(member)) => stay.push(member.clone()),
            (Verdict::Unknown, None) => {}
            (Verdict::So { words, remedy, since, counted_from, base, again, ripens }, None) => {
                // A clock that went back must not make a delay of years.
                let seen = wait.filter(|_| !again).map_or(facts.now, |wait| wait.since).min(facts.now);
                let counted_from = counted_from.unwrap_or(seen);
                let is_over = facts.now.saturating_sub(counted_from) >= micros(rule.delay);
                let member = Member { name: finding.member, since: since.unwrap_or(seen), words, base };
                join.push(Candidate { member, remedy, counted_from, is_ripe: ripens && is_over });
            }
        }
    }
    let remedy = join.iter().find_map(|candidate| candidate.remedy.clone());
    let is_raised = row.is_none() && join.iter().any(|candidate| candidate.is_ripe);
    let mut joined = Vec::new();
    for candidate in join {
        // What comes together is told together: at one dead uplink all are on their way.
        if candidate.is_ripe || is_raised {
            joined.push(candidate.member);
            continue;
        }
        let wait = Pending {
            rule: rule.name.to_string(),
            member: candidate.member.name,
            since: candidate.counted_from,
            base: candidate.member.base,
        };
        let kept = known.pending.get(&(rule.name.as_str(), wait.member.as_str()));
        if kept.is_none_or(|kept| kept.since != wait.since) {
            changes.push(AlarmChange::Wait(wait));
        }
    }
    let grew = !joined.is_empty();
    stay.extend(joined);
    let mut members = stay;
    members.sort_by(|a, b| a.name.cmp(&b.name));
    let is_same = members.len() == stood.len() && !grew;
    match row {
        Some(row) if members.is_empty() => {
            changes.push(AlarmChange::Clear { alarm: row.key, version: row.version });
        }
        Some(_) if is_same => {}
        Some(row) => {
            let remedy = remedy.unwrap_or_else(|| row.alarm.remedy.clone());
            let now = alarm(rule, subject, site, members, Some(remedy), facts);
            changes.push(AlarmChange::Renew { alarm: row.key, version: row.version, now, grew });
        }
        None if grew => {
            changes.push(AlarmChange::Raise(alarm(rule, subject, site, members, remedy, facts)));
        }
        None => {}
    }
}

fn alarm(
    rule: &Rule,
    subject: &str,
    site: String,
    members: Vec<Member>,
    remedy: Option<String>,
    facts: &Facts<'_>,
) -> Alarm {
    Alarm {
        rule: rule.name.to_string(),
        kind: words::kind(&rule.when).to_owned(),
        priority: match rule.priority {
            Priority::Low => 0,
            Priority::Medium => 1,
            Priority::High => 2,
        },
        words: words::alarm(rule, subject, &members, facts.agents.unwrap_or_default()),
        remedy: remedy.unwrap_or_else(|| words::remedy(&rule.when).to_owned()),
        subject: subject.to_owned(),
        site,
        members,
    }
}
