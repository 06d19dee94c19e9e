"""Pools: in three dimensions, of windows that differ in size, and gradients that a runtime may lack.

Averages are products with one constant matrix a dimension. A maximum over a box is one over its last
dimensions, then over its first; where several elements are the largest, the first one in memory counts, as
in PyTorch.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .layout import dilated
from .resampling import along
from .table import expands
from .window_matrices import adaptive_bounds, adaptive_matrix, average_matrices, each

aten = torch.ops.aten

max_pool = aten.max_pool2d_with_indices.default
max_pool_backward = aten.max_pool2d_with_indices_backward.default


# ---------------------------------------------------------------- averages


def _along_last(x: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    for dim, matrix in enumerate(matrices, start=x.ndim - len(matrices)):
        x = along(x, dim, matrix)
    return x


def _pooled_size(size: int, kernel: int, stride: int, padding: int, ceil_mode: bool) -> int:
    room = size + 2 * padding - kernel
    if not ceil_mode:
        return room // stride + 1
    out = -(-room // stride)
    # The last window must start inside the input or the padding before it.
    return out if out * stride >= size + padding else out + 1


@expands(aten.avg_pool3d.default)
def avg_pool3d(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    counts_padding: bool,
    divisor: int | None,
) -> Tensor:
    size = x.shape[-3:]
    k, s, p = each(kernel, 3), each(stride or kernel, 3), each(padding, 3)
    out = [_pooled_size(size[i], k[i], s[i], p[i], ceil_mode) for i in range(3)]
    return _along_last(x, average_matrices(size, out, k, s, p, counts_padding, divisor))


@expands(aten.avg_pool3d_backward.default)
def avg_pool3d_backward(
    dy: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    counts_padding: bool,
    divisor: int | None,
) -> Tensor:
    return _spread(3, dy, x, kernel, stride, padding, counts_padding, divisor)


@expands(aten.avg_pool2d_backward.default)
def avg_pool2d_backward(
    dy: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    counts_padding: bool,
    divisor: int | None,
) -> Tensor:
    return _spread(2, dy, x, kernel, stride, padding, counts_padding, divisor)


def _spread(n: int, dy: Tensor, x: Tensor, *windows: Any) -> Tensor:
    """Gradients of averages over the last `n` dimensions, given to what they were taken of."""
    return _along_last(dy, [m.T for m in average_matrices(x.shape[-n:], dy.shape[-n:], *windows)])


@expands(aten._adaptive_avg_pool3d.default)
def adaptive_avg_pool3d(x: Tensor, out: Sequence[int]) -> Tensor:
    return _along_last(x, [adaptive_matrix(s, o) for s, o in zip(x.shape[-3:], out)])


@expands(aten._adaptive_avg_pool3d_backward.default)
def adaptive_avg_pool3d_backward(dy: Tensor, x: Tensor) -> Tensor:
    return _along_last(dy, [adaptive_matrix(s, o).T for s, o in zip(x.shape[-3:], dy.shape[-3:])])


# ---------------------------------------------------------------- maxima over boxes


def _planes(x: Tensor) -> Tensor:
    """[..., C, D, H, W] -> [N, C D, H, W]: what pools height and width."""
    return x.reshape(-1, x.shape[-4] * x.shape[-3], *x.shape[-2:])


def _columns(y: Tensor, x: Tensor) -> Tensor:
    """Planes [N, C D, H', W'] -> [N, C, D, H' W']: what pools depth; x as it was before `_planes`."""
    return y.reshape(-1, x.shape[-4], x.shape[-3], y.shape[-2] * y.shape[-1])


@expands(aten.max_pool3d_with_indices.default)
def max_pool3d(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> tuple[Tensor, Tensor]:
    k, s, p, d = (each(a, 3) for a in (kernel, stride or kernel, padding, dilation))
    flat, where = max_pool(_planes(x), k[1:], s[1:], p[1:], d[1:], ceil_mode)
    columns = _columns(flat, x)
    y, depth = max_pool(columns, [k[0], 1], [s[0], 1], [p[0], 0], [d[0], 1], ceil_mode)
    size = [*x.shape[:-3], y.shape[-2], *flat.shape[-2:]]
    place = _columns(where, x).flatten(2).gather(2, depth.flatten(2)).view(depth.shape)
    layer = torch.div(depth, columns.shape[-1], rounding_mode="floor")
    return y.reshape(size), (layer * (x.shape[-2] * x.shape[-1]) + place).reshape(size)


@expands(aten.max_pool3d_with_indices_backward.default)
def max_pool3d_backward(
    dy: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    indices: Tensor,
) -> Tensor:
    k, s, p, d = (each(a, 3) for a in (kernel, stride or kernel, padding, dilation))
    plane, column = (k[1:], s[1:], p[1:], d[1:]), ([k[0], 1], [s[0], 1], [p[0], 0], [d[0], 1])
    planes = _planes(x)
    flat, where = max_pool(planes, *plane, ceil_mode)
    columns = _columns(flat, x)
    y, depth = max_pool(columns, *column, ceil_mode)
    back = max_pool_backward(dy.reshape(y.shape), columns, *column, ceil_mode, depth)
    return max_pool_backward(back.reshape(flat.shape), planes, *plane, ceil_mode, where).reshape(x.shape)


# ---------------------------------------------------------------- maxima and where they were


def _max_and_place(x: Tensor, windows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The maximum of each window, and the places of it: one number a dimension would count alone.

    Args:
        windows: [out, k] element numbers of each of the last dimensions.

    Returns:
        Values, and for each pooled dimension the element number, stacked in front.
    """
    places: list[Tensor] = []
    for i, window in reversed(list(enumerate(windows))):
        dim = x.ndim - len(windows) + i
        out, k = window.shape

        def windowed(t: Tensor, dim: int = dim, out: int = out, k: int = k, at: Tensor = window) -> Tensor:
            return t.index_select(dim, at.reshape(-1)).unflatten(dim, (out, k))

        x, which = windowed(x).max(dim + 1, keepdim=True)
        x = x.squeeze(dim + 1)
        shape = [out if d == dim else k if d == dim + 1 else 1 for d in range(which.ndim)]
        number = window.view(shape).expand([*which.shape[: dim + 1], k, *which.shape[dim + 2 :]])
        places = [
            number.gather(dim + 1, which).squeeze(dim + 1),
            *(windowed(p).gather(dim + 1, which).squeeze(dim + 1) for p in places),
        ]
    return x, torch.stack(places)


