//! A robot beside the machines: nodes that hold more than one value, an array and a structure within a
//! structure. Moves as the machines do, by time alone.

use std::f64::consts::TAU;

use opcua::server::address_space::{AddressSpace, VariableBuilder};
use opcua::types::{
    DataTypeId, ExtensionObject, NodeId, QualifiedName, ThreeDCartesianCoordinates, ThreeDFrame,
    ThreeDOrientation, Variant,
};

/// Its name, and that of the device that reads it.
pub(super) const NAME: &str = "Robot";

/// Joints of the arm.
const JOINTS: usize = 6;

/// Seconds it takes for one piece.
const CYCLE: f64 = 14.0;

/// Its nodes: `Robot.Joints`, the angle of each joint in degrees, and `Robot.Tool`, where the tool is, a 3DFrame
/// (OPC UA Part 5, 12.30) in millimetres and degrees.
pub(super) struct Robot {
    joints: NodeId,
    tool: NodeId,
}

impl Robot {
    /// Adds its nodes to a namespace.
    pub(super) fn add(space: &mut AddressSpace, namespace: u16, prefix: &str, seconds: f64) -> Self {
        let node = |name: &str| NodeId::new(namespace, format!("{prefix}{NAME}{name}"));
        let folder = node("");
        let named = |name: &'static str| QualifiedName::new(namespace, name);
        space.add_folder(&folder, named(NAME), NAME, &NodeId::objects_folder_id());
        let robot = Self { joints: node(".Joints"), tool: node(".Tool") };
        let [(_, joints), (_, tool)] = robot.at(seconds);
        VariableBuilder::new(&robot.joints, named("Joints"), "Joints")
            .data_type(DataTypeId::Double)
            .value_rank(1)
            .array_dimensions(&[JOINTS as u32])
            .value(joints)
            .organized_by(&folder)
            .insert(space);
        VariableBuilder::new(&robot.tool, named("Tool"), "Tool")
            .data_type(DataTypeId::ThreeDFrame)
            .value(tool)
            .organized_by(&folder)
            .insert(space);
        robot
    }

    /// Its nodes with their values at a time in seconds.
    pub(super) fn at(&self, seconds: f64) -> [(&NodeId, Variant); 2] {
        let turn = seconds / CYCLE * TAU;
        let swing = |middle: f64, by: f64, times: f64| {
            let value = middle + by * (turn * times).sin();
            (value * 100.0).round() / 100.0
        };
        let joints: Vec<f64> = (1..=JOINTS)
            .map(|joint| swing(10.0 * joint as f64, 60.0 / joint as f64, joint.min(3) as f64))
            .collect();
        let tool = ThreeDFrame {
            cartesian_coordinates: ThreeDCartesianCoordinates {
                x: swing(820.0, 310.0, 1.0),
                y: swing(0.0, 540.0, 1.0),
                z: swing(410.0, 180.0, 2.0),
            },
            orientation: ThreeDOrientation {
                a: swing(180.0, 4.0, 1.0),
                b: swing(0.0, 9.0, 2.0),
                c: swing(90.0, 80.0, 1.0),
            },
        };
        [(&self.joints, joints.into()), (&self.tool, ExtensionObject::from_message(tool).into())]
    }

    /// The device of a link's configuration that reads all of it.
    pub(super) fn device_toml(link: &str, namespace: &str) -> String {
        let node = |name: &str| format!("node = \"nsu={namespace};s={NAME}.{name}\", type = \"float\"");
        let last = JOINTS - 1;
        format!(
            "\n[link.{link}.device.{NAME}.points]\n\
             \"Joints\" = {{ {joints}, elements = \"0:{last}\", unit = \"°\" }}\n\
             \"Tool.X\" = {{ {tool}, field = \"CartesianCoordinates.X\", unit = \"mm\" }}\n\
             \"Tool.Y\" = {{ {tool}, field = \"CartesianCoordinates.Y\", unit = \"mm\" }}\n\
             \"Tool.Z\" = {{ {tool}, field = \"CartesianCoordinates.Z\", unit = \"mm\" }}\n\
             \"Tool.C\" = {{ {tool}, field = \"Orientation.C\", unit = \"°\" }}\n",
            joints = node("Joints"),
            tool = node("Tool"),
        )
    }
}
