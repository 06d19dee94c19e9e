"""TensorInfo: one trainable tensor and what it costs. Pure, no torch."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class TensorInfo:
    """One trainable tensor, and what training it costs on its own.

    Attributes:
        fqn: fully-qualified name in the model.
        kind: `"weight"`, `"bias"` or `"norm"` (the scale of a normalisation).
        shape: its shape.
        layer: the module it belongs to; `block`: the repeated part of the network that module is in.
        channel_dim: the dimension partial updates choose channels along: a convolution's or linear
            layer's *input* channels (of a grouped convolution, the same ones in every group), a
            depthwise convolution's channels, an embedding's rows, a vector's elements. None when
            only the whole tensor can be trained.
        flops: of its gradient and update alone (not of the backward pass that reaches it).
        dx_flops: of carrying the gradient on past its layer, to whatever lies deeper.
        saved_bytes: of activations that its gradient holds on to until the backward pass.
        depth: position in the forward pass, 0 is the first.
    """

    fqn: str
    kind: str
    shape: tuple[int, ...]
    layer: str
    block: str
    channel_dim: int | None
    flops: int
    dx_flops: int
    saved_bytes: int
    depth: int

    @property
    def nbytes(self) -> int:
        return 4 * math.prod(self.shape)

    @property
    def channels(self) -> int | None:
        return None if self.channel_dim is None else self.shape[self.channel_dim]


def block_of(layer: str) -> str:
    """The block of a module: `features.12.conv.0` -> `features.12`, the path up to the first number in it."""
    numbered = re.match(r"(.*?(?:^|\.)\d+)(?:\.|$)", layer)
    return numbered.group(1) if numbered else layer
