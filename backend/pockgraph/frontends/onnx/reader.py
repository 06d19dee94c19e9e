"""File -> Program: protobuf becomes plain values, and what the wanted outputs don't need is left out."""

from __future__ import annotations

import hashlib
import importlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import CaptureError, listing, reason, suggest
from ...files import as_path
from .program import Input, Node, Program

OLDEST_OPSET = 7
# How PyTorch names what a `Constant` node makes, also after other tools made an initializer of it.
_OF_CONSTANT = re.compile(r"(^|/)Constant(_\d+)?_output_0$")
OWN_DOMAINS = ("", "ai.onnx")


def import_onnx() -> Any:
    """The `onnx` package.

    Raises:
        CaptureError: it is not installed.
    """
    try:
        return importlib.import_module("onnx")
    except ImportError as e:
        raise CaptureError(
            "Reading and writing ONNX models needs the package onnx. Install it with `pip install onnx`."
        ) from e


def load_proto(path: str | os.PathLike[str]) -> Any:
    """The model as protobuf, with its external data.

    Raises:
        CaptureError: there is no such file, or it is not a model.
    """
    onnx = import_onnx()
    path = as_path(path, CaptureError)
    if not path.is_file():
        raise CaptureError(f"There is no ONNX model at {path}.")
    try:
        model = onnx.load(path)
    except Exception as e:
        raise CaptureError(
            f"{path} cannot be read as an ONNX model: {reason(e)}. A model with external data needs those "
            "files "
            "beside it."
        ) from e
    if not model.graph.node:
        raise CaptureError(f"{path} is not an ONNX model, or one without any operator.")
    return model


def digest(path: str | os.PathLike[str], model: Any) -> str:
    """SHA-256 of a model's file and of its weights, which may lie in others."""
    found = hashlib.sha256(Path(path).read_bytes())
    for tensor in model.graph.initializer:
        found.update(tensor.raw_data)
    return found.hexdigest()


def read(path: str | os.PathLike[str], outputs: Sequence[str] | None = None) -> Program:
    """The program that makes `outputs` (names of any tensors in the graph); None takes the model's own.

    Raises:
        CaptureError: the file is not a model, its opset is not supported, or it makes no such output.
    """
    onnx = import_onnx()
    model = load_proto(path)
    sha256 = digest(path, model)
    if model.functions:
        model = importlib.import_module("onnx.inliner").inline_local_functions(model)
    opset = _opset(model, path, onnx.defs.onnx_opset_version())
    checker = _checker(model, opset, onnx)
    graph = model.graph
    if graph.sparse_initializer:
        names = listing([s.values.name for s in graph.sparse_initializer])
        raise CaptureError(f"{path} has sparse initializers ({names}), which are not supported.")
    tensors = {t.name: _value(t, path, onnx) for t in graph.initializer}
    by_torch = model.producer_name == "pytorch"
    made: set[str] = set()
    nodes: list[Node] = []
    for proto in graph.node:
        if proto.op_type == "Constant" and proto.domain in OWN_DOMAINS:
            tensors[proto.output[0]] = _constant(proto, onnx)
            made.update(proto.output if by_torch else ())
        elif by_torch and is_merged(proto, tensors):
            tensors[proto.output[0]] = tensors[proto.input[0]]
            made.update(proto.output if proto.input[0] in made else ())
        else:
            nodes.append(_node(proto, opset, checker, onnx))
    _require_unique(graph, path)
    inputs = {i.name: _input(i, path, onnx) for i in graph.input if i.name not in tensors}
    wanted = _wanted(outputs, graph, path)
    _require_made(wanted, nodes, path)
    if by_torch:
        made.update(name for name in tensors if _OF_CONSTANT.search(name))
    return _needed(Program(opset, tuple(nodes), inputs, wanted, tensors, frozenset(made), sha256))


