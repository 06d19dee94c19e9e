"""Graphs as JSON and back: slots, nodes, and their metadata. Values travel beside it, in safetensors.

Reading runs no code of the file's author: an operator is a name on the list in `validation.py`, looked
up under `torch.ops.aten`, one of `recurrent/operators.py`, or `operator.getitem`; names of nodes are
plain identifiers, and arguments are data. The shapes and dtypes in the file are those that the
operators compute. Everything else is refused.

An argument is JSON itself where JSON has it (null, booleans, integers, finite floats, strings,
lists), or an object with one tag: `{"node": "add_3"}`, `{"tuple": […]}`, `{"float": "inf"}`,
`{"dtype": "int64"}`, `{"device": "cpu"}`, `{"layout": "strided"}`, `{"memory_format": "…"}`.
"""

from __future__ import annotations

import json
import keyword
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import Any

import torch
from torch import fx

from ..errors import ArtifactError
from ..files import parse_json
from ..recurrent.operators import LOOPS
from .graph import Graph, Role, Slot, dtype_name, output_args
from .validation import ALLOWED_OPERATORS, check_graph

SCHEMA = "pockui.graph/1"
GETITEM = "operator.getitem"
_OP = re.compile(r"aten\.([A-Za-z_]\w*)\.([A-Za-z_]\w*)")
# Operators that make tensors out of nothing. Any other must take a tensor, which leaves out
# `from_file` and whatever else reaches outside.
_FACTORIES = {
    "arange", "empty", "empty_strided", "eye", "full", "linspace", "ones", "scalar_tensor", "zeros",
}  # fmt: skip
_TENSORS = {"Tensor", "List[Tensor]", "Optional[Tensor]"}
_META = ("phase", "layer", "source")


def op_name(target: Any) -> str:
    """`"aten.add.Tensor"` or `"operator.getitem"`.

    Raises:
        ValueError: an operator that no graph file can hold, with the reason.
    """
    if target is operator.getitem:
        return GETITEM
    name = str(target)
    if _find_op(name) is not target:
        raise ValueError(f"{name} is not an operator of torch.ops.aten")
    return name


def _find_op(name: str) -> Any:
    """The ATen overload called `name`; ValueError says why there is none, or none that may be used."""
    if name == GETITEM:
        return operator.getitem
    if name in LOOPS:
        return LOOPS[name]
    match = _OP.fullmatch(name)
    packet = getattr(torch.ops.aten, match[1], None) if match else None
    if match is None or packet is None or match[2] not in packet.overloads():
        raise ValueError(f"{name} is not an operator of torch.ops.aten")
    op = getattr(packet, match[2])
    if match[1] not in ALLOWED_OPERATORS:
        raise ValueError(f"{name} is not on the list of operators that a graph file may hold")
    schema = op._schema
    if schema.is_mutable:
        raise ValueError(f"{name} changes its arguments")
    if not schema.returns or not all(str(r.type) in _TENSORS for r in schema.returns):
        raise ValueError(f"{name} returns something else than tensors")
    takes_tensors = any("Tensor" in str(a.type) for a in schema.arguments)
    if not takes_tensors and match[1] not in _FACTORIES:
        raise ValueError(f"{name} takes no tensor")
    return op


# ---------------------------------------------------------------- writing


def graph_to_json(graph: Graph) -> str:
    """The graph without its values.

    Raises:
        ValueError: an operator or an argument that no graph file can hold.
    """
    nodes = []
    for node in graph.fx.nodes:
        if node.op == "output":
            continue
        entry: dict[str, Any] = {"name": node.name}
        if node.op == "call_function":
            entry["op"] = op_name(node.target)
            entry["args"] = [_encode(a) for a in node.args]
            if node.kwargs:
                entry["kwargs"] = {k: _encode(v) for k, v in node.kwargs.items()}
        elif node.op != "placeholder":
            raise ValueError(f"node {node.name} is a {node.op}; a graph has placeholders and calls only")
        entry["val"] = _encode_val(node.meta["val"])
        entry.update({k: node.meta[k] for k in _META if k in node.meta})
        nodes.append(entry)
    data = {
        "schema": SCHEMA,
        "inputs": [_slot_to_dict(s) for s in graph.inputs],
        "outputs": [_slot_to_dict(s) for s in graph.outputs],
        "results": [n.name for n in output_args(graph.fx)],
    }
    # One node a line: such a file can be read, compared and searched.
    lines = ",\n".join(json.dumps(n, allow_nan=False) for n in nodes)
    return json.dumps(data)[:-1] + f', "nodes": [\n{lines}\n]}}\n'


def _slot_to_dict(slot: Slot) -> dict[str, Any]:
    defaults = {f.name: f.default for f in fields(Slot)}
    return {k: v for k, v in asdict(slot).items() if v != defaults[k]}


