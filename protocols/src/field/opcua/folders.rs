//! Points that a folder of the configuration found: their names, their slots, and where they are now.
//!
//! A point is known by its folder and the way to it, by names and the URIs of their namespaces: node ids and
//! namespace numbers may be others after a restart. Once found it stays a point, with its name, as long as
//! the agent runs; where a later look does not find it, it is a bad reading. A server whose names change all
//! the time fills neither memory nor dictionary: new ones are taken until there are twice as many as the
//! folders may have. Pure.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use forebay_config::field::{DataType, OpcUa, OpcUaFolder, OpcUaPart, PartStep, PointKind};
use forebay_config::units::Name;
use opcua::types::{NodeId, QualifiedName};

use super::items::{Item, Part};
use super::paths::Address;
use super::values::Conversion;
use crate::reading::Point;

/// Letters of a name, and of the checksum that sets two of them apart.
const LETTERS: usize = 64;
const MARK: usize = 9;

/// A folder as configured.
pub(super) struct Folder {
    pub device: Arc<str>,
    pub begin: Address,
    pub terms: OpcUaFolder,
}

impl Folder {
    /// Those of a link, in the order of its configuration.
    pub(super) fn all(opcua: &OpcUa) -> Result<Vec<Self>, (Name, String)> {
        let mut folders = Vec::new();
        for device in &opcua.devices {
            for terms in &device.folders {
                let begin = terms.node.parse().map_err(|why| (device.name.clone(), why))?;
                folders.push(Self { device: device.name.to_arc(), begin, terms: terms.clone() });
            }
        }
        Ok(folders)
    }

    /// How faults name it.
    pub(super) fn title(&self) -> String {
        format!("folder {} of device {}", self.terms.node, self.device)
    }

    fn point(&self, name: Arc<str>, wanted: DataType) -> Point {
        let usual = match wanted {
            DataType::Float | DataType::Integer => PointKind::Gauge,
            DataType::Boolean | DataType::Text => PointKind::State,
        };
        Point {
            device: self.device.clone(),
            name,
            unit: self.terms.unit.as_str().into(),
            kind: self.terms.kind.unwrap_or(usual).into(),
            data_type: wanted.into(),
        }
    }

    fn item(&self, variable: &Variable) -> Item {
        let is_numeric = |leaf: &Leaf| matches!(leaf.wanted, DataType::Float | DataType::Integer);
        Item {
            address: Address::Found(Some(variable.node.clone())),
            sampling_interval: self.terms.sampling_interval,
            deadband: self.terms.deadband.filter(|_| variable.leaves.iter().all(is_numeric)),
            parts: Vec::new(),
        }
    }
}

/// A variable that one look at a server found.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Variable {
    /// Which of the link's folders.
    pub folder: usize,
    /// Names from the folder's node to it.
    pub way: Vec<String>,
    /// Of the folder and the way, with namespaces: [`mark`].
    pub mark: u64,
    pub node: NodeId,
    /// What of its value is read: the whole, or each of its parts.
    pub leaves: Vec<Leaf>,
}

/// A part of a variable's value that becomes a point.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Leaf {
    pub part: OpcUaPart,
    pub wanted: DataType,
}

/// What all folders of a link found so far.
#[derive(Default)]
pub(super) struct Finds {
    /// By mark.
    items: HashMap<u64, usize>,
    names: HashSet<(Arc<str>, Arc<str>)>,
}

/// What a look at the server changed.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Changes {
    /// Items that were not known.
    pub new: Vec<usize>,
    /// Items whose node is another than it was, or is not there any more, or has more parts.
    pub moved: Vec<usize>,
    /// Some were not taken, because too many came and went.
    pub overflows: bool,
}

impl Finds {
    /// Forgets where the points are: the numbers of one session mean nothing in the next.
    pub(super) fn forget_nodes(&self, items: &mut [Item]) {
        for at in self.items.values() {
            if let Some(item) = items.get_mut(*at) {
                item.address = Address::Found(None);
            }
        }
    }

