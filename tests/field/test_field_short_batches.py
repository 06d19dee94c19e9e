"""The last, shorter batch of an evaluation: right where each sample stands alone, refused where not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from users import batches, mlp, task

import pockgraph as pg
from pockgraph.errors import BatchError

DATA = batches(8, 12)
SHORT = {k: v[:3] for k, v in DATA[1].items()}


def evaluate(net: nn.Module, metric: Callable[[nn.Module, Any], Tensor], target: str, folder: Any) -> Tensor:
    trainer = pg.compile(
        pg.build(task(net, DATA, metric=metric)), target=target, out=folder / "out"
    ).trainer()
    return torch.from_numpy(trainer.evaluate([DATA[0], SHORT]).values)


def right(m: nn.Module, b: Any) -> Tensor:
    return (m(b["x"]).argmax(1) == b["y"]).float()


def against_the_mean(m: nn.Module, b: Any) -> Tensor:
    out = m(b["x"])
    return -(out - out.mean(0)).square().sum(1)


def retrieved(m: nn.Module, b: Any) -> Tensor:
    f = F.normalize(m(b["x"]), dim=1)
    return ((f @ f.t() - 2 * torch.eye(len(f))).argmax(1) % 2).float()


def normed_by_the_batch() -> nn.Module:
    return nn.Sequential(
        nn.Linear(12, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.ReLU(), nn.Linear(8, 5)
    )


@pytest.mark.parametrize("metric", [right, lambda m, b: m(b["x"]).sum(1)])
def test_a_short_batch_of_samples_that_stand_alone(metric: Any, target: str, tmp_path: Any) -> None:
    torch.manual_seed(0)
    net = mlp()
    wanted = torch.cat([metric(net, b).detach() for b in (DATA[0], SHORT)])
    torch.testing.assert_close(evaluate(net, metric, target, tmp_path), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("net", "metric"), [(mlp, against_the_mean), (normed_by_the_batch, right), (mlp, retrieved)]
)
def test_a_short_batch_of_samples_that_hang_together_is_refused(net: Any, metric: Any, tmp_path: Any) -> None:
    torch.manual_seed(0)
    with pytest.raises(BatchError, match=r"3 samples instead of 8.*drop_last=True"):
        evaluate(net(), metric, "torch", tmp_path)
