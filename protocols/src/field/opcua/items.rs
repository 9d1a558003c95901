//! Which points the server has, which it still has to be asked for, and which it does not have.
//!
//! Items are asked for in portions the server can take. One that is refused concerns its own point
//! only, and is asked for again from time to time: nodes come and go with the server's projects.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use forebay_config::field::Deadband;
use opcua::types::{DeleteMonitoredItemsRequest, Error, NodeId, StatusCode, VariableId, Variant};
use tokio::time::Instant;

use super::paths::{Address, target};
use super::session::Session;
use super::values::Conversion;

/// Items per request where the server states no limit.
const PORTION: usize = 1000;
/// Values in one request where the server states no limit: 16 KiB or so each way.
const READS: usize = 500;
/// Nodes to be looked below in one request where the server states no limit: each has many children.
const BROWSES: usize = 20;
/// A server that cannot take even this many at once has another problem.
pub(super) const SMALLEST_PORTION: usize = 10;

/// A point, as the server is to be asked for it.
pub(super) struct Item {
    pub address: Address,
    pub sampling_interval: Duration,
    pub deadband: Option<Deadband>,
    pub conversion: Conversion,
}

/// The progress of one session in asking for a link's items. Slots count into the link's items.
pub(super) struct Items {
    namespaces: Vec<String>,
    pub waiting: VecDeque<usize>,
    /// Of a server that is nearly full: how many more may fit.
    pub room: Option<usize>,
    absent: Vec<usize>,
    retry_at: Instant,
    pub standings: Vec<Standing>,
}

/// What is known of one item in this session.
#[derive(Clone, Default)]
pub(super) struct Standing {
    /// Where its path led.
    node: Option<NodeId>,
    /// The server's number for it; 0 if it has none.
    pub monitored: u32,
    /// In `absent`.
    absent: bool,
    /// A reading has said that it is absent: once is enough.
    told: bool,
    /// The server refused the deadband: every change is better than none.
    pub unfiltered: bool,
}

/// An item the server does not report, and what it said.
pub(super) struct Refusal {
    pub slot: usize,
    pub status: StatusCode,
}

impl Items {
    /// Learns the server's namespaces and limits. `portions` shrink to what the server takes. Of `count` items
    /// the first `known` can be asked for at once.
    pub(super) async fn prepare(
        session: &mut Session,
        (count, known): (usize, usize),
        portions: &mut Portions,
    ) -> Result<Self, Error> {
        let asked = [
            VariableId::Server_NamespaceArray,
            VariableId::Server_ServerCapabilities_OperationLimits_MaxMonitoredItemsPerCall,
            VariableId::Server_ServerCapabilities_OperationLimits_MaxNodesPerTranslateBrowsePathsToNodeIds,
            VariableId::Server_ServerCapabilities_OperationLimits_MaxNodesPerRead,
            VariableId::Server_ServerCapabilities_OperationLimits_MaxNodesPerBrowse,
        ];
        let values = session.read(&asked.map(NodeId::from)).await?;
        let mut values = values.into_iter().map(|value| value.value);
        let namespaces = strings(values.next().flatten());
        let Portions { items, paths, reads, browses } = portions;
        for portion in [items, paths, reads, browses] {
            // 0 stands for no limit. Many small servers do not have the node at all.
            if let Some(Variant::UInt32(most @ 1..)) = values.next().flatten() {
                *portion = (*portion).min(most as usize);
            }
        }
        Ok(Self {
            namespaces,
            waiting: (0..known).collect(),
            room: None,
            absent: Vec::new(),
            retry_at: Instant::now(),
            standings: vec![Standing::default(); count],
        })
    }

    /// Items that a look at the server found: they were not asked for in this session.
    pub(super) fn note_found(&mut self, count: usize, slots: impl IntoIterator<Item = usize>) {
        self.standings.resize_with(count, Standing::default);
        self.waiting.extend(slots);
    }

