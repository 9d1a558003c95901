//! Links to OPC UA servers as tests want them: quick, without security, with our keys wherever it is said.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, anyhow};
use forebay_config::field::{
    DataType, Link, OpcUa, OpcUaDevice, OpcUaFolder, OpcUaPart, OpcUaPoint, OpcUaReading, OpcUaSecurity,
    OpcUaUser, PathPattern, PointKind, PointMeta, Protocol, Timestamp,
};
use forebay_config::units::Name;
use forebay_protocols::field::opcua::{Application, OpcUaSource};

/// How often values are sampled, and told.
const SAMPLING: Duration = Duration::from_millis(50);
const PUBLISHING: Duration = Duration::from_millis(100);
/// Unoptimised cryptography on a busy machine takes its time.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Until what was missing is asked for again.
const BACKOFF: Duration = Duration::from_millis(300);

/// A point of that name.
///
/// # Errors
/// When it is no name.
pub fn point(name: &str, node: &str, data_type: DataType) -> Result<OpcUaPoint> {
    let meta = PointMeta {
        name: named(name)?,
        unit: String::new(),
        kind: PointKind::Gauge,
        scale: None,
        offset: None,
    };
    Ok(OpcUaPoint {
        meta,
        node: node.to_owned(),
        part: OpcUaPart::default(),
        data_type,
        sampling_interval: SAMPLING,
        deadband: None,
    })
}

/// A folder that begins at `node`, with all that is below it.
///
/// # Errors
/// Never: `**` is a pattern.
pub fn folder(node: &str) -> Result<OpcUaFolder> {
    Ok(OpcUaFolder {
        node: node.to_owned(),
        include: vec![pattern("**")?],
        exclude: Vec::new(),
        depth: 8,
        max_points: 10_000,
        unfold: 0,
        unit: String::new(),
        kind: None,
        sampling_interval: SAMPLING,
        deadband: None,
    })
}

/// A pattern of ways.
///
/// # Errors
/// When it is none.
pub fn pattern(text: &str) -> Result<PathPattern> {
    PathPattern::new(text).map_err(|why| anyhow!(why))
}

/// The link `hall` with the device `press`, which has these points, subscribed to anonymously; then
/// `change`.
///
/// # Errors
/// Never: names are names.
pub fn link(endpoint: &str, points: Vec<OpcUaPoint>, change: impl FnOnce(&mut OpcUa)) -> Result<Link> {
    let mut opcua = OpcUa {
        endpoint: endpoint.to_owned(),
        security: OpcUaSecurity::None,
        allow_deprecated: false,
        user: OpcUaUser::Anonymous,
        server_certificate: None,
        trust_first_contact: true,
        reading: OpcUaReading::Subscribe { publishing_interval: PUBLISHING },
        sampling_interval: SAMPLING,
        queue_size: 10,
        timestamp: Timestamp::Agent,
        devices: vec![OpcUaDevice { name: named("press")?, points, folders: Vec::new() }],
    };
    change(&mut opcua);
    Ok(Link {
        name: named("hall")?,
        interval: Duration::from_secs(1),
        timeout: TIMEOUT,
        backoff_max: BACKOFF,
        protocol: Protocol::OpcUa(opcua),
    })
}

/// The driver of `link`, with keys and the certificates of known servers in `pki_dir`.
///
/// # Errors
/// When the link cannot be set up.
pub fn source(link: &Link, pki_dir: &Path) -> Result<OpcUaSource> {
    let application = Application {
        pki_dir: pki_dir.to_owned(),
        name: "Forebay test".to_owned(),
        uri: "urn:forebay:test:gateway".to_owned(),
    };
    Ok(OpcUaSource::new(link, application)?)
}

fn named(name: &str) -> Result<Name> {
    Name::new(name).map_err(|why| anyhow!(why))
}
