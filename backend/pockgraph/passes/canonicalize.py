"""Trace -> the canonical form that every later room relies on.

Before → after:

- `detach`, `alias` → nothing; `t`, `transpose` → `permute`; `view`, `_unsafe_view` → `reshape`
- `convolution_backward` → dX (`convolution`, transposed), dW (`convolution_backward` with only the
  weight asked for), db (`sum`): three nodes that can be kept or dropped one by one, and dX no longer
  holds on to the saved activation
- batch norm with frozen statistics, and its backward → `x * scale + shift` and their gradients, so
  that a frozen one can be folded into its convolution
- batch norm with batch statistics → the same with `mean` and `var` of the batch, and new running
  statistics; its backward → dx, dgamma and dbeta of elementwise operators and sums, one by one
- batch norm over one sample that keeps no running statistics, which is how `instance_norm` comes →
  group norm with a channel a group
- `native_layer_norm_backward`, `native_group_norm_backward` → db as a `sum`, which needs no saved
  activation; the former's dX and dW apart, like a convolution's
- PReLU, and its backward → comparisons and products
- `hardtanh_backward(dy, x)` → `hardtanh_backward(dy, y)`: the result decides as well as the input
  (`x <= low` exactly when `y <= low`), and it is often saved anyway
- `diagonal` → a strided `slice`, `diagonal_scatter` → a strided `slice_scatter`; `select_scatter`, and
  `slice_scatter` without a stride → `cat`
- nodes without any input → constants
- `x[arange, arange, None]`, as attention masks are made → `reshape`
- `_safe_softmax` → `_softmax`, with rows that are masked out entirely set to zero where there can be any
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from ..ir.graph import Builder, Graph, add_constant, aten, rebuilt, tensor_bytes

Rule = Callable[[Builder, fx.Node], Any]
RULES: dict[Any, Rule] = {}

FOLD_LIMIT_BYTES = 1 << 20


def rule(*ops: Any) -> Callable[[Rule], Rule]:
    def register(f: Rule) -> Rule:
        RULES.update(dict.fromkeys(ops, f))
        return f

    return register


def canonicalise(graph: Graph) -> Graph:
    """Apply every rule, fold what depends on nothing, drop what nothing needs."""
    new = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    output = new.graph_copy(graph.fx, copied)
    new.output(output)
    for node in list(new.nodes):
        apply = RULES.get(node.target)
        if apply is None or node.op != "call_function":
            continue
        builder = Builder(new, node.meta["phase"], node.meta["layer"], node.meta["source"])
        with builder.before(node):
            replacement = apply(builder, node)
        if replacement is None:
            continue
        if isinstance(replacement, dict):
            for user in list(node.users):
                assert user.target is operator.getitem, f"{node} is used as a tuple by {user}"
                if user.args[1] in replacement:
                    user.replace_all_uses_with(replacement[user.args[1]])
                    new.erase_node(user)
        else:
            node.replace_all_uses_with(replacement)
    for check in new.find_nodes(op="call_function", target=aten._linalg_check_errors.default):
        new.erase_node(check)  # a singular matrix makes a result that is not finite, which is seen
    new.eliminate_dead_code()
    return plain_softmax(plain_index(fold_constants(rebuilt(graph, new))))


def fold_constants(graph: Graph) -> Graph:
    """Evaluate nodes that depend on no input (or only on constants) into CONST inputs.

    Results over a megabyte stay computed: a constant is stored in every artefact.
    """
    placeholders = graph.placeholders
    known = {node: graph.values[name] for name, node in placeholders.items() if name.startswith("const:")}
    slots, values = list(graph.inputs), dict(graph.values)
    last = list(placeholders.values())[-1]
    for node in list(graph.fx.nodes):
        if node.op != "call_function" or any(a not in known for a in node.all_input_nodes):
            continue
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            continue
        args, kwargs = fx.map_arg((node.args, node.kwargs), known.__getitem__)
        known[node] = node.target(*args, **kwargs)
    for node, value in known.items():
        inside = all(user in known for user in node.users)
        if node.op != "call_function" or inside or not isinstance(value, torch.Tensor):
            continue
        if tensor_bytes(value.shape, value.dtype) > FOLD_LIMIT_BYTES:
            continue
        last, slot = add_constant(graph.fx, last, f"const_{node.name}", value)
        node.replace_all_uses_with(last)
        slots.append(slot)
        values[slot.name] = value.contiguous()
    graph.fx.eliminate_dead_code()
    return rebuilt(graph, graph.fx, inputs=tuple(slots), values=values)


def plain_index(graph: Graph) -> Graph:
    """Index tensors that run over a whole dimension each, one behind the other, only add sizes of one.

    Libraries make an attention mask so: `mask[arange(N)[:, None, None, None], arange(T)]`, with
    indices that broadcast to `[N, 1, 1, T]`. After constants are folded, so that the indices are known.
    """
    constants = {node: graph.values.get(name) for name, node in graph.placeholders.items()}
    for node in graph.fx.find_nodes(op="call_function", target=aten.index.Tensor):
        x, indices = node.args
        values = [constants.get(i) if isinstance(i, fx.Node) else None for i in indices]
        if not _are_whole_ranges(values, tuple(x.meta["val"].shape), tuple(node.meta["val"].shape)):
            continue
        b = Builder(graph.fx, node.meta["phase"], node.meta["layer"], node.meta["source"])
        with b.before(node):
            node.replace_all_uses_with(b.call(aten.reshape.default, x, list(node.meta["val"].shape)))
        graph.fx.erase_node(node)
    graph.fx.eliminate_dead_code()
    return rebuilt(graph, graph.fx)


def _are_whole_ranges(
    indices: list[torch.Tensor | None], size: tuple[int, ...], result: tuple[int, ...]
) -> bool:
    """Is `x[indices]`, x of `size`, x itself with some sizes of one between its dimensions?"""
    if len(indices) != len(size) or math.prod(size) != math.prod(result):
        return False
    along = -1
    for index, n in zip(indices, size):
        if index is None or index.dtype not in (torch.int64, torch.int32):
            return False
        if not torch.equal(index.flatten(), torch.arange(n, dtype=index.dtype)):
            return False
        # Where it stands in the result, counted from the end as broadcasting does.
        at = [d - index.ndim + len(result) for d, s in enumerate(index.shape) if s > 1]
        if at and at[0] <= along:
            return False
        along = max([along, *at])
    return True


def plain_softmax(graph: Graph) -> Graph:
    """Attention's softmax, which is zero where everything is -inf, in terms of the ordinary one.

    After constants are folded, so that a causal mask is seen to leave something in every row.
    """
    constants = {node: graph.values.get(name) for name, node in graph.placeholders.items()}
    for node in graph.fx.find_nodes(op="call_function", target=aten._safe_softmax.default):
        args: Any = node.args
        x, dim = args[:2]
        b = Builder(graph.fx, node.meta["phase"], node.meta["layer"], node.meta["source"])
        with b.before(node):
            if node.meta["val"].dtype != x.meta["val"].dtype:
                x = b.call(aten._to_copy.default, x, dtype=node.meta["val"].dtype)
            result = b.call(aten._softmax.default, x, dim, False)
            last = dim in (-1, x.meta["val"].ndim - 1)
            if not last or not _leaves_something(x, constants):
                empty = b.call(aten.eq.Scalar, b.call(aten.amax.default, x, [dim], True), -math.inf)
                result = b.call(aten.masked_fill.Scalar, result, empty, 0.0)
        node.replace_all_uses_with(result)
        graph.fx.erase_node(node)
    return replace(graph)


def _leaves_something(x: Any, constants: Mapping[fx.Node, torch.Tensor | None]) -> bool:
    """Is it plain that no row of scores (along the last dimension) is -inf throughout?"""
    shape = x.meta["val"].shape
    if x.target in (aten.bmm.default, aten.mm.default):
        return True
    if x.target in (aten.reshape.default, aten.clone.default):
        return shape[-1] == x.args[0].meta["val"].shape[-1] and _leaves_something(x.args[0], constants)
    if x.target is aten.add.Tensor:
        scores, mask = x.args
        value = constants.get(mask)
        empty = value is None or bool((value.expand(shape) == -math.inf).all(-1).any())
        return not empty and _leaves_something(scores, constants)
    return False


@rule(aten.detach.default, aten.alias.default, aten.lift_fresh_copy.default)
def _identity(b: Builder, node: fx.Node) -> Any:
    return node.args[0]


@rule(aten.view.default, aten._unsafe_view.default, aten.reshape.default)
def _reshape(b: Builder, node: fx.Node) -> Any:
    x: Any = node.args[0]
    shape = list(node.meta["val"].shape)
    return x if shape == list(x.meta["val"].shape) else b.call(aten.reshape.default, x, shape)


@rule(aten.t.default)
def _t(b: Builder, node: fx.Node) -> Any:
    return _permute(b, node.args[0], [1, 0] if node.meta["val"].ndim == 2 else [0])


@rule(aten.transpose.int)
def _transpose(b: Builder, node: fx.Node) -> Any:
    x, i, j = node.args
    dims = list(range(node.meta["val"].ndim))
    dims[i], dims[j] = dims[j], dims[i]  # pyright: ignore
    return _permute(b, x, dims)


@rule(aten.permute.default)
def _permute_again(b: Builder, node: fx.Node) -> Any:
    ndim = node.meta["val"].ndim
    return _permute(b, node.args[0], [d % ndim for d in node.args[1]])  # pyright: ignore


def _permute(b: Builder, x: Any, dims: list[int]) -> fx.Node:
    """A permute, merged with one right below it; nothing at all when it is the identity."""
    if x.target is aten.permute.default:
        x, dims = x.args[0], [x.args[1][d] for d in dims]
    return x if dims == list(range(len(dims))) else b.call(aten.permute.default, x, dims)


@rule(aten.diagonal.default)
def _diagonal(b: Builder, node: fx.Node) -> Any:
    x, *where = node.args
    order, flat, span = _in_a_row(list(x.meta["val"].shape), *where)  # pyright: ignore
    rows = b.call(aten.reshape.default, _permute(b, x, order), flat)
    return b.call(aten.slice.Tensor, rows, len(flat) - 1, *span)


@rule(aten.diagonal_backward.default)
def _diagonal_backward(b: Builder, node: fx.Node) -> Any:
    args: Any = node.args
    dy, size, *where = args
    order, flat, span = _in_a_row(list(size), *where)
    rows = b.call(aten.slice_backward.default, dy, flat, len(flat) - 1, *span)
    moved = b.call(aten.reshape.default, rows, [size[d] for d in order])
    return _permute(b, moved, [order.index(d) for d in range(len(order))])


@rule(aten.diagonal_scatter.default)
def _diagonal_scatter(b: Builder, node: fx.Node) -> Any:
    args: Any = node.args
    x, source, *where = args
    size = list(x.meta["val"].shape)
    order, flat, span = _in_a_row(size, *where)
    rows = b.call(aten.reshape.default, _permute(b, x, order), flat)
    put = b.call(aten.slice_scatter.default, rows, source, len(flat) - 1, *span)
    moved = b.call(aten.reshape.default, put, [size[d] for d in order])
    return _permute(b, moved, [order.index(d) for d in range(len(order))])


def _in_a_row(
    size: list[int], offset: int = 0, first: int = 0, second: int = 1
) -> tuple[list[int], list[int], tuple[int, int, int]]:
    """Where a diagonal lies once the matrices it belongs to are written as rows.

    Returns:
        The order of dimensions that puts the two last; the shape with both in one; (start, end, step).
    """
    first, second = first % len(size), second % len(size)
    others = [d for d in range(len(size)) if d not in (first, second)]
    rows, columns = size[first], size[second]
    count = max(0, min(rows, columns - offset) if offset >= 0 else min(rows + offset, columns))
    start = min(offset if offset >= 0 else -offset * columns, rows * columns)
    end = start + (count - 1) * (columns + 1) + 1 if count else start
    return [*others, first, second], [*(size[d] for d in others), rows * columns], (start, end, columns + 1)


@rule(aten.select_scatter.default)
def _select_scatter(b: Builder, node: fx.Node) -> Any:
    args: Any = node.args
    x, source, dim, index = args
    dim, index = dim % x.meta["val"].ndim, index % x.meta["val"].shape[dim]
    return _put(b, x, b.call(aten.unsqueeze.default, source, dim), dim, index)


@rule(aten.slice_scatter.default)
def _slice_scatter(b: Builder, node: fx.Node) -> Any:
    args: Any = node.args
    padded: Any = (*args, *(0, None, None, 1)[len(args) - 2 :])
    x, source, dim, start, end, step = padded
    dim %= x.meta["val"].ndim
    start, stop, _ = slice(start, end).indices(x.meta["val"].shape[dim])
    if step != 1 or stop <= start:
        return None
    return _put(b, x, source, dim, start)


def _put(b: Builder, x: Any, source: Any, dim: int, start: int) -> Any:
    """`x` with `source` from `start` on along `dim`."""
    size, length = x.meta["val"].shape[dim], source.meta["val"].shape[dim]
    if source.meta["val"].dtype != x.meta["val"].dtype:
        source = b.call(aten._to_copy.default, source, dtype=x.meta["val"].dtype)
    parts = [source]
    if start:
        parts.insert(0, b.call(aten.slice.Tensor, x, dim, 0, start))
    if start + length < size:
        parts.append(b.call(aten.slice.Tensor, x, dim, start + length, size))
    return b.call(aten.cat.default, parts, dim) if len(parts) > 1 else source


@rule(aten.hardtanh_backward.default)
def _hardtanh_backward(b: Builder, node: fx.Node) -> Any:
    args: Any = node.args
    dy, x, low, high = args
    for user in x.users:
        if user.target is aten.hardtanh.default and tuple(user.args[1:]) == (low, high):
            return b.call(aten.hardtanh_backward.default, dy, user, low, high)
    return None


@rule(aten.convolution_backward.default)
def _convolution_backward(b: Builder, node: fx.Node) -> Any:
    args: Any = node.args
    dy, x, w, _, stride, padding, dilation, transposed, _, groups, mask = args
    results: dict[int, fx.Node] = {}
    if mask[1]:
        dw = b.call(aten.convolution_backward.default, *args[:-1], [False, True, False])
        results[1] = _take(b, dw, 1)
    if mask[2]:
        dims = [d for d in range(dy.meta["val"].ndim) if d != 1]
        results[2] = b.call(aten.sum.dim_IntList, dy, dims)
    if mask[0]:
        if transposed:
            none = [0] * len(stride)
            results[0] = b.call(
                aten.convolution.default, dy, w, None, stride, padding, dilation, False, none, groups
            )
            # An output padding of a whole stride adds positions that no element of x reaches.
            for d, size in enumerate(x.meta["val"].shape[2:], start=2):
                if results[0].meta["val"].shape[d] > size:
                    results[0] = b.call(aten.slice.Tensor, results[0], d, 0, size)
        else:
            spatial = (v.meta["val"].shape[2:] for v in (x, dy, w))
            sizes = zip(*spatial, stride, padding, dilation)
            extra = [xs - ((ys - 1) * s - 2 * p + d * (k - 1) + 1) for xs, ys, k, s, p, d in sizes]
            results[0] = b.call(
                aten.convolution.default, dy, w, None, stride, padding, dilation, True, extra, groups
            )
    return results


def _take(b: Builder, node: fx.Node, index: int) -> fx.Node:
    got = b.graph.call_function(operator.getitem, (node, index))
    got.meta = {**node.meta, "val": node.meta["val"][index]}
    return got


def _per_channel(b: Builder, v: Any, ndim: int) -> fx.Node:
    return b.call(aten.reshape.default, v, [1, -1] + [1] * (ndim - 2))


def _bn_scale(b: Builder, w: Any, var: Any, eps: float) -> tuple[fx.Node, fx.Node]:
    """1/sqrt(var + eps) and the scale `weight / sqrt(var + eps)`, both [C]."""
    inv = b.call(aten.rsqrt.default, b.call(aten.add.Scalar, var, eps))
    return inv, (inv if w is None else b.call(aten.mul.Tensor, w, inv))


@rule(aten.native_batch_norm.default)
def _native_batch_norm(b: Builder, node: fx.Node) -> Any:
    args: Any = node.args
    x, w, bias, mean, var, training, _, eps = args
    if not training:
        return _scale_and_shift(b, x, w, bias, mean, var, eps)
    return _by_own_statistics(b, x, w, bias, eps, mean)


@rule(aten._native_batch_norm_legit.no_stats)
def _batch_norm_without_statistics(b: Builder, node: fx.Node) -> Any:
    args: Any = node.args
    x, w, bias, _, _, eps = args
    return _by_own_statistics(b, x, w, bias, eps)


def _by_own_statistics(
    b: Builder, x: Any, w: Any, bias: Any, eps: float, running_mean: Any = None
) -> dict[int, fx.Node]:
    sizes = _instances(x, running_mean)
    if sizes is None:
        return _by_batch(b, x, w, bias, eps)
    norm = b.call(aten.native_group_norm.default, x, w, bias, *sizes, eps)
    flat = [b.call(aten.reshape.default, _take(b, norm, i), [sizes[1]]) for i in (1, 2)]
    return {0: _take(b, norm, 0), 1: flat[0], 2: flat[1]}


@rule(aten._native_batch_norm_legit_functional.default)
def _batch_norm_in_training(b: Builder, node: fx.Node) -> Any:
    args: Any = node.args
    x, w, bias, running_mean, running_var, training, momentum, eps = args
    if not training:
        return None
    count = _count(x)
    mean, var = _batch_statistics(b, x)
    unbiased = b.call(aten.mul.Scalar, var, count / (count - 1))
    results = _by_batch(b, x, w, bias, eps, mean, var)
    for i, old, new in ((3, running_mean, mean), (4, running_var, unbiased)):
        kept = b.call(aten.mul.Scalar, old, 1 - momentum)
        results[i] = b.call(aten.add.Tensor, kept, b.call(aten.mul.Scalar, new, momentum))
    return results


def _count(x: Any) -> int:
    """Elements of x [N, C, ...] per channel."""
    return x.meta["val"].numel() // x.meta["val"].shape[1]


def _batch_statistics(b: Builder, x: Any) -> tuple[fx.Node, fx.Node]:
    """Mean and (biased) variance of each channel, [C]."""
    dims = [d for d in range(x.meta["val"].ndim) if d != 1]
    return b.call(aten.mean.dim, x, dims), b.call(aten.var.correction, x, dims, correction=0)


def _by_batch(
    b: Builder, x: Any, w: Any, bias: Any, eps: float, mean: Any = None, var: Any = None
) -> dict[int, fx.Node]:
    """Normalised by the batch, its mean [C], and its 1/sqrt(var + eps) [C]."""
    if mean is None or var is None:
        mean, var = _batch_statistics(b, x)
    inv, scale = _bn_scale(b, w, var, eps)
    return {0: _scaled_and_shifted(b, x, scale, bias, mean), 1: mean, 2: inv}


@rule(aten._native_batch_norm_legit_no_training.default)
def _batch_norm(b: Builder, node: fx.Node) -> Any:
    args: Any = node.args
    x, w, bias, mean, var, _, eps = args
    return _scale_and_shift(b, x, w, bias, mean, var, eps)


def _instances(x: Any, mean: Any) -> list[int] | None:
    """N, C, HW and groups of the group norm that a batch norm over its own statistics is, if it is one."""
    n, c, *space = x.meta["val"].shape
    return [n, c, math.prod(space), c] if mean is None and n == 1 else None


def _scale_and_shift(
    b: Builder, x: Any, w: Any, bias: Any, mean: Any, var: Any, eps: Any
) -> dict[int, fx.Node]:
    _, scale = _bn_scale(b, w, var, eps)
    return {0: _scaled_and_shifted(b, x, scale, bias, mean)}


def _scaled_and_shifted(b: Builder, x: Any, scale: Any, bias: Any, mean: Any) -> fx.Node:
    ndim = x.meta["val"].ndim
    shift = b.call(aten.neg.default, b.call(aten.mul.Tensor, mean, scale))
    if bias is not None:
        shift = b.call(aten.add.Tensor, bias, shift)
    scaled = b.call(aten.mul.Tensor, x, _per_channel(b, scale, ndim))
    return b.call(aten.add.Tensor, scaled, _per_channel(b, shift, ndim))


@rule(aten.native_batch_norm_backward.default)
def _batch_norm_backward(b: Builder, node: fx.Node) -> Any:
    args: Any = node.args
    dy, x, w, mean, var, center, rstd, training, eps, mask = args
    if training:
        sizes = _instances(x, mean)
        if sizes is None:
            return _by_batch_backward(b, dy, x, w, center, rstd, mask)
        center, rstd = (b.call(aten.reshape.default, v, [1, sizes[1]]) for v in (center, rstd))
        return _group_norm_gradients(b, (dy, x, center, rstd, w, *sizes), mask)
    ndim = x.meta["val"].ndim
    dims = [d for d in range(ndim) if d != 1]
    inv, scale = _bn_scale(b, w, var, eps)
    results: dict[int, fx.Node] = {}
    if mask[1]:
        centred = b.call(aten.sub.Tensor, x, _per_channel(b, mean, ndim))
        product = b.call(aten.sum.dim_IntList, b.call(aten.mul.Tensor, dy, centred), dims)
        results[1] = b.call(aten.mul.Tensor, product, inv)
    if mask[2]:
        results[2] = b.call(aten.sum.dim_IntList, dy, dims)
    if mask[0]:
        results[0] = b.call(aten.mul.Tensor, dy, _per_channel(b, scale, ndim))
    return results


def _by_batch_backward(
    b: Builder, dy: Any, x: Any, w: Any, mean: Any, inv: Any, mask: Any
) -> dict[int, fx.Node]:
    """With n elements per channel and xhat = (x - mean) inv (arXiv 1502.03167, section 3):

    dbeta = sum(dy), dgamma = sum(dy xhat), dx = w inv (dy - dbeta / n - xhat dgamma / n)
    """
    ndim, count = x.meta["val"].ndim, _count(x)
    dims = [d for d in range(ndim) if d != 1]
    centred = b.call(aten.sub.Tensor, x, _per_channel(b, mean, ndim))
    product = b.call(aten.sum.dim_IntList, b.call(aten.mul.Tensor, dy, centred), dims)
    dgamma = b.call(aten.mul.Tensor, product, inv)
    dbeta = b.call(aten.sum.dim_IntList, dy, dims)
    results = {1: dgamma, 2: dbeta}
    if mask[0]:
        slope = b.call(aten.mul.Scalar, b.call(aten.mul.Tensor, dgamma, inv), 1 / count)
        along = b.call(aten.mul.Tensor, centred, _per_channel(b, slope, ndim))
        level = _per_channel(b, b.call(aten.mul.Scalar, dbeta, 1 / count), ndim)
        rest = b.call(aten.sub.Tensor, b.call(aten.sub.Tensor, dy, along), level)
        scale = inv if w is None else b.call(aten.mul.Tensor, w, inv)
        results[0] = b.call(aten.mul.Tensor, rest, _per_channel(b, scale, ndim))
    return results


@rule(aten.native_layer_norm_backward.default)
def _layer_norm_backward(b: Builder, node: fx.Node) -> Any:
    args: Any = node.args
    dy, _, normalized, *_, mask = args
    results: dict[int, fx.Node] = {}
    if mask[2]:
        outer = dy.meta["val"].ndim - len(normalized)
        results[2] = b.call(aten.sum.dim_IntList, dy, list(range(outer))) if outer else dy
    for i in (0, 1):
        if mask[i]:
            one = b.call(aten.native_layer_norm_backward.default, *args[:-1], [i == 0, i == 1, False])
            results[i] = _take(b, one, i)
    return results


@rule(aten.native_group_norm_backward.default)
def _group_norm_backward(b: Builder, node: fx.Node) -> Any:
    args: Any = node.args
    return _group_norm_gradients(b, args[:-1], args[-1])


def _group_norm_gradients(b: Builder, args: tuple[Any, ...], mask: list[bool]) -> dict[int, fx.Node]:
    dy = args[0]
    results: dict[int, fx.Node] = {}
    if mask[2]:
        dims = [d for d in range(dy.meta["val"].ndim) if d != 1]
        results[2] = b.call(aten.sum.dim_IntList, dy, dims)
    if mask[0] or mask[1]:
        rest = b.call(aten.native_group_norm_backward.default, *args, [mask[0], mask[1], False])
        results |= {i: _take(b, rest, i) for i in (0, 1) if mask[i]}
    return results


@rule(aten._prelu_kernel.default)
def _prelu(b: Builder, node: fx.Node) -> Any:
    args: Any = node.args
    x, w = args
    return b.call(aten.where.self, b.call(aten.gt.Scalar, x, 0), x, b.call(aten.mul.Tensor, w, x))


@rule(aten._prelu_kernel_backward.default)
def _prelu_backward(b: Builder, node: fx.Node) -> Any:
    args: Any = node.args
    dy, x, w = args
    positive = b.call(aten.gt.Scalar, x, 0)
    dx = b.call(aten.where.self, positive, dy, b.call(aten.mul.Tensor, w, dy))
    dw = b.call(aten.masked_fill.Scalar, b.call(aten.mul.Tensor, dy, x), positive, 0.0)
    return {0: dx, 1: dw}


def hoist_weight_gradients(graph: Graph) -> Graph:
    """Move what serves one gradient only to right behind its operands.

    Autograd computes dX before dW, which keeps the saved activation alive beside dX. Computing dW
    first frees it earlier and never raises the peak.
    """
    from ..ir.reachability import dependence

    needs = dependence(graph)
    position = {node: i for i, node in enumerate(graph.fx.nodes)}
    for node in list(graph.nodes("backward")):
        if needs[node].bit_count() != 1 or not node.all_input_nodes:
            continue
        latest = max(node.all_input_nodes, key=lambda n: position[n])
        if latest.op == "placeholder" or latest.meta["phase"] == "forward":
            continue
        latest.append(node)
        position = {n: i for i, n in enumerate(graph.fx.nodes)}
    graph.fx.lint()
    return replace(graph)
