"""Reads the live feed with a WebSocket client that nobody here wrote (websockets).

    websocket_read.py URL COUNT [--ca FILE] [--header NAME:VALUE]

Reads COUNT messages (0: until the server closes) and prints one JSON object: `messages`, and how it ended, `code`
and `reason`, where the server closed. Answers pings, as every client does.
"""

import argparse
import asyncio
import json
import ssl

import websockets


async def read(asked):
    trust = ssl.create_default_context(cafile=asked.ca) if asked.ca else None
    headers = [tuple(header.split(":", 1)) for header in asked.header]
    told = {"messages": [], "code": None, "reason": None}
    async with websockets.connect(asked.url, ssl=trust, additional_headers=headers) as socket:
        try:
            while not asked.count or len(told["messages"]) < asked.count:
                told["messages"].append(json.loads(await asyncio.wait_for(socket.recv(), 60)))
        except websockets.ConnectionClosed as closed:
            told["code"], told["reason"] = closed.rcvd and closed.rcvd.code, closed.rcvd and closed.rcvd.reason
    print(json.dumps(told))


parser = argparse.ArgumentParser()
parser.add_argument("url")
parser.add_argument("count", type=int)
parser.add_argument("--ca")
parser.add_argument("--header", action="append", default=[])
asyncio.run(read(parser.parse_args()))
