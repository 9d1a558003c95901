//! The OPC UA driver against the simulated server, over loopback.

#![expect(clippy::unwrap_used, clippy::panic, reason = "in a test file a panic is a failed test")]

mod folders;
mod nodes;
mod poll;
mod security;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use forebay_config::field::{
    DataType, Deadband, Link, OpcUa, OpcUaPoint, OpcUaReading, OpcUaSecurity, OpcUaUser, Timestamp,
};
use forebay_config::units::Secret;
use forebay_demo::opcua::{self, NAMESPACE, OpcUaPlant, PlantOptions};
use forebay_protocols::field::opcua::OpcUaSource;
use forebay_protocols::field::source::{LinkFault, Sample, Source};
use forebay_protocols::reading::{Clock, Fault, Quality, Value};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OnceCell;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Nothing here takes nearly as long, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Keys of the server, and of us, made once for all tests of this file: RSA is slow unoptimised.
fn keys(of: &str) -> PathBuf {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    FOLDER.get_or_init(|| tempfile::tempdir().unwrap()).path().join(of)
}

async fn plant(change: impl FnOnce(&mut PlantOptions)) -> OpcUaPlant {
    static KEYS_ARE_MADE: OnceCell<()> = OnceCell::const_new();
    let make = || async {
        let options = PlantOptions { pki_dir: Some(keys("server")), ..PlantOptions::default() };
        OpcUaPlant::start(options).await.unwrap().shutdown().await;
    };
    KEYS_ARE_MADE.get_or_init(make).await;
    let mut options = PlantOptions {
        pki_dir: Some(keys("server")),
        tick: Duration::from_millis(100),
        ..PlantOptions::default()
    };
    change(&mut options);
    OpcUaPlant::start(options).await.unwrap()
}

fn point(name: &str, node: &str, data_type: DataType) -> OpcUaPoint {
    opcua::link::point(name, node, data_type).unwrap()
}

/// Four points of the press, of a type each.
fn link(endpoint: &str, change: impl FnOnce(&mut OpcUa)) -> Link {
    let of_plant = |name: &str| format!("nsu={NAMESPACE};s={name}");
    let points = vec![
        point("temp", &of_plant("Press.Temp"), DataType::Float),
        point("strokes", &of_plant("Press.Strokes"), DataType::Integer),
        point("guard", &of_plant("Press.Guard"), DataType::Boolean),
        point("mode", &of_plant("Press.Mode"), DataType::Text),
    ];
    opcua::link::link(endpoint, points, change).unwrap()
}

fn user(name: &str, password: &str) -> OpcUaUser {
    OpcUaUser::Password { name: name.into(), password: Secret::new(password), in_clear: true }
}

fn source(pki_dir: &Path, link: &Link) -> OpcUaSource {
    opcua::link::source(link, pki_dir).unwrap()
}

/// What arrives until every point has a sample that `enough` accepts: the last one of each point.
async fn gather(source: &mut OpcUaSource, enough: impl Fn(&Sample) -> bool) -> Vec<Sample> {
    let mut latest: Vec<Option<Sample>> = vec![None; source.points().len()];
    while latest.iter().any(|sample| !sample.as_ref().is_some_and(&enough)) {
        let harvest = timeout(PATIENCE, source.next()).await.expect("no sample came").unwrap();
        for sample in harvest.samples {
            let slot = sample.slot;
            latest[slot] = Some(sample);
        }
    }
    latest.into_iter().flatten().collect()
}

fn is_good(sample: &Sample) -> bool {
    sample.quality == Quality::Good
}

