//! Looking at a server by hand: what it offers, and what it serves. Never writes, subscribes to
//! nothing, and trusts nothing for longer than the look.

use std::collections::BTreeSet;

use forebay_config::field::{DataType, Link, OpcUaPart, Protocol};
use opcua::types::{DataValue, Error, NodeId, ObjectId, StatusCode, UserTokenType, Variant};
use tokio::time::timeout;

use super::browse::{Finding, Walk};
use super::faults::{Step, plain};
use super::items::{Items, Portions};
use super::nodes::NodeAddress;
use super::parts::Whole;
use super::paths::BrowsePath;
use super::peer::{Peer, name};
use super::session::Session;
use super::structures::{Trouble, Types};
use super::survey::MOST_ENCODINGS;
use super::trust::{Application, leaf, thumbprint};
use super::values::{Conversion, natural};
use super::{SetupError, peer_of};
use crate::field::source::LinkFault;
use crate::reading::Value;

/// Letters of a value that people are shown.
const LETTERS: usize = 40;
/// Elements and fields of one value that people are shown.
const PARTS: usize = 1_000;

/// A connection for somebody who looks.
pub struct Looker {
    peer: Peer,
    session: Option<Session>,
}

/// One of the ways into a server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Offer {
    /// As `security_policy` takes it.
    pub policy: String,
    /// As `security_mode` takes it.
    pub mode: String,
    /// Who is let in, in words.
    pub users: Vec<&'static str>,
    /// Of the server's certificate, if it shows one.
    pub thumbprint: Option<String>,
}

/// What a server serves, or the part of it that was asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tree {
    /// Each behind its parent, and before the next child of that.
    pub nodes: Vec<Node>,
    /// There is more: deeper, or beyond the limit.
    pub cut: bool,
}

/// A node below the Objects folder.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its browse name.
    pub name: String,
    /// As `node` takes it, by id.
    pub address: String,
    /// As `node` takes it, by browse path.
    pub path: String,
    /// Names of the nodes above it, the nearest last.
    pub above: Vec<String>,
    /// What is there.
    pub seen: Seen,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    /// An object: something with nodes below it.
    Folder,
    /// A variable with a value that can be a reading, and that value for people.
    Value(DataType, String),
    /// An array of values that can be readings: its length in each dimension, and its first values for people.
    Array(DataType, Vec<u32>, String),
    /// A structure, or an array of them: the parts that can be readings, and their values for people.
    Parts(Vec<(OpcUaPart, DataType, String)>),
    /// A variable without: why.
    Other(String),
}

impl Looker {
    /// For the server of an OPC UA link, whose points do not matter.
    ///
    /// # Errors
    /// As [`super::OpcUaSource::new`].
    pub fn new(link: &Link, application: Application) -> Result<Self, SetupError> {
        let Protocol::OpcUa(opcua) = &link.protocol else {
            return Err(SetupError::Protocol { link: link.name.to_string() });
        };
        let peer = Peer { remembers: false, ..peer_of(link, opcua, application)? };
        Ok(Self { peer, session: None })
    }

