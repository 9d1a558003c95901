//! How a node is written in configuration, and which node that is on the server at hand.
//!
//! The text form is OPC UA Part 6, 5.3.1.10: `nsu=URI;s=Name`, `ns=2;i=1234`, `i=2258`, with
//! `i` a number, `s` text, `g` a GUID and `b` base64. An index means something only until the
//! server restarts, so a URI is looked up again in every new session. Pure: no I/O.

use std::fmt;
use std::str::FromStr;

use opcua::types::{ByteString, Guid, Identifier, NodeId, UAString};

/// A node as configured, not yet bound to a session.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeAddress {
    namespace: Namespace,
    identifier: Identifier,
}

/// Whose name it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Namespace {
    Index(u16),
    Uri(String),
}

impl Namespace {
    /// Its index among the server's. `None` where the server does not know the URI.
    pub(super) fn find(&self, namespaces: &[String]) -> Option<u16> {
        match self {
            Self::Index(index) => Some(*index),
            Self::Uri(uri) => u16::try_from(namespaces.iter().position(|known| known == uri)?).ok(),
        }
    }

    /// That of an index, by its URI where it has one. The standard's own needs none.
    pub(super) fn at(index: u16, namespaces: &[String]) -> Self {
        match namespaces.get(usize::from(index)).filter(|uri| index != 0 && !uri.is_empty()) {
            Some(uri) => Self::Uri(uri.clone()),
            None => Self::Index(index),
        }
    }

    /// Of a URI as configuration writes it: Part 6 escapes `;`, the separator, and `%`.
    pub(super) fn of_uri(text: &str) -> Self {
        Self::Uri(text.replace("%3B", ";").replace("%25", "%"))
    }

    /// A URI as configuration writes it.
    pub(super) fn escaped(uri: &str) -> String {
        uri.replace('%', "%25").replace(';', "%3B")
    }
}

impl NodeAddress {
    /// How to write a node of a server with these namespaces, so that it is found after a restart.
    pub(super) fn of(node: &NodeId, namespaces: &[String]) -> Self {
        Self { namespace: Namespace::at(node.namespace, namespaces), identifier: node.identifier.clone() }
    }

    /// Where the node is among `namespaces`, the server's NamespaceArray. `None` where the server
    /// does not know the URI: there is no such node in this session.
    pub fn resolve(&self, namespaces: &[String]) -> Option<NodeId> {
        let namespace = self.namespace.find(namespaces)?;
        Some(NodeId { namespace, identifier: self.identifier.clone() })
    }
}

impl FromStr for NodeAddress {
    type Err = String;

    /// Says in plain words what is wrong with `text`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (namespace, rest) = if let Some(rest) = text.strip_prefix("nsu=") {
            let (uri, rest) = split_namespace(text, rest)?;
            if uri.is_empty() {
                return Err(format!("`{text}` names no namespace between `nsu=` and `;`"));
            }
            (Namespace::of_uri(uri), rest)
        } else if let Some(rest) = text.strip_prefix("ns=") {
            let (index, rest) = split_namespace(text, rest)?;
            let index = index
                .parse()
                .map_err(|_| format!("`{index}` in `{text}` is not a namespace index from 0 to 65535"))?;
            (Namespace::Index(index), rest)
        } else {
            (Namespace::Index(0), text)
        };
        Ok(Self { namespace, identifier: identifier(text, rest)? })
    }
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Namespace::Index(0) => {}
            Namespace::Index(index) => write!(f, "ns={index};")?,
            Namespace::Uri(uri) => write!(f, "nsu={};", Namespace::escaped(uri))?,
        }
        write!(f, "{}", self.identifier)
    }
}

fn split_namespace<'a>(text: &str, rest: &'a str) -> Result<(&'a str, &'a str), String> {
    rest.split_once(';').ok_or_else(|| {
        format!("`{text}` ends before the node: a namespace is followed by `;` and `i=`, `s=`, `g=` or `b=`")
    })
}

