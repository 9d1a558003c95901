//! Rules over made-up fleets, and any course of values, with a store in a few lists.

use forebay_config::alarms::{Alarms, Rule};
use forebay_config::load;
use forebay_protocols::sync::wire::Report;
use proptest::prelude::*;

use super::*;
use crate::store::alarms::{Alarm, AlarmChange, AlarmKey, AlarmRow, Pending};
use crate::store::{AgentKey, AgentRow, Fault, FaultKind, FaultRow};

const SECOND: Micros = 1_000_000;
const NOW: Micros = 1_795_219_200_000_000;

fn rules(text: &str) -> Vec<Rule> {
    let Alarms { rules, .. } = load::server_text("t", text).unwrap_or_else(|e| panic!("{e}")).alarms;
    rules
}

fn agent(key: i64, site: &str, seen: Micros) -> AgentRow {
    AgentRow {
        key: AgentKey(key),
        site: site.into(),
        gateway: format!("g{key}"),
        joined: 0,
        last_seen: Some(seen),
        revoked: false,
        certificate: Some(([0; 32], NOW + 365 * 86_400 * SECOND)),
        report: Some(Report { wall_us: seen, received_us: seen, ..Report::default() }),
        stored: 0,
        committed_batches: 0,
        set_aside: 0,
        epoch: None,
        pulse: crate::store::Pulse::default(),
    }
}

/// What a store makes of changes.
#[derive(Default)]
struct Lists {
    rows: Vec<AlarmRow>,
    pending: Vec<Pending>,
    told: Vec<EventKind>,
}

impl Lists {
    fn look(&mut self, rules: &[Rule], facts: &Facts<'_>) -> usize {
        let standing: Vec<AlarmRow> = self.rows.iter().filter(|row| row.cleared.is_none()).cloned().collect();
        let pending = self.pending.clone();
        let changes = step(rules, facts, &Known::new(&standing, &pending));
        let count = changes.len();
        for change in changes {
            self.change(change, facts.now);
        }
        count
    }

    fn forget(&mut self, rule: &str, member: &str) {
        self.pending.retain(|wait| (wait.rule.as_str(), wait.member.as_str()) != (rule, member));
    }

    fn join(&mut self, alarm: &Alarm) {
        for member in &alarm.members {
            self.forget(&alarm.rule, &member.name);
        }
    }

    fn change(&mut self, change: AlarmChange, now: Micros) {
        match change {
            AlarmChange::Wait(wait) => {
                self.forget(&wait.rule, &wait.member);
                self.pending.push(wait);
            }
            AlarmChange::Forget { rule, member } => self.forget(&rule, &member),
            AlarmChange::Raise(alarm) => {
                self.join(&alarm);
                let stands = |row: &&AlarmRow| {
                    row.cleared.is_none()
                        && (&row.alarm.rule, &row.alarm.subject) == (&alarm.rule, &alarm.subject)
                };
                assert!(self.rows.iter().find(stands).is_none(), "raised twice: {alarm:?}");
                let key = AlarmKey(self.rows.len() as i64);
                self.told.push(EventKind::Raised);
                self.rows.push(AlarmRow {
                    key,
                    alarm,
                    raised: now,
                    changed: now,
                    acknowledged: None,
                    cleared: None,
                    version: 1,
                });
            }
            AlarmChange::Renew { alarm, now: is, grew, .. } => {
                self.join(&is);
                self.told.push(if grew { EventKind::Grew } else { EventKind::Changed });
                self.rows[alarm.0 as usize].alarm = is;
            }
            AlarmChange::Clear { alarm, .. } => {
                self.told.push(EventKind::Cleared);
                self.rows[alarm.0 as usize].cleared = Some(now);
            }
        }
    }

    fn standing(&self) -> Vec<(&str, usize, &str)> {
        let standing = self.rows.iter().filter(|row| row.cleared.is_none());
        standing
            .map(|row| (row.alarm.subject.as_str(), row.alarm.members.len(), row.alarm.words.as_str()))
            .collect()
    }
}

fn fleet<'a>(agents: &'a [AgentRow], now: Micros) -> Facts<'a> {
    Facts { now, heard_for: 86_400 * SECOND, agents: Some(agents), faults: Some(&[]), points: &[] }
}

