//! Looking for what the folders of a link hold, one request at a time, so that points that are known are
//! reported meanwhile. Looked through at each connect, and again from time to time: soon where something was
//! missing, else every hour.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use forebay_config::field::{DataType, OpcUaPart};
use opcua::types::{AttributeId, DataValue, Error, NodeId, StatusCode, Variant};
use tokio::time::Instant;

use super::browse::Walk;
use super::faults::plain;
use super::folders::{Folder, Leaf, Variable, digests, mark, mark_by_node};
use super::items::{Portions, SMALLEST_PORTION, smaller, too_much, unsupported};
use super::parts::Whole;
use super::paths::{Address, target};
use super::session::Session;
use super::structures::{Trouble, Types};
use super::values::natural;

/// Nodes that one folder goes through, variables or not.
const MOST_NODES: usize = 20_000;
/// Types in one value that are learnt one after the other.
pub(super) const MOST_ENCODINGS: usize = 64;
/// Between two looks at a server with which all was well.
const CALM: Duration = Duration::from_secs(3600);

/// The looks of one session.
pub(super) struct Survey {
    retry: Duration,
    due: Option<Instant>,
    /// Under way, if any.
    look: Option<Look>,
    /// How many were finished.
    looks: usize,
}

/// One look at all folders of a link.
struct Look {
    folders: VecDeque<usize>,
    walk: Option<(usize, Walk)>,
    /// Found, and not known yet as what to read it.
    untyped: VecDeque<Untyped>,
    /// Of the folder at hand.
    typed: Vec<Variable>,
    /// Nodes that a folder has already.
    taken: HashSet<NodeId>,
    found: Vec<Variable>,
    remarks: Vec<String>,
    is_incomplete: bool,
    /// Of the folder at hand: values with more in them than it unfolds.
    too_large: usize,
}

struct Untyped {
    folder: usize,
    way: Vec<String>,
    mark: u64,
    node: NodeId,
    /// The server's description of it did not say.
    by_value: bool,
}

/// All that one look found.
pub(super) struct Surveyed {
    pub found: Vec<Variable>,
    pub remarks: Vec<String>,
    /// The first of this session.
    pub is_first: bool,
}

/// What a link has besides its folders.
pub(super) struct Surroundings<'a> {
    pub folders: &'a [Folder],
    /// The server's, by index.
    pub namespaces: &'a [String],
    /// Nodes that the configuration names by id, with the device's name.
    pub configured: &'a HashSet<(Arc<str>, NodeId)>,
}

impl Survey {
    /// Due at once, if there are folders. `retry` is the first pause after one that missed something.
    pub(super) fn new(folders: &[Folder], retry: Duration) -> Self {
        let due = (!folders.is_empty()).then(Instant::now);
        Self { retry, due, look: None, looks: 0 }
    }

    /// Has this session seen all folders?
    pub(super) fn has_looked(&self) -> bool {
        self.due.is_none() || self.looks > 0
    }

    /// When there is something to be done next.
    pub(super) fn due(&self) -> Option<Instant> {
        if self.look.is_some() { Some(Instant::now()) } else { self.due }
    }

    /// One request more, if it is time. Gives what was found when a look is over.
    pub(super) async fn step(
        &mut self,
        session: &mut Session,
        around: &Surroundings<'_>,
        portions: &mut Portions,
        types: &mut Types,
    ) -> Result<Option<Surveyed>, Error> {
        if self.look.is_none() && self.due.is_none_or(|due| due > Instant::now()) {
            return Ok(None);
        }
        let look = self.look.get_or_insert_with(|| Look::new(around.folders.len()));
        if look.step(session, around, portions, types).await? {
            return Ok(None);
        }
        let Some(look) = self.look.take() else { return Ok(None) };
        let pause = if look.is_incomplete { self.retry } else { CALM };
        self.retry = if look.is_incomplete { self.retry.saturating_mul(2) } else { self.retry };
        self.due = Some(Instant::now() + pause.min(CALM));
        self.looks += 1;
        Ok(Some(Surveyed { found: look.found, remarks: look.remarks, is_first: self.looks == 1 }))
    }
}

impl Look {
    fn new(folders: usize) -> Self {
        Self {
            folders: (0..folders).collect(),
            walk: None,
            untyped: VecDeque::new(),
            typed: Vec::new(),
            taken: HashSet::new(),
            found: Vec::new(),
            remarks: Vec::new(),
            is_incomplete: false,
            too_large: 0,
        }
    }

