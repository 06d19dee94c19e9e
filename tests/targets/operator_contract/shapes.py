"""Operators that move numbers without changing them, and their gradients."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from .comparison import Comparison, rand

aten = torch.ops.aten


SHAPE = {
    "t": lambda x: x[0].t(),
    "transpose": lambda x: x.transpose(0, -1),
    "permute": lambda x: x.permute(2, 0, 1),
    "view": lambda x: x.view(-1, 6),
    "reshape": lambda x: x.transpose(0, 1).reshape(-1),
    "flatten": lambda x: x.flatten(1),
    "expand": lambda x: x[:, :1].expand(-1, 5, -1),
    "unsqueeze": lambda x: x.unsqueeze(-1),
    "squeeze": lambda x: x[:1].squeeze(0),
    "squeeze_all": lambda x: x[:1, :1].squeeze(),
    "select": lambda x: x.select(1, -2),
    "slice": lambda x: x[:, 1:3, -4:],
    "slice_step": lambda x: x[:, :, 1::2],
    "slice_step_last": lambda x: x[:, ::3],
    "slice_empty_end": lambda x: x[:, 2:100],
    "cat": lambda x: torch.cat([x, x[:1] * 2, x], 0),
    "stack": lambda x: torch.stack([x, 2 * x], -1),
    "split": lambda x: torch.cat(x.split(3, 1)[::-1], 1),
    "split_sizes": lambda x: torch.cat(x.split([1, 3], 1)[::-1], 1),
    "chunk": lambda x: x.chunk(2, -1)[1],
    "unbind": lambda x: x.unbind(1)[2],
    "flip": lambda x: x.flip(0, 2),
    "roll": lambda x: x.roll((1, -2), (1, 2)),
    "roll_flat": lambda x: x.roll(5),
    "repeat": lambda x: x.repeat(2, 1, 3, 1),
    "pad": lambda x: F.pad(x, (1, 2, 3, 0), value=0.5),
    "crop": lambda x: F.pad(x, (-1, 2)),
    "tril": torch.tril,
    "triu": lambda x: x.triu(1),
    "select_scatter": lambda x: torch.select_scatter(x, x[:, 0] * 2, 1, 2),
    "slice_scatter": lambda x: torch.slice_scatter(x, x[:, :2] * 2, 1, 1, 4, 2),
}


class Shapes(Comparison):
    @pytest.mark.parametrize("name", SHAPE)
    def test_shape(self, name: str) -> None:
        self.check_grad(lambda x: SHAPE[name](x) * 1.0, rand(3, 4, 6))

    def test_backwards_of_slices(self) -> None:
        for start, end, step in [(0, 7, 1), (1, 6, 2), (2, 7, 3), (0, 7, 4), (3, 4, 1)]:
            dy = rand(2, len(range(start, end, step)), 3)
            self.check(
                partial(aten.slice_backward, input_sizes=[2, 7, 3], dim=1, start=start, end=end, step=step),
                dy,
            )
        self.check(lambda g: aten.select_backward(g, [2, 7, 3], 1, -2), rand(2, 3))

    def test_pixel_shuffle(self) -> None:
        self.check_grad(lambda x: F.pixel_shuffle(x, 2), rand(2, 12, 3, 5))
        self.check_grad(lambda x: F.pixel_unshuffle(x, 2), rand(2, 3, 4, 6))
