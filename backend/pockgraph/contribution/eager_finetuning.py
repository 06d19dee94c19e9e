"""Plans trained in this process by PyTorch, with cached activations: ready in a fraction of a second."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from ..errors import BatchError
from ..ir.graph import Graph, Role, output_args
from ..ir.slot_names import EMA
from ..passes import run
from ..passes.guard_indices import GuardIndices, guards_of
from ..passes.optimize.fold_constants import FoldConstants
from ..passes.optimize.fold_scale import FoldScale
from ..passes.optimize.pointwise_as_matmul import PointwiseAsMatmul
from ..plan import Plan
from ..prng import step_keys
from ..runtime.result_marks import OUT_OF_BOUNDS, failed_check
from ..task.batch import Batch
from ..train_graph import TrainGraph
from ..train_graph.prune import prune, specialise
from .activation_cache import Cut, Forward, Kept, choose_cuts
from .data import Data

# Indices are guarded before a graph is cut, so that each part has its own.
WHOLE = (GuardIndices(),)
PARTS = (FoldConstants(), FoldScale(), PointwiseAsMatmul())


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
    """Training or validation batches as they are after each cut; the activations there are kept."""

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
        """(inputs of the cut's suffix, real samples) for each batch that `key` draws."""
        if not cut.position:
            for batch, samples in self._batches(*key):
                yield _slot_names(batch), samples
            return
        kept = self._kept.setdefault(key, [])
        yield from kept
        # A run that was cancelled has kept the first batches only.
        for batch, samples in itertools.islice(self._batches(*key), len(kept), None):
            kept.append((self._keep(_slot_names(batch)), samples))
            yield kept[-1]

    @cached_property
    def _prefix(self) -> tuple[_Function, list[str], list[str]]:
        values = sorted(
            {v for c in self.cuts[1:] for v in c.values}, key=list(self.forward.graph.fx.nodes).index
        )
        graph = run(self.forward.prefix(values), PARTS, "finetune-prefix")
        whole = [self.forward.slot_of(v).name for v in values if v.op == "placeholder"]
        return _Function(graph), [s.name for s in graph.outputs], whole

    def _keep(self, batch: Kept) -> Kept:
        function, names, whole = self._prefix
        kept = {n: _own(v) for n, v in zip(names, function(batch))}
        return kept | {n: batch[n] for n in whole}


def _slot_names(batch: Batch) -> dict[str, torch.Tensor]:
    return {f"{Role.BATCH.value}:{k}": v for k, v in batch.items()}


def _own(value: torch.Tensor) -> torch.Tensor:
    """Not a view that keeps more memory alive than its own."""
    return value.clone() if value.untyped_storage().nbytes() > value.nbytes else value


class EagerBackend:
    """Runs pruned graphs operator by operator with PyTorch's native kernels.

    Args:
        graph: the task's.
        data: its batches.
        plans: the tensors that each plan to come trains; they decide where the forward pass is cut.
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
        # Activations that change with the step, or with other steps' batches, cannot be kept.
        moving = graph.plan.dropout or graph.plan.batch_norm == "batch"
        limit = cache_bytes // count if data.is_repeatable() and not moving else 0
        whole = lambda seed: ((b, data.batch_size) for b in data.train(seed))  # noqa: E731
        self.train = _source(graph.gradients, wanted, limit, whole)
        self.validation = _source(graph.metric, wanted, limit, data.validation)

    def prepare(self, plan: Plan) -> EagerFinetuner:
        return EagerFinetuner(self, plan, self._graph)


def _source(graph: Graph, plans: list[tuple[str, ...]], limit: int, batches: Callable[..., Any]) -> _Source:
    forward = Forward(run(graph, WHOLE, f"finetune-{graph.outputs[0].name}"))
    return _Source(forward, choose_cuts(forward, plans, limit), batches)


class EagerFinetuner:
    """A `Finetuner` in this process."""

    def __init__(self, backend: EagerBackend, plan: Plan, graph: TrainGraph) -> None:
        self.plan = plan
        self._train, self._validation = backend.train, backend.validation
        self._cut = self._train.cut_for(plan.tensors)
        self._validation_cut = self._validation.cut_for(plan.tensors)
        step = run(prune(self._train.suffix(self._cut), graph.optimizer, plan), PARTS, "finetune-train")
        self._step = _Function(step)
        suffix = self._validation.suffix(self._validation_cut)
        averaged = graph.optimizer.ema_decay is not None
        self._evaluate = _Function(run(specialise(suffix, plan, averaged), PARTS, "finetune-eval"))
        self._initial = {s.name: step.values[s.name] for s in step.state_slots}
        state = {s.next_name: self._step.at[s.name] for s in step.state_slots}
        self._next = [(i, state[s.name]) for i, s in enumerate(step.outputs) if s.name in state]
        assert len(output_args(step.fx)) == len(step.outputs)

    def reset(self, fresh: Mapping[str, torch.Tensor]) -> None:
        for name, value in self._initial.items():
            self._step.args[self._step.at[name]] = value
        for fqn, value in fresh.items():
            for name in (f"trained:{fqn}", f"opt_state:{fqn}:{EMA}"):
                at = self._step.at.get(name)
                if at is not None:
                    self._step.args[at] = value

    def trained(self) -> dict[str, torch.Tensor]:
        """FQN -> value of each tensor that is trained whole, as the last step left it."""
        names = {f"trained:{fqn}": fqn for fqn in self.plan.tensors}
        return {fqn: self._step.args[self._step.at[n]] for n, fqn in names.items() if n in self._step.at}

    def train(self, seed: int, lr: float) -> Iterator[float]:
        self._step.args[self._step.at["lr"]] = torch.tensor(lr)
        for step, (batch, _) in enumerate(self._batches(self._train, self._cut, seed)):
            if "seed" in self._step.at:
                self._step.args[self._step.at["seed"]] = torch.from_numpy(step_keys(seed, step))
            with torch.inference_mode():
                results = self._step(batch)
            loss = float(results[0])
            if wrong := failed_check(loss, self._train.guards, (), True):
                raise BatchError(f"In batch {step + 1} that seed {seed} draws of `train` {wrong}")
            for i, at in self._next:
                self._step.args[at] = results[i]
            yield loss

    def evaluate(self) -> Iterator[np.ndarray]:
        for name in self._initial:
            if name in self._evaluate.at:
                self._evaluate.args[self._evaluate.at[name]] = self._step.args[self._step.at[name]]
        batches = self._batches(self._validation, self._validation_cut)
        for number, (batch, samples) in enumerate(batches, 1):
            with torch.inference_mode():
                metric = self._evaluate(batch)[0].numpy()
            if wrong := failed_check(metric, self._validation.guards, (), True):
                raise BatchError(f"In batch {number} of `validation` {wrong}")
            yield metric[:samples]

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
