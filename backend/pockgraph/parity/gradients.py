"""Are the gradients of a plan's graph those that autograd finds through the user's own module?

Loss, gradients and changed buffers, on the task's first batch; no target is involved. In float32 first, and
in float64 where that leaves a doubt. A module that cannot run in float64 is compared in its own dtype, with
runs that differ in rounding as the measure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..errors import ParityError, TaskError, listing
from ..ir.graph import Role, Slot
from ..passes.batch_limits import limits_of
from ..runtime.batch_limits import check_limits
from ..task.batch import nonfinite_entries
from ..train_graph import TrainGraph
from .eager_reference import Outcome, autograd
from .metric import MetricCheck
from .rounding import deviation, loss_spread, ratio, span_of, spread, state_width, typical
from .split_step import PERTURBATION_EPS, GradientRun, SplitStep
from .tolerances import GRADIENT_BEYOND_ROUNDING, GRADIENT_F32, GRADIENT_F64, METRIC
from .updates import UpdateComparison, check_update

FLOOR_RATIO_F64, FLOOR_RATIO_F32 = 1e-9, 1e-7  # of gradients, see `spans`
RUNS = 4


@dataclass(frozen=True)
class GradientComparison:
    """How the graph compares with the module.

    Attributes:
        loss, deviation: of the loss, and of the gradient (or buffer) `worst` that deviates most, relative to
            its size.
        allowed_loss, allowed: up to which they agree.
        refusal: what deviates and what to do; empty where they agree.
    """

    loss: float
    allowed_loss: float
    deviation: float
    allowed: float
    worst: str
    refusal: str = ""

    @property
    def agrees(self) -> bool:
        return self.loss <= self.allowed_loss and self.deviation <= self.allowed


def check_graph(graph: TrainGraph) -> None:
    """Refuse a graph that does not agree with the module it was built from (its step or its metric), or with
    `torch.optim`.

    Raises:
        BatchError: the task's first batch holds an index that the model has no row for.
        ParityError: saying what deviates.
    """
    arrays = {name: value.numpy(force=True) for name, value in graph.task.example.items()}
    check_limits(arrays, (*limits_of(graph.gradients), *limits_of(graph.metric)), graph.task.name)
    check = GradientCheck(graph, 0)
    refusal = check.run().refusal or check.update.refusal or MetricCheck(graph, METRIC).check_graph()
    if refusal:
        raise ParityError(
            f"{refusal} Nothing was measured. force=True (--force) measures with the graph all the same."
        )


class GradientCheck:
    """One comparison, and its runs of the graph, which comparing a compiled step needs again.

    Args:
        graph: a plan's.
        seed: of dropout's masks.
    """

    def __init__(self, graph: TrainGraph, seed: int) -> None:
        self._graph, self.task, self._seed = graph, graph.task, seed
        self.split = SplitStep(graph, self.task.example, seed)
        self._no_double = ""
        self._asked_double = False

    @property
    def _states(self) -> list[tuple[Slot, Tensor]]:
        """What the forward pass changes, and its values."""
        return [(s, self._graph.values[s.name]) for s in self._graph.inputs if s.changes]

    @cached_property
    def plain(self) -> GradientRun:
        """The graph in its own dtypes."""
        return self.split.run_gradients()

    @cached_property
    def exact(self) -> GradientRun | None:
        """The graph in float64; None where it cannot be run so."""
        self._asked_double = True
        try:
            return self.split.run_gradients(double=True)
        except Exception as e:  # an operator that has no float64 form, whatever it raises
            self._no_double = f"the graph does not run in float64 ({_first_line(e)})"
            return None

    @cached_property
    def update(self) -> UpdateComparison:
        """The graph's update phase against `torch.optim`."""
        return check_update(self._graph, self.split, self.plain.gradients)

    def of_module(self) -> list[GradientRun]:
        """Autograd's own run, which is rounded in its way too."""
        m = self._module
        return [self.split.run_of(m.loss, m.gradients, m.changed)]

    def perturbed(
        self, count: int, eps: float | None = None, bits: float = PERTURBATION_EPS
    ) -> list[GradientRun]:
        """Runs of the graph that differ in rounding, see `SplitStep.run_gradients`."""
        return [self.split.run_gradients(perturbation=seed, eps=eps, bits=bits) for seed in range(count)]

    @cached_property
    def _module(self) -> Outcome:
        try:
            return autograd(self.task, self._graph.plan, seed=self._seed)
        except (IndexError, RuntimeError) as e:
            raise TaskError(
                f"Eager PyTorch cannot take a step on the first training batch of task {self.task.name!r}: "
                f"{_first_line(e)}. Correct the batch, or the model."
            ) from e

    @property
    def loss(self) -> float:
        """Eager PyTorch's."""
        return self._module.loss

    @property
    def referee(self) -> str:
        """What was compared with."""
        if self._no_double:
            return f"float32: {self._no_double}"
        return "float64" if self._asked_double else "float32"

    def run(self) -> GradientComparison:
        """Compare; with dropout, both with the masks of the seed.

        Raises:
            TaskError: the module cannot take the step.
        """
        eager = self._module
        quick = self._compare(self.plain, eager, [], GRADIENT_F32, 0.0)
        if quick.agrees:
            return quick
        if _not_finite(eager):
            return replace(quick, refusal=self._refusal_of_eager(_not_finite(eager)))
        module = self._double_module() if self.exact is not None else None
        if module is None or self.exact is None:
            runs = self.perturbed(RUNS)
            return self._judged(
                self._compare(self.plain, eager, runs, GRADIENT_BEYOND_ROUNDING, FLOOR_RATIO_F32)
            )
        found = self._compare(self.exact, module, [], GRADIENT_F64, FLOOR_RATIO_F64)
        runs = []
        for seed in range(RUNS):
            if found.agrees:
                break
            runs.append(self.split.run_gradients(double=True, perturbation=seed))
            found = self._compare(self.exact, module, runs, GRADIENT_F64, FLOOR_RATIO_F64)
        return self._judged(found)

    def _double_module(self) -> Outcome | None:
        try:
            return autograd(self.task, self._graph.plan, double=True, seed=self._seed)
        except Exception as e:  # whatever the user's code raises in a dtype that it was not written for
            self._no_double = f"the module does not run in float64 ({_first_line(e)})"
            return None

    def _compare(
        self, graph: GradientRun, module: Outcome, runs: list[GradientRun], allowed: float, floor_ratio: float
    ) -> GradientComparison:
        """Compare two outcomes.

        Args:
            runs: of the graph, which say what rounding does.
            floor_ratio: see `spans`.
        """
        loss_allowed = allowed
        size = max(abs(module.loss), 1e-2) if math.isfinite(module.loss) else 1.0
        rounding = loss_spread(graph.loss, [r.loss for r in runs])
        off = abs(graph.loss - module.loss)
        loss = off / size if math.isfinite(off) else math.inf
        beyond: dict[str, float] = {}
        share: dict[str, float] = {}
        usual = typical(module.gradients)
        for fqn, right in module.gradients.items():
            got = graph.gradients.get(fqn, torch.zeros_like(right))  # where the graph lost it
            found = deviation(got, right, right)
            if not found.beyond <= allowed and (floor_ratio or runs):
                span = span_of(right, [], 0.0, floor_ratio * usual)
                if runs:
                    span += span_of(got, [r.gradients[fqn] for r in runs], 0.0, 0.0)
                found = deviation(got, right, right, span)
            beyond[fqn] = found.beyond
            quiet = 1e-3 * usual * math.sqrt(right.numel())
            share[fqn] = ratio(found.error, max(found.size, quiet))
        for slot in self._graph.outputs:
            if slot.role is Role.NEW_BUFFER:
                beyond[slot.fqn] = share[slot.fqn] = self._buffer(slot, graph, module, runs)
        worst = max(beyond, key=beyond.__getitem__, default="")
        figure = beyond.get(worst, 0.0)
        share = {name: s for name, s in share.items() if math.isfinite(s)}
        if figure <= allowed:
            worst = max(share, key=share.__getitem__, default="")
            figure = share.get(worst, 0.0)
            allowed = max(allowed, figure)  # what is more than that is rounding
        return GradientComparison(loss, loss_allowed + rounding / size, figure, allowed, worst)

    def _buffer(self, slot: Slot, graph: GradientRun, module: Outcome, runs: list[GradientRun]) -> float:
        """How far a buffer's next value is off, relative to how far it moves."""
        got, right = graph.buffers[slot.name], module.changed[slot.fqn]
        before = next(v for s, v in self._states if s.fqn == slot.fqn)
        width = spread(got, [r.buffers[slot.name] for r in runs])
        moved = right.double() - before.double()
        return deviation(got, right, moved, state_width(right, before, width, 0.0, right.dtype)).beyond

    def _judged(self, found: GradientComparison) -> GradientComparison:
        return found if found.agrees else replace(found, refusal=self._refusal(found))

    def _refusal_of_eager(self, what: str) -> str:
        if spoilt := nonfinite_entries(self.task.example):
            return (
                f"On the first training batch of task {self.task.name!r}, {what} is not finite in eager "
                f"PyTorch itself, and NaN or infinite values stand in {listing([*map(repr, spoilt)])} of the "
                "batch. Correct the data, or leave these samples out."
            )
        return (
            f"On the first training batch of task {self.task.name!r}, {what} is not finite in eager PyTorch "
            "itself, so that no step can be compared, nor anything learnt from it. Look for a root or a "
            "logarithm of zero, a division by zero, or an overflow: keep a small distance there "
            "(.clamp_min(1e-12) ahead of a .sqrt(); a torch.where behind it is too late, as 0 times NaN is "
            "NaN), or correct the batch."
        )

    def _refusal(self, found: GradientComparison) -> str:
        said = []
        if not found.loss <= found.allowed_loss:
            off = f"is off by {found.loss:.2g} of its size" if math.isfinite(found.loss) else "is not finite"
            said.append(f"the loss {off} (tolerance {found.allowed_loss:.0e})")
        if not found.deviation <= found.allowed:
            what = "gradient" if found.worst in self._graph.plan.tensors else "new value"
            off = (
                f"off by {found.deviation:.2g} of its size"
                if math.isfinite(found.deviation)
                else "not finite"
            )
            said.append(f"the {what} of {found.worst} is {off} (tolerance {found.allowed:.0e})")
        return (
            f"The training graph of task {self.task.name!r} does not agree with eager PyTorch, before any "
            f"target is involved, on the first training batch (compared in {self.referee}): "
            f"{', '.join(said)}. If the model was changed after the graph was built, build it again. "
            "Otherwise the model does something that a captured graph does not repeat, such as state that "
            "changes from call to call; take that out, or leave the tensor out of the plan. Another target "
            "does not help."
        )


def _not_finite(found: Outcome) -> str:
    """The loss, or the first gradient, that is NaN or infinite; empty where all are finite."""
    if not math.isfinite(found.loss):
        return "the loss"
    return next((f"the gradient of {n}" for n, g in found.gradients.items() if not g.isfinite().all()), "")


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0].rstrip('.')}"
