use std::time::Duration;

use forebay_config::field::{DataType, OpcUaPart};
use opcua::types::{Array, DataValue, VariantScalarTypeId};

use super::super::items::{Items, Part};
use super::super::monitored::Handle;
use super::super::values::Conversion;
use super::*;
use crate::field::scaling::Scaling;
use crate::reading::Stamp;

fn item(parts: &[&str], deadband: Option<Deadband>) -> Item {
    let part = |(slot, text): (usize, &&str)| Part {
        slot,
        part: if text.is_empty() {
            OpcUaPart::default()
        } else {
            OpcUaPart::all(None, Some(text)).unwrap().remove(0).1
        },
        conversion: Conversion { wanted: DataType::Float, scaling: Scaling::new(Some(10.0), None) },
    };
    Item {
        address: "s=a".parse().unwrap(),
        sampling_interval: Duration::from_secs(1),
        deadband,
        parts: parts.iter().enumerate().map(part).collect(),
    }
}

fn told(values: &[f64], status: StatusCode, is_range: bool) -> Report {
    let values: Vec<Variant> = values.iter().map(|value| Variant::from(*value)).collect();
    let array = Array::new(VariantScalarTypeId::Double, values).unwrap();
    let told = DataValue { value: Some(array.into()), status: Some(status), ..DataValue::default() };
    Report { handle: Handle { item: 0, is_range }, told, arrival: Stamp::now() }
}

/// Slots and values of what is new.
fn news(unfolder: &mut Unfolder, item: &Item, values: &[f64]) -> Vec<(usize, Result<f64, Fault>)> {
    let report = told(values, StatusCode::Good, false);
    let unfolded = report.unfold(item, 0, &Types::default(), Timestamp::Agent, |time| time);
    let samples = unfolder.news(item, unfolded).into_iter();
    let value = |sample: Sample| match (sample.value, sample.quality) {
        (Some(Value::Float(value)), Quality::Good) => (sample.slot, Ok(value)),
        (None, Quality::Bad(fault)) => (sample.slot, Err(fault)),
        other => panic!("{other:?}"),
    };
    samples.map(value).collect()
}

#[test]
fn only_elements_that_changed_are_samples_and_one_beyond_the_end_is_told_once() {
    let item = item(&["[0]", "[1]", "[2]"], None);
    let mut told = Unfolder::new(true);
    assert_eq!(
        news(&mut told, &item, &[1.0, 2.0]),
        [(0, Ok(10.0)), (1, Ok(20.0)), (2, Err(Fault::NotFound))]
    );
    assert_eq!(news(&mut told, &item, &[1.0, 3.0]), [(1, Ok(30.0))]);
    assert_eq!(news(&mut told, &item, &[1.0, 3.0, 9.0]), [(2, Ok(90.0))], "it grew");
    assert_eq!(news(&mut told, &item, &[f64::NAN]).len(), 3, "it shrank");
    assert_eq!(news(&mut told, &item, &[f64::NAN]), []);
    told.forget(&item);
    assert_eq!(news(&mut told, &item, &[1.0, 3.0]).len(), 3, "the node was away");
    // Where values are read in turn, each round is told.
    let mut read = Unfolder::new(false);
    assert_eq!(news(&mut read, &item, &[1.0, 2.0, 3.0]).len(), 3);
    assert_eq!(news(&mut read, &item, &[1.0, 2.0, 3.0]).len(), 3);
}

#[test]
fn an_element_keeps_to_its_deadband_although_the_server_sends_the_whole_array() {
    let item = item(&["[0]", "[1]"], Some(Deadband::Absolute(0.5)));
    let mut told = Unfolder::new(true);
    assert_eq!(news(&mut told, &item, &[1.0, 1.0]).len(), 2);
    // In the node's own unit: a step of 0.4 is 4 after scaling.
    assert_eq!(news(&mut told, &item, &[1.4, 2.0]), [(1, Ok(20.0))]);
    assert_eq!(news(&mut told, &item, &[1.6, 2.0]), [(0, Ok(16.0))], "small steps add up");
}

#[test]
fn a_bad_status_is_told_of_every_part_and_what_has_no_such_part_says_which() {
    let item = item(&["[0]", "[1]", "x"], None);
    let report = told(&[1.0], StatusCode::BadSensorFailure, false);
    let unfolded = report.unfold(&item, 0, &Types::default(), Timestamp::Agent, |time| time);
    let samples = Unfolder::new(true).news(&item, unfolded);
    assert_eq!(samples.len(), 3);
    assert!(samples.iter().all(|sample| sample.quality == Quality::Bad(Fault::DeviceFailure)), "{samples:?}");
    let report = told(&[1.0], StatusCode::Good, false);
    let unfolded = report.unfold(&item, 0, &Types::default(), Timestamp::Agent, |time| time);
    let (slot, words) = unfolded.trouble.clone().unwrap();
    assert_eq!((slot, &*words), (2, "the value has no part `x`"));
    assert_eq!(unfolded.unlearned, None);
}

#[test]
fn a_range_is_asked_for_where_few_of_many_elements_are_read_and_given_up_where_it_does_not_work() {
    let few = item(&["[10]", "[12].x"], None);
    assert_eq!(few.span(), Some((10, 12)));
    for (length, range) in [(13, None), (130, None), (131, Some((10, 12))), (100_000, Some((10, 12)))] {
        assert_eq!(few.worthwhile_range(length), range, "{length}");
    }
    assert_eq!(item(&["[1]", ""], None).span(), None, "somebody reads the whole");
    assert_eq!(item(&["[1]", "[1,2]"], None).span(), None);
    assert_eq!(item(&["[900]"], None).worthwhile_range(900), None, "beyond the end");

    let long = vec![0.5; 1000];
    let mut items = Items::of(1);
    let whole = |values: &[f64]| told(values, StatusCode::Good, false);
    let part = |values: &[f64]| told(values, StatusCode::Good, true);
    assert_eq!(items.judge_range(&few, &whole(&long), true), Some(0));
    assert_eq!(items.standings[0].range, Some((10, 12)));
    assert!(items.retry_at().is_some(), "it is asked for anew");
    // One more of the old kind may be on its way.
    assert_eq!(items.judge_range(&few, &whole(&long), true), Some(0));
    assert_eq!(items.judge_range(&few, &part(&[1.0, 2.0, 3.0]), true), Some(10));
    assert_eq!(items.judge_range(&few, &part(&[1.0]), true), Some(10), "it shrank");
    // Gone from under the range: the whole is asked for, and no range again.
    let gone = told(&[], StatusCode::BadIndexRangeNoData, true);
    assert_eq!(items.judge_range(&few, &gone, true), None);
    assert_eq!(items.standings[0].range, None);
    assert_eq!(items.judge_range(&few, &part(&[1.0, 2.0, 3.0]), true), None, "late, and of nothing");
    assert_eq!(items.judge_range(&few, &whole(&long), true), Some(0));
    assert_eq!(items.standings[0].range, None);

    // A server that does not mind ranges sends the whole: that is what it is taken for.
    let mut items = Items::of(1);
    assert_eq!(items.judge_range(&few, &whole(&long), false), Some(0));
    assert_eq!(items.retry_at(), None, "the next round reads the range");
    assert_eq!(items.judge_range(&few, &part(&long), false), Some(0));
    assert_eq!(items.standings[0].range, None);
}
