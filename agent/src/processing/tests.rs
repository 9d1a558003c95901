use std::time::Duration;

use forebay_config::classes::Pattern;
use forebay_config::field::Deadband;
use forebay_config::processing::{Changes, Filter, Window};
use forebay_config::units::Name;
use forebay_protocols::reading::{Fault, PointKind, Quality, Stamp, Value};
use proptest::prelude::*;

use super::*;

const SECOND: i64 = 1_000_000;

fn point(name: &str, data_type: DataType) -> Point {
    Point { device: "pump".into(), name: name.into(), unit: "bar".into(), kind: PointKind::Gauge, data_type }
}

fn rule() -> Rule {
    Rule {
        name: Name::new("calm").unwrap(),
        points: vec![Pattern::new("pump/*").unwrap()],
        round: None,
        filter: Filter::default(),
        window: None,
    }
}

fn on_change(deadband: Option<Deadband>) -> Rule {
    let changes = Some(Changes { deadband, max_silence: Duration::from_secs(60) });
    Rule { filter: Filter { changes, min_interval: None }, ..rule() }
}

fn window(keep: &[Keep]) -> Rule {
    Rule { window: Some(Window { length: Duration::from_secs(10), keep: keep.to_vec() }), ..rule() }
}

/// Samples of the one point, a second after one another; what goes on of them, with its second.
struct Bench {
    processing: Processing,
    points: Vec<Point>,
    /// What was told of.
    told: Vec<Arc<Point>>,
}

impl Bench {
    fn new(rule: Rule, data_type: DataType) -> Self {
        Self {
            processing: Processing::new([rule].into()),
            points: vec![point("flow", data_type)],
            told: Vec::new(),
        }
    }

    fn take(&mut self, second: i64, value: Option<Value>, quality: Quality) -> Processed {
        let at = BootTime(second * SECOND);
        let sample = Sample { slot: 0, stamp: Stamp::boot(at), value, quality };
        let out = self.processing.take(vec![sample], &self.points, at);
        assert_eq!(out.first_slot, self.told.len());
        self.told.extend(out.points.iter().cloned());
        out
    }

    /// `None` is a bad reading.
    fn play(&mut self, values: &[Option<f64>]) -> Vec<(usize, i64, Option<Value>)> {
        let mut passed = Vec::new();
        for (second, value) in (0..).zip(values) {
            let quality = value.map_or(Quality::Bad(Fault::Silent), |_| Quality::Good);
            passed.extend(self.take(second, value.map(Value::Float), quality).samples);
        }
        let end = BootTime(values.len() as i64 * SECOND);
        passed.extend(self.processing.release_all(end).samples);
        passed.into_iter().map(|sample| (sample.slot, sample.stamp.micros / SECOND, sample.value)).collect()
    }
}

fn floats(rule: Rule, values: &[f64]) -> Vec<(i64, f64)> {
    let values: Vec<_> = values.iter().copied().map(Some).collect();
    let passed = Bench::new(rule, DataType::Float).play(&values);
    passed.into_iter().map(|(_, second, value)| (second, value.unwrap().as_number().unwrap())).collect()
}

#[test]
fn without_a_rule_every_reading_goes_on_as_it_is_and_is_counted() {
    let mut processing = Processing::new([].into());
    let points = [point("flow", DataType::Float)];
    let sample = |slot| Sample {
        slot,
        stamp: Stamp::device(1),
        value: Some(Value::Float(f64::NAN)),
        quality: Quality::Good,
    };
    let out = processing.take(vec![sample(0), sample(7), sample(0)], &points, BootTime(0));
    assert_eq!((out.samples.len(), out.produced, out.filtered, out.misplaced), (2, 2, 0, 1));
}

#[test]
fn the_first_rule_that_names_a_point_is_its_rule() {
    let other = Rule { points: vec![Pattern::new("*/flow").unwrap()], round: Some(100.0), ..rule() };
    let mut processing = Processing::new([Rule { round: Some(10.0), ..rule() }, other].into());
    let sample =
        Sample { slot: 0, stamp: Stamp::device(1), value: Some(Value::Float(62.0)), quality: Quality::Good };
    let out = processing.take(vec![sample], &[point("flow", DataType::Float)], BootTime(0));
    assert_eq!(out.samples[0].value, Some(Value::Float(60.0)));
}

