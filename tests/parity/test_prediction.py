"""What a compiled artefact predicts is eager PyTorch's in evaluation mode, or it does not ship."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from oracle import feed
from tiny_task import make_graph, make_plan
from torch import Tensor

import pockgraph as pg
from pockgraph.errors import ParityError
from pockgraph.ir.graph import Builder, Graph, aten, output_args, rebuilt
from pockgraph.parity.prediction import compared
from pockgraph.parity.tolerances import METRIC
from pockgraph.passes import Pipeline
from pockgraph.runtime.parity_record import ParityRecord
from pockgraph.task.batch import Batch


def wrong(graph: Graph, output: int) -> Graph:
    """A thousandth too large, or the next class."""
    new = torch.fx.Graph()
    new.output(new.graph_copy(graph.fx, {}))
    results = list(output_args(new))
    builder = Builder(new, "forward")
    with builder.before(new.output_node()):
        op, by = ((aten.mul.Tensor, 1.001), (aten.add.Tensor, 1))[output]
        results[output] = builder.call(op, results[output], by)
    new.output_node().args = (tuple(results),)
    return rebuilt(graph, new)


@pytest.mark.parametrize("output", [0, 1])
@pytest.mark.parametrize("size", [1, 4])
def test_each_output_of_each_size_is_compared(size: int, output: int) -> None:
    graph = make_graph(predict="named").prune(make_plan())
    graphs = {p.stem: p.graph for p in graph.prediction_graphs()}

    def judged(graphs: dict[str, Graph], stale: str = "") -> str:
        def run(state: dict[str, Tensor], stem: str, batch: Batch) -> dict[str, Tensor]:
            values = {n: v for n, v in state.items() if n != stale}
            given = graphs[stem]
            found = feed(given, {**given.values, **values}, batch, 0.0)
            return {s.name: v for s, v in zip(given.outputs, found, strict=True)}

        found = compared(graph, run, "onnx", METRIC, None)
        assert found
        return found.refusal

    assert not judged(graphs)
    stem = f"predict-{size}"
    refusal = judged({**graphs, stem: wrong(graphs[stem], output)})
    assert "The prediction that was compiled for 'onnx'" in refusal
    assert ("'logits'", "'label'")[output] in refusal
    assert judged(graphs, stale="trained:head.weight")


@pytest.mark.parametrize("target", ["torch", "onnx", "openvino"])
def test_a_wrong_prediction_does_not_ship(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = make_graph(predict="named").prune(make_plan(plan="head"))
    start = Pipeline.start

    def off(pipeline: Pipeline, graph: Graph, name: str, *how: Any) -> Graph:
        found = start(pipeline, graph, name, *how)
        return wrong(found, 0) if name == "predict-4" else found

    monkeypatch.setattr(Pipeline, "start", off)
    with pytest.raises(ParityError, match=f"prediction that was compiled for '{target}'"):
        pg.compile(graph, target=target, out=tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()
    forced = pg.compile(graph, target=target, out=tmp_path / "wrong", force=True).manifest.parity
    assert isinstance(forced, ParityRecord)
    assert not forced.ok
    assert forced.prediction_deviation is not None
    assert forced.prediction_deviation > forced.tolerance["prediction"]
