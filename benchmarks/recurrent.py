"""What recurrent networks cost to build, compile, load and train, beside eager PyTorch.

    python benchmarks/recurrent.py                                # a table; --help: the cases

Two layers in both directions, 64 units, and a linear layer; full training with SGD and momentum. A step of
each target and one of eager PyTorch take turns, so that a busy machine slows both. Ratios are of such pairs
of steps: the median, and what half of them lie between; "best" compares the fastest of each. `--evaluate`
compares evaluation instead.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
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

UNITS, CLASSES = 64, 5
KINDS: dict[str, Callable[..., nn.RNNBase]] = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}


class Classifier(nn.Module):
    """[N, T, D] -> [N, CLASSES]."""

    def __init__(self, kind: str, features: int) -> None:
        super().__init__()
        self.recurrent = KINDS[kind](features, UNITS, 2, bidirectional=True, batch_first=True)
        self.out = nn.Linear(2 * UNITS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.recurrent(x)
        return self.out(states.mean(1))


def loss(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch["x"]), batch["y"])


def metric(model: nn.Module, batch: Any) -> Tensor:
    return model(batch["x"]).sum(1)


def timed(action: Callable[[], Any]) -> tuple[Any, float, float]:
    """(result, wall-clock ms, processor ms)."""
    wall, processor = time.perf_counter(), time.process_time()
    result = action()
    return result, (time.perf_counter() - wall) * 1e3, (time.process_time() - processor) * 1e3


def case(
    kind: str, size: tuple[int, int, int], target: str, rounds: int, threads: int, evaluate: bool
) -> str:  # fmt: skip
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    model = Classifier(kind, size[2])
    batch = {"x": torch.randn(*size), "y": torch.randint(0, CLASSES, size[:1])}
    task = pg.Task("recurrent", model, loss, metric, [batch], [batch])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def eager() -> None:
        if evaluate:
            with torch.no_grad():
                metric(model, batch)
            return
        optimizer.zero_grad()
        loss(model, batch).backward()
        optimizer.step()

    graph, build_ms, _ = timed(lambda: pg.build(task, pg.SGD(lr=0.01, momentum=0.9)))
    with tempfile.TemporaryDirectory() as folder:
        artifact, compile_ms, _ = timed(lambda: pg.compile(graph, target=target, out=Path(folder) / "out"))
        trainer, load_ms, _ = timed(lambda: artifact.trainer(threads=threads))

        def ours() -> Any:
            return trainer.evaluate([batch]) if evaluate else trainer.step(batch, lr=0.01)

        ours()
        eager()
        pairs = [(timed(ours)[1:], timed(eager)[1:]) for _ in range(rounds)]
    ratios = [[a[i] / b[i] for a, b in pairs] for i in (0, 1)]
    low, _, high = statistics.quantiles(ratios[1], n=4)
    best = [min(p[i][0] for p in pairs) for i in (0, 1)]
    nodes = len(list(graph.nodes()))
    figures = [f"{ms / 1e3:.1f}" for ms in (build_ms, compile_ms, load_ms)]
    figures += [f"{best[0]:.0f}", f"{best[1]:.0f}", f"{best[0] / best[1]:.2f}"]
    figures += [f"{statistics.median(r):.2f}" for r in ratios] + [f"{low:.2f}–{high:.2f}"]
    return f"| {kind} {'×'.join(map(str, size))} | {target} | {nodes} | {' | '.join(figures)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description="What recurrent networks cost, beside eager PyTorch.")
    parser.add_argument("--kinds", nargs="+", choices=[*KINDS], default=["LSTM", "GRU", "RNN"])
    parser.add_argument("--targets", nargs="+", default=["openvino", "onnx", "torch"])
    parser.add_argument("--sizes", nargs="+", default=["16x512x32", "8x128x32"], help="N x T x features")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--evaluate", action="store_true", help="evaluation, not training")
    args = parser.parse_args()
    print("| network | target | nodes | build s | compile s | load s | ms (best) | eager ms (best) "
          "| ratio (best) | ratio (median) | ratio (processor) | half of them |")  # fmt: skip
    print("|---" * 12 + "|")
    for kind in args.kinds:
        for text in args.sizes:
            n, t, d = map(int, text.split("x"))
            for target in args.targets:
                print(case(kind, (n, t, d), target, args.rounds, args.threads, args.evaluate), flush=True)


if __name__ == "__main__":
    main()
