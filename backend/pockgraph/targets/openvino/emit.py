"""Small helpers that make OpenVINO nodes: every one takes and returns `ov.Output`s of static shape.

They drop what would do nothing (a reshape to the same shape, the identity permutation), because
such nodes can hide a pattern from the fusions of OpenVINO's plugins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from ...runtime.quiet_openvino import ov
from ..shared.geometry import Geometry

op = ov.opset15  # not imported: whatever imports openvino first must do it quietly
Value = ov.Output


class _Native:
    """OpenVINO's operators of one result as functions that give a value."""

    # The CPU plugin finds NaN greater than any number, and not less.
    def greater(self, a: Value, b: Value) -> Value:
        return op.less(b, a).output(0)

    def greater_equal(self, a: Value, b: Value) -> Value:
        return op.less_equal(b, a).output(0)

    def __getattr__(self, name: str) -> Callable[..., Value]:
        return lambda *xs: getattr(op, name)(*xs).output(0)


native = _Native()

OV_TYPES = {
    torch.float32: ov.Type.f32,
    torch.float64: ov.Type.f64,
    torch.float16: ov.Type.f16,
    torch.int64: ov.Type.i64,
    torch.int32: ov.Type.i32,
    torch.int16: ov.Type.i16,
    torch.int8: ov.Type.i8,
    torch.uint8: ov.Type.u8,
    torch.bool: ov.Type.boolean,
}
TORCH_TYPES = {v.get_type_name(): k for k, v in OV_TYPES.items()}
_NUMPY_TYPES = {
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.float16: np.float16,
    torch.int64: np.int64,
    torch.int32: np.int32,
    torch.int16: np.int16,
    torch.int8: np.int8,
    torch.uint8: np.uint8,
    torch.bool: np.bool_,
}


def shape(x: Value) -> tuple[int, ...]:
    return tuple(x.get_shape())


def rank(x: Value) -> int:
    return len(x.get_shape())


def dtype(x: Value) -> torch.dtype:
    return TORCH_TYPES[x.get_element_type().get_type_name()]


def axis(dim: int, ndim: int) -> int:
    """`dim` counted from the front."""
    return dim % max(ndim, 1)


# ---------------------------------------------------------------- constants


def const(value: object, dtype: torch.dtype) -> Value:
    """A constant from numbers or an array."""
    return array(np.asarray(value, dtype=_NUMPY_TYPES[dtype]))


def array(value: np.ndarray) -> Value:
    return ov.op.Constant(np.ascontiguousarray(value).reshape(value.shape)).output(0)


def ints(values: Sequence[int] | int) -> Value:
    """An i64 constant: a vector, or a scalar."""
    return array(np.asarray(values, dtype=np.int64))


def tensor(value: torch.Tensor) -> Value:
    """A constant that shares the memory of a CPU tensor (where it is contiguous)."""
    data = value.detach().contiguous().numpy()
    return ov.op.Constant(data, shared_memory=data.size > 0).output(0)


def like(value: complex, x: Value) -> Value:
    """A scalar constant of the dtype of `x`."""
    return const(value, dtype(x))


def is_constant(x: Value) -> bool:
    """Whether `x` depends on constants alone: OpenVINO then computes and packs it when it compiles."""
    sources = x.get_node().input_values()
    return all(is_constant(s) for s in sources) if sources else isinstance(x.get_node(), ov.op.Constant)


def full(value: complex, size: Sequence[int], dtype: torch.dtype) -> Value:
    """A constant tensor, stored as one number."""
    scalar = const(value, dtype)
    return broadcast(scalar, size) if len(size) else scalar


# ---------------------------------------------------------------- elementwise


def convert(x: Value, to: torch.dtype) -> Value:
    """A cast; to bool, it is a comparison with zero as in PyTorch."""
    if dtype(x) == to:
        return x
    if to == torch.bool:
        return op.not_equal(x, like(0, x)).output(0)
    return op.convert(x, OV_TYPES[to].get_type_name()).output(0)


