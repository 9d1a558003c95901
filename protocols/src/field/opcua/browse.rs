//! Going through what stands below a node, level by level, one request at a time.
//!
//! Everything has a bound: levels, nodes, requests, and letters, since a server may have anything to tell and
//! may tell it for ever. A node that several ways lead to is found once, so that a way that leads back to its
//! beginning ends there. The order is the server's: callers that need one sort.

use std::collections::{HashSet, VecDeque};

use opcua::types::{
    BrowseDescription, BrowseDirection, BrowseResult, ByteString, Error, NodeClass, NodeId, ObjectId,
    QualifiedName, ReferenceDescription, ReferenceTypeId, StatusCode,
};

use super::items::{Portions, too_much, unsupported};
use super::paths::BrowsePath;
use super::session::Session;

/// References of one node in one answer. Modest: small servers answer slowly.
const REFERENCES: u32 = 500;
/// A name is no longer (OPC UA Part 3, 8.3).
const LONGEST_NAME: usize = 4 * 512;
/// All names and ids of one walk, bytes.
const LETTERS: usize = 8 << 20;
/// More answers than this are no end.
const REQUESTS: usize = 20_000;

/// A node below the beginning.
pub(super) struct Finding {
    pub node: NodeId,
    pub name: QualifiedName,
    /// The one above it; none for those right below the beginning.
    pub parent: Option<usize>,
    pub is_variable: bool,
}

/// One walk, and how far it got.
pub(super) struct Walk {
    begin: NodeId,
    depth: usize,
    most: usize,
    findings: Vec<Finding>,
    known: HashSet<NodeId>,
    /// Whose children were not asked for yet: places in `findings`, none for the beginning.
    waiting: VecDeque<Option<usize>>,
    /// Those with more children than fitted into an answer.
    open: Vec<(Option<usize>, ByteString)>,
    /// Nodes in one request.
    at_once: usize,
    requests: usize,
    letters: usize,
    /// There are more nodes than were taken.
    pub cut: bool,
    /// There may be nodes below the last level.
    pub deeper: bool,
    /// The beginning cannot be looked at: why.
    pub refused: Option<StatusCode>,
}

impl Walk {
    /// From `begin` down `depth` levels, to at most `most` nodes.
    pub(super) fn new(begin: NodeId, depth: usize, most: usize) -> Self {
        // Some thousand nodes about the server itself, for whoever begins elsewhere.
        let known = HashSet::from([begin.clone(), ObjectId::Server.into()]);
        Self {
            begin,
            depth,
            most,
            findings: Vec::new(),
            known,
            waiting: VecDeque::from([None]),
            open: Vec::new(),
            at_once: usize::MAX,
            requests: 0,
            letters: LETTERS,
            cut: false,
            deeper: false,
            refused: None,
        }
    }

    /// What was found so far, each behind its parent.
    pub(super) fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Names from the beginning to a finding.
    pub(super) fn way(&self, at: usize) -> Vec<&QualifiedName> {
        let mut way = Vec::new();
        let mut next = self.findings.get(at);
        while let Some(finding) = next {
            way.push(&finding.name);
            next = finding.parent.and_then(|parent| self.findings.get(parent));
        }
        way.reverse();
        way
    }

    /// The path of a finding, where `begin` is that of the beginning.
    pub(super) fn path(&self, at: usize, begin: &BrowsePath, namespaces: &[String]) -> BrowsePath {
        self.way(at).into_iter().fold(begin.clone(), |path, name| path.then(name, namespaces))
    }

