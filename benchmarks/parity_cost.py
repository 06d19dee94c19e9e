"""What comparing a compiled step with eager PyTorch costs when it is compiled.

    python benchmarks/parity_cost.py                          # a table
    python benchmarks/parity_cost.py --against CHECKOUT       # and the same of another checkout

Compiles with the comparison and without take turns, and those of two checkouts, each in a process
of its own. Processor time of one thread, medians; captured once, which is not counted. Random weights.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[1]
CHILD = "--child"  # serves one checkout: "case target parity" a line, seconds back


def small_cnn() -> tuple[nn.Module, dict[str, torch.Tensor], str]:
    torch.manual_seed(0)
    layers = [
        nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU(), nn.MaxPool2d(2))
        for i, o in ((3, 16), (16, 32), (32, 64))
    ]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    return net, {"x": torch.randn(16, 3, 32, 32), "y": torch.randint(0, 10, (16,))}, "full"


def efficientnet() -> tuple[nn.Module, dict[str, torch.Tensor], str]:
    from pockui.demo.efficientnet import efficientnet_lite0

    torch.manual_seed(0)
    net = efficientnet_lite0(10, pretrained=False)
    return net, {"x": torch.randn(8, 3, 224, 224), "y": torch.randint(0, 10, (8,))}, "preset"


def minilm() -> tuple[nn.Module, dict[str, torch.Tensor], str]:
    """A BERT encoder of MiniLM's sizes."""
    from transformers import BertConfig, BertModel

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            config = BertConfig(
                hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536,
                attn_implementation="eager", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
            )  # fmt: skip
            self.encoder = BertModel(config, add_pooling_layer=False)
            self.head = nn.Linear(384, 2)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.encoder(ids).last_hidden_state.mean(1))

    torch.manual_seed(0)
    batch = {"x": torch.randint(0, 30_522, (8, 64)), "y": torch.randint(0, 2, (8,))}
    return Classifier(), batch, "preset"


CASES: dict[str, Callable[[], tuple[nn.Module, dict[str, torch.Tensor], str]]] = {
    "small CNN 16×32²": small_cnn,
    "EfficientNet-Lite0 8×224²": efficientnet,
    "MiniLM 8×64": minilm,
}


def serve() -> None:
    """In the checkout that PYTHONPATH names."""
    import pockgraph as pg

    torch.set_num_threads(1)
    made: dict[tuple[str, str], Any] = {}
    for line in sys.stdin:
        case, optimizer, target, parity = json.loads(line)
        if (case, optimizer) not in made:
            net, batch, plan = CASES[case]()

            def metric(net: nn.Module, b: Any) -> torch.Tensor:
                return net(b["x"]).sum(1)

            def loss(net: nn.Module, b: Any) -> torch.Tensor:
                return F.cross_entropy(net(b["x"]), b["y"])

            rule = {"momentum": pg.SGD(lr=0.01, momentum=0.9), "adamw": pg.AdamW(lr=1e-3)}[optimizer]
            graph = pg.build(pg.Task("cost", net.eval(), loss, metric, [batch], [batch]), rule)
            plans = {"full": pg.Plan.full, "preset": pg.Plan.preset}
            made[case, optimizer] = graph.prune(plans[plan](graph))
        with tempfile.TemporaryDirectory() as folder:
            start = time.process_time()
            pg.compile(made[case, optimizer], target=target, out=Path(folder) / "out", parity=parity)
            print(json.dumps(time.process_time() - start), flush=True)


class Checkout:
    def __init__(self, folder: Path) -> None:
        env = {
            "PYTHONPATH": f"{folder / 'backend'}:{folder}",
            "OMP_NUM_THREADS": "1",
            "PATH": "/usr/bin:/bin",
        }
        self._process = subprocess.Popen(
            [sys.executable, __file__, CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, env=env, cwd=folder,
        )  # fmt: skip

    def seconds(self, *asked: Any) -> float:
        assert self._process.stdin
        assert self._process.stdout
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        while not (line := self._process.stdout.readline()).strip().replace(".", "").isdigit():
            if not line:
                raise SystemExit(f"A compile of {asked} failed.")
        return float(line)

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="What the parity record costs.")
    parser.add_argument("--against", type=Path, help="another checkout of this repository")
    parser.add_argument("--cases", nargs="+", choices=[*CASES], default=[*CASES])
    parser.add_argument("--optimizers", nargs="+", default=["momentum", "adamw"])
    parser.add_argument("--target", default="openvino")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(CHILD, action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return serve()
    checkouts = {"here": Checkout(ROOT)} | ({"there": Checkout(args.against)} if args.against else {})
    print("| network | optimizer | compile s | comparison s | share |", end="")
    print(" there s | ratio |\n" + "|---" * 7 + "|" if args.against else "\n" + "|---" * 5 + "|")
    for case in args.cases:
        for optimizer in args.optimizers:
            took: dict[tuple[str, bool], list[float]] = {}
            for turn in range(args.rounds + 1):  # the first captures, and imports
                for name, checkout in checkouts.items():
                    for parity in (True, False):
                        found = checkout.seconds(case, optimizer, args.target, parity)
                        if turn:
                            took.setdefault((name, parity), []).append(found)
            plain = statistics.median(took["here", False])
            costs = {
                n: statistics.median(took[n, True]) - statistics.median(took[n, False]) for n in checkouts
            }
            here = costs["here"]
            row = f"| {case} | {optimizer} | {plain:.2f} | {here:.2f} | {here / plain:.2f} |"
            if args.against:
                row += f" {costs['there']:.2f} | {here / costs['there']:.2f} |"
            print(row, flush=True)
    for checkout in checkouts.values():
        checkout.close()


if __name__ == "__main__":
    main()
