//! Nodes by browse path: which names lead to them from the root, `/Objects/2:Press/2:Temperature`.
//!
//! A path means the same after a restart that gave every node another number. `/` goes along any
//! hierarchical reference, so it is also what the standard writes as `.`, and a `.` is a letter like
//! others: names are full of them. A name is preceded by its namespace, as an index (`2:`) or as a
//! URI (`nsu=urn:factory;`), and belongs to the standard's own without; `&` takes the meaning from
//! the letter behind it (OPC UA Part 4, A.2). Pure.

use std::fmt;
use std::str::FromStr;

use opcua::types::{self as ua, NodeId, ObjectId, QualifiedName, ReferenceTypeId, RelativePath, UAString};

use super::nodes::{Namespace, NodeAddress};

/// A node as configured, by its id or by the way to it, or as found in the session at hand.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Address {
    Node(NodeAddress),
    Path(BrowsePath),
    /// None while it is not there.
    Found(Option<NodeId>),
}

impl FromStr for Address {
    type Err = String;

    /// Says in plain words what is wrong with `text`.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with('/') { text.parse().map(Self::Path) } else { text.parse().map(Self::Node) }
    }
}

impl Address {
    /// Are all its namespaces among the server's?
    pub(super) fn find(&self, namespaces: &[String]) -> bool {
        match self {
            Self::Node(address) => address.resolve(namespaces).is_some(),
            Self::Path(path) => path.resolve(namespaces).is_some(),
            Self::Found(node) => node.is_some(),
        }
    }
}

/// A way from the root folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BrowsePath {
    /// At least one.
    steps: Vec<(Namespace, String)>,
}

impl BrowsePath {
    /// The folder in which servers keep what they serve.
    pub(super) fn objects() -> Self {
        Self { steps: vec![(Namespace::Index(0), "Objects".to_owned())] }
    }

    /// One step further.
    pub(super) fn then(&self, name: &QualifiedName, namespaces: &[String]) -> Self {
        let mut steps = self.steps.clone();
        let namespace = Namespace::at(name.namespace_index, namespaces);
        steps.push((namespace, name.name.as_ref().to_owned()));
        Self { steps }
    }

    /// The path in the server's own words. `None` where the server does not know a namespace: then
    /// there is no such node in this session.
    pub(super) fn resolve(&self, namespaces: &[String]) -> Option<ua::BrowsePath> {
        let step = |(namespace, name): &(Namespace, String)| {
            Some(ua::RelativePathElement {
                reference_type_id: ReferenceTypeId::HierarchicalReferences.into(),
                is_inverse: false,
                include_subtypes: true,
                target_name: QualifiedName {
                    namespace_index: namespace.find(namespaces)?,
                    name: UAString::from(name.as_str()),
                },
            })
        };
        let elements: Option<Vec<_>> = self.steps.iter().map(step).collect();
        Some(ua::BrowsePath {
            starting_node: ObjectId::RootFolder.into(),
            relative_path: RelativePath { elements: Some(elements?) },
        })
    }
}

impl FromStr for BrowsePath {
    type Err = String;

    /// Says in plain words what is wrong with `text`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut steps = Vec::new();
        let mut rest = text
            .strip_prefix('/')
            .ok_or_else(|| format!("`{text}` is no browse path: one begins with `/`"))?;
        loop {
            let mut namespace = Namespace::Index(0);
            if let Some(uri) = rest.strip_prefix("nsu=") {
                let (uri, name) = uri
                    .split_once(';')
                    .filter(|(uri, _)| !uri.is_empty())
                    .ok_or_else(|| format!("`{text}`: after `nsu=URI` a `;` and a name must follow"))?;
                (namespace, rest) = (Namespace::of_uri(uri), name);
            } else if let Some((index, name)) = rest.split_once(':')
                && !index.is_empty()
                && index.bytes().all(|letter| letter.is_ascii_digit())
            {
                let index = index
                    .parse()
                    .map_err(|_| format!("`{index}` in `{text}` is not a namespace index from 0 to 65535"))?;
                (namespace, rest) = (Namespace::Index(index), name);
            }
            let (name, after) = name(text, rest)?;
            steps.push((namespace, name));
            match after {
                Some(after) => rest = after,
                None => return Ok(Self { steps }),
            }
        }
    }
}

impl fmt::Display for BrowsePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (namespace, name) in &self.steps {
            f.write_str("/")?;
            match namespace {
                Namespace::Index(0) => {}
                Namespace::Index(index) => write!(f, "{index}:")?,
                Namespace::Uri(uri) => write!(f, "nsu={};", Namespace::escaped(uri))?,
            }
            for (at, letter) in name.char_indices() {
                // What would be taken for a namespace, a separator or an escape.
                let is_special = matches!(letter, '/' | '&' | ':') || (at == 0 && name.starts_with("nsu="));
                write!(f, "{}{letter}", if is_special { "&" } else { "" })?;
            }
        }
        Ok(())
    }
}

