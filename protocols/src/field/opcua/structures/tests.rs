//! A robot, as several servers would describe and encode it.

use opcua::types::{BinaryEncodable, ExtensionObject, Range, StructureField, UAString, VariantScalarTypeId};

use super::*;

pub(crate) const ROBOT: u32 = 5000;
const CELL: u32 = 5005;
const NEST: u32 = 5006;

fn field(name: &str, data_type: NodeId, value_rank: i32, is_optional: bool) -> StructureField {
    StructureField {
        name: UAString::from(name),
        data_type,
        value_rank,
        is_optional,
        ..StructureField::default()
    }
}

fn own(number: u32) -> NodeId {
    NodeId::new(2, number)
}

fn standard(number: u32) -> NodeId {
    NodeId::new(0, number)
}

/// Types of `ns=2`: 3000 and so on, encoded as 5000 and so on.
pub(crate) fn types() -> Types {
    let mut types = Types::default();
    let mut add = |number: u32, structure_type, fields: Vec<StructureField>| {
        let definition =
            StructureDefinition { structure_type, fields: Some(fields), ..StructureDefinition::default() };
        let (structure, _) = Structure::new(definition);
        types.note(own(number), Kind::Structure(Arc::new(structure)));
        types.note_encoding(own(number + 2000), Ok(own(number)));
    };
    add(
        3000,
        StructureType::StructureWithOptionalFields,
        vec![
            field("Name", standard(12), -1, false),
            field("Note", standard(12), -1, true),
            field("Position", own(3001), -1, false),
            field("Load", standard(10), -1, true),
            field("Axes", own(3002), 1, false),
            field("Mode", own(3003), -1, false),
            field("Grid", standard(4), 2, false),
            field("Tool", own(3004), -1, false),
            field("Extra", standard(22), -1, false),
            field("Any", standard(24), -1, false),
        ],
    );
    let doubles = |names: &[&str]| names.iter().map(|name| field(name, standard(11), -1, false)).collect();
    add(3001, StructureType::Structure, doubles(&["X", "Y", "Z"]));
    add(
        3002,
        StructureType::Structure,
        vec![field("Torque", standard(10), -1, false), field("Limits", standard(11), 1, false)],
    );
    add(
        3004,
        StructureType::Union,
        vec![field("Speed", standard(6), -1, false), field("Grip", standard(1), -1, false)],
    );
    add(3005, StructureType::Structure, vec![field("Grid", own(3001), 2, false)]);
    // One that has itself within.
    add(3006, StructureType::Structure, vec![field("Inner", own(3006), 1, false)]);
    add(
        3007,
        StructureType::StructureWithSubtypedValues,
        vec![field("Place", own(3001), -1, true), field("Number", standard(26), -1, false)],
    );
    types.note(own(3003), Kind::Like(own(3010)));
    types.note(own(3010), Kind::Like(standard(29)));
    types
}

/// The bytes of a structure, value by value.
#[derive(Default)]
pub(crate) struct Body(pub Vec<u8>);

impl Body {
    fn put(mut self, value: &impl BinaryEncodable) -> Self {
        let context = context();
        value.encode(&mut self.0, &context.context()).unwrap();
        self
    }

    fn text(self, text: &str) -> Self {
        self.put(&UAString::from(text))
    }

    fn inner(self, encoding: u32, body: &Self) -> Self {
        let mut this = self.put(&own(encoding)).put(&1u8).put(&(body.0.len() as i32));
        this.0.extend(&body.0);
        this
    }
}

pub(crate) fn robot() -> Body {
    let place = Body::default().put(&7.0f64).put(&8.0f64).put(&9.0f64);
    Body::default()
        .put(&0b10u32)
        .text("R2")
        // Position.
        .put(&1.5f64)
        .put(&-2.5f64)
        .put(&0.0f64)
        // Load, without a Note before it.
        .put(&12.5f32)
        // Two axes.
        .put(&2i32)
        .put(&0.5f32)
        .put(&2i32)
        .put(&-1.0f64)
        .put(&1.0f64)
        .put(&0.75f32)
        .put(&-1i32)
        // Mode.
        .put(&3i32)
        // Two by three.
        .put(&2i32)
        .put(&2i32)
        .put(&3i32)
        .put(&1i16)
        .put(&2i16)
        .put(&3i16)
        .put(&4i16)
        .put(&5i16)
        .put(&6i16)
        // The second of the union.
        .put(&2u32)
        .put(&true)
        .inner(5001, &place)
        .put(&Variant::from(42u8))
}

