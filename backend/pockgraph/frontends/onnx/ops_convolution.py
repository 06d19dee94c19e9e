"""Convolutions. Padding that differs at both ends becomes an explicit `pad` or a crop."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from .operator_rules import NotRunnable, only, op

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
PADDINGS = only(auto_pad=("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"))
CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def spatial_pads(
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int] | None,
    auto_pad: str,
) -> list[tuple[int, int]]:
    """(before, after) for each spatial dimension of a convolution or pooling.

    Raises:
        NotRunnable: `pads` are too few, or below 0.
    """
    if auto_pad == "NOTSET":
        pads = pads or [0] * (2 * len(sizes))
        if len(pads) != 2 * len(sizes) or min(pads) < 0:
            raise NotRunnable(f"pads={list(pads)} do not fit {len(sizes)} dimensions, or are below 0")
        return list(zip(pads[: len(sizes)], pads[len(sizes) :]))
    if auto_pad == "VALID":
        return [(0, 0)] * len(sizes)
    found = []
    for size, k, s, d in zip(sizes, kernel, strides, dilations):
        total = max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
        less, more = total // 2, total - total // 2
        found.append((less, more) if auto_pad == "SAME_UPPER" else (more, less))
    return found


def flat_pads(pads: Sequence[tuple[int, int]]) -> list[int]:
    """As `F.pad` wants them: last dimension first."""
    return [p for pair in reversed(pads) for p in pair]


@op("Conv", 1, 11, 22, leaves={"w": "weight", "b": "bias"}, check=PADDINGS)
def conv(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    ndim = x.ndim - 2
    _require_kernel(ndim, w, kernel_shape)
    strides, dilations = strides or [1] * ndim, dilations or [1] * ndim
    both = spatial_pads(x.shape[2:], w.shape[2:], strides, dilations, pads, auto_pad)
    padding = [before for before, _ in both]
    if any(before != after for before, after in both):
        x, padding = F.pad(x, flat_pads(both)), [0] * ndim
    return CONV[ndim](x, w, b, tuple(strides), tuple(padding), tuple(dilations), group)


@op("ConvTranspose", 1, 11, 22, leaves={"w": "weight", "b": "bias"}, check=PADDINGS)
def conv_transpose(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    output_padding: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    ndim = x.ndim - 2
    _require_kernel(ndim, w, kernel_shape)
    strides, dilations = strides or [1] * ndim, dilations or [1] * ndim
    extra = list(output_padding or [0] * ndim)
    whole = [
        (size - 1) * s + d * (k - 1) + 1 + e
        for size, k, s, d, e in zip(x.shape[2:], w.shape[2:], strides, dilations, extra)
    ]
    wanted = output_shape
    if wanted is None and auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [size * s for size, s in zip(x.shape[2:], strides)]
    if wanted is None:
        both = spatial_pads(x.shape[2:], w.shape[2:], strides, dilations, pads, auto_pad)
    else:
        both = []
        for all_of_it, out in zip(whole, wanted[-ndim:]):
            total = all_of_it - out
            if total < 0:
                raise NotRunnable(f"an output of size {out} is larger than the {all_of_it} that there are")
            less, more = total // 2, total - total // 2
            both.append((less, more) if auto_pad == "SAME_UPPER" else (more, less))
    symmetric = all(before == after for before, after in both)
    padding = [before for before, _ in both] if symmetric else [0] * ndim
    y = CONV_TRANSPOSE[ndim](x, w, b, tuple(strides), tuple(padding), tuple(extra), group, tuple(dilations))
    return y if symmetric else F.pad(y, [-p for p in flat_pads(both)])


def _require_kernel(ndim: int, w: Tensor, kernel_shape: Sequence[int] | None) -> None:
    if ndim not in CONV:
        raise NotRunnable(f"{ndim} spatial dimensions are not supported, only one to three")
    if kernel_shape and list(kernel_shape) != list(w.shape[2:]):
        raise NotRunnable(f"kernel_shape={list(kernel_shape)} does not fit weights of shape {list(w.shape)}")
