"""Fine-tune one plan after another on one task: the bench that contribution is measured on.

Two benches give the same numbers to rounding. `EagerBench` runs the pruned graph in this process, with
the trunk below the trained tensors cached (`trunk.py`); it is ready in a fraction of a second.
`CompiledBench` compiles every plan for a target, which takes seconds and pays when a plan takes many
steps.
"""

from __future__ import annotations

import itertools
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import fx, nn

from .. import passes
from ..errors import BatchError, NonFiniteLoss
from ..ir.graph import Graph, Role, output_args
from ..passes.guard_indices import guarded, guards_of
from ..passes.optimize.pointwise_as_matmul import PointwiseAsMatmul
from ..plan import Plan
from ..prng import step_keys
from ..runtime.guards import OUT_OF_BOUNDS, failed
from ..runtime.manifest import EMA
from ..task.task import Batch
from ..train_graph import TrainGraph
from ..train_graph.prune import prune, specialise
from .activation_cache import Cut, Forward, Kept, choose_cuts
from .data import Data

_STATE_OF = {
    Role.NEW_PARAM: Role.PARAM, Role.NEW_BUFFER: Role.BUFFER, Role.NEW_OPT_STATE: Role.OPT_STATE
}  # fmt: skip


# ---------------------------------------------------------------- running a plan


class Finetuner(Protocol):
    """One plan, ready to be trained again and again."""

    plan: Plan

    def reset(self, fresh: Mapping[str, torch.Tensor]) -> None:
        """Back to the initial weights, with other values for some trained tensors."""
        ...

    def train(self, seed: int, lr: float) -> Iterator[float]:
        """Take a step on each of the seed's batches; yields the loss before it."""
        ...

    def evaluate(self) -> Iterator[np.ndarray]:
        """The metric of each sample, one array for each validation batch."""
        ...

    def close(self) -> None: ...


class Bench(Protocol):
    """Prepares plans of one task."""

    target: str

    def prepare(self, plan: Plan) -> Finetuner: ...


@dataclass(frozen=True)
class Outcome:
    """What fine-tuning a plan led to.

    Attributes:
        metric: mean over the validation samples, after the last step.
        loss: mean training loss of the last quarter of the steps, each before its update.
    """

    metric: float
    loss: float


