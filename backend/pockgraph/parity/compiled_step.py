"""Does a compiled step compute what eager PyTorch computes? Measured on one real batch, before shipping.

Three links of a training step:

- the *graph*: loss, gradients and buffers of the plan's graph, run operator by operator, against autograd
  through the user's module
- the *update*: the graph's update phase against `torch.optim`, on made-up gradients (`updates.py`)
- the *step*: loss, and every weight, buffer and optimizer state after one update of the compiled artefact,
  read back from its runtime, against the same graph

and the *metric* of the artefact, and what it *predicts*, against the module's own (`metric.py`,
`prediction.py`).

The graph and the step are first compared in float32, channel by channel. Where that leaves a doubt, float64
is the referee: the graph and the module run in it and must agree; and the states in doubt must lie in the
band that rounding leaves, which is known from runs that differ in rounding only (`split_step.py`), those that
were made anyway first, and from what the update makes of their difference (`rounding.py`).

The optimizer's states are in the middle of training, see `SplitStep.warm_states`, and the learning rate is
large, so that what the update does is not lost in a weight's last bits. Where weights decay apart from the
gradient, one more step shows that alone (`decay.py`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from torch import Tensor

from ..errors import ParityError
from ..runtime.manifest import Manifest
from ..runtime.parity_record import ParityRecord
from ..task.batch import Batch
from ..train_graph import TrainGraph
from . import tolerances
from .artefact_runs import DEVICE, ArtefactRuns, StepResult
from .decay import WorstDecay, decay_step
from .gradients import FLOOR_RATIO_F32, GradientCheck, GradientComparison
from .metric import MetricCheck, MetricComparison, open_choice
from .prediction import compared
from .rounding import Deviation, bands, deviation, loss_spread, norm, spans, spread, state_width, typical
from .split_step import GradientRun

SEED = 0  # of dropout's masks
LR = 0.37  # no power of two: times the scale of a group it would be one


# Runs that differ in rounding, and by how many last bits: at first, and more before a step is refused.
# More bits pass more kinks.
DRAWS = ((2, 4.0), (3, 16.0))


def check_parity(folder: Path, manifest: Manifest, graph: TrainGraph, force: bool) -> ParityRecord:
    """Measure the artefact in `folder`, and refuse it when it deviates.

    Args:
        manifest: of the artefact; the file need not be written yet.
        graph: the plan's training graph, before any pass.
        force: accept any deviation; the record then says so.

    Raises:
        ParityError: a deviation is beyond the tolerance, or the artefact cannot be run here.
    """
    verdict = _Judge(folder, manifest, graph).verdict()
    if not verdict.refusal:
        return verdict.parity
    if not force:
        raise ParityError(
            f"{verdict.refusal} Nothing was written. force=True (--force) writes it all the same, and "
            "records that."
        )
    return verdict.parity.model_copy(update={"forced": True})


def measure(folder: Path, manifest: Manifest, graph: TrainGraph) -> ParityRecord:
    """The deviations, without judging them.

    Raises:
        ParityError: the artefact cannot be run here.
    """
    return _Judge(folder, manifest, graph).verdict().parity


@dataclass(frozen=True)
class _Verdict:
    """The record, and why it does not ship; empty where it does."""

    parity: ParityRecord
    refusal: str


@dataclass(frozen=True)
class _StepComparison:
    """What comparing the step gave: deviation of the loss, and by state."""

    loss: float
    allowed_loss: float
    states: dict[str, Deviation]

    def worst(self) -> str:
        beyond = {name: d.beyond for name, d in self.states.items()}
        if any(beyond.values()):
            return max(beyond, key=beyond.__getitem__)
        share = {name: d.share for name, d in self.states.items() if d.allowed < 1}  # others are rounding
        return max(share, key=share.__getitem__, default="")


class _Judge:
    def __init__(self, folder: Path, manifest: Manifest, graph: TrainGraph) -> None:
        self._folder, self._manifest, self._graph = folder, manifest, graph
        self._tolerances = _tolerances_of(manifest)

    def verdict(self) -> _Verdict:
        graph, example = self._graph, self._graph.task.example
        check = GradientCheck(graph, SEED)
        doubt = check.run()
        self._split, plain = check.split, check.plain
        starts = self._split.warm_states(plain.gradients)
        probe = decay_step(graph, plain, starts[0]) if self._tolerances is tolerances.STEP["f32"] else None
        artefact = ArtefactRuns(self._folder, self._manifest, example, SEED)
        self._runs = [artefact.step(LR, start) for start in starts]
        decay = None
        if probe:
            after = artefact.step(probe.lr, probe.start).state
            decay = probe.worst(graph, self._split, plain, after)
        found = self._compared(plain)
        rounding = None
        if not self._ships(found):
            found, rounding = self._settled(found, check)
        tolerance, eps, target = self._forward_tolerance, self._tolerances.eps, self._manifest.target
        metric = MetricCheck(graph, tolerance, eps).check(artefact.evaluate, target)
        prediction = compared(graph, artefact.predict, target, tolerance, eps)
        return self._record(check, doubt, found, rounding, decay, metric, prediction)

    @property
    def _forward_tolerance(self) -> float:
        return max(self._tolerances.loss, tolerances.METRIC)

    def _settled(self, doubt: _StepComparison, check: GradientCheck) -> tuple[_StepComparison, float]:
        """Doubts as they are left by what is known about rounding, and its size, see `_most_rounding`."""
        center, runs = check.plain, []
        for center, more in self._evidence(check):
            runs += more
            doubt = self._within(doubt, center, runs)
            if self._ships(doubt):
                break
        return doubt, _most_rounding(center, runs)

    def _evidence(self, check: GradientCheck) -> Iterator[tuple[GradientRun, list[GradientRun]]]:
        """The graph's run that counts, and more runs that differ from it in rounding; the cheapest first."""
        if check.referee == "float32":
            yield check.plain, []
        center = check.exact or check.plain
        yield center, [check.plain, *check.of_module()]
        for count, bits in DRAWS:
            yield center, check.perturbed(count, self._tolerances.eps, bits)

    def _ships(self, found: _StepComparison) -> bool:
        return found.loss <= found.allowed_loss and not self._doubtful(found)

    def _doubtful(self, found: _StepComparison) -> frozenset[str]:
        return frozenset(name for name, d in found.states.items() if not d.beyond <= self._tolerances.step)

    def _compared(self, center: GradientRun) -> _StepComparison:
        """The artefact's steps against the graph's, where a state's last bits are all that may differ."""
        states: dict[str, Deviation] = {}
        for run in self._runs:
            right = self._split.update(center.update_inputs, LR, run.start) | center.buffers
            for name, after, before in self._states(run, right):
                got, moved = run.state[name], after - before if after.is_floating_point() else after
                found = deviation(got, after, moved)
                if not found.beyond <= self._tolerances.step:
                    allowed = state_width(after, before, None, tolerances.UPDATE_OPERATORS, got.dtype)
                    found = deviation(got, after, moved, allowed)
                _keep_worst(states, name, found)
        return _StepComparison(*self._loss(center, []), states)

    def _within(
        self, doubt: _StepComparison, center: GradientRun, runs: Sequence[GradientRun]
    ) -> _StepComparison:
        """The states that are in doubt, against the band that rounding leaves.

        Args:
            center: the graph's run that counts; runs: others, that say what rounding does.
        """
        floor = FLOOR_RATIO_F32 * typical(center.gradients)
        only = frozenset(self._next_names[name] for name in self._doubtful(doubt))
        update_inputs = {name: center.update_inputs[name] for name in self._split.read_by(only)}
        span = spans(update_inputs, [r.update_inputs for r in runs], self._tolerances.gradient, floor)
        states: dict[str, Deviation] = {}
        for run in self._runs:
            right, width = bands(
                update_inputs,
                span,
                lambda update_inputs, run=run: self._split.update(update_inputs, LR, run.start, only),
            )
            for name in only & center.buffers.keys():
                right[name] = center.buffers[name]
                width[name] = spread(right[name], [r.buffers[name] for r in runs])
            for name, after, before in self._states(run, right):
                got, next_name = run.state[name], self._next_names[name]
                allowed = state_width(after, before, width[next_name], tolerances.UPDATE_OPERATORS, got.dtype)
                _keep_worst(states, name, deviation(got, after, after.double() - before.double(), allowed))
        loss = doubt.loss, doubt.allowed_loss
        if not doubt.loss <= doubt.allowed_loss:
            loss = self._loss(center, runs)
        return _StepComparison(*loss, {**doubt.states, **states})

    def _states(self, run: StepResult, right: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Of each state that `right` has: its name, the right next value, and the value before."""
        for name, next_name in self._next_names.items():
            if next_name in right:
                yield name, right[next_name], run.start.get(name, self._graph.values[name])

    @cached_property
    def _next_names(self) -> dict[str, str]:
        return {s.name: s.next_name for s in self._manifest.train.state}

    def _loss(self, center: GradientRun, runs: Sequence[GradientRun]) -> tuple[float, float]:
        """How far the artefact's is off, and how far it may be."""
        size = max(abs(center.loss), 1e-2) if math.isfinite(center.loss) else 1.0
        off = max(_finite_or_inf(abs(run.loss - center.loss)) for run in self._runs)
        rounding = loss_spread(center.loss, [r.loss for r in runs])
        return off / size, self._tolerances.loss + rounding / size

    def _record(
        self,
        check: GradientCheck,
        doubt: GradientComparison,
        found: _StepComparison,
        rounding: float | None,
        decay: WorstDecay | None,
        metric: MetricComparison,
        prediction: MetricComparison | None,
    ) -> _Verdict:
        p, worst = self._tolerances, found.worst()
        ships = self._ships(found)
        of_worst = found.states.get(worst, Deviation(0.0, 0.0, 0.0, 0.0))
        known = ships and math.isfinite(of_worst.allowed)
        step = of_worst.share if known else of_worst.beyond
        allowed = p.step + of_worst.allowed if known else p.step
        refusal = doubt.refusal or check.update.refusal
        if not refusal and not ships:
            refusal = self._refusal(self._said(found))
        elif not refusal and decay and not decay.ships:
            worst, step, allowed = decay.slot, decay.deviation, tolerances.DECAY
            refusal = self._refusal([str(decay)])
        refusal = refusal or metric.refusal or (prediction.refusal if prediction else "")
        of_prediction: dict[Literal["prediction"], float] = {}
        if prediction:
            of_prediction["prediction"] = prediction.allowed
        loss = max(doubt.loss, found.loss)
        parity = ParityRecord(
            loss=_finite(check.loss), loss_deviation=_finite(loss),
            gradient_deviation=_finite(doubt.deviation), worst_gradient=doubt.worst,
            step_deviation=_finite(step), worst_step=worst,
            update_deviation=_finite(check.update.deviation), worst_update=check.update.worst,
            metric_deviation=_finite(metric.deviation),
            prediction_deviation=_finite(prediction.deviation) if prediction else None,
            tolerance={
                "loss": found.allowed_loss if doubt.loss <= found.loss else doubt.allowed_loss,
                "gradient": doubt.allowed,
                "step": allowed,
                "update": tolerances.UPDATE,
                "metric": metric.allowed,
                **of_prediction,
            },
            rounding=None if rounding is None else _finite(rounding), referee=check.referee,
            batch="first of `train`",
            batch_sha256=_digest(check.task.example), dtype=_dtype(check.plain.gradients), device=DEVICE,
            versions=dict(self._manifest.versions),
        )  # fmt: skip
        return _Verdict(parity, refusal)

    def _said(self, found: _StepComparison) -> list[str]:
        """What deviates."""
        said = []
        if not found.loss <= found.allowed_loss:
            off = f"off by {found.loss:.2g}" if math.isfinite(found.loss) else "not finite"
            said.append(f"the loss is {off} of its size (tolerance {found.allowed_loss:.0e})")
        wrong = [n for n, d in found.states.items() if not d.beyond <= self._tolerances.step]
        if wrong:
            worst = found.worst()
            off = found.states[worst].beyond
            more = f", and so are {len(wrong) - 1} more" if len(wrong) > 1 else ""
            size = f"off by {off:.2g} of its movement" if math.isfinite(off) else "not where it should be"
            said.append(f"{worst} after one step is {size} (tolerance {self._tolerances.step:.0e}){more}")
        return said

    def _refusal(self, said: Sequence[str]) -> str:
        task, target = self._manifest.task, self._manifest.target
        return (
            f"The step that was compiled for {target!r} does not do what the training graph of task {task!r} "
            "does, though the graph itself agrees with eager PyTorch, on the first training batch: "
            f"{', '.join(said)}, beyond what rounding explains. This is a bug of the target {target!r}, not "
            f"of your model: please report it, and compile for another target.{open_choice(self._graph)}"
        )


def _most_rounding(center: GradientRun, runs: Sequence[GradientRun]) -> float:
    """How far rounding moves a gradient, relative to its size, of the tensor that it moves most."""
    least = 1e-3 * typical(center.gradients)
    worst = 0.0
    for fqn, c in center.gradients.items():
        size = max(norm(c), least * math.sqrt(c.numel()))
        for run in runs:
            worst = max(worst, norm(run.gradients[fqn] - c) / size if size else 0.0)
    return worst


def _tolerances_of(manifest: Manifest) -> tolerances.StepTolerances:
    precision = str(manifest.options.get("precision", "f32"))
    if precision not in tolerances.STEP:
        raise ParityError(
            f"No tolerance is stated for the precision {precision!r}, so agreement with PyTorch cannot be "
            "judged. Compile in f32, or pass parity=False (--no-parity) to write it without a record."
        )
    return tolerances.STEP[precision]


def _keep_worst(states: dict[str, Deviation], name: str, found: Deviation) -> None:
    if name not in states or not found.beyond <= states[name].beyond:
        states[name] = found


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _finite_or_inf(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def _digest(batch: Batch) -> str:
    digest = hashlib.sha256()
    for name, value in batch.items():
        array = value.detach().cpu().contiguous()
        digest.update(f"{name} {array.dtype} {tuple(array.shape)};".encode())
        digest.update(array.numpy().tobytes())
    return digest.hexdigest()


def _dtype(gradients: Mapping[str, Tensor]) -> str:
    return ", ".join(sorted({str(g.dtype).removeprefix("torch.") for g in gradients.values()}))
