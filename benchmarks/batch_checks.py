"""What the checks of a step cost: indices, finite batches, and the finite state after the update.

    python benchmarks/batch_checks.py                             # a table; --help: the cases

Steps with the checks and steps without take turns. `share` is the processor time within the checks over that
of their steps, medians; `on/off` is the ratio of the medians of whole steps, which a busy machine blurs.
Networks have random weights: time does not depend on them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "backend")]

import pockgraph as pg  # noqa: E402
from pockgraph.runtime import Trainer  # noqa: E402
from pockui.demo import text  # noqa: E402
from pockui.demo.efficientnet import efficientnet_lite0  # noqa: E402

LR = 1e-4
PLANS = {"full": pg.Plan.full, "preset": pg.Plan.preset}


def images(rows: int) -> pg.Task:
    generator = torch.Generator().manual_seed(0)
    batch = {
        "x": torch.randn(rows, 3, 224, 224, generator=generator),
        "y": torch.randint(0, 10, (rows,), generator=generator),
    }

    def metric(net: torch.nn.Module, b: pg.Batch) -> torch.Tensor:
        return net(b["x"]).sum(1)

    net = efficientnet_lite0(10, pretrained=False)
    return pg.Task("images", net, lambda n, b: F.cross_entropy(n(b["x"]), b["y"]), metric, [batch], [batch])


def tokens(rows: int) -> pg.Task:
    """A BERT encoder of MiniLM's sizes."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536,
        attn_implementation="eager",
    )  # fmt: skip
    net = text.SentimentClassifier(BertModel(config, add_pooling_layer=False)).eval()
    generator = torch.Generator().manual_seed(0)
    batch = {
        "ids": torch.randint(0, 30_522, (rows, 64), generator=generator),
        "mask": torch.ones(rows, 64, dtype=torch.int64),
        "y": torch.randint(0, 2, (rows,), generator=generator),
    }
    return pg.Task("text", net, text.loss, text.accuracy, [batch], [batch])


CASES: dict[str, Callable[[], pg.Task]] = {
    "EfficientNet-Lite0 8×224²": lambda: images(8),
    "EfficientNet-Lite0 1×224²": lambda: images(1),
    "MiniLM 8×64": lambda: tokens(8),
}


class Checks:
    """The checks of a trainer's step, timed, or left out."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self.spent_ms = 0.0

    @contextmanager
    def counted(self) -> Iterator[None]:
        self.spent_ms = 0.0
        with self._replaced(self._timed):
            yield

    def left_out(self) -> Any:
        return self._replaced(lambda check: lambda *_: [])

    @contextmanager
    def _replaced(self, by: Callable[[Any], Any]) -> Iterator[None]:
        from pockgraph.runtime import trainer as module

        runner: Any = self._trainer._runner
        with (
            mock.patch.object(module, "check_limits", by(module.check_limits)),
            mock.patch.object(module, "check_finite", by(module.check_finite)),
            mock.patch.object(runner, "nonfinite", by(runner.nonfinite)),
        ):
            yield

    def _timed(self, check: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            start = time.process_time()
            try:
                return check(*args)
            finally:
                self.spent_ms += (time.process_time() - start) * 1e3

        return run


def measure(trainer: Trainer, batch: pg.Batch, rounds: int) -> tuple[float, float, float, float]:
    """(step ms, checks ms, share, on/off): medians of processor time."""
    checks = Checks(trainer)
    on, off, spent = [], [], []
    for _ in range(3):  # memory is taken, packed weights are made
        trainer.step(batch, lr=LR)
    for _ in range(rounds):
        start = time.process_time()
        with checks.counted():
            trainer.step(batch, lr=LR)
        on.append((time.process_time() - start) * 1e3)
        spent.append(checks.spent_ms)
        start = time.process_time()
        with checks.left_out():
            trainer.step(batch, lr=LR)
        off.append((time.process_time() - start) * 1e3)
    step, took = statistics.median(on), statistics.median(spent)
    return step, took, took / step, step / statistics.median(off)


def main() -> None:
    parser = argparse.ArgumentParser(description="What the checks of a step cost.")
    parser.add_argument("--cases", nargs="+", choices=[*CASES], default=[*CASES])
    parser.add_argument("--plans", nargs="+", choices=[*PLANS], default=[*PLANS])
    parser.add_argument("--targets", nargs="+", default=["openvino", "onnx", "torch"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print("| network | plan | target | step ms | checks ms | share | on/off |")
    print("|---" * 7 + "|")
    for name in args.cases:
        task = CASES[name]()
        whole = pg.build(task, pg.SGD(lr=LR, momentum=0.9))
        for plan in args.plans:
            small = whole.prune(PLANS[plan](whole))
            for target in args.targets:
                with tempfile.TemporaryDirectory() as folder:
                    made = pg.compile(small, target=target, out=Path(folder) / "out", parity=False)
                    with made.trainer(threads=args.threads) as trainer:
                        step, took, share, ratio = measure(trainer, task.example, args.rounds)
                figures = f"{step:.1f} | {took:.3f} | {100 * share:.2f} % | {ratio:.3f}"
                print(f"| {name} | {plan} | {target} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
