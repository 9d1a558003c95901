"""Reads a QR code with a decoder that nobody here wrote (zxing-cpp).

    qr_read.py SIZE PATH

The code is SIZE modules each way; PATH is the SVG path of the dark ones, runs of `MX Yh LENGTH v1h-LENGTHz`. Prints
one JSON object with the `text`, or null.
"""

import json
import re
import sys

import zxingcpp

MODULE, QUIET = 6, 4
size = int(sys.argv[1])
side = (size + 2 * QUIET) * MODULE
pixels = bytearray(b"\xff" * side * side)
for x, y, run in re.findall(r"M(\d+) (\d+)h(\d+)v1h-\d+z", sys.argv[2]):
    left, width = (int(x) + QUIET) * MODULE, int(run) * MODULE
    for row in range((int(y) + QUIET) * MODULE, (int(y) + QUIET + 1) * MODULE):
        pixels[row * side + left:row * side + left + width] = bytes(width)
found = zxingcpp.read_barcodes(memoryview(pixels).cast("B", (side, side)))
print(json.dumps({"text": found[0].text if found else None}))
