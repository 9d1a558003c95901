//! OPC UA: a server's nodes to readings, in one session over one connection: by one subscription, or
//! by reading them in turn.
//!
//! - One session for each [`Source::connect`], never a second, and always a goodbye: servers have
//!   few. Nothing here reconnects; the link task does.
//! - Nodes are looked up again in each session, because a restarted server may number its
//!   namespaces and nodes otherwise. A node the server does not have is one bad reading of its own point,
//!   and is asked for again from time to time.
//! - No task and no queue: [`Source::next`] drives the connection. Where nobody calls it, TCP and
//!   then the server's own queues fill up; what the server drops there it marks, and we count.
//! - The server's certificate is pinned (`trust`); our password goes to nobody else, and in clear
//!   only where the configuration says so (`token`).
//!
//! - Folders are looked through at each connect and every hour: what is new becomes a point, what is gone a
//!   bad reading. A way by names is a point's identity, not a node's number.
//!
//! - A node is asked for once, however many points read parts of its value; arrays and structures are taken
//!   apart here. What a structure is made of the server is asked for in each session anew.
//!
//! `guard` looks at frames, `channel` carries requests, `peer` chooses the endpoint, `session` enters and leaves,
//! `items` finds nodes, `monitored` has them reported, `subscription` keeps notifications in order,
//! `poll` reads, `survey` looks through folders by `browse`, `definitions` learns types; `folders`, `reports`,
//! `unfold`, `parts`, `structures`, `nodes`, `paths`, `values` and `faults` are pure.

mod browse;
mod channel;
mod definitions;
mod faults;
mod folders;
mod guard;
pub mod incoming;
mod items;
pub mod look;
mod monitored;
mod nodes;
mod parts;
mod paths;
mod peer;
mod poll;
mod reports;
mod running;
mod session;
mod structures;
mod subscription;
mod survey;
mod token;
mod trust;
mod trusting;
mod unfold;
mod values;

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use forebay_config::field::{Link, OpcUa, OpcUaReading, OpcUaSecurity, Protocol, Timestamp};
use forebay_config::units::Name;
use opcua::core::comms::url::hostname_port_from_url;
use opcua::types::{Error, NodeId};
use tokio::time::{Instant, timeout};

pub use self::nodes::NodeAddress;
pub use self::trust::{Application, TrustError};
pub use self::trusting::{Shown, Trust};

use self::faults::Step;
use self::folders::{Finds, Folder};
use self::items::{Item, Items, Part, Portions};
use self::monitored::Asking;
use self::paths::Address;
use self::peer::Peer;
use self::poll::Poll;
use self::running::{Running, Way};
use self::session::{Abandoned, Session};
use self::structures::Types;
use self::subscription::Subscription;
use self::survey::Survey;
use self::token::User;
use self::trust::{Identity, Pin, store};
use self::unfold::Unfolder;
use self::values::Conversion;
use super::occupancy::Occupancy;
use super::source::{Harvest, LinkFault, Source};
use crate::field::scaling::Scaling;
use crate::reading::Point;

const STANDARD_PORT: u16 = 4840;

/// Why a link cannot be set up at all. Nothing but a change of configuration or files mends it.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The link is of another protocol.
    #[error("link.{link}: not an OPC UA link")]
    Protocol {
        /// The link's name.
        link: String,
    },
    /// The endpoint is no address.
    #[error("link.{link}.opcua.endpoint: `{endpoint}` is not an address like `opc.tcp://host:4840/path`")]
    Endpoint {
        /// The link's name.
        link: String,
        /// As configured.
        endpoint: String,
    },
    /// A node id cannot be read.
    #[error("link.{link}.device.{device}.points.{point}.node: {why}")]
    Node {
        /// The link's name.
        link: String,
        /// The device's name.
        device: String,
        /// The point's name.
        point: String,
        /// What is wrong with it.
        why: String,
    },
    /// A folder's node cannot be read.
    #[error("link.{link}.device.{device}.folder: {why}")]
    Folder {
        /// The link's name.
        link: String,
        /// The device's name.
        device: String,
        /// What is wrong with it.
        why: String,
    },
    /// A key or certificate, ours, the user's or the server's pinned one, cannot be used.
    #[error("link.{link}.opcua: {why}")]
    Trust {
        /// The link's name.
        link: String,
        /// The file and what is wrong with it.
        why: TrustError,
    },
}

/// The driver of one `[link.NAME.opcua]`.
pub struct OpcUaSource {
    peer: Peer,
    points: Vec<Point>,
    items: Vec<Item>,
    /// So many of them the configuration names; folders found the others.
    configured: Configured,
    folders: Vec<Folder>,
    finds: Finds,
    /// What a person was told.
    remarked: BTreeSet<String>,
    reading: OpcUaReading,
    asking: Asking,
    timestamp: Timestamp,
    /// What this server was found to take in one request.
    portions: Portions,
    running: Option<Running>,
    /// Created, and not running yet or not left yet.
    session: Option<Session>,
    /// The one before it, if it heard no goodbye.
    abandoned: Option<Abandoned>,
}

