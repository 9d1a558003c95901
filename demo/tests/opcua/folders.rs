//! Folders of nodes as one entry.

use forebay_config::field::OpcUaFolder;
use forebay_protocols::reading::{DataType as PointType, PointKind as Kind};

use super::*;

fn below(machine: &str) -> String {
    format!("/Objects/nsu={NAMESPACE};{machine}")
}

/// A link with one folder and no points, polled or not.
fn folder_link(endpoint: &str, polls: bool, node: &str, change: impl FnOnce(&mut OpcUaFolder)) -> Link {
    let mut folder = opcua::link::folder(node).unwrap();
    change(&mut folder);
    link(endpoint, |o| {
        o.devices[0].points.clear();
        o.devices[0].folders = vec![folder];
        if polls {
            o.reading = OpcUaReading::Poll;
        }
    })
}

/// What the source said until it has looked at all folders and every point has said something.
#[derive(Default)]
struct Heard {
    latest: Vec<Option<Sample>>,
    remarks: Vec<String>,
}

impl Heard {
    async fn from(source: &mut OpcUaSource) -> Self {
        let mut heard = Self::default();
        while !source.has_found_all()
            || heard.latest.len() < source.points().len()
            || heard.latest.iter().any(Option::is_none)
        {
            let harvest = timeout(PATIENCE, source.next()).await.expect("no sample came").unwrap();
            heard.remarks.extend(harvest.remarks);
            heard.latest.resize(source.points().len(), None);
            for sample in harvest.samples {
                let slot = sample.slot;
                heard.latest[slot] = Some(sample);
            }
        }
        heard
    }

    fn qualities(&self) -> Vec<Quality> {
        self.latest.iter().flatten().map(|sample| sample.quality).collect()
    }
}

fn names(source: &OpcUaSource) -> Vec<String> {
    source.points().iter().map(|point| point.name.to_string()).collect()
}

