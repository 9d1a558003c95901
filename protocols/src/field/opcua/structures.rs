//! Structures, from the bytes of their binary encoding to fields and elements, by what the server says of
//! their types (OPC UA Part 3, 8.48: DataTypeDefinition; Part 6, 5.2.6 to 5.2.8: how they are encoded).
//!
//! Everything has a bound: structures within structures, values of one structure, types and their fields. What
//! cannot be understood concerns its own point: the library would give up the message, and with it the
//! connection, so it gets structures as bytes and they are taken apart here. Pure.

use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;

use opcua::types::{Array, BinaryDecodable, Context, NodeId, StructureDefinition, StructureType, Variant};

use super::channel::context;

/// Values in one structure, all its elements and fields together.
pub(super) const MOST_VALUES: usize = 1 << 17;
/// Structures in structures.
const MOST_LEVELS: usize = 16;
/// From a type to the one it rests on.
const MOST_ANCESTORS: usize = 32;
/// Types of one server.
const MOST_TYPES: usize = 2_000;
/// Fields of all of them.
const MOST_FIELDS: usize = 50_000;

/// The type of ExtensionObjects in general (OPC UA Part 6, 5.1.2 numbers the built-in types).
const EXTENSION_OBJECT: u8 = 22;

/// A structure taken apart.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Tree {
    /// A value of a built-in type, or an array of them.
    Value(Variant),
    /// Structures in an array, the last dimension fastest. At least one dimension.
    Elements(Vec<u32>, Vec<Tree>),
    /// In their order. An optional field that is not there is not among them.
    Fields(Vec<(Arc<str>, Tree)>),
    /// A structure that is not there.
    Nothing,
    /// A structure within this one that cannot be taken apart.
    Closed(Trouble),
}

/// Why a structure cannot be taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Nobody asked yet what is encoded like this.
    Unlearned(NodeId),
    /// In plain words.
    Why(Arc<str>),
}

/// What is known of a server's types. Of one session: a restarted server may have other ones.
#[derive(Default)]
pub(super) struct Types {
    types: HashMap<NodeId, Kind>,
    /// By the node of their binary encoding.
    encodings: HashMap<NodeId, Result<NodeId, Arc<str>>>,
    fields: usize,
}

/// How values of a type are encoded.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// As a built-in type, by its number.
    BuiltIn(u8),
    /// With its own fields.
    Structure(Arc<Structure>),
    /// With the name of its own encoding before it: an abstract structure.
    Extension,
    /// As the type it rests on.
    Like(NodeId),
    /// In plain words: why that is not known.
    Unknown(Arc<str>),
}

/// A structure's fields.
#[derive(Debug)]
pub(super) struct Structure {
    kind: StructureType,
    fields: Vec<Field>,
}

#[derive(Debug)]
struct Field {
    name: Arc<str>,
    data_type: NodeId,
    rank: i32,
    is_optional: bool,
}

impl Types {
    /// Does anything have to be asked before a structure of this encoding can be taken apart?
    pub(super) fn knows_encoding(&self, encoding: &NodeId) -> bool {
        self.encodings.contains_key(encoding)
    }

    /// The type that is encoded like this, or in plain words why that is not known.
    pub(super) fn note_encoding(&mut self, encoding: NodeId, data_type: Result<NodeId, Arc<str>>) {
        self.encodings.insert(encoding, data_type);
    }

    /// Is it known how values of this type are encoded, or that it cannot be known?
    pub(super) fn knows(&self, data_type: &NodeId) -> bool {
        built_in(data_type).is_some() || self.types.contains_key(data_type)
    }

    /// Can more types be learnt?
    pub(super) fn has_room(&self) -> bool {
        self.types.len().max(self.encodings.len()) < MOST_TYPES && self.fields < MOST_FIELDS
    }

