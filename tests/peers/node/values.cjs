// Arrays and structures for server.cjs: below `s=Values`, those of asyncua_values.py.

"use strict";

const { ensureDatatypeExtracted } = require("node-opcua-address-space");
const { DataType, Variant, VariantArrayType } = require("node-opcua-variant");

function types(space, own, hasSerial) {
  let number = 0;
  const structure = (name, partialDefinition, subtypeOf = "Structure") => {
    const made = own.createDataType({ browseName: name, isAbstract: false, subtypeOf, partialDefinition });
    own.addObject({
      browseName: { name: "Default Binary", namespaceIndex: 0 },
      encodingOf: made,
      nodeId: `s=encoding-${name}-${number++}`,
    });
    return made;
  };
  const field = (name, dataType, valueRank = -1, isOptional = false) => ({
    name,
    dataType: dataType.nodeId || space.findDataType(dataType).nodeId,
    valueRank,
    isOptional,
  });
  const mode = own.addEnumerationType({ browseName: "Mode", enumeration: ["Idle", "Running", "Fault"] });
  const position = structure("Position", [field("X", "Double"), field("Y", "Double"), field("Z", "Double")]);
  const axis = structure("Axis", [field("Torque", "Float"), field("Limits", "Double", 1)]);
  const robot = structure("Robot", [
    ...(hasSerial ? [field("Serial", "UInt32")] : []),
    field("Name", "String"),
    field("Note", "String", -1, true),
    field("Position", position),
    field("Axes", axis, 1),
    field("Mode", mode),
  ]);
  const choice = structure("Choice", [field("Speed", "Int32"), field("Grip", "Double")], "Union");
  return { robot, choice };
}

// Adds the nodes; gives what is to be called with a number ten times a second.
async function add(space, own, objects, hasSerial) {
  const { robot, choice } = types(space, own, hasSerial);
  // Structures can be made of types that were looked at after they were added.
  await ensureDatatypeExtracted(space);
  const name = (id) => ({ browseName: id.split("/").pop(), nodeId: `s=${id}` });
  const folder = own.addObject({ ...name("Values"), organizedBy: objects, typeDefinition: "FolderType" });
  const variable = (id, dataType, value, valueRank = -1, dimensions = undefined) => {
    const arrayType = [VariantArrayType.Scalar, VariantArrayType.Array, VariantArrayType.Matrix][Math.max(valueRank, 0)];
    const node = own.addVariable({
      ...name(`Values/${id}`),
      componentOf: folder,
      dataType: dataType.nodeId || dataType,
      valueRank,
      minimumSamplingInterval: 0,
    });
    const type = dataType.nodeId ? DataType.ExtensionObject : dataType;
    node.setValueFromSource(new Variant({ dataType: type, arrayType, value, dimensions }));
    return node;
  };
  const make = (note) =>
    space.constructExtensionObject(robot, {
      ...(hasSerial ? { serial: 4711 } : {}),
      name: "R2",
      ...(note ? { note } : {}),
      position: { x: 1.5, y: -2.5, z: 0 },
      axes: [
        { torque: 0.5, limits: [-1, 1] },
        { torque: 0.75, limits: [] },
      ],
      mode: 2,
    });
  variable("Line", DataType.Double, new Float64Array([0.5, 1.5, 2.5, 3.5]), 1);
  variable("Grid", DataType.Int32, new Int32Array([1, 2, 3, 4, 5, 6]), 2, [2, 3]);
  variable("Robot", robot, make());
  variable("Robots", robot, [make(), make("spare")], 1);
  variable("Choice", choice, space.constructExtensionObject(choice, { grip: 2.5 }));
  const halves = () => Float64Array.from({ length: 1000 }, (_, number) => number * 0.5);
  const long = variable("Long", DataType.Double, halves(), 1);
  const breathing = variable("Breathing", DataType.UInt32, new Uint32Array([0, 0]), 1);
  const twins = own.addObject({ ...name("Values/Twins"), componentOf: folder });
  ["left", "right"].forEach((side, number) =>
    own.addVariable({
      browseName: "Twin",
      nodeId: `s=Values/Twins/${side}`,
      componentOf: twins,
      dataType: DataType.Int32,
      value: new Variant({ dataType: DataType.Int32, value: number }),
    }),
  );
  const tell = (node, dataType, value) =>
    node.setValueFromSource(new Variant({ dataType, arrayType: VariantArrayType.Array, value }));
  return (count) => {
    const values = halves();
    values[900] = count;
    tell(long, DataType.Double, values);
    tell(breathing, DataType.UInt32, new Uint32Array(2 + (Math.floor(count / 5) % 3)).fill(count));
  };
}

module.exports = { add };
