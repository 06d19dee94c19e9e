"""Passes between pruning and lowering. Each is a frozen dataclass with a `name`; see `pipeline`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from ..files import write_atomically
from ..ir.graph import Graph


class Pass(Protocol):
    """A graph transformation: same inputs and outputs, same numbers, a new graph."""

    name: ClassVar[str]

    def __call__(self, graph: Graph) -> Graph: ...


def pipeline() -> tuple[Pass, ...]:
    """The passes every target starts with, in order."""
    from .optimize.fold_constants import FoldConstants
    from .optimize.fold_scale import FoldScale

    return (FoldConstants(), FoldScale())


def legalized(graph: Graph, legalize: Pass) -> Graph:
    """A graph behind the pipeline in the operators of one target."""
    return run(graph, (legalize,), first=len(pipeline()))


def run(graph: Any, passes: Sequence[Pass] | None = None, first: int = 0) -> Any:
    """Apply passes, checking the graph after each.

    `POCK_DEBUG=1` prints a line per pass; `POCK_DUMP=DIR` writes each graph as Python.

    Args:
        first: the number of the first one in the names of these files.
    """
    debug, dump = os.environ.get("POCK_DEBUG", "0"), os.environ.get("POCK_DUMP")
    for number, apply in enumerate(pipeline() if passes is None else passes, first):
        start, before = time.perf_counter(), len(graph.fx.nodes)
        graph = apply(graph)
        graph.validate()
        if debug != "0":
            took_ms = (time.perf_counter() - start) * 1e3
            print(f"{apply.name}: {before} -> {len(graph.fx.nodes)} nodes, {took_ms:.0f} ms", file=sys.stderr)
        if dump:
            write_atomically(Path(dump) / f"{number:02d}-{apply.name}.py", graph.code().encode())
    return graph