    /// Takes what a whole look at the server found. The first `configured` points have their names from the
    /// configuration, and keep them.
    pub(super) fn take(
        &mut self,
        found: Vec<Variable>,
        folders: &[Folder],
        (points, items): (&mut Vec<Point>, &mut Vec<Item>),
        configured: usize,
    ) -> Changes {
        let mut changes = Changes::default();
        let mut present = HashMap::new();
        let mut new = Vec::new();
        for (at, variable) in found.iter().enumerate() {
            let known = self.items.get(&variable.mark);
            if let Some(known) = known {
                present.insert(*known, variable.node.clone());
            }
            let has = |leaf: &Leaf| {
                let item = known.and_then(|known| items.get(*known));
                item.is_some_and(|item| item.parts.iter().any(|part| part.part == leaf.part))
            };
            let leaves = variable.leaves.iter().enumerate().filter(|(_, leaf)| !has(leaf));
            new.extend(leaves.map(|(leaf, _)| (at, leaf)));
        }
        let known = items.len();
        let mut moved = BTreeSet::new();
        for at in self.items.values() {
            let now = Address::Found(present.remove(at));
            if let Some(item) = items.get_mut(*at).filter(|item| item.address != now) {
                item.address = now;
                moved.insert(*at);
            }
        }

        let own: HashSet<(&str, &str)> =
            points.iter().take(configured).map(|point| (&*point.device, &*point.name)).collect();
        let leaves = new.iter().filter_map(|(at, leaf)| {
            let variable = found.get(*at)?;
            Some((variable, variable.leaves.get(*leaf)?))
        });
        let leaves: Vec<(&Variable, &Leaf)> = leaves.collect();
        let names = self.names_for(&leaves, folders, &own);
        drop(own);
        let most = folders.iter().map(|folder| folder.terms.max_points).sum::<usize>() * 2;
        for ((variable, leaf), name) in leaves.into_iter().zip(names) {
            let (Some(folder), Some(name)) = (folders.get(variable.folder), name) else { continue };
            if points.len() - configured >= most {
                changes.overflows = true;
                break;
            }
            self.names.insert((folder.device.clone(), name.clone()));
            let at = *self.items.entry(variable.mark).or_insert_with(|| {
                changes.new.push(items.len());
                items.push(folder.item(variable));
                items.len() - 1
            });
            if let Some(item) = items.get_mut(at) {
                let conversion = Conversion { wanted: leaf.wanted, scaling: None };
                item.parts.push(Part { slot: points.len(), part: leaf.part.clone(), conversion });
                points.push(folder.point(name, leaf.wanted));
                if at < known {
                    moved.insert(at);
                }
            }
        }
        changes.moved = moved.into_iter().collect();
        changes
    }

    /// A name for each, none where the configuration has a point of that name. Two ways that would become
    /// the same name get a checksum of theirs behind it, both: so neither ever takes the other's place.
    fn names_for(
        &self,
        new: &[(&Variable, &Leaf)],
        folders: &[Folder],
        own: &HashSet<(&str, &str)>,
    ) -> Vec<Option<Arc<str>>> {
        let device = |variable: &Variable| folders.get(variable.folder).map(|folder| folder.device.clone());
        let wishes: Vec<_> = new
            .iter()
            .map(|(variable, leaf)| device(variable).map(|device| (device, wish(variable, &leaf.part))))
            .collect();
        let mut wished: HashMap<&(Arc<str>, Arc<str>), usize> = HashMap::new();
        for wish in wishes.iter().flatten() {
            *wished.entry(wish).or_default() += 1;
        }
        let mut given = HashSet::new();
        let mut names = Vec::with_capacity(new.len());
        for ((variable, leaf), wish) in new.iter().zip(&wishes) {
            let name = wish.as_ref().filter(|(device, name)| !own.contains(&(&**device, &**name))).and_then(
                |wish| {
                    let is_taken = wished.get(wish).is_some_and(|times| *times > 1)
                        || self.names.contains(wish)
                        || given.contains(wish);
                    let (device, name) = wish;
                    let name =
                        if is_taken { marked(name, mark_of(variable, &leaf.part)) } else { name.clone() };
                    let is_free = !own.contains(&(&**device, &*name))
                        && !self.names.contains(&(device.clone(), name.clone()))
                        && given.insert((device.clone(), name.clone()));
                    is_free.then_some(name)
                },
            );
            names.push(name);
        }
        names
    }
}

