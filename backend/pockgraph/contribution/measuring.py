"""Take measurements in this process: one task, its graph and batches, and the activations that are kept.

`Measurer` knows no study and no schedule. What it is asked for and what it answers are plain values, so that
another process can do the same (`worker.py`).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch

from ..errors import NonFiniteLoss, PockError
from ..passes.batch_limits import limits_of
from ..plan import Plan
from ..store.lease import LeaseLost
from ..task import Task
from ..task.batch import Batch
from ..train_graph import TrainGraph
from .candidates import Settings, bias_order_of, candidates, choice_of, head_of
from .compiled_finetuning import CompiledBackend
from .data import Data, fresh_values
from .eager_finetuning import EagerBackend
from .finetuning import Finetuner, FinetuningBackend, finetune
from .gains import HEAD, Candidate


class Cancelled(PockError):
    """An analysis was stopped on request; what it measured is kept."""


@dataclass(frozen=True)
class Draw:
    """How a candidate is trained once."""

    seed: int
    lr: float
    steps: int


@dataclass(frozen=True)
class Job:
    """Measurements of one candidate, whose graph serves all of them."""

    candidate: Candidate
    draws: tuple[Draw, ...]


@dataclass(frozen=True)
class Taken:
    """What one measurement led to.

    Attributes:
        values: columns of its row in the study: the status, and metric and loss, or the error.
        duration_s: making the graph included, for the measurement that was first.
    """

    values: Mapping[str, Any]
    duration_s: float


class Measurer:
    """Measures candidates of one task, one after the other.

    Args:
        task: with validation batches.
        threads: of compiled plans; None leaves the number to the runtime.

    Attributes:
        candidates: all that the settings ask for beside the head, in no order.
    """

    def __init__(self, task: Task, graph: TrainGraph, settings: Settings, threads: int | None = None) -> None:
        self.task, self.graph, self.settings = task, graph, settings
        self._threads = threads
        self.head = head_of(graph, task)
        self.bias_order = bias_order_of(graph, self.head)
        self.candidates = candidates(graph, self.head, settings)
        self.data = Data(
            task, settings.steps, settings.batches, limits_of(graph.gradients), limits_of(graph.metric)
        )
        self.fresh = {seed: fresh_values(task, seed) for seed in {*settings.seeds, *settings.tuning_seeds}}
        self._backends: dict[str, FinetuningBackend] = {}
        self._prepared: tuple[tuple[Candidate, str], Finetuner] | None = None

    def choice(self, candidate: Candidate) -> dict[str, float]:
        """FQN -> ratio of what is trained."""
        return choice_of(candidate, self.head, self.bias_order)

    def plan_of(self, candidate: Candidate) -> Plan:
        return Plan.of(self.graph, self.choice(candidate), provenance={"made_by": "analysis"})

    def backend(self, target: str) -> FinetuningBackend:
        """Where plans are trained; made once, as it keeps activations."""
        if target not in self._backends:
            self._backends[target] = self.make_backend(target)
        return self._backends[target]

    def make_backend(self, target: str) -> FinetuningBackend:
        """A new one, with no activations kept."""
        if target != EagerBackend.target:
            return CompiledBackend(self.graph, self.data, target, self._threads)
        plans = [self.choice(c) for c in (HEAD, *self.candidates)]
        return EagerBackend(self.graph, self.data, plans, len(self.settings.seeds), self.settings.cache_bytes)

    def take(self, job: Job, target: str, tick: Callable[[], None]) -> list[Taken]:
        """Measure, one after the other.

        Args:
            tick: called after every step and every validation batch; it may raise to stop.

        Raises:
            PockError: the head alone cannot be measured, and nothing without it.
        """
        return [self._measure(job.candidate, draw, target, tick) for draw in job.draws]

    def _measure(self, candidate: Candidate, draw: Draw, target: str, tick: Callable[[], None]) -> Taken:
        start = time.perf_counter()
        try:
            tuner = self._tuner(candidate, target)
            outcome = finetune(tuner, self.fresh[draw.seed], draw.seed, draw.lr, tick, draw.steps)
            values: dict[str, Any] = {"status": "done", **asdict(outcome)}
        except NonFiniteLoss as e:
            values = {"status": "diverged", "error": str(e)}
        except (Cancelled, LeaseLost):
            raise
        except PockError as e:
            if candidate == HEAD:
                raise
            values = {"status": "failed", "error": str(e)}
        return Taken(values, time.perf_counter() - start)

    def _tuner(self, candidate: Candidate, target: str) -> Finetuner:
        """The candidate's, kept until another one is asked for."""
        if self._prepared is None or self._prepared[0] != (candidate, target):
            self.close()
            self._prepared = (candidate, target), self.backend(target).prepare(self.plan_of(candidate))
        return self._prepared[1]

    def close(self) -> None:
        """Release what the last candidate held."""
        if self._prepared is not None:
            self._prepared[1].close()
            self._prepared = None

    def release(self) -> None:
        """Release the kept activations too."""
        self.close()
        self._backends.clear()

    @cached_property
    def marks(self) -> dict[str, str]:
        """What must be equal where a measurement is to count: name -> digest, empty for what changes."""
        model = self.task.model
        values = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        trained = (next(iter(self.data.train(self.settings.seeds[0]))) for _ in range(2))
        validated = (next(iter(self.data.validation()))[0] for _ in range(2))
        return {
            "graph": self.graph.fingerprint,
            "initial values": _digest(values),
            "training batches": _same([_digest(b) for b in trained]),
            "validation batches": _same([_digest(b) for b in validated]),
        }


def _digest(values: Batch) -> str:
    found = hashlib.sha256()
    for name, value in sorted(values.items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        plain = value.detach().cpu().contiguous()
        found.update(plain.flatten().view(torch.uint8).numpy().data if plain.numel() else b"")
    return found.hexdigest()[:16]


def _same(digests: Iterable[str]) -> str:
    first, *others = digests
    return first if all(d == first for d in others) else ""
