"""Small helpers over the operators of `op`; every one takes and returns values of static shape.

They drop what would do nothing (a reshape to the same shape, the identity permutation), because
such nodes can hide a pattern from the fusions of a runtime.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from onnx import TensorProto

from ..shared.geometry import Geometry
from . import op
from . import op as native  # noqa: F401  for the rules that targets share
from .value import NUMPY_TYPES, Value, constant, is_constant

TYPES: dict[torch.dtype, int] = {
    torch.float32: TensorProto.FLOAT,
    torch.float64: TensorProto.DOUBLE,
    torch.float16: TensorProto.FLOAT16,
    torch.int64: TensorProto.INT64,
    torch.int32: TensorProto.INT32,
    torch.int16: TensorProto.INT16,
    torch.int8: TensorProto.INT8,
    torch.uint8: TensorProto.UINT8,
    torch.bool: TensorProto.BOOL,
}


def shape(x: Value) -> tuple[int, ...]:
    return x.shape


def rank(x: Value) -> int:
    return len(x.shape)


def dtype(x: Value) -> torch.dtype:
    return x.dtype


def axis(dim: int, ndim: int) -> int:
    """`dim` counted from the front."""
    return dim % max(ndim, 1)


# ---------------------------------------------------------------- constants


def const(value: object, dtype: torch.dtype) -> Value:
    """A constant from numbers or an array."""
    return constant(np.asarray(value, dtype=NUMPY_TYPES[dtype]))


def tensor(value: torch.Tensor, name: str = "") -> Value:
    """A constant that shares the memory of a CPU tensor (where it is contiguous)."""
    return constant(value.detach().contiguous().numpy(), name)


def like(value: complex, x: Value) -> Value:
    """A scalar constant of the dtype of `x`."""
    return const(value, x.dtype)


def full(value: complex, size: Sequence[int], dtype: torch.dtype) -> Value:
    """A constant tensor, stored as one number."""
    return broadcast(const(value, dtype), size)


# ---------------------------------------------------------------- elementwise


def convert(x: Value, to: torch.dtype) -> Value:
    """A cast; to bool, everything but zero is true."""
    return x if x.dtype == to else op.cast(x, to, TYPES[to])


def lean(*xs: Value) -> list[Value]:
    """Operands without an expansion that the other operands' shapes imply anyway."""
    whole = [x for x in xs if x.kind != "Expand"]
    return [
        x.node.inputs[0] or x if x not in whole and any(w.shape == x.shape for w in whole) else x for x in xs
    ]


def add(a: Value, b: Value) -> Value:
    return op.add(*lean(a, b))


def sub(a: Value, b: Value) -> Value:
    return op.subtract(*lean(a, b))


def mul(a: Value, b: Value) -> Value:
    return op.multiply(*lean(a, b))


def div(a: Value, b: Value) -> Value:
    return op.divide(*lean(a, b))


def scale(x: Value, factor: float) -> Value:
    if factor == 1:
        return x
    if x.kind == "Expand":
        return broadcast(scale(x.node.inputs[0], factor), x.shape)  # pyright: ignore
    return mul(x, like(factor, x))


def select(condition: Value, a: Value, b: Value) -> Value:
    condition, a, b = lean(condition, a, b)
    if a.dtype == b.dtype == torch.bool:  # ONNX Runtime's Where takes numbers only
        taken = op.logical_and(condition, a)
        return op.logical_or(taken, op.logical_and(op.logical_not(condition), b))
    return op.select(condition, a, b)


def keep_where(mask: Value, x: Value) -> Value:
    """`x` where the boolean `mask` is set, else 0."""
    return select(mask, x, like(0, x))


def clamp(x: Value, low: float, high: float) -> Value:
    return op.clip(x, like(low, x), like(high, x))


# ---------------------------------------------------------------- layout


def reshape(x: Value, size: Sequence[int]) -> Value:
    """`x` with another shape, in which one size may be -1."""
    if -1 in size:
        rest = math.prod(x.shape) // max(math.prod(s for s in size if s != -1), 1)
        size = [rest if s == -1 else s for s in size]
    if x.kind == "Reshape":
        x = x.node.inputs[0] or x  # one reshape does what two do
    return x if x.shape == tuple(size) else op.reshape(x, size)


