"""Pools and resizing, in terms of a target's `emit`; for the gradient of a max pool see
`passes/legalize/pooling.py`.

Averages and resizing are products with constant matrices of `passes/legalize/window_matrices.py`:
y = A_h x A_wᵀ. Runtimes multiply `x` of any number of dimensions from either side; ATen's products,
which an expansion would be made of, move dimensions for that. Where runtimes have the forward as one kernel,
that is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from ...ir.graph import aten
from ...passes.legalize.window_matrices import (
    adaptive_matrix,
    average_matrices,
    each,
    linear_matrix,
    nearest_matrix,
)
from .shared_rules import check, rule


def ends(size: Sequence[int], out: Sequence[int], k: Any, s: Any, p: Any, d: Any) -> list[int]:
    """What must be added at the end of each dimension so that `out` windows fit: ceil mode needs more."""
    return [max((o - 1) * s[i] + d[i] * (k[i] - 1) + 1 - size[i] - p[i], 0) for i, o in enumerate(out)]


def along(emit: Any, x: Any, matrices: Sequence[torch.Tensor]) -> Any:
    """x [..., H, W] -> [..., H', W'] by matrices [H', H] and [W', W]."""
    height, width = (m.to(emit.dtype(x)) for m in matrices)
    if not torch.equal(width, torch.eye(len(width))):
        x = emit.matmul(x, emit.tensor(width.T))
    if not torch.equal(height, torch.eye(len(height))):
        x = emit.matmul(emit.tensor(height), x)
    return x


@rule(aten.max_pool2d_with_indices.default)
def max_pool2d(
    emit: Any, node: fx.Node, x: Any, kernel: Sequence[int], stride: Sequence[int],
    padding: Sequence[int], dilation: Sequence[int], ceil_mode: bool,
) -> tuple[Any, None]:  # fmt: skip
    """The indices are not made: the expansion of the backward compares values instead."""
    out = tuple(node.meta["val"][0].shape)[-2:]
    k, p, d = each(kernel, 2), each(padding, 2), each(dilation, 2)
    s = each(stride, 2) if stride else k
    planes = x if emit.rank(x) == 4 else emit.unsqueeze(x, [0])
    y = emit.max_pool(planes, out, k, s, p, ends(emit.shape(x)[-2:], out, k, s, p, d), d)
    return (y if emit.rank(x) == 4 else emit.reshape(y, emit.shape(y)[1:])), None


@check(aten.max_pool2d_with_indices.default)
def _indices_unread(node: fx.Node, *args: Any) -> str:
    for user in node.users:
        if user.args[1] == 1 and any(
            reader.target is not aten.max_pool2d_with_indices_backward.default for reader in user.users
        ):
            return "the indices of max pooling are not available, only its values"
    return ""


@rule(aten.avg_pool2d.default)
def avg_pool2d(
    emit: Any, node: fx.Node, x: Any, kernel: Sequence[int], stride: Sequence[int],
    padding: Sequence[int], ceil_mode: bool, include_pad: bool, divisor: int | None,
) -> Any:  # fmt: skip
    size, out = emit.shape(x)[-2:], tuple(node.meta["val"].shape)[-2:]
    if ceil_mode or divisor is not None or emit.rank(x) != 4:
        matrices = average_matrices(size, out, kernel, stride, padding, include_pad, divisor)
        return along(emit, x, matrices)
    k, p = each(kernel, 2), each(padding, 2)
    return emit.average_pool(x, out, k, each(stride, 2) if stride else k, p, include_pad)


@rule(aten.avg_pool2d_backward.default)
def avg_pool2d_backward(
    emit: Any, node: fx.Node, dy: Any, x: Any, kernel: Sequence[int], stride: Sequence[int],
    padding: Sequence[int], ceil_mode: bool, include_pad: bool, divisor: int | None,
) -> Any:  # fmt: skip
    size, out = emit.shape(x)[-2:], emit.shape(dy)[-2:]
    matrices = average_matrices(size, out, kernel, stride, padding, include_pad, divisor)
    return along(emit, dy, [m.T for m in matrices])


@rule(aten._adaptive_avg_pool2d.default)
def adaptive_avg_pool2d(emit: Any, node: fx.Node, x: Any, out: Sequence[int]) -> Any:
    size = emit.shape(x)[-2:]
    if emit.rank(x) == 4 and all(n % o == 0 for n, o in zip(size, out)):
        k = [n // o for n, o in zip(size, out)]
        return emit.average_pool(x, out, k, k, (0, 0), True)
    return along(emit, x, [adaptive_matrix(n, o) for n, o in zip(size, out)])


@rule(aten._adaptive_avg_pool2d_backward.default)
def adaptive_avg_pool2d_backward(emit: Any, node: fx.Node, dy: Any, x: Any) -> Any:
    size, out = emit.shape(x)[-2:], emit.shape(dy)[-2:]
    return along(emit, dy, [adaptive_matrix(n, o).T for n, o in zip(size, out)])


@rule(aten.upsample_nearest2d.default)
def nearest(emit: Any, node: fx.Node, x: Any, out: Any, *scales: float | None) -> Any:
    size = emit.shape(x)[-2:]
    return along(emit, x, [nearest_matrix(n, o, s) for n, o, s in zip(size, out, scales)])


@rule(aten.upsample_nearest2d_backward.default)
def nearest_backward(emit: Any, node: fx.Node, dy: Any, out: Any, size: Any, *scales: float | None) -> Any:
    return along(emit, dy, [nearest_matrix(n, o, s).T for n, o, s in zip(size[-2:], out, scales)])


@rule(aten.upsample_bilinear2d.default)
def bilinear(emit: Any, node: fx.Node, x: Any, out: Any, corners: bool, *scales: float | None) -> Any:
    size = emit.shape(x)[-2:]
    return along(emit, x, [linear_matrix(n, o, s, corners) for n, o, s in zip(size, out, scales)])


@rule(aten.upsample_bilinear2d_backward.default)
def bilinear_backward(
    emit: Any, node: fx.Node, dy: Any, out: Any, size: Any, corners: bool, *scales: float | None
) -> Any:
    matrices = [linear_matrix(n, o, s, corners).T for n, o, s in zip(size[-2:], out, scales)]
    return along(emit, dy, matrices)
