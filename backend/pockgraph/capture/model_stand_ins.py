"""What stands in the user's model while it is traced: leaves of autograd, and no checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import checkpoint

from ..recurrent.layers import LOOPS
from . import refusals
from .python_state import line_of
from .refusals import NotOneGraph


def leaf_of(name: str, x: Tensor, real: Tensor) -> Tensor:
    """What autograd differentiates by in the place of a parameter, with the hooks that the user gave it.

    Raises:
        NotOneGraph: a hook that no gradient shows.
    """
    if getattr(real, "_post_accumulate_grad_hooks", None):
        raise NotOneGraph(refusals.POST_ACCUMULATE + f" (it is on {name!r})")
    leaf = x.detach().requires_grad_()
    vars(leaf).update(vars(real))  # pyright: ignore
    for hook in (getattr(real, "_backward_hooks", None) or {}).values():
        leaf.register_hook(hook)
    return leaf


Tables = list[tuple[str, nn.Module, str, dict[str, Any]]]


@contextmanager
def swapped(model: nn.Module, by_id: Mapping[int, Tensor]) -> Iterator[Tables]:
    """The model's own tensors replaced; yields (path, module, table's name, what stands in it now)."""
    tables: list[tuple[dict[str, Any], dict[str, Any]]] = []
    given: Tables = []
    for path, module in model.named_modules():
        for kind in ("_parameters", "_buffers"):
            table: dict[str, Any] = getattr(module, kind)
            tables.append((table, dict(table)))
            for name, real in table.items():
                if real is not None:
                    table[name] = by_id[id(real)]
            given.append((path, module, kind, dict(table)))
    try:
        yield given
    finally:
        for table, before in tables:
            table.clear()
            table.update(before)


def assigned_in(tensors: Mapping[str, Tensor], tables: Tables) -> dict[str, Tensor]:
    """Buffer that was given another tensor -> that tensor.

    Raises:
        NotOneGraph: a parameter was, or a buffer came, went or became another kind of tensor.
    """
    found = {}
    for path, module, kind, before in tables:
        table: dict[str, Any] = getattr(module, kind)
        for name in {**before, **table}:
            old, new = before.get(name), table.get(name)
            if old is new and (name in before) == (name in table):
                continue
            fqn = f"{path}.{name}" if path else name
            if kind == "_parameters" or fqn not in tensors:
                what = "parameter" if kind == "_parameters" else "buffer"
                raise NotOneGraph(refusals.REPLACED.format(what=what, fqn=fqn), line_of(module, name))
            assert old is not None  # or it had no name among `tensors`
            if not isinstance(new, Tensor) or new.shape != old.shape or new.dtype != old.dtype:
                became = f"{tuple(new.shape)} {new.dtype}" if isinstance(new, Tensor) else type(new).__name__
                was = f"{tuple(old.shape)} {old.dtype}"
                reason = refusals.RESHAPED.format(fqn=fqn, was=was, became=became)
                raise NotOneGraph(reason, line_of(module, name))
            found[fqn] = new
    return found


def ends_of(loss: Tensor) -> tuple[list[Tensor], bool]:
    """Real tensors, which are none of the model's, that the loss would train; is any backward Python's?"""
    foreign: list[Tensor] = []
    python, seen, pending = False, set(), [loss.grad_fn]
    while pending:
        node: Any = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if isinstance(variable, Tensor) and not isinstance(variable, FakeTensor):
            foreign.append(variable)
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            python = python or getattr(node, "_forward_cls", None) not in LOOPS
        pending += [following for following, _ in node.next_functions]
    return foreign, python


@contextmanager
def plain_checkpoints() -> Iterator[None]:
    """Activation checkpointing as what it computes: when to keep an activation is the graph's decision."""
    module: Any = checkpoint
    before = module.CheckpointFunction, module._checkpoint_without_reentrant_generator
    module.CheckpointFunction, module._checkpoint_without_reentrant_generator = _Reentrant, _once
    try:
        yield
    finally:
        module.CheckpointFunction, module._checkpoint_without_reentrant_generator = before


class _Reentrant:
    @staticmethod
    def apply(function: Callable[..., Any], preserve_rng_state: bool, *args: Any) -> Any:
        """Gradients flow only where an argument needs one, as in PyTorch."""
        needed = any(isinstance(a, Tensor) and a.requires_grad for a in args)
        with nullcontext() if needed else torch.no_grad():
            return function(*args)


def _once(*args: Any, **kwargs: Any) -> Iterator[None]:
    yield
