//! The OPC UA driver against servers (asyncua, node-opcua), and checked by a client (asyncua), that nobody
//! here wrote.
//!
//! `FOREBAY_TEST_PYTHON` and `FOREBAY_TEST_NODE` name a Python and a Node.js that have them; `tests/run`
//! prepares both.

#![expect(clippy::unwrap_used, clippy::panic, reason = "in a test file a panic is a failed test")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use forebay_config::field::{
    DataType, Deadband, Link, OpcUa, OpcUaMode, OpcUaPolicy, OpcUaReading, OpcUaSecurity, OpcUaUser,
    Timestamp,
};
use forebay_config::units::{Name, Secret};
use forebay_demo::opcua::link as opcua_link;
use forebay_protocols::field::opcua::OpcUaSource;
use forebay_protocols::field::source::{LinkFault, Sample, Source};
use forebay_protocols::reading::{Doubt, Fault, Quality, Stamp, Value};
use forebay_tests::opcua_server::{Make, NAMESPACE, OpcUaServer, USER};
use forebay_tests::tests_folder;
use tokio::process::Command;
use tokio::time::timeout;

/// Interpreters take their time to build an address space on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Names of nodes, and the type of the point that reads each.
const SCALARS: [(&str, DataType); 17] = [
    ("Boolean", DataType::Boolean),
    ("SByte", DataType::Integer),
    ("Byte", DataType::Integer),
    ("Int16", DataType::Integer),
    ("UInt16", DataType::Integer),
    ("Int32", DataType::Integer),
    ("UInt32", DataType::Integer),
    ("Int64", DataType::Integer),
    ("UInt64", DataType::Integer),
    ("Float", DataType::Float),
    ("Double", DataType::Float),
    ("String", DataType::Text),
    ("LocalizedText", DataType::Text),
    ("Guid", DataType::Text),
    ("DateTime", DataType::Text),
    ("Sick", DataType::Float),
    ("Old", DataType::Float),
];

fn python() -> PathBuf {
    std::env::var_os("FOREBAY_TEST_PYTHON").map(PathBuf::from).unwrap_or_else(|| {
        panic!(
            "FOREBAY_TEST_PYTHON is not set: it names a Python with asyncua \
             (python3 -m venv DIR && DIR/bin/pip install asyncua, then FOREBAY_TEST_PYTHON=DIR/bin/python)"
        )
    })
}

fn script(name: &str) -> PathBuf {
    tests_folder().join("peers").join(name)
}

/// A running server.
struct Peer {
    endpoint: String,
    server: OpcUaServer,
    _keys: tempfile::TempDir,
}

impl Peer {
    async fn start(make: Make) -> Self {
        Self::start_at(make, 0, 0).await
    }

    /// With keys of its own, at a port, and with so many foreign namespaces before its own.
    async fn start_at(make: Make, port: u16, namespaces: usize) -> Self {
        let keys = tempfile::tempdir().unwrap();
        let server = OpcUaServer::start(make, port, keys.path(), namespaces).await.unwrap();
        Self { endpoint: server.endpoint.clone(), server, _keys: keys }
    }

