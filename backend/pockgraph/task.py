"""Task: what is to be learnt. A model, its loss and metric, and the data."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, get_args

import numpy as np
import torch

from .errors import TaskError, listing, suggest
from .plan import BatchNorm

Batch = dict[str, torch.Tensor]
BATCH_NORMS = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d, torch.nn.SyncBatchNorm)
INSTANCE_NORMS = (torch.nn.InstanceNorm1d, torch.nn.InstanceNorm2d, torch.nn.InstanceNorm3d)


@dataclass(frozen=True)
class Batches:
    """A re-iterable of fixed-shape batches over arrays that share their first dimension.

    The ragged last batch is dropped: a compiled step has one batch shape.

    Args:
        arrays: name -> array `[N, ...]` (numpy or torch).
        batch_size: samples a batch.
        shuffle: draw a new order from `seed` instead of the arrays' own.
        transform: applied to each batch (a dict of tensors), e.g. a resize.
    """

    arrays: Mapping[str, Any]
    batch_size: int
    shuffle: bool = False
    seed: int = 0
    transform: Callable[[Batch], Batch] | None = None
    max_batches: int | None = None

    def __post_init__(self) -> None:
        sizes = {name: len(a) for name, a in self.arrays.items()}
        if len(set(sizes.values())) != 1:
            raise TaskError(f"Batches: arrays must share their first dimension, got {sizes}.")

    @property
    def samples(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __len__(self) -> int:
        n = self.samples // self.batch_size
        return n if self.max_batches is None else min(n, self.max_batches)

    def __iter__(self) -> Iterator[Batch]:
        order = np.random.default_rng(self.seed).permutation(self.samples) if self.shuffle else None
        for b in range(len(self)):
            span = slice(b * self.batch_size, (b + 1) * self.batch_size)
            pick = span if order is None else order[span]
            batch = {k: torch.as_tensor(a[pick]) for k, a in self.arrays.items()}
            yield self.transform(batch) if self.transform else batch

    def shuffled(self, seed: int) -> Batches:
        """The same samples in the order that `seed` draws."""
        return Batches(self.arrays, self.batch_size, True, seed, self.transform, self.max_batches)

    def limit(self, batches: int) -> Batches:
        """Only the first `batches` batches."""
        return Batches(self.arrays, self.batch_size, self.shuffle, self.seed, self.transform, batches)


@dataclass(frozen=True, eq=False)
class Task:
    """What is to be learnt.

    Args:
        name: a short identifier; it names studies and artefacts.
        model: the network. It is used in evaluation mode, but for what the next two say of the
            training step.
        loss: `(model, batch) -> scalar tensor`.
        metric: `(model, batch) -> tensor [N]`, one value per sample, larger is better.
        train: a re-iterable of batches: dicts (or tuples) of tensors of fixed shapes.
        eval: the held-out batches that final results are reported on.
        validation: batches for choosing learning rates and plans. Without it the last fifth
            of `train` is held back for that, so that `eval` is never chosen on.
        fresh: FQN globs of tensors that were never pretrained (a new head). Each seed of a
            measurement draws them anew.
        batch_norm: `"frozen"`: every batch norm uses its running statistics and leaves them alone;
            `"batch"`: every one, also below the trained tensors, normalises by the batch's and updates
            its running statistics, as in PyTorch's training mode. Metrics use the running ones.
        dropout: whether the training step drops activations: the model then trains in training mode
            (batch norm excepted), with masks that a seed determines on every target.

    Raises:
        TaskError: an unknown policy, or the data is empty, yields only once, or differs in shape.
    """

    name: str
    model: torch.nn.Module
    loss: Callable[[torch.nn.Module, Any], torch.Tensor]
    metric: Callable[[torch.nn.Module, Any], torch.Tensor]
    train: Iterable[Any]
    eval: Iterable[Any]
    validation: Iterable[Any] | None = None
    fresh: tuple[str, ...] = ()
    batch_norm: BatchNorm = field(default="frozen", kw_only=True)
    dropout: bool = field(default=False, kw_only=True)
    reference: str = field(default="", kw_only=True)  # `module:name` this task can be made again from

    def __post_init__(self) -> None:
        policies = get_args(BatchNorm)
        if self.batch_norm not in policies:
            raise TaskError(
                f"Task {self.name!r}: batch_norm={self.batch_norm!r} is no policy; it is one of "
                f"{', '.join(map(repr, policies))}.{suggest(str(self.batch_norm), policies)}"
            )
        if not isinstance(self.dropout, bool):
            raise TaskError(
                f"Task {self.name!r}: dropout={self.dropout!r} must be True or False. "
                "Rates belong to the model's layers."
            )
        self.model.eval()
        given: dict[str, Any] = {"train": self.train, "eval": self.eval}
        if self.validation is not None:
            given["validation"] = self.validation
        for name, data in given.items():
            if iter(data) is data:
                raise TaskError(
                    f"Task {self.name!r}: `{name}` is an iterator, which yields its batches once; every "
                    f"epoch needs them again. Pass a list of batches, a DataLoader or pockgraph.Batches."
                )
            if next(iter(data), None) is None:
                raise TaskError(f"Task {self.name!r}: `{name}` has no batches. Give it at least one.")
        known = [fqn for fqn, _ in self.model.named_parameters()]
        for glob in self.fresh:
            if not fnmatch.filter(known, glob):
                raise TaskError(
                    f"Task {self.name!r}: fresh={glob!r} matches no parameter.{suggest(glob, known)}"
                )

    def set_mode(self, training: bool, net: torch.nn.Module | None = None) -> None:
        """Put the model (or `net`, a copy of it) into the mode of a training step, or of evaluation."""
        net = self.model if net is None else net
        net.train(training and self.dropout)
        for module in net.modules():
            if isinstance(module, BATCH_NORMS):
                module.train(training and self.batch_norm == "batch")
            elif isinstance(module, INSTANCE_NORMS) and module.track_running_stats:
                module.eval()

    @classmethod
    def from_onnx(
        cls,
        path: str | os.PathLike[str],
        *,
        name: str,
        outputs: Sequence[str] | None = None,
        parameters: Sequence[str] = (),
        constants: Sequence[str] = (),
        **how: Any,
    ) -> Task:
        """A task for an inference ONNX model: its floating-point weights become parameters.

        Args:
            path, outputs, parameters, constants: see `pockgraph.frontends.onnx.load`. `outputs` names the
                tensors that the model returns to `loss` and `metric`, such as the logits before a softmax.
            name, how: what `Task` takes, but for the model.

        Raises:
            CaptureError: the file is no model, its opset is not supported, or a name is wrong.
            UnsupportedOperators: listing everything in the model that cannot be trained.
        """
        from .frontends.onnx import load

        return cls(name, load(path, outputs=outputs, parameters=parameters, constants=constants), **how)

    @cached_property
    def _first(self) -> Any:
        return next(iter(self.train))

    @property
    def example(self) -> Batch:
        """The first training batch as name -> tensor; a tuple's items are named `0`, `1`, …"""
        return as_named(self._first)

    def rebuild(self, batch: Batch) -> Any:
        """A named batch in the form (dict or tuple) that `loss` and `metric` expect."""
        return batch if isinstance(self._first, Mapping) else tuple(batch.values())

    def fresh_fqns(self) -> list[str]:
        known = [fqn for fqn, _ in self.model.named_parameters()]
        return [fqn for fqn in known if any(fnmatch.fnmatch(fqn, g) for g in self.fresh)]

    def epoch(self, seed: int) -> Iterator[Batch]:
        """One pass over `train` in the order that `seed` draws.

        Data with a `shuffled(seed)` method draws anew; otherwise the order of the batches changes.
        """
        if hasattr(self.train, "shuffled"):
            yield from map(as_named, self.train.shuffled(seed))  # pyright: ignore
            return
        batches = list(self.train)
        for i in np.random.default_rng(seed).permutation(len(batches)):
            yield as_named(batches[i])

    def forever(self, seed: int) -> Iterator[Batch]:
        """Training batches without end, each epoch in a new order."""
        epoch = 0
        while True:
            yield from self.epoch(seed * 100_003 + epoch)
            epoch += 1