    pub(super) fn note(&mut self, data_type: NodeId, kind: Kind) {
        if let Kind::Structure(structure) = &kind {
            self.fields += structure.fields.len();
        }
        self.types.insert(data_type, kind);
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The way from a type to one whose encoding is known.
    fn kind(&self, data_type: &NodeId) -> Kind {
        let mut data_type = data_type.clone();
        for _ in 0..MOST_ANCESTORS {
            if let Some(kind) = built_in(&data_type) {
                return kind;
            }
            match self.types.get(&data_type) {
                Some(Kind::Like(other)) => data_type = other.clone(),
                Some(kind) => return kind.clone(),
                None => return Kind::Unknown(format!("nothing is known of the type {data_type}").into()),
            }
        }
        Kind::Unknown(format!("the type {data_type} rests on too many others").into())
    }

    /// Takes a structure apart.
    pub(super) fn open(&self, encoding: &NodeId, body: &[u8]) -> Result<Tree, Trouble> {
        let context = context();
        let mut opening =
            Opening { types: self, context: context.context(), rest: body, left: MOST_VALUES, level: 0 };
        let tree = opening.extension(encoding)?;
        if !opening.rest.is_empty() {
            return Err(Trouble::Why(MISMATCH.into()));
        }
        Ok(tree)
    }
}

/// What is said of bytes that are not as the description says: it may be an old one.
pub(super) const MISMATCH: &str = "its bytes are not what the server's description of its type says";

impl Structure {
    /// As the server describes it; with the types of its fields. In plain words what cannot be done with it.
    pub(super) fn new(definition: StructureDefinition) -> (Self, Vec<NodeId>) {
        let fields: Vec<Field> = definition
            .fields
            .unwrap_or_default()
            .into_iter()
            .take(MOST_FIELDS)
            .map(|field| Field {
                name: field.name.as_ref().into(),
                data_type: field.data_type,
                rank: field.value_rank,
                is_optional: field.is_optional,
            })
            .collect();
        let types = fields.iter().map(|field| field.data_type.clone()).collect();
        (Self { kind: definition.structure_type, fields }, types)
    }
}

/// A type of the standard's own whose encoding needs no asking.
fn built_in(data_type: &NodeId) -> Option<Kind> {
    if data_type.namespace != 0 {
        return None;
    }
    Some(match data_type.as_u32()? {
        number @ (1..=21 | 23 | 25) => Kind::BuiltIn(number as u8),
        // Structure, and Decimal.
        22 | 50 => Kind::Extension,
        // BaseDataType, Number, Integer, UInteger: any of them, so that it says which.
        24 | 26..=28 => Kind::BuiltIn(24),
        // Enumeration.
        29 => Kind::BuiltIn(6),
        _ => return None,
    })
}

/// One structure being taken apart.
struct Opening<'a> {
    types: &'a Types,
    context: Context<'a>,
    rest: &'a [u8],
    /// Values that it may still have.
    left: usize,
    level: usize,
}

fn why(words: impl Into<Arc<str>>) -> Trouble {
    Trouble::Why(words.into())
}