#[derive(Clone, Copy)]
struct Configured {
    points: usize,
    items: usize,
}

impl OpcUaSource {
    /// A source for `link`, not connected yet. With a security policy this makes our key and
    /// certificate if there are none, which takes some seconds on a small gateway, once.
    pub fn new(link: &Link, application: Application) -> Result<Self, SetupError> {
        let name = || link.name.to_string();
        let Protocol::OpcUa(opcua) = &link.protocol else {
            return Err(SetupError::Protocol { link: name() });
        };
        let (points, items) = points_and_items(link, opcua)?;
        let refused =
            |(device, why)| SetupError::Folder { link: name(), device: Name::to_string(&device), why };
        let folders = Folder::all(opcua).map_err(refused)?;
        let peer = peer_of(link, opcua, application)?;
        Ok(Self {
            peer,
            configured: Configured { points: points.len(), items: items.len() },
            points,
            items,
            folders,
            finds: Finds::default(),
            remarked: BTreeSet::new(),
            reading: opcua.reading,
            asking: Asking { queue_size: opcua.queue_size, limit: link.timeout, retry: link.backoff_max },
            timestamp: opcua.timestamp,
            portions: Portions::default(),
            running: None,
            session: None,
            abandoned: None,
        })
    }

    /// All of `connect` but its time limit. The session is kept from the moment it exists, so that
    /// it can be left wherever this ends.
    async fn establish(&mut self) -> Result<(), LinkFault> {
        let door = self.peer.find_door().await?;
        let mut channel = self.peer.open(&door).await?;
        if let Some(abandoned) = self.abandoned.take() {
            abandoned.leave(&self.peer, &door, &mut channel).await;
        }
        let (session, welcome) = Session::create(&self.peer, &door, channel).await?;
        let session = self.session.insert(session);
        session.activate(&self.peer, &door, welcome).await?;
        let prepare = |error: Error| self.peer.fault(Step::Prepare, &error);
        let counts = (self.items.len(), self.configured.items);
        let items = Items::prepare(session, counts, &mut self.portions).await.map_err(prepare)?;
        self.finds.forget_nodes(&mut self.items);
        let survey = Survey::new(&self.folders, self.asking.retry);
        let named = self.items.iter().take(self.configured.items);
        let nodes = configured_nodes(named, &self.points, items.namespaces());
        let way = match self.reading {
            OpcUaReading::Subscribe { publishing_interval } => {
                let made = Subscription::create(session, publishing_interval, self.peer.limit).await;
                Way::Told(made.map_err(prepare)?)
            }
            OpcUaReading::Poll => Way::Read(Poll::default()),
        };
        let now = Instant::now();
        self.running = Some(Running {
            unfolder: Unfolder::new(matches!(way, Way::Told(_))),
            way,
            items,
            survey,
            types: Types::default(),
            types_since: now,
            nodes,
            listened_until: now,
        });
        Ok(())
    }

    async fn let_go(&mut self) {
        self.running = None;
        if let Some(session) = self.session.take() {
            self.abandoned = session.leave().await;
        }
    }
}

impl Source for OpcUaSource {
    fn points(&self) -> &[Point] {
        &self.points
    }

    fn has_found_all(&self) -> bool {
        self.folders.is_empty() || self.running.as_ref().is_some_and(|running| running.survey.has_looked())
    }

    async fn connect(&mut self) -> Result<(), LinkFault> {
        // A session left over from a `connect` or `next` that was dropped.
        self.let_go().await;
        let limit = self.peer.limit;
        let outcome = match timeout(limit, self.establish()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(LinkFault::Unreachable {
                peer: self.peer.url.clone(),
                why: format!("not connected within {limit:?}"),
            }),
        };
        if outcome.is_err() {
            self.let_go().await;
        }
        outcome
    }

    async fn knock(&mut self) -> bool {
        self.peer.knock().await
    }

    async fn next(&mut self) -> Result<Harvest, LinkFault> {
        match self.step().await {
            Ok(harvest) => Ok(harvest),
            Err(error) => {
                self.let_go().await;
                Err(self.peer.fault(Step::Run, &error))
            }
        }
    }

    async fn close(&mut self) {
        self.let_go().await;
    }

    fn occupancy(&self) -> Option<Occupancy> {
        None
    }
}