def _encode(value: Any) -> Any:
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, tuple):
        return {"tuple": [_encode(v) for v in value]}
    if isinstance(value, list):
        return [_encode(v) for v in value]
    if isinstance(value, torch.dtype):
        return {"dtype": dtype_name(value)}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if isinstance(value, torch.layout | torch.memory_format):
        return {type(value).__name__: str(value).removeprefix("torch.")}
    raise ValueError(f"an argument of type {type(value).__name__} cannot be written to a graph file")


def _encode_val(val: Any) -> Any:
    if isinstance(val, torch.Tensor):
        return {"shape": [int(s) for s in val.shape], "dtype": dtype_name(val.dtype)}
    if isinstance(val, tuple | list):
        return [_encode_val(v) for v in val]
    if val is None:
        return None
    raise ValueError(f"a node whose value is a {type(val).__name__} cannot be written to a graph file")


# ---------------------------------------------------------------- reading


def graph_from_json(text: str, values: Mapping[str, torch.Tensor], where: str = "graph") -> Graph:
    """The graph that `graph_to_json` wrote.

    Args:
        values: slot name -> value; those of slots that the graph lacks are left out.
        where: what to call the file in messages.

    Raises:
        ArtifactError: not a graph file of this version, or it holds what no graph may hold.
    """
    try:
        data = parse_json(text)
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            found = data.get("schema") if isinstance(data, dict) else None
            raise ArtifactError(
                f"{where} has schema {found!r}; this version of pockgraph reads {SCHEMA!r}. "
                "Compile the artefact again with this version."
            )
        inputs = tuple(_slot_from_dict(s) for s in data["inputs"])
        names = {s.name for s in inputs}
        graph = Graph(
            fx=_read_nodes(data),
            inputs=inputs,
            outputs=tuple(_slot_from_dict(s) for s in data["outputs"]),
            values={n: values[n] for n in names if n in values},
        )
        graph.validate()
        check_graph(graph)
    except (
        ValueError, LookupError, TypeError, AttributeError, AssertionError, RuntimeError, ArithmeticError,
        MemoryError,
    ) as e:  # fmt: skip
        what = f"it lacks {e}" if isinstance(e, KeyError) else str(e) or type(e).__name__
        raise ArtifactError(f"{where} is not a valid graph file: {what}. Compile the artefact again.") from e
    return graph


def _slot_from_dict(data: Mapping[str, Any]) -> Slot:
    proper: dict[str, Any] = {**data, "role": Role(data["role"]), "shape": tuple(data["shape"])}
    if data.get("indices") is not None:
        proper["indices"] = tuple(data["indices"])
    return Slot(**proper)


def _read_nodes(data: Mapping[str, Any]) -> fx.Graph:
    graph = fx.Graph()
    made: dict[str, fx.Node] = {}
    for entry in data["nodes"]:
        name = entry["name"]
        if (
            not isinstance(name, str)
            or not name.isidentifier()
            or not name.isascii()
            or keyword.iskeyword(name)
        ):
            raise ValueError(f"{name!r} is no name for a node")
        if name in made:
            raise ValueError(f"two nodes are called {name}")
        decode = _decoder(made)
        if "op" in entry:
            args = tuple(decode(a) for a in entry["args"])
            kwargs = {k: decode(v) for k, v in entry.get("kwargs", {}).items()}
            if not all(k.isidentifier() for k in kwargs):
                raise ValueError(f"node {name} has an argument without a proper name")
            node = graph.create_node("call_function", _find_op(entry["op"]), args, kwargs, name)
        else:
            node = graph.create_node("placeholder", name, (), {}, name)
        if node.name != name:
            raise ValueError(f"{name!r} is no name for a node")
        node.meta["val"] = _decode_val(entry["val"])
        node.meta.update({k: entry[k] for k in _META if k in entry})
        made[name] = node
    graph.output(tuple(made[n] for n in data["results"]))
    return graph


def _decoder(made: Mapping[str, fx.Node]) -> Callable[[Any], Any]:
    def decode(value: Any) -> Any:
        if isinstance(value, list):
            return [decode(v) for v in value]
        if not isinstance(value, dict):
            return value
        if len(value) != 1:
            raise ValueError(f"an argument has {len(value)} tags instead of one")
        ((tag, content),) = value.items()
        match tag:
            case "node":
                return made[content]
            case "tuple":
                return tuple(decode(v) for v in content)
            case "float":
                return float(content)
            case "device":
                return torch.device(content)
            case "dtype" | "layout" | "memory_format":
                return _torch_constant(content, getattr(torch, tag))
        raise ValueError(f"an argument has the unknown tag {tag!r}")

    return decode


def _torch_constant(name: str, kind: type) -> Any:
    value = getattr(torch, name, None)
    if not isinstance(value, kind):
        raise ValueError(f"{name!r} is no torch.{kind.__name__}")
    return value


def _decode_val(data: Any) -> Any:
    if isinstance(data, list):
        return tuple(_decode_val(v) for v in data)
    if data is None:
        return None
    return torch.empty(data["shape"], dtype=_torch_constant(data["dtype"], torch.dtype), device="meta")