    /// False when it is over.
    async fn step(
        &mut self,
        session: &mut Session,
        around: &Surroundings<'_>,
        portions: &mut Portions,
        types: &mut Types,
    ) -> Result<bool, Error> {
        if !self.untyped.is_empty() {
            self.ask_types(session, around, portions, types).await?;
            if self.untyped.is_empty() {
                self.close_folder(around);
            }
            return Ok(true);
        }
        if let Some((place, mut walk)) = self.walk.take() {
            let Some(folder) = around.folders.get(place) else { return Ok(true) };
            if walk.step(session, portions, |way| !folder.terms.excludes(way)).await? {
                self.walk = Some((place, walk));
            } else {
                self.gather(place, folder, &walk, around);
                if self.untyped.is_empty() {
                    self.close_folder(around);
                }
            }
            return Ok(true);
        }
        let Some(place) = self.folders.pop_front() else { return Ok(false) };
        let Some(folder) = around.folders.get(place) else { return Ok(true) };
        match begin(session, folder, around.namespaces).await? {
            Ok(node) => self.walk = Some((place, Walk::new(node, folder.terms.depth, MOST_NODES))),
            Err(status) => self.miss(folder, Some(status)),
        }
        Ok(true)
    }

    fn miss(&mut self, folder: &Folder, status: Option<StatusCode>) {
        self.is_incomplete = true;
        // Some servers say of a node that they do not have only that nothing stands below it.
        let why = status.map_or_else(|| "nothing stands below it".to_owned(), plain);
        self.remarks.push(format!("{}: {why}; it is looked for again from time to time", folder.title()));
    }

    /// What a walk found and the folder wants, in an order that does not hang on the server's.
    fn gather(&mut self, place: usize, folder: &Folder, walk: &Walk, around: &Surroundings<'_>) {
        if walk.findings().is_empty() && !walk.cut {
            self.miss(folder, walk.refused);
            return;
        }
        if walk.cut {
            self.remarks.push(format!(
                "{}: there are more than {MOST_NODES} nodes below it, and those beyond were not looked at; \
                 name a node further down, or `exclude` what is not wanted",
                folder.title()
            ));
        }
        let digests = digests(around.namespaces);
        let root = format!("{}\n{}", folder.device, folder.terms.node);
        let mut found: Vec<Untyped> = Vec::new();
        let mut fits_none = true;
        for (at, finding) in walk.findings().iter().enumerate().filter(|(_, finding)| finding.is_variable) {
            let steps = walk.way(at);
            let way: Vec<&str> = steps.iter().map(|name| name.name.as_ref()).collect();
            let node = &finding.node;
            let is_configured = || around.configured.contains(&(folder.device.clone(), node.clone()));
            if !folder.terms.includes(&way) {
                continue;
            }
            fits_none = false;
            if self.taken.contains(node) || is_configured() {
                continue;
            }
            found.push(Untyped {
                folder: place,
                way: way.into_iter().map(ToOwned::to_owned).collect(),
                mark: mark(&root, steps, &digests),
                node: finding.node.clone(),
                by_value: false,
            });
        }
        if fits_none {
            self.remarks.push(format!("{}: no variable below it fits `include`", folder.title()));
        }
        found.sort_by_cached_key(|each| (each.way.clone(), each.mark, each.node.to_string()));
        // Siblings of one name in one namespace: only their nodes tell them apart.
        let mut alike: HashMap<u64, usize> = HashMap::new();
        found.iter().for_each(|each| *alike.entry(each.mark).or_default() += 1);
        for each in found.iter_mut().filter(|each| alike.get(&each.mark).is_some_and(|count| *count > 1)) {
            each.mark = mark_by_node(each.mark, &each.node, &digests);
        }
        self.taken.extend(found.iter().map(|each| each.node.clone()));
        self.untyped = found.into();
    }