    /// The ways into the server, each once. Asks without a session.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn offers(&self) -> Result<Vec<Offer>, LinkFault> {
        let asked = timeout(self.peer.limit, self.peer.endpoints()).await;
        let endpoints = asked.unwrap_or_else(|_| Err(self.late()))?;
        let offers: BTreeSet<Offer> = endpoints
            .iter()
            .map(|endpoint| {
                let users: BTreeSet<&'static str> = endpoint
                    .user_identity_tokens
                    .iter()
                    .flatten()
                    .map(|token| word(token.token_type))
                    .collect();
                let shown = leaf(endpoint.server_certificate.as_ref());
                Offer {
                    policy: name(endpoint.security_policy_uri.as_ref()).to_owned(),
                    mode: format!("{:?}", endpoint.security_mode),
                    users: users.into_iter().collect(),
                    thumbprint: (!shown.is_empty()).then(|| thumbprint(shown)),
                }
            })
            .collect();
        Ok(offers.into_iter().collect())
    }

    /// Enters, and looks at no more than `most` nodes, `depth` levels deep, breadth first. The
    /// server's own diagnostics are left out. To be followed by [`Looker::leave`].
    ///
    /// # Errors
    /// When the server does not let us in, or stops answering.
    pub async fn tree(&mut self, depth: usize, most: usize) -> Result<Tree, LinkFault> {
        let entered = timeout(self.peer.limit, self.enter()).await;
        entered.unwrap_or_else(|_| Err(self.late()))?;
        match &mut self.session {
            Some(session) => {
                walk(session, depth, most).await.map_err(|error| self.peer.fault(Step::Run, &error))
            }
            None => Err(self.late()),
        }
    }

    /// Says goodbye, if there is anybody to say it to.
    pub async fn leave(&mut self) {
        if let Some(session) = self.session.take() {
            // One that heard nothing ends with its timeout: nobody comes back.
            drop(session.leave().await);
        }
    }

    async fn enter(&mut self) -> Result<(), LinkFault> {
        self.leave().await;
        let door = self.peer.find_door().await?;
        let channel = self.peer.open(&door).await?;
        let (session, welcome) = Session::create(&self.peer, &door, channel).await?;
        self.session.insert(session).activate(&self.peer, &door, welcome).await
    }

    fn late(&self) -> LinkFault {
        let why = format!("no answer within {:?}", self.peer.limit);
        LinkFault::Unreachable { peer: self.peer.url.clone(), why }
    }
}

fn word(kind: UserTokenType) -> &'static str {
    match kind {
        UserTokenType::Anonymous => "anybody",
        UserTokenType::UserName => "user name and password",
        UserTokenType::Certificate => "user certificate",
        UserTokenType::IssuedToken => "issued token",
    }
}

async fn walk(session: &mut Session, depth: usize, most: usize) -> Result<Tree, Error> {
    let mut portions = Portions::default();
    let namespaces = Items::prepare(session, (0, 0), &mut portions).await?.namespaces().to_vec();
    let mut walk = Walk::new(ObjectId::ObjectsFolder.into(), depth, most);
    while walk.step(session, &mut portions, |_| true).await? {}
    let values = values(session, walk.findings(), &portions).await?;
    let mut types = Types::default();
    let mut seen = Vec::with_capacity(values.len());
    for value in values {
        seen.push(match value {
            Some(told) => Some(see(told, session, &mut types, &mut portions).await?),
            None => None,
        });
    }
    Ok(Tree { cut: walk.cut || walk.deeper, nodes: in_order(&walk, seen, &namespaces) })
}

/// The value of each finding that has one.
async fn values(
    session: &mut Session,
    findings: &[Finding],
    portions: &Portions,
) -> Result<Vec<Option<DataValue>>, Error> {
    let variables: Vec<usize> =
        (0..findings.len()).filter(|at| findings.get(*at).is_some_and(|found| found.is_variable)).collect();
    let mut values = vec![None; findings.len()];
    for part in variables.chunks(portions.reads.max(1)) {
        let nodes: Vec<NodeId> =
            part.iter().filter_map(|at| findings.get(*at)).map(|found| found.node.clone()).collect();
        for (at, value) in part.iter().zip(session.read(&nodes).await?) {
            if let Some(place) = values.get_mut(*at) {
                *place = Some(value);
            }
        }
    }
    Ok(values)
}

/// Each node behind its parent.
fn in_order(walk: &Walk, mut values: Vec<Option<Seen>>, namespaces: &[String]) -> Vec<Node> {
    let findings = walk.findings();
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); findings.len()];
    let mut waiting = Vec::new();
    for (at, finding) in findings.iter().enumerate().rev() {
        match finding.parent.and_then(|parent| children.get_mut(parent)) {
            Some(siblings) => siblings.push(at),
            None => waiting.push(at),
        }
    }
    let mut nodes = Vec::with_capacity(findings.len());
    while let Some(at) = waiting.pop() {
        let Some(finding) = findings.get(at) else { continue };
        waiting.extend(children.get(at).into_iter().flatten());
        let mut above: Vec<String> =
            walk.way(at).into_iter().map(|name| name.name.as_ref().to_owned()).collect();
        above.pop();
        nodes.push(Node {
            name: finding.name.name.as_ref().to_owned(),
            address: NodeAddress::of(&finding.node, namespaces).to_string(),
            path: walk.path(at, &BrowsePath::objects(), namespaces).to_string(),
            above,
            seen: match values.get_mut(at).and_then(Option::take) {
                None if finding.is_variable => Seen::Other("no value".to_owned()),
                None => Seen::Folder,
                Some(seen) => seen,
            },
        });
    }
    nodes
}

