"""Values of an ONNX graph that is being made: each knows its shape, its dtype and what makes it.

Nothing here imports the `onnx` package; `model` turns values into a model file.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..shared.emitter import NUMPY_TYPES

TORCH_TYPES = {np.dtype(v): k for k, v in NUMPY_TYPES.items()}
_serial = itertools.count()


@dataclass(frozen=True, eq=False)
class Body:
    """What an operator runs for every step of a loop.

    Attributes:
        inputs: parameters, in the operator's order.
        results: what a step makes, in the operator's order.
        captured: parameter -> the value around the loop that it stands for.
    """

    inputs: tuple[Value, ...]
    results: tuple[Value, ...]
    captured: tuple[tuple[Value, Value], ...]


@dataclass(eq=False)
class Node:
    """An operator, an input of the model, or a constant.

    Attributes:
        kind: the ONNX operator; `""` for an input or a constant.
        inputs: None stands for an optional input that is left out.
        data: a constant's numbers.
        name: of the node, or of the input; empty until it gets one.
        body: of a loop.
        serial: nodes are numbered as they are made, so that each stands after its inputs.
    """

    kind: str = ""
    inputs: tuple[Value | None, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    data: np.ndarray | None = None
    name: str = ""
    outputs: int = 1
    body: Body | None = None
    serial: int = field(default_factory=lambda: next(_serial))

    @property
    def operands(self) -> list[Value]:
        """All that it reads, a body's captured values too."""
        captured = [outer for _, outer in self.body.captured] if self.body else []
        return [i for i in self.inputs if i is not None] + captured


@dataclass(frozen=True, eq=False)
class Value:
    """One output of a node, of static shape."""

    node: Node
    shape: tuple[int, ...]
    dtype: torch.dtype
    index: int = 0

    @property
    def kind(self) -> str:
        """The operator that makes it."""
        return self.node.kind


def make(
    kind: str, inputs: Sequence[Value | None], shape: Sequence[int], dtype: torch.dtype, **attributes: Any
) -> Value:
    """The result of an operator that has one."""
    return Value(Node(kind, tuple(inputs), attributes), tuple(shape), dtype)


def make_many(
    kind: str,
    inputs: Sequence[Value | None],
    shapes: Sequence[Sequence[int]],
    dtypes: Sequence[torch.dtype],
    **attributes: Any,
) -> tuple[Value, ...]:
    """The results of an operator that has several."""
    node = Node(kind, tuple(inputs), attributes, outputs=len(shapes))
    return tuple(Value(node, tuple(s), d, i) for i, (s, d) in enumerate(zip(shapes, dtypes, strict=True)))


def parameter(name: str, shape: Sequence[int], dtype: torch.dtype) -> Value:
    """An input of the model."""
    return Value(Node(name=name), tuple(shape), dtype)


def constant(data: np.ndarray, name: str = "") -> Value:
    """Embedded numbers; the array must not be changed afterwards."""
    return Value(Node(data=data, name=name), data.shape, TORCH_TYPES[data.dtype])


def is_constant(x: Value) -> bool:
    """Whether `x` depends on constants alone: a runtime computes it once, when it loads the model."""
    if x.kind:
        return all(is_constant(i) for i in x.node.operands)
    return x.node.data is not None
