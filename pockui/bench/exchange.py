"""A network as peers in other environments read it: `network.json`, `weights.npz` and `batch.npz`.

The network is a list of operators, from the image to the logits, as `torch.export` traces it; names of
weights are PyTorch's. What a peer makes of it is the same function, which its program checks: `network.json`
holds the loss that PyTorch computes of the batch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from pockgraph.measure import MeasureError
from pockgraph.plan import Plan
from pockgraph.task import Task

aten = torch.ops.aten


@dataclass(frozen=True)
class Exchange:
    """What was written.

    Attributes:
        trained: plan -> file with the names of the tensors that it trains.
    """

    folder: Path
    trained: Mapping[str, Path]


def write_exchange(task: Task, plans: Mapping[str, Plan], folder: Path) -> Exchange | MeasureError:
    """Write network, weights and the task's example; an error where an operator has no name here.

    Args:
        task: of images: its loss is the mean cross-entropy of the logits of `x` and the labels `y`.
    """
    batch = task.example
    try:
        nodes = forward_nodes(task.model, batch["x"])
    except NotExchangeable as e:
        return MeasureError(f"not run: {e}")
    folder.mkdir()
    state = {name: tensor.detach().numpy() for name, tensor in task.model.state_dict().items()}
    used = {name for node in nodes for name in node["weights"].values()}
    arrays: dict[str, Any] = {name: state[name] for name in sorted(used)}
    np.savez(folder / "weights.npz", **arrays)
    inputs: dict[str, Any] = {name: value.numpy() for name, value in batch.items()}
    np.savez(folder / "batch.npz", **inputs)
    with torch.no_grad():
        loss = float(task.loss(task.model, task.rebuild(batch)))
    parameters = sum(p.numel() for p in task.model.parameters())
    network = {"nodes": nodes, "loss": loss, "parameters": parameters}
    (folder / "network.json").write_text(json.dumps(network, indent=1))
    trained = {}
    for name, plan in plans.items():
        trained[name] = folder / f"trained-{name}.json"
        trained[name].write_text(json.dumps(sorted(plan.tensors)))
    return Exchange(folder, trained)


class NotExchangeable(Exception):
    """An operator that peers do not know; the message names it."""


def forward_nodes(model: nn.Module, x: torch.Tensor) -> list[dict[str, Any]]:
    """The operators from an image to the logits, in order.

    Each is `{"name", "op", "inputs", "weights", ...}`: `inputs` are names of earlier operators, or `x`;
    `weights` role -> FQN. Padding is of all four sides; kernels and strides are of both axes.

    Raises:
        NotExchangeable: an operator has no name here.
    """
    program = torch.export.export(model, (x,))
    signature = program.graph_signature
    weights = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    names: dict[fx.Node, str] = {}
    found: list[dict[str, Any]] = []
    for node in program.graph.nodes:
        if node.op == "placeholder":
            if node.name not in weights:
                names[node] = "x"
        elif node.op == "call_function":
            if node.target in _NOTHING:
                names[node] = names[node.args[0]]
                continue
            described = _described(node, weights)
            data = [a for a in node.all_input_nodes if a in names]
            found.append({"name": node.name, "inputs": [names[a] for a in data], **described})
            names[node] = node.name
    return found


def _described(node: fx.Node, weights: Mapping[str, str]) -> dict[str, Any]:
    if node.target not in _OPERATORS:
        raise NotExchangeable(f"its program does not know {node.target}, which is in the network")
    roles, describe = _OPERATORS[node.target]
    arguments = [*node.args, *[None] * 10]
    given = {role: weights[arguments[i].name] for i, role in roles.items() if arguments[i] is not None}
    return {"weights": given, **describe(arguments)}


def _pair(value: Any, default: int = 0) -> list[int]:
    values = [default] if value is None or value == [] else [value] if isinstance(value, int) else list(value)
    return [int(v) for v in (values if len(values) == 2 else values * 2)]


def _convolution(a: list[Any]) -> dict[str, Any]:
    """(x, weight, bias, stride, padding, dilation, groups)."""
    if _pair(a[5], 1) != [1, 1]:
        raise NotExchangeable("its program does not know dilated convolutions")
    return {"op": "convolution", "stride": _pair(a[3], 1), "padding": _pair(a[4]), "groups": a[6] or 1}


def _batch_norm(a: list[Any]) -> dict[str, Any]:
    """(x, weight, bias, mean, variance, training, momentum, epsilon, cudnn_enabled)."""
    if a[5]:
        raise NotExchangeable("its program knows batch norms in evaluation mode only")
    return {"op": "batch_norm", "epsilon": a[7]}


def _clamp(a: list[Any]) -> dict[str, Any]:
    if (a[1], a[2]) != (0.0, 6.0):
        raise NotExchangeable(f"its program does not know a clamp to {a[1]} and {a[2]}")
    return {"op": "relu6"}


def _max_pool(a: list[Any]) -> dict[str, Any]:
    """(x, kernel, stride, padding)."""
    return {"op": "max_pool", "kernel": _pair(a[1]), "stride": _pair(a[2], 1), "padding": _pair(a[3])}


def _mean(a: list[Any]) -> dict[str, Any]:
    """Over height and width: of an adaptive pooling (x, size), or a mean (x, dimensions, keepdim)."""
    if _pair(a[1]) not in ([1, 1], [2, 3], [-1, -2], [-2, -1]):
        raise NotExchangeable(f"its program does not know a mean over {a[1]}")
    return {"op": "global_mean"}


def _pad(a: list[Any]) -> dict[str, Any]:
    """(x, (left, right, top, bottom), mode, value)."""
    if a[2] not in (None, "constant") or a[3]:
        raise NotExchangeable("its program knows padding with zeros only")
    left, right, top, bottom = a[1]
    return {"op": "pad", "height": [top, bottom], "width": [left, right]}


def _plain(op: str) -> Callable[[list[Any]], dict[str, Any]]:
    return lambda _: {"op": op}


_NOTHING = (
    aten.dropout.default,
    aten.dropout_.default,
    aten.flatten.using_ints,
    aten.alias.default,
    aten.view.default,
)
_ROLES = {1: "weight", 2: "bias"}
_NORM = {**_ROLES, 3: "mean", 4: "variance"}
_OPERATORS: dict[Any, tuple[dict[int, str], Callable[[list[Any]], dict[str, Any]]]] = {
    aten.conv2d.default: (_ROLES, _convolution),
    aten.batch_norm.default: (_NORM, _batch_norm),
    aten.relu.default: ({}, _plain("relu")),
    aten.relu_.default: ({}, _plain("relu")),
    aten.relu6.default: ({}, _plain("relu6")),
    aten.relu6_.default: ({}, _plain("relu6")),
    aten.hardtanh.default: ({}, _clamp),
    aten.hardtanh_.default: ({}, _clamp),
    aten.add.Tensor: ({}, _plain("add")),
    aten.add_.Tensor: ({}, _plain("add")),
    aten.max_pool2d.default: ({}, _max_pool),
    aten.adaptive_avg_pool2d.default: ({}, _mean),
    aten.mean.dim: ({}, _mean),
    aten.pad.default: ({}, _pad),
    aten.linear.default: (_ROLES, _plain("linear")),
}  # fmt: skip
