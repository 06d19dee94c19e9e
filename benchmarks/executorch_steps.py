"""A training step in ExecuTorch beside eager PyTorch's, with and without XNNPACK.

    OMP_NUM_THREADS=1 python benchmarks/executorch_steps.py [--rounds 9] [--cases cnn-full transformer-head]

The step is SGD with momentum; a plan is `full` or `head` (the last layer). Every contender has one thread and
takes turns with the others; the figure is the median processor time of a step. `executorch` is a step of the
Trainer, its checks included; `program` the call of its program alone. XNNPACK is no option of the target:
its figure is of the program that its partitioner makes of the same graph. `off` says how far the new
weights are from eager PyTorch's after one step, relative to the largest element; compiling is in seconds
of processor time. The environment is that of `make test-executorch`.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "backend")]

import pockgraph as pg  # noqa: E402
from pockgraph.runtime import Trainer  # noqa: E402
from pockgraph.targets import get_target  # noqa: E402
from pockgraph.targets.executorch.kernels import refusal  # noqa: E402
from pockgraph.targets.executorch.library import imported, quiet, runtime, set_threads  # noqa: E402
from pockgraph.targets.exported_program import arguments, exported_program  # noqa: E402

CLASSES, LR = 10, 0.01


def block(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True) for _ in range(2)
        )
        self.head = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, CLASSES)), (32, 64)),
    "cnn": (
        lambda: nn.Sequential(
            *block(3, 16), *block(16, 32), *block(32, 64), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(64, CLASSES),
        ),
        (8, 3, 64, 64),
    ),
    "transformer": (Encoder, (8, 32, 64)),
}  # fmt: skip
CASES = tuple(f"{name}-{plan}" for name in NETWORKS for plan in ("full", "head"))


def loss(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch["x"]), batch["y"])


def eager(model: nn.Module, trained: set[str], batch: dict[str, Tensor]) -> tuple[Callable[[], None], Any]:
    model = copy.deepcopy(model).eval()  # batch norms are frozen, as in a plan
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], LR, 0.9)

    def step() -> None:
        optimizer.zero_grad()
        loss(model, batch).backward()
        optimizer.step()

    return step, lambda: {n: p.detach().numpy() for n, p in model.named_parameters() if n in trained}


def alone(graph: Any, batch: dict[str, Tensor], xnnpack: bool) -> tuple[Callable[[], Any], list[str]]:
    """The program of a step, called with the initial state, and the names of what it gives."""
    pipeline = get_target("executorch").pipeline({})
    step = pipeline.finish(pipeline.start(graph, "train"), "train")
    partition = imported("backends.xnnpack.partition.xnnpack_partitioner")
    partitioners = [partition.XnnpackPartitioner()] if xnnpack else []
    lower = imported("exir").to_edge_transform_and_lower
    with quiet():
        edge = lower(exported_program(step, refusal), partitioner=partitioners)
        loaded = runtime().load_program(edge.to_executorch().buffer)
    method = loaded.load_method("forward")
    given = {"lr": torch.tensor(LR), **{f"batch:{k}": v for k, v in batch.items()}}
    inputs = [given[s.name] if s.name in given else step.values[s.name] for s in arguments(step)]
    return lambda owner=loaded: method.execute(inputs), [s.name for s in step.outputs]


def compare(case: str, rounds: int) -> str:
    name, plan = case.split("-")
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    model = make()
    batch = {"x": torch.randn(shape), "y": torch.randint(0, CLASSES, shape[:1])}
    task = pg.Task(name, model, loss, lambda m, b: m(b["x"]).sum(1), [batch], [batch])
    graph = pg.build(task, pg.SGD(lr=LR, momentum=0.9))
    small = graph.prune(pg.Plan.full(graph) if plan == "full" else pg.Plan.head(graph))
    trained = set(small.plan.tensors)
    arrays = {k: v.numpy() for k, v in batch.items()}
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        pg.compile(small, target="executorch", out=folder + "/out", parity=False)
        compile_s = time.process_time() - start
        trainer = Trainer.load(folder + "/out", threads=1)
        trainer.step(arrays, lr=LR)
        stepped = trainer.state()
    start = time.process_time()
    xnnpack, outputs = alone(small, batch, True)
    xnnpack_s = time.process_time() - start
    eager_step, eager_state = eager(model, trained, batch)

    eager_step()
    expected, given = eager_state(), dict(zip(outputs, xnnpack()))
    off = lambda got: max(  # noqa: E731
        float(np.abs(got[n] - expected[n]).max() / np.abs(expected[n]).max()) for n in trained
    )
    off_own, off_xnnpack = off(stepped), off({n: given[f"new_param:{n}"].numpy() for n in trained})

    contenders = {
        "eager": eager_step, "own": lambda: trainer.step(arrays, lr=LR),
        "alone": alone(small, batch, False)[0], "xnnpack": xnnpack,
    }  # fmt: skip
    times: dict[str, list[float]] = {c: [] for c in contenders}
    for _ in range(rounds):
        for contender, step in contenders.items():
            start = time.process_time()
            for _ in range(10):
                step()
            times[contender].append((time.process_time() - start) * 100)
    ms = {c: median(t) for c, t in times.items()}
    return (
        f"| {name} {'×'.join(map(str, shape))} | {plan} | {ms['eager']:.2f} | {ms['own']:.2f} | "
        f"{ms['own'] / ms['eager']:.2f} | {ms['alone']:.2f} | {ms['xnnpack']:.2f} | "
        f"{off_own:.0e} | {off_xnnpack:.0e} | {compile_s:.1f} | {xnnpack_s:.1f} |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--cases", nargs="*", default=CASES)
    options = parser.parse_args()
    torch.set_num_threads(1)
    runtime()
    set_threads(1)
    print(
        "| network | plan | eager ms | executorch ms | over eager | program ms | with XNNPACK ms | off | "
        "off, XNNPACK | compiling s | with XNNPACK s |"
    )
    print("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    for case in options.cases:
        print(compare(case, options.rounds), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
