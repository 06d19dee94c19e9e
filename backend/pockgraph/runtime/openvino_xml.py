"""What an OpenVINO model file may hold, checked before OpenVINO's own reader sees it.

That reader is native code and believes what it reads: a damaged `<data>` can end the process, and an operator
of another library could be loaded. A file passes that holds operators the lowering emits, joined by edges
without a circle, with constants inside a `.bin` beside it.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from xml.parsers import expat

from ..errors import ArtifactError, reason
from ..files import open_regular

# All that the lowering can emit; add here what a new rule there needs.
_ALLOWED = (
    "Abs Add Assign Atan AvgPool BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Broadcast Ceiling Clamp "
    "Concat Const Convert ConvertLike Convolution ConvolutionBackpropData Cos Cosh CumSum Divide Equal "
    "Erf Exp Floor FloorMod Gather GatherElements Gelu Greater GreaterEqual GroupConvolution "
    "GroupConvolutionBackpropData HardSigmoid HSwish Less LessEqual Log LogicalAnd LogicalNot LogicalOr "
    "LogicalXor LogSoftmax MatMul Maximum MaxPool Minimum Mish Mod Multiply MVN Negative NotEqual OneHot "
    "Pad Parameter Power PReLU ReadValue ReduceLogicalAnd ReduceLogicalOr ReduceMax ReduceMean ReduceMin "
    "ReduceProd ReduceSum ReLU Reshape Result Round ScatterElementsUpdate ScatterNDUpdate ScatterUpdate "
    "Select Sigmoid Sign Sin Sinh Slice SoftMax SoftPlus Split Sqrt Squeeze Subtract Swish Tan Tanh "
    "TensorIterator Tile TopK Transpose VariadicSplit"
)
SHARED_CONSTANTS = "train.bin"  # the file of the constants of all graphs
ALLOWED_OPERATORS = frozenset(_ALLOWED.split())
_BITS = {
    "f64": 64, "f32": 32, "f16": 16, "bf16": 16, "i64": 64, "i32": 32, "i16": 16, "i8": 8, "u64": 64,
    "u32": 32, "u16": 16, "u8": 8, "boolean": 8,
}  # fmt: skip
_PRECISIONS = frozenset({*_BITS, "fp64", "fp32", "fp16", "bool"})
# The attributes of <data>, exactly, of operators that name a size or a variable. Those of others are plain
# text, and OpenVINO checks them.
_DATA: dict[str, frozenset[str]] = {
    "Const": frozenset({"element_type", "shape", "offset", "size"}),
    "Parameter": frozenset({"element_type", "shape"}),
    "ReadValue": frozenset({"variable_id", "variable_type", "variable_shape"}),
    "Assign": frozenset({"variable_id"}),
}
# Element -> which elements it may hold.
_INSIDE: dict[str, frozenset[str]] = {
    "": frozenset({"net"}),
    "net": frozenset({"layers", "edges", "rt_info"}),
    "layers": frozenset({"layer"}),
    "layer": frozenset({"data", "input", "output", "rt_info", "body", "port_map", "back_edges"}),
    "input": frozenset({"port"}),
    "output": frozenset({"port"}),
    "port": frozenset({"dim", "rt_info"}),
    "edges": frozenset({"edge"}),
    "rt_info": frozenset({"attribute"}),
    "body": frozenset({"layers", "edges", "rt_info"}),
    "port_map": frozenset({"input", "output"}),
    "back_edges": frozenset({"edge"}),
}
# Element -> which attributes it may have, where that is restricted.
_ATTRIBUTES: dict[str, frozenset[str]] = {
    "net": frozenset({"name", "version"}),
    "layer": frozenset({"id", "name", "type", "version", "output_names"}),
    "port": frozenset({"id", "precision", "names"}),
    "edge": frozenset({"from-layer", "from-port", "to-layer", "to-port"}),
    "attribute": frozenset({"name", "version", "value"}),
}
_MAX_DEPTH = 32
_MAX_ELEMENTS = 1 << 40
_NUMBER = re.compile(r"\d{1,18}")
_OPSET = re.compile(r"opset\d{1,2}")
_TEXT = re.compile(r"[\x20-\x7e]{0,4096}")

# What was checked in this process: `compile` opens what it has written.
_PASSED: deque[tuple[bytes, int]] = deque(maxlen=64)


class _Wrong(Exception):
    """What is wrong with a file."""


def check_model(xml: Path, constants: Path) -> None:
    """Refuse a model file that OpenVINO should not be given.

    Args:
        constants: the file of its constants.

    Raises:
        ArtifactError: with what is wrong in it.
    """
    try:
        constants_bytes = constants.stat().st_size
        with open_regular(xml) as f:
            data = f.read()
        digest = hashlib.sha256(data).digest(), constants_bytes
        if digest not in _PASSED:
            _Checker(constants_bytes).parse(data)
            _PASSED.append(digest)
    except (_Wrong, expat.ExpatError, OSError, UnicodeError) as e:
        raise ArtifactError(
            f"{xml} is no model that this version compiles: {reason(e)}. Copy the folder again, or compile "
            "it again."
        ) from None


class _Net:
    """A model, or the body of a loop, while it is read."""

    def __init__(self) -> None:
        self.layers: dict[int, tuple[set[int], set[int]]] = {}  # id -> ports that it takes, that it gives
        self.edges: list[tuple[int, int]] = []
        self.fed: set[tuple[int, int]] = set()  # (layer, port) that an edge leads to


class _Checker:
    """Follows a parser through a file. What is open stands on stacks: a loop is a layer with a net inside.

    Args:
        constants_bytes: size of the file of constants.
    """

    def __init__(self, constants_bytes: int) -> None:
        self._bytes = constants_bytes
        self._path: list[str] = [""]
        self._nets: list[_Net] = []
        self._layers: list[tuple[int, str]] = []
        self._has_data: list[bool] = []
        self._inner: list[set[int]] = []  # layers of its body that a loop names
        self._body: set[int] = set()  # layers of the net that was closed last
        self._dims: list[int] = []  # of the open port
        self._text = ""

    def parse(self, data: bytes) -> None:
        parser = expat.ParserCreate()
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.StartDoctypeDeclHandler = self._refuse
        parser.ProcessingInstructionHandler = self._refuse
        parser.Parse(data, True)

    def _refuse(self, *what: object) -> None:
        raise _Wrong("it has a document type or a processing instruction")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        parent = self._path[-1]
        if tag not in _INSIDE.get(parent, ()):
            raise _Wrong(f"there is <{tag[:40]}> inside <{parent}>")
        if len(self._path) > _MAX_DEPTH:
            raise _Wrong("its elements are nested too deeply")
        self._path.append(tag)
        self._text = ""
        allowed = _ATTRIBUTES.get(tag)
        if allowed is not None and not allowed.issuperset(attributes):
            raise _Wrong(f"<{tag}> has the attributes {_shown(attributes)}")
        if tag in ("net", "body"):
            self._nets.append(_Net())
        elif tag == "layer":
            self._layer(attributes)
        elif tag == "data":
            self._data(attributes)
        elif tag == "port":
            self._dims = []
            self._port(attributes)
        elif tag == "edge" and parent == "edges":
            self._edge(attributes)
        elif parent in ("port_map", "back_edges"):
            self._loop(attributes)

    def _end(self, tag: str) -> None:
        self._path.pop()
        if tag == "dim":
            self._dims.append(_number(self._text, "a dimension"))
            if math.prod(self._dims) > _MAX_ELEMENTS:
                raise _Wrong(f"a tensor has the shape {self._dims[:8]}")
        elif tag == "layer":
            (number, kind), has_data, inner = self._layers.pop(), self._has_data.pop(), self._inner.pop()
            if not inner <= self._body:
                raise _Wrong(f"layer {number} ({kind}) names layers that its body lacks")
            if kind in _DATA and not has_data:
                raise _Wrong(f"layer {number} ({kind}) has no <data>")
        elif tag in ("net", "body"):
            net = self._nets.pop()
            _require_acyclic(net)
            self._body = set(net.layers)
        self._text = ""

    def _characters(self, text: str) -> None:
        self._text += text
        if len(self._text) > 1 << 20 or (self._path[-1] != "dim" and text.strip()):
            raise _Wrong(f"there is text inside <{self._path[-1]}>")

    def _layer(self, attributes: Mapping[str, str]) -> None:
        number = _number(attributes.get("id", ""), "the id of a layer")
        kind, version = attributes.get("type", ""), attributes.get("version", "")
        if kind not in ALLOWED_OPERATORS or not _OPSET.fullmatch(version):
            raise _Wrong(f"layer {number} is of type {_cut(kind)} of {_cut(version)}")
        if number in self._nets[-1].layers:
            raise _Wrong(f"two layers have the id {number}")
        self._nets[-1].layers[number] = set(), set()
        self._layers.append((number, kind))
        self._has_data.append(False)
        self._inner.append(set())
        self._body = set()  # a layer without a net inside has none

    def _data(self, attributes: Mapping[str, str]) -> None:
        number, kind = self._layers[-1]
        where = f"layer {number} ({kind})"
        if self._has_data[-1]:
            raise _Wrong(f"{where} has two <data>")
        self._has_data[-1] = True
        if kind in _DATA and set(attributes) != _DATA[kind]:
            raise _Wrong(f"the <data> of {where} has the attributes {_shown(attributes)}")
        for name, value in attributes.items():
            if name in ("element_type", "variable_type") and value not in _BITS:
                raise _Wrong(f"{where} has the element type {_cut(value)}")
            # Variables are named after the user's tensors, in whatever letters.
            if name != "variable_id" and not _TEXT.fullmatch(value):
                raise _Wrong(f"the attribute {_cut(name)} of {where} is no plain text")
        shape = attributes.get("variable_shape", attributes.get("shape", "")) if kind in _DATA else ""
        count = _elements(shape, where)
        if kind == "Const":
            size = count * _BITS[attributes["element_type"]] // 8 or 1  # OpenVINO stores an empty one so
            offset, stored = (_number(attributes[n], f"the {n} of {where}") for n in ("offset", "size"))
            if stored != size or offset + stored > self._bytes:
                raise _Wrong(f"{where} takes bytes {offset} to {offset + stored} of {self._bytes}")

    def _port(self, attributes: Mapping[str, str]) -> None:
        port = _number(attributes.get("id", ""), "the id of a port")
        precision = attributes.get("precision", "").lower()
        if precision not in _PRECISIONS:
            raise _Wrong(f"a port has the precision {_cut(precision)}")
        takes, gives = self._nets[-1].layers[self._layers[-1][0]]
        ports = takes if self._path[-2] == "input" else gives
        if port in takes or port in gives:
            raise _Wrong(f"layer {self._layers[-1][0]} has two ports {port}")
        ports.add(port)

    def _loop(self, attributes: Mapping[str, str]) -> None:
        """An entry that joins a loop with its body: all its attributes are numbers."""
        for name, value in attributes.items():
            number = _number(value.removeprefix("-"), f"{_cut(name)} of a loop")
            if name in ("internal_layer_id", "from-layer", "to-layer"):
                self._inner[-1].add(number)

    def _edge(self, attributes: Mapping[str, str]) -> None:
        names = ("from-layer", "from-port", "to-layer", "to-port")
        source, out, sink, into = (_number(attributes.get(n, ""), f"{n} of an edge") for n in names)
        net = self._nets[-1]
        known = source in net.layers and sink in net.layers
        if not known or out not in net.layers[source][1] or into not in net.layers[sink][0]:
            raise _Wrong(f"an edge joins {source}:{out} and {sink}:{into}, which do not exist")
        if (sink, into) in net.fed:
            raise _Wrong(f"two edges lead to {sink}:{into}")
        net.fed.add((sink, into))
        net.edges.append((source, sink))


def _require_acyclic(net: _Net) -> None:
    """Refuse a net with an input that nothing feeds, or with a circle."""
    waiting = dict.fromkeys(net.layers, 0)
    follow: dict[int, list[int]] = {n: [] for n in net.layers}
    for source, sink in net.edges:
        waiting[sink] += 1
        follow[source].append(sink)
    missing = [n for n, (takes, _) in net.layers.items() if any((n, p) not in net.fed for p in takes)]
    if missing:
        raise _Wrong(f"nothing leads to an input of layer {missing[0]}")
    ready = [n for n, count in waiting.items() if not count]
    done = 0
    while ready:
        done += 1
        for sink in follow[ready.pop()]:
            waiting[sink] -= 1
            if not waiting[sink]:
                ready.append(sink)
    if done != len(net.layers):
        raise _Wrong("its edges form a circle")


def _elements(shape: str, where: str) -> int:
    """How many elements a shape such as `"8,3,6,6"` has; an empty one is a number."""
    sizes = [_number(s.strip(), f"the shape of {where}") for s in shape.split(",")] if shape else []
    count = math.prod(sizes)
    if count > _MAX_ELEMENTS:
        raise _Wrong(f"{where} has the shape {_cut(shape)}")
    return count


def _number(text: str, what: str) -> int:
    if not _NUMBER.fullmatch(text.strip()):
        raise _Wrong(f"{what} is {_cut(text)}")
    return int(text)


def _shown(names: Iterable[str]) -> str:
    return _cut(", ".join(sorted(names)))


def _cut(text: str) -> str:
    return ascii(text[:60])