async fn lost(source: &mut OpcUaSource) {
    while timeout(PATIENCE, source.next()).await.expect("the loss was not noticed").is_ok() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_brings_what_fits_under_names_that_say_where_it_stands() {
    // One node a request is what some controllers take.
    for (polls, max_nodes_per_browse) in [(false, 0), (true, 0), (false, 1)] {
        let plant = plant(|o| o.max_nodes_per_browse = max_nodes_per_browse).await;
        let link = folder_link(&plant.endpoint(), polls, "/Objects", |folder| {
            folder.include = vec![opcua::link::pattern("*/*").unwrap()];
            folder.exclude =
                ["Pump*", "*/Mode"].map(|text| opcua::link::pattern(text).unwrap()).into_iter().collect();
            folder.unit = "bar".into();
        });
        let mut source = source(&keys("client"), &link);
        source.connect().await.unwrap();
        assert!(source.points().is_empty() && !source.has_found_all());
        let heard = Heard::from(&mut source).await;
        assert_eq!(heard.remarks, [] as [String; 0]);
        assert!(heard.qualities().iter().all(|quality| *quality == Quality::Good), "{:?}", heard.latest);
        // Sixty signals, without fifteen of three pumps, and two modes.
        let names = names(&source);
        assert_eq!(names.len(), 43, "{names:?}");
        assert!(!names.iter().any(|name| name.starts_with("Pump") || name.ends_with("Mode")), "{names:?}");
        for (name, data_type, kind) in [
            ("Press.Temp", PointType::Float, Kind::Gauge),
            ("Press.Strokes", PointType::Integer, Kind::Gauge),
            ("Press.Guard", PointType::Boolean, Kind::State),
            ("Compressor.State", PointType::Text, Kind::State),
            ("Boiler.Flow.Temp", PointType::Float, Kind::Gauge),
        ] {
            let point = source.points().iter().find(|point| &*point.name == name);
            let point = point.unwrap_or_else(|| panic!("{name} is not among {names:?}"));
            assert_eq!((point.data_type, point.kind), (data_type, kind), "{name}");
            assert_eq!((&*point.device, &*point.unit), ("press", "bar"));
        }
        source.close().await;
        plant.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_that_numbered_all_nodes_anew_points_keep_their_slots_and_what_is_gone_is_bad() {
    for polls in [false, true] {
        let first = plant(|o| o.node_prefix = "7.".into()).await;
        let address = first.address();
        let link = folder_link(&first.endpoint(), polls, &below("Press"), |_| {});
        let mut source = source(&keys("client"), &link);
        source.connect().await.unwrap();
        let heard = Heard::from(&mut source).await;
        let before = names(&source);
        assert_eq!(before, ["Guard", "Mode", "Pressure", "Strokes", "Temp"]);
        assert!(heard.latest.iter().flatten().all(is_good));
        first.shutdown().await;
        lost(&mut source).await;

        let second = plant(|o| {
            o.address = address;
            o.namespaces_before = 2;
            o.node_prefix = "12.".into();
        })
        .await;
        assert!(second.remove_node("12.Press.Strokes"));
        second.add_node_below("12.Press", "Added", 4.5);
        source.connect().await.unwrap();
        assert!(!source.has_found_all());
        let heard = Heard::from(&mut source).await;
        assert_eq!(names(&source), [before.as_slice(), &["Added".into()]].concat());
        let (good, gone) = (Quality::Good, Quality::Bad(Fault::NotFound));
        assert_eq!(heard.qualities(), [good, good, good, gone, good, good], "polled: {polls}");
        assert_eq!(heard.latest[5].as_ref().and_then(|last| last.value.clone()), Some(Value::Float(4.5)));
        // What is gone is told once, and the others go on.
        let mut seen = 0;
        while seen < 10 {
            let harvest = timeout(PATIENCE, source.next()).await.expect("no sample came").unwrap();
            assert!(harvest.samples.iter().all(|sample| sample.slot != 3), "{harvest:?}");
            seen += harvest.samples.len();
        }
        source.close().await;
        second.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_not_there_yet_is_said_once_and_found_when_it_is() {
    let plant = plant(|_| {}).await;
    let link = folder_link(&plant.endpoint(), false, &format!("nsu={NAMESPACE};s=Late"), |_| {});
    let mut source = source(&keys("client"), &link);
    source.connect().await.unwrap();
    let heard = Heard::from(&mut source).await;
    let [remark] = heard.remarks.as_slice() else { panic!("{:?}", heard.remarks) };
    assert!(remark.contains("s=Late") && remark.contains("looked for again"), "{remark}");
    plant.add_node("Late", 1.0);
    plant.add_node_below("Late", "Late.Level", 2.5);
    loop {
        let harvest = timeout(PATIENCE, source.next()).await.expect("it was not found").unwrap();
        assert_eq!(harvest.remarks, [] as [String; 0]);
        if let Some(sample) = harvest.samples.first() {
            assert_eq!((&sample.value, sample.quality), (&Some(Value::Float(2.5)), Quality::Good));
            break;
        }
    }
    assert_eq!(names(&source), ["Late.Level"]);
    source.close().await;
    plant.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_takes_no_more_points_than_it_may_always_the_same_and_says_so_once() {
    let plant = plant(|_| {}).await;
    let link = folder_link(&plant.endpoint(), false, "i=85", |folder| folder.max_points = 3);
    let mut source = source(&keys("client"), &link);
    source.connect().await.unwrap();
    let heard = Heard::from(&mut source).await;
    assert_eq!(names(&source), ["Boiler.Burner", "Boiler.Flow.Temp", "Boiler.Pressure"]);
    let [remark] = heard.remarks.as_slice() else { panic!("{:?}", heard.remarks) };
    assert!(remark.contains("`max_points`") && remark.contains("device press"), "{remark}");
    source.close().await;
    source.connect().await.unwrap();
    let heard = Heard::from(&mut source).await;
    assert_eq!(heard.remarks, [] as [String; 0]);
    assert_eq!(source.points().len(), 3);
    source.close().await;
    plant.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pattern_that_fits_nothing_is_said() {
    let plant = plant(|_| {}).await;
    let link = folder_link(&plant.endpoint(), true, "/Objects", |folder| {
        folder.include = vec![opcua::link::pattern("press/*").unwrap()];
    });
    let mut source = source(&keys("client"), &link);
    source.connect().await.unwrap();
    let heard = Heard::from(&mut source).await;
    let [remark] = heard.remarks.as_slice() else { panic!("{:?}", heard.remarks) };
    assert!(remark.contains("fits `include`") && source.points().is_empty(), "{remark}");
    source.close().await;
    plant.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_has_one_entry_points_before_folders_and_the_first_folder_before_others() {
    let plant = plant(|_| {}).await;
    let link = link(&plant.endpoint(), |o| {
        let device = &mut o.devices[0];
        // By its id, under a name of its own; by its path, under the name that the folder would give it.
        device.points = vec![
            point("heat", &format!("nsu={NAMESPACE};s=Press.Temp"), DataType::Float),
            point("Mode", &format!("{}/nsu={NAMESPACE};Mode", below("Press")), DataType::Text),
        ];
        let of = |node: &str| opcua::link::folder(node).unwrap();
        let mut all = of("/Objects");
        all.include = vec![opcua::link::pattern("Press/*").unwrap()];
        device.folders = vec![of(&below("Press")), all];
    });
    let mut source = source(&keys("client"), &link);
    source.connect().await.unwrap();
    let heard = Heard::from(&mut source).await;
    assert!(heard.latest.iter().flatten().all(is_good), "{:?}", heard.latest);
    assert_eq!(names(&source), ["heat", "Mode", "Guard", "Pressure", "Strokes"]);
    source.close().await;
    plant.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn points_are_reported_while_a_folder_is_looked_through() {
    let plant = plant(|o| o.max_nodes_per_browse = 1).await;
    let link = link(&plant.endpoint(), |o| {
        o.devices[0].folders = vec![opcua::link::folder("/Objects").unwrap()];
    });
    let mut source = source(&keys("client"), &link);
    source.connect().await.unwrap();
    let mut early = 0;
    while !source.has_found_all() {
        let harvest = timeout(PATIENCE, source.next()).await.expect("no sample came").unwrap();
        early += harvest.samples.len();
    }
    assert!(early > 0, "nothing came before the look at the folder was over");
    assert_eq!(source.points().len(), 60);
    source.close().await;
    plant.shutdown().await;
}
