//! Parts of values: what stands at the end of the steps to one, and which there are. Pure.

use std::collections::HashMap;

use forebay_config::field::{OpcUaPart, PartStep};
use opcua::types::{Array, ByteStringBody, ExtensionObject, Variant};

use super::structures::{Tree, Trouble, Types};

/// A value being taken apart. A structure in it is opened once, however many of its fields are read.
pub(super) struct Whole<'a> {
    value: &'a Variant,
    types: &'a Types,
    /// By the element that they are, of an array of structures.
    opened: HashMap<usize, Result<Tree, Trouble>>,
}

/// What stands at the end of the steps to a part.
pub(super) struct Picked {
    pub value: Variant,
    /// Was it taken out of a structure? The library did not touch what is in one.
    pub from_structure: bool,
}

/// Why a part has no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// Beyond the array's end, an optional field, a structure that is not there.
    Absent,
    /// No array, other dimensions, or no structure.
    Shape,
    /// The structure cannot be taken apart.
    Closed(Trouble),
}

impl<'a> Whole<'a> {
    pub(super) fn new(value: &'a Variant, types: &'a Types) -> Self {
        Self { value, types, opened: HashMap::new() }
    }

    /// The part at the end of these steps. Of an array only those from `first` on were sent.
    pub(super) fn pick(&mut self, part: &OpcUaPart, first: u32) -> Result<Picked, Missing> {
        let whole = plain(self.value);
        let (whole, place, steps) = match (whole, part.steps().split_first()) {
            (Variant::Array(array), Some((PartStep::Element(indices), rest))) => {
                let moved: Option<Vec<u32>> = match indices.as_slice() {
                    [index] => index.checked_sub(first).map(|index| vec![index]),
                    several => Some(several.to_vec()),
                };
                let place = place(array, &moved.ok_or(Missing::Absent)?)?;
                (plain(array.values.get(place).ok_or(Missing::Absent)?), place, rest)
            }
            _ => (whole, 0, part.steps()),
        };
        match whole {
            Variant::ExtensionObject(object) if !steps.is_empty() => {
                let types = self.types;
                let tree = self.opened.entry(place).or_insert_with(|| open(object, types));
                match tree {
                    Ok(tree) => from_tree(tree, steps, types),
                    Err(trouble) => Err(Missing::Closed(trouble.clone())),
                }
            }
            value => from_value(value, steps, self.types, false),
        }
    }

    /// Every part that could be a reading, in its order, `most` at the most. `None` where there are more.
    /// What cannot be taken apart is left out, unless it only has to be learnt.
    pub(super) fn leaves(
        &self,
        most: usize,
        is_reading: impl Fn(&Variant) -> bool,
    ) -> Result<Option<Vec<(OpcUaPart, Variant)>>, Trouble> {
        let mut leaves = Leaves { types: self.types, most, found: Vec::new(), is_reading };
        match leaves.of_value(self.value, &OpcUaPart::default()) {
            Ok(()) => Ok(Some(leaves.found)),
            Err(End::Full) => Ok(None),
            Err(End::Trouble(trouble)) => Err(trouble),
        }
    }
}

/// How many elements an array of one dimension has; none for anything else.
pub(super) fn flat_length(value: &Variant) -> Option<usize> {
    match plain(value) {
        Variant::Array(array) if dimensions(array).len() == 1 => Some(array.values.len()),
        _ => None,
    }
}

/// A Variant in a Variant is what is in it.
fn plain(mut value: &Variant) -> &Variant {
    while let Variant::Variant(inner) = value {
        value = inner;
    }
    value
}

fn dimensions(array: &Array) -> Vec<u32> {
    match &array.dimensions {
        Some(dimensions) if !dimensions.is_empty() => dimensions.clone(),
        _ => vec![u32::try_from(array.values.len()).unwrap_or(u32::MAX)],
    }
}

/// Where an element stands among those that were sent.
fn place(array: &Array, indices: &[u32]) -> Result<usize, Missing> {
    if array.values.is_empty() {
        return Err(Missing::Absent);
    }
    place_among(&dimensions(array), indices)
}

fn place_among(dimensions: &[u32], indices: &[u32]) -> Result<usize, Missing> {
    if dimensions.len() != indices.len() {
        return Err(Missing::Shape);
    }
    let mut place = 0usize;
    for (dimension, index) in dimensions.iter().zip(indices) {
        if index >= dimension {
            return Err(Missing::Absent);
        }
        place = place.saturating_mul(*dimension as usize).saturating_add(*index as usize);
    }
    Ok(place)
}

fn open(object: &ExtensionObject, types: &Types) -> Result<Tree, Trouble> {
    match object.inner_as::<ByteStringBody>() {
        Some(body) => types.open(body.encoding_id(), body.raw_body().as_ref()),
        None if object.is_null() => Ok(Tree::Nothing),
        None => Err(Trouble::Why("it is not encoded as OPC UA Binary".into())),
    }
}

