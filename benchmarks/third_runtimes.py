"""Training steps handed to the converters of further runtimes as exported programs, beside eager PyTorch.

    python benchmarks/third_runtimes.py executorch        # or: litert, coreml, torch
    python benchmarks/third_runtimes.py litert unet-full-sgd mobilenet-half-adamw

A case (network, plan, optimizer of the tests) takes three steps, with a batch and a learning rate of its own
each, and evaluates once; what comes out of a step goes into the next. Losses, weights and metric are compared
with eager PyTorch and `torch.optim` within the tolerances of `tests/oracle.py`. The runtime's package has
to be installed beside this project's torch, see docs/targets.md. Core ML runs on Apple's systems only:
elsewhere its programs are converted, and no steps are taken.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import textwrap
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "backend"), str(ROOT / "tests")]

import policies  # noqa: E402, F401  its networks are in the zoo
from exported_steps import Function, run_exported  # noqa: E402
from models import zoo  # noqa: E402
from oracle import ALL_OPTIMIZERS, PLANS, assert_equal_steps, built, lrs_for, pruned, truth_of  # noqa: E402

from pockgraph.ir.graph import Graph, aten  # noqa: E402
from pockgraph.targets.executorch import kernels  # noqa: E402
from pockgraph.targets.exported_program import exported_program, outside_core  # noqa: E402

CASES = (
    "mlp-full-adamw", "resnet-full-momentum", "unet-full-sgd", "mobilenet-half-adamw",
    "transformer-full-adamw", "dropping-full-sgd",
)  # fmt: skip

# Operators of core ATen that a runtime has not, or computes wrongly: written in terms of others. What
# ExecuTorch has, its target says.
LACKS: dict[str, tuple[Any, ...]] = {
    "torch": (),
    "litert": (  # litert-torch 0.10.0
        aten._adaptive_avg_pool2d_backward.default,
        aten.avg_pool2d_backward.default,
        aten.convolution_backward.default,
        aten.masked_scatter.default,
        # "'func.call' op incorrect number of operands for callee: expected 1, but got 3"
        aten.max_pool2d_with_indices_backward.default,
    ),
    "coreml": (  # coremltools 9.0
        aten._adaptive_avg_pool2d_backward.default,
        aten.avg_pool2d_backward.default,
        aten.convolution_backward.default,
        aten.embedding_dense_backward.default,
        aten.max_pool2d_with_indices_backward.default,
        aten.native_group_norm_backward.default,
        aten.native_layer_norm_backward.default,
    ),
}  # fmt: skip


def refusal_of(runtime: str, node: fx.Node) -> str:
    """Why a call must be written in terms of others for `runtime`, or an empty string."""
    if runtime == "executorch":
        return kernels.refusal(node)
    return f"not in {runtime}" if node.target in LACKS[runtime] else outside_core(node)


# ---------------------------------------------------------------- the runtimes


def in_torch(program: ExportedProgram, example: tuple[torch.Tensor, ...]) -> tuple[Function, int]:
    return program.module(), 0  # pyright: ignore


def in_executorch(program: ExportedProgram, example: tuple[torch.Tensor, ...]) -> tuple[Function, int]:
    from executorch.exir import to_edge_transform_and_lower  # pyright: ignore
    from executorch.runtime import Runtime, Verification  # pyright: ignore

    buffer = to_edge_transform_and_lower(program).to_executorch().buffer
    loaded = Runtime.get().load_program(buffer, verification=Verification.Minimal)
    method = loaded.load_method("forward")

    def function(*inputs: torch.Tensor, owner: Any = loaded) -> list[torch.Tensor]:
        return [value.clone() for value in method.execute(inputs)]  # memory of the next call, too

    return function, len(buffer)


def in_litert(program: ExportedProgram, example: tuple[torch.Tensor, ...]) -> tuple[Function, int]:
    import litert_torch  # pyright: ignore

    # Without `enable_x64` int64 inputs, labels among them, become int32.
    model = litert_torch.convert(program.module(), example, enable_x64=True)

    def function(*inputs: torch.Tensor) -> list[torch.Tensor]:
        results = model(*inputs)
        return [torch.as_tensor(r) for r in (results if isinstance(results, list | tuple) else [results])]

    return function, len(model.model_content())


class NotRunHere(Exception):
    """Converted; this system has no runtime for it."""


def in_coreml(program: ExportedProgram, example: tuple[torch.Tensor, ...]) -> tuple[Function, int]:
    import coremltools as ct  # pyright: ignore

    precision = ct.precision.FLOAT32
    ct.convert(
        program.run_decompositions({}), minimum_deployment_target=ct.target.iOS18, compute_precision=precision
    )
    raise NotRunHere


RUNTIMES: dict[str, Callable[..., tuple[Function, int]]] = {
    "torch": in_torch, "executorch": in_executorch, "litert": in_litert, "coreml": in_coreml,
}  # fmt: skip


# ---------------------------------------------------------------- cases


def outcome(runtime: str, case: str) -> str:
    """What became of a case, in a line."""
    model, plan, optimizer = case.split("-")
    graph = pruned(model, optimizer, PLANS[plan](built(model, optimizer)).to_json())
    figures: list[str] = []

    def load(part: Graph) -> Function:
        program = exported_program(part, partial(refusal_of, runtime))
        start = time.perf_counter()
        calls = sum(n.op == "call_function" for n in program.graph.nodes)
        with contextlib.redirect_stdout(sys.stderr):  # converters tell their progress
            function, nbytes = RUNTIMES[runtime](program, program.example_inputs[0])
        took_s = time.perf_counter() - start
        figures.append(f"{calls} operators, {nbytes / 1e3:.0f} kB, converted in {took_s:.1f} s")
        return function

    rule = ALL_OPTIMIZERS[optimizer]
    try:
        steps = run_exported(graph, list(zoo(model).train), lrs_for(rule), load)
    except NotRunHere:
        return "converted; steps cannot be taken on this system"
    except ImportError:
        raise
    except Exception as e:  # whatever a converter or a runtime raises is its answer
        return f"REFUSED: {type(e).__name__}: {textwrap.shorten(str(e), 300)}"
    try:
        assert_equal_steps(steps, truth_of(model, optimizer, graph.plan.to_json()), graph)
    except AssertionError as e:
        return f"WRONG: {e}"
    return f"right ({figures[0]})"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runtime", choices=RUNTIMES)
    parser.add_argument("cases", nargs="*", default=CASES, help="network-plan-optimizer of the tests")
    args = parser.parse_args()
    found = {}
    for case in args.cases:
        found[case] = outcome(args.runtime, case)
        print(f"{case:24} {found[case]}", flush=True)
    return int(any(o.startswith(("WRONG", "REFUSED")) for o in found.values()))


if __name__ == "__main__":
    sys.exit(main())
