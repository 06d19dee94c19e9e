"""The ONNX target: a training step as an inference model of stock operators, state in and state out.

Not here: rules that OpenVINO has too (`targets/shared/`), and taking steps (`runtime/onnx.py`).

A graph becomes `STEM.onnx` (opset 18), and its larger constants part of `train.onnx.bin`, where each stands
once. One small rule per
ATen overload (the `ops_*` modules) makes ONNX nodes; no operator of a training extension or of another
domain is used, so that any runtime of the standard can take the step. `runtime.onnx` runs it with ONNX
Runtime.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...ir.graph import Graph
from ...passes import Pipeline, shared
from ...passes.optimize.flatten_update import FlattenUpdate
from .. import Unsupported, check_options, require_supported
from ..shared import add_to
from . import (  # noqa: F401  the rules register themselves on import
    convolution,
    masking,
    ops_normalization,
    ops_recurrent,
    ops_shape,
)
from .emitter import emit
from .lowering import lower
from .model import write_model
from .onnx_rules import RULES, TABLE

add_to(TABLE, emit, masking, convolution)


class ONNX:
    """Lowers to ONNX; see the module."""

    name = "onnx"
    integers_below = None

    def unsupported(self, graph: Graph) -> list[Unsupported]:
        """Every operator of `graph` that can be neither lowered nor expanded into others that can."""
        return TABLE.unsupported(graph)

    def pipeline(self, options: Mapping[str, Any]) -> Pipeline:
        """What goes before `write`.

        Raises:
            PockError: `options` is not empty; this target has none.
        """
        check_options(self.name, options)
        return Pipeline(shared(self.integers_below), (TABLE.legalize, FlattenUpdate()))

    def write(self, graph: Graph, folder: Path, stem: str, options: Mapping[str, Any]) -> None:
        """Write `folder/stem.onnx`; its large constants stand in `folder/train.onnx.bin`, with those of the
        other graphs.

        Raises:
            UnsupportedOperators: listing every operator that cannot be lowered.
            PockError: `options` is not empty; this target has none.
        """
        check_options(self.name, options)
        require_supported(self, graph)
        folder.mkdir(parents=True, exist_ok=True)
        write_model(lower(graph), folder, stem)


TARGET = ONNX()

__all__ = ["ONNX", "RULES", "TARGET", "lower"]
