"""Stochastic gradient descent.

`torch.optim.SGD` starts its momentum with the first gradient. Without dampening, which there is none of here,
a momentum that starts at zero comes to the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from ..errors import TaskError
from ..ir.graph import Builder, aten
from .base import Base, Shape, State, require_number


@dataclass(frozen=True)
class SGD(Base):
    """`torch.optim.SGD`: momentum, Nesterov, weight decay.

    Args:
        lr: default learning rate; a step may pass another.
        momentum: 0 keeps no state.
        weight_decay: L2 penalty added to the gradient.
        nesterov: look ahead along the momentum; needs momentum.

    Raises:
        TaskError: a value that an option cannot have; Nesterov's without a momentum.

    Its further options are those of `Base`.
    """

    lr: float = 1e-2
    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False
    name: ClassVar[str] = "sgd"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("SGD", "momentum", self.momentum)
        if self.nesterov and not self.momentum:
            raise TaskError("SGD: nesterov=True needs a momentum above 0.")

    def tensor_state(self, shape: Shape) -> Mapping[str, Shape]:
        return {"momentum_buffer": shape} if self.momentum else {}

    def update(
        self, b: Builder, p: fx.Node, grad: fx.Node, state: State, scalars: State, lr: fx.Node
    ) -> tuple[fx.Node, State]:
        if self.weight_decay:
            grad = b.call(aten.add.Tensor, grad, b.call(aten.mul.Scalar, p, self.weight_decay))
        step, new = grad, {}
        if self.momentum:
            decayed = b.call(aten.mul.Scalar, state["momentum_buffer"], self.momentum)
            step = new["momentum_buffer"] = b.call(aten.add.Tensor, decayed, grad)
            if self.nesterov:
                step = b.call(aten.add.Tensor, grad, b.call(aten.mul.Scalar, step, self.momentum))
        return b.call(aten.sub.Tensor, p, b.call(aten.mul.Tensor, step, lr)), new
