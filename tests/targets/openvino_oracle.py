"""Runs a function through the OpenVINO target and compares with its ATen graph in eager PyTorch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

from pockgraph.ir.graph import Graph, Role, Slot, dtype_name, meta_like
from pockgraph.passes.canonicalize import Canonicalize
from pockgraph.runtime.quiet_openvino import core
from pockgraph.targets.openvino import TARGET, lower

aten = torch.ops.aten

# Largest error an output may have, relative to its largest element.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-5, torch.int64: 0, torch.int32: 0, torch.bool: 0}
CONFIG = {"INFERENCE_PRECISION_HINT": "f32"}
CORE = core()


def traced(function: Callable[..., Any], *args: torch.Tensor) -> fx.Graph:
    """The ATen graph of `function`, with the metadata that the engine keeps."""
    module = make_fx(function)(*args)
    module = make_fx(torch.func.functionalize(module))(*args)  # autograd's formulas may work in place
    module.graph.eliminate_dead_code()
    for node in module.graph.nodes:
        node.meta = {
            "val": meta_like(node.meta.get("val")),
            "phase": "forward",
            "layer": "tested",
            "source": "test.py:1",
        }
    return module.graph


def graph_of(function: Callable[..., Any], *args: torch.Tensor) -> Graph:
    """A graph whose inputs are batch entries and whose outputs are gradients named by position."""
    graph = traced(function, *args)
    output = graph.output_node()
    values = output.args[0] if isinstance(output.args[0], tuple | list) else (output.args[0],)
    output.args = (tuple(v for v in values if v is not None),)
    inputs = [Slot(Role.BATCH, f"a{i}", tuple(a.shape), dtype_name(a.dtype)) for i, a in enumerate(args)]
    outputs = []
    for i, node in enumerate(output.args[0]):
        val = node.meta["val"]
        outputs.append(Slot(Role.GRAD, f"out{i}", tuple(val.shape), dtype_name(val.dtype)))
    return Graph(graph, tuple(inputs), tuple(outputs), {})


def run_openvino(graph: Graph, *args: torch.Tensor) -> list[torch.Tensor]:
    graph = Canonicalize()(graph)  # as targets get it
    assert not TARGET.unsupported(graph)
    compiled = CORE.compile_model(lower(TARGET.pipeline({}).finish(graph, "tested")), "CPU", CONFIG)
    feeds = {f"batch:a{i}": a.contiguous().numpy() for i, a in enumerate(args)}
    feeds = {k: v for k, v in feeds.items() if k in {n for p in compiled.inputs for n in p.get_names()}}
    results = compiled(feeds)
    return [torch.from_numpy(np.array(results[s.name])) for s in graph.outputs]


# What `check` runs a graph with; `test_onnx_ops` takes the same cases to another target.
RUN: ContextVar[Callable[..., list[torch.Tensor]]] = ContextVar("RUN", default=run_openvino)


def assert_close(got: torch.Tensor, expected: torch.Tensor, what: str = "") -> None:
    assert got.shape == expected.shape, what
    assert got.dtype == expected.dtype, what
    assert torch.equal(got.isnan(), expected.isnan()), what
    got, expected = (v.double().nan_to_num() for v in (got, expected))
    error = (got - expected).abs().max().item() if got.numel() else 0.0
    scale = expected.abs().max().item() if got.numel() else 0.0
    assert error <= TOLERANCE[torch.float32] * scale, f"{what}: error {error:.3g}, largest {scale:.3g}"


def check(function: Callable[..., Any], *args: torch.Tensor) -> None:
    """`function` must give the same through the target as its ATen graph gives in eager PyTorch."""
    graph = graph_of(function, *args)
    expected = fx.Interpreter(fx.GraphModule(torch.nn.Module(), graph.fx)).run(*args)
    got = RUN.get()(Canonicalize()(graph), *args)
    for slot, a, b in zip(graph.outputs, got, expected, strict=True):
        if b.dtype in (torch.int64, torch.bool):
            assert torch.equal(a.to(b.dtype), b), f"{slot.name}: {a} is not {b}"
        else:
            assert_close(a, b, slot.name)


def check_with_constants(function: Callable[..., Any], constants: set[int], *args: torch.Tensor) -> None:
    """`check` with the arguments at `constants` built in, and the model read back from its files."""
    graph = graph_of(function, *args)
    slots = tuple(
        Slot(Role.PARAM, s.fqn, s.shape, s.dtype) if i in constants else s for i, s in enumerate(graph.inputs)
    )
    values = {f"param:a{i}": args[i] for i in constants}
    graph = Canonicalize()(Graph(graph.fx, slots, graph.outputs, values))
    legal = TARGET.pipeline({}).finish(graph, "tested")
    with tempfile.TemporaryDirectory() as folder:
        TARGET.write(legal, Path(folder), "model", {})
        model = CORE.read_model(Path(folder) / "model.xml")
        results = CORE.compile_model(model, "CPU", CONFIG)(
            {f"batch:a{i}": a.numpy() for i, a in enumerate(args) if i not in constants}
        )
    for slot, expected in zip(graph.outputs, function(*args), strict=True):
        assert_close(torch.from_numpy(np.array(results[slot.name])), expected, slot.name)


def with_grad(function: Callable[..., torch.Tensor], *wanted: int) -> Callable[..., Any]:
    """`function` with the gradients of its arguments (all, or those at `wanted`), as autograd traces them."""

    def run(dy_seed: torch.Tensor, *args: torch.Tensor) -> tuple[torch.Tensor, ...]:
        at = wanted or [i for i, a in enumerate(args) if a.is_floating_point()]
        leaves = [a.detach().requires_grad_(i in at) for i, a in enumerate(args)]
        y = function(*leaves)
        return (y, *torch.autograd.grad(y, [leaves[i] for i in at], dy_seed))

    return run


def check_grad(
    function: Callable[..., torch.Tensor], *args: torch.Tensor, wanted: tuple[int, ...] = ()
) -> None:
    y = function(*args)
    torch.manual_seed(1)
    check(with_grad(function, *wanted), torch.randn_like(y), *args)


def rand(*shape: int, seed: int = 0, low: float | None = None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    x = torch.randn(shape, generator=generator)
    return x if low is None else x.abs() + low


def ints(high: int, *shape: int, low: int = 0) -> torch.Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(high))
