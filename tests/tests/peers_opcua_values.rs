//! Arrays and structures of OPC UA servers that nobody here wrote (asyncua, node-opcua), unfolded into points.
//!
//! What their nodes hold stands in `tests/peers/asyncua_values.py` and `tests/peers/node/values.cjs`; asyncua's
//! server sends whole arrays where a range of them is asked for, node-opcua's sends the range.

#![expect(clippy::unwrap_used, clippy::panic, reason = "in a test file a panic is a failed test")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use forebay_config::field::{DataType, Link, OpcUa, OpcUaPart, OpcUaPoint, OpcUaReading};
use forebay_demo::opcua::link as opcua_link;
use forebay_protocols::field::opcua::OpcUaSource;
use forebay_protocols::field::source::{Sample, Source};
use forebay_protocols::reading::{Fault, Quality, Value};
use forebay_tests::opcua_server::{Make, NAMESPACE, OpcUaServer};
use tokio::time::timeout;

/// Interpreters take their time to build an address space on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

const ABSENT: Result<Value, Fault> = Err(Fault::NotFound);
const WRONG: Result<Value, Fault> = Err(Fault::WrongType);

fn node(name: &str) -> String {
    format!("nsu={NAMESPACE};s=Values/{name}")
}

/// Points that read parts of one node.
fn points(
    name: &str,
    node_name: &str,
    elements: Option<&str>,
    field: Option<&str>,
    kind: DataType,
) -> Vec<OpcUaPoint> {
    let plain = opcua_link::point(name, &node(node_name), kind).unwrap();
    let parts = OpcUaPart::all(elements, field).unwrap_or_else(|why| panic!("{why}"));
    let named = |(index, part): (String, OpcUaPart)| {
        let mut point = OpcUaPoint { part, ..plain.clone() };
        point.meta.name = point.meta.name.element(&index).unwrap();
        point
    };
    parts.into_iter().map(named).collect()
}

fn link(endpoint: &str, points: Vec<OpcUaPoint>, polls: bool, change: impl FnOnce(&mut OpcUa)) -> Link {
    opcua_link::link(endpoint, points, |opcua| {
        if polls {
            opcua.reading = OpcUaReading::Poll;
        }
        change(opcua);
    })
    .unwrap()
}

async fn connected(link: &Link, keys: &Path) -> OpcUaSource {
    let mut source = opcua_link::source(link, keys).unwrap();
    source.connect().await.unwrap();
    source
}

/// What was heard of a source.
#[derive(Default)]
struct Heard {
    first: BTreeMap<String, Sample>,
    latest: BTreeMap<String, Sample>,
    remarks: Vec<String>,
}

impl Heard {
    /// Until it has looked at its folders and every point has said something.
    async fn of_all(source: &mut OpcUaSource) -> Self {
        let mut heard = Self::default();
        while !source.has_found_all() || heard.first.len() < source.points().len() {
            heard.listen(source).await;
        }
        heard
    }

    async fn listen(&mut self, source: &mut OpcUaSource) -> Vec<(String, Sample)> {
        let harvest = timeout(PATIENCE, source.next()).await.expect("no sample came").unwrap();
        self.remarks.extend(harvest.remarks);
        let named = |sample: Sample| (source.points()[sample.slot].name.to_string(), sample);
        let samples: Vec<(String, Sample)> = harvest.samples.into_iter().map(named).collect();
        for (name, sample) in &samples {
            self.first.entry(name.clone()).or_insert_with(|| sample.clone());
            self.latest.insert(name.clone(), sample.clone());
        }
        samples
    }
}

fn said(sample: &Sample) -> Result<Value, Fault> {
    match (&sample.value, sample.quality) {
        (Some(value), Quality::Good) => Ok(value.clone()),
        (None, Quality::Bad(fault)) => Err(fault),
        other => panic!("{other:?}"),
    }
}

fn float(value: f64) -> Result<Value, Fault> {
    Ok(Value::Float(value))
}

