"""Is a compiled metric the one of the user's own module?

The value of each sample, on the task's first batch, against eager PyTorch in evaluation mode: with weights
and running statistics that are not those of the start, so that a graph that does not read them shows. An
accuracy shows little of a model; it is compared once more with labels of which half are the model's own
predictions.

Where samples differ, runs that differ in rounding only say which of them rounding explains: how far it moves
a sum, and which samples lie so close to a tie that an `argmax` or a threshold may go either way.
"""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor, fx, nn

from ..errors import TaskError, reason
from ..ir.graph import Graph, Role, Slot, aten
from ..task import Task
from ..task.batch import Batch
from ..train_graph import TrainGraph
from .eager_metric import Decisions, evaluate
from .rounding import SPREAD_FACTOR

# Runs that differ in rounding, and by how many last bits, see `compiled_step.DRAWS`.
DRAWS = ((3, 4.0), (5, 16.0))
MOVES = 0.9  # of a weight, at most
FROM_ZERO = 0.1  # how far an element of a tensor of zeros moves, at most
# Operators of which PyTorch does not say what they pick from equal elements.
_PICKING: dict[object, str] = {aten.topk.default: "topk", aten.kthvalue.default: "kthvalue"}
Start = dict[Slot, Tensor]


@dataclass(frozen=True)
class MetricComparison:
    """How a metric compares with eager PyTorch's.

    Attributes:
        deviation: of the element that deviates most, relative to its size or the usual one.
        allowed: up to which it agrees.
        refusal: what deviates and what to do; empty where they agree.
    """

    deviation: float
    allowed: float
    refusal: str = ""


@dataclass(frozen=True)
class _Case:
    """What a metric is computed of, and eager PyTorch's, float64."""

    start: Start
    batch: Batch
    right: Tensor

    @property
    def distinct(self) -> bool:
        """Whether each sample has a value of its own."""
        return len(self.right.unique()) == len(self.right)

    @property
    def tells(self) -> bool:
        """Whether it shows more than one number."""
        return len(self.right.unique()) > 1


@dataclass(frozen=True)
class _Compared:
    """By sample: the deviation, and what is allowed; both relative."""

    got: Tensor
    right: Tensor
    off: Tensor
    allowed: Tensor

    @property
    def wrong(self) -> Tensor:
        return ~(self.off <= self.allowed)

    @property
    def worst(self) -> int:
        """The sample that is farthest beyond what is allowed, or just farthest off."""
        off = self.off.nan_to_num(math.inf, math.inf)
        return int((off - self.allowed if self.wrong.any() else off).argmax())


