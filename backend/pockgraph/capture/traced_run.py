"""One run of the user's loss, metric or prediction on tensors without data, and the graph of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.fx.traceback as fx_traceback
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import _engine_run_backward
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from ..errors import TaskError
from ..ir.graph import aten
from ..task import Task
from ..task.batch import Batch
from . import refusals
from .in_place import undo_in_place, writes, written_inputs
from .model_stand_ins import Tables, assigned_in, ends_of, leaf_of, swapped
from .named_results import named_results
from .node_metadata import source_of
from .observer import Observer
from .python_state import Snapshot
from .refusals import NotOneGraph
from .running_statistics import WRITTEN, averaged
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


class TracedRun:
    """The user's function on tensors without data.

    Args:
        before: what Python held before this run.
    """

    def __init__(
        self,
        task: Task,
        function: Function,
        what: str,
        before: Snapshot,
        example: Batch | None,
        rebuild: Callable[[Batch], Any] | None,
    ) -> None:
        self.task, self.what, self.function, self.before = task, what, function, before
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
            result: Any = self.function(task.model, self.rebuild(batch))
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
            raise TaskError(refusals.foreign(self.task.name, self.before.name_of(foreign[0])))
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
            traced = make_fx(function, WRITTEN, _allow_non_fake_inputs=True)(*self.fakes)
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
                where = self.before.name_of(value)
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
                averaged(new, dict(zip(names, old)), averages)
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


def _copied(into: Tensor, value: Tensor, non_blocking: bool = False) -> Tensor:
    return value.to(into.dtype).expand(into.shape)


_COPIES: Any = {aten.copy.default: _copied}
