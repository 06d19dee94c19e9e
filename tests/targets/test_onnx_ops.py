"""Every operator rule of the ONNX target against eager PyTorch running the same ATen graph."""

from __future__ import annotations

import torch
from onnx_graphs import run_onnx
from operator_contract import OperatorContract

from pockgraph.passes.legalize.table import EXPANSIONS
from pockgraph.targets.onnx import RULES
from pockgraph.targets.openvino import RULES as OPENVINO_RULES


class TestONNX(OperatorContract):
    run = staticmethod(run_onnx)


def test_what_openvino_lowers_this_target_lowers_or_expands_too() -> None:
    expanded = EXPANSIONS.keys() | torch.export.default_decompositions().keys()
    assert not set(OPENVINO_RULES) - set(RULES) - expanded
