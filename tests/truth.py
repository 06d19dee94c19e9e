"""Eager PyTorch autograd and `torch.optim`: what is true of some training steps, and how far rounding
alone carries it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from eager_loop import EagerLoop
from policies import same_masks
from torch import Tensor, nn

import pockgraph as pg
from pockgraph.optimizer import Optimizer
from pockgraph.task.batch import Batch
from pockgraph.train_graph import TrainGraph

NUDGES = 2  # runs that say how far rounding carries the steps


@dataclass(frozen=True)
class Steps:
    """What some training steps did.

    Attributes:
        losses: before each update.
        weights: FQN -> trained tensor in its full shape, after the last step; and changed buffers.
        metric: `[N]` of the first batch, after the last step.
        gradients: FQN -> the first step's gradient of what is trained; of eager runs only.
        reach: how far rounding alone can carry an element; 0 where the update is no larger than the
            gradient. Of eager runs only.
    """

    losses: list[float]
    weights: dict[str, Tensor]
    metric: Tensor
    gradients: dict[str, Tensor] = field(default_factory=dict)
    reach: float = 0.0


def eager(
    task: pg.Task,
    plan: pg.Plan,
    optimizer: Optimizer,
    batches: Sequence[Batch],
    lrs: Sequence[float],
    dtype: torch.dtype = torch.float32,
    autocast: torch.dtype | None = None,
    nudge: int | None = None,
) -> Steps:
    """Train a copy of the model with autograd and `torch.optim`, its forward under `torch.autocast` or not.

    The gradient of a partly trained tensor is computed whole and then cut, the optimizer works on the
    trained channels alone. Dropout has the masks of seed 0. With `nudge`, a seed, every weight starts
    at most the last bit away that it has where it is computed with (2**-23 of itself in float32).
    """

    def cast(batch: Batch) -> Batch:
        return {k: v.to(dtype) if v.is_floating_point() else v for k, v in batch.items()}

    def lowered() -> torch.autocast:
        return torch.autocast("cpu", autocast, enabled=autocast is not None)

    net: nn.Module = copy.deepcopy(task.model).to(dtype)
    task.set_mode(training=True, net=net)
    params = dict(net.named_parameters())
    if nudge is not None:
        _nudge(params.values(), nudge, torch.finfo(autocast or torch.float32).eps)
    for fqn, p in params.items():
        p.requires_grad_(fqn in plan.tensors)
    leaves: dict[str, Tensor] = {}
    for fqn, how in plan.tensors.items():
        whole = params[fqn]
        leaves[fqn] = (
            whole if how.dim is None else whole.detach().index_select(how.dim, indices(how.channels))
        )
    stepper = EagerLoop(optimizer, leaves)
    losses: list[float] = []
    gradients: dict[str, Tensor] = {}

    def put(values: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for fqn, how in plan.tensors.items():
                if how.dim is not None:
                    params[fqn].index_copy_(how.dim, indices(how.channels), values[fqn])
                elif params[fqn] is not values[fqn]:
                    params[fqn].copy_(values[fqn])

    for step, (batch, lr) in enumerate(zip(batches, lrs, strict=True)):
        stepper.zero_grad()
        for fqn, how in plan.tensors.items():
            if how.dim is not None:
                params[fqn].grad = None
        with same_masks(task, 0, step):
            with lowered():
                loss = task.loss(net, task.rebuild(cast(batch)))
            (loss / stepper.micro_batches).backward()
        losses.append(float(loss.detach()))
        for fqn, how in plan.tensors.items():
            grad = params[fqn].grad
            if how.dim is not None and grad is not None:
                part, before = grad.index_select(how.dim, indices(how.channels)), leaves[fqn].grad
                leaves[fqn].grad = part if before is None else before + part
        if not gradients:
            gradients = {fqn: p.grad.clone() for fqn, p in leaves.items() if p.grad is not None}
        stepper.step(lr)
        put(leaves)
    trained = {fqn: params[fqn].detach().clone() for fqn in plan.tensors}
    put(stepper.average)
    task.set_mode(training=False, net=net)
    with torch.no_grad(), lowered():
        metric = task.metric(net, task.rebuild(cast(batches[0])))
    initial = dict(task.model.named_buffers())
    changed = {n: b for n, b in net.named_buffers() if not torch.equal(b, initial[n].to(b.dtype))}
    # An update of these is about the learning rate, whatever the size of the gradient.
    reach = 0.0 if isinstance(optimizer, pg.SGD) else 2 * sum(lrs)
    return Steps(losses, trained | changed, metric, gradients, reach)


def _nudge(params: Iterable[Tensor], seed: int, ratio: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in params:
            p.mul_(1 + (torch.randint(-1, 2, p.shape, generator=generator) * ratio).to(p.dtype))


def metric_given(graph: TrainGraph, weights: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """What eager PyTorch's metric is of a model with these weights and buffers."""
    net = copy.deepcopy(graph.task.model)
    graph.task.set_mode(training=False, net=net)
    net.load_state_dict({**net.state_dict(), **weights})
    with torch.no_grad():
        return graph.task.metric(net, graph.task.rebuild(batch))


def indices(channels: Sequence[int] | None) -> Tensor:
    assert channels is not None
    return torch.tensor(channels, dtype=torch.int64)


@dataclass(frozen=True)
class Truth:
    """The same steps in several runs of eager PyTorch, each made when it is first asked for.

    Attributes:
        autocast: dtype that the float32 runs compute in, under `torch.autocast`; None: float32.
    """

    task: pg.Task
    plan: pg.Plan
    optimizer: Optimizer
    batches: Sequence[Batch]
    lrs: Sequence[float]
    autocast: torch.dtype | None = None

    @cached_property
    def float32(self) -> Steps:
        """What a user's own loop would give."""
        return self._run(autocast=self.autocast)

    @cached_property
    def float64(self) -> Steps:
        """The referee."""
        return self._run(dtype=torch.float64)

    @cached_property
    def nudged(self) -> list[Steps]:
        """`float32` from weights that differ in their last bits: as right, rounded otherwise."""
        return [self._run(autocast=self.autocast, nudge=seed) for seed in range(NUDGES)]

    def _run(self, **options: Any) -> Steps:
        return eager(self.task, self.plan, self.optimizer, self.batches, self.lrs, **options)


def eager_gradients(task: pg.Task, batch: Batch, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """FQN -> gradient of the loss; parameters without one are left out."""
    net = copy.deepcopy(task.model).to(dtype)
    task.set_mode(training=True, net=net)
    cast = {k: v.to(dtype) if v.is_floating_point() else v for k, v in batch.items()}
    net.requires_grad_(True)
    with same_masks(task, 0, 0):
        task.loss(net, task.rebuild(cast)).backward()
    return {fqn: p.grad for fqn, p in net.named_parameters() if p.grad is not None}
