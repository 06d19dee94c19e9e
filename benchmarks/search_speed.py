"""How long a search takes: a first query, one that follows others, and a frontier.

    python benchmarks/search_speed.py             # a table, and the goals that are missed

Two networks of about 100 weights that are measured at 5 ratios each, with drawn gains that are as noisy as
measured ones: inverted residual blocks, and a transformer. The cases take turns, so that a busy machine
slows all. A cold query has no constraint of an earlier one; a warm one moves the budget of the same table.
Figures are medians, with the least and the most; of processor time and of wall-clock time.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "backend")]

import pockgraph as pg  # noqa: E402
from pockgraph.contribution import Contribution, Gain  # noqa: E402
from pockgraph.profile import Profile  # noqa: E402
from pockgraph.profile.profiler import profile_of  # noqa: E402
from pockgraph.search import Constraints  # noqa: E402
from pockgraph.search.integer_program import IntegerProgram  # noqa: E402
from pockgraph.search.plan_search import frontier  # noqa: E402

RATIOS = (1.0, 0.5, 0.25, 0.125, 0.0625)
WEIGHTS = 100
GOALS_MS = {"cold": 300.0, "warm": 50.0, "frontier": 2000.0}
POINTS = 50


class Block(nn.Module):
    """Expand, depthwise, project, each with a batch norm."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        hidden = 4 * inputs
        self.residual = stride == 1 and inputs == outputs
        self.expand, self.depthwise, self.project = (
            nn.Conv2d(inputs, hidden, 1, bias=False),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.Conv2d(hidden, outputs, 1, bias=False),
        )
        self.norm1, self.norm2, self.norm3 = (nn.BatchNorm2d(n) for n in (hidden, hidden, outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.norm2(self.depthwise(F.relu6(self.norm1(self.expand(x))))))
        y = self.norm3(self.project(y))
        return x + y if self.residual else y


class Convolutions(nn.Module):
    """[N, 3, H, W] -> [N, 10]; 100 convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1, bias=False)
        blocks, inputs = [], 16
        for width, count, stride in ((16, 3, 1), (24, 4, 2), (32, 6, 2), (64, 8, 2), (96, 6, 1), (160, 6, 2)):
            for n in range(count):
                blocks.append(Block(inputs, width, stride if n == 0 else 1))
                inputs = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(inputs, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(F.relu6(self.stem(x))).mean((2, 3)))


class Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, width = x.shape
        heads = [f(x).view(n, t, 4, -1).transpose(1, 2) for f in (self.query, self.key, self.value)]
        y = F.scaled_dot_product_attention(*heads).transpose(1, 2).reshape(n, t, width)
        x = self.norm1(x + self.out(y))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


class Transformer(nn.Module):
    """[N, T] -> [N, 10]; 97 weights, and a table of positions."""

    def __init__(self, layers: int = 16, width: int = 192, length: int = 64) -> None:
        super().__init__()
        self.token = nn.Embedding(2000, width)
        self.position = nn.Parameter(torch.randn(length, width) * 0.02)
        self.layers = nn.Sequential(*(Layer(width) for _ in range(layers)))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(self.token(x) + self.position).mean(1))


def loss(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch["x"]), batch["y"])


def metric(model: nn.Module, batch: Any) -> Tensor:
    return (model(batch["x"]).argmax(1) == batch["y"]).float()


def profiled(model: nn.Module, x: Tensor) -> Profile:
    batch = {"x": x, "y": torch.randint(0, 10, (len(x),))}
    return profile_of(pg.build(pg.Task("speed", model, loss, metric, [batch], [batch]), pg.SGD(0.01, 0.9)))


def table_of(profile: Profile, seed: int = 0) -> Contribution:
    """Gains that grow with the share, and noise; 8 counts of biases."""
    draw, head = random.Random(seed), set(profile.head)

    def gain(most: float, share: float) -> Gain:
        return Gain(most * share**0.5 + draw.gauss(0, 0.005), 0.005, 3)

    weights: dict[str, dict[float, Gain]] = {}
    for tensor in profile.tensors:
        if tensor.kind == "weight" and tensor.fqn not in head and len(weights) < WEIGHTS:
            most = max(0.0, draw.gauss(0.03, 0.02))
            weights[tensor.fqn] = {q: gain(most, q) for q in RATIOS if q == 1 or tensor.channels}
    biases = [t for t in profile.tensors if t.kind == "bias" and t.fqn not in head]
    order = tuple(t.fqn for t in sorted(biases, key=lambda t: -t.depth))
    last = {round(len(order) * n / 8): gain(0.04, n / 8) for n in range(1, 9)}
    return Contribution(Gain(0.8, 0.01, 3), weights, last, order, tuple(head))


def timed(action: Callable[[], Any]) -> tuple[float, float]:
    """(processor ms, wall-clock ms)."""
    wall, processor = time.perf_counter(), time.process_time()
    action()
    return (time.process_time() - processor) * 1e3, (time.perf_counter() - wall) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.manual_seed(0)
    profiles = {
        "convolutions": profiled(Convolutions(), torch.randn(8, 3, 128, 128)),
        "transformer": profiled(Transformer(), torch.randint(0, 2000, (8, 64))),
    }
    times: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for n in range(rounds):
        for name, profile in profiles.items():
            table = table_of(profile, seed=n)
            low = profile.figures(dict.fromkeys(table.head, 1.0)).peak_bytes
            best = IntegerProgram(profile, table, Constraints()).solve(pg.Budget())
            high = best.predicted["peak_bytes"]  # more memory would gain nothing
            budgets = [pg.Budget(peak_bytes=round(low + (high - low) * share / 12)) for share in range(1, 12)]
            first = budgets.pop(len(budgets) // 3)

            def cold(
                profile: Profile = profile, table: Contribution = table, first: pg.Budget = first
            ) -> Any:
                program = IntegerProgram(profile, table, Constraints())
                program.solve(first)
                return program

            times.setdefault((name, "cold"), []).append(timed(cold))
            program = cold()
            for budget in budgets:
                times.setdefault((name, "warm"), []).append(timed(lambda b=budget, p=program: p.solve(b)))
            whole = timed(lambda p=profile, t=table: frontier(p, t, POINTS))
            times.setdefault((name, "frontier"), []).append(whole)
    print("| network | query | processor ms | wall-clock ms | goal |\n|---|---|---|---|---|")
    missed = []
    for (name, query), found in times.items():
        columns = []
        for values in zip(*found, strict=True):
            columns.append(f"{statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f})")
        print(f"| {name} | {query} | {columns[0]} | {columns[1]} | {GOALS_MS[query]:.0f} |")
        if statistics.median(cpu for cpu, _ in found) > GOALS_MS[query]:
            missed.append(f"{name}, {query}")
    print(f"\nGoals missed, by the median of processor time: {'; '.join(missed) or 'none'}.")


if __name__ == "__main__":
    main()
