"""The user's loss, metric or prediction, run once under tracing and once more beside it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..errors import listing
from ..task import Task
from ..task.batch import Batch
from . import refusals
from .model_stand_ins import plain_checkpoints
from .observer import first_difference
from .plain_operators import plain_operators
from .python_state import Snapshot
from .refusals import NotOneGraph
from .running_statistics import plain_averages
from .traced_run import Captured, Function, TracedRun


def capture(
    task: Task,
    function: Function,
    what: str,
    example: Batch | None = None,
    rebuild: Callable[[Batch], Any] | None = None,
) -> Captured:
    """Trace `function` (the task's loss, with gradients, its metric or its prediction); nothing of the user's
    changes.

    Args:
        what: `"loss"`, `"metric"` or `"prediction"`.
        example: a batch as the function takes it, by default a training batch; rebuild: gives it its form.

    Raises:
        NotOneGraph, TaskError, or whatever the user's code raises.
    """
    net = task.model
    training = {m: m.training for m in net.modules()}
    task.set_mode(training=what == "loss")
    averages = plain_averages(net)
    for norm in averages.values():
        norm.momentum = 1.0  # the running statistics then become the batch's, see `averaged`
    snapshot = Snapshot({"model": net, what: function})
    try:
        with plain_operators():
            first = TracedRun(task, function, what, snapshot, example, rebuild)
            captured = first.traced(list(averages))
            _compare(first, snapshot, Snapshot({"model": net, what: function}))
        if captured.unchecked:
            warnings.warn(
                f"Task {task.name!r}: the compiled step does not check torch._assert_async at "
                f"{listing(captured.unchecked)}: no device has such an operator.",
                stacklevel=4,
            )
        return captured
    finally:
        snapshot.restore()
        for norm in averages.values():
            norm.momentum = None  # pyright: ignore
        for module, mode in training.items():
            module.training = mode


@contextmanager
def as_captured(task: Task, changed: Collection[str] = (), training: bool = True) -> Iterator[None]:
    """The user's model as its loss was captured, to be run for real; afterwards it is as it was.

    Args:
        changed: parameters that the loss changes in place.
        training: False: as its metric and its prediction were captured.
    """
    modes = {m: m.training for m in task.model.modules()}
    task.set_mode(training=training)
    functions = {"loss": task.loss, "metric": task.metric, "prediction": task.predict}
    snapshot = Snapshot({"model": task.model, **{k: f for k, f in functions.items() if f is not None}})
    parameters = dict(task.model.named_parameters())
    kept = [(t, t.detach().clone()) for t in (*task.model.buffers(), *(parameters[f] for f in changed))]
    try:
        with torch.compiler.set_stance("force_eager"), plain_checkpoints():
            yield
    finally:
        snapshot.restore()
        with torch.no_grad():
            for tensor, before in kept:
                if not torch.equal(tensor, before):  # as writing the same counts as a change for autograd
                    tensor.copy_(before)
        for module, mode in modes.items():
            module.training = mode


def _compare(first: TracedRun, before: Snapshot, between: Snapshot) -> None:
    """Run the user's code again, and refuse what differs.

    Raises:
        NotOneGraph: naming what changes from call to call, and where.
    """
    drawn = [c for c in before.changes() if c.owner is None]
    second = TracedRun(first.task, first.function, first.what, before, first.example, first.rebuild)
    with second.mode, _naming_what_is_kept(before), second.standing_in(second.fakes) as batch:
        result = second.forward(batch)
        if first.python_backward:
            second.gradients(*result.values())
    source = first_difference(first.observer.calls, second.observer.calls)
    if drawn:
        raise NotOneGraph(refusals.DRAWN.format(source=listing([c.path for c in drawn])), source or "")
    grown = list(
        dict.fromkeys(between.place_of(c) for c in between.changes() if not _alike(c.before, c.after))
    )
    if grown:
        raise NotOneGraph(refusals.REMEMBERED.format(what=listing(grown, 3)), source or "")
    if source is not None:
        raise NotOneGraph(refusals.DIFFERS, source)


@contextmanager
def _naming_what_is_kept(before: Snapshot) -> Iterator[None]:
    kept = [before.place_of(c) for c in before.changes() if isinstance(c.after, Tensor)]
    try:
        yield
    except NotOneGraph as e:
        if e.reason == refusals.LEFT_OVER and kept:
            raise NotOneGraph(f"{e.reason}. It is kept in {listing(kept, 3)}", e.source) from e
        raise


def _alike(before: Any, after: Any) -> bool:
    """Did the second run leave behind what the first one did?"""
    if isinstance(before, Tensor) and isinstance(after, Tensor):
        return before.shape == after.shape and before.dtype == after.dtype
    if type(before) is not type(after):
        return False
    if isinstance(before, list | tuple):
        return len(before) == len(after) and all(map(_alike, before, after))
    if isinstance(before, dict):
        return before.keys() == after.keys() and all(_alike(before[k], after[k]) for k in before)
    return not isinstance(before, str | bytes | int | float | complex) or before == after
