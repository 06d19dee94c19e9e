"""The plain PyTorch loop trains as the oracle does, with every optimizer that a plan can describe."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from models import zoo
from oracle import ALL_OPTIMIZERS, TOLERANCE, built, lrs_for
from truth import eager

import pockgraph as pg
from pockui.eager import PlainLoop


@pytest.mark.parametrize("name", ALL_OPTIMIZERS)
def test_the_plain_loop_trains_as_eager_pytorch(name: str) -> None:
    task, rule = zoo("mlp"), ALL_OPTIMIZERS[name]
    mine = replace(task, model=copy.deepcopy(task.model))
    batches, lrs = list(task.train), lrs_for(rule)
    loop = PlainLoop(mine, None, rule.to_dict())
    losses = [loop.step(batch, lr) for batch, lr in zip(batches, lrs, strict=True)]
    expected = eager(task, pg.Plan.full(built("mlp")), rule, batches, lrs)
    ratio = TOLERANCE[torch.float32].loss_ratio
    assert losses == pytest.approx(expected.losses, rel=ratio)
    assert loop.evaluate(batches[:1]) == pytest.approx(float(expected.metric.mean()), rel=ratio)
    for fqn, p in mine.model.named_parameters():
        torch.testing.assert_close(p.detach(), expected.weights[fqn], rtol=1e-4, atol=1e-6)


def test_a_loop_that_forgets_its_state_starts_anew() -> None:
    """In the middle of an update, too."""
    task, rule = zoo("mlp"), ALL_OPTIMIZERS["everything"]
    mine = replace(task, model=copy.deepcopy(task.model))
    start = copy.deepcopy(mine.model.state_dict())
    loop = PlainLoop(mine, None, rule.to_dict())
    batches = list(task.train)
    first = [loop.step(batch, 0.01) for batch in batches]
    loop.forget()
    mine.model.load_state_dict(start)
    assert [loop.step(batch, 0.01) for batch in batches] == first