def finetune(
    tuner: Finetuner, fresh: Mapping[str, torch.Tensor], seed: int, lr: float, tick: Callable[[], None]
) -> Outcome:
    """Train from the initial weights and evaluate.

    Args:
        tick: called after every step and every validation batch; it may raise to stop.

    Raises:
        NonFiniteLoss: the loss, or the metric, became NaN or infinite.
    """
    tuner.reset(fresh)
    losses = []
    for loss in tuner.train(seed, lr):
        if not math.isfinite(loss):
            raise NonFiniteLoss(f"The loss became {loss} in step {len(losses) + 1} at lr {lr:g}.")
        losses.append(loss)
        tick()
    values = []
    for value in tuner.evaluate():
        values.append(value)
        tick()
    metric = float(np.concatenate(values).mean(dtype=np.float64))
    if not math.isfinite(metric):
        raise NonFiniteLoss(f"The metric became {metric} after {len(losses)} steps at lr {lr:g}.")
    last = losses[-max(1, len(losses) // 4) :]
    return Outcome(metric, sum(last) / len(last))


# ---------------------------------------------------------------- in this process


def _prepared(graph: Graph) -> Graph:
    """After the passes that every target starts with, and those for eager PyTorch."""
    return passes.run(graph, (*passes.pipeline(), PointwiseAsMatmul()))


class _Function:
    """A graph as a Python function of named inputs; values that never change are bound."""

    def __init__(self, graph: Graph) -> None:
        self._call = fx.GraphModule(nn.Module(), graph.fx).forward
        self.args: list[Any] = [graph.values.get(s.name) for s in graph.inputs]
        self.at = {s.name: i for i, s in enumerate(graph.inputs)}
        self.free = [(s.name, i) for s, i in zip(graph.inputs, self.at.values()) if s.role is Role.BATCH]
        self._unread = {s.name for s, n in zip(graph.inputs, graph.placeholders.values()) if not n.users}

    def __call__(self, batch: Kept) -> tuple[torch.Tensor, ...]:
        for name, i in self.free:
            self.args[i] = None if name in self._unread else batch[name]
        return self._call(*self.args)


class _Source:
    """The batches of one stage behind each cut; what crosses the cuts is kept."""

    def __init__(
        self, forward: Forward, cuts: tuple[Cut, ...], batches: Callable[..., Iterator[Any]]
    ) -> None:
        self.forward, self.cuts = forward, cuts
        self.guards = guards_of(forward.graph, OUT_OF_BOUNDS)
        self._batches = batches
        self._kept: dict[tuple[Any, ...], list[tuple[Kept, int]]] = {}
        self._suffixes: dict[int, Graph] = {}

    def cut_for(self, tensors: Iterable[str]) -> Cut:
        end = self.forward.position(tensors)
        return [c for c in self.cuts if c.position <= end][-1]

    def suffix(self, cut: Cut) -> Graph:
        if cut.position not in self._suffixes:
            self._suffixes[cut.position] = self.forward.suffix(cut)
        return self._suffixes[cut.position]

    def batches(self, cut: Cut, *key: Any) -> Iterator[tuple[Kept, int]]:
        """(inputs of the cut's suffix, real rows) for each batch that `key` draws."""
        if not cut.position:
            for batch, rows in self._batches(*key):
                yield _slot_names(batch), rows
            return
        kept = self._kept.setdefault(key, [])
        yield from kept
        # A run that was cancelled has kept the first batches only.
        for batch, rows in itertools.islice(self._batches(*key), len(kept), None):
            kept.append((self._keep(_slot_names(batch)), rows))
            yield kept[-1]

    @cached_property
    def _trunk(self) -> tuple[_Function, list[str], list[str]]:
        values = sorted(
            {v for c in self.cuts[1:] for v in c.values}, key=list(self.forward.graph.fx.nodes).index
        )
        graph = _prepared(self.forward.trunk(values))
        whole = [self.forward.slot_of(v).name for v in values if v.op == "placeholder"]
        return _Function(graph), [s.name for s in graph.outputs], whole

    def _keep(self, batch: Kept) -> Kept:
        function, names, whole = self._trunk
        kept = {n: _own(v) for n, v in zip(names, function(batch))}
        return kept | {n: batch[n] for n in whole}


def _slot_names(batch: Batch) -> dict[str, torch.Tensor]:
    return {f"{Role.BATCH.value}:{k}": v for k, v in batch.items()}


def _own(value: torch.Tensor) -> torch.Tensor:
    """Not a view that keeps more memory alive than its own."""
    return value.clone() if value.untyped_storage().nbytes() > value.nbytes else value


class EagerBench:
    """Runs pruned graphs operator by operator with PyTorch's native kernels.

    Args:
        graph: the task's.
        data: its batches.
        plans: the tensors that each plan to come trains; they decide where the trunk is cut.
        seeds: how many seeds will be trained.
        cache_bytes: for kept activations, all batches together; 0 keeps none.
    """

    target = "torch"

    def __init__(
        self, graph: TrainGraph, data: Data, plans: Iterable[Iterable[str]], seeds: int, cache_bytes: int
    ) -> None:
        self._graph = graph
        wanted = [tuple(p) for p in plans]
        count = data.steps * seeds + data.validation_count
        # A trunk whose values change with the step, or with other steps' batches, cannot be kept.
        moving = graph.plan.dropout or graph.plan.batch_norm == "batch"
        limit = cache_bytes // count if data.is_repeatable() and not moving else 0
        with_rows = lambda seed: ((b, len(b)) for b in data.train(seed))  # noqa: E731
        self.train = _source(graph.gradients, wanted, limit, with_rows)
        self.validation = _source(graph.metric, wanted, limit, data.validation)

    def prepare(self, plan: Plan) -> EagerFinetuner:
        return EagerFinetuner(self, plan, self._graph)


def _source(graph: Graph, plans: list[tuple[str, ...]], limit: int, batches: Callable[..., Any]) -> _Source:
    forward = Forward(guarded(graph))
    return _Source(forward, choose_cuts(forward, plans, limit), batches)


class EagerFinetuner:
    """A `Finetuner` in this process."""

    def __init__(self, bench: EagerBench, plan: Plan, graph: TrainGraph) -> None:
        self.plan = plan
        self._train, self._validation = bench.train, bench.validation
        self._cut = self._train.cut_for(plan.tensors)
        self._validation_cut = self._validation.cut_for(plan.tensors)
        step = _prepared(prune(self._train.suffix(self._cut), graph.optimizer, plan))
        self._step = _Function(step)
        suffix = self._validation.suffix(self._validation_cut)
        averaged = graph.optimizer.ema_decay is not None
        self._evaluate = _Function(_prepared(specialise(suffix, plan, averaged)))
        self._initial = {s.name: step.values[s.name] for s in step.state_slots}
        state = {(s.role, s.fqn, s.key): self._step.at[s.name] for s in step.state_slots}
        self._next = [
            (i, state[_STATE_OF[s.role], s.fqn, s.key])
            for i, s in enumerate(step.outputs) if s.role in _STATE_OF
        ]  # fmt: skip
        assert len(output_args(step.fx)) == len(step.outputs)

    def reset(self, fresh: Mapping[str, torch.Tensor]) -> None:
        for name, value in self._initial.items():
            self._step.args[self._step.at[name]] = value
        for fqn, value in fresh.items():
            for name in (f"trained:{fqn}", f"opt_state:{fqn}:{EMA}"):
                at = self._step.at.get(name)
                if at is not None:
                    self._step.args[at] = value

    def train(self, seed: int, lr: float) -> Iterator[float]:
        self._step.args[self._step.at["lr"]] = torch.tensor(lr)
        for step, (batch, _) in enumerate(self._batches(self._train, self._cut, seed)):
            if "seed" in self._step.at:
                self._step.args[self._step.at["seed"]] = torch.from_numpy(step_keys(seed, step))
            with torch.inference_mode():
                results = self._step(batch)
            loss = float(results[0])
            if wrong := failed(loss, self._train.guards, (), True):
                raise BatchError(f"In batch {step + 1} that seed {seed} draws of `train` {wrong}")
            for i, at in self._next:
                self._step.args[at] = results[i]
            yield loss

    def evaluate(self) -> Iterator[np.ndarray]:
        for name in self._initial:
            if name in self._evaluate.at:
                self._evaluate.args[self._evaluate.at[name]] = self._step.args[self._step.at[name]]
        batches = self._batches(self._validation, self._validation_cut)
        for number, (batch, rows) in enumerate(batches, 1):
            with torch.inference_mode():
                metric = self._evaluate(batch)[0].numpy()
            if wrong := failed(metric, self._validation.guards, (), True):
                raise BatchError(f"In batch {number} of `validation` {wrong}")
            yield metric[:rows]

    def _batches(self, source: _Source, cut: Cut, *key: Any) -> Iterator[tuple[Kept, int]]:
        batches = source.batches(cut, *key)
        while True:
            with torch.inference_mode():
                item = next(batches, None)
            if item is None:
                return
            yield item

    def close(self) -> None:
        """Nothing is held outside this process."""


# ---------------------------------------------------------------- compiled


class CompiledBench:
    """Compiles every plan for a target and runs it with a `Trainer`."""

    def __init__(self, graph: TrainGraph, data: Data, target: str) -> None:
        self.target = target
        self._graph, self._data = graph, data

    def prepare(self, plan: Plan) -> CompiledFinetuner:
        return CompiledFinetuner(self._graph, plan, self._data, self.target)


class CompiledFinetuner:
    """A `Finetuner` on a target; its artefact lives in a temporary folder."""

    def __init__(self, graph: TrainGraph, plan: Plan, data: Data, target: str) -> None:
        from ..artifact.compiler import compile
        from ..runtime import Trainer

        self.plan, self._data = plan, data
        self._folder = tempfile.TemporaryDirectory(prefix="pockui-finetune-")
        try:
            # Compiled once a measurement, and never shipped.
            compile(graph, plan, target=target, out=Path(self._folder.name) / "out", parity=False)
            self._trainer = Trainer.load(Path(self._folder.name) / "out")
        except BaseException:
            self._folder.cleanup()
            raise

    def reset(self, fresh: Mapping[str, torch.Tensor]) -> None:
        self._trainer.reset({k: v.numpy() for k, v in fresh.items() if k in self.plan.tensors})

    def train(self, seed: int, lr: float) -> Iterator[float]:
        self._trainer.seed = seed
        for batch in self._data.train(seed):
            yield self._trainer.step(batch, lr).loss

    def evaluate(self) -> Iterator[np.ndarray]:
        for batch, rows in self._data.validation():
            yield self._trainer.evaluate([batch]).values[:rows]

    def close(self) -> None:
        self._folder.cleanup()


# ---------------------------------------------------------------- which bench


@dataclass(frozen=True)
class Estimate:
    """What one plan costs on a bench, in seconds."""

    prepare_s: float
    step_s: float
    evaluate_s: float

    def total_s(self, runs: int, steps: int, evaluations: int) -> float:
        """Preparing once, then so many runs of steps and validation batches."""
        return self.prepare_s + runs * (steps * self.step_s + evaluations * self.evaluate_s)

    @classmethod
    def of(cls, bench: Bench, plan: Plan, seed: int, lr: float, tick: Callable[[], None]) -> Self:
        """Time a few steps; the first pass, which fills caches and allocates, does not count."""
        start = time.perf_counter()
        tuner = bench.prepare(plan)
        prepare_s = time.perf_counter() - start
        try:
            _median_s(tuner.train(seed, lr), tick)
            tuner.reset({})
            step_s = _median_s(tuner.train(seed, lr), tick)
            _median_s(tuner.evaluate(), tick)
            return cls(prepare_s, step_s, _median_s(tuner.evaluate(), tick))
        finally:
            tuner.close()


def _median_s(work: Iterable[Any], tick: Callable[[], None], count: int = 5) -> float:
    times = []
    start = time.perf_counter()
    for _ in itertools.islice(work, count):
        times.append(time.perf_counter() - start)
        tick()
        start = time.perf_counter()
    return sorted(times)[len(times) // 2]
