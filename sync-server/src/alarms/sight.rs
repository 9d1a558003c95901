//! One tenant as the rules see it: its own gateways, faults and points, and nothing of anybody else's, because
//! the store it looks through has nothing else.

use std::collections::HashMap;
use std::sync::Arc;

use forebay_config::alarms::{Rule, When};

use super::judge::{Facts, PointFact};
use super::number;
use super::step::{Known, step};
use crate::store::alarms::{AlarmSummary, Told};
use crate::store::{AgentKey, Micros, PointKey, PointRow, SILENT_AFTER, Store, StoreError};

const PAGE: usize = 1_000;

/// What is remembered of a tenant between two looks.
pub(super) struct Sight {
    /// As the tenant sees it.
    store: Arc<dyn Store>,
    /// Those that stand for it.
    rules: Vec<Rule>,
    /// Points that a rule for values names.
    points: HashMap<PointKey, PointRow>,
    /// Up to which key points were looked at.
    seen: Option<PointKey>,
    /// Who was heard lately, as of the last look at the fleet.
    online: HashMap<AgentKey, bool>,
}

impl Sight {
    pub(super) fn new(store: Arc<dyn Store>, rules: Vec<Rule>) -> Self {
        Self { store, rules, points: HashMap::new(), seen: None, online: HashMap::new() }
    }

    /// The points whose values matter, as of the last look.
    pub(super) fn points(&self) -> impl Iterator<Item = PointKey> {
        self.points.keys().copied()
    }

    /// What took place, and how many alarms there are now.
    pub(super) async fn look(
        &mut self,
        is_whole: bool,
        now: Micros,
        heard_for: Micros,
        extremes: &HashMap<PointKey, (f64, f64)>,
    ) -> Result<(Vec<Told>, AlarmSummary), StoreError> {
        let (agents, faults) = match is_whole {
            true => (Some(self.store.fleet().await?), Some(self.store.faults(None, 0).await?)),
            false => (None, None),
        };
        for agent in agents.iter().flatten() {
            let is_online = agent.last_seen.is_some_and(|seen| now.saturating_sub(seen) <= SILENT_AFTER);
            self.online.insert(agent.key, is_online && !agent.revoked);
        }
        let points = self.facts_of_points(extremes).await?;
        let facts =
            Facts { now, heard_for, agents: agents.as_deref(), faults: faults.as_deref(), points: &points };
        let (standing, pending) = self.store.standing_alarms().await?;
        let changes = step(&self.rules, &facts, &Known::new(&standing, &pending));
        let told = match changes.is_empty() {
            true => Vec::new(),
            false => self.store.change_alarms(changes, now).await?,
        };
        Ok((told, self.store.alarm_summary().await?))
    }

    async fn facts_of_points(
        &mut self,
        extremes: &HashMap<PointKey, (f64, f64)>,
    ) -> Result<Vec<PointFact>, StoreError> {
        if !self.rules.iter().any(|rule| matches!(rule.when, When::Value(_))) {
            return Ok(Vec::new());
        }
        // Points never vanish, and keys only grow: those are new that lie above.
        loop {
            let page = self.store.points(None, "", self.seen, PAGE).await?;
            let is_last = page.len() < PAGE;
            self.seen = page.last().map(|row| row.key).or(self.seen);
            let named = page.into_iter().filter(|row| {
                self.rules.iter().any(|rule| {
                    matches!(&rule.when, When::Value(limits)
                        if rule.concerns(&row.site, &row.gateway)
                            && limits.points.iter().any(|pattern| pattern.matches(&row.device, &row.name)))
                })
            });
            let named: Vec<PointRow> = named.collect();
            self.points.extend(named.into_iter().map(|row| (row.key, row)));
            if is_last {
                break;
            }
        }
        let mut keys: Vec<PointKey> = self.points.keys().copied().collect();
        keys.sort();
        let latest = self.store.latest(&keys).await?;
        let facts = latest.into_iter().filter_map(|(key, latest)| {
            let row = self.points.get(&key)?;
            let value = number(latest.value.as_ref(), latest.quality);
            let (low, high) = extremes.get(&key).copied().unwrap_or((f64::INFINITY, f64::NEG_INFINITY));
            let online = self.online.get(&row.agent).copied().unwrap_or(false);
            Some(PointFact {
                site: row.site.clone(),
                gateway: row.gateway.clone(),
                device: row.device.clone(),
                name: row.name.clone(),
                unit: row.unit.clone(),
                fork: row.fork,
                value: value.filter(|_| online),
                low: value.map_or(low, |value| low.min(value)),
                high: value.map_or(high, |value| high.max(value)),
            })
        });
        Ok(facts.collect())
    }
}