def lean(*xs: Value) -> list[Value]:
    """Operands without an expansion that the other operands' shapes imply anyway."""
    whole = [x for x in xs if x.get_node().get_type_name() != "Broadcast"]
    return [
        x.get_node().input_value(0) if x not in whole and any(shape(w) == shape(x) for w in whole) else x
        for x in xs
    ]


def add(a: Value, b: Value) -> Value:
    return op.add(*lean(a, b)).output(0)


def sub(a: Value, b: Value) -> Value:
    return op.subtract(*lean(a, b)).output(0)


def mul(a: Value, b: Value) -> Value:
    a, b = lean(a, b)
    return op.multiply(_with_channels_of(b, a), _with_channels_of(a, b)).output(0)


def div(a: Value, b: Value) -> Value:
    a, b = lean(a, b)
    return op.divide(_with_channels_of(b, a), b).output(0)


def _with_channels_of(factor: Value, x: Value) -> Value:
    """`x` [N, 1, …] as [N, C, …] before a constant `factor` [1, C, 1, …] does that.

    OpenVINO (2026.4) moves such a factor into the weight of any convolution that reads the product, and
    cannot compile the convolution of one channel that is left. A broadcast is what it would leave out.
    """
    ndim = max(rank(x), rank(factor))
    size, other = ([*[1] * (ndim - rank(v)), *shape(v)] for v in (x, factor))
    if ndim < 3 or size[1] != 1 or other[1] == 1 or math.prod(other) != other[1] or not is_constant(factor):
        return x
    return tile(x, [other[1] if i == 1 else 1 for i in range(ndim)])


def scale(x: Value, factor: float) -> Value:
    if factor == 1:
        return x
    if x.get_node().get_type_name() == "Broadcast":
        return broadcast(scale(x.get_node().input_value(0), factor), shape(x))
    return mul(x, like(factor, x))


def select(condition: Value, a: Value, b: Value) -> Value:
    condition, a, b = lean(condition, a, b)
    if dtype(a) == dtype(b) == torch.bool:  # the CPU plugin's Select takes numbers only
        taken = native.logical_and(condition, a)
        return native.logical_or(taken, native.logical_and(native.logical_not(condition), b))
    return op.select(condition, a, b).output(0)


def keep_where(mask: Value, x: Value) -> Value:
    """`x` where the boolean `mask` is set, else 0."""
    return select(mask, x, like(0, x))


def drop_gradient(mask: Value, dy: Value) -> Value:
    """0 where the boolean `mask` is set, else `dy`."""
    return select(mask, like(0, dy), dy)


keep_gradient = keep_where


def clamp(x: Value, low: float, high: float) -> Value:
    return op.clamp(x, float(low), float(high)).output(0)


# ---------------------------------------------------------------- layout


def reshape(x: Value, size: Sequence[int]) -> Value:
    """`x` with another shape, in which one size may be -1."""
    if -1 in size:
        rest = math.prod(shape(x)) // max(math.prod(s for s in size if s != -1), 1)
        size = [rest if s == -1 else s for s in size]
    if x.get_node().get_type_name() == "Reshape":
        x = x.get_node().input_value(0)  # one reshape does what two do
    if shape(x) == tuple(size):
        return x
    if not size:  # a Reshape to no dimensions, of a product, ends the process while it is compiled
        return op.squeeze(x).output(0)
    return op.reshape(x, ints(list(size)), False).output(0)


def transpose(x: Value, order: Sequence[int]) -> Value:
    order = [axis(d, rank(x)) for d in order]
    if order == list(range(rank(x))):
        return x
    return op.transpose(x, ints(order)).output(0)


def swap(x: Value, a: int = -1, b: int = -2) -> Value:
    """`x` with two dimensions exchanged."""
    order = list(range(rank(x)))
    order[a], order[b] = order[b], order[a]
    return transpose(x, order)


def broadcast(x: Value, size: Sequence[int]) -> Value:
    if shape(x) == tuple(size):
        return x
    return op.broadcast(x, ints(list(size)), broadcast_spec="BIDIRECTIONAL").output(0)


