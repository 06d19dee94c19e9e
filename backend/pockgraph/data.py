"""The data of an analysis: the same batches, and the same fresh heads, for everything it compares."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from torch import nn

from .errors import TaskError
from .task import Batch, Batches, Task, as_named, check_batch

HELD_BACK_RATIO = 0.2


def with_validation(task: Task) -> Task:
    """A task that has validation batches: its own, or else the last fifth of `train`, held back.

    Shuffled `Batches` may be sorted underneath, so their fifth is drawn, always the same one.

    Raises:
        TaskError: `train` is too small to be split.
    """
    if task.validation is not None:
        return task
    data = task.train
    if isinstance(data, Batches):
        held = round(data.samples * HELD_BACK_RATIO)
        if min(held, data.samples - held) >= data.batch_size:
            order = np.arange(data.samples)
            if data.shuffle:
                order = np.random.default_rng(0).permutation(data.samples)
            picked = order[:-held], order[-held:]
            train, validation = (
                replace(data, arrays={k: a[np.sort(p)] for k, a in data.arrays.items()}) for p in picked
            )
            return replace(task, train=train, validation=replace(validation, shuffle=False))
    else:
        batches = list(data)
        held = round(len(batches) * HELD_BACK_RATIO) or 1
        if len(batches) > held:
            return replace(task, train=batches[:-held], validation=batches[-held:])
    raise TaskError(
        f"Task {task.name!r} has no validation batches, and too few training batches to hold some back. "
        "Give it validation=…, or more training data."
    )


class Data:
    """The batches of an analysis: the same ones for every plan.

    Args:
        task: with validation batches.
        steps: training batches a seed.
        limit: at most so many validation batches; None takes all.
    """

    def __init__(self, task: Task, steps: int, limit: int | None = None) -> None:
        assert task.validation is not None
        self.task, self.steps = task, steps
        self._limit = limit
        self._example = task.example
        self._rows = next(len(v) for v in self._example.values() if v.ndim)

    def train(self, seed: int) -> Iterator[Batch]:
        """The training batches that `seed` draws."""
        for batch in itertools.islice(self.task.forever(seed), self.steps):
            check_batch(batch, self._example)
            yield batch

    def validation(self) -> Iterator[tuple[Batch, int]]:
        """Validation batches, and how many of their rows are real: a ragged one is padded."""
        for raw in itertools.islice(self.task.validation or (), self._limit):
            batch, rows = _padded(as_named(raw), self._rows)
            check_batch(batch, self._example)
            yield batch, rows

    @cached_property
    def validation_count(self) -> int:
        """How many validation batches there are."""
        data = self.task.validation
        count = len(data) if hasattr(data, "__len__") else sum(1 for _ in data or ())  # pyright: ignore
        count = count if self._limit is None else min(count, self._limit)
        if count < 1:
            raise TaskError(f"Task {self.task.name!r} has no validation batches. Give it at least one.")
        return count

    def is_repeatable(self) -> bool:
        """Whether a seed draws the same values again; random augmentation does not."""
        first, again = (next(self.train(0)) for _ in range(2))
        return all(torch.equal(first[k], again[k]) for k in first)


def _padded(batch: Batch, rows: int) -> tuple[Batch, int]:
    """A batch of fewer rows, filled up by repeating its last one."""
    count = min((len(v) for v in batch.values() if v.ndim), default=rows)
    if count >= rows or not count:
        return batch, rows
    filled = {
        k: torch.cat([v, v[-1:].expand(rows - count, *v.shape[1:])]) if v.ndim and len(v) == count else v
        for k, v in batch.items()
    }
    return filled, count


def fresh_values(task: Task, seed: int) -> dict[str, torch.Tensor]:
    """New initial values of the task's `fresh` tensors, drawn from `seed` as PyTorch draws them.

    Linear layers and convolutions are uniform in ±1/sqrt(inputs), embeddings normal, norms one and zero.
    The global random state is neither read nor changed.

    Raises:
        TaskError: a fresh tensor belongs to a layer of another kind.
    """
    generator = torch.Generator().manual_seed(seed)
    values: dict[str, torch.Tensor] = {}
    for fqn in task.fresh_fqns():
        path, _, leaf = fqn.rpartition(".")
        layer = task.model.get_submodule(path)
        value = torch.empty_like(layer.get_parameter(leaf), device="cpu").detach()
        weight = getattr(layer, "weight", None)
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) and leaf in ("weight", "bias"):
            bound = 1 / math.sqrt(math.prod(weight.shape[1:]))  # pyright: ignore
            value.uniform_(-bound, bound, generator=generator)
        elif isinstance(layer, nn.Embedding):
            value.normal_(generator=generator)
        elif weight is not None and weight.ndim == 1 and leaf in ("weight", "bias"):
            value.fill_(1.0 if leaf == "weight" else 0.0)
        else:
            raise TaskError(
                f"Task {task.name!r}: cannot draw {fqn!r} anew, because {type(layer).__name__} is no linear, "
                "convolution, embedding or normalisation layer. Leave it out of `fresh`."
            )
        values[fqn] = value
    return values
