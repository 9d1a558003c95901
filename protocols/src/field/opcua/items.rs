//! Which points the server reports, which it still has to be asked for, and which it does not have.
//!
//! Items are asked for in portions the server can take. One that is refused concerns its own point
//! only, and is asked for again from time to time: nodes come and go with the server's projects.

use std::collections::VecDeque;
use std::time::Duration;

use forebay_config::field::Deadband;
use opcua::core::ResponseMessage;
use opcua::types::{
    AttributeId, CreateMonitoredItemsRequest, DataChangeFilter, DataChangeTrigger, DeadbandType,
    DeleteMonitoredItemsRequest, Error, ExtensionObject, MonitoredItemCreateRequest, MonitoringMode,
    MonitoringParameters, NodeId, ReadValueId, StatusCode, TimestampsToReturn, VariableId, Variant,
};
use tokio::time::Instant;
use tracing::debug;

use super::channel::unexpected;
use super::nodes::NodeAddress;
use super::session::Session;
use super::values::Conversion;

/// Items per request where the server states no limit.
const PORTION: usize = 1000;
/// A server that cannot take even this many at once has another problem.
const SMALLEST_PORTION: usize = 10;

/// A point, as the server is to be asked for it.
pub(super) struct Item {
    pub address: NodeAddress,
    pub sampling_interval: Duration,
    pub deadband: Option<Deadband>,
    pub conversion: Conversion,
}

/// The progress of one session in asking for a link's items. Slots count into the link's items.
pub(super) struct Items {
    namespaces: Vec<String>,
    waiting: VecDeque<usize>,
    absent: Vec<usize>,
    retry_at: Instant,
    standings: Vec<Standing>,
}

/// What is known of one item in this session.
#[derive(Clone, Default)]
struct Standing {
    /// The server's number for it; 0 if it has none.
    monitored: u32,
    /// In `absent`.
    absent: bool,
    /// A reading has said that it is absent: once is enough.
    told: bool,
    /// The server refused the deadband: every change is better than none.
    unfiltered: bool,
}

/// An item the server does not report, and what it said.
pub(super) struct Refusal {
    pub slot: usize,
    pub status: StatusCode,
}

