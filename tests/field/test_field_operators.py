"""Operators that users put into their networks: three steps equal eager PyTorch's, on every target.

The table is in `operator_cases.py`. The fast suite takes every second case, a dozen in a network.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from between import Between
from operator_cases import OPERATORS
from torch import nn
from users import MOMENTUM, assert_as_eager, batches, cross_entropy, mlp, summed, task

import pockgraph as pg
from pockgraph.errors import UnsupportedOperators
from pockgraph.targets import target_names

# Where an operator may be written in terms of others; the torch target runs PyTorch's own.
EXPANDING = ("openvino", "onnx")


def _right(name: str, target: str) -> None:
    torch.manual_seed(0)
    assert_as_eager(task(Between(OPERATORS[name]), batches(4, 6)), target)


class SideBySide(nn.Module):
    """Operators, each between two layers of its own; classes are their sum.

    An update of `each.NAME.first.weight` that is wrong names the operator, and is about as large as it is in
    a network of that operator alone.
    """

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.each = nn.ModuleDict({name: Between(OPERATORS[name]) for name in names})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([one(x) for one in self.each.values()]).sum(0)


# What a bicubic grid is made of is compared in tests/passes/test_legalize.py, without any runtime.
SAMPLED = [name for name in [*OPERATORS][::2] if not name.startswith("grid_sample_bicubic")]
NETWORKS = 12


@pytest.mark.parametrize("number", range(NETWORKS))
def test_operators_side_by_side(number: int) -> None:
    torch.manual_seed(0)
    net = SideBySide(SAMPLED[number::NETWORKS])
    assert_as_eager(task(net, batches(4, 6)), EXPANDING[number % len(EXPANDING)])


@pytest.mark.slow
@pytest.mark.parametrize("target", target_names())
@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_between_two_layers_on_each_target(name: str, target: str) -> None:
    _right(name, target)


# What a graph file of the torch target may not hold, as it reads memory at places that a file could name.
@pytest.mark.parametrize("name", ["embedding_bag_mean", "max_unpool2d"])
def test_what_a_graph_file_may_not_hold_is_written_in_terms_of_others(name: str) -> None:
    _right(name, "torch")


class Unrolled(nn.Module):
    """A recurrence written as a loop over the steps of a sequence [N, T, 3]."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.cell, self.out = how, nn.Linear(3, 3), nn.Linear(3, 5)

    def steps(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        match self.how:
            case "unbind":
                return x.unbind(1)
            case "split":
                return tuple(p.squeeze(1) for p in x.split(1, 1))
            case "chunk":
                return tuple(p.squeeze(1) for p in x.chunk(x.shape[1], 1))
        return tuple(x[:, t] for t in range(x.shape[1]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        steps = torch.stack([p * (0.5 if i % 2 else 2.0) for i, p in enumerate(self.steps(self.cell(x)))], 1)
        return self.out(torch.tanh(steps.mean(1)))


@pytest.mark.parametrize(
    ("how", "steps", "target"),
    [
        ("unbind", 50, "onnx"),
        *(pytest.param(h, 200, "onnx", marks=pytest.mark.slow) for h in ("unbind", "split")),
        *(
            pytest.param(h, 200, "openvino", marks=pytest.mark.slow)
            for h in ("unbind", "split", "chunk", "index")
        ),
    ],
)
def test_a_sequence_taken_apart_into_its_steps(how: str, steps: int, target: str) -> None:
    torch.manual_seed(0)
    assert_as_eager(task(Unrolled(how), batches(2, steps, 3)), target)


class Bessel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.i0(self.body(x))


@pytest.mark.parametrize("target", EXPANDING)
def test_what_is_in_the_way_is_named_with_its_line_and_a_target_that_has_it(target: str) -> None:
    graph = pg.build(task(Bessel(), batches(4, 12)), MOMENTUM)
    found = graph.check(target)
    assert {"aten.i0.default", "aten.special_i1.default"} <= {p.op for p in found.problems}
    assert any("test_field_operators.py" in p.source for p in found.problems)
    assert found.other_targets == ("torch",)


@pytest.mark.parametrize("target", EXPANDING)
def test_an_embedding_bag_of_maxima_is_refused_with_what_to_take_instead(target: str, tmp_path: Path) -> None:
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag = nn.EmbeddingBag(5, 4, mode="max")

        def forward(self, y: torch.Tensor) -> torch.Tensor:
            return self.bag(y[:, None])

    where = {"loss": lambda m, b: m(b["y"]).square().mean(), "metric": lambda m, b: m(b["y"]).sum(1)}
    graph = pg.build(task(Bag(), batches(4, 6), **where), MOMENTUM)
    with pytest.raises(UnsupportedOperators, match=r"nn.Embedding and .amax"):
        pg.compile(graph, target=target, out=tmp_path / "out")


def test_a_plan_that_trains_half_the_network_expands_only_what_it_keeps() -> None:
    def last(graph: pg.TrainGraph) -> pg.Plan:
        return pg.Plan.of(graph, {"last.weight": 0.5, "last.bias": 1.0})

    torch.manual_seed(0)
    assert_as_eager(
        task(Between(OPERATORS["cdist"]), batches(4, 6), cross_entropy, summed), "onnx", plan=last
    )
