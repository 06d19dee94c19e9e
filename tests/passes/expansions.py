"""Whether an operator's expansion gives what the operator gives, run by PyTorch.

No runtime takes part: a target is played by one that refuses everything that has an expansion.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from pockgraph.ir.graph import Graph, Role, Slot, dtype_name, meta_like
from pockgraph.passes.legalize import Legalize
from pockgraph.passes.legalize.indexing import is_of_rows
from pockgraph.passes.legalize.table import EXPANSIONS

aten = torch.ops.aten


# Operators without an expansion of ours, because PyTorch's own does as well.
OF_PYTORCH = {
    aten.mse_loss.default, aten.mse_loss_backward.default, aten.smooth_l1_loss.default,
    aten.smooth_l1_loss_backward.default, aten.huber_loss.default, aten.huber_loss_backward.default,
    aten.binary_cross_entropy_backward.default, aten.sigmoid_backward.default, aten.tanh_backward.default,
    aten.hardswish_backward.default, aten.leaky_relu_backward.default,
    aten.softplus_backward.default, aten.threshold.default, aten.silu.default, aten.mish.default,
    aten.mish_backward.default, aten.square.default, aten.addcmul.default, aten.addcdiv.default,
    aten.xlogy.Tensor, aten.floor_divide.default, aten.std.correction, aten.logsumexp.default,
    aten.fill.Tensor,
}  # fmt: skip
# Those of them whose example is one of `CASES`.
OF_PYTORCH_IN_CASES = {
    aten._log_softmax_backward_data.default, aten.stack.default, aten.tril.default, aten.triu.default,
    aten.pixel_shuffle.default, aten.pixel_unshuffle.default, aten.baddbmm.default, aten.dot.default,
}  # fmt: skip
DIVISIONS = (
    aten.div.Tensor_mode, aten.div.Scalar_mode, aten.remainder.Tensor, aten.remainder.Scalar
)  # fmt: skip
EXPANDED = EXPANSIONS.keys() | OF_PYTORCH | OF_PYTORCH_IN_CASES


def is_expanded(node: fx.Node) -> bool:
    """Every target divides integers, and changes rows of a matrix."""
    if node.target in DIVISIONS and not node.meta["val"].is_floating_point():
        return False
    if node.target in (aten.index_add.default, aten.index_copy.default) and is_of_rows(node):
        return False
    return node.target in EXPANDED


def refusal(node: fx.Node) -> str:
    return "no such operator" if is_expanded(node) else ""


LEGALIZE = Legalize(refusal)


def graph_of(function: Callable[..., Any], *args: Tensor) -> Graph:
    """`function` and the gradients of its floating-point arguments, as autograd traces them."""

    def with_gradients(*given: Tensor) -> tuple[Tensor, ...]:
        leaves = [a.detach().requires_grad_() if a.is_floating_point() else a for a in given]
        results = function(*leaves)
        results = results if isinstance(results, tuple) else (results,)
        wanted = [a for a in leaves if a.requires_grad]
        heads = [r for r in results if r.requires_grad]
        if not heads:
            return results
        weights = [torch.cos(torch.arange(r.numel(), dtype=r.dtype)).view(r.shape) for r in heads]
        grads = torch.autograd.grad(heads, wanted, weights, allow_unused=True)
        return (*results, *(g for g in grads if g is not None))

    module = make_fx(with_gradients)(*args)
    graph = make_fx(torch.func.functionalize(module))(*args).graph
    graph.eliminate_dead_code()
    for node in graph.nodes:
        node.meta = {"val": meta_like(node.meta.get("val")), "phase": "forward", "layer": "", "source": ""}
        assert node.op != "get_attr", "give constants as arguments"
    inputs = tuple(Slot(Role.BATCH, f"a{i}", tuple(a.shape), dtype_name(a.dtype)) for i, a in enumerate(args))
    outputs = tuple(
        Slot(Role.METRIC, str(i), tuple(n.meta["val"].shape), dtype_name(n.meta["val"].dtype), key=str(i))
        for i, n in enumerate(graph.output_node().args[0])
    )
    return Graph(graph, inputs, outputs, {})


def graph_of_call(overload: Any, *args: Any, **options: Any) -> tuple[Graph, list[Tensor]]:
    """One call of an operator that tracing takes apart, and its tensors."""
    graph, tensors = fx.Graph(), [a for a in args if isinstance(a, Tensor)]
    given = iter([graph.placeholder(f"a{i}") for i in range(len(tensors))])
    node = graph.call_function(
        overload, tuple(next(given) if isinstance(a, Tensor) else a for a in args), options
    )
    graph.output((node,))
    inputs = [Slot(Role.BATCH, f"a{i}", tuple(a.shape), dtype_name(a.dtype)) for i, a in enumerate(tensors)]
    values = [*tensors, overload(*args, **options)]
    for inner, value in zip(graph.nodes, values):
        inner.meta = {"val": meta_like(value), "phase": "forward", "layer": "", "source": ""}
    output = Slot(Role.METRIC, "", tuple(values[-1].shape), dtype_name(values[-1].dtype))
    return Graph(graph, tuple(inputs), (output,), {}), tensors


def run(graph: Graph, *args: Tensor) -> list[Tensor]:
    inputs = dict(zip((s.name for s in graph.inputs if s.role is Role.BATCH), args))
    feeds = [inputs[s.name] if s.name in inputs else graph.values[s.name] for s in graph.inputs]
    return list(fx.Interpreter(nn.Module(), graph=graph.fx).run(*feeds))


def assert_expands(function: Callable[..., Any], *args: Tensor, tolerance: float = 2e-6) -> set[Any]:
    """The expanded graph gives the same; which operators were expanded."""
    return assert_graph_expands(graph_of(function, *args), *args, tolerance=tolerance)


def assert_graph_expands(graph: Graph, *args: Tensor, tolerance: float = 2e-6) -> set[Any]:
    legal = LEGALIZE(graph)
    legal.validate()
    expanded = {n.target for n in graph.nodes() if is_expanded(n)}
    assert not [n for n in legal.nodes() if is_expanded(n)]
    for got, wanted in zip(run(legal, *args), run(graph, *args), strict=True):
        assert got.shape == wanted.shape
        assert got.dtype == wanted.dtype
        if not wanted.is_floating_point():
            assert torch.equal(got, wanted), f"{got} is not {wanted}"
            continue
        assert torch.equal(got.isnan(), wanted.isnan()), f"{got} is not {wanted}"
        assert torch.equal(got.isinf(), wanted.isinf()), f"{got} is not {wanted}"
        size = float(wanted.nan_to_num(0, 0, 0).abs().max()) if wanted.numel() else 0.0
        error = float((got - wanted).nan_to_num(0, 0, 0).abs().max()) if wanted.numel() else 0.0
        assert error <= tolerance * max(size, 1e-30), f"off by {error} of {size}"
    return expanded
