"""What rules write OpenVINO's graphs with: values are `ov.Output`s."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ...runtime.quiet_openvino import ov
from ..shared.emitter import NUMPY_TYPES, Emitter
from ..shared.geometry import Geometry

op = ov.opset15  # not imported: whatever imports openvino first must do it quietly
Value = ov.Output
Pair = Sequence[int]

OV_TYPES = {dtype: ov.Type(number) for dtype, number in NUMPY_TYPES.items()}
TORCH_TYPES = {v.get_type_name(): k for k, v in OV_TYPES.items()}


def array(value: np.ndarray) -> Value:
    return ov.op.Constant(np.ascontiguousarray(value).reshape(value.shape)).output(0)


def ints(values: Sequence[int] | int) -> Value:
    """An i64 constant: a vector, or a scalar."""
    return array(np.asarray(values, dtype=np.int64))


def is_constant(x: Value) -> bool:
    """Whether `x` depends on constants alone: OpenVINO then computes and packs it when it compiles."""
    sources = x.get_node().input_values()
    return all(is_constant(s) for s in sources) if sources else isinstance(x.get_node(), ov.op.Constant)


class _Native:
    """OpenVINO's operators of one result as functions that give a value."""

    def __getattr__(self, name: str) -> Callable[..., Value]:
        return lambda *xs: getattr(op, name)(*xs).output(0)

    # The CPU plugin finds NaN greater than any number, and not less.
    def greater(self, a: Value, b: Value) -> Value:
        return op.less(b, a).output(0)

    def greater_equal(self, a: Value, b: Value) -> Value:
        return op.less_equal(b, a).output(0)

    def hard_sigmoid(self, x: Value) -> Value:
        return op.hard_sigmoid(x, emit.scalar(1 / 6, x), emit.scalar(0.5, x)).output(0)

    def round_half_to_even(self, x: Value) -> Value:
        return op.round(x, "half_to_even").output(0)

    def leaky_relu(self, x: Value, slope: float) -> Value:
        return op.prelu(x, emit.const([slope], emit.dtype(x))).output(0)

    def reshape(self, x: Value, size: Sequence[int]) -> Value:
        if not size:  # a Reshape to no dimensions, of a product, ends the process while it is compiled
            return op.squeeze(x).output(0)
        return op.reshape(x, ints(list(size)), False).output(0)

    def transpose(self, x: Value, order: Sequence[int]) -> Value:
        return op.transpose(x, ints(list(order))).output(0)

    def expand(self, x: Value, size: Sequence[int]) -> Value:
        return op.broadcast(x, ints(list(size)), broadcast_spec="BIDIRECTIONAL").output(0)

    def tile(self, x: Value, times: Sequence[int]) -> Value:
        return op.tile(x, ints(list(times))).output(0)

    def slice(self, x: Value, dims: Sequence[int], spans: Sequence[tuple[int, int, int]]) -> Value:
        start, stop, step = (ints([s[i] for s in spans]) for i in range(3))
        return op.slice(x, start, stop, step, ints(list(dims))).output(0)

    def reverse(self, x: Value, dims: Sequence[int]) -> Value:
        start, stop, step = ([number] * len(dims) for number in (-1, -(2**31), -1))
        return op.slice(x, ints(start), ints(stop), ints(step), ints(list(dims))).output(0)

    def split(self, x: Value, sizes: Sequence[int], dim: int) -> list[Value]:
        return op.variadic_split(x, ints(dim), ints(list(sizes))).outputs()

    def concat(self, parts: Sequence[Value], dim: int) -> Value:
        return op.concat(list(parts), dim).output(0)

    def pad(self, x: Value, before: Sequence[int], after: Sequence[int], value: Value) -> Value:
        return op.pad(x, ints(list(before)), ints(list(after)), "constant", value).output(0)

    def reduce_sum(self, x: Value, dims: Sequence[int], keepdim: bool) -> Value:
        return op.reduce_sum(x, ints(list(dims)), keepdim).output(0)

    def reduce_mean(self, x: Value, dims: Sequence[int], keepdim: bool) -> Value:
        return op.reduce_mean(x, ints(list(dims)), keepdim).output(0)

    def cumsum(self, x: Value, dim: int) -> Value:
        return op.cumsum(x, ints(dim)).output(0)

    def gather(self, x: Value, index: Value, dim: int) -> Value:
        return op.gather(x, index, ints(dim)).output(0)

    def scatter_elements(self, x: Value, index: Value, source: Value, dim: int, accumulate: bool) -> Value:
        how = "sum" if accumulate else "none"
        return op.scatter_elements_update(x, index, source, ints(dim), how).output(0)