def transpose(x: Value, order: Sequence[int]) -> Value:
    order = [axis(d, rank(x)) for d in order]
    return x if order == list(range(rank(x))) else op.transpose(x, order)


def swap(x: Value, a: int = -1, b: int = -2) -> Value:
    """`x` with two dimensions exchanged."""
    order = list(range(rank(x)))
    order[a], order[b] = order[b], order[a]
    return transpose(x, order)


def broadcast(x: Value, size: Sequence[int]) -> Value:
    return x if x.shape == tuple(size) else op.expand(x, size)


def unsqueeze(x: Value, dims: Sequence[int]) -> Value:
    """`x` with dimensions of size 1 at `dims` of the result."""
    size, old = [], iter(x.shape)
    ndim = rank(x) + len(dims)
    where = {axis(d, ndim) for d in dims}
    for i in range(ndim):
        size.append(1 if i in where else next(old))
    return reshape(x, size)


def per_channel(x: Value, ndim: int) -> Value:
    """`[C]` as `[1, C, 1, …]`, for tensors of `ndim` dimensions."""
    return reshape(x, [1, -1, *[1] * (ndim - 2)])


def cut(x: Value, dim: int, start: int, stop: int, step: int = 1) -> Value:
    """`x[start:stop:step]` along one dimension; 0 <= start <= stop <= size."""
    return cut_many(x, [axis(dim, rank(x))], [(start, stop, step)])


def cut_many(x: Value, dims: Sequence[int], spans: Sequence[tuple[int, int, int]]) -> Value:
    """`cut` along several dimensions at once; spans are (start, stop, step)."""
    kept = [(d, s) for d, s in zip(dims, spans, strict=True) if s != (0, x.shape[d], 1)]
    return op.slice(x, [d for d, _ in kept], [s for _, s in kept]) if kept else x


def flip(x: Value, dims: Sequence[int]) -> Value:
    """`x` reversed along `dims`."""
    dims = [axis(d, rank(x)) for d in dims]
    dims = [d for d in dims if x.shape[d] > 1]
    return op.reverse(x, dims) if dims else x


def split(x: Value, sizes: Sequence[int], dim: int) -> tuple[Value, ...]:
    return (x,) if len(sizes) == 1 else op.split(x, sizes, axis(dim, rank(x)))


tile = op.tile


