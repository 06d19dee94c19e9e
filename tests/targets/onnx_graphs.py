"""Graphs run by ONNX Runtime, for the tests of the ONNX target."""

from __future__ import annotations

import onnx
import onnxruntime as ort
import torch

from pockgraph.ir.graph import Graph
from pockgraph.passes.canonicalize import Canonicalize
from pockgraph.targets.onnx import TARGET, lower


def run_onnx(graph: Graph, *args: torch.Tensor) -> list[torch.Tensor]:
    graph = Canonicalize()(graph)  # as targets get it
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