    /// Items whose node is another, or is not there any more: they are asked for anew at the next retry,
    /// which is now.
    pub(super) fn note_moved(&mut self, slots: impl IntoIterator<Item = usize>) {
        for slot in slots {
            let Some(standing) = self.standings.get_mut(slot) else { continue };
            if !std::mem::replace(&mut standing.absent, true) {
                self.absent.push(slot);
            }
            self.retry_at = Instant::now();
        }
    }

    /// The server's namespaces, by index.
    pub(super) fn namespaces(&self) -> &[String] {
        &self.namespaces
    }

    /// Are there items the server was not asked for yet?
    pub(super) fn are_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// When absent items are to be asked for again, if there are any.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        (!self.absent.is_empty()).then_some(self.retry_at)
    }

    /// The server reports that the node of this item is not there (any more): some take such items
    /// without a word. Is this news?
    pub(super) fn note_absent(&mut self, slot: usize, retry: Duration) -> bool {
        let Some(standing) = self.standings.get_mut(slot) else { return false };
        if !std::mem::replace(&mut standing.absent, true) {
            if self.absent.is_empty() {
                self.retry_at = Instant::now() + retry;
            }
            self.absent.push(slot);
        }
        !std::mem::replace(&mut standing.told, true)
    }

    /// The server reports a value of this item.
    pub(super) fn note_present(&mut self, slot: usize) {
        if let Some(standing) = self.standings.get_mut(slot) {
            standing.told = false;
        }
    }

    /// Asks for all absent items again. The server may have got new namespaces meanwhile.
    pub(super) async fn retry(
        &mut self,
        session: &mut Session,
        subscription: u32,
        limit: Duration,
    ) -> Result<(), Error> {
        let values = session.read(&[VariableId::Server_NamespaceArray.into()]).await?;
        self.namespaces = strings(values.into_iter().next().and_then(|value| value.value));
        self.room = None;
        let mut stale = Vec::new();
        for slot in self.absent.drain(..) {
            if let Some(standing) = self.standings.get_mut(slot) {
                standing.absent = false;
                standing.node = None;
                stale.extend(Some(std::mem::take(&mut standing.monitored)).filter(|id| *id != 0));
            }
            self.waiting.push_back(slot);
        }
        for ids in stale.chunks(SMALLEST_PORTION) {
            let request = |request_header| DeleteMonitoredItemsRequest {
                request_header,
                subscription_id: subscription,
                monitored_item_ids: Some(ids.to_vec()),
            };
            session.channel.ask(request, limit).await?;
        }
        Ok(())
    }

    /// The nodes of the next items, `most` at the most, and the items that have none. Items whose
    /// path is not known yet are asked for first, so that fewer may come than there are.
    pub(super) async fn resolve(
        &mut self,
        session: &mut Session,
        items: &[Item],
        most: usize,
        portions: &mut Portions,
    ) -> Result<Found, Error> {
        let mut refusals = self.follow_paths(session, items, most, portions).await?;
        let mut nodes = Vec::new();
        while nodes.len() < most {
            let Some(&slot) = self.waiting.front() else { break };
            let node = match items.get(slot).map(|item| &item.address) {
                None => None,
                Some(Address::Node(address)) => address.resolve(&self.namespaces),
                Some(Address::Found(node)) => node.clone(),
                Some(Address::Path(_)) => {
                    match self.standings.get(slot).and_then(|standing| standing.node.clone()) {
                        None => break,
                        found => found,
                    }
                }
            };
            self.waiting.pop_front();
            match node {
                Some(node) => nodes.push((slot, node)),
                None => refusals.push(Refusal { slot, status: StatusCode::BadNodeIdUnknown }),
            }
        }
        Ok(Found { nodes, refusals })
    }

    /// Those of the first `most` waiting items that have a path get their node, or wait no more.
    async fn follow_paths(
        &mut self,
        session: &mut Session,
        items: &[Item],
        most: usize,
        portions: &mut Portions,
    ) -> Result<Vec<Refusal>, Error> {
        let (mut slots, mut paths, mut refusals) = (Vec::new(), Vec::new(), Vec::new());
        for &slot in self.waiting.iter().take(most) {
            let Some(Address::Path(path)) = items.get(slot).map(|item| &item.address) else { continue };
            if slots.len() == portions.paths {
                break;
            }
            if self.standings.get(slot).is_some_and(|standing| standing.node.is_some()) {
                continue;
            }
            match path.resolve(&self.namespaces) {
                Some(path) => {
                    slots.push(slot);
                    paths.push(path);
                }
                None => refusals.push(Refusal { slot, status: StatusCode::BadNodeIdUnknown }),
            }
        }
        if !paths.is_empty() {
            match session.translate(paths).await {
                Ok(results) => {
                    for (at, slot) in slots.into_iter().enumerate() {
                        let found = results.get(at).map_or(Err(StatusCode::BadNoData), target);
                        match (found, self.standings.get_mut(slot)) {
                            (Ok(node), Some(standing)) => standing.node = Some(node),
                            (found, _) => {
                                let status = found.err().unwrap_or(StatusCode::BadNoData);
                                refusals.push(Refusal { slot, status });
                            }
                        }
                    }
                }
                Err(error) if too_much(error.status()) && portions.paths > SMALLEST_PORTION => {
                    portions.paths = smaller(portions.paths);
                }
                // A server without this service has no paths; all other nodes can be had.
                Err(error) if too_much(error.status()) || unsupported(error.status()) => {
                    let status = error.status();
                    refusals.extend(slots.into_iter().map(|slot| Refusal { slot, status }));
                }
                Err(error) => return Err(error),
            }
        }
        let refused: BTreeSet<usize> = refusals.iter().map(|refusal| refusal.slot).collect();
        if !refused.is_empty() {
            self.waiting.retain(|slot| !refused.contains(slot));
        }
        Ok(refusals)
    }

    /// Keeps, of items that cannot be had, those that are news.
    pub(super) fn note_refusals(&mut self, refusals: &mut Vec<Refusal>, retry: Duration) {
        refusals.retain(|refusal| self.note_absent(refusal.slot, retry));
    }
}

