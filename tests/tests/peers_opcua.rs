//! The OPC UA driver against a server, and checked by a client, that nobody here wrote (asyncua).
//!
//! `FOREBAY_TEST_PYTHON` names a Python that has asyncua; `tests/run` prepares one.

#![expect(clippy::unwrap_used, clippy::panic, reason = "in a test file a panic is a failed test")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use forebay_config::field::{
    DataType, Deadband, Link, OpcUa, OpcUaDevice, OpcUaMode, OpcUaPoint, OpcUaPolicy, OpcUaReading,
    OpcUaSecurity, OpcUaUser, PointKind, PointMeta, Protocol, Timestamp,
};
use forebay_config::units::{Name, Secret};
use forebay_protocols::field::opcua::{Application, OpcUaSource};
use forebay_protocols::field::source::{LinkFault, Sample, Source};
use forebay_protocols::reading::{Fault, Quality, Value};
use forebay_tests::opcua_server::{NAMESPACE, OpcUaServer};
use tokio::process::Command;
use tokio::time::timeout;

/// Python takes its time to build an address space on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Names of nodes, and the type of the point that reads each.
const SCALARS: [(&str, DataType); 15] = [
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
    ("Sick", DataType::Float),
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
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(name)
}

/// A running asyncua server.
struct Peer {
    endpoint: String,
    _server: OpcUaServer,
    _keys: tempfile::TempDir,
}

impl Peer {
    async fn start() -> Self {
        let keys = tempfile::tempdir().unwrap();
        let server = OpcUaServer::start(0, keys.path(), 0).await.unwrap();
        Self { endpoint: server.endpoint.clone(), _server: server, _keys: keys }
    }

    /// What asyncua's own client reads there.
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
    let points = names
        .iter()
        .map(|(name, data_type)| OpcUaPoint {
            meta: PointMeta {
                name: Name::new(name).unwrap(),
                unit: String::new(),
                kind: PointKind::Gauge,
                scale: None,
                offset: None,
            },
            node: format!("nsu={NAMESPACE};s={name}"),
            data_type: *data_type,
            sampling_interval: Duration::from_millis(100),
            deadband: None,
        })
        .collect();
    let mut opcua = OpcUa {
        endpoint: endpoint.to_owned(),
        security: OpcUaSecurity::None,
        allow_deprecated: false,
        user: OpcUaUser::Anonymous,
        server_certificate: None,
        trust_first_contact: true,
        reading: OpcUaReading::Subscribe { publishing_interval: Duration::from_millis(100) },
        sampling_interval: Duration::from_millis(100),
        queue_size: 10,
        timestamp: Timestamp::Agent,
        devices: vec![OpcUaDevice { name: Name::new("peer").unwrap(), points }],
    };
    change(&mut opcua);
    Link {
        name: Name::new("asyncua").unwrap(),
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(60),
        backoff_max: Duration::from_secs(60),
        protocol: Protocol::OpcUa(opcua),
    }
}

fn source(link: &Link, keys: &Path) -> OpcUaSource {
    let application = Application {
        pki_dir: keys.to_owned(),
        name: "Forebay test".into(),
        uri: "urn:forebay:test:gateway".into(),
    };
    OpcUaSource::new(link, application).unwrap()
}

fn secured(policy: OpcUaPolicy, mode: OpcUaMode) -> OpcUaSecurity {
    OpcUaSecurity::Secured { policy, mode }
}

fn user(password: &str) -> OpcUaUser {
    OpcUaUser::Password { name: "test".into(), password: Secret::new(password), in_clear: false }
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

#[tokio::test]
async fn both_clients_read_the_same_of_every_scalar_type() {
    let peer = Peer::start().await;
    let keys = tempfile::tempdir().unwrap();
    let names = SCALARS.map(|(name, _)| name);
    let theirs = peer.read(&names).await;

    let told = link(&peer.endpoint, &SCALARS, |_| {});
    let read = link(&peer.endpoint, &SCALARS, |opcua| opcua.reading = OpcUaReading::Poll);
    let by_path = link(&peer.endpoint, &SCALARS, |opcua| {
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
            assert_eq!(ours, theirs[name], "{name}: {sample:?}");
            let quality = if *name == "Sick" { Quality::Bad(Fault::DeviceFailure) } else { Quality::Good };
            assert_eq!(sample.quality, quality, "{name}");
        }
    }
    // Guards the guard: had the other client read nothing, all would be equal.
    assert_eq!(theirs["Int64"], "-9007199254740993");
}

#[tokio::test]
async fn encrypted_values_go_on_and_a_wrong_password_is_refused() {
    let peer = Peer::start().await;
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

    let mut source = source(&secured("secret"), keys.path());
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
    let peer = Peer::start().await;
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
    let peer = Peer::start().await;
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
    for policy in [
        OpcUaPolicy::Basic256Sha256,
        OpcUaPolicy::Aes128Sha256RsaOaep,
        OpcUaPolicy::Aes256Sha256RsaPss,
        OpcUaPolicy::Basic256,
        OpcUaPolicy::Basic128Rsa15,
    ] {
        for mode in [OpcUaMode::Sign, OpcUaMode::SignAndEncrypt] {
            for user in [OpcUaUser::Anonymous, user("secret"), certified.clone()] {
                let link = link(&peer.endpoint, &ticks, |opcua| {
                    opcua.security = secured(policy, mode);
                    opcua.allow_deprecated = policy.is_deprecated();
                    opcua.user = user.clone();
                });
                let mut source = source(&link, keys.path());
                let connected = source.connect().await;
                connected.unwrap_or_else(|fault| panic!("{policy:?} {mode:?} {user:?}: {fault}"));
                let first = first_samples(&mut source).await;
                assert_eq!(first[0].quality, Quality::Good, "{policy:?} {mode:?} {user:?}");
                source.close().await;
            }
        }
    }
    // Without a channel that protects, the token protects itself.
    for user in [user("secret"), certified] {
        let link = link(&peer.endpoint, &ticks, |opcua| opcua.user = user.clone());
        let mut source = source(&link, keys.path());
        source.connect().await.unwrap_or_else(|fault| panic!("{user:?}: {fault}"));
        source.close().await;
    }
}
