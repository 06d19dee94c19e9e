"""Runs a function on a target and compares with its ATen graph in eager PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

from pockgraph.ir.graph import Graph, Role, Slot, dtype_name, meta_like
from pockgraph.passes.canonicalize import Canonicalize

# Largest error an output may have, relative to its largest element. Integers and truth values are exact.
TOLERANCE = 1e-5


class Comparison:
    """What the cases are written with; a subclass says how its target runs a graph."""

    @staticmethod
    def run(graph: Graph, *args: torch.Tensor) -> list[torch.Tensor]:
        """The outputs of a canonical graph whose inputs are `args`; skips what the target refuses."""
        raise NotImplementedError

    def check(self, function: Callable[..., Any], *args: torch.Tensor) -> None:
        """`function` must give the same on the target as its ATen graph gives in eager PyTorch."""
        graph = graph_of(function, *args)
        expected = fx.Interpreter(fx.GraphModule(torch.nn.Module(), graph.fx)).run(*args)
        got = self.run(Canonicalize()(graph), *args)
        for slot, a, b in zip(graph.outputs, got, expected, strict=True):
            if not b.is_floating_point():
                assert torch.equal(a.to(b.dtype), b), f"{slot.name}: {a} is not {b}"
            else:
                assert_close(a, b, slot.name)

    def check_grad(
        self, function: Callable[..., torch.Tensor], *args: torch.Tensor, wanted: tuple[int, ...] = ()
    ) -> None:
        """`check` of `function` and its gradients: of all floating-point arguments, or of those `wanted`."""
        y = function(*args)
        torch.manual_seed(1)
        self.check(with_grad(function, *wanted), torch.randn_like(y), *args)


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


def assert_close(got: torch.Tensor, expected: torch.Tensor, what: str = "") -> None:
    assert got.shape == expected.shape, what
    assert got.dtype == expected.dtype, what
    assert torch.equal(got.isnan(), expected.isnan()), what
    got, expected = (v.double().nan_to_num() for v in (got, expected))
    error = (got - expected).abs().max().item() if got.numel() else 0.0
    scale = expected.abs().max().item() if got.numel() else 0.0
    assert error <= TOLERANCE * scale, f"{what}: error {error:.3g}, largest {scale:.3g}"


def with_grad(function: Callable[..., torch.Tensor], *wanted: int) -> Callable[..., Any]:
    """`function` with the gradients of its arguments (all, or those at `wanted`), as autograd traces them."""

    def run(dy_seed: torch.Tensor, *args: torch.Tensor) -> tuple[torch.Tensor, ...]:
        at = wanted or [i for i, a in enumerate(args) if a.is_floating_point()]
        leaves = [a.detach().requires_grad_(i in at) for i, a in enumerate(args)]
        y = function(*leaves)
        return (y, *torch.autograd.grad(y, [leaves[i] for i in at], dy_seed))

    return run


def rand(*shape: int, seed: int = 0, low: float | None = None) -> torch.Tensor:
    """Normal numbers of `shape`, the same for the same seed; with `low`, their size plus `low`."""
    generator = torch.Generator().manual_seed(seed + sum(shape))
    x = torch.randn(shape, generator=generator)
    return x if low is None else x.abs() + low


def ints(high: int, *shape: int, low: int = 0) -> torch.Tensor:
    """int64 numbers in `low` to `high - 1`, the same at every call."""
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(high))
