"""A plan in effect in a PyTorch module."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from types import TracebackType

import torch
from torch import nn

from ..errors import PlanError, require
from ..plan import Plan
from ..task.task import BATCH_NORMS, INSTANCE_NORMS
from .partial_training import PartialParameter, make_whole

_APPLIED: weakref.WeakSet[nn.Module] = weakref.WeakSet()


class AppliedPlan:
    """A plan in effect in a module; see `Plan.apply`. As a context manager it ends with the block.

    Attributes:
        plan: what is trained.
        model: the module.
    """

    def __init__(self, plan: Plan, model: nn.Module) -> None:
        require(PlanError, "model", model, nn.Module, "Pass the PyTorch model that the plan was made for.")
        if model in _APPLIED:
            raise PlanError("A plan is applied to this model already. Undo that one first.")
        named = dict(model.named_parameters(remove_duplicate=False))
        known = {fqn: tuple(named[fqn].shape) for fqn in plan.model if fqn in named}
        plan.check_fits(known)
        self.plan, self.model = plan, model
        self._learned = {id(p): (p, p.requires_grad) for p in model.parameters()}
        for p, _ in self._learned.values():
            p.requires_grad_(False)
            p.grad = None
        self._partial = []
        for fqn, trained in plan.tensors.items():
            named[fqn].requires_grad_(True)
            if trained.channels is not None:
                self._partial.append(PartialParameter(fqn, named[fqn], trained))
        self._hooks = [*self._whole_ahead(), *self._hold_modes()]
        _APPLIED.add(model)

    def parameters(self) -> list[nn.Parameter]:
        """What learns, for an optimizer: each once, in the model's order."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def undo(self) -> None:
        """Every parameter learns as it did before, and keeps the value that training gave it.

        Optimizers made meanwhile have state of parts: make new ones.
        """
        for part in self._partial:
            part.undo()
        for hook in self._hooks:
            hook.remove()
        for p, learned in self._learned.values():
            p.requires_grad_(learned)
            p.grad = None
        self._partial, self._hooks, self._learned = [], [], {}
        _APPLIED.discard(self.model)

    def _whole_ahead(self) -> Iterator[torch.utils.hooks.RemovableHandle]:
        """An exception inside of an optimizer's step leaves no model that cannot be called or saved."""
        partial = {id(self.model.get_parameter(part.fqn)) for part in self._partial}
        for module in self.model.modules():
            if any(id(p) in partial for p in module.parameters(recurse=False)):
                yield module.register_forward_pre_hook(make_whole)
                yield module.register_state_dict_pre_hook(make_whole)

    def _hold_modes(self) -> Iterator[torch.utils.hooks.RemovableHandle]:
        """`model.train()` turns nothing on that the plan's step has off."""
        for module in self.model.modules():
            if isinstance(module, BATCH_NORMS):
                held = self.plan.batch_norm == "frozen"
            elif isinstance(module, INSTANCE_NORMS) and module.track_running_stats:
                held = True
            else:
                held = not self.plan.dropout
            if held:
                yield module.register_forward_pre_hook(_evaluates)

    def __enter__(self) -> AppliedPlan:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()

    def __repr__(self) -> str:
        return f"AppliedPlan({self.plan!r}, in {type(self.model).__name__})"


def _evaluates(module: nn.Module, _: object) -> None:
    """A hook ahead of a module's forward."""
    module.training = False
