"""Changes to files, from chance and from malice: bytes, JSON values, texts that name other files."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from typing import Any

# Values that readers have stumbled over elsewhere.
NUMBERS: list[Any] = [0, -1, 1, 2**31, 2**40, 2**63, -(2**63), 1e308, 0.5, True, None, "7", [], {}]
TEXTS = [
    "", ".", "..", "/", "/etc/passwd", "../canary/secret", "{canary}/secret", "file://{canary}/secret",
    "nul\0l", "x" * 100_000, "aten._reshape_alias.default", "aten.mkldnn_rnn_layer.default",
    "aten.as_strided.default",
    "aten.from_file.default", "os.system", "torch.ops.aten", "__class__",
    "\u202e", "\ud800", "int128", "f4096",
]  # fmt: skip
DEPTH = 20_000


def flip_bits(draw: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 8, 64))):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def cut_short(draw: random.Random, data: bytes) -> bytes:
    return data[: draw.randrange(len(data))]


def grow(draw: random.Random, data: bytes) -> bytes:
    return data + draw.choice((b"\0" * 7, b"\n", data, draw.randbytes(1000)))


def repeat_a_piece(draw: random.Random, data: bytes) -> bytes:
    start = draw.randrange(len(data))
    piece = data[start : start + draw.randrange(1, 200)]
    at = draw.randrange(len(data))
    return data[:at] + piece + data[at:]


def overwrite_a_piece(draw: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    start = draw.randrange(len(data))
    size = draw.randrange(1, 16)
    changed[start : start + size] = draw.choice((draw.randbytes(size), b"\xff" * size, b"\0" * size))
    return bytes(changed)


def change_a_json_value(draw: random.Random, data: bytes) -> bytes:
    """One value of a JSON document becomes another, is left out, doubled, or buried in lists."""
    tree = json.loads(data)
    places = list(_places(tree))
    if not places:  # an empty document
        return json.dumps(draw.choice(NUMBERS)).encode()
    container, key = draw.choice(places)
    match draw.randrange(8):
        case 0:
            del container[key]
        case 1:
            container[key] = draw.choice(NUMBERS)
        case 2:
            container[key] = draw.choice(TEXTS)
        case 3:  # swapped with another place's
            other, at = draw.choice(places)
            container[key], other[at] = other[at], container[key]
        case 4:
            if isinstance(container, list):
                container.insert(key, container[key])
            else:
                container[draw.choice(TEXTS)[:50]] = container[key]
        case 5:
            text = json.dumps(tree)
            return ("[" * DEPTH + text + "]" * DEPTH).encode("utf-8", "surrogatepass")
        case 6:
            value = container[key]
            if isinstance(value, int | float) and not isinstance(value, bool):
                container[key] = value + draw.choice((1, -1, 1000, -1000))
            else:
                container[key] = draw.choice(NUMBERS)
        case _:
            value = container[key]
            container[key] = draw.choice(TEXTS) if isinstance(value, str) else [value]
    return json.dumps(tree).encode("utf-8", "surrogatepass")


def _places(tree: Any) -> Any:
    if isinstance(tree, dict | list):
        for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
            yield tree, key
            yield from _places(tree[key])


def change_a_json_header(draw: random.Random, data: bytes) -> bytes:
    """Of a safetensors file: eight bytes of length, a JSON header, the values."""
    size = int.from_bytes(data[:8], "little")
    header = change_a_json_value(draw, data[8 : 8 + size])
    length = draw.choice((len(header), len(header), len(header), 2**62, 0, len(header) + 1))
    return length.to_bytes(8, "little") + header + data[8 + size :]


def change_a_text_value(draw: random.Random, data: bytes) -> bytes:
    """One quoted value of an XML file, or one number in it."""
    found = list(re.finditer(rb'"([^"]*)"', data))
    one = draw.choice(found)
    old = one.group(1)
    if draw.random() < 0.5:
        new = draw.choice([str(n) for n in NUMBERS]).encode()
    elif draw.random() < 0.5:
        new = draw.choice(TEXTS).replace("\0", "").encode("utf-8", "replace")
    else:
        new = draw.choice(found).group(1)
    if old.isdigit() and draw.random() < 0.3:
        new = str(int(old) + draw.choice((1, -1, 4096, 2**33))).encode()
    return data[: one.start(1)] + new + data[one.end(1) :]


def drop_an_element(draw: random.Random, data: bytes) -> bytes:
    """One line of an XML file is left out, doubled or moved."""
    lines = data.split(b"\n")
    at = draw.randrange(len(lines))
    match draw.randrange(3):
        case 0:
            del lines[at]
        case 1:
            lines.insert(at, lines[at])
        case _:
            lines.insert(draw.randrange(len(lines)), lines.pop(at))
    return b"\n".join(lines)


Change = Callable[[random.Random, bytes], bytes]
BYTES: tuple[Change, ...] = (flip_bits, cut_short, grow, repeat_a_piece, overwrite_a_piece)
# Files with a structure are mostly changed within it: what only breaks the syntax is soon refused.
BY_SUFFIX: dict[str, tuple[Change, ...]] = {
    ".json": (change_a_json_value,) * 6 + BYTES,
    ".xml": (change_a_text_value,) * 6 + (drop_an_element,) * 2 + BYTES,
    ".safetensors": (change_a_json_header,) * 4 + BYTES,
}


def changed(draw: random.Random, name: str, data: bytes, canary: str) -> tuple[str, bytes]:
    """The name of a change drawn for a file, and what it makes of the file."""
    suffix = name[name.rfind(".") :] if "." in name else ""
    change = draw.choice(BY_SUFFIX.get(suffix, BYTES))
    return change.__name__, change(draw, data).replace(b"{canary}", canary.encode())