fn refusal(outcome: Result<(), LinkFault>) -> String {
    match outcome {
        Err(LinkFault::Refused { why, .. }) => why,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_server_is_read_in_the_configured_types() {
    let plant = plant(|_| {}).await;
    let link = link(&plant.endpoint(), |_| {});
    let mut source = source(&keys("client"), &link);
    source.connect().await.unwrap();
    let samples = gather(&mut source, is_good).await;
    assert!(matches!(samples[0].value, Some(Value::Float(v)) if (50.0..80.0).contains(&v)), "{samples:?}");
    assert!(matches!(samples[1].value, Some(Value::Integer(v)) if v >= 0), "{samples:?}");
    assert!(matches!(samples[2].value, Some(Value::Boolean(_))), "{samples:?}");
    assert!(matches!(&samples[3].value, Some(Value::Text(v)) if !v.is_empty()), "{samples:?}");
    assert!(samples.iter().all(|sample| sample.stamp.clock == Clock::Boot));

    // It goes on: the temperature has noise and moves with the ticks.
    let first = samples[0].value.clone();
    loop {
        let harvest = timeout(PATIENCE, source.next()).await.unwrap().unwrap();
        if harvest.samples.iter().any(|sample| sample.slot == 0 && sample.value != first) {
            break;
        }
    }
    source.close().await;
    plant.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_free_session_says_so() {
    let plant = plant(|o| o.max_sessions = 1).await;
    let link = link(&plant.endpoint(), |_| {});
    let (mut first, mut second) = (source(&keys("client"), &link), source(&keys("client"), &link));
    first.connect().await.unwrap();
    let why = refusal(second.connect().await);
    assert!(why.contains("BadTooManySessions"), "{why}");
    first.close().await;
    second.connect().await.unwrap();
    second.close().await;
    plant.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_missing_concerns_its_own_point_only() {
    let plant = plant(|_| {}).await;
    let link = link(&plant.endpoint(), |o| {
        let points = &mut o.devices[0].points;
        points.insert(0, point("gone", &format!("nsu={NAMESPACE};s=No.Such"), DataType::Float));
        points.insert(2, point("elsewhere", "nsu=urn:nobody;s=Temp", DataType::Float));
        points.push(point("array", "i=2255", DataType::Text));
        points.push(point("wrong", &format!("nsu={NAMESPACE};s=Press.Mode"), DataType::Float));
    });
    let mut source = source(&keys("client"), &link);
    source.connect().await.unwrap();
    let samples = gather(&mut source, |_| true).await;
    for (slot, quality) in [
        (0, Quality::Bad(Fault::NotFound)),
        (1, Quality::Good),
        (2, Quality::Bad(Fault::NotFound)),
        (3, Quality::Good),
        (6, Quality::Bad(Fault::WrongType)),
        (7, Quality::Bad(Fault::WrongType)),
    ] {
        assert_eq!(samples[slot].quality, quality, "slot {slot}: {samples:?}");
    }
    // It is asked for again from time to time (`backoff_max` is 0.3 s here): what was told stays
    // told, until the node is there.
    plant.add_node("No.Such", 4.5);
    'there: loop {
        let harvest = timeout(PATIENCE, source.next()).await.expect("the new node was not found").unwrap();
        for sample in harvest.samples {
            assert_ne!(sample.slot, 2, "told twice: {sample:?}");
            if sample.slot == 0 {
                assert_eq!((sample.value, sample.quality), (Some(Value::Float(4.5)), Quality::Good));
                break 'there;
            }
        }
    }
    source.close().await;
    plant.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_with_other_namespace_numbers_readings_go_on() {
    let first = plant(|_| {}).await;
    let address = first.address();
    let link = link(&first.endpoint(), |_| {});
    let mut source = source(&keys("client"), &link);
    source.connect().await.unwrap();
    gather(&mut source, is_good).await;
    first.shutdown().await;
    let fault = loop {
        match timeout(PATIENCE, source.next()).await.expect("the loss was not noticed") {
            Ok(_) => {}
            Err(fault) => break fault,
        }
    };
    assert!(matches!(fault, LinkFault::Lost { .. }), "{fault:?}");
    let fault = source.connect().await.unwrap_err();
    assert!(matches!(fault, LinkFault::Unreachable { .. }), "{fault:?}");

    let second = plant(|o| {
        o.address = address;
        o.namespaces_before = 3;
    })
    .await;
    source.connect().await.unwrap();
    gather(&mut source, is_good).await;
    source.close().await;
    second.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plants_own_configuration_reads_every_signal_and_every_part_of_the_robot() {
    let plant = plant(|_| {}).await;
    let toml = format!("[agent]\nsite = \"demo\"\ngateway = \"hall\"\n{}", plant.link_toml("hall"));
    assert!(toml.contains(&format!("endpoint = \"{}\"", plant.endpoint())));
    let agent = forebay_config::load::agent_text("hall.toml", &toml).unwrap();
    let mut source = source(&keys("client"), &agent.links[0]);
    let points = source.points();
    assert_eq!(points.len(), 60 + 6 + 4);
    let joints = points.iter().filter(|point| point.name.starts_with("Joints[")).count();
    assert_eq!(joints, 6, "{points:?}");
    source.connect().await.unwrap();
    gather(&mut source, is_good).await;
    source.close().await;
    plant.shutdown().await;
}

/// A TCP relay that can be told to stop relaying without closing anything, like a switch that
/// lost its uplink.
struct Relay {
    endpoint: String,
    stalled: tokio::sync::watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Relay {
    async fn before(plant: &OpcUaPlant) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("opc.tcp://{}/", listener.local_addr().unwrap());
        let (stalled, told) = tokio::sync::watch::channel(false);
        let target = plant.address();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                let mut told = told.clone();
                connections.spawn(async move {
                    let mut far = TcpStream::connect(target).await.unwrap();
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => {}
                        () = async { drop(told.wait_for(|stalled| *stalled).await) } => std::future::pending().await,
                    }
                });
            }
        });
        Self { endpoint, stalled, _tasks: tasks }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_falls_silent_without_closing_is_noticed() {
    for polls in [false, true] {
        let plant = plant(|_| {}).await;
        let relay = Relay::before(&plant).await;
        let mut link = link(&relay.endpoint, |o| {
            if polls {
                o.reading = OpcUaReading::Poll;
            }
        });
        link.timeout = Duration::from_secs(5);
        let mut source = source(&keys("client"), &link);
        source.connect().await.unwrap();
        gather(&mut source, is_good).await;
        relay.stalled.send(true).unwrap();
        let fault = loop {
            match timeout(PATIENCE, source.next()).await.expect("the silence was not noticed") {
                Ok(_) => {}
                Err(fault) => break fault,
            }
        };
        assert!(matches!(fault, LinkFault::Lost { .. }), "{fault:?}");
        // And it does not hang in the silence when it tries again.
        let fault = timeout(PATIENCE, source.connect()).await.unwrap().unwrap_err();
        assert!(matches!(fault, LinkFault::Unreachable { .. }), "{fault:?}");
        plant.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_no_opcua_server_is_unreachable_and_nothing_worse() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let link = link(&format!("opc.tcp://{}/", listener.local_addr().unwrap()), |_| {});
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut hello = [0; 64];
            let _ = socket.read(&mut hello).await;
            let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
        }
    });
    let mut source = source(&keys("client"), &link);
    let fault = timeout(PATIENCE, source.connect()).await.unwrap().unwrap_err();
    assert!(matches!(fault, LinkFault::Unreachable { .. }), "{fault:?}");
}

#[tokio::test]
async fn a_node_whose_server_refuses_the_deadband_is_read_without_one() {
    let plant = plant(|_| {}).await;
    let folder = tempfile::tempdir().unwrap();
    // The plant's nodes have no range that percents could be of.
    let with_deadband = link(&plant.endpoint(), |opcua| {
        opcua.devices[0].points[0].deadband = Some(Deadband::Percent(2.0));
    });
    let mut source = source(folder.path(), &with_deadband);
    source.connect().await.unwrap();
    let samples = gather(&mut source, is_good).await;
    assert_eq!(samples.len(), source.points().len());
    source.close().await;
    plant.shutdown().await;
}
