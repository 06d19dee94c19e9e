"""What rules write ONNX graphs with, over the operators of `op`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from onnx import helper

from ..shared.emitter import NUMPY_TYPES, Emitter
from ..shared.geometry import Geometry
from . import op
from .value import Value, constant, is_constant

Pair = Sequence[int]

TYPES = {dtype: helper.np_dtype_to_tensor_dtype(np.dtype(n)) for dtype, n in NUMPY_TYPES.items()}


class ONNXEmitter(Emitter[Value]):
    native = op
    expansion = "Expand"

    def shape(self, x: Value) -> tuple[int, ...]:
        return x.shape

    def dtype(self, x: Value) -> torch.dtype:
        return x.dtype

    def array(self, value: np.ndarray) -> Value:
        return constant(value)

    def tensor(self, value: torch.Tensor, name: str = "") -> Value:
        """A constant that shares the memory of a CPU tensor (where it is contiguous)."""
        return constant(value.detach().contiguous().numpy(), name)

    def convert(self, x: Value, to: torch.dtype) -> Value:
        return x if x.dtype == to else op.cast(x, to, TYPES[to])

    def source(self, x: Value, kind: str) -> Value | None:
        return x.node.inputs[0] if x.kind == kind else None

    # ---------------------------------------------------------------- elementwise

    def clamp(self, x: Value, low: float, high: float) -> Value:
        return op.clip(x, self.scalar(low, x), self.scalar(high, x))

    def fmod(self, a: Value, b: Value) -> Value:
        return op.mod(a, b)

    def exact_ratio(self, a: Value, b: Value) -> Value:
        return self.div(a, b)

    # ---------------------------------------------------------------- products and reductions

    def matmul(self, a: Value, b: Value, transpose_a: bool = False, transpose_b: bool = False) -> Value:
        """Transposes stay nodes of their own: runtimes fold them into their matrix product."""
        return op.matmul(self.swap(a) if transpose_a else a, self.swap(b) if transpose_b else b)

    def addmm(self, x: Value, a: Value, b: Value) -> Value:
        """x + a b, all matrices."""
        return op.gemm(x, a, b)

    def reduced(self, kind: str, x: Value, dims: Sequence[int], keepdim: bool) -> Value:
        """By `max`, `min`, `prod`, `logical_or` or `logical_and`, over `dims` counted from the front."""
        kind = {"logical_or": "max", "logical_and": "min"}.get(kind, kind)
        numbers = self.convert(x, torch.int32) if x.dtype == torch.bool else x  # ONNX reduces numbers only
        return self.convert(getattr(op, f"reduce_{kind}")(numbers, dims, keepdim), x.dtype)

    def top(self, x: Value, k: int, dim: int, largest: bool) -> tuple[Value, Value]:
        """Values and indices, sorted; of equal values the first comes first."""
        numbers = self.convert(x, torch.int32) if x.dtype == torch.bool else x  # ONNX ranks numbers only
        values, indices = op.top_k(numbers, k, dim, largest)
        return self.convert(values, x.dtype), indices

    def scatter_rows(self, x: Value, rows: Value, source: Value, accumulate: bool) -> Value:
        """x [P, R] with `source` [K, R] put (or added) at the row numbers `rows` [K]."""
        index = self.unsqueeze(rows, [1])
        if not accumulate:
            return op.scatter_nd(x, index, source)
        # Not ScatterND: ONNX Runtime's adds in parallel, and loses what two threads add to one row.
        return op.scatter_elements(x, self.broadcast(index, source.shape), source, 0, accumulate)

    # ---------------------------------------------------------------- windows

    def max_pool(self, x: Value, out: Pair, k: Pair, s: Pair, before: Pair, after: Pair, d: Pair) -> Value:
        if any(n >= m for n, m in zip((*before, *after), (*k, *k))):  # ONNX Runtime pads less than a window
            x = self.pad(x, [0, 0, *before], [0, 0, *after], torch.finfo(x.dtype).min)
            before = after = (0, 0)
        pads = [*before, *after]
        return op.max_pool(x, out, kernel_shape=list(k), strides=list(s), dilations=list(d), pads=pads)

    def average_pool(self, x: Value, out: Pair, k: Pair, s: Pair, p: Pair, include_pad: bool) -> Value:
        space = {"kernel_shape": list(k), "strides": list(s), "pads": [*p, *p]}
        return op.average_pool(x, out, **space, count_include_pad=int(include_pad))

    def convolve(self, x: Value, g: Geometry, weight: Value, bias: Value | None = None) -> Value:
        """x [N, I, *in], weight [O, I/G, *k] -> [N, O, *out]."""
        # ONNX Runtime has fast kernels for convolutions of which all is constant: keep a trained bias apart.
        apart = bias is not None and is_constant(weight) and not is_constant(bias)
        pads = [*g.before, *g.after]
        y = op.conv(x, weight, None if apart else bias, g.out(x.shape[2:]), pads=pads, **_space(g))
        return self.add_bias(y, bias) if apart else y

    def convolve_transposed(self, x: Value, g: Geometry, weight: Value, out: Sequence[int]) -> Value:
        """x [N, I, *in], weight [I, O/G, *k] -> [N, O, *out]."""
        before, after, extra = g.crop(x.shape[2:], out)
        pads = [*before, *after]
        return op.conv_transpose(x, weight, out, pads=pads, output_padding=extra, **_space(g))


def _space(g: Geometry) -> dict[str, Any]:
    return {
        "kernel_shape": list(g.kernel),
        "strides": list(g.stride),
        "dilations": list(g.dilation),
        "group": g.groups,
    }


emit = ONNXEmitter()
