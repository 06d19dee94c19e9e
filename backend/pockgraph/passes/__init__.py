"""Passes: a graph in, another with the same results out. Each is a frozen dataclass with a `name`.

Not here: what lowers a graph to a runtime (`targets/`), and which passes a target runs (its `pipeline`).

All of them run in `run`, wherever they belong: building a graph, pruning it, or a target's `Pipeline`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

from ..files import write_atomically
from ..ir.graph import Graph


class Pass(Protocol):
    """A graph transformation: same inputs and outputs, same numbers, a new graph."""

    name: ClassVar[str]

    def __call__(self, graph: Graph) -> Graph: ...


class PassCount(NamedTuple):
    """How many operators a graph had before and after a pass."""

    name: str
    before: int
    after: int


class Pipeline(NamedTuple):
    """The passes between pruning and writing, in order.

    Attributes:
        shared: those that every target starts with. What is said of a step (its cost, the limits of its
            batches, what a target lacks) is said of the graph after these.
        own: those that make of it what one target writes.
    """

    shared: tuple[Pass, ...]
    own: tuple[Pass, ...] = ()

    @property
    def all(self) -> tuple[Pass, ...]:
        return (*self.shared, *self.own)

    def start(self, graph: Graph, name: str, counts: list[PassCount] | None = None) -> Any:
        """`graph` after the shared passes; `name` and `counts` as for `run`."""
        return run(graph, self.shared, name, counts=counts)

    def finish(self, graph: Graph, name: str, counts: list[PassCount] | None = None) -> Any:
        """What `start` gave, after the target's own passes."""
        return run(graph, self.own, name, first=len(self.shared), counts=counts)


def shared(integers_below: int | None = None) -> tuple[Pass, ...]:
    """The passes that every target starts with.

    Args:
        integers_below: the target's, see `targets.Target`.
    """
    from .guard_indices import GuardIndices
    from .optimize.fold_constants import FoldConstants
    from .optimize.fold_scale import FoldScale

    return (FoldConstants(), FoldScale(), GuardIndices(integers_below))


def run(
    graph: Any,
    passes: Sequence[Pass] | None = None,
    name: str = "graph",
    first: int = 0,
    counts: list[PassCount] | None = None,
) -> Any:
    """Apply passes (by default `shared()`), checking the graph after each.

    `POCK_DEBUG=1` prints a line per pass; `POCK_DUMP=DIR` writes each graph as Python.

    Args:
        name: what the graph is called in these lines and files: `train`, `eval`, …
        first: the number of the first pass in them.
        counts: gets an entry for each pass.
    """
    debug, dump = os.environ.get("POCK_DEBUG", "0"), os.environ.get("POCK_DUMP")
    for number, apply in enumerate(shared() if passes is None else passes, first):
        start, before, operators = time.perf_counter(), len(graph.fx.nodes), len(list(graph.nodes()))
        graph = apply(graph)
        graph.validate()
        if counts is not None:
            counts.append(PassCount(apply.name, operators, len(list(graph.nodes()))))
        step = f"{name}-{number:02d}-{apply.name}"
        if debug != "0":
            took_ms = (time.perf_counter() - start) * 1e3
            print(f"{step}: {before} -> {len(graph.fx.nodes)} nodes, {took_ms:.0f} ms", file=sys.stderr)
        if dump:
            write_atomically(Path(dump) / f"{step}.py", graph.code().encode())
    return graph
