"""A task's metric or prediction by the user's own module in evaluation mode, with given values of what a
plan trains.

In its own dtype, in float64, or with every operator's result a few last bits off, which is what another
correct program may compute.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_any, tree_map

from ..capture import as_captured
from ..ir.graph import Slot, aten
from ..task import Task
from ..task.batch import Batch
from ..task.prediction import rebuilt_prediction
from .eager_reference import in_double, owned, restored
from .split_step import EXACT, POOL

# Besides those of a graph: operators that pick or store values and compute none.
_EXACT = EXACT | {
    aten._to_copy.default, aten.copy_.default, aten.fill_.Scalar, aten.fill_.Tensor, aten.zero_.default,
    aten.masked_fill_.Scalar, aten.masked_fill.Tensor, aten.masked_fill_.Tensor, aten.index_put_.default,
    aten.scatter_.src, aten.scatter_.value, aten.scatter.src, aten.scatter.value, aten.index.Tensor,
    aten.gather.default, aten.embedding.default, aten.amax.default, aten.amin.default, aten.max.default,
    aten.min.default, aten.max.dim, aten.min.dim, aten.maximum.default, aten.minimum.default,
    aten.topk.default, aten.sort.default, aten.sort.stable, aten.kthvalue.default, aten.median.default,
    aten.median.dim, aten.relu.default, aten.relu_.default, aten.clamp.default, aten.clamp_min.default,
    aten.abs.default, aten.flip.default, aten.roll.default, aten.constant_pad_nd.default,
    aten.max_pool2d_with_indices.default, aten.stack.default,
}  # fmt: skip


class _Function(nn.Module):
    def __init__(self, task: Task, function: Callable[..., Any]) -> None:
        super().__init__()
        self.model = task.model
        self._function = function

    def forward(self, batch: Any) -> Any:
        return self._function(self.model, batch)


def evaluate(task: Task, state: Mapping[Slot, Tensor], batch: Batch, **how: Any) -> Tensor:
    """The metric `[N]` of a batch. The module is left as it was.

    Args:
        state, how: as for `call`.

    Raises:
        Exception: whatever the module or the metric raises.
    """
    return call(task, task.metric, state, batch, task.rebuild, **how).detach()


def predict(task: Task, state: Mapping[Slot, Tensor], batch: Batch, **how: Any) -> dict[str, Tensor]:
    """What the task predicts, by name; a tensor without one has the name "". Else as `evaluate`."""
    assert task.predict is not None
    found = call(task, task.predict, state, batch, functools.partial(rebuilt_prediction, task), **how)
    return {n: v.detach() for n, v in ({"": found} if isinstance(found, Tensor) else found).items()}


def call(
    task: Task,
    function: Callable[..., Any],
    state: Mapping[Slot, Tensor],
    batch: Batch,
    rebuild: Callable[[Batch], Any],
    double: bool = False,
    perturbation: int | None = None,
    eps: float | None = None,
    bits: float = 0.0,
) -> Any:
    """What `function(model, batch)` gives. The module is left as it was.

    Args:
        rebuild: gives a batch the form that the function takes.
        state: slot -> value, of weights (or their averages), parts of them, and buffers, instead of the
            module's own.
        double: compute in float64.
        perturbation: a seed: every operator's result is off by up to `bits` times `eps` of itself; whole
            numbers are counts, labels or truth values, and stay.
        eps: of the result's dtype unless given.

    Raises:
        Exception: whatever the module or the function raises.
    """
    modes = [in_double()] if double else []
    if perturbation is not None:
        modes = [_Perturbed(perturbation, eps, bits)]
    with (
        as_captured(task, training=False),
        restored(task.model),
        torch.no_grad(),
        contextlib.ExitStack() as s,
    ):
        for mode in modes:
            s.enter_context(mode)
        own = {**dict(task.model.named_parameters()), **dict(task.model.named_buffers())}
        values = {fqn: owned(value, double) for fqn, value in own.items()}
        for slot, value in state.items():
            value = owned(value, double)
            if slot.dim is not None:
                value = values[slot.fqn].index_copy(slot.dim, torch.tensor(slot.indices), value)
            values[slot.fqn] = value
        given = {name: owned(value, double) for name, value in batch.items()}
        named = {f"model.{fqn}": value for fqn, value in values.items()}
        return torch.func.functional_call(_Function(task, function), named, (rebuild(given),))


class Decisions(TorchDispatchMode):
    """Keeps what operators decide from floating-point numbers in here: predicted classes, truth values.

    Args:
        shapes: of those that are kept.

    Attributes:
        found: shape -> the last one.
    """

    def __init__(self, shapes: Collection[tuple[int, ...]]) -> None:
        super().__init__()
        self._shapes = shapes
        self.found: dict[tuple[int, ...], Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if tree_any(_is_real, (args, kwargs)):
            decided = filter(_is_integer, result if isinstance(result, tuple | list) else (result,))
            self.found.update((shape, d) for d in decided if (shape := tuple(d.shape)) in self._shapes)
        return result


class _Perturbed(TorchDispatchMode):
    def __init__(self, seed: int, eps: float | None, bits: float) -> None:
        super().__init__()
        self._eps, self._bits = eps, bits
        self._generator = torch.Generator().manual_seed(seed)
        self._pool = torch.rand(2 * POOL, generator=self._generator) * 2 - 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        computes = func not in _EXACT and tree_any(lambda x: isinstance(x, Tensor), (args, kwargs))
        if not computes:
            return result
        if func._schema.is_mutable:
            for value in result if isinstance(result, tuple | list) else (result,):
                if _is_real(value):
                    value.copy_(self._off(value))
            return result
        if any(r.alias_info is not None for r in func._schema.returns):
            return result
        return tree_map(lambda x: self._off(x) if _is_real(x) else x, result)

    def _off(self, value: Tensor) -> Tensor:
        eps = self._bits * (self._eps or torch.finfo(value.dtype).eps)
        start, count = int(torch.randint(POOL, (), generator=self._generator)), value.numel()
        drawn = self._pool[start : start + min(count, POOL)].repeat(-(-count // POOL))[:count]
        off = torch.addcmul(value, value, drawn.view(value.shape).to(value.dtype), value=eps)
        return torch.where(value == value.round(), value, off)


def _is_real(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point() and x.layout == torch.strided and not x.is_nested


def _is_integer(x: Any) -> bool:
    """Truth values count."""
    real = isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex())
    return isinstance(x, Tensor) and not real and not x.is_nested
