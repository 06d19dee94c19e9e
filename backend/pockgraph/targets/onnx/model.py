"""Values -> an ONNX model: what the results need, in the order in which it was made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.external_data_helper import set_external_data

from ...runtime.onnx_file import SHARED_CONSTANTS, check_model
from ...version import __version__
from ..shared.shared_file import SharedFile, opened
from .emitter import TYPES
from .op import OPSET
from .value import Body, Node, Value, make

IR_VERSION = 8  # the first that has opset 18: older runtimes load it, too
# Larger constants stand in a file of their own, which runtimes map into memory. The sizes of a split must
# not: a model is checked, and loaded, by what they say.
EMBEDDED_BYTES = 1 << 16
ALIGNMENT = 4096  # of constants in their file: a page


def build_model(inputs: Sequence[Value], results: Mapping[str, Value]) -> onnx.ModelProto:
    """A model that takes `inputs` and gives `results`, by name.

    An input that nothing reads is kept: the calling convention does not depend on a plan's details.
    """
    results = _own_outputs(results)
    names = {x.node: [x.node.name] for x in inputs}
    protos, initializers = _written(results, names)
    graph = helper.make_graph(
        protos,
        "pockui",
        [_info(x.node.name, x) for x in inputs],
        [_info(name, value) for name, value in results.items()],
        initializers,
    )
    opset = [helper.make_opsetid("", OPSET)]
    return helper.make_model(
        graph,
        opset_imports=opset,
        ir_version=IR_VERSION,
        producer_name="pockui",
        producer_version=__version__,
    )


def _written(
    results: Mapping[str, Value], names: dict[Node, list[str]], prefix: str = ""
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """What makes `results`: operators and constants. `names`, of the inputs so far, gets those of all nodes.

    `prefix`: of the names that are given here; no name may occur twice, in bodies of loops either.
    """
    nodes = _unread_last(_needed(results.values()))
    constants: dict[object, str] = {}
    initializers = []
    for node in nodes:
        if node.data is not None:
            content = _content(node.data)
            if content not in constants:
                constants[content] = prefix + (node.name or f"const:{len(constants)}")
                initializers.append(numpy_helper.from_array(node.data, constants[content]))
            names[node] = [constants[content]]
        elif node.kind:
            name = prefix + (node.name or f"{node.kind}_{len(names)}")
            names[node] = [name] if node.outputs == 1 else [f"{name}:{i}" for i in range(node.outputs)]
    for name, value in results.items():
        names[value.node][value.index] = name

    def name_of(x: Value | None) -> str:
        return "" if x is None else names[x.node][x.index]

    protos = []
    for node in nodes:
        if node.kind:
            arguments = [name_of(i) for i in node.inputs]
            while arguments and not arguments[-1]:
                del arguments[-1]
            title = prefix + node.name if node.name else names[node][0]
            attributes = dict(node.attributes)
            if node.body is not None:
                captured = {inner.node: [name_of(outer)] for inner, outer in node.body.captured}
                attributes["body"] = _body(node.body, captured, f"{title}/")
            protos.append(helper.make_node(node.kind, arguments, names[node], title, **attributes))
    return protos, initializers


def _body(body: Body, captured: Mapping[Node, list[str]], prefix: str) -> onnx.GraphProto:
    inputs = {f"{prefix}input_{i}": x for i, x in enumerate(body.inputs)}
    results = _own_outputs({f"{prefix}result_{i}": x for i, x in enumerate(body.results)})
    names = {**captured, **{x.node: [name] for name, x in inputs.items()}}
    protos, initializers = _written(results, names, prefix)
    return helper.make_graph(
        protos,
        f"{prefix}step",
        [_info(name, x) for name, x in inputs.items()],
        [_info(name, x) for name, x in results.items()],
        initializers,
    )


def write_model(model: onnx.ModelProto, folder: Path, stem: str) -> None:
    """Write `folder/stem.onnx`, and its larger constants into the file that the graphs of a folder share;
    then check it. The step, `train`, begins that file.

    Raises:
        onnx.checker.ValidationError: the model breaks the standard.
        ArtifactError: it holds what no runtime would load.
    """
    path, constants = folder / f"{stem}.onnx", folder / SHARED_CONSTANTS
    if stem == "train":
        constants.unlink(missing_ok=True)
    large = [t for t in _tensors(model.graph) if len(t.raw_data) > EMBEDDED_BYTES]
    if large:
        others = [p for p in sorted(folder.glob("*.onnx")) if p != path and constants.is_file()]
        known = [place for other in others for place in _places(onnx.load(other, load_external_data=False))]
        with opened(constants) as file:
            shared = SharedFile(file, known, ALIGNMENT)
            for tensor in large:
                content = tensor.raw_data
                place = shared.place(content)
                set_external_data(tensor, SHARED_CONSTANTS, place, len(content))
                tensor.ClearField("raw_data")
    onnx.save_model(model, path)
    onnx.checker.check_model(path, full_check=True)
    check_model(path, {constants.name: constants.stat().st_size} if constants.is_file() else {})


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """The constants of a graph, and of the bodies of its loops."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _tensors(attribute.g)


def _places(model: onnx.ModelProto) -> Iterator[tuple[int, int]]:
    """(offset, size) of the constants that stand outside of the model."""
    for tensor in _tensors(model.graph):
        entries = {e.key: e.value for e in tensor.external_data}
        if entries:
            yield int(entries["offset"]), int(entries["length"])


def _own_outputs(results: Mapping[str, Value]) -> dict[str, Value]:
    """Results of which each is an operator's, and no other's: ONNX has one name for a tensor."""
    own: dict[str, Value] = {}
    taken: set[tuple[Node, int]] = set()
    for name, value in results.items():
        if not value.kind or (value.node, value.index) in taken:
            value = make("Identity", [value], value.shape, value.dtype)
        taken.add((value.node, value.index))
        own[name] = value
    return own


def _needed(results: Iterable[Value]) -> list[Node]:
    """Every node that the results depend on, inputs before outputs."""
    found: set[Node] = set()
    stack = [value.node for value in results]
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack.extend(i.node for i in node.operands)
    return sorted(found, key=lambda node: node.serial)


def _unread_last(nodes: Sequence[Node]) -> list[Node]:
    """Nodes whose outputs no other node reads (updates, the loss) go last, the latest of them first.

    ONNX Runtime takes nothing else from the order of a file: it begins at the last node that is not read,
    computes what that depends on, and goes on with the one before it. With the update of the first layer
    at the end, it would hold the gradients of all activations until the last update has been computed.
    """
    read = {operand.node for node in nodes for operand in node.operands}
    return [n for n in nodes if n in read] + [n for n in reversed(nodes) if n not in read]


def _content(data: np.ndarray) -> object:
    """What constants that are stored once have in common; only small ones are compared."""
    return (data.dtype.str, data.shape, data.tobytes()) if data.nbytes <= EMBEDDED_BYTES else id(data)


def _info(name: str, x: Value) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TYPES[x.dtype], x.shape)
