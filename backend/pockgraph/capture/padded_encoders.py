"""`nn.TransformerEncoder` on padded sequences where nothing of it is trained.

There PyTorch packs the sequences of an encoder in evaluation mode (`enable_nested_tensor`, its default) and
puts zeros where the padding was, ahead of the last norm; where gradients are needed it computes values
there. Packing has no static shape, but what it gives has.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_FORWARD = nn.TransformerEncoder.forward


@contextmanager
def padded_encoders() -> Iterator[None]:
    """Encoders give what they give packed, wherever PyTorch would pack their sequences."""
    nn.TransformerEncoder.forward = _forward
    try:
        yield
    finally:
        nn.TransformerEncoder.forward = _FORWARD


def _forward(
    self: nn.TransformerEncoder,
    src: Tensor,
    mask: Tensor | None = None,
    src_key_padding_mask: Tensor | None = None,
    is_causal: bool | None = None,
) -> Tensor:
    """As `nn.TransformerEncoder.forward`: `src` [N, T, E], `src_key_padding_mask` [N, T]."""
    out = _FORWARD(self, src, mask, src_key_padding_mask, is_causal)
    if src_key_padding_mask is None or mask is not None or not _packs(self, src):
        return out
    padding = src_key_padding_mask != 0  # of a mask of numbers: minus infinity
    if getattr(self, "mask_check", True):
        ends = (~padding).sum(1, keepdim=True)
        padding = padding & ((torch.arange(padding.shape[1]) >= ends) == padding).all()
    empty = torch.zeros_like(out)
    return torch.where(padding.unsqueeze(2), empty if self.norm is None else self.norm(empty), out)


def _packs(encoder: nn.TransformerEncoder, src: Tensor) -> bool:
    first = encoder.layers[0]
    if not encoder.use_nested_tensor or first.training or src.ndim != 3 or torch.is_autocast_enabled("cpu"):
        return False
    return not (torch.is_grad_enabled() and any(t.requires_grad for t in (src, *first.parameters())))
