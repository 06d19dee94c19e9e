"""The OpenVINO target: a training step as one inference model that updates its own state.

Not here: rules that ONNX has too (`targets/shared/`), and taking steps (`runtime/openvino.py`).

A graph becomes `STEM.xml`, and its constants part of `train.bin`, where each stands once. No converter is
involved: one small rule per ATen overload (the `ops_*` modules) makes OpenVINO nodes, so names are kept,
lowering takes milliseconds, and what cannot be lowered is known, all of it, before anything is made.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...ir.graph import Graph
from ...passes import Pipeline, shared
from ...passes.optimize.flatten_update import FlattenUpdate
from ...runtime.openvino_xml import check_model
from ...runtime.precision import PRECISIONS
from .. import Unsupported, check_choice, check_options, require_supported
from ..shared import add_to
from . import (  # noqa: F401  the rules register themselves on import
    convolution,
    division,
    ops_elementwise,
    ops_matmul,
    ops_normalization,
    ops_recurrent,
    ops_shape,
)
from .emitter import emit, ov
from .lowering import lower
from .openvino_rules import RULES, TABLE
from .precision import keep_state_exact
from .shared_constants import share_constants

add_to(TABLE, emit, division, convolution)


class OpenVINO:
    """Lowers to OpenVINO IR; see the module.

    Options:
        precision: `"f32"` (default), `"bf16"` or `"f16"`: what activations and gradients are computed
            in. State, its update and the loss are float32 always. The device must have the precision:
            loading refuses one that has not.
    """

    name = "openvino"
    integers_below = 2**24  # the CPU plugin computes with them in float32

    def unsupported(self, graph: Graph) -> list[Unsupported]:
        """Every operator of `graph` that can be neither lowered nor expanded into others that can."""
        return TABLE.unsupported(graph)

    def pipeline(self, options: Mapping[str, Any]) -> Pipeline:
        """What goes before `write`.

        Raises:
            PockError: an option, or a precision, that this target does not have.
        """
        self._precision(options)
        return Pipeline(shared(self.integers_below), (TABLE.legalize, FlattenUpdate()))

    def write(self, graph: Graph, folder: Path, stem: str, options: Mapping[str, Any]) -> None:
        """Write `folder/stem.xml` and `folder/stem.bin`; weights keep their precision. Beside a step
        (`train.xml`), `train.bin` holds the constants of the other graphs, too.

        Raises:
            UnsupportedOperators: listing every operator that cannot be lowered.
            PockError: an option, or a precision, that this target does not have.
            OSError: the files cannot be written.
            ArtifactError: they hold what no runtime would load.
        """
        precision = self._precision(options)
        require_supported(self, graph)
        folder.mkdir(parents=True, exist_ok=True)
        xml, model = folder / f"{stem}.xml", lower(graph)
        try:
            ov.serialize(model, str(xml), str(xml.with_suffix(".bin")))
        except RuntimeError as e:  # its streams do not say why
            raise OSError(errno.EIO, f"OpenVINO cannot write it ({str(e).splitlines()[0]})", str(xml)) from e
        if precision != "f32":
            keep_state_exact(xml)
        check_model(xml, share_constants(xml))

    def _precision(self, options: Mapping[str, Any]) -> str:
        check_options(self.name, options, ("precision",))
        return check_choice(self.name, options, "precision", PRECISIONS)


TARGET = OpenVINO()

__all__ = ["RULES", "TARGET", "OpenVINO", "lower"]
