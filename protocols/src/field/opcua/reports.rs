//! What the server tells, as samples. Pure, but for the stamp of its arrival.

use forebay_config::field::Timestamp;
use opcua::types::{
    DataChangeNotification, DataValue, DateTime, Error, NotificationMessage, StatusChangeNotification,
    StatusCode, Variant,
};

use super::monitored::Handle;
use super::values::Conversion;
use crate::field::source::Sample;
use crate::reading::Stamp;

/// What the server said of an item.
pub(super) struct Report {
    pub handle: Handle,
    pub told: DataValue,
    pub arrival: Stamp,
}

/// What one notification message reports of `count` items. All of it has one time of arrival. What was lost at
/// the server, or is of no item of ours, adds to `discarded`.
pub(super) fn gather(
    count: usize,
    message: NotificationMessage,
    discarded: &mut u64,
) -> Result<Vec<Report>, Error> {
    let arrival = Stamp::now();
    let mut reports = Vec::new();
    for report in message.notification_data.unwrap_or_default() {
        if let Some(change) = report.inner_as::<StatusChangeNotification>() {
            return Err(Error::new(change.status, "the server ended the subscription"));
        }
        let Some(changes) = report.into_inner_as::<DataChangeNotification>() else {
            *discarded += 1;
            continue;
        };
        for change in changes.monitored_items.unwrap_or_default() {
            let handle = Handle::of(change.client_handle);
            if handle.item >= count {
                *discarded += 1;
                continue;
            }
            // Set on the value after a hole in the server's queue for this node.
            *discarded += u64::from(queue_overflowed(change.value.status.unwrap_or(StatusCode::Good)));
            reports.push(Report { handle, told: change.value, arrival });
        }
    }
    Ok(reports)
}

/// A whole value as the server told it, with the stamp of its arrival unless the server's is wanted.
pub(super) fn sample(
    slot: usize,
    conversion: &Conversion,
    report: Report,
    timestamp: Timestamp,
    server_time: impl Fn(DateTime) -> DateTime,
) -> Sample {
    let stamp = stamp(&report, timestamp);
    let DataValue { value, status, .. } = report.told;
    let value = value.map(|value| mended(value, server_time));
    let (value, quality) = conversion.reading(value, status.unwrap_or(StatusCode::Good));
    Sample { slot, stamp, value, quality }
}

/// The library leaves the source's time as it is, but not a value that is a time: `server_time` mends that.
pub(super) fn mended(value: Variant, server_time: impl Fn(DateTime) -> DateTime) -> Variant {
    match value {
        Variant::DateTime(time) => Variant::from(server_time(*time)),
        other => other,
    }
}

/// When it was taken.
pub(super) fn stamp(report: &Report, timestamp: Timestamp) -> Stamp {
    match (timestamp, report.told.source_timestamp) {
        (Timestamp::Source, Some(time)) if !time.is_null() => {
            Stamp::device(time.as_chrono().timestamp_micros())
        }
        _ => report.arrival,
    }
}

/// OPC UA Part 4, 7.39.1: the overflow bit counts only in the status of a data value.
fn queue_overflowed(status: StatusCode) -> bool {
    const DATA_VALUE: u32 = 0x0400;
    const OVERFLOW: u32 = 0x0080;
    status.bits() & 0x0C00 == DATA_VALUE && status.bits() & OVERFLOW != 0
}

#[cfg(test)]
mod tests {
    use forebay_config::field::DataType;
    use opcua::types::{ExtensionObject, MonitoredItemNotification};

    use super::*;
    use crate::reading::{Clock, Quality, Value};

    const FLOAT: Conversion = Conversion { wanted: DataType::Float, scaling: None };

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

    /// The samples of two items, and how much was discarded.
    fn gathered(timestamp: Timestamp, changes: Vec<MonitoredItemNotification>) -> (Vec<Sample>, u64) {
        let message = NotificationMessage::data_change(1, DateTime::now(), changes, Vec::new());
        let mut discarded = 0;
        let reports = gather(2, message, &mut discarded).unwrap().into_iter();
        let samples = reports.map(|each| sample(each.handle.item, &FLOAT, each, timestamp, |time| time));
        (samples.collect(), discarded)
    }

    #[test]
    fn one_message_is_one_stamp_of_our_clock() {
        let time = Some(DateTime::ymd(2001, 1, 1));
        let (samples, _) =
            gathered(Timestamp::Agent, vec![change(0, 0, time), change(1, 0, time), change(0, 0, None)]);
        assert_eq!(samples.iter().map(|s| s.slot).collect::<Vec<_>>(), [0, 1, 0]);
        assert!(samples.iter().all(|s| s.stamp == samples[0].stamp));
        assert_eq!(samples[0].stamp.clock, Clock::Boot);
        assert_eq!(samples[0].value, Some(Value::Float(1.5)));
    }

    #[test]
    fn the_servers_time_is_kept_where_it_is_wanted_and_stated() {
        let (samples, _) = gathered(
            Timestamp::Source,
            vec![
                change(0, 0, Some(DateTime::ymd(2001, 1, 1))),
                change(0, 0, None),
                change(0, 0, Some(DateTime::null())),
            ],
        );
        assert_eq!(samples[0].stamp, Stamp::device(978_307_200_000_000));
        assert_eq!(samples[1].stamp.clock, Clock::Boot);
        assert_eq!(samples[2].stamp.clock, Clock::Boot);
    }

    #[test]
    fn a_wrong_clock_of_ours_moves_neither_the_sources_time_nor_a_value_that_is_a_time() {
        let noon = DateTime::ymd(2001, 1, 1);
        let text = Conversion { wanted: DataType::Text, scaling: None };
        // The library told the value as our clock would have it: 31 years too early.
        let told = DataValue {
            value: Some(Variant::from(DateTime::ymd(1970, 1, 1))),
            source_timestamp: Some(noon),
            ..DataValue::default()
        };
        let report = Report { handle: Handle::of(0), told, arrival: Stamp::now() };
        let sample = sample(0, &text, report, Timestamp::Source, |_| noon);
        assert_eq!(sample.stamp, Stamp::device(978_307_200_000_000));
        assert_eq!(sample.value, Some(Value::Text("2001-01-01T00:00:00.000Z".into())));
    }

    #[test]
    fn holes_in_the_servers_queue_and_foreign_items_are_counted() {
        let changes = vec![change(0, 0x0480, None), change(1, 0, None), change(7, 0, None)];
        let (samples, discarded) = gathered(Timestamp::Agent, changes);
        assert_eq!(discarded, 2);
        assert_eq!(samples.len(), 2, "the value after the hole is a value");
        assert_eq!(samples[0].quality, Quality::Good);
        // The same bit means something else, or nothing, without the type bits of a data value.
        assert_eq!(gathered(Timestamp::Agent, vec![change(0, 0x0080, None)]).1, 0);
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
        let ended = gather(2, message, &mut 0).err().map(|error| error.status());
        assert_eq!(ended, Some(StatusCode::BadTimeout));
    }
}