#[test]
fn numbers_are_rounded_to_what_people_write() {
    let tenth = Rule { round: Some(0.1), ..rule() };
    assert_eq!(
        floats(tenth.clone(), &[0.30000000000000004, 21.4499, -0.06]),
        [(0, 0.3), (1, 21.4), (2, -0.1)]
    );
    assert_eq!(floats(Rule { round: Some(0.25), ..rule() }, &[0.4, 1.9]), [(0, 0.5), (1, 2.0)]);
    assert_eq!(floats(Rule { round: Some(0.3), ..rule() }, &[0.95]), [(0, 0.8999999999999999)]);
    assert_eq!(floats(tenth, &[1e300, f64::INFINITY]), [(0, 1e300), (1, f64::INFINITY)]);
    let mut bench = Bench::new(Rule { round: Some(10.0), ..rule() }, DataType::Integer);
    for (raw, rounded) in [(14, 10), (15, 20), (-15, -10), (-16, -20), (i64::MAX, i64::MAX)] {
        let out = bench.take(0, Some(Value::Integer(raw)), Quality::Good);
        assert_eq!(out.samples[0].value, Some(Value::Integer(rounded)));
    }
}

#[test]
fn on_change_leaves_out_what_is_the_same_but_not_for_longer_than_max_silence() {
    let mut steady = vec![1.0; 62];
    steady.extend([2.0, 2.0, f64::NAN, f64::NAN, 2.0]);
    let passed = floats(on_change(None), &steady);
    let seconds: Vec<i64> = passed.iter().map(|(second, _)| *second).collect();
    assert_eq!(seconds, [0, 60, 62, 64, 66]);
}

#[test]
fn a_deadband_is_measured_from_the_value_kept_last_so_that_a_slow_drift_is_seen() {
    let drift = [10.0, 10.4, 10.8, 11.2, 11.6, 10.9];
    let absolute = on_change(Some(Deadband::Absolute(1.0)));
    assert_eq!(floats(absolute, &drift), [(0, 10.0), (3, 11.2)]);
    let percent = on_change(Some(Deadband::Percent(5.0)));
    assert_eq!(floats(percent, &drift), [(0, 10.0), (2, 10.8), (4, 11.6), (5, 10.9)]);
}

#[test]
fn another_quality_is_news_and_a_hole_that_lasts_is_not() {
    let passed = Bench::new(on_change(None), DataType::Float).play(&[Some(1.0), None, None, Some(1.0)]);
    let value = Some(Value::Float(1.0));
    assert_eq!(passed, [(0, 0, value.clone()), (0, 1, None), (0, 3, value)]);
}

#[test]
fn of_readings_that_come_too_fast_the_last_goes_on_in_time() {
    let filter = Filter { changes: None, min_interval: Some(Duration::from_secs(5)) };
    let mut bench = Bench::new(Rule { filter, ..rule() }, DataType::Float);
    let mut take = |second, value| bench.take(second, Some(Value::Float(value)), Quality::Good);
    assert_eq!(take(0, 1.0).samples.len(), 1);
    assert_eq!((take(1, 2.0).filtered, take(2, 3.0).filtered), (0, 1));
    assert_eq!(bench.processing.due(), Some(BootTime(5 * SECOND)));
    assert_eq!(bench.processing.release(BootTime(4 * SECOND)), Processed::default());
    let out = bench.processing.release(BootTime(5 * SECOND));
    assert_eq!(
        (out.samples[0].value.clone(), out.samples[0].stamp.micros),
        (Some(Value::Float(3.0)), 2 * SECOND)
    );
    assert_eq!(bench.processing.due(), None);
    let hole = bench.take(6, None, Quality::Bad(Fault::Silent));
    assert_eq!(hole.samples.len(), 1, "a hole does not wait");
}

#[test]
fn what_was_let_go_early_is_no_later_than_it_was() {
    let filter = Filter { changes: None, min_interval: Some(Duration::from_secs(5)) };
    let mut bench = Bench::new(Rule { filter, ..rule() }, DataType::Float);
    let mut take = |second| bench.take(second, Some(Value::Float(1.0)), Quality::Good).samples.len();
    assert_eq!((take(0), take(1)), (1, 0));
    assert_eq!(bench.processing.release_all(BootTime(2 * SECOND)).samples.len(), 1);
    assert_eq!(bench.take(3, Some(Value::Float(2.0)), Quality::Good).samples.len(), 0);
    assert_eq!(bench.processing.due(), Some(BootTime(7 * SECOND)));
}