class ForwardCheck(ABC):
    """Compares what a forward graph gives: a vector, of whose elements each is judged.

    Args:
        task: whose function it is.
        graph: of a plan, reading its trained tensors as state.
        example: a batch.
        tolerance: share of a value that any program is allowed.
        eps: of the dtype of activations; None: of the graph's own.
    """

    what: ClassVar[str]  # is compared
    which_batch: ClassVar[str]

    def __init__(
        self, task: Task, graph: Graph, example: Batch, tolerance: float, eps: float | None = None
    ) -> None:
        self._task, self._graph, self._example = task, graph, example
        self._tolerance, self._eps = tolerance, eps

    @abstractmethod
    def _eager(self, start: Start, batch: Batch, **how: object) -> Tensor:
        """Eager PyTorch's, float64."""

    @abstractmethod
    def _picked(self, outputs: Sequence[Tensor]) -> Tensor:
        """What is compared, of the outputs of the graph."""

    @abstractmethod
    def _said(self, found: _Compared) -> str:
        """What deviates, in words."""

    def check_graph(self) -> str:
        """Why the graph, before any target, does not agree; empty where it does."""
        return self._before_any_target(self._worst(self._interpreted))

    def check(self, compiled: Callable[[dict[str, Tensor], Batch], Tensor], target: str) -> MetricComparison:
        """Compare what was compiled.

        Args:
            compiled: input slot name -> value, instead of the graph's own, and a batch, to the vector.
            target: its name.
        """
        found = self._worst(lambda case: compiled({s.name: v for s, v in case.start.items()}, case.batch))
        at = found.worst
        refusal = ""
        if found.wrong.any():
            refusal = self.check_graph() or self._of_target(found, target)
        return MetricComparison(float(found.off[at]), float(found.allowed[at]), refusal)

    def _worst(self, metric: Callable[[_Case], Tensor]) -> _Compared:
        """The first comparison that does not agree, or the last."""
        found = None
        for case in self._cases:
            found = self._compared(metric(case).double(), case)
            if found.wrong.any():
                break
        assert found is not None
        return found

    @cached_property
    def _cases(self) -> list[_Case]:
        """What is compared: where samples have the same value, more than one batch or state."""
        start, example = moved_state(self._graph), self._example
        found: list[_Case] = []
        with (
            contextlib.suppress(Exception),
            Decisions({tuple(v.shape) for v in example.values()}) as decisions,
        ):
            # The user's code need not work with any weights, nor with any labels.
            found.append(self._case(start, example))
            if not found[0].distinct:
                found.append(self._case(start, with_decisions(example, decisions.found)))
        found = [case for case in found if case.right.isfinite().all()]
        if not any(case.tells for case in found):
            try:
                found.append(self._case(own_state(self._graph), example))
            except Exception as e:
                raise TaskError(
                    f"Eager PyTorch cannot compute the {self.what} of task {self._task.name!r} on "
                    f"{self.which_batch}: {reason(e)}. Correct the batch, or the {self.what}."
                ) from e
        return found

    def _case(self, start: Start, batch: Batch) -> _Case:
        return _Case(start, batch, self._eager(start, batch))

    def _interpreted(self, case: _Case) -> Tensor:
        """The graph, operator by operator."""
        graph = self._graph
        values = {**graph.values, **{s.name: value for s, value in case.start.items()}}
        given = [case.batch[s.fqn] if s.role is Role.BATCH else values[s.name] for s in graph.inputs]
        with torch.no_grad():
            return self._picked(fx.Interpreter(nn.Module(), graph=graph.fx).run(*given))

    def _compared(self, got: Tensor, case: _Case) -> _Compared:
        found = compare(got, case.right, torch.zeros_like(case.right), self._tolerance)
        runs: list[Tensor] = []
        more = self._evidence(case)
        while found.wrong.any() and (run := next(more, None)) is not None:
            runs.append(run)
            found = compare(got, case.right, width(case.right, runs), self._tolerance)
        return found

    def _evidence(self, case: _Case) -> Iterator[Tensor]:
        """Eager PyTorch's metrics that differ in rounding, the cheapest first."""
        with contextlib.suppress(Exception):  # the user's code, in a dtype that it was not written for
            yield self._eager(case.start, case.batch, double=True)
        for seed, bits in enumerate(bits for count, bits in DRAWS for _ in range(count)):
            how = {"perturbation": seed, "eps": self._eps, "bits": bits}
            yield self._eager(case.start, case.batch, **how)

    def _before_any_target(self, found: _Compared) -> str:
        if not found.wrong.any():
            return ""
        return (
            f"The graph of the {self.what} of task {self._task.name!r} does not agree with eager PyTorch in "
            f"evaluation mode, before any target is involved, on {self.which_batch}: {self._said(found)}. "
            f"If the model was changed after the graph was built, build it again. Otherwise the {self.what} "
            "does something that a captured graph does not repeat, such as state that changes from call to "
            "call; take that out. Another target does not help."
        )

    def _of_target(self, found: _Compared, target: str) -> str:
        return (
            f"The {self.what} that was compiled for {target!r} does not do what its graph does (task "
            f"{self._task.name!r}), though the graph itself agrees with eager PyTorch, on "
            f"{self.which_batch}: {self._said(found)}, beyond what rounding explains. This is a bug of the "
            f"target {target!r}, not of your model: please report it, and compile for another target."
            f"{open_choice(self._graph)}"
        )