def unsqueeze(x: Value, dims: Sequence[int]) -> Value:
    """`x` with dimensions of size 1 at `dims` of the result."""
    size, old = [], iter(shape(x))
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
    dim = axis(dim, rank(x))
    if (start, stop, step) == (0, shape(x)[dim], 1):
        return x
    return op.slice(x, ints([start]), ints([stop]), ints([step]), ints([dim])).output(0)


def cut_many(x: Value, dims: Sequence[int], spans: Sequence[tuple[int, int, int]]) -> Value:
    """`cut` along several dimensions at once; spans are (start, stop, step)."""
    kept = [(d, s) for d, s in zip(dims, spans, strict=True) if s != (0, shape(x)[d], 1)]
    if not kept:
        return x
    start, stop, step = (ints([s[i] for _, s in kept]) for i in range(3))
    return op.slice(x, start, stop, step, ints([d for d, _ in kept])).output(0)


def flip(x: Value, dims: Sequence[int]) -> Value:
    """`x` reversed along `dims`."""
    dims = [d for d in dims if shape(x)[d] > 1]
    if not dims:
        return x
    n = len(dims)
    low = ints([-(2**31)] * n)
    return op.slice(x, ints([-1] * n), low, ints([-1] * n), ints(dims)).output(0)


def own_copy(x: Value) -> Value:
    """A constant's numbers in memory of their own.

    OpenVINO's CPU plugin (2026.4) keeps packed weights by address and shape. A square weight that a
    convolution and its transpose share would be packed for one and taken by the other: a wrong
    gradient, without a word. Turned around twice it is folded into another constant.
    """
    axis = next((d for d, s in enumerate(shape(x)) if s > 1), None)
    return x if axis is None else flip(flip(x, [axis]), [axis])


def split(x: Value, sizes: Sequence[int], dim: int) -> tuple[Value, ...]:
    if len(sizes) == 1:
        return (x,)
    return tuple(op.variadic_split(x, ints(dim), ints(list(sizes))).outputs())


def tile(x: Value, times: Sequence[int]) -> Value:
    return op.tile(x, ints(list(times))).output(0)


def pieces(x: Value, count: int, dim: int) -> list[Value]:
    """`x` in `count` parts of the same size along `dim`."""
    return [x] if count == 1 else list(op.split(x, ints(dim), count).outputs())


def concat(parts: Sequence[Value], dim: int) -> Value:
    return parts[0] if len(parts) == 1 else op.concat(list(parts), dim).output(0)