fn from_value(
    value: &Variant,
    steps: &[PartStep],
    types: &Types,
    from_structure: bool,
) -> Result<Picked, Missing> {
    let value = plain(value);
    let Some((step, rest)) = steps.split_first() else {
        return Ok(Picked { value: value.clone(), from_structure });
    };
    match (value, step) {
        (Variant::Array(array), PartStep::Element(indices)) => {
            let element = array.values.get(place(array, indices)?).ok_or(Missing::Absent)?;
            from_value(element, rest, types, from_structure)
        }
        (Variant::ByteString(bytes), PartStep::Element(indices)) => {
            let length = u32::try_from(bytes.as_ref().len()).unwrap_or(u32::MAX);
            let byte = bytes.as_ref().get(place_among(&[length], indices)?).ok_or(Missing::Absent)?;
            from_value(&Variant::from(*byte), rest, types, from_structure)
        }
        (Variant::ExtensionObject(object), _) => match open(object, types) {
            Ok(tree) => from_tree(&tree, steps, types),
            Err(trouble) => Err(Missing::Closed(trouble)),
        },
        (Variant::Empty, _) => Err(Missing::Absent),
        _ => Err(Missing::Shape),
    }
}

fn from_tree(tree: &Tree, steps: &[PartStep], types: &Types) -> Result<Picked, Missing> {
    match (tree, steps.split_first()) {
        (Tree::Value(value), _) => from_value(value, steps, types, true),
        (Tree::Elements(_, elements), Some((PartStep::Element(_), _))) if elements.is_empty() => {
            Err(Missing::Absent)
        }
        (Tree::Elements(dimensions, elements), Some((PartStep::Element(indices), rest))) => {
            let place = place_among(dimensions, indices)?;
            from_tree(elements.get(place).ok_or(Missing::Absent)?, rest, types)
        }
        (Tree::Fields(fields), Some((PartStep::Field(name), rest))) => {
            let field = fields.iter().find(|(field, _)| **field == *name.as_str());
            from_tree(&field.ok_or(Missing::Absent)?.1, rest, types)
        }
        (Tree::Nothing, _) => Err(Missing::Absent),
        (Tree::Closed(trouble), _) => Err(Missing::Closed(trouble.clone())),
        (Tree::Elements(..) | Tree::Fields(_), _) => Err(Missing::Shape),
    }
}

/// The search for all parts.
struct Leaves<'a, F> {
    types: &'a Types,
    most: usize,
    found: Vec<(OpcUaPart, Variant)>,
    is_reading: F,
}

enum End {
    Full,
    Trouble(Trouble),
}

impl<F: Fn(&Variant) -> bool> Leaves<'_, F> {
    fn of_value(&mut self, value: &Variant, part: &OpcUaPart) -> Result<(), End> {
        match plain(value) {
            Variant::Array(array) => {
                // Elements that are no readings are not counted one by one.
                if array.values.len() > self.most.saturating_sub(self.found.len()) {
                    return Err(End::Full);
                }
                let dimensions = dimensions(array);
                for (at, element) in array.values.iter().enumerate() {
                    self.of_value(element, &part.then(PartStep::Element(indices(&dimensions, at))))?;
                }
                Ok(())
            }
            Variant::ExtensionObject(object) => match open(object, self.types) {
                Ok(tree) => self.of_tree(&tree, part),
                Err(trouble @ Trouble::Unlearned(_)) => Err(End::Trouble(trouble)),
                // Of a whole value it is told, of a part of one it is left out.
                Err(trouble) if part.is_whole() => Err(End::Trouble(trouble)),
                Err(_) => Ok(()),
            },
            value if (self.is_reading)(value) => {
                if self.found.len() >= self.most {
                    return Err(End::Full);
                }
                self.found.push((part.clone(), value.clone()));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn of_tree(&mut self, tree: &Tree, part: &OpcUaPart) -> Result<(), End> {
        match tree {
            Tree::Value(value) => self.of_value(value, part),
            Tree::Elements(dimensions, elements) => {
                for (at, element) in elements.iter().enumerate() {
                    self.of_tree(element, &part.then(PartStep::Element(indices(dimensions, at))))?;
                }
                Ok(())
            }
            Tree::Fields(fields) => {
                for (name, field) in fields {
                    self.of_tree(field, &part.then(PartStep::Field(name.to_string())))?;
                }
                Ok(())
            }
            Tree::Closed(trouble @ Trouble::Unlearned(_)) => Err(End::Trouble(trouble.clone())),
            Tree::Nothing | Tree::Closed(_) => Ok(()),
        }
    }
}

/// The index in each dimension of what stands at this place.
fn indices(dimensions: &[u32], mut place: usize) -> Vec<u32> {
    let mut indices = Vec::with_capacity(dimensions.len());
    for dimension in dimensions.iter().rev() {
        let dimension = (*dimension as usize).max(1);
        indices.push(u32::try_from(place % dimension).unwrap_or(u32::MAX));
        place /= dimension;
    }
    indices.reverse();
    indices
}

#[cfg(test)]
mod tests;
