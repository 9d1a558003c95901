//! What the server tells, as samples. Pure, but for the stamp of its arrival.

use forebay_config::field::Timestamp;
use opcua::types::{
    DataChangeNotification, DataValue, DateTime, Error, NotificationMessage, StatusChangeNotification,
    StatusCode, Variant,
};

use super::items::Item;
use crate::field::source::{Harvest, Sample};
use crate::reading::Stamp;

/// Adds what one notification message reports. All its readings get one stamp, unless the server's
/// are wanted.
pub(super) fn gather(
    items: &[Item],
    timestamp: Timestamp,
    message: NotificationMessage,
    server_time: impl Fn(DateTime) -> DateTime,
    harvest: &mut Harvest,
) -> Result<(), Error> {
    let arrival = Stamp::now();
    for report in message.notification_data.unwrap_or_default() {
        if let Some(change) = report.inner_as::<StatusChangeNotification>() {
            return Err(Error::new(change.status, "the server ended the subscription"));
        }
        let Some(changes) = report.into_inner_as::<DataChangeNotification>() else {
            harvest.discarded += 1;
            continue;
        };
        for change in changes.monitored_items.unwrap_or_default() {
            let slot = change.client_handle as usize;
            let Some(item) = items.get(slot) else {
                harvest.discarded += 1;
                continue;
            };
            let status = change.value.status.unwrap_or(StatusCode::Good);
            // Set on the value after a hole in the server's queue for this node.
            harvest.discarded += u64::from(queue_overflowed(status));
            harvest.samples.push(sample(slot, item, change.value, timestamp, &server_time, arrival));
        }
    }
    Ok(())
}

/// A value as the server told it, with the stamp of its arrival unless the server's is wanted. The library
/// leaves the source's time as it is, but not a value that is a time: `server_time` mends that.
pub(super) fn sample(
    slot: usize,
    item: &Item,
    told: DataValue,
    timestamp: Timestamp,
    server_time: impl Fn(DateTime) -> DateTime,
    arrival: Stamp,
) -> Sample {
    let DataValue { value, status, source_timestamp, .. } = told;
    let value = value.map(|value| match value {
        Variant::DateTime(time) => Variant::from(server_time(*time)),
        other => other,
    });
    let (value, quality) = item.conversion.reading(value, status.unwrap_or(StatusCode::Good));
    let stamp = match (timestamp, source_timestamp) {
        (Timestamp::Source, Some(time)) if !time.is_null() => {
            Stamp::device(time.as_chrono().timestamp_micros())
        }
        _ => arrival,
    };
    Sample { slot, stamp, value, quality }
}

/// OPC UA Part 4, 7.39.1: the overflow bit counts only in the status of a data value.
fn queue_overflowed(status: StatusCode) -> bool {
    const DATA_VALUE: u32 = 0x0400;
    const OVERFLOW: u32 = 0x0080;
    status.bits() & 0x0C00 == DATA_VALUE && status.bits() & OVERFLOW != 0
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use forebay_config::field::DataType;
    use opcua::types::{ExtensionObject, MonitoredItemNotification};

    use super::super::values::Conversion;
    use super::*;
    use crate::reading::{Clock, Quality, Value};

    fn items() -> Vec<Item> {
        let conversion = Conversion { wanted: DataType::Float, scaling: None };
        let item = |node: &str| Item {
            address: node.parse().unwrap(),
            sampling_interval: Duration::from_secs(1),
            deadband: None,
            conversion,
        };
        vec![item("s=a"), item("s=b")]
    }

    fn change(slot: u32, status: u32, time: Option<DateTime>) -> MonitoredItemNotification {
        MonitoredItemNotification {
            client_handle: slot,
            value: DataValue {
                value: Some(Variant::Double(1.5)),
                status: Some(StatusCode::from(status)),
                source_timestamp: time,
                ..DataValue::default()
            },
        }
    }

    fn gathered(timestamp: Timestamp, changes: Vec<MonitoredItemNotification>) -> Harvest {
        let message = NotificationMessage::data_change(1, DateTime::now(), changes, Vec::new());
        let mut harvest = Harvest::default();
        gather(&items(), timestamp, message, |time| time, &mut harvest).unwrap();
        harvest
    }

    #[test]
    fn one_message_is_one_stamp_of_our_clock() {
        let time = Some(DateTime::ymd(2001, 1, 1));
        let harvest =
            gathered(Timestamp::Agent, vec![change(0, 0, time), change(1, 0, time), change(0, 0, None)]);
        assert_eq!(harvest.samples.iter().map(|s| s.slot).collect::<Vec<_>>(), [0, 1, 0]);
        assert!(harvest.samples.iter().all(|s| s.stamp == harvest.samples[0].stamp));
        assert_eq!(harvest.samples[0].stamp.clock, Clock::Boot);
        assert_eq!(harvest.samples[0].value, Some(Value::Float(1.5)));
    }

    #[test]
    fn the_servers_time_is_kept_where_it_is_wanted_and_stated() {
        let harvest = gathered(
            Timestamp::Source,
            vec![
                change(0, 0, Some(DateTime::ymd(2001, 1, 1))),
                change(0, 0, None),
                change(0, 0, Some(DateTime::null())),
            ],
        );
        assert_eq!(harvest.samples[0].stamp, Stamp::device(978_307_200_000_000));
        assert_eq!(harvest.samples[1].stamp.clock, Clock::Boot);
        assert_eq!(harvest.samples[2].stamp.clock, Clock::Boot);
    }

    #[test]
    fn a_wrong_clock_of_ours_moves_neither_the_sources_time_nor_a_value_that_is_a_time() {
        let noon = DateTime::ymd(2001, 1, 1);
        let conversion = Conversion { wanted: DataType::Text, scaling: None };
        let item = Item {
            address: "s=a".parse().unwrap(),
            sampling_interval: Duration::from_secs(1),
            deadband: None,
            conversion,
        };
        // The library told the value as our clock would have it: 31 years too early.
        let told = DataValue {
            value: Some(Variant::from(DateTime::ymd(1970, 1, 1))),
            source_timestamp: Some(noon),
            ..DataValue::default()
        };
        let put_right = |_| noon;
        let sample = sample(0, &item, told, Timestamp::Source, put_right, Stamp::now());
        assert_eq!(sample.stamp, Stamp::device(978_307_200_000_000));
        assert_eq!(sample.value, Some(Value::Text("2001-01-01T00:00:00.000Z".into())));
    }

    #[test]
    fn holes_in_the_servers_queue_and_foreign_items_are_counted() {
        let harvest =
            gathered(Timestamp::Agent, vec![change(0, 0x0480, None), change(1, 0, None), change(7, 0, None)]);
        assert_eq!(harvest.discarded, 2);
        assert_eq!(harvest.samples.len(), 2, "the value after the hole is a value");
        assert_eq!(harvest.samples[0].quality, Quality::Good);
        // The same bit means something else, or nothing, without the type bits of a data value.
        assert_eq!(gathered(Timestamp::Agent, vec![change(0, 0x0080, None)]).discarded, 0);
    }

    #[test]
    fn the_end_of_the_subscription_is_an_error_with_its_reason() {
        let report = StatusChangeNotification {
            status: StatusCode::BadTimeout,
            ..StatusChangeNotification::default()
        };
        let message = NotificationMessage {
            notification_data: Some(vec![ExtensionObject::from_message(report)]),
            ..NotificationMessage::default()
        };
        let ended = gather(&items(), Timestamp::Agent, message, |time| time, &mut Harvest::default());
        assert_eq!(ended.unwrap_err().status(), StatusCode::BadTimeout);
    }
}