#[test]
fn one_dead_uplink_is_one_alarm_told_once() {
    let rules = rules("");
    let mut lists = Lists::default();
    // Heartbeats of a site come at different moments of the minute; another site lives.
    let of_north = |n: i64| agent(n, "north", NOW - (n * 5) * SECOND);
    let mut agents: Vec<AgentRow> = (0..12).map(of_north).chain([agent(99, "south", NOW)]).collect();
    for seconds in (0..600).step_by(10) {
        let now = NOW + seconds * SECOND;
        agents[12] = agent(99, "south", now);
        lists.look(&rules, &fleet(&agents, now));
    }
    let words = "All 12 gateways of north are silent: its uplink or its power is the likely cause.";
    assert_eq!(lists.standing(), [("north", 12, words)]);
    assert_eq!(lists.told, [EventKind::Raised]);
    // They come back one after another.
    for n in 0..12usize {
        agents[n].last_seen = Some(NOW + 600 * SECOND);
        lists.look(&rules, &fleet(&agents, NOW + 600 * SECOND));
    }
    assert_eq!(lists.standing(), []);
    assert_eq!(lists.told.iter().filter(|kind| **kind == EventKind::Cleared).count(), 1);
    assert!(!lists.told.contains(&EventKind::Grew));
}

#[test]
fn a_server_that_just_started_knows_of_no_silence() {
    let rules = rules("");
    let mut lists = Lists::default();
    let agents = [agent(1, "north", NOW - 7_200 * SECOND)];
    let started = Facts { heard_for: 100 * SECOND, ..fleet(&agents, NOW) };
    assert_eq!(lists.look(&rules, &started), 0);
    // What stands already is not over because of it.
    lists.look(&rules, &fleet(&agents, NOW));
    assert_eq!(lists.standing().len(), 1, "silent for two hours: no delay is left");
    assert_eq!(lists.look(&rules, &Facts { now: NOW + SECOND, ..started }), 0);
    assert_eq!(lists.standing().len(), 1);
}

#[test]
fn who_was_never_seen_or_is_revoked_is_not_missed() {
    let rules = rules("");
    let mut lists = Lists::default();
    let mut agents = [agent(1, "north", NOW - 7_200 * SECOND), agent(2, "north", 0)];
    agents[1].last_seen = None;
    lists.look(&rules, &fleet(&agents, NOW));
    assert_eq!(lists.standing().len(), 1);
    agents[0].revoked = true;
    lists.look(&rules, &fleet(&agents, NOW));
    assert_eq!(lists.standing(), []);
}

#[test]
fn a_backlog_is_one_only_while_it_grows() {
    let rules = rules("[alarm.backlog]\nleast = 100\ndelay = \"60s\"\n");
    let course = |backlogs: &[u64]| {
        let (mut lists, mut raised) = (Lists::default(), Vec::new());
        for (minute, backlog) in backlogs.iter().enumerate() {
            let now = NOW + minute as i64 * 60 * SECOND;
            let mut one = agent(1, "north", now);
            one.report.as_mut().expect("a report").backlog_readings = *backlog;
            lists.look(&rules, &fleet(&[one], now));
            raised.push(!lists.standing().is_empty());
        }
        raised
    };
    assert_eq!(course(&[50, 99, 20, 0]), [false; 4], "too little");
    assert_eq!(course(&[500, 500, 500, 500]), [false; 4], "it does not grow");
    assert_eq!(course(&[900, 700, 500, 300]), [false; 4], "it is on its way");
    assert_eq!(course(&[150, 200, 400, 300, 150, 149]), [false, true, true, true, true, false]);
    assert_eq!(course(&[150, 120, 200, 90]), [false, false, true, false], "from the lowest on");
}

#[test]
fn clocks_certificates_and_faults_are_told_in_plain_words() {
    let rules = rules("[alarm.clock]\ndelay = \"0s\"\n");
    let mut lists = Lists::default();
    let mut one = agent(1, "north", NOW);
    one.report.as_mut().expect("a report").wall_us = NOW - 240 * SECOND;
    one.certificate = Some(([0; 32], NOW + 5 * 86_400 * SECOND));
    let mut silent = one.clone();
    let fault = Fault {
        agent: one.key,
        kind: FaultKind::Fork,
        subject: "07/1".into(),
        words: "The buffer was copied.".into(),
        remedy: "Wipe the copy.".into(),
        at: NOW,
    };
    let faults = [FaultRow { fault, last: NOW, over: None }];
    let agents = [one];
    lists.look(&rules, &Facts { faults: Some(&faults), ..fleet(&agents, NOW) });
    let mut told: Vec<&str> = lists.standing().into_iter().map(|(_, _, words)| words).collect();
    told.sort_unstable();
    assert_eq!(
        told,
        [
            "The certificate of north/g1 ends at 2026-11-26T00:00:00Z, in 5 days.",
            "The clock of north/g1 is 4 min slow.",
            "north/g1: The buffer was copied.",
        ]
    );
    assert!(lists.rows.iter().any(|row| row.alarm.remedy == "Wipe the copy."));
    // A gateway that is silent by now does not tell its clock.
    silent.report.as_mut().expect("a report").wall_us = NOW;
    lists.look(&rules, &fleet(&[silent], NOW + 200 * SECOND));
    let clock = lists.rows.iter().find(|row| row.alarm.kind == "clock").expect("raised");
    assert_eq!(clock.cleared, None);
    let fork = lists.rows.iter().find(|row| row.alarm.kind == "fork").expect("raised");
    assert!(fork.cleared.is_some(), "a fault that is over is over");
}

