"""ONNX operators (opset 18), one function each: they take and return values, and know the result's shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from .value import Value, constant, make, make_many

OPSET = 18
INT64_MIN = -(2**63)


def ints(values: Sequence[int] | int) -> Value:
    """An int64 constant: a vector, or a scalar."""
    return constant(np.asarray(values, dtype=np.int64))


# ---------------------------------------------------------------- elementwise


def _unary(kind: str, **attributes: Any) -> Callable[[Value], Value]:
    return lambda x: make(kind, [x], x.shape, x.dtype, **attributes)


negative = _unary("Neg")
exp = _unary("Exp")
log = _unary("Log")
sqrt = _unary("Sqrt")
abs = _unary("Abs")
sign = _unary("Sign")
erf = _unary("Erf")
sin = _unary("Sin")
cos = _unary("Cos")
tan = _unary("Tan")
atan = _unary("Atan")
sinh = _unary("Sinh")
cosh = _unary("Cosh")
tanh = _unary("Tanh")
sigmoid = _unary("Sigmoid")
relu = _unary("Relu")
softplus = _unary("Softplus")
hard_sigmoid = _unary("HardSigmoid", alpha=1 / 6, beta=0.5)
floor = _unary("Floor")
ceiling = _unary("Ceil")
round_half_to_even = _unary("Round")
logical_not = _unary("Not")
bitwise_not = _unary("BitwiseNot")


def leaky_relu(x: Value, slope: float) -> Value:
    return make("LeakyRelu", [x], x.shape, x.dtype, alpha=float(slope))


def _binary(
    kind: str, result: torch.dtype | None = None, **attributes: Any
) -> Callable[[Value, Value], Value]:
    def made(a: Value, b: Value) -> Value:
        assert a.dtype == b.dtype, f"{kind} of {a.dtype} and {b.dtype}"
        return make(kind, [a, b], np.broadcast_shapes(a.shape, b.shape), result or a.dtype, **attributes)

    return made


add = _binary("Add")
subtract = _binary("Sub")
multiply = _binary("Mul")
divide = _binary("Div")
power = _binary("Pow")
maximum = _binary("Max")
minimum = _binary("Min")
mod = _binary("Mod", fmod=1)  # the sign is the dividend's
floor_mod = _binary("Mod")  # the sign is the divisor's; integers only
logical_and = _binary("And")
logical_or = _binary("Or")
logical_xor = _binary("Xor")
bitwise_and = _binary("BitwiseAnd")
bitwise_or = _binary("BitwiseOr")
bitwise_xor = _binary("BitwiseXor")
equal = _binary("Equal", torch.bool)
less = _binary("Less", torch.bool)
less_equal = _binary("LessOrEqual", torch.bool)
greater = _binary("Greater", torch.bool)
greater_equal = _binary("GreaterOrEqual", torch.bool)


def not_equal(a: Value, b: Value) -> Value:
    return logical_not(equal(a, b))


def select(condition: Value, a: Value, b: Value) -> Value:
    assert a.dtype == b.dtype
    size = np.broadcast_shapes(condition.shape, a.shape, b.shape)
    return make("Where", [condition, a, b], size, a.dtype)


def clip(x: Value, low: Value, high: Value) -> Value:
    return make("Clip", [x, low, high], x.shape, x.dtype)


def cast(x: Value, to: torch.dtype, onnx_type: int) -> Value:
    return make("Cast", [x], x.shape, to, to=onnx_type)


# ---------------------------------------------------------------- layout


def reshape(x: Value, size: Sequence[int]) -> Value:
    zero = {"allowzero": 1} if 0 in size else {}
    return make("Reshape", [x, ints(list(size))], size, x.dtype, **zero)


def transpose(x: Value, order: Sequence[int]) -> Value:
    return make("Transpose", [x], [x.shape[d] for d in order], x.dtype, perm=list(order))


def expand(x: Value, size: Sequence[int]) -> Value:
    return make("Expand", [x, ints(list(size))], np.broadcast_shapes(x.shape, tuple(size)), x.dtype)


def slice(x: Value, dims: Sequence[int], spans: Sequence[tuple[int, int, int]]) -> Value:
    """`x[start:stop:step]` along each of `dims`; starts and stops lie in the tensor."""
    size = list(x.shape)
    for d, span in zip(dims, spans, strict=True):
        size[d] = len(range(*span))
    start, stop, step = (ints([s[i] for s in spans]) for i in range(3))
    return make("Slice", [x, start, stop, ints(list(dims)), step], size, x.dtype)


def reverse(x: Value, dims: Sequence[int]) -> Value:
    n, dims = len(dims), [d % len(x.shape) for d in dims]
    bounds = ints([-1] * n), ints([INT64_MIN] * n), ints(dims), ints([-1] * n)
    return make("Slice", [x, *bounds], x.shape, x.dtype)


def concat(parts: Sequence[Value], dim: int) -> Value:
    size = list(parts[0].shape)
    size[dim] = sum(p.shape[dim] for p in parts)
    return make("Concat", parts, size, parts[0].dtype, axis=dim)


def split(x: Value, sizes: Sequence[int], dim: int) -> tuple[Value, ...]:
    dim %= len(x.shape)
    shapes = [[*x.shape[:dim], n, *x.shape[dim + 1 :]] for n in sizes]
    return make_many("Split", [x, ints(list(sizes))], shapes, [x.dtype] * len(sizes), axis=dim)


def pad(x: Value, before: Sequence[int], after: Sequence[int], value: Value) -> Value:
    """Constant padding; negative amounts crop."""
    size = [b + n + a for b, n, a in zip(before, x.shape, after, strict=True)]
    return make("Pad", [x, ints([*before, *after]), value], size, x.dtype, mode="constant")


def tile(x: Value, times: Sequence[int]) -> Value:
    return make("Tile", [x, ints(list(times))], [n * t for n, t in zip(x.shape, times)], x.dtype)


# ---------------------------------------------------------------- products and reductions


def matmul(a: Value, b: Value) -> Value:
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return make("MatMul", [a, b], [*batch, a.shape[-2], b.shape[-1]], a.dtype)


def gemm(x: Value, a: Value, b: Value) -> Value:
    """x + a b, all matrices."""
    return make("Gemm", [a, b, x], [a.shape[0], b.shape[1]], a.dtype)


def _reduction(kind: str) -> Callable[[Value, Sequence[int], bool], Value]:
    def made(x: Value, dims: Sequence[int], keepdim: bool) -> Value:
        size = [1 if i in dims else n for i, n in enumerate(x.shape) if keepdim or i not in dims]
        return make(kind, [x, ints(list(dims))], size, x.dtype, keepdims=int(keepdim))

    return made


reduce_sum = _reduction("ReduceSum")
reduce_mean = _reduction("ReduceMean")
reduce_max = _reduction("ReduceMax")
reduce_min = _reduction("ReduceMin")
reduce_prod = _reduction("ReduceProd")


def top_k(x: Value, k: int, dim: int, largest: bool) -> tuple[Value, ...]:
    """Values and indices, sorted; of equal values the first comes first."""
    size = [*x.shape[:dim], k, *x.shape[dim + 1 :]]
    shapes, dtypes = [size, size], [x.dtype, torch.int64]
    return make_many("TopK", [x, ints([k])], shapes, dtypes, axis=dim, largest=int(largest), sorted=1)


def cumsum(x: Value, dim: int) -> Value:
    return make("CumSum", [x, ints(dim)], x.shape, x.dtype)


# ---------------------------------------------------------------- gathers and scatters


def gather(x: Value, index: Value, dim: int) -> Value:
    return make("Gather", [x, index], [*x.shape[:dim], *index.shape, *x.shape[dim + 1 :]], x.dtype, axis=dim)


def gather_elements(x: Value, index: Value, dim: int) -> Value:
    return make("GatherElements", [x, index], index.shape, x.dtype, axis=dim)


def scatter_elements(x: Value, index: Value, source: Value, dim: int, accumulate: bool) -> Value:
    reduction = "add" if accumulate else "none"
    return make("ScatterElements", [x, index, source], x.shape, x.dtype, axis=dim, reduction=reduction)


def scatter_nd(x: Value, index: Value, source: Value) -> Value:
    """`index` [K, D], no row twice."""
    return make("ScatterND", [x, index, source], x.shape, x.dtype)


# ---------------------------------------------------------------- normalisation


def softmax(x: Value, dim: int) -> Value:
    return make("Softmax", [x], x.shape, x.dtype, axis=dim)


def log_softmax(x: Value, dim: int) -> Value:
    return make("LogSoftmax", [x], x.shape, x.dtype, axis=dim)


def layer_norm(x: Value, weight: Value, bias: Value | None, first: int, eps: float) -> tuple[Value, ...]:
    """Over the dimensions from `first` on: the result, mean and 1/sqrt(variance + eps)."""
    kept = [*x.shape[:first], *[1] * (len(x.shape) - first)]
    shapes, dtypes = [x.shape, kept, kept], [x.dtype] * 3
    return make_many("LayerNormalization", [x, weight, bias], shapes, dtypes, axis=first, epsilon=eps)


# ---------------------------------------------------------------- windows


def conv(x: Value, weight: Value, bias: Value | None, out: Sequence[int], **space: Any) -> Value:
    """x [N, I, *in], weight [O, I/G, *k] -> [N, O, *out]."""
    inputs = [x, weight] if bias is None else [x, weight, bias]
    return make("Conv", inputs, [x.shape[0], weight.shape[0], *out], x.dtype, **space)


def conv_transpose(x: Value, weight: Value, out: Sequence[int], group: int, **space: Any) -> Value:
    """x [N, I, *in], weight [I, O/G, *k] -> [N, O, *out]."""
    size = [x.shape[0], weight.shape[1] * group, *out]
    return make("ConvTranspose", [x, weight], size, x.dtype, group=group, **space)


def max_pool(x: Value, out: Sequence[int], **space: Any) -> Value:
    return make("MaxPool", [x], [*x.shape[:2], *out], x.dtype, **space)


def average_pool(x: Value, out: Sequence[int], **space: Any) -> Value:
    return make("AveragePool", [x], [*x.shape[:2], *out], x.dtype, **space)
