"""A user picks tokens by a score, and some tokens are the same, so that their scores are exactly equal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from users import task

import pockgraph as pg
from pockgraph.errors import ParityError

PICKS: dict[str, Callable[[Tensor], Tensor]] = {
    "argmax": lambda s: s.argmax(1, keepdim=True),
    "argmin": lambda s: s.argmin(1, keepdim=True),
    "sort": lambda s: s.sort(1).indices[:, :3],
    "argsort": lambda s: s.argsort(1, descending=True)[:, :3],
    "median": lambda s: s.median(1, keepdim=True).indices,
}


class Picked(nn.Module):
    """Mean of the picked tokens `[N, 12]`, with their places, to logits."""

    def __init__(self, pick: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.pick = pick
        self.embed, self.score, self.head = nn.Embedding(5, 6), nn.Linear(6, 1), nn.Linear(6, 5)
        self.place = nn.Parameter(torch.randn(1, 12, 6) * 0.1)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        score = self.score(x)[..., 0]
        at = self.pick(score)
        picked = (x + self.place).gather(1, at[..., None].expand(-1, -1, 6))
        return self.head(picked.mean(1).tanh() * score.gather(1, at).mean(1, keepdim=True))


def picked(pick: Callable[[Tensor], Tensor]) -> pg.TrainGraph:
    draw = torch.Generator().manual_seed(0)
    batch: Any = {"x": torch.randint(0, 5, (8, 12), generator=draw), "y": torch.arange(8) % 5}
    return pg.build(task(Picked(pick), [batch]))


@pytest.mark.parametrize("pick", PICKS)
def test_of_equal_scores_the_one_is_picked_that_eager_pytorch_picks(
    pick: str, target: str, tmp_path: Path
) -> None:
    pg.compile(picked(PICKS[pick]), target=target, out=tmp_path / "out")


def test_a_choice_that_pytorch_leaves_open_is_said(target: str, tmp_path: Path) -> None:
    graph = picked(lambda s: s.kthvalue(4, 1, keepdim=True).indices)
    if target == "torch":
        pg.compile(graph, target=target, out=tmp_path / "out")
        return
    with pytest.raises(ParityError, match="kthvalue compares are exactly equal"):
        pg.compile(graph, target=target, out=tmp_path / "out")
    assert pg.compile(graph, target=target, out=tmp_path / "out", force=True).manifest.parity