/// The way by dots, as a name, and behind it the way into the value: `Press.Curve[3]`, `Robot.Position.X`.
fn wish(variable: &Variable, part: &OpcUaPart) -> Arc<str> {
    let mut way = variable.way.join(".");
    let mut name = Name::near(&way, usize::MAX).to_string();
    let is_cut = way.chars().count() > LETTERS;
    if part.is_whole() {
        // A name that had to be cut may be another's, too.
        return if is_cut { marked(&name, variable.mark) } else { name.into() };
    }
    way.clear();
    for step in part.steps() {
        match step {
            PartStep::Element(indices) => {
                let indices: Vec<String> = indices.iter().map(u32::to_string).collect();
                way += &format!("[{}]", indices.join(","));
            }
            PartStep::Field(field) => way += &format!(".{}", Name::near(field, LETTERS)),
        }
    }
    name += &way;
    if is_cut || name.chars().count() > LETTERS {
        return marked(&name, mark_of(variable, part));
    }
    name.into()
}

/// What a part of a variable's value is known by.
fn mark_of(variable: &Variable, part: &OpcUaPart) -> u64 {
    if part.is_whole() { variable.mark } else { fnv(variable.mark, part.to_string().as_bytes()) }
}

fn marked(name: &str, mark: u64) -> Arc<str> {
    let room: String = name.chars().take(LETTERS - MARK).collect();
    let folded = (mark ^ (mark >> 32)) & 0xFFFF_FFFF;
    format!("{room}-{folded:08x}").into()
}

/// What a way is known by: FNV-1a over the folder's node as configured, and each step's namespace and name.
/// The same on every server, in every session and in every version of the agent, since names hang on it.
pub(super) fn mark<'a>(
    folder: &str,
    way: impl IntoIterator<Item = &'a QualifiedName>,
    namespaces: &[u64],
) -> u64 {
    let mut mark = fnv(FNV_BASIS, folder.as_bytes());
    for step in way {
        // Of a number without a URI only the number is known.
        let unnamed = u64::from(step.namespace_index);
        let namespace = namespaces.get(usize::from(step.namespace_index)).copied().unwrap_or(unnamed);
        mark = fnv(mark, &namespace.to_le_bytes());
        mark = fnv(mark, step.name.as_ref().as_bytes());
    }
    mark
}

/// What one of several siblings with the same name is known by: nothing but its node tells them apart.
pub(super) fn mark_by_node(mark: u64, node: &NodeId, namespaces: &[u64]) -> u64 {
    let unnamed = u64::from(node.namespace);
    let namespace = namespaces.get(usize::from(node.namespace)).copied().unwrap_or(unnamed);
    fnv(fnv(mark, &namespace.to_le_bytes()), node.identifier.to_string().as_bytes())
}

/// The namespaces of a server for [`mark`], so that a long URI is gone through once.
pub(super) fn digests(namespaces: &[String]) -> Vec<u64> {
    namespaces.iter().map(|uri| fnv(FNV_BASIS, uri.as_bytes())).collect()
}

const FNV_BASIS: u64 = 0xCBF2_9CE4_8422_2325;

