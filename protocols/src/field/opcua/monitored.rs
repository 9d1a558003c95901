//! Asking for items to be monitored: in portions, each by itself, with its deadband if the server
//! can do that.

use std::time::Duration;

use forebay_config::field::Deadband;
use opcua::core::ResponseMessage;
use opcua::types::{
    CreateMonitoredItemsRequest, DataChangeFilter, DataChangeTrigger, DeadbandType, Error, ExtensionObject,
    MonitoredItemCreateRequest, MonitoringMode, MonitoringParameters, ReadValueId, StatusCode,
    TimestampsToReturn,
};
use tracing::debug;

use super::channel::unexpected;
use super::items::{Found, Item, Items, Portions, Refusal, SMALLEST_PORTION, Standing, smaller, too_much};
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
        let mut these = Vec::new();
        let mut requests = Vec::new();
        for (item, node) in nodes {
            let (Some(each), Some(standing)) = (items.get(item), self.standings.get(item)) else { continue };
            these.push(item);
            let deadband = each.deadband.filter(|_| !standing.unfiltered);
            let handle = Handle { item, is_range: standing.range.is_some() };
            requests.push(how.request(handle, standing.wanted(node), each.sampling_interval, deadband));
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
                    for (at, item) in these.into_iter().enumerate() {
                        match results.get(at) {
                            Some(made) if !made.status_code.is_bad() => {
                                if let Some(standing) = self.standings.get_mut(item) {
                                    standing.monitored = made.monitored_item_id;
                                }
                            }
                            Some(made)
                                if filter_refused(made.status_code) && self.give_up_filter(item, items) =>
                            {
                                unfiltered += 1;
                            }
                            Some(made) if range_refused(made.status_code) && self.give_up_range(item) => {}
                            result => {
                                let status = result.map_or(StatusCode::BadNoData, |made| made.status_code);
                                refusals.push(Refusal { item, status });
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
                Err(error) if error.status() == StatusCode::BadTooManyMonitoredItems && these.len() > 1 => {
                    // Some of them may still fit.
                    self.room = Some(these.len() / 2);
                    for item in these.into_iter().rev() {
                        self.waiting.push_front(item);
                    }
                }
                Err(error) if error.status() == StatusCode::BadTooManyMonitoredItems => {
                    // Not even one: the others need not be tried.
                    let status = error.status();
                    let full = these.into_iter().chain(self.waiting.drain(..));
                    refusals.extend(full.map(|item| Refusal { item, status }));
                }
                Err(error) if too_much(error.status()) && portions.items > SMALLEST_PORTION => {
                    portions.items = smaller(portions.items);
                    for item in these.into_iter().rev() {
                        self.waiting.push_front(item);
                    }
                }
                Err(error) if too_much(error.status()) => {
                    let status = error.status();
                    refusals.extend(these.into_iter().map(|item| Refusal { item, status }));
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
    fn give_up_filter(&mut self, item: usize, items: &[Item]) -> bool {
        let filtered = items.get(item).is_some_and(|each| each.deadband.is_some());
        let Some(standing) = self.standings.get_mut(item).filter(|_| filtered) else { return false };
        if std::mem::replace(&mut standing.unfiltered, true) {
            return false;
        }
        self.waiting.push_back(item);
        true
    }
}

impl Items {
    /// Asks for the item again, but for its whole array. Was there a range to give up?
    fn give_up_range(&mut self, item: usize) -> bool {
        let gave_up = self.standings.get_mut(item).is_some_and(Standing::give_up_range);
        if gave_up {
            self.waiting.push_back(item);
        }
        gave_up
    }
}

/// What a report says of whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Handle {
    pub item: usize,
    /// Only a range of the array was asked for.
    pub is_range: bool,
}

impl Handle {
    /// A link has far fewer items than that.
    const RANGE: u32 = 1 << 31;

    pub(super) fn of(number: u32) -> Self {
        Self { item: (number & !Self::RANGE) as usize, is_range: number & Self::RANGE != 0 }
    }

    pub(super) fn number(self) -> u32 {
        let item = u32::try_from(self.item).unwrap_or(u32::MAX) & !Self::RANGE;
        if self.is_range { item | Self::RANGE } else { item }
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
        handle: Handle,
        item_to_monitor: ReadValueId,
        sampling_interval: Duration,
        deadband: Option<Deadband>,
    ) -> MonitoredItemCreateRequest {
        MonitoredItemCreateRequest {
            item_to_monitor,
            monitoring_mode: MonitoringMode::Reporting,
            requested_parameters: MonitoringParameters {
                client_handle: handle.number(),
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

/// The item could be had without a range, or has nothing in it now: the whole array says how long it is.
pub(super) fn range_refused(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BadIndexRangeInvalid
            | StatusCode::BadIndexRangeNoData
            | StatusCode::BadIndexRangeDataMismatch
            | StatusCode::BadNotSupported
    )
}
