"""Reads nodes with an OPC UA client that nobody here wrote (asyncua).

    asyncua_read.py ENDPOINT NAMESPACE NAME...

Prints one JSON object: of each node `s=NAME` the `value`, or null where the status is bad, the name of the
`status`, and the `source` time in microseconds since 1970, or null. Integers that are values are strings,
because JSON numbers are floats to many readers.
"""

import asyncio
import datetime
import json
import sys
import uuid

from asyncua import Client, ua

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


def plain(value):
    if isinstance(value, ua.LocalizedText):
        return value.Text
    if isinstance(value, datetime.datetime):
        return value.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value


def micros(time):
    if time is None:
        return None
    return (time.replace(tzinfo=datetime.timezone.utc) - EPOCH) // datetime.timedelta(microseconds=1)


async def main():
    endpoint, namespace, *names = sys.argv[1:]
    async with Client(endpoint) as client:
        index = await client.get_namespace_index(namespace)
        values = {}
        for name in names:
            node = client.get_node(ua.NodeId(name, index))
            read = await node.read_data_value(raise_on_bad_status=False)
            values[name] = {
                "value": None if read.StatusCode.is_bad() else plain(read.Value.Value),
                "status": read.StatusCode.name,
                "source": micros(read.SourceTimestamp),
            }
    print(json.dumps(values))


asyncio.run(main())
