//! Which points the server has, which it still has to be asked for, and which it does not have.
//!
//! Items are asked for in portions the server can take. One that is refused concerns its own points
//! only, and is asked for again from time to time: nodes come and go with the server's projects. All points that
//! read parts of one node in the same way are one item: it is asked for whole, or for the range of an array
//! in which they stand.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use forebay_config::field::{Deadband, OpcUaPart, PartStep};
use opcua::types::{
    AttributeId, DeleteMonitoredItemsRequest, Error, NodeId, NumericRange, ReadValueId, StatusCode,
    VariableId, Variant,
};
use tokio::time::Instant;

use super::monitored::range_refused;
use super::parts::flat_length;
use super::paths::{Address, target};
use super::reports::Report;
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

/// Elements that nobody reads are worth a second request only where there are many of them, and many for each
/// that is read.
const FEW_ELEMENTS: usize = 128;
const FEW_TIMES: usize = 4;

/// A node, as the server is to be asked for it.
pub(super) struct Item {
    pub address: Address,
    pub sampling_interval: Duration,
    pub deadband: Option<Deadband>,
    /// At least one, or the node is not worth asking for.
    pub parts: Vec<Part>,
}

/// A point: what of the node's value it reads.
pub(super) struct Part {
    /// The point.
    pub slot: usize,
    pub part: OpcUaPart,
    pub conversion: Conversion,
}

impl Item {
    /// Between which elements of an array of one dimension all its points stand, if that is where they do.
    pub(super) fn span(&self) -> Option<(u32, u32)> {
        let index = |part: &Part| match part.part.steps().first() {
            Some(PartStep::Element(indices)) if indices.len() == 1 => indices.first().copied(),
            _ => None,
        };
        let indices: Option<Vec<u32>> = self.parts.iter().map(index).collect();
        let indices = indices?;
        Some((*indices.iter().min()?, *indices.iter().max()?))
    }

    /// The range to ask for, where an array of so many elements is much longer than that.
    pub(super) fn worthwhile_range(&self, length: usize) -> Option<(u32, u32)> {
        let (first, last) = self.span()?;
        let wanted = (last - first) as usize + 1;
        let is_worth_it = length >= wanted.saturating_mul(FEW_TIMES) && length - wanted >= FEW_ELEMENTS;
        // Beyond the end there would be nothing at all, and nothing to learn the length from.
        (is_worth_it && (last as usize) < length).then_some((first, last))
    }
}

/// The progress of one session in asking for a link's items. Numbers of items count into the link's list of them.
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
    /// Only these elements are asked for, the first and the last.
    pub range: Option<(u32, u32)>,
    /// The server does not do ranges well: the whole array is.
    pub unranged: bool,
}

impl Standing {
    /// What is to be read of `node`.
    pub(super) fn wanted(&self, node_id: NodeId) -> ReadValueId {
        let index_range = match self.range {
            None => NumericRange::None,
            Some((first, last)) if first == last => NumericRange::Index(first),
            Some((first, last)) => NumericRange::Range(first, last),
        };
        ReadValueId {
            node_id,
            attribute_id: AttributeId::Value as u32,
            index_range,
            ..ReadValueId::default()
        }
    }

    /// Was it a range that was asked for, and refused? From now on it is the whole array.
    pub(super) fn give_up_range(&mut self) -> bool {
        self.unranged = true;
        self.range.take().is_some()
    }
}

/// An item the server does not report, and what it said.
pub(super) struct Refusal {
    pub item: usize,
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

    /// Of a session that has learnt nothing.
    #[cfg(test)]
    pub(super) fn of(count: usize) -> Self {
        Self {
            namespaces: Vec::new(),
            waiting: VecDeque::new(),
            room: None,
            absent: Vec::new(),
            retry_at: Instant::now(),
            standings: vec![Standing::default(); count],
        }
    }

    /// Items that a look at the server found: they were not asked for in this session.
    pub(super) fn note_found(&mut self, count: usize, these: impl IntoIterator<Item = usize>) {
        self.standings.resize_with(count, Standing::default);
        self.waiting.extend(these);
    }

    /// Items whose node is another, or is not there any more: they are asked for anew at the next retry,
    /// which is now.
    pub(super) fn note_moved(&mut self, these: impl IntoIterator<Item = usize>) {
        for item in these {
            let Some(standing) = self.standings.get_mut(item) else { continue };
            if !std::mem::replace(&mut standing.absent, true) {
                self.absent.push(item);
            }
            self.retry_at = Instant::now();
        }
    }

    /// Items with other points than before: whether a range is worth it has to be found out anew.
    pub(super) fn note_changed(&mut self, items: impl IntoIterator<Item = usize> + Clone) {
        for item in items.clone() {
            self.standings.get_mut(item).into_iter().for_each(|standing| standing.range = None);
        }
        self.note_moved(items);
    }

