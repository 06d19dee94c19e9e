"""What an ONNX file may hold, checked before ONNX Runtime reads it, and without the `onnx` package.

A file passes that holds operators of the standard domain which the lowering emits, no functions, and
constants that lie inside it or inside an `.onnx.bin` beside it. The format is protobuf: a message is a
sequence of (field number, wire type, value); which number is which field, `onnx.proto` of the standard says.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..errors import ArtifactError, reason
from ..files import open_regular

# All that the lowering can emit; add here what a new rule there needs.
_ALLOWED = (
    "Abs Add And Atan AveragePool BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast Ceil Clip Concat Conv "
    "ConvTranspose Cos Cosh CumSum Div Equal Erf Exp Expand Floor GRU Gather GatherElements Gemm Greater "
    "GreaterOrEqual HardSigmoid Identity LSTM LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax "
    "MatMul Max MaxPool Min Mod Mul Neg Not OneHot Or Pad Pow ReduceMax ReduceMean ReduceMin ReduceProd "
    "ReduceSum Relu Reshape Round Scan ScatterElements ScatterND Sigmoid Sign Sin Sinh Slice Softmax "
    "Softplus Split Sqrt Sub Tan Tanh Tile TopK Transpose Trilu Where Xor"
)
SHARED_CONSTANTS = "train.onnx.bin"  # the file of the large constants of all graphs
ALLOWED_OPERATORS = frozenset(_ALLOWED.split())
_STANDARD = (b"", b"ai.onnx")
# Data type -> bytes of an element. Texts, complex numbers, 8-bit floats and 4-bit integers are not taken.
_BYTES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}
# Fields of a constant that are lists of numbers: float, int32, int64, double and uint64.
_LISTS = frozenset({4, 5, 7, 10, 11})
_MAX_DEPTH = 8
_MAX_ELEMENTS = 1 << 40

Field = tuple[int, int, "int | memoryview"]


class _Wrong(Exception):
    """What is wrong with a file."""


def check_model(path: Path, constants: Mapping[str, int]) -> None:
    """Refuse a model file that ONNX Runtime should not be given.

    Args:
        constants: file of the same folder -> its size in bytes: those that the model may refer to.

    Raises:
        ArtifactError: with what is wrong in it.
    """
    try:
        with open_regular(path) as f:
            _Checker(constants).model(memoryview(f.read()))
    except (_Wrong, OSError) as e:
        raise ArtifactError(
            f"{path} is no model that this version compiles: {reason(e)}. Copy the folder again, or compile "
            "it again."
        ) from None


class _Checker:
    """Walks the messages of a model; a field that is not named here is refused.

    Args:
        constants: file -> its size in bytes, as for `check_model`.
    """

    def __init__(self, constants: Mapping[str, int]) -> None:
        self._constants = constants

    def model(self, data: memoryview) -> None:
        graphs = 0
        for number, _, value in fields(data):
            match number:
                case 1 | 2 | 3 | 4 | 5 | 6 | 14:  # versions, producer, documentation
                    continue
                case 7:
                    graphs += 1
                    self._graph(message(value), 0)
                case 8:  # operator set
                    domain = next((message(v) for n, _, v in fields(message(value)) if n == 1), b"")
                    if bytes(domain) not in _STANDARD:
                        raise _Wrong(f"it takes operators from {_cut(domain)}")
                case _:
                    raise _Wrong(f"it has field {number}: functions, training information, or unknown")
        if graphs != 1:
            raise _Wrong(f"it has {graphs} graphs")

    def _graph(self, data: memoryview, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise _Wrong("its loops are nested too deeply")
        for number, _, value in fields(data):
            match number:
                case 1:
                    self._node(message(value), depth)
                case 5:
                    self._tensor(message(value))
                case 2 | 10 | 11 | 12 | 13 | 16:  # name, documentation, inputs, outputs, types, metadata
                    continue
                case _:
                    raise _Wrong(f"its graph has field {number}: sparse, quantised, or unknown")

    def _node(self, data: memoryview, depth: int) -> None:
        kind: bytes = b""
        for number, _, value in fields(data):
            match number:
                case 1 | 2 | 3 | 6 | 9:  # inputs, outputs, name, documentation, metadata
                    continue
                case 4:
                    kind = bytes(message(value))
                case 7:
                    if bytes(message(value)) not in _STANDARD:
                        raise _Wrong(f"an operator is of the domain {_cut(message(value))}")
                case 5:
                    self._attribute(message(value), depth)
                case _:
                    raise _Wrong(f"a node has field {number}")
        if kind.decode("ascii", "replace") not in ALLOWED_OPERATORS:
            raise _Wrong(f"it has the operator {_cut(kind)}")

    def _attribute(self, data: memoryview, depth: int) -> None:
        for number, _, value in fields(data):
            match number:
                case 1 | 2 | 3 | 4 | 7 | 8 | 9 | 13 | 20:  # name, numbers, texts, documentation, type
                    continue
                case 5 | 10:  # one tensor, or several
                    self._tensor(message(value))
                case 6 | 11:  # one graph, or several: the body of a loop
                    self._graph(message(value), depth + 1)
                case _:
                    raise _Wrong(f"an attribute has field {number}")

    def _tensor(self, data: memoryview) -> None:
        dims: list[int] = []
        kind, raw, listed, external, outside = 0, None, False, [], 0
        for number, _, value in fields(data):
            match number:
                case 1:  # packed into one field, or one a field
                    dims += [int(value)] if isinstance(value, int) else list(_varints(value))
                case 2:
                    kind = int(value) if isinstance(value, int) else 0
                case 9:
                    raw = len(message(value))
                case 13:
                    external.append(message(value))
                case 14:
                    outside = int(value) if isinstance(value, int) else 1
                case 8 | 12:  # name, documentation
                    continue
                case _ if number in _LISTS:
                    listed = True
                case _:
                    raise _Wrong(f"a constant has field {number}")
        count = math.prod(dims)
        if kind not in _BYTES or not 0 <= count <= _MAX_ELEMENTS:
            raise _Wrong(f"a constant has the shape {dims[:8]} and the data type {kind}")
        size = count * _BYTES[kind]
        if outside or external:
            self._external(dict(map(_entry, external)), size)
        elif raw is not None and raw != size:
            raise _Wrong(f"a constant has {raw} bytes instead of {size}")
        elif raw is None and not listed and count:
            raise _Wrong("a constant has no values")

    def _external(self, entries: Mapping[str, str], size: int) -> None:
        """Refuse a constant of `size` bytes that does not lie inside a file of the folder."""
        location = entries.get("location", "")
        if location not in self._constants:
            raise _Wrong(f"a constant lies in {location[:60]!a}")
        numbers = {n: entries.get(n, "0") for n in ("offset", "length")}
        if not all(v.isascii() and v.isdigit() and len(v) < 19 for v in numbers.values()):
            raise _Wrong(f"a constant lies at {numbers!a}")
        offset, length = int(numbers["offset"]), int(numbers["length"])
        if length != size or offset + length > self._constants[location]:
            raise _Wrong(f"a constant takes bytes {offset} to {offset + length} of {location}")


def _entry(data: memoryview) -> tuple[str, str]:
    """Key and value of where a constant lies."""
    found = {n: bytes(message(v)).decode("utf-8", "replace") for n, _, v in fields(data)}
    return found.get(1, ""), found.get(2, "")


# ---------------------------------------------------------------- protobuf


def fields(data: memoryview) -> Iterator[Field]:
    """The fields of a message: number, wire type, and an integer or the bytes.

    Raises:
        _Wrong: it ends within a field, or has a wire type that ONNX does not use.
    """
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
            value, at = data[at : at + size], at + size
        elif wire == 2:
            size, at = _varint(data, at)
            value, at = data[at : at + size], at + size
        else:
            raise _Wrong("it is no ONNX file")
        if at > len(data) or not number:
            raise _Wrong("it is cut short, or no ONNX file")
        yield number, wire, value


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """The integer at a place, seven bits a byte, and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise _Wrong("it is cut short")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise _Wrong("it is no ONNX file")


def _varints(data: memoryview) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def message(value: int | memoryview) -> memoryview:
    """The bytes of a field that is a message, a text or bytes."""
    if isinstance(value, int):
        raise _Wrong("it is no ONNX file")
    return value


def _cut(text: bytes | memoryview) -> str:
    return ascii(bytes(text[:60]).decode("utf-8", "replace"))
