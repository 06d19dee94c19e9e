"""What all optimizers share: the interface, groups of tensors, and the options of every one of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

from torch import fx

from ..errors import TaskError, suggest
from ..globs import matches
from ..ir.graph import Builder

ACCUMULATED = "accumulated"  # state: the sum of a cycle's gradients so far
MICRO_STEP = "micro_step"  # state: how many of a cycle's batches were seen

State = dict[str, fx.Node]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """Tensors with a learning rate or a weight decay of their own.

    Args:
        pattern: a glob over tensor names (FQNs): `"*.bias"`, `"layers.0.*"`.
        lr_scale: times the step's learning rate.
        weight_decay: instead of the optimizer's; None keeps that.
    """

    pattern: str
    lr_scale: float = 1.0
    weight_decay: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.pattern, str) or not self.pattern:
            raise TaskError(f"Group: pattern is a glob over tensor names, not {self.pattern!r}.")
        require_number("Group", "lr_scale", self.lr_scale)
        if self.weight_decay is not None:
            require_number("Group", "weight_decay", self.weight_decay)

    def matches(self, fqn: str) -> bool:
        return matches(fqn, self.pattern)

    def to_dict(self) -> dict[str, Any]:
        decay = {} if self.weight_decay is None else {"weight_decay": self.weight_decay}
        return {"pattern": self.pattern, "lr_scale": self.lr_scale, **decay}

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """Raises TaskError: not a mapping, or an unknown option, with suggestions."""
        if not isinstance(data, Mapping):
            raise TaskError(f"A group of tensors is written as {{'pattern': …}}, not {data!r}.")
        known = [f.name for f in fields(cls)]
        for option in data:
            if option not in known:
                raise TaskError(f"Group has no option {option!r}.{suggest(str(option), known)}")
        if "pattern" not in data:
            raise TaskError("Group needs a pattern, a glob over tensor names.")
        return cls(**data)


@runtime_checkable
class Optimizer(Protocol):
    """What the training graph needs to know of an optimizer.

    The four options of `Base` are read as attributes. Every state starts at zero unless said otherwise.
    """

    name: ClassVar[str]

    @property
    def lr(self) -> float: ...
    @property
    def groups(self) -> tuple[Group, ...]: ...
    @property
    def clip_norm(self) -> float | None: ...
    @property
    def accumulate(self) -> int: ...
    @property
    def ema_decay(self) -> float | None: ...
    @property
    def scalar_state(self) -> Mapping[str, float]:
        """States shared by all tensors, with their initial value."""
        ...

    def tensor_state(self, shape: Shape) -> Mapping[str, Shape]:
        """The states of a trained tensor (or trained part) of this shape, with their shapes.

        A state has as many dimensions as the tensor, each of the tensor's size or of size 1.
        """
        ...

    def for_tensor(self, fqn: str) -> tuple[Optimizer, float]:
        """The optimizer of one tensor, and what scales its learning rate: as its group says."""
        ...

    def advance(self, b: Builder, scalars: State) -> State:
        """The next value of each scalar state; once an update, before any tensor's."""
        ...

    def update(
        self, b: Builder, p: fx.Node, grad: fx.Node, state: State, scalars: State, lr: fx.Node
    ) -> tuple[fx.Node, State]:
        """The next value of the tensor `p` and of its states; `scalars` are already advanced.

        Every node made has the tensor's number of dimensions (reduced ones kept as size 1) or none.
        """
        ...

    def to_dict(self) -> dict[str, Any]: ...