fn integer(value: i64) -> Result<Value, Fault> {
    Ok(Value::Integer(value))
}

fn text(value: &str) -> Result<Value, Fault> {
    Ok(Value::Text(value.into()))
}

#[tokio::test]
async fn elements_and_fields_are_read_one_by_one_told_or_polled() {
    use DataType::{Float, Integer, Text};

    for make in Make::ALL {
        let keys = tempfile::tempdir().unwrap();
        let server = OpcUaServer::start(make, 0, keys.path(), 0).await.unwrap();
        let entries = [
            ("line", "Line", Some("0:4"), None, Float),
            ("cell", "Grid", Some("[1,2]"), None, Integer),
            ("column", "Grid", Some("0:1,1"), None, Integer),
            ("flat", "Grid", Some("4"), None, Integer),
            ("field-of-array", "Line", None, Some("x"), Float),
            ("name", "Robot", None, Some("Name"), Text),
            ("note", "Robot", None, Some("Note"), Text),
            ("x", "Robot", None, Some("Position.X"), Float),
            ("torque", "Robot", None, Some("Axes[0:2].Torque"), Float),
            ("limit", "Robot", None, Some("Axes[0].Limits[1]"), Float),
            ("no-limit", "Robot", None, Some("Axes[1].Limits[0]"), Float),
            ("mode", "Robot", None, Some("Mode"), Integer),
            ("nobody", "Robot", None, Some("Nobody"), Float),
            ("whole", "Robot", None, None, Float),
            ("second", "Robots", Some("1"), Some("Note"), Text),
            ("both", "Robots", Some("0:1"), Some("Position.Y"), Float),
            ("grip", "Choice", None, Some("Grip"), Float),
            ("speed", "Choice", None, Some("Speed"), Float),
            ("gone", "Nothing", Some("0:1"), None, Float),
        ];
        let wanted = [
            ("line[0]", float(0.5)),
            ("line[3]", float(3.5)),
            ("line[4]", ABSENT),
            ("cell", integer(6)),
            ("column[0,1]", integer(2)),
            ("column[1,1]", integer(5)),
            ("flat", WRONG),
            ("field-of-array", WRONG),
            ("name", text("R2")),
            ("note", ABSENT),
            ("x", float(1.5)),
            ("torque[0]", float(0.5)),
            ("torque[1]", float(0.75)),
            ("torque[2]", ABSENT),
            ("limit", float(1.0)),
            ("no-limit", ABSENT),
            ("mode", integer(2)),
            ("nobody", ABSENT),
            ("whole", WRONG),
            ("second", text("spare")),
            ("both[0]", float(-2.5)),
            ("both[1]", float(-2.5)),
            ("grip", float(2.5)),
            ("speed", ABSENT),
            ("gone[0]", ABSENT),
            ("gone[1]", ABSENT),
        ];
        for polls in [false, true] {
            let listed = entries
                .iter()
                .flat_map(|(name, node, elements, field, kind)| points(name, node, *elements, *field, *kind));
            let link = link(&server.endpoint, listed.collect(), polls, |_| {});
            let mut source = connected(&link, keys.path()).await;
            let heard = Heard::of_all(&mut source).await;
            for (name, wanted) in &wanted {
                assert_eq!(&said(&heard.first[*name]), wanted, "{make:?} {name}, polled: {polls}");
            }
            // Said once, in words: what is not as the configuration thinks.
            let told = |name: &str| heard.remarks.iter().filter(|remark| remark.contains(name)).count();
            assert_eq!((told("press/flat"), told("press/field-of-array")), (1, 1), "{:?}", heard.remarks);
            source.close().await;
        }
        server.stop().await.unwrap();
    }
}