def as_named(batch: Any) -> Batch:
    """A batch (dict, tuple or list of tensors) as name -> tensor.

    Raises:
        TaskError: the batch holds something that is not a tensor or array, or is one itself.
    """
    if not isinstance(batch, Mapping | tuple | list):
        raise TaskError(
            f"A batch must be a dict or tuple of tensors, but the data gives a {type(batch).__name__}. "
            'Name its parts, as in {"x": x, "y": y}.'
        )
    items = batch.items() if isinstance(batch, Mapping) else ((str(i), v) for i, v in enumerate(batch))
    named: Batch = {}
    for key, value in items:
        if not isinstance(value, torch.Tensor | np.ndarray):
            raise TaskError(
                f"A batch must hold tensors; {key!r} is a {type(value).__name__}. "
                "Convert it, or leave it out of the batch."
            )
        named[str(key)] = torch.as_tensor(value)
    return named


def check_batch(batch: Batch, example: Batch) -> None:
    """Refuse a batch whose names, shapes or dtypes are not the example's.

    Raises:
        TaskError: with every difference.
    """
    wrong = [f"{k!r} is missing" for k in example if k not in batch]
    wrong += [f"{k!r} is unexpected" for k in batch if k not in example]
    wrong += [
        f"{k!r} is {tuple(batch[k].shape)} {batch[k].dtype}, the first batch had {tuple(v.shape)} {v.dtype}"
        for k, v in example.items()
        if k in batch and (batch[k].shape != v.shape or batch[k].dtype != v.dtype)
    ]
    if wrong:
        raise TaskError(f"Batches must all have one shape: {listing(wrong)}. Drop or pad the odd one.")
