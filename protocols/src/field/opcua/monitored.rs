//! Asking for items to be monitored: in portions, each by itself, with its deadband if the server
//! can do that.

use std::time::Duration;

use forebay_config::field::Deadband;
use opcua::core::ResponseMessage;
use opcua::types::{
    AttributeId, CreateMonitoredItemsRequest, DataChangeFilter, DataChangeTrigger, DeadbandType, Error,
    ExtensionObject, MonitoredItemCreateRequest, MonitoringMode, MonitoringParameters, NodeId, ReadValueId,
    StatusCode, TimestampsToReturn,
};
use tracing::debug;

use super::channel::unexpected;
use super::items::{Found, Item, Items, Portions, Refusal, SMALLEST_PORTION, smaller, too_much};
use super::session::Session;

impl Items {
    /// Asks for the next portion. Gives the items that are newly known not to be reported.
    pub(super) async fn ask(
        &mut self,
        session: &mut Session,
        subscription: u32,
        items: &[Item],
        portions: &mut Portions,
        how: Asking,
    ) -> Result<Vec<Refusal>, Error> {
        let most = self.room.map_or(portions.items, |room| room.min(portions.items));
        let Found { nodes, mut refusals } = self.resolve(session, items, most, portions).await?;
        let mut slots = Vec::new();
        let mut requests = Vec::new();
        for (slot, node) in nodes {
            let Some(item) = items.get(slot) else { continue };
            slots.push(slot);
            let unfiltered = self.standings.get(slot).is_some_and(|standing| standing.unfiltered);
            let deadband = item.deadband.filter(|_| !unfiltered);
            requests.push(how.request(slot, node, item.sampling_interval, deadband));
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
                Err(error) if error.status() == StatusCode::BadTooManyMonitoredItems && slots.len() > 1 => {
                    // Some of them may still fit.
                    self.room = Some(slots.len() / 2);
                    for slot in slots.into_iter().rev() {
                        self.waiting.push_front(slot);
                    }
                }
                Err(error) if error.status() == StatusCode::BadTooManyMonitoredItems => {
                    // Not even one: the others need not be tried.
                    let status = error.status();
                    let full = slots.into_iter().chain(self.waiting.drain(..));
                    refusals.extend(full.map(|slot| Refusal { slot, status }));
                }
                Err(error) if too_much(error.status()) && portions.items > SMALLEST_PORTION => {
                    portions.items = smaller(portions.items);
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
                    portions.items = smaller(portions.items);
                    return Err(error);
                }
            }
        }
        self.note_refusals(&mut refusals, how.retry);
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
