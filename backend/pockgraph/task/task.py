"""Task: what is to be learnt. A model, its loss and metric, and the data."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, get_args

import torch

from ..errors import TaskError, require, suggest
from ..globs import matches
from ..plan.plan import BatchNorm
from .batch import Batch, as_named, check_batch, check_entries, check_name, hint, rebuilt
from .batches import Batches
from .data_sources import as_data, beginning_of, epoch_of, is_stream, numbered
from .prediction import checked_prediction

BATCH_NORMS = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d, torch.nn.SyncBatchNorm)

INSTANCE_NORMS = (torch.nn.InstanceNorm1d, torch.nn.InstanceNorm2d, torch.nn.InstanceNorm3d)
Predicted = torch.Tensor | Mapping[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Task:
    """What is to be learnt.

    Args:
        name: a short identifier; it names studies and artefacts.
        model: the network. It is used in evaluation mode, but for what the next two say of the
            training step.
        loss: `(model, batch) -> scalar tensor`.
        metric: `(model, batch) -> tensor [N]`, one value per sample, larger is better.
        train: a re-iterable of batches: dicts (or tuples) of tensors of fixed shapes. A list, `Batches`, a
            `DataLoader`, an `IterableDataset` of batches, or a function that makes an iterator; it may be
            endless, and is read a batch at a time.
        eval: the held-out batches that final results are reported on.
        validation: batches for choosing learning rates and plans. Without it the last fifth
            of `train` is held back for that, so that `eval` is never chosen on; of a stream it cannot be.
        fresh: FQN globs of tensors that were never pretrained (a new head). Each seed of a
            measurement draws them anew.
        batch_norm: `"frozen"`: every batch norm uses its running statistics and leaves them alone;
            `"batch"`: every one, also below the trained tensors, normalises by the batch's and updates
            its running statistics, as in PyTorch's training mode. Metrics use the running ones.
        dropout: whether the training step drops activations: the model then trains in training mode
            (batch norm excepted), with masks that a seed determines on every target.
        predict: `(model, batch) -> tensor`, or a dict of named tensors: what a device answers with the
            weights that it has learnt. Without it an artefact trains and evaluates only.
        predict_batch: a batch as `predict` takes it, of any size, where that is no training batch. By default
            the first training batch, of which a device needs no more than what `predict` reads.
        predict_sizes: the batch sizes that are compiled, by default 1 and that of `predict_batch`.

    Raises:
        TaskError: an unknown policy, the data is empty, yields only once, or differs in shape, or the
            prediction is none.
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
    predict: Callable[[torch.nn.Module, Any], Predicted] | None = field(default=None, kw_only=True)
    predict_batch: Any = field(default=None, kw_only=True)
    predict_sizes: tuple[int, ...] | None = field(default=None, kw_only=True)
    reference: str = field(default="", kw_only=True)  # `module:name` this task can be made again from

    def __post_init__(self) -> None:
        self._check_kinds()
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
        tensors = (*self.model.named_parameters(), *self.model.named_buffers())
        for fqn in (fqn for fqn, _ in tensors):
            check_name(self.name, fqn, "the tensor", "Give the module another name")
        self.model.eval()
        for name in ("train", "eval", "validation"):
            if name != "validation" or self.validation is not None:
                self._accept_data(name)
        known = [fqn for fqn, _ in self.model.named_parameters()]
        for glob in self.fresh:
            if not any(matches(fqn, glob) for fqn in known):
                raise TaskError(
                    f"Task {self.name!r}: fresh={glob!r} matches no parameter.{suggest(glob, known)}"
                )
        object.__setattr__(self, "predict_sizes", checked_prediction(self))

    def _check_kinds(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise TaskError(f"Task: name={self.name!r} must be a text that is not empty, such as 'digits'.")
        check_name(self.name, self.name, "the name", "Take another")
        if not isinstance(self.model, torch.nn.Module):
            raise TaskError(
                f"Task {self.name!r}: the model is a {type(self.model).__name__}, not a torch.nn.Module. "
                "Pass the network itself."
            )
        for what in ("loss", "metric"):
            if not callable(getattr(self, what)):
                raise TaskError(
                    f"Task {self.name!r}: `{what}` is a {type(getattr(self, what)).__name__}, which cannot "
                    f"be called. Pass a function {what}(model, batch)."
                )
        if isinstance(self.fresh, str):
            raise TaskError(f"Task {self.name!r}: fresh={self.fresh!r} must be a tuple: ({self.fresh!r},).")
        if not isinstance(self.fresh, Collection) or not all(isinstance(g, str) for g in self.fresh):
            raise TaskError(
                f"Task {self.name!r}: fresh={str(self.fresh)[:40]} must be a tuple of names or globs, as in "
                "('head.*',)."
            )

    def _accept_data(self, name: str) -> None:
        """Make what was given for `name` data that can be read again, and look at its first batch."""
        what = f"Task {self.name!r}: `{name}`"
        data = as_data(getattr(self, name), what)
        object.__setattr__(self, name, data)
        _, first = next(numbered(what, beginning_of(data)), (0, None))
        if first is None:
            if isinstance(data, Batches) and data.samples:
                raise TaskError(
                    f"{what} has {data.samples} samples, and a batch takes {data.batch_size}: there is none. "
                    "Give it more samples, or take a smaller batch_size."
                )
            raise TaskError(f"{what} has no batches. Give it at least one.")
        check_entries(self.name, what, first, hint(data))
        if name == "train" and is_stream(data):
            self.__dict__["_first"] = first  # reading it again may start workers, or a download

    def set_mode(self, training: bool, net: torch.nn.Module | None = None) -> None:
        """Put the model (or `net`, a copy of it) into the mode of a training step, or of evaluation."""
        net = self.model if net is None else net
        require(TaskError, "training", training, bool, "Pass True for a step, False for evaluation.")
        require(TaskError, "net", net, torch.nn.Module, "Pass the model or a copy of it.")
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
        from ..frontends.onnx import load

        return cls(name, load(path, outputs=outputs, parameters=parameters, constants=constants), **how)

    @cached_property
    def _first(self) -> Any:
        return next(beginning_of(self.train))

    @property
    def example(self) -> Batch:
        """The first training batch as name -> tensor; a tuple's items are named `0`, `1`, …"""
        return self.named(self._first)

    def named(self, batch: Any) -> Batch:
        """A batch as name -> tensor, in the dtypes that the model computes in.

        numpy makes float64 and, on some systems, int32 where PyTorch's layers and losses want float32 and
        int64: floating-point values are cast for a model whose parameters are all float32, and int16 and
        int32 become int64. uint8 and booleans stay.
        """
        dtypes = {p.dtype for p in self.model.parameters() if p.is_floating_point()}

        def cast(value: torch.Tensor) -> torch.Tensor:
            if value.is_floating_point():
                return value.float() if dtypes == {torch.float32} else value
            return value.long() if value.dtype in (torch.int16, torch.int32) else value

        return {name: cast(value) for name, value in as_named(batch).items()}

    def rebuild(self, batch: Batch) -> Any:
        """A named batch in the form that `loss` and `metric` expect."""
        return rebuilt(batch, self._first)

    @property
    def predict_example(self) -> Batch:
        """A batch as `predict` takes it, as name -> tensor."""
        return self.example if self.predict_batch is None else self.named(self.predict_batch)

    def fresh_fqns(self) -> list[str]:
        known = [fqn for fqn, _ in self.model.named_parameters()]
        return [fqn for fqn in known if any(matches(fqn, g) for g in self.fresh)]

    def epoch(self, seed: int) -> Iterator[Batch]:
        """One pass over `train` in the order that `seed` draws.

        Data with a `shuffled(seed)` method draws anew, and a `DataLoader` by its own sampler, if that draws
        an order; otherwise the order of the batches changes. A stream (a generator, an `IterableDataset`)
        keeps its own order, and is told the seed by `set_epoch` if it has that.

        Raises:
            TaskError: a batch that is none, or differs from the first one, by number.
        """
        what = f"Task {self.name!r}: `train`"
        number, example = 0, self.example
        for number, raw in numbered(what, epoch_of(self.train, seed)):
            batch = self.named(raw)
            check_batch(batch, example, f"batch {number} of `train`")
            yield batch
        if not number:
            raise TaskError(
                f"{what} gave no batches this time, though it did before. It must begin anew whenever it is "
                "iterated; a generator has to be made each time."
            )

    def forever(self, seed: int) -> Iterator[Batch]:
        """Training batches without end, each epoch in a new order."""
        epoch = 0
        while True:
            yield from self.epoch(seed * 100_003 + epoch)
            epoch += 1
