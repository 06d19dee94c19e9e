"""What people do today: PyTorch's own training loop, in full or with tensors frozen.

The other side of every comparison: autograd and torch.optim, nothing of this project in the step.
`python -m pockui.eager` is a contender for `pockgraph.measure`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pockgraph.errors import PockError
from pockgraph.measure import LEARNING_RATE, Step, serve_steps
from pockgraph.optimizer import optimizer_from_dict
from pockgraph.parity.eager_optimizer import EagerOptimizer
from pockgraph.plan import Plan
from pockgraph.task import Task
from pockgraph.task.batch import Batch, as_named
from pockgraph.task.lora import lora


class PlainLoop:
    """The training loop of the PyTorch tutorials: zero_grad, loss, backward, step.

    The network is in the mode that the task says: evaluation mode, unless it asks for batch statistics or
    dropout (with PyTorch's own masks).

    Args:
        task: trained in place.
        trained: FQNs of the tensors that learn, the others get `requires_grad=False`; None trains
            all. A tensor learns as a whole: autograd has no way to train some of its channels.
        optimizer: as in a plan, `{"name": "sgd", "momentum": 0.9, …}`.
        compiled: run forward and backward through `torch.compile`.
        autocast: compute forward and backward in bfloat16 where `torch.autocast` does; weights and their
            update stay in float32.
    """

    def __init__(
        self,
        task: Task,
        trained: Collection[str] | None,
        optimizer: Mapping[str, Any],
        *,
        compiled: bool = False,
        autocast: bool = False,
    ) -> None:
        self.task = task
        self._autocast = autocast
        task.set_mode(training=True)
        for fqn, parameter in task.model.named_parameters():
            parameter.requires_grad_(trained is None or fqn in trained)
            parameter.grad = None
        learning = {fqn: p for fqn, p in task.model.named_parameters() if p.requires_grad}
        self.optimizer = EagerOptimizer(optimizer_from_dict(optimizer), learning)
        model, loss = task.model, task.loss
        self._loss = torch.compile(lambda batch: loss(model, batch)) if compiled else _bound(task)

    def step(self, batch: Batch, lr: float) -> float:
        """One micro-batch, as a rule an update; returns the loss before it."""
        self.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=self._autocast):
            loss = self._loss(self.task.rebuild(batch))
        (loss / self.optimizer.micro_batches if self.optimizer.micro_batches > 1 else loss).backward()
        self.optimizer.step(lr)
        return float(loss.detach())

    @torch.no_grad()
    def forward(self, batch: Batch) -> float:
        """The loss, and nothing learnt."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self._autocast):
            return float(self._loss(self.task.rebuild(batch)))

    @torch.no_grad()
    def evaluate(self, batches: Any) -> float:
        """The mean of the metric over all samples of `batches`."""
        self.task.set_mode(training=False)
        with self.optimizer.averaged():
            values = [self.task.metric(self.task.model, batch) for batch in batches]
        self.task.set_mode(training=True)
        return float(torch.cat(values).double().mean())

    def forget(self) -> None:
        """Drop gradients, optimizer state and average."""
        self.optimizer.forget()


def _bound(task: Task) -> Any:
    model, loss = task.model, task.loss
    return lambda batch: loss(model, batch)


# ---------------------------------------------------------------- as a contender


def eager_command(
    reference: str,
    batch: Path,
    optimizer: Mapping[str, Any],
    *,
    plan: Path | None = None,
    compiled: bool = False,
    channels_last: bool = False,
    autocast: bool = False,
    lora: bool = False,
    forward: bool = False,
    threads: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> tuple[str, ...]:
    """The command line that makes a plain PyTorch loop a contender.

    Args:
        reference: `module:task`.
        batch: npz with one batch.
        plan: whose tensors are trained; None trains all.
        compiled, autocast: see `PlainLoop`.
        channels_last: weights and images in PyTorch's memory format of that name.
        lora: train low-rank adapters of queries and values, and nothing else; without a plan.
        forward: compute the loss and train nothing.
        options: keyword arguments of the reference, when it is a function that takes some.
    """
    command = [sys.executable, "-m", "pockui.eager", reference, "--batch", str(batch)]
    command += ["--optimizer", json.dumps(dict(optimizer)), "--options", json.dumps(dict(options or {}))]
    if plan is not None:
        command += ["--plan", str(plan)]
    switches = {
        "compiled": compiled, "channels-last": channels_last, "autocast": autocast, "lora": lora,
        "forward": forward,
    }  # fmt: skip
    command += [f"--{name}" for name, on in switches.items() if on]
    if threads is not None:
        command += ["--threads", str(threads)]
    return tuple(command)


def main() -> int:
    p = argparse.ArgumentParser(prog="python -m pockui.eager")
    p.add_argument("reference")
    p.add_argument("--batch", type=Path, required=True)
    p.add_argument("--optimizer", type=json.loads, required=True)
    p.add_argument("--options", type=json.loads, default={})
    p.add_argument("--plan", type=Path)
    for switch in ("--compiled", "--channels-last", "--autocast", "--lora", "--forward"):
        p.add_argument(switch, action="store_true")
    p.add_argument("--threads", type=int)
    options = p.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
        os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = str(options.threads)
    try:
        trained = None if options.plan is None else set(Plan.load(options.plan).tensors)
        with np.load(options.batch, allow_pickle=False) as file:
            batch = as_named(dict(file))
        _serve(options, trained, batch)
    except (PockError, OSError) as e:
        print(f"error: {e}".replace("\n", " "), file=sys.stderr)
        return 2
    return 0


def _serve(options: argparse.Namespace, trained: Collection[str] | None, batch: Batch) -> None:
    from .project import load_task

    weight_bytes = 0
    if options.channels_last:
        batch = {k: _channels_last(v) for k, v in batch.items()}

    def load() -> Step:
        nonlocal weight_bytes, trained
        task = load_task(options.reference, **options.options)
        if options.lora:
            task = lora(task)
            trained = {fqn for fqn, p in task.model.named_parameters() if p.requires_grad}
        if options.channels_last:
            task.model.to(memory_format=torch.channels_last)  # pyright: ignore
        for tensor in (*task.model.parameters(), *task.model.buffers()):
            tensor.data = tensor.data.clone()  # now in memory as a whole, whatever file it was mapped from
            weight_bytes += tensor.nbytes
        loop = PlainLoop(
            task, trained, options.optimizer, compiled=options.compiled, autocast=options.autocast
        )
        if options.forward:
            return lambda: loop.forward(batch)
        if options.compiled:  # compiling is part of loading, as it is for every other contender
            loop.step(batch, LEARNING_RATE)
            loop.forget()
        return lambda: loop.step(batch, LEARNING_RATE)

    # A task's module imports libraries and makes the model in one go, so the two are told apart by
    # subtraction: what is left without the weights is libraries.
    serve_steps(load, imported_bytes=lambda loaded: loaded - weight_bytes)


def _channels_last(value: torch.Tensor) -> torch.Tensor:
    return value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value


if __name__ == "__main__":
    sys.exit(main())