class OpenVINOEmitter(Emitter[Value]):
    native = _Native()
    expansion = "Broadcast"

    def shape(self, x: Value) -> tuple[int, ...]:
        return tuple(x.get_shape())

    def dtype(self, x: Value) -> torch.dtype:
        return TORCH_TYPES[x.get_element_type().get_type_name()]

    def array(self, value: np.ndarray) -> Value:
        return array(value)

    def tensor(self, value: torch.Tensor) -> Value:
        """A constant that shares the memory of a CPU tensor (where it is contiguous)."""
        data = value.detach().contiguous().numpy()
        return ov.op.Constant(data, shared_memory=data.size > 0).output(0)

    def convert(self, x: Value, to: torch.dtype) -> Value:
        if self.dtype(x) == to:
            return x
        if to == torch.bool:
            return op.not_equal(x, self.scalar(0, x)).output(0)
        return op.convert(x, OV_TYPES[to].get_type_name()).output(0)

    def source(self, x: Value, kind: str) -> Value | None:
        return x.get_node().input_value(0) if x.get_node().get_type_name() == kind else None

    # ---------------------------------------------------------------- elementwise

    def mul(self, a: Value, b: Value) -> Value:
        a, b = self.without_expansions(a, b)
        return op.multiply(self._with_channels_of(b, a), self._with_channels_of(a, b)).output(0)

    def div(self, a: Value, b: Value) -> Value:
        a, b = self.without_expansions(a, b)
        return op.divide(self._with_channels_of(b, a), b).output(0)

    def _with_channels_of(self, factor: Value, x: Value) -> Value:
        """`x` [N, 1, …] as [N, C, …] before a constant `factor` [1, C, 1, …] does that.

        OpenVINO (2026.4) moves such a factor into the weight of any convolution that reads the product, and
        cannot compile the convolution of one channel that is left. A broadcast is what it would leave out.
        """
        ndim = max(self.rank(x), self.rank(factor))
        size, other = ([*[1] * (ndim - self.rank(v)), *self.shape(v)] for v in (x, factor))
        if (
            ndim < 3
            or size[1] != 1
            or other[1] == 1
            or math.prod(other) != other[1]
            or not is_constant(factor)
        ):
            return x
        return self.native.tile(x, [other[1] if i == 1 else 1 for i in range(ndim)])

    def clamp(self, x: Value, low: float, high: float) -> Value:
        return op.clamp(x, float(low), float(high)).output(0)

    # ---------------------------------------------------------------- layout

    def own_copy(self, x: Value) -> Value:
        """A constant's numbers in memory of their own.

        OpenVINO's CPU plugin (2026.4) keeps packed weights by address and shape. A square weight that a
        convolution and its transpose share would be packed for one and taken by the other: a wrong
        gradient, without a word. Turned around twice it is folded into another constant.
        """
        axis = next((d for d, s in enumerate(self.shape(x)) if s > 1), None)
        return x if axis is None else self.flip(self.flip(x, [axis]), [axis])

    def pieces(self, x: Value, count: int, dim: int) -> tuple[Value, ...]:
        return (x,) if count == 1 else tuple(op.split(x, ints(dim), count).outputs())

    # ---------------------------------------------------------------- products and reductions

    def matmul(self, a: Value, b: Value, transpose_a: bool = False, transpose_b: bool = False) -> Value:
        return op.matmul(a, b, transpose_a, transpose_b).output(0)

    def addmm(self, x: Value, a: Value, b: Value) -> Value:
        """x + a b, all matrices."""
        return self.add(x, self.matmul(a, b))

    def reduced(self, kind: str, x: Value, dims: Sequence[int], keepdim: bool) -> Value:
        """By `max`, `min`, `prod`, `logical_or` or `logical_and`, over `dims` counted from the front.

        The CPU's reductions begin with the largest finite number, so alone they never give back an infinity.
        """
        found = getattr(op, f"reduce_{kind}")(x, ints(dims), keepdim).output(0)
        if kind not in ("max", "min") or not self.dtype(x).is_floating_point:
            return found
        limit = self.scalar(-math.inf if kind == "max" else math.inf, x)
        nothing = op.reduce_logical_and(op.equal(x, limit), ints(dims), keepdim).output(0)
        return op.select(nothing, limit, found).output(0)

    def top(self, x: Value, k: int, dim: int, largest: bool) -> tuple[Value, Value]:
        """Values and indices, sorted; of equal values the first comes first."""
        found = op.topk(x, ints(k), dim, "max" if largest else "min", "value", "i64", stable=True)
        return found.output(0), found.output(1)

    def scatter_rows(self, x: Value, rows: Value, source: Value, accumulate: bool) -> Value:
        """x [P, R] with `source` [K, R] put (or added) at the row numbers `rows` [K]."""
        index = self.unsqueeze(rows, [1])
        return op.scatter_nd_update(x, index, source, "sum" if accumulate else "none").output(0)

    # ---------------------------------------------------------------- windows

    def max_pool(self, x: Value, out: Pair, k: Pair, s: Pair, before: Pair, after: Pair, d: Pair) -> Value:
        return op.max_pool(x, list(s), list(d), list(before), list(after), list(k)).output(0)

    def average_pool(self, x: Value, out: Pair, k: Pair, s: Pair, p: Pair, include_pad: bool) -> Value:
        return op.avg_pool(x, list(s), list(p), list(p), list(k), not include_pad).output(0)

    def convolve(self, x: Value, g: Geometry, weight: Value, bias: Value | None = None) -> Value:
        """x [N, I, *in], weight [O, I/G, *k] -> [N, O, *out]."""
        space = list(g.stride), list(g.before), list(g.after), list(g.dilation)
        if g.groups == 1:
            y = op.convolution(x, weight, *space).output(0)
        else:
            y = op.group_convolution(x, self._in_groups(weight, g.groups), *space).output(0)
        return self.add_bias(y, bias)

    def _in_groups(self, weight: Value, groups: int) -> Value:
        """weight [O, I/G, *k] as [G, O/G, I/G, *k].

        OpenVINO (2026.4) moves a constant factor after a grouped convolution in front of the `Reshape`
        of its weight, and with that into everything else that reads the same reshaped weight: its own
        transpose in the backward. So a trained weight gets there by way of a transpose.
        """
        o, *rest = self.shape(weight)
        size = [groups, o // groups, *rest]
        if is_constant(weight):
            return self.reshape(weight, size)
        ndim = len(rest)
        last = self.reshape(self.transpose(weight, [*range(1, ndim + 1), 0]), [*rest, *size[:2]])
        return self.transpose(last, [ndim, ndim + 1, *range(ndim)])

    def convolve_transposed(self, x: Value, g: Geometry, weight: Value, out: Sequence[int]) -> Value:
        """x [N, I, *in], weight [I, O/G, *k] -> [N, O, *out]."""
        i, o, *kernel = self.shape(weight)
        if is_constant(weight) and i == g.groups * o:
            weight = self.own_copy(weight)
        before, after, extra = g.crop(self.shape(x)[2:], out)
        space: Any = list(g.stride), None, before, after, list(g.dilation)
        if g.groups == 1:
            return op.convolution_backprop_data(x, weight, *space, output_padding=extra).output(0)
        weight = self.reshape(weight, [g.groups, i // g.groups, o, *kernel])
        return op.group_convolution_backprop_data(x, weight, *space, output_padding=extra).output(0)


emit = OpenVINOEmitter()