#[test]
fn rules_that_are_gone_take_their_alarms_along() {
    let mut lists = Lists::default();
    let agents = [agent(1, "north", NOW - 7_200 * SECOND)];
    lists.look(&rules(""), &fleet(&agents, NOW));
    assert_eq!(lists.standing().len(), 1);
    lists.look(&rules("[alarm.silent]\nenabled = false\n"), &fleet(&agents, NOW));
    assert_eq!(lists.standing(), []);
}

fn point(value: Option<f64>, low: f64, high: f64) -> [PointFact; 1] {
    [PointFact {
        site: "north".into(),
        gateway: "g1".into(),
        device: "boiler".into(),
        name: "t".into(),
        unit: "°C".into(),
        fork: 0,
        value,
        low,
        high,
    }]
}

const HOT: &str =
    "[alarm.hot]\nwhen = \"value\"\npoints = [\"boiler/t\"]\nabove = 90\nbelow = 5\ndeadband = 2\n";

fn values_at(points: &[PointFact], now: Micros) -> Facts<'_> {
    Facts { now, heard_for: 0, agents: None, faults: None, points }
}

#[test]
fn a_value_clears_only_beyond_its_deadband() {
    let rules = rules(HOT);
    let mut lists = Lists::default();
    for (value, stands) in [
        (90.0, false),
        (90.5, true),
        (89.0, true),
        (88.1, true),
        (88.0, false),
        (4.9, true),
        (6.9, true),
        (7.0, false),
    ] {
        lists.look(&rules, &values_at(&point(Some(value), value, value), NOW));
        assert_eq!(!lists.standing().is_empty(), stands, "at {value}");
    }
    assert_eq!(lists.rows[0].alarm.words, "north/g1/boiler/t is 90.5 °C, above 90 °C.");
    assert_eq!(lists.rows[1].alarm.words, "north/g1/boiler/t is 4.9 °C, below 5 °C.");
}

#[test]
fn a_spike_between_two_looks_is_an_alarm_unless_the_rule_waits() {
    let spike = point(Some(20.0), 20.0, 99.0);
    let mut lists = Lists::default();
    lists.look(&rules(HOT), &values_at(&spike, NOW));
    assert_eq!(lists.standing()[0].2, "north/g1/boiler/t is 99 °C, above 90 °C.");
    let mut lists = Lists::default();
    let waits = rules(&format!("{HOT}delay = \"10s\"\n"));
    lists.look(&waits, &values_at(&spike, NOW));
    assert!(lists.standing().is_empty() && lists.pending.is_empty());
    // One good reading in between begins the delay anew.
    lists.look(&waits, &values_at(&point(Some(95.0), 95.0, 95.0), NOW));
    lists.look(&waits, &values_at(&point(Some(95.0), 80.0, 95.0), NOW + 10 * SECOND));
    assert_eq!(lists.standing(), []);
    lists.look(&waits, &values_at(&point(Some(95.0), 95.0, 95.0), NOW + 20 * SECOND));
    assert_eq!(lists.standing().len(), 1);
}

proptest! {
    /// Whatever values come: an alarm is raised exactly after the value was beyond a limit for the delay
    /// at every look, it clears exactly when it lies inside by the deadband, what nobody knows changes
    /// nothing, and looking twice is looking once.
    #[test]
    fn any_course_of_values_raises_and_clears_as_the_rule_says(
        course in prop::collection::vec((prop::option::weighted(0.9, 0.0..100.0f64), 1..8i64), 1..60),
        delay in 0..15i64,
    ) {
        let rules = rules(&format!("{HOT}delay = \"{delay}s\"\n"));
        let mut lists = Lists::default();
        let (mut now, mut beyond_since, mut stands): (Micros, Option<Micros>, bool) = (NOW, None, false);
        for (value, seconds) in course {
            now += seconds * SECOND;
            let known = value.unwrap_or(50.0);
            let points = point(value, known, known);
            lists.look(&rules, &values_at(&points, now));
            if let Some(value) = value {
                if stands {
                    stands = !(7.0..=88.0).contains(&value);
                    if !stands { beyond_since = None; }
                } else if !(5.0..=90.0).contains(&value) {
                    let since = *beyond_since.get_or_insert(now);
                    stands = now - since >= delay * SECOND;
                } else {
                    beyond_since = None;
                }
            }
            prop_assert_eq!(!lists.standing().is_empty(), stands, "at {:?}", value);
            prop_assert!(lists.standing().len() <= 1);
            prop_assert_eq!(lists.look(&rules, &values_at(&points, now)), 0, "twice is once");
        }
    }
}