/// The name that `rest` begins with, and what stands behind its `/`.
fn name<'a>(text: &str, rest: &'a str) -> Result<(String, Option<&'a str>), String> {
    let mut name = String::new();
    let mut letters = rest.char_indices();
    let mut after = None;
    while let Some((at, letter)) = letters.next() {
        match letter {
            '/' => {
                after = rest.get(at + 1..);
                break;
            }
            '&' => match letters.next() {
                Some((_, letter)) => name.push(letter),
                None => {
                    return Err(format!(
                        "`{text}` ends in the middle of a name: `&` takes a letter behind it"
                    ));
                }
            },
            letter => name.push(letter),
        }
    }
    if name.is_empty() {
        return Err(format!("`{text}` has a step without a name"));
    }
    Ok((name, after))
}

/// The node at the end of a path, as a server told it; its status where there is none.
pub(super) fn target(result: &ua::BrowsePathResult) -> Result<NodeId, ua::StatusCode> {
    if result.status_code.is_bad() {
        return Err(result.status_code);
    }
    // A way that goes on at another server, or was not gone to its end, leads to nothing of ours.
    let whole = |target: &&ua::BrowsePathTarget| {
        target.remaining_path_index == u32::MAX && target.target_id.server_index == 0
    };
    let found = result.targets.iter().flatten().find(whole);
    found.map(|target| target.target_id.node_id.clone()).ok_or(ua::StatusCode::BadNoMatch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> BrowsePath {
        text.parse().unwrap_or_else(|why| panic!("{why}"))
    }

    /// Namespace and name of each step.
    fn steps(text: &str, namespaces: &[&str]) -> Option<Vec<(u16, String)>> {
        let namespaces: Vec<String> = namespaces.iter().map(|uri| (*uri).to_owned()).collect();
        let path = parse(text).resolve(&namespaces)?;
        assert_eq!(path.starting_node, NodeId::new(0, 84u32), "the root folder");
        let steps = path.relative_path.elements.unwrap().into_iter();
        Some(
            steps.map(|step| (step.target_name.namespace_index, step.target_name.name.to_string())).collect(),
        )
    }

    #[test]
    fn names_are_found_in_their_namespace_wherever_that_stands() {
        let of = |namespace: u16, name: &str| (namespace, name.to_owned());
        assert_eq!(
            steps("/Objects/2:Press/2:Flow.Temp", &[]),
            Some(vec![of(0, "Objects"), of(2, "Press"), of(2, "Flow.Temp")])
        );
        let by_uri = "/Objects/nsu=http://factory/a%3Bb;Press/nsu=urn:x;Temp";
        assert_eq!(
            steps(by_uri, &["ua", "urn:x", "http://factory/a;b"]),
            Some(vec![of(0, "Objects"), of(2, "Press"), of(1, "Temp")])
        );
        assert_eq!(steps(by_uri, &["ua", "urn:x"]), None);
        assert_eq!(
            steps("/3:m&/s/1:a&:b/x:y/&nsu=z/&&", &[]),
            Some(vec![of(3, "m/s"), of(1, "a:b"), of(0, "x:y"), of(0, "nsu=z"), of(0, "&")])
        );
    }

    #[test]
    fn a_path_written_and_read_again_is_the_same() {
        for text in ["/Objects/2:Press", "/nsu=urn:a%3B%25;b", "/3:m&/s/&nsu=z/&&/7&:x/é"] {
            assert_eq!(parse(&parse(text).to_string()), parse(text), "{text}");
        }
    }

    #[test]
    fn what_is_no_path_is_refused_with_the_text_and_the_reason() {
        for (text, word) in [
            ("/", "without a name"),
            ("/Objects/", "without a name"),
            ("/Objects//x", "without a name"),
            ("/2:", "without a name"),
            ("/70000:x", "namespace index"),
            ("/nsu=urn:x", "must follow"),
            ("/nsu=;x", "must follow"),
            ("/x&", "middle of a name"),
        ] {
            let why = text.parse::<BrowsePath>().unwrap_err();
            assert!(why.contains(word) && why.contains(text), "{text}: {why}");
        }
    }

    #[test]
    fn only_a_whole_way_on_this_server_leads_to_a_node() {
        let to = |server_index, remaining_path_index| ua::BrowsePathTarget {
            target_id: ua::ExpandedNodeId {
                node_id: NodeId::new(2, 7u32),
                namespace_uri: UAString::null(),
                server_index,
            },
            remaining_path_index,
        };
        let result = |targets| ua::BrowsePathResult { status_code: ua::StatusCode::Good, targets };
        assert_eq!(target(&result(None)), Err(ua::StatusCode::BadNoMatch));
        assert_eq!(target(&result(Some(vec![to(1, u32::MAX), to(0, 1)]))), Err(ua::StatusCode::BadNoMatch));
        assert_eq!(target(&result(Some(vec![to(0, 1), to(0, u32::MAX)]))), Ok(NodeId::new(2, 7u32)));
        let refused = ua::BrowsePathResult { status_code: ua::StatusCode::BadNoMatch, targets: None };
        assert_eq!(target(&refused), Err(ua::StatusCode::BadNoMatch));
    }
}