impl Opening<'_> {
    /// What is encoded like this.
    fn extension(&mut self, encoding: &NodeId) -> Result<Tree, Trouble> {
        let data_type = match self.types.encodings.get(encoding) {
            None => return Err(Trouble::Unlearned(encoding.clone())),
            Some(Err(words)) => return Err(Trouble::Why(words.clone())),
            Some(Ok(data_type)) => data_type,
        };
        match self.types.kind(data_type) {
            Kind::Structure(structure) => self.structure(&structure),
            Kind::Unknown(words) => Err(Trouble::Why(words)),
            _ => Err(why(format!("the type {data_type} is no structure"))),
        }
    }

    fn structure(&mut self, structure: &Structure) -> Result<Tree, Trouble> {
        if self.level >= MOST_LEVELS {
            return Err(why(format!("it has more than {MOST_LEVELS} structures in one another")));
        }
        self.count(1)?;
        self.level += 1;
        let mut fields = Vec::new();
        use StructureType::{StructureWithOptionalFields, Union, UnionWithSubtypedValues};
        if matches!(structure.kind, Union | UnionWithSubtypedValues) {
            // Which of the fields it is, from 1; 0 is none.
            let chosen = u32::from_le_bytes(self.bytes()?) as usize;
            if let Some(at) = chosen.checked_sub(1) {
                let field = structure.fields.get(at).ok_or_else(|| why(MISMATCH))?;
                fields.push((field.name.clone(), self.field(field, structure.kind)?));
            }
        } else {
            let has_mask = structure.kind == StructureWithOptionalFields;
            let mut mask = if has_mask { u32::from_le_bytes(self.bytes()?) } else { 0 };
            for field in &structure.fields {
                if has_mask && field.is_optional {
                    let is_there = mask & 1 == 1;
                    mask >>= 1;
                    if !is_there {
                        continue;
                    }
                }
                fields.push((field.name.clone(), self.field(field, structure.kind)?));
            }
        }
        self.level -= 1;
        Ok(Tree::Fields(fields))
    }

    fn field(&mut self, field: &Field, of: StructureType) -> Result<Tree, Trouble> {
        let mut kind = self.types.kind(&field.data_type);
        use StructureType::{StructureWithSubtypedValues, UnionWithSubtypedValues};
        // There the flag means that the value may be of a type that rests on this one, and says which.
        if field.is_optional && matches!(of, StructureWithSubtypedValues | UnionWithSubtypedValues) {
            kind = match kind {
                Kind::Structure(_) | Kind::Extension => Kind::Extension,
                Kind::BuiltIn(_) => Kind::BuiltIn(24),
                other => other,
            };
        }
        if let Kind::Unknown(words) = kind {
            return Err(why(format!("of its field `{}`, {words}", field.name)));
        }
        match field.rank {
            -1 => self.scalar(&kind),
            1 => {
                let length = self.length()?;
                self.elements(&kind, length, None)
            }
            2.. => {
                let dimensions = self.dimensions(field.rank)?;
                let length = dimensions.iter().try_fold(1usize, |length, dimension| {
                    length.checked_mul(*dimension as usize).filter(|length| *length <= MOST_VALUES)
                });
                let length = length.ok_or_else(|| why(format!("it has more than {MOST_VALUES} values")))?;
                self.elements(&kind, length, Some(dimensions))
            }
            rank => Err(why(format!("its field `{}` may have any dimensions ({rank})", field.name))),
        }
    }

    fn scalar(&mut self, kind: &Kind) -> Result<Tree, Trouble> {
        match kind {
            Kind::BuiltIn(EXTENSION_OBJECT) | Kind::Extension => self.named(),
            Kind::BuiltIn(number) => {
                self.count(1)?;
                self.variant(&[*number]).map(Tree::Value)
            }
            Kind::Structure(structure) => self.structure(structure),
            Kind::Like(_) | Kind::Unknown(_) => Err(why(MISMATCH)),
        }
    }

    fn elements(
        &mut self,
        kind: &Kind,
        length: usize,
        dimensions: Option<Vec<u32>>,
    ) -> Result<Tree, Trouble> {
        if length > self.left {
            return Err(why(format!("it has more than {MOST_VALUES} values")));
        }
        match kind {
            Kind::BuiltIn(number) if *number != EXTENSION_OBJECT => {
                self.count(length)?;
                // As an array of them stands in a Variant: its length is before it.
                let announced = i32::try_from(length).map_err(|_| why(MISMATCH))?.to_le_bytes();
                let [a, b, c, d] = announced;
                let array = self.variant(&[*number | 0x80, a, b, c, d])?;
                Ok(Tree::Value(match (array, dimensions) {
                    (Variant::Array(array), Some(dimensions)) if !array.values.is_empty() => {
                        let array = Array { dimensions: Some(dimensions), ..*array };
                        Variant::Array(Box::new(array))
                    }
                    (array, _) => array,
                }))
            }
            _ => {
                let dimensions =
                    dimensions.unwrap_or_else(|| vec![u32::try_from(length).unwrap_or(u32::MAX)]);
                // No more room than there are bytes: a length is only announced.
                let mut elements = Vec::with_capacity(length.min(self.rest.len()));
                for _ in 0..length {
                    elements.push(self.scalar(kind)?);
                }
                Ok(Tree::Elements(dimensions, elements))
            }
        }
    }

    /// A structure that says itself how it is encoded. What is in it that cannot be understood is passed over.
    fn named(&mut self) -> Result<Tree, Trouble> {
        self.count(1)?;
        let encoding = NodeId::decode(&mut self.rest, &self.context).map_err(|_| why(MISMATCH))?;
        let [form] = self.bytes()?;
        if form == 0 {
            return Ok(Tree::Nothing);
        }
        let length = self.length()?;
        let (body, behind) = self.rest.split_at_checked(length).ok_or_else(|| why(MISMATCH))?;
        if form != 1 {
            self.rest = behind;
            return Ok(Tree::Closed(why("a structure in it is encoded as XML")));
        }
        if self.level >= MOST_LEVELS {
            return Err(why(format!("it has more than {MOST_LEVELS} structures in one another")));
        }
        self.rest = body;
        self.level += 1;
        let level = self.level;
        let tree = match self.extension(&encoding) {
            Ok(_) if !self.rest.is_empty() => Tree::Closed(why(MISMATCH)),
            Ok(tree) => tree,
            Err(trouble) => Tree::Closed(trouble),
        };
        self.level = level - 1;
        self.rest = behind;
        Ok(tree)
    }

    /// A value as it would stand in a Variant with this before it.
    fn variant(&mut self, before: &[u8]) -> Result<Variant, Trouble> {
        let mut stream = before.chain(self.rest);
        let variant = Variant::decode(&mut stream, &self.context).map_err(|_| why(MISMATCH))?;
        (_, self.rest) = stream.into_inner();
        Ok(variant)
    }

    /// How many elements or bytes follow; none where there is nothing at all.
    fn length(&mut self) -> Result<usize, Trouble> {
        let length = i32::from_le_bytes(self.bytes()?);
        let length = usize::try_from(length.max(0)).unwrap_or(0);
        if length > MOST_VALUES.max(self.rest.len()) {
            return Err(why(format!("it announces {length} elements or bytes")));
        }
        Ok(length)
    }

    /// One length for each dimension.
    fn dimensions(&mut self, rank: i32) -> Result<Vec<u32>, Trouble> {
        let count = self.length()?;
        if usize::try_from(rank) != Ok(count) {
            // An array that is not there has none.
            return if count == 0 { Ok(vec![0]) } else { Err(why(MISMATCH)) };
        }
        (0..count).map(|_| self.length().map(|length| u32::try_from(length).unwrap_or(u32::MAX))).collect()
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Trouble> {
        let (first, rest) = self.rest.split_first_chunk().ok_or_else(|| why(MISMATCH))?;
        self.rest = rest;
        Ok(*first)
    }

    fn count(&mut self, values: usize) -> Result<(), Trouble> {
        let left = self.left.checked_sub(values);
        self.left = left.ok_or_else(|| why(format!("it has more than {MOST_VALUES} values")))?;
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests;
