"""How good forecasts are: held-out random plans trained for real, against what was forecast of them.

    python benchmarks/forecast.py measure cnn-rotated mlp-shifted    # minutes; all pairs with no name
    python benchmarks/forecast.py report                             # a table of what was measured

A pair is a network and data it was not trained on. It is analysed, and random plans are trained as
`Study.verify` trains, with two seeds that the analysis did not take. Forecasts are made from the analysis
alone, from its first seed alone, and once more with the first `CALIBRATION` plans known, which then do not
count. What is measured is in out/forecast/PAIR.db and .jsonl: a run that is stopped goes on where it ended.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "backend"), str(ROOT)]

import pockgraph as pg  # noqa: E402
from pockgraph.contribution.candidates import quick_settings  # noqa: E402
from pockgraph.contribution.forecast import Forecaster, TrainedPlan  # noqa: E402
from pockgraph.contribution.gains import Contribution, tabulate  # noqa: E402
from pockgraph.machine import machine  # noqa: E402
from pockgraph.study.trained_plans import measured_ratios  # noqa: E402
from pockgraph.task import Batches, Task  # noqa: E402
from pockui.project import DEMOS, load_task  # noqa: E402

FOLDER = ROOT / "out" / "forecast"
PLANS, CALIBRATION = 20, 4
HELD_OUT_SEEDS = (10, 11)  # no analysis here takes them
PLAN_SEED = 1
BOOTSTRAP = 2000


class Cnn(nn.Module):
    """Four convolutions with batch norms, [N, 1, 8, 8] -> [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (1, 16, 16, 32, 32)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU())
            for i, o in itertools.pairwise(sizes)
        )
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.blocks):
            x = block(x) if i != 2 else block(F.max_pool2d(x, 2))
        return self.head(x.mean((2, 3)))