fn open(encoding: u32, body: &Body) -> Result<Tree, Trouble> {
    types().open(&own(encoding), &body.0)
}

fn words(outcome: Result<Tree, Trouble>) -> String {
    match outcome {
        Err(Trouble::Why(words)) => words.to_string(),
        other => panic!("{other:?}"),
    }
}

fn at<'a>(tree: &'a Tree, name: &str) -> Option<&'a Tree> {
    match tree {
        Tree::Fields(fields) => fields.iter().find(|(field, _)| &**field == name).map(|(_, tree)| tree),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_robot_is_taken_apart_down_to_its_last_value() {
    let robot = open(ROBOT, &robot()).unwrap();
    let value = |tree: Option<&Tree>| match tree {
        Some(Tree::Value(value)) => value.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(value(at(&robot, "Name")), Variant::from("R2"));
    assert_eq!(at(&robot, "Note"), None, "an optional field that is not there");
    assert_eq!(value(at(&robot, "Load")), Variant::from(12.5f32));
    assert_eq!(value(at(at(&robot, "Position").unwrap(), "Y")), Variant::from(-2.5f64));
    let Some(Tree::Elements(dimensions, axes)) = at(&robot, "Axes") else { panic!("{robot:?}") };
    assert_eq!((dimensions.as_slice(), axes.len()), (&[2][..], 2));
    assert_eq!(value(at(&axes[1], "Torque")), Variant::from(0.75f32));
    let Variant::Array(limits) = value(at(&axes[0], "Limits")) else { panic!("{axes:?}") };
    assert_eq!(limits.values, [Variant::from(-1.0f64), Variant::from(1.0f64)]);
    let Variant::Array(none) = value(at(&axes[1], "Limits")) else { panic!("{axes:?}") };
    assert!(none.values.is_empty(), "an array that is not there has no elements");
    assert_eq!(value(at(&robot, "Mode")), Variant::from(3i32), "an enumeration is its number");
    let Variant::Array(grid) = value(at(&robot, "Grid")) else { panic!("{robot:?}") };
    assert_eq!((grid.dimensions, grid.value_type), (Some(vec![2, 3]), VariantScalarTypeId::Int16));
    assert_eq!(at(at(&robot, "Tool").unwrap(), "Speed"), None);
    assert_eq!(value(at(at(&robot, "Tool").unwrap(), "Grip")), Variant::from(true));
    assert_eq!(value(at(at(&robot, "Extra").unwrap(), "Z")), Variant::from(9.0f64));
    assert_eq!(value(at(&robot, "Any")), Variant::Variant(Box::new(Variant::from(42u8))));
}

#[test]
fn a_body_cut_anywhere_or_longer_than_said_is_told_and_nothing_is_made_up() {
    let whole = robot().0;
    for length in 0..whole.len() {
        assert_eq!(words(open(ROBOT, &Body(whole[..length].to_vec()))), MISMATCH, "{length} bytes");
    }
    assert_eq!(words(open(ROBOT, &Body([&whole[..], &[0]].concat()))), MISMATCH);
}

#[test]
fn what_is_announced_and_not_there_takes_neither_memory_nor_time() {
    // As many empty structures as can be counted: none of them needs a byte.
    let endless = Body::default().put(&i32::MAX);
    assert!(words(open(NEST, &endless)).contains("announces 2147483647"), "too many");
    let many = Body::default().put(&(MOST_VALUES as i32));
    assert_eq!(words(open(NEST, &many)), "it has more than 131072 values");
    // Dimensions whose product is more than a machine can count.
    let grid = |sides: &[i32]| sides.iter().fold(Body::default().put(&(sides.len() as i32)), |b, s| b.put(s));
    assert_eq!(words(open(CELL, &grid(&[100_000, 100_000]))), "it has more than 131072 values");
    assert_eq!(words(open(CELL, &grid(&[1, 1, 1]))), MISMATCH);
    assert_eq!(
        open(CELL, &grid(&[0, 3])).map(|tree| at(&tree, "Grid").cloned()).unwrap(),
        Some(Tree::Elements(vec![0, 3], Vec::new()))
    );
    // One in the other, for ever.
    let deep = (0..100).fold(Body::default(), |body, _| body.put(&1i32));
    assert_eq!(words(open(NEST, &deep)), "it has more than 16 structures in one another");
}

#[test]
fn a_field_that_may_be_of_a_richer_type_says_which() {
    let place = Body::default().put(&1.0f64).put(&2.0f64).put(&3.0f64);
    let body = Body::default().inner(5001, &place).put(&Variant::from(5u16));
    let tree = open(5007, &body).unwrap();
    assert_eq!(at(at(&tree, "Place").unwrap(), "Z"), Some(&Tree::Value(Variant::from(3.0f64))));
    assert_eq!(at(&tree, "Number"), Some(&Tree::Value(Variant::Variant(Box::new(Variant::from(5u16))))));
    // What cannot be taken apart within it is passed over, with what is behind it read.
    let strange = Body::default().inner(9999, &place).put(&Variant::from(5u16));
    let tree = open(5007, &strange).unwrap();
    assert_eq!(at(&tree, "Place"), Some(&Tree::Closed(Trouble::Unlearned(own(9999)))));
    assert!(at(&tree, "Number").is_some());
}

#[test]
fn an_encoding_nobody_asked_for_has_to_be_learnt_and_one_that_cannot_be_says_why() {
    let mut types = types();
    assert_eq!(types.open(&own(7), &[]), Err(Trouble::Unlearned(own(7))));
    types.note_encoding(own(7), Ok(own(8)));
    assert!(words(types.open(&own(7), &[])).contains("nothing is known of the type ns=2;i=8"));
    types.note(own(8), Kind::Unknown("a reason".into()));
    assert_eq!(words(types.open(&own(7), &[])), "a reason");
    types.note(own(8), Kind::Like(own(8)));
    assert!(words(types.open(&own(7), &[])).contains("too many others"));
    types.note(own(8), Kind::Like(standard(11)));
    assert!(words(types.open(&own(7), &[])).contains("no structure"));
}

#[test]
fn structures_arrive_as_bytes_and_those_of_the_services_as_they_are() {
    let context = context();
    let context = context.context();
    let there_and_back = |object: ExtensionObject| {
        let mut bytes = Vec::new();
        object.encode(&mut bytes, &context).unwrap();
        ExtensionObject::decode(&mut bytes.as_slice(), &context).unwrap()
    };
    let range = there_and_back(ExtensionObject::from_message(Range { low: 1.0, high: 2.0 }));
    let body = range.inner_as::<opcua::types::ByteStringBody>().expect("bytes");
    assert_eq!((body.encoding_id(), body.raw_body().as_ref().len()), (&standard(886), 16));
    let definition = there_and_back(ExtensionObject::from_message(StructureDefinition::default()));
    assert!(definition.inner_is::<StructureDefinition>());
    // A body that is shorter than it says.
    let mut bytes = Vec::new();
    ExtensionObject::from_message(Range::default()).encode(&mut bytes, &context).unwrap();
    bytes.truncate(bytes.len() - 1);
    assert!(ExtensionObject::decode(&mut bytes.as_slice(), &context).is_err());
}

/// OPC UA Part 6, 5.2.2.15: an encoding id, 2 for XML, the length, the text.
fn in_xml(announced: i32, text: &str) -> Vec<u8> {
    let mut bytes = vec![0, 85, 2];
    bytes.extend(announced.to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes
}

#[test]
fn a_structure_in_xml_is_marked_as_one_and_no_more_room_is_made_for_it_than_for_texts() {
    let context = context();
    let context = context.context();
    let text = "<Range><Low>1</Low></Range>";
    let bytes = in_xml(text.len() as i32, text);
    let object = ExtensionObject::decode(&mut bytes.as_slice(), &context).unwrap();
    assert!(object.inner_is::<opcua::types::XmlBody>());
    for nothing in ["", "  ", "no tag"] {
        let bytes = in_xml(nothing.len() as i32, nothing);
        assert!(ExtensionObject::decode(&mut bytes.as_slice(), &context).unwrap().is_null(), "{nothing:?}");
    }
    for announced in [17 << 20, i32::MAX] {
        let refusal = ExtensionObject::decode(&mut in_xml(announced, text).as_slice(), &context).unwrap_err();
        assert!(refusal.to_string().contains("length"), "{refusal}");
    }
}