fn fnv(begin: u64, bytes: &[u8]) -> u64 {
    // The length keeps "ab", "c" and "a", "bc" apart.
    let length = (bytes.len() as u64).to_le_bytes();
    bytes
        .iter()
        .chain(&length)
        .fold(begin, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn folders() -> Vec<Folder> {
        let terms = OpcUaFolder {
            node: "ns=2;s=Line1".into(),
            include: Vec::new(),
            exclude: Vec::new(),
            depth: 8,
            max_points: 10,
            unfold: 8,
            unit: "°C".into(),
            kind: None,
            sampling_interval: Duration::from_secs(1),
            deadband: Some(forebay_config::field::Deadband::Absolute(0.5)),
        };
        let begin: Address = terms.node.parse().unwrap();
        let of = |device: &str| Folder { device: device.into(), begin: begin.clone(), terms: terms.clone() };
        vec![of("line"), of("other")]
    }

    fn variable(folder: usize, way: &str, id: u32, wanted: DataType) -> Variable {
        let steps: Vec<QualifiedName> = way.split('/').map(|name| QualifiedName::new(0, name)).collect();
        let mark = mark(&format!("{folder}"), &steps, &[]);
        let way = way.split('/').map(ToOwned::to_owned).collect();
        let leaves = vec![Leaf { part: OpcUaPart::default(), wanted }];
        Variable { folder, way, mark, node: NodeId::new(2, id), leaves }
    }

    #[derive(Default)]
    struct Bench {
        finds: Finds,
        points: Vec<Point>,
        items: Vec<Item>,
        configured: usize,
    }

    impl Bench {
        fn take(&mut self, found: &[(usize, &str, u32)]) -> Changes {
            let found = found.iter().map(|(folder, way, id)| variable(*folder, way, *id, DataType::Float));
            let lists = (&mut self.points, &mut self.items);
            self.finds.take(found.collect(), &folders(), lists, self.configured)
        }

        fn names(&self) -> Vec<String> {
            self.points.iter().map(|point| format!("{}/{}", point.device, point.name)).collect()
        }

        fn node(&self, slot: usize) -> Option<NodeId> {
            match &self.items[slot].address {
                Address::Found(node) => node.clone(),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_way_is_a_name_and_keeps_its_slot_whatever_number_its_node_has() {
        let mut bench = Bench::default();
        let changes = bench.take(&[(0, "Press/Temp", 1), (0, "Press/Öl Druck", 2), (1, "Press/Temp", 3)]);
        assert_eq!(bench.names(), ["line/Press.Temp", "line/Press.Öl-Druck", "other/Press.Temp"]);
        assert_eq!((changes.new, changes.moved), (vec![0, 1, 2], vec![]));
        // Another session: other numbers, one gone, one new.
        bench.finds.forget_nodes(&mut bench.items);
        assert_eq!(bench.node(0), None);
        let changes = bench.take(&[(0, "New", 9), (0, "Press/Temp", 7), (1, "Press/Temp", 8)]);
        assert_eq!((changes.new, changes.moved), (vec![3], vec![0, 2]));
        let nodes: Vec<_> = (0..4).map(|slot| bench.node(slot)).collect();
        let at = |id: u32| Some(NodeId::new(2, id));
        assert_eq!(nodes, [at(7), None, at(8), at(9)]);
        // It comes back in the same session.
        let changes = bench.take(&[(0, "New", 9), (0, "Press/Temp", 7), (0, "Press/Öl Druck", 4)]);
        assert_eq!((changes.new, changes.moved), (vec![], vec![1, 2]));
    }

    #[test]
    fn ways_that_would_become_one_name_are_set_apart_in_whatever_order_they_come() {
        let ways = [(0, "Oven 1/T", 1), (0, "Oven-1/T", 2), (0, "Oven-1.T", 3), (0, "Pump/T", 4)];
        let mut bench = Bench::default();
        bench.take(&ways);
        let names = bench.names();
        assert_eq!(names[3], "line/Pump.T");
        let distinct: HashSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), 4);
        for name in &names[..3] {
            assert!(name.starts_with("line/Oven-1.T-") && name.len() == "line/Oven-1.T-".len() + 8, "{name}");
        }
        let mut other = Bench::default();
        let mut reversed = ways;
        reversed.reverse();
        other.take(&reversed);
        let mut again = other.names();
        again.reverse();
        assert_eq!(again, names);
        // One that comes later leaves the first its name.
        let mut late = Bench::default();
        late.take(&ways[..1]);
        late.take(&ways[1..2]);
        assert_eq!(late.names()[0], "line/Oven-1.T");
        assert_eq!(late.names()[1], names[1]);
    }

    #[test]
    fn parts_of_a_value_share_their_item_and_one_that_appears_is_a_point_more() {
        let unfolded = |parts: &[&str], id: u32| {
            let whole = variable(0, "Press/Öl 1", id, DataType::Float);
            let part = |text: &&str| OpcUaPart::all(None, Some(text)).unwrap().remove(0).1;
            let leaf = |text| Leaf { part: part(text), wanted: DataType::Float };
            Variable { leaves: parts.iter().map(leaf).collect(), ..whole }
        };
        let mut bench = Bench::default();
        let mut take = |found: Vec<Variable>| {
            bench.finds.take(found, &folders(), (&mut bench.points, &mut bench.items), 0)
        };
        assert_eq!(take(vec![unfolded(&["[0]", "[1].a b.c"], 1)]).new, [0]);
        // It grew, and shrank again, in a session with other numbers.
        let grown = take(vec![unfolded(&["[0]", "[1].a b.c", "[2,3]"], 2)]);
        assert_eq!((grown.new, grown.moved), (vec![], vec![0]));
        assert_eq!(take(vec![unfolded(&["[0]"], 2)]), Changes::default());
        let names = ["line/Press.Öl-1[0]", "line/Press.Öl-1[1].a-b.c", "line/Press.Öl-1[2,3]"];
        assert_eq!(bench.names(), names);
        let slots: Vec<usize> = bench.items[0].parts.iter().map(|part| part.slot).collect();
        assert_eq!((bench.items.len(), slots), (1, vec![0, 1, 2]));
    }

    #[test]
    fn siblings_with_one_name_are_told_apart_by_their_nodes_wherever_their_namespace_stands() {
        let namespaces = digests(&["http://opcfoundation.org/UA/".into(), "urn:a".into()]);
        let moved = digests(&["http://opcfoundation.org/UA/".into(), "urn:b".into(), "urn:a".into()]);
        let first = mark_by_node(7, &NodeId::new(1, "left"), &namespaces);
        assert_eq!(mark_by_node(7, &NodeId::new(2, "left"), &moved), first);
        assert_ne!(mark_by_node(7, &NodeId::new(1, "right"), &namespaces), first);
        assert_ne!(mark_by_node(8, &NodeId::new(1, "left"), &namespaces), first);
    }

    #[test]
    fn names_that_come_and_go_for_ever_have_an_end_and_known_points_go_on() {
        let mut bench = Bench::default();
        // Two folders of ten.
        let names: Vec<String> = (0..50).map(|n| format!("N{n}")).collect();
        for (at, name) in names.iter().enumerate() {
            let changes = bench.take(&[(0, "Stays", 1), (0, name, 2)]);
            assert_eq!(changes.overflows, at >= 39, "{at}");
        }
        assert_eq!(bench.points.len(), 40);
        assert_eq!(bench.node(0), Some(NodeId::new(2, 1u32)));
    }

    #[test]
    fn the_checksum_in_a_name_is_the_same_for_ever() {
        let way = [QualifiedName::new(1, "Oven 1"), QualifiedName::new(1, "T")];
        let namespaces = digests(&["http://opcfoundation.org/UA/".into(), "urn:a".into()]);
        let known = mark("ns=2;s=Line1", &way, &namespaces);
        assert_eq!(&*marked("Oven-1.T", known), "Oven-1.T-4683b6fc");
        // The number of a namespace does not matter, its URI does.
        let moved = way.clone().map(|step| QualifiedName::new(2, step.name.as_ref()));
        let others = digests(&[String::new(), "urn:b".into(), "urn:a".into()]);
        assert_eq!(mark("ns=2;s=Line1", &moved, &others), known);
        assert_ne!(mark("ns=2;s=Line1", &way, &others), known);
    }

    #[test]
    fn a_name_that_must_be_cut_bears_its_checksum() {
        let mut bench = Bench::default();
        let long = format!("{}/{}", "a".repeat(40), "ä".repeat(40));
        bench.take(&[(0, &long, 1)]);
        let name = bench.points[0].name.clone();
        assert_eq!(name.chars().count(), 64);
        assert!(Name::new(&name).is_ok() && name.starts_with("aaaa") && !name.ends_with('ä'), "{name}");
    }

    #[test]
    fn a_point_of_the_configuration_keeps_its_name_for_itself() {
        let mut bench = Bench { configured: 1, ..Bench::default() };
        let folder = &folders()[0];
        bench.points.push(folder.point("Press.Temp".into(), DataType::Text));
        bench.items.push(folder.item(&variable(0, "Press/Temp", 99, DataType::Text)));
        let changes = bench.take(&[(0, "Press/Temp", 1), (1, "Press/Temp", 2), (0, "Press/Flow", 3)]);
        assert_eq!(changes.new, [1, 2]);
        assert_eq!(bench.names(), ["line/Press.Temp", "other/Press.Temp", "line/Press.Flow"]);
        assert_eq!(bench.node(0), Some(NodeId::new(2, 99u32)), "it is not the folder's");
    }

    #[test]
    fn only_numbers_have_a_deadband_and_states_are_states() {
        let folder = &folders()[0];
        for (wanted, is_numeric) in [
            (DataType::Float, true),
            (DataType::Integer, true),
            (DataType::Boolean, false),
            (DataType::Text, false),
        ] {
            assert_eq!(folder.item(&variable(0, "x", 1, wanted)).deadband.is_some(), is_numeric);
            let kind = folder.point("x".into(), wanted).kind;
            assert_eq!(kind == crate::reading::PointKind::Gauge, is_numeric);
        }
    }
}
