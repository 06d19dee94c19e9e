"""A convolution's backward pass as three nodes, to be kept or dropped one by one."""

from __future__ import annotations

from typing import Any

from torch import fx

from ...ir.graph import Builder, aten
from .normalization import take
from .rule_table import rule


@rule(aten.convolution_backward.default)
def _convolution_backward(b: Builder, node: fx.Node) -> Any:
    args: Any = node.args
    dy, x, w, _, stride, padding, dilation, transposed, _, groups, output_mask = args
    results: dict[int, fx.Node] = {}
    if output_mask[1]:
        dw = b.call(aten.convolution_backward.default, *args[:-1], [False, True, False])
        results[1] = take(b, dw, 1)
    if output_mask[2]:
        dims = [d for d in range(dy.meta["val"].ndim) if d != 1]
        results[2] = b.call(aten.sum.dim_IntList, dy, dims)
    if output_mask[0]:
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
