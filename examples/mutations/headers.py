"""Safetensors files with a header that is bent, and bytes that are spoilt."""

import json
import struct
from pathlib import Path
from random import Random

from mutations.junk import Sound, bend, spoil


def spoil_file(path: Path, random: Random, *, data: bool = True) -> str:
    """Spoil a safetensors file in place: its header, the header's length, or any byte.

    Without ``data`` the tensors' own bytes stay as they are.
    """
    if isinstance(random, Sound):
        return "sound"
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header, body = raw[8 : 8 + size], raw[8 + size :]
    way = random.choice(["length", "json", "json", "json", "offsets", "bytes", "cut"])
    if way == "length":
        new = random.choice([0, 1, size - 1, size + 1, 2**20, 2**31, 2**63, 2**64 - 1, 99_999_999])
        path.write_bytes(struct.pack("<Q", new) + raw[8:])
        return f"a header of {new} bytes"
    if way == "bytes":
        if data:
            way, raw = spoil(raw, random)
        else:
            way, new = spoil(header, random)
            raw = struct.pack("<Q", random.choice([size, len(new)])) + new + body
        path.write_bytes(raw)
        return way
    if way == "cut":
        path.write_bytes(raw[: random.randrange(len(raw))])
        return "cut short"
    document = json.loads(header)
    if way == "offsets":
        name = random.choice([k for k in document if k != "__metadata__"])
        entry = document[name]
        other = random.choice([[0, 0], [0, 2**40], [-8, 8], [8, 0], [1, 1 + len(body)], [0, 4]])
        entry["data_offsets"] = other
        text, way = json.dumps(document), f"{name} at {other}"
    else:
        way, text = bend(document, random)
    new = text.encode("utf-8", "surrogatepass")
    path.write_bytes(struct.pack("<Q", len(new)) + new + body)
    return f"header: {way}"
