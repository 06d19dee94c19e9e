"""Operators on the ExecuTorch target: the cases of the OpenVINO target, run by ExecuTorch's kernels."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("executorch", reason="executorch is not installed; `make test-executorch` installs it")

import torch
from openvino_oracle import RUN
from test_openvino_convolution import (  # noqa: F401  collected here, they run on this target
    test_convolution,
    test_gradient_of_the_input,
    test_padding_with_another_value_stays,
    test_transposed_convolution,
)
from test_openvino_ops import (  # noqa: F401
    test_adaptive_avg_pool,
    test_avg_pool,
    test_backwards_of_slices,
    test_batch_norm_with_running_statistics,
    test_binary_broadcasts,
    test_casts,
    test_comparisons_promote_their_operands,
    test_creation,
    test_cross_entropy,
    test_cross_entropy_ignores_an_index_and_smooths_labels,
    test_division_modes,
    test_embedding,
    test_extremes_of_nothing_but_infinities,
    test_group_norm,
    test_index_put,
    test_indexing,
    test_integer_arithmetic,
    test_layer_norm,
    test_layer_norm_over_two_dimensions,
    test_logic,
    test_matmuls,
    test_max_pool,
    test_max_pool1d,
    test_not_finite,
    test_pixel_shuffle,
    test_reductions,
    test_reductions_without_gradient,
    test_regression_losses,
    test_scatters,
    test_shape,
    test_small_arguments_keep_their_digits,
    test_softmax,
    test_unary,
    test_unary_of_positive,
    test_upsampling,
)

from pockgraph.errors import PockError
from pockgraph.ir.graph import Graph
from pockgraph.targets.executorch import TARGET
from pockgraph.targets.executorch.program import Program


def run_executorch(graph: Graph, *args: torch.Tensor) -> list[torch.Tensor]:
    if missing := TARGET.unsupported(graph):
        pytest.skip(f"refused: {missing[0]}")
    with tempfile.TemporaryDirectory() as folder:
        try:
            TARGET.write(TARGET.pipeline({}).finish(graph, "tested"), Path(folder), "tested", {})
        except PockError as e:
            pytest.skip(f"refused: {e}")
        return list(Program(Path(folder) / "tested.pte")([a.contiguous() for a in args]))


@pytest.fixture(autouse=True, scope="module")
def executorch() -> Iterator[None]:
    """What the imported tests run graphs with."""
    token = RUN.set(run_executorch)
    yield
    RUN.reset(token)