def is_merged(proto: Any, tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether a node only says that PyTorch's exporter found two weights equal, such as two fresh norms'.

    Weights that are one in the original are written so too, but they don't hold one and the same number.
    """
    if proto.op_type != "Identity" or proto.domain not in OWN_DOMAINS or proto.input[0] not in tensors:
        return False
    return is_uniform(tensors[proto.input[0]])


def is_uniform(value: np.ndarray) -> bool:
    """Whether a tensor holds one and the same number several times."""
    return value.size > 1 and bool((value == value.flat[0]).all())


def _opset(model: Any, path: Any, newest: int) -> int:
    versions = [o.version for o in model.opset_import if o.domain in OWN_DOMAINS]
    if not versions or not OLDEST_OPSET <= versions[0] <= newest:
        found = f"opset {versions[0]}" if versions else "no version of ONNX's own operators"
        raise CaptureError(
            f"{path} asks for {found}; this installation reads opsets {OLDEST_OPSET} to {newest}. "
            "Convert it with onnx.version_converter, or install a newer onnx."
        )
    return versions[0]


def _value(tensor: Any, path: Any, onnx: Any) -> np.ndarray:
    try:
        return onnx.numpy_helper.to_array(tensor)
    except Exception as e:
        raise CaptureError(
            f"{path} is damaged: its tensor {tensor.name!r} (element type {tensor.data_type}, shape "
            f"{list(tensor.dims)}) cannot be read. Export it anew."
        ) from e


def _checker(model: Any, opset: int, onnx: Any) -> Callable[[Any], str]:
    """A function: node -> what contradicts the definition of its operator; empty when nothing does."""
    context = onnx.checker.C.CheckerContext()
    context.ir_version = model.ir_version
    context.opset_imports = {"": opset}

    def mistake(proto: Any) -> str:
        try:
            onnx.checker.check_node(proto, context)
        except onnx.checker.ValidationError as e:
            return reason(e).rstrip(".")
        return ""

    return mistake


def _require_unique(graph: Any, path: Any) -> None:
    """Refuse a model in which one name stands for several tensors."""
    names = [t.name for t in graph.initializer]
    names += [name for node in graph.node for name in node.output if name]
    names += {i.name for i in graph.input} - {t.name for t in graph.initializer}
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise CaptureError(
            f"{path} is no valid ONNX model: {listing([repr(n) for n in twice])} stands for several tensors. "
            "Give each a name of its own."
        )


def _wanted(outputs: Sequence[str] | None, graph: Any, path: Any) -> tuple[str, ...]:
    if outputs is None:
        return tuple(o.name for o in graph.output)
    if isinstance(outputs, str) or not outputs:
        last = [o.name for o in graph.output]
        raise CaptureError(
            f"outputs={outputs!r} is not a list of at least one name. Pass {[outputs] if outputs else last}, "
            f"or leave it out for all outputs of {path}."
        )
    return tuple(outputs)


def _constant(proto: Any, onnx: Any) -> np.ndarray:
    (attribute,) = proto.attribute
    value = onnx.helper.get_attribute_value(attribute)
    match attribute.name:
        case "value":
            return onnx.numpy_helper.to_array(value)
        case "value_float" | "value_floats":
            return np.array(value, dtype=np.float32)
        case "value_int" | "value_ints":
            return np.array(value, dtype=np.int64)
    raise CaptureError(
        f"The constant {proto.output[0]!r} is a {attribute.name}; only dense numbers are supported."
    )


def _node(proto: Any, opset: int, checker: Callable[[Any], str], onnx: Any) -> Node:
    own = proto.domain in OWN_DOMAINS
    version, mistake = 0, ""
    if own:
        with suppress(onnx.defs.SchemaError):  # an operator that ONNX does not define; the checks name it
            schema = onnx.defs.get_schema(proto.op_type, max_inclusive_version=opset, domain="")
            version = schema.since_version
            mistake = "" if schema.deprecated else checker(proto)  # it refuses all that are deprecated
    attributes = {}
    for attribute in proto.attribute:
        if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
            continue
        attributes[attribute.name] = _plain(onnx.helper.get_attribute_value(attribute), onnx)
    name = proto.op_type if own else f"{proto.domain}::{proto.op_type}"
    return Node(name, version, proto.name, tuple(proto.input), tuple(proto.output), attributes, mistake)


def _plain(value: Any, onnx: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    if isinstance(value, int | float | str):
        return value
    return [_plain(v, onnx) for v in value]


def _input(proto: Any, path: Any, onnx: Any) -> Input:
    kind = proto.type
    if not kind.HasField("tensor_type"):
        raise CaptureError(f"{path}: input {proto.name!r} is not a tensor, and only tensors are supported.")
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.tensor_type.elem_type))
    except KeyError as e:
        raise CaptureError(
            f"{path}: input {proto.name!r} has the element type {kind.tensor_type.elem_type}, which ONNX "
            "does not define. Export the model anew."
        ) from e
    if not kind.tensor_type.HasField("shape"):
        return Input(dtype, None)
    dims = (d.dim_value if d.HasField("dim_value") else 0 for d in kind.tensor_type.shape.dim)
    return Input(dtype, tuple(d if d > 0 else None for d in dims))


def _require_made(outputs: Sequence[str], nodes: Sequence[Node], path: Any) -> None:
    made = {name for node in nodes for name in node.outputs}
    for name in outputs:
        if name not in made:
            last = [n.outputs[0] for n in nodes[-6:]]
            raise CaptureError(
                f"No operator of {path} makes {name!r}.{suggest(name, made)} The last ones make "
                f"{listing(last)}."
            )


def _needed(program: Program) -> Program:
    """Without nodes, constants and optional outputs that nothing reads, in topological order."""
    read = {*program.outputs}
    kept = []
    for node in reversed(tuple(_sorted(program))):
        if read.isdisjoint(filter(None, node.outputs)):
            continue
        read.update(node.inputs)
        used = tuple(name if name in read else "" for name in node.outputs)
        kept.append(replace(node, outputs=used))
    tensors = {name: value for name, value in program.tensors.items() if name in read}
    inputs = {name: i for name, i in program.inputs.items() if name in read}
    return replace(program, nodes=tuple(reversed(kept)), inputs=inputs, tensors=tensors)


def _sorted(program: Program) -> Iterator[Node]:
    """ONNX demands this order; a file that breaks it is refused."""
    known: set[str] = {"", *program.inputs, *program.tensors}
    for node in program.nodes:
        for name in node.inputs:
            if name not in known:
                raise CaptureError(f"{node.where}: nothing before it makes its input {name!r}.")
        known.update(node.outputs)
        yield node


def proto_of(node: Node) -> Any:
    """A node as protobuf again."""
    onnx = import_onnx()
    attributes: Mapping[str, Any] = {
        k: onnx.numpy_helper.from_array(v) if isinstance(v, np.ndarray) else v
        for k, v in node.attributes.items()
    }
    return onnx.helper.make_node(node.op, node.inputs, node.outputs, node.name, **attributes)
