//! `/alarms/rules`: what is looked after for the caller's tenant. Rules stand in the server's configuration
//! and are read here only.

use axum::Json;
use forebay_config::alarms::{Limits, Priority, Rule, When};
use forebay_config::classes::Pattern;
use serde_json::{Value, json};

use super::guard::Caller;
use super::parameters::{Nothing, Parameters};
use super::problem::Problem;
use super::roster::Muster;
use super::words::{now, time};
use crate::alarms::words;
use crate::store::TenantKey;

pub(super) async fn rules(
    caller: Caller,
    Parameters(Nothing {}): Parameters<Nothing>,
) -> Result<Json<Value>, Problem> {
    let tenants = caller.visitor.gate.access().tenants().await?;
    let own = tenants.into_iter().find(|row| row.tenant == caller.identity.tenant);
    let name = own.map(|row| row.name).unwrap_or_default();
    let muster = caller.fleet.muster().await?;
    let rules = caller.about.rules.iter().filter(|rule| rule.is_of(&name));
    let sight = match caller.identity.tenant {
        TenantKey::MAIN => None,
        _ => Some(&*muster),
    };
    let rules: Vec<Value> = rules.filter_map(|rule| told(rule, sight)).collect();
    Ok(Json(json!({ "time": time(now()), "rules": rules })))
}

/// A rule as it is told; nothing of one that stands for every tenant and looks at no agent that `sight`
/// has: its names may be of another tenant's plant.
fn told(rule: &Rule, sight: Option<&Muster>) -> Option<Value> {
    let for_all = sight.filter(|_| rule.tenants.is_empty());
    let looks_at = |pattern: &&Pattern| match for_all {
        None => true,
        Some(muster) => {
            is_all(pattern) || muster.agents.iter().any(|agent| pattern.matches(&agent.site, &agent.gateway))
        }
    };
    let agents: Vec<String> = rule.agents.iter().filter(looks_at).map(ToString::to_string).collect();
    if agents.is_empty() {
        return None;
    }
    let seconds = |is: Option<std::time::Duration>| is.map(|length| length.as_secs_f64());
    let (mut after, mut least, mut off, mut within, mut limits) = (None, None, None, None, None);
    match &rule.when {
        When::Silent { after: length } => after = Some(*length),
        When::Backlog { least: readings } => least = Some(*readings),
        When::Clock { off: length } => off = Some(*length),
        When::Certificate { within: length } => within = Some(*length),
        When::Fault(_) => {}
        When::Value(of) => limits = Some(of),
    }
    let points = limits.filter(|_| for_all.is_none()).map(|limits| texts(&limits.points));
    Some(json!({
        "name": rule.name.as_str(),
        "kind": words::kind(&rule.when),
        "priority": match rule.priority {
            Priority::Low => "low",
            Priority::Medium => "medium",
            Priority::High => "high",
        },
        "from": if rule.is_usual() { "usual" } else { "configuration" },
        "words": words::rule(rule),
        "agents": agents,
        "points": points,
        "delay_s": rule.delay.as_secs_f64(),
        "after_s": seconds(after),
        "least": least,
        "off_s": seconds(off),
        "within_s": seconds(within),
        "above": limits.and_then(|limits: &Limits| limits.above),
        "below": limits.and_then(|limits| limits.below),
        "deadband": limits.map(|limits| limits.deadband),
    }))
}

fn is_all(pattern: &Pattern) -> bool {
    pattern.to_string() == "*/*"
}

fn texts(patterns: &[Pattern]) -> Vec<String> {
    patterns.iter().map(ToString::to_string).collect()
}
