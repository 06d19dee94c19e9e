"""The user's loss or metric, run once under tracing and once more beside it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.fx.traceback as fx_traceback
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import _engine_run_backward
from torch.distributions import Distribution
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..errors import TaskError, listing
from ..ir.graph import aten
from ..task import Task
from ..task.batch import Batch
from ..task.task import BATCH_NORMS
from . import refusals
from .in_place import undo_in_place, writes, written_inputs
from .model_stand_ins import Tables, assigned_in, ends_of, leaf_of, plain_checkpoints, swapped
from .named_results import named_results
from .node_metadata import source_of
from .observer import Observer, first_difference
from .padded_encoders import padded_encoders
from .python_state import Snapshot
from .refusals import NotOneGraph
from .static_graph import drop_assertions, drop_profiling, refuse_dynamic

Function = Callable[..., Any]


@dataclass
class Captured:
    """A functional graph whose inputs are `names`, and whose outputs come in this order.

    Attributes:
        module: the graph, and the constants it reads.
        tensors: name -> the user's own parameter or buffer, in the order of the inputs.
        results: shape and dtype of what the function gives, the first outputs, by name; a tensor without one
            has the name "".
        trained: parameters whose gradients follow.
        changed: parameters and buffers whose new values follow those -> where (`file:line`).
        unchecked: where the code asserts what the graph does not.
    """

    module: fx.GraphModule
    tensors: dict[str, Tensor]
    results: dict[str, Tensor]
    trained: list[str] = field(default_factory=list)
    changed: dict[str, str] = field(default_factory=dict)
    unchecked: list[str] = field(default_factory=list)


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
    averages = _plain_averages(net)
    for norm in averages.values():
        norm.momentum = 1.0  # the running statistics then become the batch's, see `_averaged`
    snapshot = Snapshot({"model": net, what: function})
    try:
        with _quiet():
            first = _Run(task, function, what, snapshot, example, rebuild)
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
        with plain_checkpoints():
            yield
    finally:
        snapshot.restore()
        with torch.no_grad():
            for tensor, before in kept:
                if not torch.equal(tensor, before):  # as writing the same counts as a change for autograd
                    tensor.copy_(before)
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _quiet() -> Iterator[None]:
    """As plain operators as PyTorch has: no fused kernels, whose backward exists on one device only."""
    compiler: Any = torch.compiler
    flags = compiler._is_compiling_flag, compiler._is_exporting_flag
    fast = torch.backends.mha.get_fastpath_enabled()
    checked = Distribution._validate_args
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(plain_checkpoints())
        stack.enter_context(padded_encoders() if fast else nullcontext())
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            # Libraries leave out checks of values, such as whether a mask masks anything.
            compiler._is_compiling_flag = compiler._is_exporting_flag = True
            Distribution.set_default_validate_args(False)
            yield
        finally:
            compiler._is_compiling_flag, compiler._is_exporting_flag = flags
            Distribution.set_default_validate_args(checked)
            torch.backends.mha.set_fastpath_enabled(fast)


# ---------------------------------------------------------------- one run


class _Run:
    """The user's function on tensors without data."""

    def __init__(
        self,
        task: Task,
        function: Function,
        what: str,
        known: Snapshot,
        example: Batch | None,
        rebuild: Callable[[Batch], Any] | None,
    ) -> None:
        self.task, self.what, self._function, self._known = task, what, function, known
        self.example, self.rebuild = example or task.example, rebuild or task.rebuild
        self.tensors: dict[str, Tensor] = {
            **dict(task.model.named_parameters()),
            **dict(task.model.named_buffers()),
        }
        self.mode = FakeTensorMode(shape_env=ShapeEnv(), static_shapes=True, allow_non_fake_inputs=True)
        given = [*self.tensors.values(), *self.example.values()]
        self.fakes = [self.mode.from_tensor(t.detach(), static_shapes=True) for t in given]
        self.leaves: dict[str, Tensor] = {}
        self.assigned: dict[str, Tensor] = {}
        self.observer: Observer
        self._tables: Tables = []
        self.python_backward = False

    @contextmanager
    def standing_in(self, inputs: Sequence[Tensor]) -> Iterator[dict[str, Tensor]]:
        """`inputs` in the place of the model's tensors; yields those of the batch."""
        own, batch = inputs[: len(self.tensors)], inputs[len(self.tensors) :]
        stand_ins = dict(zip(self.tensors, own))
        if self.what == "loss":
            for name, real in self.tensors.items():
                if real.requires_grad:
                    self.leaves[name] = stand_ins[name] = leaf_of(name, stand_ins[name], real)
        by_id = {id(real): stand_ins[name] for name, real in self.tensors.items()}
        self.observer = Observer(self.task.model, by_id, self.mode)
        with self.observer, swapped(self.task.model, by_id) as self._tables:
            yield dict(zip(self.example, batch))

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the function gives, by name; a tensor without one has the name "".

        Raises:
            TaskError: it is no tensor; nor, for a prediction, a dict of some.
        """
        task = self.task
        with nullcontext() if self.what == "loss" else torch.no_grad():
            result: Any = self._function(task.model, self.rebuild(batch))
        self.assigned = assigned_in(self.tensors, self._tables)
        if isinstance(result, Tensor):
            return {"": result}
        if self.what == "prediction":
            return named_results(task.name, result)
        number = isinstance(result, int | float | torch.SymInt | torch.SymFloat | torch.SymBool)
        given = "Python number" if number else type(result).__name__
        remedy = "the tensor, without .item()" if number else "the tensor alone"
        wanted = "one floating-point number" if self.what == "loss" else "one value per sample"
        raise TaskError(
            f"Task {task.name!r}: the {self.what} must be a tensor of {wanted}, but "
            f"`{self.what}(model, batch)` gives a {given}. Return {remedy}."
        )

    def gradients(self, loss: Tensor) -> dict[str, Tensor]:
        """Parameter -> gradient, of those that the loss depends on.

        Raises:
            TaskError: there is none, or the loss trains something that is not in the model.
        """
        foreign, functions = ends_of(loss)
        hooks = any(call[0] == "register_hook" for call in self.observer.calls)
        self.python_backward = functions or hooks or any(p._backward_hooks for p in self.tensors.values())
        if foreign:
            held = next((n for n, t in self.tensors.items() if t is foreign[0]), None)
            if held is not None:
                raise TaskError(refusals.HOLDS_ITSELF.format(task=self.task.name, name=held))
            raise TaskError(refusals.foreign(self.task.name, self._known.name_of(foreign[0])))
        if not loss.requires_grad:
            raise TaskError(refusals.nothing_to_train(self.task))
        leaves = tuple(self.leaves.values())
        if self.python_backward:  # as below, but with the observer beside what the user wrote
            one = torch.ones_like(loss)
            grads = _engine_run_backward(
                (loss,), (one,), False, False, leaves, allow_unreachable=True, accumulate_grad=False
            )
        else:
            grads = torch.autograd.grad(loss.reshape(()), leaves, allow_unused=True)
        return {name: g for name, g in zip(self.leaves, grads) if g is not None}

    def traced(self, averages: Sequence[str]) -> Captured:
        """This run as a graph.

        Args:
            averages: batch norms whose statistics are the plain average of all batches'.
        """
        results: dict[str, Tensor] = {}
        gradients: dict[str, Tensor] = {}

        def function(*inputs: Tensor) -> tuple[Tensor, ...]:
            nonlocal results, gradients
            with fx_traceback.preserve_node_meta(), self.standing_in(inputs) as batch:
                results = self.forward(batch)
                given = list(results.values())
                if self.what == "loss":
                    (value,) = given
                    if value.numel() != 1 or not value.is_floating_point():
                        raise TaskError(
                            f"Task {self.task.name!r}: the loss must be one floating-point number, but "
                            f"`loss(model, batch)` gives shape {tuple(value.shape)}, {value.dtype}. "
                            "Reduce it, for example with .mean()."
                        )
                    gradients = self.gradients(value)
                    given = [value.reshape(())]
            return (*given, *gradients.values(), *(a.detach() for a in self.assigned.values()))

        with self.mode:
            traced = make_fx(function, _OWN_STATISTICS, _allow_non_fake_inputs=True)(*self.fakes)
        drop_profiling(traced.graph)
        unchecked = drop_assertions(traced.graph)
        refuse_dynamic(traced.graph)
        undo_in_place(traced.graph)
        captured = Captured(
            traced, self.tensors, results, list(gradients), dict.fromkeys(self.assigned, ""), unchecked
        )
        if any(map(writes, traced.graph.nodes)):
            self._functional(captured, averages)
        return captured

    def _functional(self, captured: Captured, averages: Sequence[str]) -> None:
        """Replace a graph that writes into tensors by one of values; what it writes becomes results."""
        module, names = captured.module, list(self.tensors)
        written: dict[str, str] = {}
        placeholders = [n for n in module.graph.nodes if n.op == "placeholder"]
        for base, node in written_inputs(module.graph).items():
            if base.op == "get_attr":
                value = getattr(module, str(base.target))
                where = self._known.name_of(value)
                raise NotOneGraph(refusals.CONSTANT_CHANGED.format(where=where), source_of(node.meta))
            at = placeholders.index(base)
            if at >= len(names):
                raise NotOneGraph(refusals.BATCH_CHANGED, source_of(node.meta))
            if names[at] in captured.trained:
                reason = refusals.TRAINED_CHANGED.format(fqn=names[at])
                raise NotOneGraph(reason, source_of(node.meta))
            written[names[at]] = source_of(node.meta)
        for norm in averages:
            runs = [n for n in module.graph.nodes if n.target is aten._native_batch_norm_legit.default]
            mean = f"{norm}.running_mean" if norm else "running_mean"
            if sum(n.args[3] is placeholders[names.index(mean)] for n in runs) > 1:
                raise TaskError(
                    f"Task {self.task.name!r}: the batch norm {norm!r} (momentum=None) runs more than once "
                    "in a step, and an average of all batches is not compiled for that. Give it a momentum."
                )
        again = [n for n in written if n not in captured.changed]

        def function(*inputs: Tensor) -> tuple[Tensor, ...]:
            with fx_traceback.preserve_node_meta():
                old = [x.clone() for x in inputs] if averages else inputs
                results = fx.Interpreter(module).run(*inputs)
                new = {n: inputs[names.index(n)] for n in again}
                _averaged(new, dict(zip(names, old)), averages)
            return (*results, *new.values())

        with self.mode:
            functional = torch.func.functionalize(function, remove="mutations")
            traced = make_fx(functional, _COPIES, _allow_non_fake_inputs=True)(*self.fakes)
        for node in list(traced.graph.nodes):
            if node.target is aten.copy_.default and node.args[0].op == "placeholder":
                node.replace_all_uses_with(node.args[1])
                traced.graph.erase_node(node)
        traced.graph.eliminate_dead_code()
        left = next(filter(writes, traced.graph.nodes), None)
        if left is not None:
            raise NotOneGraph(refusals.WRITES.format(name=left.target), source_of(left.meta))
        captured.module = traced
        captured.changed.update({n: written[n] for n in again})


# ---------------------------------------------------------------- in place


def _statistics_as_written(
    x: Tensor, weight: Any, bias: Any, mean: Any, var: Any, training: bool, momentum: float, eps: float
) -> Any:
    """A batch norm in training mode writes its running statistics, though its schema does not say so."""
    if not training or mean is None:
        return NotImplemented
    return aten._native_batch_norm_legit.default(x, weight, bias, mean, var, training, momentum, eps)


def _copied(into: Tensor, value: Tensor, non_blocking: bool = False) -> Tensor:
    return value.to(into.dtype).expand(into.shape)


_OWN_STATISTICS: Any = {aten.native_batch_norm.default: _statistics_as_written}
_COPIES: Any = {aten.copy.default: _copied}


def _plain_averages(model: nn.Module) -> dict[str, nn.BatchNorm2d]:
    """Module path -> batch norm in training mode that keeps the plain average of all statistics.

    It divides by the value of its batch counter, which no static graph can.
    """
    return {
        name: m  # pyright: ignore
        for name, m in model.named_modules()
        if isinstance(m, BATCH_NORMS) and m.training and m.track_running_stats and m.momentum is None
    }


def _averaged(new: dict[str, Tensor], old: Mapping[str, Tensor], norms: Sequence[str]) -> None:
    """The batch's statistics of `norms` -> the average of all batches'."""
    for norm in norms:
        prefix = f"{norm}." if norm else ""
        for key in (f"{prefix}running_mean", f"{prefix}running_var"):
            if key in new:
                share = 1 / new[f"{prefix}num_batches_tracked"].to(new[key].dtype)
                new[key] = old[key] * (1 - share) + new[key] * share


# ---------------------------------------------------------------- twice the same


def _compare(first: _Run, before: Snapshot, between: Snapshot) -> None:
    """Run the user's code again, and refuse what differs.

    Raises:
        NotOneGraph: naming what changes from call to call, and where.
    """
    drawn = [c for c in before.changes() if c.owner is None]
    second = _Run(first.task, first._function, first.what, before, first.example, first.rebuild)
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
