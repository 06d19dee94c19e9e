"""What a convolution does to space, as targets need it: numbers only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import fx

from ...passes.legalize.window_matrices import each


@dataclass(frozen=True)
class Geometry:
    """What a convolution does to space, one number a dimension: padding is given before and after."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @classmethod
    def of(cls, kernel: Sequence[int], stride: Any, padding: Any, dilation: Any, groups: int = 1) -> Geometry:
        """From ATen's arguments, where one number may stand for all dimensions."""
        s, p, d = (tuple(each(v, len(kernel))) for v in (stride, padding, dilation))
        return cls(tuple(kernel), s, p, p, d, groups)

    @property
    def reach(self) -> tuple[int, ...]:
        """How far apart the first and the last element under the kernel are."""
        return tuple(d * (k - 1) for k, d in zip(self.kernel, self.dilation))

    def out(self, size: Sequence[int]) -> tuple[int, ...]:
        """How many windows fit into `size` and its padding."""
        spans = zip(size, self.before, self.after, self.reach, self.stride)
        return tuple((n + b + a - r - 1) // s + 1 for n, b, a, r, s in spans)

    def missing_after(self, size: Sequence[int], out: Sequence[int]) -> tuple[int, ...]:
        """How much further than `size`, with its padding before, `out` windows reach; negative for less."""
        return tuple(
            (o - 1) * s + r + 1 - n - b
            for o, s, r, n, b in zip(out, self.stride, self.reach, size, self.before)
        )

    def crop(self, size: Sequence[int], out: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
        """What a transposed convolution from `size` to `out` leaves out before and after, and adds after."""
        missing = self.missing_after(out, size)
        return list(self.before), [max(b, 0) for b in missing], [max(-b, 0) for b in missing]

    def fitted(self, size: Sequence[int], out: Sequence[int]) -> Geometry:
        """The same with the padding after it that makes `out` of `size`; rows that no window reaches stay."""
        return replace(self, after=tuple(max(n, 0) for n in self.missing_after(size, out)))

    def padded(self, before: Sequence[int], after: Sequence[int]) -> Geometry:
        """The same with more padding; negative amounts take some away."""
        return replace(
            self,
            before=tuple(a + b for a, b in zip(self.before, before)),
            after=tuple(a + b for a, b in zip(self.after, after)),
        )


def padding_amounts(node: fx.Node) -> tuple[list[int], list[int]]:
    """What `constant_pad_nd` adds before and after each dimension; its list starts at the last one."""
    x, amounts = node.args[:2]
    ndim = x.meta["val"].ndim  # pyright: ignore
    before, after = [0] * ndim, [0] * ndim
    for i in range(len(amounts) // 2):  # pyright: ignore
        before[-1 - i], after[-1 - i] = amounts[2 * i : 2 * i + 2]  # pyright: ignore
    return before, after