fn peer_of(link: &Link, opcua: &OpcUa, application: Application) -> Result<Peer, SetupError> {
    let name = || link.name.to_string();
    let (host, port) = hostname_port_from_url(&opcua.endpoint, STANDARD_PORT)
        .map_err(|_| SetupError::Endpoint { link: name(), endpoint: opcua.endpoint.clone() })?;
    let trust = |why| SetupError::Trust { link: name(), why };
    let pin = Pin::new(
        &application,
        link.name.as_str(),
        &opcua.endpoint,
        opcua.trust_first_contact,
        opcua.server_certificate.as_deref(),
    )
    .map_err(trust)?;
    let identity = match opcua.security {
        OpcUaSecurity::None => None,
        OpcUaSecurity::Secured { .. } => Some(Identity::load_or_make(&application).map_err(trust)?),
    };
    Ok(Peer {
        url: opcua.endpoint.clone(),
        host,
        port,
        security: opcua.security,
        allow_deprecated: opcua.allow_deprecated,
        user: User::load(&opcua.user).map_err(trust)?,
        session_name: format!("{} {}", application.name, link.name),
        limit: link.timeout,
        pin,
        remembers: true,
        identity,
        store: store(&application),
        application,
    })
}

/// What `points` names by id, as it is numbered now, with the device's name.
fn configured_nodes<'a>(
    named: impl Iterator<Item = &'a Item>,
    points: &[Point],
    namespaces: &[String],
) -> HashSet<(Arc<str>, NodeId)> {
    let node = |item: &Item| match &item.address {
        Address::Node(address) => {
            let point = points.get(item.parts.first()?.slot)?;
            Some((point.device.clone(), address.resolve(namespaces)?))
        }
        _ => None,
    };
    named.filter_map(node).collect()
}

/// The points of a link, and the items that they read. Points of a device that read the same node in the same way are
/// one item.
fn points_and_items(link: &Link, opcua: &OpcUa) -> Result<(Vec<Point>, Vec<Item>), SetupError> {
    let mut points = Vec::new();
    let mut items: Vec<Item> = Vec::new();
    for device in &opcua.devices {
        let device_name = device.name.to_arc();
        let mut alike: HashMap<(&str, Duration, String), usize> = HashMap::new();
        for point in &device.points {
            let deadband = format!("{:?}", point.deadband);
            let at = match alike.entry((&point.node, point.sampling_interval, deadband)) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(place) => {
                    let address = point.node.parse().map_err(|why| SetupError::Node {
                        link: link.name.to_string(),
                        device: device.name.to_string(),
                        point: point.meta.name.to_string(),
                        why,
                    })?;
                    let (sampling_interval, deadband) = (point.sampling_interval, point.deadband);
                    items.push(Item { address, sampling_interval, deadband, parts: Vec::new() });
                    *place.insert(items.len() - 1)
                }
            };
            if let Some(item) = items.get_mut(at) {
                let scaling = Scaling::new(point.meta.scale, point.meta.offset);
                let conversion = Conversion { wanted: point.data_type, scaling };
                item.parts.push(Part { slot: points.len(), part: point.part.clone(), conversion });
            }
            points.push(Point {
                device: device_name.clone(),
                name: point.meta.name.to_arc(),
                unit: point.meta.unit.as_str().into(),
                kind: point.meta.kind.into(),
                data_type: point.data_type.into(),
            });
        }
    }
    Ok((points, items))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_many_points_read_parts_of_a_node_it_is_asked_for_once() {
        let toml = "[agent]\nsite = \"a\"\ngateway = \"b\"\n[link.l.opcua]\nendpoint = \"opc.tcp://plc\"\n\
                    [link.l.device.d.points]\n\
                    zones = { node = \"ns=1;s=Zones\", elements = \"0:199\" }\n\
                    first = { node = \"ns=1;s=Zones\", element = 0, unit = \"K\", scale = 2.0 }\n\
                    x = { node = \"ns=1;s=Robot\", field = \"Position.X\" }\n\
                    mode = { node = \"ns=1;s=Robot\", field = \"Mode\", type = \"integer\" }\n\
                    slow = { node = \"ns=1;s=Robot\", field = \"Mode\", sampling_interval = \"1m\" }\n\
                    [link.l.device.e.points]\nx = { node = \"ns=1;s=Robot\", field = \"Position.X\" }\n";
        let agent = forebay_config::load::agent_text("a.toml", toml).unwrap();
        let Protocol::OpcUa(opcua) = &agent.links[0].protocol else { panic!("an OPC UA link") };
        let (points, items) = points_and_items(&agent.links[0], opcua).unwrap();
        assert_eq!(points.len(), 205);
        // Who wants a value more rarely, or for another device, has it for himself.
        let parts: Vec<usize> = items.iter().map(|item| item.parts.len()).collect();
        assert_eq!(parts, [201, 2, 1, 1]);
        assert_eq!((&*points[7].name, items[0].parts[7].slot), ("zones[7]", 7));
        assert_eq!((&*points[200].name, items[0].parts[200].slot), ("first", 200));
    }
}
