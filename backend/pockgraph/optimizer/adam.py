"""Adam and AdamW.

The bias corrections `1 - beta**t` are kept as running scalars `c = beta c + (1 - beta)`: in f32 that sum
of positive terms stays exact to rounding where `1 - beta**t` would cancel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from ..ir.graph import Builder, aten
from .base import Base, Shape, State, require_betas, require_number

_CORRECTIONS = ("bias_correction1", "bias_correction2")


@dataclass(frozen=True)
class _Moments(Base):
    """The running means of the gradient and of its square, which both optimizers keep."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        require_betas(type(self).__name__, self.betas)
        require_number(type(self).__name__, "eps", self.eps)

    @property
    def scalar_state(self) -> Mapping[str, float]:
        return dict.fromkeys(_CORRECTIONS, 0.0)

    def tensor_state(self, shape: Shape) -> Mapping[str, Shape]:
        return {"exp_avg": shape, "exp_avg_sq": shape}

    def advance(self, b: Builder, scalars: State) -> State:
        return {
            name: b.call(aten.add.Scalar, b.call(aten.mul.Scalar, scalars[name], beta), 1 - beta)
            for name, beta in zip(_CORRECTIONS, self.betas)
        }

    def _step(
        self, b: Builder, grad: fx.Node, state: State, scalars: State, lr: fx.Node
    ) -> tuple[fx.Node, State]:
        """What is subtracted from the tensor, of its shape and with the rate in it; and the next states."""
        beta1, beta2 = self.betas
        mean = b.call(
            aten.add.Tensor,
            b.call(aten.mul.Scalar, state["exp_avg"], beta1),
            b.call(aten.mul.Scalar, grad, 1 - beta1),
        )
        square = b.call(aten.mul.Scalar, b.call(aten.mul.Tensor, grad, grad), 1 - beta2)
        mean_square = b.call(aten.add.Tensor, b.call(aten.mul.Scalar, state["exp_avg_sq"], beta2), square)
        new = {"exp_avg": mean, "exp_avg_sq": mean_square}
        if "max_exp_avg_sq" in state:
            mean_square = b.call(aten.maximum.default, state["max_exp_avg_sq"], mean_square)
            new["max_exp_avg_sq"] = mean_square
        root = b.call(aten.sqrt.default, b.call(aten.div.Tensor, mean_square, scalars["bias_correction2"]))
        step_size = b.call(aten.div.Tensor, lr, scalars["bias_correction1"])
        step = b.call(
            aten.div.Tensor, b.call(aten.mul.Tensor, mean, step_size), b.call(aten.add.Scalar, root, self.eps)
        )
        return step, new


@dataclass(frozen=True)
class Adam(_Moments):
    """`torch.optim.Adam` (arXiv 1412.6980): weight decay is an L2 penalty added to the gradient.

    Args:
        lr: default learning rate; a step may pass another.
        betas: decay rates of the running means of gradient and squared gradient.
        eps: added to the root of the mean square.
        weight_decay: factor of the penalty.
        amsgrad: divide by the largest mean square so far (openreview ryQu7f-RZ); a third state a tensor.

    Its further options are those of `Base`.
    """

    weight_decay: float = 0.0
    amsgrad: bool = False
    name: ClassVar[str] = "adam"

    def tensor_state(self, shape: Shape) -> Mapping[str, Shape]:
        return {**super().tensor_state(shape), **({"max_exp_avg_sq": shape} if self.amsgrad else {})}

    def update(
        self, b: Builder, p: fx.Node, grad: fx.Node, state: State, scalars: State, lr: fx.Node
    ) -> tuple[fx.Node, State]:
        if self.weight_decay:
            grad = b.call(aten.add.Tensor, grad, b.call(aten.mul.Scalar, p, self.weight_decay))
        step, new = self._step(b, grad, state, scalars, lr)
        return b.call(aten.sub.Tensor, p, step), new


@dataclass(frozen=True)
class AdamW(_Moments):
    """`torch.optim.AdamW`: decoupled weight decay (arXiv 1711.05101).

    Args:
        lr: default learning rate; a step may pass another.
        betas: decay rates of the running means of gradient and squared gradient.
        eps: added to the root of the mean square.
        weight_decay: times the learning rate: the share of a weight that each update takes off.

    Its further options are those of `Base`.
    """

    weight_decay: float = 1e-2
    name: ClassVar[str] = "adamw"

    def update(
        self, b: Builder, p: fx.Node, grad: fx.Node, state: State, scalars: State, lr: fx.Node
    ) -> tuple[fx.Node, State]:
        step, new = self._step(b, grad, state, scalars, lr)
        if self.weight_decay:
            decay = b.call(aten.mul.Tensor, b.call(aten.mul.Scalar, p, self.weight_decay), lr)
            p = b.call(aten.sub.Tensor, p, decay)
        return b.call(aten.sub.Tensor, p, step), new
