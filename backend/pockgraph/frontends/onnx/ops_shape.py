"""Moving data without changing it. Shapes, axes and pads are known beforehand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .operator_rules import NotRunnable, from_start, only, op


def as_ints(values: Any) -> list[int]:
    return [int(v) for v in np.asarray(values).reshape(-1)]


@op("Reshape", 5, 13, 14, 19, 21, 23, 24, 25, host=("shape",))
def reshape(x: Tensor, shape: np.ndarray, *, allowzero: int = 0) -> Tensor:
    wanted = as_ints(shape)
    if not allowzero:
        wanted = [x.shape[i] if s == 0 else s for i, s in enumerate(wanted)]
    return x.reshape(wanted)


@op("Flatten", 1, 9, 11, 13, 21, 23, 24, 25)
def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    axis = axis if axis == x.ndim else from_start(axis, x.ndim)
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@op("Transpose", 1, 13, 21, 23, 24, 25)
def transpose(x: Tensor, *, perm: Sequence[int] | None = None) -> Tensor:
    return x.permute(tuple(perm) if perm is not None else tuple(reversed(range(x.ndim))))


@op("Squeeze", 1, 11)
def squeeze_attribute(x: Tensor, *, axes: Sequence[int] | None = None) -> Tensor:
    return squeeze(x, None if axes is None else np.array(axes))


@op("Squeeze", 13, 21, 23, 24, 25, host=("axes",))
def squeeze(x: Tensor, axes: np.ndarray | None = None) -> Tensor:
    if axes is None:
        return x.reshape([s for s in x.shape if s != 1])
    dropped = {from_start(d, x.ndim) for d in as_ints(axes)}
    return x.reshape([s for d, s in enumerate(x.shape) if d not in dropped])


@op("Unsqueeze", 1, 11)
def unsqueeze_attribute(x: Tensor, *, axes: Sequence[int]) -> Tensor:
    return unsqueeze(x, np.array(axes))


@op("Unsqueeze", 13, 21, 23, 24, 25, host=("axes",))
def unsqueeze(x: Tensor, axes: np.ndarray) -> Tensor:
    ndim = x.ndim + len(as_ints(axes))
    added, sizes = {from_start(d, ndim) for d in as_ints(axes)}, iter(x.shape)
    if x.ndim + len(added) != ndim:
        raise NotRunnable(f"an axis stands twice in {as_ints(axes)}")
    return x.reshape([1 if d in added else next(sizes) for d in range(ndim)])


@op("Concat", 4, 11, 13)
def concat(*xs: Tensor, axis: int) -> Tensor:
    return torch.cat(xs, axis)


@op("Split", 2, 11, outputs=10**6)
def split_attribute(
    x: Tensor, *, outputs: int, axis: int = 0, split: Sequence[int] | None = None
) -> tuple[Tensor, ...]:
    if split is None and x.shape[axis] % outputs:
        raise NotRunnable(f"{x.shape[axis]} does not divide by {outputs}")
    return torch.split(x, list(split or [x.shape[axis] // outputs] * outputs), axis)


@op("Split", 13, 18, host=("split",), outputs=10**6)
def split(
    x: Tensor,
    split: np.ndarray | None = None,
    *,
    outputs: int,
    axis: int = 0,
    num_outputs: int | None = None,
) -> tuple[Tensor, ...]:
    """The last part of an uneven split is the smaller one."""
    size = -(-x.shape[axis] // outputs)
    sizes = as_ints(split) if split is not None else [size] * (outputs - 1)
    return torch.split(x, sizes if split is not None else [*sizes, x.shape[axis] - sum(sizes)], axis)


@op("Slice", 1)
def slice_attributes(
    x: Tensor, *, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int] | None = None
) -> Tensor:
    return slice_(x, np.array(starts), np.array(ends), None if axes is None else np.array(axes))


@op("Slice", 10, 11, 13, host=("starts", "ends", "axes", "steps"))
def slice_(
    x: Tensor,
    starts: np.ndarray,
    ends: np.ndarray,
    axes: np.ndarray | None = None,
    steps: np.ndarray | None = None,
) -> Tensor:
    first, last = as_ints(starts), as_ints(ends)
    dims = as_ints(axes) if axes is not None else list(range(len(first)))
    for start, end, d, step in zip(
        first, last, dims, as_ints(steps) if steps is not None else [1] * len(dims)
    ):
        d = from_start(d, x.ndim)
        start, end, step = slice(start, end, step).indices(x.shape[d])
        if step < 0:
            x = torch.index_select(x, d, torch.arange(start, end, step))
        elif (start, end, step) != (0, x.shape[d], 1):
            x = x[(slice(None),) * d + (slice(start, max(end, start), step),)]
    return x


@op("Expand", 8, 13, host=("shape",))
def expand(x: Tensor, shape: np.ndarray) -> Tensor:
    return x.expand(torch.broadcast_shapes(tuple(x.shape), tuple(as_ints(shape))))


@op("Tile", 6, 13, host=("repeats",))
def tile(x: Tensor, repeats: np.ndarray) -> Tensor:
    return x.repeat(as_ints(repeats))


@op("Pad", 2)
def pad_attributes(x: Tensor, *, pads: Sequence[int], mode: str = "constant", value: float = 0.0) -> Tensor:
    return pad(x, np.array(pads), np.array(value), mode=mode)


@op("Pad", 11, 13, 18, 19, 21, 23, 24, 25, host=("pads", "value", "axes"))
def pad(
    x: Tensor,
    pads: np.ndarray,
    value: np.ndarray | None = None,
    axes: np.ndarray | None = None,
    *,
    mode: str = "constant",
) -> Tensor:
    given = as_ints(pads)
    dims = [from_start(d, x.ndim) for d in as_ints(axes)] if axes is not None else list(range(x.ndim))
    if len(given) != 2 * len(dims):
        raise NotRunnable(f"{len(given)} pads do not fit {len(dims)} axes")
    both = [(0, 0)] * x.ndim
    for d, before, after in zip(dims, given[: len(dims)], given[len(dims) :]):
        both[d] = (before, after)
    if mode == "constant":
        fill = 0 if value is None else value.reshape(()).item()
        return F.pad(x, [p for pair in reversed(both) for p in pair], value=fill)
    for d, (before, after) in enumerate(both):
        if before < 0 or after < 0:
            raise NotRunnable(f"negative pads are not supported in mode {mode!r}")
        if mode == "reflect" and max(before, after) >= max(x.shape[d], 1):
            raise NotRunnable(
                f"pads of {before} and {after} do not fit {x.shape[d]} values: what is reflected is less "
                "than there is"
            )
        if before or after:
            kept = np.pad(np.arange(x.shape[d]), (before, after), mode=mode)  # pyright: ignore
            x = torch.index_select(x, d, torch.from_numpy(kept))
    return x


@op("DepthToSpace", 1, 11, 13, check=only(mode=("DCR", "CRD")))
def depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    n, c, h, w = x.shape
    b, rest = blocksize, c // blocksize**2
    if mode == "DCR":
        x = x.reshape(n, b, b, rest, h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        x = x.reshape(n, rest, b, b, h, w).permute(0, 1, 4, 2, 5, 3)
    return x.reshape(n, rest, h * b, w * b)


@op("SpaceToDepth", 1, 13)
def space_to_depth(x: Tensor, *, blocksize: int) -> Tensor:
    n, c, h, w = x.shape
    b = blocksize
    x = x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(n, c * b * b, h // b, w // b)
