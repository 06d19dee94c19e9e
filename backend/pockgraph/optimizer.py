"""Optimizers as graph nodes: each says how one tensor is updated, in terms of ATen operators.

The update is part of the training graph, so that it can be scheduled right behind its gradient,
fused, and exists only for what a plan trains. Formulas and defaults are torch.optim's.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import fx

from .errors import TaskError, suggest
from .graph import Builder, aten

State = dict[str, fx.Node]


@runtime_checkable
class Optimizer(Protocol):
    """What the training graph needs to know of an optimizer.

    `tensor_state` names the states that have a trained tensor's shape; `scalar_state` maps the
    names of states shared by all tensors to their initial value. Every state starts at zero
    unless given.
    """

    name: ClassVar[str]

    @property
    def lr(self) -> float: ...
    @property
    def tensor_state(self) -> tuple[str, ...]: ...
    @property
    def scalar_state(self) -> Mapping[str, float]: ...
    def advance(self, b: Builder, scalars: State) -> State:
        """The next value of each scalar state; once a step, before any update."""
        ...

    def update(
        self, b: Builder, p: fx.Node, grad: fx.Node, state: State, scalars: State, lr: fx.Node
    ) -> tuple[fx.Node, State]:
        """The next value of the tensor `p` and of its states; `scalars` are already advanced."""
        ...

    def to_dict(self) -> dict[str, Any]: ...


class _Base:
    name: ClassVar[str]
    _scalars: ClassVar[dict[str, float]] = {}

    @property
    def scalar_state(self) -> Mapping[str, float]:
        return self._scalars

    def advance(self, b: Builder, scalars: State) -> State:
        return {}

    def to_dict(self) -> dict[str, Any]:
        """`{"name": …}` and the options, as a plan stores them."""
        options = asdict(self)  # pyright: ignore
        return {"name": self.name} | {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()}


@dataclass(frozen=True)
class SGD(_Base):
    """`torch.optim.SGD`: momentum, Nesterov, weight decay.

    Args:
        lr: default learning rate; a step may pass another.
        momentum: 0 keeps no state.
        weight_decay: L2 penalty added to the gradient.
        nesterov: look ahead along the momentum; needs momentum.
    """

    lr: float = 1e-2
    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False
    name: ClassVar[str] = "sgd"

    def __post_init__(self) -> None:
        if self.nesterov and not self.momentum:
            raise TaskError("SGD: nesterov=True needs a momentum above 0.")

    @property
    def tensor_state(self) -> tuple[str, ...]:
        return ("momentum_buffer",) if self.momentum else ()

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


@dataclass(frozen=True)
class AdamW(_Base):
    """`torch.optim.AdamW`: decoupled weight decay (arXiv 1711.05101).

    The bias corrections `1 - beta**t` are kept as running scalars `c = beta c + (1 - beta)`: in f32
    that sum of positive terms stays exact to rounding where `1 - beta**t` would cancel.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 1e-2
    name: ClassVar[str] = "adamw"
    _scalars: ClassVar[dict[str, float]] = {"bias_correction1": 0.0, "bias_correction2": 0.0}

    @property
    def tensor_state(self) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq")

    def advance(self, b: Builder, scalars: State) -> State:
        return {
            name: b.call(aten.add.Scalar, b.call(aten.mul.Scalar, scalars[name], beta), 1 - beta)
            for name, beta in zip(self._scalars, self.betas)
        }

    def update(
        self, b: Builder, p: fx.Node, grad: fx.Node, state: State, scalars: State, lr: fx.Node
    ) -> tuple[fx.Node, State]:
        beta1, beta2 = self.betas
        mean = b.call(
            aten.add.Tensor,
            b.call(aten.mul.Scalar, state["exp_avg"], beta1),
            b.call(aten.mul.Scalar, grad, 1 - beta1),
        )
        square = b.call(aten.mul.Scalar, b.call(aten.mul.Tensor, grad, grad), 1 - beta2)
        variance = b.call(aten.add.Tensor, b.call(aten.mul.Scalar, state["exp_avg_sq"], beta2), square)
        root = b.call(aten.sqrt.default, b.call(aten.div.Tensor, variance, scalars["bias_correction2"]))
        step_size = b.call(aten.div.Tensor, lr, scalars["bias_correction1"])
        step = b.call(
            aten.div.Tensor, b.call(aten.mul.Tensor, mean, step_size), b.call(aten.add.Scalar, root, self.eps)
        )
        if self.weight_decay:
            decay = b.call(aten.mul.Tensor, b.call(aten.mul.Scalar, p, self.weight_decay), lr)
            p = b.call(aten.sub.Tensor, p, decay)
        return b.call(aten.sub.Tensor, p, step), {"exp_avg": mean, "exp_avg_sq": variance}


OPTIMIZERS: dict[str, type[SGD] | type[AdamW]] = {cls.name: cls for cls in (SGD, AdamW)}


def optimizer_from_dict(data: Mapping[str, Any]) -> Optimizer:
    """The optimizer that a plan describes.

    Raises:
        TaskError: an unknown optimizer or option, with suggestions.
    """
    options = dict(data)
    name = str(options.pop("name", ""))
    cls = OPTIMIZERS.get(name)
    if cls is None:
        raise TaskError(
            f"Unknown optimizer {name!r}; known are {', '.join(OPTIMIZERS)}.{suggest(name, OPTIMIZERS)}"
        )
    known = list(inspect.signature(cls).parameters)
    for option in options:
        if option not in known:
            raise TaskError(f"{cls.__name__} has no option {option!r}.{suggest(option, known)}")
    if isinstance(options.get("betas"), list):
        options["betas"] = tuple(options["betas"])
    return cls(**options)
