"""A Modbus server by libmodbus, the C library in many devices, with the points of modbus_peer.py.

  libmodbus_server.py tcp     serves on a free loopback port, whatever unit is asked
  libmodbus_server.py rtu     serves unit 1 on one end of a serial line made of two pseudo terminals

FOREBAY_TEST_LIBMODBUS names the library. Prints {"endpoint": ...} when it listens, and ends when its
standard input does.
"""

import ctypes
import json
import os
import socket
import sys
import threading

from modbus_peer import BAUD, serial_line, tables_of

LONGEST = 260


class Mapping(ctypes.Structure):
    """modbus_mapping_t of libmodbus 3.1."""

    _fields_ = [
        (name, ctypes.c_int)
        for table in ("bits", "input_bits", "input_registers", "registers")
        for name in (f"nb_{table}", f"start_{table}")
    ] + [
        ("tab_bits", ctypes.POINTER(ctypes.c_uint8)),
        ("tab_input_bits", ctypes.POINTER(ctypes.c_uint8)),
        ("tab_input_registers", ctypes.POINTER(ctypes.c_uint16)),
        ("tab_registers", ctypes.POINTER(ctypes.c_uint16)),
    ]


def library():
    path = os.environ.get("FOREBAY_TEST_LIBMODBUS") or sys.exit(
        "FOREBAY_TEST_LIBMODBUS is not set: it is the path of libmodbus.so.5. `tests/run` sets it"
    )
    lib = ctypes.CDLL(path)
    lib.modbus_new_tcp.restype = lib.modbus_new_rtu.restype = ctypes.c_void_p
    lib.modbus_new_tcp.argtypes = [ctypes.c_char_p, ctypes.c_int]
    lib.modbus_new_rtu.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_char, ctypes.c_int, ctypes.c_int]
    lib.modbus_mapping_new.restype = ctypes.POINTER(Mapping)
    lib.modbus_set_slave.argtypes = lib.modbus_tcp_listen.argtypes = [ctypes.c_void_p, ctypes.c_int]
    lib.modbus_tcp_accept.argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_int)]
    lib.modbus_connect.argtypes = [ctypes.c_void_p]
    lib.modbus_receive.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    lib.modbus_reply.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.POINTER(Mapping)]
    return lib


def mapping(lib):
    tables = tables_of(1)
    made = lib.modbus_mapping_new(*(len(tables[table]) for table in ("coil", "discrete", "holding", "input")))
    places = {
        "coil": made.contents.tab_bits,
        "discrete": made.contents.tab_input_bits,
        "holding": made.contents.tab_registers,
        "input": made.contents.tab_input_registers,
    }
    for table, place in places.items():
        for address, value in enumerate(tables[table]):
            place[address] = int(value)
    return made


def answer(lib, context, points):
    """Until the peer hangs up."""
    query = ctypes.create_string_buffer(LONGEST)
    while (length := lib.modbus_receive(context, query)) >= 0:
        # 0: it was for another unit.
        if length > 0:
            lib.modbus_reply(context, query, length, points)


def serve(rtu):
    lib = library()
    points = mapping(lib)
    if rtu:
        ours, endpoint = serial_line()
        context = lib.modbus_new_rtu(ours.encode(), BAUD, b"N", 8, 1)
        lib.modbus_set_slave(context, 1)
        assert lib.modbus_connect(context) == 0, "cannot open the line"
    else:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        endpoint = f"127.0.0.1:{port}"
        context = lib.modbus_new_tcp(b"127.0.0.1", port)
        listener = ctypes.c_int(lib.modbus_tcp_listen(context, 1))
        assert listener.value >= 0, "cannot listen"
    print(json.dumps({"endpoint": endpoint}), flush=True)
    while True:
        if not rtu and lib.modbus_tcp_accept(context, ctypes.byref(listener)) < 0:
            return
        answer(lib, context, points)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["tcp" | "rtu" as way]:
            threading.Thread(target=serve, args=(way == "rtu",), daemon=True).start()
            sys.stdin.read()
            os._exit(0)
        case _:
            sys.exit(__doc__)
