"""Adafactor: a second moment kept as a row and a column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from ..errors import TaskError
from ..ir.graph import Builder, aten
from .base import Base, Shape, State, require_number


@dataclass(frozen=True)
class Adafactor(Base):
    """`torch.optim.Adafactor` (arXiv 1804.04235, with PyTorch's use of `lr` and `eps`).

    A tensor [..., R, C] keeps `row_var` [..., R, 1] and `col_var` [..., 1, C] instead of [..., R, C];
    a vector keeps `variance` of its own shape. Like PyTorch it factors the *last two* dimensions: a
    linear layer's state all but vanishes, a k x k convolution's shrinks to 2/k, and a 1 x 1
    convolution's is twice the tensor.

    Args:
        lr: the largest relative step, which a step may set; the step is `min(lr, 1/sqrt(t))` times the
            root mean square of the tensor.
        beta2_decay: exponent c of the running mean's decay `1 - t**c`; at most 0.
        eps: regularises the variance (None: float32's machine epsilon); least root mean square of a
            tensor that steps are relative to.
        d: clips the update where its root mean square is above this.
        weight_decay: decoupled, times the learning rate.

    Its further options are those of `Base`.
    """

    lr: float = 1e-2
    beta2_decay: float = -0.8
    eps: tuple[float | None, float] = (None, 1e-3)
    d: float = 1.0
    weight_decay: float = 0.0
    name: ClassVar[str] = "adafactor"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.beta2_decay, int | float) or not -100 <= self.beta2_decay <= 0:
            raise TaskError(f"Adafactor: beta2_decay is a number from -100 to 0, not {self.beta2_decay!r}.")
        if not isinstance(self.eps, tuple) or len(self.eps) != 2:
            raise TaskError(f"Adafactor: eps is a pair, its first may be None, not {self.eps!r}.")
        if self.eps[0] is not None:
            require_number("Adafactor", "eps[0]", self.eps[0])
        require_number("Adafactor", "eps[1]", self.eps[1])
        require_number("Adafactor", "d", self.d)
        if self.d < 1:
            raise TaskError(f"Adafactor: d, where updates are clipped, is 1 or more, not {self.d!r}.")

    @property
    def scalar_state(self) -> Mapping[str, float]:
        return {"step": 0.0}

    def tensor_state(self, shape: Shape) -> Mapping[str, Shape]:
        if len(shape) < 2:
            return {"variance": shape}
        return {"row_var": (*shape[:-1], 1), "col_var": (*shape[:-2], 1, shape[-1])}

    def advance(self, b: Builder, scalars: State) -> State:
        return {"step": b.call(aten.add.Scalar, scalars["step"], 1.0)}

    def update(
        self, b: Builder, p: fx.Node, grad: fx.Node, state: State, scalars: State, lr: fx.Node
    ) -> tuple[fx.Node, State]:
        eps1 = torch.finfo(torch.float32).eps if self.eps[0] is None else self.eps[0]
        step = scalars["step"]
        fresh = b.call(aten.pow.Tensor_Scalar, step, self.beta2_decay)  # share of this step's square
        relative = b.call(aten.minimum.default, lr, b.call(aten.rsqrt.default, step))
        size = b.call(aten.clamp_min.default, _root_mean_square(b, p), self.eps[1])

        square = b.call(aten.mul.Tensor, grad, grad)
        if "variance" in state:
            variance = _blend(b, state["variance"], square, fresh)
            new = {"variance": variance}
        else:
            row = _blend(b, state["row_var"], b.call(aten.mean.dim, square, [-1], True), fresh)
            col = _blend(b, state["col_var"], b.call(aten.mean.dim, square, [-2], True), fresh)
            new = {"row_var": row, "col_var": col}
            mean = b.call(aten.clamp_min.default, b.call(aten.mean.dim, row, [-2], True), eps1)
            variance = b.call(aten.div.Tensor, b.call(aten.mul.Tensor, row, col), mean)
        root = b.call(aten.rsqrt.default, b.call(aten.clamp_min.default, variance, eps1 * eps1))
        update = b.call(aten.mul.Tensor, root, grad)
        excess = b.call(aten.mul.Scalar, _root_mean_square(b, update), 1 / self.d)
        scale = b.call(aten.div.Tensor, b.call(aten.mul.Tensor, size, relative),
                       b.call(aten.clamp_min.default, excess, 1.0))  # fmt: skip
        if self.weight_decay:
            decay = b.call(aten.mul.Tensor, b.call(aten.mul.Scalar, p, self.weight_decay), lr)
            p = b.call(aten.sub.Tensor, p, decay)
        return b.call(aten.sub.Tensor, p, b.call(aten.mul.Tensor, update, scale)), new


def _blend(b: Builder, old: fx.Node, value: fx.Node, share: fx.Node) -> fx.Node:
    """`old + share * (value - old)`."""
    change = b.call(aten.mul.Tensor, b.call(aten.sub.Tensor, value, old), share)
    return b.call(aten.add.Tensor, old, change)


def _root_mean_square(b: Builder, x: fx.Node) -> fx.Node:
    return b.call(aten.sqrt.default, b.call(aten.mean.default, b.call(aten.mul.Tensor, x, x)))
