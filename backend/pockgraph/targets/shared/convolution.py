"""Convolution in 1, 2 and 3 dimensions, the gradient of its input, and the padding around it.

A target's helpers have the kernels: `convolve`, `transposed_convolution` (how it is computed differs) and
`weight_gradient`, of which `weight_gradient.py` has the parts. The gradient of the input comes as a
transposed convolution. Zero padding of its own (frameworks pad unevenly that way) becomes part of the
convolution: runtimes would copy the tensor for it.

Shapes in comments: x [N, I, *in], weight [O, I/G, *k], dy [N, O, *out].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import fx

from ...ir.graph import aten
from .geometry import Geometry, padding_amounts
from .shared_rules import check, folds, out_shape, rule

Values = Mapping[fx.Node, Any]


@rule(aten.convolution.default)
@folds
def convolution(
    emit: Any, values: Values, node: fx.Node, x: Any, weight: Any, bias: Any,
    stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], transposed: bool,
    output_padding: Sequence[int], groups: int,
) -> Any:  # fmt: skip
    g = Geometry.of(emit.shape(weight)[2:], stride, padding, dilation, groups)
    if not transposed:
        x, g = unpadded(values, node.args[0], x, g)
        return emit.convolve(x, g, weight, bias)
    return emit.add_bias(emit.transposed_convolution(x, weight, g, out_shape(node)[2:]), bias)


@rule(aten.convolution_backward.default)
@folds
def convolution_backward(
    emit: Any, values: Values, node: fx.Node, dy: Any, x: Any, weight: Any, bias_sizes: Any,
    stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], transposed: bool,
    output_padding: Sequence[int], groups: int, output_mask: Sequence[bool],
) -> tuple[None, Any, None]:  # fmt: skip
    g = Geometry.of(emit.shape(weight)[2:], stride, padding, dilation, groups)
    if transposed:  # it takes dy to x: its weight gradient has the two exchanged
        return None, emit.weight_gradient(dy, x, g), None
    x, g = unpadded(values, node.args[1], x, g)
    return None, emit.weight_gradient(x, dy, g), None


@check(aten.convolution_backward.default)
def _of_the_weight(node: fx.Node, *args: Any) -> str:
    return "" if list(args[-1]) == [False, True, False] else "it makes several gradients at once"


def unpadded(values: Values, source: Any, x: Any, g: Geometry) -> tuple[Any, Geometry]:
    """What `source` padded with zeros, and the geometry that does the padding instead."""
    if source.target is not aten.constant_pad_nd.default:
        return x, g
    before, after = padding_amounts(source)
    value = source.args[2] if len(source.args) > 2 else 0
    if value != 0 or min(before + after) < 0 or any(before[:2]) or any(after[:2]):
        return x, g
    return values[source.args[0]], g.padded(before[2:], after[2:])


@rule(aten.constant_pad_nd.default)
@folds
def constant_pad_nd(
    emit: Any, values: Values, node: fx.Node, x: Any, amounts: Sequence[int], value: float
) -> Any:
    before, after = padding_amounts(node)
    source: Any = node.args[0]
    crops = max(before + after) <= 0 and not any(before[:2]) and not any(after[:2])
    if crops and source.target is aten.convolution.default and source.args[6] and source.args[2] is None:
        # The backward of a padding: the transposed convolution leaves those borders out by itself.
        dy, weight = (values[a] for a in source.args[:2])
        stride, padding, dilation = source.args[3:6]
        g = Geometry.of(emit.shape(weight)[2:], stride, padding, dilation, source.args[8])
        g = replace(g, before=tuple(a - b for a, b in zip(g.before, before[2:])))
        return emit.transposed_convolution(dy, weight, g, out_shape(node)[2:])
    return emit.pad(x, before, after, value)


# ---------------------------------------------------------------- transposed convolutions


def is_convolution(g: Geometry, size: Sequence[int], out: Sequence[int]) -> bool:
    """Whether a transposed convolution from `size` to `out` is one with the kernel turned around, too."""
    crops = any(r < b or n > b + o for r, b, n, o in zip(g.reach, g.before, size, out))
    return all(s == 1 for s in g.stride) and not crops


def by_turned_kernel(emit: Any, x: Any, weight: Any, g: Geometry, out: Sequence[int]) -> Any:
    """x [N, I, *in], weight [I, O/G, *k] -> [N, O, *out], where it `is_convolution`."""
    i, o, *kernel = emit.shape(weight)
    grouped = emit.reshape(weight, [g.groups, i // g.groups, o, *kernel])
    turned = emit.reshape(emit.swap(grouped, 1, 2), [g.groups * o, i // g.groups, *kernel])
    turned = emit.flip(turned, range(2, emit.rank(turned)))
    space = replace(g, before=tuple(r - b for r, b in zip(g.reach, g.before)))
    return emit.convolve(x, space.fitted(emit.shape(x)[2:], out), turned)
