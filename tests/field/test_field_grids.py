"""Values on a grid, counted in steps of it: where the last bit of a division decides between two integers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from users import task

import pockgraph as pg

STEPS = (0.1, 0.7, 1.3, -0.3, 3.0)


def _grid() -> tuple[Tensor, Tensor]:
    """Multiples of a step, their neighbours by a bit, and values between: x and step, [N]."""
    g = torch.Generator().manual_seed(0)
    step = torch.tensor(STEPS).repeat_interleave(400)
    x = torch.randint(-2000, 2000, step.shape, generator=g) * step
    x[::4] = torch.nextafter(x[::4], torch.full_like(x[::4], torch.inf))
    x[1::4] = torch.randn(x[1::4].shape, generator=g) * 5
    x[:2] = torch.tensor([0.0, 1e-30])
    return x, step


def _by_number(function: Callable[[Tensor, float], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """By each step as a Python number."""
    count = len(_grid()[0]) // len(STEPS)
    return lambda x, _: torch.cat([function(part, s) for part, s in zip(x.split(count), STEPS)])


COUNTED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "x // step": lambda x, s: x // s,
    "x % step": lambda x, s: x % s,
    "fmod": torch.fmod,
    "trunc of a ratio": lambda x, s: torch.div(x, s, rounding_mode="trunc"),
    "ratio as an integer": lambda x, s: (x / s).long().float(),
    "x // number": _by_number(lambda x, s: x // s),
    "x % number": _by_number(lambda x, s: x % s),
    "fmod by a number": _by_number(torch.fmod),
    "trunc of a ratio with a number": _by_number(lambda x, s: torch.div(x, s, rounding_mode="trunc")),
    "ratio with a number as an integer": _by_number(lambda x, s: (x / s).long().float()),
    "floor of a ratio with a number": _by_number(lambda x, s: (x / s).floor()),
    "ceil of a ratio with a number": _by_number(lambda x, s: torch.ceil(x / s)),
    "round of a ratio with a number": _by_number(lambda x, s: torch.round(x / s)),
}


def test_steps_of_a_grid_are_counted_as_in_pytorch(target: str, tmp_path: object) -> None:
    x, step = _grid()
    kinds = list(COUNTED)
    batch = {"x": x, "step": step, "kind": torch.zeros(len(x), len(kinds))}
    net = nn.Linear(1, 1)

    def metric(m: nn.Module, b: dict[str, Tensor]) -> Tensor:
        each = torch.stack([f(b["x"], b["step"]) for f in COUNTED.values()], 1)
        return (each * b["kind"]).sum(1) + 0 * m(b["x"][:, None])[:, 0]

    t = task(net, [batch], lambda m, b: m(b["x"][:, None]).square().mean() + 0 * metric(m, b).sum(), metric)
    artifact = pg.compile(pg.build(t, pg.SGD(lr=0.1)), target=target, out=f"{tmp_path}/out", parity=False)
    trainer = artifact.trainer()
    for i, kind in enumerate(kinds):
        asked = {**batch, "kind": torch.eye(len(kinds))[i].expand(len(x), -1)}
        got = torch.from_numpy(trainer.evaluate([asked]).values)
        wanted = COUNTED[kind](x, step)
        assert torch.equal(got, wanted), (kind, (got != wanted).sum(), x[got != wanted][:4])


@pytest.mark.parametrize("x", [torch.tensor([1.0, -1.0, 0.0, 2.5]), torch.tensor([1e30, -1e30, 0.0, 1.0])])
def test_a_division_by_zero_gives_what_pytorch_gives(x: Tensor, target: str, tmp_path: object) -> None:
    batch = {"x": x, "by": torch.tensor([0.0, 0.0, 3.0, 2.0])}
    t = task(
        nn.Linear(1, 1), [batch], lambda m, b: m(b["x"][:, None] * 1e-30).square().mean(),
        lambda m, b: (b["x"] / b["by"]).floor() + 0 * m(b["by"][:, None])[:, 0],
    )  # fmt: skip
    artifact = pg.compile(pg.build(t, pg.SGD(lr=0.1)), target=target, out=f"{tmp_path}/out", parity=False)
    assert torch.equal(
        torch.from_numpy(artifact.trainer().evaluate([batch]).values), (x / batch["by"]).floor()
    )
