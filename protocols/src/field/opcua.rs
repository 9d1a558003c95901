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
//! `guard` looks at frames, `channel` carries requests, `peer` chooses the endpoint, `session` enters and leaves,
//! `items` finds nodes, `monitored` has them reported, `subscription` keeps notifications in order,
//! `poll` reads, `survey` looks through folders by `browse`; `folders`, `reports`, `nodes`, `paths`, `values` and
//! `faults` are pure.

mod browse;
mod channel;
mod faults;
mod folders;
mod guard;
pub mod incoming;
mod items;
pub mod look;
mod monitored;
mod nodes;
mod paths;
mod peer;
mod poll;
mod reports;
mod session;
mod subscription;
mod survey;
mod token;
mod trust;
mod trusting;
mod values;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use forebay_config::field::{Link, OpcUa, OpcUaReading, OpcUaSecurity, Protocol, Timestamp};
use forebay_config::units::Name;
use opcua::core::comms::url::hostname_port_from_url;
use opcua::types::{Error, NodeId, StatusCode, VariableId};
use tokio::time::{Instant, timeout};

pub use self::nodes::NodeAddress;
pub use self::trust::{Application, TrustError};
pub use self::trusting::{Shown, Trust};

use self::faults::Step;
use self::folders::{Changes, Finds, Folder};
use self::items::{Item, Items, Portions, Refusal};
use self::monitored::Asking;
use self::paths::Address;
use self::peer::Peer;
use self::poll::Poll;
use self::reports::gather;
use self::session::{Abandoned, Session};
use self::subscription::Subscription;
use self::survey::{Surroundings, Survey, Surveyed};
use self::token::User;
use self::trust::{Identity, Pin, store};
use self::values::{Conversion, quality};
use super::occupancy::Occupancy;
use super::source::{Harvest, LinkFault, Sample, Source};
use crate::field::scaling::Scaling;
use crate::reading::{Fault, Point, Quality, Stamp};

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
    /// So many of the points are named by the configuration; folders found the others.
    configured: usize,
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

/// What lives as long as a session reports.
struct Running {
    way: Way,
    items: Items,
    survey: Survey,
    /// Nodes that the configuration names by id, with the device's name.
    nodes: HashSet<(Arc<str>, NodeId)>,
    /// When `next` last returned: since then nobody has listened.
    listened_until: Instant,
}

