"""How long contribution analysis takes, beside the plain PyTorch loop that makes the same measurements.

    python benchmarks/analysis_speed.py               # a report in Markdown, with the goals that are missed

The plain loop is what one would write at first: for each candidate copy the model, set requires_grad on the
head and the tensor, train for the steps, evaluate on the validation batches; of a tensor trained in part,
the gradients of the other channels are set to zero. It is timed on a sample of the candidates, each right
after the analysis has measured the same one, so that a busy machine slows both; its total is the sample's
mean times the number of measurements. Figures are processor time of one thread.

The same table is then made in mode "probe" and in mode "mixed", each in a study of its own.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "backend"), str(ROOT)]

import pockgraph as pg  # noqa: E402
from pockgraph.contribution.agreement import agreements  # noqa: E402
from pockgraph.contribution.candidates import choice_of  # noqa: E402
from pockgraph.contribution.data import fresh_values  # noqa: E402
from pockgraph.contribution.gains import HEAD, Measurement  # noqa: E402
from pockgraph.plan import Budget, Plan  # noqa: E402
from pockgraph.search import search  # noqa: E402
from pockgraph.study.candidates_in_plans import BUDGETS  # noqa: E402
from pockgraph.task import Task  # noqa: E402
from pockui.demo import vision  # noqa: E402

GOAL = 20.0
SEED = 0


class Block(nn.Module):
    """Two 3×3 convolutions beside a connection."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if stride > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + self.skip(x))