def pad(x: Value, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> Value:
    """Constant padding; negative amounts crop."""
    if not any(before) and not any(after):
        return x
    return op.pad(x, ints(list(before)), ints(list(after)), "constant", like(value, x)).output(0)


# ---------------------------------------------------------------- products and sums


def matmul(a: Value, b: Value, transpose_a: bool = False, transpose_b: bool = False) -> Value:
    return op.matmul(a, b, transpose_a, transpose_b).output(0)


def total(x: Value, dims: Sequence[int], keepdim: bool = False) -> Value:
    """The sum over `dims`."""
    dims = [axis(d, rank(x)) for d in dims]
    if all(shape(x)[d] == 1 for d in dims):
        return x if keepdim else reshape(x, [s for i, s in enumerate(shape(x)) if i not in dims])
    return op.reduce_sum(x, ints(dims), keepdim).output(0)


def mean(x: Value, dims: Sequence[int], keepdim: bool = False) -> Value:
    dims = [axis(d, rank(x)) for d in dims]
    if not dims or rank(x) == 0:
        return x
    return op.reduce_mean(x, ints(dims), keepdim).output(0)


def reduced(kind: str, x: Value, dims: Sequence[int], keepdim: bool) -> Value:
    """By `max`, `min`, `prod`, `logical_or` or `logical_and`, over `dims` counted from the front.

    The CPU's reductions begin with the largest finite number, so alone they never give back an infinity.
    """
    found = getattr(op, f"reduce_{kind}")(x, ints(dims), keepdim).output(0)
    if kind not in ("max", "min") or not dtype(x).is_floating_point:
        return found
    limit = like(-math.inf if kind == "max" else math.inf, x)
    nothing = op.reduce_logical_and(op.equal(x, limit), ints(dims), keepdim).output(0)
    return op.select(nothing, limit, found).output(0)


def top(x: Value, k: int, dim: int, largest: bool) -> tuple[Value, Value]:
    """Values and indices, sorted; of equal values the first comes first."""
    found = op.topk(x, ints(k), dim, "max" if largest else "min", "value", "i64", stable=True)
    return found.output(0), found.output(1)


def cumsum(x: Value, dim: int) -> Value:
    return op.cumsum(x, ints(dim)).output(0)


def addmm(x: Value, a: Value, b: Value) -> Value:
    """x + a b, all matrices."""
    return add(x, matmul(a, b))


# ---------------------------------------------------------------- indices


def gather(x: Value, index: Value, dim: int) -> Value:
    return op.gather(x, index, ints(dim)).output(0)


def scatter(x: Value, index: Value, source: Value, dim: int, accumulate: bool) -> Value:
    return op.scatter_elements_update(x, index, source, ints(dim), "sum" if accumulate else "none").output(0)


def scatter_rows(x: Value, rows: Value, source: Value, accumulate: bool) -> Value:
    """x [P, R] with `source` [K, R] put (or added) at the row numbers `rows` [K]."""
    index = unsqueeze(rows, [1])
    return op.scatter_nd_update(x, index, source, "sum" if accumulate else "none").output(0)


# ---------------------------------------------------------------- windows

Pair = Sequence[int]


def max_pool(x: Value, out: Pair, k: Pair, s: Pair, before: Pair, after: Pair, d: Pair) -> Value:
    return op.max_pool(x, list(s), list(d), list(before), list(after), list(k)).output(0)


def average_pool(x: Value, out: Pair, k: Pair, s: Pair, p: Pair, include_pad: bool) -> Value:
    return op.avg_pool(x, list(s), list(p), list(p), list(k), not include_pad).output(0)


def convolve(x: Value, g: Geometry, weight: Value, bias: Value | None = None) -> Value:
    """x [N, I, *in], weight [O, I/G, *k] -> [N, O, *out]."""
    space = list(g.stride), list(g.before), list(g.after), list(g.dilation)
    if g.groups == 1:
        y = op.convolution(x, weight, *space).output(0)
    else:
        y = op.group_convolution(x, _in_groups(weight, g.groups), *space).output(0)
    return y if bias is None else add(y, per_channel(bias, rank(y)))


def _in_groups(weight: Value, groups: int) -> Value:
    """weight [O, I/G, *k] as [G, O/G, I/G, *k].

    OpenVINO (2026.4) moves a constant factor behind a grouped convolution in front of the `Reshape`
    of its weight, and with that into everything else that reads the same reshaped weight: its own
    transpose in the backward. So a trained weight gets there by way of a transpose.
    """
    o, *rest = shape(weight)
    size = [groups, o // groups, *rest]
    if is_constant(weight):
        return reshape(weight, size)
    ndim = len(rest)
    last = reshape(transpose(weight, [*range(1, ndim + 1), 0]), [*rest, *size[:2]])
    return transpose(last, [ndim, ndim + 1, *range(ndim)])


def convolve_transposed(x: Value, g: Geometry, weight: Value, out: Sequence[int]) -> Value:
    """x [N, I, *in], weight [I, O/G, *k] -> [N, O, *out]."""
    if is_constant(weight) and shape(weight)[0] == g.groups * shape(weight)[1]:
        weight = own_copy(weight)
    behind = g.behind(out, shape(x)[2:])
    # Padding gives `out`; where it would be negative, `output_padding` adds instead.
    pads, extra = [max(b, 0) for b in behind], [max(-b, 0) for b in behind]
    space = list(g.stride), None, list(g.before), pads, list(g.dilation)
    if g.groups == 1:
        return op.convolution_backprop_data(x, weight, *space, output_padding=extra).output(0)
    i, *rest = shape(weight)
    weight = reshape(weight, [g.groups, i // g.groups, *rest])
    return op.group_convolution_backprop_data(x, weight, *space, output_padding=extra).output(0)
