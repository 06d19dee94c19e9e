"""The gradient of a convolution's weight, as a convolution.

dw[o, c] = Σ_n x[n, c] * dy[n, o]: samples are the channels that it sums over, channels are its samples, and
strides and dilations change places.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .table import Inexpansible, expands

aten = torch.ops.aten


@expands(aten.convolution_backward.default)
def convolution_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    output_mask: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    if output_mask[0] or output_mask[2]:
        raise Inexpansible("several gradients of a convolution at once")
    if transposed:  # the weight is that of the convolution from y to x
        x, dy = dy, x
    kernel = weight.shape[2:]
    # [N, G C, …] -> [C, G N, …] and [N, G O, …] -> [G O, N, …]
    samples = x.unflatten(1, (groups, -1)).transpose(0, 2).flatten(1, 2)
    dw = aten.convolution.default(
        samples, dy.transpose(0, 1), None, dilation, padding, stride, False, [0] * len(kernel), groups
    )
    # A stride that leaves the end of x unread makes more places than the kernel has.
    for dim, size in enumerate(kernel, start=2):
        dw = dw.narrow(dim, 0, size)
    return None, dw.transpose(0, 1), None