#[tokio::test]
async fn an_array_that_grows_and_shrinks_is_followed_element_by_element() {
    for (make, polls) in Make::ALL.into_iter().flat_map(|make| [(make, false), (make, true)]) {
        let keys = tempfile::tempdir().unwrap();
        let server = OpcUaServer::start(make, 0, keys.path(), 0).await.unwrap();
        let listed = points("breath", "Breathing", Some("0:3"), None, DataType::Integer);
        let link = link(&server.endpoint, listed, polls, |_| {});
        let mut source = connected(&link, keys.path()).await;
        let mut heard = Heard::default();
        // How often the last element came and went; the first is always there, and only counts up.
        let (mut turns, mut is_there, mut first) = (0, None, 0);
        while turns < 4 {
            for (name, sample) in heard.listen(&mut source).await {
                match (name.as_str(), said(&sample)) {
                    ("breath[0]", Ok(Value::Integer(count))) => {
                        assert!(
                            count > first || polls && count == first || first == 0,
                            "{count} after {first}"
                        );
                        first = count;
                    }
                    ("breath[3]", said) => {
                        assert!(said == ABSENT || said.is_ok(), "{make:?}: {said:?}");
                        let there = Some(said.is_ok());
                        turns += u32::from(is_there.is_some() && is_there != there);
                        is_there = there;
                    }
                    (_, Ok(_)) => {}
                    (name, said) => {
                        assert!(name != "breath[0]" && said == ABSENT, "{make:?} {name}: {said:?}")
                    }
                }
            }
        }
        assert_eq!(heard.remarks, [] as [String; 0]);
        source.close().await;
        server.stop().await.unwrap();
    }
}

