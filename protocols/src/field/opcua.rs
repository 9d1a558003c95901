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
//! `guard` looks at frames, `channel` carries requests, `peer` chooses the endpoint, `session` enters and leaves,
//! `items` finds nodes, `monitored` has them reported, `subscription` keeps notifications in order,
//! `poll` reads; `reports`, `nodes`, `paths`, `values` and `faults` are pure.

mod channel;
mod faults;
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
mod token;
mod trust;
mod trusting;
mod values;

use forebay_config::field::{Link, OpcUa, OpcUaReading, OpcUaSecurity, Protocol, Timestamp};
use opcua::core::comms::url::hostname_port_from_url;
use opcua::types::{Error, StatusCode, VariableId};
use tokio::time::{Instant, timeout};

pub use self::nodes::NodeAddress;
pub use self::trust::{Application, TrustError};
pub use self::trusting::{Shown, Trust};

use self::faults::Step;
use self::items::{Item, Items, Portions, Refusal};
use self::monitored::Asking;
use self::peer::Peer;
use self::poll::Poll;
use self::reports::gather;
use self::session::Session;
use self::subscription::Subscription;
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
    reading: OpcUaReading,
    asking: Asking,
    timestamp: Timestamp,
    /// What this server was found to take in one request.
    portions: Portions,
    running: Option<Running>,
    /// Created, and not running yet or not left yet.
    session: Option<Session>,
}

/// What lives as long as a session reports.
struct Running {
    way: Way,
    items: Items,
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
        let peer = peer_of(link, opcua, application)?;
        Ok(Self {
            peer,
            points,
            items,
            reading: opcua.reading,
            asking: Asking { queue_size: opcua.queue_size, limit: link.timeout, retry: link.backoff_max },
            timestamp: opcua.timestamp,
            portions: Portions::default(),
            running: None,
            session: None,
        })
    }

    /// All of `connect` but its time limit. The session is kept from the moment it exists, so that
    /// it can be left wherever this ends.
    async fn establish(&mut self) -> Result<(), LinkFault> {
        let door = self.peer.find_door().await?;
        let channel = self.peer.open(&door).await?;
        let (session, welcome) = Session::create(&self.peer, &door, channel).await?;
        let session = self.session.insert(session);
        session.activate(&self.peer, &door, welcome).await?;
        let prepare = |error: Error| self.peer.fault(Step::Prepare, &error);
        let items = Items::prepare(session, self.items.len(), &mut self.portions).await.map_err(prepare)?;
        let way = match self.reading {
            OpcUaReading::Subscribe { publishing_interval } => {
                let made = Subscription::create(session, publishing_interval, self.peer.limit).await;
                Way::Told(made.map_err(prepare)?)
            }
            OpcUaReading::Poll => Way::Read(Poll::default()),
        };
        self.running = Some(Running { way, items, listened_until: Instant::now() });
        Ok(())
    }

    /// One step of a running session.
    async fn step(&mut self) -> Result<Harvest, Error> {
        let (Some(session), Some(running)) = (&mut self.session, &mut self.running) else {
            return Err(Error::new(StatusCode::BadNotConnected, "not connected"));
        };
        let Running { way, items: asked, listened_until } = running;
        let mut harvest = Harvest::default();
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
            asked.retry_at().map_or(heartbeat, |retry| retry.min(heartbeat))
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
            session.leave().await;
        }
    }
}

impl Source for OpcUaSource {
    fn points(&self) -> &[Point] {
        &self.points
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
