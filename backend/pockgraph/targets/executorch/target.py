"""Lowering for ExecuTorch: no rule of our own, but its converter and a trial of what it made.

A graph becomes `STEM.pte`, a program of core ATen operators. State goes in and comes out: a program's own
mutable buffers can be neither read nor set from outside, and a step could not be undone.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ...errors import PockError
from ...ir.graph import Graph, Slot
from ...passes import Pipeline, shared
from ...passes.legalize import Legalize
from .. import Unsupported, check_options, require_supported, unsupported_calls
from ..exported_program import arguments, exported_program
from .kernels import refusal
from .library import heard, imported, quiet, require_installed
from .program import Program

LEGALIZE = Legalize(refusal)


class ExecuTorch:
    """Converts to a program for ExecuTorch; see the module. Experimental."""

    name = "executorch"
    integers_below = None

    def unsupported(self, graph: Graph) -> list[Unsupported]:
        """Every operator of `graph` that has no right kernel, and that stands for no others."""
        return unsupported_calls(graph, LEGALIZE.why_not)

    def pipeline(self, options: Mapping[str, Any]) -> Pipeline:
        """What goes before `write`.

        Raises:
            PockError: `options` is not empty; this target has none. Or executorch is not installed.
        """
        check_options(self.name, options)
        require_installed()
        return Pipeline(shared(self.integers_below), (LEGALIZE,))

    def write(self, graph: Graph, folder: Path, stem: str, options: Mapping[str, Any]) -> None:
        """Write `folder/stem.pte`, and call it once: a kernel says only then what it does not take.

        Raises:
            UnsupportedOperators: listing every operator that cannot be lowered.
            PockError: `options` is not empty; executorch is not installed, cannot convert the graph, or
                cannot call what it made of it.
        """
        check_options(self.name, options)
        require_installed()
        require_supported(self, graph)
        folder.mkdir(parents=True, exist_ok=True)
        path, lines = folder / f"{stem}.pte", []
        try:
            path.write_bytes(_converted(graph))
            with heard(lines):
                Program(path)([_example(slot, graph) for slot in arguments(graph)])
        except Exception as e:
            if isinstance(e, OSError | PockError):
                raise
            raise PockError(
                f"ExecuTorch cannot take this step: {_said(lines) or textwrap.shorten(str(e), 300)}. Take "
                "another target."
            ) from e


def _converted(graph: Graph) -> bytes:
    exir = imported("exir")
    with quiet():
        # Inputs are copied into the program's memory: with `alloc_graph_input=False`, ExecuTorch 1.5.1 takes
        # zeros for an input that is also an output.
        return exir.to_edge(exported_program(graph, refusal)).to_executorch().buffer


def _said(lines: Sequence[str]) -> str:
    """Of what ExecuTorch wrote, which kernel refused a call, and the first reason."""
    kernel = next((m[1] for line in lines if (m := re.search(r"in operator ([\w:.]+\w)", line))), "")
    why = next((m[1] for line in lines if (m := re.match(r"Check failed \(.*?\): (.*\w)", line))), "")
    return ": ".join(filter(None, (kernel, why)))


def _example(slot: Slot, graph: Graph) -> torch.Tensor:
    """Zeros are indices of every table."""
    if slot.is_state:
        return graph.values[slot.name].detach().cpu().contiguous()
    dtype = getattr(torch, slot.dtype)
    return torch.full(slot.shape, 0.5 if dtype.is_floating_point else 0, dtype=dtype)


TARGET = ExecuTorch()
