"""Lion: the sign of an interpolated momentum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from ..ir.graph import Builder, aten
from .base import Base, Shape, State, require_betas


@dataclass(frozen=True)
class Lion(Base):
    """Lion (arXiv 2302.06675, algorithm 2): one state a tensor, and, but for decay, steps of one size.

        p  ←  p - lr (sign(beta1 m + (1 - beta1) g) + weight_decay p)
        m  ←  beta2 m + (1 - beta2) g

    Args:
        lr: default learning rate, 3 to 10 times smaller than AdamW's; a step may pass another.
        betas: how much of the momentum is in the step, and in the next momentum.
        weight_decay: decoupled, times the learning rate.

    Its further options are those of `Base`.
    """

    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    name: ClassVar[str] = "lion"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_betas("Lion", self.betas)

    def tensor_state(self, shape: Shape) -> Mapping[str, Shape]:
        return {"exp_avg": shape}

    def update(
        self, b: Builder, p: fx.Node, grad: fx.Node, state: State, scalars: State, lr: fx.Node
    ) -> tuple[fx.Node, State]:
        momentum, step = (
            b.call(
                aten.add.Tensor,
                b.call(aten.mul.Scalar, state["exp_avg"], beta),
                b.call(aten.mul.Scalar, grad, 1 - beta),
            )
            for beta in self.betas[::-1]  # the second is the momentum's
        )
        step = b.call(aten.sign.default, step)
        if self.weight_decay:
            step = b.call(aten.add.Tensor, step, b.call(aten.mul.Scalar, p, self.weight_decay))
        return b.call(aten.sub.Tensor, p, b.call(aten.mul.Tensor, step, lr)), {"exp_avg": momentum}
