//! Reading instead of being told: for servers whose subscriptions cannot be trusted, or that have
//! none. Points of one interval are read together, and a round that is late is left out, not made
//! up for.

use std::collections::BTreeMap;
use std::time::Duration;

use opcua::types::{DataValue, Error, NodeId, StatusCode};
use tokio::time::Instant;

use super::items::{Found, Item, Items, Portions, Refusal, SMALLEST_PORTION, Standing, smaller, too_much};
use super::monitored::Handle;
use super::reports::Report;
use super::session::Session;
use crate::reading::Stamp;

/// What a session reads, and when.
#[derive(Default)]
pub(super) struct Poll {
    rounds: BTreeMap<Duration, Round>,
}

struct Round {
    due: Instant,
    nodes: BTreeMap<usize, NodeId>,
}

impl Poll {
    /// Learns where the next items are; they are read from now on. Gives the items that are newly
    /// known to be nowhere.
    pub(super) async fn ask(
        &mut self,
        session: &mut Session,
        asked: &mut Items,
        items: &[Item],
        portions: &mut Portions,
        retry: Duration,
    ) -> Result<Vec<Refusal>, Error> {
        let Found { nodes, mut refusals } = asked.resolve(session, items, portions.paths, portions).await?;
        let now = Instant::now();
        for (item, node) in nodes {
            if let Some(each) = items.get(item) {
                self.add(each.sampling_interval, item, node, now);
            }
        }
        // One that was read until now may be gone.
        refusals.iter().for_each(|refusal| self.forget(refusal.item));
        asked.note_refusals(&mut refusals, retry);
        Ok(refusals)
    }

    fn add(&mut self, interval: Duration, item: usize, node: NodeId, now: Instant) {
        let round = self.rounds.entry(interval).or_insert(Round { due: now, nodes: BTreeMap::new() });
        round.nodes.insert(item, node);
    }

    /// The node is not there: it is not read until it was asked for again.
    pub(super) fn forget(&mut self, item: usize) {
        self.rounds.values_mut().for_each(|round| drop(round.nodes.remove(&item)));
        self.rounds.retain(|_, round| !round.nodes.is_empty());
    }

    /// When the next round is due, if there is one.
    pub(super) fn due(&self) -> Option<Instant> {
        self.rounds.values().map(|round| round.due).min()
    }

    /// What is due at `now`; each round of it is due again an interval later, or the first one after
    /// that which is still to come.
    fn take(&mut self, now: Instant) -> Vec<(usize, NodeId)> {
        let mut nodes = Vec::new();
        for (interval, round) in self.rounds.iter_mut().filter(|(_, round)| round.due <= now) {
            nodes.extend(round.nodes.iter().map(|(item, node)| (*item, node.clone())));
            let missed = now.duration_since(round.due).as_nanos() / interval.as_nanos().max(1);
            let steps = u32::try_from(missed + 1).unwrap_or(u32::MAX);
            round.due += interval.saturating_mul(steps);
        }
        nodes
    }

    /// Reads what is due. All of it has one time of arrival.
    pub(super) async fn read(
        &mut self,
        session: &mut Session,
        asked: &Items,
        portions: &mut Portions,
    ) -> Result<Vec<Report>, Error> {
        let due = self.take(Instant::now());
        let mut reports = Vec::with_capacity(due.len());
        let mut stamp = None;
        let mut rest = due.as_slice();
        while !rest.is_empty() {
            let (part, after) = rest.split_at(portions.reads.clamp(1, rest.len()));
            let wanted = part
                .iter()
                .map(|(item, node)| match asked.standings.get(*item) {
                    Some(standing) => standing.wanted(node.clone()),
                    None => Standing::default().wanted(node.clone()),
                })
                .collect();
            let values = match session.read_all(wanted).await {
                Ok(values) => values,
                Err(error) if too_much(error.status()) && portions.reads > SMALLEST_PORTION => {
                    portions.reads = smaller(portions.reads);
                    continue;
                }
                Err(error) => {
                    // Some servers end the connection over a request that is too large for them.
                    portions.reads = smaller(portions.reads);
                    return Err(error);
                }
            };
            let arrival = *stamp.get_or_insert_with(Stamp::now);
            let mut values = values.into_iter();
            reports.extend(part.iter().map(|(item, _)| {
                // A server that answers less than it was asked for has nothing for the rest.
                let nothing = || DataValue { status: Some(StatusCode::BadNoData), ..DataValue::default() };
                let range = asked.standings.get(*item).and_then(|standing| standing.range);
                let handle = Handle { item: *item, is_range: range.is_some() };
                Report { handle, told: values.next().unwrap_or_else(nothing), arrival }
            }));
            rest = after;
        }
        Ok(reports)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn slots(nodes: &[(usize, NodeId)]) -> Vec<usize> {
        nodes.iter().map(|(slot, _)| *slot).collect()
    }

    #[test]
    fn rounds_come_at_their_interval_and_missed_ones_are_left_out() {
        let mut poll = Poll::default();
        let begin = Instant::now();
        assert_eq!(poll.due(), None);
        for (slot, interval) in [(0, SECOND), (1, 5 * SECOND), (2, SECOND)] {
            poll.add(interval, slot, NodeId::new(1, slot as u32), begin);
        }
        assert_eq!(slots(&poll.take(begin)), [0, 2, 1]);
        assert_eq!(poll.due(), Some(begin + SECOND));
        assert!(poll.take(begin + SECOND / 2).is_empty());
        assert_eq!(slots(&poll.take(begin + SECOND)), [0, 2]);
        // Nothing was read for a while: one round, and then in step again.
        assert_eq!(slots(&poll.take(begin + SECOND * 7 / 2)), [0, 2]);
        assert_eq!(poll.due(), Some(begin + 4 * SECOND));
        assert_eq!(slots(&poll.take(begin + 60 * SECOND)), [0, 2, 1]);
        assert_eq!(poll.due(), Some(begin + 61 * SECOND));

        poll.forget(0);
        poll.forget(1);
        assert_eq!(slots(&poll.take(begin + 90 * SECOND)), [2]);
        poll.forget(2);
        assert_eq!(poll.due(), None);
    }
}