def _flat(places: Tensor, size: Sequence[int]) -> Tensor:
    """Element numbers, counted over all pooled dimensions of `size`."""
    total = places[0]
    for place, s in zip(places[1:].unbind(0), size[1:]):
        total = total * s + place
    return total


@expands(aten.max_pool2d_with_indices.default)
def max_pool2d_with_indices(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> tuple[Tensor, Tensor]:
    """Where the indices are read, as by `max_unpool2d`."""
    k, s, p, d = (each(a, 2) for a in (kernel, stride or kernel, padding, dilation))
    size = x.shape[-2:]
    reach = [d[i] * (k[i] - 1) + 1 for i in range(2)]
    out = [_pooled_size(size[i], reach[i], s[i], p[i], ceil_mode) for i in range(2)]
    more = [max((out[i] - 1) * s[i] + reach[i] - size[i] - p[i], 0) for i in range(2)]
    padded = F.pad(x, [p[1], more[1], p[0], more[0]], value=torch.finfo(x.dtype).min)
    windows = [torch.arange(out[i])[:, None] * s[i] + torch.arange(k[i]) * d[i] for i in range(2)]
    values, places = _max_and_place(padded, windows)
    return values, _flat(torch.stack([places[i] - p[i] for i in range(2)]), size)


@expands(aten.max_pool2d_with_indices_backward.default)
def max_pool2d_backward(
    dy: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    indices: Tensor,
) -> Tensor:
    """Each place of the window takes dy where its value is the maximum and no earlier place's was.

    The indices are not read: runtimes give none, or others than PyTorch's.
    """
    k, s, p, d = (each(a, 2) for a in (kernel, stride or kernel, padding, dilation))
    y, out, dims = max_pool(x, k, s, p, d, ceil_mode)[0], dy.shape[-2:], (x.ndim - 2, x.ndim - 1)
    more = [max((out[i] - 1) * s[i] + d[i] * (k[i] - 1) + 1 - x.shape[dims[i]] - p[i], 0) for i in range(2)]
    padded = F.pad(x, [p[1], more[1], p[0], more[0]], value=torch.finfo(x.dtype).min)
    taken = dx = None
    for place in itertools.product(range(k[0]), range(k[1])):
        start = [place[i] * d[i] for i in range(2)]
        window = padded
        for i, dim in enumerate(dims):
            window = aten.slice.Tensor(window, dim, start[i], start[i] + (out[i] - 1) * s[i] + 1, s[i])
        hit = window == y
        mine = hit if taken is None else torch.logical_and(hit, torch.logical_not(taken))
        taken = hit if taken is None else torch.logical_or(taken, hit)
        part = torch.where(mine, dy, 0.0)
        for i, dim in enumerate(dims):
            part = dilated(part, dim, s[i])
        for i, dim in enumerate(dims):
            part = part.narrow(dim, 0, (out[i] - 1) * s[i] + 1)
        after = [padded.shape[dim] - start[i] - part.shape[dim] for i, dim in enumerate(dims)]
        part = F.pad(part, [start[1], after[1], start[0], after[0]])
        dx = part if dx is None else dx + part
    assert dx is not None
    for i, dim in enumerate(dims):
        dx = dx.narrow(dim, p[i], x.shape[dim])
    return dx


@expands(aten.adaptive_max_pool2d.default, aten.adaptive_max_pool3d.default)
def adaptive_max_pool(x: Tensor, out: Sequence[int]) -> tuple[Tensor, Tensor]:
    size = x.shape[-len(out) :]
    windows = []
    for s, o in zip(size, out):
        start, stop = adaptive_bounds(s, o)
        longest = max(-(-(i + 1) * s // o) - i * s // o for i in range(o))
        windows.append(torch.minimum(start + torch.arange(longest), stop - 1))  # the last one again
    values, places = _max_and_place(x, windows)
    return values, _flat(places, size)


@expands(aten.adaptive_max_pool2d_backward.default)
def adaptive_max_pool2d_backward(dy: Tensor, x: Tensor, indices: Tensor) -> Tensor:
    return _scattered(dy, x, indices, 2)


@expands(aten.adaptive_max_pool3d_backward.default)
def adaptive_max_pool3d_backward(dy: Tensor, x: Tensor, indices: Tensor) -> Tensor:
    return _scattered(dy, x, indices, 3)


def _scattered(dy: Tensor, x: Tensor, indices: Tensor, n: int) -> Tensor:
    """Gradients of windows over the last `n` dimensions, given to their maxima; windows may share one."""
    dx = x.new_zeros(x.shape).flatten(-n)
    return dx.scatter_add(-1, indices.flatten(-n), dy.flatten(-n)).reshape(x.shape)
