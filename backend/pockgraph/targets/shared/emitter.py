"""What rules write graphs with: a runtime's operators, without those that would do nothing.

A reshape to the same shape, or the identity permutation, can hide a pattern from the fusions of a runtime.
All values are of static shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import torch

V = TypeVar("V")

NUMPY_TYPES: dict[torch.dtype, Any] = {
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


class Emitter(Generic[V]):
    """Helpers that are the same for all runtimes; a target's own adds what its runtime has, or does wrong.

    Attributes:
        native: the runtime's operators, as functions of values and of numbers that are known.
        expansion: what the runtime calls a broadcast.
    """

    native: Any
    expansion: str

    def shape(self, x: V) -> tuple[int, ...]:
        raise NotImplementedError

    def dtype(self, x: V) -> torch.dtype:
        raise NotImplementedError

    def array(self, value: np.ndarray) -> V:
        """A constant."""
        raise NotImplementedError

    def convert(self, x: V, to: torch.dtype) -> V:
        """A cast; to bool, everything but zero is true."""
        raise NotImplementedError

    def source(self, x: V, kind: str) -> V | None:
        """The first operand of what makes `x`, if that is an operator of this kind."""
        raise NotImplementedError

    def rank(self, x: V) -> int:
        return len(self.shape(x))

    def axis(self, dim: int, ndim: int) -> int:
        """`dim` counted from the front."""
        return dim % max(ndim, 1)

    # ---------------------------------------------------------------- constants

    def const(self, value: object, dtype: torch.dtype) -> V:
        """A constant from numbers or an array."""
        return self.array(np.asarray(value, dtype=NUMPY_TYPES[dtype]))

    def scalar(self, value: complex, x: V) -> V:
        """A scalar constant of the dtype of `x`."""
        return self.const(value, self.dtype(x))

    def full(self, value: complex, size: Sequence[int], dtype: torch.dtype) -> V:
        """A constant tensor, stored as one number."""
        return self.broadcast(self.const(value, dtype), size)

    # ---------------------------------------------------------------- elementwise

    def without_expansions(self, *xs: V) -> list[V]:
        """Operands without an expansion that the other operands' shapes imply anyway."""
        sources = [self.source(x, self.expansion) for x in xs]
        whole = [self.shape(x) for x, source in zip(xs, sources) if source is None]
        return [
            x if source is None or self.shape(x) not in whole else source for x, source in zip(xs, sources)
        ]

    def add(self, a: V, b: V) -> V:
        return self.native.add(*self.without_expansions(a, b))

    def sub(self, a: V, b: V) -> V:
        return self.native.subtract(*self.without_expansions(a, b))

    def mul(self, a: V, b: V) -> V:
        return self.native.multiply(*self.without_expansions(a, b))

    def div(self, a: V, b: V) -> V:
        return self.native.divide(*self.without_expansions(a, b))

    def scale(self, x: V, factor: float) -> V:
        if factor == 1:
            return x
        source = self.source(x, self.expansion)
        if source is not None:
            return self.broadcast(self.scale(source, factor), self.shape(x))
        return self.mul(x, self.scalar(factor, x))

    def select(self, condition: V, a: V, b: V) -> V:
        condition, a, b = self.without_expansions(condition, a, b)
        if self.dtype(a) == self.dtype(b) == torch.bool:  # runtimes choose between numbers only
            taken = self.native.logical_and(condition, a)
            return self.native.logical_or(
                taken, self.native.logical_and(self.native.logical_not(condition), b)
            )
        return self.native.select(condition, a, b)

    def keep_where(self, mask: V, x: V) -> V:
        """`x` where the boolean `mask` is set, else 0."""
        return self.select(mask, x, self.scalar(0, x))

    def keep_gradient(self, mask: V, dy: V) -> V:
        """`dy` where the boolean `mask` is set, else 0."""
        return self.keep_where(mask, dy)

    def drop_gradient(self, mask: V, dy: V) -> V:
        """0 where the boolean `mask` is set, else `dy`."""
        return self.select(mask, self.scalar(0, dy), dy)

    # ---------------------------------------------------------------- layout

    def reshape(self, x: V, size: Sequence[int]) -> V:
        """`x` with another shape, in which one size may be -1."""
        if -1 in size:
            rest = math.prod(self.shape(x)) // max(math.prod(s for s in size if s != -1), 1)
            size = [rest if s == -1 else s for s in size]
        source = self.source(x, "Reshape")
        x = x if source is None else source  # one reshape does what two do
        return x if self.shape(x) == tuple(size) else self.native.reshape(x, size)

    def transpose(self, x: V, order: Sequence[int]) -> V:
        order = [self.axis(d, self.rank(x)) for d in order]
        return x if order == list(range(self.rank(x))) else self.native.transpose(x, order)

    def swap(self, x: V, a: int = -1, b: int = -2) -> V:
        """`x` with two dimensions exchanged."""
        order = list(range(self.rank(x)))
        order[a], order[b] = order[b], order[a]
        return self.transpose(x, order)

    def broadcast(self, x: V, size: Sequence[int]) -> V:
        return x if self.shape(x) == tuple(size) else self.native.expand(x, size)

    def unsqueeze(self, x: V, dims: Sequence[int]) -> V:
        """`x` with dimensions of size 1 at `dims` of the result."""
        size, old = [], iter(self.shape(x))
        ndim = self.rank(x) + len(dims)
        where = {self.axis(d, ndim) for d in dims}
        for i in range(ndim):
            size.append(1 if i in where else next(old))
        return self.reshape(x, size)

    def add_bias(self, y: V, bias: V | None) -> V:
        """y [N, C, …] plus `bias` [C]."""
        return y if bias is None else self.add(y, self.reshape(bias, [1, -1, *[1] * (self.rank(y) - 2)]))

    def cut(self, x: V, dim: int, start: int, stop: int, step: int = 1) -> V:
        """`x[start:stop:step]` along one dimension; 0 <= start <= stop <= size."""
        return self.cut_many(x, [self.axis(dim, self.rank(x))], [(start, stop, step)])

    def cut_many(self, x: V, dims: Sequence[int], spans: Sequence[tuple[int, int, int]]) -> V:
        """`cut` along several dimensions at once; spans are (start, stop, step)."""
        kept = [(d, s) for d, s in zip(dims, spans, strict=True) if s != (0, self.shape(x)[d], 1)]
        return self.native.slice(x, [d for d, _ in kept], [s for _, s in kept]) if kept else x

    def flip(self, x: V, dims: Sequence[int]) -> V:
        """`x` reversed along `dims`."""
        dims = [d for d in dims if self.shape(x)[d] > 1]
        return self.native.reverse(x, dims) if dims else x

    def split(self, x: V, sizes: Sequence[int], dim: int) -> tuple[V, ...]:
        return (x,) if len(sizes) == 1 else tuple(self.native.split(x, sizes, dim))

    def pieces(self, x: V, count: int, dim: int) -> tuple[V, ...]:
        """`x` in `count` parts of the same size along `dim`."""
        return self.split(x, [self.shape(x)[dim] // count] * count, dim)

    def concat(self, parts: Sequence[V], dim: int) -> V:
        return parts[0] if len(parts) == 1 else self.native.concat(list(parts), dim)

    def pad(self, x: V, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> V:
        """Constant padding; negative amounts crop."""
        return self.native.pad(x, before, after, self.scalar(value, x)) if any(before) or any(after) else x

    # ---------------------------------------------------------------- sums

    def sum(self, x: V, dims: Sequence[int], keepdim: bool = False) -> V:
        """The sum over `dims`."""
        dims = [self.axis(d, self.rank(x)) for d in dims]
        if all(self.shape(x)[d] == 1 for d in dims):
            return (
                x if keepdim else self.reshape(x, [s for i, s in enumerate(self.shape(x)) if i not in dims])
            )
        return self.native.reduce_sum(x, dims, keepdim)

    def mean(self, x: V, dims: Sequence[int], keepdim: bool = False) -> V:
        dims = [self.axis(d, self.rank(x)) for d in dims]
        return self.native.reduce_mean(x, dims, keepdim) if dims and self.rank(x) else x
