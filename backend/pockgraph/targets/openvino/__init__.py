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
from ...passes.int8_weights import Int8Rows, frozen_matrices, numbers_and_scales
from ...passes.optimize.flatten_update import FlattenUpdate
from ...runtime.frozen_weights import FROZEN_WEIGHTS, OPTION
from ...runtime.openvino_xml import check_model
from ...runtime.precision import PRECISIONS
from .. import Unsupported, check_choice, check_options, require_supported
from ..shared import add_to
from . import (  # noqa: F401  the rules register themselves on import
    convolution,
    division,
    ops_elementwise,
    ops_embedding,
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
        frozen_weights: `"f32"` (default), or `"int8"`: frozen matrices of linear layers and embeddings are
            rounded, each row to whole numbers times a scale, and stay so in the file and in memory. Parity is
            with PyTorch computing with the rounded ones; what rounding costs is measured beside it.
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
        self._chosen(options)
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
        precision, in_int8 = self._chosen(options)
        require_supported(self, graph)
        folder.mkdir(parents=True, exist_ok=True)
        xml, model = folder / f"{stem}.xml", lower(graph, _int8_weights(graph) if in_int8 else None)
        try:
            ov.serialize(model, str(xml), str(xml.with_suffix(".bin")))
        except RuntimeError as e:  # its streams do not say why
            raise OSError(errno.EIO, f"OpenVINO cannot write it ({str(e).splitlines()[0]})", str(xml)) from e
        if precision != "f32":
            keep_state_exact(xml)
        check_model(xml, share_constants(xml))

    def _chosen(self, options: Mapping[str, Any]) -> tuple[str, bool]:
        """The precision, and whether frozen matrices are stored in int8."""
        check_options(self.name, options)
        stored = check_choice(self.name, options, OPTION, FROZEN_WEIGHTS)
        return check_choice(self.name, options, "precision", PRECISIONS), stored == "int8"


def _int8_weights(graph: Graph) -> dict[str, Int8Rows]:
    """What stands for the matrices that were rounded to int8 before; the others stay as they are."""
    fits = [name for name, ok in frozen_matrices(graph).items() if ok]
    return {name: found for name in fits if (found := numbers_and_scales(graph.values[name]))}


TARGET = OpenVINO()

__all__ = ["RULES", "TARGET", "OpenVINO", "lower"]