fn identifier(text: &str, rest: &str) -> Result<Identifier, String> {
    // Everything after the first `=` belongs to the name, further `;` and `=` included.
    match rest.split_once('=') {
        Some(("i", number)) => number
            .parse()
            .map(Identifier::Numeric)
            .map_err(|_| format!("`{number}` in `{text}` is not a number from 0 to 4294967295")),
        Some(("s", "")) => Err(format!("`{text}` has no name after `s=`")),
        Some(("s", name)) => Ok(Identifier::String(UAString::from(name))),
        Some(("g", guid)) => Guid::from_str(guid).map(Identifier::Guid).map_err(|_| {
            format!("`{guid}` in `{text}` is not a GUID (72962b91-fa75-4ae6-8d28-b404dc7daf63)")
        }),
        Some(("b", base64)) => ByteString::from_base64(base64)
            .filter(|bytes| !bytes.is_null_or_empty())
            .map(Identifier::ByteString)
            .ok_or_else(|| format!("`{base64}` in `{text}` is not base64")),
        _ => Err(format!("`{text}` is not a node: write `nsu=URI;s=Name`, `ns=2;i=1234` or `i=2258`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespaces(list: &[&str]) -> Vec<String> {
        list.iter().map(|uri| (*uri).to_owned()).collect()
    }

    fn parse(text: &str) -> NodeAddress {
        text.parse().unwrap_or_else(|why| panic!("{text}: {why}"))
    }

    #[test]
    fn every_form_of_the_standard_is_read() {
        let none = namespaces(&[]);
        let table: [(&str, NodeId); 6] = [
            ("i=2258", NodeId::new(0, 2258u32)),
            ("ns=2;i=1234", NodeId::new(2, 1234u32)),
            ("ns=65535;s=a;b=c", NodeId::new(65535, "a;b=c")),
            ("s=Press.Temp", NodeId::new(0, "Press.Temp")),
            (
                "ns=1;g=72962b91-fa75-4ae6-8d28-b404dc7daf63",
                NodeId::new(1, Guid::from_str("72962b91-fa75-4ae6-8d28-b404dc7daf63").unwrap()),
            ),
            ("ns=1;b=M/RbKBsRVkePCePcx24oRA==", {
                NodeId::new(1, ByteString::from_base64("M/RbKBsRVkePCePcx24oRA==").unwrap())
            }),
        ];
        for (text, node) in table {
            assert_eq!(parse(text).resolve(&none), Some(node), "{text}");
            assert_eq!(parse(&parse(text).to_string()), parse(text), "{text} written and read again");
        }
    }

    #[test]
    fn a_uri_is_found_wherever_a_restarted_server_puts_it() {
        let address = parse("nsu=urn:plant;s=Temp");
        let before = namespaces(&["http://opcfoundation.org/UA/", "urn:server", "urn:plant"]);
        let after = namespaces(&["http://opcfoundation.org/UA/", "urn:server", "urn:new", "urn:plant"]);
        assert_eq!(address.resolve(&before), Some(NodeId::new(2, "Temp")));
        assert_eq!(address.resolve(&after), Some(NodeId::new(3, "Temp")));
        assert_eq!(address.resolve(&before[..2]), None);
    }

    #[test]
    fn a_uri_may_hold_an_escaped_semicolon() {
        let address = parse("nsu=urn:a%3Bb%25;i=1");
        assert_eq!(address.resolve(&namespaces(&["urn:a;b%"])), Some(NodeId::new(0, 1u32)));
        assert_eq!(address.to_string(), "nsu=urn:a%3Bb%25;i=1");
    }

    #[test]
    fn what_is_no_node_is_refused_with_the_text_and_the_reason() {
        for (text, word) in [
            ("", "write `nsu="),
            ("Press.Temp", "write `nsu="),
            ("x=3", "write `nsu="),
            ("i=", "not a number"),
            ("i=4294967296", "not a number"),
            ("i=-1", "not a number"),
            ("s=", "no name"),
            ("ns=2", "ends before the node"),
            ("ns=70000;i=1", "namespace index"),
            ("ns=;i=1", "namespace index"),
            ("nsu=;i=1", "no namespace"),
            ("nsu=urn:plant", "ends before the node"),
            ("g=123", "not a GUID"),
            ("b=***", "not base64"),
            ("b=", "not base64"),
        ] {
            let why = text.parse::<NodeAddress>().unwrap_err();
            assert!(why.contains(word) && why.contains(text), "{text}: {why}");
        }
    }
}
