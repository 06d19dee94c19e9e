"""Loss, gradients and buffers of one training step by autograd through the user's own module.

In its own dtype, or in float64, where rounding is out of the way: the module computes with float64 copies of
its weights, and whatever it asks for in a lower precision is computed in float64 as well.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_any, tree_map

from ..capture import as_captured, leaf_of
from ..plan import Plan
from ..prng import step_keys
from ..task import Task
from .seeded_dropout import seeded_dropout

LOWER = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Outcome:
    """One step, before its update.

    Attributes:
        loss: a number.
        gradients: FQN -> of what the plan trains; of a part, the part's.
        changed: FQN -> value after the forward pass, of every buffer, and of each parameter that it changed.
    """

    loss: float
    gradients: dict[str, Tensor]
    changed: dict[str, Tensor]


class _Loss(nn.Module):
    def __init__(self, task: Task) -> None:
        super().__init__()
        self.model = task.model
        self._loss = task.loss

    def forward(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        loss = self._loss(self.model, batch)
        return loss, {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}


def autograd(task: Task, plan: Plan, double: bool = False, seed: int = 0) -> Outcome:
    """The step of the module on the task's first batch, in the mode in which its graph was captured.

    The module is left as it was.

    Args:
        double: compute in float64.
        seed: of dropout's masks, which are those of the first compiled step.

    Raises:
        Exception: whatever the module raises, in float64 in particular.
    """
    with (
        as_captured(task),
        restored(task.model),
        torch.enable_grad(),
        seeded_dropout(step_keys(seed, 0)) if task.dropout else contextlib.nullcontext(),
        in_double() if double else contextlib.nullcontext(),
    ):
        own = dict(task.model.named_parameters())
        params = {fqn: owned(p, double) for fqn, p in own.items()}
        buffers = {fqn: owned(b, double) for fqn, b in task.model.named_buffers()}
        for fqn in plan.tensors:
            params[fqn] = leaf_of(fqn, params[fqn], own[fqn])
        values = {f"model.{fqn}": value for fqn, value in {**params, **buffers}.items()}
        batch = {name: owned(value, double) for name, value in task.example.items()}
        loss, after = torch.func.functional_call(_Loss(task), values, (task.rebuild(batch),))
        leaves = [params[fqn] for fqn in plan.tensors]
        found = torch.autograd.grad(loss, leaves, allow_unused=True)
    gradients = {}
    for (fqn, how), grad, leaf in zip(plan.tensors.items(), found, leaves, strict=True):
        grad = torch.zeros_like(leaf) if grad is None else grad.detach().to_dense()
        if how.dim is not None and how.channels is not None:
            grad = grad.index_select(how.dim, torch.tensor(how.channels))
        gradients[fqn] = grad
    changed = {
        fqn: value.detach()
        for fqn, value in after.items()
        if fqn in buffers or value is not params.get(fqn) or value._version
    }
    return Outcome(float(loss.detach()), gradients, changed)


def owned(value: Tensor, double: bool) -> Tensor:
    """A copy, in float64 if that is asked for."""
    value = value.detach().clone()
    return value.double() if double and value.dtype in LOWER else value


@contextlib.contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Whatever a forward pass leaves in the modules' attributes is put back."""
    before = {module: dict(vars(module)) for module in model.modules()}
    try:
        yield
    finally:
        for module, attributes in before.items():
            vars(module).clear()
            vars(module).update(attributes)


@contextlib.contextmanager
def in_double() -> Iterator[None]:
    """What is asked for in a lower precision in here is computed in float64, constants included."""
    with _InDouble():
        yield


class _InDouble(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not tree_any(_is_tensor, (args, kwargs)):  # a constant has the value that its dtype can hold
            return tree_map(_raised, func(*args, **kwargs))
        args, kwargs = tree_map(_raised_dtype, (args, kwargs))
        if not func._schema.is_mutable and tree_any(_is_double, (args, kwargs)):
            args, kwargs = tree_map(_raised, (args, kwargs))
        return func(*args, **kwargs)


def _is_tensor(x: Any) -> bool:
    return isinstance(x, Tensor)


def _is_double(x: Any) -> bool:
    return isinstance(x, Tensor) and x.dtype == torch.float64


def _raised_dtype(x: Any) -> Any:
    return torch.float64 if isinstance(x, torch.dtype) and x in LOWER else x


def _raised(x: Any) -> Any:
    return x.double() if isinstance(x, Tensor) and x.dtype in LOWER else x


def raised(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, floating-point ones in float64."""
    return {name: _raised(value) for name, value in values.items()}
