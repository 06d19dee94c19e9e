"""Program: an ONNX graph without protobuf, in plain Python and numpy values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Node:
    """One operator call.

    Attributes:
        op: operator type, `"Conv"`; of another domain than ONNX's own `"com.example::Op"`.
        version: the opset that defined this operator's present form; 0 when ONNX does not know it.
        name: of the node; may be empty.
        inputs: names of tensors; an absent optional input is an empty string.
        outputs: names of tensors that something reads; others are empty strings.
        attributes: name -> int, float, str, list or array. Graphs are left out.
        mistake: what ONNX's own checker says of it; empty when nothing.
    """

    op: str
    version: int
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    mistake: str = ""

    @property
    def where(self) -> str:
        """How messages call it: by its name, else by what it makes."""
        made = next(filter(None, self.outputs), "")
        return f"{self.op} node {self.name!r}" if self.name else f"{self.op} node that makes {made!r}"


@dataclass(frozen=True)
class Input:
    """A graph input: element type, and dimensions with None where the model leaves them open.

    `shape` is None when the model does not even say the rank.
    """

    dtype: np.dtype
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True, eq=False)
class Program:
    """The part of a model that its wanted outputs need, in order of execution.

    Attributes:
        opset: version of ONNX's own operator set.
        nodes: without `Constant`.
        inputs: name -> what the caller passes.
        outputs: names of the tensors that are returned.
        tensors: initializers and constants by name.
        made: those of `tensors` that no layer of the original model holds: PyTorch's exporter wrote them.
        sha256: of the model it was read from, see `reader.digest`.
    """

    opset: int
    nodes: tuple[Node, ...]
    inputs: Mapping[str, Input]
    outputs: tuple[str, ...]
    tensors: Mapping[str, np.ndarray]
    made: frozenset[str] = frozenset()
    sha256: str = ""

    @cached_property
    def producers(self) -> dict[str, Node]:
        """Tensor name -> the node that makes it."""
        return {name: node for node in self.nodes for name in node.outputs if name}

    @cached_property
    def uses(self) -> dict[str, list[tuple[Node, int]]]:
        """Tensor name -> every (node, input position) that reads it."""
        found: dict[str, list[tuple[Node, int]]] = {}
        for node in self.nodes:
            for i, name in enumerate(node.inputs):
                if name:
                    found.setdefault(name, []).append((node, i))
        return found

    def names(self) -> Iterator[str]:
        """Every tensor that `outputs` could ask for."""
        return iter(self.producers)