class ResNet(nn.Module):
    """[N, 1, 14, 14] -> [N, 5]; nine blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, 1, 1, bias=False)
        widths = (
            ((16, 16, 1),) * 3 + ((16, 32, 2), (32, 32, 1), (32, 32, 1), (32, 64, 2)) + ((64, 64, 1),) * 2
        )
        self.blocks = nn.Sequential(*(Block(*w) for w in widths))
        self.head = nn.Linear(64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def resnet() -> Task:
    """Trained here on the digits 0 to 4, it learns 5 to 9, turned and inverted."""

    def part(data: dict[str, Any], first: int, turned: bool) -> dict[str, Any]:
        pixels, y = torch.as_tensor(data["pixels"]), torch.as_tensor(data["y"])
        keep = (y >= first) & (y < first + 5)
        x = F.avg_pool2d(pixels[keep].float()[:, None] / 128 - 1, 2)
        return {"x": -x.transpose(2, 3) if turned else x, "y": y[keep].long() - first}

    torch.manual_seed(0)
    splits = vision.splits()
    net, data = ResNet(), part(splits[0], 0, False)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for _ in range(3):
        for rows in torch.randperm(len(data["y"])).split(32):
            optimizer.zero_grad()
            F.cross_entropy(net(data["x"][rows]), data["y"][rows]).backward()
            optimizer.step()
    train, validation, test = (
        pg.Batches({k: v.numpy() for k, v in part(s, 5, True).items()}, 16, shuffle=n == 0, seed=0)
        for n, s in enumerate(splits)
    )
    return Task("resnet", net.eval(), vision.loss, vision.accuracy, train, test, validation, ("head.*",))


@dataclass(frozen=True)
class Network:
    """A task and how its analysis trains."""

    title: str
    task: Task
    lr: float
    settings: dict[str, Any]


def networks() -> dict[str, Any]:
    return {
        "efficientnet": lambda: Network(
            "EfficientNet-Lite0, digits at 32 pixels, batches of 8", vision.task(8, 32), 0.01,
            {"steps": 25, "batches": 12, "ratios": (1.0,)},
        ),
        "resnet": lambda: Network(
            "a ResNet of 21 convolutions, digits at 14 pixels, batches of 16", resnet(), 0.01,
            {"steps": 40, "batches": None, "ratios": (1.0, 0.5, 0.25, 0.125)},
        ),
    }  # fmt: skip


def plain(task: Task, plan: Plan, lr: float, steps: int, batches: int | None) -> float:
    """The metric after training a plan in plain PyTorch."""
    net = copy.deepcopy(task.model).eval()
    params = dict(net.named_parameters())
    for fqn, value in fresh_values(task, SEED).items():
        params[fqn].data.copy_(value)
    masks: dict[str, torch.Tensor] = {}
    for fqn, p in params.items():
        p.requires_grad_(fqn in plan.tensors)
        how = plan.tensors.get(fqn)
        if how is not None and how.dim is not None and how.channels is not None:
            masks[fqn] = torch.zeros_like(p).index_fill_(how.dim, torch.tensor(how.channels), 1.0)
    optimizer = torch.optim.SGD([p for p in params.values() if p.requires_grad], lr=lr, momentum=0.9)
    for batch in itertools.islice(task.forever(SEED), steps):
        optimizer.zero_grad()
        task.loss(net, batch).backward()
        for fqn, mask in masks.items():
            grad = params[fqn].grad
            assert grad is not None
            grad.mul_(mask)
        optimizer.step()
    with torch.no_grad():
        found = [task.metric(net, b) for b in itertools.islice(task.validation or (), batches)]
    return float(torch.cat(found).double().mean())


@dataclass
class Beside:
    """Runs the plain loop right after some of the analysis's measurements.

    Attributes:
        plain_s: of each; differences: of the metric, ours minus plain.
    """

    study: pg.Study
    network: Network
    every: int
    plain_s: list[float] = field(default_factory=list)
    differences: list[float] = field(default_factory=list)
    seen: int = 0

    def __call__(self, progress: Any) -> None:
        m: Measurement | None = progress.last
        if m is None or m.metric is None or m.candidate == HEAD:
            return
        self.seen += 1
        if self.seen % self.every != 1 and self.every > 1:
            return
        start = time.process_time()
        order, head = self.order()
        plan = Plan.of(self.study.graph, choice_of(m.candidate, head, order))
        s = self.network.settings
        metric = plain(self.network.task, plan, self.network.lr, s["steps"], s["batches"])
        self.plain_s.append(time.process_time() - start)
        self.differences.append(m.metric - metric)

    def order(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        table = self.study.contribution
        return table.bias_order, table.head


def analysed(study: pg.Study, network: Network, **more: Any) -> float:
    """Seconds of processor time."""
    start = time.process_time()
    study.analyze(lr=network.lr, seeds=(SEED,), target="torch", **network.settings, **more)
    return time.process_time() - start


def measure(network: Network, sample: int, folder: Path) -> str:
    """A section of the report."""
    optimizer = pg.SGD(lr=network.lr, momentum=0.9)
    studies = {m: pg.Study(folder / f"{network.task.name}-{m}.db", network.task, optimizer)
               for m in ("measured", "probe", "mixed")}  # fmt: skip
    profile = studies["measured"].profile
    for study in studies.values():
        study.save_profile(profile)
        _ = study.graph
    whole = studies["measured"]
    weights = len([t for t in profile.tensors if t.kind == "weight" and t.fqn not in profile.presets["head"]])
    every = weights * len(network.settings["ratios"]) // sample
    beside = Beside(whole, network, max(1, every))
    total_s = analysed(whole, network, progress=beside)
    ours_s = total_s - sum(beside.plain_s)
    measured = [m for m in whole.measurements() if m.metric is not None]
    plain_s = statistics.fmean(beside.plain_s) * len(measured)
    probe_s = analysed(studies["probe"], network, mode="probe")
    mixed_s = analysed(studies["mixed"], network, mode="mixed")
    mixed = [m for m in studies["mixed"].measurements() if m.metric is not None]
    off = max(abs(d) for d in beside.differences)
    mean_off = statistics.fmean(abs(d) for d in beside.differences)
    rows = [
        f"| plain loop, extrapolated from {len(beside.plain_s)} | {len(measured)} | {plain_s:.0f} | 1 |",
        f"| measured | {len(measured)} | {ours_s:.0f} | {plain_s / ours_s:.1f} |",
        f"| mixed | {len(mixed)} | {mixed_s:.0f} | {plain_s / mixed_s:.1f} |",
        f"| probe | 1 | {probe_s:.1f} | {plain_s / probe_s:.0f} |",
    ]
    plans = []
    full, table = whole.contribution, studies["mixed"].contribution
    alone = profile.figures(dict.fromkeys(full.head, 1.0)).peak_bytes
    most = profile.figures({t.fqn: 1.0 for t in profile.tensors}).peak_bytes
    for share in BUDGETS:
        budget = Budget(peak_bytes=round(alone + share * (most - alone)))
        best, found = (profile.ratios_of(search(profile, c, budget)) for c in (full, table))
        plans.append(
            f"at {100 * share:.0f} % of the memory, the plan from the mixed table has "
            f"{full.predicted_gain(found):+.3f} by the whole table, whose own best plan has "
            f"{full.predicted_gain(best):+.3f}"
        )
    ranks = [
        f"{a.by} {a.spearman:+.2f} ({a.low:+.2f} to {a.high:+.2f})"
        for a in agreements(studies["probe"].scores, full)
    ]
    missed = [f"{name} ({plain_s / s:.1f} times)" for name, s in (("measured", ours_s), ("mixed", mixed_s))
              if plain_s / s < GOAL]  # fmt: skip
    return "\n".join(
        [
            f"## {network.title}",
            "",
            f"{weights} weights; settings {network.settings}, rate {network.lr:g}, one seed.",
            "",
            "| | trainings | processor s | times as fast as the plain loop |",
            "|---|---|---|---|",
            *rows,
            "",
            f"Metrics of the {len(beside.differences)} candidates that both trained differ by {mean_off:.4f} "
            f"on average, by {off:.4f} at most. Sums of gains: {'; '.join(plans)}. Spearman of scores and "
            f"measured gains (90 % interval): {', '.join(ranks)}.",
            "",
            f"Goal of {GOAL:.0f} times missed: {', '.join(missed) or 'nowhere'}.",
            "",
            studies["mixed"].coverage.text,
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="*", default=list(networks()))
    parser.add_argument("--sample", type=int, default=10, help="candidates that the plain loop trains")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.networks:
        with tempfile.TemporaryDirectory(prefix="pockui-analysis-speed-") as folder:
            print(measure(networks()[name](), args.sample, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