    /// Asks the next of them what they are: first for their description, then for a value.
    async fn ask_types(
        &mut self,
        session: &mut Session,
        around: &Surroundings<'_>,
        portions: &mut Portions,
        types: &mut Types,
    ) -> Result<(), Error> {
        let by_value = self.untyped.front().is_some_and(|first| first.by_value);
        let asks = if by_value { 1 } else { 2 };
        let most = (portions.reads / asks).max(1);
        let alike = self.untyped.iter().take(most).take_while(|each| each.by_value == by_value).count();
        let mut asked = Vec::with_capacity(alike * asks);
        for each in self.untyped.iter().take(alike) {
            if by_value {
                asked.push((each.node.clone(), AttributeId::Value));
            } else {
                asked.push((each.node.clone(), AttributeId::DataType));
                asked.push((each.node.clone(), AttributeId::ValueRank));
            }
        }
        let mut values = match session.attributes(asked).await {
            Ok(values) => values.into_iter(),
            Err(error) if too_much(error.status()) && portions.reads > SMALLEST_PORTION => {
                portions.reads = smaller(portions.reads);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let mut unknown = Vec::new();
        let asked: Vec<Untyped> = self.untyped.drain(..alike).collect();
        for mut each in asked {
            let unfold = around.folders.get(each.folder).map_or(0, |folder| folder.terms.unfold);
            let kind = if by_value {
                let told = values.next();
                match by_its_value(told.as_ref()) {
                    Kind::Compound if unfold > 0 => {
                        let value = told.and_then(|told| told.value).unwrap_or_default();
                        parts(&value, unfold, session, types, portions).await?
                    }
                    kind => kind,
                }
            } else {
                by_its_description(values.next(), values.next())
            };
            let whole = |wanted| vec![Leaf { part: OpcUaPart::default(), wanted }];
            let leaves = match kind {
                Kind::Reading(wanted) => whole(wanted),
                Kind::Parts(leaves) => leaves,
                Kind::TooLarge => {
                    self.too_large += 1;
                    continue;
                }
                Kind::Nothing => continue,
                Kind::Compound if unfold == 0 || by_value => continue,
                // Perhaps it is only without a value now.
                Kind::Unknown if by_value => {
                    self.is_incomplete = true;
                    continue;
                }
                Kind::Unknown | Kind::Compound => {
                    each.by_value = true;
                    unknown.push(each);
                    continue;
                }
            };
            let Untyped { folder, way, mark, node, .. } = each;
            self.typed.push(Variable { folder, way, mark, node, leaves });
        }
        self.untyped.extend(unknown);
        Ok(())
    }

    /// The folder at hand is gone through: as many of its variables as it may have become points.
    fn close_folder(&mut self, around: &Surroundings<'_>) {
        let mut typed = std::mem::take(&mut self.typed);
        let too_large = std::mem::take(&mut self.too_large);
        let Some(folder) = typed.first().and_then(|first| around.folders.get(first.folder)) else { return };
        typed.sort_by(|one, other| (&one.way, one.mark).cmp(&(&other.way, other.mark)));
        if too_large > 0 {
            self.remarks.push(format!(
                "{}: values with more than {} elements and fields, its `unfold`, are not read; there are {too_large}",
                folder.title(),
                folder.terms.unfold
            ));
        }
        let most = folder.terms.max_points;
        if typed.iter().map(|variable| variable.leaves.len()).sum::<usize>() > most {
            self.remarks.push(format!(
                "{}: more than {most} variables fit, its `max_points`; those beyond are not read. Raise it, or \
                 `include` less",
                folder.title()
            ));
            let mut left = most;
            for variable in &mut typed {
                variable.leaves.truncate(left);
                left -= variable.leaves.len();
            }
            typed.retain(|variable| !variable.leaves.is_empty());
        }
        self.found.extend(typed);
    }
}

/// Where a folder is, or why it is nowhere.
async fn begin(
    session: &mut Session,
    folder: &Folder,
    namespaces: &[String],
) -> Result<Result<NodeId, StatusCode>, Error> {
    match &folder.begin {
        Address::Node(address) => Ok(address.resolve(namespaces).ok_or(StatusCode::BadNodeIdUnknown)),
        Address::Found(node) => Ok(node.clone().ok_or(StatusCode::BadNodeIdUnknown)),
        Address::Path(path) => match path.resolve(namespaces) {
            None => Ok(Err(StatusCode::BadNodeIdUnknown)),
            Some(path) => match session.translate(vec![path]).await {
                Ok(results) => Ok(results.first().map_or(Err(StatusCode::BadNoData), target)),
                // A server without this service has no paths.
                Err(error) if unsupported(error.status()) => Ok(Err(error.status())),
                Err(error) => Err(error),
            },
        },
    }
}

/// What can be read of a variable.
#[derive(Debug, PartialEq)]
enum Kind {
    Reading(DataType),
    /// Its parts can be readings, if anything of it can.
    Compound,
    Parts(Vec<Leaf>),
    /// It has more parts than are wanted.
    TooLarge,
    /// It cannot be a reading.
    Nothing,
    Unknown,
}

fn by_its_value(told: Option<&DataValue>) -> Kind {
    let Some(DataValue { value: Some(value), status, .. }) = told else { return Kind::Unknown };
    match value {
        Variant::Empty => Kind::Unknown,
        _ if status.is_some_and(|status| status.is_bad()) => Kind::Unknown,
        Variant::Array(_) | Variant::ExtensionObject(_) => Kind::Compound,
        value => natural(value).map_or(Kind::Nothing, Kind::Reading),
    }
}

/// The parts of a value, `most` at the most.
async fn parts(
    value: &Variant,
    most: usize,
    session: &mut Session,
    types: &mut Types,
    portions: &mut Portions,
) -> Result<Kind, Error> {
    for _ in 0..MOST_ENCODINGS {
        let leaves = Whole::new(value, types).leaves(most, |leaf| natural(leaf).is_some());
        match leaves {
            Ok(None) => return Ok(Kind::TooLarge),
            Ok(Some(leaves)) => {
                let leaf =
                    |(part, value): (OpcUaPart, Variant)| Some(Leaf { part, wanted: natural(&value)? });
                let leaves: Vec<Leaf> = leaves.into_iter().filter_map(leaf).collect();
                return Ok(if leaves.is_empty() { Kind::Nothing } else { Kind::Parts(leaves) });
            }
            Err(Trouble::Unlearned(encoding)) => types.learn(session, &encoding, portions).await?,
            Err(Trouble::Why(_)) => return Ok(Kind::Nothing),
        }
    }
    Ok(Kind::Nothing)
}

/// By the attributes DataType and ValueRank (OPC UA Part 3, 5.6.2; Part 6, 5.1.2 numbers the types).
fn by_its_description(data_type: Option<DataValue>, rank: Option<DataValue>) -> Kind {
    if let Some(Variant::Int32(0..)) = rank.and_then(|rank| rank.value) {
        return Kind::Compound;
    }
    let Some(Variant::NodeId(node)) = data_type.and_then(|told| told.value) else { return Kind::Unknown };
    let NodeId { namespace: 0, identifier: opcua::types::Identifier::Numeric(number) } = *node else {
        return Kind::Unknown;
    };
    match number {
        1 => Kind::Reading(DataType::Boolean),
        // The integers, Integer, UInteger, Enumeration.
        2..=9 | 27..=29 => Kind::Reading(DataType::Integer),
        // Float, Double, Duration.
        10 | 11 | 290 => Kind::Reading(DataType::Float),
        // String, DateTime, Guid, NodeId, StatusCode, QualifiedName, LocalizedText, UtcTime, LocaleId.
        12..=14 | 17 | 19..=21 | 294 | 295 => Kind::Reading(DataType::Text),
        22 => Kind::Compound,
        // ByteString, XmlElement, ExpandedNodeId, DataValue, DiagnosticInfo.
        15 | 16 | 18 | 23 | 25 => Kind::Nothing,
        _ => Kind::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use opcua::types::{Array, VariantScalarTypeId};

    use super::*;

    fn told(value: impl Into<Variant>) -> Option<DataValue> {
        Some(DataValue { value: Some(value.into()), ..DataValue::default() })
    }

    #[test]
    fn a_variable_is_what_its_description_says() {
        let described = |number: u32, rank: i32| by_its_description(told(NodeId::new(0, number)), told(rank));
        for (number, kind) in [
            (1, Kind::Reading(DataType::Boolean)),
            (5, Kind::Reading(DataType::Integer)),
            (11, Kind::Reading(DataType::Float)),
            (12, Kind::Reading(DataType::Text)),
            (15, Kind::Nothing),
            (22, Kind::Compound),
            (24, Kind::Unknown),
            (26, Kind::Unknown),
            (29, Kind::Reading(DataType::Integer)),
        ] {
            assert_eq!(described(number, -1), kind, "i={number}");
            assert_eq!(described(number, 1), Kind::Compound, "an array of i={number}");
        }
        assert_eq!(by_its_description(told(NodeId::new(2, 1u32)), told(-1)), Kind::Unknown);
        assert_eq!(by_its_description(None, None), Kind::Unknown);
    }

    #[test]
    fn what_its_description_leaves_open_its_value_tells() {
        let by_its_value = |told: Option<DataValue>| by_its_value(told.as_ref());
        assert_eq!(by_its_value(told(1.5f32)), Kind::Reading(DataType::Float));
        assert_eq!(by_its_value(told(7u8)), Kind::Reading(DataType::Integer));
        let array = Array::new(VariantScalarTypeId::Boolean, vec![Variant::from(true)]).unwrap();
        assert_eq!(by_its_value(told(array)), Kind::Compound);
        assert_eq!(by_its_value(told(Variant::Empty)), Kind::Unknown);
        assert_eq!(by_its_value(None), Kind::Unknown);
        let status = Some(StatusCode::BadWaitingForInitialData);
        let bad = DataValue { value: Some(Variant::from(0i32)), status, ..DataValue::default() };
        assert_eq!(by_its_value(Some(bad)), Kind::Unknown, "a default that comes with a bad status");
    }
}
