use opcua::types::{ByteString, VariantScalarTypeId};

use super::super::structures::tests::{ROBOT, robot, types};
use super::super::values::natural;
use super::*;

fn part(text: &str) -> OpcUaPart {
    OpcUaPart::all(None, Some(text)).unwrap_or_else(|why| panic!("{why}")).remove(0).1
}

fn structure(encoding: u32) -> Variant {
    let body = ByteStringBody::new(ByteString::from(robot().0), opcua::types::NodeId::new(2, encoding));
    Variant::from(ExtensionObject::new(body))
}

fn array(values: Vec<Variant>, dimensions: Option<Vec<u32>>) -> Variant {
    let kind = match values.first().map(Variant::type_id) {
        Some(opcua::types::VariantTypeId::Scalar(kind)) => kind,
        _ => VariantScalarTypeId::Double,
    };
    Variant::Array(Box::new(Array { value_type: kind, values, dimensions }))
}

fn pick(value: &Variant, text: &str) -> Result<Variant, Missing> {
    let types = types();
    Whole::new(value, &types).pick(&part(text), 0).map(|picked| picked.value)
}

fn numbers(count: i32) -> Vec<Variant> {
    (0..count).map(Variant::from).collect()
}

#[test]
fn elements_are_found_in_arrays_of_any_dimensions() {
    let flat = array(numbers(5), None);
    assert_eq!(pick(&flat, "[4]"), Ok(Variant::from(4)));
    assert_eq!(pick(&flat, "[5]"), Err(Missing::Absent));
    assert_eq!(pick(&flat, "[0,0]"), Err(Missing::Shape));
    assert_eq!(pick(&flat, "x"), Err(Missing::Shape));
    let cube = array(numbers(24), Some(vec![2, 3, 4]));
    assert_eq!(pick(&cube, "[1,2,3]"), Ok(Variant::from(23)));
    assert_eq!(pick(&cube, "[1,0,1]"), Ok(Variant::from(13)));
    assert_eq!(pick(&cube, "[1,3,0]"), Err(Missing::Absent));
    assert_eq!(pick(&cube, "[1]"), Err(Missing::Shape));
    // Arrays that are not there, as they are decoded.
    for none in [array(Vec::new(), Some(Vec::new())), array(Vec::new(), None), Variant::Empty] {
        assert_eq!(pick(&none, "[0]"), Err(Missing::Absent), "{none:?}");
    }
    assert_eq!(pick(&Variant::from(1.5f64), "[0]"), Err(Missing::Shape));
    assert_eq!(pick(&Variant::from(ByteString::from(vec![7u8, 9])), "[1]"), Ok(Variant::from(9u8)));
    let mixed = array(vec![Variant::Variant(Box::new(flat))], None);
    assert_eq!(pick(&mixed, "[0][3]"), Ok(Variant::from(3)));
}

#[test]
fn of_an_array_sent_in_part_elements_keep_their_numbers() {
    let types = types();
    let sent = array(numbers(3), None);
    let mut whole = Whole::new(&sent, &types);
    let mut at = |text: &str| whole.pick(&part(text), 100).map(|picked| picked.value);
    assert_eq!(at("[100]"), Ok(Variant::from(0)));
    assert_eq!(at("[102]"), Ok(Variant::from(2)));
    assert_eq!((at("[103]"), at("[0]")), (Err(Missing::Absent), Err(Missing::Absent)));
}

#[test]
fn fields_are_found_in_structures_and_in_arrays_of_them() {
    let one = structure(ROBOT);
    let two = array(vec![structure(ROBOT), structure(ROBOT)], None);
    for (text, wanted) in [
        ("Position.X", Variant::from(1.5f64)),
        ("Axes[1].Torque", Variant::from(0.75f32)),
        ("Axes[0].Limits[1]", Variant::from(1.0f64)),
        ("Grid[1,2]", Variant::from(6i16)),
        ("Tool.Grip", Variant::from(true)),
        ("Extra.Z", Variant::from(9.0f64)),
        ("Any", Variant::from(42u8)),
        ("Mode", Variant::from(3i32)),
    ] {
        assert_eq!(pick(&one, text), Ok(wanted.clone()), "{text}");
        assert_eq!(pick(&two, &format!("[1].{text}")), Ok(wanted), "[1].{text}");
    }
    for text in ["Note", "Tool.Speed", "Axes[2].Torque", "Axes[1].Limits[0]", "Nobody"] {
        assert_eq!(pick(&one, text), Err(Missing::Absent), "{text}");
    }
    for text in ["Position", "Axes", "Axes.Torque", "Position[0]", "Name.First", "Grid[1]"] {
        assert_eq!(pick(&one, text), Err(Missing::Shape), "{text}");
    }
    let strange = structure(9999);
    assert!(matches!(pick(&strange, "x"), Err(Missing::Closed(Trouble::Unlearned(_)))));
}

#[test]
fn all_that_can_be_a_reading_is_found_up_to_a_number() {
    let types = types();
    let leaves = |value: &Variant, most| {
        let found = Whole::new(value, &types).leaves(most, |leaf| natural(leaf).is_some()).unwrap();
        found.map(|found| found.into_iter().map(|(part, _)| part.to_string()).collect::<Vec<_>>())
    };
    let robot = structure(ROBOT);
    let all = leaves(&robot, 100).unwrap();
    let grid = ["Grid[0,0]", "Grid[0,1]", "Grid[0,2]", "Grid[1,0]", "Grid[1,1]", "Grid[1,2]"];
    let begin = ["Name", "Position.X", "Position.Y", "Position.Z", "Load", "Axes[0].Torque"];
    assert_eq!(all[..6], begin);
    assert_eq!(all[6..9], ["Axes[0].Limits[0]", "Axes[0].Limits[1]", "Axes[1].Torque"]);
    assert_eq!(all[9], "Mode");
    assert_eq!(all[10..16], grid);
    assert_eq!(all[16..], ["Tool.Grip", "Extra.X", "Extra.Y", "Extra.Z", "Any"]);
    assert_eq!(leaves(&robot, all.len()).map(|all| all.len()), Some(21));
    assert_eq!(leaves(&robot, all.len() - 1), None);
    assert_eq!(
        leaves(&array(numbers(4), Some(vec![2, 2])), 4).unwrap(),
        ["[0,0]", "[0,1]", "[1,0]", "[1,1]"]
    );
    assert_eq!(leaves(&array(numbers(5), None), 4), None);
    assert_eq!(leaves(&Variant::from(1.5f64), 4).unwrap(), [""]);
    // Each of them is where it says.
    for text in all {
        assert!(pick(&robot, &text).is_ok(), "{text}");
    }
}