#[tokio::test]
async fn one_element_of_a_long_array_is_right_whether_the_server_does_ranges_or_not() {
    for (make, polls) in Make::ALL.into_iter().flat_map(|make| [(make, false), (make, true)]) {
        let keys = tempfile::tempdir().unwrap();
        let server = OpcUaServer::start(make, 0, keys.path(), 0).await.unwrap();
        let mut listed = points("counting", "Long", Some("900"), None, DataType::Float);
        listed.extend(points("still", "Long", Some("902"), None, DataType::Float));
        let link = link(&server.endpoint, listed, polls, |_| {});
        let mut source = connected(&link, keys.path()).await;
        let mut heard = Heard::default();
        let (mut last, mut told, mut still) = (0.0, 0, 0);
        while told < 12 {
            for (name, sample) in heard.listen(&mut source).await {
                let Ok(Value::Float(value)) = said(&sample) else { panic!("{make:?} {name}: {sample:?}") };
                if name == "still" {
                    assert_eq!(value, 451.0, "{make:?}");
                    still += 1;
                } else if value != 450.0 || last > 0.0 {
                    // Until the first tick it is half its index.
                    assert!(value >= last, "{make:?}: {value} after {last}");
                    told += u32::from(value > last);
                    last = value;
                }
            }
        }
        // An element that does not change is told once, however often the array is.
        assert!(polls || still == 1, "{make:?}: {still} times");
        source.close().await;
        server.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_structure_whose_type_is_another_after_a_restart_is_read_by_the_new_one() {
    for (make, polls) in Make::ALL.into_iter().flat_map(|make| [(make, false), (make, true)]) {
        let keys = tempfile::tempdir().unwrap();
        let first = OpcUaServer::start(make, 0, keys.path(), 0).await.unwrap();
        let port = first.port().unwrap();
        let mut listed = points("serial", "Robot", None, Some("Serial"), DataType::Integer);
        listed.extend(points("name", "Robot", None, Some("Name"), DataType::Text));
        listed.extend(points("torque", "Robot", None, Some("Axes[1].Torque"), DataType::Float));
        let link = link(&first.endpoint, listed, polls, |_| {});
        let mut source = connected(&link, keys.path()).await;
        let before = Heard::of_all(&mut source).await;
        assert_eq!(said(&before.first["serial"]), ABSENT, "{make:?}");
        assert_eq!(said(&before.first["name"]), text("R2"), "{make:?}");
        first.kill().await.unwrap();
        while timeout(PATIENCE, source.next()).await.expect("the loss was not noticed").is_ok() {}

        let second = OpcUaServer::start(make, port, keys.path(), 3).await.unwrap();
        source.connect().await.unwrap();
        let after = Heard::of_all(&mut source).await;
        assert_eq!(said(&after.first["serial"]), integer(4711), "{make:?}");
        assert_eq!(said(&after.first["name"]), text("R2"), "{make:?}");
        assert_eq!(said(&after.first["torque"]), float(0.75), "{make:?}");
        source.close().await;
        second.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_folder_unfolds_small_arrays_and_structures_and_reads_siblings_of_one_name() {
    for (make, polls) in Make::ALL.into_iter().flat_map(|make| [(make, false), (make, true)]) {
        let keys = tempfile::tempdir().unwrap();
        let first = OpcUaServer::start(make, 0, keys.path(), 0).await.unwrap();
        let port = first.port().unwrap();
        let link = link(&first.endpoint, Vec::new(), polls, |opcua| {
            let mut folder = opcua_link::folder(&format!("nsu={NAMESPACE};s=Values")).unwrap();
            folder.unfold = 32;
            folder.exclude = vec![opcua_link::pattern("Breathing").unwrap()];
            opcua.devices[0].folders = vec![folder];
        });
        let mut source = connected(&link, keys.path()).await;
        let before = Heard::of_all(&mut source).await;
        let twins = |heard: &Heard| -> Vec<(String, Result<Value, Fault>)> {
            let twin = heard.first.iter().filter(|(name, _)| name.starts_with("Twins.Twin-"));
            twin.map(|(name, sample)| (name.clone(), said(sample))).collect()
        };
        let mut numbers: Vec<_> = twins(&before).into_iter().map(|(_, said)| said).collect();
        numbers.sort_by_key(|said| format!("{said:?}"));
        assert_eq!(numbers, [integer(0), integer(1)], "{make:?}");
        for (name, wanted) in [
            ("Line[3]", float(3.5)),
            ("Grid[1,2]", integer(6)),
            ("Robot.Name", text("R2")),
            ("Robot.Position.X", float(1.5)),
            ("Robot.Axes[1].Torque", float(0.75)),
            ("Robot.Axes[0].Limits[0]", float(-1.0)),
            ("Robots[1].Note", text("spare")),
            ("Robots[0].Mode", integer(2)),
            ("Choice.Grip", float(2.5)),
        ] {
            let sample = before.first.get(name).unwrap_or_else(|| panic!("{make:?}: {name} is missing"));
            assert_eq!(said(sample), wanted, "{make:?} {name}, polled: {polls}");
        }
        // Four elements, six cells, nine values of a robot, nineteen of two (one has a note), a choice, twins.
        assert_eq!(before.first.len(), 4 + 6 + 9 + 19 + 1 + 2, "{make:?}: {:?}", before.first.keys());
        let large = "more than 32 elements and fields, its `unfold`, are not read; there are 1";
        assert!(before.remarks.iter().any(|remark| remark.contains(large)), "{:?}", before.remarks);
        let named: Vec<String> = twins(&before).into_iter().map(|(name, _)| name).collect();
        first.kill().await.unwrap();
        while timeout(PATIENCE, source.next()).await.expect("the loss was not noticed").is_ok() {}

        let second = OpcUaServer::start(make, port, keys.path(), 3).await.unwrap();
        source.connect().await.unwrap();
        let after = Heard::of_all(&mut source).await;
        assert_eq!(twins(&after), twins(&before), "{make:?}: each keeps its name");
        assert_eq!(named.len(), 2);
        assert_eq!(said(&after.first["Robot.Position.X"]), float(1.5), "{make:?}");
        assert_eq!(said(&after.first["Robot.Serial"]), integer(4711), "{make:?}");
        source.close().await;
        second.stop().await.unwrap();
    }
}