    /// What a report says of its item's range. The number of the first element that it brings, or `None` where
    /// it tells of nothing but a range that the server does not do well: then the whole array is asked for.
    /// Where items are monitored, one is asked for anew with what it is to bring from now on.
    pub(super) fn judge_range(&mut self, item: &Item, report: &Report, is_monitored: bool) -> Option<u32> {
        let at = report.handle.item;
        let standing = self.standings.get_mut(at)?;
        let status = report.told.status.unwrap_or(StatusCode::Good);
        let length = report.told.value.as_ref().and_then(flat_length);
        let (first, is_changed) = match standing.range {
            // Of the whole, which is not asked for any more; it is still true.
            Some(_) if !report.handle.is_range => (Some(0), false),
            Some(_) if range_refused(status) => (None, standing.give_up_range()),
            Some(range) if status.is_bad() => (Some(range.0), false),
            Some((first, last)) => match length {
                Some(length) if length <= (last - first) as usize + 1 => (Some(first), false),
                // A server that does not mind ranges sends the whole.
                Some(_) => (Some(0), standing.give_up_range()),
                None => (None, standing.give_up_range()),
            },
            None if report.handle.is_range => (None, false),
            None => {
                let worthwhile = length.filter(|_| !standing.unranged && !status.is_bad());
                standing.range = worthwhile.and_then(|length| item.worthwhile_range(length));
                (Some(0), standing.range.is_some())
            }
        };
        if is_changed && is_monitored {
            self.note_moved([at]);
        }
        first
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
    pub(super) fn note_absent(&mut self, item: usize, retry: Duration) -> bool {
        let Some(standing) = self.standings.get_mut(item) else { return false };
        if !std::mem::replace(&mut standing.absent, true) {
            if self.absent.is_empty() {
                self.retry_at = Instant::now() + retry;
            }
            self.absent.push(item);
        }
        !std::mem::replace(&mut standing.told, true)
    }

    /// The server reports a value of this item.
    pub(super) fn note_present(&mut self, item: usize) {
        if let Some(standing) = self.standings.get_mut(item) {
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
        for item in self.absent.drain(..) {
            if let Some(standing) = self.standings.get_mut(item) {
                standing.absent = false;
                standing.node = None;
                stale.extend(Some(std::mem::take(&mut standing.monitored)).filter(|id| *id != 0));
            }
            self.waiting.push_back(item);
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
            let Some(&item) = self.waiting.front() else { break };
            let node = match items.get(item).map(|each| &each.address) {
                None => None,
                Some(Address::Node(address)) => address.resolve(&self.namespaces),
                Some(Address::Found(node)) => node.clone(),
                Some(Address::Path(_)) => {
                    match self.standings.get(item).and_then(|standing| standing.node.clone()) {
                        None => break,
                        found => found,
                    }
                }
            };
            self.waiting.pop_front();
            match node {
                Some(node) => nodes.push((item, node)),
                None => refusals.push(Refusal { item, status: StatusCode::BadNodeIdUnknown }),
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
        let (mut these, mut paths, mut refusals) = (Vec::new(), Vec::new(), Vec::new());
        for &item in self.waiting.iter().take(most) {
            let Some(Address::Path(path)) = items.get(item).map(|each| &each.address) else { continue };
            if these.len() == portions.paths {
                break;
            }
            if self.standings.get(item).is_some_and(|standing| standing.node.is_some()) {
                continue;
            }
            match path.resolve(&self.namespaces) {
                Some(path) => {
                    these.push(item);
                    paths.push(path);
                }
                None => refusals.push(Refusal { item, status: StatusCode::BadNodeIdUnknown }),
            }
        }
        if !paths.is_empty() {
            match session.translate(paths).await {
                Ok(results) => {
                    for (at, item) in these.into_iter().enumerate() {
                        let found = results.get(at).map_or(Err(StatusCode::BadNoData), target);
                        match (found, self.standings.get_mut(item)) {
                            (Ok(node), Some(standing)) => standing.node = Some(node),
                            (found, _) => {
                                let status = found.err().unwrap_or(StatusCode::BadNoData);
                                refusals.push(Refusal { item, status });
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
                    refusals.extend(these.into_iter().map(|item| Refusal { item, status }));
                }
                Err(error) => return Err(error),
            }
        }
        let refused: BTreeSet<usize> = refusals.iter().map(|refusal| refusal.item).collect();
        if !refused.is_empty() {
            self.waiting.retain(|item| !refused.contains(item));
        }
        Ok(refusals)
    }

    /// Keeps, of items that cannot be had, those that are news.
    pub(super) fn note_refusals(&mut self, refusals: &mut Vec<Refusal>, retry: Duration) {
        refusals.retain(|refusal| self.note_absent(refusal.item, retry));
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
