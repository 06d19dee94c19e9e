"""State of an ONNX model as constants of it, written without the `onnx` package.

The runtime then puts weights in the order of its kernels once, and folds what they are scaled with, as it
does for a network that does not learn.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .onnx_file import fields, message

# Field numbers of `onnx.proto`: a model's graph; a graph's constants and inputs; an input's name.
_GRAPH, _CONSTANT, _INPUT, _INPUT_NAME = 7, 5, 11, 1
# Fields of a constant, and dtype -> what its data type is called.
_DIMS, _DATA_TYPE, _NAME, _RAW = 1, 2, 8, 9
_DATA_TYPES = {
    "float32": 1, "uint8": 2, "int8": 3, "uint16": 4, "int16": 5, "int32": 6, "int64": 7, "bool": 9,
    "float16": 10, "float64": 11, "uint32": 12, "uint64": 13,
}  # fmt: skip
_VARINT, _BYTES = 0, 2  # wire types


def with_constants(model: bytes, values: Mapping[str, np.ndarray]) -> bytes:
    """The model with these values in place of the inputs of their names.

    Args:
        model: an ONNX file that `check_model` took.
    """
    return b"".join(
        _field(number, wire, _graph(message(value), values) if number == _GRAPH else value)
        for number, wire, value in fields(memoryview(model))
    )


def _graph(graph: memoryview, values: Mapping[str, np.ndarray]) -> bytes:
    kept = [
        _field(number, wire, value)
        for number, wire, value in fields(graph)
        if not (number == _INPUT and _name(message(value)) in values)
    ]
    constants = [_field(_CONSTANT, _BYTES, _constant(name, value)) for name, value in values.items()]
    return b"".join(kept + constants)


def _name(described: memoryview) -> str:
    return next((bytes(message(v)).decode() for n, _, v in fields(described) if n == _INPUT_NAME), "")


def _constant(name: str, value: np.ndarray) -> bytes:
    little = np.ascontiguousarray(value, value.dtype.newbyteorder("<"))
    parts = [_field(_DIMS, _VARINT, size) for size in value.shape]
    parts += [
        _field(_DATA_TYPE, _VARINT, _DATA_TYPES[str(value.dtype)]),
        _field(_NAME, _BYTES, name.encode()),
        _field(_RAW, _BYTES, little.tobytes()),
    ]
    return b"".join(parts)


def _field(number: int, wire: int, value: int | bytes | memoryview) -> bytes:
    tag = _varint(number << 3 | wire)
    if isinstance(value, int):
        return tag + _varint(value)
    return tag + (_varint(len(value)) if wire == _BYTES else b"") + bytes(value)


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)