    /// What asyncua's client reads there.
    async fn read(&self, names: &[&str]) -> serde_json::Value {
        let read = Command::new(python())
            .arg(script("asyncua_read.py"))
            .args([self.endpoint.as_str(), NAMESPACE])
            .args(names)
            .kill_on_drop(true)
            .output();
        let output = timeout(PATIENCE, read).await.expect("the asyncua client hangs").unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

fn link(endpoint: &str, names: &[(&str, DataType)], change: impl FnOnce(&mut OpcUa)) -> Link {
    let of_peer = |(name, data_type): &(&str, DataType)| {
        opcua_link::point(name, &format!("nsu={NAMESPACE};s={name}"), *data_type).unwrap()
    };
    opcua_link::link(endpoint, names.iter().map(of_peer).collect(), change).unwrap()
}

fn source(link: &Link, keys: &Path) -> OpcUaSource {
    opcua_link::source(link, keys).unwrap()
}

fn secured(policy: OpcUaPolicy, mode: OpcUaMode) -> OpcUaSecurity {
    OpcUaSecurity::Secured { policy, mode }
}

fn user(password: &str) -> OpcUaUser {
    OpcUaUser::Password { name: USER.0.into(), password: Secret::new(password), in_clear: false }
}

/// The first sample of each point.
async fn first_samples(source: &mut OpcUaSource) -> Vec<Sample> {
    let mut first: Vec<Option<Sample>> = vec![None; source.points().len()];
    while first.iter().any(Option::is_none) {
        let harvest = timeout(PATIENCE, source.next()).await.expect("no sample came").unwrap();
        for sample in harvest.samples {
            let slot = sample.slot;
            first[slot].get_or_insert(sample);
        }
    }
    first.into_iter().flatten().collect()
}

/// A value as `asyncua_read.py` prints it.
fn as_json(value: &Value) -> serde_json::Value {
    match value {
        Value::Float(v) => (*v).into(),
        Value::Integer(v) => v.to_string().into(),
        Value::Boolean(v) => (*v).into(),
        Value::Text(v) => v.to_string().into(),
    }
}

/// The quality of a reading whose status has this name.
fn quality(status: &str) -> Quality {
    match status {
        "Good" => Quality::Good,
        "UncertainLastUsableValue" => Quality::Uncertain(Doubt::LastKnown),
        "BadSensorFailure" => Quality::Bad(Fault::DeviceFailure),
        other => panic!("{other} is none of those that the servers give"),
    }
}

#[tokio::test]
async fn both_clients_read_the_same_of_every_scalar_type() {
    for make in Make::ALL {
        let peer = Peer::start(make).await;
        let keys = tempfile::tempdir().unwrap();
        let names = SCALARS.map(|(name, _)| name);
        let theirs = peer.read(&names).await;

        let sourced = |change: fn(&mut OpcUa)| {
            link(&peer.endpoint, &SCALARS, |opcua| {
                opcua.timestamp = Timestamp::Source;
                change(opcua);
            })
        };
        let told = sourced(|_| {});
        let read = sourced(|opcua| opcua.reading = OpcUaReading::Poll);
        let by_path = sourced(|opcua| {
            for point in &mut opcua.devices[0].points {
                point.node = format!("/Objects/nsu={NAMESPACE};Scalars/nsu={NAMESPACE};{}", point.meta.name);
            }
        });
        for link in [told, read, by_path] {
            let mut source = source(&link, keys.path());
            source.connect().await.unwrap();
            let samples = first_samples(&mut source).await;
            source.close().await;
            for (name, sample) in names.iter().zip(&samples) {
                let ours = sample.value.as_ref().map_or(serde_json::Value::Null, as_json);
                assert_eq!(ours, theirs[name]["value"], "{make:?} {name}: {sample:?}");
                let status = theirs[name]["status"].as_str().unwrap();
                assert_eq!(sample.quality, quality(status), "{make:?} {name}");
                let time = theirs[name]["source"].as_i64().unwrap();
                assert_eq!(sample.stamp, Stamp::device(time), "{make:?} {name}");
            }
        }
        // Guards the guard: had the other client read nothing, all would be equal.
        assert_eq!(theirs["Int64"]["value"], "-9007199254740993");
        assert_eq!(theirs["Old"]["status"], "UncertainLastUsableValue");
        peer.server.stop().await.unwrap();
    }
}

#[tokio::test]
async fn encrypted_values_go_on_and_a_wrong_password_is_refused() {
    for make in Make::ALL {
        encrypted_values_go_on(make).await;
    }
}

async fn encrypted_values_go_on(make: Make) {
    let peer = Peer::start(make).await;
    let keys = tempfile::tempdir().unwrap();
    let ticks = [("Ticks", DataType::Integer), ("Array", DataType::Float)];
    let secured = |password: &str| {
        link(&peer.endpoint, &ticks, |opcua| {
            opcua.security = secured(OpcUaPolicy::Basic256Sha256, OpcUaMode::SignAndEncrypt);
            opcua.user = user(password);
        })
    };
    let mut intruder = source(&secured("guess"), keys.path());
    let fault = intruder.connect().await.unwrap_err();
    assert!(matches!(&fault, LinkFault::Refused { why, .. } if why.contains("`password`")), "{fault}");

    let mut source = source(&secured(USER.1), keys.path());
    source.connect().await.unwrap();
    let first = first_samples(&mut source).await;
    assert_eq!(first[1].quality, Quality::Bad(Fault::WrongType), "an array is no reading");
    let Some(Value::Integer(begin)) = first[0].value else { panic!("{first:?}") };
    let mut last = begin;
    while last < begin + 10 {
        let harvest = timeout(PATIENCE, source.next()).await.expect("the ticks stopped").unwrap();
        for sample in harvest.samples.iter().filter(|sample| sample.slot == 0) {
            let Some(Value::Integer(tick)) = sample.value else { panic!("{sample:?}") };
            assert!(tick > last, "{tick} after {last}");
            last = tick;
        }
    }
    source.close().await;
}

#[tokio::test]
async fn a_deadband_keeps_small_changes_at_the_server() {
    for make in Make::ALL {
        small_changes_stay_at(make).await;
    }
}

async fn small_changes_stay_at(make: Make) {
    let peer = Peer::start(make).await;
    let keys = tempfile::tempdir().unwrap();
    let ticks = [("Ticks", DataType::Integer)];
    let link = link(&peer.endpoint, &ticks, |opcua| {
        let points = &mut opcua.devices[0].points;
        let mut coarse = points[0].clone();
        coarse.meta.name = Name::new("Coarse").unwrap();
        coarse.deadband = Some(Deadband::Absolute(1e6));
        points.push(coarse);
    });
    let mut source = source(&link, keys.path());
    source.connect().await.unwrap();
    let mut reports = [0, 0];
    while reports[0] < 10 || reports[1] == 0 {
        let harvest = timeout(PATIENCE, source.next()).await.expect("the ticks stopped").unwrap();
        harvest.samples.iter().for_each(|sample| reports[sample.slot] += 1);
    }
    source.close().await;
    assert_eq!(reports[1], 1, "the first value, and no change after it");
}

#[tokio::test]
async fn every_policy_and_mode_lets_a_password_and_a_user_certificate_in() {
    for make in Make::ALL {
        every_policy_and_mode_lets_users_in(make).await;
    }
}

async fn every_policy_and_mode_lets_users_in(make: Make) {
    let peer = Peer::start(make).await;
    let keys = tempfile::tempdir().unwrap();
    let ticks = [("Ticks", DataType::Integer)];
    // A key of somebody, who is not the gateway.
    let person = tempfile::tempdir().unwrap();
    let made = Command::new(python())
        .args([script("asyncua_server.py").as_os_str(), "certificate".as_ref(), person.path().as_os_str()])
        .status();
    assert!(timeout(PATIENCE, made).await.unwrap().unwrap().success());
    let certified = OpcUaUser::Certificate {
        certificate: person.path().join("server-cert.der"),
        key: person.path().join("server-key.pem"),
    };
    for &policy in make.policies() {
        for mode in [OpcUaMode::Sign, OpcUaMode::SignAndEncrypt] {
            for user in [OpcUaUser::Anonymous, user(USER.1), certified.clone()] {
                let link = link(&peer.endpoint, &ticks, |opcua| {
                    opcua.security = secured(policy, mode);
                    opcua.allow_deprecated = policy.is_deprecated();
                    opcua.user = user.clone();
                });
                let mut source = source(&link, keys.path());
                let connected = source.connect().await;
                connected.unwrap_or_else(|fault| panic!("{make:?} {policy:?} {mode:?} {user:?}: {fault}"));
                let first = first_samples(&mut source).await;
                assert_eq!(first[0].quality, Quality::Good, "{make:?} {policy:?} {mode:?} {user:?}");
                source.close().await;
            }
        }
    }
    // Without a channel that protects, the token protects itself.
    for user in [user(USER.1), certified] {
        let link = link(&peer.endpoint, &ticks, |opcua| opcua.user = user.clone());
        let mut source = source(&link, keys.path());
        source.connect().await.unwrap_or_else(|fault| panic!("{make:?} {user:?}: {fault}"));
        source.close().await;
    }
}

#[tokio::test]
async fn another_server_in_the_place_of_a_known_one_is_refused_and_gets_no_password() {
    for make in Make::ALL {
        let first = Peer::start(make).await;
        let keys = tempfile::tempdir().unwrap();
        let secured = |trust_first_contact| {
            link(&first.endpoint, &[("Ticks", DataType::Integer)], |opcua| {
                opcua.security = secured(OpcUaPolicy::Aes256Sha256RsaPss, OpcUaMode::SignAndEncrypt);
                opcua.user = user(USER.1);
                opcua.trust_first_contact = trust_first_contact;
            })
        };
        let mut cautious = source(&secured(false), keys.path());
        let why = cautious.connect().await.unwrap_err().to_string();
        assert!(why.contains("forebay-agent opcua trust hall"), "{make:?}: {why}");
        let mut source = source(&secured(true), keys.path());
        for _ in 0..2 {
            source.connect().await.unwrap();
            source.close().await;
        }
        cautious.connect().await.unwrap_or_else(|fault| panic!("{make:?}: known by now: {fault}"));
        cautious.close().await;

        let port = first.server.port().unwrap();
        first.server.stop().await.unwrap();
        let second = Peer::start_at(make, port, 0).await;
        let why = source.connect().await.unwrap_err().to_string();
        assert!(why.contains("changed since the first contact"), "{make:?}: {why}");
        second.server.stop().await.unwrap();
    }
}

/// What the source said of each point until it has looked at its folder and all have said something.
async fn heard_of_all(source: &mut OpcUaSource) -> Vec<(String, Sample)> {
    let mut latest: Vec<Option<Sample>> = Vec::new();
    while !source.has_found_all()
        || latest.len() < source.points().len()
        || latest.iter().any(Option::is_none)
    {
        let harvest = timeout(PATIENCE, source.next()).await.expect("no sample came").unwrap();
        assert_eq!(harvest.remarks, [] as [String; 0]);
        latest.resize(source.points().len(), None);
        for sample in harvest.samples {
            let slot = sample.slot;
            latest[slot] = Some(sample);
        }
    }
    source.points().iter().map(|point| point.name.to_string()).zip(latest.into_iter().flatten()).collect()
}

#[tokio::test]
async fn a_folder_is_what_another_client_reads_there_and_again_after_a_restart_with_other_numbers() {
    for (make, polls) in Make::ALL.into_iter().flat_map(|make| [(make, false), (make, true)]) {
        let first = Peer::start(make).await;
        let port = first.server.port().unwrap();
        let keys = tempfile::tempdir().unwrap();
        let link = link(&first.endpoint, &[], |opcua| {
            let mut folder = opcua_link::folder(&format!("nsu={NAMESPACE};s=Line1")).unwrap();
            folder.exclude = vec![opcua_link::pattern("**/Diagnostics").unwrap()];
            opcua.devices[0].folders = vec![folder];
            if polls {
                opcua.reading = OpcUaReading::Poll;
            }
        });
        let ids = [
            "Line1/Oven 1/Temperature",
            "Line1/Oven-1/Temperature",
            "Line1/Press/Flow",
            "Line1/Press/Mode",
            "Line1/Press/Running",
            "Line1/Press/Serial",
            "Line1/Press/Temperature",
        ];
        let theirs = first.read(&ids).await;
        let mut source = source(&link, keys.path());
        source.connect().await.unwrap();
        let before = heard_of_all(&mut source).await;
        assert_eq!(before.len(), ids.len(), "{make:?}: {before:?}");
        for (id, (name, sample)) in ids.iter().zip(&before) {
            let wanted = id.trim_start_matches("Line1/").replace(['/', ' '], ".").replace("Oven.", "Oven-");
            // Two ovens would have one name.
            let is_marked = name.len() == wanted.len() + 9 && name.starts_with(&format!("{wanted}-"));
            assert!(
                if id.contains("Oven") { is_marked } else { *name == wanted },
                "{make:?}: {id} is {name}"
            );
            assert_eq!(sample.quality, Quality::Good, "{make:?} {name}");
            assert_eq!(sample.value.as_ref().map(as_json).unwrap(), theirs[id]["value"], "{make:?} {name}");
        }
        first.server.kill().await.unwrap();
        while timeout(PATIENCE, source.next()).await.expect("the loss was not noticed").is_ok() {}

        let second = Peer::start_at(make, port, 3).await;
        source.connect().await.unwrap();
        let after = heard_of_all(&mut source).await;
        let named =
            |points: &[(String, Sample)]| points.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!(named(&after[..before.len()]), named(&before), "{make:?}");
        assert_eq!(named(&after[before.len()..]), ["Press.New"], "{make:?}");
        for (name, sample) in &after {
            let gone = name == "Press.Flow";
            let quality = if gone { Quality::Bad(Fault::NotFound) } else { Quality::Good };
            assert_eq!(sample.quality, quality, "{make:?} {name}, polled: {polls}");
        }
        source.close().await;
        second.server.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_folder_that_is_told_in_several_answers_is_found_whole() {
    let peer = Peer::start(Make::NodeOpcua).await;
    let keys = tempfile::tempdir().unwrap();
    let link = link(&peer.endpoint, &[], |opcua| {
        let folder = opcua_link::folder(&format!("/Objects/nsu={NAMESPACE};Many")).unwrap();
        opcua.devices[0].folders = vec![folder];
    });
    let mut source = source(&link, keys.path());
    source.connect().await.unwrap();
    let points = heard_of_all(&mut source).await;
    assert_eq!(points.len(), 1_200);
    for (name, sample) in points {
        assert_eq!(sample.value, name.trim_start_matches('N').parse().ok().map(Value::Integer), "{name}");
    }
    source.close().await;
    peer.server.stop().await.unwrap();
}
