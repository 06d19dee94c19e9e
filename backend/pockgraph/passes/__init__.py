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

    def start(self, graph: Graph, name: str) -> Any:
        """`graph` after the shared passes; `name` as for `run`."""
        return run(graph, self.shared, name)

    def finish(self, graph: Graph, name: str) -> Any:
        """What `start` gave, after the target's own passes."""
        return run(graph, self.own, name, first=len(self.shared))


def shared(integers_below: int | None = None) -> tuple[Pass, ...]:
    """The passes that every target starts with.

    Args:
        integers_below: the target's, see `targets.Target`.
    """
    from .guard_indices import GuardIndices
    from .optimize.fold_constants import FoldConstants
    from .optimize.fold_scale import FoldScale

    return (FoldConstants(), FoldScale(), GuardIndices(integers_below))


def run(graph: Any, passes: Sequence[Pass] | None = None, name: str = "graph", first: int = 0) -> Any:
    """Apply passes (by default `shared()`), checking the graph after each.

    `POCK_DEBUG=1` prints a line per pass; `POCK_DUMP=DIR` writes each graph as Python.

    Args:
        name: what the graph is called in these lines and files: `train`, `eval`, …
        first: the number of the first pass in them.
    """
    debug, dump = os.environ.get("POCK_DEBUG", "0"), os.environ.get("POCK_DUMP")
    for number, apply in enumerate(shared() if passes is None else passes, first):
        start, before = time.perf_counter(), len(graph.fx.nodes)
        graph = apply(graph)
        graph.validate()
        step = f"{name}-{number:02d}-{apply.name}"
        if debug != "0":
            took_ms = (time.perf_counter() - start) * 1e3
            print(f"{step}: {before} -> {len(graph.fx.nodes)} nodes, {took_ms:.0f} ms", file=sys.stderr)
        if dump:
            write_atomically(Path(dump) / f"{step}.py", graph.code().encode())
    return graph
