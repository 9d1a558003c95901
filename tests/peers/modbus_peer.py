"""An independent Modbus server and client (pymodbus), for comparing what our driver reads.

  modbus_peer.py serve-tcp            serves on a free loopback port
  modbus_peer.py serve-rtu            serves on one end of a serial line made of two pseudo terminals
  modbus_peer.py read-tcp HOST:PORT [UNIT...]   reads every point of units 1 and 2, or of these; prints JSON
  modbus_peer.py read-rtu PATH [UNIT...]

A server prints {"endpoint": ...} when it listens, and ends when its standard input does.
"""

import asyncio
import json
import os
import socket
import sys
import threading
import tty

from pymodbus import FramerType
from pymodbus.client import ModbusSerialClient, ModbusTcpClient
from pymodbus.datastore import ModbusDeviceContext, ModbusSequentialDataBlock, ModbusServerContext
from pymodbus.server import ModbusSerialServer, ModbusTcpServer

BAUD = 115200
T = ModbusTcpClient.DATATYPE

# name: (table, address, type, word order, value in unit 1); unit 2 has other numbers.
POINTS = {
    "i16": ("holding", 0, T.INT16, "big", -12345),
    "u16": ("holding", 1, T.UINT16, "big", 54321),
    "i32": ("holding", 2, T.INT32, "big", -123456789),
    "u32": ("holding", 4, T.UINT32, "big", 4000000000),
    "i64": ("holding", 6, T.INT64, "big", -(2**62) - 7),
    "f32": ("holding", 10, T.FLOAT32, "big", 21.5),
    "f64": ("holding", 12, T.FLOAT64, "big", -0.1),
    "f32_cdab": ("holding", 16, T.FLOAT32, "little", 1013.25),
    "i32_cdab": ("holding", 18, T.INT32, "little", -77777777),
    "text": ("holding", 30, T.STRING, "big", "Forebay 7"),
    "in_u16": ("input", 0, T.UINT16, "big", 4711),
    "in_f32": ("input", 65534, T.FLOAT32, "big", 3.25),
}
BITS = {"coil": ("coil", [3, 4, 9]), "discrete": ("discrete", [0, 7])}
TEXT_REGISTERS = 5


def value_of(name, unit):
    _, _, kind, _, value = POINTS[name]
    if unit == 1:
        return value
    return value[::-1] if kind is T.STRING else value / 2 if kind in (T.FLOAT32, T.FLOAT64) else value // 2


def tables_of(unit):
    """Its four tables, as lists from address 0."""
    tables = {"holding": [0] * 65536, "input": [0] * 65536, "coil": [False] * 64, "discrete": [False] * 64}
    for name, (table, address, kind, order, _) in POINTS.items():
        registers = ModbusTcpClient.convert_to_registers(value_of(name, unit), kind, word_order=order)
        tables[table][address : address + len(registers)] = registers
    for table, addresses in BITS.values():
        for address in addresses:
            tables[table][address + unit - 1] = True
    return tables


def device(unit):
    tables = tables_of(unit)
    # A data block of pymodbus counts from 1.
    block = lambda table: ModbusSequentialDataBlock(1, tables[table])
    return ModbusDeviceContext(di=block("discrete"), co=block("coil"), ir=block("input"), hr=block("holding"))


def context():
    return ModbusServerContext(devices={unit: device(unit) for unit in (1, 2)}, single=False)


def serial_line():
    """Two pseudo terminals whose masters are joined: a null modem cable."""
    (a, a_slave), (b, b_slave) = os.openpty(), os.openpty()
    for end in (a_slave, b_slave):
        tty.setraw(end)

    def carry(source, target):
        while data := os.read(source, 4096):
            os.write(target, data)

    for pair in ((a, b), (b, a)):
        threading.Thread(target=carry, args=pair, daemon=True).start()
    return os.ttyname(a_slave), os.ttyname(b_slave)


async def serve(rtu):
    if rtu:
        ours, theirs = serial_line()
        server = ModbusSerialServer(context(), framer=FramerType.RTU, port=ours, baudrate=BAUD, parity="N")
        endpoint = theirs
    else:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        server = ModbusTcpServer(context(), address=("127.0.0.1", port))
        endpoint = f"127.0.0.1:{port}"
    await server.serve_forever(background=True)
    print(json.dumps({"endpoint": endpoint}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.shutdown()
    os._exit(0)


def read(client, units):
    assert client.connect(), "cannot connect"
    tables = {"holding": client.read_holding_registers, "input": client.read_input_registers}
    bits = {"coil": client.read_coils, "discrete": client.read_discrete_inputs}
    answer = {}
    for unit in units or (1, 2):
        found = answer[f"unit{unit}"] = {}
        for name, (table, address, kind, order, _) in POINTS.items():
            count = TEXT_REGISTERS if kind is T.STRING else kind.value[1]
            registers = tables[table](address, count=count, device_id=unit).registers
            value = client.convert_from_registers(registers, kind, word_order=order)
            found[name] = value.rstrip("\0 ") if isinstance(value, str) else value
        for name, (table, _) in BITS.items():
            read_bits = bits[table](0, count=16, device_id=unit).bits[:16]
            found.update({f"{name}{n}": bit for n, bit in enumerate(read_bits)})
    client.close()
    print(json.dumps(answer))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve-tcp"]:
            asyncio.run(serve(rtu=False))
        case ["serve-rtu"]:
            asyncio.run(serve(rtu=True))
        case ["read-tcp", endpoint, *units]:
            host, port = endpoint.rsplit(":", 1)
            read(ModbusTcpClient(host, port=int(port)), [int(unit) for unit in units])
        case ["read-rtu", path, *units]:
            line = ModbusSerialClient(path, framer=FramerType.RTU, baudrate=BAUD, parity="N")
            read(line, [int(unit) for unit in units])
        case _:
            sys.exit(__doc__)
