"""Every operator rule of the OpenVINO target against eager PyTorch running the same ATen graph."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from openvino_graphs import check, run_openvino
from operator_contract import OperatorContract
from operator_contract.comparison import graph_of, rand, with_grad

from pockgraph.passes.canonicalize import Canonicalize
from pockgraph.targets.openvino import lower


class TestOpenVINO(OperatorContract):
    run = staticmethod(run_openvino)


def test_relu6_backward_reads_the_output() -> None:
    """Its input then has one reader, and the plugin can fuse the activation."""
    graph = graph_of(with_grad(lambda x: F.relu6(x * 2)), rand(4, 4), 3 * rand(4, 4))
    model = lower(Canonicalize()(graph))
    clamp = next(n for n in model.get_ops() if n.get_type_name() == "Clamp")
    assert len(clamp.input_value(0).get_target_inputs()) == 1


def test_expansions_are_left_to_broadcasting() -> None:
    """As in the backward of a mean: no tensor of repeated numbers is made."""

    def function(dy: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (dy[:, :, None, None].expand(2, 3, 4, 5) / 20).masked_fill(y <= 0, 0.0)

    args = rand(2, 3), rand(2, 3, 4, 5)
    check(function, *args)
    assert "Broadcast" not in {n.get_type_name() for n in lower(graph_of(function, *args)).get_ops()}
    check(lambda a, b: (a.expand(4, 3) + b.expand(4, 3), a.expand(4, 3) * 2), rand(1, 3), rand(4, 1))
