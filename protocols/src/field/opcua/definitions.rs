//! Learning from a server what its structures are made of: from an encoding to its type, from there to the
//! types of its fields and the types these rest on. Only what values brought along is asked for, each once in
//! a session.

use std::collections::HashSet;
use std::sync::Arc;

use opcua::types::{
    AttributeId, BrowseDescription, BrowseDirection, DataValue, Error, NodeId, ReferenceTypeId, StatusCode,
    StructureDefinition, Variant,
};

use super::faults::plain;
use super::items::{Portions, SMALLEST_PORTION, smaller, too_much, unsupported};
use super::session::Session;
use super::structures::{Kind, Structure, Types};

/// Rounds of asking: each goes one field deeper, or one type nearer to those of the standard.
const MOST_ROUNDS: usize = 48;
/// Types that others rest on and that have fields of their own kind.
const STRUCTURE: u32 = 22;
const UNION: u32 = 12756;

impl Types {
    /// Learns what is encoded like this, with all that is in it. What the server does not tell is known to be
    /// unknown afterwards, with the reason.
    pub(super) async fn learn(
        &mut self,
        session: &mut Session,
        encoding: &NodeId,
        portions: &mut Portions,
    ) -> Result<(), Error> {
        if self.knows_encoding(encoding) || !self.has_room() {
            return Ok(());
        }
        let parent =
            parents(session, std::slice::from_ref(encoding), ReferenceTypeId::HasEncoding, portions).await?;
        let data_type = match parent.into_iter().next() {
            Some(Ok(data_type)) => data_type,
            Some(Err(status)) => {
                let words = format!(
                    "the server does not say of which type the structure encoded as {encoding} is: {}",
                    plain(status)
                );
                self.note_encoding(encoding.clone(), Err(words.into()));
                return Ok(());
            }
            None => return Ok(()),
        };
        self.note_encoding(encoding.clone(), Ok(data_type.clone()));
        let mut waiting = HashSet::from([data_type]);
        for _ in 0..MOST_ROUNDS {
            waiting.retain(|data_type| !self.knows(data_type));
            if waiting.is_empty() || !self.has_room() {
                break;
            }
            let round = std::mem::take(&mut waiting).into_iter().collect();
            waiting.extend(self.learn_types(session, round, portions).await?);
        }
        Ok(())
    }

    /// Learns these types; gives those that have to be known besides.
    async fn learn_types(
        &mut self,
        session: &mut Session,
        types: Vec<NodeId>,
        portions: &mut Portions,
    ) -> Result<Vec<NodeId>, Error> {
        let mut more = Vec::new();
        let mut simple = Vec::new();
        let mut told = descriptions(session, &types, portions).await?.into_iter();
        for data_type in types {
            let (definition, is_abstract) = (told.next().flatten(), told.next().flatten());
            let is_abstract = matches!(is_abstract, Some(Variant::Boolean(true)));
            let definition = match definition {
                Some(Variant::ExtensionObject(object)) => object.into_inner_as::<StructureDefinition>(),
                _ => None,
            };
            match definition {
                Some(_) if is_abstract => self.note(data_type, Kind::Extension),
                Some(definition) => {
                    let (structure, fields) = Structure::new(*definition);
                    more.extend(fields);
                    self.note(data_type, Kind::Structure(Arc::new(structure)));
                }
                // An enumeration, a set of options, a type of its own that is a number: as what it rests on.
                None => simple.push((data_type, is_abstract)),
            }
        }
        let asked: Vec<NodeId> = simple.iter().map(|(data_type, _)| data_type.clone()).collect();
        let parents = parents(session, &asked, ReferenceTypeId::HasSubtype, portions).await?;
        for ((data_type, is_abstract), parent) in simple.into_iter().zip(parents) {
            let kind = match parent {
                Ok(parent) if parent.namespace == 0 && is_structure(&parent) => {
                    if is_abstract {
                        Kind::Extension
                    } else {
                        Kind::Unknown(undescribed(&data_type))
                    }
                }
                Ok(parent) => {
                    more.push(parent.clone());
                    Kind::Like(parent)
                }
                Err(status) => Kind::Unknown(
                    format!("the server does not describe the type {data_type}: {}", plain(status)).into(),
                ),
            };
            self.note(data_type, kind);
        }
        Ok(more)
    }
}

fn is_structure(node: &NodeId) -> bool {
    matches!(node.as_u32(), Some(STRUCTURE | UNION))
}

fn undescribed(data_type: &NodeId) -> Arc<str> {
    format!(
        "the server has no DataTypeDefinition of the type {data_type} (OPC UA 1.04); type dictionaries of older \
         servers are not read"
    )
    .into()
}

/// DataTypeDefinition and IsAbstract of each.
async fn descriptions(
    session: &mut Session,
    types: &[NodeId],
    portions: &mut Portions,
) -> Result<Vec<Option<Variant>>, Error> {
    let mut told = Vec::with_capacity(types.len() * 2);
    let mut rest = types;
    while !rest.is_empty() {
        let (part, after) = rest.split_at((portions.reads / 2).clamp(1, rest.len()));
        let asked = part
            .iter()
            .flat_map(|node| {
                [AttributeId::DataTypeDefinition, AttributeId::IsAbstract].map(|a| (node.clone(), a))
            })
            .collect();
        match session.attributes(asked).await {
            Ok(values) => {
                let good =
                    |value: DataValue| value.value.filter(|_| value.status.is_none_or(|s| s.is_good()));
                let mut values = values.into_iter().map(good);
                told.extend((0..part.len() * 2).map(|_| values.next().flatten()));
                rest = after;
            }
            Err(error) if too_much(error.status()) && portions.reads > SMALLEST_PORTION => {
                portions.reads = smaller(portions.reads);
            }
            Err(error) if too_much(error.status()) || unsupported(error.status()) => {
                told.extend((0..part.len() * 2).map(|_| None));
                rest = after;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(told)
}

/// What each is the encoding or the subtype of.
async fn parents(
    session: &mut Session,
    nodes: &[NodeId],
    kind: ReferenceTypeId,
    portions: &mut Portions,
) -> Result<Vec<Result<NodeId, StatusCode>>, Error> {
    let mut parents = Vec::with_capacity(nodes.len());
    let mut rest = nodes;
    while !rest.is_empty() {
        let (part, after) = rest.split_at(portions.browses.clamp(1, rest.len()));
        let asked = part.iter().map(|node| above(node, kind)).collect();
        match session.browse(asked, 10).await {
            Ok(results) => {
                let mut results = results.into_iter();
                parents.extend(part.iter().map(|_| {
                    let result = results.next().ok_or(StatusCode::BadNoData)?;
                    if result.status_code.is_bad() {
                        return Err(result.status_code);
                    }
                    let references = result.references.unwrap_or_default().into_iter();
                    let own = references.map(|reference| reference.node_id).find(|id| id.server_index == 0);
                    own.map(|id| id.node_id).ok_or(StatusCode::BadNoMatch)
                }));
                rest = after;
            }
            Err(error) if too_much(error.status()) && portions.browses > 1 => {
                portions.browses = (portions.browses / 2).max(1);
            }
            Err(error) if too_much(error.status()) || unsupported(error.status()) => {
                parents.extend(part.iter().map(|_| Err(error.status())));
                rest = after;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(parents)
}

fn above(node: &NodeId, kind: ReferenceTypeId) -> BrowseDescription {
    BrowseDescription {
        node_id: node.clone(),
        browse_direction: BrowseDirection::Inverse,
        reference_type_id: kind.into(),
        include_subtypes: false,
        node_class_mask: 0,
        result_mask: 0x3F,
    }
}
