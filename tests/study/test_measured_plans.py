"""Measuring a few plans of a task, on its own data."""

from __future__ import annotations

import torch
from oracle import built
from torch import Tensor, nn

import pockgraph as pg
from pockgraph.profile.profiler import profile_of
from pockgraph.study.measured_plans import fitting_choices, measure_plans
from pockgraph.task.batch import Batch


class MaskedMean(nn.Module):
    """[N, T, 4], [N, T] -> [N, 2]: the mean of the vectors that the mask keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        keep = mask.float()[:, :, None]
        return self.out((self.hidden(x) * keep).sum(1) / keep.sum(1))


def test_a_network_that_averages_what_a_mask_keeps_can_be_measured() -> None:
    batch = {"x": torch.randn(2, 3, 4), "mask": torch.ones(2, 3, dtype=torch.int64)}

    def loss(net: nn.Module, b: Batch) -> Tensor:
        return net(b["x"], b["mask"]).square().mean()

    task = pg.Task(
        "masked", MaskedMean(), loss, lambda net, b: net(b["x"], b["mask"])[:, 0], [batch], [batch]
    )
    graph = pg.build(task, pg.SGD(lr=0.1))
    profile = profile_of(graph)
    choices = [{"out.bias": 1.0}, {t.fqn: 1.0 for t in profile.tensors}]
    measured = measure_plans(graph, profile, choices=choices, rounds=1, steps=1)
    assert [plan.choice for plan in measured] == choices
    for plan in measured:
        assert plan.target == "openvino"
        assert plan.step_ms > 0
        assert plan.memory is None or plan.memory.peak_bytes > plan.memory.imported_bytes


def test_plans_for_a_fit_are_a_dozen_different_ones_and_the_same_each_time() -> None:
    profile = profile_of(built("mobilenet"))
    probes = fitting_choices(profile)
    assert len(probes) == 12
    assert len({frozenset(choice.items()) for choice in probes}) >= 10
    assert probes == fitting_choices(profile)
    assert all(profile.figures(choice).peak_bytes > 0 for choice in probes)