class MetricCheck(ForwardCheck):
    """Compares metrics `[N]` of one plan.

    Args:
        graph: a plan's; else as `ForwardCheck`.
    """

    what = "metric"
    which_batch = "the first training batch"

    def __init__(self, graph: TrainGraph, tolerance: float, eps: float | None = None) -> None:
        super().__init__(graph.task, graph.evaluation(), graph.task.example, tolerance, eps)

    def _eager(self, start: Start, batch: Batch, **how: object) -> Tensor:
        return evaluate(self._task, start, batch, **how).double()

    def _picked(self, outputs: Sequence[Tensor]) -> Tensor:
        return outputs[0]

    def _said(self, found: _Compared) -> str:
        return said(found, "samples", "sample", "whose metric")


def open_choice(graph: Graph) -> str:
    """What else may be the reason, in a sentence, of a graph that picks elements; empty for others."""
    picking = {name for node in graph.nodes() if (name := _PICKING.get(node.target))}
    if not picking:
        return ""
    return (
        f" Unless elements that {' and '.join(sorted(picking))} compares are exactly equal in this batch: "
        "PyTorch leaves open which one is picked."
    )


def said(found: _Compared, many: str, one: str, which: str) -> str:
    """Which elements deviate, in words."""
    at, count, samples = found.worst, int(found.wrong.sum()), len(found.off)
    few = f"{count} of {samples} {many} differ, most the one" if count > 1 else f"the {one}"
    return (
        f"{few} at {at}, {which} is {float(found.got[at]):.6g} instead of {float(found.right[at]):.6g} "
        f"(tolerance {float(found.allowed[at]):.0e})"
    )


def compare(got: Tensor, right: Tensor, room: Tensor, tolerance: float) -> _Compared:
    """Compare vectors, float64.

    Args:
        room: by how much each value may be off beside `tolerance`, a share of its size.
    """
    same = (got == right) | (got.isnan() & right.isnan())
    finite = right[right.isfinite()]
    usual = float(finite.square().mean().sqrt()) if finite.numel() else 0.0
    size = torch.maximum(right.abs(), got.abs()).clamp_min(usual)
    off = torch.where(same, 0.0, (got - right).abs() / size).nan_to_num(math.inf, math.inf)
    room = torch.where(size > 0, room / size, 0.0).nan_to_num(0.0, 0.0)
    return _Compared(got, right, off, tolerance + room)


def width(right: Tensor, runs: list[Tensor]) -> Tensor:
    """How far each sample's value may be off, from runs that differ in rounding.

    What moves half of the samples may move any. One that goes over a tie moves alone.
    """
    most = torch.zeros_like(right)
    for run in runs:
        most = torch.maximum(most, (run - right).abs().nan_to_num(0.0, 0.0))
    return SPREAD_FACTOR * most.clamp_min(float(most.median()) if len(most) else 0.0)


def with_decisions(batch: Batch, decisions: Mapping[tuple[int, ...], Tensor]) -> Batch:
    """The batch, where every other sample's labels are what the model decides: then each decision shows in
    an accuracy, which is 0 throughout for weights that know nothing."""
    found = {}
    for name, value in batch.items():
        decided = decisions.get(tuple(value.shape))
        if decided is not None and value.ndim:
            value = value.clone()
            value[::2] = decided[::2].to(value.dtype)
        found[name] = value
    return found


def own_state(evaluation: Graph) -> Start:
    """What an evaluation reads as state, as it is when training begins."""
    return {s: evaluation.values[s.name] for s in evaluation.inputs if s.is_state}


def moved_state(evaluation: Graph) -> Start:
    """The same, each element elsewhere; its sign stays."""
    generator = torch.Generator().manual_seed(0)

    def moved(value: Tensor) -> Tensor:
        drawn = (torch.rand(value.shape, generator=generator) * 2 - 1).to(value.dtype)
        return value * (1 + MOVES * drawn) if bool(value.any()) else FROM_ZERO * drawn

    own = own_state(evaluation)
    return {s: moved(value) if value.is_floating_point() else value for s, value in own.items()}
