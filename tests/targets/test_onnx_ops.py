"""Every operator rule of the ONNX target: the cases of the OpenVINO target, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnxruntime as ort
import pytest
import torch
from openvino_oracle import RUN
from test_openvino_convolution import (  # noqa: F401  collected here, they run on this target
    test_convolution,
    test_gradient_of_the_input,
    test_gradients_of_any_convolution,
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

from pockgraph.ir.graph import Graph
from pockgraph.passes.canonicalize import Canonicalize
from pockgraph.passes.legalize.table import EXPANSIONS
from pockgraph.targets.onnx import RULES, TARGET, lower
from pockgraph.targets.openvino import RULES as OPENVINO_RULES

# Operators that the OpenVINO target lowers and this one does not, yet. Their cases above are skipped.
MISSING: set[torch._ops.OpOverload] = set()


def run_onnx(graph: Graph, *args: torch.Tensor) -> list[torch.Tensor]:
    graph = Canonicalize()(graph)  # as targets get it
    missing = {n.target for n in graph.nodes()} & MISSING
    if missing:
        pytest.skip(f"the ONNX target has no rule of {missing}")
    assert not TARGET.unsupported(graph)
    model = lower(TARGET.pipeline({}).finish(graph, "tested"))
    onnx.checker.check_model(model, full_check=True)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {f"batch:a{i}": a.contiguous().numpy() for i, a in enumerate(args)}
    results = session.run([s.name for s in graph.outputs], feeds)
    return [torch.from_numpy(r) for r in results]


@pytest.fixture(autouse=True, scope="module")
def onnx_runtime() -> Iterator[None]:
    """What the imported tests run graphs with."""
    token = RUN.set(run_onnx)
    yield
    RUN.reset(token)


def test_what_openvino_lowers_this_target_lowers_or_expands_too() -> None:
    expanded = EXPANSIONS.keys() | torch.export.default_decompositions().keys()
    assert set(OPENVINO_RULES) - set(RULES) - expanded == MISSING