class Mlp(nn.Module):
    """Five hidden layers with layer norms between, [N, 1, 8, 8] -> [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (64, 48, 48, 48, 48, 48)
        self.layers = nn.ModuleList(nn.Linear(i, o) for i, o in itertools.pairwise(sizes))
        self.norms = nn.ModuleList(nn.LayerNorm(o) for o in sizes[1:])
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for layer, norm in zip(self.layers, self.norms):
            x = F.gelu(norm(layer(x)))
        return self.head(x)


def loss(net: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    return F.cross_entropy(net(batch["x"]), batch["y"])


def accuracy(net: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    return (net(batch["x"]).argmax(1) == batch["y"]).float()


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's 1,797 digits in one fixed order: [N, 1, 8, 8] in 0..1, and [N]."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.RandomState(0).permutation(len(data.target))
    images = torch.tensor(data.images[order] / 16, dtype=torch.float32)
    return images[:, None], torch.tensor(data.target[order])


def rotated(x: Tensor) -> Tensor:
    return torch.rot90(x, 1, (2, 3))


def shifted(x: Tensor) -> Tensor:
    """Inverted, and moved by a pixel."""
    return 1 - torch.roll(x, 1, 3)


def noisy(x: Tensor) -> Tensor:
    """Mirrored, under noise."""
    return x.flip(3) + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))


def adapted(net: type[nn.Module], change: Callable[[Tensor], Tensor]) -> Task:
    """A network that learnt the digits as they are, for the same digits changed."""
    x, y = digits()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = net()
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(20):
            for at in torch.randperm(600).split(32):
                optimizer.zero_grad()
                F.cross_entropy(model(x[at]), y[at]).backward()
                optimizer.step()
    model.eval()
    parts = [
        {"x": change(x[at]), "y": y[at]} for at in (slice(600, 1100), slice(1100, 1500), slice(1500, 1797))
    ]
    train, validation, test = (Batches(part, 16) for part in parts)
    name = f"{net.__name__.lower()}-{change.__name__}"
    return Task(name, model, loss, accuracy, train.shuffled(0), test, validation, ("head.*",))


@dataclass(frozen=True)
class Pair:
    """A network and data.

    Attributes:
        task: makes it. settings: of the analysis; None: `quick_settings`, with two seeds and 400 samples.
        plans: how many are trained.
    """

    task: Callable[[], Task]
    optimizer: pg.Optimizer
    settings: Mapping[str, Any] | None = None
    plans: int = PLANS


SMALL: Mapping[str, Any] = {
    "steps": 120, "lr": 0.003, "ratios": (1.0, 0.5, 0.25), "target": "torch", "seeds": (0, 1, 2),
}  # fmt: skip
PAIRS = {
    f"{net.__name__.lower()}-{change.__name__}": Pair(
        functools.partial(adapted, net, change), pg.SGD(lr=0.003, momentum=0.9), SMALL
    )
    for net, change in ((Cnn, rotated), (Cnn, shifted), (Mlp, shifted), (Mlp, noisy))
} | {
    "efficientnet-digits": Pair(lambda: load_task(DEMOS["vision"]), pg.SGD(momentum=0.9), plans=12),
    "minilm-tweets": Pair(lambda: load_task(DEMOS["text"]), pg.SGD(momentum=0.9), plans=12),
}  # fmt: skip


# ---------------------------------------------------------------- measuring


def measure(name: str) -> None:
    """Analyse a pair and train its held-out plans, as far as that was not done before."""
    pair = PAIRS[name]
    FOLDER.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    study = pg.Study(FOLDER / f"{name}.db", pair.task(), pair.optimizer)
    quick = {"seeds": (0, 1), "batches": 50, "target": "torch"}
    settings = quick_settings(study.profile) | quick if pair.settings is None else dict(pair.settings)
    start = time.process_time()
    table = study.analyze(**settings, progress=lambda p: print(f"{name}: {p.done} of {p.total}", end="\r"))
    rows = FOLDER / f"{name}.jsonl"
    if not rows.exists():
        facts = {
            "pair": name, "settings": settings, "head": table.baseline.mean, "machine": machine(),
            "analysis_cpu_s": time.process_time() - start,
        }  # fmt: skip
        append(rows, facts)
    done = {(r["plan"], r["seed"]) for r in read(name)[1]}
    for number, choice in enumerate(random_plans(table, pair.plans)):
        plan = pg.Plan.of(study.graph, choice, provenance={"made_by": f"random {number}"})
        seeds = [seed for seed in HELD_OUT_SEEDS if (number, seed) not in done]
        if not seeds:
            continue
        start = time.process_time()
        found = study.verify(plan, seeds=seeds, force=number > 0)  # one look at the gradients is enough
        for run in found.runs:
            row = {
                "plan": number, "seed": run.seed, "ratios": measured_ratios(plan, table),
                "metric": run.validation_metric, "head_metric": run.head_metric,
                "parameters": int(sum(np.prod(plan.model[f]) * plan.ratio(f) for f in plan.tensors)),
                "cpu_s": (time.process_time() - start) / len(seeds),
            }  # fmt: skip
            append(rows, row)
            print(f"{name}: plan {number}, seed {run.seed}: {run.validation_metric:.4f}", flush=True)
    study.close()


def random_plans(table: Contribution, count: int) -> Iterator[dict[str, float]]:
    """From a few tensors to all: each weight with a drawn share at a drawn ratio, and last biases."""
    rng = np.random.default_rng(PLAN_SEED)
    for _ in range(count):
        share = rng.uniform(0.05, 1)
        choice = dict.fromkeys(table.head, 1.0)
        for fqn, gains in sorted(table.weights.items()):
            ratio = float(rng.choice(sorted(gains)))
            if rng.random() < share:
                choice[fqn] = ratio
        k = int(rng.choice([0, *table.biases]))
        yield choice | dict.fromkeys(table.bias_order[:k], 1.0)


def append(path: Path, row: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def read(name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The facts of a pair, and a row for each training."""
    lines = (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    facts, *rows = map(json.loads, lines)
    return facts, rows


# ---------------------------------------------------------------- reporting


class Outcome(NamedTuple):
    """How forecasts of some plans compare with their trainings.

    Attributes:
        rank, rank_low, rank_high: Spearman's correlation of forecast and mean measured metric, and its 90 %
            interval over plans drawn again. rank_of_sums, rank_of_sizes: of sums of gains, of parameters.
            rank_of_seeds: of the metrics of one seed with those of the other: what no forecast can exceed by
            much.
        covered: of `trainings` single trainings, how many lie in their intervals. width: of those.
        error, error_of_sums: mean absolute differences to the mean measured metric.
    """

    plans: int
    rank: float
    rank_low: float
    rank_high: float
    rank_of_sums: float
    rank_of_sizes: float
    rank_of_seeds: float
    covered: int
    trainings: int
    width: float
    error: float
    error_of_sums: float


def outcome(table: Contribution, rows: Sequence[Mapping[str, Any]], known: int) -> Outcome:
    """Compare forecasts of all plans but the first `known`, which the forecaster is told."""
    by_plan: dict[int, list[Mapping[str, Any]]] = {}
    first: dict[str, int] = {}  # a plan that was drawn twice counts once
    for row in rows:
        if first.setdefault(json.dumps(row["ratios"], sort_keys=True), row["plan"]) == row["plan"]:
            by_plan.setdefault(row["plan"], []).append(row)
    told = [
        TrainedPlan(
            found[0]["ratios"],
            float(np.mean([r["metric"] - r["head_metric"] for r in found])),
            len(found),
            0.0,
        )
        for number, found in by_plan.items()
        if number < known
    ]
    forecaster = Forecaster(table, told)
    held_out = [found for number, found in by_plan.items() if number >= known]
    forecasts = [forecaster.forecast(found[0]["ratios"]) for found in held_out]
    expected = np.array([f.metric for f in forecasts])
    sums = np.array([table.baseline.mean + table.predicted_gain(found[0]["ratios"]) for found in held_out])
    reached = np.array([np.mean([r["metric"] for r in found]) for found in held_out])
    sizes = [found[0]["parameters"] for found in held_out]
    rng = np.random.default_rng(0)
    again = [rng.integers(len(reached), size=len(reached)) for _ in range(BOOTSTRAP)]
    ranks = [spearmanr(expected[i], reached[i])[0] for i in again if len(set(reached[i])) > 1]
    singles = [f.low <= r["metric"] <= f.high for f, found in zip(forecasts, held_out) for r in found]
    return Outcome(
        len(held_out), spearmanr(expected, reached)[0], *np.nanquantile(ranks, (0.05, 0.95)),
        spearmanr(sums, reached)[0], spearmanr(sizes, reached)[0],
        spearmanr(*([r["metric"] for r in seeds] for seeds in zip(*held_out)))[0], sum(singles), len(singles),
        float(np.mean([f.high - f.low for f in forecasts])),
        float(np.abs(expected - reached).mean()), float(np.abs(sums - reached).mean()),
    )  # fmt: skip


HEADER = (
    "| pair | known | held-out plans | rank correlation (90 % interval) | of sums | of sizes "
    "| of seeds | in the 90 % interval | its width | mean error | of sums |\n"
    "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
)


def table_of(names: Sequence[str]) -> str:
    """Markdown: three lines for each pair."""
    lines = [HEADER]
    for name in names:
        _, rows = read(name)
        with pg.Study(FOLDER / f"{name}.db") as study:
            table, measured = study.contribution, study.measurements()
        first = [m for m in measured if m.seed == min(m.seed for m in measured)]
        one_seed = tabulate(first, table.head, table.bias_order)
        assert one_seed is not None
        seeds = table.baseline.seeds
        for what, told, known in (
            (f"{seeds} seeds", table, 0),
            ("1 seed", one_seed, 0),
            (f"{seeds} seeds, {CALIBRATION} plans", table, CALIBRATION),
        ):
            o = outcome(told, rows, known)
            lines.append(
                f"| {name} | {what} | {o.plans} | **{o.rank:.2f}** ({o.rank_low:.2f} to {o.rank_high:.2f}) "
                f"| {o.rank_of_sums:.2f} | {o.rank_of_sizes:.2f} | {o.rank_of_seeds:.2f} "
                f"| {o.covered} of {o.trainings} ({100 * o.covered / o.trainings:.0f} %) "
                f"| {100 * o.width:.1f} | {100 * o.error:.1f} "
                f"| {100 * o.error_of_sums:.1f} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("what", choices=("measure", "report"))
    parser.add_argument("pairs", nargs="*", metavar="PAIR", help=f"of {', '.join(PAIRS)}; all, if left out")
    args = parser.parse_args()
    if unknown := set(args.pairs) - set(PAIRS):
        parser.error(f"no pair {', '.join(sorted(unknown))}; there are {', '.join(PAIRS)}")
    names = args.pairs or list(PAIRS)
    if args.what == "measure":
        for name in names:
            measure(name)
    print(table_of([n for n in names if (FOLDER / f"{n}.jsonl").exists()]))


if __name__ == "__main__":
    main()