/// Items of which it is known where they are, or that they are not.
pub(super) struct Found {
    pub nodes: Vec<(usize, NodeId)>,
    pub refusals: Vec<Refusal>,
}

/// How much a server takes in one request: what it says, and what it was found to take.
#[derive(Clone, Copy)]
pub(super) struct Portions {
    /// Items to be monitored.
    pub items: usize,
    /// Browse paths to be followed.
    pub paths: usize,
    /// Values to be read.
    pub reads: usize,
    /// Nodes whose children are to be told.
    pub browses: usize,
}

impl Default for Portions {
    fn default() -> Self {
        Self { items: PORTION, paths: PORTION, reads: READS, browses: BROWSES }
    }
}

pub(super) fn smaller(portion: usize) -> usize {
    (portion / 2).max(SMALLEST_PORTION.min(portion))
}

pub(super) fn too_much(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BadTooManyOperations
            | StatusCode::BadRequestTooLarge
            | StatusCode::BadResponseTooLarge
            | StatusCode::BadEncodingLimitsExceeded
            | StatusCode::BadTcpMessageTooLarge
    )
}

pub(super) fn unsupported(status: StatusCode) -> bool {
    matches!(status, StatusCode::BadServiceUnsupported | StatusCode::BadNotImplemented)
}

pub(super) fn strings(value: Option<Variant>) -> Vec<String> {
    match value {
        Some(Variant::Array(array)) => array
            .values
            .into_iter()
            .map(|value| match value {
                Variant::String(text) => text.as_ref().to_owned(),
                // Keeps its place, so that those behind it keep their index.
                _ => String::new(),
            })
            .collect(),
        _ => Vec::new(),
    }
}