@dataclass(frozen=True, kw_only=True)
class Base:
    """The options that every optimizer has.

    Args:
        groups: tensors with their own learning rate or weight decay. The first group that matches a
            tensor's name counts; `build` refuses one that matches no tensor.
        clip_norm: scale all gradients down together when the norm over all trained tensors, trained
            channels only, is above this, as `torch.nn.utils.clip_grad_norm_` does. No update can then
            be made before the last gradient exists, so that all gradients are alive at once.
        accumulate: n, the number of micro-batches of one update. A step takes one micro-batch; every
            n-th one updates with the mean of the last n gradients. The steps between leave weights,
            momentum, averages and step counts bitwise unchanged: no weight decay, no momentum decay;
            only the sum of gradients grows. The learning rate that counts is that of the n-th step.
            Each step's loss is its own micro-batch's. Costs one copy of what is trained.
        ema_decay: keep `ema = ema_decay * ema + (1 - ema_decay) * weights` after every update, beginning
            with the initial weights: `torch.optim.swa_utils.AveragedModel`, its first update made
            before training. Evaluation and export then read the average. Costs one copy of what is
            trained.

    Raises:
        TaskError: a value that an option cannot have.
    """

    groups: tuple[Group, ...] = ()
    clip_norm: float | None = None
    accumulate: int = 1
    ema_decay: float | None = None
    name: ClassVar[str]

    def __post_init__(self) -> None:
        where = type(self).__name__
        for option in ("lr", "weight_decay"):
            require_number(where, option, getattr(self, option))
        if not isinstance(self.groups, tuple) or not all(isinstance(g, Group) for g in self.groups):
            raise TaskError(f"{where}: groups is a tuple of Group, not {self.groups!r}.")
        if self.clip_norm is not None:
            require_number(where, "clip_norm", self.clip_norm)
            if not self.clip_norm:
                raise TaskError(f"{where}: clip_norm=0 would drop every gradient. Use None for no clipping.")
        count = self.accumulate
        if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count < 2**24:
            raise TaskError(f"{where}: accumulate is a number of micro-batches, 1 or more, not {count!r}.")
        if self.ema_decay is not None:
            require_number(where, "ema_decay", self.ema_decay, below=1.0)

    @property
    def scalar_state(self) -> Mapping[str, float]:
        return {}

    def advance(self, b: Builder, scalars: State) -> State:
        return {}

    def for_tensor(self, fqn: str) -> tuple[Self, float]:
        group = next((g for g in self.groups if g.matches(fqn)), None)
        if group is None:
            return self, 1.0
        changes = {} if group.weight_decay is None else {"weight_decay": group.weight_decay}
        return replace(self, **changes), group.lr_scale

    def to_dict(self) -> dict[str, Any]:
        """`{"name": …}` and the options, as a plan stores them; of `Base`'s those that are in use."""
        shared = {f.name: f.default for f in fields(Base)}
        options = {f.name: getattr(self, f.name) for f in fields(self)}
        used = {k: v for k, v in options.items() if k not in shared or v != shared[k]}
        return {"name": self.name} | {
            k: _plain(v) for k, v in sorted(used.items(), key=lambda kv: kv[0] in shared)
        }


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return value.to_dict() if isinstance(value, Group) else value


def require_number(where: str, option: str, value: Any, *, below: float = math.inf) -> None:
    """Refuse what is not a finite number from 0 up.

    Raises:
        TaskError: naming the option.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value < below:
        limit = "" if below == math.inf else f" and below {below:g}"
        raise TaskError(f"{where}: {option} is a finite number, 0 or more{limit}, not {value!r}.")


def require_betas(where: str, betas: Any) -> None:
    """Refuse what is not a pair of decay rates.

    Raises:
        TaskError: naming the optimizer.
    """
    if not isinstance(betas, tuple) or len(betas) != 2:
        raise TaskError(f"{where}: betas is a pair of numbers, not {betas!r}.")
    for i, beta in enumerate(betas):
        require_number(where, f"betas[{i}]", beta, below=1.0)


def check_groups(optimizer: Optimizer, names: Iterable[str]) -> None:
    """Refuse a group that matches none of the trainable tensors.

    Raises:
        TaskError: naming the pattern, with suggestions.
    """
    known = list(names)
    for group in optimizer.groups:
        if not any(group.matches(fqn) for fqn in known):
            parts = [fqn.rpartition(".") for fqn in known]
            globs = {f"*.{last}" for _, _, last in parts} | {f"{layer}.*" for layer, _, _ in parts if layer}
            raise TaskError(
                f"The group {group.pattern!r} matches no trainable tensor of the model."
                f"{suggest(group.pattern, [*known, *sorted(globs)])}"
            )