def pieces(x: Value, count: int, dim: int) -> list[Value]:
    """`x` in `count` parts of the same size along `dim`."""
    return [x] if count == 1 else list(op.split(x, [x.shape[dim] // count] * count, dim))


def concat(parts: Sequence[Value], dim: int) -> Value:
    return parts[0] if len(parts) == 1 else op.concat(list(parts), dim)


def pad(x: Value, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> Value:
    """Constant padding; negative amounts crop."""
    return op.pad(x, before, after, like(value, x)) if any(before) or any(after) else x


# ---------------------------------------------------------------- products and sums


def matmul(a: Value, b: Value, transpose_a: bool = False, transpose_b: bool = False) -> Value:
    """Transposes stay nodes of their own: runtimes fold them into their matrix product."""
    return op.matmul(swap(a) if transpose_a else a, swap(b) if transpose_b else b)


def addmm(x: Value, a: Value, b: Value) -> Value:
    """x + a b, all matrices."""
    return op.gemm(x, a, b)


def fmod(a: Value, b: Value) -> Value:
    return op.mod(a, b)


exact_ratio = div


def reduced(kind: str, x: Value, dims: Sequence[int], keepdim: bool) -> Value:
    """By `max`, `min`, `prod`, `logical_or` or `logical_and`, over `dims` counted from the front."""
    kind = {"logical_or": "max", "logical_and": "min"}.get(kind, kind)
    numbers = convert(x, torch.int32) if x.dtype == torch.bool else x  # ONNX reduces numbers only
    return convert(getattr(op, f"reduce_{kind}")(numbers, dims, keepdim), x.dtype)


def top(x: Value, k: int, dim: int, largest: bool) -> tuple[Value, Value]:
    """Values and indices, sorted; of equal values the first comes first."""
    numbers = convert(x, torch.int32) if x.dtype == torch.bool else x  # ONNX ranks numbers only
    values, indices = op.top_k(numbers, k, dim, largest)
    return convert(values, x.dtype), indices


cumsum = op.cumulative_sum


def total(x: Value, dims: Sequence[int], keepdim: bool = False) -> Value:
    """The sum over `dims`."""
    dims = [axis(d, rank(x)) for d in dims]
    if all(x.shape[d] == 1 for d in dims):
        return x if keepdim else reshape(x, [s for i, s in enumerate(x.shape) if i not in dims])
    return op.reduce_sum(x, dims, keepdim)


def mean(x: Value, dims: Sequence[int], keepdim: bool = False) -> Value:
    dims = [axis(d, rank(x)) for d in dims]
    return op.reduce_mean(x, dims, keepdim) if dims and rank(x) else x


# ---------------------------------------------------------------- indices


def gather(x: Value, index: Value, dim: int) -> Value:
    return op.gather(x, index, dim)


def scatter(x: Value, index: Value, source: Value, dim: int, accumulate: bool) -> Value:
    return op.scatter_elements(x, index, source, dim, accumulate)


def scatter_rows(x: Value, rows: Value, source: Value, accumulate: bool) -> Value:
    """x [P, R] with `source` [K, R] put (or added) at the row numbers `rows` [K]."""
    index = unsqueeze(rows, [1])
    if not accumulate:
        return op.scatter_nd(x, index, source)
    # Not ScatterND: ONNX Runtime's adds in parallel, and loses what two threads add to one row.
    return op.scatter_elements(x, broadcast(index, source.shape), source, 0, accumulate)


# ---------------------------------------------------------------- windows

Pair = Sequence[int]


def max_pool(x: Value, out: Pair, k: Pair, s: Pair, before: Pair, after: Pair, d: Pair) -> Value:
    if any(n >= m for n, m in zip((*before, *after), (*k, *k))):  # ONNX Runtime pads less than a window
        x = pad(x, [0, 0, *before], [0, 0, *after], torch.finfo(x.dtype).min)
        before = after = (0, 0)
    pads = [*before, *after]
    return op.max_pool(x, out, kernel_shape=list(k), strides=list(s), dilations=list(d), pads=pads)


def average_pool(x: Value, out: Pair, k: Pair, s: Pair, p: Pair, include_pad: bool) -> Value:
    space = {"kernel_shape": list(k), "strides": list(s), "pads": [*p, *p]}
    return op.average_pool(x, out, **space, count_include_pad=int(include_pad))


def convolve(x: Value, g: Geometry, weight: Value, bias: Value | None = None) -> Value:
    """x [N, I, *in], weight [O, I/G, *k] -> [N, O, *out]."""
    # ONNX Runtime has fast kernels for convolutions of which all is constant: a trained bias stands apart.
    apart = bias is not None and is_constant(weight) and not is_constant(bias)
    pads = [*g.before, *g.after]
    y = op.conv(x, weight, None if apart else bias, g.out(x.shape[2:]), pads=pads, **_space(g))
    return add(y, per_channel(bias, rank(y))) if bias is not None and apart else y


def convolve_transposed(x: Value, g: Geometry, weight: Value, out: Sequence[int]) -> Value:
    """x [N, I, *in], weight [I, O/G, *k] -> [N, O, *out]."""
    behind = g.behind(out, x.shape[2:])
    # Padding gives `out`; where it would be negative, `output_padding` adds instead.
    pads, extra = [max(b, 0) for b in behind], [max(-b, 0) for b in behind]
    return op.conv_transpose(x, weight, out, pads=[*g.before, *pads], output_padding=extra, **_space(g))


def _space(g: Geometry) -> dict[str, Any]:
    return {
        "kernel_shape": list(g.kernel),
        "strides": list(g.stride),
        "dilations": list(g.dilation),
        "group": g.groups,
    }
