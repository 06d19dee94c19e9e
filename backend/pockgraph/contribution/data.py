"""The data of an analysis: the same batches, and the same fresh heads, for everything it compares."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from torch import nn

from ..errors import BatchError, TaskError
from ..runtime.batch import check_finite
from ..runtime.batch_limits import Limit, check_limits
from ..task import Batches, Task
from ..task.batch import Batch, check_batch, nonfinite_entries
from ..task.data_sources import count_of, hold_back, is_stream, numbered

HELD_BACK_RATIO = 0.2
MAX_COUNTED = 10_000  # validation batches of a stream, which may have no end


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
            train, validation = (data.only(np.sort(p)) for p in picked)
            return replace(task, train=train, validation=replace(validation, shuffle=False))
    else:
        parts = hold_back(data, HELD_BACK_RATIO)
        if parts is not None:
            return replace(task, train=parts[0], validation=parts[1])
        if is_stream(data) or hasattr(data, "sampler"):
            why = "is a stream" if is_stream(data) else "draws samples more than once"
            raise TaskError(
                f"Task {task.name!r} has no validation batches, and its `train` {why}: no part of it can be "
                "held back. Give it validation=…"
            )
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
        train_limits, metric_limits: what entries that are used as indices may hold.
    """

    def __init__(
        self,
        task: Task,
        steps: int,
        limit: int | None = None,
        train_limits: Sequence[Limit] = (),
        metric_limits: Sequence[Limit] = (),
    ) -> None:
        assert task.validation is not None
        self.task, self.steps = task, steps
        self._limit = limit
        self._train_limits, self._metric_limits = train_limits, metric_limits
        self._example = task.example
        self.batch_size = next(len(v) for v in self._example.values() if v.ndim)

    def train(self, seed: int) -> Iterator[Batch]:
        """The training batches that `seed` draws."""
        for number, batch in enumerate(itertools.islice(self.task.forever(seed), self.steps), 1):
            self._check_values(batch, self._train_limits, f"batch {number} that seed {seed} draws of `train`")
            yield batch

    def validation(self) -> Iterator[tuple[Batch, int]]:
        """Validation batches, and how many of their samples are real: a ragged one is padded."""
        what = f"Task {self.task.name!r}: `validation`"
        for number, raw in numbered(what, itertools.islice(self.task.validation or (), self._limit)):
            batch, samples = _padded(self.task.named(raw), self.batch_size)
            check_batch(batch, self._example, f"batch {number} of `validation`")
            self._check_values(batch, self._metric_limits, f"batch {number} of `validation`")
            yield batch, samples

    def _check_values(self, batch: Batch, limits: Sequence[Limit], what: str) -> None:
        arrays = {k: v.numpy(force=True) for k, v in batch.items()}
        try:
            check_limits(arrays, limits, self.task.name)
            check_finite(arrays, arrays, nonfinite_entries(self._example), self.task.name)
        except BatchError as e:
            e.args = (f"In {what}: {e}",)
            raise

    @cached_property
    def validation_count(self) -> int:
        """How many validation batches there are."""
        data = self.task.validation or ()
        count = count_of(data, MAX_COUNTED + 1 if self._limit is None and is_stream(data) else self._limit)
        if self._limit is None and is_stream(data) and count > MAX_COUNTED:
            raise TaskError(
                f"Task {self.task.name!r}: `validation` is a stream of more than {MAX_COUNTED:,} batches. "
                "Say how many to take: analyze(batches=…)."
            )
        if count < 1:
            raise TaskError(f"Task {self.task.name!r} has no validation batches. Give it at least one.")
        return count

    def is_repeatable(self) -> bool:
        """Whether a seed draws the same values again; random augmentation does not."""
        first, again = (next(self.train(0)) for _ in range(2))
        return all(torch.equal(first[k], again[k]) for k in first)


def _padded(batch: Batch, batch_size: int) -> tuple[Batch, int]:
    """A batch of fewer samples, filled up by repeating its last one; and how many it had."""
    count = min((len(v) for v in batch.values() if v.ndim), default=batch_size)
    if count >= batch_size or not count:
        return batch, batch_size
    filled = dict(batch)
    for name, value in batch.items():
        if value.ndim and len(value) == count:
            last = value[-1:].expand(batch_size - count, *value.shape[1:])
            filled[name] = torch.cat([value, last])
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
