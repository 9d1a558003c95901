"""Reads nodes with an OPC UA client that nobody here wrote (asyncua).

    asyncua_read.py ENDPOINT NAMESPACE NAME...

Prints one JSON object: the value of each node `s=NAME`, or null where the status is bad. Integers
are strings, because JSON numbers are floats to many readers.
"""

import asyncio
import json
import sys
import uuid

from asyncua import Client, ua


def plain(value):
    if isinstance(value, ua.LocalizedText):
        return value.Text
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value


async def main():
    endpoint, namespace, *names = sys.argv[1:]
    async with Client(endpoint) as client:
        index = await client.get_namespace_index(namespace)
        values = {}
        for name in names:
            node = client.get_node(ua.NodeId(name, index))
            read = await node.read_data_value(raise_on_bad_status=False)
            values[name] = plain(read.Value.Value) if read.StatusCode.is_good() else None
    print(json.dumps(values))


asyncio.run(main())
