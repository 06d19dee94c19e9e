"""A training step as a `torch.export.ExportedProgram`: run by PyTorch, its steps are eager PyTorch's."""

from __future__ import annotations

import io
from collections.abc import Sequence

import policies  # noqa: F401  its networks are in the zoo
import pytest
import torch
from exported_steps import call, run_exported
from models import zoo
from oracle import Case, TrainingContract, built
from torch import Tensor, fx, nn
from truth import Steps

import pockgraph as pg
from pockgraph.errors import UnsupportedOperators
from pockgraph.ir.graph import Graph, aten
from pockgraph.passes import run
from pockgraph.targets.exported_program import arguments, exported_program, outside_core
from pockgraph.task.batch import Batch
from pockgraph.train_graph import TrainGraph


class TestSteps(TrainingContract):
    cases: Sequence[Case] = (
        Case("resnet", "full", "momentum"),
        Case("transformer", "last", "adamw"),
        Case("dropping", "full", "sgd"),
    )
    test_any_plan_equals_eager_pytorch = None  # the legaliser and the plans have their own

    def run(self, graph: TrainGraph, batches: Sequence[Batch], lrs: Sequence[float]) -> Steps:
        return run_exported(graph, batches, lrs, lambda part: exported_program(part).module())


@pytest.mark.slow
class TestStepsOfOthers(TestSteps):
    cases = Case("mobilenet", "last", "adamw"), Case("batch_norms", "full", "momentum")


@pytest.fixture(scope="module")
def head() -> Graph:
    graph = built("resnet", "momentum")
    return run(graph.prune(pg.Plan.head(graph)))


def test_what_changes_is_passed_in_and_the_frozen_rest_is_held(head: Graph) -> None:
    program = exported_program(head)
    taken = arguments(head)
    assert [s.name for s in taken] == [
        "trained:fc.weight", "trained:fc.bias", "batch:x", "batch:y", "lr",
        "opt_state:fc.weight:momentum_buffer", "opt_state:fc.bias:momentum_buffer",
    ]  # fmt: skip
    assert list(program.graph_signature.user_inputs) == [
        "trained_fc_weight", "trained_fc_bias", "batch_x", "batch_y", "lr",
        "opt_state_fc_weight_momentum_buffer", "opt_state_fc_bias_momentum_buffer",
    ]  # fmt: skip
    assert len(program.graph_signature.user_outputs) == len(head.outputs)
    held = dict(program.named_buffers())
    for slot in head.inputs:
        if slot not in taken:
            mine, value = held[slot.name.replace(":", "_").replace(".", "_")], head.values[slot.name]
            assert torch.equal(mine, value), slot.name
            assert mine.data_ptr() != value.data_ptr(), slot.name


def test_a_program_is_core_aten_alone() -> None:
    graph = run(built("resnet", "adamw"))
    assert any(outside_core(n) for n in graph.nodes())
    calls = [n for n in exported_program(graph).graph.nodes if n.op == "call_function"]
    assert calls
    assert not [n for n in calls if outside_core(n)]


def test_a_program_is_the_same_from_a_file(head: Graph) -> None:
    program, file = exported_program(head), io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    batch = next(iter(zoo("resnet").train))
    mine, again = (
        call(p.module(), head, head.values, batch, 0.1) for p in (program, torch.export.load(file))
    )
    assert all(torch.equal(a, b) for a, b in zip(mine, again, strict=True))


def test_operators_that_a_runtime_lacks_are_written_in_others() -> None:
    pooling = aten.max_pool2d_with_indices_backward.default

    def refusal(node: fx.Node) -> str:
        return "wrong there" if node.target is pooling else outside_core(node)

    graph = run(built("resnet", "sgd"))
    plain, without = exported_program(graph), exported_program(graph, refusal)
    assert [n for n in plain.graph.nodes if n.target is pooling]
    assert not [n for n in without.graph.nodes if n.target is pooling]
    batch = next(iter(zoo("resnet").train))
    for a, b in zip(*(call(p.module(), graph, graph.values, batch, 0.1) for p in (plain, without))):
        torch.testing.assert_close(a, b)


def test_a_loop_of_a_recurrent_layer_is_refused_by_name() -> None:
    net, batches = nn.LSTM(3, 4), [{"x": torch.randn(5, 2, 3)}]

    def value(m: nn.Module, b: Batch) -> Tensor:
        return m(b["x"])[0].square().mean((1, 2))

    task = pg.Task("loop", net, lambda m, b: value(m, b).mean(), value, batches, batches)
    with pytest.raises(UnsupportedOperators, match=r"- pockgraph\.lstm\.default") as e:
        exported_program(run(pg.build(task, pg.SGD(lr=0.1))))
    assert "- pockgraph.lstm_backward.default" in str(e.value)
