"""Parameters of which only some channels learn, under whatever optimizer and loop.

Clearing the gradient of the other channels is not enough: weight decay and momentum move what has no
gradient, and statistics such as Adafactor's are of the whole tensor. So during `Optimizer.step` such a
parameter *is* its trained channels: the optimizer's state is of these alone, and the others are not there to
be moved. Between steps the parameter is whole.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from ..errors import PlanError
from ..plan import Trained

_PARTIAL: dict[int, PartialParameter] = {}  # id of a parameter -> its trained channels


class PartialParameter:
    """One parameter of which only some channels learn, until `undo`."""

    def __init__(self, fqn: str, parameter: nn.Parameter, trained: Trained) -> None:
        assert trained.dim is not None
        assert trained.channels is not None
        self.fqn, self._dim = fqn, trained.dim
        kept = set(trained.channels)
        self._trained = torch.tensor(trained.channels)
        self._frozen = torch.tensor([i for i in range(parameter.shape[trained.dim]) if i not in kept])
        self._parameter = weakref.ref(parameter)
        self._whole: Tensor | None = None  # while the parameter is its trained channels
        self._gradient: Tensor | None = None
        self._steps = 0  # that go on, one inside the other
        self._hook = parameter.register_hook(self._cleared)
        _PARTIAL[id(parameter)] = self
        self._forget = weakref.finalize(parameter, _PARTIAL.pop, id(parameter), None)
        _watch_optimizers()

    def undo(self) -> None:
        """The parameter is whole, and learns as a whole."""
        self.make_whole()
        self._hook.remove()
        self._forget()

    def check_state(self, state: dict[str, Any]) -> None:
        """Refuse an optimizer's state of the whole parameter.

        Raises:
            PlanError: it has some.
        """
        p = self._alive()
        if self._whole is None and any(isinstance(v, Tensor) and v.shape == p.shape for v in state.values()):
            raise PlanError(
                f"The optimizer has state of all of {self.fqn!r}, of which the plan trains a part. Make the "
                "optimizer after plan.apply(model), or one anew."
            )

    def enter_step(self) -> None:
        self._steps += 1
        self._cut()

    def leave_step(self) -> None:
        self._steps -= 1
        if self._steps <= 0:
            self.make_whole()

    def make_whole(self) -> None:
        """End a step, also one that an exception has ended."""
        self._steps = 0
        self._join()

    def outside(self, closure: Callable[[], Any]) -> Any:
        """What a closure returns that a step calls, and that sees the whole parameter."""
        steps = self._steps
        self._join()
        self._steps = 0
        result = closure()
        self._steps = steps
        if steps:
            self._cut()
        return result

    def _cut(self) -> None:
        p = self._alive()
        if self._whole is not None:
            return
        self._whole, self._gradient, at = p.data, p.grad, self._trained.to(p.device)
        p.grad = None
        p.data = self._whole.index_select(self._dim, at)
        p.grad = None if self._gradient is None else self._gradient.index_select(self._dim, at)

    def _join(self) -> None:
        p = self._alive()
        if self._whole is None:
            return
        part, cleared = p.data, p.grad is None
        p.grad = None
        p.data = self._whole
        p.grad = None if cleared else self._gradient
        self._whole = self._gradient = None
        with torch.no_grad():
            p.index_copy_(self._dim, self._trained.to(p.device), part)

    def _cleared(self, gradient: Tensor) -> Tensor:
        """Norms of gradients are those of what learns."""
        if gradient.is_sparse:
            return gradient
        return gradient.index_fill(self._dim, self._frozen.to(gradient.device), 0.0)

    def _alive(self) -> nn.Parameter:
        parameter = self._parameter()
        assert parameter is not None
        return parameter


def make_whole(module: nn.Module, *_: object) -> None:
    """A module's own parameters are whole again where an exception ended a step; as a hook, too."""
    for part in _partial(module.parameters(recurse=False)):
        part.make_whole()


def _partial(parameters: Iterable[Any]) -> list[PartialParameter]:
    return [_PARTIAL[id(p)] for p in parameters if id(p) in _PARTIAL]


def _of(optimizer: Optimizer) -> list[PartialParameter]:
    return _partial(p for group in optimizer.param_groups for p in group["params"])


@cache
def _watch_optimizers() -> None:
    """Each optimizer of this process, made before or after; those without such parameters are let be."""
    register_optimizer_step_pre_hook(_before_step)
    register_optimizer_step_post_hook(_after_step)


def _before_step(optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
    parts = _of(optimizer)
    if not parts:
        return None
    for group in optimizer.param_groups:
        for p in group["params"]:
            if id(p) in _PARTIAL:
                _PARTIAL[id(p)].check_state(optimizer.state.get(p, {}))
    for part in parts:
        part.enter_step()
    # A closure computes the loss and its gradients inside of the step: it needs the whole model.
    if kwargs.get("closure") is not None:
        return args, {**kwargs, "closure": _outside(parts, kwargs["closure"])}
    if len(args) > 1 and args[1] is not None:
        return (args[0], _outside(parts, args[1]), *args[2:]), kwargs
    return None


def _outside(parts: list[PartialParameter], closure: Callable[[], Any]) -> Callable[[], Any]:
    for part in parts:
        closure = _wrapped(part, closure)
    return closure


def _wrapped(part: PartialParameter, closure: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: part.outside(closure)


def _after_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    for part in _of(optimizer):
        part.leave_step()
