"""Probe: score every candidate from the gradients of a few batches, without training it.

The head is trained for some steps, since the gradients through a head that knows nothing say little about the
task. Then one backward pass a batch through the whole network, as a plan that trains everything takes it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np
from torch import Tensor

from ..ir.graph import Role
from ..ir.interpreter import interpret
from ..optimizer import Optimizer
from ..parity.eager_optimizer import EagerOptimizer
from ..passes.batch_limits import limits_of
from ..plan import Plan
from ..plan.tensor_info import TensorInfo
from ..task import Task
from ..task.batch import Batch
from ..train_graph import TrainGraph
from .data import Data, fresh_values
from .eager_finetuning import EagerBackend
from .gains import Candidate
from .scores import Score, Scores

HEAD_STEPS = 40
BATCHES = 8


def probe(
    task: Task,
    graph: TrainGraph,
    candidates: Iterable[Candidate],
    plan_of: Callable[[Candidate], Plan],
    head: Plan,
    seed: int,
    lr: float,
    tick: Callable[[], None],
) -> Scores:
    """Score candidates.

    Args:
        task: with validation batches held back.
        plan_of: what a candidate trains, the head included. head: what is trained before.
        seed: of the fresh head and the batches. lr: of the head's steps, and of the step that is scored.
        tick: called after every step and batch; it may raise to stop.
    """
    data = Data(task, HEAD_STEPS + BATCHES, None, limits_of(graph.gradients))
    fresh = fresh_values(task, seed)
    tuner = EagerBackend(graph, data, [head.tensors], 1, 0).prepare(head)
    tuner.reset(fresh)
    taken, finite = 0, True
    for loss in itertools.islice(tuner.train(seed, lr), HEAD_STEPS):
        finite = finite and math.isfinite(loss)
        taken += 1
        tick()
    # Where the rate is too large for the head, its first values still tell more than none.
    values, taken = (tuner.trained(), taken) if finite else (fresh, 0)
    sums = Gradients(graph, values, skip=head.tensors)
    for batch in itertools.islice(data.train(seed), taken, taken + BATCHES):
        sums.add(batch, seed)
        tick()
    found = scores_of(graph, candidates, plan_of, sums, lr)
    return replace(found, seed=seed, lr=lr, head_steps=taken)


class Gradients:
    """Sums over batches of the gradients of tensors.

    Args:
        graph: the task's.
        values: FQN -> value of what differs from the graph's own, such as a trained head.
        skip: tensors that are not looked at.

    Attributes:
        halves: FQN -> sum of the gradients of every other batch, and of the batches between.
        squares: FQN -> sum of the squared gradients of each channel.
        count: batches.
    """

    def __init__(self, graph: TrainGraph, values: Mapping[str, Tensor], skip: Iterable[str] = ()) -> None:
        own = graph.gradients
        changed = {f"{Role.PARAM.value}:{fqn}": value for fqn, value in values.items()}
        self._graph = replace(own, values={**own.values, **changed})
        skipped = set(skip)
        self.infos = {t.fqn: t for t in graph.tensors if t.fqn not in skipped}
        self.halves: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
        self.squares: dict[str, np.ndarray] = {}
        self.count = 0

    def add(self, batch: Batch, seed: int) -> None:
        """One backward pass."""
        found = interpret(self._graph, batch, seed=seed, step=self.count)
        half = self.halves[self.count % 2]
        for slot in self._graph.outputs:
            if slot.role is Role.GRAD and slot.fqn in self.infos:
                grad = found[slot.name].float()
                half[slot.fqn] = half[slot.fqn] + grad if slot.fqn in half else grad.clone()
                square = by_channel(self.infos[slot.fqn], grad.square())
                self.squares[slot.fqn] = self.squares.get(slot.fqn, 0.0) + square
        self.count += 1


def by_channel(info: TensorInfo, values: Tensor) -> np.ndarray:
    """Sum over each channel, float64 `[channels]`; over all of a tensor that has none: `[1]`."""
    if info.channel_dim is None:
        return np.array([float(values.double().sum())])
    return (
        values.double().movedim(info.channel_dim, 0).flatten(1).sum(1).numpy()
        if values.ndim > 1
        else (values.double().numpy())
    )


def scores_of(
    graph: TrainGraph,
    candidates: Iterable[Candidate],
    plan_of: Callable[[Candidate], Plan],
    sums: Gradients,
    lr: float,
) -> Scores:
    """Scores from summed gradients; what has one that is not finite gets none.

    Args:
        plan_of: what a candidate trains; tensors that were not looked at count nothing.
    """
    parts = {fqn: _parts(graph, sums, fqn, lr) for fqn in sums.squares}
    weights: dict[str, dict[float, Score]] = {}
    biases: dict[int, Score] = {}
    for candidate in candidates:
        total = np.zeros(3)
        for fqn, trained in plan_of(candidate).tensors.items():
            if fqn in parts:
                channels = slice(None) if trained.channels is None else list(trained.channels)
                total += parts[fqn][:, channels].sum(1)
        if not np.isfinite(total).all():
            continue
        if candidate.kind == "bias_k":
            biases[candidate.k] = Score(*map(float, total))
        else:
            weights.setdefault(candidate.fqn, {})[candidate.ratio] = Score(*map(float, total))
    channels = {
        fqn: tuple((square / sums.count).tolist())
        for fqn, square in sums.squares.items()
        if sums.infos[fqn].channel_dim is not None and np.isfinite(square).all()
    }
    return Scores(weights, biases, channels, lr=lr, batches=sums.count)


def _parts(graph: TrainGraph, sums: Gradients, fqn: str, lr: float) -> np.ndarray:
    """Taylor, Fisher and update score of each channel: float64 `[3, channels]`."""
    weight = graph.initial(fqn).detach().float()
    a = sums.halves[0][fqn] / math.ceil(sums.count / 2)
    b = sums.halves[1][fqn] / (sums.count // 2) if sums.count > 1 else a
    mean = (a * math.ceil(sums.count / 2) + b * (sums.count // 2)) / sums.count
    moved = -(a * _step(graph.optimizer, fqn, weight, b, lr) + b * _step(graph.optimizer, fqn, weight, a, lr))
    taylor, update = (by_channel(sums.infos[fqn], v) for v in ((mean * weight).abs(), moved / 2))
    return np.stack([taylor, sums.squares[fqn] / sums.count, update])


def _step(optimizer: Optimizer, fqn: str, weight: Tensor, grad: Tensor, lr: float) -> Tensor:
    """What the optimizer's first step adds to a weight, by `torch.optim`; not clipped, as other tensors'
    gradients would decide that."""
    plain = replace(optimizer, accumulate=1, clip_norm=None, ema_decay=None)  # pyright: ignore
    leaf = weight.clone().requires_grad_()
    leaf.grad = grad.clone()
    EagerOptimizer(plain, {fqn: leaf}).step(lr)
    return leaf.detach() - weight