    /// One request more. Nodes that `keeps` does not want, by the names that lead to them, are left out with
    /// all below them. False when nothing is left to be asked.
    pub(super) async fn step(
        &mut self,
        session: &mut Session,
        portions: &mut Portions,
        keeps: impl Fn(&[&str]) -> bool,
    ) -> Result<bool, Error> {
        self.requests += 1;
        if self.requests > REQUESTS {
            self.stop();
        }
        if !self.open.is_empty() {
            let (parents, points): (Vec<_>, Vec<_>) = std::mem::take(&mut self.open).into_iter().unzip();
            // What nobody wants to hear need not be kept by the server.
            match session.browse_on(points, self.cut).await {
                Ok(results) if !self.cut => self.take(&parents, results, keeps),
                Ok(_) => {}
                Err(error) if forgotten(error.status()) => self.deeper = true,
                Err(error) => return Err(error),
            }
        } else if !self.waiting.is_empty() {
            let count = self.at_once.min(portions.browses).clamp(1, self.waiting.len());
            let parents: Vec<_> = self.waiting.drain(..count).collect();
            let asked = parents.iter().map(|parent| self.below(*parent)).collect();
            match session.browse(asked, REFERENCES).await {
                Ok(results) => self.take(&parents, results, keeps),
                Err(error) if too_much(error.status()) && parents.len() > 1 => {
                    portions.browses = (parents.len() / 2).max(1);
                    parents.into_iter().rev().for_each(|parent| self.waiting.push_front(parent));
                }
                // Whatever it is, the points that are known can be had.
                Err(error) if too_much(error.status()) || unsupported(error.status()) => {
                    self.give_up(&parents, error.status());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(!self.open.is_empty() || !self.waiting.is_empty())
    }

    /// What a server said of `parents`, in their order.
    pub(super) fn take(
        &mut self,
        parents: &[Option<usize>],
        results: Vec<BrowseResult>,
        keeps: impl Fn(&[&str]) -> bool,
    ) {
        let mut results = results.into_iter();
        for &parent in parents {
            // A server that answers less than it was asked for has nothing for the rest.
            let Some(BrowseResult { status_code, continuation_point, references }) = results.next() else {
                self.give_up(&[parent], StatusCode::BadNoData);
                continue;
            };
            if status_code == StatusCode::BadNoContinuationPoints && parents.len() > 1 {
                // It can keep the rest of fewer answers. One after the other, then.
                self.at_once = 1;
                self.waiting.push_back(parent);
                continue;
            }
            if status_code.is_bad() {
                self.give_up(&[parent], status_code);
                continue;
            }
            for reference in references.unwrap_or_default() {
                self.note(parent, reference, &keeps);
            }
            if !continuation_point.is_null_or_empty() {
                self.open.push((parent, continuation_point));
            }
        }
    }

    fn note(
        &mut self,
        parent: Option<usize>,
        reference: ReferenceDescription,
        keeps: impl Fn(&[&str]) -> bool,
    ) {
        let ReferenceDescription { node_id, browse_name: name, node_class, .. } = reference;
        let letters = name.name.as_ref().len() + 2 * node_id.node_id.to_string().len();
        if self.cut || node_id.server_index != 0 || name.name.as_ref().len() > LONGEST_NAME {
            return;
        }
        let above = parent.map(|parent| self.way(parent)).unwrap_or_default();
        let way: Vec<&str> =
            above.into_iter().chain([&name]).map(|step: &QualifiedName| step.name.as_ref()).collect();
        if !keeps(&way) || self.known.contains(&node_id.node_id) {
            return;
        }
        let level = way.len();
        if self.findings.len() >= self.most || self.letters < letters {
            self.stop();
            return;
        }
        self.letters -= letters;
        self.known.insert(node_id.node_id.clone());
        let is_variable = node_class == NodeClass::Variable;
        if level < self.depth {
            self.waiting.push_back(Some(self.findings.len()));
        } else {
            self.deeper |= !is_variable;
        }
        self.findings.push(Finding { node: node_id.node_id, name, parent, is_variable });
    }

    fn stop(&mut self) {
        self.cut = true;
        self.waiting.clear();
    }

    /// What stands below these stays unknown.
    fn give_up(&mut self, parents: &[Option<usize>], status: StatusCode) {
        if parents.contains(&None) {
            self.refused = Some(status);
        }
    }

    /// Below an object stands anything, below a variable only its parts, not what describes it.
    fn below(&self, parent: Option<usize>) -> BrowseDescription {
        let parent = parent.and_then(|parent| self.findings.get(parent));
        let is_variable = parent.is_some_and(|parent| parent.is_variable);
        let kind =
            if is_variable { ReferenceTypeId::HasComponent } else { ReferenceTypeId::HierarchicalReferences };
        BrowseDescription {
            node_id: parent.map_or_else(|| self.begin.clone(), |parent| parent.node.clone()),
            browse_direction: BrowseDirection::Forward,
            reference_type_id: kind.into(),
            include_subtypes: true,
            node_class_mask: NodeClass::Object as u32 | NodeClass::Variable as u32,
            // All fields.
            result_mask: 0x3F,
        }
    }
}

/// The server has no more to say of what it began to tell.
fn forgotten(status: StatusCode) -> bool {
    too_much(status)
        || unsupported(status)
        || matches!(
            status,
            StatusCode::BadContinuationPointInvalid
                | StatusCode::BadNoContinuationPoints
                | StatusCode::BadNothingToDo
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(id: &str, class: NodeClass) -> ReferenceDescription {
        ReferenceDescription {
            node_id: NodeId::new(2, id).into(),
            browse_name: QualifiedName::new(2, id),
            node_class: class,
            ..ReferenceDescription::default()
        }
    }

    fn result(ids: &[&str], class: NodeClass, more: bool) -> BrowseResult {
        BrowseResult {
            status_code: StatusCode::Good,
            continuation_point: if more { vec![1u8].into() } else { ByteString::null() },
            references: Some(ids.iter().map(|id| reference(id, class)).collect()),
        }
    }

    fn walk(depth: usize, most: usize) -> Walk {
        let mut walk = Walk::new(NodeId::new(2, "begin"), depth, most);
        assert_eq!(walk.waiting.drain(..).collect::<Vec<_>>(), [None]);
        walk
    }

    fn ways(walk: &Walk) -> Vec<String> {
        let names = |at| walk.way(at).iter().map(|name| name.name.to_string()).collect::<Vec<_>>();
        (0..walk.findings().len()).map(|at| names(at).join("/")).collect()
    }

    #[test]
    fn a_way_back_to_the_beginning_or_to_a_known_node_ends_there() {
        let mut walk = walk(9, 100);
        walk.take(&[None], vec![result(&["a", "b", "begin"], NodeClass::Object, false)], |_| true);
        walk.take(
            &[Some(0), Some(1)],
            vec![
                result(&["b", "x"], NodeClass::Object, false),
                result(&["a", "y"], NodeClass::Variable, false),
            ],
            |_| true,
        );
        assert_eq!(ways(&walk), ["a", "b", "a/x", "b/y"]);
        assert!(!walk.cut && !walk.deeper && walk.refused.is_none());
    }

    #[test]
    fn what_is_not_wanted_is_not_gone_into_and_may_still_be_reached_otherwise() {
        let mut walk = walk(9, 100);
        walk.take(&[None], vec![result(&["a", "b"], NodeClass::Object, false)], |way| way != ["b"]);
        assert_eq!(walk.waiting.drain(..).collect::<Vec<_>>(), [Some(0)]);
        walk.take(&[Some(0)], vec![result(&["b"], NodeClass::Object, false)], |_| true);
        assert_eq!(ways(&walk), ["a", "a/b"]);
    }

    #[test]
    fn levels_nodes_and_letters_have_an_end() {
        let mut flat = walk(1, 100);
        flat.take(&[None], vec![result(&["a"], NodeClass::Object, true)], |_| true);
        assert!(flat.waiting.is_empty() && flat.deeper && !flat.cut && flat.open.len() == 1);

        let mut few = walk(9, 2);
        few.take(&[None], vec![result(&["a", "b", "c"], NodeClass::Object, true)], |_| true);
        assert!(few.cut && few.waiting.is_empty() && few.findings().len() == 2);
        assert_eq!(few.open.len(), 1, "the server is told that nobody wants the rest");

        let mut endless = walk(9, 1_000_000);
        let name = |n: usize| format!("{n:0>2000}");
        let names: Vec<String> = (0..5_000).map(name).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        endless.take(&[None], vec![result(&names, NodeClass::Object, false)], |_| true);
        assert!(endless.cut && endless.findings().len() < 2_000);
        let mut long = walk(9, 100);
        long.take(&[None], vec![result(&["x".repeat(5_000).as_str()], NodeClass::Object, false)], |_| true);
        assert!(long.findings().is_empty());
    }

    #[test]
    fn a_server_that_cannot_keep_the_rest_of_several_answers_is_asked_one_by_one() {
        let mut walk = walk(9, 100);
        walk.take(&[None], vec![result(&["a", "b"], NodeClass::Object, false)], |_| true);
        walk.waiting.clear();
        let full = BrowseResult {
            status_code: StatusCode::BadNoContinuationPoints,
            ..result(&[], NodeClass::Object, false)
        };
        let begun = result(&["x"], NodeClass::Variable, true);
        walk.take(&[Some(0), Some(1)], vec![begun, full], |_| true);
        assert_eq!((walk.at_once, walk.waiting.pop_back()), (1, Some(Some(1))));
    }

    #[test]
    fn a_beginning_that_is_not_there_is_told() {
        let mut walk = walk(9, 100);
        let gone = BrowseResult { status_code: StatusCode::BadNodeIdUnknown, ..BrowseResult::default() };
        walk.take(&[None], vec![gone], |_| true);
        assert_eq!(walk.refused, Some(StatusCode::BadNodeIdUnknown));
        let mut silent = Walk::new(NodeId::new(2, "begin"), 1, 1);
        silent.take(&[None], Vec::new(), |_| true);
        assert_eq!(silent.refused, Some(StatusCode::BadNoData));
    }
}
