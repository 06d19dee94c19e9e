"""Operators on the ExecuTorch target, run by its kernels: right, or refused."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

pytest.importorskip("executorch", reason="executorch is not installed; `make test-executorch` installs it")

import torch
from operator_contract import OperatorContract

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


class TestExecuTorch(OperatorContract):
    run = staticmethod(run_executorch)
