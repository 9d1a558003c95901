"""Arrays and structures for asyncua_server.py: below `s=Values`, those of values.cjs.

`s=Values/Breathing` has two elements, then three, then four, then two again, a length for half a second. Where
foreign namespaces stand before the one of the nodes, a robot has a serial number before its name.
"""

from asyncua import ua
from asyncua.common.structures104 import new_enum, new_struct, new_struct_field


async def types(server, index, has_serial):
    double, text = ua.VariantType.Double, ua.VariantType.String
    mode = await new_enum(server, index, "Mode", ["Idle", "Running", "Fault"])
    position, _ = await new_struct(
        server, index, "Position", [new_struct_field(name, double) for name in ("X", "Y", "Z")]
    )
    axis, _ = await new_struct(
        server,
        index,
        "Axis",
        [new_struct_field("Torque", ua.VariantType.Float), new_struct_field("Limits", double, array=True)],
    )
    await new_struct(
        server,
        index,
        "Robot",
        [new_struct_field("Serial", ua.VariantType.UInt32)] * has_serial
        + [
            new_struct_field("Name", text),
            new_struct_field("Note", text, optional=True),
            new_struct_field("Position", position),
            new_struct_field("Axes", axis, array=True),
            new_struct_field("Mode", mode),
        ],
    )
    await new_struct(
        server,
        index,
        "Choice",
        [new_struct_field("Speed", ua.VariantType.Int32), new_struct_field("Grip", double)],
        is_union=True,
    )
    return await server.load_data_type_definitions()


def robot(made, note, has_serial):
    robot = made["Robot"]()
    if has_serial:
        robot.Serial = 4711
    robot.Name, robot.Note = "R2", note
    robot.Position = made["Position"](X=1.5, Y=-2.5, Z=0.0)
    robot.Axes = [made["Axis"](Torque=0.5, Limits=[-1.0, 1.0]), made["Axis"](Torque=0.75, Limits=[])]
    robot.Mode = made["Mode"](2)
    return robot


async def add(server, index, has_serial):
    """Adds the nodes; gives what is to be called with a number ten times a second."""
    made = await types(server, index, has_serial)

    def name(text):
        return ua.NodeId(text, index), ua.QualifiedName(text.rsplit("/", 1)[-1], index)

    folder = await server.nodes.objects.add_folder(*name("Values"))

    async def variable(text, value, kind, parent=folder):
        return await parent.add_variable(*name(f"Values/{text}"), ua.Variant(value, kind))

    await variable("Line", [0.5, 1.5, 2.5, 3.5], ua.VariantType.Double)
    await variable("Grid", [[1, 2, 3], [4, 5, 6]], ua.VariantType.Int32)
    await variable("Robot", robot(made, None, has_serial), ua.VariantType.ExtensionObject)
    robots = [robot(made, None, has_serial), robot(made, "spare", has_serial)]
    await variable("Robots", robots, ua.VariantType.ExtensionObject)
    choice = made["Choice"]()
    choice.Grip = 2.5
    await variable("Choice", choice, ua.VariantType.ExtensionObject)
    long = await variable("Long", [number * 0.5 for number in range(1000)], ua.VariantType.Double)
    breathing = await variable("Breathing", [0, 0], ua.VariantType.UInt32)
    twins = await folder.add_object(*name("Values/Twins"))
    for number, side in enumerate(("left", "right")):
        await twins.add_variable(
            ua.NodeId(f"Values/Twins/{side}", index),
            ua.QualifiedName("Twin", index),
            ua.Variant(number, ua.VariantType.Int32),
        )

    async def tick(count):
        values = [number * 0.5 for number in range(1000)]
        values[900] = float(count)
        await long.write_value(ua.Variant(values, ua.VariantType.Double))
        await breathing.write_value(ua.Variant([count] * (2 + count // 5 % 3), ua.VariantType.UInt32))

    return tick
