"""Modules of `operator_cases.py`: what takes a class to say."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def picked(x: Tensor) -> Tensor:
    """Indices along the last dimension that depend on nothing a gradient goes through."""
    return (x.detach() * 7).long() % x.shape[-1]


class Bilinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Bilinear(3, 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x[:, :3], x[:, 3:])


class Sampled(nn.Module):
    """A spatial transformer: where to look is learned, too."""

    def __init__(self, mode: str, padding: str, align: bool) -> None:
        super().__init__()
        self.how = {"mode": mode, "padding_mode": padding, "align_corners": align}
        self.theta = nn.Parameter(torch.tensor([[0.8, 0.3, 0.4], [-0.35, 1.3, -0.2]]))

    def forward(self, x: Tensor) -> Tensor:
        down = torch.linspace(-0.8, 0.8, 3, dtype=x.dtype)[:, None].expand(3, 4)
        across = torch.linspace(-0.9, 0.9, 4, dtype=x.dtype).expand(3, 4)
        grid = torch.stack([across, down, torch.ones_like(down)], -1) @ self.theta.T
        return F.grid_sample(x, grid.expand(x.shape[0], -1, -1, -1), **self.how)


class Transformed(nn.Module):
    """A spatial transformer as the tutorial has it."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([[0.8, 0.3, 0.4], [-0.35, 1.3, -0.2]]))

    def forward(self, x: Tensor) -> Tensor:
        grid = F.affine_grid(self.theta.expand(x.shape[0], 2, 3), list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, align_corners=False)


class Sampled3d(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        theta = torch.eye(3, 4, dtype=x.dtype).expand(x.shape[0], 3, 4) * 0.9 + 0.05
        grid = F.affine_grid(theta, [*x.shape[:2], 2, 3, 2], align_corners=False)
        return F.grid_sample(x, grid, align_corners=False)


class Bags(nn.Module):
    def __init__(self, mode: str) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(9, 4, mode=mode)

    def forward(self, x: Tensor) -> Tensor:
        return self.bag((x.detach() * 7).long() % 9) * x.mean(1, keepdim=True)


class Memory(nn.Module):
    """Writes the batch into a table of its own."""

    def __init__(self, write: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.table, self.write = nn.Parameter(torch.linspace(-1, 1, 28).view(7, 4)), write

    def forward(self, x: Tensor) -> Tensor:
        where = (x.detach()[:, 0] * 7).long() % 7
        return self.write(self.table, where, x).sum(0) * x