/// How values come.
enum Way {
    Told(Subscription),
    Read(Poll),
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
            configured: points.len(),
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
        let counts = (self.items.len(), self.configured);
        let items = Items::prepare(session, counts, &mut self.portions).await.map_err(prepare)?;
        self.finds.forget_nodes(&mut self.items);
        let survey = Survey::new(&self.folders, self.asking.retry);
        let named = self.items.iter().zip(&self.points).take(self.configured);
        let nodes = configured_nodes(named, items.namespaces());
        let way = match self.reading {
            OpcUaReading::Subscribe { publishing_interval } => {
                let made = Subscription::create(session, publishing_interval, self.peer.limit).await;
                Way::Told(made.map_err(prepare)?)
            }
            OpcUaReading::Poll => Way::Read(Poll::default()),
        };
        self.running = Some(Running { way, items, survey, nodes, listened_until: Instant::now() });
        Ok(())
    }

    /// One step of a running session.
    async fn step(&mut self) -> Result<Harvest, Error> {
        let (Some(session), Some(running)) = (&mut self.session, &mut self.running) else {
            return Err(Error::new(StatusCode::BadNotConnected, "not connected"));
        };
        let Running { way, items: asked, survey, nodes, listened_until } = running;
        let mut harvest = Harvest::default();
        let around =
            Surroundings { folders: &self.folders, namespaces: asked.namespaces(), configured: nodes };
        if let Some(surveyed) = survey.step(session, &around, &mut self.portions).await? {
            let Surveyed { found, remarks, is_first } = surveyed;
            let lists = (&mut self.points, &mut self.items);
            let Changes { new, moved, overflows } =
                self.finds.take(found, &self.folders, lists, self.configured);
            let count = self.points.len();
            if is_first {
                // In a new session all have to be asked for; those that are not there say so.
                asked.note_found(count, self.configured..count);
            } else {
                asked.note_found(count, new);
                asked.note_moved(moved);
            }
            let overflow = overflows.then(|| {
                "nodes of folders came and went, twice as many as `max_points` allows; new ones are not taken until \
                 the agent is started again"
                    .to_owned()
            });
            let is_news = |remark: &String| self.remarked.insert(remark.clone());
            harvest.remarks.extend(remarks.into_iter().chain(overflow).filter(is_news));
        }
        if asked.are_waiting() {
            let (portions, how) = (&mut self.portions, self.asking);
            let refusals = match way {
                Way::Told(subscription) => {
                    asked.ask(session, subscription.id, &self.items, portions, how).await?
                }
                Way::Read(poll) => poll.ask(session, asked, &self.items, portions, how.retry).await?,
            };
            // One portion at a time, so that what was asked for before is reported meanwhile.
            let stamp = Stamp::now();
            harvest.samples.extend(refusals.into_iter().map(|refusal| absent(refusal, stamp)));
        }
        let heartbeat = session.channel.asked_at() + session.timeout / 3;
        let until = if asked.are_waiting() || !harvest.samples.is_empty() {
            Instant::now()
        } else {
            [asked.retry_at(), survey.due()].into_iter().flatten().fold(heartbeat, Instant::min)
        };
        let begin = harvest.samples.len();
        let came = match way {
            Way::Told(subscription) => {
                subscription.excuse(listened_until.elapsed());
                let until = until.min(subscription.deadline());
                match subscription.next(session, self.asking.limit, until).await? {
                    Some(news) => {
                        harvest.discarded += news.lost;
                        for message in news.messages {
                            let server_time = |time| session.channel.server_time(time);
                            gather(&self.items, self.timestamp, message, server_time, &mut harvest)?;
                        }
                        true
                    }
                    None if subscription.deadline() <= Instant::now() => {
                        return Err(Error::new(StatusCode::BadTimeout, "no sign of life"));
                    }
                    None => false,
                }
            }
            Way::Read(poll) => {
                session.channel.idle(poll.due().map_or(until, |due| due.min(until))).await?;
                let samples = poll.read(session, &self.items, self.timestamp, &mut self.portions).await?;
                let came = !samples.is_empty();
                harvest.samples.extend(samples);
                came
            }
        };
        if came {
            // A node that is not there is told once, and its item is asked for again.
            let retry = self.asking.retry;
            let mut at = 0;
            harvest.samples.retain(|sample| {
                at += 1;
                match sample.quality {
                    _ if at <= begin => true,
                    Quality::Bad(Fault::NotFound) => {
                        if let Way::Read(poll) = way {
                            poll.forget(sample.slot);
                        }
                        asked.note_absent(sample.slot, retry)
                    }
                    _ => {
                        asked.note_present(sample.slot);
                        true
                    }
                }
            });
        } else {
            let now = Instant::now();
            // Where reports are rarer than the session lasts, something else must keep it.
            if heartbeat <= now {
                session.read(&[VariableId::Server_ServerStatus_State.into()]).await?;
            }
            if asked.retry_at().is_some_and(|at| at <= now) {
                let subscription = match way {
                    Way::Told(subscription) => subscription.id,
                    Way::Read(_) => 0,
                };
                asked.retry(session, subscription, self.asking.limit).await?;
            }
        }
        *listened_until = Instant::now();
        Ok(harvest)
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
    named: impl Iterator<Item = (&'a Item, &'a Point)>,
    namespaces: &[String],
) -> HashSet<(Arc<str>, NodeId)> {
    let node = |(item, point): (&Item, &Point)| match &item.address {
        Address::Node(address) => Some((point.device.clone(), address.resolve(namespaces)?)),
        _ => None,
    };
    named.filter_map(node).collect()
}

fn absent(Refusal { slot, status }: Refusal, stamp: Stamp) -> Sample {
    Sample { slot, stamp, value: None, quality: quality(status) }
}

fn points_and_items(link: &Link, opcua: &OpcUa) -> Result<(Vec<Point>, Vec<Item>), SetupError> {
    let mut points = Vec::new();
    let mut items = Vec::new();
    for device in &opcua.devices {
        let device_name = device.name.to_arc();
        for point in &device.points {
            let address = point.node.parse().map_err(|why| SetupError::Node {
                link: link.name.to_string(),
                device: device.name.to_string(),
                point: point.meta.name.to_string(),
                why,
            })?;
            points.push(Point {
                device: device_name.clone(),
                name: point.meta.name.to_arc(),
                unit: point.meta.unit.as_str().into(),
                kind: point.meta.kind.into(),
                data_type: point.data_type.into(),
            });
            items.push(Item {
                address,
                sampling_interval: point.sampling_interval,
                deadband: point.deadband,
                conversion: Conversion {
                    wanted: point.data_type,
                    scaling: Scaling::new(point.meta.scale, point.meta.offset),
                },
            });
        }
    }
    Ok((points, items))
}