#[test]
fn a_window_is_kept_as_asked_under_names_that_say_so() {
    let all = [Keep::First, Keep::Last, Keep::Min, Keep::Max, Keep::Mean, Keep::Count];
    let mut bench = Bench::new(window(&all), DataType::Integer);
    let values = [4.0, 1.0, 9.0, 2.0].map(Some);
    let passed = bench.play(&values);
    let float = |value| Some(Value::Float(value));
    assert_eq!(
        passed,
        [
            (0, 0, float(4.0)),
            (1, 3, float(2.0)),
            (2, 1, float(1.0)),
            (3, 2, float(9.0)),
            (4, 3, float(4.0)),
            (5, 3, Some(Value::Integer(4))),
        ]
    );
    let told: Vec<_> = bench.told.iter().map(|point| (&*point.name, point.data_type, &*point.unit)).collect();
    let integer = DataType::Integer;
    assert_eq!(
        told,
        [
            ("flow.first", integer, "bar"),
            ("flow.last", integer, "bar"),
            ("flow.min", integer, "bar"),
            ("flow.max", integer, "bar"),
            ("flow.mean", DataType::Float, "bar"),
            ("flow.count", integer, ""),
        ]
    );
}

#[test]
fn a_window_ends_with_the_first_reading_behind_it_with_a_hole_or_with_time() {
    let mut bench = Bench::new(window(&[Keep::Mean]), DataType::Float);
    let mut values: Vec<Option<f64>> = (0..12).map(|n| Some(f64::from(n))).collect();
    values.push(None);
    let passed = bench.play(&values);
    assert_eq!(passed, [(0, 9, Some(Value::Float(4.5))), (0, 11, Some(Value::Float(10.5))), (0, 12, None)]);
    bench.take(100, Some(Value::Float(7.0)), Quality::Good);
    assert_eq!(bench.processing.due(), Some(BootTime(110 * SECOND)));
    assert_eq!(bench.processing.release(BootTime(110 * SECOND)).samples.len(), 1);
    assert_eq!(&*bench.told[0].name, "flow", "the only one has the point's own name");
}

#[test]
fn a_window_of_texts_has_a_last_one() {
    let mut bench = Bench::new(window(&[Keep::Mean]), DataType::Text);
    for (second, text) in ["on", "off"].into_iter().enumerate() {
        bench.take(second as i64, Some(Value::Text(text.into())), Quality::Good);
    }
    assert_eq!(
        bench.processing.release_all(BootTime(2 * SECOND)).samples[0].value,
        Some(Value::Text("off".into()))
    );
}

proptest! {
    #[test]
    fn every_reading_is_accounted_for(
        steps in prop::collection::vec((0_i64..20, prop::option::weighted(0.8, 0_i8..4), any::<bool>()), 1..80),
        keep in prop::option::of(prop::sample::subsequence(vec![Keep::First, Keep::Min, Keep::Mean, Keep::Count], 1..=4)),
        changes in any::<bool>(),
        least in prop::option::of(1_u64..30),
    ) {
        let length = Duration::from_secs(10);
        let rule = Rule {
            round: Some(2.0),
            filter: Filter {
                changes: changes.then_some(Changes { deadband: None, max_silence: length }),
                min_interval: least.map(Duration::from_secs),
            },
            window: keep.map(|keep| Window { length, keep }),
            ..rule()
        };
        let mut bench = Bench::new(rule, DataType::Float);
        let (mut second, mut arrived) = (0, 0);
        let (mut produced, mut filtered, mut passed) = (0, 0, 0);
        let mut count = |out: Processed| {
            produced += out.produced;
            filtered += out.filtered;
            passed += out.samples.len() as u64;
            assert!(filtered + passed <= produced, "more than there was");
        };
        for (pause, value, looks) in steps {
            second += pause;
            if looks {
                count(bench.processing.release(BootTime(second * SECOND)));
            }
            arrived += 1;
            let quality = value.map_or(Quality::Bad(Fault::Silent), |_| Quality::Good);
            count(bench.take(second, value.map(|value| Value::Float(value.into())), quality));
        }
        count(bench.processing.release_all(BootTime(second * SECOND)));
        prop_assert_eq!(bench.processing.due(), None);
        prop_assert!(produced >= arrived);
        prop_assert_eq!(produced, filtered + passed);
    }
}
