"""Graphs run by OpenVINO, for the tests of its target."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from operator_contract.comparison import Comparison, assert_close, graph_of

from pockgraph.ir.graph import Graph, Role, Slot
from pockgraph.passes.canonicalize import Canonicalize
from pockgraph.runtime.quiet_openvino import core
from pockgraph.targets.openvino import TARGET, lower

CONFIG = {"INFERENCE_PRECISION_HINT": "f32"}
CORE = core()


def run_openvino(graph: Graph, *args: torch.Tensor) -> list[torch.Tensor]:
    graph = Canonicalize()(graph)  # as targets get it
    assert not TARGET.unsupported(graph)
    compiled = CORE.compile_model(lower(TARGET.pipeline({}).finish(graph, "tested")), "CPU", CONFIG)
    feeds = {f"batch:a{i}": a.contiguous().numpy() for i, a in enumerate(args)}
    feeds = {k: v for k, v in feeds.items() if k in {n for p in compiled.inputs for n in p.get_names()}}
    results = compiled(feeds)
    return [torch.from_numpy(np.array(results[s.name])) for s in graph.outputs]


class OnOpenVINO(Comparison):
    run = staticmethod(run_openvino)


check, check_grad = OnOpenVINO().check, OnOpenVINO().check_grad


def check_with_constants(function: Callable[..., Any], constants: set[int], *args: torch.Tensor) -> None:
    """`check` with the arguments at `constants` built in, and the model read back from its files."""
    graph = graph_of(function, *args)
    slots = tuple(
        Slot(Role.PARAM, s.fqn, s.shape, s.dtype) if i in constants else s for i, s in enumerate(graph.inputs)
    )
    values = {f"param:a{i}": args[i] for i in constants}
    graph = Canonicalize()(Graph(graph.fx, slots, graph.outputs, values))
    legal = TARGET.pipeline({}).finish(graph, "tested")
    with tempfile.TemporaryDirectory() as folder:
        TARGET.write(legal, Path(folder), "model", {})
        model = CORE.read_model(Path(folder) / "model.xml")
        results = CORE.compile_model(model, "CPU", CONFIG)(
            {f"batch:a{i}": a.numpy() for i, a in enumerate(args) if i not in constants}
        )
    for slot, expected in zip(graph.outputs, function(*args), strict=True):
        assert_close(torch.from_numpy(np.array(results[slot.name])), expected, slot.name)