async fn see(
    told: DataValue,
    session: &mut Session,
    types: &mut Types,
    portions: &mut Portions,
) -> Result<Seen, Error> {
    let compound = match &told.value {
        Some(value @ (Variant::Array(_) | Variant::ExtensionObject(_))) => value,
        _ => return Ok(seen(told)),
    };
    if told.status.is_some_and(|status| status.is_bad()) {
        return Ok(seen(told));
    }
    for _ in 0..MOST_ENCODINGS {
        let leaves = Whole::new(compound, types).leaves(PARTS, |leaf| natural(leaf).is_some());
        match leaves {
            Ok(None) => return Ok(Seen::Other(format!("more than {PARTS} elements and fields"))),
            Ok(Some(leaves)) => return Ok(unfolded(compound, leaves)),
            Err(Trouble::Unlearned(encoding)) => types.learn(session, &encoding, portions).await?,
            Err(Trouble::Why(words)) => return Ok(Seen::Other(format!("a structure; {words}"))),
        }
    }
    Ok(Seen::Other("a structure of too many others".to_owned()))
}

fn unfolded(value: &Variant, leaves: Vec<(OpcUaPart, Variant)>) -> Seen {
    let parts = leaves.into_iter().filter_map(|(part, value)| {
        let wanted = natural(&value)?;
        let value = (Conversion { wanted, scaling: None }).reading(Some(value), StatusCode::Good).0?;
        Some((part, wanted, value))
    });
    let parts: Vec<(OpcUaPart, DataType, Value)> = parts.collect();
    let Some((_, kind, _)) = parts.first() else {
        return Seen::Other("no element that could be a reading".to_owned());
    };
    match value {
        Variant::Array(array)
            if parts.len() == array.values.len()
                && parts.iter().all(|(part, other, _)| part.steps().len() == 1 && other == kind) =>
        {
            let dimensions = match &array.dimensions {
                Some(dimensions) if !dimensions.is_empty() => dimensions.clone(),
                _ => vec![u32::try_from(array.values.len()).unwrap_or(u32::MAX)],
            };
            let mut first: Vec<String> = parts.iter().take(5).map(|(_, _, value)| letters(value)).collect();
            first.extend((parts.len() > first.len()).then(|| "…".to_owned()));
            Seen::Array(*kind, dimensions, first.join(", "))
        }
        _ => {
            Seen::Parts(parts.into_iter().map(|(part, kind, value)| (part, kind, letters(&value))).collect())
        }
    }
}

fn seen(told: DataValue) -> Seen {
    let status = told.status.unwrap_or(StatusCode::Good);
    if status.is_bad() {
        return Seen::Other(plain(status));
    }
    let Some(variant) = told.value else { return Seen::Other("no value".to_owned()) };
    let wanted = match &variant {
        Variant::Empty => return Seen::Other("no value".to_owned()),
        variant => natural(variant).unwrap_or(DataType::Text),
    };
    match (Conversion { wanted, scaling: None }).reading(Some(variant), status).0 {
        Some(value) => Seen::Value(wanted, letters(&value)),
        None => Seen::Other("no single value".to_owned()),
    }
}

/// A value for people: one line, and not a long one.
fn letters(value: &Value) -> String {
    let text = match value {
        Value::Float(value) => value.to_string(),
        Value::Integer(value) => value.to_string(),
        Value::Boolean(value) => value.to_string(),
        Value::Text(text) => format!("{text:?}"),
    };
    if text.chars().count() <= LETTERS {
        return text;
    }
    text.chars().take(LETTERS).chain(['…']).collect()
}
