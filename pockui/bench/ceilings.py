"""The machine's ceilings, and what a step would cost at them.

`python -m pockui.bench.ceilings` is a contender whose step is one kernel: a product of two square float32
matrices, or a copy of memory that no cache holds. It takes turns with the others, so that a busy machine
slows it as it slows them.

The floor of a step is the larger of two times: that of its floating-point operations at the rate of the
product, and that of the least it must move through memory at the rate of the copy.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pockgraph.measure import MeasureError, Step, StepFigures, serve_steps

if TYPE_CHECKING:
    from pockgraph.train_graph import TrainGraph

ROWS_OF_MATRIX = 1024
COPIED_BYTES = 128 << 20
KERNELS = {"gemm": 2 * ROWS_OF_MATRIX**3, "copy": 2 * COPIED_BYTES}  # operations; bytes read and written


@dataclass(frozen=True)
class Cost:
    """What a step has to do, by the cost model of its pruned graph.

    Attributes:
        flops: a multiply-add counts two.
        moved_bytes: weights, state and batch read once, what is trained written once, activations that
            the backward pass needs written and read once. No order of kernels moves less.
    """

    flops: int
    moved_bytes: int

    @classmethod
    def of(cls, graph: TrainGraph) -> Cost:
        line = graph.timeline
        trained = sum(graph.initial(fqn).nbytes for fqn in graph.plan.tensors)
        written = trained + line.state_bytes
        return cls(graph.flops, line.resident_bytes + written + 2 * line.saved_bytes)

    @classmethod
    def of_forward(cls, graph: TrainGraph) -> Cost:
        line = graph.timeline
        return cls(graph.phase_flops()["forward"], line.resident_bytes - line.state_bytes)


@dataclass(frozen=True)
class Ceilings:
    """Rates of the machine, with as many threads as every contender has."""

    flops_per_s: float
    bytes_per_s: float

    @classmethod
    def of(cls, gemm: StepFigures | MeasureError, copy: StepFigures | MeasureError) -> Ceilings | None:
        """From the measured kernels; None where one has no figures."""
        if isinstance(gemm, MeasureError) or isinstance(copy, MeasureError):
            return None
        return cls(KERNELS["gemm"] / gemm.time.median_ms * 1e3, KERNELS["copy"] / copy.time.median_ms * 1e3)

    def floor_ms(self, cost: Cost) -> float:
        """What a step would take that reaches both ceilings."""
        return 1e3 * max(cost.flops / self.flops_per_s, cost.moved_bytes / self.bytes_per_s)


def ceiling_command(kernel: str, threads: int) -> tuple[str, ...]:
    """The command line of a contender that runs one of `KERNELS`."""
    return (sys.executable, "-m", "pockui.bench.ceilings", kernel, "--threads", str(threads))


def main() -> int:
    p = argparse.ArgumentParser(prog="python -m pockui.bench.ceilings")
    p.add_argument("kernel", choices=KERNELS)
    p.add_argument("--threads", type=int, required=True)
    options = p.parse_args()
    import torch

    torch.set_num_threads(options.threads)

    def load() -> Step:
        if options.kernel == "copy":
            source = torch.ones(COPIED_BYTES, dtype=torch.uint8)
            target = torch.zeros_like(source)
            return lambda: target.copy_(source)
        a, b = torch.randn(2, ROWS_OF_MATRIX, ROWS_OF_MATRIX)
        product = torch.empty_like(a)
        return lambda: torch.mm(a, b, out=product)

    serve_steps(load)
    return 0


if __name__ == "__main__":
    sys.exit(main())