impl Items {
    /// Learns the server's namespaces and limits. `portion` shrinks to what the server takes.
    pub(super) async fn prepare(
        session: &mut Session,
        count: usize,
        portion: &mut usize,
    ) -> Result<Self, Error> {
        let limit: NodeId =
            VariableId::Server_ServerCapabilities_OperationLimits_MaxMonitoredItemsPerCall.into();
        let values = session.read(&[VariableId::Server_NamespaceArray.into(), limit]).await?;
        let mut values = values.into_iter().map(|value| value.value);
        let namespaces = strings(values.next().flatten());
        // 0 stands for no limit. Many small servers do not have the node at all.
        if let Some(Variant::UInt32(most @ 1..)) = values.next().flatten() {
            *portion = (*portion).min(most as usize);
        }
        Ok(Self {
            namespaces,
            waiting: (0..count).collect(),
            absent: Vec::new(),
            retry_at: Instant::now(),
            standings: vec![Standing::default(); count],
        })
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
        how: Asking,
    ) -> Result<(), Error> {
        let values = session.read(&[VariableId::Server_NamespaceArray.into()]).await?;
        self.namespaces = strings(values.into_iter().next().and_then(|value| value.value));
        let mut stale = Vec::new();
        for slot in self.absent.drain(..) {
            if let Some(standing) = self.standings.get_mut(slot) {
                standing.absent = false;
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
            session.channel.ask(request, how.limit).await?;
        }
        Ok(())
    }

    /// Asks for the next portion. Gives the items that are newly known not to be reported.
    pub(super) async fn ask(
        &mut self,
        session: &mut Session,
        subscription: u32,
        items: &[Item],
        portion: &mut usize,
        how: Asking,
    ) -> Result<Vec<Refusal>, Error> {
        let mut refusals = Vec::new();
        let mut slots = Vec::new();
        let mut requests = Vec::new();
        while requests.len() < *portion {
            let Some(slot) = self.waiting.pop_front() else { break };
            let Some(item) = items.get(slot) else { continue };
            match item.address.resolve(&self.namespaces) {
                Some(node) => {
                    slots.push(slot);
                    let unfiltered = self.standings.get(slot).is_some_and(|standing| standing.unfiltered);
                    let deadband = item.deadband.filter(|_| !unfiltered);
                    requests.push(how.request(slot, node, item.sampling_interval, deadband));
                }
                None => refusals.push(Refusal { slot, status: StatusCode::BadNodeIdUnknown }),
            }
        }
        if !requests.is_empty() {
            let request = |request_header| CreateMonitoredItemsRequest {
                request_header,
                subscription_id: subscription,
                timestamps_to_return: TimestampsToReturn::Source,
                items_to_create: Some(requests),
            };
            match session.channel.ask(request, how.limit).await {
                Ok(ResponseMessage::CreateMonitoredItems(answer)) => {
                    let results = answer.results.unwrap_or_default();
                    let mut unfiltered = 0;
                    for (at, slot) in slots.into_iter().enumerate() {
                        match results.get(at) {
                            Some(item) if !item.status_code.is_bad() => {
                                if let Some(standing) = self.standings.get_mut(slot) {
                                    standing.monitored = item.monitored_item_id;
                                }
                            }
                            Some(item)
                                if filter_refused(item.status_code) && self.give_up_filter(slot, items) =>
                            {
                                unfiltered += 1;
                            }
                            result => {
                                let status = result.map_or(StatusCode::BadNoData, |item| item.status_code);
                                refusals.push(Refusal { slot, status });
                            }
                        }
                    }
                    if unfiltered > 0 {
                        debug!(
                            points = unfiltered,
                            "The server refuses the deadband; it reports every change."
                        );
                    }
                }
                Ok(other) => return Err(unexpected(&other)),
                Err(error) if too_much(error.status()) && *portion > SMALLEST_PORTION => {
                    *portion = smaller(*portion);
                    for slot in slots.into_iter().rev() {
                        self.waiting.push_front(slot);
                    }
                }
                Err(error) if too_much(error.status()) => {
                    let status = error.status();
                    refusals.extend(slots.into_iter().map(|slot| Refusal { slot, status }));
                }
                Err(error) => {
                    // Some servers end the connection over a request that is too large for them.
                    *portion = smaller(*portion);
                    return Err(error);
                }
            }
        }
        refusals.retain(|refusal| self.note_absent(refusal.slot, how.retry));
        Ok(refusals)
    }

    /// Asks for the item again without its deadband. Was there one to give up?
    fn give_up_filter(&mut self, slot: usize, items: &[Item]) -> bool {
        let filtered = items.get(slot).is_some_and(|item| item.deadband.is_some());
        let Some(standing) = self.standings.get_mut(slot).filter(|_| filtered) else { return false };
        if std::mem::replace(&mut standing.unfiltered, true) {
            return false;
        }
        self.waiting.push_back(slot);
        true
    }
}

/// What all items of a link are asked for with.
#[derive(Clone, Copy)]
pub(super) struct Asking {
    pub queue_size: u32,
    /// The longest wait for an answer.
    pub limit: Duration,
    /// The pause before absent items are asked for again.
    pub retry: Duration,
}

impl Asking {
    fn request(
        self,
        slot: usize,
        node_id: NodeId,
        sampling_interval: Duration,
        deadband: Option<Deadband>,
    ) -> MonitoredItemCreateRequest {
        MonitoredItemCreateRequest {
            item_to_monitor: ReadValueId {
                node_id,
                attribute_id: AttributeId::Value as u32,
                ..ReadValueId::default()
            },
            monitoring_mode: MonitoringMode::Reporting,
            requested_parameters: MonitoringParameters {
                // A link has far fewer points than that.
                client_handle: u32::try_from(slot).unwrap_or(u32::MAX),
                sampling_interval: sampling_interval.as_secs_f64() * 1e3,
                filter: deadband.map_or_else(ExtensionObject::null, filter),
                queue_size: self.queue_size.max(1),
                discard_oldest: true,
            },
        }
    }
}

/// The portion to begin with.
pub(super) fn first_portion() -> usize {
    PORTION
}

fn smaller(portion: usize) -> usize {
    (portion / 2).max(SMALLEST_PORTION.min(portion))
}

/// A changed status is always reported, a changed value only beyond the deadband.
fn filter(deadband: Deadband) -> ExtensionObject {
    let (deadband_type, deadband_value) = match deadband {
        Deadband::Absolute(distance) => (DeadbandType::Absolute, distance),
        Deadband::Percent(percent) => (DeadbandType::Percent, percent),
    };
    ExtensionObject::from_message(DataChangeFilter {
        trigger: DataChangeTrigger::StatusValue,
        deadband_type: deadband_type as u32,
        deadband_value,
    })
}

/// The item could be had without a filter (OPC UA Part 4, 7.22.2 and 5.12.2.4).
fn filter_refused(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BadMonitoredItemFilterUnsupported
            | StatusCode::BadMonitoredItemFilterInvalid
            | StatusCode::BadFilterNotAllowed
            | StatusCode::BadDeadbandFilterInvalid
    )
}

fn too_much(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BadTooManyOperations
            | StatusCode::BadRequestTooLarge
            | StatusCode::BadResponseTooLarge
            | StatusCode::BadEncodingLimitsExceeded
            | StatusCode::BadTcpMessageTooLarge
    )
}

fn strings(value: Option<Variant>) -> Vec<String> {
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
